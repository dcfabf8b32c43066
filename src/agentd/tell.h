/* The agent's frames about commands: their fields, and nothing of when they are due. */
#ifndef SBX_AGENTD_TELL_H
#define SBX_AGENTD_TELL_H

#include "follower.h"

/* The largest ENTRY. */
#define AGENT_ENTRY_BYTES (SBX_ENTRY_ARG_BYTES + 512)

void agent_tell_started(const agent_follower *f);
void agent_tell_exit(const agent_follower *f);
void agent_tell_taken(const agent_follower *f);

/** The chunks before `first` of the command are gone. */
void agent_tell_gap(const agent_follower *f);

/** There must be room for it. */
void agent_tell_chunk(const agent_follower *f, const agent_chunk *chunk);

/** The command did not start. */
void agent_tell_failed(const agent_follower *f);
void agent_tell_fail(agent_peer *p, uint32_t req, sbx_agent_fail code, const char *message);

/** There must be room for AGENT_ENTRY_BYTES. */
void agent_tell_entry(agent_peer *p, uint32_t req, const agent_command *c);

#endif
