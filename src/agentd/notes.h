/* Messages between the agent and the supervisor of a command, over a SOCK_SEQPACKET pair.
 *
 * They are structs in native form: both ends are the same program, forked. */
#ifndef SBX_AGENTD_NOTES_H
#define SBX_AGENTD_NOTES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* To the agent. READY and FAILED come from the command's process itself, before it becomes the
 * command, the others from the supervisor. */
typedef enum agent_note_kind {
    AGENT_NOTE_READY = 1, /* user and directory are set; `pid` */
    AGENT_NOTE_FAILED,    /* `code` (sbx_agent_fail) and `error` (an errno) */
    AGENT_NOTE_EXIT,      /* the command itself is over: `status`, `cpu_ms`, `peak_kb`, `killed` */
    AGENT_NOTE_CPU,       /* `cpu_ms`, all that was allowed, is used up; the tree is killed now */
    AGENT_NOTE_KILLED,    /* something that outlived it was ended by a SIGKILL that was not ours */
    AGENT_NOTE_EMPTY,     /* the tree is gone; the supervisor waits for its next command */
} agent_note_kind;

typedef struct agent_note {
    agent_note_kind kind;
    pid_t pid;
    int code, error;
    int status;  /* as from wait(2) */
    bool killed; /* a process of the tree was ended by a SIGKILL that was not ours */
    uint64_t cpu_ms, peak_kb;
} agent_note;

/* To the supervisor. One that has said EMPTY obeys nothing but `next`. */
typedef struct agent_order {
    bool next; /* fork a child for another command; with it come AGENT_NEXT_FDS descriptors */
    bool kill; /* the whole tree */
    int sig;
    bool tree;       /* the signal goes to the whole tree */
    uint64_t cpu_ms; /* not 0: kill the tree when it has used so much */
} agent_order;

#define AGENT_NEXT_FDS 5 /* in, out, err, go, launch of agent_child_fds */

#endif
