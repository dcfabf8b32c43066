/* What the files of the sandbox service share. */
#ifndef SBX_SANDBOX_SANDBOXES_PRIV_H
#define SBX_SANDBOX_SANDBOXES_PRIV_H

#include "sbx/core/limits.h"
#include "sbx/sandbox/images.h"
#include "sbx/sandbox/sandboxes.h"

#define DELETE_DEADLINE_S 60

struct sbx_sandboxes { /* immutable after new */
    sbx_sandboxes_config c;
    sbx_images *images;
    sbx_template templates[SBX_MAX_TEMPLATES];
    size_t template_count;
    char *agent; /* the agent's program */
    size_t agent_len;
    char volume[64];
};

/* Why a state was reached. */
typedef struct reason {
    const char *code; /* NULL: none */
    const char *message;
    int exit_code; /* -1: none */
    bool oom_killed;
} reason;

/* The one setter of states: checks the move, compares and sets, counts, logs, publishes. `row` is
 * updated. CONFLICT if the database holds another state. */
typedef struct move {
    sbx_state to;
    reason why;
    const char *worker, *container_id, *image_user;
    int deadline_s;
    bool started;
} move;
int sandbox_set_state(sbx_sandboxes *s, sbx_sandbox_row *row, const move *m,
                      sbx_err *err) SBX_MUST_CHECK;

/* Tell whoever listens how the sandbox is now. */
void sandbox_publish(sbx_sandboxes *s, const sbx_sandbox_row *row);

/* Check the health of what runs here, and of nothing else. After each change of state or holder. */
void sandbox_follow_health(sbx_sandboxes *s, const sbx_sandbox_row *row);

/* Attach and greet. The row holds container_id, token and epoch. */
int sandbox_connect(sbx_sandboxes *s, const sbx_sandbox_row *row, const sbx_pairs *env,
                    uint64_t log_from, sbx_greeting **ret, sbx_err *err) SBX_MUST_CHECK;

/* Remove the container, whatever its state; retried by the reaper if it fails. */
int sandbox_remove_container(sbx_sandboxes *s, const char *id, sbx_err *err) SBX_MUST_CHECK;

#endif
