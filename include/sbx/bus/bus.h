/* The bus: log lines and events between workers, with a short history of logs.
 *
 * Two implementations: in-process (one worker, no Redis) and Redis. The caller cannot tell them
 * apart but by what a restart loses.
 *
 * An item is one log entry, serialised as JSON by the caller, with its sequence number. History
 * keeps the last SBX_LOG_HISTORY_LINES items per topic (Redis: at least those; in-process: fewer
 * if they are more than SBX_BUS_HISTORY_BYTES). An item whose number is not above the last one of
 * the history was sent twice and is not kept again; readers see it twice. An item with the number
 * 0 is a signal: readers get it, the history does not. Topics: "logs:{sandboxId}",
 * "events:{userId}".
 *
 * A history may lose what it had (a Redis without persistence that was restarted, FLUSHALL, an
 * older replica), and a publisher what waited for too long. Items that would come behind such a
 * hole are not taken: their producer is told (sbx_bus_watch), and publishes all of it again. */
#ifndef SBX_BUS_BUS_H
#define SBX_BUS_BUS_H

#include "sbx/core/buf.h"
#include "sbx/core/error.h"

#define SBX_BUS_HISTORY_BYTES (4 * MIB) /* of one topic, in-process */
#define SBX_BUS_READERS       4         /* prefixes with a reader */
#define SBX_BUS_TOPIC_BYTES   96        /* longest topic, with its NUL */

typedef struct sbx_bus sbx_bus;

typedef struct sbx_bus_item {
    uint64_t seq;
    const char *data; /* one JSON object; borrowed */
    size_t len;
} sbx_bus_item;

/* Called on the BUS thread (Redis) or on the publisher's thread (in-process); must not block and
 * must not call back into the bus. Items are in order; after a loss the next call simply starts
 * with a later seq. `reset` is true, and `count` 0, when messages may have been missed (the
 * subscription has just taken effect, at first or after a reconnect): the reader compares with
 * the history. Items are borrowed. */
typedef void (*sbx_bus_fn)(void *arg, const char *topic, const sbx_bus_item *items, size_t count,
                           bool reset);

/* What stands before the items of a message, as far as their producer knows. */
typedef struct sbx_bus_place {
    uint64_t after; /* the number that it published last; 0: it does not know */
    uint32_t line;  /* its own; comes back with the news of a loss */
} sbx_bus_place;

/* News for who produces. Called on a thread of the bus; must neither block nor call the bus. */
typedef struct sbx_bus_watch {
    /* The history of a topic ends at `last`, which is before the place of a message: that was not
     * taken. `topic` NULL: the histories of all topics are gone. */
    void (*lost)(void *arg, const char *topic, uint64_t last, uint32_t line);
    /* Whether what is published gets anywhere; at first it does. */
    void (*reached)(void *arg, bool reached);
    void *arg;
} sbx_bus_watch;

/* A token bucket that all workers share: `limit` tokens, filled evenly within `window_s`. */
typedef struct sbx_bus_bucket {
    char name[SBX_BUS_TOPIC_BYTES];
    int64_t limit, window_s;
    int64_t need, want; /* at least, and at most; 1 <= need <= want, need <= limit */
} sbx_bus_bucket;

typedef struct sbx_bus_grant {
    int64_t granted; /* need to want, no more than an eighth of what is left beyond need; or 0 */
    int64_t left;    /* in the bucket */
    int64_t wait_us; /* until `need` are there, if none were granted */
} sbx_bus_grant;

typedef struct sbx_bus_ops {
    /* Queue items for history and publication as one message. Never blocks; any thread, but the
     * items of one topic in order. False if items were dropped for it: these, or older ones that
     * waited too long for Redis. */
    bool (*publish)(sbx_bus *b, const char *topic, const sbx_bus_item *items, size_t count);
    /* The same, if the history has what stands before `place`; otherwise the watch hears of it. */
    bool (*publish_at)(sbx_bus *b, const char *topic, const sbx_bus_item *items, size_t count,
                       const sbx_bus_place *place);
    /* NULL takes it away, and no call of it runs any more on return. */
    void (*set_watch)(sbx_bus *b, const sbx_bus_watch *watch);
    /* The reader of all topics that begin with `prefix` (a literal), at most SBX_BUS_READERS of
     * them; NULL takes it away, and no call of it runs any more on return. */
    void (*set_reader)(sbx_bus *b, const char *prefix, sbx_bus_fn fn, void *arg);
    void (*subscribe)(sbx_bus *b, const char *topic); /* counted; any thread; never blocks */
    void (*unsubscribe)(sbx_bus *b, const char *topic);
    /* Items of the history with since < seq <= until (0: no bound), oldest first, at most `max`
     * (and SBX_LOG_HISTORY_LINES); with `tail` the newest ones. Includes what this process
     * published before the call. Fewer items, but at least one, if the ceiling of `ret_text` is
     * reached. Blocks (WORKER). Items point into `ret_text`; the array is the caller's to
     * free(); NULL if there are none.
     * @return 0, or -1 with STORE_UNAVAILABLE (Redis cannot be reached) or TOO_LARGE (not one
     *         item fits). */
    int (*history)(sbx_bus *b, const char *topic, uint64_t since, uint64_t until, size_t max,
                   bool tail, sbx_bus_item **ret, size_t *ret_count, sbx_buf *ret_text,
                   sbx_err *err);
    /* The highest seq in the history, 0 if it is empty. Blocks (WORKER). */
    int (*last_seq)(sbx_bus *b, const char *topic, uint64_t *ret, sbx_err *err);
    void (*forget)(sbx_bus *b, const char *topic); /* drop the history; never blocks */
    int (*ping)(sbx_bus *b, sbx_err *err);         /* health; blocks (WORKER) */
    /* Take tokens. Blocks (WORKER), some 100 ms for each step at most. NULL: there is one process.
     * @return 0, or -1 with STORE_UNAVAILABLE. */
    int (*lease)(sbx_bus *b, const sbx_bus_bucket *bucket, sbx_bus_grant *ret, sbx_err *err);
    uint64_t (*dropped)(sbx_bus *b); /* items lost since the start; any thread */
    const char *name;                /* "memory" or "redis" */
    void (*free)(sbx_bus *b);
} sbx_bus_ops;

struct sbx_bus {
    const sbx_bus_ops *ops;
};

/** The in-process bus: never fails, nothing outlives it. */
sbx_bus *sbx_bus_memory_new(void);

/** Ask a Redis server for its version: a look from outside, no bus is made. Blocks up to 2 s for
 * each step. @return 0, or -1 with INVALID (url) or STORE_UNAVAILABLE. */
int sbx_bus_redis_probe(const char *url, char version[32], sbx_err *err) SBX_MUST_CHECK;
/** The bus over Redis 5 or later. Connects in the background and reconnects for ever, so that it
 * succeeds while Redis is down. The process must ignore SIGPIPE (hiredis writes without
 * MSG_NOSIGNAL).
 *
 * @param url  redis://[[user]:password@]host[:port][/db], user and password percent-encoded, or
 *             unix:///path. Borrowed.
 * @return 0, or -1 with INVALID (the URL; the message never contains it). */
int sbx_bus_redis_new(const char *url, sbx_bus **ret, sbx_err *err) SBX_MUST_CHECK;

#endif
