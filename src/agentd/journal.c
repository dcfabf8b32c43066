/* A ring of chunks, and three cursors into it. */
#include "journal.h"

#include <stdlib.h>
#include <string.h>

#include "loop.h"
#include "pages.h"

#define CHUNK_BYTES (64 * 1024)
/* Every chunk may waste the room of one entry at its end: a quarter more than the limits, at most.
 */
#define CHUNKS 256

typedef struct cursor {
    uint64_t chunk; /* counts all chunks ever used; chunk % CHUNKS is its place in the ring */
    uint32_t off;
    uint64_t seq; /* of the entry here; entries behind a hole in the numbers have larger ones */
    uint64_t pos; /* bytes of all entries before this one */
} cursor;

typedef struct chunk {
    unsigned char *data;
    uint32_t used;
} chunk;

struct agent_journal {
    chunk ring[CHUNKS];
    cursor oldest; /* kept from here */
    cursor acked;  /* not acknowledged by anybody from here; never before `oldest` */
    cursor flight; /* sent to the present owner and not acknowledged by it, from here .. */
    cursor sent;   /* .. to here */
    cursor end;
    uint64_t lost_bytes; /* sent to the present owner, not acknowledged, and dropped since .. */
    uint64_t lost_seq;   /* .. up to this number */
};

agent_journal *agent_journal_new(void)
{
    agent_journal *j = agent_pages_map(sizeof *j);

    if (j)
        j->oldest.seq = j->acked.seq = j->flight.seq = j->sent.seq = j->end.seq = 1;
    return j;
}

static chunk *chunk_at(agent_journal *j, uint64_t number)
{
    return &j->ring[number % CHUNKS];
}

void agent_journal_free(agent_journal *j)
{
    if (!j)
        return;
    for (size_t i = 0; i < CHUNKS; i++)
        agent_pages_unmap(j->ring[i].data, CHUNK_BYTES);
    agent_pages_unmap(j, sizeof *j);
}

/* The entry under a cursor that is not at the end. A cursor at the end of a chunk means the next
 * chunk's first entry. */
static void entry_at(agent_journal *j, cursor *c, sbx_log_entry *ret)
{
    sbx_fields f;
    chunk *at = chunk_at(j, c->chunk);

    if (c->off == at->used && c->chunk < j->end.chunk) {
        c->chunk++;
        c->off = 0;
        at = chunk_at(j, c->chunk);
    }
    sbx_fields_init(&f, at->data + c->off, at->used - c->off);
    (void)sbx_log_entry_take(&f, ret);
}

/* Moves a cursor over one entry. */
static void step(agent_journal *j, cursor *c)
{
    sbx_log_entry e = {0};
    size_t size;

    entry_at(j, c, &e);
    size = sbx_log_entry_size(&e);
    c->off += (uint32_t)size;
    c->pos += size;
    c->seq = e.seq + 1;
}

static bool before(const cursor *a, const cursor *b)
{
    return a->pos < b->pos;
}

/* Pulls a cursor forward. Also at equal places, where it may still name a chunk that goes. */
static void drag(cursor *c, const cursor *to)
{
    if (!before(to, c))
        *c = *to;
}

/* Entries that are under way to the owner still count as such after they were dropped. */
static void lose_flight(agent_journal *j)
{
    const cursor *to = before(&j->oldest, &j->sent) ? &j->oldest : &j->sent;

    if (!before(&j->flight, to))
        return;
    j->lost_bytes += to->pos - j->flight.pos;
    j->lost_seq = to->seq - 1;
}

static uint64_t flight_bytes(const agent_journal *j)
{
    return j->lost_bytes + (j->sent.pos - j->flight.pos);
}

/* Forgets the oldest entry, and its chunk if it was the last one in it. */
static void drop_oldest(agent_journal *j)
{
    uint64_t was = j->oldest.chunk;

    step(j, &j->oldest);
    if (j->oldest.off == chunk_at(j, j->oldest.chunk)->used && j->oldest.chunk < j->end.chunk) {
        j->oldest.chunk++;
        j->oldest.off = 0;
    }
    for (; was < j->oldest.chunk; was++) {
        chunk *c = chunk_at(j, was);

        agent_pages_unmap(c->data, CHUNK_BYTES);
        c->data = NULL;
        c->used = 0;
    }
    lose_flight(j);
    drag(&j->acked, &j->oldest);
    drag(&j->flight, &j->oldest);
    drag(&j->sent, &j->oldest);
}

