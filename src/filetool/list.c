/* Listing: every level of the tree keeps the names that are still to be told, sorted, and never
 * more names are kept, all levels together, than may still be told. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "entry.h"
#include "path.h"
#include "stream.h"

#define FLUSH_BYTES (48 * KIB)

typedef struct level {
    int fd;
    char **names; /* owned, sorted */
    size_t n, at;
    size_t path_len; /* of the directory, in lister.path */
} level;

typedef struct lister {
    level levels[FT_MAX_DEPTH];
    int depth, max_depth;
    size_t left;    /* entries that may still be told */
    bool full;      /* something was met beyond the limit */
    bool forgotten; /* names were given up */
    sbx_buf path, out;
} lister;

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Sorts, and forgets all but the first `keep`. */
static void cut(level *l, size_t keep)
{
    qsort(l->names, l->n, sizeof(char *), by_bytes);
    while (l->n > keep)
        free(l->names[--l->n]);
}

/* The first keep + 1 names of a directory: one more tells that there are more.
 * @return 0, or -1 with errno */
static int load(level *l, size_t keep)
{
    int fd = openat(l->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    size_t cap = 0;
    struct dirent *d;

    if (!dir) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    while ((errno = 0, d = readdir(dir))) {
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        if (l->n == cap) {
            cap = SBX_MAX(cap * 2, (size_t)64);
            l->names = sbx_realloc(l->names, cap * sizeof(char *));
        }
        l->names[l->n++] = sbx_strdup(d->d_name);
        if (l->n > 2 * keep + 64)
            cut(l, keep + 1);
    }
    int errnum = errno;

    closedir(dir);
    cut(l, keep + 1);
    errno = errnum;
    return errnum ? -1 : 0;
}

static void pop(lister *s)
{
    level *l = &s->levels[--s->depth];

    for (size_t i = l->at; i < l->n; i++)
        free(l->names[i]);
    free(l->names);
    close(l->fd);
}

/* What is deeper comes first, so the levels above give up what cannot be told any more. */
static void share(lister *s)
{
    size_t left = s->left + 1;

    for (int i = s->depth - 1; i >= 0; i--) {
        level *l = &s->levels[i];
        size_t keep = SBX_MIN(l->n - l->at, left);

        while (l->n - l->at > keep) {
            free(l->names[--l->n]);
            s->forgotten = true;
        }
        left -= keep;
    }
}

/* @param fd  taken over. @return 0, or -1 with errno and nothing changed */
static int push(lister *s, int fd)
{
    level *l = &s->levels[s->depth++];

    *l = (level){.fd = fd, .path_len = s->path.len};
    if (load(l, s->left) < 0) {
        int errnum = errno;

        pop(s);
        errno = errnum;
        return -1;
    }
    share(s);
    return 0;
}

/* Opens a directory and makes it the next level. @return 0, or the error of the kernel */
static int descend(lister *s, int dirfd, const char *name)
{
    int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

    return fd < 0 || push(s, fd) < 0 ? errno : 0;
}

static int tell(lister *s, level *l, const char *name, ft_err *err)
{
    sbx_jw w = SBX_JW(&s->out);
    char target[FT_PATH_BYTES];
    struct stat st;
    int failed = 0;

    s->path.len = l->path_len;
    if (s->path.len > 1)
        sbx_buf_addc(&s->path, '/');
    sbx_buf_adds(&s->path, name);
    if (fstatat(l->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : ft_fail_errno(err, s->path.data, "cannot look at it");
    if (s->left == 0) {
        s->full = true;
        return 0;
    }
    s->left--;
    ft_entry_begin(&w, &st, s->path.data,
                   S_ISLNK(st.st_mode) ? ft_entry_target(l->fd, name, target) : NULL);
    if (S_ISDIR(st.st_mode) && s->depth < s->max_depth)
        failed = descend(s, l->fd, name);
    if (failed)
        sbx_jw_str(&w, "error", ft_code_text(ft_code_of(failed)));
    ft_entry_end(&w);
    return ft_out_flush(&s->out, FLUSH_BYTES, err);
}

static int run(lister *s, ft_err *err)
{
    while (s->depth > 0 && !s->full) {
        level *l = &s->levels[s->depth - 1];

        if (l->at == l->n) {
            pop(s);
            continue;
        }
        SBX_CLEANUP(sbx_free_str) char *name = l->names[l->at++];

        if (tell(s, l, name, err) < 0)
            return -1;
    }
    return 0;
}

int ft_list(char **argv, ft_err *err)
{
    static lister s;
    int64_t depth = 0, limit = 0;
    char path[FT_PATH_BYTES];
    int fd, rc;

    if (ft_path_resolve(argv[0], path, err) < 0 ||
        ft_arg_number(argv[1], "DEPTH", 1, FT_MAX_DEPTH, &depth, err) < 0 ||
        ft_arg_number(argv[2], "LIMIT", 1, FT_MAX_LIST, &limit, err) < 0)
        return -1;
    fd = open(path, O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return ft_fail_errno(err, path, "cannot open the directory");
    s = (lister){.max_depth = (int)depth, .left = (size_t)limit};
    sbx_buf_init(&s.path, FT_PATH_BYTES + FT_MAX_DEPTH * 256u);
    sbx_buf_init(&s.out, FLUSH_BYTES + FT_MAX_LINE_BYTES);
    sbx_buf_adds(&s.path, path);
    rc = push(&s, fd);
    rc = rc < 0 ? ft_fail_errno(err, path, "cannot read the directory") : run(&s, err);
    while (s.depth > 0)
        pop(&s);
    if (rc == 0) {
        sbx_buf_addf(&s.out, "{\"truncated\":%s}\n", s.full || s.forgotten ? "true" : "false");
        rc = ft_out_flush(&s.out, 0, err);
    }
    sbx_buf_done(&s.path);
    sbx_buf_done(&s.out);
    return rc;
}
