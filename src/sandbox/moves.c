/* Pausing, resuming, stopping and starting.
 *
 * The intent is in the row before the engine is called. Whoever finds a move that nobody is at any
 * more looks at the container, which alone knows how far it came, and finishes or undoes it. A stop
 * is not waited for: the agent ends, which ends the channel, and who hears of that goes on. */
#include "sandboxes_priv.h"

#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include <stdio.h>

#define PAUSE_DEADLINE_S 60
#define STOP_DEADLINE_S  10 /* beyond the grace */
#define START_DEADLINE_S 180
#define DRAIN_MS         1000

int sandbox_engine(sbx_sandboxes *s,
                   int (*verb)(sbx_engine *e, const char *id_or_name, sbx_err *err), const char *id,
                   sbx_err *err)
{
    char name[SBX_ID_LEN + 8];

    sbx_sandbox_container(id, name);
    return verb(s->c.engine, name, err);
}

int sandbox_engine_stop(sbx_sandboxes *s, const char *id, int grace_s, sbx_err *err)
{
    char name[SBX_ID_LEN + 8];

    sbx_sandbox_container(id, name);
    if (s->c.engine->ops->stop(s->c.engine, name, grace_s, err) && err->code != SBX_E_NOT_FOUND)
        return -1;
    return 0;
}

/* --- pause --- */

static int paused(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *why = NULL;
    move m = {.to = SBX_S_PAUSED};

    sandbox_reason(row, &m.why, &why);
    if (m.why.code && strcmp(m.why.code, "expired") == 0)
        m.expiry = SBX_EXPIRY_NONE;
    sbx_channels_freeze(s->c.channels, row->id, true);
    return sandbox_set_state(s, row, &m, err);
}

static int running_again(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_expiry expiry, sbx_err *err)
{
    move m = {.to = SBX_S_RUNNING,
              .worker = s->c.worker,
              .expiry = expiry,
              .goal = "",
              .why.exit_code = -1};

    sbx_channels_freeze(s->c.channels, row->id, false);
    return sandbox_set_state(s, row, &m, err);
}

static int settle_pausing(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    sbx_container_info info;
    fate how;

    if (sandbox_look(s, row->id, &info, &how, err))
        return -1;
    switch (how) {
    case FATE_PAUSED:
        return paused(s, row, err);
    case FATE_RUNNING:
        return running_again(s, row, SBX_EXPIRY_KEEP, err);
    default:
        return sandbox_fail_dead(s, row, how == FATE_GONE ? NULL : &info, err);
    }
}

static int pause_container(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    sbx_err later;

    sbx_channels_note_wait(s->c.channels, row->id, "paused", DRAIN_MS);
    if (sandbox_engine(s, s->c.engine->ops->pause, row->id, err) == 0)
        return paused(s, row, err);
    if (settle_pausing(s, row, &later) == 0 && strcmp(row->state, "paused") == 0)
        return 0;
    return sbx_wrap(err, "the sandbox could not be paused");
}

/* Of a sandbox that was idle, or has expired: nobody waits for it. */
static int pause_by_itself(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *json = NULL;
    reason why;

    sandbox_reason(row, &why, &json);
    bool idle = why.code && strcmp(why.code, "idle") == 0;

    /* Use that began before is seen here; what comes later waits until the row says `paused`. */
    bool used = idle && !sbx_ledger_freeze(s->c.ledger, row->id);
    int rc = used ? running_again(s, row, SBX_EXPIRY_KEEP, err) : pause_container(s, row, err);

    if (idle && !used)
        sbx_ledger_thaw(s->c.ledger, row->id);
    if (!rc)
        sandbox_note_move(s, row->id, TROUBLE_PAUSE, used);
    else if (err->code != SBX_E_CONFLICT)
        sandbox_note_trouble(s, row->id, TROUBLE_PAUSE, err);
    return rc;
}

/* --- resume --- */

/* An agent that does not answer is no reason to go back: the adopt tick goes on. */
static void ensure_channel(sbx_sandboxes *s, sbx_sandbox_row *row)
{
    sbx_greeting *g;
    sbx_err err;

    if (sbx_channels_owns(s->c.channels, row->id))
        return;
    if (sandbox_connect_again(s, row, true, &g, &err) ||
        sbx_greeting_wait(g, SBX_MIN(sbx_job_left_ms(SBX_GREETING_MS), SBX_GREETING_MS), &err))
        sbx_log_err(SBX_WARN, "no channel to a sandbox yet", &err, "sandbox", row->id, NULL);
}

static int resumed(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    ensure_channel(s, row);
    if (running_again(s, row, SBX_EXPIRY_GO_ON, err))
        return -1;
    sbx_channels_note(s->c.channels, row->id, "resumed");
    return 0;
}

