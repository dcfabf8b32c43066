/* A ring of chunks. */
#include "keep.h"

#include <string.h>

#include "pages.h"

#define RING_BYTES  ((uint64_t)SBX_KEEP_OUTPUT_BYTES)
#define ALIGN       8
#define HEAD_BYTES  sizeof(head)
#define ROUND(size) (((size) + ALIGN - 1) & ~(uint64_t)(ALIGN - 1))
#define PAGE_BYTES  ((uint64_t)4096)

/* What stands before the bytes of a chunk. Places count all bytes that ever went through the ring;
 * no chunk reaches over the ring's end. */
typedef struct head {
    agent_kept *owner; /* NULL: nobody's, room only */
    uint64_t next_at;  /* the owner's next chunk, if there is one */
    uint32_t len, cap;
    uint8_t stream;
    bool closed;
} head;

struct agent_keep {
    unsigned char *ring;
    uint64_t tail, end; /* places */
};

agent_keep *agent_keep_new(void)
{
    agent_keep *k = agent_pages_map(sizeof *k);

    if (!k)
        return NULL;
    k->ring = agent_pages_map(RING_BYTES);
    if (k->ring)
        return k;
    agent_pages_unmap(k, sizeof *k);
    return NULL;
}

void agent_keep_free(agent_keep *k)
{
    if (!k)
        return;
    agent_pages_unmap(k->ring, RING_BYTES);
    agent_pages_unmap(k, sizeof *k);
}

void agent_kept_init(agent_kept *c)
{
    *c = (agent_kept){.first = 1, .next = 1};
}

static head *head_at(const agent_keep *k, uint64_t at)
{
    return (head *)(void *)(k->ring + at % RING_BYTES);
}

static unsigned char *data_of(head *h)
{
    return (unsigned char *)(h + 1);
}

static uint64_t size_of(const head *h)
{
    return HEAD_BYTES + ROUND(h->cap);
}

static bool has_chunks(const agent_kept *c)
{
    return c->first < c->next;
}

/* Bytes from a place to the ring's end. */
static uint64_t until_wrap(uint64_t at)
{
    return RING_BYTES - at % RING_BYTES;
}

/* Moves the tail over what lies there. At the ring's end there may be less than a head. */
static void step_tail(agent_keep *k)
{
    if (until_wrap(k->tail) < HEAD_BYTES)
        k->tail += until_wrap(k->tail);
    else
        k->tail += size_of(head_at(k, k->tail));
}

static void evict(agent_keep *k)
{
    head *h = head_at(k, k->tail);

    if (until_wrap(k->tail) >= HEAD_BYTES && h->owner) {
        h->owner->first++;
        h->owner->gone += h->len;
        h->owner->first_at = h->next_at;
    }
    step_tail(k);
}

static void claim(agent_keep *k, uint64_t size)
{
    while (k->end + size - k->tail > RING_BYTES)
        evict(k);
    k->end += size;
}

/* Room in one piece at the head of the ring, which may cost the oldest chunks. @return its place.
 */
static uint64_t make_room(agent_keep *k, uint64_t size)
{
    uint64_t rest = until_wrap(k->end);

    if (rest < size) {
        uint64_t at = k->end;

        claim(k, rest);
        if (rest >= HEAD_BYTES)
            *head_at(k, at) = (head){.cap = (uint32_t)(rest - HEAD_BYTES)};
    }
    claim(k, size);
    return k->end - size;
}

/* Makes the chunk at `at`, which is the last one, known. */
static void link_last(agent_keep *k, agent_kept *c, uint64_t at)
{
    if (c->first + 1 == c->next)
        c->first_at = at;
    else
        head_at(k, c->before_last_at)->next_at = at;
    c->last_at = at;
}

static void new_chunk(agent_keep *k, agent_kept *c, uint64_t at, uint8_t stream, uint32_t cap)
{
    *head_at(k, at) = (head){.owner = c, .cap = cap, .stream = stream};
    c->before_last_at = c->last_at;
    c->next++;
    link_last(k, c, at);
}

static void append(agent_keep *k, agent_kept *c, const unsigned char *data, size_t len)
{
    head *h = head_at(k, c->last_at);

    memcpy(data_of(h) + h->len, data, len);
    h->len += (uint32_t)len;
    c->bytes += len;
}

/* Moves the open chunk to the head of the ring, unless it is lost when room is made: then a new one
 * is begun there. */
static void move_last(agent_keep *k, agent_kept *c, uint32_t cap)
{
    head *from = head_at(k, c->last_at);
    uint8_t stream = from->stream;
    uint64_t at = make_room(k, HEAD_BYTES + ROUND(cap));
    head *to = head_at(k, at);

    if (!has_chunks(c)) {
        new_chunk(k, c, at, stream, cap);
        return;
    }
    memcpy(to, from, HEAD_BYTES + from->len);
    to->cap = cap;
    from->owner = NULL;
    link_last(k, c, at);
}

