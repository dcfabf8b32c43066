/* What the files of the sandbox service share. */
#ifndef SBX_SANDBOX_SANDBOXES_PRIV_H
#define SBX_SANDBOX_SANDBOXES_PRIV_H

#include "sbx/core/limits.h"
#include "sbx/sandbox/images.h"
#include "sbx/sandbox/sandboxes.h"

#define DELETE_DEADLINE_S 8 /* then the cleanup tries it as well */

typedef struct sbx_pools sbx_pools;
typedef struct sbx_fetches sbx_fetches;
typedef struct sandbox_troubles sandbox_troubles;
typedef struct sandbox_unfinished sandbox_unfinished;

struct sbx_sandboxes { /* immutable after new */
    sbx_sandboxes_config c;
    sbx_images *images;
    sbx_pools *pools;
    sbx_fetches *fetches;
    sandbox_troubles *troubles;
    sandbox_unfinished *unfinished;
    sbx_template templates[SBX_MAX_TEMPLATES];
    size_t template_count;
    sbx_volume_file programs[2]; /* the agent's, and that for files; their data is owned */
    char volume[64];             /* with these, read-only in every sandbox */
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
    const char *goal, *template_name, *image; /* as in sbx_state_change */
    sbx_expiry expiry;
} move;
/** Count a failure that is a limit of the user; any other is left alone. */
void sandbox_count_refusal(sbx_sandboxes *s, const sbx_err *err);
int sandbox_set_state(sbx_sandboxes *s, sbx_sandbox_row *row, const move *m,
                      sbx_err *err) SBX_MUST_CHECK;

/* The row's reason, to be kept through the next move. `json` holds its texts. */
void sandbox_reason(const sbx_sandbox_row *row, reason *ret, sbx_json **json);

/* Tell whoever listens how the sandbox is now. */
void sandbox_publish(sbx_sandboxes *s, const sbx_sandbox_row *row);

/* Check the health of what runs here, and of nothing else. After each change of state or holder. */
void sandbox_follow_health(sbx_sandboxes *s, const sbx_sandbox_row *row);

/* Attach and greet. The row holds container_id, token and epoch. The log goes on behind
 * row->log_seq. @param adopted  the container runs already. */
int sandbox_connect(sbx_sandboxes *s, const sbx_sandbox_row *row, const sbx_pairs *env,
                    bool adopted, sbx_greeting **ret, sbx_err *err) SBX_MUST_CHECK;
/* Take the channel (CONFLICT: another live worker has it), attach, greet. `ret` NULL: the answer
 * is not waited for. */
int sandbox_connect_again(sbx_sandboxes *s, sbx_sandbox_row *row, bool adopted, sbx_greeting **ret,
                          sbx_err *err) SBX_MUST_CHECK;
/* The image's USER. @return 0, 1 if the engine does not have the image, -1. */
int sandbox_look_at_image(sbx_sandboxes *s, const char *image, char **ret_user,
                          sbx_err *err) SBX_MUST_CHECK;
/* The agent's volume, a new container, its agent's answer. Fills container_id.
 * @param mount  one more volume, or NULL. */
int sandbox_bring_up(sbx_sandboxes *s, sbx_sandbox_row *row, const sbx_pairs *env,
                     const sbx_mount *mount, sbx_err *err) SBX_MUST_CHECK;
/* Start the main process, if there is to be one; the agent refuses a second. */
void sandbox_start_main(sbx_sandboxes *s, const sbx_sandbox_row *row);

/* What the engine says of a sandbox's container. */
typedef enum fate { FATE_GONE, FATE_ENDED, FATE_RUNNING, FATE_PAUSED } fate;
int sandbox_look(sbx_sandboxes *s, const char *id, sbx_container_info *info, fate *ret,
                 sbx_err *err) SBX_MUST_CHECK;