static int settle_resuming(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    sbx_container_info info;
    move back = {.to = SBX_S_PAUSED, .why.exit_code = -1};
    fate how;

    if (sandbox_look(s, row->id, &info, &how, err))
        return -1;
    switch (how) {
    case FATE_PAUSED:
        return sandbox_set_state(s, row, &back, err);
    case FATE_RUNNING:
        return resumed(s, row, err);
    default:
        return sandbox_fail_dead(s, row, how == FATE_GONE ? NULL : &info, err);
    }
}

static int do_resume(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    sandbox_network net;
    sbx_err later;

    /* What is unfrozen runs at once, so both steps come before. */
    if (sandbox_network_begin(s, row, &net, err) == 0 &&
        sandbox_network_confirm(s, row, &net, err) == 0 &&
        sandbox_engine(s, s->c.engine->ops->unpause, row->id, err) == 0)
        return resumed(s, row, err);
    if (settle_resuming(s, row, &later) == 0 && strcmp(row->state, "running") == 0)
        return 0;
    return sbx_wrap(err, "the sandbox could not be resumed");
}

static int resume(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    int rc = do_resume(s, row, err);

    if (!rc)
        sandbox_note_move(s, row->id, TROUBLE_RESUME, false);
    else if (err->code != SBX_E_CONFLICT)
        sandbox_note_trouble(s, row->id, TROUBLE_RESUME, err);
    return rc;
}

static int settle_starting(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    move back = {.to = SBX_S_STOPPED,
                 .worker = "",
                 .expiry = SBX_EXPIRY_NONE,
                 .why = {"interrupted", "the server was interrupted while it started the sandbox",
                         -1, false}};
    sbx_container_info info;
    sandbox_network net;
    sbx_greeting *g;
    sbx_err later;
    fate how;

    if (sandbox_look(s, row->id, &info, &how, err))
        return -1;
    sbx_copy(row->container_id, sizeof(row->container_id), how == FATE_GONE ? "" : info.id);
    /* with readiness it is undone, as a create is: what it had passed is not known any more */
    if (how == FATE_RUNNING && !row->readiness &&
        sandbox_network_begin(s, row, &net, &later) == 0 &&
        sandbox_network_confirm(s, row, &net, &later) == 0 &&
        sandbox_connect_again(s, row, false, &g, &later) == 0 &&
        sbx_greeting_wait(g, SBX_GREETING_MS, &later) == 0)
        return sandbox_started(s, row, err);
    /* The state first: if who began is slow but alive, he may just have made it running. */
    if (sandbox_set_state(s, row, &back, err))
        return -1;
    sbx_channels_close(s->c.channels, row->id, SBX_E_ENGINE);
    return how == FATE_GONE ? 0 : sandbox_engine_stop(s, row->id, 0, err);
}

/* --- stop --- */

static int start_deadline_s(const sbx_sandboxes *s, const sbx_sandbox_row *row)
{
    return START_DEADLINE_S + (int)s->c.pull_timeout_s +
           (row->readiness ? SBX_MAX_READINESS_MS / 1000 : 0);
}

/* The container has ended, or is gone. */
static int stopped(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *why = NULL;
    move m = {.to = SBX_S_STOPPED, .worker = "", .expiry = SBX_EXPIRY_NONE};

    sandbox_reason(row, &m.why, &why);
    if (*row->goal) {
        m.to = SBX_S_STARTING;
        m.worker = s->c.worker;
        m.deadline_s = start_deadline_s(s, row);
    }
    if (sandbox_set_state(s, row, &m, err))
        return -1;
    sbx_channels_close(s->c.channels, row->id, SBX_E_ENGINE);
    return m.to == SBX_S_STARTING ? sandbox_start(s, row, err) : 0;
}

static int settle_stopping(sbx_sandboxes *s, sbx_sandbox_row *row, bool force, sbx_err *err)
{
    sbx_container_info info;
    sbx_err ignored;
    fate how;

    if (sandbox_look(s, row->id, &info, &how, err))
        return -1;
    if (how == FATE_GONE || how == FATE_ENDED)
        return stopped(s, row, err);
    if (!force)
        return 0;
    if (how == FATE_PAUSED)
        (void)!sandbox_engine(s, s->c.engine->ops->unpause, row->id, &ignored);
    return sandbox_engine_stop(s, row->id, 0, err) ? -1 : stopped(s, row, err);
}

