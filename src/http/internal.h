/* What the files of this layer share: the server, a connection, a reply, and who may touch them.
 *
 * Everything of `sbx_http` and `conn` belongs to LOOP unless said otherwise. A reply is the one
 * object that crosses threads: it names its connection by id, never by pointer, and LOOP looks the
 * id up when the reply has something to say. */
#ifndef SBX_HTTP_INTERNAL_H
#define SBX_HTTP_INTERNAL_H

#include "sbx/core/id.h"
#include "sbx/core/ws.h"
#include "sbx/http/chunk.h"
#include "sbx/http/head.h"
#include "sbx/http/http.h"
#include "sbx/http/proxies.h"
#include "sbx/http/router.h"
#include "sbx/run/mailbox.h"
#include <ev.h>
#include <pthread.h>

struct lws;
struct lws_context;

#define TICK_S            0.25
#define IN_MUTE_BYTES     (16 * KIB)  /* pipelined bytes behind a running request */
#define IN_MAX_BYTES      (128 * KIB) /* never reached: reading stops long before */
#define RX_BYTES          (32 * KIB)  /* read at once */
#define LINGER_MS         2000        /* for a client to read its error and close */
#define LINGER_BYTES      MIB
#define LINGER_BODY_MS    30000       /* at most, for one that goes on sending its body */
#define BODY_AHEAD_BYTES  (256 * KIB) /* of a streamed body, waiting to be taken */
#define STALL_MS          45000       /* a client that takes nothing of a response */
#define PING_MS           20000
#define WS_CLOSE_MS       5000
#define MAX_WS_MESSAGE    (64 * KIB)
#define PROGRESS_BYTES    (16 * KIB)  /* what must move within a time-out for it to start anew */
#define MAX_BODIES_BYTES  (512 * MIB) /* request bodies in memory, of all connections */
#define SPARE_CONNECTIONS 32          /* beyond the maximum, to say 503 on */
#define HOLD_MS           250         /* for handshakes under way when a listener is to be closed */

typedef enum conn_state {
    C_HEAD,     /* between requests, or in the middle of a head */
    C_BODY,     /* a body is arriving */
    C_PARKED,   /* a request is with a worker, or whoever took it over */
    C_SENDING,  /* a complete response is going out */
    C_STREAM,   /* a streamed response */
    C_WS,       /* upgraded */
    C_WS_CLOSE, /* our close frame is out, the peer's is awaited */
    C_LINGER,   /* answered for good: input is dropped until the client closes */
    C_DOOMED,   /* to be closed before the loop waits again */
} conn_state;

/* Each kind of waiting has one duration, so that its list is ordered by itself. */
typedef enum conn_timer {
    T_NONE,
    T_HEAD,
    T_BODY,
    T_IDLE,
    T_STALL,
    T_LINGER,
    T_PING,
    T_WS_CLOSE,
    T_MUTED, /* not a time-out: parked and not reading, so a close must be asked for */
    T_COUNT
} conn_timer;

/* The state of reading WebSocket frames; exists from the upgrade on. */
typedef struct ws_in {
    unsigned char header[SBX_WS_MAX_HEAD];
    unsigned header_len, opcode;
    bool in_payload, fin, in_message, message_binary;
    uint64_t left;
    unsigned char mask[4], control[125];
    unsigned mask_at, control_len;
    sbx_buf message;
    int64_t last_rx_ms;
} ws_in;

typedef struct conn {
    struct conn *prev, *next; /* of its timer's list */
    conn_timer timer;
    int64_t since_ms;
    sbx_http *http;
    struct lws *wsi;
    int fd;
    uint32_t slot, generation;
    conn_state state;
    bool keep_alive, muted, blocked, advancing, flushing, served, sse, hang_up;
    sbx_buf in;
    size_t in_at, scanned; /* start of what is unread, and how far the head was searched */
    size_t lingered;
    int64_t linger_from_ms;
    bool chunked;
    uint64_t body_left;
    /* A streamed body: it arrives; it waits to be taken; its client waits to be told to send it.
     * Deaf: what comes in is dropped, and the connection ends behind this answer. */
    bool taking, stalled, go_on, deaf;
    uint64_t body_got; /* content so far */
    sbx_chunk chunk;
    sbx_buf body;
    struct job_box *box; /* the request whose body arrives */
    sbx_reply *reply;    /* of the request in work */
    const sbx_route *route;
    sbx_method method;
    int status;
    char request_id[SBX_MAX_REQUEST_ID_BYTES + 1];
    const char *origin; /* as in heading, with `vary` */
    unsigned vary;
    bool preflight;
    int64_t start_us;
    size_t bytes_out;
    size_t progress; /* bytes that had moved when the timer of the body, or of a stall, was set */
    sbx_buf head_out, body_out; /* going out, one after the other */
    size_t out_at, stream_inflight;
    ws_in *ws;
    char client[46];
} conn;

