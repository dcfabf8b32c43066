/* Many files, all or nothing: each is written under a hidden name beside its place, and when the
 * last one is complete, all are renamed. Only the renames are not one step. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "entry.h"
#include "path.h"
#include "place.h"
#include "records.h"
#include "sbx/core/clock.h"
#include "stream.h"
#include "temp.h"

#define FLUSH_BYTES    (48 * KIB)
#define LEFTOVER_S     (2 * 3600) /* twice as long as a run may take */
#define LEFTOVER_NAMES 10000      /* of the directory, that are looked at */

typedef struct item {
    char *asked, *path;           /* path: behind links */
    char hidden[FT_HIDDEN_BYTES]; /* "" before it is made, and behind the rename */
    bool created;
} item;

typedef struct batch {
    item *items;
    uint32_t n, max;
    size_t path_bytes;
    ft_made made;
    int dirfd;               /* of the file before, as the next one is often beside it; -1: none */
    char dir[FT_PATH_BYTES]; /* its path, with a slash at the end */
} batch;

static ssize_t from_input(void *ctx, void *data, size_t len, ft_err *err)
{
    (void)ctx;
    return ft_in_read(data, len, err);
}

/* Makes `dirfd` the directory that holds the last name of the path. */
static int enter(batch *b, const char *path, bool make, const char **name, ft_err *err)
{
    size_t len = (size_t)(ft_path_name(path) - path);

    if (b->dirfd >= 0 && strlen(b->dir) == len && memcmp(b->dir, path, len) == 0 &&
        strcmp(path + len, "..") != 0) {
        *name = path + len;
        return 0;
    }
    if (b->dirfd >= 0)
        close(b->dirfd);
    b->dirfd = -1;
    if (make && ft_path_make_parents(path, &b->made, err) < 0)
        return -1;
    b->dirfd = ft_path_open_parent(path, name, err);
    if (b->dirfd < 0)
        return -1;
    memcpy(b->dir, path, len);
    b->dir[len] = '\0';
    return 0;
}

static int write_hidden(batch *b, item *it, const ft_record *r, ft_err *err)
{
    ft_temp t = FT_TEMP_NONE;
    const char *name;
    ft_place place;
    int rc;

    if (enter(b, it->path, true, &name, err) < 0 ||
        ft_place_look(b->dirfd, name, it->path, &place, err) < 0 ||
        ft_temp_open_named(b->dirfd, it->path, &t, err) < 0)
        return -1;
    memcpy(it->hidden, t.name, sizeof(it->hidden));
    it->created = !place.exists;
    rc = ft_in_to(t.fd, r->size, it->path, err);
    if (rc == 0 && fchmod(t.fd, r->mode >= 0 ? (mode_t)r->mode : place.mode) < 0)
        rc = ft_fail_errno(err, it->path, "cannot set the mode");
    close(t.fd);
    return rc;
}

static int take_one(batch *b, ft_err *err)
{
    char asked[FT_PATH_BYTES], path[FT_PATH_BYTES];
    ft_record r;

    if (ft_records_next(from_input, NULL, &r, err) < 0 || ft_path_resolve(r.path, asked, err) < 0)
        return -1;
    if (r.path[strlen(r.path) - 1] == '/')
        return ft_fail(err, FT_E_INVALID, asked, "the path of a file may not end with a slash");
    memcpy(path, asked, sizeof(path));
    if (ft_path_follow(path, err) < 0)
        return -1;
    b->path_bytes += strlen(asked) + strlen(path);
    if (b->path_bytes > FT_MAX_BATCH_PATHS)
        return ft_fail(err, FT_E_TOO_LARGE, NULL, "the paths of the batch are longer than %u bytes",
                       FT_MAX_BATCH_PATHS);
    item *it = &b->items[b->n++];

    *it = (item){.asked = sbx_strdup(asked), .path = sbx_strdup(path)};
    return write_hidden(b, it, &r, err);
}

