/* A connection: bytes in, transactions one after the other, bytes out.
 *
 * Input goes to the state it belongs to; what is pipelined behind a running request waits in a
 * bounded buffer, and beyond that the socket is not read (then a sweep asks whether the peer is
 * still there). Output is sent directly with the socket's own back-pressure, so that the library
 * below never has to copy and queue.
 *
 * Time-outs ask for progress that is worth the name: who sends a body, or reads an answer, by
 * single bytes is cut off like one who does nothing.
 *
 * Nothing here closes a socket in the middle of things: a connection is doomed, and closed right
 * before the loop waits again. The two loops (advance over input, flush of output) call each other
 * and are guarded against recursion: whoever is entered second returns, the first goes on. */
#include "internal.h"

#include "sbx/core/clock.h"
#include "sbx/core/thread.h"
#include <errno.h>
#include <libwebsockets.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <utlist.h>

uint64_t conn_id(const conn *c)
{
    return (uint64_t)c->generation << 32 | c->slot;
}

conn *conn_find(sbx_http *h, uint64_t id)
{
    uint32_t slot = (uint32_t)id;

    SBX_ASSERT_THREAD(SBX_T_LOOP);
    conn *c = slot < h->slot_count ? h->slots[slot] : NULL;
    return c && c->generation == (uint32_t)(id >> 32) ? c : NULL;
}

conn *conn_new(sbx_http *h, int fd)
{
    conn *c = sbx_alloc(sizeof(*c));

    c->http = h;
    c->fd = fd;
    c->slot = h->free_slots[--h->free_count];
    c->generation = ++h->generations[c->slot];
    h->slots[c->slot] = c;
    sbx_buf_init(&c->in, IN_MAX_BYTES);
    conn_set_timer(c, T_HEAD);
    atomic_fetch_add(&h->count, 1);
    return c;
}

void conn_set_timer(conn *c, conn_timer t)
{
    sbx_http *h = c->http;

    if (c->timer != T_NONE)
        DL_DELETE(h->lists[c->timer], c);
    c->timer = t;
    c->since_ms = h->now_ms;
    if (t != T_NONE)
        DL_APPEND(h->lists[t], c);
}

static void observe(conn *c, int status)
{
    const sbx_http_config *cfg = &c->http->config;

    if (!c->request_id[0])
        return;
    if (cfg->observe)
        cfg->observe(cfg->app, c->route, c->method, status,
                     c->start_us ? sbx_now_us() - c->start_us : 0, c->bytes_out, c->request_id);
    c->request_id[0] = '\0';
    c->start_us = 0;
}

/* The client is gone: whoever works for it is told. */
static void drop_request(conn *c)
{
    bool working = c->state == C_BODY || c->state == C_PARKED || c->state == C_SENDING ||
                   c->state == C_STREAM || c->state == C_WS || c->state == C_WS_CLOSE;

    if (working)
        observe(c, c->status ? c->status : 499);
    if (c->reply)
        atomic_store(&c->reply->gone, true);
    request_discard(c);
}

void conn_doom(conn *c)
{
    if (c->state == C_DOOMED)
        return;
    drop_request(c);
    c->state = C_DOOMED;
    conn_set_timer(c, T_NONE);
    DL_APPEND(c->http->doomed, c);
}

static void free_buffers(conn *c)
{
    sbx_buf_done(&c->in);
    sbx_buf_done(&c->body);
    sbx_buf_done(&c->head_out);
    sbx_buf_done(&c->body_out);
    ws_free(c->ws);
}

void conn_closed(conn *c)
{
    sbx_http *h = c->http;

    drop_request(c);
    if (c->state == C_DOOMED)
        DL_DELETE(h->doomed, c);
    else
        conn_set_timer(c, T_NONE);
    if (c->in.len)
        sbx_wipe(c->in.data, c->in.len);
    free_buffers(c);
    h->slots[c->slot] = NULL;
    h->free_slots[h->free_count++] = c->slot;
    free(c);
    atomic_fetch_sub(&h->count, 1);
    server_left(h);
}

/* --- input --- */

