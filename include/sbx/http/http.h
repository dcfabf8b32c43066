/* The HTTP and WebSocket server: connections, parsing, limits, routing, responses.
 *
 * libwebsockets (libev loop) carries the connections on LOOP and is seen by nobody else; HTTP and
 * WebSocket are spoken by this layer itself (src/http/server.c says why). A request is parsed,
 * routed and checked on LOOP, then copied into an sbx_request and handed to a worker lane; the
 * connection is parked. Whoever finishes it, on any thread, does so through its sbx_reply. A client
 * that closes its sending side counts as gone.
 *
 * Knows no sandbox: routes, authentication and handlers are given by the caller. */
#ifndef SBX_HTTP_HTTP_H
#define SBX_HTTP_HTTP_H

#include "sbx/core/buf.h"
#include "sbx/core/error.h"
#include "sbx/core/limits.h"
#include "sbx/core/rates.h"
#include "sbx/run/lanes.h"
#include <stdatomic.h>

typedef struct sbx_http sbx_http;
typedef struct sbx_reply sbx_reply;

typedef enum sbx_method {
    SBX_GET,
    SBX_HEAD,
    SBX_POST,
    SBX_PUT,
    SBX_PATCH,
    SBX_DELETE,
    SBX_OPTIONS_M,
    SBX_METHOD_OTHER /* never reaches a handler */
} sbx_method;

/* What representation the client asked for (Accept header or upgrade). */
typedef enum sbx_accept { SBX_ACCEPT_JSON, SBX_ACCEPT_SSE, SBX_ACCEPT_WS } sbx_accept;

typedef struct sbx_param {
    char *name, *value; /* decoded, UTF-8, no NUL */
} sbx_param;

struct sbx_route;

/* A parsed request; owned by the job that runs it; immutable. Freed by the http layer after the
 * handler returned, so a handler that parks copies what it needs. */
typedef struct sbx_request {
    const struct sbx_route *route;
    sbx_method method;
    sbx_accept accept;
    char request_id[SBX_MAX_REQUEST_ID_BYTES + 1];
    char client[64]; /* its address without a port: the peer's, or what trusted proxies tell */
    char *target;    /* path only, undecoded */
    sbx_param path[SBX_MAX_PATH_PARAMS];
    size_t path_count;
    sbx_param query[SBX_MAX_QUERY_PARAMS];
    size_t query_count;
    char *authorization; /* Authorization header or NULL; wiped when freed */
    char *ticket;        /* query parameter "ticket", taken out of `query`; or NULL */
    char *api_key;       /* X-API-Key header, or a ws subprotocol bearer; or NULL */
    char *content_type;  /* or NULL */
    char *idempotency_key;
    char *last_event_id;
    char *range, *if_range, *if_match; /* or NULL; as they were sent */
    const char *if_none_match;         /* or NULL; its first line */
    bool forwarded;                    /* X-Forwarded-For, Forwarded or X-Real-IP was present */
    char *body;                        /* NULL if empty */
    size_t body_len;
    int64_t length;      /* of a streamed body (SBX_BODY_STREAM): -1 if it is not known before */
    int64_t received_ms; /* monotonic: when it was read as a whole; streamed: its head */
    sbx_reply *reply;    /* borrowed; ref it to keep it after the handler returns */
} sbx_request;

const char *sbx_request_path(const sbx_request *r, const char *name);  /* NULL if absent */
const char *sbx_request_query(const sbx_request *r, const char *name); /* NULL if absent */

/* A handler runs on a worker of its lane (SBX_JOB scope set: cancel flag and deadline). It either
 * finishes the reply, or takes a reference, arranges that somebody else does, and returns 0. A
 * return of -1 makes the http layer answer the problem in `err`. */
typedef int (*sbx_handler)(void *app, const sbx_request *r, sbx_err *err);

/* What a handler returns that keeps the request itself, to have it run again later: it must not
 * touch it any more, and exactly one call of sbx_request_again() must follow, from any thread. The
 * deadline stays. */
#define SBX_KEPT 1
void sbx_request_again(const sbx_request *r);

typedef struct sbx_route {
    const char *method; /* "GET" */
    const char *path;   /* "/sandboxes/{id}/logs"; a parameter is one whole segment */
    const char *scope;  /* what the key must allow; NULL: no authentication */
    sbx_lane lane;
    size_t max_body;      /* bytes; 0: a body is refused */
    unsigned accepts;     /* SBX_CAN_*; 0 means one representation */
    const char *produces; /* media type of its answers, for Accept; NULL: application/json */
    const char *query;    /* names of its query parameters, "since,limit,metadata.*"; others are
                             refused; NULL: it has none */
    int64_t deadline_ms;
    sbx_handler handler;
    const char *name;    /* metrics label and operationId, e.g. "sandbox_get" */
    const char *summary; /* for the API document */
} sbx_route;

