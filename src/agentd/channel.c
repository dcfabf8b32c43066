/* Reading and writing the channel. */
#include "channel.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "pages.h"

#define LOOK_AGAIN_MS 250
#define REST_MS       1000

static int set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    return flags < 0 ? -1 : fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

static void look_again(void *arg)
{
    agent_channel *c = arg;

    c->in.ready |= EPOLLIN;
}

/* A descriptor that cannot be polled, such as a file, is always ready. */
static int open_source(agent_channel *c, agent_source *s, int fd)
{
    if (set_nonblocking(fd) < 0) {
        close(fd);
        return -1;
    }
    return agent_source_open(c->loop, s, fd) < 0 && errno != EPERM ? -1 : 0;
}

int agent_channel_init(agent_channel *c, agent_loop *l, int in_fd, int out_fd,
                       const unsigned char token[SBX_PROTO_TOKEN_BYTES], bool lasting)
{
    int in_ok, out_ok;

    memset(c, 0, sizeof *c);
    c->loop = l;
    c->lasting = lasting;
    c->in.fd = c->out.fd = -1;
    in_ok = open_source(c, &c->in, in_fd);
    out_ok = open_source(c, &c->out, out_fd);
    c->input = agent_input_new(token);
    c->buf = agent_pages_map(AGENT_OUT_BYTES);
    if (in_ok < 0 || out_ok < 0 || !c->input || !c->buf)
        return -1;
    if (c->in.fd < 0)
        agent_timer_set(l, &c->look_again, LOOK_AGAIN_MS, look_again, c);
    return 0;
}

void agent_channel_done(agent_channel *c)
{
    agent_timer_stop(c->loop, &c->look_again);
    agent_timer_stop(c->loop, &c->rest);
    agent_source_close(&c->in);
    agent_source_close(&c->out);
    agent_input_free(c->input);
    agent_pages_unmap(c->buf, AGENT_OUT_BYTES);
}

bool agent_channel_read(agent_channel *c)
{
    size_t cap;
    unsigned char *to;
    ssize_t n;

    if (c->in.fd < 0 || !(c->in.ready & AGENT_READABLE) || !agent_channel_room(c, 0))
        return false;
    to = agent_input_space(c->input, &cap);
    if (!to) {
        agent_channel_lose(c);
        return true;
    }
    n = read(c->in.fd, to, cap);
    if (n > 0) {
        agent_input_filled(c->input, (size_t)n);
        return true;
    }
    if (n < 0 && errno == EINTR)
        return true;
    c->in.ready &= ~(uint32_t)AGENT_READABLE;
    if (n < 0 && errno == EAGAIN)
        return false;
    if (!c->lasting)
        agent_channel_lose(c);
    else
        agent_timer_set(c->loop, &c->look_again, LOOK_AGAIN_MS, look_again, c);
    return false;
}

agent_input_event agent_channel_next(agent_channel *c, sbx_frame *ret)
{
    return agent_channel_room(c, 0) ? agent_input_next(c->input, ret) : AGENT_IN_MORE;
}

void agent_channel_lose(agent_channel *c)
{
    agent_input_lose(c->input);
    c->greeted = false;
    c->lost = true;
    c->start = c->end = 0;
}

void agent_channel_greet(agent_channel *c, uint64_t epoch)
{
    unsigned char *at = c->buf;

    memcpy(at, agent_input_marker(c->input), SBX_PROTO_MARKER_BYTES);
    for (int i = 0; i < 8; i++)
        at[SBX_PROTO_MARKER_BYTES + i] = (unsigned char)(epoch >> (8 * i));
    c->start = 0;
    c->end = SBX_PROTO_MARKER_BYTES + 8;
    c->greeted = true;
    c->lost = false;
    c->epoch = (uint16_t)epoch;
}

bool agent_channel_room(const agent_channel *c, size_t len)
{
    size_t left = AGENT_OUT_BYTES - (c->end - c->start);

    return left >= AGENT_REPLY_ROOM + SBX_PROTO_HEADER_BYTES + len;
}

unsigned char *agent_channel_reserve(agent_channel *c, size_t cap)
{
    size_t need = SBX_PROTO_HEADER_BYTES + cap;

    if (AGENT_OUT_BYTES - (c->end - c->start) < need)
        return NULL;
    if (AGENT_OUT_BYTES - c->end < need) {
        memmove(c->buf, c->buf + c->start, c->end - c->start);
        c->end -= c->start;
        c->start = 0;
    }
    return c->buf + c->end + SBX_PROTO_HEADER_BYTES;
}

void agent_channel_commit(agent_channel *c, uint8_t type, uint32_t req, size_t len)
{
    if (!c->greeted)
        return;
    sbx_frame_put_header(c->buf + c->end, (uint32_t)len, type, c->epoch, req);
    c->end += SBX_PROTO_HEADER_BYTES + len;
}

void agent_channel_send(agent_channel *c, uint8_t type, uint32_t req, const void *payload,
                        size_t len)
{
    unsigned char *to = c->greeted ? agent_channel_reserve(c, len) : NULL;

    if (!to)
        return;
    if (len > 0)
        memcpy(to, payload, len);
    agent_channel_commit(c, type, req, len);
}

/* Nobody talked for a second: the buffers' pages go back. */
static void rest(void *arg)
{
    agent_channel *c = arg;

    if (c->start == c->end)
        agent_pages_forget(c->buf, AGENT_OUT_BYTES);
}

void agent_channel_flush(agent_channel *c)
{
    while (c->start < c->end) {
        ssize_t n;

        if (c->out.fd < 0 || !(c->out.ready & AGENT_WRITABLE))
            return;
        n = write(c->out.fd, c->buf + c->start, c->end - c->start);
        if (n > 0) {
            c->start += (size_t)n;
        } else if (n < 0 && errno == EAGAIN) {
            c->out.ready &= ~(uint32_t)AGENT_WRITABLE;
            agent_source_await_room(&c->out);
            return;
        } else if (n == 0 || errno != EINTR) {
            agent_channel_lose(c);
            return;
        }
        if (c->start == c->end) {
            c->start = c->end = 0;
            if (!c->rest.armed)
                agent_timer_set(c->loop, &c->rest, REST_MS, rest, c);
        }
    }
}
