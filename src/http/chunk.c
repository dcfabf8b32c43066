/* The chunk decoder: a state machine over bytes, with the content copied in runs.
 *
 *     chunked-body = *( size CRLF content CRLF ) "0" CRLF *( trailer CRLF ) CRLF
 *     size         = 1*8HEXDIG, no leading zero
 *
 * Stricter than the RFC where leniency helps only smugglers: extensions, leading zeros and bare
 * line feeds are refused. Trailers are read within a bound and dropped. */
#include "sbx/http/chunk.h"

enum { SIZE, SIZE_LF, DATA, DATA_CR, DATA_LF, TRAILER, TRAILER_LF, DONE };

void sbx_chunk_init(sbx_chunk *c)
{
    *c = (sbx_chunk){.state = SIZE, .line_empty = true};
}

static int bad(sbx_err *err, const char *what)
{
    return sbx_fail(err, SBX_E_INVALID, "the chunked body is malformed: %s", what);
}

static int size_byte(sbx_chunk *c, char ch, sbx_err *err)
{
    int v = sbx_hex_digit(ch);

    if (v >= 0) {
        if (c->digits == SBX_MAX_CHUNK_DIGITS)
            return sbx_fail(err, SBX_E_TOO_LARGE, "a chunk of the body is too large");
        if (c->digits == 1 && c->left == 0)
            return bad(err, "leading zero in a size");
        c->left = c->left << 4 | (uint32_t)v;
        c->digits++;
        return 0;
    }
    if (ch == '\r' && c->digits) {
        c->state = SIZE_LF;
        return 0;
    }
    return bad(err, ch == ';' ? "extensions are not accepted" : "bad size");
}

static int trailer_byte(sbx_chunk *c, char ch, sbx_err *err)
{
    if (++c->trailers > SBX_MAX_TRAILER_BYTES)
        return sbx_fail(err, SBX_E_TOO_LARGE, "the trailers of the body are too large");
    if (ch == '\r') {
        c->state = TRAILER_LF;
        return 0;
    }
    if ((unsigned char)ch < 0x20 && ch != '\t')
        return bad(err, "control character in a trailer");
    c->line_empty = false;
    return 0;
}

static int line_feed(sbx_chunk *c, char ch, sbx_err *err)
{
    if (ch != '\n')
        return bad(err, "carriage return without line feed");
    switch (c->state) {
    case SIZE_LF:
        c->state = c->left ? DATA : TRAILER;
        break;
    case DATA_LF:
        c->state = SIZE;
        c->digits = 0;
        break;
    default:
        c->state = c->line_empty ? DONE : TRAILER;
        c->line_empty = true;
        break;
    }
    return 0;
}

/* Copies what is there of the current chunk. @return bytes taken. */
static size_t content(sbx_chunk *c, const char *data, size_t len, sbx_buf *out)
{
    size_t n = SBX_MIN(len, (size_t)c->left);

    sbx_buf_add(out, data, n);
    c->left -= (uint32_t)n;
    if (!c->left)
        c->state = DATA_CR;
    return n;
}

static int one_byte(sbx_chunk *c, char ch, sbx_err *err)
{
    switch (c->state) {
    case SIZE:
        return size_byte(c, ch, err);
    case DATA_CR:
        if (ch != '\r')
            return bad(err, "a chunk is longer than its size");
        c->state = DATA_LF;
        return 0;
    case TRAILER:
        return trailer_byte(c, ch, err);
    default:
        return line_feed(c, ch, err);
    }
}

int sbx_chunk_feed(sbx_chunk *c, const char *data, size_t len, size_t *used, sbx_buf *out,
                   bool *done, sbx_err *err)
{
    size_t at = 0;

    while (at < len && c->state != DONE) {
        if (c->state == DATA) {
            at += content(c, data + at, len - at, out);
            continue;
        }
        if (one_byte(c, data[at++], err))
            return -1;
        if (c->state == DATA && (c->left > out->max || out->len > out->max - c->left))
            return sbx_fail(err, SBX_E_TOO_LARGE, "the body is larger than %zu bytes", out->max);
    }
    *used = at;
    *done = c->state == DONE;
    return 0;
}