static void set_muted(conn *c, bool muted)
{
    if (c->muted == muted || c->state == C_DOOMED)
        return;
    c->muted = muted;
    lws_rx_flow_control(c->wsi, !muted);
    if (muted && c->state == C_PARKED)
        conn_set_timer(c, T_MUTED);
    else if (!muted && c->timer == T_MUTED)
        conn_set_timer(c, c->taking ? T_BODY : T_NONE);
}

void conn_check_muted(conn *c)
{
    struct pollfd p = {.fd = c->fd, .events = POLLRDHUP};

    if (poll(&p, 1, 0) == 1 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR)))
        conn_doom(c);
}

/* @return whether there may be more to do. */
static bool step_head(conn *c)
{
    sbx_err err;
    size_t len;

    if (!c->scanned)
        while (c->in.len - c->in_at >= 2 && memcmp(c->in.data + c->in_at, "\r\n", 2) == 0)
            c->in_at += 2;
    if (c->in_at == c->in.len) {
        conn_timer t = c->served ? T_IDLE : T_HEAD;
        if (c->timer != t)
            conn_set_timer(c, t);
        return false;
    }
    int rc = sbx_head_find(c->in.data + c->in_at, c->in.len - c->in_at, &c->scanned, &len, &err);
    if (rc == 0) {
        if (c->timer != T_HEAD)
            conn_set_timer(c, T_HEAD);
        return false;
    }
    if (rc > 0) {
        request_start(c, len);
    } else {
        c->keep_alive = false;
        c->method = SBX_METHOD_OTHER;
        conn_problem(c, &err, NULL);
    }
    return true;
}

static int count_body(conn *c, sbx_err *err)
{
    size_t more = c->body.len - c->box->body_counted;
    size_t all = atomic_fetch_add(&c->http->bodies, more) + more;

    c->box->body_counted += more;
    if (all > MAX_BODIES_BYTES)
        return sbx_fail(err, SBX_E_CAPACITY, "too many request bodies are in memory");
    return 0;
}

/* @return how much of the input belonged to the body. */
static size_t feed_body(conn *c, const char *data, size_t len)
{
    size_t used = 0;
    bool done = false;
    sbx_err err;
    int rc = 0;

    if (c->taking)
        return body_feed(c, data, len);
    if (c->chunked) {
        rc = sbx_chunk_feed(&c->chunk, data, len, &used, &c->body, &done, &err);
    } else {
        used = (size_t)SBX_MIN((uint64_t)len, c->body_left);
        sbx_buf_add(&c->body, data, used);
        c->body_left -= used;
        done = c->body_left == 0;
    }
    if (!rc)
        rc = count_body(c, &err);
    if (rc) {
        c->keep_alive = false;
        conn_problem(c, &err, NULL);
    } else if (done) {
        request_submit(c);
    } else if (c->body.len - c->progress >= PROGRESS_BYTES) {
        c->progress = c->body.len;
        conn_set_timer(c, T_BODY);
    }
    return used;
}

static bool step_body(conn *c)
{
    if (c->in_at == c->in.len || c->stalled)
        return false;
    size_t used = feed_body(c, c->in.data + c->in_at, c->in.len - c->in_at);
    if (c->in.len) /* else the connection has ended within, and dropped its input */
        c->in_at += used;
    return true;
}

static bool in_body(const conn *c)
{
    return c->state == C_BODY || c->taking;
}

static void advance(conn *c)
{
    if (c->advancing)
        return;
    c->advancing = true;
    while (c->state == C_HEAD ? step_head(c) : in_body(c) && step_body(c))
        ;
    if (c->deaf)
        c->in_at = c->in.len;
    c->advancing = false;
    if (c->in_at == c->in.len) {
        sbx_buf_done(&c->in);
    } else if (c->in_at) {
        sbx_buf_consume(&c->in, c->in_at);
    }
    c->in_at = 0;
    set_muted(c, c->stalled || (c->in.len > IN_MUTE_BYTES && c->state != C_HEAD &&
                                c->state != C_BODY && c->state != C_LINGER));
}

void conn_listen(conn *c)
{
    advance(c);
}

