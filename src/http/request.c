/* From a head to a job: what can be refused is refused here, on LOOP, before any body is read.
 *
 * A request lives in one block with its text; the block goes to the worker, and is wiped when it
 * is freed because it may hold a key or a ticket; so is the body, which may hold env values. */
#include "internal.h"

#include "sbx/core/clock.h"
#include "sbx/core/id.h"
#include "sbx/core/thread.h"
#include <strings.h>
#include <sys/socket.h>

const char *sbx_request_path(const sbx_request *r, const char *name)
{
    for (size_t i = 0; i < r->path_count; i++)
        if (strcmp(r->path[i].name, name) == 0)
            return r->path[i].value;
    return NULL;
}

const char *sbx_request_query(const sbx_request *r, const char *name)
{
    for (size_t i = 0; i < r->query_count; i++)
        if (strcmp(r->query[i].name, name) == 0)
            return r->query[i].value;
    return NULL;
}

void request_free(job_box *b)
{
    atomic_fetch_sub(&b->http->bodies, b->body_counted);
    if (b->request.body) {
        sbx_wipe(b->request.body, b->request.body_len);
        free(b->request.body);
    }
    sbx_wipe(b->text, b->text_len);
    free(b);
}

static void run_request(void *arg);
static void refuse_request(void *arg, const sbx_err *why);

static int submit(job_box *b, sbx_err *err)
{
    sbx_job job = {.run = run_request,
                   .refuse = refuse_request,
                   .arg = b,
                   .cancelled = &b->request.reply->gone,
                   .deadline_ms = b->deadline_ms};

    return sbx_lanes_submit(b->http->config.lanes, b->request.route->lane, &job, err);
}

/* The answer is given, or somebody else will give it. */
static void request_over(job_box *b)
{
    sbx_reply *reply = b->request.reply;

    request_free(b);
    sbx_reply_unref(reply);
}

void sbx_request_again(const sbx_request *r)
{
    job_box *b = sbx_container_of(r, job_box, request);
    sbx_err err;

    if (submit(b, &err) == 0)
        return;
    sbx_reply_problem(r->reply, &err);
    request_over(b);
}

static void run_request(void *arg)
{
    job_box *b = arg;
    sbx_request *r = &b->request;
    sbx_reply *reply = r->reply;
    const sbx_http_config *c = &b->http->config;
    sbx_err err = {0};
    int rc = 0;

    if (sbx_reply_gone(reply))
        rc = sbx_fail(&err, SBX_E_CANCELLED, "the client went away");
    if (!rc && r->route->scope && c->authenticate)
        rc = c->authenticate(c->app, r, &err);
    if (!rc)
        rc = r->route->handler(c->app, r, &err);
    if (rc == SBX_KEPT)
        return;
    if (rc) {
        if (err.code == SBX_OK)
            sbx_fail(&err, SBX_E_INTERNAL, "the request failed without a reason");
        sbx_reply_problem(reply, &err);
    }
    request_over(b);
}

/* It waited too long for a worker, and is answered without one. */
static void refuse_request(void *arg, const sbx_err *why)
{
    job_box *b = arg;

    sbx_reply_problem(b->request.reply, why);
    request_over(b);
}

void request_discard(conn *c)
{
    job_box *b = sbx_steal(c->box);
    sbx_reply *mine = sbx_steal(c->reply);

    if (mine)
        reply_abandoned(mine);
    if (!b)
        return;
    sbx_reply *user = b->request.reply;
    request_free(b);
    reply_void(user);
    sbx_reply_unref(user);
}

void request_submit(conn *c)
{
    job_box *b = c->box;
    sbx_err err;

    b->request.body_len = c->body.len;
    b->request.body = c->body.len ? sbx_buf_steal(&c->body) : NULL;
    sbx_buf_done(&c->body);
    b->request.received_ms = c->http->now_ms;
    b->deadline_ms = c->route->deadline_ms ? c->http->now_ms + c->route->deadline_ms : 0;
    c->state = C_PARKED;
    /* A client that waits to be told to go on waits for as long as the request does. */
    conn_set_timer(c, c->taking && !c->go_on ? T_BODY : T_NONE);
    if (submit(b, &err)) {
        body_abandon(c);
        conn_problem(c, &err, NULL);
    } else {
        c->box = NULL;
    }
}

void conn_problem(conn *c, const sbx_err *err, const char *allow)
{
    sbx_buf head = SBX_BUF_INIT(16 * KIB), body = SBX_BUF_INIT(16 * KIB);
    heading h = {.request_id = c->request_id, .origin = c->origin, .vary = c->vary};

    request_discard(c);
    sbx_buf_done(&c->body);
    if (!c->request_id[0])
        memcpy(c->request_id, sbx_id_new().s, SBX_ID_LEN + 1);
    respond_problem(&head, &body, err, allow, &h);
    if (c->method == SBX_HEAD)
        sbx_buf_done(&body);
    c->status = sbx_code_status(err->code);
    c->state = C_SENDING;
    conn_queue_out(c, &head, &body);
    conn_flush(c);
}

