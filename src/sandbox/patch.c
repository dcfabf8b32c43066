/* Changes by the owner. What merges (metadata, env) is merged with the row as it was read, and
 * written if nobody has changed it since; otherwise all is done again.
 *
 * Limits: the row is marked first, then the container changes, then the row, and the mark goes in
 * the same statement as all else of the change. Whoever finds a mark that is overdue gives the
 * container the row's limits, so a change that was interrupted did not happen. */
#include "sandboxes_priv.h"

#include "sbx/core/log.h"
#include "sbx/core/thread.h"

#define ATTEMPTS     8
#define LIMITS_DUE_S 90 /* more than an engine call takes */

static void pairs_set(sbx_pairs *p, const char *name, const char *value)
{
    size_t i = 0;

    while (i < p->count && strcmp(p->names[i], name) != 0)
        i++;
    if (i < p->count) {
        sbx_wipe(p->values[i], strlen(p->values[i]));
        free(p->values[i]);
    }
    if (i < p->count && !value) {
        free(p->names[i]);
        p->count--;
        memmove(&p->names[i], &p->names[i + 1], (p->count - i) * sizeof(char *));
        memmove(&p->values[i], &p->values[i + 1], (p->count - i) * sizeof(char *));
        return;
    }
    if (!value)
        return;
    if (i == p->count) {
        p->names = sbx_realloc(p->names, (p->count + 1) * sizeof(char *));
        p->values = sbx_realloc(p->values, (p->count + 1) * sizeof(char *));
        p->names[p->count++] = sbx_strdup(name);
    }
    p->values[i] = sbx_strdup(value);
}

static void merge(sbx_pairs *to, const sbx_pairs *changes)
{
    for (size_t i = 0; i < changes->count; i++)
        pairs_set(to, changes->names[i], changes->values[i]);
}

static int merged_metadata(const sbx_sandbox_row *row, const sbx_pairs *changes, sbx_buf *out,
                           sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *old = NULL;
    SBX_CLEANUP_VAL(sbx_pairs_done) sbx_pairs all = {0};
    sbx_jw w = SBX_JW(out);

    if (sbx_json_parse(row->metadata, strlen(row->metadata), &old, err))
        return sbx_fail(err, SBX_E_INTERNAL, "stored metadata is damaged");
    for (const sbx_json *v = sbx_json_first(old); v; v = sbx_json_next(v))
        pairs_set(&all, sbx_json_name(v), sbx_json_str(v));
    merge(&all, changes);
    if (all.count > SBX_MAX_METADATA)
        return sbx_fail_field(err, "metadata",
                              "metadata: more than %d entries with those there are",
                              SBX_MAX_METADATA);
    sbx_jw_obj(&w, NULL);
    for (size_t i = 0; i < all.count; i++)
        sbx_jw_str(&w, all.names[i], all.values[i]);
    sbx_jw_obj_end(&w);
    return 0;
}

static int merged_env(sbx_sandboxes *s, const sbx_sandbox_row *row, const sbx_pairs *changes,
                      sbx_pairs *ret, sbx_buf *names, sbx_err *err)
{
    sbx_jw w = SBX_JW(names);

    if (sbx_store_sandbox_env(s->c.store, row->id, ret, err))
        return -1;
    merge(ret, changes);
    if (ret->count > SBX_MAX_ENV)
        return sbx_fail_field(err, "env", "env: more than %d variables with those there are",
                              SBX_MAX_ENV);
    if (sbx_env_check("env", ret, err))
        return -1;
    sbx_jw_arr(&w, NULL);
    for (size_t i = 0; i < ret->count; i++)
        sbx_jw_str(&w, NULL, ret->names[i]);
    sbx_jw_arr_end(&w);
    return 0;
}

/* One try. CONFLICT: the row is another one by now. */
static int write_row(sbx_sandboxes *s, sbx_sandbox_row *row, const sbx_patch *p,
                     const char *limits_state, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf metadata = SBX_BUF_INIT(MIB);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf names = SBX_BUF_INIT(MIB);
    SBX_CLEANUP_VAL(sbx_pairs_done) sbx_pairs env = {0};
    sbx_sandbox_change c = {.name_given = p->name_given,
                            .name = p->name,
                            .size = p->size,
                            .cpu_milli = p->limits.cpu_milli,
                            .memory_mb = p->limits.memory_mb,
                            .pids = p->limits.pids,
                            .timeout_s = p->timeout_s,
                            .idle_timeout_s = p->idle_timeout_s,
                            .on_timeout = p->on_timeout,
                            .on_idle = p->on_idle,
                            .limits_state = limits_state};

    if (p->metadata.count && merged_metadata(row, &p->metadata, &metadata, err))
        return -1;
    if (p->env.count && merged_env(s, row, &p->env, &env, &names, err))
        return -1;
    c.metadata = p->metadata.count ? metadata.data : NULL;
    c.env = p->env.count ? &env : NULL;
    c.env_names = p->env.count ? names.data : NULL;
    return sbx_store_sandbox_patch(s->c.store, row, &c, err);
}

static int read_row(sbx_sandboxes *s, const char *owner, const char *id, sbx_sandbox_row *row,
                    sbx_err *err)
{
    sbx_sandbox_row_done(row);
    if (sbx_store_sandbox_get(s->c.store, owner, id, row, err))
        return -1;
    if (strcmp(row->state, "deleted") == 0)
        return sbx_fail(err, SBX_E_GONE, "the sandbox was deleted");
    if (strcmp(row->state, "deleting") == 0)
        return sbx_fail(err, SBX_E_CONFLICT, "the sandbox is deleting");
    return 0;
}

