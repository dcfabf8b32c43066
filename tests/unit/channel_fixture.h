/* A set of channels on a real STREAM, with the test in the place of the sandbox's agent: the
 * engine's connection is one end of a socket pair, whose other end the test reads and writes. */
#ifndef CHANNEL_FIXTURE_H
#define CHANNEL_FIXTURE_H

#include "sbx/core/agent_proto.h"
#include "sbx/core/clock.h"
#include "sbx/core/limits.h"
#include "sbx/sandbox/channel.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BOX     "aaaaaaaaaaaaaaaaaaaa"
#define WAIT_MS 10000

/* --- the engine's connection, in the place of src/engine/ --- */

struct sbx_engine_conn {
    int fd;
    char buffer[256 * 1024];
    size_t at, end;
};
static atomic_int conns_open;
static atomic_bool conns_buffer; /* as TLS does: all is read, and handed on in pieces */

int sbx_engine_conn_fd(const sbx_engine_conn *c)
{
    return c->fd;
}

ssize_t sbx_engine_conn_recv(sbx_engine_conn *c, int *ret_stream, void *data, size_t cap,
                             sbx_err *err)
{
    ssize_t n;

    (void)err;
    *ret_stream = 1;
    if (conns_buffer && c->at == c->end) {
        n = recv(c->fd, c->buffer, sizeof(c->buffer), MSG_DONTWAIT);
        c->at = 0;
        c->end = n > 0 ? (size_t)n : 0;
    }
    if (c->at < c->end) {
        n = (ssize_t)SBX_MIN(c->end - c->at, (size_t)100);
        memcpy(data, c->buffer + c->at, (size_t)n);
        c->at += (size_t)n;
        return n;
    }
    n = recv(c->fd, data, cap, MSG_DONTWAIT);
    return n > 0 ? n : n < 0 && errno == EAGAIN ? 0 : -1;
}

ssize_t sbx_engine_conn_send(sbx_engine_conn *c, const void *data, size_t len, sbx_err *err)
{
    ssize_t n = send(c->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);

    (void)err;
    return n < 0 && errno == EAGAIN ? 0 : n;
}

void sbx_engine_conn_close(sbx_engine_conn *c)
{
    if (!c)
        return;
    close(c->fd);
    free(c);
    atomic_fetch_sub(&conns_open, 1);
}

/* Both ends of a connection. @return the server's; the agent's is written to *ret_agent. */
static inline sbx_engine_conn *conn_pair(int *ret_agent)
{
    sbx_engine_conn *c = sbx_alloc(sizeof(*c));
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds))
        abort();
    c->fd = fds[0];
    *ret_agent = fds[1];
    atomic_fetch_add(&conns_open, 1);
    return c;
}

/* --- waiting --- */

static inline void pause_1ms(void)
{
    struct timespec t = {.tv_nsec = 1000000};

    nanosleep(&t, NULL);
}

/* True as soon as `what` is, false if that takes too long. */
#define EVENTUALLY(what)                                                                           \
    ({                                                                                             \
        int64_t _end = sbx_now_ms() + WAIT_MS;                                                     \
        bool _ok;                                                                                  \
        while (!(_ok = (what)) && sbx_now_ms() < _end)                                             \
            pause_1ms();                                                                           \
        _ok;                                                                                       \
    })

/* --- the agent --- */

typedef struct agent {
    int fd;
    unsigned char payload[SBX_PROTO_MAX_TO_AGENT];
    sbx_frame frame; /* of the last agent_read(); its payload is the array above */
} agent;

static inline bool agent_bytes(agent *a, void *to, size_t len)
{
    char *at = to;

    while (len) {
        struct pollfd p = {.fd = a->fd, .events = POLLIN};
        ssize_t n = poll(&p, 1, WAIT_MS) == 1 ? recv(a->fd, at, len, 0) : -1;

        if (n <= 0)
            return false;
        at += n;
        len -= (size_t)n;
    }
    return true;
}

/* The next frame of the server. @return its type, or 0 if none comes. */
static inline int agent_read(agent *a)
{
    unsigned char head[SBX_PROTO_HEADER_BYTES];
    uint32_t len = 0;

    if (!agent_bytes(a, head, sizeof(head)))
        return 0;
    for (int i = 0; i < 4; i++)
        len |= (uint32_t)head[i] << 8 * i;
    if (len > sizeof(a->payload) || !agent_bytes(a, a->payload, len))
        return 0;
    a->frame = (sbx_frame){.len = len, .type = head[4], .payload = a->payload};
    for (int i = 0; i < 4; i++)
        a->frame.req |= (uint32_t)head[8 + i] << 8 * i;
    return a->frame.type;
}

