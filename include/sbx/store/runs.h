/* Sandboxes that are there for a request alone, and go with the worker that follows it: those of
 * runs of code, and those of a batch that is all or none until all of it runs. What their rows know
 * of that. Threads: WORKER. */
#ifndef SBX_STORE_RUNS_H
#define SBX_STORE_RUNS_H

#include "sbx/store/store.h"

/** Have the sandboxes of runs whose worker is dead end now: their lifetime is over, and an
 * execution with the error `interrupted` is recorded unless there is one. At most `limit`.
 * @param worker  the caller, whose own runs are left alone, however old his sign of life is.
 * @param ret  how many. */
int sbx_store_run_orphans(sbx_store *s, const char *worker, int64_t limit, int64_t *ret,
                          sbx_err *err) SBX_MUST_CHECK;

/** Note that a sandbox that is being created goes if `worker` dies before sbx_store_batch_keep():
 * as one of a run does, but without a record. CONFLICT if it is gone. */
int sbx_store_batch_hold(sbx_store *s, const char *sandbox, const char *worker,
                         sbx_err *err) SBX_MUST_CHECK;
/** All of them run, and stay. CAPACITY if some were given up meanwhile; if the answer was lost they
 * may stay or not, so whoever is told -1 deletes them. */
int sbx_store_batch_keep(sbx_store *s, const char *const *ids, size_t count, const char *worker,
                         sbx_err *err) SBX_MUST_CHECK;

#endif
