/* One open directory for each level; what is removed while the walk is there is passed over. */
#include "walk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/statfs.h>
#include <unistd.h>

typedef struct level {
    DIR *dir;
    size_t path_len; /* of the directory, in walk.path */
    struct stat st;
} level;

typedef struct walk {
    level levels[FT_MAX_DEPTH];
    int depth;
    sbx_buf path;
    size_t root_len;
    const ft_visitor *visitor;
} walk;

/* Cuts the path after the directory of the topmost level and adds the name. */
static const char *join(walk *k, const char *name)
{
    k->path.len = k->levels[k->depth - 1].path_len;
    if (k->path.len > 1)
        sbx_buf_addc(&k->path, '/');
    sbx_buf_adds(&k->path, name);
    return k->path.data;
}

/* @return 0; -1 with errno */
static int push(walk *k, int dirfd, const char *name, const struct stat *st)
{
    int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    level *l = &k->levels[k->depth];

    *l = (level){.dir = fd < 0 ? NULL : fdopendir(fd), .path_len = k->path.len, .st = *st};
    if (!l->dir) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    k->depth++;
    return 0;
}

static ft_step step_of(walk *k, int dirfd, const char *path, const struct stat *st)
{
    const char *rel = path + k->root_len;

    rel += *rel == '/';
    return (ft_step){.dirfd = dirfd,
                     .name = strrchr(path, '/') + 1,
                     .path = path,
                     .rel = rel,
                     .depth = k->depth - 1,
                     .st = *st};
}

/* The end of a directory: its level goes away, and whoever walks is told. */
static int pop(walk *k, bool tell, ft_err *err)
{
    level l = k->levels[--k->depth];
    int rc = 0;

    if (tell && k->depth > 0 && k->visitor->leave) {
        k->path.len = l.path_len;
        k->path.data[k->path.len] = '\0';
        ft_step step = step_of(k, dirfd(k->levels[k->depth - 1].dir), k->path.data, &l.st);

        rc = k->visitor->leave(k->visitor->ctx, &step, dirfd(l.dir), err);
    }
    closedir(l.dir);
    return rc;
}

static int visit(walk *k, const char *name, ft_err *err)
{
    int fd = dirfd(k->levels[k->depth - 1].dir);
    const char *path = join(k, name);
    struct stat st;

    if (sbx_buf_failed(&k->path))
        return ft_fail(err, FT_E_TOO_LARGE, NULL, "a path is too long");
    if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : ft_fail_errno(err, path, "cannot look at it");
    ft_step step = step_of(k, fd, path, &st);
    ft_next next = k->visitor->enter(k->visitor->ctx, &step, err);

    if (next != FT_DESCEND)
        return next == FT_SKIP ? 0 : -1;
    if (k->depth == FT_MAX_DEPTH)
        return ft_fail(err, FT_E_TOO_LARGE, path, "more than %d directories within each other",
                       FT_MAX_DEPTH);
    return push(k, fd, name, &st) < 0 ? ft_fail_errno(err, path, "cannot open the directory") : 0;
}

static int run(walk *k, ft_err *err)
{
    while (k->depth > 0) {
        errno = 0;
        struct dirent *d = readdir(k->levels[k->depth - 1].dir);

        if (!d && errno)
            return ft_fail_errno(err, k->path.data, "cannot read the directory");
        if (!d && pop(k, true, err) < 0)
            return -1;
        if (d && strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0 &&
            visit(k, d->d_name, err) < 0)
            return -1;
    }
    return 0;
}

int ft_walk(int fd, const char *path, const ft_visitor *visitor, ft_err *err)
{
    struct stat st = {0};
    int rc;
    walk *k = sbx_alloc(sizeof(*k));

    k->visitor = visitor;
    k->root_len = strlen(path) > 1 ? strlen(path) : 0;
    sbx_buf_init(&k->path, FT_PATH_BYTES + FT_MAX_DEPTH * 256u);
    sbx_buf_adds(&k->path, path);
    if (push(k, fd, ".", &st) < 0)
        rc = ft_fail_errno(err, path, "cannot open the directory");
    else
        rc = run(k, err);
    while (k->depth > 0)
        (void)pop(k, false, err);
    sbx_buf_done(&k->path);
    free(k);
    return rc;
}

bool ft_is_kernels(int fd)
{
    struct statfs fs;

    return fstatfs(fd, &fs) == 0 &&
           (fs.f_type == PROC_SUPER_MAGIC || fs.f_type == SYSFS_MAGIC ||
            fs.f_type == CGROUP_SUPER_MAGIC || fs.f_type == CGROUP2_SUPER_MAGIC);
}

bool ft_walk_is_kernels(const ft_step *step)
{
    int fd = openat(step->dirfd, step->name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    bool found = fd >= 0 && ft_is_kernels(fd);

    if (fd >= 0)
        close(fd);
    return found;
}
