/* A peer: the owner, or a bridge of another worker; its channel, its followers, and what it has
 * asked for and is not told yet.
 *
 * Followers that have something to be told stand in a queue and are served in turn, a chunk each,
 * while there is room in the channel: a slow peer costs nobody else anything.
 */
#ifndef SBX_AGENTD_PEER_H
#define SBX_AGENTD_PEER_H

#include "channel.h"
#include "list.h"

#define AGENT_REQ_BUCKETS  64
#define AGENT_MAX_LISTINGS 64 /* at once, of one peer */

struct agent_registry;

typedef struct agent_peer {
    agent_channel channel;
    bool owner;
    uint64_t epoch;                     /* of its last greeting; 0 before */
    agent_link reqs[AGENT_REQ_BUCKETS]; /* followers by number */
    size_t nfollowers;
    agent_link ready;    /* followers that have something to be told */
    agent_link listings; /* LISTs under way, the first one is being answered */
    size_t nlistings;
    bool starved; /* an output waits for nothing but room in the channel */
} agent_peer;

/** Take over descriptors, also on failure.
 * @return 0, or -1 with errno set; agent_peer_done() is due then, too. */
int agent_peer_init(agent_peer *p, agent_loop *l, int in_fd, int out_fd,
                    const unsigned char token[SBX_PROTO_TOKEN_BYTES], bool owner);

/** It goes for good. */
void agent_peer_done(agent_peer *p);

/** Forget all that it follows and has asked for. */
void agent_peer_unbind(agent_peer *p);

/** Does it know of every end that it will be told of? */
bool agent_peer_is_told(const agent_peer *p);

/** Begin to answer a LIST of more than one command.
 * @return false if there are too many under way. */
bool agent_peer_list(agent_peer *p, uint32_t req, uint64_t count);

/** Tell what there is room for. @return whether to come again at once. */
bool agent_peer_serve(agent_peer *p, const struct agent_registry *commands);

#endif
