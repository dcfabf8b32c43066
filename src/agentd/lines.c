/* From bytes to journal entries. */
#include "lines.h"

#include <stdlib.h>
#include <string.h>

#include "loop.h"

#define HELD_MIN_BYTES 256

static void emit(agent_lines *l, int64_t ts_ms, const char *data, size_t len)
{
    sbx_log_entry e = {.ts_ms = ts_ms,
                       .stream = l->stream,
                       .source = l->source,
                       .exec_id_len = l->exec_id_len,
                       .exec_id = l->exec_id,
                       .len = (uint32_t)len,
                       .data = data};

    agent_journal_add(l->journal, &e);
}

static void drop_held(agent_lines *l)
{
    free(l->held);
    l->held = NULL;
    l->len = l->cap = 0;
}

/* Keeps the beginning of a line. Without memory it is journalled as it stands. */
static void hold(agent_lines *l, int64_t ts_ms, const char *data, size_t len)
{
    uint32_t cap = l->cap ? l->cap : HELD_MIN_BYTES;

    while (cap < l->len + len)
        cap *= 2;
    if (cap > l->cap) {
        char *held = realloc(l->held, cap);

        if (!held) {
            if (l->len > 0)
                emit(l, ts_ms, l->held, l->len);
            emit(l, ts_ms, data, len);
            drop_held(l);
            return;
        }
        l->held = held;
        l->cap = cap;
    }
    memcpy(l->held + l->len, data, len);
    l->len += (uint32_t)len;
}

/* One piece of a line: at most what the limit leaves, up to the newline if there is one. */
static size_t piece(agent_lines *l, int64_t ts_ms, const char *at, size_t left)
{
    size_t room = SBX_LOG_LINE_BYTES - l->len;
    size_t span = left < room + 1 ? left : room + 1;
    const char *newline = memchr(at, '\n', span);
    size_t len = newline ? (size_t)(newline - at) : left < room ? left : room;
    bool whole = newline || len == room;

    if (whole && !newline && len == left)
        whole = false; /* full, but the next byte may be its newline */
    if (l->len > 0 || !whole)
        hold(l, ts_ms, at, len);
    if (whole && l->len > 0) {
        emit(l, ts_ms, l->held, l->len);
        drop_held(l);
    } else if (whole) {
        emit(l, ts_ms, at, len);
    }
    return newline ? len + 1 : len;
}

void agent_lines_add(agent_lines *l, const unsigned char *data, size_t len)
{
    const char *at = (const char *)data;
    int64_t ts_ms = agent_wall_ms();

    while (l->journal && len > 0) {
        size_t took = piece(l, ts_ms, at, len);

        at += took;
        len -= took;
    }
}

void agent_lines_end(agent_lines *l)
{
    if (l->len > 0)
        emit(l, agent_wall_ms(), l->held, l->len);
    drop_held(l);
}
