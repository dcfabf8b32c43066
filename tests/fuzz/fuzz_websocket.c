/* WebSocket: frames after an upgrade, and the head that asks for one (the first byte chooses).
 *
 * Frames go through a real connection on a socket pair, three times: at once, byte by byte, and as
 * what came with the handshake. Messages and answers must be the same each time; every answer is
 * an unmasked, unfragmented pong or close, and nothing follows a close. */
#include "http/internal.h"
#include "sbx/core/json.h"
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#define SLOTS       2
#define LARGEST_LOG (4 * MIB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef enum feeding { AT_ONCE, BYTE_BY_BYTE, EARLY } feeding;

typedef struct bench {
    sbx_http http;
    conn *slots[SLOTS];
    uint32_t generations[SLOTS], free_slots[SLOTS];
    int peer;
    sbx_buf messages, answers;
} bench;

static void no_wake(void *arg)
{
    (void)arg;
}

static void on_message(void *arg, const char *data, size_t len, bool binary)
{
    bench *b = arg;

    if (len > MAX_WS_MESSAGE || (!binary && !sbx_utf8_valid(data, len)))
        abort();
    sbx_buf_addf(&b->messages, "%d %zu ", binary, len);
    sbx_buf_add(&b->messages, data, len);
}

static void bench_init(bench *b)
{
    *b = (bench){.messages = SBX_BUF_INIT(LARGEST_LOG), .answers = SBX_BUF_INIT(LARGEST_LOG)};
    b->http.slots = b->slots;
    b->http.generations = b->generations;
    b->http.free_slots = b->free_slots;
    b->http.slot_count = b->http.free_count = SLOTS;
    b->free_slots[1] = 1;
    b->http.mailbox = sbx_mailbox_new(no_wake, NULL);
}

static void bench_done(bench *b)
{
    sbx_mailbox_free(b->http.mailbox);
    sbx_buf_done(&b->messages);
    sbx_buf_done(&b->answers);
}

static void collect(bench *b)
{
    char text[64 * KIB];
    ssize_t n;

    while ((n = recv(b->peer, text, sizeof(text), MSG_DONTWAIT)) > 0)
        sbx_buf_add(&b->answers, text, (size_t)n);
}

/* A connection on which a handler has just opened a WebSocket. */
static conn *open_socket(bench *b, sbx_reply **user)
{
    const sbx_reply_events events = {.message = on_message, .arg = b};
    sbx_head head = {.method = SBX_GET, .minor = 1};
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair))
        abort();
    b->peer = pair[1];
    conn *c = conn_new(&b->http, pair[0]);
    memcpy(c->request_id, "fuzz", 5);
    c->reply = reply_new(&b->http, c, &head);
    c->reply->ws = true;
    *user = c->reply;
    c->state = C_PARKED;
    conn_set_timer(c, T_NONE);
    sbx_reply_watch(c->reply, &events);
    sbx_reply_begin(c->reply, 101, NULL);
    return c;
}

static void feed(bench *b, const char *data, size_t size, feeding how)
{
    sbx_reply *user;
    conn *c = open_socket(b, &user);
    int fd = c->fd;

    if (how == EARLY)
        sbx_buf_add(&c->in, data, size);
    sbx_mailbox_drain(b->http.mailbox);
    for (size_t i = 0; how == BYTE_BY_BYTE && i < size && c->state != C_DOOMED; i++) {
        conn_input(c, data + i, 1);
        collect(b);
    }
    if (how == AT_ONCE)
        conn_input(c, data, size);
    collect(b);
    conn_closed(c);
    sbx_reply_unref(user);
    sbx_mailbox_drain(b->http.mailbox);
    close(fd);
    close(b->peer);
    if (b->http.doomed || atomic_load(&b->http.count))
        abort();
}

static void check_answers(const sbx_buf *answers)
{
    const char *end = answers->data ? strstr(answers->data, "\r\n\r\n") : NULL;
    size_t at = end ? (size_t)(end - answers->data) + 4 : 0;
    bool closed = false;

    if (!end || strncmp(answers->data, "HTTP/1.1 101 ", 13) != 0)
        abort();
    while (at < answers->len) {
        unsigned char first = (unsigned char)answers->data[at];
        unsigned char len = (unsigned char)answers->data[at + 1];

        if (closed || (first != 0x88 && first != 0x8a) || len > 125)
            abort();
        closed = first == 0x88;
        at += 2 + len;
    }
    if (at != answers->len)
        abort();
}

static void same(const sbx_buf *a, const sbx_buf *b)
{
    if (a->failed || b->failed || a->len != b->len || (a->len && memcmp(a->data, b->data, a->len)))
        abort();
}

static void try_frames(const char *data, size_t size)
{
    bench runs[3];

    for (int i = 0; i < 3; i++) {
        bench_init(&runs[i]);
        feed(&runs[i], data, size, (feeding)i);
        check_answers(&runs[i].answers);
        if (i) {
            same(&runs[0].messages, &runs[i].messages);
            same(&runs[0].answers, &runs[i].answers);
        }
    }
    for (int i = 0; i < 3; i++)
        bench_done(&runs[i]);
}

static void try_handshake(const char *data, size_t size)
{
    size_t from = 0, len = 0;
    char accept[29];
    sbx_err err;
    sbx_head h;

    if (sbx_head_find(data, size, &from, &len, &err) != 1)
        return;
    char *text = sbx_alloc(len + 1);
    memcpy(text, data, len);
    if (!sbx_head_parse(text, len, &h, &err)) {
        if ((h.ws_protocol || h.ws_bearer) && !h.ws_offered)
            abort();
        if (h.ws_key && !sbx_ws_accept(h.ws_key, accept) && strlen(accept) != 28)
            abort();
        for (const char *p = h.ws_bearer; p && *p; p++)
            if (*p <= ' ' || *p >= 0x7f || *p == ',')
                abort();
    }
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    if (data[0] == 'H')
        try_handshake((const char *)data + 1, size - 1);
    else
        try_frames((const char *)data + 1, size - 1);
    return 0;
}
