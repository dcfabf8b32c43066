/* The event hub: from the table of events to the clients that watch what happens to an owner's
 * sandboxes.
 *
 * PostgreSQL is the only source: a viewer is a position in the owner's numbers, and everything it
 * is sent was read behind that position. The bus topic "events:{userId}" carries signals only,
 * {"seq":N}, that tell when to read; a poll heals what was not heard. So nothing is missed or
 * doubled between history and live, on any worker. Viewers of one owner share reads and frames; one
 * that is slow just lags. A `gap` means events that are older than SBX_EVENT_DAYS.
 *
 * An event: {"seq","ts","type","sandboxId","data":{"from","to","reason"}}. */
#ifndef SBX_EVENTS_EVENTS_H
#define SBX_EVENTS_EVENTS_H

#include "sbx/bus/bus.h"
#include "sbx/core/id.h"
#include "sbx/http/feed.h"
#include "sbx/metrics/metrics.h"
#include "sbx/run/stream.h"
#include "sbx/store/events.h"

#define SBX_EVENTS_DEFAULT_LIMIT 50

typedef struct sbx_events sbx_events;

typedef struct sbx_events_config {
    sbx_stream *stream;
    sbx_lanes *lanes; /* reads run on the fast lane */
    sbx_store *store;
    sbx_bus *bus;         /* the hub takes the reader of the prefix "events:" */
    sbx_metrics *metrics; /* or NULL */
    int64_t poll_ms;      /* 0: 2 s */
} sbx_events_config;

sbx_events *sbx_events_new(const sbx_events_config *c);

/** Submit no more jobs: to be called before the lanes are freed. Waits for STREAM. */
void sbx_events_stop(sbx_events *e);

/** After sbx_events_stop(), when no job runs any more; before the stream and the bus are freed.
 * Waits for STREAM. */
void sbx_events_free(sbx_events *e);

/** Tell viewers on all workers that an event was written. Any thread; never blocks.
 * @param seq  its number, 0 if it is not known. */
void sbx_events_written(sbx_events *e, const char *owner, uint64_t seq);

/* What a client asked for. */
typedef struct sbx_events_query {
    sbx_feed_query feed;
    const char *sandbox; /* borrowed of the request; NULL: any */
    const char *type;    /* the same: "sandbox.running" */
} sbx_events_query;

/** Read a request's `sandboxId`, `type`, and where it wants to begin (sbx_feed_query_read(), its
 * tail at most SBX_MAX_LIST_ITEMS).
 * @return 0, or -1 with INVALID, naming the field. */
int sbx_events_query_read(const sbx_request *r, sbx_events_query *ret, sbx_err *err) SBX_MUST_CHECK;

/** Append a page to `out`: {"items":[events],"nextCursor":"SEQ"|null}, oldest first: what follows
 * `since` (from the oldest that is kept, if it is not given), or with `tail` the newest so many of
 * it. At most `limit` (default SBX_EVENTS_DEFAULT_LIMIT, or `tail`); nextCursor, when there are
 * more, works as `cursor` or `since`.
 * Blocks (WORKER). @return 0, or -1 with NOT_FOUND (no such sandbox of this owner), TOO_LARGE or
 * those of the store. */
int sbx_events_page(sbx_events *e, const char *owner, const sbx_events_query *q, sbx_buf *out,
                    sbx_err *err) SBX_MUST_CHECK;

/** Turn a reply into a viewer: looks up where it starts, begins the response and takes a reference.
 * Blocks (WORKER).
 *
 * Starts after `since` if the query has one, else with the newest `tail` events (default 0: only
 * what comes). What the filter leaves out is no gap. The stream of one sandbox ends after the event
 * "sandbox.deleted".
 *
 * WebSocket: text frames {"type":"events","events":[…]} at most one per SBX_LOG_BATCH_MS,
 * {"type":"gap","from","to"}, {"type":"end"} before the close.
 * SSE: "id: SEQ\ndata: {event}\n\n", and the events gap {"from","to"} and end.
 *
 * @return 0, or -1 as sbx_events_page(); nothing was begun then. */
int sbx_events_view(sbx_events *e, const char *owner, const sbx_events_query *q, sbx_reply *reply,
                    bool websocket, sbx_err *err) SBX_MUST_CHECK;

typedef struct sbx_events_stats {
    uint64_t viewers, rooms;                   /* now */
    uint64_t reads, polls, frames_built, sent; /* since the start */
} sbx_events_stats;

/** Any thread. */
void sbx_events_stats_get(const sbx_events *e, sbx_events_stats *ret);

#endif
