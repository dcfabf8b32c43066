/* The in-process bus: a ring of items per topic, and readers called by the publisher.
 *
 * A topic exists while it has a history or a subscriber. Its ring grows with need up to
 * SBX_LOG_HISTORY_LINES slots. Two ceilings hold the memory: SBX_BUS_HISTORY_BYTES per topic, and
 * TOTAL_BYTES for all; beyond the second a topic that publishes gives up its own oldest items, so
 * that nobody's history is lost to another's noise.
 *
 * Threads: any. `mu` guards topics and histories and is held for copies only. `reader_mu` is held
 * while a reader runs, which makes taking a reader away a barrier. Lock order: never both. */
#include "readers.h"
#include "sbx/bus/bus.h"
#include "sbx/core/limits.h"
#include <pthread.h>
#include <uthash.h>

#define TOTAL_BYTES (256 * MIB)
#define FIRST_SLOTS 16

typedef struct mem_item {
    uint64_t seq;
    size_t len;
    char data[];
} mem_item;

typedef struct mem_topic {
    char name[SBX_BUS_TOPIC_BYTES];
    mem_item **ring; /* slots entries, `count` used from `head` on */
    size_t slots, head, count, bytes;
    unsigned subscribers;
    UT_hash_handle hh;
} mem_topic;

typedef struct mem_bus {
    sbx_bus bus;
    pthread_mutex_t mu;
    mem_topic *topics;  /* guarded by mu */
    size_t total_bytes; /* guarded by mu */
    uint64_t dropped;   /* guarded by mu */
    bus_readers readers;
} mem_bus;

static mem_bus *mem_of(sbx_bus *b)
{
    return sbx_container_of(b, mem_bus, bus);
}

static mem_topic *topic_find_locked(mem_bus *m, const char *name)
{
    mem_topic *t = NULL;

    HASH_FIND_STR(m->topics, name, t);
    return t;
}

static mem_topic *topic_make_locked(mem_bus *m, const char *name)
{
    mem_topic *t = topic_find_locked(m, name);

    if (t)
        return t;
    t = sbx_alloc(sizeof *t);
    sbx_copy(t->name, sizeof t->name, name);
    HASH_ADD_STR(m->topics, name, t);
    return t;
}

static mem_item *topic_at(const mem_topic *t, size_t i)
{
    return t->ring[(t->head + i) % t->slots];
}

static void topic_drop_oldest_locked(mem_bus *m, mem_topic *t)
{
    mem_item *it = topic_at(t, 0);

    t->bytes -= it->len;
    m->total_bytes -= it->len;
    t->head = (t->head + 1) % t->slots;
    t->count--;
    free(it);
}

static void topic_clear_locked(mem_bus *m, mem_topic *t)
{
    while (t->count > 0)
        topic_drop_oldest_locked(m, t);
    free(t->ring);
    t->ring = NULL;
    t->slots = t->head = 0;
}

static void topic_free_if_unused_locked(mem_bus *m, mem_topic *t)
{
    if (t->count > 0 || t->subscribers > 0)
        return;
    topic_clear_locked(m, t);
    HASH_DEL(m->topics, t);
    free(t);
}

static void topic_grow(mem_topic *t)
{
    size_t slots = t->slots ? SBX_MIN(t->slots * 2, (size_t)SBX_LOG_HISTORY_LINES) : FIRST_SLOTS;
    mem_item **ring = sbx_alloc(slots * sizeof(mem_item *));

    for (size_t i = 0; i < t->count; i++)
        ring[i] = topic_at(t, i);
    free(t->ring);
    t->ring = ring;
    t->slots = slots;
    t->head = 0;
}

static void topic_keep_locked(mem_bus *m, mem_topic *t, const sbx_bus_item *item)
{
    mem_item *it;

    if (item->seq == 0 || item->len > SBX_BUS_HISTORY_BYTES)
        return;
    if (t->count > 0 && item->seq <= topic_at(t, t->count - 1)->seq)
        return;
    it = sbx_alloc(sizeof *it + item->len);
    it->seq = item->seq;
    it->len = item->len;
    if (item->len > 0)
        memcpy(it->data, item->data, item->len);
    while (t->count > 0 &&
           (t->count == SBX_LOG_HISTORY_LINES || t->bytes + it->len > SBX_BUS_HISTORY_BYTES ||
            m->total_bytes + it->len > TOTAL_BYTES))
        topic_drop_oldest_locked(m, t);
    if (t->count == t->slots)
        topic_grow(t);
    t->ring[(t->head + t->count) % t->slots] = it;
    t->count++;
    t->bytes += it->len;
    m->total_bytes += it->len;
}

