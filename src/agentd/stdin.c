/* Holding and writing standard input. */
#include "stdin.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "follower.h"
#include "pages.h"

#define MIN_BYTES (64 * 1024)
#define MAX_RUNS  256 /* of followers that take turns while nobody reads */

static void tell(agent_follower *f, size_t taken, size_t dropped)
{
    if (!f || (taken == 0 && dropped == 0))
        return;
    f->taken += taken;
    f->dropped += dropped;
    agent_follower_wake(f);
}

/* `len` bytes leave the front of the buffer, into the pipe or not. */
static void leave(agent_stdin *s, size_t len, bool taken)
{
    size_t gone = 0;

    s->start += len;
    while (len > 0) {
        agent_stdin_run *r = &s->runs[gone];
        size_t part = len < r->len ? len : r->len;

        tell(r->from, taken ? part : 0, taken ? 0 : part);
        r->len -= part;
        len -= part;
        if (r->len == 0)
            gone++;
    }
    s->nruns -= gone;
    if (gone > 0)
        memmove(s->runs, s->runs + gone, s->nruns * sizeof *s->runs);
}

static void release(agent_stdin *s)
{
    agent_pages_unmap(s->buf, s->cap);
    free(s->runs);
    s->buf = NULL;
    s->runs = NULL;
    s->cap = s->start = s->end = s->nruns = 0;
}

void agent_stdin_close(agent_stdin *s)
{
    agent_source_close(&s->source);
    leave(s, s->end - s->start, false);
    release(s);
}

static void full(agent_source *s)
{
    s->ready &= ~(uint32_t)AGENT_WRITABLE;
    agent_source_await_room(s);
}

/* Writes at once. @return bytes written; a reader that has gone closes the input. */
static size_t write_some(agent_stdin *s, const unsigned char *data, size_t len)
{
    size_t done = 0;

    while (done < len && s->source.fd >= 0 && (s->source.ready & AGENT_WRITABLE)) {
        ssize_t n = write(s->source.fd, data + done, len - done);

        if (n > 0)
            done += (size_t)n;
        else if (n < 0 && errno == EAGAIN)
            full(&s->source);
        else if (n == 0 || errno != EINTR)
            agent_source_close(&s->source);
    }
    return done;
}

/* Makes room for `len` more bytes behind those held. @return how many fit. */
static size_t make_room(agent_stdin *s, size_t len)
{
    size_t held = s->end - s->start;
    size_t cap = s->cap ? s->cap : MIN_BYTES;
    unsigned char *buf;

    if (len > SBX_STDIN_MAX_BYTES - held)
        len = SBX_STDIN_MAX_BYTES - held;
    while (cap < held + len)
        cap *= 2;
    if (cap > s->cap) {
        buf = agent_pages_map(cap);
        if (!buf)
            return s->cap - s->end < len ? s->cap - s->end : len;
        if (held > 0)
            memcpy(buf, s->buf + s->start, held);
        agent_pages_unmap(s->buf, s->cap);
        s->buf = buf;
        s->cap = cap;
    } else if (s->cap - s->end < len) {
        memmove(s->buf, s->buf + s->start, held);
    } else {
        return len;
    }
    s->start = 0;
    s->end = held;
    return len;
}

/* The run that bytes of a follower are counted in. @return NULL if there are too many. */
static agent_stdin_run *run_of(agent_stdin *s, agent_follower *from)
{
    if (!s->runs)
        s->runs = malloc(MAX_RUNS * sizeof *s->runs);
    if (!s->runs)
        return NULL;
    if (s->nruns > 0 && s->runs[s->nruns - 1].from == from)
        return &s->runs[s->nruns - 1];
    if (s->nruns == MAX_RUNS)
        return NULL;
    s->runs[s->nruns] = (agent_stdin_run){.from = from};
    return &s->runs[s->nruns++];
}

/* Holds what there is room for. @return how many bytes. */
static size_t hold(agent_stdin *s, agent_follower *from, const unsigned char *data, size_t len)
{
    size_t room = make_room(s, len);
    agent_stdin_run *run = room > 0 ? run_of(s, from) : NULL;

    if (!run)
        return 0;
    memcpy(s->buf + s->end, data, room);
    s->end += room;
    run->len += room;
    return room;
}

static void end_of_file(agent_stdin *s)
{
    unsigned char typed[AGENT_EOF_BYTES];

    if (s->terminal && s->source.fd >= 0) {
        agent_stdin_add(s, NULL, typed, agent_terminal_eof(s->source.fd, s->line_begun, typed));
        s->line_begun = false;
    } else {
        s->closing = true;
        agent_stdin_pump(s);
    }
}

void agent_stdin_add(agent_stdin *s, agent_follower *from, const unsigned char *data, size_t len)
{
    size_t taken = 0, held = 0;

    if (len == 0) {
        end_of_file(s);
        return;
    }
    s->line_begun = data[len - 1] != '\n' && data[len - 1] != '\r';
    if (s->source.fd >= 0 && !s->closing) {
        if (s->start == s->end)
            taken = write_some(s, data, len);
        if (taken < len && s->source.fd >= 0)
            held = hold(s, from, data + taken, len - taken);
    }
    tell(from, taken, len - taken - held);
}

void agent_stdin_pump(agent_stdin *s)
{
    if (s->start < s->end) {
        leave(s, write_some(s, s->buf + s->start, s->end - s->start), true);
        if (s->source.fd < 0)
            agent_stdin_close(s);
    }
    if (s->start == s->end && s->cap > 0)
        release(s);
    if (s->closing && s->start == s->end && s->source.fd >= 0)
        agent_stdin_close(s);
}

void agent_stdin_forget(agent_stdin *s, const agent_follower *f)
{
    for (size_t i = 0; i < s->nruns; i++)
        if (s->runs[i].from == f)
            s->runs[i].from = NULL;
}
