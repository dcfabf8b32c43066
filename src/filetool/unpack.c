/* Reading an archive from standard input. libarchive parses; what it finds goes through extract.h.
 *
 * tar is read as it comes. What a zip file holds stands at its end (modes and links nowhere else),
 * so it is kept first, in a file without a name beside where it is extracted. */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "extract.h"
#include "path.h"
#include "stream.h"
#include "unpack.h"

#define READ_BYTES     (64 * KIB)
#define MAGIC_BYTES    4
#define ZIP_SLACK      (16 * MIB) /* what a zip file may be larger than its content */
#define MAX_TAIL_BYTES MIB        /* padding behind the archive */

/* The bytes that decide come first, again. */
static la_ssize_t on_read(struct archive *a, void *ctx, const void **data)
{
    ft_unpack *u = ctx;
    ssize_t n;

    *data = u->buffer;
    if (u->ahead > 0) {
        n = (ssize_t)u->ahead;
        u->ahead = 0;
        return n;
    }
    n = u->source(u->source_ctx, u->buffer, READ_BYTES, u->err);
    if (n < 0) {
        u->source_failed = true;
        archive_set_error(a, EIO, "the input could not be read");
        return ARCHIVE_FATAL;
    }
    u->in_bytes += n;
    return n;
}

/* Fills the buffer with enough to tell what comes. */
static int look_ahead(ft_unpack *u)
{
    while (u->ahead < MAGIC_BYTES) {
        ssize_t n = u->source(u->source_ctx, u->buffer + u->ahead, READ_BYTES - u->ahead, u->err);

        if (n < 0)
            return -1;
        if (n == 0)
            break;
        u->ahead += (size_t)n;
    }
    u->in_bytes = (int64_t)u->ahead;
    if (u->ahead == 0)
        return ft_fail(u->err, FT_E_INVALID, NULL, "the input is empty");
    return 0;
}

static bool is_zip(const ft_unpack *u)
{
    return u->ahead >= MAGIC_BYTES && memcmp(u->buffer, "PK\3\4", MAGIC_BYTES) == 0;
}

static bool is_empty_zip(const ft_unpack *u)
{
    return u->ahead >= MAGIC_BYTES && memcmp(u->buffer, "PK\5\6", MAGIC_BYTES) == 0;
}

static int keep_zip(ft_unpack *u)
{
    int64_t at = 0;
    ssize_t n = (ssize_t)u->ahead;

    if (ft_temp_open(u->x.root, u->x.path, &u->zip, u->err) < 0)
        return -1;
    while (n > 0) {
        if (ft_file_write(u->zip.fd, u->buffer, (size_t)n, at, u->x.path, u->err) < 0)
            return -1;
        at += n;
        if (at > u->max_bytes + ZIP_SLACK)
            return ft_fail(u->err, FT_E_TOO_LARGE, NULL, "the archive is larger than %lld bytes",
                           (long long)(u->max_bytes + ZIP_SLACK));
        n = u->source(u->source_ctx, u->buffer, READ_BYTES, u->err);
    }
    u->in_bytes = at;
    return n < 0 ? -1 : 0;
}

/* Words of the library to a code of ours. */
static int refused(ft_unpack *u, struct archive *a, const char *what)
{
    const char *text = archive_error_string(a);

    if (u->source_failed)
        return -1;
    text = text ? text : "no reason is known";
    ft_code code = archive_errno(a) == ENOMEM || strcasestr(text, "memory") ? FT_E_TOO_LARGE
                   : strcasestr(text, "unsupported") || strcasestr(text, "not supported") ||
                           strcasestr(text, "unrecognized")
                       ? FT_E_UNSUPPORTED
                       : FT_E_INVALID;
    return ft_fail(u->err, code, NULL, "%s: %s", what, text);
}

static int open_archive(ft_unpack *u, struct archive *a)
{
    int rc;

    if (is_zip(u)) {
        if (keep_zip(u) < 0)
            return -1;
        archive_read_support_format_zip_seekable(a);
        rc = archive_read_open_fd(a, u->zip.fd, READ_BYTES);
        if (rc != ARCHIVE_OK)
            return ft_fail(u->err, FT_E_INVALID, NULL,
                           "the zip file has no directory at its end: it is cut or damaged");
    } else {
        archive_read_support_filter_gzip(a);
        archive_read_support_format_tar(a);
        rc = archive_read_open(a, u, NULL, on_read, NULL);
    }
    return rc == ARCHIVE_OK ? 0 : refused(u, a, "the input is neither tar, tar.gz nor zip");
}