void conn_input(conn *c, const char *data, size_t len)
{
    switch (c->state) {
    case C_DOOMED:
        return;
    case C_LINGER:
        c->lingered += len;
        if (c->deaf && c->http->now_ms - c->linger_from_ms < LINGER_BODY_MS)
            conn_set_timer(c, T_LINGER);
        else if (c->lingered > LINGER_BYTES)
            conn_doom(c);
        return;
    case C_WS:
    case C_WS_CLOSE:
        ws_input(c, data, len);
        return;
    default:
        break;
    }
    if (c->deaf)
        return;
    if (in_body(c) && !c->stalled && !c->in.len && !c->advancing) {
        size_t used = feed_body(c, data, len);
        data += used;
        len -= used;
    }
    if (c->state == C_LINGER || c->state == C_DOOMED)
        return;
    sbx_buf_add(&c->in, data, len);
    if (sbx_buf_failed(&c->in))
        conn_doom(c);
    else
        advance(c);
}

/* --- output --- */

void conn_queue_out(conn *c, sbx_buf *head, sbx_buf *body)
{
    if (c->status != 101) {
        c->keep_alive = c->keep_alive && !c->http->draining_on_loop;
        sbx_buf_adds(head, c->http->date);
        if (!c->keep_alive)
            sbx_buf_adds(head, "connection: close\r\n");
    }
    sbx_buf_add(head, "\r\n", 2);
    c->head_out = *head;
    c->body_out = *body;
    *head = *body = (sbx_buf){0};
    c->out_at = 0;
}

void conn_append_out(conn *c, const void *data, size_t len)
{
    if (!c->body_out.data)
        sbx_buf_init(&c->body_out, SBX_MAX_RESPONSE_BYTES);
    sbx_buf_add(&c->body_out, data, len);
    conn_flush(c);
}

size_t conn_out_left(const conn *c)
{
    return c->head_out.len + c->body_out.len - c->out_at;
}

static void set_stall(conn *c)
{
    c->progress = c->bytes_out;
    conn_set_timer(c, T_STALL);
}

/* @return true if all went out; false if the socket is full, or the connection doomed. */
static bool send_out(conn *c)
{
    while (conn_out_left(c)) {
        size_t head = c->head_out.len, at = c->out_at;
        struct iovec iov[2];
        size_t n = 0;

        if (at < head)
            iov[n++] = (struct iovec){c->head_out.data + at, head - at};
        size_t skip = at > head ? at - head : 0;
        if (c->body_out.len > skip)
            iov[n++] = (struct iovec){c->body_out.data + skip, c->body_out.len - skip};
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n};
        ssize_t sent = sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno != EAGAIN) {
            conn_doom(c);
            return false;
        }
        if (sent < 0) {
            c->blocked = true;
            lws_callback_on_writable(c->wsi);
            if (c->timer != T_STALL)
                set_stall(c);
            return false;
        }
        c->out_at += (size_t)sent;
        c->bytes_out += (size_t)sent;
        if (c->timer == T_STALL && c->bytes_out - c->progress >= PROGRESS_BYTES)
            set_stall(c);
    }
    return true;
}

static void begin_linger(conn *c)
{
    set_muted(c, false);
    shutdown(c->fd, SHUT_WR);
    sbx_buf_done(&c->in);
    c->in_at = 0;
    c->state = C_LINGER;
    c->linger_from_ms = c->http->now_ms;
    conn_set_timer(c, T_LINGER);
}

void conn_hang_up(conn *c)
{
    c->hang_up = true;
    if (!conn_out_left(c) && !c->flushing)
        begin_linger(c);
}

void conn_leave(conn *c)
{
    sbx_reply *r = sbx_steal(c->reply);

    observe(c, c->status);
    c->status = 0;
    c->origin = NULL;
    c->vary = 0;
    c->served = true;
    if (r)
        reply_abandoned(r);
}

static void transaction_over(conn *c)
{
    conn_leave(c);
    if (!c->keep_alive) {
        begin_linger(c);
        return;
    }
    c->state = C_HEAD;
    conn_set_timer(c, T_IDLE);
    advance(c);
}

/* The end of a stream: the last chunk, or a close where there is no other end. */
static void end_stream(conn *c)
{
    body_abandon(c);
    c->state = C_SENDING;
    if (!c->reply->http10 && !c->reply->counted) {
        sbx_buf_init(&c->body_out, 16);
        sbx_buf_adds(&c->body_out, "0\r\n\r\n");
    }
}

