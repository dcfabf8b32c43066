/* The parser library is lenient (raw control characters, "01", a NUL escape that cuts a string),
 * so a document is checked against the grammar first. No allocation; recursion bounded by depth. */
#include "json_scan.h"

#include "sbx/core/json.h"
#include "sbx/core/limits.h"

typedef struct scan {
    const unsigned char *at, *end, *start;
    int depth;
    bool with_nul; /* \u0000 may stand in a string */
    const char *why;
} scan;

static bool value(scan *s);

static bool bad(scan *s, const char *why)
{
    if (!s->why)
        s->why = why;
    return false;
}

static void blanks(scan *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\t' || *s->at == '\n' || *s->at == '\r'))
        s->at++;
}

static bool take(scan *s, char c)
{
    if (s->at == s->end || *s->at != (unsigned char)c)
        return false;
    s->at++;
    return true;
}

static bool literal(scan *s, const char *word)
{
    size_t n = strlen(word);

    if ((size_t)(s->end - s->at) < n || memcmp(s->at, word, n) != 0)
        return bad(s, "unknown word");
    s->at += n;
    return true;
}

static int hex4(scan *s)
{
    int v = 0;

    if (s->end - s->at < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        int d = sbx_hex_digit((char)*s->at++);

        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    return v;
}

static bool unicode_escape(scan *s)
{
    int v = hex4(s);

    if (v < 0)
        return bad(s, "bad \\u escape");
    if (v == 0 && !s->with_nul)
        return bad(s, "\\u0000 is not allowed");
    if (v >= 0xDC00 && v <= 0xDFFF)
        return bad(s, "unpaired surrogate");
    if (v >= 0xD800 && v <= 0xDBFF) {
        if (!take(s, '\\') || !take(s, 'u'))
            return bad(s, "unpaired surrogate");
        v = hex4(s);
        if (v < 0xDC00 || v > 0xDFFF)
            return bad(s, "unpaired surrogate");
    }
    return true;
}

static bool string(scan *s)
{
    if (!take(s, '"'))
        return bad(s, "expected a string");
    while (s->at < s->end) {
        unsigned char c = *s->at++;

        if (c == '"')
            return true;
        if (c < 0x20)
            return bad(s, "control character in a string");
        if (c != '\\')
            continue;
        if (s->at == s->end)
            break;
        c = *s->at++;
        if (c == 'u') {
            if (!unicode_escape(s))
                return false;
        } else if (!strchr("\"\\/bfnrt", c) || !c) {
            return bad(s, "unknown escape");
        }
    }
    return bad(s, "string does not end");
}

static bool digits(scan *s)
{
    const unsigned char *from = s->at;

    while (s->at < s->end && *s->at >= '0' && *s->at <= '9')
        s->at++;
    return s->at > from;
}

static bool number(scan *s)
{
    const unsigned char *from = s->at;

    take(s, '-');
    if (!take(s, '0') && !digits(s))
        return bad(s, "bad number");
    if (take(s, '.') && !digits(s))
        return bad(s, "bad number");
    if (take(s, 'e') || take(s, 'E')) {
        if (!take(s, '-'))
            take(s, '+');
        if (!digits(s))
            return bad(s, "bad number");
    }
    /* the library copies numbers into a fixed buffer and would stop reading there */
    return s->at - from <= 40 || bad(s, "number is too long");
}

static bool array(scan *s)
{
    s->at++;
    blanks(s);
    if (take(s, ']'))
        return true;
    do
        if (!value(s))
            return false;
    while (take(s, ','));
    return take(s, ']') || bad(s, "expected , or ]");
}

static bool object(scan *s)
{
    s->at++;
    blanks(s);
    if (take(s, '}'))
        return true;
    do {
        blanks(s);
        if (!string(s))
            return false;
        blanks(s);
        if (!take(s, ':'))
            return bad(s, "expected :");
        if (!value(s))
            return false;
    } while (take(s, ','));
    return take(s, '}') || bad(s, "expected , or }");
}

static bool value(scan *s)
{
    bool ok;

    blanks(s);
    if (s->at == s->end)
        return bad(s, "document ends too early");
    if (s->depth == SBX_MAX_JSON_DEPTH)
        return bad(s, "nested too deeply");
    s->depth++;
    switch (*s->at) {
    case '{':
        ok = object(s);
        break;
    case '[':
        ok = array(s);
        break;
    case '"':
        ok = string(s);
        break;
    case 't':
        ok = literal(s, "true");
        break;
    case 'f':
        ok = literal(s, "false");
        break;
    case 'n':
        ok = literal(s, "null");
        break;
    default:
        ok = number(s);
    }
    s->depth--;
    if (ok)
        blanks(s);
    return ok;
}

static int whole(const char *text, size_t len, bool with_nul, sbx_err *err)
{
    const unsigned char *p = (const unsigned char *)text;
    scan s = {.at = p, .end = p + len, .start = p, .with_nul = with_nul};

    if (!sbx_utf8_valid(text, len))
        return sbx_fail(err, SBX_E_INVALID, "the body is not valid UTF-8");
    if (!len)
        return sbx_fail(err, SBX_E_INVALID, "a JSON body is required");
    if (value(&s) && s.at < s.end)
        bad(&s, "text after the document");
    if (s.why)
        return sbx_fail(err, SBX_E_INVALID, "malformed JSON at byte %zu: %s", (size_t)(s.at - p),
                        s.why);
    return 0;
}

int sbx_json_scan(const char *text, size_t len, sbx_err *err)
{
    return whole(text, len, false, err);
}

/* --- reading in place: what follows walks text that was found correct --- */

static scan over(sbx_json_span v)
{
    const unsigned char *p = (const unsigned char *)v.at;

    return (scan){.at = p, .end = p + v.len, .start = p, .with_nul = true};
}

/* The value at the scan's place, which moves behind it. */
static sbx_json_span take_value(scan *s)
{
    blanks(s);
    const unsigned char *from = s->at;

    if (!value(s))
        return (sbx_json_span){0};
    const unsigned char *to = s->at;
    while (to > from && (to[-1] == ' ' || to[-1] == '\t' || to[-1] == '\n' || to[-1] == '\r'))
        to--;
    return (sbx_json_span){(const char *)from, (size_t)(to - from)};
}

int sbx_json_span_of(const char *text, size_t len, sbx_json_span *ret, sbx_err *err)
{
    if (whole(text, len, true, err))
        return -1;
    scan s = over((sbx_json_span){text, len});

    *ret = take_value(&s);
    return 0;
}

bool sbx_json_span_get(sbx_json_span obj, const char *name, sbx_json_span *ret)
{
    scan s = over(obj);
    size_t n = strlen(name);

    if (!obj.len || !take(&s, '{'))
        return false;
    do {
        sbx_json_span key = take_value(&s);

        if (!take(&s, ':'))
            return false;
        sbx_json_span v = take_value(&s);
        if (key.len == n + 2 && memcmp(key.at + 1, name, n) == 0) {
            *ret = v;
            return true;
        }
    } while (take(&s, ','));
    return false;
}

bool sbx_json_span_next(sbx_json_span arr, sbx_json_span *item)
{
    scan s = over(arr);

    if (!arr.len || !take(&s, '['))
        return false;
    if (item->at) {
        s.at = (const unsigned char *)item->at + item->len;
        blanks(&s);
        if (!take(&s, ','))
            return false;
    }
    blanks(&s);
    if (s.at == s.end || *s.at == ']')
        return false;
    *item = take_value(&s);
    return item->len > 0;
}

static void add_character(sbx_buf *out, unsigned c)
{
    char utf8[4];
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;

    if (n == 1) {
        sbx_buf_addc(out, (char)c);
        return;
    }
    for (size_t i = n; i-- > 1; c >>= 6)
        utf8[i] = (char)(0x80 | (c & 0x3f));
    utf8[0] = (char)((0xf00u >> n & 0xf0) | c);
    sbx_buf_add(out, utf8, n);
}

/* Behind the backslash. */
static void add_escape(scan *s, sbx_buf *out)
{
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    char c = (char)*s->at++;
    const char *named = strchr(from, c);

    if (c != 'u') {
        sbx_buf_addc(out, named ? to[named - from] : c);
        return;
    }
    unsigned v = (unsigned)hex4(s);

    if (v >= 0xD800 && v <= 0xDBFF) {
        s->at += 2;
        v = 0x10000 + ((v - 0xD800) << 10) + ((unsigned)hex4(s) - 0xDC00);
    }
    add_character(out, v);
}

bool sbx_json_span_bytes(sbx_json_span str, sbx_buf *out)
{
    scan s = over(str);

    if (!str.len || !take(&s, '"'))
        return false;
    while (s.at < s.end && *s.at != '"') {
        const unsigned char *from = s.at;

        while (s.at < s.end && *s.at != '"' && *s.at != '\\')
            s.at++;
        sbx_buf_add(out, from, (size_t)(s.at - from));
        if (take(&s, '\\'))
            add_escape(&s, out);
    }
    return true;
}
