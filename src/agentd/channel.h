/* The two descriptors to the owner: frames in, frames out.
 *
 * Outgoing frames are built in place in one buffer: a caller reserves the largest payload, fills
 * it (a command's output is read straight into it) and says how much it became. The buffer has
 * room for a few large frames; AGENT_REPLY_ROOM of it is kept for answers, and no input is taken
 * while there is less, so an owner that does not read cannot make the agent grow.
 *
 * The owner's channel lasts: at the end of input it looks again now and then, and when nobody
 * reads, it forgets what it had to say and waits for a greeting. That of a bridge is lost with its
 * descriptors.
 */
#ifndef SBX_AGENTD_CHANNEL_H
#define SBX_AGENTD_CHANNEL_H

#include "input.h"
#include "loop.h"

#define AGENT_OUT_BYTES  (256 * 1024)
#define AGENT_REPLY_ROOM (64 * 1024)

typedef struct agent_channel {
    agent_loop *loop;
    agent_input *input;
    agent_source in, out;
    agent_timer look_again; /* input has ended or cannot be polled */
    agent_timer rest;       /* gives buffers back after a quiet second */
    unsigned char *buf;
    size_t start, end; /* unsent bytes of buf */
    bool lasting;
    bool greeted;   /* a peer is there; nothing but the answer goes out before */
    bool lost;      /* it went, and whoever follows for it does not know yet */
    uint16_t epoch; /* low bits */
} agent_channel;

/** Take over descriptors, also on failure; both become non-blocking.
 *
 * @param lasting  new peers may come through the same descriptors.
 * @return 0, or -1 with errno set; agent_channel_done() is due then, too.
 */
int agent_channel_init(agent_channel *c, agent_loop *l, int in_fd, int out_fd,
                       const unsigned char token[SBX_PROTO_TOKEN_BYTES], bool lasting);

/** Close and free all. */
void agent_channel_done(agent_channel *c);

/** Read once from the owner. @return whether there may be more to read. */
bool agent_channel_read(agent_channel *c);

/** The next frame, or AGENT_IN_MORE: also while too little room for an answer is left. */
agent_input_event agent_channel_next(agent_channel *c, sbx_frame *ret);

/** Forget the owner and what was to be sent; wait for a greeting. */
void agent_channel_lose(agent_channel *c);

/** Begin anew with an owner: everything unsent is dropped, the marker and the epoch come first. */
void agent_channel_greet(agent_channel *c, uint64_t epoch);

/** Is there room for a payload of `len` bytes beside the room for answers? */
bool agent_channel_room(const agent_channel *c, size_t len);

/** Where to put a payload of at most `cap` bytes; NULL if there is no room at all for it.
 * Nothing is sent until agent_channel_commit(). */
unsigned char *agent_channel_reserve(agent_channel *c, size_t cap);
void agent_channel_commit(agent_channel *c, uint8_t type, uint32_t req, size_t len);

/** Send a small frame. Nothing happens if nobody has greeted. */
void agent_channel_send(agent_channel *c, uint8_t type, uint32_t req, const void *payload,
                        size_t len);

/** Write what the descriptor takes. */
void agent_channel_flush(agent_channel *c);

#endif
