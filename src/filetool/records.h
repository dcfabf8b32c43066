/* The input of batch: a count, then records, each a head, a path and that many bytes. */
#ifndef FT_RECORDS_H
#define FT_RECORDS_H

#include <sys/types.h>

#include "fail.h"

#define FT_RECORD_HEAD_BYTES 16
#define FT_RECORD_NO_MODE    0xffffffffu

/** Where the bytes come from. @return bytes, 0 at the end, -1 */
typedef ssize_t ft_source(void *ctx, void *data, size_t len, ft_err *err);

typedef struct ft_record {
    char path[FT_PATH_BYTES]; /* as it came: without NUL, not empty */
    int mode;                 /* -1: none */
    int64_t size;             /* bytes that follow, to be taken by the caller */
} ft_record;

/** @return 0, or -1: INVALID if the input ends before, or the count is not 1..FT_MAX_RECORDS */
int ft_records_count(ft_source *source, void *ctx, uint32_t *ret, ft_err *err) SBX_MUST_CHECK;

int ft_records_next(ft_source *source, void *ctx, ft_record *ret, ft_err *err) SBX_MUST_CHECK;

#endif