static void answer_options(conn *c, const char *allow)
{
    sbx_buf head = SBX_BUF_INIT(4 * KIB), none = {0};
    heading h = {.request_id = c->request_id, .origin = c->origin, .vary = c->vary};
    sbx_header headers[5] = {{"allow", allow}};
    size_t count = 1;

    c->status = 204;
    if (c->preflight && c->origin)
        count += cors_preflight(allow, headers + 1);
    respond_head(&head, 204, NULL, headers, count, &h);
    c->state = C_SENDING;
    conn_queue_out(c, &head, &none);
    conn_flush(c);
}

static const char *produced(const sbx_route *route)
{
    return route->produces ? route->produces : "application/json";
}

/* @return 0 with the representation chosen, or -1 when none is acceptable. */
static int negotiate(const sbx_head *h, const sbx_route *route, sbx_accept *ret, sbx_err *err)
{
    bool can_sse = route->accepts & SBX_CAN_SSE;
    sbx_weight plain = sbx_accept_weight(&h->accept, produced(route));
    sbx_weight sse = {0};

    *ret = SBX_ACCEPT_JSON;
    if (h->upgrade_ws && (route->accepts & SBX_CAN_WS)) {
        *ret = SBX_ACCEPT_WS;
        return 0;
    }
    if (can_sse && h->accept.count)
        sse = sbx_accept_weight(&h->accept, "text/event-stream");
    if (sse.q > plain.q || (sse.q && sse.q == plain.q &&
                            (sse.exactness > plain.exactness ||
                             (sse.exactness == plain.exactness && sse.place < plain.place)))) {
        *ret = SBX_ACCEPT_SSE;
        return 0;
    }
    if (plain.q || (route->accepts & SBX_CAN_ANY))
        return 0;
    return sbx_fail(err, SBX_E_NOT_ACCEPTABLE, "the resource is %s%s; the Accept header takes none",
                    produced(route), can_sse ? " or text/event-stream" : "");
}

static int check_body(const sbx_head *h, const sbx_route *route, sbx_err *err)
{
    if (!h->chunked && !h->length)
        return 0;
    if (!route->max_body)
        return sbx_fail(err, SBX_E_INVALID, "this request takes no body");
    if (h->length > route->max_body)
        return sbx_fail(err, SBX_E_TOO_LARGE, "the body is larger than %zu bytes", route->max_body);
    if (h->content_encoding && strcasecmp(h->content_encoding, "identity") != 0)
        return sbx_fail(err, SBX_E_MEDIA_TYPE, "the body must be sent without Content-Encoding");
    if (!h->content_type || (route->accepts & (SBX_BODY_RAW | SBX_BODY_STREAM)))
        return 0;
    switch (sbx_content_type_judge(h->content_type, "application/json")) {
    case SBX_TYPE_OTHER:
        return sbx_fail(err, SBX_E_MEDIA_TYPE, "the body must be application/json");
    case SBX_TYPE_CHARSET:
        return sbx_fail(err, SBX_E_MEDIA_TYPE, "the charset of the body must be utf-8");
    case SBX_TYPE_OK:
        break;
    }
    return 0;
}

static int check_upgrade(const sbx_head *h, sbx_reply *reply, sbx_err *err)
{
    if (h->method != SBX_GET || h->minor == 0)
        return sbx_fail(err, SBX_E_INVALID, "a WebSocket is opened by GET with HTTP/1.1");
    if (h->ws_version != 13)
        return sbx_fail(err, SBX_E_INVALID, "Sec-WebSocket-Version must be 13");
    if (h->chunked || h->length)
        return sbx_fail(err, SBX_E_INVALID, "an upgrade has no body");
    if (h->ws_offered && !h->ws_protocol)
        return sbx_fail(err, SBX_E_INVALID,
                        "Sec-WebSocket-Protocol must offer sandboxd.v1, or be left out");
    if (!h->ws_key || sbx_ws_accept(h->ws_key, reply->ws_accept))
        return sbx_fail(err, SBX_E_INVALID, "Sec-WebSocket-Key is malformed");
    reply->ws = true;
    return 0;
}

static void fill_request(job_box *b, const sbx_head *h, const sbx_match *m, const conn *c)
{
    sbx_request *r = &b->request;

    r->route = m->route;
    r->method = h->method;
    memcpy(r->request_id, c->request_id, sizeof(r->request_id));
    sbx_proxies_client(c->http->proxies, c->client, &h->forwarded_for, r->client);
    memcpy(r->path, m->params, sizeof(r->path));
    r->path_count = m->count;
    r->authorization = h->authorization;
    r->api_key = h->api_key ? h->api_key : h->ws_bearer;
    r->content_type = h->content_type;
    r->idempotency_key = h->idempotency_key;
    r->last_event_id = h->last_event_id;
    r->range = h->range;
    r->if_range = h->if_range;
    r->if_match = h->if_match;
    r->if_none_match = h->if_none_match.count ? h->if_none_match.lines[0] : NULL;
    r->forwarded = h->forwarded;
}

