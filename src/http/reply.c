/* Replies: how an answer travels from any thread to LOOP.
 *
 * The finishing thread renders the response into the reply and posts the reply to LOOP's mailbox,
 * at most once at a time. LOOP looks up the connection by id, finds that it still waits for this
 * reply, and moves the bytes over. A stream works alike, with the reply as its outbox.
 *
 * References: all users (handlers, watchers) together hold one, counted in `users` so that the
 * last of them is noticed; the connection holds one; each message on its way holds one.
 *
 * Locks: reply.mu only, never held across a callback, a post or I/O. */
#include "internal.h"

#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include <stdio.h>

#define MAX_RESPONSE_HEAD (16 * KIB)

/* The request's text does not live as long as a parked reply. */
static char *joined(const sbx_list *list)
{
    sbx_buf b = SBX_BUF_INIT(SBX_MAX_URI_BYTES + SBX_MAX_HEADER_BYTES);

    for (size_t i = 0; i < list->count; i++) {
        sbx_buf_adds(&b, i ? ", " : "");
        sbx_buf_adds(&b, list->lines[i]);
    }
    return b.len ? sbx_buf_steal(&b) : NULL;
}

sbx_reply *reply_new(sbx_http *h, const conn *c, const sbx_head *head)
{
    sbx_reply *r = sbx_alloc(sizeof(*r));

    atomic_init(&r->refs, 2);
    atomic_init(&r->users, 1);
    atomic_init(&r->gone, false);
    atomic_init(&r->kicked, false);
    pthread_mutex_init(&r->mu, NULL);
    r->http = h;
    r->conn_id = conn_id(c);
    r->route = c->route;
    r->http10 = head->minor == 0;
    r->head_only = head->method == SBX_HEAD;
    r->read = head->method == SBX_GET || r->head_only;
    r->gzip = sbx_accepts_gzip(&head->accept_encoding);
    r->if_none_match = r->read ? joined(&head->if_none_match) : NULL;
    r->origin = c->origin;
    r->vary = c->vary;
    r->ws_protocol = head->ws_protocol;
    memcpy(r->request_id, c->request_id, sizeof(r->request_id));
    return r;
}

bool sbx_reply_on_answer(sbx_reply *r, void (*fn)(void *arg, const sbx_answered *a), void *arg)
{
    pthread_mutex_lock(&r->mu);
    bool first = !r->answered && r->phase == R_OPEN;
    if (first) {
        r->answered = fn;
        r->answered_arg = arg;
    }
    pthread_mutex_unlock(&r->mu);
    return first;
}

void sbx_reply_about(sbx_reply *r, const char *object, const char *part)
{
    pthread_mutex_lock(&r->mu);
    sbx_copy(r->object, sizeof(r->object), object);
    sbx_copy(r->part, sizeof(r->part), part ? part : "");
    pthread_mutex_unlock(&r->mu);
}

/* By the one that answers, before LOOP can see the answer. */
static void tell_answered(sbx_reply *r, int status, sbx_code code, const char *location)
{
    sbx_answered a = {.status = status, .code = code, .location = location};
    char object[sizeof(r->object)], part[sizeof(r->part)];

    pthread_mutex_lock(&r->mu);
    void (*fn)(void *arg, const sbx_answered *a) = sbx_steal(r->answered);
    memcpy(object, r->object, sizeof(object));
    memcpy(part, r->part, sizeof(part));
    pthread_mutex_unlock(&r->mu);
    a.object = object;
    a.part = part;
    if (fn)
        fn(r->answered_arg, &a);
}

