/* The cleanup: expired sandboxes, interrupted transitions, containers and rows without each other.
 *
 * Periodic work on the reap lane, submitted by KEEPER, and one listener on the engine's events.
 * Any number of workers may do the same on one database: rows are claimed, removal is idempotent.
 */
#ifndef SBX_REAPER_REAPER_H
#define SBX_REAPER_REAPER_H

#include "sbx/run/keeper.h"
#include "sbx/sandbox/ledger.h"
#include "sbx/sandbox/sandboxes.h"

typedef struct sbx_reaper sbx_reaper;

typedef struct sbx_reaper_config {
    sbx_store *store;
    sbx_engine *engine;
    sbx_sandboxes *sandboxes;
    sbx_channels *channels;
    sbx_ledger *ledger;
    sbx_metrics *metrics;
    sbx_lanes *lanes;
    const char *cluster, *worker;
    int64_t sweep_s, orphan_grace_s;
    /* Another worker has taken this one's place: the process must end. On a WORKER. */
    void (*replaced)(void *arg);
    void *arg;
} sbx_reaper_config;

/** Registers its ticks with the keeper (before it is started). */
sbx_reaper *sbx_reaper_new(const sbx_reaper_config *c, sbx_keeper *keeper);

/** Settle what an earlier process left, adopt the channels of running sandboxes, sweep, and begin
 * to listen to the engine's events. Does not block: the work is submitted. */
int sbx_reaper_start(sbx_reaper *r, sbx_err *err) SBX_MUST_CHECK;

/** The channel to a sandbox broke: look after it soon. Any thread. */
void sbx_reaper_look_at(sbx_reaper *r, const char *sandbox);
/** An adopted sandbox has not started its main process: do so. Any thread. */
void sbx_reaper_start_main(sbx_reaper *r, const char *sandbox);

/** What a sweep would remove, or refuses to remove since they are so many: containers without a row
 * that are older than the grace. For an operator who knows why they are there.
 * @param c  store, engine, cluster and orphan_grace_s are read
 * @param confirmed  remove them; otherwise nothing is changed
 * @param told  called with each that would be removed, or was */
typedef void (*sbx_reaper_told)(void *arg, const sbx_container_info *c);
int sbx_reaper_orphans(const sbx_reaper_config *c, bool confirmed, sbx_reaper_told told, void *arg,
                       sbx_err *err) SBX_MUST_CHECK;

void sbx_reaper_stop(sbx_reaper *r); /* ends the listener; before the lanes are freed */
void sbx_reaper_free(sbx_reaper *r);

#endif
