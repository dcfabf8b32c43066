/* One client that watches: a position, and what it is sent.
 *
 * viewer_serve() is the only sender. It walks from the position over the segments of the room until
 * there is nothing more, the outbox is full, or this tick's frame of entries is out. A hole in a
 * segment is a gap for good, since segments are complete; a position that no segment covers waits
 * for the history. */
#include "hub.h"
#include "sbx/core/clock.h"

/* --- leaving --- */

static void show_count(sbx_logs *l)
{
    atomic_store(&l->n_viewers, l->viewer_count);
    sbx_metrics_set(l->cfg.metrics, SBX_M_LOG_VIEWERS, NULL, (double)l->viewer_count);
}

void viewer_free(viewer *v)
{
    room *r = v->room;

    DL_DELETE(r->viewers, v);
    r->viewer_count--;
    v->hub->viewer_count--;
    show_count(v->hub);
    sbx_reply_unref(v->feed.reply);
    if (!r->viewers) {
        char topic[TOPIC_BYTES];

        log_topic(topic, r->id);
        v->hub->cfg.bus->ops->unsubscribe(v->hub->cfg.bus, topic);
        seg_done(&r->window);
        seg_done(&r->page);
        free(sbx_steal(r->state));
        sbx_timer_free(sbx_steal(r->tick_timer));
        r->latest = 0;
        r->sent_ms = r->read_ms = 0; /* the paces are those of an audience */
        r->ending = false;
    }
    free(v);
}

static void reply_closed(void *arg)
{
    viewer *v = arg;
    room *r = v->room;

    viewer_free(v);
    room_free_if_unused(r);
}

static void reply_ready(void *arg)
{
    viewer *v = arg;

    v->feed.blocked = false;
    room_schedule(v->room, 0);
}

static void on_closed(void *arg)
{
    sbx_stream_post(((viewer *)arg)->hub->cfg.stream, reply_closed, arg);
}

static void on_ready(void *arg)
{
    sbx_stream_post(((viewer *)arg)->hub->cfg.stream, reply_ready, arg);
}

/* --- sending --- */

static bool push_gap(viewer *v, uint64_t from, uint64_t to)
{
    if (!sbx_feed_gap(&v->feed, from, to))
        return false;
    count_up(&v->hub->n_gaps, 1);
    return true;
}

static bool push_state(viewer *v)
{
    static const char head[] = "{\"type\":\"state\",\"sandbox\":";
    const room *r = v->room;
    bool ok;

    if (v->feed.websocket) {
        ok = sbx_feed_push(&v->feed, r->state, r->state_len);
    } else {
        sbx_buf b = SBX_BUF_INIT(2 * LOG_ITEM_BYTES);

        sbx_buf_adds(&b, "event: state\ndata: ");
        sbx_buf_add(&b, r->state + sizeof head - 1, r->state_len - sizeof head);
        sbx_buf_adds(&b, "\n\n");
        ok = sbx_feed_push(&v->feed, b.data, b.len);
        sbx_buf_done(&b);
    }
    if (ok)
        v->state = r->state_version;
    return ok;
}

/* The bus is away, and what is new is not to be had from this worker itself. Told once. */
static bool is_delayed(const viewer *v)
{
    const sbx_logs *l = v->hub;

    return l->down && v->outage != l->outages && (v->starting || !v->room->owned);
}

static bool push_delayed(viewer *v)
{
    if (!sbx_feed_delayed(&v->feed))
        return false;
    v->outage = v->hub->outages;
    return true;
}

/* --- frames of entries --- */

/* The frame for this position, from the segment's item behind it on: up to the next hole or
 * FRAME_BYTES. Built once in a tick for all viewers of the same kind. */
static const frame *frame_get(const viewer *v, const segment *s, const seg_item *it)
{
    sbx_logs *l = v->hub;
    frame *f = &l->frames[v->feed.websocket][v->source];
    uint64_t pos = v->pos;

    if (f->serial == v->room->serial && f->tick == v->room->tick && f->pos == pos)
        return f;
    f->serial = v->room->serial;
    f->tick = v->room->tick;
    f->pos = pos;
    f->entries = 0;
    sbx_buf_reset(&f->text);
    for (; it < s->items + s->count && it->seq == pos + 1; it++) {
        bool wanted = v->source == SBX_LOGS_ALL || it->source == v->source;

        if (wanted && f->entries > 0 && f->text.len + it->len > FRAME_BYTES)
            break;
        if (wanted) {
            sbx_feed_add(&f->text, v->feed.websocket, "{\"type\":\"logs\",\"entries\":[", it->seq,
                         s->text + it->off, it->len);
            f->entries++;
        }
        pos = it->seq;
    }
    sbx_feed_close(&f->text, v->feed.websocket);
    f->to = pos;
    count_up(&l->n_built, f->entries > 0);
    return f;
}

