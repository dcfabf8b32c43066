/* A WebSocket, client side: see ws.h. */
#include "cli/ws.h"

#include "sbx/core/clock.h"
#include "sbx/core/crypt.h"
#include <poll.h>
#include <stdio.h>

#define MAX_HEAD  (16 * KIB)
#define MAX_OUT   (4 * MIB)
#define PING_MS   5000
#define SILENT_MS 15000

static void wait_for(const cli_ws *w, short events, int64_t until_ms)
{
    struct pollfd p = {.fd = w->fd, .events = events};
    int64_t left = until_ms - sbx_now_ms();

    poll(&p, 1, left > 0 ? (int)left : 0);
}

/* What is queued, as far as it goes. @return false: lost. */
static bool send_queued(cli_ws *w)
{
    while (w->out.len) {
        size_t n = 0;
        CURLcode rc = curl_easy_send(w->easy, w->out.data, w->out.len, &n);

        if (rc == CURLE_AGAIN)
            return true;
        if (rc != CURLE_OK)
            return false;
        sbx_buf_consume(&w->out, n);
    }
    return true;
}

/* @return bytes; 0: none now; -1: lost. */
static int receive(cli_ws *w)
{
    char *to = sbx_buf_reserve(&w->in, CLI_CHUNK);
    size_t n = 0;

    if (!to)
        return -1;
    CURLcode rc = curl_easy_recv(w->easy, to, CLI_CHUNK, &n);
    if (rc == CURLE_AGAIN)
        return 0;
    if (rc != CURLE_OK || !n)
        return -1;
    sbx_buf_commit(&w->in, n);
    w->heard_ms = sbx_now_ms();
    return (int)n;
}

/* --- opening --- */

static void write_request(const cli *c, const cli_call *k, const char *key, sbx_buf *out)
{
    const cli_config *config = cli_client_config(c->client);
    const char *host = strstr(config->url, "://") + 3;
    size_t len = strcspn(host, "/");

    sbx_buf_addf(out,
                 "GET %s%s HTTP/1.1\r\nHost: %.*s\r\nUser-Agent: sbx/" SBX_VERSION "\r\n"
                 "Authorization: Bearer %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n",
                 host + len, k->path.data, (int)len, host, config->key, key);
}

/* The value of a header, which is cut to fit; "" if it is absent. */
static void header_of(const char *head, const char *name, char *out, size_t cap)
{
    size_t len = strlen(name);

    out[0] = '\0';
    for (const char *line = head; (line = strstr(line, "\r\n"));) {
        line += 2;
        if (strncasecmp(line, name, len) != 0 || line[len] != ':')
            continue;
        line += len + 1;
        line += strspn(line, " \t");
        snprintf(out, cap, "%.*s", (int)strcspn(line, "\r"), line);
        return;
    }
}

/* Bytes of the whole head; 0: it did not come. */
static size_t read_head(cli_ws *w, int64_t until_ms)
{
    while (sbx_now_ms() < until_ms) {
        const char *end = w->in.data ? strstr(w->in.data, "\r\n\r\n") : NULL;

        if (end)
            return (size_t)(end + 4 - w->in.data);
        if (w->in.len > MAX_HEAD)
            return 0;
        int n = receive(w);
        if (n < 0)
            return 0;
        if (!n)
            wait_for(w, POLLIN, until_ms);
    }
    return 0;
}

/* The problem that was answered instead of an upgrade, as far as it comes. */
static void read_refusal(cli_ws *w, cli_call *k, size_t head, int64_t until_ms)
{
    char length[24];
    int64_t want = -1;

    header_of(w->in.data, "X-Request-Id", k->request_id, sizeof(k->request_id));
    header_of(w->in.data, "Content-Length", length, sizeof(length));
    (void)sbx_parse_i64(length, 0, MIB, &want);
    while ((want < 0 || w->in.len < head + (size_t)want) && sbx_now_ms() < until_ms) {
        int n = receive(w);

        if (n < 0)
            break;
        if (!n)
            wait_for(w, POLLIN, until_ms);
    }
    sbx_buf_add(&k->answer, w->in.data + head, w->in.len - head);
}

static cli_ws_result handshake(const cli *c, cli_ws *w, cli_call *k, int64_t until_ms)
{
    unsigned char nonce[16];
    sbx_buf key = SBX_BUF_INIT(24);
    char accept[29] = "", told[40];
    int64_t status = 0;

    sbx_random(nonce, sizeof(nonce));
    sbx_base64_add(&key, nonce, sizeof(nonce));
    write_request(c, k, key.data, &w->out);
    int bad = sbx_ws_accept(key.data, accept);
    sbx_buf_done(&key);
    while (!bad && w->out.len && sbx_now_ms() < until_ms) {
        if (!send_queued(w))
            return CLI_WS_UNREACHED;
        if (w->out.len)
            wait_for(w, POLLOUT, until_ms);
    }
    size_t head = read_head(w, until_ms);
    if (head < 12 || strncmp(w->in.data, "HTTP/1.1 ", 9) != 0)
        return CLI_WS_UNREACHED;
    char digits[4] = {w->in.data[9], w->in.data[10], w->in.data[11], '\0'};
    if (!sbx_parse_i64(digits, 100, 999, &status))
        return CLI_WS_UNREACHED;
    k->status = (long)status;
    header_of(w->in.data, "Sec-WebSocket-Accept", told, sizeof(told));
    if (status != 101 || strcmp(told, accept) != 0) {
        read_refusal(w, k, head, until_ms);
        return CLI_WS_REFUSED;
    }
    sbx_buf_consume(&w->in, head);
    return CLI_WS_OPEN;
}

