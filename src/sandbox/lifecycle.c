/* Deleting, settling what was interrupted, adopting after a restart, and noticing losses. */
#include "sandboxes_priv.h"

#include "sbx/core/log.h"
#include <stdio.h>

int sbx_sandbox_finish_delete(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    sbx_err current_err;
    move deleted = {.to = SBX_S_DELETED, .worker = "", .why.exit_code = -1};

    sbx_channels_close(s->c.channels, row->id, SBX_E_GONE);
    if (sandbox_remove_container(s, row->id, err))
        return sbx_wrap(err, "removing the container");
    /* The reason of the deletion stays on the record. */
    SBX_CLEANUP(sbx_json_free) sbx_json *why = NULL;
    if (row->reason && sbx_json_parse(row->reason, strlen(row->reason), &why, &current_err) == 0) {
        deleted.why.code = sbx_json_str(sbx_json_get(why, "code"));
        deleted.why.message = sbx_json_str(sbx_json_get(why, "message"));
    }
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

int sbx_sandbox_delete(sbx_sandboxes *s, const char *owner, const char *id, sbx_err *err)
{
    move deleting = {.to = SBX_S_DELETING,
                     .worker = s->c.worker,
                     .deadline_s = DELETE_DEADLINE_S,
                     .why = {"deleted", "deleted by its owner", -1, false}};

    for (int attempt = 0;; attempt++) {
        sbx_sandbox_row row = {0};
        int rc = sbx_store_sandbox_get(s->c.store, owner, id, &row, err);

        if (rc)
            return -1;
        if (strcmp(row.state, "deleted") != 0) {
            bool creating = strcmp(row.state, "creating") == 0;

            if (strcmp(row.state, "deleting") != 0)
                rc = sandbox_set_state(s, &row, &deleting, err);
            if (!rc && creating)
                sbx_images_drop(s->images, id);
            if (!rc)
                rc = sbx_sandbox_finish_delete(s, &row, err);
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
    case SBX_S_STARTING:
    case SBX_S_PAUSING:
    case SBX_S_RESUMING:
        return fail_row(s, row, &interrupted, err);
    default:
        return 0;
    }
}

static int fail_dead(sbx_sandboxes *s, sbx_sandbox_row *row, const sbx_container_info *info,
                     sbx_err *err)
{
    char text[160];
    reason why = {"container_ended", text, info ? info->exit_code : -1, info && info->oom_killed};

    if (!info) {
        why.code = "container_lost";
        snprintf(text, sizeof(text), "the container is gone from the engine");
    } else {
        if (info->oom_killed)
            why.code = "out_of_memory";
        snprintf(text, sizeof(text), "the container ended with exit code %d%s", info->exit_code,
                 info->oom_killed ? ": out of memory" : "");
    }
    return fail_row(s, row, &why, err);
}

static int connect_again(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
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
    if (s->c.bus->ops->last_seq(s->c.bus, topic, &last, &ignored))
        last = 0; /* the agent sends all it has; what is known already is dropped */
    int rc = sandbox_connect(s, row, &env, last ? last + 1 : 0, &g, err);
    sbx_pairs_done(&env);
    if (rc)
        return rc;
    /* Not waited for: a few agents that answer late would keep all threads of the cleanup. */
    sbx_greeting_forget(g);
    sbx_copy(row->worker, sizeof(row->worker), s->c.worker);
    sandbox_follow_health(s, row);
    return 0;
}

/* Ends a row whose container does not live. @return 1 if it lives (info is set), 0 if the row was
 * failed, -1. */
static int still_alive(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_container_info *info,
                       sbx_err *err)
{
    char name[SBX_ID_LEN + 8];

    sbx_sandbox_container(row->id, name);
    if (s->c.engine->ops->inspect(s->c.engine, name, info, err))
        return err->code == SBX_E_NOT_FOUND ? fail_dead(s, row, NULL, err) : -1;
    if (strcmp(info->state, "exited") == 0 || strcmp(info->state, "dead") == 0)
        return fail_dead(s, row, info, err);
    return 1;
}

int sbx_sandbox_adopt(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    sbx_container_info info;

    if (sbx_channels_holds(s->c.channels, row->id))
        return 0;
    int alive = still_alive(s, row, &info, err);
    if (alive != 1)
        return alive;
    if (strcmp(info.state, "running") != 0)
        return sbx_fail(err, SBX_E_CONFLICT, "the container is %s", info.state);
    sbx_copy(row->container_id, sizeof(row->container_id), info.id);
    return connect_again(s, row, err);
}

static int with_row(sbx_sandboxes *s, const char *id, bool even_with_channel, sbx_err *err)
{
    sbx_sandbox_row row = {0};
    sbx_container_info info;
    int rc = 0;

    if (sbx_store_sandbox_get(s->c.store, NULL, id, &row, err))
        return err->code == SBX_E_NOT_FOUND ? 0 : -1;
    if (strcmp(row.state, "running") == 0 || strcmp(row.state, "paused") == 0)
        rc = even_with_channel ? still_alive(s, &row, &info, err) : sbx_sandbox_adopt(s, &row, err);
    sbx_sandbox_row_done(&row);
    return rc < 0 ? -1 : 0;
}

int sbx_sandbox_check(sbx_sandboxes *s, const char *id, sbx_err *err)
{
    return with_row(s, id, false, err);
}

int sbx_sandbox_lost(sbx_sandboxes *s, const char *id, sbx_err *err)
{
    return with_row(s, id, true, err);
}
