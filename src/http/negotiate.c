/* Lists with weights. The scanners never change what they read, because one header is asked
 * several times: for each representation that a route has. */
#include "sbx/http/negotiate.h"

#include <strings.h>

typedef struct span {
    const char *p;
    size_t n;
} span;

static span trimmed(const char *from, const char *end)
{
    while (from < end && (*from == ' ' || *from == '\t'))
        from++;
    while (end > from && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    return (span){from, (size_t)(end - from)};
}

/* Up to `mark` or `end`, passing over quoted strings. @param escapes  a backslash in them quotes
 * (it does not in an entity tag). */
static const char *find_mark(const char *p, const char *end, char mark, bool escapes)
{
    bool quoted = false;

    for (; p < end && (quoted || *p != mark); p++) {
        if (*p == '"')
            quoted = !quoted;
        else if (*p == '\\' && quoted && escapes && p + 1 < end)
            p++;
    }
    return p;
}

/* Takes the next element of a line. @return false at its end. */
static bool next_element(const char **line, bool escapes, span *ret)
{
    const char *p = *line + strspn(*line, " \t,");
    const char *end = p + strlen(p);

    if (p == end)
        return false;
    *line = find_mark(p, end, ',', escapes);
    *ret = trimmed(p, *line);
    return true;
}

static bool same(span s, const char *text)
{
    return strlen(text) == s.n && strncasecmp(s.p, text, s.n) == 0;
}

/* Takes the next parameter, "name=value". @return false at the end. */
static bool next_parameter(span *rest, span *name, span *value)
{
    const char *end = rest->p + rest->n;

    while (rest->n && (*rest->p == ';' || *rest->p == ' ' || *rest->p == '\t')) {
        rest->p++;
        rest->n--;
    }
    if (!rest->n)
        return false;
    const char *stop = find_mark(rest->p, end, ';', true);
    const char *equals = memchr(rest->p, '=', (size_t)(stop - rest->p));
    *name = trimmed(rest->p, equals ? equals : stop);
    *value = equals ? trimmed(equals + 1, stop) : (span){stop, 0};
    *rest = (span){stop, (size_t)(end - stop)};
    return true;
}

/* In thousandths; more digits than three are dropped, and ".5" is taken for "0.5".
 * @return -1 if it is no weight. */
static int read_weight(span s)
{
    int weight = 0, scale = 1000;
    bool point = false;

    if (!s.n)
        return -1;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == '.' && !point) {
            point = true;
            scale = 100;
        } else if (s.p[i] >= '0' && s.p[i] <= '9' && (point || i == 0)) {
            weight += (s.p[i] - '0') * scale;
            scale = point ? scale / 10 : scale;
        } else {
            return -1;
        }
    }
    return weight <= 1000 ? weight : -1;
}

/* Cuts an element down to what stands before its parameters. @return the weight, or -1. */
static int cut_weight(span *element)
{
    const char *end = element->p + element->n;
    const char *stop = find_mark(element->p, end, ';', true);
    span rest = {stop, (size_t)(end - stop)}, name, value;

    *element = trimmed(element->p, stop);
    while (next_parameter(&rest, &name, &value))
        if (same(name, "q"))
            return read_weight(value);
    return 1000;
}

static int range_exactness(span range, const char *type)
{
    size_t main_len = (size_t)(strchr(type, '/') - type) + 1;

    if (same(range, type))
        return 2;
    if (range.n == main_len + 1 && range.p[main_len] == '*' &&
        strncasecmp(range.p, type, main_len) == 0)
        return 1;
    return same(range, "*/*") || same(range, "*") ? 0 : -1;
}

sbx_weight sbx_accept_weight(const sbx_list *accept, const char *type)
{
    sbx_weight best = {.q = accept->count ? 0 : 1000, .exactness = -1};
    size_t place = 0;

    for (size_t i = 0; i < accept->count; i++) {
        const char *line = accept->lines[i];
        span element;

        for (; next_element(&line, true, &element); place++) {
            int q = cut_weight(&element);
            int exactness = q < 0 ? -1 : range_exactness(element, type);

            if (exactness > best.exactness)
                best = (sbx_weight){.q = q, .exactness = exactness, .place = place};
        }
    }
    return best;
}

bool sbx_accepts_gzip(const sbx_list *accept_encoding)
{
    int gzip = -1, any = -1, identity = -1;

    for (size_t i = 0; i < accept_encoding->count; i++) {
        const char *line = accept_encoding->lines[i];
        span element;

        while (next_element(&line, true, &element)) {
            int q = cut_weight(&element);

            if (same(element, "gzip") || same(element, "x-gzip"))
                gzip = q;
            else if (same(element, "*"))
                any = q;
            else if (same(element, "identity"))
                identity = q;
        }
    }
    if (gzip < 0)
        gzip = any;
    return gzip > 0 && gzip >= identity;
}

bool sbx_etag_listed(const sbx_list *if_none_match, const char *tag)
{
    for (size_t i = 0; i < if_none_match->count; i++) {
        const char *line = if_none_match->lines[i];
        span element;

        while (next_element(&line, false, &element)) {
            if (same(element, "*"))
                return true;
            if (element.n > 2 && memcmp(element.p, "W/", 2) == 0)
                element = (span){element.p + 2, element.n - 2};
            if (element.n == strlen(tag) && memcmp(element.p, tag, element.n) == 0)
                return true;
        }
    }
    return false;
}

sbx_type_verdict sbx_content_type_judge(const char *value, const char *type)
{
    const char *end = value + strlen(value);
    const char *stop = find_mark(value, end, ';', true);
    span rest = {stop, (size_t)(end - stop)}, name, param;

    if (!same(trimmed(value, stop), type))
        return SBX_TYPE_OTHER;
    while (next_parameter(&rest, &name, &param)) {
        if (!name.n || !param.n)
            return SBX_TYPE_OTHER;
        if (same(name, "charset") && !same(param, "utf-8") && !same(param, "\"utf-8\""))
            return SBX_TYPE_CHARSET;
    }
    return SBX_TYPE_OK;
}
