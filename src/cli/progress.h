/* How far a transfer is: one line on standard error, if that is a terminal. */
#ifndef SBX_CLI_PROGRESS_H
#define SBX_CLI_PROGRESS_H

#include "cli/cli.h"

typedef struct cli_progress {
    bool shown;
    const char *name; /* borrowed */
    int64_t total;    /* -1: not known */
    int64_t done, began_ms, printed_ms;
    bool printed;
} cli_progress;

void cli_progress_begin(cli_progress *p, const cli *c, const char *name, int64_t total);
void cli_progress_add(cli_progress *p, size_t bytes);
/** Take the line away. */
void cli_progress_end(cli_progress *p);

#endif
