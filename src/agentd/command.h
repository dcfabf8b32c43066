/* One command: its processes, its pipes, and what the owner has been told of it.
 *
 * Life: STARTING until the process says that user and directory are set; RUNNING until the
 * command itself has ended; ENDED until the owner has its output and EXIT; LEFT while something
 * that it started lives on. A command goes away when its supervisor has gone.
 *
 * Nothing here waits: agent_command_step() does what the descriptors, the window and the channel
 * allow, and is called in every turn of the loop.
 */
#ifndef SBX_AGENTD_COMMAND_H
#define SBX_AGENTD_COMMAND_H

#include "channel.h"
#include "journal.h"
#include "launch.h"
#include "lines.h"
#include "loop.h"
#include "notes.h"
#include "oom.h"
#include "spare.h"

#define AGENT_OUTPUT_HEAD 9 /* u8 stream | u64 offset */

typedef enum agent_command_state {
    AGENT_STARTING,
    AGENT_RUNNING,
    AGENT_ENDED,
    AGENT_LEFT,
} agent_command_state;

/* What all commands share. */
typedef struct agent_shared {
    agent_loop loop;
    agent_channel channel;
    agent_journal *journal;
    agent_oom oom;
    agent_spare spare;
} agent_shared;

typedef struct agent_stream {
    agent_source source;
    agent_lines lines;
    uint64_t offset;     /* bytes that the command has written here */
    uint64_t drain_left; /* once draining: bytes to take before EXIT */
} agent_stream;

/* STDIN that the pipe did not take yet. */
typedef struct agent_stdin {
    agent_source source;
    unsigned char *buf;
    size_t cap, start, end;
    bool closing;            /* close the pipe when the buffer is empty */
    uint64_t taken, dropped; /* not told yet */
} agent_stdin;

typedef struct agent_command {
    agent_shared *shared;
    agent_command_state state;
    char exec_id[SBX_LOG_ID_BYTES];
    uint8_t exec_id_len;
    uint32_t req;
    bool bound;    /* `req` is known to the present owner */
    bool detached; /* output is journalled only */
    bool check;    /* leaves nothing behind: no log line, no process */
    bool main;     /* the sandbox's main process */
    bool gone;     /* the supervisor has closed its end */
    bool reaped;   /* the supervisor has been waited for */
    bool done;     /* nothing is left to do: free it */
    bool started_told, exit_told;

    pid_t supervisor, pid;
    agent_source notes;
    agent_stdin in;
    agent_stream out[2];
    uint64_t window;
    uint64_t output_left; /* of MAX_OUTPUT */

    agent_timer timeout, drain;
    bool draining; /* the grace after the end is over */
    bool ordered;  /* a signal or kill was ordered: dying early is no failure */
    bool kill_due; /* an order to kill is not with the supervisor yet */
    bool timed_out, truncated, oom;
    uint64_t started_ms, ended_ms, oom_at_start;
    agent_note end; /* of kind EXIT once the command has ended */
} agent_command;

/** Start a command on a pair whose description is written, and let it go.
 *
 * @param p  its descriptors belong to the command from now on, also on failure.
 * @return NULL with errno set.
 */
agent_command *agent_command_new(agent_shared *shared, uint32_t req, const agent_request *r,
                                 agent_pair *p);
void agent_command_free(agent_command *c);

/** Do what can be done now.
 *
 * @param now_starved  set if output waits for nothing but room in the channel.
 * @return whether there is more to do at once.
 */
bool agent_command_step(agent_command *c, bool *now_starved);

/** The supervisor was reaped. If the command had not ended, it counts as killed. */
void agent_command_orphaned(agent_command *c);

void agent_command_stdin(agent_command *c, const unsigned char *data, size_t len);
void agent_command_grant(agent_command *c, uint64_t window);
void agent_command_order(agent_command *c, agent_order order);

/** A new owner came: forget the old one's number. */
void agent_command_unbind(agent_command *c);

/** The owner takes a command over under a number of its own. */
void agent_command_bind(agent_command *c, uint32_t req, uint64_t window);

/** Has the command itself ended? */
bool agent_command_ended(const agent_command *c);

#endif
