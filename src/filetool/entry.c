/* From struct stat to a line of JSON; and the operation that only does this. */
#include "entry.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "owners.h"
#include "path.h"
#include "sbx/core/clock.h"
#include "stream.h"

#define YEAR_10000_S 253402300800ll

void ft_etag(const struct stat *st, char ret[FT_ETAG_BYTES])
{
    const uint64_t seconds = 0xffffffffff; /* 40 bits: enough, also for times before 1970 */

    (void)snprintf(
        ret, FT_ETAG_BYTES, "%llx-%llx-%llx-%llx%08lx-%llx%08lx", (unsigned long long)st->st_dev,
        (unsigned long long)st->st_ino, (unsigned long long)st->st_size,
        (unsigned long long)st->st_mtim.tv_sec & seconds, (unsigned long)st->st_mtim.tv_nsec,
        (unsigned long long)st->st_ctim.tv_sec & seconds, (unsigned long)st->st_ctim.tv_nsec);
}

static const char *type_of(mode_t mode)
{
    return S_ISREG(mode)   ? "file"
           : S_ISDIR(mode) ? "directory"
           : S_ISLNK(mode) ? "symlink"
                           : "other";
}

static void add_time(sbx_jw *w, const char *name, const struct timespec *t)
{
    char text[SBX_TIME_TEXT];
    int64_t s = t->tv_sec;

    /* A file may have any time; the form has four digits for the year. */
    s = SBX_MIN(SBX_MAX(s, (int64_t)0), YEAR_10000_S - 1);
    sbx_time_text(s * 1000 + t->tv_nsec / 1000000, text);
    sbx_jw_str(w, name, text);
}

static bool is_text(const char *s)
{
    return !s || sbx_utf8_valid(s, strlen(s));
}

void ft_entry_begin(sbx_jw *w, const struct stat *st, const char *path, const char *target)
{
    const char *name = ft_path_name(path);
    bool base64 = !is_text(path) || !is_text(target);
    char mode[8], owner[FT_OWNER_BYTES], group[FT_OWNER_BYTES];

    (void)snprintf(mode, sizeof(mode), "%04o", (unsigned)st->st_mode & 07777u);
    ft_owner_user(st->st_uid, owner);
    ft_owner_group(st->st_gid, group);
    sbx_jw_obj(w, NULL);
    sbx_jw_bytes(w, "name", name, strlen(name), base64);
    sbx_jw_bytes(w, "path", path, strlen(path), base64);
    sbx_jw_str(w, "type", type_of(st->st_mode));
    sbx_jw_int(w, "sizeBytes", st->st_size);
    sbx_jw_str(w, "mode", mode);
    sbx_jw_str(w, "owner", owner);
    sbx_jw_str(w, "group", group);
    add_time(w, "modifiedAt", &st->st_mtim);
    if (target)
        sbx_jw_bytes(w, "target", target, strlen(target), base64);
    else
        sbx_jw_null(w, "target");
    if (base64)
        sbx_jw_str(w, "encoding", "base64");
}

void ft_entry_etag(sbx_jw *w, const struct stat *st)
{
    char etag[FT_ETAG_BYTES];

    if (!S_ISREG(st->st_mode))
        return;
    ft_etag(st, etag);
    sbx_jw_str(w, "etag", etag);
}

void ft_entry_end(sbx_jw *w)
{
    sbx_jw_obj_end(w);
    sbx_buf_addc(w->out, '\n');
    w->comma = false;
}

const char *ft_entry_target(int dirfd, const char *name, char ret[FT_PATH_BYTES])
{
    ssize_t n = readlinkat(dirfd, name, ret, FT_PATH_BYTES - 1);

    if (n < 0)
        return NULL;
    ret[n] = '\0';
    return ret;
}

static int print(const struct stat *st, const char *path, const char *target, ft_created created,
                 ft_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf line = SBX_BUF_INIT(FT_MAX_LINE_BYTES);
    sbx_jw w = SBX_JW(&line);

    ft_entry_begin(&w, st, path, target);
    ft_entry_etag(&w, st);
    if (created != FT_NOT_TOLD)
        sbx_jw_bool(&w, "created", created == FT_CREATED);
    ft_entry_end(&w);
    return ft_out_flush(&line, 0, err);
}

int ft_entry_print(int dirfd, const char *name, const char *path, ft_created created, ft_err *err)
{
    char target[FT_PATH_BYTES];
    struct stat st;

    if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return ft_fail_errno(err, path, "cannot look at it");
    return print(&st, path, S_ISLNK(st.st_mode) ? ft_entry_target(dirfd, name, target) : NULL,
                 created, err);
}

int ft_entry_print_stat(const struct stat *st, const char *path, ft_created created, ft_err *err)
{
    return print(st, path, NULL, created, err);
}

int ft_stat(char **argv, ft_err *err)
{
    char path[FT_PATH_BYTES];

    if (ft_path_resolve(argv[0], path, err) < 0)
        return -1;
    return ft_entry_print(AT_FDCWD, path, path, FT_NOT_TOLD, err);
}
