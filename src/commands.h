/* The commands of the program besides `serve`. Each returns 0, or -1 with an error. */
#ifndef SBX_COMMANDS_H
#define SBX_COMMANDS_H

#include "sbx/core/options.h"

typedef struct key_request {
    const char *user, *role, *name, *scopes; /* borrowed from argv */
} key_request;

/** Take the command's own flags out of argv. */
int key_request_read(int *argc, char **argv, key_request *ret, sbx_err *err);

int command_help(void);
int command_version(void);
int command_migrate(const sbx_options *o, sbx_err *err);
int command_key(const sbx_options *o, const key_request *k, sbx_err *err);
int command_doctor(const sbx_options *o, sbx_err *err);

/** Where the agent's program is: the option, or beside this program. Owned by the caller. */
char *command_agent_path(const sbx_options *o);

#endif