/* The container of a row does not live: the row becomes failed. `info` NULL: it is gone. */
int sandbox_fail_dead(sbx_sandboxes *s, sbx_sandbox_row *row, const sbx_container_info *info,
                      sbx_err *err) SBX_MUST_CHECK;
/* What to record of a failure: no addresses or statements of the store, which are for the log. */
const char *sandbox_public_reason(const sbx_err *err, const char *id);
const char *sandbox_failure_code(const sbx_err *err);

/* Pauses of idle sandboxes and resumes, as they end: hibernate.c. */
typedef enum sandbox_trouble { TROUBLE_PAUSE, TROUBLE_RESUME } sandbox_trouble;
sandbox_troubles *sandbox_troubles_new(int64_t first_wait_ms);
void sandbox_troubles_free(sandbox_troubles *t);
/* It failed: counted, logged, and told of by an alert when it is time. WORKER. */
void sandbox_note_trouble(sbx_sandboxes *s, const char *id, sandbox_trouble what,
                          const sbx_err *why);
/* It succeeded; `undone`: the pause was not needed any more. */
void sandbox_note_move(sbx_sandboxes *s, const char *id, sandbox_trouble what, bool undone);

/* Moves that wait for the cleanup: unfinished.c, with sbx_sandbox_leave(). */
sandbox_unfinished *sandbox_unfinished_new(void);
void sandbox_unfinished_free(sandbox_unfinished *u);

/* Change the env of a row, without its limits. */
int sandbox_patch_env(sbx_sandboxes *s, sbx_sandbox_row *row, const sbx_pairs *env,
                      sbx_err *err) SBX_MUST_CHECK;
/* The limits of row and container may differ: make them the same. */
int sandbox_settle_limits(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err) SBX_MUST_CHECK;

/* Start a row in state `starting`. @return 0, 1 if it waits for an image, and goes on by itself
 * when that is there, or -1: the row is stopped or failed then. start.c */
int sandbox_start(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err) SBX_MUST_CHECK;
/* Its container and agent have answered: running, and the main process. */
int sandbox_started(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err) SBX_MUST_CHECK;
/* A call of the engine's table that takes a container only. */
int sandbox_engine(sbx_sandboxes *s,
                   int (*verb)(sbx_engine *e, const char *id_or_name, sbx_err *err), const char *id,
                   sbx_err *err) SBX_MUST_CHECK;
int sandbox_engine_stop(sbx_sandboxes *s, const char *id, int grace_s, sbx_err *err) SBX_MUST_CHECK;

/* Finish or undo a move that nobody is at any more; moves.c. `force`: do not wait for a container
 * that is on its way to its end. */
int sandbox_settle_move(sbx_sandboxes *s, sbx_sandbox_row *row, bool force,
                        sbx_err *err) SBX_MUST_CHECK;

/* Give a container limits; one that is gone gets them when it is made again. 0 keeps.
 * @param fresh  as of sbx_engine_ops.update */
int sandbox_engine_limits(sbx_sandboxes *s, const char *id, int64_t cpu_milli, int64_t memory_mb,
                          int64_t pids, bool fresh, sbx_err *err) SBX_MUST_CHECK;

/* --- pools; pool.c, but for the last ones --- */

int sandbox_pools_new(sbx_sandboxes *s, const char *text, sbx_pools **ret,
                      sbx_err *err) SBX_MUST_CHECK;
void sandbox_pools_free(sbx_pools *p);

