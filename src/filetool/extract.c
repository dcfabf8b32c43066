/* See extract.h for why this is safe. */
#include "extract.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

struct ft_later {
    ft_later *before;
    ft_member m;
    char name[];
};

void ft_extract_init(ft_extract *x, int root, const char *path, int64_t max_entries)
{
    *x = (ft_extract){.root = root, .path = path, .max_entries = max_entries, .dirfd = -1};
    x->umask = umask(0);
    (void)umask(x->umask);
    ft_seen_init(&x->seen);
}

void ft_extract_done(ft_extract *x)
{
    while (x->last) {
        ft_later *l = x->last;

        x->last = l->before;
        free(l);
    }
    if (x->dirfd >= 0)
        close(x->dirfd);
    x->dirfd = -1;
    ft_seen_done(&x->seen);
}

int ft_extract_normal(const char *name, char ret[FT_PATH_BYTES], ft_err *err)
{
    size_t len = 0;

    if (name[0] == '/')
        return ft_fail(err, FT_E_INVALID, name, "the archive holds an absolute name");
    while (*name) {
        size_t n = strcspn(name, "/");

        if (n == 2 && name[0] == '.' && name[1] == '.')
            return ft_fail(err, FT_E_INVALID, NULL, "the archive holds a name with \"..\"");
        if (n > NAME_MAX || len + n + 2 > FT_PATH_BYTES)
            return ft_fail(err, FT_E_INVALID, NULL, "the archive holds a name that is too long");
        if (n > 0 && !(n == 1 && name[0] == '.')) {
            if (len > 0)
                ret[len++] = '/';
            memcpy(ret + len, name, n);
            len += n;
        }
        name += n;
        name += strspn(name, "/");
    }
    ret[len] = '\0';
    return 0;
}

bool ft_extract_stays(const char *target, int depth)
{
    bool leading = true;

    if (target[0] == '/' || !target[0])
        return false;
    while (*target) {
        size_t n = strcspn(target, "/");
        bool up = n == 2 && target[0] == '.' && target[1] == '.';

        if (up && (!leading || --depth < 0))
            return false;
        if (!up && n > 0 && !(n == 1 && target[0] == '.'))
            leading = false;
        target += n;
        target += strspn(target, "/");
    }
    return true;
}

static int count(ft_extract *x, ft_err *err)
{
    if (++x->entries > x->max_entries)
        return ft_fail(err, FT_E_TOO_LARGE, NULL, "the archive has more than %lld entries",
                       (long long)x->max_entries);
    return 0;
}

int ft_extract_member(ft_extract *x, const char *name, ft_err *err)
{
    if (count(x, err) < 0 || ft_extract_normal(name, x->name, err) < 0)
        return -1;
    return x->name[0] ? 1 : 0;
}

/* Opens one directory in another one; never a link. */
static int step(ft_extract *x, int dirfd, const char *name, bool make, ft_err *err)
{
    const int flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    int fd = openat(dirfd, name, flags);
    struct stat st;

    if (fd < 0 && errno == ENOENT && make) {
        if (count(x, err) < 0)
            return -1;
        if (mkdirat(dirfd, name, 0777) < 0 && errno != EEXIST)
            return ft_fail_errno(err, x->name, "cannot make a directory of the archive");
        x->directories++;
        fd = openat(dirfd, name, flags);
    }
    if (fd >= 0)
        return fd;
    if ((errno == ENOTDIR || errno == ELOOP) &&
        fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode))
        return ft_fail(err, FT_E_INVALID, x->name, "the archive holds a name beneath a link");
    return ft_fail_errno(err, x->name, "cannot open a directory of the archive");
}

/* Opens the directory that holds the last part of a name in normal form. */
static int open_holder(ft_extract *x, const char *name, bool make, ft_err *err)
{
    int fd = fcntl(x->root, F_DUPFD_CLOEXEC, 3);
    char part[NAME_MAX + 1];

    if (fd < 0)
        return ft_fail_errno(err, x->path, "cannot open the directory");
    for (const char *slash; fd >= 0 && (slash = strchr(name, '/')); name = slash + 1) {
        int next;

        memcpy(part, name, (size_t)(slash - name));
        part[slash - name] = '\0';
        next = step(x, fd, part, make, err);
        close(fd);
        fd = next;
    }
    return fd;
}

static const char *last_part(const char *name)
{
    const char *slash = strrchr(name, '/');

    return slash ? slash + 1 : name;
}

/* Makes x->dirfd the directory that holds the member. */
static int enter(ft_extract *x, ft_err *err)
{
    size_t len = (size_t)(last_part(x->name) - x->name);

    if (x->dirfd >= 0 && strlen(x->dir) == len && memcmp(x->dir, x->name, len) == 0)
        return 0;
    if (x->dirfd >= 0)
        close(x->dirfd);
    x->dirfd = open_holder(x, x->name, true, err);
    if (x->dirfd < 0)
        return -1;
    memcpy(x->dir, x->name, len);
    x->dir[len] = '\0';
    return 0;
}

static int refuse_twice(ft_extract *x, ft_err *err)
{
    if (ft_seen_has(&x->seen, x->name))
        return ft_fail(err, FT_E_INVALID, x->name, "the archive holds this name twice");
    return 0;
}

