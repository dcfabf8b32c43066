/* Bridges: peers that come through the agent's socket, and the socket itself.
 *
 * Anybody in the sandbox may connect. Who is not root, or was started by a command of the sandbox,
 * is turned away at once. Who does not present the token within two seconds is turned away then;
 * until it has, it holds one of few places for strangers, the oldest of whom makes room for a new
 * one. New connections are taken at a pace that leaves the owner its share, whoever floods.
 */
#ifndef SBX_AGENTD_BRIDGES_H
#define SBX_AGENTD_BRIDGES_H

#include "peer.h"

#define AGENT_MAX_STRANGERS 8

typedef struct agent_bridge {
    agent_peer peer;
    agent_timer patience; /* for its greeting */
    bool expired;
    unsigned reads; /* before it has greeted */
    uint64_t serial;
} agent_bridge;

typedef struct agent_bridges {
    agent_loop *loop;
    const unsigned char *token; /* SBX_PROTO_TOKEN_BYTES */
    agent_source socket;        /* listens; not open if it could not be */
    agent_timer pause;          /* until further connections are taken */
    agent_bridge *all[SBX_MAX_BRIDGES + AGENT_MAX_STRANGERS];
    size_t count;
    uint64_t serial;
} agent_bridges;

/** Open the socket (best effort: without it there are no bridges).
 * @param token  borrowed for ever. */
void agent_bridges_init(agent_bridges *b, agent_loop *l, const unsigned char *token);

/** Take new connections. */
void agent_bridges_accept(agent_bridges *b);

/** Is there a place for one that greets? */
bool agent_bridges_may_greet(const agent_bridges *b, const agent_peer *p);

/** Close those that have ended, and strangers who were too slow. */
void agent_bridges_sweep(agent_bridges *b);

#endif