static bool begin_stream(conn *c, sbx_buf *head)
{
    sbx_buf none = {0};

    c->keep_alive = c->keep_alive && (!c->reply->http10 || c->reply->counted) && !c->taking;
    conn_queue_out(c, head, &none);
    c->state = C_STREAM;
    if (c->reply->ws) {
        set_muted(c, false);
        ws_begin(c);
    }
    if (c->http->leaving)
        conn_end_for_drain(c);
    return true;
}

/* Fetches what the reply has next. @return whether there is something to send or decide. */
static bool more_of_reply(conn *c)
{
    sbx_buf head = {0}, body = {0};
    bool begun = c->state != C_PARKED;

    switch (reply_take(c->reply, begun, &head, &body, &c->status, &c->sse)) {
    case TAKE_RESPONSE:
        body_abandon(c);
        conn_queue_out(c, &head, &body);
        c->state = C_SENDING;
        return true;
    case TAKE_BEGIN:
        return begin_stream(c, &head);
    case TAKE_MORE:
        c->body_out = body;
        c->stream_inflight = body.len;
        if (c->state == C_STREAM)
            conn_set_timer(c, T_PING);
        return true;
    case TAKE_END:
        if (c->state == C_WS)
            ws_close(c, c->reply->close_code ? c->reply->close_code : 1000);
        else
            end_stream(c);
        return true;
    case TAKE_ABORT:
        if (c->state == C_WS)
            ws_close(c, 1011);
        else
            conn_doom(c); /* without the last chunk, so that the client sees the cut */
        return c->state != C_DOOMED;
    case TAKE_NOTHING:
        break;
    }
    return false;
}

/* All is sent. @return whether there is more. */
static bool after_sent(conn *c)
{
    size_t inflight = c->stream_inflight;

    sbx_buf_done(&c->head_out);
    sbx_buf_done(&c->body_out);
    c->out_at = c->stream_inflight = 0;
    if (inflight && c->reply)
        reply_sent(c->reply, inflight);
    switch (c->state) {
    case C_SENDING:
        transaction_over(c);
        return conn_out_left(c) > 0;
    case C_PARKED:
        return more_of_reply(c);
    case C_STREAM:
    case C_WS:
        if (more_of_reply(c))
            return true;
        if (c->timer != T_PING && (c->state == C_WS || c->state == C_STREAM))
            conn_set_timer(c, T_PING);
        return false;
    case C_WS_CLOSE:
        if (c->hang_up)
            begin_linger(c);
        else if (c->timer != T_WS_CLOSE)
            conn_set_timer(c, T_WS_CLOSE);
        return false;
    default:
        return false;
    }
}

void conn_flush(conn *c)
{
    if (c->flushing || c->blocked)
        return;
    c->flushing = true;
    while (c->state != C_DOOMED && send_out(c) && after_sent(c))
        ;
    c->flushing = false;
}

/* --- time --- */

static void ping(conn *c)
{
    conn_set_timer(c, T_PING); /* first, so that it stands behind the others whatever happens */
    if (c->muted)
        conn_check_muted(c);
    if (c->state == C_WS)
        ws_ping(c);
    else if (c->state == C_STREAM && c->sse)
        conn_append_out(c, c->reply->http10 ? ": ping\n\n" : "8\r\n: ping\n\n\r\n",
                        c->reply->http10 ? 8 : 13);
}

void conn_expired(conn *c)
{
    if (c->timer == T_PING)
        ping(c);
    else
        conn_doom(c);
}

void conn_refuse(conn *c)
{
    sbx_err err;

    sbx_fail(&err, SBX_E_CAPACITY, "too many connections are open");
    c->method = SBX_METHOD_OTHER;
    c->keep_alive = false;
    conn_problem(c, &err, NULL);
}

void conn_end_for_drain(conn *c)
{
    switch (c->state) {
    case C_HEAD: /* a request may be on its way: what stays idle goes soon */
        if (!c->in.len && c->timer == T_HEAD)
            conn_set_timer(c, T_IDLE);
        break;
    case C_STREAM:
        if (c->sse && c->method == SBX_GET) {
            atomic_store(&c->reply->gone, true);
            reply_cut(c->reply);
            conn_flush(c);
        }
        break;
    case C_WS:
        atomic_store(&c->reply->gone, true);
        ws_close(c, 1001);
        break;
    default:
        break;
    }
}