/* Nothing is lost here that a producer would still have. */
static void mem_set_watch(sbx_bus *b, const sbx_bus_watch *watch)
{
    (void)b;
    (void)watch;
}

static bool mem_publish(sbx_bus *b, const char *topic, const sbx_bus_item *items, size_t count)
{
    mem_bus *m = mem_of(b);
    mem_topic *t;
    bool read, ok;

    if (count == 0)
        return true;
    ok = strlen(topic) < SBX_BUS_TOPIC_BYTES;
    pthread_mutex_lock(&m->mu);
    if (!ok) {
        m->dropped += count;
        pthread_mutex_unlock(&m->mu);
        return false;
    }
    t = topic_make_locked(m, topic);
    for (size_t i = 0; i < count; i++)
        topic_keep_locked(m, t, &items[i]);
    read = t->subscribers > 0;
    topic_free_if_unused_locked(m, t);
    pthread_mutex_unlock(&m->mu);

    if (read)
        bus_readers_call(&m->readers, topic, items, count, false);
    return true;
}

static bool mem_publish_at(sbx_bus *b, const char *topic, const sbx_bus_item *items, size_t count,
                           const sbx_bus_place *place)
{
    (void)place;
    return mem_publish(b, topic, items, count);
}

static void mem_set_reader(sbx_bus *b, const char *prefix, sbx_bus_fn fn, void *arg)
{
    bus_readers_set(&mem_of(b)->readers, prefix, fn, arg);
}

static void mem_subscribe(sbx_bus *b, const char *topic)
{
    mem_bus *m = mem_of(b);

    if (strlen(topic) >= SBX_BUS_TOPIC_BYTES)
        return;
    pthread_mutex_lock(&m->mu);
    topic_make_locked(m, topic)->subscribers++;
    pthread_mutex_unlock(&m->mu);
}

static void mem_unsubscribe(sbx_bus *b, const char *topic)
{
    mem_bus *m = mem_of(b);
    mem_topic *t;

    pthread_mutex_lock(&m->mu);
    t = topic_find_locked(m, topic);
    if (t && t->subscribers > 0) {
        t->subscribers--;
        topic_free_if_unused_locked(m, t);
    }
    pthread_mutex_unlock(&m->mu);
}

