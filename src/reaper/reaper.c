/* The ticks of the cleanup. Claims are made by one statement each; what was claimed is worked off
 * by separate jobs, so that one slow container does not hold up the others. */
#include "reaper_priv.h"

#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include <stdio.h>

#define REAP_MS      1000
#define OVERDUE_MS   2000
#define ADOPT_MS     2000
#define HEARTBEAT_MS 1000
#define PING_MS      1000
#define FLUSH_MS     500
#define ON_DEMAND_MS (24 * 3600 * 1000) /* of what is kicked */
#define PURGE_MS     (10 * 60 * 1000)
#define CLAIM_MAX    32

typedef struct row_job {
    sbx_reaper *r;
    sbx_sandbox_row row;
    int (*fn)(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err);
    const char *what;
} row_job;

static void run_row(void *arg)
{
    row_job *j = arg;
    sbx_err err;

    if (j->fn(j->r->c.sandboxes, &j->row, &err)) {
        sbx_sandbox_leave(j->r->c.sandboxes, j->row.id, &err);
        if (err.code != SBX_E_CONFLICT)
            sbx_log_err(SBX_WARN, "cleanup will be tried again", &err, "what", j->what, "sandbox",
                        j->row.id, NULL);
    } else if (j->fn != sbx_sandbox_adopt) {
        sbx_metrics_add(j->r->c.metrics, SBX_M_REAPED, j->what, 1);
    }
    sbx_sandbox_row_done(&j->row);
    free(j);
}

/* Takes the rows of the list. What finds no room in the lane is worked off at once. */
static void submit_rows(sbx_reaper *r, sbx_sandbox_list *l, const char *what,
                        int (*fn)(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err))
{
    for (size_t i = 0; i < l->count; i++) {
        row_job *j = sbx_alloc(sizeof(*j));
        sbx_job job = {.run = run_row, .arg = j};
        sbx_err err;

        *j = (row_job){.r = r, .row = l->items[i], .fn = fn, .what = what};
        l->items[i] = (sbx_sandbox_row){0};
        if (sbx_lanes_submit(r->c.lanes, SBX_LANE_REAP, &job, &err))
            run_row(j);
    }
    sbx_sandbox_list_done(l);
}

static void complain(const char *what, const sbx_err *err)
{
    sbx_log_err(SBX_WARN, "cleanup could not look", err, "what", what, NULL);
}

static void reap_due(void *arg)
{
    sbx_reaper *r = arg;
    sbx_sandbox_list list = {0};
    sbx_err err;

    if (sbx_sandboxes_reap(r->c.sandboxes, CLAIM_MAX, &list, &err))
        complain("expired", &err);
    else
        submit_rows(r, &list, "expired", sbx_sandbox_carry_on);
}

static void settle_overdue(void *arg)
{
    sbx_reaper *r = arg;
    sbx_sandbox_list list = {0};
    sbx_err err;

    if (sbx_sandboxes_release(r->c.sandboxes, &err))
        complain("left", &err);
    if (sbx_store_sandbox_overdue(r->c.store, r->c.worker, CLAIM_MAX, &list, &err))
        complain("interrupted", &err);
    else
        submit_rows(r, &list, "interrupted", sbx_sandbox_settle);
}

static void adopt(void *arg)
{
    sbx_reaper *r = arg;
    sbx_sandbox_list list = {0};
    sbx_err err;
    size_t kept = 0;

    if (sbx_store_sandbox_adoptable(r->c.store, r->c.worker, &list, &err)) {
        complain("adopt", &err);
        return;
    }
    for (size_t i = 0; i < list.count; i++) {
        if (sbx_channels_holds(r->c.channels, list.items[i].id)) {
            sbx_sandbox_row_done(&list.items[i]);
            continue;
        }
        sbx_sandbox_row row = list.items[i];
        list.items[i] = (sbx_sandbox_row){0};
        list.items[kept++] = row;
    }
    list.count = kept;
    submit_rows(r, &list, "adopted", sbx_sandbox_adopt);
}

