/* A context: an interpreter that stays, so that the state of one run is there in the next.
 *
 * `sbx-agent context RUNTIME ID [CWD]` is the long-lived command of a context, its keeper. (CWD is
 * where it was started, for lists of contexts.) It has an abstract socket named by the id, starts
 * the interpreter with a driver program (context.py, context.js), and gives it one cell at a time.
 * `sbx-agent cell ID run FILE MS` is the command of one run: it passes its own standard streams and
 * the code's file to the keeper and ends as the cell does, so a run in a context is a command like
 * any other: output, limits, records and followers are those of commands, and nothing that a cell
 * writes can be taken for its end.
 *
 * The keeper alone decides about time: when a cell's is over, or its command has gone, the
 * interpreter is interrupted, and killed when that does not help. The next cell gets a new one. */
#ifndef SBX_AGENTD_CONTEXT_H
#define SBX_AGENTD_CONTEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#define AGENT_CONTEXT_ID_BYTES 20
#define AGENT_CELL_FDS         4 /* standard input, output, error; the code's file */
#define AGENT_CELL_MAX_MS      (24 * 3600 * 1000) /* far more than the server asks for */

/* What a client asks of the keeper: one packet. */
typedef enum agent_ask_kind {
    AGENT_ASK_RUN = 1, /* with AGENT_CELL_FDS descriptors */
    AGENT_ASK_WAIT,    /* until the interpreter is ready */
    AGENT_ASK_RESTART, /* a new interpreter, also while a cell runs; then as WAIT */
} agent_ask_kind;

typedef struct agent_ask {
    uint32_t kind;
    uint32_t zero;
    int64_t timeout_ms; /* of RUN, the wait for its turn included; 1 .. AGENT_CELL_MAX_MS */
} agent_ask;

/* While a cell runs: interrupt it, as SIGINT does. One byte. */
#define AGENT_ASK_INTERRUPT 'I'

typedef enum agent_said_kind {
    AGENT_SAID_READY = 1,
    AGENT_SAID_UNUSABLE,       /* the interpreter ended before it was ready; value: its status */
    AGENT_SAID_DONE,           /* value: the exit code */
    AGENT_SAID_BUSY,           /* others were before it until its time was over */
    AGENT_SAID_TIMED_OUT,      /* interrupted; the state is kept */
    AGENT_SAID_TIMED_OUT_LOST, /* killed */
    AGENT_SAID_LOST,           /* the interpreter ended; value: its wait status */
} agent_said_kind;

typedef struct agent_said {
    uint32_t kind;
    int32_t value;
} agent_said;

/* The driver programs; made of context.py and context.js, and terminated. */
extern const unsigned char agent_driver_python[], agent_driver_node[];

/** The address of a context's socket. @return its length; 0 if `id` is none. */
socklen_t agent_context_address(const char *id, struct sockaddr_un *ret);

/** A line of a driver: "ready", or "done NUMBER STATUS". @return false: something else. */
bool agent_context_line(const char *line, bool *ret_ready, uint32_t *number, int *status);

typedef enum agent_heard {
    AGENT_HEARD_NONSENSE,
    AGENT_HEARD_ASK,
    AGENT_HEARD_INTERRUPT,
} agent_heard;

/** A packet of a client: of whoever inside the sandbox connects.
 * @param len  bytes that it had, of which `data` holds no more than an agent_ask has.
 * @param fds  descriptors that came from this client so far. @param ret  written for
 * AGENT_HEARD_ASK. */
agent_heard agent_context_packet(const void *data, size_t len, size_t fds, agent_ask *ret);

/** The keeper; ends with its listener or when it is killed. @return the exit status. */
int agent_context(const char *runtime, const char *id);

typedef struct agent_cell_args {
    agent_ask ask;
    const char *id, *file; /* borrowed; file: of RUN */
} agent_cell_args;

/** The arguments behind "cell". @return false: they are none. */
bool agent_cell_read(int count, char *const *args, agent_cell_args *ret);

/** The command of one run, or of a question. `args` as behind "cell". @return the exit status; does
 * not return where SBX_CELL_* says that it dies. */
int agent_cell(int count, char **args);

#endif