void reply_drop(sbx_reply *r)
{
    if (atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (r->answered)
        r->answered(r->answered_arg, NULL);
    atomic_fetch_sub(&r->http->bodies, r->in.len);
    sbx_buf_done(&r->in);
    sbx_buf_done(&r->head);
    sbx_buf_done(&r->body);
    free(r->if_none_match);
    pthread_mutex_destroy(&r->mu);
    free(r);
}

static void deliver_closed(sbx_reply *r)
{
    sbx_reply_events events = {0};

    pthread_mutex_lock(&r->mu);
    bool now = r->watching && r->loop_left;
    if (now) {
        events = r->events;
        r->watching = false;
    }
    pthread_mutex_unlock(&r->mu);
    if (!now)
        return;
    if (events.closed)
        events.closed(events.arg);
    sbx_reply_unref(r);
}

static void on_loop(void *arg)
{
    sbx_reply *r = arg;
    conn *c = conn_find(r->http, r->conn_id);

    atomic_store(&r->kicked, false);
    if (c && c->reply == r) {
        body_wanted(c);
        conn_flush(c);
    } else {
        deliver_closed(r);
    }
    reply_drop(r);
}

void reply_kick(sbx_reply *r)
{
    if (atomic_exchange(&r->kicked, true))
        return;
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
    sbx_mailbox_post(r->http->mailbox, on_loop, r);
}

sbx_reply *sbx_reply_ref(sbx_reply *r)
{
    atomic_fetch_add_explicit(&r->users, 1, memory_order_relaxed);
    return r;
}

void sbx_reply_unref(sbx_reply *r)
{
    if (!r || atomic_fetch_sub_explicit(&r->users, 1, memory_order_acq_rel) != 1)
        return;
    pthread_mutex_lock(&r->mu);
    reply_phase phase = r->phase;
    if (phase == R_STREAM)
        r->phase = R_ABORTED;
    pthread_mutex_unlock(&r->mu);
    if (phase == R_OPEN) {
        sbx_err err;

        if (atomic_load(&r->gone))
            sbx_fail(&err, SBX_E_CANCELLED, "the client went away");
        else
            sbx_fail(&err, SBX_E_INTERNAL, "the request was left without an answer");
        sbx_reply_problem(r, &err);
    } else if (phase == R_STREAM) {
        reply_kick(r);
    }
    reply_drop(r);
}

/* Only one finish is the answer. @return whether it is this one. */
static bool claim(sbx_reply *r)
{
    pthread_mutex_lock(&r->mu);
    bool first = r->phase == R_OPEN;
    if (first)
        r->phase = R_FORMING;
    pthread_mutex_unlock(&r->mu);
    return first;
}

/* Gives a rendered response to LOOP. Takes both buffers. */
static void deliver(sbx_reply *r, int status, sbx_buf *head, sbx_buf *body)
{
    if (r->head_only)
        sbx_buf_done(body);
    pthread_mutex_lock(&r->mu);
    r->phase = R_SENT;
    r->status = status;
    r->head = *head;
    r->body = *body;
    pthread_mutex_unlock(&r->mu);
    *head = *body = (sbx_buf){0};
    reply_kick(r);
}

static void answer_problem(sbx_reply *r, const sbx_err *err, const sbx_header *more)
{
    sbx_buf head = SBX_BUF_INIT(MAX_RESPONSE_HEAD), body = SBX_BUF_INIT(MAX_RESPONSE_HEAD);
    heading h = {
        .request_id = r->request_id, .origin = r->origin, .vary = r->vary, .rate = r->rate};

    if (err->sandbox_id[0])
        sbx_reply_about(r, err->sandbox_id, NULL);
    tell_answered(r, sbx_code_status(err->code), err->code, NULL);
    respond_problem(&head, &body, err, NULL, &h);
    if (more)
        respond_line(&head, more->name, more->value);
    deliver(r, sbx_code_status(err->code), &head, &body);
}

static const char *location_of(const sbx_header *headers, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(headers[i].name, "location") == 0)
            return headers[i].value;
    return NULL;
}

void reply_answer(sbx_reply *r, int status, const char *content_type, const sbx_header *headers,
                  size_t header_count, sbx_buf *body)
{
    sbx_buf head = SBX_BUF_INIT(MAX_RESPONSE_HEAD);
    answer a = {.status = status,
                .content_type = content_type,
                .headers = headers,
                .header_count = header_count,
                .body = *body};

    *body = (sbx_buf){.max = body->max};
    if (!sbx_buf_failed(&a.body))
        represent(r, &a, &head);
    if (sbx_buf_failed(&a.body) || sbx_buf_failed(&head)) {
        sbx_err err;

        sbx_fail(&err, SBX_E_INTERNAL, "the response is larger than its limit");
        sbx_buf_done(&head);
        sbx_buf_done(&a.body);
        answer_problem(r, &err, NULL);
        return;
    }
    tell_answered(r, a.status, SBX_OK, location_of(headers, header_count));
    deliver(r, a.status, &head, &a.body);
}

