/* What is written in batches: records of commands, and when sandboxes were last active.
 *
 * A crash loses at most one batch interval (500 ms) of either. What is not written yet counts: a
 * sandbox that was used a moment ago is not idle. Use and the freezing of an idle sandbox exclude
 * each other here, under one lock. Threads: any; flush on WORKER. */
#ifndef SBX_SANDBOX_LEDGER_H
#define SBX_SANDBOX_LEDGER_H

#include "sbx/store/records.h"
#include "sbx/store/sandboxes.h"

typedef struct sbx_ledger sbx_ledger;

sbx_ledger *sbx_ledger_new(sbx_store *store);
void sbx_ledger_free(sbx_ledger *l);

/** Keep a record until the next flush; takes its content. Beyond 20,000 waiting records the
 * newest are dropped and counted in the log. */
void sbx_ledger_record(sbx_ledger *l, sbx_exec_record *r);

/** The same of a command that has started. If it ends before the next flush, only its end is
 * written. */
void sbx_ledger_record_start(sbx_ledger *l, sbx_exec_record *r);

/** A command began or ended in a sandbox. While one runs the sandbox is busy. */
void sbx_ledger_begin(sbx_ledger *l, const char *sandbox);
void sbx_ledger_end(sbx_ledger *l, const char *sandbox);

/** Begin, unless the sandbox is just being frozen: then nothing is begun, and its row will tell. */
bool sbx_ledger_use(sbx_ledger *l, const char *sandbox);

/** From here until sbx_ledger_thaw() sbx_ledger_use() is refused. @return false if the sandbox is
 * busy: then it must not be frozen, and there is nothing to thaw. */
bool sbx_ledger_freeze(sbx_ledger *l, const char *sandbox);
void sbx_ledger_thaw(sbx_ledger *l, const char *sandbox);

/** Ids of the busy sandboxes, and of those whose last activity is not in the store yet.
 * @param ret  owned by the caller: free each, then the array. */
size_t sbx_ledger_busy(sbx_ledger *l, char ***ret);

/** Write what waits; what another thread is writing is waited for (at most 5 s). On failure it
 * stays for the next time, but for records that the store refused (STORE_UNAVAILABLE, TIMEOUT and
 * CANCELLED are no refusals): those are dropped, and logged.
 * @param ret_frozen  zeroed; active sandboxes that were paused as idle all the same; also set if
 *                    -1 is returned. sbx_sandbox_refs_done() it. */
int sbx_ledger_flush(sbx_ledger *l, sbx_sandbox_refs *ret_frozen, sbx_err *err) SBX_MUST_CHECK;

#endif