/* For all but directories: whether the name is free, and its place. */
static int claim(ft_extract *x, ft_err *err)
{
    if (refuse_twice(x, err) < 0 || enter(x, err) < 0)
        return -1;
    ft_seen_add(&x->seen, x->name);
    return 0;
}

static int remember(ft_extract *x, const ft_member *m, ft_err *err)
{
    size_t bytes = strlen(x->name) + 1;
    ft_later *l;

    x->later_bytes += bytes;
    if (x->later_bytes > FT_MAX_LATER_BYTES)
        return ft_fail(err, FT_E_TOO_LARGE, NULL,
                       "the names of the archive's directories are longer than %u bytes",
                       FT_MAX_LATER_BYTES);
    l = sbx_alloc(sizeof(*l) + bytes);
    l->before = x->last;
    l->m = *m;
    memcpy(l->name, x->name, bytes);
    x->last = l;
    return 0;
}

int ft_extract_directory(ft_extract *x, const ft_member *m, ft_err *err)
{
    const char *name = last_part(x->name);
    struct stat st;

    if (refuse_twice(x, err) < 0 || enter(x, err) < 0)
        return -1;
    /* Until the end it is ours to fill, whatever its mode will be. */
    if (mkdirat(x->dirfd, name, 0700) == 0) {
        x->directories++;
        return remember(x, m, err);
    }
    if (errno != EEXIST)
        return ft_fail_errno(err, x->name, "cannot make a directory of the archive");
    if (fstatat(x->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(st.st_mode))
        return ft_fail(err, FT_E_NOT_DIRECTORY, x->name,
                       "the archive holds a directory where a file or a link is");
    return 0;
}

/* The hidden name of a link becomes the member's. */
static int place(ft_extract *x, const char *hidden, ft_err *err)
{
    int rc = ft_rename(x->dirfd, hidden, x->dirfd, last_part(x->name), false, x->name, err);

    /* Between two names of one file rename(2) does nothing. */
    (void)unlinkat(x->dirfd, hidden, 0);
    x->files += rc == 0;
    return rc;
}

int ft_extract_symlink(ft_extract *x, const char *target, const ft_member *m, ft_err *err)
{
    struct timespec times[2] = {m->time, m->time};
    char hidden[FT_HIDDEN_BYTES];
    int depth = 0;

    for (const char *c = x->name; *c; c++)
        depth += *c == '/';
    if (strlen(target) >= FT_PATH_BYTES || !ft_extract_stays(target, depth))
        return ft_fail(err, FT_E_INVALID, x->name, "the archive holds a link that leads out");
    if (claim(x, err) < 0)
        return -1;
    ft_hidden_name(hidden);
    if (symlinkat(target, x->dirfd, hidden) < 0)
        return ft_fail_errno(err, x->name, "cannot make a link of the archive");
    if (m->has_time)
        (void)utimensat(x->dirfd, hidden, times, AT_SYMLINK_NOFOLLOW);
    return place(x, hidden, err);
}

int ft_extract_hardlink(ft_extract *x, const char *target, ft_err *err)
{
    char other[FT_PATH_BYTES], hidden[FT_HIDDEN_BYTES];
    struct stat st;
    int fd, rc = -1;

    if (ft_extract_normal(target, other, err) < 0 || claim(x, err) < 0)
        return -1;
    fd = other[0] ? open_holder(x, other, false, err) : -1;
    if (fd < 0 && other[0])
        return -1;
    ft_hidden_name(hidden);
    if (fd < 0 || fstatat(fd, last_part(other), &st, AT_SYMLINK_NOFOLLOW) < 0 ||
        !S_ISREG(st.st_mode))
        (void)ft_fail(err, FT_E_INVALID, x->name, "the archive links to what is no file beneath");
    else if (linkat(fd, last_part(other), x->dirfd, hidden, 0) < 0)
        (void)ft_fail_errno(err, x->name, "cannot make a link of the archive");
    else
        rc = place(x, hidden, err);
    if (fd >= 0)
        close(fd);
    return rc;
}

int ft_extract_file(ft_extract *x, ft_temp *ret, ft_err *err)
{
    if (claim(x, err) < 0)
        return -1;
    return ft_temp_open(x->dirfd, x->name, ret, err);
}

int ft_extract_file_end(ft_extract *x, ft_temp *t, const ft_member *m, ft_err *err)
{
    struct timespec times[2] = {m->time, m->time};

    if (fchmod(t->fd, m->mode & 0777 & ~x->umask) < 0 ||
        (m->has_time && futimens(t->fd, times) < 0))
        return ft_fail_errno(err, x->name, "cannot set mode and times");
    if (ft_temp_place(t, last_part(x->name), false, x->name, err) < 0)
        return -1;
    x->files++;
    return 0;
}

void ft_extract_finish(ft_extract *x)
{
    ft_err ignored;

    /* What was made last lies deepest: a mode that forbids to enter comes behind those beneath. */
    for (ft_later *l = x->last; l; l = l->before) {
        struct timespec times[2] = {l->m.time, l->m.time};
        int holder = open_holder(x, l->name, false, &ignored);
        int fd = holder < 0 ? -1
                            : openat(holder, last_part(l->name),
                                     O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

        if (fd >= 0) {
            (void)!fchmod(fd, l->m.mode & 0777 & ~x->umask);
            if (l->m.has_time)
                (void)futimens(fd, times);
            close(fd);
        }
        if (holder >= 0)
            close(holder);
    }
}
