/* Where the server is, and the key. */
#ifndef SBX_CLI_CONFIG_H
#define SBX_CLI_CONFIG_H

#include "cli/cli.h"

typedef struct cli_config {
    char *url; /* without a slash at its end; owned */
    char *key; /* owned; wiped with the rest */
} cli_config;

/** From options, then the environment, then the configuration file, each of both by itself.
 * @return 0, or -1 with INVALID that says what to set. */
int cli_config_read(const cli *c, cli_config *ret, sbx_err *err) SBX_MUST_CHECK;
void cli_config_done(cli_config *config);

#endif
