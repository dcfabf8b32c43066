/* The audit log: who did what, kept in the table `audit`.
 *
 * Acts are collected in memory and written in batches, each within SBX_AUDIT_MS of the act; a kill
 * of the process loses what is younger. What a database that does not answer leaves waiting is
 * bounded; beyond that acts are lost, which is counted, logged, and told in the log itself by an
 * act "audit_lost". Refusals before anybody is known (401, 429) of one client and action become one
 * entry with a count, so that a flood of them is no flood of rows. */
#ifndef SBX_AUDIT_AUDIT_H
#define SBX_AUDIT_AUDIT_H

#include "sbx/metrics/metrics.h"
#include "sbx/store/audit.h"

#define SBX_AUDIT_MS          200   /* until an act is written */
#define SBX_MAX_AUDIT_WAITING 20000 /* acts in memory while the database is away */

typedef struct sbx_audit sbx_audit;

/** @param store, metrics  borrowed; outlive the result. @param days  for which acts are kept. */
sbx_audit *sbx_audit_new(sbx_store *store, sbx_metrics *metrics, int64_t days);
void sbx_audit_free(sbx_audit *a);

/** Have an act written soon. Any thread, never blocks. Id, time and count are given here.
 * @param e  copied. */
void sbx_audit_add(sbx_audit *a, const sbx_audit_entry *e);

/** Write an act now, before whoever asked for it gets an answer. Blocks (WORKER); if it cannot be
 * written it waits with the others. */
void sbx_audit_write(sbx_audit *a, const sbx_audit_entry *e);

/** The tick, every SBX_AUDIT_MS, one run at a time: writes what waits, and now and then removes
 * what is too old. Blocks (WORKER). @param audit  a sbx_audit. */
void sbx_audit_tick(void *audit);

#endif