/* Merges with what others wrote meanwhile, as often as needed. */
static int write_merged(sbx_sandboxes *s, sbx_sandbox_row *row, const sbx_patch *p,
                        const char *limits_state, sbx_err *err)
{
    char owner[SBX_ID_LEN + 1], id[SBX_ID_LEN + 1];

    memcpy(owner, row->owner, sizeof(owner));
    memcpy(id, row->id, sizeof(id));
    for (int attempt = 0;; attempt++) {
        if (write_row(s, row, p, limits_state, err) == 0)
            return 0;
        if (err->code != SBX_E_CONFLICT || attempt == ATTEMPTS)
            return -1;
        if (read_row(s, owner, id, row, err))
            return -1;
        if (limits_state && strcmp(row->state, limits_state) != 0)
            return sbx_fail(err, SBX_E_CONFLICT, "the sandbox is %s", row->state);
    }
}

int sandbox_patch_env(sbx_sandboxes *s, sbx_sandbox_row *row, const sbx_pairs *env, sbx_err *err)
{
    sbx_patch p = {.env = *env};

    return write_merged(s, row, &p, NULL, err);
}

/* --- limits --- */

int sandbox_engine_limits(sbx_sandboxes *s, const char *id, int64_t cpu_milli, int64_t memory_mb,
                          int64_t pids, bool fresh, sbx_err *err)
{
    char name[SBX_ID_LEN + 8];

    sbx_sandbox_container(id, name);
    if (s->c.engine->ops->update(s->c.engine, name, cpu_milli, memory_mb * (int64_t)MIB,
                                 pids ? pids + SBX_PIDS_RESERVE : 0, fresh, err) &&
        err->code != SBX_E_NOT_FOUND)
        return -1;
    return 0; /* the next container gets them from the row */
}

int sandbox_settle_limits(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    sbx_container_info info = {0};
    fate how;

    if (sandbox_engine_limits(s, row->id, row->cpu_milli, row->memory_mb, row->pids, false, err) ==
        0)
        return sbx_store_sandbox_limits_end(s->c.store, row->id, 0, 0, 0, err);
    if (err->code != SBX_E_CONFLICT || sandbox_look(s, row->id, &info, &how, err))
        return -1;
    /* It uses more memory by now than it had: what it has is what the record says. */
    return sbx_store_sandbox_limits_end(s->c.store, row->id, info.cpu_milli,
                                        info.memory_bytes / (int64_t)MIB,
                                        SBX_MAX(info.pids - SBX_PIDS_RESERVE, 0), err);
}

/* Was it surely not carried out? */
static bool refused(const sbx_err *err)
{
    return err->code == SBX_E_CONFLICT || err->code == SBX_E_INVALID || err->code == SBX_E_ENGINE;
}

static int patch_limits(sbx_sandboxes *s, sbx_sandbox_row *row, const sbx_patch *p, sbx_err *err)
{
    int64_t memory_mb = p->limits.memory_mb == row->memory_mb ? 0 : p->limits.memory_mb;
    char id[SBX_ID_LEN + 1], state[sizeof(row->state)];
    sbx_err later;

    memcpy(id, row->id, sizeof(id));
    memcpy(state, row->state, sizeof(state));
    if (sbx_state_transitional(sbx_state_parse(state)))
        return sbx_fail(err, SBX_E_CONFLICT, "the sandbox is %s; change its limits after that",
                        state);
    if (sbx_store_sandbox_limits_begin(s->c.store, id, state, LIMITS_DUE_S, err))
        return -1;
    sbx_job_scope(0, NULL); /* that the client leaves must not stop it half-way */
    if (sandbox_engine_limits(s, id, p->limits.cpu_milli, memory_mb, p->limits.pids, false, err)) {
        /* of any other failure the outcome is unknown, and the mark has it looked at */
        if (refused(err) && sbx_store_sandbox_limits_end(s->c.store, id, 0, 0, 0, &later))
            sbx_log_err(SBX_WARN, "limits will be compared", &later, "sandbox", id, NULL);
        return -1;
    }
    if (write_merged(s, row, p, state, err) == 0) {
        sbx_channels_pids(s->c.channels, id, row->pids);
        return 0;
    }
    sbx_sandbox_row now = {0};
    if (sbx_store_sandbox_get(s->c.store, NULL, id, &now, &later) ||
        sbx_sandbox_settle(s, &now, &later))
        sbx_log_err(SBX_WARN, "limits will be compared", &later, "sandbox", id, NULL);
    sbx_sandbox_row_done(&now);
    return -1;
}

static bool is_empty(const sbx_patch *p)
{
    return !p->name_given && !p->metadata.count && !p->env.count && !p->size && !p->timeout_s &&
           !p->idle_timeout_s && !p->on_timeout && !p->on_idle;
}

int sbx_sandbox_patch(sbx_sandboxes *s, const char *owner, const char *id, const sbx_patch *p,
                      sbx_sandbox_row *ret, sbx_err *err)
{
    bool limits = p->limits.cpu_milli || p->limits.memory_mb || p->limits.pids;
    sbx_sandbox_row row = {0};
    int rc = read_row(s, owner, id, &row, err);

    if (!rc && limits)
        rc = patch_limits(s, &row, p, err);
    else if (!rc && !is_empty(p))
        rc = write_merged(s, &row, p, NULL, err);
    if (rc)
        sbx_sandbox_row_done(&row);
    else
        *ret = row;
    return rc;
}
