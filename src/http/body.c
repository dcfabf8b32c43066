/* Request bodies that are streamed: from LOOP to whoever takes them.
 *
 * What has arrived waits in the reply, and is handed over by exchanging buffers, so that two go
 * round and nothing is copied twice. Once BODY_AHEAD_BYTES wait the socket is not read: at most
 * that much and one read more is in memory for a request.
 *
 * A body that is not taken to its end, or is malformed, ends the connection behind the answer: what
 * still comes in is dropped until then (`deaf`), because a close with unread input would reset the
 * connection and could take the answer from the client.
 *
 * Threads: body_*() on LOOP; sbx_reply_body() on any, one at a time. */
#include "internal.h"

#include "sbx/core/thread.h"
#include <sys/socket.h>

void body_begin(conn *c, const sbx_head *h)
{
    sbx_reply *r = c->reply;

    c->box->request.length = h->chunked ? -1 : (int64_t)h->length;
    if (!h->chunked && !h->length)
        return;
    c->taking = true;
    c->chunked = h->chunked;
    c->body_left = h->length;
    c->body_got = 0;
    c->progress = 0;
    c->go_on = h->expect;
    sbx_chunk_init(&c->chunk);
    r->in_state = IN_OPEN; /* nobody else has the reply yet */
}

void body_abandon(conn *c)
{
    if (!c->taking && !c->stalled)
        return;
    c->taking = c->stalled = c->go_on = false;
    c->keep_alive = false;
    c->deaf = true;
    conn_listen(c);
}

/* Tells the taker that there is something, if it asked in vain. */
static void tell(sbx_reply *r)
{
    sbx_reply_events events = {0};

    pthread_mutex_lock(&r->mu);
    if (r->in_idle && r->watching) {
        r->in_idle = false;
        events = r->events;
    }
    pthread_mutex_unlock(&r->mu);
    if (events.body)
        events.body(events.arg);
}

/* Adds what belongs to the body. reply.mu is held. */
static int add_locked(conn *c, const char *data, size_t len, size_t *used, bool *done, sbx_err *err)
{
    sbx_buf *in = &c->reply->in;
    size_t before = in->len, left = c->route->max_body - (size_t)c->body_got;
    int rc = 0;

    if (c->chunked) {
        in->max = before + SBX_MIN(left, SIZE_MAX / 4); /* what the decoder is held to */
        rc = sbx_chunk_feed(&c->chunk, data, len, used, in, done, err);
        if (rc && err->code == SBX_E_TOO_LARGE && c->chunk.left > left - (in->len - before))
            sbx_fail(err, SBX_E_TOO_LARGE, "the body is larger than %zu bytes", c->route->max_body);
    } else {
        *used = (size_t)SBX_MIN((uint64_t)len, c->body_left);
        in->max = BODY_AHEAD_BYTES + IN_MAX_BYTES;
        sbx_buf_add(in, data, *used);
        c->body_left -= *used;
        *done = c->body_left == 0;
    }
    size_t more = in->len - before;
    c->body_got += more;
    if (atomic_fetch_add(&c->http->bodies, more) + more > MAX_BODIES_BYTES && !rc)
        rc = sbx_fail(err, SBX_E_CAPACITY, "too many request bodies are in memory");
    return rc;
}

size_t body_feed(conn *c, const char *data, size_t len)
{
    sbx_reply *r = c->reply;
    bool done = false;
    size_t used = 0;
    sbx_err err;

    SBX_ASSERT_THREAD(SBX_T_LOOP);
    pthread_mutex_lock(&r->mu);
    int rc = add_locked(c, data, len, &used, &done, &err);
    if (rc) {
        r->in_state = IN_FAILED;
        r->in_err = err;
    } else if (done) {
        r->in_state = IN_WHOLE;
    } else if (r->in.len >= BODY_AHEAD_BYTES) {
        r->in_stalled = c->stalled = true;
    }
    pthread_mutex_unlock(&r->mu);
    if (rc)
        body_abandon(c);
    c->taking = c->taking && !done;
    if (c->state == C_PARKED && !c->taking) {
        conn_set_timer(c, T_NONE);
    } else if (c->state == C_PARKED && c->body_got - c->progress >= PROGRESS_BYTES) {
        c->progress = (size_t)c->body_got;
        conn_set_timer(c, T_BODY);
    }
    tell(r);
    return rc ? len : used;
}

void body_wanted(conn *c)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    sbx_reply *r = c->reply;

    if (!c->taking)
        return;
    pthread_mutex_lock(&r->mu);
    bool wanted = r->in_wanted, room = r->in.len < BODY_AHEAD_BYTES;
    pthread_mutex_unlock(&r->mu);
    if (wanted && c->go_on && c->state == C_PARKED) {
        c->go_on = false;
        /* Nothing else is going out now; who has begun to send needs no word. */
        if (!c->body_got && c->in_at == c->in.len)
            (void)!send(c->fd, go_on, sizeof(go_on) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        conn_set_timer(c, T_BODY);
    }
    if (c->stalled && room) {
        c->stalled = false;
        c->progress = (size_t)c->body_got;
        conn_listen(c);
    }
}

int sbx_reply_body(sbx_reply *r, sbx_buf *into, sbx_err *err)
{
    int rc = 1;

    sbx_buf_reset(into);
    pthread_mutex_lock(&r->mu);
    bool kick = !r->in_wanted;
    r->in_wanted = true;
    if (atomic_load(&r->gone)) {
        rc = sbx_fail(err, SBX_E_CANCELLED, "the client went away");
    } else if (r->in.len) {
        sbx_buf full = r->in;

        r->in = *into;
        *into = full;
        kick |= r->in_stalled;
        r->in_stalled = false;
        atomic_fetch_sub(&r->http->bodies, full.len);
    } else if (r->in_state == IN_OPEN) {
        r->in_idle = true;
    } else if (r->in_state == IN_FAILED) {
        *err = r->in_err;
        rc = -1;
    } else {
        rc = 0;
    }
    pthread_mutex_unlock(&r->mu);
    if (kick)
        reply_kick(r);
    return rc;
}