#define SBX_CAN_SSE  1u
#define SBX_CAN_WS   2u
#define SBX_CAN_ANY  4u /* the type of the answer is not known before: Accept is not judged */
#define SBX_BODY_RAW 8u /* the body is bytes: its type is not judged */
/* The same, and it is not collected: the handler runs when the head is there, and the body is taken
 * by sbx_reply_body(). max_body counts what arrives, so TOO_LARGE may come in the middle. */
#define SBX_BODY_STREAM 16u

#define SBX_BEARER_LEN 23
typedef struct sbx_bearer {
    char id[SBX_BEARER_LEN + 1];
} sbx_bearer;

typedef struct sbx_http_config {
    const char *listen; /* "127.0.0.1:7070", "[::1]:0", ":7070"; port 0: any, see sbx_http_port() */
    const sbx_route *routes;
    size_t route_count;
    sbx_lanes *lanes;
    void *app; /* given to handlers */
    /* Runs before each handler whose route has a scope, on the worker. NULL: no check. */
    int (*authenticate)(void *app, const sbx_request *r, sbx_err *err);
    /* Called once per finished request, on LOOP: for logs and metrics. `route` is NULL if none
     * matched. duration_us runs from the last byte of the request's head to the end of the reply.
     */
    void (*observe)(void *app, const sbx_route *route, sbx_method method, int status,
                    int64_t duration_us, size_t bytes_out, const char *request_id);
    /* Called once, on LOOP, when a drain takes no more connections: what waits long should end. May
     * be NULL. */
    void (*draining)(void *app);
    int64_t header_timeout_s, body_timeout_s, keepalive_s, max_connections; /* 0: the default */
    const char *trusted_proxies;                                            /* see http/proxies.h */
    /* Whose pages may read answers (CORS): origins separated by commas, "*", or NULL */
    const char *cors_origins;
    /* Called on LOOP every SBX_KEYS_CHECK_MS with the bearers of all streams, and of requests that
     * have been in work for longer than that, if there are any; the same one may be there more than
     * once. Owns `ids`, to be freed with free(). NULL: nobody looks. */
    void (*bearers)(void *app, sbx_bearer *ids, size_t count);
    int64_t stall_ms; /* for each 16 KiB of an answer that a client takes slowly; 0: 45 s */
    int64_t ping_ms;  /* of idle streams; 0: 20 s. Silence of two pings ends a WebSocket */
} sbx_http_config;

/** Bind and prepare. The table is checked: sorted by path then method, unique.
 * @return 0, or -1 with INVALID (bad table or address) or CAPACITY (cannot bind). */
int sbx_http_new(const sbx_http_config *c, sbx_http **ret, sbx_err *err) SBX_MUST_CHECK;
int sbx_http_port(const sbx_http *h);
/** Serve; the calling thread becomes LOOP. Returns after sbx_http_drain() has finished. */
void sbx_http_run(sbx_http *h);
/** Graceful end, from any thread or a signal handler. For `wait_ms` all goes on, but that every
 * answer is the last of its connection (`Connection: close`), and idle ones are closed that nobody
 * has used for so long: whoever closes his earlier never meets one that is just closed. Then no
 * connection is taken any more, and running requests may finish up to `ms`. Streams that a client
 * can take up again are ended: WebSockets (1001) and event streams of GETs; other streams count as
 * running. Then sbx_http_run() returns. A second call ends at once. */
void sbx_http_drain(sbx_http *h, int64_t wait_ms, int64_t ms);
/** End the requests of a bearer, or of all bearers of a holder, that are in work, from any thread:
 * one that nobody has answered is answered 401, an event stream ends behind an event `error`, a
 * WebSocket behind such a message with the code SBX_CLOSE_UNAUTHORIZED, any other stream is cut.
 * Who works for them learns that the client left, and one that is kept (SBX_KEPT) is not run again.
 * Left alone are requests whose answers are held back (sbx_reply_intercept()). */
void sbx_http_end_bearer(sbx_http *h, const char *id);
#define SBX_CLOSE_UNAUTHORIZED 4401
bool sbx_http_draining(const sbx_http *h);
size_t sbx_http_connections(const sbx_http *h); /* any thread */
/** After run returned and no worker runs any more: tell the watchers of replies that it is over. */
void sbx_http_settle(sbx_http *h);
void sbx_http_free(sbx_http *h); /* after run returned and all replies were dropped */
SBX_DEFINE_CLEANUP(sbx_http, sbx_http_free)

