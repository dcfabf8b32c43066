/* Rooms: what comes from the bus for the viewers of one sandbox, and when they are served.
 *
 * Messages are copied on the thread that reads the bus and posted to STREAM. There they extend the
 * room's window; a message that does not continue it starts a new one, and the viewers that have
 * not reached its beginning turn to the history. A tick serves all viewers; a tick that sent
 * entries is followed by the next one after SBX_LOG_BATCH_MS at the earliest, which is the pace
 * that clients are promised. Window and page are given up as soon as no viewer that can be written
 * to needs them, so that a quiet room holds nothing. */
#include "hub.h"
#include "sbx/core/clock.h"

room *room_find(sbx_logs *l, const char *id)
{
    room *r = NULL;

    HASH_FIND_STR(l->rooms, id, r);
    return r;
}

/* NULL if the id cannot be one. */
room *room_make(sbx_logs *l, const char *id)
{
    room *r = room_find(l, id);

    if (r || id[0] == '\0' || strlen(id) > SBX_ID_LEN)
        return r;
    r = sbx_alloc(sizeof *r);
    r->hub = l;
    r->serial = ++l->serials;
    (void)sbx_copy(r->id, sizeof r->id, id);
    sbx_buf_init(&r->pending, PENDING_BYTES + 2 * LOG_ITEM_BYTES);
    HASH_ADD_STR(l->rooms, id, r);
    count_up(&l->n_rooms, 1);
    return r;
}

void room_free(room *r)
{
    viewer *v, *tmp;

    DL_FOREACH_SAFE (r->viewers, v, tmp) {
        viewer_free(v);
    }
    producer_done(r);
    fetch_wait_no_more(r);
    sbx_timer_free(r->tick_timer);
    seg_done(&r->window);
    seg_done(&r->page);
    free(r->state);
    HASH_DEL(r->hub->rooms, r);
    atomic_fetch_sub_explicit(&r->hub->n_rooms, 1, memory_order_relaxed);
    free(r);
}

void room_free_if_unused(room *r)
{
    if (!r->owned && !r->viewers)
        room_free(r);
}

/* --- ticks --- */

static bool anybody_needs(const room *r, const segment *s)
{
    const viewer *v;

    DL_FOREACH (r->viewers, v) {
        if (!v->feed.gone && !v->feed.blocked && !v->starting && seg_covers(s, v->pos))
            return true;
    }
    return false;
}

static void tick(void *arg)
{
    room *r = arg;
    viewer *v;

    r->tick_timer = NULL;
    r->again = false;
    r->tick++;
    DL_FOREACH (r->viewers, v) {
        viewer_serve(v);
    }
    if (r->page.valid && !anybody_needs(r, &r->page))
        seg_done(&r->page);
    if (r->window.valid && r->window.count > 0 && !anybody_needs(r, &r->window)) {
        uint64_t upto = r->window.upto;

        seg_done(&r->window);
        seg_start(&r->window, upto);
    }
    fetch_start_if_needed(r);
    if (r->again)
        room_schedule(r, 0);
}

void room_schedule(room *r, int64_t delay_ms)
{
    int64_t now = sbx_now_ms(), at = SBX_MAX(now + delay_ms, r->sent_ms + SBX_LOG_BATCH_MS);

    if (r->tick_timer && r->tick_ms <= at)
        return;
    sbx_timer_free(r->tick_timer);
    r->tick_timer = sbx_timer_new(r->hub->cfg.stream, at - now, tick, r);
    r->tick_ms = at;
}

/* --- messages of the bus --- */

typedef struct inbound {
    sbx_logs *hub;
    char id[SBX_ID_LEN + 1];
    bool reset;
    size_t count, bytes;
    sbx_bus_item items[]; /* data points behind the array */
} inbound;

static void room_reset(room *r)
{
    viewer *v;

    r->epoch++;
    DL_FOREACH (r->viewers, v) {
        v->epoch = r->epoch;
    }
    room_schedule(r, 0);
}

/* {"type":"state","sandbox":…} is a viewer's frame already. */
static void room_state(room *r, const sbx_bus_item *item)
{
    free(r->state);
    r->state = sbx_strndup(item->data, item->len);
    r->state_len = item->len;
    r->state_version++;
}