void sbx_reply_rate(sbx_reply *r, const sbx_rate_note *note)
{
    r->rate = *note;
}

bool sbx_reply_rated(const sbx_reply *r)
{
    return r->rate.policy != NULL;
}

void sbx_reply_intercept(sbx_reply *r, void (*fn)(void *arg, sbx_reply *r, sbx_answer *a),
                         void *arg)
{
    pthread_mutex_lock(&r->mu);
    r->intercept = fn;
    r->intercept_arg = arg;
    pthread_mutex_unlock(&r->mu);
}

void *sbx_reply_interceptor(sbx_reply *r)
{
    pthread_mutex_lock(&r->mu);
    void *arg = r->phase == R_OPEN ? r->intercept_arg : NULL;
    pthread_mutex_unlock(&r->mu);
    return arg;
}

/* @return whether somebody else has the claimed answer now; then the body is taken. */
static bool hold_back(sbx_reply *r, int status, const sbx_header *headers, size_t header_count,
                      sbx_buf *body, const sbx_err *problem)
{
    if (!r->intercept)
        return false;
    sbx_answer *a = sbx_alloc(sizeof(*a));
    a->status = status;
    a->body = *body;
    *body = (sbx_buf){.max = body->max};
    a->location = sbx_strdup(location_of(headers, header_count));
    if (problem)
        a->problem = *problem;
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
    r->intercept(r->intercept_arg, r, a);
    return true;
}

void sbx_reply_end_kept(sbx_reply *r, sbx_buf *told)
{
    sbx_answer *a = sbx_alloc(sizeof(*a));

    a->status = 200;
    a->stream = true;
    a->body = *told;
    *told = (sbx_buf){.max = told->max};
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
    r->intercept(r->intercept_arg, r, a);
}

void sbx_answer_send(sbx_reply *r, sbx_answer *a, const sbx_header *more)
{
    sbx_header headers[2];
    size_t count = 0;

    if (a->location)
        headers[count++] = (sbx_header){"location", a->location};
    if (more)
        headers[count++] = *more;
    if (a->stream)
        sbx_reply_end(r);
    else if (a->problem.code != SBX_OK)
        answer_problem(r, &a->problem, NULL);
    else
        reply_answer(r, a->status,
                     a->status < 400 ? "application/json" : "application/problem+json", headers,
                     count, &a->body);
    sbx_buf_done(&a->body);
    free(a->location);
    free(a);
    reply_drop(r);
}

/* What the store says of itself (addresses, statements) is for the operator, not for clients. */
static void for_clients(const sbx_reply *r, sbx_err *err)
{
    if (sbx_code_status(err->code) < 500 || err->code == SBX_E_CAPACITY)
        return;
    sbx_log_err(SBX_WARN, "request failed", err, "req_id", r->request_id, "route", r->route->name,
                "sandbox", *err->sandbox_id ? err->sandbox_id : NULL, NULL);
    if (err->code == SBX_E_STORE_UNAVAILABLE)
        sbx_copy(err->msg, sizeof(err->msg), "the database does not answer; try again shortly");
    else if (err->code == SBX_E_INTERNAL)
        sbx_copy(err->msg, sizeof(err->msg), "the server's log tells more, under this requestId");
}

void sbx_reply_problem_json(const sbx_reply *r, const sbx_err *err, sbx_buf *out)
{
    sbx_err told = *err;

    for_clients(r, &told);
    respond_problem_json(out, &told, r->request_id);
}

void sbx_reply_problem(sbx_reply *r, const sbx_err *err)
{
    sbx_reply_problem_with(r, err, NULL);
}

void sbx_reply_problem_with(sbx_reply *r, const sbx_err *err, const sbx_header *more)
{
    sbx_buf body = SBX_BUF_INIT(MAX_RESPONSE_HEAD);
    sbx_err told = *err;

    if (!claim(r))
        return;
    for_clients(r, &told);
    if (r->intercept)
        respond_problem_json(&body, &told, r->request_id);
    if (!hold_back(r, sbx_code_status(told.code), NULL, 0, &body, &told))
        answer_problem(r, &told, more);
}

