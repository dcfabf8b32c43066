/* Numbered streams: what those of logs and of events have in common towards a client.
 *
 * Items are JSON objects on one line, each with a number. An event stream has them one by one
 * ("id: NUMBER\ndata: ITEM\n\n") and the events `gap` and `end`; a WebSocket has text frames: one
 * that holds several items, {"type":"gap","from","to"}, {"type":"end"} before the close.
 *
 * Threads: a feed is its owner's; who calls sbx_feed_query_read() is a WORKER. */
#ifndef SBX_HTTP_FEED_H
#define SBX_HTTP_FEED_H

#include "sbx/http/http.h"

/* Where a client wants to begin. */
typedef struct sbx_feed_query {
    bool has_since; /* `since`, `cursor`, or the Last-Event-ID header */
    uint64_t since; /* only items above it; at most INT64_MAX */
    int tail;       /* -1: not given */
    int limit;      /* 0: not given; else 1..SBX_MAX_LIST_ITEMS; pages only */
} sbx_feed_query;

/** Read `since`, `cursor` (the same, for lists), `tail`, `limit` and the Last-Event-ID header.
 * Where several tell a start: Last-Event-ID (it is sent by an EventSource that reconnects to the
 * URL it began with), then `cursor`, then `since`.
 * @param max_tail  the most that `tail` may be.
 * @return 0, or -1 with INVALID, naming the field. */
int sbx_feed_query_read(const sbx_request *r, int max_tail, sbx_feed_query *ret,
                        sbx_err *err) SBX_MUST_CHECK;

/** Read a query parameter of digits.
 * @return 0 (`ret` stays if it is absent), or -1 with INVALID. */
int sbx_feed_number(const sbx_request *r, const char *field, int64_t max, int64_t *ret,
                    sbx_err *err) SBX_MUST_CHECK;

/** Write {"items":[…],"nextCursor":"LAST"|null} to `out`.
 * @param items  joined by commas. @param more  there are items behind `last`.
 * @return 0, or -1 with TOO_LARGE. */
int sbx_feed_page(sbx_buf *out, const sbx_buf *items, bool more, uint64_t last,
                  sbx_err *err) SBX_MUST_CHECK;

typedef struct sbx_feed {
    sbx_reply *reply; /* a reference of the owner's */
    bool websocket;
    bool blocked; /* its outbox is full: the owner clears this when the reply is ready */
    bool gone;    /* the client left, or the end was sent */
} sbx_feed;

/* These queue one message each. False if it was not taken: blocked or gone tells why. */
bool sbx_feed_push(sbx_feed *f, const char *data, size_t len);
bool sbx_feed_gap(sbx_feed *f, uint64_t from, uint64_t to);
bool sbx_feed_delayed(sbx_feed *f);
bool sbx_feed_end(sbx_feed *f);

/** Add an item to a message that is being made in `message` (empty: the first).
 * @param opening  what a WebSocket's message begins with: "{\"type\":\"logs\",\"entries\":[". */
void sbx_feed_add(sbx_buf *message, bool websocket, const char *opening, uint64_t seq,
                  const char *item, size_t len);
/** Close a message with items; nothing to do for an empty one. */
void sbx_feed_close(sbx_buf *message, bool websocket);

/* Whole messages for a stream, of which the client's box did not take all: the rest waits here, in
 * order, and whoever makes them makes no more until push() is true. */
typedef struct sbx_feed_queue {
    sbx_reply *reply; /* borrowed */
    sbx_buf waiting;  /* each message behind its length */
    size_t sent;      /* of `waiting` */
} sbx_feed_queue;

/** @param max  bytes that may wait. */
void sbx_feed_queue_init(sbx_feed_queue *q, sbx_reply *reply, size_t max);
void sbx_feed_queue_done(sbx_feed_queue *q);
void sbx_feed_queue_add(sbx_feed_queue *q, const char *message, size_t len);
/** Hand on what the client takes. @return false: it takes no more now. */
bool sbx_feed_queue_push(sbx_feed_queue *q);

#endif