static void heartbeat(void *arg)
{
    sbx_reaper *r = arg;
    sbx_worker_news news = {0};
    sbx_err err;

    if (sbx_store_heartbeat(r->c.store, r->c.worker, &news, &err)) {
        complain("heartbeat", &err);
        if (err.code == SBX_E_CONFLICT)
            r->c.replaced(r->c.arg);
        return;
    }
    if (news.late)
        sbx_log(SBX_WARN, "this worker's heartbeat was late; others may have taken its place",
                NULL);
    bool left = news.others < r->others;
    r->others = news.others;
    atomic_store(&r->leads, news.leads);
    if (news.dead)
        sbx_log(SBX_WARN, "a worker is dead: taking over what it had", "workers", news.dead, NULL);
    else if (left)
        sbx_log(SBX_INFO, "a worker has left: taking over what it had", NULL);
    else
        return;
    free(news.dead);
    static const char *const ticks[] = {"overdue", "adopt", "packages", "purge"};

    for (size_t i = 0; i < ARRAY_LEN(ticks); i++)
        sbx_keeper_kick(r->keeper, ticks[i]);
}

/* So that the breaker opens and closes also while nobody calls the engine, or all who do hang. What
 * happened to containers while it was away is found at once, also where its events were not cut. */
static void ping(void *arg)
{
    sbx_reaper *r = arg;
    int64_t now = sbx_now_ms(), due = atomic_load(&r->sweep_due_ms);
    sbx_err ignored;

    sbx_job_scope(now + SBX_BREAKER_SLOW_MS + 100, NULL);
    bool missed = r->c.engine->ops->ping(r->c.engine, NULL, &ignored) != 0;
    if (!missed && r->engine_missed)
        sbx_keeper_kick(r->keeper, "adopt");
    if (!missed && (r->engine_missed || (due && due <= now))) {
        atomic_store(&r->sweep_due_ms, 0);
        sbx_keeper_kick(r->keeper, "sweep");
    }
    r->engine_missed = missed;
}

/* A use that another worker let in, or one that looked just before, is waiting in a sandbox that
 * was paused as idle. */
typedef struct waking {
    sbx_reaper *r;
    char id[SBX_ID_LEN + 1], owner[SBX_ID_LEN + 1];
} waking;

static void run_waking(void *arg)
{
    waking *w = arg;
    sbx_move resume = {.verb = SBX_V_RESUME};
    sbx_sandbox_row row = {0};
    sbx_err err;

    /* a failure is told by the move; what is still active is found by the next flush */
    (void)!sbx_sandbox_move(w->r->c.sandboxes, w->owner, w->id, &resume, &row, &err);
    sbx_sandbox_row_done(&row);
    free(w);
}

static void wake(sbx_reaper *r, const char *id, const char *owner)
{
    waking *w = sbx_alloc(sizeof(*w));
    sbx_job job = {.run = run_waking, .arg = w};
    sbx_err err;

    w->r = r;
    sbx_copy(w->id, sizeof(w->id), id);
    sbx_copy(w->owner, sizeof(w->owner), owner);
    if (sbx_lanes_submit(r->c.lanes, SBX_LANE_REAP, &job, &err))
        free(w);
}

static void flush(void *arg)
{
    sbx_reaper *r = arg;
    sbx_sandbox_refs frozen = {0};
    sbx_err err;

    if (sbx_ledger_flush(r->c.ledger, &frozen, &err))
        complain("records", &err);
    for (size_t i = 0; i < frozen.count; i++)
        wake(r, frozen.items[i].id, frozen.items[i].owner);
    sbx_sandbox_refs_done(&frozen);
}

static void health(void *arg)
{
    sbx_reaper *r = arg;
    sbx_err err;

    if (sbx_sandboxes_flush_health(r->c.sandboxes, &err))
        complain("health", &err);
}

/* Tickets and Idempotency-Keys that are of no use any more. */
static void purge_requests(sbx_reaper *r)
{
    sbx_err err;

    if (sbx_store_ticket_purge(r->c.store, &err) || sbx_store_idempotency_purge(r->c.store, &err))
        complain("tickets and keys of requests", &err);
}

static void purge(void *arg)
{
    sbx_reaper *r = arg;
    sbx_err err;
    int sandboxes = 0, events = 0;

    if (sbx_store_sandbox_purge(r->c.store, &sandboxes, &err) ||
        sbx_store_event_purge(r->c.store, &events, &err))
        complain("purge", &err);
    purge_requests(r);
    reaper_usage_tidy(r);
    if (sandboxes || events)
        sbx_log(SBX_INFO, "old records removed", "sandboxes", SBX_NUM(sandboxes), "events",
                SBX_NUM(events), NULL);
}

