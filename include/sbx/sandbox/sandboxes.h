/* The life of sandboxes: create, delete, adopt, lose. Intent is written before the engine is
 * called, every step can be undone or finished by anybody, and one setter changes states.
 *
 * Threads: WORKER, unless said otherwise. */
#ifndef SBX_SANDBOX_SANDBOXES_H
#define SBX_SANDBOX_SANDBOXES_H

#include "sbx/bus/bus.h"
#include "sbx/core/limits.h"
#include "sbx/engine/engine.h"
#include "sbx/metrics/metrics.h"
#include "sbx/run/lanes.h"
#include "sbx/run/stream.h"
#include "sbx/sandbox/channel.h"
#include "sbx/sandbox/checks.h"
#include "sbx/sandbox/ledger.h"
#include "sbx/sandbox/spec.h"
#include "sbx/sandbox/state.h"
#include "sbx/store/sandboxes.h"

typedef struct sbx_sandboxes sbx_sandboxes;

typedef struct sbx_sandboxes_config {
    sbx_stream *stream;
    sbx_lanes *lanes;
    sbx_store *store;
    sbx_engine *engine;
    sbx_channels *channels;
    sbx_checks *checks;
    sbx_bus *bus;
    sbx_metrics *metrics;
    sbx_ledger *ledger;           /* takes the records of main processes, and knows what is used */
    const char *cluster, *worker; /* ids; borrowed */
    const char *templates;        /* "python=image,node=image" */
    const char *runtime;
    const char *agent_path, *files_path; /* the programs sbx-agent and sbx-files */
    int64_t pull_timeout_s;
    int64_t pause_retry_s; /* after the first pause of an idle one that failed; then doubled */
    const char *network;   /* mode of sandboxes that do not ask: "open" or "none" */
    /* As sbx_guard_confirm() and sbx_guard_want(). */
    int (*open_network)(void *arg, int64_t since_ms, sbx_network_access *ret, sbx_err *err);
    void (*keep_network)(void *arg);
    /* Is the guard confirmed now? Does not wait. NULL: no. */
    bool (*network_ready)(void *arg);
    const char *pool;       /* option --pool; NULL: none */
    const char *registries; /* option --registries: hosts whose images users may have; "": all */
    /* Have sbx_pool_tick() run soon; any thread. May be NULL. */
    void (*pool_kick)(void *arg);
    /* After each change of state, on the worker that made it. `json` is the sandbox. */
    void (*changed)(void *arg, const sbx_sandbox_row *row, const char *json);
    void *arg;
} sbx_sandboxes_config;

#define SBX_MAX_TEMPLATES 32
typedef struct sbx_template {
    char name[65], image[SBX_MAX_IMAGE_BYTES + 1];
} sbx_template;
/** Read the option. @param ret  SBX_MAX_TEMPLATES of them. @return 0, or -1 with INVALID. */
int sbx_templates_parse(const char *text, sbx_template *ret, size_t *ret_count,
                        sbx_err *err) SBX_MUST_CHECK;

/** Reads the two programs. INVALID if one of them or the templates are not usable. */
int sbx_sandboxes_new(const sbx_sandboxes_config *c, sbx_sandboxes **ret,
                      sbx_err *err) SBX_MUST_CHECK;
void sbx_sandboxes_free(sbx_sandboxes *s); /* after STREAM has ended */

/** Which sandboxes are in use. Any thread. */
sbx_ledger *sbx_sandboxes_ledger(const sbx_sandboxes *s);

/** Images on their way; of STREAM. */
struct sbx_images *sbx_sandboxes_images(const sbx_sandboxes *s);

/** The image of a template, or NULL if there is none. Any thread. */
const char *sbx_sandboxes_template(const sbx_sandboxes *s, const char *name);

/** Put the volume with the programs onto the engine host, so that the first create need not. */
int sbx_sandboxes_prepare(sbx_sandboxes *s, sbx_err *err) SBX_MUST_CHECK;

/** Have the images of templates that the engine lacks fetched in the background. Does not wait. */
int sbx_sandboxes_prefetch(sbx_sandboxes *s, sbx_err *err) SBX_MUST_CHECK;

