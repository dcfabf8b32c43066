/* move, copy and mkdir: a name in a directory gets something, in one step. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "copy.h"
#include "entry.h"
#include "path.h"
#include "remove.h"
#include "stream.h"
#include "temp.h"

typedef struct ends {
    char from[FT_PATH_BYTES], to[FT_PATH_BYTES];
    const char *from_name, *to_name;
    int from_fd, to_fd;
    struct stat st; /* of what is at `from` */
    bool overwrite;
} ends;

static void ends_done(ends *e)
{
    if (e->from_fd >= 0)
        close(e->from_fd);
    if (e->to_fd >= 0)
        close(e->to_fd);
}

/* Whether the directory `fd` is the one that `st` tells of, or lies beneath it. */
static bool lies_beneath(int fd, const struct stat *st)
{
    struct stat at, above;
    int up = openat(fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC), next;
    bool found = false;

    while (up >= 0 && fstat(up, &at) == 0) {
        found = at.st_dev == st->st_dev && at.st_ino == st->st_ino;
        next = found ? -1 : openat(up, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (next >= 0 && fstat(next, &above) == 0 && above.st_dev == at.st_dev &&
            above.st_ino == at.st_ino) { /* the top */
            close(next);
            next = -1;
        }
        close(up);
        up = next;
    }
    return found;
}

static int ends_open(char **argv, ends *e, ft_err *err)
{
    struct stat there;

    *e = (ends){.from_fd = -1, .to_fd = -1};
    if (ft_path_resolve(argv[0], e->from, err) < 0 || ft_path_resolve(argv[1], e->to, err) < 0 ||
        ft_arg_flag(argv[2], "OVERWRITE", &e->overwrite, err) < 0)
        return -1;
    e->from_fd = ft_path_open_parent(e->from, &e->from_name, err);
    if (e->from_fd < 0)
        return -1;
    if (fstatat(e->from_fd, e->from_name, &e->st, AT_SYMLINK_NOFOLLOW) < 0)
        return ft_fail_errno(err, e->from, "cannot look at it");
    e->to_fd = ft_path_open_parent(e->to, &e->to_name, err);
    if (e->to_fd < 0)
        return -1;
    if (S_ISDIR(e->st.st_mode) && lies_beneath(e->to_fd, &e->st))
        return ft_fail(err, FT_E_INVALID, e->to, "it lies beneath what is to go there");
    if (fstatat(e->to_fd, e->to_name, &there, AT_SYMLINK_NOFOLLOW) < 0)
        return 0;
    if (!e->overwrite)
        return ft_fail(err, FT_E_EXISTS, e->to, "it exists already");
    /* What rename(2) would find out only after all has been copied. */
    if (S_ISDIR(there.st_mode) && !S_ISDIR(e->st.st_mode))
        return ft_fail(err, FT_E_IS_DIRECTORY, e->to, "a directory is not replaced by a file");
    if (!S_ISDIR(there.st_mode) && S_ISDIR(e->st.st_mode))
        return ft_fail(err, FT_E_NOT_DIRECTORY, e->to, "a file is not replaced by a directory");
    return 0;
}

/* Under a hidden name first, so that the copy is there at once or not at all. */
static int copy_into_place(ends *e, ft_err *err)
{
    char hidden[FT_HIDDEN_BYTES];
    ft_err ignored;
    int rc;

    if (S_ISSOCK(e->st.st_mode))
        return ft_fail(err, FT_E_UNSUPPORTED, e->from, "a socket cannot be copied");
    ft_hidden_name(hidden);
    rc = ft_copy_tree(e->from_fd, e->from_name, e->to_fd, hidden, e->from, err);
    if (rc == 0)
        rc = ft_rename(e->to_fd, hidden, e->to_fd, e->to_name, !e->overwrite, e->to, err);
    if (rc < 0 && faccessat(e->to_fd, hidden, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        (void)!ft_remove_tree(e->to_fd, hidden, true, e->to, &ignored);
    return rc;
}

static int move_one(ends *e, ft_err *err)
{
    bool fresh = !e->overwrite;
    int rc = ft_rename(e->from_fd, e->from_name, e->to_fd, e->to_name, fresh, e->to, err);

    if (rc == 0 || errno != EXDEV)
        return rc;
    if (copy_into_place(e, err) < 0)
        return -1;
    return ft_remove_tree(e->from_fd, e->from_name, false, e->from, err);
}

static int between(char **argv, int (*act)(ends *, ft_err *), ft_err *err)
{
    ends e;
    int rc = ends_open(argv, &e, err);

    if (rc == 0)
        rc = act(&e, err);
    if (rc == 0)
        rc = ft_entry_print(e.to_fd, e.to_name, e.to, FT_NOT_TOLD, err);
    ends_done(&e);
    return rc;
}

int ft_move(char **argv, ft_err *err)
{
    return between(argv, move_one, err);
}

int ft_copy(char **argv, ft_err *err)
{
    return between(argv, copy_into_place, err);
}

static int make(const char *path, bool parents, int mode, ft_err *err)
{
    const char *name;
    struct stat st;
    ft_created created = FT_CREATED;
    int rc, fd = ft_path_open_parent(path, &name, err);

    if (fd < 0)
        return -1;
    rc = mkdirat(fd, name, 0777);
    if (rc == 0 && mode >= 0 && fchmodat(fd, name, (mode_t)mode, 0) < 0) {
        rc = ft_fail_errno(err, path, "cannot set the mode");
        (void)unlinkat(fd, name, AT_REMOVEDIR);
    } else if (rc < 0 && errno == EEXIST && parents && fstatat(fd, name, &st, 0) == 0 &&
               S_ISDIR(st.st_mode)) {
        created = FT_REPLACED;
        rc = 0;
    } else if (rc < 0) {
        rc = ft_fail_errno(err, path, "cannot make the directory");
    }
    if (rc == 0)
        rc = ft_entry_print(fd, name, path, created, err);
    close(fd);
    return rc;
}

int ft_mkdir(char **argv, ft_err *err)
{
    char path[FT_PATH_BYTES];
    ft_made made = {0};
    bool parents;
    int mode, rc;

    if (ft_path_resolve(argv[0], path, err) < 0 ||
        ft_arg_flag(argv[1], "PARENTS", &parents, err) < 0 || ft_arg_mode(argv[2], &mode, err) < 0)
        return -1;
    rc = parents ? ft_path_make_parents(path, &made, err) : 0;
    if (rc == 0)
        rc = make(path, parents, mode, err);
    if (rc < 0)
        ft_made_undo(&made);
    ft_made_done(&made);
    return rc;
}
