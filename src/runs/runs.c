/* The service: sandboxes of runs that are over are deleted, whatever happens on the way.
 *
 * The removal of a container keeps the engine, and a processor, as busy as a run does, and the next
 * run mostly follows at once: so it waits until no create has come for a moment, but not for long.
 */
#include "runs_priv.h"

#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include "sbx/sandbox/pool.h"
#include "sbx/store/runs.h"

#define DELETE_MS   60000
#define PUT_OFF_MS  2000 /* well below the time after which others finish a deletion */
#define ORPHANS_MS  2000 /* between two looks for runs of dead workers */
#define MAX_ORPHANS 100

struct leaving {
    sbx_runs *r;
    char owner[SBX_ID_LEN + 1], sandbox[SBX_ID_LEN + 1];
    int64_t until_ms; /* it waits no longer for a quiet moment */
    bool failed;      /* then it waits until then in any case */
    leaving *next;
};

sbx_runs *sbx_runs_new(const sbx_runs_config *c)
{
    sbx_runs *r = sbx_alloc(sizeof(*r));

    r->c = *c;
    r->parts = (sbx_use_parts){c->stream, c->lanes, c->store, c->channels, c->sandboxes};
    pthread_mutex_init(&r->mu, NULL);
    return r;
}

void sbx_runs_free(sbx_runs *r)
{
    if (!r)
        return;
    while (r->left) {
        leaving *l = r->left;

        r->left = l->next;
        free(l);
    }
    pthread_mutex_destroy(&r->mu);
    free(r);
}

static void keep(leaving *l)
{
    sbx_runs *r = l->r;

    pthread_mutex_lock(&r->mu);
    l->next = r->left;
    r->left = l;
    pthread_mutex_unlock(&r->mu);
}

/* One that is `deleting` already is finished by whoever is at it. On a WORKER. */
static void delete_one(void *arg)
{
    leaving *l = arg;
    sbx_err err;

    sbx_job_scope(sbx_now_ms() + DELETE_MS, NULL);
    int rc = sbx_sandbox_delete(l->r->c.sandboxes, l->owner, l->sandbox, &err);
    sbx_job_scope(0, NULL);
    if (rc && err.code != SBX_E_NOT_FOUND && err.code != SBX_E_CONFLICT) {
        sbx_log_err(SBX_WARN, "the sandbox of a run will be deleted later", &err, "sandbox",
                    l->sandbox, NULL);
        l->failed = true;
        l->until_ms = sbx_now_ms() + PUT_OFF_MS;
        keep(l);
        return;
    }
    free(l);
}

/* On a WORKER. A failure is met again by the second half. */
static void begin_delete(void *arg)
{
    leaving *l = arg;
    sbx_err err;

    sbx_job_scope(sbx_now_ms() + DELETE_MS, NULL);
    (void)!sbx_sandbox_delete_begin(l->r->c.sandboxes, l->owner, l->sandbox, &err);
    sbx_job_scope(0, NULL);
    keep(l);
}

void runs_delete_later(sbx_runs *r, const char *owner, const char *sandbox)
{
    leaving *l = sbx_alloc(sizeof(*l));
    sbx_job job = {.run = begin_delete, .arg = l};
    sbx_err err;

    l->r = r;
    l->until_ms = sbx_now_ms() + PUT_OFF_MS;
    sbx_copy(l->owner, sizeof(l->owner), owner);
    sbx_copy(l->sandbox, sizeof(l->sandbox), sandbox);
    if (sbx_lanes_submit(r->c.lanes, SBX_LANE_REAP, &job, &err))
        keep(l);
}

static void delete_those_due(sbx_runs *r)
{
    bool quiet = sbx_sandboxes_quiet(r->c.sandboxes);
    sbx_err err;

    pthread_mutex_lock(&r->mu);
    leaving *l = sbx_steal(r->left);
    pthread_mutex_unlock(&r->mu);
    while (l) {
        leaving *next = l->next;
        sbx_job job = {.run = delete_one, .arg = l};

        if (((!quiet || l->failed) && sbx_now_ms() < l->until_ms) ||
            sbx_lanes_submit(r->c.lanes, SBX_LANE_REAP, &job, &err))
            keep(l);
        l = next;
    }
}

void sbx_runs_tick(void *arg)
{
    sbx_runs *r = arg;
    int64_t ended;
    sbx_err err;

    delete_those_due(r);
    if (r->orphans_ms && sbx_now_ms() - r->orphans_ms < ORPHANS_MS)
        return;
    r->orphans_ms = sbx_now_ms();
    if (sbx_store_run_orphans(r->c.store, r->c.worker, MAX_ORPHANS, &ended, &err))
        sbx_log_err(SBX_WARN, "cleanup could not look", &err, "what", "runs", NULL);
}