static int by_path(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int refuse_twice(const batch *b, ft_err *err)
{
    char **paths = sbx_alloc(b->n * sizeof(char *));
    int rc = 0;

    for (uint32_t i = 0; i < b->n; i++)
        paths[i] = b->items[i].path;
    qsort(paths, b->n, sizeof(char *), by_path);
    for (uint32_t i = 1; i < b->n && rc == 0; i++)
        if (strcmp(paths[i - 1], paths[i]) == 0)
            rc = ft_fail(err, FT_E_INVALID, paths[i], "two files of the batch have this path");
    free(paths);
    return rc;
}

static int place_all(batch *b, ft_err *err)
{
    const char *name;

    for (uint32_t i = 0; i < b->n; i++) {
        item *it = &b->items[i];

        if (enter(b, it->path, false, &name, err) < 0 ||
            ft_rename(b->dirfd, it->hidden, b->dirfd, name, false, it->path, err) < 0)
            return -1;
        it->hidden[0] = '\0';
    }
    return 0;
}

static int tell_all(batch *b, ft_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf out = SBX_BUF_INIT(FLUSH_BYTES + FT_MAX_LINE_BYTES);
    sbx_jw w = SBX_JW(&out);
    struct stat st;

    for (uint32_t i = 0; i < b->n; i++) {
        const item *it = &b->items[i];

        if (lstat(it->path, &st) < 0)
            return ft_fail_errno(err, it->path, "cannot look at the new file");
        ft_entry_begin(&w, &st, it->asked, NULL);
        ft_entry_etag(&w, &st);
        sbx_jw_bool(&w, "created", it->created);
        ft_entry_end(&w);
        if (ft_out_flush(&out, FLUSH_BYTES, err) < 0)
            return -1;
    }
    return ft_out_flush(&out, 0, err);
}

/* --- the code of runs whose server died --- */

static bool is_code(const char *name)
{
    static const char id[] = "0123456789abcdefghijklmnopqrstuvwxyz";

    return strncmp(name, FT_CODE_PREFIX, sizeof(FT_CODE_PREFIX) - 1) == 0 &&
           strspn(name + sizeof(FT_CODE_PREFIX) - 1, id) == FT_CODE_ID_BYTES &&
           name[sizeof(FT_CODE_PREFIX) - 1 + FT_CODE_ID_BYTES] == '.';
}

static void remove_if_old(int dirfd, const char *name)
{
    struct stat st;

    if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
        st.st_uid == geteuid() && sbx_wall_ms() / 1000 - st.st_mtime > LEFTOVER_S)
        (void)unlinkat(dirfd, name, 0);
}

/* Beside the code that was just written; whatever fails, the next run tries again. */
static void remove_leftovers(batch *b)
{
    const char *name;
    ft_err ignored;
    uint32_t i = 0;

    while (i < b->n && !is_code(ft_path_name(b->items[i].path)))
        i++;
    if (i == b->n || enter(b, b->items[i].path, false, &name, &ignored) < 0)
        return;
    int fd = openat(b->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);

    if (!d) {
        if (fd >= 0)
            close(fd);
        return;
    }
    struct dirent *e;
    for (int seen = 0; seen < LEFTOVER_NAMES && (e = readdir(d)); seen++)
        if (is_code(e->d_name))
            remove_if_old(b->dirfd, e->d_name);
    (void)closedir(d);
}

/* What was not renamed goes away. */
static void done(batch *b)
{
    const char *name;
    ft_err ignored;

    for (uint32_t i = 0; i < b->n; i++) {
        item *it = &b->items[i];

        if (it->hidden[0] && enter(b, it->path, false, &name, &ignored) == 0)
            (void)unlinkat(b->dirfd, it->hidden, 0);
        free(it->asked);
        free(it->path);
    }
    free(b->items);
    if (b->dirfd >= 0)
        close(b->dirfd);
}

int ft_batch(char **argv, ft_err *err)
{
    batch b = {.dirfd = -1};
    int rc;

    (void)argv;
    if (ft_records_count(from_input, NULL, &b.max, err) < 0)
        return -1;
    b.items = sbx_alloc(b.max * sizeof(item));
    do {
        rc = take_one(&b, err);
    } while (rc == 0 && b.n < b.max);
    if (rc == 0)
        rc = refuse_twice(&b, err);
    if (rc == 0)
        rc = ft_guard_check(err);
    if (rc == 0)
        rc = place_all(&b, err);
    if (rc == 0)
        remove_leftovers(&b);
    if (rc == 0)
        rc = tell_all(&b, err);
    done(&b);
    if (rc < 0)
        ft_made_undo(&b.made);
    ft_made_done(&b.made);
    return rc;
}
