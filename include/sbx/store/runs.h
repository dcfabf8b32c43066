/* Sandboxes that a run of code has to itself: what the row knows of it. Threads: WORKER. */
#ifndef SBX_STORE_RUNS_H
#define SBX_STORE_RUNS_H

#include "sbx/store/store.h"

/** Note that a sandbox is there for one run, before anything is done about it.
 * @param run  id of the execution. @param worker  whose request follows it.
 * @return 0, or -1 with CONFLICT if the sandbox is gone. */
int sbx_store_run_begin(sbx_store *s, const char *sandbox, const char *run, const char *worker,
                        sbx_err *err) SBX_MUST_CHECK;

/** Have the sandboxes of runs whose worker is dead end now: their lifetime is over, and an
 * execution with the error `interrupted` is recorded unless there is one. At most `limit`.
 * @param worker  the caller, whose own runs are left alone, however old his sign of life is.
 * @param ret  how many. */
int sbx_store_run_orphans(sbx_store *s, const char *worker, int64_t limit, int64_t *ret,
                          sbx_err *err) SBX_MUST_CHECK;

#endif
