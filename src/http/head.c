/* Request heads. Stricter than the RFC asks where leniency serves nobody but smugglers: lines end
 * with CRLF, no folding, no space before a colon, framing headers at most once.
 *
 * The first fault is kept while the rest is still read, because the answer should carry the
 * caller's request id wherever in the head that stands. */
#include "sbx/http/head.h"

#include <strings.h>

#define REQUEST_LINE_EXTRA 32 /* the method, the version and two spaces */
#define MAX_LENGTH_DIGITS  15

static bool is_token(unsigned char c)
{
    static const char marks[] = "!#$%&'*+-.^_`|~";

    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           (c && strchr(marks, c));
}

static bool all_tokens(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!is_token((unsigned char)s[i]))
            return false;
    return len > 0;
}

int sbx_head_find(const char *text, size_t len, size_t *from, size_t *ret, sbx_err *err)
{
    size_t at = *from;

    while (at < len) {
        const char *lf = memchr(text + at, '\n', len - at);
        size_t end = lf ? (size_t)(lf - text) : len;

        if (at == 0 && end > SBX_MAX_URI_BYTES + REQUEST_LINE_EXTRA)
            return sbx_fail(err, SBX_E_URI_TOO_LONG, "the request line is longer than %u bytes",
                            SBX_MAX_URI_BYTES);
        if (end > SBX_MAX_HEADER_BYTES + SBX_MAX_URI_BYTES)
            return sbx_fail(err, SBX_E_HEADERS_TOO_LARGE, "the headers are larger than %u bytes",
                            SBX_MAX_HEADER_BYTES);
        if (!lf)
            return 0;
        if (end == 0 || text[end - 1] != '\r')
            return sbx_fail(err, SBX_E_INVALID, "a line of the request does not end with CRLF");
        if (end - 1 == at && at > 0) {
            *ret = end + 1;
            return 1;
        }
        at = end + 1;
        *from = at;
    }
    return 0;
}

