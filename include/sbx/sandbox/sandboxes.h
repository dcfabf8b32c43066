/* The life of sandboxes: create, delete, adopt, lose. Intent is written before the engine is
 * called, every step can be undone or finished by anybody, and one setter changes states.
 *
 * Threads: WORKER, unless said otherwise. */
#ifndef SBX_SANDBOX_SANDBOXES_H
#define SBX_SANDBOX_SANDBOXES_H

#include "sbx/bus/bus.h"
#include "sbx/engine/engine.h"
#include "sbx/metrics/metrics.h"
#include "sbx/sandbox/channel.h"
#include "sbx/sandbox/ledger.h"
#include "sbx/sandbox/spec.h"
#include "sbx/sandbox/state.h"
#include "sbx/store/sandboxes.h"

typedef struct sbx_sandboxes sbx_sandboxes;

typedef struct sbx_sandboxes_config {
    sbx_store *store;
    sbx_engine *engine;
    sbx_channels *channels;
    sbx_bus *bus;
    sbx_metrics *metrics;
    sbx_ledger *ledger;           /* takes the records of main processes */
    const char *cluster, *worker; /* ids; borrowed */
    const char *templates;        /* "python=image,node=image" */
    const char *runtime;
    const char *agent_path;
    int64_t pull_timeout_s;
    /* After each change of state, on the worker that made it. `json` is the sandbox. */
    void (*changed)(void *arg, const sbx_sandbox_row *row, const char *json);
    void *arg;
} sbx_sandboxes_config;

/** Reads the agent's program. INVALID if it or the templates are not usable. */
int sbx_sandboxes_new(const sbx_sandboxes_config *c, sbx_sandboxes **ret,
                      sbx_err *err) SBX_MUST_CHECK;
void sbx_sandboxes_free(sbx_sandboxes *s);

/** Put the agent's volume onto the engine host, so that the first create need not. */
int sbx_sandboxes_prepare(sbx_sandboxes *s, sbx_err *err) SBX_MUST_CHECK;

/** First half of a create: check template and image, write the intent.
 * @param ret  the row, state creating; to be freed by the caller. */
int sbx_sandbox_begin(sbx_sandboxes *s, const char *owner, sbx_spec *spec, sbx_sandbox_row *ret,
                      sbx_err *err) SBX_MUST_CHECK;
/** Second half: container, channel, running. On failure everything is undone, the record stays
 * `failed`, and err->sandbox_id names it. @param row  from begin; updated. */
int sbx_sandbox_finish(sbx_sandboxes *s, const sbx_spec *spec, sbx_sandbox_row *row,
                       sbx_err *err) SBX_MUST_CHECK;

/** Delete; a sandbox that is deleted already is success. NOT_FOUND if the owner has none. */
int sbx_sandbox_delete(sbx_sandboxes *s, const char *owner, const char *id,
                       sbx_err *err) SBX_MUST_CHECK;
/** Remove what belongs to a row that is in state `deleting` already. */
int sbx_sandbox_finish_delete(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err) SBX_MUST_CHECK;

/** Finish or undo a transitional state that is overdue or ownerless. */
int sbx_sandbox_settle(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err) SBX_MUST_CHECK;

/** Open the channel of a running sandbox again, if its container lives; otherwise record why it
 * failed. Does not wait for the agent's answer. CONFLICT if another live worker holds it. */
int sbx_sandbox_adopt(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err) SBX_MUST_CHECK;

/** The channel broke or the engine reported an end: adopt again or fail. By id. */
int sbx_sandbox_check(sbx_sandboxes *s, const char *id, sbx_err *err) SBX_MUST_CHECK;

/** The engine has no living container for a running or paused row: look once more, then fail it.
 * Unlike check() this also looks where a channel is still open. */
int sbx_sandbox_lost(sbx_sandboxes *s, const char *id, sbx_err *err) SBX_MUST_CHECK;

/** The sandbox as the API shows it. Any thread. */
void sbx_sandbox_json(const sbx_sandbox_row *row, sbx_buf *out);

/** Engine name of a sandbox's container: "sbx-" and the id. */
void sbx_sandbox_container(const char *id, char out[SBX_ID_LEN + 8]);

#endif
