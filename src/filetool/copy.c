/* A copy goes beside the walk over its source: one open directory of the copy for each level. */
#include "copy.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <uthash.h>

#include "stream.h"
#include "walk.h"

#define MAX_ATTRS_BYTES (64 * KIB) /* what the kernel answers at most */

/* A file with several names, and the first of them in the copy. */
typedef struct linked {
    struct {
        dev_t dev;
        ino_t ino;
    } key;
    char *rel; /* beneath the root of the copy */
    UT_hash_handle hh;
} linked;

typedef struct copier {
    int fds[FT_MAX_DEPTH + 1]; /* of the copy; [0] is its root */
    int depth;
    linked *links;
} copier;

static bool is_user_attr(const char *name)
{
    return strncmp(name, "user.", 5) == 0;
}

/* A file system that has no attributes, or no room for them, gets none. */
static void copy_attrs(int in, int out)
{
    char names[4 * KIB], *value = ft_chunk();
    ssize_t len = flistxattr(in, names, sizeof(names));

    for (char *n = names; len > 0 && n < names + len; n += strlen(n) + 1) {
        ssize_t size = is_user_attr(n) ? fgetxattr(in, n, value, MAX_ATTRS_BYTES) : -1;

        if (size >= 0)
            (void)fsetxattr(out, n, value, (size_t)size, 0);
    }
}

/* Mode and times last: a mode may forbid what comes before, and writing changes times. */
static int finish(int in, int out, const struct stat *st, const char *path, ft_err *err)
{
    struct timespec times[2] = {st->st_atim, st->st_mtim};

    copy_attrs(in, out);
    if (fchmod(out, st->st_mode & 07777) < 0 || futimens(out, times) < 0)
        return ft_fail_errno(err, path, "cannot set mode and times of the copy");
    return 0;
}

static int copy_file(int from_fd, const char *name, int to_fd, const char *to, const char *path,
                     ft_err *err)
{
    int in = openat(from_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    struct stat st;
    int out = -1, rc = -1;

    if (in < 0)
        return ft_fail_errno(err, path, "cannot open");
    if (fstat(in, &st) < 0 || !S_ISREG(st.st_mode))
        (void)ft_fail(err, FT_E_BUSY, path, "it was replaced while it was copied");
    else if ((out = openat(to_fd, to, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600)) <
             0)
        (void)ft_fail_errno(err, path, "cannot make the copy");
    else if (ft_file_copy(in, out, st.st_size, path, err) == 0)
        rc = finish(in, out, &st, path, err);
    if (out >= 0)
        close(out);
    close(in);
    return rc;
}

static int copy_symlink(int from_fd, const char *name, int to_fd, const char *to,
                        const struct stat *st, const char *path, ft_err *err)
{
    struct timespec times[2] = {st->st_atim, st->st_mtim};
    char target[FT_PATH_BYTES];
    ssize_t n = readlinkat(from_fd, name, target, sizeof(target) - 1);

    if (n < 0)
        return ft_fail_errno(err, path, "cannot read the link");
    target[n] = '\0';
    if (symlinkat(target, to_fd, to) < 0)
        return ft_fail_errno(err, path, "cannot make the copy of the link");
    (void)utimensat(to_fd, to, times, AT_SYMLINK_NOFOLLOW);
    return 0;
}

static int copy_leaf(int from_fd, const char *name, int to_fd, const char *to,
                     const struct stat *st, const char *path, ft_err *err)
{
    if (S_ISREG(st->st_mode))
        return copy_file(from_fd, name, to_fd, to, path, err);
    if (S_ISLNK(st->st_mode))
        return copy_symlink(from_fd, name, to_fd, to, st, path, err);
    if (S_ISSOCK(st->st_mode))
        return 0;
    if (!S_ISFIFO(st->st_mode))
        return ft_fail(err, FT_E_UNSUPPORTED, path, "a device cannot be copied");
    if (mkfifoat(to_fd, to, st->st_mode & 07777) < 0)
        return ft_fail_errno(err, path, "cannot make the copy of the FIFO");
    return 0;
}

/* Makes a directory of the copy, open to us until it is finished, the next level. */
static int begin_directory(copier *c, int to_fd, const char *to, const char *path, ft_err *err)
{
    int fd = mkdirat(to_fd, to, 0700) < 0
                 ? -1
                 : openat(to_fd, to, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0)
        return ft_fail_errno(err, path, "cannot make the copy of the directory");
    c->fds[c->depth++] = fd;
    return 0;
}

static int end_directory(copier *c, int in, const struct stat *st, const char *path, ft_err *err)
{
    int fd = c->fds[--c->depth];
    int rc = finish(in, fd, st, path, err);

    close(fd);
    return rc;
}

/* Gives a further name of a file that was copied already. @return true if that was possible */
static bool link_again(copier *c, const ft_step *step)
{
    linked *l, want = {.key = {step->st.st_dev, step->st.st_ino}};

    if (!S_ISREG(step->st.st_mode) || step->st.st_nlink < 2)
        return false;
    HASH_FIND(hh, c->links, &want.key, sizeof(want.key), l);
    if (l)
        return linkat(c->fds[0], l->rel, c->fds[c->depth - 1], step->name, 0) == 0;
    l = sbx_alloc(sizeof(*l));
    l->key = want.key;
    l->rel = sbx_strdup(step->rel);
    HASH_ADD(hh, c->links, key, sizeof(l->key), l);
    return false;
}

static ft_next enter(void *ctx, const ft_step *step, ft_err *err)
{
    copier *c = ctx;
    int to_fd = c->fds[c->depth - 1];

    if (ft_guard_check(err) < 0)
        return FT_FAILED;
    if (!S_ISDIR(step->st.st_mode)) {
        if (link_again(c, step))
            return FT_SKIP;
        return copy_leaf(step->dirfd, step->name, to_fd, step->name, &step->st, step->path, err) < 0
                   ? FT_FAILED
                   : FT_SKIP;
    }
    if (c->depth > FT_MAX_DEPTH)
        return ft_fail(err, FT_E_TOO_LARGE, step->path,
                       "more than %d directories within each other", FT_MAX_DEPTH);
    return begin_directory(c, to_fd, step->name, step->path, err) < 0 ? FT_FAILED : FT_DESCEND;
}

static int leave(void *ctx, const ft_step *step, int fd, ft_err *err)
{
    return end_directory(ctx, fd, &step->st, step->path, err);
}

static void copier_done(copier *c)
{
    linked *l, *next;

    HASH_ITER (hh, c->links, l, next) {
        HASH_DELETE(hh, c->links, l);
        free(l->rel);
        free(l);
    }
    while (c->depth > 0)
        close(c->fds[--c->depth]);
}

int ft_copy_tree(int from_fd, const char *name, int to_fd, const char *to, const char *path,
                 ft_err *err)
{
    copier c = {0};
    ft_visitor visitor = {.enter = enter, .leave = leave, .ctx = &c};
    struct stat st;
    int fd, rc;

    if (fstatat(from_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return ft_fail_errno(err, path, "cannot look at it");
    if (!S_ISDIR(st.st_mode))
        return copy_leaf(from_fd, name, to_fd, to, &st, path, err);
    fd = openat(from_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return ft_fail_errno(err, path, "cannot open the directory");
    rc = begin_directory(&c, to_fd, to, path, err);
    if (rc == 0)
        rc = ft_walk(fd, path, &visitor, err);
    if (rc == 0)
        rc = end_directory(&c, fd, &st, path, err);
    copier_done(&c);
    close(fd);
    return rc;
}