bool sbx_request_id_sane(const char *id)
{
    size_t n = 0;

    for (; id[n]; n++) {
        unsigned char c = (unsigned char)id[n];

        if (n == SBX_MAX_REQUEST_ID_BYTES ||
            !((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
              c == '.' || c == '_' || c == '-'))
            return false;
    }
    return n > 0;
}

static int bad(sbx_err *err, const char *what)
{
    return sbx_fail(err, SBX_E_INVALID, "%s", what);
}

static sbx_method method_of(const char *s)
{
    static const char *const names[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(s, names[i]) == 0)
            return (sbx_method)i;
    return SBX_METHOD_OTHER;
}

/* "/path?query", "http://host/path?query" or, for OPTIONS, "*". */
static int parse_target(char *target, sbx_head *h, sbx_err *err)
{
    if (strncasecmp(target, "http://", 7) == 0 || strncasecmp(target, "https://", 8) == 0) {
        char *host = strstr(target, "//") + 2;

        target = host + strcspn(host, "/?");
        if (target == host)
            return bad(err, "the request target has no host");
        if (*target != '/')
            return bad(err, "the request target has no path");
    }
    if (strcmp(target, "*") == 0 && h->method == SBX_OPTIONS_M) {
        h->path = target;
        return 0;
    }
    if (*target != '/')
        return bad(err, "the request target is not a path");
    for (const char *p = target; *p; p++)
        if ((unsigned char)*p <= 0x20 || (unsigned char)*p >= 0x7f || *p == '#')
            return bad(err, "the request target has a character that must be percent-encoded");
    h->path = target;
    h->query = strchr(target, '?');
    if (h->query)
        *h->query++ = '\0';
    return 0;
}

static int parse_request_line(char *line, sbx_head *h, sbx_err *err)
{
    char *target = strchr(line, ' ');
    char *version = target ? strchr(target + 1, ' ') : NULL;

    if (!version)
        return bad(err, "the request line is malformed");
    *target++ = '\0';
    *version++ = '\0';
    if (!all_tokens(line, strlen(line)))
        return bad(err, "the method is malformed");
    h->method = method_of(line);
    if (strcmp(version, "HTTP/1.1") == 0)
        h->minor = 1;
    else if (strcmp(version, "HTTP/1.0") != 0)
        return bad(err, "this server speaks HTTP/1.1 and HTTP/1.0");
    h->keep_alive = h->minor == 1;
    return parse_target(target, h, err);
}

/* Takes the next element of a comma-separated list, trimmed. @return false at the end. */
static bool next_element(char **list, char **ret)
{
    char *p = *list;

    while (*p == ' ' || *p == '\t' || *p == ',')
        p++;
    if (!*p)
        return false;
    *ret = p;
    p += strcspn(p, ",");
    char *end = p;
    if (*p)
        *p++ = '\0';
    *list = p;
    while (end > *ret && (end[-1] == ' ' || end[-1] == '\t'))
        *--end = '\0';
    return true;
}

static int add_line(sbx_list *list, const char *name, const char *value, sbx_err *err)
{
    if (!*value) /* says as much as a header that is not there */
        return 0;
    if (list->count == SBX_MAX_LIST_LINES)
        return sbx_fail(err, SBX_E_INVALID, "%s is given more than %d times", name,
                        SBX_MAX_LIST_LINES);
    list->lines[list->count++] = value;
    return 0;
}

static int on_accept(sbx_head *h, char *v, sbx_err *err)
{
    return add_line(&h->accept, "accept", v, err);
}

static int on_accept_encoding(sbx_head *h, char *v, sbx_err *err)
{
    return add_line(&h->accept_encoding, "accept-encoding", v, err);
}

static int on_if_none_match(sbx_head *h, char *v, sbx_err *err)
{
    return add_line(&h->if_none_match, "if-none-match", v, err);
}

static int on_connection(sbx_head *h, char *v, sbx_err *err)
{
    char *e;

    (void)err;
    while (next_element(&v, &e)) {
        if (strcasecmp(e, "close") == 0)
            h->keep_alive = false;
        else if (strcasecmp(e, "upgrade") == 0)
            h->upgrade_ws = true; /* until the end shows no Upgrade: websocket */
    }
    return 0;
}

static int on_content_length(sbx_head *h, char *v, sbx_err *err)
{
    size_t digits = strspn(v, "0123456789");

    if (h->has_length)
        return bad(err, "Content-Length is given twice");
    if (!digits || v[digits] || digits > MAX_LENGTH_DIGITS)
        return bad(err, "Content-Length is not a number");
    h->has_length = true;
    for (size_t i = 0; i < digits; i++)
        h->length = h->length * 10 + (uint64_t)(v[i] - '0');
    return 0;
}

static int on_transfer_encoding(sbx_head *h, char *v, sbx_err *err)
{
    if (h->chunked || strcasecmp(v, "chunked") != 0)
        return bad(err, "the only Transfer-Encoding accepted is chunked");
    h->chunked = true;
    return 0;
}

static int on_expect(sbx_head *h, char *v, sbx_err *err)
{
    if (h->expect || strcasecmp(v, "100-continue") != 0)
        return bad(err, "the only Expect accepted is 100-continue");
    h->expect = h->minor == 1;
    return 0;
}

static int on_host(sbx_head *h, char *v, sbx_err *err)
{
    if (h->has_host)
        return bad(err, "Host is given twice");
    for (const char *p = v; *p; p++)
        if (*p == ' ' || *p == '\t' || *p == '/' || *p == '@' || *p == ',')
            return bad(err, "Host is malformed");
    h->has_host = true;
    return 0;
}

static int on_forwarded(sbx_head *h, char *v, sbx_err *err)
{
    (void)v;
    (void)err;
    h->forwarded = true;
    return 0;
}

/* What matters stands at its end, and what a client wrote in front of that must do no harm. */
static int on_forwarded_for(sbx_head *h, char *v, sbx_err *err)
{
    sbx_list *l = &h->forwarded_for;

    if (*v && l->count == SBX_MAX_LIST_LINES) {
        memmove(l->lines, l->lines + 1, (SBX_MAX_LIST_LINES - 1) * sizeof(*l->lines));
        l->count--;
    }
    if (*v)
        l->lines[l->count++] = v;
    return on_forwarded(h, v, err);
}

static int on_ws_version(sbx_head *h, char *v, sbx_err *err)
{
    if (h->ws_version)
        return bad(err, "Sec-WebSocket-Version is given twice");
    h->ws_version = strcmp(v, "13") == 0 ? 13 : -1;
    return 0;
}

static int on_ws_protocol(sbx_head *h, char *v, sbx_err *err)
{
    char *e;

    h->ws_offered = true;
    while (next_element(&v, &e)) {
        if (!all_tokens(e, strlen(e)))
            return bad(err, "Sec-WebSocket-Protocol is malformed");
        if (strcmp(e, "sandboxd.v1") == 0) {
            h->ws_protocol = true;
        } else if (strncmp(e, "bearer.", 7) == 0) {
            if (h->ws_bearer)
                return bad(err, "two keys are given as subprotocols");
            h->ws_bearer = e + 7;
        }
    }
    return 0;
}

/* Of each header that matters: a function, or where its value goes (which may come only once). */
typedef struct header_rule {
    const char *name;
    int (*fn)(sbx_head *h, char *value, sbx_err *err);
    size_t offset;
} header_rule;

static const header_rule rules[] = {
    {"host", on_host, 0},
    {"accept", on_accept, 0},
    {"accept-encoding", on_accept_encoding, 0},
    {"connection", on_connection, 0},
    {"authorization", NULL, offsetof(sbx_head, authorization)},
    {"x-api-key", NULL, offsetof(sbx_head, api_key)},
    {"x-request-id", NULL, offsetof(sbx_head, request_id)},
    {"content-length", on_content_length, 0},
    {"content-type", NULL, offsetof(sbx_head, content_type)},
    {"content-encoding", NULL, offsetof(sbx_head, content_encoding)},
    {"transfer-encoding", on_transfer_encoding, 0},
    {"expect", on_expect, 0},
    {"if-none-match", on_if_none_match, 0},
    {"range", NULL, offsetof(sbx_head, range)},
    {"if-range", NULL, offsetof(sbx_head, if_range)},
    {"if-match", NULL, offsetof(sbx_head, if_match)},
    {"idempotency-key", NULL, offsetof(sbx_head, idempotency_key)},
    {"last-event-id", NULL, offsetof(sbx_head, last_event_id)},
    {"origin", NULL, offsetof(sbx_head, origin)},
    {"access-control-request-method", NULL, offsetof(sbx_head, preflight_method)},
    {"x-forwarded-for", on_forwarded_for, 0},
    {"forwarded", on_forwarded, 0},
    {"x-real-ip", on_forwarded, 0},
    {"sec-websocket-key", NULL, offsetof(sbx_head, ws_key)},
    {"sec-websocket-version", on_ws_version, 0},
    {"sec-websocket-protocol", on_ws_protocol, 0},
};

static int apply_header(sbx_head *h, const char *name, char *value, bool *websocket, sbx_err *err)
{
    if (strcasecmp(name, "upgrade") == 0) {
        *websocket |= strcasecmp(value, "websocket") == 0;
        return 0;
    }
    for (size_t i = 0; i < ARRAY_LEN(rules); i++) {
        if (strcasecmp(name, rules[i].name) != 0)
            continue;
        if (rules[i].fn)
            return rules[i].fn(h, value, err);
        char **slot = (char **)((char *)h + rules[i].offset);
        if (*slot)
            return sbx_fail(err, SBX_E_INVALID, "%s is given twice", rules[i].name);
        *slot = value;
        return 0;
    }
    return 0;
}

static int parse_header(char *line, size_t len, sbx_head *h, bool *websocket, sbx_err *err)
{
    char *colon = memchr(line, ':', len);

    if (!colon || !all_tokens(line, (size_t)(colon - line)))
        return bad(err, "a header is malformed");
    char *value = colon + 1, *end = line + len;
    for (const char *p = value; p < end; p++)
        if (((unsigned char)*p < 0x20 && *p != '\t') || *p == 0x7f)
            return bad(err, "a header has a control character");
    while (value < end && (*value == ' ' || *value == '\t'))
        value++;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    *colon = '\0';
    *end = '\0';
    return apply_header(h, line, value, websocket, err);
}

static int check_whole(sbx_head *h, bool websocket, sbx_err *err)
{
    h->upgrade_ws = h->upgrade_ws && websocket;
    if (h->minor == 1 && !h->has_host)
        return bad(err, "HTTP/1.1 requires a Host header");
    if (h->chunked && h->has_length)
        return bad(err, "Content-Length and Transfer-Encoding are both given");
    if (h->chunked && h->minor == 0)
        return bad(err, "HTTP/1.0 has no Transfer-Encoding");
    if (h->chunked)
        h->keep_alive = false;
    return 0;
}

int sbx_head_parse(char *text, size_t len, sbx_head *ret, sbx_err *err)
{
    char *line = text, *end = text + len;
    bool websocket = false, failed = false;
    size_t count = 0;

    *ret = (sbx_head){0};
    if (memchr(text, '\0', len))
        return bad(err, "the request has a NUL");
    while (line < end && *line != '\r') {
        char *eol = memchr(line, '\r', (size_t)(end - line));
        int rc;

        if (!eol || eol + 1 >= end || eol[1] != '\n')
            return failed ? -1 : bad(err, "a line of the request does not end with CRLF");
        *eol = '\0';
        if (count++ == 0)
            rc = parse_request_line(line, ret, failed ? NULL : err);
        else if (count > SBX_MAX_HEADERS)
            rc = sbx_fail(failed ? NULL : err, SBX_E_HEADERS_TOO_LARGE,
                          "more than %d headers are given", SBX_MAX_HEADERS);
        else
            rc = parse_header(line, (size_t)(eol - line), ret, &websocket, failed ? NULL : err);
        failed |= rc != 0;
        line = eol + 2;
    }
    if (failed)
        return -1;
    if (!ret->path)
        return bad(err, "the request is empty");
    return check_whole(ret, websocket, err);
}