void sbx_reply_send(sbx_reply *r, int status, const char *content_type, const sbx_header *headers,
                    size_t header_count, sbx_buf *body)
{
    sbx_buf none = {0};

    if (!body)
        body = &none;
    if (!claim(r))
        sbx_buf_done(body);
    else if (!hold_back(r, status, headers, header_count, body, NULL))
        reply_answer(r, status, content_type, headers, header_count, body);
}

void sbx_reply_json(sbx_reply *r, int status, sbx_buf *body)
{
    if (!claim(r))
        sbx_buf_done(body);
    else if (!hold_back(r, status, NULL, 0, body, NULL) && !represent_elsewhere(r, status, body))
        reply_answer(r, status, "application/json", NULL, 0, body);
}

static void upgrade_head(sbx_reply *r, sbx_buf *head)
{
    sbx_buf_adds(head, "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n"
                       "connection: Upgrade\r\nsec-websocket-accept: ");
    sbx_buf_adds(head, r->ws_accept);
    if (r->ws_protocol)
        sbx_buf_adds(head, "\r\nsec-websocket-protocol: sandboxd.v1");
    sbx_buf_adds(head, "\r\nx-request-id: ");
    sbx_buf_adds(head, r->request_id);
    sbx_buf_adds(head, "\r\n");
    respond_rate(head, &r->rate);
}

void sbx_reply_begin(sbx_reply *r, int status, const char *content_type)
{
    sbx_reply_begin_with(r, status, content_type, NULL, 0, -1);
}

static void stream_head(const sbx_reply *r, int status, const char *content_type,
                        const sbx_header *headers, size_t header_count, int64_t length,
                        sbx_buf *head)
{
    heading h = {
        .request_id = r->request_id, .origin = r->origin, .vary = r->vary, .rate = r->rate};
    char number[24];

    respond_head(head, status, content_type, headers, header_count, &h);
    if (length >= 0) {
        sbx_buf_adds(head, "content-length: ");
        sbx_buf_adds(head, sbx_num_text(number, length));
        sbx_buf_adds(head, "\r\n");
    } else if (!r->http10) {
        sbx_buf_adds(head, "transfer-encoding: chunked\r\n");
    }
}

void sbx_reply_begin_with(sbx_reply *r, int status, const char *content_type,
                          const sbx_header *headers, size_t header_count, int64_t length)
{
    static const sbx_header sse_headers[] = {{"cache-control", "no-store"},
                                             {"x-accel-buffering", "no"}};
    sbx_buf head = SBX_BUF_INIT(MAX_RESPONSE_HEAD);
    bool sse = content_type && strncmp(content_type, "text/event-stream", 17) == 0;

    if (r->ws) {
        status = 101;
        upgrade_head(r, &head);
    } else {
        stream_head(r, status, content_type, sse ? sse_headers : headers,
                    sse ? ARRAY_LEN(sse_headers) : header_count, length, &head);
    }
    pthread_mutex_lock(&r->mu);
    bool first = r->phase == R_OPEN;
    if (first) {
        /* To HEAD the head is all: nothing may be streamed, and whoever tries learns that. */
        r->phase = r->head_only ? R_SENT : R_STREAM;
        r->status = status;
        r->sse = sse && !r->ws;
        r->counted = length >= 0 && !r->ws;
        r->left = r->counted ? (uint64_t)length : 0;
        r->head = head;
        r->body = (sbx_buf)SBX_BUF_INIT(SBX_MAX_RESPONSE_BYTES);
    }
    pthread_mutex_unlock(&r->mu);
    if (first) {
        tell_answered(r, status, SBX_OK, NULL);
        reply_kick(r);
    } else {
        sbx_buf_done(&head);
    }
}

static void add_framed(sbx_reply *r, const void *data, size_t len, bool binary)
{
    char size[24];

    if (r->ws) {
        sbx_ws_frame(&r->body, binary ? SBX_WS_BIN : SBX_WS_TEXT, NULL, data, len);
    } else if (r->http10 || r->counted) {
        sbx_buf_add(&r->body, data, len);
    } else {
        snprintf(size, sizeof(size), "%zx\r\n", len);
        sbx_buf_adds(&r->body, size);
        sbx_buf_add(&r->body, data, len);
        sbx_buf_add(&r->body, "\r\n", 2);
    }
}

