/* Serving one range of a file. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "entry.h"
#include "path.h"
#include "range.h"
#include "stream.h"
#include "walk.h"

#define MAX_KERNELS_BYTES MIB

/* "N", or nothing where that has a meaning of its own: -1. */
static bool number(const char *text, size_t len, int64_t *ret)
{
    char digits[20];

    if (len == 0) {
        *ret = -1;
        return true;
    }
    if (len >= sizeof(digits) || strspn(text, "0123456789") < len)
        return false;
    memcpy(digits, text, len);
    digits[len] = '\0';
    return sbx_parse_i64(digits, 0, INT64_MAX, ret);
}

int ft_range_parse(const char *text, int64_t size, int64_t *ret_from, int64_t *ret_to, ft_err *err)
{
    const char *dash = strchr(text, '-');
    int64_t first = -1, last = -1;

    if (strcmp(text, "-") == 0) {
        *ret_from = 0;
        *ret_to = size;
        return 0;
    }
    if (!dash || !number(text, (size_t)(dash - text), &first) ||
        !number(dash + 1, strlen(dash + 1), &last) || (last >= 0 && first > last))
        return ft_fail(err, FT_E_INVALID, NULL, "the range must be N-M, N- or -N, N not above M");
    if (first < 0) { /* the last bytes */
        first = SBX_MAX(size - last, (int64_t)0);
        last = last > 0 ? size : -1;
    } else {
        last = last < 0 || last >= size ? size : last + 1;
        if (first >= size)
            last = -1;
    }
    if (last < 0) {
        (void)ft_fail(err, FT_E_RANGE, NULL, "the file has %lld bytes, none of them in the range",
                      (long long)size);
        err->size_bytes = size;
        return -1;
    }
    *ret_from = first;
    *ret_to = last;
    return 0;
}

/* Never waits: what is no regular file is refused by what it is, or by its descriptor. */
static int open_regular(const char *path, struct stat *st, ft_err *err)
{
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

    if (fd < 0)
        return ft_fail_errno(err, path, "cannot open");
    if (fstat(fd, st) < 0)
        (void)ft_fail_errno(err, path, "cannot look at it");
    else if (S_ISDIR(st->st_mode))
        (void)ft_fail(err, FT_E_IS_DIRECTORY, path, "it is a directory");
    else if (!S_ISREG(st->st_mode))
        (void)ft_fail(err, FT_E_UNSUPPORTED, path, "it is a device, a FIFO or a socket");
    else
        return fd;
    close(fd);
    return -1;
}

/* Files of the kernel do not say how long they are: they are read into memory first.
 * @return -2 if it is none; else 0, -1 */
static int slurp(int fd, struct stat *st, sbx_buf *content, const char *path, ft_err *err)
{
    ssize_t n;

    if (!ft_is_kernels(fd))
        return -2;
    while ((n = read(fd, ft_chunk(), FT_CHUNK_BYTES)) > 0)
        sbx_buf_add(content, ft_chunk(), (size_t)n);
    if (n < 0)
        return ft_fail_errno(err, path, "cannot read");
    if (sbx_buf_failed(content))
        return ft_fail(err, FT_E_TOO_LARGE, path, "this file of the kernel is longer than %u bytes",
                       MAX_KERNELS_BYTES);
    st->st_size = (off_t)content->len;
    return 0;
}

static int put_head(const struct stat *st, const char *path, int64_t from, int64_t to, ft_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf line = SBX_BUF_INIT(FT_MAX_LINE_BYTES);
    sbx_jw w = SBX_JW(&line);

    ft_entry_begin(&w, st, path, NULL);
    ft_entry_etag(&w, st);
    sbx_jw_obj(&w, "range");
    sbx_jw_int(&w, "from", from);
    sbx_jw_int(&w, "to", to);
    sbx_jw_obj_end(&w);
    ft_entry_end(&w);
    return ft_out_flush(&line, 0, err);
}

int ft_read(char **argv, ft_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf content = SBX_BUF_INIT(MAX_KERNELS_BYTES);
    char path[FT_PATH_BYTES];
    int64_t from = 0, to = 0;
    struct stat st;
    int fd, held, rc;

    if (ft_path_resolve(argv[0], path, err) < 0)
        return -1;
    fd = open_regular(path, &st, err);
    if (fd < 0)
        return -1;
    held = slurp(fd, &st, &content, path, err);
    rc = held == -1 ? -1 : ft_range_parse(argv[1], st.st_size, &from, &to, err);
    if (rc == 0)
        rc = put_head(&st, path, from, to, err);
    if (rc == 0 && held == 0)
        rc = ft_out_write(content.data ? content.data + from : "", (size_t)(to - from), err);
    else if (rc == 0)
        rc = ft_out_from(fd, from, to, path, err);
    close(fd);
    return rc;
}
