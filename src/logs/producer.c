/* From the agent channel to the bus: entries become JSON once, wait for at most SBX_LOG_BATCH_MS
 * and go out as one message.
 *
 * The first entry after a pause goes out at once; what follows within SBX_LOG_BATCH_MS is
 * collected. A batch that reaches SBX_LOG_BATCH_BYTES does not wait, unless the log is ahead of its
 * pace. A flood thus costs the bus and everybody else no more than SBX_LOG_PACE_BYTES a second: the
 * agent sends nothing beyond what is not acknowledged, and drops its oldest lines, which is the gap
 * that viewers are told. PENDING_BYTES is out of reach for an agent that keeps to its limit; one
 * that does not is published at once, so memory has that bound whatever comes. */
#include "hub.h"
#include "sbx/core/clock.h"
#include <stdio.h>

static void flush_timer_fired(void *arg)
{
    room *r = arg;

    r->flush_timer = NULL;
    producer_flush(r);
}

static bool in_pace(const room *r)
{
    return r->paid_us <= sbx_now_us();
}

static void pay(room *r)
{
    const int64_t second = 1000000, now = sbx_now_us();
    int64_t from = SBX_MAX(r->paid_us, now - second);

    /* A debt of a second at most, whatever an agent did: later lines must not wait for long. */
    r->paid_us =
        SBX_MIN(from + (int64_t)r->pending.len * second / SBX_LOG_PACE_BYTES, now + second);
}

void producer_flush_in_pace(room *r)
{
    if (in_pace(r))
        producer_flush(r);
}

void producer_flush(room *r)
{
    const sbx_logs *l = r->hub;
    const sbx_bus_place place = {.after = r->published, .line = r->line};
    sbx_bus_item *items;
    char topic[TOPIC_BYTES];

    sbx_timer_free(sbx_steal(r->flush_timer));
    if (r->pending_count == 0)
        return;
    items = sbx_alloc(r->pending_count * sizeof *items);
    for (size_t i = 0; i < r->pending_count; i++)
        items[i] = (sbx_bus_item){.seq = r->pending_items[i].seq,
                                  .data = r->pending.data + r->pending_items[i].off,
                                  .len = r->pending_items[i].len};
    log_topic(topic, r->id);
    if (!l->cfg.bus->ops->publish_at(l->cfg.bus, topic, items, r->pending_count, &place))
        count_up(&r->hub->n_dropped, r->pending_count);
    if (l->down && r->viewers) /* otherwise they come back from the bus */
        room_feed(r, items, r->pending_count);
    free(items);

    pay(r);
    r->published = r->appended;
    r->flushed_ms = sbx_now_ms();
    r->pending_count = 0;
    sbx_buf_reset(&r->pending);
    if (r->pending.cap > 16 * KIB) { /* thousands of sandboxes are quiet at any time */
        sbx_buf_done(&r->pending);
        free(sbx_steal(r->pending_items));
        r->pending_cap = 0;
    }
    if (l->cfg.acked)
        l->cfg.acked(l->cfg.arg, r->id, r->published);
}

static void take(room *r, const sbx_log_entry *e)
{
    size_t off = r->pending.len;

    log_entry_json(&r->pending, e);
    if (r->pending_count == r->pending_cap) {
        r->pending_cap = r->pending_cap ? r->pending_cap * 2 : 16;
        r->pending_items = sbx_realloc(r->pending_items, r->pending_cap * sizeof(seg_item));
    }
    r->pending_items[r->pending_count++] =
        (seg_item){.seq = e->seq, .off = off, .len = (uint32_t)(r->pending.len - off)};
    r->appended = e->seq;
    if (r->pending.len >= PENDING_BYTES || (r->pending.len >= SBX_LOG_BATCH_BYTES && in_pace(r)))
        producer_flush(r);
}

void sbx_logs_append(sbx_logs *l, const char *sandbox_id, const sbx_log_entry *entries,
                     size_t count)
{
    SBX_ASSERT_THREAD(SBX_T_STREAM);
    room *r = room_make(l, sandbox_id);
    size_t taken = 0;
    int64_t wait;

    if (!r || r->closed) /* a closed room frees itself */
        return;
    r->owned = true;
    for (size_t i = 0; i < count; i++) {
        const sbx_log_entry *e = &entries[i];

        if (e->seq <= r->appended || e->seq > INT64_MAX || e->len > SBX_LOG_LINE_BYTES)
            continue;
        take(r, e);
        taken++;
    }
    count_up(&l->n_lines, taken);
    sbx_metrics_add(l->cfg.metrics, SBX_M_LOG_LINES, NULL, taken);
    if (r->pending_count == 0) {
        /* All sent before, and published: the agent waits to hear that again. */
        if (taken == 0 && r->published && l->cfg.acked)
            l->cfg.acked(l->cfg.arg, r->id, r->published);
        return;
    }
    wait = SBX_MAX(r->flushed_ms + SBX_LOG_BATCH_MS, r->paid_us / 1000 + 1) - sbx_now_ms();
    if (wait <= 0)
        producer_flush(r);
    else if (!r->flush_timer)
        r->flush_timer = sbx_timer_new(l->cfg.stream, wait, flush_timer_fired, r);
}

void sbx_logs_release(sbx_logs *l, const char *sandbox_id)
{
    SBX_ASSERT_THREAD(SBX_T_STREAM);
    room *r = room_find(l, sandbox_id);

    if (!r || r->closed)
        return;
    producer_flush(r);
    r->owned = false;
    r->appended = r->published = 0;
    room_free_if_unused(r);
}

