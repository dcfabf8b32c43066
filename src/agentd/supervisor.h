/* The parent of a command. */
#ifndef SBX_AGENTD_SUPERVISOR_H
#define SBX_AGENTD_SUPERVISOR_H

#include "child.h"

/** Fork the process that will become the command, and look after its tree. Never returns.
 *
 * Called in a process that was just forked from the agent, with signals blocked. It is the reaper
 * of all that descends from the command, tells the agent when the command itself ends, carries
 * out the agent's orders, and when the tree is empty offers itself for another command. When the
 * agent is gone, or no longer wants it, it kills what is left of the tree and exits.
 *
 * @param first its descriptors are closed here once the child has them; `notes` is used.
 */
_Noreturn void agent_supervisor_run(const agent_child_fds *first, const struct rlimit *nofile);

#endif
