/* The guard: what lets a sandbox have a network (mode `open`) without reaching the host, its
 * neighbours, other sandboxes or private networks.
 *
 * Per engine host and installation there are one bridge network, one helper container with the
 * host's network and NET_ADMIN (deploy/images/guard), and two tables of firewall rules that the
 * helper holds in the kernel. The rules outlive the helper, the server and the engine.
 *
 * A thread of its own makes all three when they are first needed, sees every few seconds to it that
 * the rules in the kernel are those that were set, and makes the helper again if it is gone. Each
 * such round ends in a confirmation or a reason. Nothing of a sandbox's user may run in an open
 * sandbox before a confirmation that is younger than the beginning of its start.
 *
 * Any number of servers of one installation share all of it: every step is idempotent. */
#ifndef SBX_GUARD_GUARD_H
#define SBX_GUARD_GUARD_H

#include "sbx/engine/engine.h"
#include "sbx/metrics/metrics.h"

typedef struct sbx_guard sbx_guard;

typedef struct sbx_guard_config {
    sbx_engine *engine;
    sbx_metrics *metrics;  /* may be NULL */
    const char *cluster;   /* id; borrowed, as all of these */
    const char *image;     /* of the helper */
    const char *resolvers; /* option --network-resolvers */
    const char *allow;     /* option --network-allow */
    bool wanted;           /* from the start, not from the first use */
} sbx_guard_config;

typedef struct sbx_guard_status {
    bool wanted;       /* false: nobody has needed a network yet, nothing was made */
    bool confirmed;    /* now */
    int64_t age_ms;    /* of the last confirmation; -1: none yet */
    uint64_t restored; /* how often rules were found changed or gone, and set again */
    sbx_err why;       /* of the last failed round, if not confirmed */
} sbx_guard_status;

/** @return 0, or -1 with INVALID that names the option. */
int sbx_guard_new(const sbx_guard_config *c, sbx_guard **ret, sbx_err *err) SBX_MUST_CHECK;
int sbx_guard_start(sbx_guard *g, sbx_err *err) SBX_MUST_CHECK; /* the thread */
/** Ends the thread; who waits for a confirmation is told CANCELLED. The helper goes on. */
void sbx_guard_stop(sbx_guard *g);
void sbx_guard_free(sbx_guard *g); /* NULL is fine */
SBX_DEFINE_CLEANUP(sbx_guard, sbx_guard_free)

/** From now on keep the guard alive: there are open sandboxes. Any thread; does not wait. */
void sbx_guard_want(sbx_guard *g);

/** Have the guard asked now, and wait (WORKER) for a confirmation: that of a question put at
 * `since_ms` (monotonic) or later, or with 0 any that is young enough, which costs no wait.
 *
 * @param ret  how a container joins the network; may be NULL.
 * @return 0; -1 with ENGINE_UNAVAILABLE, the reason and what to do, after 3 failed rounds or 10
 *         seconds; CANCELLED, or TIMEOUT if the job's deadline is nearer. */
int sbx_guard_confirm(sbx_guard *g, int64_t since_ms, sbx_network_access *ret,
                      sbx_err *err) SBX_MUST_CHECK;

/** One round in the calling thread, for a guard whose thread was not started: makes what is missing
 * and asks. For `sandboxd doctor`. */
int sbx_guard_check(sbx_guard *g, sbx_err *err) SBX_MUST_CHECK;

/** Any thread. */
void sbx_guard_status_get(sbx_guard *g, sbx_guard_status *ret);

#endif