/* What every head says about its request. */
typedef struct heading {
    const char *request_id;
    const char *origin; /* who may read the answer: an origin, "*", or NULL; of http->cors */
    unsigned vary;
    const char *cache; /* unless a header says otherwise; NULL: no-store */
    sbx_rate_note rate;
} heading;

#define VARY_ENCODING 1u
#define VARY_ACCEPT   2u
#define VARY_ORIGIN   4u

/* A complete response before it has its form. */
typedef struct answer {
    int status;
    const char *content_type; /* or NULL */
    const sbx_header *headers;
    size_t header_count;
    sbx_buf body;
} answer;

/* Origins that may read answers. */
typedef struct cors {
    char **origins;
    size_t count;
    bool any;
} cors;

/* A streamed body. */
typedef enum in_state { IN_WHOLE, IN_OPEN, IN_FAILED } in_state;

typedef enum reply_phase {
    R_OPEN,
    R_FORMING, /* the answer is known, and being rendered */
    R_SENT,
    R_STREAM,
    R_ENDED,
    R_ABORTED
} reply_phase;

struct sbx_reply {
    atomic_int refs;  /* one for all users together, one of the connection, one per message */
    atomic_int users; /* handlers and whoever took the request over */
    sbx_http *http;   /* immutable, as all up to `mu` */
    uint64_t conn_id;
    const sbx_route *route;
    bool http10, head_only, read, gzip, ws;
    char *if_none_match; /* or NULL */
    const char *origin;  /* as in heading, with `vary` */
    unsigned vary;
    char ws_accept[29];
    bool ws_protocol;
    char request_id[SBX_MAX_REQUEST_ID_BYTES + 1];
    sbx_rate_note rate; /* the worker's until it answers, or hands the reply on */
    atomic_bool gone;
    atomic_bool kicked; /* a message to LOOP is on its way */

    pthread_mutex_t mu;
    reply_phase phase; /* guarded by mu, as all below */
    int status;
    bool sse;
    sbx_buf head, body; /* rendered; body is the outbox of a stream */
    size_t queued;      /* bytes of a stream that LOOP has not yet sent */
    bool full, watching, loop_left;
    bool counted;  /* a stream with Content-Length */
    uint64_t left; /* of that, not yet written */
    sbx_buf in;    /* of a streamed body: what has not been taken; counted in http->bodies */
    in_state in_state;
    bool in_wanted;  /* somebody has begun to take it */
    bool in_idle;    /* the taker found nothing, and is to be told */
    bool in_stalled; /* LOOP does not read on until it was taken */
    sbx_err in_err;  /* of IN_FAILED */
    sbx_reply_events events;
    void (*intercept)(void *arg, sbx_reply *r, sbx_answer *a);
    void *intercept_arg;
    void (*over)(void *arg);
    void *over_arg;
    sbx_bearer bearer, holder;
    int64_t bearer_until_ms; /* wall clock; 0: never */
    unsigned close_code;     /* of a WebSocket that is ended; 0: 1000 */
    void (*answered)(void *arg, const sbx_answered *a);
    void *answered_arg;
    char object[SBX_ID_LEN + 1], part[SBX_ID_LEN + 1];
};

/* A request on its way to and through a worker, in one allocation with its text. */
typedef struct job_box {
    sbx_request request;
    sbx_http *http;
    size_t body_counted; /* of http->bodies */
    int64_t deadline_ms; /* monotonic; 0: none */
    size_t text_len;
    char text[];
} job_box;

struct sbx_http {
    sbx_http_config config; /* immutable, as all up to `loop` */
    sbx_router *router;
    cors cors;
    sbx_proxies *proxies;
    char *listen;
    int port;
    struct ev_loop *loop;
    struct lws_context *lws;
    void *vhost;
    ev_io accept_watcher;
    ev_async wake_watcher; /* its send is safe from threads and signal handlers */
    ev_timer tick_watcher;
    ev_prepare prepare_watcher;
    int listen_fd;
    bool accept_paused, starved; /* starved: of descriptors, said once */
    sbx_mailbox *mailbox;
    conn **slots;
    uint32_t *generations, *free_slots;
    size_t slot_count, free_count;
    conn *lists[T_COUNT];
    conn *doomed; /* linked by next */
    int64_t timeouts_ms[T_COUNT];
    int64_t now_ms;
    char date[40]; /* the header line */
    int64_t date_s;
    atomic_size_t count;
    atomic_size_t bodies;
    atomic_int drains;
    _Atomic int64_t drain_wait_ms, drain_wish_ms;
    int64_t bearers_ms; /* when they were last looked at */
    /* A drain: every answer is the last of its connection; no connection is begun any more, but
     * those under way are taken; the listener is closed, and what can be is ended. */
    bool draining_on_loop, holding, leaving;
    int64_t leave_at_ms, drain_until_ms;
};