/* --- one sandbox whose channel broke or whose container ended --- */

typedef struct look {
    sbx_reaper *r;
    char id[SBX_ID_LEN + 1];
} look;

static void run_look(void *arg)
{
    look *l = arg;
    sbx_err err;

    if (sbx_sandbox_check(l->r->c.sandboxes, l->id, &err)) {
        sbx_sandbox_leave(l->r->c.sandboxes, l->id, &err);
        if (err.code != SBX_E_CONFLICT)
            sbx_log_err(SBX_WARN, "a sandbox lost its channel and will be looked at again", &err,
                        "sandbox", l->id, NULL);
    }
    free(l);
}

static void run_main(void *arg)
{
    look *l = arg;
    sbx_err err;

    if (sbx_sandbox_main(l->r->c.sandboxes, l->id, &err))
        sbx_log_err(SBX_WARN, "a main process could not be started", &err, "sandbox", l->id, NULL);
    free(l);
}

static void submit_look(sbx_reaper *r, const char *sandbox, void (*run)(void *arg))
{
    look *l = sbx_alloc(sizeof(*l));
    sbx_job job = {.run = run, .arg = l};
    sbx_err err;

    l->r = r;
    sbx_copy(l->id, sizeof(l->id), sandbox);
    if (sbx_lanes_submit(r->c.lanes, SBX_LANE_REAP, &job, &err))
        free(l); /* the next adopt tick finds it */
}

void sbx_reaper_start_main(sbx_reaper *r, const char *sandbox)
{
    submit_look(r, sandbox, run_main);
}

void sbx_reaper_look_at(sbx_reaper *r, const char *sandbox)
{
    submit_look(r, sandbox, run_look);
}

/* --- life --- */

/* One worker sweeps for all when it is time to; whoever has a reason to does so at any time. */
static void sweep_turn(void *arg)
{
    sbx_reaper *r = arg;

    if (atomic_load(&r->leads))
        sbx_keeper_kick(r->keeper, "sweep");
}

sbx_reaper *sbx_reaper_new(const sbx_reaper_config *c, sbx_keeper *keeper)
{
    sbx_reaper *r = sbx_alloc(sizeof(*r));

    r->c = *c;
    sbx_keeper_every(keeper, "heartbeat", HEARTBEAT_MS, SBX_LANE_PULSE, heartbeat, r);
    sbx_keeper_every(keeper, "ping", PING_MS, SBX_LANE_REAP, ping, r);
    sbx_keeper_every(keeper, "flush", FLUSH_MS, SBX_LANE_FAST, flush, r);
    sbx_keeper_every(keeper, "health", FLUSH_MS, SBX_LANE_REAP, health, r);
    sbx_keeper_every(keeper, "reap", REAP_MS, SBX_LANE_REAP, reap_due, r);
    sbx_keeper_every(keeper, "overdue", OVERDUE_MS, SBX_LANE_REAP, settle_overdue, r);
    sbx_keeper_every(keeper, "adopt", ADOPT_MS, SBX_LANE_REAP, adopt, r);
    sbx_keeper_every(keeper, "sweep turn", c->sweep_s * 1000, SBX_LANE_REAP, sweep_turn, r);
    sbx_keeper_every(keeper, "sweep", ON_DEMAND_MS, SBX_LANE_REAP, reaper_sweep, r);
    sbx_keeper_every(keeper, "meter", SBX_METER_S * 1000, SBX_LANE_REAP, reaper_meter, r);
    sbx_keeper_every(keeper, "purge", PURGE_MS, SBX_LANE_REAP, purge, r);
    r->keeper = keeper;
    return r;
}

int sbx_reaper_start(sbx_reaper *r, sbx_err *err)
{
    sbx_keeper_kick(r->keeper, "overdue");
    sbx_keeper_kick(r->keeper, "adopt");
    sbx_keeper_kick(r->keeper, "sweep");
    return reaper_listen(r, err);
}

void sbx_reaper_stop(sbx_reaper *r)
{
    reaper_listen_stop(r);
}

void sbx_reaper_free(sbx_reaper *r)
{
    if (r)
        free(r->orphans);
    free(r);
}
