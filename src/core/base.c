/* Allocation that cannot fail, and small helpers on strings. */
#include "sbx/core/base.h"

#include <stdarg.h>
#include <stdio.h>

static void *checked(void *p)
{
    if (!p)
        abort();
    return p;
}

void *sbx_alloc(size_t bytes)
{
    return checked(calloc(1, bytes ? bytes : 1));
}

void *sbx_realloc(void *p, size_t bytes)
{
    return checked(realloc(p, bytes ? bytes : 1));
}

char *sbx_strdup(const char *s)
{
    return s ? checked(strdup(s)) : NULL;
}

char *sbx_strndup(const char *s, size_t len)
{
    char *out = sbx_alloc(len + 1);

    if (len)
        memcpy(out, s, len);
    return out;
}

char *sbx_asprintf(const char *fmt, ...)
{
    char *out = NULL;
    va_list ap;

    va_start(ap, fmt);
    int n = vasprintf(&out, fmt, ap);
    va_end(ap);
    if (n < 0)
        abort();
    return out;
}

bool sbx_copy(char *out, size_t cap, const char *s)
{
    size_t len = strlen(s);
    bool fits = len < cap;

    if (!fits)
        len = cap - 1;
    memcpy(out, s, len);
    out[len] = '\0';
    return fits;
}

bool sbx_parse_i64(const char *s, int64_t min, int64_t max, int64_t *ret)
{
    bool negative = *s == '-';
    int64_t n = 0;

    s += negative;
    if (!*s)
        return false;
    for (; *s; s++) {
        if (*s < '0' || *s > '9' || __builtin_mul_overflow(n, 10, &n) ||
            __builtin_add_overflow(n, *s - '0', &n))
            return false;
    }
    n = negative ? -n : n;
    if (n < min || n > max)
        return false;
    *ret = n;
    return true;
}

int sbx_hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

void sbx_wipe(void *p, size_t len)
{
    if (p && len)
        explicit_bzero(p, len);
}