cli_ws_result cli_ws_open(cli *c, cli_ws *w, cli_call *k, int timeout_ms)
{
    int64_t until_ms = sbx_now_ms() + timeout_ms;
    curl_socket_t fd = CURL_SOCKET_BAD;

    *w = (cli_ws){.in = SBX_BUF_INIT(4 * CLI_MAX_MESSAGE),
                  .out = SBX_BUF_INIT(MAX_OUT),
                  .message = SBX_BUF_INIT(CLI_MAX_MESSAGE)};
    w->easy = curl_easy_init();
    if (!w->easy)
        abort();
    k->done = true;
    k->result = CURLE_OK;
    curl_easy_setopt(w->easy, CURLOPT_URL, cli_client_config(c->client)->url);
    curl_easy_setopt(w->easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(w->easy, CURLOPT_CONNECT_ONLY, 1L);
    curl_easy_setopt(w->easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(w->easy, CURLOPT_SSL_ENABLE_ALPN, 0L);
    curl_easy_setopt(w->easy, CURLOPT_HTTPPROXYTUNNEL, 1L);
    curl_easy_setopt(w->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(w->easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(w->easy, CURLOPT_ERRORBUFFER, k->why);
    curl_easy_setopt(w->easy, CURLOPT_CONNECTTIMEOUT_MS, (long)timeout_ms);
    k->result = curl_easy_perform(w->easy);
    if (k->result != CURLE_OK || curl_easy_getinfo(w->easy, CURLINFO_ACTIVESOCKET, &fd))
        return CLI_WS_UNREACHED;
    w->fd = fd;
    w->heard_ms = w->pinged_ms = sbx_now_ms();
    cli_ws_result result = handshake(c, w, k, until_ms);
    if (result == CLI_WS_UNREACHED) {
        k->result = CURLE_RECV_ERROR;
        sbx_copy(k->why, sizeof(k->why), "the connection was lost before it was answered");
    }
    return result;
}

void cli_ws_free(cli_ws *w)
{
    curl_easy_cleanup(w->easy);
    sbx_buf_done(&w->in);
    sbx_buf_done(&w->out);
    sbx_buf_done(&w->message);
    *w = (cli_ws){0};
}

/* --- frames --- */

void cli_ws_send(cli_ws *w, unsigned opcode, const void *data, size_t len)
{
    unsigned char mask[4];

    sbx_random(mask, sizeof(mask));
    sbx_ws_frame(&w->out, opcode, mask, data, len);
}

/* @return false: the connection ends here. */
static bool take_frame(cli_ws *w, const sbx_ws_head *h, const char *data,
                       cli_ws_message *on_message, void *arg)
{
    if (h->opcode == SBX_WS_CLOSE) {
        w->close_code =
            h->len >= 2 ? (unsigned)(unsigned char)data[0] << 8 | (unsigned char)data[1] : 1005;
        cli_ws_send(w, SBX_WS_CLOSE, data, SBX_MIN(h->len, (uint64_t)2));
        (void)send_queued(w);
        return false;
    }
    if (h->opcode == SBX_WS_PING && w->out.len < MAX_OUT / 2)
        cli_ws_send(w, SBX_WS_PONG, data, h->len);
    if (h->opcode >= SBX_WS_CLOSE)
        return true;
    if (h->opcode != SBX_WS_CONT) {
        w->message_opcode = h->opcode;
        sbx_buf_reset(&w->message);
        if (h->fin)
            return on_message(arg, h->opcode == SBX_WS_BIN, data, h->len);
    }
    sbx_buf_add(&w->message, data, h->len);
    if (sbx_buf_failed(&w->message))
        return false;
    return !h->fin ||
           on_message(arg, w->message_opcode == SBX_WS_BIN, w->message.data, w->message.len);
}

/* Every whole frame that has come. */
static bool take_frames(cli_ws *w, cli_ws_message *on_message, void *arg)
{
    size_t at = 0;
    bool more = true;

    while (more && w->in.len - at >= 2) {
        const unsigned char *p = (const unsigned char *)w->in.data + at;
        size_t head = sbx_ws_head_size(p);
        sbx_ws_head h;

        if (w->in.len - at < head)
            break;
        if (!sbx_ws_head_read(p, &h) || h.masked || h.len > CLI_MAX_MESSAGE)
            return false;
        if (w->in.len - at - head < h.len)
            break;
        more = take_frame(w, &h, w->in.data + at + head, on_message, arg);
        at += head + h.len;
    }
    sbx_buf_consume(&w->in, at);
    return more;
}

bool cli_ws_silent(const cli_ws *w)
{
    return sbx_now_ms() - w->heard_ms > SILENT_MS;
}

bool cli_ws_step(cli_ws *w, cli_ws_message *on_message, void *arg)
{
    int64_t now = sbx_now_ms();
    int n;

    do {
        n = receive(w);
        if (!take_frames(w, on_message, arg))
            return false;
    } while (n > 0);
    if (now - SBX_MAX(w->heard_ms, w->pinged_ms) >= PING_MS) {
        w->pinged_ms = now;
        cli_ws_send(w, SBX_WS_PING, NULL, 0);
    }
    return n == 0 && send_queued(w) && !cli_ws_silent(w) && !sbx_buf_failed(&w->out);
}