/* --- replies: any thread --- */

sbx_reply *sbx_reply_ref(sbx_reply *r);
/** Let go. The last one sends a 500 problem if nothing was answered, and cuts a stream that was
 * begun and not ended so that the client sees it (no last chunk; WebSocket 1011). NULL: no-op. */
void sbx_reply_unref(sbx_reply *r);

typedef struct sbx_header {
    const char *name, *value; /* lower-case name without colon */
} sbx_header;

/** Finish with a complete response. Takes the content of `body` (left empty; may be NULL).
 * Second and later finishes are ignored. A failed buffer becomes a 500 problem.
 *
 * JSON and text get what RFC 9110 has for them: a 200 to GET or HEAD a strong ETag, and a 304 where
 * the client has it; over 1 KiB gzip where it is taken (by workers only). A handler's own `etag`,
 * `content-encoding` and `cache-control` headers are respected. 429 and 503 carry Retry-After. */
void sbx_reply_send(sbx_reply *r, int status, const char *content_type, const sbx_header *headers,
                    size_t header_count, sbx_buf *body);
/** The same for application/json; from STREAM and LOOP a worker compresses it first. */
void sbx_reply_json(sbx_reply *r, int status, sbx_buf *body);
/** Finish with application/problem+json; Retry-After where the code wants one. A failure of the
 * server is logged, and its text replaced where it tells of the store or of the inside. */
void sbx_reply_problem(sbx_reply *r, const sbx_err *err);
/** The same with one more header. */
void sbx_reply_problem_with(sbx_reply *r, const sbx_err *err, const sbx_header *more);

/** The problem as a value within another answer; what it tells and logs as sbx_reply_problem(). */
void sbx_reply_problem_json(const sbx_reply *r, const sbx_err *err, sbx_buf *out);

/* Streams. Whoever writes to an event stream writes whole events, because pings (": ping") are put
 * between writes. For SBX_ACCEPT_WS begin() completes the upgrade, each write is one text message
 * and end() closes with 1000; problems before begin() are plain HTTP answers to the upgrade
 * request. */
typedef enum sbx_push { SBX_PUSH_OK, SBX_PUSH_FULL, SBX_PUSH_GONE } sbx_push;

/** Start a streamed response: chunked HTTP/1.1, to HTTP/1.0 ended by the close (SSE: with
 * cache-control: no-store, x-accel-buffering: no). */
void sbx_reply_begin(sbx_reply *r, int status, const char *content_type);

/** The same with headers of its own (an event stream has none), and, unless `length` is -1, with
 * that Content-Length: a stream that is ended with fewer bytes, or written more, is cut so that the
 * client sees it. To HEAD the head alone is sent. */
void sbx_reply_begin_with(sbx_reply *r, int status, const char *content_type,
                          const sbx_header *headers, size_t header_count, int64_t length);
/** Does If-None-Match of a GET or HEAD name this entity tag (with its quotes)? Answer 304 then. */
bool sbx_reply_has_tag(const sbx_reply *r, const char *tag);

/** Queue bytes (HTTP) or one message (WebSocket). FULL: nothing was taken, more than
 * SBX_MAX_OUTBOX_BYTES would wait; on_ready is called when half of it is free again. A single
 * write larger than the box is taken when the box is empty. GONE: the client left. */
sbx_push sbx_reply_write(sbx_reply *r, const void *data, size_t len);
sbx_push sbx_reply_write_binary(sbx_reply *r, const void *data, size_t len); /* WebSocket */
void sbx_reply_end(sbx_reply *r); /* after all that was queued */
/** End a stream so that the client sees that it is not whole (see sbx_reply_unref()). */
void sbx_reply_abort(sbx_reply *r);

/** Be told, on LOOP, when a full box has room (`ready`), a WebSocket message of the client arrived
 * (`message`: whole, at most 64 KiB, text is valid UTF-8), when there is more of a streamed body,
 * or its end, after sbx_reply_body() found nothing (`body`), and when it is over (`closed`: the
 * client left, or the response went out whole; sbx_reply_gone() tells which). Any may be NULL. They
 * must only post to another thread, or call sbx_reply_*().
 *
 * Once per reply, and before sbx_reply_begin() where messages matter. `closed` comes exactly once
 * and nothing after it; it may come at any moment, also before this function returns, so `arg`
 * needs a reference of its own for it. Until then the callbacks hold a reference of the reply. */
