/* What is written in batches: records of commands, and when sandboxes were last active.
 *
 * A crash loses at most one batch interval (500 ms) of either. Threads: any; flush on WORKER. */
#ifndef SBX_SANDBOX_LEDGER_H
#define SBX_SANDBOX_LEDGER_H

#include "sbx/store/records.h"

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

/** Ids of the busy sandboxes. @param ret  owned by the caller: free each, then the array. */
size_t sbx_ledger_busy(sbx_ledger *l, char ***ret);

/** Write what waits; what another thread is writing is waited for (at most 5 s). On failure it
 * stays for the next time, but for records that the store refused (STORE_UNAVAILABLE, TIMEOUT and
 * CANCELLED are no refusals): those are dropped, and logged. */
int sbx_ledger_flush(sbx_ledger *l, sbx_err *err) SBX_MUST_CHECK;

#endif
