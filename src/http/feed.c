/* Numbered streams: see feed.h. */
#include "sbx/http/feed.h"

#include "sbx/core/json.h"
#include <stdio.h>

/* --- what a client asked for --- */

static int read_digits(const char *field, const char *value, int64_t max, int64_t *ret,
                       sbx_err *err)
{
    if (value[0] != '-' && sbx_parse_i64(value, 0, max, ret))
        return 0;
    return sbx_fail_field(err, field, "%s must be a whole number from 0 to %lld", field,
                          (long long)max);
}

int sbx_feed_number(const sbx_request *r, const char *field, int64_t max, int64_t *ret,
                    sbx_err *err)
{
    const char *value = sbx_request_query(r, field);

    return value ? read_digits(field, value, max, ret, err) : 0;
}

static int read_start(const sbx_request *r, sbx_feed_query *q, sbx_err *err)
{
    const char *since = sbx_request_query(r, "since"), *cursor = sbx_request_query(r, "cursor");
    const char *event = r->accept == SBX_ACCEPT_SSE ? r->last_event_id : NULL;
    const char *field = event && *event ? "Last-Event-ID" : cursor ? "cursor" : "since";
    const char *value = event && *event ? event : cursor ? cursor : since;
    int64_t n = 0;

    q->has_since = value != NULL;
    if (value && read_digits(field, value, INT64_MAX, &n, err))
        return -1;
    q->since = (uint64_t)n;
    return 0;
}

int sbx_feed_query_read(const sbx_request *r, int max_tail, sbx_feed_query *ret, sbx_err *err)
{
    sbx_feed_query q = {0};
    int64_t tail = -1, limit = -1;

    if (read_start(r, &q, err) || sbx_feed_number(r, "tail", max_tail, &tail, err) ||
        sbx_feed_number(r, "limit", SBX_MAX_LIST_ITEMS, &limit, err))
        return -1;
    if (limit == 0)
        return sbx_fail_field(err, "limit", "limit must be from 1 to %d", SBX_MAX_LIST_ITEMS);
    q.tail = (int)tail;
    q.limit = limit < 0 ? 0 : (int)limit;
    *ret = q;
    return 0;
}

int sbx_feed_page(sbx_buf *out, const sbx_buf *items, bool more, uint64_t last, sbx_err *err)
{
    sbx_jw w = SBX_JW(out);
    char cursor[24];

    snprintf(cursor, sizeof cursor, "%llu", (unsigned long long)last);
    sbx_buf_adds(out, "{\"items\":[");
    sbx_buf_add(out, items->data, items->len);
    sbx_buf_adds(out, "],\"nextCursor\":");
    sbx_jw_str(&w, NULL, more ? cursor : NULL);
    sbx_buf_addc(out, '}');
    if (sbx_buf_failed(out))
        return sbx_fail(err, SBX_E_TOO_LARGE, "the page does not fit into an answer");
    return 0;
}

/* --- what it is sent --- */

bool sbx_feed_push(sbx_feed *f, const char *data, size_t len)
{
    switch (sbx_reply_write(f->reply, data, len)) {
    case SBX_PUSH_OK:
        return true;
    case SBX_PUSH_FULL:
        f->blocked = true;
        return false;
    case SBX_PUSH_GONE:
        break;
    }
    f->gone = true; /* that the reply is over is on its way */
    return false;
}

bool sbx_feed_gap(sbx_feed *f, uint64_t from, uint64_t to)
{
    char text[160];
    int n;

    if (f->websocket)
        n = snprintf(text, sizeof text, "{\"type\":\"gap\",\"from\":%llu,\"to\":%llu}",
                     (unsigned long long)from, (unsigned long long)to);
    else /* the id, so that a reconnect is not told again */
        n = snprintf(text, sizeof text,
                     "id: %llu\nevent: gap\ndata: {\"from\":%llu,\"to\":%llu}\n\n",
                     (unsigned long long)to, (unsigned long long)from, (unsigned long long)to);
    return sbx_feed_push(f, text, (size_t)n);
}

bool sbx_feed_delayed(sbx_feed *f)
{
    static const char ws[] = "{\"type\":\"delayed\"}", sse[] = "event: delayed\ndata: {}\n\n";

    return sbx_feed_push(f, f->websocket ? ws : sse, f->websocket ? sizeof ws - 1 : sizeof sse - 1);
}

bool sbx_feed_end(sbx_feed *f)
{
    static const char ws[] = "{\"type\":\"end\"}", sse[] = "event: end\ndata: {}\n\n";

    if (!sbx_feed_push(f, f->websocket ? ws : sse, f->websocket ? sizeof ws - 1 : sizeof sse - 1))
        return false;
    sbx_reply_end(f->reply);
    f->gone = true;
    return true;
}

void sbx_feed_add(sbx_buf *message, bool websocket, const char *opening, uint64_t seq,
                  const char *item, size_t len)
{
    if (websocket)
        sbx_buf_adds(message, message->len ? "," : opening);
    else
        sbx_buf_addf(message, "id: %llu\ndata: ", (unsigned long long)seq);
    sbx_buf_add(message, item, len);
    if (!websocket)
        sbx_buf_adds(message, "\n\n");
}

void sbx_feed_close(sbx_buf *message, bool websocket)
{
    if (websocket && message->len)
        sbx_buf_adds(message, "]}");
}

/* --- messages that wait --- */

void sbx_feed_queue_init(sbx_feed_queue *q, sbx_reply *reply, size_t max)
{
    *q = (sbx_feed_queue){.reply = reply};
    sbx_buf_init(&q->waiting, max);
}

void sbx_feed_queue_done(sbx_feed_queue *q)
{
    sbx_buf_done(&q->waiting);
}

void sbx_feed_queue_add(sbx_feed_queue *q, const char *message, size_t len)
{
    uint32_t n = (uint32_t)len;

    sbx_buf_add(&q->waiting, &n, sizeof(n));
    sbx_buf_add(&q->waiting, message, len);
}

bool sbx_feed_queue_push(sbx_feed_queue *q)
{
    while (q->sent < q->waiting.len) {
        const char *at = q->waiting.data + q->sent;
        uint32_t len;

        memcpy(&len, at, sizeof(len));
        if (sbx_reply_write(q->reply, at + sizeof(len), len) == SBX_PUSH_FULL)
            return false;
        q->sent += sizeof(len) + len;
    }
    sbx_buf_done(&q->waiting);
    q->sent = 0;
    return true;
}