/* The index of the first item with a number above `seq`. */
static size_t topic_after(const mem_topic *t, uint64_t seq)
{
    size_t lo = 0, hi = t->count;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (topic_at(t, mid)->seq > seq)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

/* Narrow [*from, *to) so that the items fit in `room` bytes, keeping the newest or the oldest. */
static void topic_fit(const mem_topic *t, size_t room, bool tail, size_t *from, size_t *to)
{
    size_t used = 0;

    if (tail) {
        size_t i = *to;

        while (i > *from && used + topic_at(t, i - 1)->len <= room)
            used += topic_at(t, --i)->len;
        *from = i;
    } else {
        size_t i = *from;

        while (i < *to && used + topic_at(t, i)->len <= room)
            used += topic_at(t, i++)->len;
        *to = i;
    }
}

static int topic_read(const mem_topic *t, uint64_t since, uint64_t until, size_t max, bool tail,
                      sbx_bus_item **ret, size_t *ret_count, sbx_buf *text, sbx_err *err)
{
    size_t from = topic_after(t, since), to = until ? topic_after(t, until) : t->count;
    size_t room = text->max > text->len ? text->max - text->len : 0;
    size_t base = text->len, total = 0;
    sbx_bus_item *items;

    if (to <= from)
        return 0;
    max = SBX_MIN(max, (size_t)SBX_LOG_HISTORY_LINES);
    if (to - from > max) {
        if (tail)
            from = to - max;
        else
            to = from + max;
    }
    if (to > from) {
        topic_fit(t, room, tail, &from, &to);
        if (to == from)
            return sbx_fail(err, SBX_E_TOO_LARGE, "the buffer is too small for one item");
    }
    if (to == from)
        return 0;
    items = sbx_alloc((to - from) * sizeof *items);
    for (size_t i = from; i < to; i++) {
        const mem_item *it = topic_at(t, i);

        items[i - from] = (sbx_bus_item){.seq = it->seq, .len = it->len};
        sbx_buf_add(text, it->data, it->len);
    }
    for (size_t i = 0; i < to - from; i++) {
        items[i].data = text->data + base + total;
        total += items[i].len;
    }
    *ret = items;
    *ret_count = to - from;
    return 0;
}

static int mem_history(sbx_bus *b, const char *topic, uint64_t since, uint64_t until, size_t max,
                       bool tail, sbx_bus_item **ret, size_t *ret_count, sbx_buf *ret_text,
                       sbx_err *err)
{
    mem_bus *m = mem_of(b);
    const mem_topic *t = NULL;
    sbx_bus_item *items = NULL;
    size_t count = 0;
    int rc = 0;

    pthread_mutex_lock(&m->mu);
    t = topic_find_locked(m, topic);
    if (t && t->count > 0)
        rc = topic_read(t, since, until, max, tail, &items, &count, ret_text, err);
    pthread_mutex_unlock(&m->mu);
    if (rc < 0)
        return -1;
    if (sbx_buf_failed(ret_text)) {
        free(items);
        return sbx_fail(err, SBX_E_TOO_LARGE, "the history does not fit in its buffer");
    }
    *ret = items;
    *ret_count = count;
    return 0;
}

static int mem_last_seq(sbx_bus *b, const char *topic, uint64_t *ret, sbx_err *err)
{
    mem_bus *m = mem_of(b);
    mem_topic *t;

    (void)err;
    pthread_mutex_lock(&m->mu);
    t = topic_find_locked(m, topic);
    *ret = t && t->count > 0 ? topic_at(t, t->count - 1)->seq : 0;
    pthread_mutex_unlock(&m->mu);
    return 0;
}

static void mem_forget(sbx_bus *b, const char *topic)
{
    mem_bus *m = mem_of(b);
    mem_topic *t;

    pthread_mutex_lock(&m->mu);
    t = topic_find_locked(m, topic);
    if (t) {
        topic_clear_locked(m, t);
        topic_free_if_unused_locked(m, t);
    }
    pthread_mutex_unlock(&m->mu);
}

static int mem_ping(sbx_bus *b, sbx_err *err)
{
    (void)b;
    (void)err;
    return 0;
}

static uint64_t mem_dropped(sbx_bus *b)
{
    mem_bus *m = mem_of(b);
    uint64_t n;

    pthread_mutex_lock(&m->mu);
    n = m->dropped;
    pthread_mutex_unlock(&m->mu);
    return n;
}

static void mem_free(sbx_bus *b)
{
    mem_bus *m;
    mem_topic *t, *next;

    if (!b)
        return;
    m = mem_of(b);
    HASH_ITER (hh, m->topics, t, next) {
        t->subscribers = 0;
        topic_clear_locked(m, t);
        topic_free_if_unused_locked(m, t);
    }
    bus_readers_done(&m->readers);
    pthread_mutex_destroy(&m->mu);
    free(m);
}

static const sbx_bus_ops memory_ops = {
    .publish = mem_publish,
    .publish_at = mem_publish_at,
    .set_watch = mem_set_watch,
    .set_reader = mem_set_reader,
    .subscribe = mem_subscribe,
    .unsubscribe = mem_unsubscribe,
    .history = mem_history,
    .last_seq = mem_last_seq,
    .forget = mem_forget,
    .ping = mem_ping,
    .dropped = mem_dropped,
    .name = "memory",
    .free = mem_free,
};

sbx_bus *sbx_bus_memory_new(void)
{
    mem_bus *m = sbx_alloc(sizeof *m);

    m->bus.ops = &memory_ops;
    pthread_mutex_init(&m->mu, NULL);
    bus_readers_init(&m->readers);
    return &m->bus;
}
