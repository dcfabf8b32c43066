/* The inside of the hub: rooms and viewers, shared by the files of this folder.
 *
 * A room is one sandbox as this worker sees it: what it produces (if the sandbox's channel is
 * here), and who watches (if anybody does). It exists as long as either. All of it is STREAM's. */
#ifndef SBX_LOGS_HUB_H
#define SBX_LOGS_HUB_H

#include "entry.h"
#include "sbx/core/id.h"
#include "sbx/core/thread.h"
#include "segment.h"
#include <pthread.h>
#include <stdatomic.h>
#include <uthash.h>
#include <utlist.h>

#define WINDOW_BYTES  (256 * KIB) /* live entries kept for viewers that are about to get them */
#define PENDING_BYTES (2 * MIB)   /* what an agent may have under way, as JSON at its longest */
#define FRAME_BYTES   (192 * KIB) /* entries of one frame: fits into an outbox */
#define FETCH_BYTES   MIB         /* entries of one read of the history */
#define INDEX_BYTES   (16 * MIB)  /* the same, to find where the newest lines begin */
#define BACKLOG_BYTES (16 * MIB)  /* bus messages on their way to STREAM */
#define FETCHES_MAX   2           /* at once: the fast lane is for others, too */
#define REFILL_MS     10000       /* that a history which was lost may take to be filled again */
#define RETRY_MS      500         /* after a read of the history failed */
#define LINGER_MS     10000
#define TOPIC_PREFIX  "logs:"
#define TOPIC_BYTES   (sizeof TOPIC_PREFIX + SBX_ID_LEN)

typedef struct room room;

typedef struct viewer {
    struct viewer *prev, *next; /* in the room */
    sbx_logs *hub;
    room *room; /* NULL until it has joined */
    sbx_feed feed;
    uint64_t pos;    /* everything up to it was sent, filtered out or told as a gap */
    uint32_t epoch;  /* the history must be read once more since this epoch; 0: need not */
    uint32_t state;  /* version of the state that was sent last */
    uint32_t outage; /* of the bus, that it was told last */
    uint32_t tick;   /* in which the last frame of entries was sent */
    int16_t tail;
    uint8_t source;
    bool starting; /* the position follows from `tail` when the history is known.. */
    bool floored;  /* .. but is `pos` at the latest: what came since is for it */
    bool anchored; /* the position is a real one: holes after it are gaps */
} viewer;

struct room {
    char id[SBX_ID_LEN + 1];
    sbx_logs *hub;
    UT_hash_handle hh;
    uint64_t serial; /* tells rooms of the same sandbox apart */

    /* what the sandbox produces */
    bool owned, closed;
    uint64_t appended;  /* the last number taken, pending or published */
    uint64_t published; /* the last number that went to the bus */
    uint32_t line;      /* raised when all behind `published` is to be published again */
    sbx_buf pending;
    seg_item *pending_items;
    size_t pending_count, pending_cap;
    int64_t flushed_ms;
    int64_t paid_us; /* what was published keeps to the pace from then on */
    sbx_timer *flush_timer, *linger_timer;

    /* who watches */
    viewer *viewers;
    size_t viewer_count;
    segment window;   /* from the bus */
    segment page;     /* from the history */
    uint64_t latest;  /* the highest number known */
    int64_t short_ms; /* since when the history ends before that; 0: it does not */
    uint32_t epoch, tick;
    bool fetching, waiting, again;
    room *wait_prev, *wait_next; /* while waiting for one of FETCHES_MAX */
    bool tail_last;              /* the last read was one of the tail */
    int64_t read_ms;             /* no read of the history before */
    int64_t sent_ms;             /* of the last frame of entries */
    sbx_timer *tick_timer;
    int64_t tick_ms; /* when it fires */
    char *state;     /* the last state's WebSocket frame; owned */
    size_t state_len;
    uint32_t state_version;
    bool ending; /* no entries after end_seq will come */
    uint64_t end_seq;
};

/* A frame of entries that viewers at the same position share. */
typedef struct frame {
    uint64_t serial, pos, to;
    uint32_t tick;
    size_t entries;
    sbx_buf text;
} frame;

struct sbx_logs {
    sbx_logs_config cfg; /* immutable */
    room *rooms;
    uint64_t serials;
    size_t viewer_count;
    bool stopping; /* submit nothing */
    bool down;     /* what is published does not get to the bus */
    uint32_t outages;
    size_t fetching;
    room *waiting; /* rooms that need a read of the history; first come, first served */
    frame frames[2][SBX_LOGS_ALL + 1]; /* by websocket, source */

    atomic_size_t backlog; /* bytes; any thread */
    atomic_bool missed;    /* messages were dropped, and STREAM will hear of it; any thread */
    _Atomic uint64_t n_viewers, n_rooms, n_built, n_sent, n_gaps, n_fetches, n_lines, n_dropped;
};

static inline void count_up(_Atomic uint64_t *n, uint64_t by)
{
    atomic_fetch_add_explicit(n, by, memory_order_relaxed);
}

void log_topic(char out[TOPIC_BYTES], const char *sandbox_id);

/* room.c: STREAM */
room *room_find(sbx_logs *l, const char *id);
room *room_make(sbx_logs *l, const char *id);
void room_free(room *r);
void room_free_if_unused(room *r);
/* Serve the viewers soon, but not before the pace allows the next frame of entries. */
void room_schedule(room *r, int64_t delay_ms);
void room_end(room *r, uint64_t last);
/* Entries on their way to viewers, in order. */
void room_feed(room *r, const sbx_bus_item *items, size_t count);
/* From the bus, any thread: the sbx_bus_fn. */
void room_on_bus(void *arg, const char *topic, const sbx_bus_item *items, size_t count, bool reset);

/* fetch.c: STREAM. Reads the history for the viewers that lack something, one read at a time. */
void fetch_start_if_needed(room *r);
void fetch_wait_no_more(room *r);

/* viewer.c: STREAM */
void viewer_serve(viewer *v);       /* sends what it can have now */
void viewer_free(viewer *v);        /* out of its room; the reply is let go */
bool viewer_lacks(const viewer *v); /* only the history can tell it what comes next */

/* producer.c: STREAM */
void producer_flush(room *r);
void producer_flush_in_pace(room *r); /* not yet if the log is ahead of its pace */
void producer_done(room *r);
/* News of the bus, any thread. */
void producer_on_lost(void *arg, const char *topic, uint64_t last, uint32_t line);
void producer_on_reached(void *arg, bool reached);

#endif