/* @return 1: the agent was told, and its end will be heard of; or as sandbox_start(). */
static int do_stop(sbx_sandboxes *s, sbx_sandbox_row *row, bool frozen, int grace_s, sbx_err *err)
{
    sbx_err ignored;

    if (frozen) {
        if (sandbox_engine(s, s->c.engine->ops->unpause, row->id, &ignored) == 0)
            ensure_channel(s, row);
    }
    if (!sbx_channels_owns(s->c.channels, row->id))
        return settle_stopping(s, row, true, err);
    sbx_channels_stop(s->c.channels, row->id, (int64_t)grace_s * 1000);
    return 1;
}

int sandbox_settle_move(sbx_sandboxes *s, sbx_sandbox_row *row, bool force, sbx_err *err)
{
    int rc;

    switch (sbx_state_parse(row->state)) {
    case SBX_S_PAUSING:
        return settle_pausing(s, row, err);
    case SBX_S_RESUMING:
        return settle_resuming(s, row, err);
    case SBX_S_STOPPING: /* it may be on to a start that waits for an image */
        rc = settle_stopping(s, row, force, err);
        return rc < 0 ? -1 : 0;
    case SBX_S_STARTING:
        return settle_starting(s, row, err);
    default:
        return 0;
    }
}

int sbx_sandbox_carry_on(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    switch (sbx_state_parse(row->state)) {
    case SBX_S_DELETING:
        return sbx_sandbox_finish_delete(s, row, err);
    case SBX_S_PAUSING:
        return pause_by_itself(s, row, err);
    case SBX_S_STOPPING: /* it may have been paused */
        return do_stop(s, row, true, SBX_DEFAULT_GRACE_S, err) < 0 ? -1 : 0;
    default:
        return 0;
    }
}

/* --- what the owner wants --- */

#define FROM(x) (1u << SBX_S_##x)

static const struct {
    unsigned from;
    sbx_state goal;
    unsigned on_the_way; /* somebody is bringing it there already */
    bool at_once;        /* nothing to do if it is there */
} verbs[] = {
    [SBX_V_START] = {FROM(STOPPED) | FROM(FAILED), SBX_S_RUNNING,
                     FROM(CREATING) | FROM(STARTING) | FROM(RESUMING), true},
    [SBX_V_STOP] = {FROM(RUNNING) | FROM(PAUSED), SBX_S_STOPPED, 0, true},
    [SBX_V_RESTART] = {FROM(RUNNING) | FROM(PAUSED) | FROM(STOPPED) | FROM(FAILED), SBX_S_RUNNING,
                       FROM(STARTING), false},
    [SBX_V_PAUSE] = {FROM(RUNNING), SBX_S_PAUSED, FROM(PAUSING), true},
    [SBX_V_RESUME] = {FROM(PAUSED), SBX_S_RUNNING, FROM(RESUMING), true},
    [SBX_V_RESET] = {FROM(RUNNING), SBX_S_RUNNING, FROM(STARTING), false},
    [SBX_V_KEEPALIVE] = {FROM(RUNNING) | FROM(PAUSED), SBX_S_COUNT,
                         FROM(CREATING) | FROM(STARTING) | FROM(RESUMING) | FROM(PAUSING), false},
};

/* Is somebody else bringing it where we want it? A stop has the goal of its row. */
static bool on_the_way(const sbx_move *m, const sbx_sandbox_row *row, sbx_state now)
{
    if (now != SBX_S_STOPPING)
        return verbs[m->verb].on_the_way & 1u << now;
    if (m->verb == SBX_V_STOP)
        return !*row->goal;
    return *row->goal && verbs[m->verb].goal == SBX_S_RUNNING && m->verb != SBX_V_RESUME;
}

/* May the move that is under way count as ours? Not if ours would change more. */
static bool is_ours(const sbx_move *m, const sbx_sandbox_row *row)
{
    return !m->template_name && !m->env.count && (!m->fresh || strcmp(row->goal, "fresh") == 0);
}

static int refuse(const sbx_move *m, const sbx_sandbox_row *row, sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *json = NULL;
    reason why;

    sandbox_reason(row, &why, &json);
    if (m->begun && why.message && sbx_streq(why.code, "image_missing"))
        return sbx_fail_field(err, "image", "%s", why.message);
    if (m->begun && why.message)
        return sbx_fail(err, SBX_E_ENGINE, "the sandbox is %s: %s", row->state, why.message);
    return sbx_fail(err, SBX_E_CONFLICT, "the sandbox is %s", row->state);
}

static int begin(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_move *v, move *m, sbx_err *err)
{
    m->worker = s->c.worker;
    m->why = (reason){v->why_code, v->why_message, -1, false};
    if (sandbox_set_state(s, row, m, err)) /* somebody was faster: look again */
        return err->code == SBX_E_CONFLICT ? 1 : -1;
    v->begun = true;
    sbx_job_scope(0, NULL); /* that the client leaves must not stop it half-way */
    return 0;
}

