/* What the command line reads of a server: event streams and JSON in place, and text of others.
 *
 * Events must be the same at once and byte by byte; values lie within their document, and what was
 * walked item by item is the whole; no escaped text holds a control character. */
#include "cli/sse.h"
#include "cli/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void look_into(sbx_json_span v, int depth)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf bytes = SBX_BUF_INIT(8 * MIB);
    sbx_json_span item = {0}, member;

    if (depth > 40)
        abort();
    if (sbx_json_span_bytes(v, &bytes) && bytes.len > v.len)
        abort();
    for (const char *end = v.at; sbx_json_span_next(v, &item); end = item.at + item.len) {
        if (item.at < end || item.at + item.len > v.at + v.len || !item.len)
            abort();
        look_into(item, depth + 1);
    }
    if (sbx_json_span_get(v, "data", &member)) {
        if (member.at < v.at || member.at + member.len > v.at + v.len || !member.len)
            abort();
        look_into(member, depth + 1);
    }
}

static bool hear(void *arg, const cli_event *e)
{
    sbx_buf *heard = arg;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf shown = SBX_BUF_INIT(64 * MIB);
    sbx_json_span v;
    sbx_err err;

    sbx_buf_addf(heard, "%s|%s|%zu|", e->type, e->id, e->len);
    sbx_buf_add(heard, e->data, e->len);
    if (sbx_json_span_of(e->data, e->len, &v, &err) == 0)
        look_into(v, 0);
    cli_escape(&shown, e->data, e->len);
    for (size_t i = 0; i < shown.len; i++)
        if ((unsigned char)shown.data[i] < 0x20 || shown.data[i] == 0x7f)
            abort();
    if (shown.len && !sbx_utf8_valid(shown.data, shown.len))
        abort();
    return true;
}

static void feed(const uint8_t *data, size_t size, size_t piece, sbx_buf *heard)
{
    cli_sse s;

    cli_sse_init(&s, hear, heard);
    for (size_t at = 0; at < size; at += piece)
        if (!cli_sse_feed(&s, (const char *)data + at, SBX_MIN(piece, size - at)))
            break;
    cli_sse_done(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf whole = SBX_BUF_INIT(64 * MIB);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf bytes = SBX_BUF_INIT(64 * MIB);

    feed(data, size, size ? size : 1, &whole);
    feed(data, size, 1, &bytes);
    if (whole.len != bytes.len || (whole.len && memcmp(whole.data, bytes.data, whole.len) != 0))
        abort();
    return 0;
}
