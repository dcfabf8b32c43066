/* A follower: a peer's number for a command, and what the peer has been told of it. */
#ifndef SBX_AGENTD_FOLLOWER_H
#define SBX_AGENTD_FOLLOWER_H

#include "command.h"
#include "peer.h"

#define AGENT_MAX_WINDOW ((int64_t)1 << 61)

struct agent_follower {
    agent_peer *peer;
    agent_command *command;
    uint32_t req;
    bool detached; /* gets no output */
    bool started_told;
    bool exit_told;          /* its number is free, and still good for KILL and SIGNAL */
    int64_t window;          /* bytes it may be sent; the last chunk may exceed it */
    agent_place place;       /* of the chunk that it gets next */
    uint64_t taken, dropped; /* of its STDIN; not told yet */
    agent_link of_command, of_req, ready;
};

typedef enum agent_served {
    AGENT_SERVED_ALL,     /* there is nothing to tell now; the follower may be gone */
    AGENT_SERVED_PART,    /* there is more */
    AGENT_SERVED_STARVED, /* there is more, and no room for it */
} agent_served;

/** Bind `req` of a peer, which is free, to a command.
 *
 * @param from  the first chunk wanted; 0: all.
 * @return NULL if the peer has too many, or there is no memory.
 */
agent_follower *agent_follower_new(agent_peer *p, agent_command *c, uint32_t req, uint64_t from,
                                   bool detached);
void agent_follower_free(agent_follower *f);

/** The follower of this number, NULL if the number means nothing. */
agent_follower *agent_follower_find(const agent_peer *p, uint32_t req);

/** It may send so many more bytes. */
void agent_follower_grant(agent_follower *f, uint64_t window);

/** There may be something to tell. */
void agent_follower_wake(agent_follower *f);

/** Tell the next thing. */
agent_served agent_follower_serve(agent_follower *f);

#endif
