/* Deleting, settling what was interrupted, adopting after a restart, and noticing losses. */
#include "sandboxes_priv.h"

#include "sbx/core/log.h"
#include <stdio.h>

#define AGREE_DEADLINE_S 60

int sbx_sandbox_finish_delete(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    move deleted = {.to = SBX_S_DELETED, .worker = "", .why.exit_code = -1};

    sbx_channels_close(s->c.channels, row->id, SBX_E_GONE);
    if (sandbox_remove_container(s, row->id, err))
        return sbx_wrap(err, "removing the container");
    /* The reason of the deletion stays on the record. */
    SBX_CLEANUP(sbx_json_free) sbx_json *why = NULL;
    sandbox_reason(row, &deleted.why, &why);
    if (sandbox_set_state(s, row, &deleted, err) == 0)
        return 0;
    if (err->code != SBX_E_CONFLICT)
        return -1;
    /* somebody else finished it at the same time */
    sbx_sandbox_row now = {0};
    if (sbx_store_sandbox_get(s->c.store, NULL, row->id, &now, err))
        return err->code == SBX_E_NOT_FOUND ? 0 : -1;
    bool done = strcmp(now.state, "deleted") == 0;
    sbx_sandbox_row_done(&now);
    return done ? 0 : sbx_fail(err, SBX_E_CONFLICT, "the sandbox is being changed; try again");
}

/* A row that is neither `deleting` nor `deleted` becomes the former. */
static int begin_delete(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    move deleting = {.to = SBX_S_DELETING,
                     .worker = s->c.worker,
                     .deadline_s = DELETE_DEADLINE_S,
                     .why = {"deleted", "deleted by its owner", -1, false}};
    bool creating = strcmp(row->state, "creating") == 0 || strcmp(row->state, "starting") == 0;

    if (strcmp(row->state, "deleted") == 0 || strcmp(row->state, "deleting") == 0)
        return 0;
    if (sandbox_set_state(s, row, &deleting, err))
        return -1;
    if (creating)
        sbx_images_drop(s->images, row->id);
    return 0;
}

int sbx_sandbox_delete_begin(sbx_sandboxes *s, const char *owner, const char *id, sbx_err *err)
{
    sbx_sandbox_row row = {0};

    if (sbx_store_sandbox_get(s->c.store, owner, id, &row, err))
        return -1;
    int rc = begin_delete(s, &row, err);

    sbx_sandbox_row_done(&row);
    return rc;
}

int sbx_sandbox_delete(sbx_sandboxes *s, const char *owner, const char *id, sbx_err *err)
{
    for (int attempt = 0;; attempt++) {
        sbx_sandbox_row row = {0};
        int rc = sbx_store_sandbox_get(s->c.store, owner, id, &row, err);

        if (rc)
            return -1;
        rc = begin_delete(s, &row, err);
        if (!rc && strcmp(row.state, "deleted") != 0) {
            rc = sbx_sandbox_finish_delete(s, &row, err);
            if (rc)
                sbx_sandbox_leave(s, row.id, err);
        }
        sbx_sandbox_row_done(&row);
        if (!rc || err->code != SBX_E_CONFLICT || attempt == 3)
            return rc;
    }
}

/* The state first: whoever is still at the row, slow but alive, then finds that it is not his any
 * more, and never reports a sandbox as running whose container is removed here. A container that
 * stays is found by the sweep. */
static int fail_row(sbx_sandboxes *s, sbx_sandbox_row *row, const reason *why, sbx_err *err)
{
    move failed = {.to = SBX_S_FAILED, .worker = "", .why = *why};

    if (sandbox_set_state(s, row, &failed, err))
        return -1;
    sbx_channels_close(s->c.channels, row->id, SBX_E_ENGINE);
    return sandbox_remove_container(s, row->id, err);
}

int sbx_sandbox_settle(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    static const reason interrupted = {
        "interrupted", "the server was interrupted while it created the sandbox", -1, false};

    switch (sbx_state_parse(row->state)) {
    case SBX_S_DELETING:
        return sbx_sandbox_finish_delete(s, row, err);
    case SBX_S_CREATING:
        return fail_row(s, row, &interrupted, err);
    case SBX_S_RUNNING:
    case SBX_S_PAUSED:
    case SBX_S_STOPPED:
    case SBX_S_FAILED:
        return sandbox_settle_limits(s, row, err);
    default:
        return sandbox_settle_move(s, row, true, err);
    }
}