static const segment *segment_for(const room *r, uint64_t pos)
{
    if (seg_covers(&r->window, pos))
        return &r->window;
    return seg_covers(&r->page, pos) ? &r->page : NULL;
}

/* Over a hole that ends before `next`. False if the viewer cannot take more now. */
static bool cross_hole(viewer *v, const segment *s, uint64_t next)
{
    const room *r = v->room;
    uint64_t to = next - 1;

    /* What the history has given up already may still be in the window. */
    if (s == &r->page && r->window.valid && r->window.from > v->pos && r->window.from < to)
        to = r->window.from;
    if (v->anchored && !push_gap(v, v->pos + 1, to))
        return false;
    v->pos = to;
    return true;
}

/* One step onwards from the position. False if there is none now. */
static bool step(viewer *v)
{
    room *r = v->room;
    const segment *s = segment_for(r, v->pos);
    const seg_item *it;
    const frame *f;

    if (!s)
        return false;
    it = seg_after(s, v->pos);
    if (!it || it->seq > v->pos + 1)
        return cross_hole(v, s, it ? it->seq : s->upto + 1);
    f = frame_get(v, s, it);
    if (f->entries > 0) {
        if (v->tick == r->tick) {
            r->again = true;
            return false;
        }
        if (!sbx_feed_push(&v->feed, f->text.data, f->text.len))
            return false;
        v->tick = r->tick;
        r->sent_ms = sbx_now_ms();
        count_up(&v->hub->n_sent, 1);
    }
    v->pos = f->to;
    v->anchored = true;
    return true;
}

void viewer_serve(viewer *v)
{
    const room *r = v->room;

    if (v->feed.gone || v->feed.blocked)
        return;
    if (v->state != r->state_version && r->state && !push_state(v))
        return;
    if (is_delayed(v) && !push_delayed(v))
        return;
    if (v->starting)
        return;
    while (step(v))
        ;
    if (r->ending && !v->feed.gone && !v->feed.blocked && v->epoch == 0 && v->pos >= r->end_seq)
        (void)sbx_feed_end(&v->feed);
}

bool viewer_lacks(const viewer *v)
{
    const room *r = v->room;

    if (v->feed.gone || v->feed.blocked)
        return false;
    return v->starting || v->epoch != 0 || (v->pos < r->latest && !segment_for(r, v->pos));
}

/* --- joining --- */

typedef struct joining {
    viewer *viewer;
    char id[SBX_ID_LEN + 1];
} joining;

static void join(void *arg)
{
    joining *j = arg;
    viewer *v = j->viewer;
    sbx_logs *l = v->hub;
    room *r = room_make(l, j->id);
    sbx_reply_events events = {.ready = on_ready, .closed = on_closed, .arg = v, .message = NULL};

    free(j);
    if (!r) {
        sbx_reply_end(v->feed.reply);
        sbx_reply_unref(v->feed.reply);
        free(v);
        return;
    }
    v->room = r;
    if (!r->viewers) {
        char topic[TOPIC_BYTES];

        log_topic(topic, r->id);
        l->cfg.bus->ops->subscribe(l->cfg.bus, topic);
        seg_done(&r->window);
        if (r->closed)
            room_end(r, r->appended);
    }
    DL_APPEND(r->viewers, v);
    r->viewer_count++;
    l->viewer_count++;
    show_count(l);
    v->epoch = ++r->epoch;
    v->state = r->state_version;
    if (v->starting) {
        v->pos = SBX_MAX(r->latest, r->appended);
        v->floored = v->pos > 0;
    }
    /* What waits for its batch is older than this viewer: let the history have it. */
    producer_flush_in_pace(r);
    sbx_reply_watch(v->feed.reply, &events);
    room_schedule(r, 0);
}

void sbx_logs_view(sbx_logs *l, const char *sandbox_id, const sbx_logs_query *q, sbx_reply *reply,
                   bool websocket)
{
    joining *j = sbx_alloc(sizeof *j);
    viewer *v = sbx_alloc(sizeof *v);

    v->hub = l;
    v->feed.websocket = websocket;
    v->source = (uint8_t)q->source;
    v->starting = !q->feed.has_since;
    v->anchored = q->feed.has_since;
    v->pos = q->feed.has_since ? q->feed.since : 0;
    v->tail = (int16_t)(q->feed.tail >= 0 ? q->feed.tail : SBX_LOGS_DEFAULT_TAIL);
    v->feed.reply = sbx_reply_ref(reply);
    j->viewer = v;
    (void)sbx_copy(j->id, sizeof j->id, sandbox_id);
    sbx_reply_begin(reply, 200, websocket ? NULL : "text/event-stream");
    sbx_stream_post(l->cfg.stream, join, j);
}
