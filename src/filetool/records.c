/* Strict: what does not fit ends the batch. */
#include "records.h"

static int take(ft_source *source, void *ctx, void *data, size_t len, ft_err *err)
{
    char *p = data;

    while (len > 0) {
        ssize_t n = source(ctx, p, len, err);

        if (n < 0)
            return -1;
        if (n == 0)
            return ft_fail(err, FT_E_INVALID, NULL, "the input ended in the middle of the batch");
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

static uint64_t little_endian(const unsigned char *p, int bytes)
{
    uint64_t v = 0;

    for (int i = bytes - 1; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

int ft_records_count(ft_source *source, void *ctx, uint32_t *ret, ft_err *err)
{
    unsigned char head[4];

    if (take(source, ctx, head, sizeof(head), err) < 0)
        return -1;
    uint32_t count = (uint32_t)little_endian(head, 4);

    if (count < 1 || count > FT_MAX_RECORDS)
        return ft_fail(err, FT_E_INVALID, NULL, "a batch has 1 to %d files, not %u", FT_MAX_RECORDS,
                       count);
    *ret = count;
    return 0;
}

int ft_records_next(ft_source *source, void *ctx, ft_record *ret, ft_err *err)
{
    unsigned char head[FT_RECORD_HEAD_BYTES];

    if (take(source, ctx, head, sizeof(head), err) < 0)
        return -1;
    uint32_t len = (uint32_t)little_endian(head, 4);
    uint32_t mode = (uint32_t)little_endian(head + 4, 4);
    uint64_t size = little_endian(head + 8, 8);

    if (len < 1 || len >= sizeof(ret->path))
        return ft_fail(err, FT_E_INVALID, NULL, "a path of the batch has %u bytes, not 1 to %zu",
                       len, sizeof(ret->path) - 1);
    if (take(source, ctx, ret->path, len, err) < 0)
        return -1;
    ret->path[len] = '\0';
    if (strlen(ret->path) != len)
        return ft_fail(err, FT_E_INVALID, ret->path, "a path of the batch holds a NUL");
    if (mode != FT_RECORD_NO_MODE && mode > 07777)
        return ft_fail(err, FT_E_INVALID, ret->path, "the mode must be octal, 0 to 7777");
    if (size > INT64_MAX)
        return ft_fail(err, FT_E_INVALID, ret->path, "the size is too large");
    ret->mode = mode == FT_RECORD_NO_MODE ? -1 : (int)mode;
    ret->size = (int64_t)size;
    return 0;
}
