/* From a command's pipes to what is kept, and to the journal. */
#ifndef SBX_AGENTD_OUTPUT_H
#define SBX_AGENTD_OUTPUT_H

#include "command.h"

/** Read once from stream `i` (0 stdout, 1 stderr), if it may be read now.
 *
 * @return whether there may be more to read at once.
 */
bool agent_output_pump(agent_command *c, int i);

/** Has everything been read that counts as the command's? */
bool agent_output_drained(const agent_command *c);

/** The grace after the end is over: what is in the pipes now still counts, and nothing later. */
void agent_output_begin_drain(agent_command *c);

/** The command is over: what was held back of a character is output as well. */
void agent_output_finish(agent_command *c);

#endif
