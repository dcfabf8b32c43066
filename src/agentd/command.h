/* One command: its processes, its pipes and its output.
 *
 * Life: STARTING until the process says that user and directory are set; RUNNING until the
 * command itself has ended; ENDED until its output has been read; OVER then, while something that
 * it started may live on. When nothing does, it is settled, and only what is kept for followers to
 * come remains. A command that did not start is FAILED instead, and is not kept.
 *
 * Nothing here waits: agent_command_step() does what the descriptors allow, and is called in every
 * turn of the loop. What followers are told is follower.h.
 */
#ifndef SBX_AGENTD_COMMAND_H
#define SBX_AGENTD_COMMAND_H

#include "journal.h"
#include "keep.h"
#include "launch.h"
#include "lines.h"
#include "list.h"
#include "loop.h"
#include "notes.h"
#include "oom.h"
#include "spare.h"

#define AGENT_OUTPUT_HEAD 9 /* u8 stream | u64 number */
#define AGENT_UTF8_CARRY  3

typedef struct agent_follower agent_follower;

typedef enum agent_command_state {
    AGENT_STARTING,
    AGENT_RUNNING,
    AGENT_ENDED,
    AGENT_OVER,
    AGENT_FAILED,
} agent_command_state;

/* What all commands share. */
typedef struct agent_shared {
    agent_loop loop;
    agent_journal *journal;
    agent_keep *keep;
    agent_oom oom;
    agent_spare spare;
    agent_link news; /* commands of which the owner is to be told .. */
    bool wants_news; /* .. while it is there */
    bool again;      /* something became possible behind the place where it would be done */
} agent_shared;

typedef struct agent_stream {
    agent_source source;
    agent_lines lines;
    uint64_t offset;     /* bytes that the command has written here */
    uint64_t drain_left; /* once draining: bytes to take before the command is over */
    unsigned char carry[AGENT_UTF8_CARRY]; /* the beginning of a character */
    uint8_t carried;
} agent_stream;

/* STDIN that the pipe did not take yet: the bytes, and whose they are, in runs. */
typedef struct agent_stdin_run {
    agent_follower *from; /* NULL: of one that has gone */
    size_t len;
} agent_stdin_run;

typedef struct agent_stdin {
    agent_source source;
    unsigned char *buf;
    size_t cap, start, end;
    agent_stdin_run *runs;
    size_t nruns;
    bool closing;  /* close the pipe when the buffer is empty */
    bool terminal; /* the end of file is typed, and more may follow */
    bool line_begun;
} agent_stdin;

typedef struct agent_command {
    agent_shared *shared;
    agent_command_state state;
    char exec_id[SBX_LOG_ID_BYTES];
    uint8_t exec_id_len;
    uint32_t flags;                    /* those of EXEC */
    uint64_t serial;                   /* counts all commands */
    agent_link all, id, settled, news; /* places in lists */
    agent_link followers;
    agent_follower *pacer; /* the one it waits for, if its output is not read */
    bool held;             /* it waits for that one now */
    bool gone;             /* the supervisor has closed its end */
    bool reaped;           /* the supervisor has been waited for */
    bool done;             /* nothing lives, and everything is read */
    bool is_settled;

    pid_t supervisor, pid;
    agent_source notes;
    int slave; /* of a terminal that the command has not opened yet, or -1 */
    agent_stdin in;
    agent_stream out[2];
    agent_kept kept;
    uint64_t output_left; /* of MAX_OUTPUT */

    agent_timer timeout, drain, hangup;
    agent_timer announce; /* that it has started is not told yet */
    bool hung_up;         /* the terminal has told so, and is read once more */
    bool draining;        /* the grace after the end is over */
    bool ordered;         /* a signal or kill was ordered: dying early is no failure */
    bool kill_due;        /* an order to kill is not with the supervisor yet */
    bool timed_out, truncated, oom, cpu_over;
    uint64_t started_ms, ended_ms, oom_at_start, cpu_used_ms;
    int64_t started_wall_ms;
    agent_note end;      /* of kind EXIT once the command has ended, or FAILED */
    unsigned char *args; /* fields ARG, as many as are told of */
    size_t args_len;
} agent_command;

/** Start a command on a pair whose description is written, and let it go.
 *
 * @param f  its EXEC.
 * @param p, t  their descriptors belong to the command from now on, also on failure.
 * @param t     its terminal; NULL: none.
 * @return NULL with errno set.
 */
agent_command *agent_command_new(agent_shared *shared, const sbx_frame *f, const agent_request *r,
                                 agent_pair *p, agent_terminal *t);

/** Free it with its followers and what is kept of it. */
void agent_command_free(agent_command *c);

/** Do what can be done now. @return whether there is more to do at once. */
bool agent_command_step(agent_command *c);

/** Nothing lives any more: close and free all but what is kept. */
void agent_command_settle(agent_command *c);

/** The supervisor was reaped. If the command had not ended, it counts as killed. */
void agent_command_orphaned(agent_command *c);

void agent_command_order(agent_command *c, agent_order order);

/** A follower goes: it is not waited for any more, and a check ends with it. */
void agent_command_left_by(agent_command *c, agent_follower *f);

/** A follower wants no more output, so it is not waited for any more. */
void agent_command_unpace(agent_command *c, agent_follower *f);

/** Tell all followers that there is something new. */
void agent_command_wake(agent_command *c);

/** Tell its terminal a new size; nothing happens without one. */
void agent_command_resize(agent_command *c, uint64_t cols, uint64_t rows);

/** Is it of the server itself: not journalled, kept or listed? */
bool agent_command_is_check(const agent_command *c);

/** Is it one that followers can ask for by its name? */
bool agent_command_is_kept(const agent_command *c);

#endif
