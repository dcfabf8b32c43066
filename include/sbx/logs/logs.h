/* The log hub: lines of sandboxes on their way from the agent channel to the bus, and from the bus
 * to the clients that watch.
 *
 * Producer side: the owner of a sandbox's channel appends entries. They are serialised once,
 * collected for at most SBX_LOG_BATCH_MS or SBX_LOG_BATCH_BYTES, and published on the bus topic
 * "logs:{id}", which keeps the history. Query side: one page of the history. Viewers: SSE or
 * WebSocket streams, which start from the history and continue live by sequence number, on any
 * worker of the installation.
 *
 * A viewer is a position. What it lacks comes from the room's short window of live entries or from
 * the history; a bus message that was lost, or a viewer that was too slow, is just a position that
 * lags behind. Only what the history does not have either is told as a gap. Frames are built once
 * for all viewers at the same position, and no viewer makes anybody else wait: what does not fit
 * into its connection's outbox is not queued here.
 *
 * While the bus is away the worker that holds a sandbox serves its viewers by itself; others are
 * told `delayed`, and get by number what they lack when it is back. A history that was lost is
 * filled again from the agents' journals; until then nobody is told a gap.
 *
 * An entry: {"seq","ts","stream","source","execId","data"}, and "encoding":"base64" if the line is
 * not UTF-8. */
#ifndef SBX_LOGS_LOGS_H
#define SBX_LOGS_LOGS_H

#include "sbx/bus/bus.h"
#include "sbx/core/agent_proto.h"
#include "sbx/http/feed.h"
#include "sbx/metrics/metrics.h"
#include "sbx/run/lanes.h"
#include "sbx/run/stream.h"

#define SBX_LOGS_DEFAULT_TAIL  100
#define SBX_LOGS_DEFAULT_LIMIT 50
#define SBX_LOGS_PAGE_BYTES    (8 * MIB) /* entries of one JSON page */

typedef struct sbx_logs sbx_logs;

typedef struct sbx_logs_config {
    sbx_stream *stream;
    sbx_lanes *lanes;     /* reads of the history run on its fast lane */
    sbx_bus *bus;         /* the hub takes the reader of the prefix "logs:" */
    sbx_metrics *metrics; /* or NULL */
    /* Called on STREAM when all entries up to `seq` went to the bus: they may be acknowledged to
     * the agent. Must not call the hub. May be NULL. */
    void (*acked)(void *arg, const char *sandbox_id, uint64_t seq);
    /* Called on STREAM when the history lost what comes from `from` on: the agent shall send again
     * what it still has of that. NULL for `sandbox_id`: all of them. May be NULL. */
    void (*again)(void *arg, const char *sandbox_id, uint64_t from);
    void *arg;
    int64_t linger_ms; /* history and room outlive sbx_logs_close(); 0: 10 s */
} sbx_logs_config;

sbx_logs *sbx_logs_new(const sbx_logs_config *c);

/** Submit no more jobs: to be called before the lanes are freed. Waits for STREAM. */
void sbx_logs_stop(sbx_logs *l);

/** After sbx_logs_stop(), and after the HTTP server and the lanes were freed; before the stream and
 * the bus are. Waits for STREAM; what is pending is published. */
void sbx_logs_free(sbx_logs *l);

/* --- producer: STREAM, by the one owner of the sandbox's channel --- */

/** Take entries. Those whose number is not above the last one appended are dropped (a journal that
 * was sent again), those that are not plausible (number 0) as well. Never blocks, never grows:
 * what the bus does not take is lost and becomes a gap.
 *
 * @param entries  in order; borrowed. */
void sbx_logs_append(sbx_logs *l, const char *sandbox_id, const sbx_log_entry *entries,
                     size_t count);

/** The channel goes to another worker: publish what is pending and forget the position. Viewers
 * and history stay. */
void sbx_logs_release(sbx_logs *l, const char *sandbox_id);

/** The sandbox is gone: publish what is pending, end its viewers once they have had everything,
 * and forget the history after `linger_ms`. Later appends are ignored. Any thread. */
