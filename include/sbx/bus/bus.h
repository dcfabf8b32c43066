/* The bus: log lines and events between workers, with a short history of logs.
 *
 * Two implementations: in-process (one worker, no Redis) and Redis. The caller cannot tell them
 * apart but by what a restart loses.
 *
 * An item is one log entry, serialised as JSON by the caller, with its sequence number. History
 * keeps the last SBX_LOG_HISTORY_LINES items per topic. Topics: "logs:{sandboxId}",
 * "events:{userId}". */
#ifndef SBX_BUS_BUS_H
#define SBX_BUS_BUS_H

#include "sbx/core/buf.h"
#include "sbx/core/error.h"

typedef struct sbx_bus sbx_bus;

typedef struct sbx_bus_item {
    uint64_t    seq;
    const char *data; /* one JSON object; borrowed */
    size_t      len;
} sbx_bus_item;

/* Called on the BUS thread (Redis) or on the publisher's thread (in-process); must not block and
 * must not call back into the bus. Items are in order; after a loss the next call simply starts
 * with a later seq. `reset` is true when messages may have been lost (reconnected): the reader
 * compares with the history. */
typedef void (*sbx_bus_fn)(void *arg, const char *topic, const sbx_bus_item *items, size_t count,
                           bool reset);

typedef struct sbx_bus_ops {
    /* Queue items for history and publication as one message. Never blocks; any thread. False if
     * the queue is full: the items are lost for live readers and told by the gap in seq. */
    bool (*publish)(sbx_bus *b, const char *topic, const sbx_bus_item *items, size_t count);
    /* One reader function per bus, for all topics subscribed to. */
    void (*set_reader)(sbx_bus *b, sbx_bus_fn fn, void *arg);
    void (*subscribe)(sbx_bus *b, const char *topic);   /* counted; any thread; never blocks */
    void (*unsubscribe)(sbx_bus *b, const char *topic);
    /* Items of the history with since < seq <= until (0: no bound), oldest first, at most `max`;
     * with `tail` the newest ones. Blocks (WORKER). Items are owned by `ret_text`. */
    int (*history)(sbx_bus *b, const char *topic, uint64_t since, uint64_t until, size_t max,
                   bool tail, sbx_bus_item **ret, size_t *ret_count, sbx_buf *ret_text,
                   sbx_err *err);
    /* The highest seq in the history, 0 if it is empty. Blocks (WORKER). */
    int (*last_seq)(sbx_bus *b, const char *topic, uint64_t *ret, sbx_err *err);
    void (*forget)(sbx_bus *b, const char *topic); /* drop the history; never blocks */
    int (*ping)(sbx_bus *b, sbx_err *err);         /* health; blocks (WORKER) */
    const char *name;                              /* "memory" or "redis" */
    void (*free)(sbx_bus *b);
} sbx_bus_ops;

struct sbx_bus {
    const sbx_bus_ops *ops;
};

sbx_bus *sbx_bus_memory_new(void);
/** @param url  redis://[user:password@]host:port[/db] or unix:///path. Connects in the background
 * and reconnects for ever. */
int sbx_bus_redis_new(const char *url, sbx_bus **ret, sbx_err *err) SBX_MUST_CHECK;

#endif
