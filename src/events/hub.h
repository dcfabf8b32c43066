/* The inside of the hub. A room is one owner that somebody watches. All of it is STREAM's. */
#ifndef SBX_EVENTS_HUB_H
#define SBX_EVENTS_HUB_H

#include "sbx/core/limits.h"
#include "sbx/core/thread.h"
#include "sbx/events/events.h"
#include <stdatomic.h>
#include <uthash.h>
#include <utlist.h>

#define READ_EVENTS  500         /* of one read */
#define READ_BYTES   (192 * KIB) /* of one read: it becomes one frame, which fits into an outbox */
#define READS_MAX    2           /* at once: the fast lane is for others, too */
#define READ_MS      10000
#define RETRY_MS     500 /* after a read failed */
#define POLL_MS      2000
#define SIGNALS_MAX  10000 /* on their way to STREAM */
#define TOPIC_PREFIX "events:"
#define TOPIC_BYTES  (sizeof TOPIC_PREFIX + SBX_ID_LEN)
#define TYPE_BYTES   32

typedef struct room room;

typedef struct viewer {
    struct viewer *prev, *next; /* in the room */
    sbx_events *hub;
    room *room; /* NULL until it has joined */
    sbx_feed feed;
    uint64_t pos; /* everything up to it was sent, filtered out or told as a gap */
    uint64_t end; /* nothing follows this number; 0: not known */
    uint64_t joined;
    char sandbox[SBX_ID_LEN + 1], type[TYPE_BYTES]; /* ""; any */
} viewer;

struct room {
    char owner[SBX_ID_LEN + 1];
    sbx_events *hub;
    UT_hash_handle hh;
    uint64_t serial; /* tells rooms of the same owner apart */
    viewer *viewers;
    uint64_t latest; /* the highest number known */
    uint64_t joins;  /* viewers so far */
    bool look;       /* there may be more than `latest` */
    bool reading, waiting, behind;
    room *wait_prev, *wait_next; /* while waiting for one of READS_MAX */
    int64_t sent_ms;             /* of the last frame of events */
    int64_t retry_ms;            /* no read before */
    int64_t tick_ms;             /* when the timer fires */
    sbx_timer *tick_timer;
};

/* A read of the table, and what it found. */
typedef struct reading {
    sbx_events *hub;
    char owner[SBX_ID_LEN + 1];
    uint64_t serial, joins;
    uint64_t since, known; /* known: the room's latest when it began */
    /* the result */
    int rc;
    sbx_event_page page;
    sbx_buf text;  /* the events as JSON, one after the other */
    size_t *ends;  /* where each ends in it; as many as fit into READ_BYTES */
    size_t count;  /* of them */
    uint64_t upto; /* all there is above `since`, up to this number */
} reading;

struct sbx_events {
    sbx_events_config cfg; /* immutable */
    room *rooms;
    uint64_t serials;
    size_t viewer_count;
    size_t reading;
    room *waiting; /* rooms that need a read; first come, first served */
    sbx_timer *poll_timer;
    bool polling, stopping;

    atomic_size_t signals; /* any thread */
    atomic_bool missed;    /* signals were dropped, and STREAM will hear of it; any thread */
    _Atomic uint64_t n_viewers, n_rooms, n_reads, n_polls, n_built, n_sent;
};

static inline void count_up(_Atomic uint64_t *n, uint64_t by)
{
    atomic_fetch_add_explicit(n, by, memory_order_relaxed);
}

/* Append an event as one JSON object. */
void event_json(sbx_buf *out, const sbx_event *e);
void event_topic(char out[TOPIC_BYTES], const char *owner);

/* room.c: STREAM, but for event_room_on_bus() */
room *event_room_make(sbx_events *e, const char *owner);
void event_room_free(room *r);
/* Have the viewers served soon, but not before the pace allows the next frame. */
void event_room_schedule(room *r, int64_t delay_ms);
/* Look now if there is more. @param seq  0: not known. */
void event_room_told(room *r, uint64_t seq);
void event_room_on_bus(void *arg, const char *topic, const sbx_bus_item *items, size_t count,
                       bool reset);

/* read.c: STREAM */
void event_read_if_needed(room *r);
void event_read_wait_no_more(room *r);
void event_poll_start(sbx_events *e);

/* viewer.c: STREAM */
void event_viewer_free(viewer *v); /* out of its room; the reply is let go */
bool event_viewer_lacks(const viewer *v);
void event_viewers_serve(room *r, const reading *f);
void event_viewers_end(room *r); /* those that had everything */

#endif