typedef struct sbx_reply_events {
    void (*ready)(void *arg);
    void (*message)(void *arg, const char *data, size_t len, bool binary);
    void (*closed)(void *arg);
    void (*body)(void *arg);
    void *arg;
} sbx_reply_events;
void sbx_reply_watch(sbx_reply *r, const sbx_reply_events *events);

/** Take what has arrived of a streamed body (SBX_BODY_STREAM). Any thread, one taker at a time, who
 * watches the reply. At most 256 KiB and one read wait to be taken; then the client is not read
 * from. The first call tells a client that expects it to send the body (100 Continue). A body that
 * is not taken up to its end ends the connection behind the answer.
 *
 * @param into  emptied, and exchanged for what has arrived: with the same buffer each time, two go
 *              round. The caller's, as is its content.
 * @return 1: `into` has bytes, or is empty and `body` will be called; 0: all was taken; -1 with
 *         CANCELLED (the client left), TOO_LARGE, INVALID (malformed chunks) or CAPACITY, which is
 *         to be answered. */
int sbx_reply_body(sbx_reply *r, sbx_buf *into, sbx_err *err) SBX_MUST_CHECK;

/** Have the answer tell of a limit, whatever it will be. On the worker, before the handler runs or
 * by it before it answers; the last one counts. */
void sbx_reply_rate(sbx_reply *r, const sbx_rate_note *note);
bool sbx_reply_rated(const sbx_reply *r); /* was there one? */

/* A complete answer that was held back. */
typedef struct sbx_answer {
    int status;
    char *location;  /* owned; or NULL. Other headers are not kept */
    sbx_buf body;    /* JSON; or a copy of a stream's events, failed if there were too many */
    sbx_err problem; /* code SBX_OK if it is none */
    bool stream;     /* what it told was sent as it came; only the end is held back */
} sbx_answer;

/** Have fn(arg, reply, answer) called, once, by whoever finishes the reply, in place of sending.
 * It owns the answer and a reference of the reply, and sends it with sbx_answer_send(), then or
 * later. A stream is begun all the same, and finished by sbx_reply_end_kept(). On the worker,
 * before the handler runs. */
void sbx_reply_intercept(sbx_reply *r, void (*fn)(void *arg, sbx_reply *r, sbx_answer *a),
                         void *arg);
void *sbx_reply_interceptor(sbx_reply *r); /* `arg` while nothing was answered, or NULL */
/** End a stream whose answer is held back, once, also if its client left. Takes the copy of what
 * it told; failed: more than was kept. Any thread. */
void sbx_reply_end_kept(sbx_reply *r, sbx_buf *told);
/** Send it after all, with one more header or NULL. Frees the answer, drops the reference. */
void sbx_answer_send(sbx_reply *r, sbx_answer *a, const sbx_header *more);

/** Say by whose right the request is served, so that it can be ended with that. Once, by the
 * worker, before the handler runs.
 * @param id, holder  of the right and of whose it is; at most SBX_BEARER_LEN bytes.
 * @param until_ms  wall clock: when the right ends by itself; 0: never. */
void sbx_reply_set_bearer(sbx_reply *r, const char *id, const char *holder, int64_t until_ms);

/* What is told of an answer, or of a stream when it begins. Texts are borrowed for the call. */
typedef struct sbx_answered {
    int status;
    sbx_code code;             /* SBX_OK if it is no problem, or one that was answered before */
    const char *location;      /* the header, or NULL */
    const char *object, *part; /* of sbx_reply_about(), or "" */
} sbx_answered;

/** Have fn(arg, answered) called once by whoever gives the answer or begins the stream, on any
 * thread, before it is sent; with NULL if there will be none. Before the handler runs.
 * @return false, and fn is not called: somebody is told already (the request is run again). */
bool sbx_reply_on_answer(sbx_reply *r, void (*fn)(void *arg, const sbx_answered *a), void *arg);

/** For who is told of the answer: ids of what the request makes or uses, where its path does not
 * say. Before the answer; any thread. @param part  something within the object, or NULL. */
void sbx_reply_about(sbx_reply *r, const char *object, const char *part);

/** Have fn(arg) called once when the connection is done with this reply, answered or not: on LOOP,
 * or at once by the caller if it is over already. Once per reply; fn must not block. */
void sbx_reply_on_over(sbx_reply *r, void (*fn)(void *arg), void *arg);

bool sbx_reply_gone(const sbx_reply *r); /* the client left */
const atomic_bool *sbx_reply_cancel_flag(const sbx_reply *r);
const char *sbx_reply_request_id(const sbx_reply *r);

#endif