static sbx_push push_locked(sbx_reply *r, const void *data, size_t len, bool binary)
{
    size_t before = r->body.len;

    if (atomic_load(&r->gone) || r->phase != R_STREAM)
        return SBX_PUSH_GONE;
    if (!len && !r->ws)
        return SBX_PUSH_OK;
    if (r->queued && r->queued + len > SBX_MAX_OUTBOX_BYTES) {
        r->full = true;
        return SBX_PUSH_FULL;
    }
    if (!r->counted || len <= r->left)
        add_framed(r, data, len, binary);
    if (sbx_buf_failed(&r->body) || (r->counted && len > r->left)) {
        r->phase = R_ABORTED; /* larger than any response may be, or than was announced */
        return SBX_PUSH_GONE;
    }
    r->left -= r->counted ? len : 0;
    r->queued += r->body.len - before;
    return SBX_PUSH_OK;
}

static sbx_push push(sbx_reply *r, const void *data, size_t len, bool binary)
{
    pthread_mutex_lock(&r->mu);
    sbx_push p = push_locked(r, data, len, binary);
    pthread_mutex_unlock(&r->mu);
    if (p != SBX_PUSH_FULL)
        reply_kick(r);
    return p;
}

sbx_push sbx_reply_write(sbx_reply *r, const void *data, size_t len)
{
    return push(r, data, len, false);
}

sbx_push sbx_reply_write_binary(sbx_reply *r, const void *data, size_t len)
{
    return push(r, data, len, true);
}

void reply_void(sbx_reply *r)
{
    pthread_mutex_lock(&r->mu);
    r->phase = R_SENT;
    pthread_mutex_unlock(&r->mu);
}

void reply_cut(sbx_reply *r)
{
    pthread_mutex_lock(&r->mu);
    if (r->phase == R_STREAM)
        r->phase = r->counted && r->left ? R_ABORTED : R_ENDED;
    pthread_mutex_unlock(&r->mu);
}

void sbx_reply_end(sbx_reply *r)
{
    reply_cut(r);
    reply_kick(r);
}

void sbx_reply_abort(sbx_reply *r)
{
    pthread_mutex_lock(&r->mu);
    if (r->phase == R_STREAM)
        r->phase = R_ABORTED;
    pthread_mutex_unlock(&r->mu);
    reply_kick(r);
}

/* --- by whose right --- */

void sbx_reply_set_bearer(sbx_reply *r, const char *id, const char *holder, int64_t until_ms)
{
    pthread_mutex_lock(&r->mu);
    sbx_copy(r->bearer.id, sizeof(r->bearer.id), id);
    sbx_copy(r->holder.id, sizeof(r->holder.id), holder);
    r->bearer_until_ms = until_ms;
    pthread_mutex_unlock(&r->mu);
}

bool reply_bearer(sbx_reply *r, sbx_bearer *ret, bool *expired)
{
    pthread_mutex_lock(&r->mu);
    *ret = r->bearer;
    *expired = r->bearer_until_ms && r->bearer_until_ms <= sbx_wall_ms();
    pthread_mutex_unlock(&r->mu);
    return ret->id[0] && !*expired;
}

bool reply_is_by(sbx_reply *r, const char *id)
{
    pthread_mutex_lock(&r->mu);
    bool is = sbx_streq(r->bearer.id, id) || sbx_streq(r->holder.id, id);
    pthread_mutex_unlock(&r->mu);
    return is;
}

#define REVOKED "the key or token, or its user, is not accepted any more"

/* The last message of a stream, also to a client whose box is full. */
static void end_revoked_locked(sbx_reply *r)
{
    static const char message[] =
        "{\"type\":\"error\",\"code\":\"unauthorized\",\"message\":\"" REVOKED "\"}";
    static const char opening[] = "event: error\ndata: ";
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf event = SBX_BUF_INIT(KIB);
    size_t before = r->body.len;

    r->phase = r->ws || r->sse ? R_ENDED : R_ABORTED;
    r->close_code = SBX_CLOSE_UNAUTHORIZED;
    if (r->phase == R_ABORTED)
        return;
    if (!r->ws)
        sbx_buf_adds(&event, opening);
    sbx_buf_adds(&event, message);
    if (!r->ws)
        sbx_buf_adds(&event, "\n\n");
    add_framed(r, event.data, event.len, false);
    r->queued += r->body.len - before;
}