void room_end(room *r, uint64_t last)
{
    r->ending = true;
    r->end_seq = SBX_MAX(last, r->latest);
    r->latest = r->end_seq;
}

static bool begins(const sbx_bus_item *item, const char *prefix)
{
    return item->len > strlen(prefix) && memcmp(item->data, prefix, strlen(prefix)) == 0;
}

static void room_signal(room *r, const sbx_bus_item *item)
{
    static const char end[] = "{\"type\":\"end\",\"last\":";
    uint64_t last;

    if (begins(item, "{\"type\":\"state\",\"sandbox\":{"))
        room_state(r, item);
    else if (begins(item, end) &&
             log_number(item->data + sizeof end - 1, item->len - sizeof end, INT64_MAX, &last))
        room_end(r, last);
}

/* The first entry that is seen: viewers that waited for it begin with it, or further back. */
static void anchor(room *r, uint64_t pos)
{
    viewer *v;

    DL_FOREACH (r->viewers, v) {
        if (v->floored || v->anchored)
            continue;
        v->pos = pos;
        v->floored = v->starting;
        v->anchored = !v->starting;
    }
}

static void room_take(room *r, const sbx_bus_item *item, bool first)
{
    if (item->seq == 0) {
        room_signal(r, item);
        return;
    }
    if (item->seq <= r->latest && item->seq <= r->window.upto)
        return;
    /* Within a message the numbers that are missing do not exist; before it they may. */
    if (!r->window.valid || (first && item->seq != r->window.upto + 1))
        seg_start(&r->window, item->seq - 1);
    if (r->latest == 0)
        anchor(r, item->seq - 1);
    seg_add(&r->window, item);
    seg_trim(&r->window, WINDOW_BYTES);
    r->latest = SBX_MAX(r->latest, item->seq);
}

void room_feed(room *r, const sbx_bus_item *items, size_t count)
{
    bool first = true;

    for (size_t i = 0; i < count; i++) {
        uint64_t before = r->latest;

        room_take(r, &items[i], first);
        first = first && r->latest == before;
    }
    room_schedule(r, 0);
}

static void take_inbound(void *arg)
{
    inbound *in = arg;
    sbx_logs *l = in->hub;
    room *r = room_find(l, in->id);

    atomic_fetch_sub(&l->backlog, in->bytes);
    if (r && r->viewers) {
        room_feed(r, in->items, in->count);
        if (in->reset)
            room_reset(r);
    }
    free(in);
}

static void take_missed(void *arg)
{
    sbx_logs *l = arg;
    room *r, *next;

    atomic_store(&l->missed, false);
    HASH_ITER (hh, l->rooms, r, next) {
        if (r->viewers)
            room_reset(r);
    }
}

void room_on_bus(void *arg, const char *topic, const sbx_bus_item *items, size_t count, bool reset)
{
    sbx_logs *l = arg;
    const char *id = topic + sizeof TOPIC_PREFIX - 1;
    size_t bytes = sizeof(inbound) + count * sizeof *items;
    inbound *in;
    char *text;

    if (strlen(id) > SBX_ID_LEN)
        return;
    for (size_t i = 0; i < count; i++)
        if (log_item_ok(items[i].data, items[i].len))
            bytes += items[i].len;
    if (atomic_load(&l->backlog) + bytes > BACKLOG_BYTES) {
        if (!atomic_exchange(&l->missed, true))
            sbx_stream_post(l->cfg.stream, take_missed, l);
        return;
    }
    atomic_fetch_add(&l->backlog, bytes);
    in = sbx_alloc(bytes);
    in->hub = l;
    in->reset = reset;
    in->bytes = bytes;
    (void)sbx_copy(in->id, sizeof in->id, id);
    text = (char *)&in->items[count];
    for (size_t i = 0; i < count; i++) {
        if (!log_item_ok(items[i].data, items[i].len))
            continue;
        memcpy(text, items[i].data, items[i].len);
        in->items[in->count++] =
            (sbx_bus_item){.seq = items[i].seq, .data = text, .len = items[i].len};
        text += items[i].len;
    }
    sbx_stream_post(l->cfg.stream, take_inbound, in);
}
