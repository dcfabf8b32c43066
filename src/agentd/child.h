/* The process that becomes a command. */
#ifndef SBX_AGENTD_CHILD_H
#define SBX_AGENTD_CHILD_H

#include <sys/resource.h>

typedef struct agent_child_fds {
    int in, out, err; /* ends of the command's pipes */
    int go;           /* a byte means: the description is there; end of file: not needed */
    int launch;       /* the file in memory with the description */
    int notes;        /* to the agent */
} agent_child_fds;

/** Wait for a command and become it. Never returns. Called in a fresh process, as root.
 *
 * @param nofile  the limit to restore; the agent has raised its own.
 */
_Noreturn void agent_child_run(const agent_child_fds *fds, const struct rlimit *nofile);

#endif