/* A credential is no parameter of any route: handlers, checks and messages never see it. */
static void take_ticket(sbx_request *r)
{
    for (size_t i = 0; i < r->query_count; i++) {
        if (strcmp(r->query[i].name, "ticket") != 0)
            continue;
        r->ticket = r->query[i].value;
        r->query_count--;
        memmove(&r->query[i], &r->query[i + 1], (r->query_count - i) * sizeof(sbx_param));
        return;
    }
}

/* Everything that can be said about a request by its head alone. */
static int admit(conn *c, job_box *b, const sbx_head *h, sbx_match *m, sbx_err *err)
{
    sbx_request *r = &b->request;

    if (sbx_router_match(c->http->router, h->method, h->path, m, err))
        return -1;
    if (!m->allow[0])
        return sbx_fail(err, SBX_E_NOT_FOUND, "there is no such resource");
    if (!m->route)
        return sbx_fail(err, SBX_E_METHOD, "the resource has no such method");
    c->route = m->route;
    if (m->route->accepts & SBX_CAN_SSE)
        c->vary |= VARY_ACCEPT;
    fill_request(b, h, m, c);
    if (negotiate(h, m->route, &r->accept, err) || check_body(h, m->route, err) ||
        sbx_query_parse(h->query, r->query, &r->query_count, err))
        return -1;
    take_ticket(r);
    if (sbx_query_check(m->route->query, r->query, r->query_count, err))
        return -1;
    c->reply = reply_new(c->http, c, h);
    r->reply = c->reply;
    c->box = b;
    return r->accept == SBX_ACCEPT_WS ? check_upgrade(h, c->reply, err) : 0;
}

static void await_body(conn *c, const sbx_head *h)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";

    c->state = C_BODY;
    c->chunked = h->chunked;
    c->body_left = h->length;
    sbx_chunk_init(&c->chunk);
    sbx_buf_init(&c->body, c->route->max_body);
    c->progress = 0;
    conn_set_timer(c, T_BODY);
    /* Nothing else is going out now; a client that does not get this sends its body anyway. */
    if (h->expect && c->in_at == c->in.len)
        (void)!send(c->fd, go_on, sizeof(go_on) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Copies the head out of the input into a block of its own. */
static job_box *take_text(conn *c, size_t len)
{
    char *from = c->in.data + c->in_at;
    job_box *b = sbx_alloc(sizeof(*b) + 2 * (len + 1));

    b->http = c->http;
    b->text_len = 2 * (len + 1);
    memcpy(b->text, from, len);
    sbx_wipe(from, len);
    c->in_at += len;
    c->scanned = 0;
    return b;
}

static void begin_transaction(conn *c, const sbx_head *h)
{
    c->start_us = sbx_now_us();
    c->bytes_out = 0;
    c->route = NULL;
    c->method = h->method;
    c->origin = cors_match(&c->http->cors, h->origin);
    c->vary = c->http->cors.count && !c->http->cors.any ? VARY_ORIGIN : 0;
    c->preflight = h->preflight_method != NULL;
    c->keep_alive = h->keep_alive;
    if (h->request_id && sbx_request_id_sane(h->request_id))
        sbx_copy(c->request_id, sizeof(c->request_id), h->request_id);
    else
        memcpy(c->request_id, sbx_id_new().s, SBX_ID_LEN + 1);
}

void request_start(conn *c, size_t len)
{
    job_box *b = take_text(c, len);
    sbx_match match = {0};
    sbx_err err;
    sbx_head h;

    int rc = sbx_head_parse(b->text, len, &h, &err);
    begin_transaction(c, &h);
    if (rc) {
        c->keep_alive = false;
    } else {
        b->request.target = b->text + len + 1;
        sbx_copy(b->request.target, len + 1, h.path);
        rc = h.path[0] == '*' ? sbx_fail(&err, SBX_E_METHOD, "no method but OPTIONS")
                              : admit(c, b, &h, &match, &err);
    }
    if (!rc) {
        bool streamed = c->route->accepts & SBX_BODY_STREAM;

        if (streamed)
            body_begin(c, &h);
        if (!streamed && (h.chunked || h.length))
            await_body(c, &h);
        else
            request_submit(c);
        return;
    }
    if (h.chunked || h.length) { /* the body stays unread */
        c->keep_alive = false;
        c->deaf = true;
    }
    if (!c->box)
        request_free(b);
    if (err.code == SBX_E_METHOD && c->method == SBX_OPTIONS_M)
        answer_options(c, match.allow[0] ? match.allow
                                         : "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    else
        conn_problem(c, &err, err.code == SBX_E_METHOD ? match.allow : NULL);
}
