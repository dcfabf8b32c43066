/* The only string builder. Every buffer states its ceiling; errors are sticky and checked once. */
#ifndef SBX_CORE_BUF_H
#define SBX_CORE_BUF_H

#include "sbx/core/base.h"

typedef struct sbx_buf {
    char *data; /* NUL-terminated whenever not NULL; owned */
    size_t len, cap, max;
    bool failed;
} sbx_buf;

#define SBX_BUF_INIT(max_bytes)                                                                    \
    {                                                                                              \
        .max = (max_bytes)                                                                         \
    }

void sbx_buf_init(sbx_buf *b, size_t max_bytes);
void sbx_buf_done(sbx_buf *b);
void sbx_buf_reset(sbx_buf *b); /* empties, keeps the memory, forgets the failure */

void sbx_buf_add(sbx_buf *b, const void *data, size_t len);
void sbx_buf_adds(sbx_buf *b, const char *s);
void sbx_buf_addc(sbx_buf *b, char c);
void sbx_buf_addf(sbx_buf *b, const char *fmt, ...) SBX_PRINTF(2, 3);

/** Room for `len` more bytes; write at the returned place, then sbx_buf_commit().
 * @return NULL if the ceiling does not allow it (the buffer is failed then). */
char *sbx_buf_reserve(sbx_buf *b, size_t len);
void sbx_buf_commit(sbx_buf *b, size_t len);

/** Drop `len` bytes from the front. */
void sbx_buf_consume(sbx_buf *b, size_t len);

/** Take the string out: the caller owns it, the buffer is empty. Never NULL unless failed. */
char *sbx_buf_steal(sbx_buf *b);

static inline bool sbx_buf_failed(const sbx_buf *b)
{
    return b->failed;
}

#endif
