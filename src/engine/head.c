/* See head.h. Strict: CRLF line ends, "Name: value" lines, no folding, no control characters, one
 * length at most. Source: RFC 9112, sections 2 to 6. */
#include "head.h"
#include <strings.h>

static bool status_line(const char *line, size_t len, docker_head *h)
{
    if (len < 12 || memcmp(line, "HTTP/1.", 7) != 0 || (line[7] != '0' && line[7] != '1') ||
        line[8] != ' ' || (len > 12 && line[12] != ' '))
        return false;
    h->status = 0;
    for (int i = 9; i < 12; i++) {
        if (line[i] < '0' || line[i] > '9')
            return false;
        h->status = h->status * 10 + (line[i] - '0');
    }
    return h->status >= 100;
}

static bool content_length(const char *v, size_t len, docker_head *h)
{
    int64_t n = 0;

    if (h->length >= 0 || len == 0 || len > 15)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (v[i] < '0' || v[i] > '9')
            return false;
        n = n * 10 + (v[i] - '0');
    }
    h->length = n;
    return true;
}

static bool named(const char *line, size_t name_len, const char *name)
{
    return strlen(name) == name_len && strncasecmp(line, name, name_len) == 0;
}

static bool field_line(const char *line, size_t len, docker_head *h)
{
    const char *colon = memchr(line, ':', len);

    if (!colon || colon == line || line[0] == ' ' || line[0] == '\t')
        return false;
    size_t name_len = (size_t)(colon - line);
    const char *v = colon + 1, *end = line + len;

    while (v < end && (*v == ' ' || *v == '\t'))
        v++;
    while (end > v && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    if (named(line, name_len, "Content-Length"))
        return content_length(v, (size_t)(end - v), h);
    if (named(line, name_len, "Transfer-Encoding"))
        h->chunked = true;
    return true;
}

static bool printable(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (((unsigned char)s[i] < 0x20 && s[i] != '\t') || s[i] == 0x7f)
            return false;
    return true;
}

ssize_t docker_head_read(const char *data, size_t len, docker_head *ret)
{
    docker_head h = {.length = -1};
    size_t from = 0;

    for (;;) {
        const char *nl = from < len ? memchr(data + from, '\n', len - from) : NULL;

        if (!nl)
            return len >= DOCKER_HEAD_BYTES ? -1 : 0;
        size_t line_len = (size_t)(nl - data) - from;

        if (line_len == 0 || nl[-1] != '\r' || !printable(data + from, line_len - 1))
            return -1;
        line_len--;
        const char *line = data + from;
        bool first = from == 0;

        from = (size_t)(nl - data) + 1;
        if (from > DOCKER_HEAD_BYTES)
            return -1;
        if (line_len == 0 && !first) {
            *ret = h;
            return (ssize_t)from;
        }
        if (!(first ? status_line(line, line_len, &h) : field_line(line, line_len, &h)))
            return -1;
    }
}