/* What the engine gives a container that ran when its host went down; the agent, which is the
 * container's first process, never ends with it. */
#define EXIT_HOST_LOST 255

int sandbox_fail_dead(sbx_sandboxes *s, sbx_sandbox_row *row, const sbx_container_info *info,
                      sbx_err *err)
{
    char text[160];
    reason why = {"container_ended", text, info ? info->exit_code : -1, info && info->oom_killed};

    if (!info) {
        why.code = "container_lost";
        snprintf(text, sizeof(text), "the container is gone from the engine");
    } else if (info->exit_code == EXIT_HOST_LOST) {
        why = (reason){"host_lost", text, -1, false};
        snprintf(text, sizeof(text), "the engine's host, or the engine, went down while it ran");
    } else {
        if (info->oom_killed)
            why.code = "out_of_memory";
        snprintf(text, sizeof(text), "the container ended with exit code %d%s", info->exit_code,
                 info->oom_killed ? ": out of memory" : "");
    }
    return fail_row(s, row, &why, err);
}

int sandbox_connect_again(sbx_sandboxes *s, sbx_sandbox_row *row, bool adopted, sbx_greeting **ret,
                          sbx_err *err)
{
    sbx_pairs env = {0};
    sbx_greeting *g;
    char topic[8 + SBX_ID_LEN];
    uint64_t last = 0;
    sbx_err ignored;

    if (sbx_store_sandbox_take(s->c.store, row->id, s->c.worker, &row->epoch, err) ||
        sbx_store_sandbox_env(s->c.store, row->id, &env, err))
        return -1;
    snprintf(topic, sizeof(topic), "logs:%s", row->id);
    /* without an answer the agent sends all it has; what is known already is dropped */
    if (s->c.bus->ops->last_seq(s->c.bus, topic, &last, &ignored) == 0)
        row->log_seq = SBX_MAX(row->log_seq, last);
    int rc = sandbox_connect(s, row, &env, adopted, &g, err);
    sbx_pairs_done(&env);
    if (rc)
        return rc;
    sandbox_network_keep(s, row);
    if (ret)
        *ret = g;
    else /* a few agents that answer late would keep all threads of the cleanup */
        sbx_greeting_forget(g);
    sbx_copy(row->worker, sizeof(row->worker), s->c.worker);
    sandbox_follow_health(s, row);
    return 0;
}

int sandbox_look(sbx_sandboxes *s, const char *id, sbx_container_info *info, fate *ret,
                 sbx_err *err)
{
    char name[SBX_ID_LEN + 8];

    sbx_sandbox_container(id, name);
    if (s->c.engine->ops->inspect(s->c.engine, name, info, err)) {
        *ret = FATE_GONE;
        return err->code == SBX_E_NOT_FOUND ? 0 : -1;
    }
    bool ended = strcmp(info->state, "exited") == 0 || strcmp(info->state, "dead") == 0 ||
                 strcmp(info->state, "created") == 0;
    /* what is being removed by somebody is looked at again when it is gone */
    *ret = ended ? FATE_ENDED : strcmp(info->state, "paused") == 0 ? FATE_PAUSED : FATE_RUNNING;
    return 0;
}

/* Ends a row whose container does not live. @return 1 if it lives (info is set), 0 if the row was
 * failed, -1. */
static int still_alive(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_container_info *info, fate *ret,
                       sbx_err *err)
{
    if (sandbox_look(s, row->id, info, ret, err))
        return -1;
    if (*ret == FATE_RUNNING || *ret == FATE_PAUSED)
        return 1;
    return sandbox_fail_dead(s, row, *ret == FATE_GONE ? NULL : info, err);
}

int sbx_sandbox_adopt(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    sbx_container_info info;
    fate how;

    if (sbx_channels_holds(s->c.channels, row->id))
        return 0;
    int alive = still_alive(s, row, &info, &how, err);
    if (alive != 1)
        return alive;
    if (how != FATE_RUNNING)
        return sbx_fail(err, SBX_E_CONFLICT, "the container is %s", info.state);
    sbx_copy(row->container_id, sizeof(row->container_id), info.id);
    return sandbox_connect_again(s, row, true, NULL, err);
}

