/* The command's standard input: what its pipe does not take is held, up to a limit. Every follower
 * hears of its own bytes, in which order ever they came. */
#ifndef SBX_AGENTD_STDIN_H
#define SBX_AGENTD_STDIN_H

#include "command.h"

/** Take bytes of a follower; an empty piece closes the input. */
void agent_stdin_add(agent_stdin *s, agent_follower *from, const unsigned char *data, size_t len);

/** Write what the pipe takes now. */
void agent_stdin_pump(agent_stdin *s);

/** Close the pipe and drop what it did not take. */
void agent_stdin_close(agent_stdin *s);

/** A follower goes; what it sent stays. */
void agent_stdin_forget(agent_stdin *s, const agent_follower *f);

#endif