/* A create under way. */
typedef struct sbx_create sbx_create;

/* Who waits for it. */
typedef struct sbx_create_waiter {
    const atomic_bool *cancelled; /* ends it; may be NULL; must live until `over` */
    /* Exactly once, on a WORKER, or on STREAM if the server ends. `err` is NULL if it runs; else
     * everything was undone, the record stays `failed`, and err->sandbox_id names it. */
    void (*over)(void *arg, const sbx_sandbox_row *row, const sbx_err *err);
    void *arg;
} sbx_create_waiter;

/** First half: check template and image, write the intent. @param id  of the sandbox, or NULL for
 * a new one. @param spec  its content is taken over on success. @param ret  one reference, for
 * run(). */
int sbx_create_begin(sbx_sandboxes *s, const char *owner, const char *id, sbx_spec *spec,
                     sbx_create **ret, sbx_err *err) SBX_MUST_CHECK;
struct sbx_claim;
/** The first half by a pool, if one has what `spec` asks for; for callers that must not wait. The
 * id is that of the sandbox that waited. begin() without an id does the same first.
 * @param key  the claim of an Idempotency-Key, which then names that id and is begun; or NULL.
 * @param ret  NULL: no pool has one, and nothing happened. */
int sbx_create_claim(sbx_sandboxes *s, const char *owner, const struct sbx_claim *key,
                     sbx_spec *spec, sbx_create **ret, sbx_err *err) SBX_MUST_CHECK;
const sbx_sandbox_row *sbx_create_row(const sbx_create *c); /* between begin and run */
/** Second half: image, container, channel, running. Returns before the end if the image has to be
 * pulled; the rest is then a job of the slow lane. Takes the reference over. @param waiter  copied;
 * NULL: nobody waits, the record tells how it ended. */
void sbx_create_run(sbx_create *c, const sbx_create_waiter *waiter);
/** Who waited has left, and `cancelled` is set: a wait for the image ends now. Any thread. */
void sbx_create_abandon(sbx_create *c);
sbx_create *sbx_create_ref(sbx_create *c);
void sbx_create_unref(sbx_create *c);
SBX_DEFINE_CLEANUP(sbx_create, sbx_create_unref)

/** The server is about to stop: no create waits for an image any more. Any thread. */
void sbx_sandboxes_interrupt(sbx_sandboxes *s);

/** Delete; a sandbox that is deleted already is success. NOT_FOUND if the owner has none. */
int sbx_sandbox_delete(sbx_sandboxes *s, const char *owner, const char *id,
                       sbx_err *err) SBX_MUST_CHECK;
/** Only its first half: from here on it is `deleting`, and sbx_sandbox_delete() or, if this worker
 * dies, the reaper does the rest. CONFLICT if somebody else changes it. */
int sbx_sandbox_delete_begin(sbx_sandboxes *s, const char *owner, const char *id,
                             sbx_err *err) SBX_MUST_CHECK;
/** Remove what belongs to a row that is in state `deleting` already. */
int sbx_sandbox_finish_delete(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err) SBX_MUST_CHECK;

typedef enum sbx_verb {
    SBX_V_START,
    SBX_V_STOP,
    SBX_V_RESTART,
    SBX_V_PAUSE,
    SBX_V_RESUME,
    SBX_V_RESET,
    SBX_V_KEEPALIVE,
} sbx_verb;

typedef struct sbx_move {
    sbx_verb verb;
    int grace_s;                        /* stop, restart: from SIGTERM to SIGKILL */
    bool fresh;                         /* restart, reset: in a new container, files are lost */
    const char *template_name;          /* restart: of the new container; NULL keeps */
    sbx_pairs env;                      /* restart: changes; a value of NULL removes */
    const char *why_code, *why_message; /* stop: the reason; NULL: none */
    bool begun;                         /* kept between the calls for one request */
} sbx_move;

/** Bring a sandbox nearer to where its owner wants it: begins the move if the state allows it, and
 * takes steps of it that take no more than some seconds. Begun, it goes on without further calls
 * and survives a crash.
 * @return 0 when it is there, `ret` is the row; 1: under way, call again a little later; -1 with
 *         NOT_FOUND, GONE, CONFLICT (names the state), or why it could not be done. */
