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
#include <libwebsockets.h>

#define OP_CONT  0u
#define OP_TEXT  1u
#define OP_BIN   2u
#define OP_CLOSE 8u
#define OP_PING  9u
#define OP_PONG  10u

#define MAX_PONG_BACKLOG (64 * KIB)

int ws_accept_key(const char *key, char out[32])
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    unsigned char text[24 + sizeof(guid)], hash[20];

    if (strlen(key) != 24 || key[22] != '=' || key[23] != '=')
        return -1;
    for (int i = 0; i < 22; i++)
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", key[i]))
            return -1;
    memcpy(text, key, 24);
    memcpy(text + 24, guid, sizeof(guid) - 1);
    lws_SHA1(text, 24 + sizeof(guid) - 1, hash);
    return lws_b64_encode_string((const char *)hash, sizeof(hash), out, 32) > 0 ? 0 : -1;
}

void ws_frame(sbx_buf *out, unsigned opcode, const void *data, size_t len)
{
    unsigned char head[10] = {(unsigned char)(0x80 | opcode)};
    size_t n = 2;

    if (len < 126) {
        head[1] = (unsigned char)len;
    } else if (len < 65536) {
        head[1] = 126;
        head[2] = (unsigned char)(len >> 8);
        head[3] = (unsigned char)len;
        n = 4;
    } else {
        head[1] = 127;
        for (int i = 0; i < 8; i++)
            head[2 + i] = (unsigned char)((uint64_t)len >> (56 - 8 * i));
        n = 10;
    }
    sbx_buf_add(out, head, n);
    sbx_buf_add(out, data, len);
}

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

    ws_frame(&frame, opcode, data, len);
    conn_append_out(c, frame.data, frame.len);
    sbx_buf_done(&frame);
}

void ws_close(conn *c, unsigned code)
{
    unsigned char payload[2] = {(unsigned char)(code >> 8), (unsigned char)code};

    c->state = C_WS_CLOSE;
    conn_leave(c);
    send_control(c, OP_CLOSE, payload, 2);
}

void ws_ping(conn *c)
{
    if (c->http->now_ms - c->ws->last_rx_ms >= 2 * c->http->timeouts_ms[T_PING])
        conn_doom(c);
    else
        send_control(c, OP_PING, NULL, 0);
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

    if (w->opcode == OP_CLOSE)
        on_close(c);
    else if (w->opcode == OP_PING && c->state == C_WS && conn_out_left(c) < MAX_PONG_BACKLOG)
        send_control(c, OP_PONG, w->control, w->control_len);
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

/* How many bytes of header the first two ask for. */
static unsigned header_size(const unsigned char *h)
{
    unsigned len = h[1] & 0x7f;

    return 2 + 4 + (len == 126 ? 2 : len == 127 ? 8 : 0);
}

/* @return the close code of a fault, or 0. */
static unsigned check_header(ws_in *w)
{
    const unsigned char *h = w->header;
    unsigned len = h[1] & 0x7f;

    w->fin = h[0] & 0x80;
    w->opcode = h[0] & 0x0f;
    w->left = len;
    if (len == 126)
        w->left = (uint64_t)h[2] << 8 | h[3];
    if (len == 127) {
        w->left = 0;
        for (int i = 0; i < 8; i++)
            w->left = w->left << 8 | h[2 + i];
    }
    if ((len == 126 && w->left < 126) || (len == 127 && w->left <= UINT16_MAX))
        return 1002; /* a length has one way to be written */
    if ((h[0] & 0x70) || (w->opcode > OP_BIN && w->opcode < OP_CLOSE) || w->opcode > OP_PONG)
        return 1002;
    if (w->opcode >= OP_CLOSE)
        return !w->fin || len > 125 ? 1002 : 0;
    if ((w->opcode == OP_CONT) != w->in_message)
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
    memcpy(w->mask, w->header + w->header_len - 4, 4);
    w->mask_at = 0;
    w->header_len = 0;
    w->in_payload = true;
    if (w->opcode >= OP_CLOSE) {
        w->control_len = 0;
    } else if (w->opcode != OP_CONT) {
        w->in_message = true;
        w->message_binary = w->opcode == OP_BIN;
        sbx_buf_reset(&w->message);
    }
}

static void take_payload(ws_in *w, const unsigned char *data, size_t len)
{
    unsigned char *to;

    if (w->opcode >= OP_CLOSE) {
        to = w->control + w->control_len;
        w->control_len += (unsigned)len;
    } else {
        to = (unsigned char *)sbx_buf_reserve(&w->message, len);
        if (!to)
            return; /* check_header() has refused what would not fit */
    }
    for (size_t i = 0; i < len; i++)
        to[i] = data[i] ^ w->mask[w->mask_at++ & 3];
    if (w->opcode < OP_CLOSE)
        sbx_buf_commit(&w->message, len);
    w->left -= len;
}

static size_t take_header(conn *c, const unsigned char *data, size_t len)
{
    ws_in *w = c->ws;
    unsigned want = w->header_len < 2 ? 2 : header_size(w->header);
    size_t n = SBX_MIN(len, (size_t)(want - w->header_len));

    memcpy(w->header + w->header_len, data, n);
    w->header_len += (unsigned)n;
    if (w->header_len == 2 && !(w->header[1] & 0x80))
        ws_fail(c, 1002); /* a client must mask */
    else if (w->header_len > 2 && w->header_len == header_size(w->header))
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
        if (w->opcode >= OP_CLOSE)
            on_control(c);
        else
            on_data_end(c);
    }
}