static int begin_start(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_move *v, sbx_err *err)
{
    bool fresh = v->fresh || strcmp(row->state, "failed") == 0;
    move m = {.to = SBX_S_STARTING,
              .deadline_s = start_deadline_s(s, row),
              .goal = fresh ? "fresh" : NULL,
              .template_name = v->template_name,
              .image = v->template_name ? sbx_sandboxes_template(s, v->template_name) : NULL};
    int rc = begin(s, row, v, &m, err);

    return rc ? rc : sandbox_start(s, row, err);
}

static int begin_stop(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_move *v, sbx_err *err)
{
    bool frozen = strcmp(row->state, "paused") == 0;
    move m = {.to = SBX_S_STOPPING,
              .deadline_s = v->grace_s + STOP_DEADLINE_S,
              .goal = v->verb == SBX_V_STOP ? ""
                      : v->fresh            ? "fresh"
                                            : "start",
              .template_name = v->template_name,
              .image = v->template_name ? sbx_sandboxes_template(s, v->template_name) : NULL};
    int rc = begin(s, row, v, &m, err);

    return rc ? rc : do_stop(s, row, frozen, v->grace_s, err);
}

static int begin_move(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_move *v, sbx_err *err)
{
    move pausing = {.to = SBX_S_PAUSING, .deadline_s = PAUSE_DEADLINE_S};
    move resuming = {.to = SBX_S_RESUMING, .deadline_s = PAUSE_DEADLINE_S};
    bool up = strcmp(row->state, "running") == 0 || strcmp(row->state, "paused") == 0;
    int rc;

    switch (v->verb) {
    case SBX_V_PAUSE:
        rc = begin(s, row, v, &pausing, err);
        return rc ? rc : pause_container(s, row, err);
    case SBX_V_RESUME:
        rc = begin(s, row, v, &resuming, err);
        return rc ? rc : resume(s, row, err);
    case SBX_V_KEEPALIVE:
        return 1;
    default:
        return up ? begin_stop(s, row, v, err) : begin_start(s, row, v, err);
    }
}

/* The channel is gone, so the container's end is near; its event may come late or not at all. */
static int see_the_end(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    if (strcmp(row->worker, s->c.worker) != 0 || sbx_channels_holds(s->c.channels, row->id))
        return 1;
    return settle_stopping(s, row, false, err) < 0 && err->code != SBX_E_CONFLICT ? -1 : 1;
}

static int step(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_move *v, sbx_err *err)
{
    sbx_state now = sbx_state_parse(row->state);

    if (now == SBX_S_DELETED)
        return sbx_fail(err, SBX_E_GONE, "the sandbox was deleted");
    if (now == verbs[v->verb].goal && (v->begun || verbs[v->verb].at_once))
        return 0;
    if (v->begun && sbx_state_transitional(now) && now != SBX_S_DELETING)
        return now == SBX_S_STOPPING ? see_the_end(s, row, err) : 1;
    if (on_the_way(v, row, now)) {
        v->begun = v->begun || is_ours(v, row);
        return 1;
    }
    if (v->begun || !(verbs[v->verb].from & 1u << now))
        return refuse(v, row, err);
    if (v->template_name && !sbx_sandboxes_template(s, v->template_name))
        return sbx_fail_field(err, "template", "template: there is no template \"%s\"",
                              v->template_name);
    if (v->env.count) {
        if (sandbox_patch_env(s, row, &v->env, err))
            return err->code == SBX_E_CONFLICT ? 1 : -1;
        sbx_pairs_done(&v->env);
    }
    int rc = begin_move(s, row, v, err);

    /* The holder of its channel, or whoever hears of the container's end, goes on with what was
     * begun here, and may be faster. */
    return rc < 0 && v->begun && err->code == SBX_E_CONFLICT ? 1 : rc;
}

int sbx_sandbox_move(sbx_sandboxes *s, const char *owner, const char *id, sbx_move *m,
                     sbx_sandbox_row *ret, sbx_err *err)
{
    sbx_sandbox_row row = {0};

    if (m->verb == SBX_V_KEEPALIVE) {
        if (sbx_store_sandbox_renew(s->c.store, owner, id, ret, err) == 0)
            return 0;
        if (err->code != SBX_E_CONFLICT)
            return -1;
    }
    if (sbx_store_sandbox_get(s->c.store, owner, id, &row, err))
        return -1;
    int rc = step(s, &row, m, err);
    if (rc < 0 && m->begun)
        sbx_sandbox_leave(s, id, err);
    if (rc == 0)
        *ret = row;
    else
        sbx_sandbox_row_done(&row);
    return rc;
}