int sbx_sandbox_move(sbx_sandboxes *s, const char *owner, const char *id, sbx_move *m,
                     sbx_sandbox_row *ret, sbx_err *err) SBX_MUST_CHECK;
/** Change a sandbox: all that is given, or nothing. A running container gets new limits at once.
 * GONE, NOT_FOUND, CONFLICT (limits during a move; less memory than is in use), INVALID.
 * @param ret  the row; to be freed by the caller. */
int sbx_sandbox_patch(sbx_sandboxes *s, const char *owner, const char *id, const sbx_patch *p,
                      sbx_sandbox_row *ret, sbx_err *err) SBX_MUST_CHECK;

/** Go on with a move that was just claimed (state pausing, stopping, deleting). One that is paused
 * as idle and was used meanwhile runs on. */
int sbx_sandbox_carry_on(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err) SBX_MUST_CHECK;
/** Claim what has expired or is idle, at most `max` of each, for sbx_sandbox_carry_on(). What is in
 * use here is not idle, and use that begins while one is claimed waits until its row tells.
 * @param ret  without `created_us`. */
int sbx_sandboxes_reap(sbx_sandboxes *s, int max, sbx_sandbox_list *ret,
                       sbx_err *err) SBX_MUST_CHECK;
/** Start the main process of a running sandbox whose agent has started none. */
int sbx_sandbox_main(sbx_sandboxes *s, const char *id, sbx_err *err) SBX_MUST_CHECK;

/** This process began or claimed a move of the sandbox and gives it up, because of `why`: the
 * cleanup is to go on soon, rather than when the row's deadline has passed. Nothing if `why` says
 * that the row is not ours any more. Any thread. */
void sbx_sandbox_leave(sbx_sandboxes *s, const char *id, const sbx_err *why);
/** Write that down for all that were left since: then they are overdue. WORKER. */
int sbx_sandboxes_release(sbx_sandboxes *s, sbx_err *err) SBX_MUST_CHECK;

/** Finish or undo a transitional state that is overdue or ownerless. */
int sbx_sandbox_settle(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err) SBX_MUST_CHECK;

/** Open the channel of a running sandbox again, if its container lives; otherwise record why it
 * failed. Does not wait for the agent's answer. CONFLICT if another live worker holds it. */
int sbx_sandbox_adopt(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err) SBX_MUST_CHECK;

/** Open a bridge to a running sandbox that another worker holds, and wait for its answer. CONFLICT
 * if this worker holds it, or should. */
int sbx_sandbox_bridge(sbx_sandboxes *s, const char *owner, const char *id,
                       sbx_err *err) SBX_MUST_CHECK;

/** The channel broke or the engine reported an end: adopt again or fail. By id. */
int sbx_sandbox_check(sbx_sandboxes *s, const char *id, sbx_err *err) SBX_MUST_CHECK;

/** Row and container seemed to disagree (none lives for a running row, one runs for a stopped row,
 * ...): look once more, and bring them together. Unlike check() this also looks where a channel
 * is still open. */
int sbx_sandbox_disagrees(sbx_sandboxes *s, const char *id, sbx_err *err) SBX_MUST_CHECK;

/** Write what the checks found out. On failure the changes stay for the next time. */
int sbx_sandboxes_flush_health(sbx_sandboxes *s, sbx_err *err) SBX_MUST_CHECK;

/** Record that a sandbox is in trouble, or near one of its limits: an event. Nothing if it is
 * neither paused nor running here any more. @param code  "memory_80". */
int sbx_sandbox_alert(sbx_sandboxes *s, const char *id, const char *code, const char *message,
                      sbx_err *err) SBX_MUST_CHECK;

/** The sandbox as the API shows it. Any thread. */
void sbx_sandbox_json(const sbx_sandbox_row *row, sbx_buf *out);

/** Engine name of a sandbox's container: "sbx-" and the id. */
void sbx_sandbox_container(const char *id, char out[SBX_ID_LEN + 8]);

#endif
