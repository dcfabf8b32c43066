/* Pseudo terminals: the agent has the master, the command opens the other side by its name. */
#ifndef SBX_AGENTD_TERMINAL_H
#define SBX_AGENTD_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define AGENT_TERMINAL_NAME     32
#define AGENT_TERMINAL_MAX_SIDE 1000
#define AGENT_EOF_BYTES         2 /* most that an end of file takes */

typedef struct agent_terminal {
    int master; /* does not block */
    int slave;  /* held until the command has it, so that the terminal is not hung up before */
    char name[AGENT_TERMINAL_NAME];
} agent_terminal;

/** Open a terminal that belongs to a user.
 *
 * @param cols, rows  1..AGENT_TERMINAL_MAX_SIDE.
 * @return 0, or -1 with errno set.
 */
int agent_terminal_open(agent_terminal *t, uid_t owner, unsigned cols, unsigned rows);

/** Close both ends, if they are open (not -1). */
void agent_terminal_close(agent_terminal *t);

/** Tell the foreground of a terminal its new size. */
void agent_terminal_resize(int master, unsigned cols, unsigned rows);

/** What has to be typed so that the reader finds the end of file.
 *
 * @param line_begun  something was typed since the last end of a line.
 * @return bytes written to `out`.
 */
size_t agent_terminal_eof(int master, bool line_begun, unsigned char out[AGENT_EOF_BYTES]);

#endif
