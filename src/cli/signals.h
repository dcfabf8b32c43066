/* Signals as something to poll for. */
#ifndef SBX_CLI_SIGNALS_H
#define SBX_CLI_SIGNALS_H

#include "cli/cli.h"

/** From now on INT, TERM, HUP and, if asked for, WINCH are read from the descriptor that is
 * returned instead of being obeyed. */
int cli_signals_open(bool with_winch);
/** The next one, without waiting; 0: there is none. */
int cli_signals_next(int fd);
/** They are obeyed again. */
void cli_signals_close(int fd);

#endif
