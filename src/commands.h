/* The commands of the program besides `serve`. Each returns the exit status, or -1 with an error.
 */
#ifndef SBX_COMMANDS_H
#define SBX_COMMANDS_H

#include "sbx/core/options.h"
#include "sbx/guard/guard.h"
#include "sbx/store/store.h"

typedef struct key_request {
    const char *user, *role, *tier, *name, *scopes; /* borrowed from argv */
    const char *rates;                              /* see core/rates.h */
} key_request;

/** Take the command's own flags out of argv. */
int key_request_read(int *argc, char **argv, key_request *ret, sbx_err *err);

int command_help(void);
int command_version(void);
/** @param only_look  list what would be applied; 3 if something would be. */
int command_migrate(const sbx_options *o, bool only_look, sbx_err *err);
int command_key(const sbx_options *o, const key_request *k, sbx_err *err);
int command_reseal(const sbx_options *o, sbx_err *err);
/** Containers without a row. @param confirmed  remove them, else 3 if there are some. */
int command_sweep(const sbx_options *o, bool confirmed, sbx_err *err);
/** Master key and database as the options say, checked that they belong together. The caller's,
 * also on failure. */
int command_open_store(const sbx_options *o, sbx_crypt **ret_crypt, sbx_store **ret_store,
                       sbx_err *err) SBX_MUST_CHECK;
/** See doctor.c. 1 if something fails. */
int command_doctor(const sbx_options *o, bool json);

/** Take a flag without a value out of argv. @return whether it was there. */
bool command_flag(int *argc, char **argv, const char *flag);

/** The guard as the options want it. */
sbx_guard_config command_guard(const sbx_options *o, sbx_engine *engine, const char *cluster);

/** Where the agent's program is: the option, or beside this program. Owned by the caller. */
char *command_agent_path(const sbx_options *o);
/* That of sbx-files. Owned by the caller. */
char *command_files_path(const sbx_options *o);

#endif
