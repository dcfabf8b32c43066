/* A growable buffer with a ceiling. Doubles; keeps a NUL behind its content. */
#include "sbx/core/buf.h"

#include <stdarg.h>
#include <stdio.h>

void sbx_buf_init(sbx_buf *b, size_t max_bytes)
{
    *b = (sbx_buf){.max = max_bytes};
}

void sbx_buf_done(sbx_buf *b)
{
    free(b->data);
    *b = (sbx_buf){.max = b->max};
}

void sbx_buf_reset(sbx_buf *b)
{
    b->len = 0;
    b->failed = false;
    if (b->data)
        b->data[0] = '\0';
}

char *sbx_buf_reserve(sbx_buf *b, size_t len)
{
    if (b->failed || len > b->max || b->len > b->max - len) {
        b->failed = true;
        return NULL;
    }
    size_t need = b->len + len + 1;
    if (need > b->cap) {
        size_t cap = b->cap ? b->cap : 128;

        while (cap < need)
            cap *= 2;
        b->cap = SBX_MIN(cap, b->max + 1);
        b->data = sbx_realloc(b->data, b->cap);
    }
    return b->data + b->len;
}

void sbx_buf_commit(sbx_buf *b, size_t len)
{
    b->len += len;
    b->data[b->len] = '\0';
}

void sbx_buf_add(sbx_buf *b, const void *data, size_t len)
{
    char *to = sbx_buf_reserve(b, len);

    if (!to)
        return;
    if (len)
        memcpy(to, data, len);
    sbx_buf_commit(b, len);
}

void sbx_buf_adds(sbx_buf *b, const char *s)
{
    sbx_buf_add(b, s, strlen(s));
}

void sbx_buf_addc(sbx_buf *b, char c)
{
    sbx_buf_add(b, &c, 1);
}

void sbx_buf_addf(sbx_buf *b, const char *fmt, ...)
{
    va_list ap, again;

    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *to = n < 0 ? NULL : sbx_buf_reserve(b, (size_t)n);
    if (to) {
        vsnprintf(to, (size_t)n + 1, fmt, again);
        sbx_buf_commit(b, (size_t)n);
    } else {
        b->failed = true;
    }
    va_end(again);
}

void sbx_buf_consume(sbx_buf *b, size_t len)
{
    if (!len)
        return;
    memmove(b->data, b->data + len, b->len - len);
    b->len -= len;
    b->data[b->len] = '\0';
}

char *sbx_buf_steal(sbx_buf *b)
{
    if (b->failed)
        return NULL;
    char *out = b->data ? b->data : sbx_strdup("");
    b->data = NULL;
    b->len = b->cap = 0;
    return out;
}