/* Gets `len` more bytes of room into the open chunk. */
static void grow(agent_keep *k, agent_kept *c, size_t len)
{
    head *h = head_at(k, c->last_at);
    uint32_t need = h->len + (uint32_t)len;
    uint64_t more = ROUND(need) - ROUND(h->cap);

    if (need <= h->cap)
        return;
    if (c->last_at + size_of(h) == k->end && until_wrap(c->last_at) >= size_of(h) + more) {
        claim(k, more);
        h->cap = need;
    } else {
        move_last(k, c, 2 * need < SBX_CHUNK_BYTES ? 2 * need : SBX_CHUNK_BYTES);
    }
}

void agent_keep_add(agent_keep *k, agent_kept *c, uint8_t stream, const unsigned char *data,
                    size_t len)
{
    head *last = has_chunks(c) ? head_at(k, c->last_at) : NULL;

    if (last && !last->closed && last->stream == stream && last->len + len <= SBX_CHUNK_BYTES)
        grow(k, c, len);
    else
        new_chunk(k, c, make_room(k, HEAD_BYTES + ROUND(len)), stream, (uint32_t)len);
    append(k, c, data, len);
}

void agent_keep_begin(agent_keep *k, agent_kept *c, agent_place *p, uint64_t from)
{
    *p = (agent_place){.next = from ? from : 1};
    if (has_chunks(c) && p->next >= c->next)
        head_at(k, c->last_at)->closed = true;
}

/* Where the chunk lies that a reader wants; it is there. */
static uint64_t place_of(const agent_keep *k, const agent_kept *c, const agent_place *p)
{
    uint64_t at = c->first_at;

    if (p->known && p->next > c->first)
        return head_at(k, p->at)->next_at;
    for (uint64_t n = c->first; n < p->next; n++)
        at = head_at(k, at)->next_at;
    return at;
}

agent_look agent_keep_look(const agent_keep *k, const agent_kept *c, agent_place *p,
                           agent_chunk *ret)
{
    head *h;

    if (p->next < c->first)
        return AGENT_LOOK_GAP;
    if (p->next >= c->next)
        return AGENT_LOOK_NONE;
    h = head_at(k, place_of(k, c, p));
    *ret = (agent_chunk){.number = p->next, .len = h->len, .stream = h->stream, .data = data_of(h)};
    return AGENT_LOOK_CHUNK;
}

void agent_keep_pass(agent_keep *k, const agent_kept *c, agent_place *p)
{
    uint64_t at = place_of(k, c, p);
    head *h = head_at(k, at);

    h->closed = true;
    p->read += h->len;
    p->at = at;
    p->known = true;
    p->next++;
}

void agent_keep_skip(const agent_kept *c, agent_place *p)
{
    p->next = c->first;
    p->read = c->gone;
    p->known = false;
}

/* Gives back the whole pages between two places. */
static void give_back(agent_keep *k, uint64_t from, uint64_t to)
{
    while (from < to) {
        uint64_t upto = until_wrap(from) < to - from ? from + until_wrap(from) : to;
        uint64_t first = (from + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
        uint64_t last = upto / PAGE_BYTES * PAGE_BYTES;

        if (first < last)
            agent_pages_forget(k->ring + first % RING_BYTES, last - first);
        from = upto;
    }
}

/* Moves the tail to the oldest chunk that is somebody's. */
static void trim(agent_keep *k)
{
    uint64_t was = k->tail / PAGE_BYTES * PAGE_BYTES; /* what is before the tail is nobody's */

    while (k->tail < k->end && (until_wrap(k->tail) < HEAD_BYTES || !head_at(k, k->tail)->owner))
        step_tail(k);
    if (k->tail == k->end) {
        agent_pages_forget(k->ring, RING_BYTES);
        return;
    }
    if (k->end - was <= RING_BYTES)
        give_back(k, was, k->tail);
}

void agent_keep_drop(agent_keep *k, agent_kept *c)
{
    uint64_t at = c->first_at;

    for (uint64_t n = c->first; n < c->next; n++) {
        head *h = head_at(k, at);

        at = h->next_at;
        h->owner = NULL;
    }
    c->first = c->next;
    trim(k);
}

size_t agent_utf8_tail(const unsigned char *data, size_t len)
{
    for (size_t back = 1; back <= 3 && back <= len; back++) {
        unsigned char b = data[len - back];
        size_t whole = b >= 0xf0 && b <= 0xf4   ? 4
                       : b >= 0xe0 && b <= 0xef ? 3
                       : b >= 0xc2 && b <= 0xdf ? 2
                                                : 1;

        if ((b & 0xc0) == 0x80)
            continue;
        return whole > back ? back : 0;
    }
    return 0;
}