/* What a create wants that a pool may have. */
typedef struct pool_wish {
    const char *template_name, *network;
    int64_t cpu_milli, memory_mb;
} pool_wish;
/* A sandbox that waits. */
typedef struct pool_slot {
    char id[SBX_ID_LEN + 1];
    char name[128];               /* the row's `pool` */
    int64_t cpu_milli, memory_mb; /* that it has; its processes are the default */
} pool_slot;
/* One that nobody else is offered until sandbox_pool_taken() or put_back(), which must follow. */
bool sandbox_pool_take(sbx_pools *p, const pool_wish *wish, pool_slot *ret);
void sandbox_pool_taken(sbx_pools *p, const pool_slot *slot, bool hit);
/* It surely was not taken: it is on offer again. */
void sandbox_pool_put_back(sbx_pools *p, const pool_slot *slot);
/* A create went the slow way: was that for want of a slot? */
void sandbox_pool_missed(sbx_pools *p, const pool_wish *wish);
/* A create of a user is at work (1), or not any more (-1). */
void sandbox_pool_busy(sbx_pools *p, int by);
/* Its claim may have been written or not: if it was, it is undone. */
void sandbox_pool_doubt(sbx_pools *p, const sbx_sandbox_row *row);

/* An image of a template could not be fetched. Any thread. */
void sandbox_pool_no_image(sbx_pools *p, const char *image, const sbx_err *err);

/* Write events for those who wait for an image. STREAM; `arg` is the sbx_sandboxes. fetch.c */
void sandbox_pull_progress(void *arg, const sbx_image_wait *first, const char *text);
/* Fetch an image in the background, unless that is under way. Any thread. fetch.c */
void sandbox_fetch_image(sbx_sandboxes *s, const char *image);
sbx_fetches *sandbox_fetches_new(sbx_sandboxes *s);
void sandbox_fetches_free(sbx_fetches *f); /* after STREAM has ended */

/* May a user have this image? INVALID for the field `image`. @param allowed  hosts joined by
 * commas; NULL or "": all. registry.c */
int sandbox_registry_check(const char *allowed, const char *image, sbx_err *err) SBX_MUST_CHECK;

/* claim.c: what a sandbox of a pool lacks, up to its being ready. @return 0, 1 if it had died, and
 * is to be made as if it were no pool's, or -1. */
int sandbox_finish_claim(sbx_create *c, sbx_err *err) SBX_MUST_CHECK;
void sandbox_count_miss(sbx_sandboxes *s, const sbx_spec *spec);
/* create.c: the intent of one that is to wait as `pool`; its run is the same. */
int sandbox_create_for_pool(sbx_sandboxes *s, const char *pool, sbx_spec *spec, sbx_create **ret,
                            sbx_err *err) SBX_MUST_CHECK;
/* It runs: count how long that took. */
void sandbox_created(const sbx_create *c);

#define SANDBOX_DEFAULT_TEMPLATE "python"

/* The image of a template. @return NULL if there is no such template. */
const char *sbx_sandboxes_template(const sbx_sandboxes *s, const char *name);

/* What a container needs to join its network, and when that was found. */
typedef struct sandbox_network {
    sbx_network_access access;
    int64_t since_ms;
} sandbox_network;
/* Around every engine start or unpause of a sandbox: begin before it, confirm before anything of
 * the user runs. ENGINE_UNAVAILABLE if the guard is not to be had: then undo. */
int sandbox_network_begin(sbx_sandboxes *s, const sbx_sandbox_row *row, sandbox_network *ret,
                          sbx_err *err) SBX_MUST_CHECK;
int sandbox_network_confirm(sbx_sandboxes *s, const sbx_sandbox_row *row,
                            const sandbox_network *begun, sbx_err *err) SBX_MUST_CHECK;
/* It runs already: the guard must be kept alive. */
void sandbox_network_keep(sbx_sandboxes *s, const sbx_sandbox_row *row);

/* Somebody has settled the row meanwhile, while we brought its container up. What runs belongs to
 * him, unless nothing should. */
void sandbox_too_late(sbx_sandboxes *s, const sbx_sandbox_row *row);

/* Remove the container that this row was given, and not one that took its name since. */
int sandbox_remove_own(sbx_sandboxes *s, const sbx_sandbox_row *row, sbx_err *err) SBX_MUST_CHECK;
/* Remove the container, whatever its state; retried by the reaper if it fails. */
int sandbox_remove_container(sbx_sandboxes *s, const char *id, sbx_err *err) SBX_MUST_CHECK;

#endif
