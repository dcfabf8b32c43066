/* Holding and writing standard input. */
#include "stdin.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "pages.h"

#define MIN_BYTES (64 * 1024)

static void release(agent_stdin *s)
{
    agent_pages_unmap(s->buf, s->cap);
    s->buf = NULL;
    s->cap = s->start = s->end = 0;
}

void agent_stdin_close(agent_stdin *s)
{
    agent_source_close(&s->source);
    release(s);
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
            s->source.ready &= ~(uint32_t)AGENT_WRITABLE;
        else if (n == 0 || errno != EINTR)
            agent_source_close(&s->source);
    }
    s->taken += done;
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

void agent_stdin_add(agent_stdin *s, const unsigned char *data, size_t len)
{
    size_t done = 0;
    size_t room;

    if (s->source.fd < 0 || s->closing)
        return;
    if (len == 0) {
        s->closing = true;
        agent_stdin_pump(s);
        return;
    }
    if (s->start == s->end)
        done = write_some(s, data, len);
    if (done == len || s->source.fd < 0)
        return;
    room = make_room(s, len - done);
    if (room > 0)
        memcpy(s->buf + s->end, data + done, room);
    s->end += room;
    s->dropped += len - done - room;
}

void agent_stdin_pump(agent_stdin *s)
{
    if (s->source.fd < 0)
        return;
    if (s->start < s->end)
        s->start += write_some(s, s->buf + s->start, s->end - s->start);
    if (s->source.fd < 0 || s->start == s->end)
        release(s);
    if (s->closing && s->start == s->end)
        agent_stdin_close(s);
}

bool agent_stdin_has_news(const agent_stdin *s)
{
    return s->dropped > 0 || s->taken >= SBX_STDIN_TAKEN_BYTES;
}
