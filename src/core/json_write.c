/* The emitter: places commas, escapes strings, writes into a bounded buffer. */
#include "sbx/core/json.h"

#include "sbx/core/clock.h"
#include <stdio.h>

static void escaped(sbx_buf *b, const char *s, size_t len)
{
    static const char hex[] = "0123456789abcdef";
    size_t from = 0;

    sbx_buf_addc(b, '"');
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];

        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        sbx_buf_add(b, s + from, i - from);
        from = i + 1;
        const char *two = c == '"'    ? "\\\""
                          : c == '\\' ? "\\\\"
                          : c == '\n' ? "\\n"
                          : c == '\r' ? "\\r"
                          : c == '\t' ? "\\t"
                                      : NULL;
        if (two) {
            sbx_buf_add(b, two, 2);
        } else {
            char u[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
            sbx_buf_add(b, u, sizeof(u));
        }
    }
    sbx_buf_add(b, s + from, len - from);
    sbx_buf_addc(b, '"');
}

static void lead(sbx_jw *w, const char *name)
{
    if (w->comma)
        sbx_buf_addc(w->out, ',');
    w->comma = true;
    if (name) {
        escaped(w->out, name, strlen(name));
        sbx_buf_addc(w->out, ':');
    }
}

static void open(sbx_jw *w, const char *name, char c)
{
    lead(w, name);
    sbx_buf_addc(w->out, c);
    w->comma = false;
}

static void close(sbx_jw *w, char c)
{
    sbx_buf_addc(w->out, c);
    w->comma = true;
}

void sbx_jw_obj(sbx_jw *w, const char *name)
{
    open(w, name, '{');
}

void sbx_jw_obj_end(sbx_jw *w)
{
    close(w, '}');
}

void sbx_jw_arr(sbx_jw *w, const char *name)
{
    open(w, name, '[');
}

void sbx_jw_arr_end(sbx_jw *w)
{
    close(w, ']');
}

void sbx_jw_strn(sbx_jw *w, const char *name, const char *value, size_t len)
{
    lead(w, name);
    escaped(w->out, value, len);
}

void sbx_jw_str(sbx_jw *w, const char *name, const char *value)
{
    if (value)
        sbx_jw_strn(w, name, value, strlen(value));
    else
        sbx_jw_null(w, name);
}

void sbx_jw_raw(sbx_jw *w, const char *name, const char *json)
{
    lead(w, name);
    sbx_buf_adds(w->out, json ? json : "null");
}

void sbx_jw_int(sbx_jw *w, const char *name, int64_t value)
{
    char text[24];

    snprintf(text, sizeof(text), "%lld", (long long)value);
    sbx_jw_raw(w, name, text);
}

void sbx_jw_milli(sbx_jw *w, const char *name, int64_t thousandths)
{
    char text[32];
    int n = snprintf(text, sizeof(text), "%s%lld.%03d", thousandths < 0 ? "-" : "",
                     (long long)llabs(thousandths / 1000), (int)llabs(thousandths % 1000));

    while (text[n - 1] == '0')
        text[--n] = '\0';
    if (text[n - 1] == '.')
        text[--n] = '\0';
    sbx_jw_raw(w, name, text);
}

void sbx_jw_bool(sbx_jw *w, const char *name, bool value)
{
    sbx_jw_raw(w, name, value ? "true" : "false");
}

void sbx_jw_null(sbx_jw *w, const char *name)
{
    sbx_jw_raw(w, name, "null");
}

void sbx_jw_time(sbx_jw *w, const char *name, int64_t ms)
{
    char text[SBX_TIME_TEXT];

    if (!ms) {
        sbx_jw_null(w, name);
        return;
    }
    sbx_time_text(ms, text);
    sbx_jw_str(w, name, text);
}

void sbx_jw_signal(sbx_jw *w, const char *name, int signal)
{
    const char *abbrev = signal ? sigabbrev_np(signal) : NULL;
    char number[12];

    snprintf(number, sizeof(number), "%d", signal);
    sbx_jw_str(w, name, !signal ? NULL : abbrev ? abbrev : number);
}

size_t sbx_utf8_tail(const char *s, size_t len)
{
    for (size_t back = 1; back <= 3 && back <= len; back++) {
        unsigned char c = (unsigned char)s[len - back];

        if ((c & 0xC0) == 0x80)
            continue;
        size_t need = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC2 ? 2 : 1;
        return need > back ? back : 0;
    }
    return 0;
}

bool sbx_utf8_valid(const char *s, size_t len)
{
    const unsigned char *p = (const unsigned char *)s, *end = p + len;

    while (p < end) {
        if (*p < 0x80) {
            p++;
            continue;
        }
        int more = *p >= 0xC2 && *p <= 0xDF   ? 1
                   : (*p & 0xF0) == 0xE0      ? 2
                   : *p >= 0xF0 && *p <= 0xF4 ? 3
                                              : 0;
        unsigned v = *p & (0x3Fu >> more);

        if (!more || end - p <= more)
            return false;
        for (int i = 1; i <= more; i++) {
            if ((p[i] & 0xC0) != 0x80)
                return false;
            v = v << 6 | (p[i] & 0x3Fu);
        }
        if ((more == 2 && v < 0x800) || (more == 3 && v < 0x10000) || v > 0x10FFFF ||
            (v >= 0xD800 && v <= 0xDFFF))
            return false;
        p += more + 1;
    }
    return true;
}

void sbx_base64_add(sbx_buf *b, const void *data, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *p = data;
    char *to = sbx_buf_reserve(b, (len + 2) / 3 * 4);
    size_t out = 0;

    if (!to)
        return;
    for (size_t i = 0; i < len; i += 3) {
        size_t have = SBX_MIN(len - i, (size_t)3);
        unsigned v = (unsigned)p[i] << 16 | (have > 1 ? (unsigned)p[i + 1] << 8 : 0) |
                     (have > 2 ? (unsigned)p[i + 2] : 0);

        to[out++] = digits[v >> 18];
        to[out++] = digits[v >> 12 & 63];
        to[out++] = have > 1 ? digits[v >> 6 & 63] : '=';
        to[out++] = have > 2 ? digits[v & 63] : '=';
    }
    sbx_buf_commit(b, out);
}

void sbx_jw_bytes(sbx_jw *w, const char *name, const char *data, size_t len, bool as_base64)
{
    if (!as_base64) {
        sbx_jw_strn(w, name, data, len);
        return;
    }
    lead(w, name);
    sbx_buf_addc(w->out, '"');
    sbx_base64_add(w->out, data, len);
    sbx_buf_addc(w->out, '"');
}

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool sbx_base64_decode(sbx_buf *b, const char *text, size_t len)
{
    size_t pad = !len ? 0 : text[len - 1] != '=' ? 0 : len > 1 && text[len - 2] == '=' ? 2 : 1;

    if (len % 4)
        return false;
    char *to = sbx_buf_reserve(b, len / 4 * 3);
    size_t out = 0;
    unsigned v = 0;

    if (!to)
        return false;
    for (size_t i = 0; i < len; i++) {
        int digit = i >= len - pad ? 0 : base64_digit(text[i]);

        if (digit < 0)
            return false;
        v = v << 6 | (unsigned)digit;
        if (i % 4 != 3)
            continue;
        to[out++] = (char)(v >> 16);
        to[out++] = (char)(v >> 8);
        to[out++] = (char)v;
    }
    /* the bits behind the last byte have one way to be written */
    if ((pad == 1 && (v & 0xff)) || (pad == 2 && (v & 0xffff)))
        return false;
    sbx_buf_commit(b, out - pad);
    return true;
}
