/* The log hub as a whole: made, freed, counted. The parts: producer.c (from the channel to the
 * bus), room.c (from the bus to the viewers of a sandbox), viewer.c (one client), fetch.c (reads of
 * the history), page.c (queries), segment.c and entry.c (data).
 *
 * Threads: all state is STREAM's. Others cross by sbx_stream_post(): the API's workers, LOOP with
 * news of the replies, BUS with messages. What they may post is bounded: by the number of
 * connections, and by BACKLOG_BYTES. */
#include "hub.h"

void log_topic(char out[TOPIC_BYTES], const char *sandbox_id)
{
    memcpy(out, TOPIC_PREFIX, sizeof TOPIC_PREFIX - 1);
    (void)sbx_copy(out + sizeof TOPIC_PREFIX - 1, SBX_ID_LEN + 1, sandbox_id);
}

sbx_logs *sbx_logs_new(const sbx_logs_config *c)
{
    sbx_logs *l = sbx_alloc(sizeof *l);

    l->cfg = *c;
    if (l->cfg.linger_ms <= 0)
        l->cfg.linger_ms = LINGER_MS;
    for (int ws = 0; ws < 2; ws++)
        for (int s = 0; s <= SBX_LOGS_ALL; s++)
            sbx_buf_init(&l->frames[ws][s].text, FRAME_BYTES + 2 * LOG_ITEM_BYTES);
    c->bus->ops->set_reader(c->bus, TOPIC_PREFIX, room_on_bus, l);
    c->bus->ops->set_watch(c->bus, &(sbx_bus_watch){producer_on_lost, producer_on_reached, l});
    return l;
}

static void stop(void *arg)
{
    ((sbx_logs *)arg)->stopping = true;
}

void sbx_logs_stop(sbx_logs *l)
{
    if (!l)
        return;
    sbx_stream_post(l->cfg.stream, stop, l);
    sbx_stream_sync(l->cfg.stream);
}

static void shut_down(void *arg)
{
    sbx_logs *l = arg;
    room *r, *next;

    HASH_ITER (hh, l->rooms, r, next) {
        producer_flush(r);
        room_free(r);
    }
}

void sbx_logs_free(sbx_logs *l)
{
    if (!l)
        return;
    l->cfg.bus->ops->set_reader(l->cfg.bus, TOPIC_PREFIX, NULL, NULL);
    l->cfg.bus->ops->set_watch(l->cfg.bus, NULL);
    sbx_stream_post(l->cfg.stream, shut_down, l);
    sbx_stream_sync(l->cfg.stream);
    for (int ws = 0; ws < 2; ws++)
        for (int s = 0; s <= SBX_LOGS_ALL; s++)
            sbx_buf_done(&l->frames[ws][s].text);
    free(l);
}

void sbx_logs_stats_get(const sbx_logs *l, sbx_logs_stats *ret)
{
    *ret = (sbx_logs_stats){
        .viewers = atomic_load(&l->n_viewers),
        .rooms = atomic_load(&l->n_rooms),
        .frames_built = atomic_load(&l->n_built),
        .frames_sent = atomic_load(&l->n_sent),
        .gaps = atomic_load(&l->n_gaps),
        .fetches = atomic_load(&l->n_fetches),
        .lines = atomic_load(&l->n_lines),
        .dropped = atomic_load(&l->n_dropped),
    };
}
