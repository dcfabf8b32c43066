/* The frame assembler and the search for the marker. */
#include "input.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "pages.h"

#define BASE_BYTES  (64 * 1024)
#define FRAME_BYTES (SBX_PROTO_HEADER_BYTES + SBX_PROTO_MAX_TO_AGENT)

struct agent_input {
    unsigned char marker[SBX_PROTO_MARKER_BYTES];
    unsigned char fallback[SBX_PROTO_MARKER_BYTES]; /* longest border of each prefix */
    size_t matched;                                 /* bytes of the marker that just passed */
    unsigned char *buf;
    size_t cap, start, end;
    enum { LOST, GREETED, OPEN } state; /* GREETED: a marker passed, HELLO must follow */
};

/* Knuth-Morris-Pratt: the state survives any cut of the stream. */
static void prepare_search(agent_input *in)
{
    size_t k = 0;

    for (size_t i = 1; i < SBX_PROTO_MARKER_BYTES; i++) {
        while (k > 0 && in->marker[i] != in->marker[k])
            k = in->fallback[k - 1];
        if (in->marker[i] == in->marker[k])
            k++;
        in->fallback[i] = (unsigned char)k;
    }
}

agent_input *agent_input_new(const unsigned char token[SBX_PROTO_TOKEN_BYTES])
{
    agent_input *in = agent_pages_map(sizeof *in);

    if (!in)
        return NULL;
    in->buf = agent_pages_map(BASE_BYTES);
    if (!in->buf) {
        agent_pages_unmap(in, sizeof *in);
        return NULL;
    }
    in->cap = BASE_BYTES;
    in->state = LOST;
    memcpy(in->marker, SBX_PROTO_MAGIC, SBX_PROTO_MAGIC_BYTES);
    memcpy(in->marker + SBX_PROTO_MAGIC_BYTES, token, SBX_PROTO_TOKEN_BYTES);
    prepare_search(in);
    return in;
}

void agent_input_free(agent_input *in)
{
    if (!in)
        return;
    agent_pages_unmap(in->buf, in->cap);
    agent_pages_unmap(in, sizeof *in);
}

const unsigned char *agent_input_marker(const agent_input *in)
{
    return in->marker;
}

/* Moves what is buffered to a mapping of another size. */
static bool resize(agent_input *in, size_t cap)
{
    unsigned char *buf = agent_pages_map(cap);

    if (!buf)
        return false;
    memcpy(buf, in->buf + in->start, in->end - in->start);
    agent_pages_unmap(in->buf, in->cap);
    in->buf = buf;
    in->end -= in->start;
    in->start = 0;
    in->cap = cap;
    return true;
}

unsigned char *agent_input_space(agent_input *in, size_t *ret_cap)
{
    if (in->start == in->end) {
        in->start = in->end = 0;
        if (in->cap > BASE_BYTES)
            (void)resize(in, BASE_BYTES);
    }
    if (in->end == in->cap && in->start > 0) {
        memmove(in->buf, in->buf + in->start, in->end - in->start);
        in->end -= in->start;
        in->start = 0;
    }
    if (in->end == in->cap && (in->cap >= FRAME_BYTES || !resize(in, FRAME_BYTES)))
        return NULL;
    *ret_cap = in->cap - in->end;
    return in->buf + in->end;
}

/* Runs the search over new bytes. @return the offset behind the last marker, 0 if there is none. */
static size_t find_marker(agent_input *in, const unsigned char *data, size_t len)
{
    size_t behind = 0;
    size_t k = in->matched;

    for (size_t i = 0; i < len; i++) {
        if (k == 0) {
            const unsigned char *at = memchr(data + i, in->marker[0], len - i);

            if (!at)
                break;
            i = (size_t)(at - data);
        }
        while (k > 0 && data[i] != in->marker[k])
            k = in->fallback[k - 1];
        if (data[i] == in->marker[k])
            k++;
        if (k == SBX_PROTO_MARKER_BYTES) {
            behind = i + 1;
            k = 0;
        }
    }
    in->matched = k;
    return behind;
}

void agent_input_filled(agent_input *in, size_t len)
{
    size_t behind = find_marker(in, in->buf + in->end, len);

    if (behind > 0) {
        in->start = in->end + behind;
        in->state = GREETED;
    }
    in->end += len;
    if (in->state == LOST)
        in->start = in->end;
}

void agent_input_lose(agent_input *in)
{
    in->state = LOST;
    in->start = in->end;
}

agent_input_event agent_input_next(agent_input *in, sbx_frame *ret)
{
    bool greeted = in->state == GREETED;
    long took;

    if (in->state == LOST)
        return AGENT_IN_MORE;
    took = sbx_frame_take(in->buf + in->start, in->end - in->start, SBX_PROTO_MAX_TO_AGENT, ret);
    if (took == 0)
        return AGENT_IN_MORE;
    if (took < 0 || greeted != (ret->type == SBX_F_HELLO)) {
        agent_input_lose(in);
        return AGENT_IN_BROKEN;
    }
    in->start += (size_t)took;
    in->state = OPEN;
    return greeted ? AGENT_IN_HELLO : AGENT_IN_FRAME;
}
