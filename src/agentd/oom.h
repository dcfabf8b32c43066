/* Kills for want of memory: was a command hit, and telling of it at once.
 *
 * The kernel counts such kills of the container, but does not say whom it hit. A command that ran
 * while the counter rose and in whose tree a process died by SIGKILL is taken to be the one, and
 * explains the kills so far. Kills that nobody explains (the process was reaped inside the tree,
 * unseen) are charged to every command that ran when they happened.
 *
 * A line for the log is due as soon as a kill is explained; one that nobody explains is found by
 * looking at the counter now and then while anything runs.
 */
#ifndef SBX_AGENTD_OOM_H
#define SBX_AGENTD_OOM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sbx/core/agent_proto.h"

#define AGENT_OOM_LOOK_MS 500 /* between looks */
#define AGENT_OOM_AGAIN_MS                                                                         \
    100 /* until a kill that was just seen is told without an explanation                          \
         */
#define AGENT_OOM_LINE 256

typedef struct agent_oom {
    int fd;             /* the file with the counter, or -1 if the kernel has none */
    uint64_t explained; /* kills up to this count have been charged to somebody */
    uint64_t told;      /* up to this count the log tells of them */
    bool seen;          /* there are more, and they are told next time */
    bool due;           /* there are more, and it is known whom they hit */
    char victim[SBX_LOG_ID_BYTES + 1];
} agent_oom;

/** Find the counter, of cgroup v2 or v1. */
void agent_oom_init(agent_oom *o);

/** Kills so far; 0 if unknown. */
uint64_t agent_oom_count(const agent_oom *o);

/** Judge a command that has just exited, or lost a process.
 *
 * @param at_start  agent_oom_count() when it was started.
 * @param killed    a process of its tree was seen to die by a SIGKILL that was not ours.
 * @param id        its name, for the log; not terminated.
 */
bool agent_oom_judge(agent_oom *o, uint64_t at_start, bool killed, const char *id, size_t id_len);

/** Is there a kill to be told of? The first time that an unexplained one is seen, it is not yet.
 * @return how long to wait until the next look, 0 if agent_oom_tell() is due. */
uint64_t agent_oom_look(agent_oom *o);

/** Write the line for the log, which is told then.
 *
 * @param only  the name of the one command that runs, "" if there are none or more.
 * @return its length.
 */
size_t agent_oom_tell(agent_oom *o, const char *only, char line[AGENT_OOM_LINE]);

#endif