void producer_done(room *r)
{
    sbx_timer_free(sbx_steal(r->flush_timer));
    sbx_timer_free(sbx_steal(r->linger_timer));
    sbx_buf_done(&r->pending);
    free(r->pending_items);
}

/* --- what has to be published again --- */

/* Back to the place behind `last`: what waits here is with the agent still. */
static void go_back(room *r, uint64_t last)
{
    sbx_timer_free(sbx_steal(r->flush_timer));
    r->pending_count = 0;
    sbx_buf_reset(&r->pending);
    r->appended = r->published = last;
    r->line++;
}

static void publish_again(room *r, uint64_t last)
{
    const sbx_logs *l = r->hub;

    go_back(r, last);
    if (l->cfg.again)
        l->cfg.again(l->cfg.arg, r->id, last + 1);
}

static void all_lost(sbx_logs *l)
{
    room *r, *next;

    HASH_ITER (hh, l->rooms, r, next) {
        if (r->owned && !r->closed)
            go_back(r, 0);
    }
    if (l->cfg.again)
        l->cfg.again(l->cfg.arg, NULL, 1);
}

typedef struct bus_news {
    sbx_logs *hub;
    char id[SBX_ID_LEN + 1]; /* "": of all */
    uint64_t last;
    uint32_t line;
    bool reached;
} bus_news;

static void take_lost(void *arg)
{
    bus_news *n = arg;
    room *r = *n->id ? room_find(n->hub, n->id) : NULL;

    if (!*n->id)
        all_lost(n->hub);
    else if (r && r->owned && !r->closed && r->line == n->line)
        publish_again(r, n->last);
    free(n);
}

void producer_on_lost(void *arg, const char *topic, uint64_t last, uint32_t line)
{
    bus_news *n = sbx_alloc(sizeof *n);

    *n = (bus_news){.hub = arg, .last = last, .line = line};
    if (topic)
        (void)sbx_copy(n->id, sizeof n->id, topic + sizeof TOPIC_PREFIX - 1);
    sbx_stream_post(n->hub->cfg.stream, take_lost, n);
}

/* Between the last entry that came over the bus and now, some were published in vain. */
static void bus_is_down(sbx_logs *l)
{
    room *r, *next;

    l->outages++;
    HASH_ITER (hh, l->rooms, r, next) {
        if (!r->viewers)
            continue;
        if (r->owned && !r->closed)
            publish_again(r, r->latest);
        room_schedule(r, 0);
    }
}

static void take_reached(void *arg)
{
    bus_news *n = arg;
    sbx_logs *l = n->hub;

    l->down = !n->reached;
    if (l->down)
        bus_is_down(l);
    free(n);
}

void producer_on_reached(void *arg, bool reached)
{
    bus_news *n = sbx_alloc(sizeof *n);

    *n = (bus_news){.hub = arg, .reached = reached};
    sbx_stream_post(n->hub->cfg.stream, take_reached, n);
}

/* --- the end --- */

static void linger_over(void *arg)
{
    room *r = arg;
    char topic[TOPIC_BYTES];

    r->linger_timer = NULL;
    log_topic(topic, r->id);
    r->hub->cfg.bus->ops->forget(r->hub->cfg.bus, topic);
    r->owned = false;
    room_free_if_unused(r);
}

typedef struct closing {
    sbx_logs *hub;
    char id[SBX_ID_LEN + 1];
} closing;

static void close_room(void *arg)
{
    closing *c = arg;
    sbx_logs *l = c->hub;
    room *r = room_make(l, c->id);
    char topic[TOPIC_BYTES], text[64];

    free(c);
    if (!r || r->closed)
        return;
    producer_flush(r);
    r->owned = r->closed = true;
    log_topic(topic, r->id);
    int n = snprintf(text, sizeof text, "{\"type\":\"end\",\"last\":%llu}",
                     (unsigned long long)SBX_MAX(r->appended, r->latest));
    sbx_bus_item item = {.seq = 0, .data = text, .len = (size_t)n};

    /* Viewers here and elsewhere hear it in order, behind the last entries. */
    (void)l->cfg.bus->ops->publish(l->cfg.bus, topic, &item, 1);
    if (r->viewers) {
        room_end(r, r->appended);
        room_schedule(r, 0);
    }
    r->linger_timer = sbx_timer_new(l->cfg.stream, l->cfg.linger_ms, linger_over, r);
}

void sbx_logs_close(sbx_logs *l, const char *sandbox_id)
{
    closing *c = sbx_alloc(sizeof *c);

    c->hub = l;
    (void)sbx_copy(c->id, sizeof c->id, sandbox_id);
    sbx_stream_post(l->cfg.stream, close_room, c);
}

void sbx_logs_state(sbx_logs *l, const char *sandbox_id, const char *sandbox_json)
{
    sbx_buf b = SBX_BUF_INIT(LOG_ITEM_BYTES);
    char topic[TOPIC_BYTES];

    log_topic(topic, sandbox_id);
    sbx_buf_addf(&b, "{\"type\":\"state\",\"sandbox\":%s}", sandbox_json);
    sbx_bus_item item = {.seq = 0, .data = b.data, .len = b.len};

    if (!sbx_buf_failed(&b) && log_item_ok(b.data, b.len))
        (void)l->cfg.bus->ops->publish(l->cfg.bus, topic, &item, 1);
    sbx_buf_done(&b);
}
