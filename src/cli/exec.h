/* Commands in a sandbox: what exec shares with shell. */
#ifndef SBX_CLI_EXEC_H
#define SBX_CLI_EXEC_H

#include "cli/records.h"
#include "cli/sse.h"

/** Is it the id of a command? @return false: told that it is none. */
bool cli_exec_id(const cli *c, const char *exec);
int cli_exec_list(cli *c, const char *sandbox);
int cli_exec_kill(cli *c, const char *sandbox, const char *exec);
/** exec --tty: the command of the arguments, or the one to attach to, in a terminal. */
int cli_exec_terminal(cli *c, const char *sandbox, const char *attach);

/** Run a terminal. @param command  a line for the shell; NULL: the user's shell.
 * @param attach  a terminal that is there already; NULL: a new one. @return the exit status. */
int cli_terminal(cli *c, const char *sandbox, const char *command, const char *attach);

/** Add a text so that a shell reads it as one word. */
void cli_quote(sbx_buf *out, const char *text);

#endif