/* Whether `more` bytes may come; `dense`: those of them that are no holes. */
static int grant(ft_unpack *u, int64_t size, int64_t dense)
{
    if (size > u->max_bytes - u->bytes)
        return ft_fail(u->err, FT_E_TOO_LARGE, u->x.name, "the archive holds more than %lld bytes",
                       (long long)u->max_bytes);
    u->dense += dense;
    if (u->dense > FT_BOMB_BYTES && u->dense / FT_BOMB_RATIO > u->in_bytes)
        return ft_fail(u->err, FT_E_TOO_LARGE, u->x.name,
                       "the archive holds more than %d times its own size", FT_BOMB_RATIO);
    return 0;
}

static int copy_content(ft_unpack *u, struct archive *a, struct archive_entry *e, int fd)
{
    int64_t size = archive_entry_size_is_set(e) ? archive_entry_size(e) : 0, end = 0;
    const void *data;
    la_int64_t at;
    size_t len;
    int rc;

    if (size < 0 || grant(u, size, 0) < 0)
        return size < 0 ? refused(u, a, "the archive holds a size below 0") : -1;
    while ((rc = archive_read_data_block(a, &data, &len, &at)) == ARCHIVE_OK) {
        if (at < end || at > INT64_MAX - (int64_t)len)
            return ft_fail(u->err, FT_E_INVALID, u->x.name, "the archive's pieces overlap");
        if (grant(u, at + (int64_t)len, (int64_t)len) < 0 || ft_guard_check(u->err) < 0 ||
            ft_file_write(fd, data, len, at, u->x.name, u->err) < 0)
            return -1;
        end = at + (int64_t)len;
    }
    if (rc != ARCHIVE_EOF)
        return refused(u, a, "the archive is damaged");
    if (size > end && ftruncate(fd, size) < 0)
        return ft_fail_errno(u->err, u->x.name, "cannot set the size");
    u->bytes += SBX_MAX(size, end);
    return 0;
}

/* A file system that has no attributes gets none. */
static void set_attributes(struct archive_entry *e, int fd)
{
    const char *name;
    const void *value;
    size_t size;

    (void)archive_entry_xattr_reset(e);
    while (archive_entry_xattr_next(e, &name, &value, &size) == ARCHIVE_OK)
        if (name && strncmp(name, "user.", 5) == 0)
            (void)fsetxattr(fd, name, value, size, 0);
}

static int extract_file(ft_unpack *u, struct archive *a, struct archive_entry *e,
                        const ft_member *m)
{
    ft_temp t = FT_TEMP_NONE;
    int rc;

    if (m->mode & (S_ISUID | S_ISGID))
        return ft_fail(u->err, FT_E_UNSUPPORTED, u->x.name, "the archive holds a set-id file");
    if (archive_entry_is_encrypted(e))
        return ft_fail(u->err, FT_E_UNSUPPORTED, u->x.name, "the archive is encrypted");
    rc = ft_extract_file(&u->x, &t, u->err);
    if (rc == 0)
        rc = copy_content(u, a, e, t.fd);
    if (rc == 0) {
        set_attributes(e, t.fd);
        rc = ft_extract_file_end(&u->x, &t, m, u->err);
    }
    ft_temp_drop(&t);
    return rc;
}

static int extract_one(ft_unpack *u, struct archive *a, struct archive_entry *e)
{
    ft_member m = {.mode = archive_entry_mode(e),
                   .has_time = archive_entry_mtime_is_set(e),
                   .time = {archive_entry_mtime(e), archive_entry_mtime_nsec(e)}};
    const char *name = archive_entry_pathname(e), *link;
    int rc;

    if (!name || !name[0])
        return ft_fail(u->err, FT_E_INVALID, NULL, "the archive holds an entry without a name");
    rc = ft_extract_member(&u->x, name, u->err);
    if (rc <= 0)
        return rc;
    if ((link = archive_entry_hardlink(e)))
        return ft_extract_hardlink(&u->x, link, u->err);
    switch (archive_entry_filetype(e)) {
    case AE_IFREG:
        return extract_file(u, a, e, &m);
    case AE_IFDIR:
        return ft_extract_directory(&u->x, &m, u->err);
    case AE_IFLNK:
        link = archive_entry_symlink(e);
        return ft_extract_symlink(&u->x, link ? link : "", &m, u->err);
    case AE_IFIFO:
    case AE_IFSOCK:
        u->x.skipped++;
        return 0;
    default:
        return ft_fail(u->err, FT_E_UNSUPPORTED, u->x.name, "the archive holds a device");
    }
}

