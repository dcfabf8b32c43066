/* The command's standard input: what its pipe does not take is held, up to a limit. */
#ifndef SBX_AGENTD_STDIN_H
#define SBX_AGENTD_STDIN_H

#include "command.h"

/** Take bytes from the owner; an empty piece closes the input. */
void agent_stdin_add(agent_stdin *s, const unsigned char *data, size_t len);

/** Write what the pipe takes now. */
void agent_stdin_pump(agent_stdin *s);

/** Close the pipe and free the buffer. */
void agent_stdin_close(agent_stdin *s);

/** Is there something that the owner should know (see SBX_F_TAKEN)? */
bool agent_stdin_has_news(const agent_stdin *s);

#endif
