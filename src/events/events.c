/* The event hub as a whole: made, freed, counted; and queries. The parts: room.c (who is served
 * when), read.c (from the table), viewer.c (to one client).
 *
 * Threads: all state is STREAM's. Others cross by sbx_stream_post(): the API's workers with new
 * viewers, LOOP with news of the replies, the bus with signals, workers with what they read. What
 * they may post is bounded: by the number of connections, SIGNALS_MAX and READS_MAX. */
#include "hub.h"
#include "sbx/core/json.h"
#include "sbx/sandbox/check.h"
#include "sbx/sandbox/state.h"
#include <stdio.h>

/* --- queries --- */

void event_json(sbx_buf *out, const sbx_event *e)
{
    sbx_jw w = SBX_JW(out);

    sbx_jw_obj(&w, NULL);
    sbx_jw_int(&w, "seq", (int64_t)e->seq);
    sbx_jw_time(&w, "ts", e->at_ms);
    sbx_jw_str(&w, "type", e->type);
    sbx_jw_str(&w, "sandboxId", *e->sandbox ? e->sandbox : NULL);
    sbx_jw_raw(&w, "data", e->data);
    sbx_jw_obj_end(&w);
}

static bool type_exists(const char *type)
{
    static const char prefix[] = "sandbox.";
    const char *to = type + sizeof prefix - 1;

    if (sbx_streq(type, "spending.alert"))
        return true;
    return strncmp(type, prefix, sizeof prefix - 1) == 0 &&
           (sbx_state_parse(to) != SBX_S_COUNT || sbx_streq(to, sbx_health_wire(SBX_H_HEALTHY)) ||
            sbx_streq(to, sbx_health_wire(SBX_H_UNHEALTHY)) || sbx_streq(to, "alert"));
}

int sbx_events_query_read(const sbx_request *r, sbx_events_query *ret, sbx_err *err)
{
    sbx_events_query q = {.sandbox = sbx_request_query(r, "sandboxId"),
                          .type = sbx_request_query(r, "type")};

    if (sbx_feed_query_read(r, SBX_MAX_LIST_ITEMS, &q.feed, err))
        return -1;
    if (q.sandbox && !sbx_id_valid(q.sandbox))
        return sbx_fail_field(err, "sandboxId", "sandboxId must be the id of a sandbox");
    if (q.type && !type_exists(q.type))
        return sbx_fail_field(
            err, "type",
            "type must be \"sandbox.\" and a state, status of health or \"alert\", such "
            "as sandbox.running");
    *ret = q;
    return 0;
}

static int page_items(const sbx_event_page *p, size_t limit, sbx_buf *out, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf items = SBX_BUF_INIT(out->max);
    size_t n = SBX_MIN(p->count, limit);

    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            sbx_buf_addc(&items, ',');
        event_json(&items, &p->items[i]);
    }
    return sbx_feed_page(out, &items, p->count > n, n ? p->items[n - 1].seq : 0, err);
}

int sbx_events_page(sbx_events *e, const char *owner, const sbx_events_query *q, sbx_buf *out,
                    sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_event_page_done) sbx_event_page p = {0};
    bool tail = q->feed.tail >= 0;
    size_t limit = q->feed.limit ? (size_t)q->feed.limit
                   : tail        ? (size_t)q->feed.tail
                                 : SBX_EVENTS_DEFAULT_LIMIT;
    sbx_event_filter f = {.owner = owner,
                          .sandbox = q->sandbox,
                          .type = q->type,
                          .since = q->feed.has_since ? q->feed.since : 0,
                          .limit = tail ? (size_t)q->feed.tail : limit + 1,
                          .newest = tail};
    uint64_t end;

    if ((q->sandbox && sbx_store_event_sandbox(e->cfg.store, owner, q->sandbox, &end, err)) ||
        sbx_store_event_list(e->cfg.store, &f, &p, err))
        return -1;
    return page_items(&p, limit, out, err);
}

/* --- the hub --- */

void event_topic(char out[TOPIC_BYTES], const char *owner)
{
    memcpy(out, TOPIC_PREFIX, sizeof TOPIC_PREFIX - 1);
    (void)sbx_copy(out + sizeof TOPIC_PREFIX - 1, SBX_ID_LEN + 1, owner);
}

void sbx_events_written(sbx_events *e, const char *owner, uint64_t seq)
{
    char topic[TOPIC_BYTES], text[40];
    int n = snprintf(text, sizeof text, "{\"seq\":%llu}", (unsigned long long)seq);
    sbx_bus_item item = {.seq = 0, .data = text, .len = (size_t)n};

    event_topic(topic, owner);
    /* Not heard: then the poll finds it. */
    (void)e->cfg.bus->ops->publish(e->cfg.bus, topic, &item, 1);
}

sbx_events *sbx_events_new(const sbx_events_config *c)
{
    sbx_events *e = sbx_alloc(sizeof *e);

    e->cfg = *c;
    if (e->cfg.poll_ms <= 0)
        e->cfg.poll_ms = POLL_MS;
    c->bus->ops->set_reader(c->bus, TOPIC_PREFIX, event_room_on_bus, e);
    return e;
}

static void stop(void *arg)
{
    ((sbx_events *)arg)->stopping = true;
}

void sbx_events_stop(sbx_events *e)
{
    if (!e)
        return;
    sbx_stream_post(e->cfg.stream, stop, e);
    sbx_stream_sync(e->cfg.stream);
}

static void shut_down(void *arg)
{
    sbx_events *e = arg;
    room *r, *next;

    HASH_ITER (hh, e->rooms, r, next) {
        event_room_free(r);
    }
    sbx_timer_free(sbx_steal(e->poll_timer));
}

void sbx_events_free(sbx_events *e)
{
    if (!e)
        return;
    e->cfg.bus->ops->set_reader(e->cfg.bus, TOPIC_PREFIX, NULL, NULL);
    sbx_stream_post(e->cfg.stream, shut_down, e);
    sbx_stream_sync(e->cfg.stream);
    free(e);
}

void sbx_events_stats_get(const sbx_events *e, sbx_events_stats *ret)
{
    *ret = (sbx_events_stats){
        .viewers = atomic_load(&e->n_viewers),
        .rooms = atomic_load(&e->n_rooms),
        .reads = atomic_load(&e->n_reads),
        .polls = atomic_load(&e->n_polls),
        .frames_built = atomic_load(&e->n_built),
        .sent = atomic_load(&e->n_sent),
    };
}
