/* Putting a new content into the place of a file, at once or not at all. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "entry.h"
#include "place.h"
#include "stream.h"

#define DEFAULT_MODE 0666

static mode_t without_umask(mode_t mode)
{
    mode_t mask = umask(0);

    (void)umask(mask);
    return mode & ~mask;
}

int ft_place_look(int dirfd, const char *name, const char *path, ft_place *ret, ft_err *err)
{
    struct stat st;

    *ret = (ft_place){.mode = without_umask(DEFAULT_MODE)};
    if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : ft_fail_errno(err, path, "cannot look at it");
    if (S_ISDIR(st.st_mode))
        return ft_fail(err, FT_E_IS_DIRECTORY, path, "it is a directory");
    if (!S_ISREG(st.st_mode))
        return ft_fail(err, FT_E_UNSUPPORTED, path, "it is a device, a FIFO, a socket or a link");
    /* The directory alone would allow to replace a file that is write-protected. */
    if (faccessat(dirfd, name, W_OK, AT_EACCESS) < 0)
        return ft_fail_errno(err, path, "the file may not be written");
    ret->exists = true;
    ret->mode = st.st_mode & 07777;
    ft_etag(&st, ret->etag);
    return 0;
}

static int precondition(const ft_place *p, const char *match, const char *path, ft_err *err)
{
    if (!match)
        return 0;
    if (strcmp(match, "-") == 0)
        return p->exists ? ft_fail(err, FT_E_CHANGED, path, "the file exists") : 0;
    if (!p->exists)
        return ft_fail(err, FT_E_CHANGED, path, "the file does not exist");
    if (strcmp(match, "*") != 0 && strcmp(match, p->etag) != 0)
        return ft_fail(err, FT_E_CHANGED, path, "the file is not the one that was asked for");
    return 0;
}

typedef struct request {
    char asked[FT_PATH_BYTES], path[FT_PATH_BYTES]; /* path: behind links */
    int mode;
    bool parents;
    int64_t size;
    const char *match; /* NULL: none */
} request;

static int parse(char **argv, request *r, ft_err *err)
{
    size_t len = strlen(argv[0]);

    if (ft_path_resolve(argv[0], r->asked, err) < 0 || ft_arg_mode(argv[1], &r->mode, err) < 0 ||
        ft_arg_flag(argv[2], "PARENTS", &r->parents, err) < 0)
        return -1;
    if (len > 0 && argv[0][len - 1] == '/')
        return ft_fail(err, FT_E_INVALID, r->asked, "the path of a file may not end with a slash");
    r->size = -1;
    if (strcmp(argv[3], "-") != 0 &&
        ft_arg_number(argv[3], "SIZE", 0, INT64_MAX, &r->size, err) < 0)
        return -1;
    r->match = argv[4];
    memcpy(r->path, r->asked, sizeof(r->path));
    return ft_path_follow(r->path, err);
}

static int fill_and_place(int dirfd, const char *name, const request *r, ft_temp *t, ft_err *err)
{
    struct stat st;
    ft_place p;

    if (ft_place_look(dirfd, name, r->path, &p, err) < 0 ||
        precondition(&p, r->match, r->path, err) < 0 || ft_temp_open(dirfd, r->path, t, err) < 0 ||
        ft_in_to(t->fd, r->size, r->path, err) < 0)
        return -1;
    /* It may have taken hours. */
    if (ft_place_look(dirfd, name, r->path, &p, err) < 0 ||
        precondition(&p, r->match, r->path, err) < 0)
        return -1;
    if (fchmod(t->fd, r->mode >= 0 ? (mode_t)r->mode : p.mode) < 0)
        return ft_fail_errno(err, r->path, "cannot set the mode");
    bool fresh = r->match && strcmp(r->match, "-") == 0;

    if (ft_temp_place(t, name, fresh, r->path, err) < 0) {
        if (fresh && err->code == FT_E_EXISTS)
            err->code = FT_E_CHANGED;
        return -1;
    }
    if (fstat(t->fd, &st) < 0)
        return ft_fail_errno(err, r->path, "cannot look at the new file");
    return ft_entry_print_stat(&st, r->asked, p.exists ? FT_REPLACED : FT_CREATED, err);
}

int ft_write(char **argv, ft_err *err)
{
    ft_temp t = FT_TEMP_NONE;
    ft_made made = {0};
    request r;
    const char *name;
    int dirfd, rc = -1;

    if (parse(argv, &r, err) < 0)
        return -1;
    if (r.parents && ft_path_make_parents(r.path, &made, err) < 0) {
        ft_made_undo(&made);
        return -1;
    }
    dirfd = ft_path_open_parent(r.path, &name, err);
    if (dirfd >= 0) {
        rc = fill_and_place(dirfd, name, &r, &t, err);
        ft_temp_drop(&t);
        close(dirfd);
    }
    if (rc < 0)
        ft_made_undo(&made);
    ft_made_done(&made);
    return rc;
}
