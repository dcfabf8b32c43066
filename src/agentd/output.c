/* Reading output. That of the server's own commands goes straight into frames: files are moved
 * over it. All other is kept. */
#include "output.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "follower.h"

#define HANGUP_MS 10
#define MAX_DATA  (SBX_PROTO_MAX_FROM_AGENT - AGENT_OUTPUT_HEAD)

typedef enum disposition {
    HOLD, /* leave it in the pipe */
    SEND,
    KEEP,
    SINK, /* journal it only */
} disposition;

static unsigned char scratch[SBX_PROTO_MAX_FROM_AGENT];

/* The one follower of a command of the server. */
static agent_follower *only_follower(const agent_command *c)
{
    return agent_list_empty(&c->followers)
               ? NULL
               : AGENT_OF(c->followers.next, agent_follower, of_command);
}

static disposition dispose_check(const agent_command *c)
{
    agent_follower *f = only_follower(c);

    if (!f || f->detached)
        return SINK;
    if (!f->started_told)
        (void)agent_follower_serve(f);
    if (c->state == AGENT_STARTING || f->window <= 0)
        return HOLD;
    if (f->started_told && agent_channel_room(&f->peer->channel, SBX_PROTO_MAX_FROM_AGENT))
        return SEND;
    f->peer->starved = true;
    return HOLD;
}

static disposition dispose(agent_command *c)
{
    if (c->state >= AGENT_OVER || c->output_left == 0)
        return SINK;
    if (agent_command_is_check(c))
        return dispose_check(c);
    c->held = c->pacer && c->kept.bytes - c->pacer->place.read >= SBX_PACE_BYTES;
    return c->held ? HOLD : KEEP;
}

static void keep(agent_command *c, int i, const unsigned char *data, size_t len)
{
    if (len == 0)
        return;
    agent_keep_add(c->shared->keep, &c->kept, (uint8_t)(i + 1), data, len);
    agent_command_wake(c);
}

/* Nothing more comes to complete a character. */
static void flush_carry(agent_command *c, int i)
{
    agent_stream *s = &c->out[i];
    size_t len = s->carried < c->output_left ? s->carried : (size_t)c->output_left;

    s->carried = 0;
    c->output_left -= len;
    keep(c, i, s->carry, len);
}

static void end_stream(agent_command *c, int i)
{
    if (c->state < AGENT_OVER)
        flush_carry(c, i);
    agent_lines_end(&c->out[i].lines);
    agent_source_close(&c->out[i].source);
}

static void on_hangup(void *arg)
{
    agent_command *c = arg;

    c->out[0].source.ready |= EPOLLIN;
}

/* A terminal whose last user has gone reads as hung up for a moment before what he wrote last can
 * be read, so that is believed the second time. @return whether it is to be read once more. */
static bool may_be_early(agent_command *c)
{
    bool early = c->in.terminal && errno == EIO && !c->hung_up && c->state < AGENT_OVER;

    if (early) {
        c->hung_up = true;
        c->out[0].source.ready &= ~(uint32_t)AGENT_READABLE;
        agent_timer_set(&c->shared->loop, &c->hangup, HANGUP_MS, on_hangup, c);
    }
    return early;
}

/* Reads, and keeps the books of what was read. @return bytes, 0 if there are none now. */
static size_t take(agent_command *c, int i, unsigned char *to, size_t len)
{
    agent_stream *s = &c->out[i];
    ssize_t n = read(s->source.fd, to, len);

    if (n == 0) {
        end_stream(c, i);
        return 0;
    }
    if (n < 0) {
        if (errno == EAGAIN)
            s->source.ready &= ~(uint32_t)AGENT_READABLE;
        else if (errno != EINTR && !may_be_early(c))
            end_stream(c, i);
        return 0;
    }
    agent_lines_add(&s->lines, to, (size_t)n);
    s->offset += (uint64_t)n;
    s->drain_left -= (uint64_t)n < s->drain_left ? (uint64_t)n : s->drain_left;
    return (size_t)n;
}

static void put_head(unsigned char *to, int i, uint64_t offset)
{
    to[0] = (unsigned char)(i + 1);
    for (int k = 0; k < 8; k++)
        to[1 + k] = (unsigned char)(offset >> (8 * k));
}

static size_t limit_of(const agent_command *c, const agent_follower *f)
{
    uint64_t limit = MAX_DATA;

    if ((uint64_t)f->window < limit)
        limit = (uint64_t)f->window;
    if (c->output_left < limit)
        limit = c->output_left;
    return (size_t)limit;
}

static void send_some(agent_command *c, int i)
{
    agent_follower *f = only_follower(c);
    agent_channel *ch = &f->peer->channel;
    uint64_t offset = c->out[i].offset;
    size_t limit = limit_of(c, f);
    unsigned char *to = agent_channel_reserve(ch, AGENT_OUTPUT_HEAD + limit);
    size_t n = to ? take(c, i, to + AGENT_OUTPUT_HEAD, limit) : 0;

    if (n == 0)
        return;
    put_head(to, i, offset);
    agent_channel_commit(ch, SBX_F_OUTPUT, f->req, AGENT_OUTPUT_HEAD + n);
    f->window -= (int64_t)n;
    c->output_left -= n;
    agent_channel_flush(ch);
}

static void keep_some(agent_command *c, int i)
{
    agent_stream *s = &c->out[i];
    size_t carried = s->carried;
    size_t n = take(c, i, scratch + carried, SBX_CHUNK_BYTES - carried);
    size_t len = carried + n, whole;

    if (n == 0)
        return;
    memcpy(scratch, s->carry, carried);
    if (len > c->output_left) {
        len = (size_t)c->output_left;
        len -= agent_utf8_tail(scratch, len);
        keep(c, i, scratch, len);
        c->output_left = 0;
        c->truncated = true;
        c->out[0].carried = c->out[1].carried = 0;
        return;
    }
    whole = len - agent_utf8_tail(scratch, len);
    s->carried = (uint8_t)(len - whole);
    memcpy(s->carry, scratch + whole, s->carried);
    c->output_left -= whole;
    keep(c, i, scratch, whole);
}

bool agent_output_pump(agent_command *c, int i)
{
    agent_stream *s = &c->out[i];

    if (s->source.fd < 0 || !(s->source.ready & AGENT_READABLE))
        return false;
    switch (dispose(c)) {
    case HOLD:
        return false;
    case SEND:
        send_some(c, i);
        break;
    case KEEP:
        keep_some(c, i);
        break;
    case SINK:
        if (take(c, i, scratch, sizeof scratch) > 0 && c->output_left == 0)
            c->truncated |= c->state < AGENT_OVER;
        break;
    }
    return s->source.fd >= 0 && (s->source.ready & AGENT_READABLE);
}

void agent_output_finish(agent_command *c)
{
    for (int i = 0; i < 2; i++)
        flush_carry(c, i);
    if (c->in.terminal)
        agent_source_close(&c->out[0].source); /* hangs up what was left on it */
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
