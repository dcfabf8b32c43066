/* Was a command killed for want of memory?
 *
 * The kernel counts such kills of the container, but does not say whom it hit. A command that ran
 * while the counter rose and in whose tree a process died by SIGKILL is taken to be the one, and
 * explains the kills so far. Kills that nobody explains (the process was reaped inside the tree,
 * unseen) are charged to every command that ran when they happened.
 */
#ifndef SBX_AGENTD_OOM_H
#define SBX_AGENTD_OOM_H

#include <stdbool.h>
#include <stdint.h>

typedef struct agent_oom {
    int fd;             /* the file with the counter, or -1 if the kernel has none */
    uint64_t explained; /* kills up to this count have been charged to somebody */
} agent_oom;

/** Find the counter, of cgroup v2 or v1. */
void agent_oom_init(agent_oom *o);

/** Kills so far; 0 if unknown. */
uint64_t agent_oom_count(const agent_oom *o);

/** Judge a command that has just exited.
 *
 * @param at_start  agent_oom_count() when it was started.
 * @param killed    a process of its tree was seen to die by a SIGKILL that was not ours.
 */
bool agent_oom_judge(agent_oom *o, uint64_t at_start, bool killed);

/** Pick the number behind "oom_kill " at the beginning of a line. @return 0 if it is not there. */
uint64_t agent_oom_parse(const char *text);

#endif
