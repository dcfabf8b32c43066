/* Cuts one output stream of a command into lines of the journal.
 *
 * Whole lines go from the caller's buffer straight into the journal; only the beginning of an
 * unfinished one is kept here, on the heap, for as long as it is unfinished.
 */
#ifndef SBX_AGENTD_LINES_H
#define SBX_AGENTD_LINES_H

#include "journal.h"

typedef struct agent_lines {
    agent_journal *journal; /* NULL: nothing is kept */
    const char *exec_id;    /* borrowed */
    uint8_t exec_id_len, stream, source;
    char *held; /* an unfinished line */
    uint32_t len, cap;
} agent_lines;

/** Journal every line that `data` completes; lines over SBX_LOG_LINE_BYTES are split. */
void agent_lines_add(agent_lines *l, const unsigned char *data, size_t len);

/** The stream has ended: journal what is unfinished, and free it. May be called again. */
void agent_lines_end(agent_lines *l);

#endif
