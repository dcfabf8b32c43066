/* What users use, and their limits: the tables `usage`, `usage_runs` and `spending_alerts`. They
 * are filled, and limits are kept, by triggers of the tables `sandboxes` and `sandbox_executions`,
 * in the statement that changes a row (migrations/0019_usage.sql): that statement then fails with
 * QUOTA, and the error's `quota` tells which limit. Threads: WORKER. */
#ifndef SBX_STORE_USAGE_H
#define SBX_STORE_USAGE_H

#include "sbx/store/sandboxes.h"
#include "sbx/store/tiers.h"

/** A run is about to begin in a sandbox that is there: it counts from now on, unless a record of
 * its execution says that nothing ran. Asking twice is asking once.
 * @return 1; 0: the owner has no such sandbox; -1 with QUOTA and the like. */
int sbx_store_run_reserve(sbx_store *s, const char *owner, const char *sandbox, const char *run,
                          const char *runtime, const char *worker, sbx_err *err) SBX_MUST_CHECK;

/* Of one user, this month. */
typedef struct sbx_quotas {
    sbx_tier tier;
    int64_t spending_micros; /* the limit, or SBX_NO_LIMIT */
    bool hard_stop;
    int64_t runs, runs_reserved; /* that are over or have been heard of; that are about to begin */
    int64_t running_ms, paused_ms, cost_micros;
    int64_t sandboxes, sandboxes_reserved; /* running, paused and so on; creating or starting */
    int64_t reset_ms;                      /* Unix time */
} sbx_quotas;
/** @param owner  id; NOT_FOUND. */
int sbx_store_quotas_get(sbx_store *s, const char *owner, sbx_quotas *ret,
                         sbx_err *err) SBX_MUST_CHECK;

#define SBX_MAX_USAGE_KEY 255
typedef struct sbx_usage_filter {
    const char *owner;
    const char *from, *to; /* days, "2026-01-31", both included; NULL: this month */
    const char *by;        /* day, month, sandbox, template, runtime, package */
    const char *sandbox;   /* only what is of it; NULL: all */
    const char *after;     /* the last key of the page before, or NULL */
    int limit;             /* 1..SBX_MAX_LIST_ITEMS + 1 */
} sbx_usage_filter;

typedef struct sbx_usage_item {
    char key[SBX_MAX_USAGE_KEY + 1];
    int64_t runs, running_ms, paused_ms;
    int64_t cost_micros; /* of sandboxes; 0 by runtime and package */
} sbx_usage_item;

/** By key, ascending. Time and cost are of sandboxes; by runtime and package, the time is that of
 * the runs. INVALID: a day that there is not. @param ret  `limit` of them. @return how many. */
int sbx_store_usage_list(sbx_store *s, const sbx_usage_filter *f, sbx_usage_item *ret,
                         sbx_err *err) SBX_MUST_CHECK;

/** Limit what a user spends in a month. @param micros  SBX_NO_LIMIT: not. NOT_FOUND. */
int sbx_store_spending_set(sbx_store *s, const char *user, int64_t micros, bool hard_stop,
                           sbx_err *err) SBX_MUST_CHECK;

/* --- what is done now and then --- */

/** Meter what runs or is paused and was not metered for `older_s` seconds. */
int sbx_store_usage_meter(sbx_store *s, int older_s, int64_t *ret_count,
                          sbx_err *err) SBX_MUST_CHECK;
/** Sandboxes that may not go on, at most `max`: of users whose compute time is used up the running
 * ones, of those that may spend no more also the paused ones. Only those that `worker` holds or
 * nobody alive. @param ret  light: id, owner, and why as `reason`: "compute" or "spending". */
int sbx_store_quota_over(sbx_store *s, const char *worker, int max, sbx_sandbox_list *ret,
                         sbx_err *err) SBX_MUST_CHECK;
/** Write the events "spending.alert" that are due. @return how many. */
int sbx_store_spending_alerts(sbx_store *s, sbx_err *err) SBX_MUST_CHECK;
/** Give back runs that were reserved and never begun, and forget what is too old to be told. */
int sbx_store_usage_tidy(sbx_store *s, sbx_err *err) SBX_MUST_CHECK;

#endif
