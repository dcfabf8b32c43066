/* The table `sandboxes`: the truth about what is wanted, and who looks after it.
 *
 * Threads: WORKER. Every statement of a user names the owner. */
#ifndef SBX_STORE_SANDBOXES_H
#define SBX_STORE_SANDBOXES_H

#include "sbx/store/store.h"

typedef struct sbx_sandbox_row {
    char id[SBX_ID_LEN + 1];
    char owner[SBX_ID_LEN + 1];         /* user id */
    char worker[SBX_ID_LEN + 1];        /* who holds the channel; "" none */
    char *name, *template_name, *image; /* owned; name may be NULL */
    char state[12];                     /* wire name */
    char *reason;                       /* stateReason as JSON text, or NULL; owned */
    char size[8];
    int64_t cpu_milli, memory_mb, pids, disk_mb; /* disk_mb 0: not set */
    char network[12];
    char *metadata;  /* JSON object text; owned */
    char *env_names; /* JSON array text; owned */
    char *command;   /* main process as JSON array text, or NULL; owned */
    int64_t timeout_s, idle_timeout_s;
    char on_timeout[8], on_idle[8];
    int64_t created_ms, started_ms, last_active_ms, expires_ms, state_changed_ms; /* 0: NULL */
    char container_id[65];   /* "" until known */
    unsigned char token[16]; /* the agent channel's secret */
    uint64_t epoch;          /* of the last greeting */
    char *image_user;        /* owned */
    char runtime[32], host[64];
    char *readiness, *health; /* checks as JSON object text, or NULL; owned */
    char *health_state;       /* what is known of the health, as JSON, or NULL; owned */
    char goal[8];             /* of a stop: "start", "fresh", or "" */
    uint64_t log_seq;         /* the log of the next start goes on behind it */
    int64_t version;          /* counts changes by the owner */
    uint64_t env_version;     /* counts changes of env */
    int64_t change;           /* random number of the last change of state, or of its taking over */
    char disk_limit[12];      /* none, enforced, watched */
    char *pool;               /* while it waits in a pool: as what; else NULL; owned */
    bool warm;                /* it came from a pool */
    char run[SBX_ID_LEN + 1]; /* of an insert or a claim: the execution that it is for, or "" */
    uint64_t event_seq; /* of the event that the statement wrote; 0: none, or its answer was lost */
} sbx_sandbox_row;

void sbx_sandbox_row_done(sbx_sandbox_row *r);

/** Insert with the given state ("creating") and a deadline `deadline_s` from now; created_at,
 * last_active_at and state_changed_at are now(). Fills those times and event_seq of `r`. `env`
 * (may be NULL) is sealed here. Every string but name, command, reason, metadata ("{}"),
 * env_names ("[]"), image_user, pool and run is required. A lost answer is found out by id and
 * token. QUOTA: see store/usage.h. */
int sbx_store_sandbox_insert(sbx_store *s, sbx_sandbox_row *r, const sbx_pairs *env, int deadline_s,
                             sbx_err *err) SBX_MUST_CHECK;

struct sbx_claim;

/** Take a sandbox out of its pool: the row `r->pool` with `r->id`, if it runs and `r->worker` holds
 * it, becomes what a create of `r` would have made, in state `r->state` (running, or creating with
 * the deadline), with a create's events. The claim `key` of an Idempotency-Key (or NULL) then names
 * this sandbox, and is begun; all or nothing. @param r  the row as it is now; token, container and
 * what else was there stay. @return 1; 0: it is not to be had (any more); -1, and whether it was
 * taken is not known: then r->change tells. CAPACITY: it was, but `key` was taken over by another
 * request, and the sandbox must be undone. QUOTA: nothing was taken; see store/usage.h. */
int sbx_store_sandbox_claim(sbx_store *s, sbx_sandbox_row *r, const sbx_pairs *env, int deadline_s,
                            const struct sbx_claim *key, sbx_err *err) SBX_MUST_CHECK;

