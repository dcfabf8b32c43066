/* Removing. A tree may be deeper than directories can be open: what lies too deep is moved up to
 * the top under a hidden name, and removed in the next round. */
#include "remove.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "entry.h"
#include "path.h"
#include "stream.h"
#include "temp.h"
#include "walk.h"

#define DEEP (FT_MAX_DEPTH - 8)

typedef struct remover {
    int root;
    bool ours;
    bool again; /* something was moved up, or came meanwhile */
} remover;

static ft_next enter(void *ctx, const ft_step *step, ft_err *err)
{
    remover *r = ctx;
    char name[FT_HIDDEN_BYTES];

    if (!S_ISDIR(step->st.st_mode)) {
        if (unlinkat(step->dirfd, step->name, 0) == 0 || errno == ENOENT)
            return FT_SKIP;
        return ft_fail_errno(err, step->path, "cannot remove");
    }
    if (r->ours)
        (void)!fchmodat(step->dirfd, step->name, 0700, 0);
    if (step->depth < DEEP)
        return FT_DESCEND;
    ft_hidden_name(name);
    r->again = true;
    return ft_rename(step->dirfd, step->name, r->root, name, true, step->path, err) < 0 ? FT_FAILED
                                                                                        : FT_SKIP;
}

/* A directory that was filled meanwhile is looked at in the next round. */
static int leave(void *ctx, const ft_step *step, int fd, ft_err *err)
{
    remover *r = ctx;

    (void)fd;
    if (unlinkat(step->dirfd, step->name, AT_REMOVEDIR) == 0 || errno == ENOENT)
        return 0;
    if (errno != ENOTEMPTY && errno != EEXIST)
        return ft_fail_errno(err, step->path, "cannot remove the directory");
    r->again = true;
    return 0;
}

int ft_remove_tree(int dirfd, const char *name, bool ours, const char *path, ft_err *err)
{
    int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    remover r = {.root = fd, .ours = ours};
    ft_visitor visitor = {.enter = enter, .leave = leave, .ctx = &r};
    int rc = 0;

    if (fd < 0 && errno == ENOTDIR)
        rc = unlinkat(dirfd, name, 0) < 0 ? ft_fail_errno(err, path, "cannot remove") : 0;
    else if (fd < 0)
        rc = ft_fail_errno(err, path, "cannot open the directory");
    if (fd < 0)
        return rc;
    if (ours)
        (void)!fchmod(fd, 0700);
    do {
        r.again = false;
        rc = ft_walk(fd, path, &visitor, err);
        if (rc == 0 && unlinkat(dirfd, name, AT_REMOVEDIR) < 0) {
            if (errno == ENOTEMPTY || errno == EEXIST)
                r.again = true;
            else
                rc = ft_fail_errno(err, path, "cannot remove the directory");
        }
    } while (rc == 0 && r.again);
    close(fd);
    return rc;
}

int ft_remove(char **argv, ft_err *err)
{
    char path[FT_PATH_BYTES], target[FT_PATH_BYTES];
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf line = SBX_BUF_INIT(FT_MAX_LINE_BYTES);
    sbx_jw w = SBX_JW(&line);
    const char *name;
    bool recursive;
    struct stat st;
    int fd, rc;

    if (ft_path_resolve(argv[0], path, err) < 0 ||
        ft_arg_flag(argv[1], "RECURSIVE", &recursive, err) < 0)
        return -1;
    fd = ft_path_open_parent(path, &name, err);
    if (fd < 0)
        return -1;
    rc = fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW);
    if (rc < 0)
        (void)ft_fail_errno(err, path, "cannot look at it");
    else {
        ft_entry_begin(&w, &st, path,
                       S_ISLNK(st.st_mode) ? ft_entry_target(fd, name, target) : NULL);
        ft_entry_end(&w);
        if (S_ISDIR(st.st_mode) && recursive)
            rc = ft_remove_tree(fd, name, false, path, err);
        else if (unlinkat(fd, name, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0) < 0)
            rc = ft_fail_errno(err, path, "cannot remove");
    }
    close(fd);
    return rc < 0 ? -1 : ft_out_flush(&line, 0, err);
}
