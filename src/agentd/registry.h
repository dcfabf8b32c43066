/* All commands: those that are stepped, because a process of theirs may live, and those that are
 * settled: over, with nothing left of them but what is kept. */
#ifndef SBX_AGENTD_REGISTRY_H
#define SBX_AGENTD_REGISTRY_H

#include "follower.h"

#define AGENT_MAX_COMMANDS 512 /* that are not settled */
#define AGENT_ID_BUCKETS   1024

typedef struct agent_registry {
    agent_command *live[AGENT_MAX_COMMANDS];
    size_t nlive;
    size_t first;       /* who is stepped first in this turn */
    agent_link all;     /* those with a name, the last started first */
    agent_link settled; /* the oldest first */
    size_t nsettled;
    agent_link ids[AGENT_ID_BUCKETS];
    uint64_t last; /* `serial` of the last started */
} agent_registry;

void agent_registry_init(agent_registry *r);

bool agent_registry_full(const agent_registry *r);

/** Take a command that was just made; not when full. */
void agent_registry_add(agent_registry *r, agent_command *c);

/** The command of that name, not one of the server's own. NULL if there is none. */
agent_command *agent_registry_find(const agent_registry *r, const char *id, size_t len);

/** The next one for a LIST that has told all down to `below`: it has started, or is over. */
agent_command *agent_registry_next(const agent_registry *r, uint64_t below);

/** Whose supervisor is this? NULL if it is nobody's, or known to be reaped. */
agent_command *agent_registry_of(const agent_registry *r, pid_t supervisor);

/** Step every command; settle, drop and free those that are done.
 * @return whether there is more to do at once. */
bool agent_registry_step(agent_registry *r);

#endif
