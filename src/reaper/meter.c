/* Metering, and the limits that are reached while sandboxes run. Each worker does both: what one
 * has metered the others leave alone, and each stops the sandboxes that it holds. */
#include "reaper_priv.h"

#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include "sbx/store/usage.h"
#include <stdio.h>

#define STOP_AT_ONCE 64 /* the others in the next turn */
#define STOP_TRIES   3

typedef struct stopping {
    sbx_reaper *r;
    char id[SBX_ID_LEN + 1];
    bool compute; /* else: spending */
} stopping;

/* Stopped, not paused: a paused sandbox costs as well, and one that is stopped keeps its files. */
static void run_stop(void *arg)
{
    static const char *const why[2][2] = {
        {"spending_limit", "the spending of this month has reached its limit"},
        {"compute_quota", "the compute time of this month is used up"}};
    stopping *w = arg;
    sbx_move stop = {.verb = SBX_V_STOP,
                     .grace_s = SBX_DEFAULT_GRACE_S,
                     .why_code = why[w->compute][0],
                     .why_message = why[w->compute][1]};
    sbx_sandbox_row now = {0};
    sbx_err err = {0};
    int rc = 1;

    sbx_channels_note(w->r->c.channels, w->id, why[w->compute][1]);
    /* begun is enough; 1 may also mean that somebody else has just changed the row */
    for (int i = 0; i < STOP_TRIES && rc == 1 && !stop.begun; i++)
        rc = sbx_sandbox_move(w->r->c.sandboxes, NULL, w->id, &stop, &now, &err);
    sbx_sandbox_row_done(&now);
    if (stop.begun)
        sbx_metrics_add(w->r->c.metrics, SBX_M_QUOTA_STOPS,
                        w->compute ? "computeSeconds" : "spendingMicros", 1);
    else if (rc < 0 && err.code != SBX_E_CONFLICT && err.code != SBX_E_GONE)
        sbx_log_err(SBX_WARN, "a sandbox over a limit of its user could not be stopped", &err,
                    "sandbox", w->id, NULL);
    free(w);
}

static void stop(sbx_reaper *r, const sbx_sandbox_row *row)
{
    stopping *w = sbx_alloc(sizeof(*w));
    sbx_job job = {.run = run_stop, .arg = w};
    sbx_err err;

    w->r = r;
    w->compute = sbx_streq(row->reason, "compute");
    sbx_copy(w->id, sizeof(w->id), row->id);
    if (sbx_lanes_submit(r->c.lanes, SBX_LANE_REAP, &job, &err))
        free(w); /* the next turn finds it */
}

static void stop_all_over(sbx_reaper *r)
{
    sbx_sandbox_list over = {0};
    sbx_err err;

    if (sbx_store_quota_over(r->c.store, r->c.worker, STOP_AT_ONCE, &over, &err))
        sbx_log_err(SBX_WARN, "limits of users could not be looked at", &err, NULL);
    for (size_t i = 0; i < over.count; i++)
        stop(r, &over.items[i]);
    sbx_sandbox_list_done(&over);
}

void reaper_meter(void *arg)
{
    sbx_reaper *r = arg;
    int64_t metered;
    sbx_err err;

    /* a little less than a turn, so that a turn that came early does not leave it to the next one
     */
    if (sbx_store_usage_meter(r->c.store, SBX_METER_S - 1, &metered, &err) ||
        sbx_store_spending_alerts(r->c.store, &err) < 0)
        sbx_log_err(SBX_WARN, "usage will be metered later", &err, NULL);
    stop_all_over(r);
}

void reaper_usage_tidy(sbx_reaper *r)
{
    sbx_err err;

    if (sbx_store_usage_tidy(r->c.store, &err))
        sbx_log_err(SBX_WARN, "records of usage will be tidied later", &err, NULL);
}