/* Read on to a frame of this type. */
static inline bool agent_read_until(agent *a, int type)
{
    int got;

    do
        got = agent_read(a);
    while (got && got != type);
    return got == type;
}

static inline bool agent_hello(agent *a)
{
    unsigned char marker[SBX_PROTO_MARKER_BYTES];

    return agent_bytes(a, marker, sizeof(marker)) &&
           memcmp(marker, SBX_PROTO_MAGIC, SBX_PROTO_MAGIC_BYTES) == 0 &&
           agent_read(a) == SBX_F_HELLO;
}

static inline void agent_send(agent *a, const void *data, size_t len)
{
    const char *at = data;

    while (len) {
        ssize_t n = send(a->fd, at, len, MSG_NOSIGNAL);

        if (n <= 0)
            return; /* the server has hung up, which the test notices elsewhere */
        at += n;
        len -= (size_t)n;
    }
}

static inline void agent_frame(agent *a, uint8_t type, uint32_t req, const void *payload,
                               size_t len)
{
    unsigned char head[SBX_PROTO_HEADER_BYTES];

    sbx_frame_put_header(head, (uint32_t)len, type, 1, req);
    agent_send(a, head, sizeof(head));
    agent_send(a, payload, len);
}

static inline void agent_num(agent *a, uint8_t type, uint32_t req, uint16_t tag, uint64_t value)
{
    unsigned char payload[16];

    agent_frame(a, type, req, payload, sbx_field_put_num(payload, sizeof(payload), tag, value));
}

static inline void agent_output(agent *a, uint32_t req, const void *data, size_t len)
{
    unsigned char payload[SBX_PROTO_MAX_FROM_AGENT] = {1};

    memcpy(payload + 9, data, len);
    agent_frame(a, SBX_F_OUTPUT, req, payload, 9 + len);
}

static inline void agent_marker(agent *a, uint64_t epoch)
{
    unsigned char marker[SBX_PROTO_MARKER_BYTES + 8] = {0};

    memcpy(marker, SBX_PROTO_MAGIC, SBX_PROTO_MAGIC_BYTES);
    memset(marker + SBX_PROTO_MAGIC_BYTES, 7, SBX_PROTO_TOKEN_BYTES);
    for (int i = 0; i < 8; i++)
        marker[SBX_PROTO_MARKER_BYTES + i] = (unsigned char)(epoch >> 8 * i);
    agent_send(a, marker, sizeof(marker));
}

static inline void agent_welcome(agent *a, uint64_t epoch)
{
    agent_marker(a, epoch);
    agent_frame(a, SBX_F_WELCOME, 0, NULL, 0);
}

/* The same of an agent of version 2, which is then asked for its commands. */
static inline void agent_welcome_2(agent *a, uint64_t epoch)
{
    agent_marker(a, epoch);
    agent_num(a, SBX_F_WELCOME, 0, SBX_T_VERSION, 2);
}

/* A record that is being made. */
typedef struct fields {
    unsigned char data[1024];
    size_t len;
} fields;

static inline void add_num(fields *f, uint16_t tag, uint64_t value)
{
    f->len += sbx_field_put_num(f->data + f->len, sizeof(f->data) - f->len, tag, value);
}

static inline void add_text(fields *f, uint16_t tag, const char *text)
{
    f->len += sbx_field_put(f->data + f->len, sizeof(f->data) - f->len, tag, text,
                            (uint32_t)strlen(text));
}

/* A numbered chunk, as version 2 sends it. */
static inline void agent_chunk(agent *a, uint32_t req, uint64_t number, const void *data,
                               size_t len)
{
    unsigned char payload[SBX_PROTO_MAX_FROM_AGENT] = {1};

    for (int i = 0; i < 8; i++)
        payload[1 + i] = (unsigned char)(number >> 8 * i);
    memcpy(payload + 9, data, len);
    agent_frame(a, SBX_F_OUTPUT, req, payload, 9 + len);
}

/* A number of the frame that was read last. */
static inline uint64_t agent_read_num(const agent *a, uint16_t tag)
{
    sbx_fields walk;
    sbx_field field;

    sbx_fields_init(&walk, a->frame.payload, a->frame.len);
    while (sbx_fields_next(&walk, &field) == 1)
        if (field.tag == tag)
            return field.num;
    return 0;
}

/* Begin a channel to the sandbox BOX with token 7777... and `epoch`. */
static inline sbx_greeting *channel_open(sbx_channels *c, const char *id, uint64_t epoch, agent *a)
{
    sbx_channel_hello hello = {.epoch = epoch, .image_user = ""};
    sbx_pairs env = {0};

    sbx_copy(hello.sandbox, sizeof(hello.sandbox), id);
    memset(hello.token, 7, sizeof(hello.token));
    return sbx_channels_open(c, &hello, &env, conn_pair(&a->fd));
}

#endif