/** By id; `owner` NULL means any (administrators and the system). Rows `deleted` for more than a
 * day are NOT_FOUND. */
int sbx_store_sandbox_get(sbx_store *s, const char *owner, const char *id, sbx_sandbox_row *ret,
                          sbx_err *err) SBX_MUST_CHECK;

/** Values of env, unsealed. NOT_FOUND once the sandbox is deleted: they are removed then. */
int sbx_store_sandbox_env(sbx_store *s, const char *id, sbx_pairs *ret,
                          sbx_err *err) SBX_MUST_CHECK;

typedef struct sbx_sandbox_filter {
    const char *owner, *state, *template_name, *name; /* NULL: any; state NULL excludes deleted */
    const char *metadata;  /* JSON object that must be contained, or NULL */
    int64_t before_us;     /* cursor: created_at in microseconds, 0: from the newest */
    const char *before_id; /* tie-break of the cursor */
    int limit;             /* 1..SBX_MAX_LIST_ITEMS + 1 */
} sbx_sandbox_filter;

typedef struct sbx_sandbox_list {
    sbx_sandbox_row *items;
    int64_t *created_us; /* for the next cursor */
    size_t count;
} sbx_sandbox_list;
void sbx_sandbox_list_done(sbx_sandbox_list *l);

/** Newest first. INVALID for a limit out of range or metadata that is not a JSON object. */
int sbx_store_sandbox_list(sbx_store *s, const sbx_sandbox_filter *f, sbx_sandbox_list *ret,
                           sbx_err *err) SBX_MUST_CHECK;

/* The one statement behind the state setter: compare and set, with the event "sandbox.<to>" and its
 * data {"from","to","reason"} in the same statement. Another state than `from` is CONFLICT (the
 * message names it), no such row NOT_FOUND. `from` equal to `to` changes the other columns only:
 * no event, state_changed_at stays. A lost answer is found out by a number in the row; only if
 * somebody else changed the row right after, a change that was applied reads as CONFLICT. */
typedef enum sbx_expiry {
    SBX_EXPIRY_KEEP,
    SBX_EXPIRY_GO_ON, /* begin a lifetime if there is none; counts as activity */
    SBX_EXPIRY_NONE,
} sbx_expiry;

typedef struct sbx_state_change {
    const char *id, *from, *to;
    const char *reason;       /* JSON text, or NULL to clear */
    const char *worker;       /* new holder; NULL keeps, "" clears */
    const char *container_id; /* NULL keeps */
    const char *image_user;   /* NULL keeps */
    int deadline_s;           /* of a transitional state; 0: none (keeps it if from equals to) */
    bool started;      /* set started_at = last_active_at = now(), expires_at = now() + timeout */
    const char *goal;  /* NULL keeps, "" clears */
    uint64_t log_seq;  /* if it is higher */
    sbx_expiry expiry; /* unless `started` */
    const char *template_name; /* with `image` */
    const char *image;         /* NULL keeps it and the template */
    int64_t change;            /* the row's when it was read: CONFLICT if it changed; 0: any */
} sbx_state_change;
int sbx_store_sandbox_set_state(sbx_store *s, const sbx_state_change *c, sbx_sandbox_row *ret,
                                sbx_err *err) SBX_MUST_CHECK;

/** Write another status of health with the event "sandbox.<status>", if it is running, held by
 * `worker` and was not of that status: 1 and the row; else 0. @param state  JSON text. */
int sbx_store_sandbox_health(sbx_store *s, const char *id, const char *worker, const char *state,
                             sbx_sandbox_row *ret, sbx_err *err) SBX_MUST_CHECK;
/** Write what else is known of the health of many, where the status is the one in the record.
 * @param states  JSON array text of {"id", "state"}. */
