/* What a command's process needs to know, as it travels from the agent to the waiting process.
 *
 * The process that will become the command was forked before the command was known, so the whole
 * description goes through a file in memory: a fixed header and then strings, each terminated.
 */
#ifndef SBX_AGENTD_LAUNCH_H
#define SBX_AGENTD_LAUNCH_H

#include <stdbool.h>
#include <stdint.h>

#include "sbx/core/agent_proto.h"
#include "terminal.h"
#include "users.h"

#define AGENT_MAX_ARGS  16384
#define AGENT_MAX_ENV   1024
#define AGENT_CWD_BYTES 4096

/* An EXEC frame, checked. Everything is borrowed from the frame. */
typedef struct agent_request {
    sbx_field exec_id, cwd, user;
    uint64_t timeout_ms, max_output, window, flags, cpu_ms;
    uint64_t cols, rows; /* of a terminal: 1..AGENT_TERMINAL_MAX_SIDE */
    uint32_t argc, envc;
} agent_request;

typedef struct agent_launch_header {
    uint32_t uid, gid, ngroups;
    uint32_t groups[AGENT_MAX_GROUPS];
    uint32_t argc, envc;
    bool stdin_pipe;
    bool own_cwd;                       /* without one of its own the command falls back to "/" */
    char terminal[AGENT_TERMINAL_NAME]; /* empty: none */
} agent_launch_header;                  /* then: home, cwd, argv.., env.. */

/** Check an EXEC frame.
 *
 * @param ret_why  set to a constant text if the request is refused.
 * @return 1 if it can be run, 0 if it is refused, -1 if the record is malformed.
 */
int agent_request_parse(const sbx_frame *f, agent_request *ret, const char **ret_why);

/** Write the description of a command to a file in memory.
 *
 * The environment is the image's, without the secret, then HOME, USER and LOGNAME of the user, and
 * a PATH if there is none, and a TERM on a terminal; the request's own variables override all of
 * these.
 *
 * @param terminal  the name of the command's terminal, "" for none.
 * @param image_env  terminated by NULL.
 * @return 0, or -1 with errno set.
 */
int agent_launch_write(int fd, const sbx_frame *f, const agent_request *r, const agent_user *u,
                       char *const *image_env, const char *terminal);

#endif
