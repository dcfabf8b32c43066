/* A run of consecutive items of one sandbox's log: all there is above `from`, up to `upto`. */
#ifndef SBX_LOGS_SEGMENT_H
#define SBX_LOGS_SEGMENT_H

#include "sbx/logs/logs.h"

typedef struct seg_item {
    uint64_t seq;
    size_t off; /* in the text */
    uint32_t len;
    uint8_t source;
} seg_item;

/* Zeroed: not valid. A number between `from` and `upto` that has no item does not exist. */
typedef struct segment {
    bool valid;
    uint64_t from, upto;
    char *text;
    size_t text_len, text_cap;
    seg_item *items; /* used from head to count */
    size_t head, count, cap;
} segment;

void seg_done(segment *s);                 /* frees; not valid any more */
void seg_start(segment *s, uint64_t from); /* empties, keeps the memory; valid */
void seg_add(segment *s, const sbx_bus_item *item);
void seg_trim(segment *s, size_t max_bytes); /* gives up the oldest items beyond */

/* The first item above `pos`, NULL if none. */
const seg_item *seg_after(const segment *s, uint64_t pos);

/* True if the segment tells what comes after `pos`. */
static inline bool seg_covers(const segment *s, uint64_t pos)
{
    return s->valid && s->from <= pos && pos < s->upto;
}

#endif