int sbx_store_sandbox_health_refresh(sbx_store *s, const char *worker, const char *states,
                                     sbx_err *err) SBX_MUST_CHECK;

/* Which sandboxes, and whose. */
typedef struct sbx_sandbox_refs {
    struct {
        char id[SBX_ID_LEN + 1], owner[SBX_ID_LEN + 1];
    } * items;
    size_t count;
} sbx_sandbox_refs;
void sbx_sandbox_refs_done(sbx_sandbox_refs *r);

/** Write an event "sandbox.alert" of a sandbox that is running and held by `worker`, or paused: 1
 * and the row; else 0. @param reason  JSON text. */
int sbx_store_sandbox_alert(sbx_store *s, const char *id, const char *worker, const char *reason,
                            sbx_sandbox_row *ret, sbx_err *err) SBX_MUST_CHECK;

/** Write an event "sandbox.pulling" of each of these that is being created or started.
 * @param text  for people. */
int sbx_store_sandbox_pulling(sbx_store *s, const char *const *ids, size_t count, const char *text,
                              sbx_err *err) SBX_MUST_CHECK;

/** How the limit of its disk is kept: "enforced" or "watched". */
int sbx_store_sandbox_disk(sbx_store *s, const char *id, const char *limit,
                           sbx_err *err) SBX_MUST_CHECK;
/** Some of the running sandboxes that `worker` holds and whose disks are watched; in any order. */
int sbx_store_sandbox_watched(sbx_store *s, const char *worker, int limit, sbx_sandbox_list *ret,
                              sbx_err *err) SBX_MUST_CHECK;

/** Take the channel of a sandbox: worker = `worker`, epoch + 1, if nobody alive (heartbeat within
 * 10 s) other than `worker` holds it. CONFLICT otherwise. */
int sbx_store_sandbox_take(sbx_store *s, const char *id, const char *worker, uint64_t *ret_epoch,
                           sbx_err *err) SBX_MUST_CHECK;

/** Set expires_at = now() + timeout_s unless it is null, if running or paused (CONFLICT otherwise).
 * Of a renewal and a reap at the same moment exactly one succeeds. */
int sbx_store_sandbox_renew(sbx_store *s, const char *owner, const char *id, sbx_sandbox_row *ret,
                            sbx_err *err) SBX_MUST_CHECK;

/** Set last_active_at = now() for many ids in one statement.
 * @param ret_frozen  those that are paused because they were idle. */
int sbx_store_sandbox_touch(sbx_store *s, const char *const *ids, size_t count,
                            sbx_sandbox_refs *ret_frozen, sbx_err *err) SBX_MUST_CHECK;

/** It is active now, and is not paused for so many seconds (0: no longer): a change to `pausing` is
 * CONFLICT, and sbx_store_sandbox_reap() leaves it alone. CONFLICT unless it is running. */
int sbx_store_sandbox_awake(sbx_store *s, const char *id, int seconds, sbx_err *err) SBX_MUST_CHECK;

typedef struct sbx_ids {
    const char *const *items; /* borrowed */
    size_t count;
} sbx_ids;

typedef struct sbx_reap {
    const char *worker;
    sbx_ids busy;   /* active in this worker now: not to be idled out */
    sbx_ids later;  /* not to be paused or stopped now */
    sbx_ids frozen; /* nobody begins to use them until this is over */
    int max;
} sbx_reap;

/** Claim (FOR UPDATE SKIP LOCKED) at most `max` rows of state running or paused that have expired,
 * and running ones that have idled out: by on_timeout or on_idle the state becomes `deleting`,
 * `pausing` or `stopping` with the reason {"code":"expired"|"idle",...}, worker = `worker`,
 * deadline 60 s. A paused row that is to be paused stays so, without expires_at. What another live
 * worker holds is left to it unless it has expired and is deleted. What is idle and is to be
 * stopped or deleted must be `frozen`: otherwise nothing happens to it. Returns the rows, of those
 * that have to be frozen as they are (`running`). */