static void trim(agent_journal *j)
{
    while (before(&j->oldest, &j->acked) &&
           (j->acked.pos - j->oldest.pos > SBX_JOURNAL_KEEP_BYTES ||
            j->acked.seq - j->oldest.seq > SBX_JOURNAL_KEEP_LINES))
        drop_oldest(j);
    while (j->end.pos - j->acked.pos > SBX_JOURNAL_MAX_BYTES)
        drop_oldest(j);
}

/* A chunk with room for `size` at its end. */
static chunk *room_for(agent_journal *j, size_t size)
{
    chunk *c = chunk_at(j, j->end.chunk);

    if (c->data && CHUNK_BYTES - c->used >= size)
        return c;
    if (c->data) {
        if (j->end.chunk + 1 - j->oldest.chunk >= CHUNKS)
            return NULL;
        c = chunk_at(j, j->end.chunk + 1);
    }
    if (!c->data) {
        c->data = agent_pages_map(CHUNK_BYTES);
        if (!c->data)
            return NULL;
    }
    if (c != chunk_at(j, j->end.chunk)) {
        j->end.chunk++;
        j->end.off = 0;
    }
    c->used = 0;
    return c;
}

void agent_journal_add(agent_journal *j, sbx_log_entry *e)
{
    size_t size = sbx_log_entry_size(e);
    chunk *c = room_for(j, size);

    e->seq = j->end.seq++;
    while (!c && before(&j->oldest, &j->end)) {
        drop_oldest(j);
        c = room_for(j, size);
    }
    if (!c)
        return;
    c->used += (uint32_t)sbx_log_entry_put(c->data + c->used, CHUNK_BYTES - c->used, e);
    j->end.off = c->used;
    j->end.pos += size;
    trim(j);
}

void agent_journal_system(agent_journal *j, const void *text, size_t len)
{
    sbx_log_entry e = {.ts_ms = agent_wall_ms(),
                       .stream = SBX_LOG_SYSTEM,
                       .source = SBX_SRC_SYSTEM,
                       .len = (uint32_t)(len < SBX_LOG_LINE_BYTES ? len : SBX_LOG_LINE_BYTES),
                       .data = text};

    agent_journal_add(j, &e);
}

void agent_journal_resume(agent_journal *j, uint64_t from)
{
    if (from > j->end.seq)
        j->end.seq = from;
    j->sent = j->oldest;
    while (before(&j->sent, &j->end)) {
        sbx_log_entry e = {0};

        entry_at(j, &j->sent, &e);
        if (e.seq >= from)
            break;
        step(j, &j->sent);
    }
    j->flight = j->sent;
    j->lost_bytes = 0;
    drag(&j->acked, &j->flight);
    trim(j);
}

void agent_journal_ack(agent_journal *j, uint64_t seq)
{
    while (before(&j->flight, &j->sent)) {
        sbx_log_entry e = {0};

        entry_at(j, &j->flight, &e);
        if (e.seq > seq)
            break;
        step(j, &j->flight);
    }
    if (seq >= j->lost_seq)
        j->lost_bytes = 0;
    drag(&j->acked, &j->flight);
    trim(j);
}

bool agent_journal_pending(const agent_journal *j)
{
    return before(&j->sent, &j->end) && flight_bytes(j) < SBX_LOG_UNACKED_BYTES;
}

void agent_journal_cut(agent_journal *j, uint64_t bytes)
{
    while (j->end.pos - j->sent.pos > bytes)
        drop_oldest(j);
}

bool agent_journal_settled(const agent_journal *j)
{
    return !before(&j->sent, &j->end) && flight_bytes(j) == 0;
}

size_t agent_journal_fill(agent_journal *j, unsigned char *out, size_t cap)
{
    size_t done = 0;

    while (before(&j->sent, &j->end)) {
        sbx_log_entry e = {0};
        size_t size;

        entry_at(j, &j->sent, &e);
        size = sbx_log_entry_size(&e);
        if (size > cap - done || flight_bytes(j) + size > SBX_LOG_UNACKED_BYTES)
            break;
        done += sbx_log_entry_put(out + done, cap - done, &e);
        step(j, &j->sent);
    }
    return done;
}

uint64_t agent_journal_next_seq(const agent_journal *j)
{
    return j->end.seq;
}

uint64_t agent_journal_oldest_seq(const agent_journal *j)
{
    sbx_log_entry e = {0};
    cursor c = j->oldest;

    if (!before(&c, &j->end))
        return j->end.seq;
    entry_at((agent_journal *)j, &c, &e);
    return e.seq;
}