/* Row and container disagree for good, since somebody slow acted after the row was settled, or an
 * operator did: a paused or resumed one is taken as it is, one that should not run is stopped. */
static int agree(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    static const struct {
        sbx_state row, through;
        fate container;
    } moves[] = {{SBX_S_RUNNING, SBX_S_PAUSING, FATE_PAUSED},
                 {SBX_S_PAUSED, SBX_S_RESUMING, FATE_RUNNING},
                 {SBX_S_STOPPED, SBX_S_STOPPING, FATE_RUNNING},
                 {SBX_S_STOPPED, SBX_S_STOPPING, FATE_PAUSED}};
    sbx_container_info info;
    move m = {.worker = s->c.worker, .deadline_s = AGREE_DEADLINE_S, .goal = ""};
    fate how;

    if (sandbox_look(s, row->id, &info, &how, err))
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(moves); i++) {
        if (moves[i].row != sbx_state_parse(row->state) || moves[i].container != how)
            continue;
        SBX_CLEANUP(sbx_json_free) sbx_json *why = NULL;
        sandbox_reason(row, &m.why, &why);
        m.to = moves[i].through;
        sbx_log(SBX_WARN, "row and container disagree", "sandbox", row->id, "state", row->state,
                "container", info.state, NULL);
        return sandbox_set_state(s, row, &m, err) ? -1 : sandbox_settle_move(s, row, true, err);
    }
    return 0;
}

static int with_row(sbx_sandboxes *s, const char *id, bool even_with_channel, sbx_err *err)
{
    sbx_sandbox_row row = {0};
    sbx_container_info info;
    fate how;
    int rc = 0;

    if (sbx_store_sandbox_get(s->c.store, NULL, id, &row, err))
        return err->code == SBX_E_NOT_FOUND ? 0 : -1;
    switch (sbx_state_parse(row.state)) {
    case SBX_S_RUNNING:
        if (!even_with_channel) {
            rc = sbx_sandbox_adopt(s, &row, err);
            break;
        }
        /* fall through */
    case SBX_S_PAUSED: /* needs no channel */
        rc = still_alive(s, &row, &info, &how, err);
        if (rc == 1 && even_with_channel)
            rc = agree(s, &row, err);
        break;
    case SBX_S_STOPPED:
        rc = agree(s, &row, err);
        break;
    case SBX_S_STOPPING:
        rc = sandbox_settle_move(s, &row, false, err);
        break;
    default:
        break;
    }
    sbx_sandbox_row_done(&row);
    return rc < 0 ? -1 : 0;
}

void sandbox_too_late(sbx_sandboxes *s, const sbx_sandbox_row *row)
{
    sbx_sandbox_row now = {0};
    sbx_err err;

    if (sbx_store_sandbox_get(s->c.store, NULL, row->id, &now, &err))
        return; /* the sweep looks as well */
    if (strcmp(now.state, "deleting") == 0 || strcmp(now.state, "deleted") == 0 ||
        strcmp(now.state, "failed") == 0) {
        sbx_channels_close(s->c.channels, row->id, SBX_E_GONE);
        (void)!sandbox_remove_own(s, row, &err);
    } else if (strcmp(now.state, "stopped") == 0) {
        sbx_channels_close(s->c.channels, row->id, SBX_E_ENGINE);
        (void)!sbx_sandbox_disagrees(s, row->id, &err);
    }
    sbx_sandbox_row_done(&now);
}

int sbx_sandbox_check(sbx_sandboxes *s, const char *id, sbx_err *err)
{
    return with_row(s, id, false, err);
}

int sbx_sandbox_main(sbx_sandboxes *s, const char *id, sbx_err *err)
{
    sbx_sandbox_row row = {0};

    if (sbx_store_sandbox_get(s->c.store, NULL, id, &row, err))
        return -1;
    if (strcmp(row.state, "running") == 0)
        sandbox_start_main(s, &row);
    sbx_sandbox_row_done(&row);
    return 0;
}

int sbx_sandbox_disagrees(sbx_sandboxes *s, const char *id, sbx_err *err)
{
    return with_row(s, id, true, err);
}
