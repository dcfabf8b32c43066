/* Rooms: who is served when.
 *
 * A room remembers nothing but the highest number that it knows. Whoever is below it lacks
 * something; a tick starts a read for them, and what it found is sent to all whom it fits and
 * dropped. The next tick is SBX_LOG_BATCH_MS after the last frame at the earliest: this is the pace
 * that clients are promised, and it makes one read of what many changes wrote. */
#include "hub.h"
#include "sbx/core/clock.h"

room *event_room_make(sbx_events *e, const char *owner)
{
    room *r = NULL;
    char topic[TOPIC_BYTES];

    HASH_FIND_STR(e->rooms, owner, r);
    if (r)
        return r;
    r = sbx_alloc(sizeof *r);
    r->hub = e;
    r->serial = ++e->serials;
    (void)sbx_copy(r->owner, sizeof r->owner, owner);
    HASH_ADD_STR(e->rooms, owner, r);
    count_up(&e->n_rooms, 1);
    event_topic(topic, owner);
    e->cfg.bus->ops->subscribe(e->cfg.bus, topic);
    event_poll_start(e);
    return r;
}

void event_room_free(room *r)
{
    viewer *v, *tmp;
    char topic[TOPIC_BYTES];

    DL_FOREACH_SAFE (r->viewers, v, tmp) {
        event_viewer_free(v);
    }
    event_topic(topic, r->owner);
    r->hub->cfg.bus->ops->unsubscribe(r->hub->cfg.bus, topic);
    event_read_wait_no_more(r);
    sbx_timer_free(r->tick_timer);
    HASH_DEL(r->hub->rooms, r);
    atomic_fetch_sub_explicit(&r->hub->n_rooms, 1, memory_order_relaxed);
    free(r);
}

static void tick(void *arg)
{
    room *r = arg;

    r->tick_timer = NULL;
    event_viewers_end(r);
    event_read_if_needed(r);
}

void event_room_schedule(room *r, int64_t delay_ms)
{
    int64_t now = sbx_now_ms(), at = SBX_MAX(now + delay_ms, r->sent_ms + SBX_LOG_BATCH_MS);

    if (r->tick_timer && r->tick_ms <= at)
        return;
    sbx_timer_free(r->tick_timer);
    r->tick_timer = sbx_timer_new(r->hub->cfg.stream, at - now, tick, r);
    r->tick_ms = at;
}

void event_room_told(room *r, uint64_t seq)
{
    if (seq == 0)
        r->look = true;
    else if (seq <= r->latest)
        return;
    else
        r->latest = seq;
    event_room_schedule(r, 0);
}

/* --- signals of the bus --- */

typedef struct heard {
    sbx_events *hub;
    uint64_t seq;
    char owner[SBX_ID_LEN + 1];
} heard;

static void take_heard(void *arg)
{
    heard *h = arg;
    room *r = NULL;

    atomic_fetch_sub(&h->hub->signals, 1);
    HASH_FIND_STR(h->hub->rooms, h->owner, r);
    if (r)
        event_room_told(r, h->seq);
    free(h);
}

static void take_missed(void *arg)
{
    sbx_events *e = arg;
    room *r, *next;

    atomic_store(&e->missed, false);
    HASH_ITER (hh, e->rooms, r, next) {
        event_room_told(r, 0);
    }
}

/* {"seq":N}; anything else only says that there is something. */
static uint64_t signal_seq(const sbx_bus_item *item)
{
    static const char head[] = "{\"seq\":";
    char digits[24];
    int64_t n;
    size_t len = item->len - sizeof head;

    if (item->len <= sizeof head || len >= sizeof digits ||
        memcmp(item->data, head, sizeof head - 1) != 0)
        return 0;
    memcpy(digits, item->data + sizeof head - 1, len);
    digits[len] = '\0';
    return sbx_parse_i64(digits, 0, INT64_MAX, &n) ? (uint64_t)n : 0;
}

void event_room_on_bus(void *arg, const char *topic, const sbx_bus_item *items, size_t count,
                       bool reset)
{
    sbx_events *e = arg;
    const char *owner = topic + sizeof TOPIC_PREFIX - 1;
    heard *h;

    if (strlen(owner) > SBX_ID_LEN || (count == 0 && !reset))
        return;
    if (atomic_load(&e->signals) >= SIGNALS_MAX) {
        if (!atomic_exchange(&e->missed, true))
            sbx_stream_post(e->cfg.stream, take_missed, e);
        return;
    }
    atomic_fetch_add(&e->signals, 1);
    h = sbx_alloc(sizeof *h);
    h->hub = e;
    h->seq = reset ? 0 : signal_seq(&items[count - 1]);
    (void)sbx_copy(h->owner, sizeof h->owner, owner);
    sbx_stream_post(e->cfg.stream, take_heard, h);
}