/* conn.c */
conn *conn_new(sbx_http *h, int fd);
void conn_refuse(conn *c); /* over the maximum: say so and close */
void conn_input(conn *c, const char *data, size_t len);
void conn_flush(conn *c);
void conn_doom(conn *c);
void conn_closed(conn *c);  /* lws has closed the socket: free all */
void conn_hang_up(conn *c); /* send what is queued, then wait for the peer to close */
void conn_set_timer(conn *c, conn_timer t);
void conn_expired(conn *c); /* its timer ran out */
void conn_check_muted(conn *c);
conn *conn_find(sbx_http *h, uint64_t id);
uint64_t conn_id(const conn *c);
void conn_queue_out(conn *c, sbx_buf *head, sbx_buf *body);
void conn_append_out(conn *c, const void *data, size_t len); /* whole frames, behind the rest */
size_t conn_out_left(const conn *c);
void conn_listen(conn *c); /* there may be more input to look at, or room for it again */
void conn_leave(conn *c);  /* the transaction is over for its reply, though not the connection */
void conn_end_for_drain(conn *c);

/* request.c */
void request_free(job_box *b);
void request_start(conn *c, size_t len); /* a whole head of `len` bytes is in c->in */
void request_discard(conn *c);           /* before it was submitted */
void request_submit(conn *c);
void conn_problem(conn *c, const sbx_err *err, const char *allow);

/* body.c */
void body_begin(conn *c, const sbx_head *h); /* before the request is submitted */
/* Input for a body that is `taking`. @return how much of it was the body's. */
size_t body_feed(conn *c, const char *data, size_t len);
void body_wanted(conn *c);  /* the taker has begun, or made room */
void body_abandon(conn *c); /* an answer is here, and the body is not */

/* reply.c */
void reply_kick(sbx_reply *r); /* have LOOP look at it */
sbx_reply *reply_new(sbx_http *h, const conn *c, const sbx_head *head);
void reply_drop(sbx_reply *r);      /* the connection's or a message's reference */
void reply_void(sbx_reply *r);      /* nobody waits for an answer: dropping it sends none */
void reply_cut(sbx_reply *r);       /* ends a stream from this side */
void reply_abandoned(sbx_reply *r); /* LOOP has no more to do with it */
/* What LOOP found in a reply. */
typedef enum taken {
    TAKE_NOTHING,
    TAKE_RESPONSE, /* head and body of a complete response */
    TAKE_BEGIN,    /* the head of a stream */
    TAKE_MORE,     /* content of a stream */
    TAKE_END,
    TAKE_ABORT
} taken;
taken reply_take(sbx_reply *r, bool begun, sbx_buf *head, sbx_buf *body, int *status, bool *sse);
void reply_sent(sbx_reply *r, size_t bytes);
void reply_answer(sbx_reply *r, int status, const char *content_type, const sbx_header *headers,
                  size_t header_count, sbx_buf *body); /* whoever has it in the phase R_FORMING */
/* By whose right it is in work: copied to `ret` unless nobody's.
 * @return false: there is none, or its time is over (`*expired`). */
bool reply_bearer(sbx_reply *r, sbx_bearer *ret, bool *expired);
bool reply_is_by(sbx_reply *r, const char *id); /* of a bearer or of who holds it */
void reply_revoke(sbx_reply *r);                /* LOOP: as sbx_http_end_bearer() says */
void reply_message(sbx_reply *r, const char *data, size_t len, bool binary);

/* respond.c */
void respond_line(sbx_buf *out, const char *name, const char *value); /* one header */
void respond_head(sbx_buf *out, int status, const char *content_type, const sbx_header *headers,
                  size_t header_count, const heading *h);
void respond_rate(sbx_buf *out, const sbx_rate_note *note); /* nothing if no limit holds */
void respond_problem_json(sbx_buf *body, const sbx_err *err, const char *request_id);
void respond_problem(sbx_buf *head, sbx_buf *body, const sbx_err *err, const char *allow,
                     const heading *h);
const char *respond_reason(int status);

/* represent.c */
void represent(const sbx_reply *r, answer *a, sbx_buf *head); /* renders; may change the body */
/* Has a worker give JSON its form. @return false if there is no need, or no room. */
bool represent_elsewhere(sbx_reply *r, int status, sbx_buf *body);

/* cors.c */
int cors_new(const char *list, cors *ret, sbx_err *err) SBX_MUST_CHECK;
void cors_done(cors *c);
const char *cors_match(const cors *c, const char *origin); /* what may be answered, or NULL */
size_t cors_preflight(const char *allow, sbx_header out[4]);

/* bearers.c */
void bearers_tick(sbx_http *h);

/* websocket.c */
void ws_begin(conn *c);
void ws_free(ws_in *w);
void ws_input(conn *c, const char *data, size_t len);
void ws_close(conn *c, unsigned code);
void ws_ping(conn *c);

/* server.c */
void server_wake(void *http);
void server_left(sbx_http *h); /* a connection is gone */

#endif