void sbx_logs_close(sbx_logs *l, const char *sandbox_id);

/** The highest number in the history, 0 if none: where a new owner continues. Blocks (WORKER).
 * @return 0, or -1 with STORE_UNAVAILABLE. */
int sbx_logs_last_seq(sbx_logs *l, const char *sandbox_id, uint64_t *ret,
                      sbx_err *err) SBX_MUST_CHECK;

/** Tell the sandbox's viewers, on all workers, of its new state: {"type":"state","sandbox":…}, SSE
 * `event: state` with the sandbox as data. A viewer that lags gets the latest one only. Any thread.
 * @param sandbox_json  one JSON object without newlines; borrowed. */
void sbx_logs_state(sbx_logs *l, const char *sandbox_id, const char *sandbox_json);

/* --- queries --- */

typedef enum sbx_logs_source {
    SBX_LOGS_MAIN = SBX_SRC_MAIN,
    SBX_LOGS_EXEC = SBX_SRC_EXEC,
    SBX_LOGS_RUN = SBX_SRC_RUN,
    SBX_LOGS_SYSTEM = SBX_SRC_SYSTEM,
    SBX_LOGS_ALL,
} sbx_logs_source;

/* What a client asked for, from the parameters of the request. */
typedef struct sbx_logs_query {
    sbx_feed_query feed; /* its tail: at most SBX_LOG_HISTORY_LINES */
    uint64_t until;      /* only entries up to it; 0: no bound; pages only */
    sbx_logs_source source;
} sbx_logs_query;

/** Read where a request wants to begin (sbx_feed_query_read()), and its `until` and `source`.
 * @return 0, or -1 with INVALID, naming the field. */
int sbx_logs_query_read(const sbx_request *r, sbx_logs_query *ret, sbx_err *err) SBX_MUST_CHECK;

/** Append a page to `out`: {"items":[entries],"nextCursor":"SEQ"|null}, oldest first.
 *
 * The entries with since < seq <= until of the source, at most `limit` (default 50); nextCursor,
 * when there are more, is the number of the last entry and works as `cursor` or `since`. With
 * `tail` the newest so many of them; then `limit` defaults to `tail`. Includes what was appended
 * on this worker before the call. A page ends early at SBX_LOGS_PAGE_BYTES.
 * Blocks (WORKER). @return 0, or -1 with STORE_UNAVAILABLE, TIMEOUT, TOO_LARGE. */
int sbx_logs_page(sbx_logs *l, const char *sandbox_id, const sbx_logs_query *q, sbx_buf *out,
                  sbx_err *err) SBX_MUST_CHECK;

/** Turn a parked reply into a viewer. Begins the response (200, text/event-stream or the upgrade)
 * and takes a reference; the viewer is removed when the client leaves or after the end. Any
 * thread.
 *
 * Starts after `since` if the query has one, else with the newest `tail` entries (default
 * SBX_LOGS_DEFAULT_TAIL; 0: only what comes). Only entries of `source`; what the filter leaves out
 * is no gap. `until` and `limit` are for pages.
 *
 * WebSocket: text frames {"type":"logs","entries":[…]} at most one per SBX_LOG_BATCH_MS,
 * {"type":"gap","from","to"}, {"type":"delayed"}, {"type":"state","sandbox"}, {"type":"end"}
 * before the close.
 * SSE: "id: SEQ\ndata: {entry}\n\n", and the events gap {"from","to"}, delayed, state and end. */
void sbx_logs_view(sbx_logs *l, const char *sandbox_id, const sbx_logs_query *q, sbx_reply *reply,
                   bool websocket);

typedef struct sbx_logs_stats {
    uint64_t viewers, rooms;                /* now */
    uint64_t frames_built, frames_sent;     /* of log entries, since the start */
    uint64_t gaps, fetches, lines, dropped; /* since the start; fetches: that are done */
} sbx_logs_stats;

/** Any thread. */
void sbx_logs_stats_get(const sbx_logs *l, sbx_logs_stats *ret);

#endif