static int extract_all(ft_unpack *u, struct archive *a)
{
    struct archive_entry *e;
    int rc;

    if (look_ahead(u) < 0)
        return -1;
    if (is_empty_zip(u)) /* the library takes it for none at all */
        return 0;
    if (open_archive(u, a) < 0)
        return -1;
    while ((rc = archive_read_next_header(a, &e)) == ARCHIVE_OK || rc == ARCHIVE_WARN)
        if (ft_guard_check(u->err) < 0 || extract_one(u, a, e) < 0)
            return -1;
    return rc == ARCHIVE_EOF ? 0 : refused(u, a, "the archive is damaged");
}

int ft_unpack_run(ft_unpack *u)
{
    struct archive *a = archive_read_new();
    int rc;

    if (!a)
        return ft_fail(u->err, FT_E_TOO_LARGE, NULL, "memory is out");
    u->buffer = sbx_alloc(READ_BYTES);
    rc = extract_all(u, a);
    ft_extract_finish(&u->x);
    archive_read_free(a);
    /* Whoever sends should not find the pipe closed because of padding. */
    for (int64_t tail = 0; rc == 0 && u->zip.fd < 0 && tail < MAX_TAIL_BYTES;) {
        ssize_t n = u->source(u->source_ctx, u->buffer, READ_BYTES, u->err);

        if (n <= 0)
            break;
        tail += n;
    }
    ft_temp_drop(&u->zip);
    free(u->buffer);
    u->buffer = NULL;
    return rc;
}

static ssize_t from_input(void *ctx, void *data, size_t len, ft_err *err)
{
    (void)ctx;
    return ft_in_read(data, len, err);
}

static int tell(const ft_unpack *u, ft_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf line = SBX_BUF_INIT(KIB);

    sbx_buf_addf(&line, "{\"files\":%lld,\"directories\":%lld,\"bytes\":%lld,\"skipped\":%lld}\n",
                 (long long)u->x.files, (long long)u->x.directories, (long long)u->bytes,
                 (long long)u->x.skipped);
    return ft_out_flush(&line, 0, err);
}

/* Opens the directory, which is made if it is missing. */
static int open_root(const char *path, ft_made *made, ft_err *err)
{
    char inside[FT_PATH_BYTES + 2];
    int fd;

    (void)snprintf(inside, sizeof(inside), "%s/.", path);
    if (strlen(inside) >= FT_PATH_BYTES)
        return ft_fail(err, FT_E_INVALID, NULL, "the path is too long");
    if (ft_path_make_parents(inside, made, err) < 0)
        return -1;
    fd = open(path, O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC);
    return fd < 0 ? ft_fail_errno(err, path, "cannot open the directory") : fd;
}

int ft_unpack_op(char **argv, ft_err *err)
{
    ft_unpack u = {.source = from_input, .err = err, .zip = FT_TEMP_NONE};
    char path[FT_PATH_BYTES];
    int64_t max_entries = 0;
    ft_made made = {0};
    int fd, rc = -1;

    if (ft_path_resolve(argv[0], path, err) < 0 ||
        ft_arg_number(argv[1], "MAX_BYTES", 0, FT_MAX_UNPACK_BYTES, &u.max_bytes, err) < 0 ||
        ft_arg_number(argv[2], "MAX_ENTRIES", 0, FT_MAX_UNPACK_ENTRIES, &max_entries, err) < 0)
        return -1;
    fd = open_root(path, &made, err);
    if (fd >= 0) {
        ft_extract_init(&u.x, fd, path, max_entries);
        rc = ft_unpack_run(&u);
        ft_extract_done(&u.x);
        close(fd);
    }
    if (rc < 0)
        ft_made_undo(&made);
    ft_made_done(&made);
    return rc < 0 ? -1 : tell(&u, err);
}
