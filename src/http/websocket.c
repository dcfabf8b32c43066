/* WebSocket (RFC 6455) on an upgraded connection, server side, without extensions.
 *
 * Frames in: a small decoder that collects a message of at most MAX_WS_MESSAGE, with control
 * frames in between; every fault has its close code. Frames out are never masked nor fragmented;
 * control frames are put behind what is already going out, which always ends with a whole frame.
 *
 * The library's own WebSocket role is not used because it upgrades (or refuses) synchronously,
 * within a callback, whereas a key is looked up by a worker. */
#include "internal.h"

#include "sbx/core/json.h"

#define MAX_PONG_BACKLOG (64 * KIB)

void ws_free(ws_in *w)
{
    if (!w)
        return;
    sbx_buf_done(&w->message);
    free(w);
}

static void send_control(conn *c, unsigned opcode, const void *data, size_t len)
{
    sbx_buf frame = SBX_BUF_INIT(256);

    sbx_ws_frame(&frame, opcode, NULL, data, len);
    conn_append_out(c, frame.data, frame.len);
    sbx_buf_done(&frame);
}

void ws_close(conn *c, unsigned code)
{
    unsigned char payload[2] = {(unsigned char)(code >> 8), (unsigned char)code};

    c->state = C_WS_CLOSE;
    conn_leave(c);
    send_control(c, SBX_WS_CLOSE, payload, 2);
}

void ws_ping(conn *c)
{
    if (c->http->now_ms - c->ws->last_rx_ms >= 2 * c->http->timeouts_ms[T_PING])
        conn_doom(c);
    else
        send_control(c, SBX_WS_PING, NULL, 0);
}

void ws_begin(conn *c)
{
    sbx_buf early = c->in;
    size_t at = c->in_at;

    c->ws = sbx_alloc(sizeof(*c->ws));
    c->ws->last_rx_ms = c->http->now_ms;
    sbx_buf_init(&c->ws->message, MAX_WS_MESSAGE);
    c->state = C_WS;
    c->in = (sbx_buf)SBX_BUF_INIT(IN_MAX_BYTES);
    c->in_at = 0;
    if (early.len > at)
        ws_input(c, early.data + at, early.len - at);
    sbx_buf_done(&early);
}

/* The peer broke the protocol: it is told why, and nothing more is read. */
static void ws_fail(conn *c, unsigned code)
{
    if (c->state == C_WS) {
        atomic_store(&c->reply->gone, true);
        ws_close(c, code);
    }
    if (c->state == C_WS_CLOSE)
        conn_hang_up(c);
}

/* A close frame of the peer: answered with its code, unless it answers ours. */
static void on_close(conn *c)
{
    ws_in *w = c->ws;
    unsigned code = 1000;
    bool ours = c->state == C_WS_CLOSE;

    if (w->control_len >= 2) {
        code = (unsigned)w->control[0] << 8 | w->control[1];
        if (code < 1000 || code == 1004 || code == 1005 || code == 1006 ||
            (code > 1014 && code < 3000) || code >= 5000 ||
            !sbx_utf8_valid((char *)w->control + 2, w->control_len - 2))
            code = 1002;
    } else if (w->control_len == 1) {
        code = 1002;
    }
    if (!ours) {
        atomic_store(&c->reply->gone, true);
        ws_close(c, code);
    }
    if (c->state == C_WS_CLOSE)
        conn_hang_up(c);
}

static void on_control(conn *c)
{
    ws_in *w = c->ws;

    if (w->opcode == SBX_WS_CLOSE)
        on_close(c);
    else if (w->opcode == SBX_WS_PING && c->state == C_WS && conn_out_left(c) < MAX_PONG_BACKLOG)
        send_control(c, SBX_WS_PONG, w->control, w->control_len);
}

static void on_data_end(conn *c)
{
    ws_in *w = c->ws;

    if (!w->fin || c->state != C_WS)
        return;
    w->in_message = false;
    if (!w->message_binary &&
        !sbx_utf8_valid(w->message.data ? w->message.data : "", w->message.len)) {
        ws_fail(c, 1007);
        return;
    }
    reply_message(c->reply, w->message.data ? w->message.data : "", w->message.len,
                  w->message_binary);
    sbx_buf_done(&w->message);
}

/* @return the close code of a fault, or 0. */
static unsigned check_header(ws_in *w)
{
    sbx_ws_head head;

    if (!sbx_ws_head_read(w->header, &head))
        return 1002;
    w->fin = head.fin;
    w->opcode = head.opcode;
    w->left = head.len;
    memcpy(w->mask, head.mask, 4);
    if (w->opcode >= SBX_WS_CLOSE)
        return 0;
    if ((w->opcode == SBX_WS_CONT) != w->in_message)
        return 1002;
    if (w->left > MAX_WS_MESSAGE || w->message.len + w->left > MAX_WS_MESSAGE)
        return 1009;
    return 0;
}

static void begin_payload(conn *c)
{
    ws_in *w = c->ws;
    unsigned fault = check_header(w);

    if (fault) {
        ws_fail(c, fault);
        return;
    }
    w->mask_at = 0;
    w->header_len = 0;
    w->in_payload = true;
    if (w->opcode >= SBX_WS_CLOSE) {
        w->control_len = 0;
    } else if (w->opcode != SBX_WS_CONT) {
        w->in_message = true;
        w->message_binary = w->opcode == SBX_WS_BIN;
        sbx_buf_reset(&w->message);
    }
}

static void take_payload(ws_in *w, const unsigned char *data, size_t len)
{
    unsigned char *to;

    if (w->opcode >= SBX_WS_CLOSE) {
        to = w->control + w->control_len;
        w->control_len += (unsigned)len;
    } else {
        to = (unsigned char *)sbx_buf_reserve(&w->message, len);
        if (!to)
            return; /* check_header() has refused what would not fit */
    }
    for (size_t i = 0; i < len; i++)
        to[i] = data[i] ^ w->mask[w->mask_at++ & 3];
    if (w->opcode < SBX_WS_CLOSE)
        sbx_buf_commit(&w->message, len);
    w->left -= len;
}

static size_t take_header(conn *c, const unsigned char *data, size_t len)
{
    ws_in *w = c->ws;
    size_t want = w->header_len < 2 ? 2 : sbx_ws_head_size(w->header);
    size_t n = SBX_MIN(len, want - w->header_len);

    memcpy(w->header + w->header_len, data, n);
    w->header_len += (unsigned)n;
    if (w->header_len == 2 && !(w->header[1] & 0x80))
        ws_fail(c, 1002); /* a client must mask */
    else if (w->header_len > 2 && w->header_len == sbx_ws_head_size(w->header))
        begin_payload(c);
    return n;
}

void ws_input(conn *c, const char *data, size_t len)
{
    const unsigned char *p = (const unsigned char *)data;
    ws_in *w = c->ws;

    w->last_rx_ms = c->http->now_ms;
    /* After a fault or the peer's close nothing more is read, though our answer may still be on
     * its way out. */
    while (!c->hang_up && (c->state == C_WS || c->state == C_WS_CLOSE) &&
           (len || (w->in_payload && !w->left))) {
        if (!w->in_payload) {
            size_t n = take_header(c, p, len);
            p += n;
            len -= n;
            continue;
        }
        size_t n = (size_t)SBX_MIN((uint64_t)len, w->left);
        take_payload(w, p, n);
        p += n;
        len -= n;
        if (w->left)
            continue;
        w->in_payload = false;
        if (w->opcode >= SBX_WS_CLOSE)
            on_control(c);
        else
            on_data_end(c);
    }
}
