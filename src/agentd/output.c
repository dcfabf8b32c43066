/* Reading output, straight into frames where they may be sent. */
#include "output.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define MAX_DATA (SBX_PROTO_MAX_FROM_AGENT - AGENT_OUTPUT_HEAD)

typedef enum disposition {
    HOLD,   /* leave it in the pipe */
    STARVE, /* the same, until the channel has room */
    SEND,
    SINK, /* journal it only */
} disposition;

/* Output that nobody sees; it is only journalled. */
static unsigned char scratch[SBX_PROTO_MAX_FROM_AGENT];

static disposition dispose(const agent_command *c)
{
    const agent_channel *ch = &c->shared->channel;

    if (c->detached || c->exit_told || c->output_left == 0)
        return SINK;
    if (!c->bound || !ch->greeted || c->window == 0)
        return HOLD;
    return agent_channel_room(ch, SBX_PROTO_MAX_FROM_AGENT) ? SEND : STARVE;
}

static void put_head(unsigned char *to, int i, uint64_t offset)
{
    to[0] = (unsigned char)(i + 1);
    for (int k = 0; k < 8; k++)
        to[1 + k] = (unsigned char)(offset >> (8 * k));
}

static void end_stream(agent_stream *s)
{
    agent_lines_end(&s->lines);
    agent_source_close(&s->source);
}

/* Reads, and keeps the books of what was read. @return bytes, 0 if there are none now. */
static size_t take(agent_stream *s, unsigned char *to, size_t len)
{
    ssize_t n = read(s->source.fd, to, len);

    if (n == 0) {
        end_stream(s);
        return 0;
    }
    if (n < 0) {
        if (errno == EAGAIN)
            s->source.ready &= ~(uint32_t)AGENT_READABLE;
        else if (errno != EINTR)
            end_stream(s);
        return 0;
    }
    agent_lines_add(&s->lines, to, (size_t)n);
    s->offset += (uint64_t)n;
    s->drain_left -= (uint64_t)n < s->drain_left ? (uint64_t)n : s->drain_left;
    return (size_t)n;
}

static size_t limit_of(const agent_command *c)
{
    uint64_t limit = MAX_DATA;

    if (c->window < limit)
        limit = c->window;
    if (c->output_left < limit)
        limit = c->output_left;
    return (size_t)limit;
}

static void send_some(agent_command *c, int i)
{
    agent_channel *ch = &c->shared->channel;
    agent_stream *s = &c->out[i];
    uint64_t offset = s->offset;
    size_t limit = limit_of(c);
    unsigned char *to = agent_channel_reserve(ch, AGENT_OUTPUT_HEAD + limit);
    size_t n = to ? take(s, to + AGENT_OUTPUT_HEAD, limit) : 0;

    if (n == 0)
        return;
    put_head(to, i, offset);
    agent_channel_commit(ch, SBX_F_OUTPUT, c->req, AGENT_OUTPUT_HEAD + n);
    c->window -= n;
    c->output_left -= n;
    agent_channel_flush(ch);
}

bool agent_output_pump(agent_command *c, int i, bool *now_starved)
{
    agent_stream *s = &c->out[i];

    if (s->source.fd < 0 || !(s->source.ready & AGENT_READABLE))
        return false;
    switch (dispose(c)) {
    case HOLD:
        return false;
    case STARVE:
        *now_starved = true;
        return false;
    case SEND:
        send_some(c, i);
        break;
    case SINK:
        if (take(s, scratch, sizeof scratch) > 0 && c->output_left == 0 && !c->exit_told)
            c->truncated = true;
        break;
    }
    return s->source.fd >= 0 && (s->source.ready & AGENT_READABLE);
}

bool agent_output_drained(const agent_command *c)
{
    for (int i = 0; i < 2; i++)
        if (c->out[i].source.fd >= 0 && (!c->draining || c->out[i].drain_left > 0))
            return false;
    return true;
}

void agent_output_begin_drain(agent_command *c)
{
    c->draining = true;
    for (int i = 0; i < 2; i++) {
        int n = 0;

        if (c->out[i].source.fd >= 0 && ioctl(c->out[i].source.fd, FIONREAD, &n) == 0 && n > 0) {
            c->out[i].drain_left = (uint64_t)n;
            c->out[i].source.ready |= EPOLLIN;
        }
    }
}
