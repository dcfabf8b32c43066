/* The output of all commands, kept for whoever follows them, now or later.
 *
 * One ring of memory holds the chunks of all commands in the order in which they came, so that the
 * oldest of all are at its tail and room is made by moving the tail. The last chunk of a command
 * is open: bytes are added to it until somebody was sent it or the other stream has a turn. It
 * grows where it lies while it is at the head of the ring, and otherwise moves there with twice
 * the room, so that commands which write single bytes, also many at once, cost few headers.
 *
 * SBX_KEEP_OUTPUT_BYTES is all the memory that there is, with the headers. Pages that nothing lies
 * in any more are given back.
 *
 * Thread: the agent's only one.
 */
#ifndef SBX_AGENTD_KEEP_H
#define SBX_AGENTD_KEEP_H

#include <stdbool.h>

#include "sbx/core/agent_proto.h"

typedef struct agent_keep agent_keep;

/* The chunks of one command. It must stay where it is until agent_keep_drop(). */
typedef struct agent_kept {
    uint64_t first;                             /* number of the oldest that is kept */
    uint64_t next;                              /* of the one that will be made next */
    uint64_t bytes;                             /* of all chunks ever made */
    uint64_t gone;                              /* those of them that are not kept any more */
    uint64_t first_at, last_at, before_last_at; /* places in the ring, of what there is */
} agent_kept;

/* How far a reader is. */
typedef struct agent_place {
    uint64_t next; /* number of the chunk that it wants */
    uint64_t read; /* bytes of the chunks before that */
    uint64_t at;   /* where the chunk before that lies .. */
    bool known;    /* .. if that is known */
} agent_place;

typedef struct agent_chunk {
    uint64_t number;
    uint32_t len;
    uint8_t stream;            /* as it was added */
    const unsigned char *data; /* borrowed until anything is added or dropped */
} agent_chunk;

typedef enum agent_look {
    AGENT_LOOK_NONE, /* it is not there yet */
    AGENT_LOOK_GAP,  /* it is gone, with all before `first` of the command */
    AGENT_LOOK_CHUNK,
} agent_look;

/** @return NULL if there is no memory. */
agent_keep *agent_keep_new(void);
void agent_keep_free(agent_keep *k);

void agent_kept_init(agent_kept *c);

/** Add output. @param len  1..SBX_CHUNK_BYTES; it is not divided. */
void agent_keep_add(agent_keep *k, agent_kept *c, uint8_t stream, const unsigned char *data,
                    size_t len);

/** Begin to read at the chunk of number `from`, from 1; what stands before it does not change any
 * more. It may be one that is gone, or yet to come. */
void agent_keep_begin(agent_keep *k, agent_kept *c, agent_place *p, uint64_t from);

/** Look at what a reader wants next. @param ret  set for AGENT_LOOK_CHUNK. */
agent_look agent_keep_look(const agent_keep *k, const agent_kept *c, agent_place *p,
                           agent_chunk *ret);

/** The chunk just looked at was sent: it is closed, and the reader goes on behind it. */
void agent_keep_pass(agent_keep *k, const agent_kept *c, agent_place *p);

/** The reader knows of the gap that was just looked at. */
void agent_keep_skip(const agent_kept *c, agent_place *p);

/** Forget all chunks of a command. */
void agent_keep_drop(agent_keep *k, agent_kept *c);

/** How many bytes at the end of `data` begin a UTF-8 character that is not complete: 0..3. */
size_t agent_utf8_tail(const unsigned char *data, size_t len);

#endif
