/* Pairs of processes that wait for a command: a supervisor and its child.
 *
 * Both exist before the command does, so that a sandbox that is full of processes can still run
 * one, and because a command then starts without a fork. Two are kept ready: one for the next
 * command, which is replaced when the agent has nothing better to do, and one for the command that
 * comes meanwhile, however full the sandbox has become. A burst forks further ones as needed.
 *
 * A supervisor whose command is over is idle: the next pair is that one with a new child, which
 * costs half of two new processes. A few are kept for a moment.
 */
#ifndef SBX_AGENTD_SPARE_H
#define SBX_AGENTD_SPARE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/types.h>

/* The agent's ends of a pair. -1: not open. */
typedef struct agent_pair {
    pid_t supervisor;
    int notes; /* SOCK_SEQPACKET: orders and notes */
    int go, launch;
    int in, out, err; /* of the command; non-blocking */
} agent_pair;

#define AGENT_SPARES   2
#define AGENT_MAX_IDLE 4

typedef struct agent_idle {
    pid_t supervisor;
    int notes;
} agent_idle;

typedef struct agent_spare {
    agent_pair pairs[AGENT_SPARES]; /* the first is the next one */
    size_t npairs;
    agent_idle idle[AGENT_MAX_IDLE];
    size_t nidle;
    struct rlimit nofile; /* for commands; the agent's own is raised */
} agent_spare;

/** Raise the limit of descriptors and fork the first pairs (best effort). */
void agent_spare_init(agent_spare *s);

/** Take a spare pair, or make one. The caller owns the descriptors then.
 *
 * @return 0, or -1 with errno set.
 */
int agent_spare_take(agent_spare *s, agent_pair *ret);

/** Make the pairs that are missing. @return whether all are there now. */
bool agent_spare_refill(agent_spare *s);

/** Is it the supervisor of a spare pair, or idle? */
bool agent_spare_has(const agent_spare *s, pid_t supervisor);

/** A supervisor has said EMPTY. Takes `notes`; without need of it, the supervisor ends. */
void agent_spare_return(agent_spare *s, pid_t supervisor, int notes);

/** Let go of the idle supervisors. */
void agent_spare_rest(agent_spare *s);

/** A supervisor has died; forget it if it was a spare pair's or idle. @return whether it was. */
bool agent_spare_died(agent_spare *s, pid_t supervisor);

/** Let the child go ahead: the description is complete. Closes `go` and `launch`. */
void agent_pair_go(agent_pair *p);

/** Close what is open. The processes end by themselves. */
void agent_pair_close(agent_pair *p);

#endif