int sbx_store_sandbox_reap(sbx_store *s, const sbx_reap *which, sbx_sandbox_list *ret,
                           sbx_err *err) SBX_MUST_CHECK;

/** Claim rows in a transitional state whose deadline has passed or whose worker is not alive:
 * worker = `worker`, a new deadline of 60 s. Also rows of any other state whose limits were to be
 * the container's by now. Returns the rows, state unchanged. */
int sbx_store_sandbox_overdue(sbx_store *s, const char *worker, int max, sbx_sandbox_list *ret,
                              sbx_err *err) SBX_MUST_CHECK;

/** The worker gives up the moves of these: sbx_store_sandbox_overdue() finds them, but for creates,
 * which it undoes itself. */
int sbx_store_sandbox_release(sbx_store *s, const char *worker, const char *const *ids,
                              size_t count, sbx_err *err) SBX_MUST_CHECK;

/** Rows of state running whose channel nobody alive holds or `worker` holds; each is
 * then to be taken with sbx_store_sandbox_take(). */
int sbx_store_sandbox_adoptable(sbx_store *s, const char *worker, sbx_sandbox_list *ret,
                                sbx_err *err) SBX_MUST_CHECK;

/** Every row that may have a container, so none that is deleted or failed: for the sweep (light
 * columns only: id, state, container_id, state_changed_ms, worker). */
int sbx_store_sandbox_all(sbx_store *s, sbx_sandbox_list *ret, sbx_err *err) SBX_MUST_CHECK;
/** The failed ones among these ids; the same columns. */
int sbx_store_sandbox_failed(sbx_store *s, const char *const *ids, size_t count,
                             sbx_sandbox_list *ret, sbx_err *err) SBX_MUST_CHECK;

/* Changes by the owner: all or nothing. NULL, 0 and false keep. */
typedef struct sbx_sandbox_change {
    bool name_given;
    const char *name; /* NULL: none */
    const char *metadata, *env_names;
    const sbx_pairs *env; /* whole, together with env_names */
    const char *size;
    int64_t cpu_milli, memory_mb, pids;
    int64_t timeout_s; /* also sets expires_at, if running or paused */
    int64_t idle_timeout_s;
    const char *on_timeout, *on_idle;
    const char *limits_state; /* the container got the limits in this state; ends limits_begin */
} sbx_sandbox_change;

/** Apply to the row as it was read: CONFLICT if its version is another one by now, if it is being
 * deleted, or its state is not limits_state. @param row  updated. */
int sbx_store_sandbox_patch(sbx_store *s, sbx_sandbox_row *row, const sbx_sandbox_change *p,
                            sbx_err *err) SBX_MUST_CHECK;

/** The container's limits are about to differ from the row's, for at most `seconds`: then
 * sbx_store_sandbox_overdue() gives the row to somebody who compares. CONFLICT if the state is
 * another one, or somebody else is at it. */
int sbx_store_sandbox_limits_begin(sbx_store *s, const char *id, const char *state, int seconds,
                                   sbx_err *err) SBX_MUST_CHECK;
/** They are the same again: the row's, or those given (0 keeps). */
int sbx_store_sandbox_limits_end(sbx_store *s, const char *id, int64_t cpu_milli, int64_t memory_mb,
                                 int64_t pids, sbx_err *err) SBX_MUST_CHECK;

/** Counts by state name, states in `names`. */
int sbx_store_sandbox_counts(sbx_store *s, const char *const *names, size_t count, int64_t *ret,
                             sbx_err *err) SBX_MUST_CHECK;

/** Remove rows deleted or failed for more than a day, with their executions, and workers that
 * have been dead for a day; at most 1,000 sandboxes at once. Their events stay. */
int sbx_store_sandbox_purge(sbx_store *s, int *ret_count, sbx_err *err) SBX_MUST_CHECK;

#endif