void reply_revoke(sbx_reply *r)
{
    sbx_err err;

    SBX_ASSERT_THREAD(SBX_T_LOOP);
    pthread_mutex_lock(&r->mu);
    bool open = r->phase == R_OPEN && !r->intercept, stream = r->phase == R_STREAM;
    if (stream)
        end_revoked_locked(r);
    pthread_mutex_unlock(&r->mu);
    if (stream) {
        reply_kick(r);
    } else if (open) {
        sbx_fail(&err, SBX_E_UNAUTHORIZED, REVOKED);
        sbx_reply_problem(r, &err);
    }
}

void sbx_reply_watch(sbx_reply *r, const sbx_reply_events *events)
{
    sbx_reply_ref(r);
    pthread_mutex_lock(&r->mu);
    bool again = r->watching;
    bool left = r->loop_left;
    r->events = *events;
    r->watching = true;
    pthread_mutex_unlock(&r->mu);
    if (again)
        sbx_reply_unref(r);
    else if (left)
        reply_kick(r);
}

bool sbx_reply_has_tag(const sbx_reply *r, const char *tag)
{
    sbx_list list = {{r->if_none_match}, r->if_none_match != NULL};

    return sbx_etag_listed(&list, tag);
}

bool sbx_reply_gone(const sbx_reply *r)
{
    return atomic_load(&r->gone);
}

const atomic_bool *sbx_reply_cancel_flag(const sbx_reply *r)
{
    return &r->gone;
}

const char *sbx_reply_request_id(const sbx_reply *r)
{
    return r->request_id;
}

void sbx_reply_on_over(sbx_reply *r, void (*fn)(void *arg), void *arg)
{
    pthread_mutex_lock(&r->mu);
    bool over = r->loop_left;
    if (!over) {
        r->over = fn;
        r->over_arg = arg;
    }
    pthread_mutex_unlock(&r->mu);
    if (over)
        fn(arg);
}

void reply_abandoned(sbx_reply *r)
{
    pthread_mutex_lock(&r->mu);
    r->loop_left = true;
    void (*over)(void *arg) = r->over;
    r->over = NULL;
    pthread_mutex_unlock(&r->mu);
    if (over)
        over(r->over_arg);
    deliver_closed(r);
    reply_drop(r);
}

taken reply_take(sbx_reply *r, bool begun, sbx_buf *head, sbx_buf *body, int *status, bool *sse)
{
    taken t = TAKE_NOTHING;

    SBX_ASSERT_THREAD(SBX_T_LOOP);
    pthread_mutex_lock(&r->mu);
    if (!begun) {
        if (r->phase != R_OPEN && r->phase != R_FORMING) {
            t = r->phase == R_SENT ? TAKE_RESPONSE : TAKE_BEGIN;
            *status = r->status;
            *sse = r->sse;
            *head = r->head;
            r->head = (sbx_buf){0};
            if (t == TAKE_RESPONSE) {
                *body = r->body;
                r->body = (sbx_buf){0};
            }
        }
    } else if (r->body.len && !sbx_buf_failed(&r->body)) {
        t = TAKE_MORE;
        *body = r->body;
        r->body = (sbx_buf)SBX_BUF_INIT(SBX_MAX_RESPONSE_BYTES);
    } else if (r->phase == R_ENDED) {
        t = TAKE_END;
    } else if (r->phase == R_ABORTED) {
        t = TAKE_ABORT;
    }
    pthread_mutex_unlock(&r->mu);
    return t;
}

void reply_sent(sbx_reply *r, size_t bytes)
{
    sbx_reply_events events = {0};

    pthread_mutex_lock(&r->mu);
    r->queued -= bytes;
    bool room = r->full && r->queued <= SBX_MAX_OUTBOX_BYTES / 2;
    if (room) {
        r->full = false;
        if (r->watching)
            events = r->events;
    }
    pthread_mutex_unlock(&r->mu);
    if (events.ready)
        events.ready(events.arg);
}

void reply_message(sbx_reply *r, const char *data, size_t len, bool binary)
{
    sbx_reply_events events = {0};

    pthread_mutex_lock(&r->mu);
    if (r->watching)
        events = r->events;
    pthread_mutex_unlock(&r->mu);
    if (events.message)
        events.message(events.arg, data, len, binary);
}
