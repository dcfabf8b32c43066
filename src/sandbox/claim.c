/* A create that takes a started sandbox out of a pool: one statement, which writes all that a
 * create writes. What is left to do then is what the sandbox that waited lacks: its env, which the
 * channel gives to commands, the main process, other limits, being ready. */
#include "create_priv.h"

#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include "sbx/store/idempotency.h"

#define ATTEMPTS 8 /* with slots that others were faster to take */

/* What no pool has. */
static bool never_pooled(const sbx_spec *spec)
{
    return spec->image || spec->limits.disk_mb || spec->mount.volume[0];
}

static void fill_wish(const sbx_sandboxes *s, const sbx_spec *spec, pool_wish *ret)
{
    *ret = (pool_wish){.template_name =
                           spec->template_name ? spec->template_name : SANDBOX_DEFAULT_TEMPLATE,
                       .network = spec->network.mode ? spec->network.mode : s->c.network,
                       .cpu_milli = spec->limits.cpu_milli,
                       .memory_mb = spec->limits.memory_mb};
}

void sandbox_count_miss(sbx_sandboxes *s, const sbx_spec *spec)
{
    pool_wish wish;

    if (never_pooled(spec))
        return;
    fill_wish(s, spec, &wish);
    sandbox_pool_missed(s->pools, &wish);
}

/* An open sandbox is handed out only while its guard is confirmed; the slow way waits for it. */
static bool network_is_ready(const sbx_sandboxes *s, const pool_wish *wish)
{
    return strcmp(wish->network, "open") != 0 ||
           (s->c.network_ready && s->c.network_ready(s->c.arg));
}

static bool other_limits(const sbx_spec *spec, const pool_slot *slot)
{
    return spec->limits.cpu_milli != slot->cpu_milli || spec->limits.memory_mb != slot->memory_mb ||
           spec->limits.pids != SBX_DEFAULT_PIDS;
}

/* It is the owner's now, and must not be. */
static void give_up(sbx_sandboxes *s, const char *owner, const char *id)
{
    sbx_err err;

    if (sbx_sandbox_delete(s, owner, id, &err))
        sbx_log_err(SBX_WARN, "a create that was given up stays until its end", &err, "sandbox", id,
                    NULL);
}

/* @return 1 if it was taken, and `row` is the sandbox; 0 if not; -1. */
static int take(sbx_sandboxes *s, const char *owner, const sbx_claim *key, const sbx_spec *spec,
                const pool_slot *slot, sbx_sandbox_row *row, sbx_err *err)
{
    bool later = spec->held || spec->has_readiness || other_limits(spec, slot);
    int deadline_s = later ? sandbox_create_deadline_s(s, spec) : 0;

    if (sandbox_fill_row(s, owner, slot->id, spec, row, err))
        return -1;
    row->pool = sbx_strdup(slot->name);
    if (!later)
        sbx_copy(row->state, sizeof(row->state), sbx_state_wire(SBX_S_RUNNING));
    int rc = sbx_store_sandbox_claim(s->c.store, row, &spec->env, deadline_s, key, err);

    if (rc >= 0)
        return rc;
    if (err->code == SBX_E_CAPACITY) {
        give_up(s, owner, slot->id);
    } else if (err->code == SBX_E_QUOTA) {
        sandbox_count_refusal(s, err);
    } else if (!key) { /* a request with a key finds out by its repetition */
        sandbox_pool_doubt(s->pools, row);
    }
    return -1;
}

/* It died while it was claimed, and the create ends with that: what has more to do looks itself,
 * and a key stands for this sandbox by now. */
static bool has_died(const sbx_sandboxes *s, const sbx_claim *key, const sbx_sandbox_row *row)
{
    return !key && strcmp(row->state, sbx_state_wire(SBX_S_RUNNING)) == 0 &&
           !sbx_channels_owns(s->c.channels, row->id);
}

static void hand_out(sbx_create *c)
{
    sbx_sandboxes *s = c->s;
    sbx_sandbox_row *row = &c->row;

    sbx_log(SBX_INFO, "sandbox taken from a pool", "sandbox", row->id, "state", row->state, NULL);
    sbx_channels_env(s->c.channels, row->id, row->env_version, &c->spec.env);
    sandbox_publish(s, row);
    sandbox_follow_health(s, row);
    if (strcmp(row->state, sbx_state_wire(SBX_S_RUNNING)) == 0)
        sandbox_created(c);
}

int sbx_create_claim(sbx_sandboxes *s, const char *owner, const sbx_claim *key, sbx_spec *spec,
                     sbx_create **ret, sbx_err *err)
{
    SBX_CLEANUP(sbx_create_unref) sbx_create *c = NULL;
    pool_wish wish;
    pool_slot slot;
    int rc = 0;

    *ret = NULL;
    fill_wish(s, spec, &wish);
    if (never_pooled(spec) || !network_is_ready(s, &wish))
        return 0;
    for (int i = 0; !rc && i < ATTEMPTS && sandbox_pool_take(s->pools, &wish, &slot); i++) {
        sbx_create_unref(c);
        c = sbx_alloc(sizeof(*c));
        c->s = s;
        atomic_init(&c->refs, 1);
        c->from_us = sbx_now_us();
        rc = take(s, owner, key, spec, &slot, &c->row, err);
        if (rc > 0 && has_died(s, key, &c->row)) {
            give_up(s, owner, slot.id);
            rc = 0;
        }
        if (rc < 0 && err->code == SBX_E_QUOTA)
            sandbox_pool_put_back(s->pools, &slot);
        else
            sandbox_pool_taken(s->pools, &slot, rc > 0);
    }
    if (rc <= 0)
        return rc;
    c->claimed = true;
    c->limits = other_limits(spec, &slot);
    c->spec = *spec;
    *spec = (sbx_spec){0};
    hand_out(c);
    *ret = sbx_steal(c);
    return 0;
}

/* What waited has died: the same sandbox is made anew, as if no pool had had one. */
static int start_over(sbx_create *c, sbx_err *err)
{
    sbx_sandboxes *s = c->s;
    sbx_sandbox_row *row = &c->row;

    sbx_log(SBX_INFO, "a sandbox of a pool had died, and is made anew", "sandbox", row->id, NULL);
    sbx_channels_close(s->c.channels, row->id, SBX_E_ENGINE);
    if (sandbox_remove_container(s, row->id, err))
        return -1;
    row->container_id[0] = '\0';
    sbx_pairs_done(&c->spec.env); /* the channel had it */
    return sbx_store_sandbox_env(s->c.store, row->id, &c->spec.env, err) ? -1 : 1;
}

int sandbox_finish_claim(sbx_create *c, sbx_err *err)
{
    sbx_sandboxes *s = c->s;
    sbx_sandbox_row *row = &c->row;
    bool creating = strcmp(row->state, sbx_state_wire(SBX_S_CREATING)) == 0;
    int rc = !c->limits ? 0
                        : sandbox_engine_limits(s, row->id, row->cpu_milli, row->memory_mb,
                                                row->pids, true, err);

    if (creating && !sbx_job_cancelled() && (!rc || err->code == SBX_E_ENGINE) &&
        !sbx_channels_owns(s->c.channels, row->id))
        return start_over(c, err);
    if (rc)
        return -1;
    if (c->limits)
        sbx_channels_pids(s->c.channels, row->id, row->pids);
    sandbox_start_main(s, row);
    return 0;
}
