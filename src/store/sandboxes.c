/* The table `sandboxes`. One statement per function.
 *
 * Every change of state writes its event in the same statement, so that neither exists without
 * the other. Each carries a random number (`change`): when the connection breaks the statement is
 * simply run again, and if it then finds nothing to change, the number in the row tells that it
 * was the first try that changed it. An insert is recognised by the row's token in the same way. */
#include "internal.h"

#include "sbx/core/limits.h"
#include "sbx/store/idempotency.h"

/* Names and values of env as one JSON document. */
#define MAX_ENV_DOCUMENT (SBX_MAX_ENV_TOTAL_BYTES * 8)
#define MAX_IDS_BYTES    (4 * MIB)

static int64_t random_number(void)
{
    int64_t n;

    do
        sbx_random(&n, sizeof n);
    while (n == 0);
    return n;
}

/* --- env --- */

static int seal_env(sbx_store *s, const char *id, const sbx_pairs *env, sbx_buf *out, sbx_err *err)
{
    sbx_buf text = SBX_BUF_INIT(MAX_ENV_DOCUMENT);
    sbx_jw w = SBX_JW(&text);
    int rc;

    sbx_jw_obj(&w, NULL);
    for (size_t i = 0; env && i < env->count; i++)
        sbx_jw_str(&w, env->names[i], env->values[i]);
    sbx_jw_obj_end(&w);
    if (sbx_buf_failed(&text))
        rc = sbx_fail(err, SBX_E_QUOTA, "env is too large");
    else
        rc = sbx_crypt_seal(s->crypt, id, text.data, text.len, out, err);
    sbx_wipe(text.data, text.len);
    sbx_buf_done(&text);
    return rc;
}

static int read_env(const sbx_buf *text, sbx_pairs *ret, sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *doc = NULL;
    sbx_pairs out = {0};
    size_t n = 0;

    if (sbx_json_parse(text->data, text->len, &doc, err) != 0)
        return sbx_fail(err, SBX_E_INTERNAL, "stored env is damaged");
    for (const sbx_json *v = sbx_json_first(doc); v; v = sbx_json_next(v))
        n++;
    if (n > 0) {
        out.names = sbx_alloc(n * sizeof *out.names);
        out.values = sbx_alloc(n * sizeof *out.values);
    }
    for (const sbx_json *v = sbx_json_first(doc); v; v = sbx_json_next(v)) {
        const char *value = sbx_json_str(v);
        out.names[out.count] = sbx_strdup(sbx_json_name(v));
        out.values[out.count++] = sbx_strdup(value ? value : "");
    }
    *ret = out;
    return 0;
}

int sbx_store_sandbox_env(sbx_store *s, const char *id, sbx_pairs *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};
    sbx_buf text = SBX_BUF_INIT(MAX_ENV_DOCUMENT);
    int rc;

    store_p_str(&p, id);
    if (store_exec(s, Q_SANDBOX_ENV, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0 || PQgetisnull(r, 0, 0))
        return sbx_fail(err, SBX_E_NOT_FOUND, "no sandbox %s", id);
    rc = sbx_crypt_unseal(s->crypt, id, PQgetvalue(r, 0, 0), (size_t)PQgetlength(r, 0, 0), &text,
                          err);
    if (rc == 0)
        rc = read_env(&text, ret, err);
    sbx_wipe(text.data, text.len);
    sbx_buf_done(&text);
    return rc;
}

/* --- insert and get --- */

static void insert_params(store_params *p, const sbx_sandbox_row *r, const sbx_buf *sealed,
                          int deadline_s)
{
    store_p_str(p, r->id);
    store_p_str(p, r->owner);
    store_p_str(p, r->worker);
    store_p_str(p, r->name);
    store_p_str(p, r->template_name);
    store_p_str(p, r->image);
    store_p_str(p, r->state);
    store_p_str(p, r->size);
    store_p_int(p, r->cpu_milli);
    store_p_int(p, r->memory_mb);
    store_p_int(p, r->pids);
    store_p_int(p, r->disk_mb);
    store_p_str(p, r->network);
    store_p_str(p, r->metadata ? r->metadata : "{}");
    store_p_str(p, r->env_names ? r->env_names : "[]");
    store_p_bytes(p, sealed->data, sealed->len);
    store_p_str(p, r->command);
    store_p_int(p, r->timeout_s);
    store_p_int(p, r->idle_timeout_s);
    store_p_str(p, r->on_timeout);
    store_p_str(p, r->on_idle);
    store_p_bytes(p, r->token, sizeof r->token);
    store_p_str(p, r->image_user);
    store_p_str(p, r->runtime);
    store_p_str(p, r->host);
    store_p_int(p, deadline_s);
    store_p_int(p, r->change);
    store_p_str(p, r->readiness);
    store_p_str(p, r->health);
    store_p_str(p, r->pool);
    store_p_str(p, *r->run ? r->run : NULL);
}

/* The id is taken: by this very row, when the answer to the first try was lost? */
static int inserted_before(sbx_store *s, sbx_sandbox_row *r, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row old = {0};

    if (sbx_store_sandbox_get(s, r->owner, r->id, &old, err) != 0 ||
        !sbx_equal_ct(old.token, r->token, sizeof r->token))
        return sbx_fail(err, SBX_E_CONFLICT, "the id %s is taken", r->id);
    r->change = old.change;
    r->created_ms = old.created_ms;
    r->last_active_ms = old.last_active_ms;
    r->state_changed_ms = old.state_changed_ms;
    return 0;
}

int sbx_store_sandbox_insert(sbx_store *s, sbx_sandbox_row *r, const sbx_pairs *env, int deadline_s,
                             sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *res = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf sealed = SBX_BUF_INIT(MAX_ENV_DOCUMENT + KIB);
    store_params p = {0};
    sbx_err why = {0};

    if (seal_env(s, r->id, env, &sealed, err) != 0)
        return -1;
    r->change = random_number();
    insert_params(&p, r, &sealed, deadline_s);
    if (store_exec(s, Q_SANDBOX_INSERT, &p, STORE_AGAIN, &res, &why) != 0) {
        if (why.code == SBX_E_CONFLICT)
            return inserted_before(s, r, err);
        if (err)
            *err = why;
        return -1;
    }
    r->created_ms = store_ms(res, 0, 0);
    r->last_active_ms = store_ms(res, 0, 1);
    r->state_changed_ms = store_ms(res, 0, 2);
    r->event_seq = (uint64_t)store_int(res, 0, 3);
    return 0;
}

/* --- from a pool --- */

static void claim_params(store_params *p, const sbx_sandbox_row *r, const sbx_buf *sealed,
                         int deadline_s, const sbx_claim *key)
{
    store_p_str(p, r->id);
    store_p_str(p, r->pool);
    store_p_str(p, r->worker);
    store_p_str(p, r->owner);
    store_p_str(p, r->state);
    store_p_str(p, r->name);
    store_p_str(p, r->size);
    store_p_int(p, r->cpu_milli);
    store_p_int(p, r->memory_mb);
    store_p_int(p, r->pids);
    store_p_str(p, r->metadata ? r->metadata : "{}");
    store_p_str(p, r->env_names ? r->env_names : "[]");
    store_p_bytes(p, sealed->data, sealed->len);
    store_p_str(p, r->command);
    store_p_int(p, r->timeout_s);
    store_p_int(p, r->idle_timeout_s);
    store_p_str(p, r->on_timeout);
    store_p_str(p, r->on_idle);
    store_p_str(p, r->readiness);
    store_p_str(p, r->health);
    store_p_int(p, deadline_s);
    store_p_int(p, r->change);
    store_p_str(p, key ? key->key : NULL);
    store_p_str(p, key ? key->resource : NULL);
    store_p_str(p, *r->run ? r->run : NULL);
}

/* Nothing waits there: because the try whose answer was lost has taken it, or it is gone. */
static int taken_before(sbx_store *s, sbx_sandbox_row *r, const sbx_claim *key, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *res = NULL;
    sbx_sandbox_row now = {0};
    store_params p = {0};

    store_p_str(&p, r->id);
    if (store_exec(s, Q_SANDBOX_CHANGE, &p, STORE_AGAIN, &res, err) != 0)
        return -1;
    if (PQntuples(res) == 0)
        return 0;
    store_read_sandbox(res, 0, &now);
    if (now.change != r->change) {
        sbx_sandbox_row_done(&now);
        return 0;
    }
    sbx_sandbox_row_done(r);
    *r = now;
    if (!key)
        return 1;
    sbx_claim mine = *key;
    mine.resource = r->id;
    return sbx_store_idempotency_begun(s, &mine, err) != 0 ? -1 : 1;
}

int sbx_store_sandbox_claim(sbx_store *s, sbx_sandbox_row *r, const sbx_pairs *env, int deadline_s,
                            const sbx_claim *key, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *res = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf sealed = SBX_BUF_INIT(MAX_ENV_DOCUMENT + KIB);
    store_params p = {0};

    if (seal_env(s, r->id, env, &sealed, err) != 0)
        return -1;
    r->change = random_number();
    claim_params(&p, r, &sealed, deadline_s, key);
    if (store_exec(s, Q_SANDBOX_CLAIM, &p, STORE_AGAIN, &res, err) != 0)
        return -1;
    if (PQntuples(res) == 0)
        return taken_before(s, r, key, err);
    sbx_sandbox_row_done(r);
    store_read_sandbox(res, 0, r);
    if (store_int(res, 0, STORE_SANDBOX_COLS + 1))
        return 1;
    return sbx_fail(err, SBX_E_CAPACITY,
                    "the server stood still, and another request with this Idempotency-Key goes "
                    "on; repeat it");
}

int sbx_store_sandbox_get(sbx_store *s, const char *owner, const char *id, sbx_sandbox_row *ret,
                          sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, id);
    if (owner)
        store_p_str(&p, owner);
    if (store_exec(s, owner ? Q_SANDBOX_GET_OWNED : Q_SANDBOX_GET, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return sbx_fail(err, SBX_E_NOT_FOUND, "no sandbox %.*s", SBX_ID_LEN, id);
    store_read_sandbox(r, 0, ret);
    return 0;
}

int sbx_store_sandbox_list(sbx_store *s, const sbx_sandbox_filter *f, sbx_sandbox_list *ret,
                           sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    if (f->limit < 1 || f->limit > SBX_MAX_LIST_ITEMS + 1)
        return sbx_fail_field(err, "limit", "must be between 1 and %d", SBX_MAX_LIST_ITEMS);
    store_p_str(&p, f->owner);
    store_p_str(&p, f->state);
    store_p_str(&p, f->template_name);
    store_p_str(&p, f->name);
    store_p_str(&p, f->metadata);
    store_p_time_us(&p, f->before_us);
    store_p_str(&p, f->before_id ? f->before_id : "");
    store_p_int(&p, f->limit);
    if (store_exec(s, f->owner ? Q_SANDBOX_LIST_OWNED : Q_SANDBOX_LIST, &p, STORE_AGAIN, &r, err) !=
        0)
        return -1;
    return store_read_list(r, ret, err);
}

/* --- state --- */

/* Nothing was in state `from`: because this change was made by the try whose answer was lost, or
 * because something else changed the row. */
static int changed_before(sbx_store *s, const sbx_state_change *c, int64_t number,
                          sbx_sandbox_row *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};
    char state[16];

    store_p_str(&p, c->id);
    if (store_exec(s, Q_SANDBOX_CHANGE, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return sbx_fail(err, SBX_E_NOT_FOUND, "no sandbox %s", c->id);
    store_read_sandbox(r, 0, ret);
    if (ret->change == number)
        return 0;
    sbx_copy(state, sizeof state, ret->state);
    sbx_sandbox_row_done(ret);
    *ret = (sbx_sandbox_row){0};
    if (strcmp(state, c->from) == 0)
        return sbx_fail(err, SBX_E_CONFLICT, "the sandbox is being changed; try again");
    return sbx_fail(err, SBX_E_CONFLICT, "the sandbox is %s, not %s", state, c->from);
}

int sbx_store_sandbox_set_state(sbx_store *s, const sbx_state_change *c, sbx_sandbox_row *ret,
                                sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};
    int64_t number = random_number();

    store_p_str(&p, c->id);
    store_p_str(&p, c->from);
    store_p_str(&p, c->to);
    store_p_str(&p, c->reason);
    store_p_str(&p, c->worker);
    store_p_str(&p, c->container_id);
    store_p_str(&p, c->image_user);
    store_p_int(&p, c->deadline_s);
    store_p_bool(&p, c->started);
    store_p_int(&p, number);
    store_p_str(&p, c->goal);
    store_p_int(&p, (int64_t)c->log_seq);
    store_p_int(&p, c->expiry);
    store_p_str(&p, c->template_name);
    store_p_str(&p, c->image);
    store_p_int(&p, c->change);
    if (store_exec(s, Q_SANDBOX_SET_STATE, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return changed_before(s, c, number, ret, err);
    store_read_sandbox(r, 0, ret);
    return 0;
}

/* Twice finds nothing left to change; the event is then in the table already. */
/* A statement with an id, this worker and a JSON, which gives the row if it found one. */
static int run_for_holder(sbx_store *s, store_query q, const char *id, const char *worker,
                          const char *json, sbx_sandbox_row *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, id);
    store_p_str(&p, worker);
    store_p_str(&p, json);
    if (store_exec(s, q, &p, q == Q_SANDBOX_HEALTH ? STORE_AGAIN : STORE_ONCE, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return 0;
    store_read_sandbox(r, 0, ret);
    return 1;
}

int sbx_store_sandbox_health(sbx_store *s, const char *id, const char *worker, const char *state,
                             sbx_sandbox_row *ret, sbx_err *err)
{
    return run_for_holder(s, Q_SANDBOX_HEALTH, id, worker, state, ret, err);
}

int sbx_store_sandbox_alert(sbx_store *s, const char *id, const char *worker, const char *reason,
                            sbx_sandbox_row *ret, sbx_err *err)
{
    return run_for_holder(s, Q_SANDBOX_ALERT, id, worker, reason, ret, err);
}

int sbx_store_sandbox_health_refresh(sbx_store *s, const char *worker, const char *states,
                                     sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, worker);
    store_p_str(&p, states);
    return store_exec(s, Q_SANDBOX_HEALTH_REFRESH, &p, STORE_AGAIN, &r, err);
}

int sbx_store_sandbox_take(sbx_store *s, const char *id, const char *worker, uint64_t *ret_epoch,
                           sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, id);
    store_p_str(&p, worker);
    /* Twice only raises the epoch twice. */
    if (store_exec(s, Q_SANDBOX_TAKE, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return sbx_fail(err, SBX_E_CONFLICT, "sandbox %s is held by another worker, or deleted",
                        id);
    *ret_epoch = (uint64_t)store_int(r, 0, 0);
    return 0;
}

int sbx_store_sandbox_renew(sbx_store *s, const char *owner, const char *id, sbx_sandbox_row *ret,
                            sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row now = {0};
    store_params p = {0};

    store_p_str(&p, id);
    store_p_str(&p, owner);
    if (store_exec(s, Q_SANDBOX_RENEW, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 1) {
        store_read_sandbox(r, 0, ret);
        return 0;
    }
    if (sbx_store_sandbox_get(s, owner, id, &now, err) != 0)
        return -1;
    return sbx_fail(err, SBX_E_CONFLICT, "the sandbox is %s", now.state);
}

/* --- changes by the owner --- */

static void patch_params(store_params *p, const sbx_sandbox_row *row, const sbx_sandbox_change *c,
                         const sbx_buf *sealed)
{
    store_p_str(p, row->id);
    store_p_str(p, row->owner);
    store_p_int(p, row->version);
    store_p_bool(p, c->name_given);
    store_p_str(p, c->name);
    store_p_str(p, c->metadata);
    if (c->env)
        store_p_bytes(p, sealed->data, sealed->len);
    else
        store_p_str(p, NULL);
    store_p_str(p, c->env_names);
    store_p_str(p, c->size);
    store_p_int(p, c->cpu_milli);
    store_p_int(p, c->memory_mb);
    store_p_int(p, c->pids);
    store_p_int(p, c->timeout_s);
    store_p_int(p, c->idle_timeout_s);
    store_p_str(p, c->on_timeout);
    store_p_str(p, c->on_idle);
    store_p_str(p, c->limits_state);
}

int sbx_store_sandbox_patch(sbx_store *s, sbx_sandbox_row *row, const sbx_sandbox_change *c,
                            sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf sealed = SBX_BUF_INIT(MAX_ENV_DOCUMENT + KIB);
    store_params p = {0};

    if (c->env && seal_env(s, row->id, c->env, &sealed, err) != 0)
        return -1;
    patch_params(&p, row, c, &sealed);
    /* If the answer is lost, the second try finds another version, and the caller does all again
     * with the row as it is then. */
    if (store_exec(s, Q_SANDBOX_PATCH, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return sbx_fail(err, SBX_E_CONFLICT, "the sandbox was changed at the same time");
    sbx_sandbox_row_done(row);
    store_read_sandbox(r, 0, row);
    return 0;
}

int sbx_store_sandbox_limits_begin(sbx_store *s, const char *id, const char *state, int seconds,
                                   sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, id);
    store_p_str(&p, state);
    store_p_int(&p, seconds);
    if (store_exec(s, Q_SANDBOX_LIMITS_BEGIN, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return sbx_fail(err, SBX_E_CONFLICT, "the sandbox is being changed; try again");
    return 0;
}

int sbx_store_sandbox_limits_end(sbx_store *s, const char *id, int64_t cpu_milli, int64_t memory_mb,
                                 int64_t pids, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, id);
    store_p_int(&p, cpu_milli);
    store_p_int(&p, memory_mb);
    store_p_int(&p, pids);
    return store_exec(s, Q_SANDBOX_LIMITS_END, &p, STORE_AGAIN, &r, err);
}

/* --- many at once --- */

static int ids_param(store_params *p, sbx_buf *b, const char *const *ids, size_t count,
                     sbx_err *err)
{
    store_add_array(b, ids, count);
    if (sbx_buf_failed(b))
        return sbx_fail(err, SBX_E_INTERNAL, "too many sandboxes at once");
    store_p_str(p, b->data);
    return 0;
}

int sbx_store_sandbox_touch(sbx_store *s, const char *const *ids, size_t count,
                            sbx_sandbox_refs *ret_frozen, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(MAX_IDS_BYTES);
    store_params p = {0};

    if (count == 0)
        return 0;
    if (ids_param(&p, &b, ids, count, err) != 0 ||
        store_exec(s, Q_SANDBOX_TOUCH, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    store_read_refs(r, ret_frozen);
    return 0;
}

int sbx_store_sandbox_awake(sbx_store *s, const char *id, int seconds, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, id);
    store_p_int(&p, seconds);
    if (store_exec(s, Q_SANDBOX_AWAKE, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    return PQntuples(r) ? 0 : sbx_fail(err, SBX_E_CONFLICT, "the sandbox is not running");
}

int sbx_store_sandbox_pulling(sbx_store *s, const char *const *ids, size_t count, const char *text,
                              sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(MAX_IDS_BYTES);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf why = SBX_BUF_INIT(4 * KIB);
    store_params p = {0};
    sbx_jw w = SBX_JW(&why);

    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "code", "pulling");
    sbx_jw_str(&w, "message", text);
    sbx_jw_obj_end(&w);
    if (ids_param(&p, &b, ids, count, err) != 0)
        return -1;
    store_p_str(&p, why.data);
    return store_exec(s, Q_SANDBOX_PULLING, &p, STORE_ONCE, &r, err);
}

/* What a claim took whose answer was lost. */
static int claimed_before(sbx_store *s, int64_t number, sbx_sandbox_list *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_int(&p, number);
    if (store_exec(s, Q_SANDBOX_CHANGED_BY, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    return store_read_list(r, ret, err);
}

int sbx_store_sandbox_reap(sbx_store *s, const sbx_reap *which, sbx_sandbox_list *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf busy = SBX_BUF_INIT(MAX_IDS_BYTES);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf later = SBX_BUF_INIT(MAX_IDS_BYTES);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf frozen = SBX_BUF_INIT(MAX_IDS_BYTES);
    store_params p = {0};
    int64_t number = random_number();
    sbx_err why = {0};

    store_p_str(&p, which->worker);
    if (ids_param(&p, &busy, which->busy.items, which->busy.count, err) != 0)
        return -1;
    store_p_int(&p, which->max);
    store_p_int(&p, number);
    if (ids_param(&p, &later, which->later.items, which->later.count, err) != 0 ||
        ids_param(&p, &frozen, which->frozen.items, which->frozen.count, err) != 0)
        return -1;
    if (store_exec(s, Q_SANDBOX_REAP, &p, STORE_ONCE, &r, &why) == 0)
        return store_read_list(r, ret, err);
    /* If this finds nothing either, the next tick or sbx_store_sandbox_overdue() goes on. */
    if (why.code == SBX_E_STORE_UNAVAILABLE)
        return claimed_before(s, number, ret, err);
    return sbx_fail(err, why.code, "%s", why.msg);
}

int sbx_store_sandbox_overdue(sbx_store *s, const char *worker, int max, sbx_sandbox_list *ret,
                              sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, worker);
    store_p_int(&p, max);
    store_p_int(&p, random_number());
    if (store_exec(s, Q_SANDBOX_OVERDUE, &p, STORE_ONCE, &r, err) != 0)
        return -1;
    return store_read_list(r, ret, err);
}

int sbx_store_sandbox_release(sbx_store *s, const char *worker, const char *const *ids,
                              size_t count, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(MAX_IDS_BYTES);
    store_params p = {0};

    if (ids_param(&p, &b, ids, count, err) != 0)
        return -1;
    store_p_str(&p, worker);
    return store_exec(s, Q_SANDBOX_RELEASE, &p, STORE_AGAIN, &r, err);
}

int sbx_store_sandbox_disk(sbx_store *s, const char *id, const char *limit, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, id);
    store_p_str(&p, limit);
    return store_exec(s, Q_SANDBOX_DISK, &p, STORE_AGAIN, &r, err);
}

int sbx_store_sandbox_watched(sbx_store *s, const char *worker, int limit, sbx_sandbox_list *ret,
                              sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, worker);
    store_p_int(&p, limit);
    if (store_exec(s, Q_SANDBOX_WATCHED, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    return store_read_list(r, ret, err);
}

int sbx_store_sandbox_adoptable(sbx_store *s, const char *worker, sbx_sandbox_list *ret,
                                sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, worker);
    store_p_int(&p, STORE_MAX_ROWS + 1);
    if (store_exec(s, Q_SANDBOX_ADOPTABLE, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    return store_read_list(r, ret, err);
}

/* The light columns. A sweep that saw only a part would take the rest for orphans: all or an
 * error. */
static int read_light(const PGresult *r, sbx_sandbox_list *ret, sbx_err *err)
{
    sbx_sandbox_list l = {0};

    if (PQntuples(r) > STORE_MAX_ROWS)
        return sbx_fail(err, SBX_E_INTERNAL, "more than %d sandboxes", STORE_MAX_ROWS);
    if (PQntuples(r) > 0)
        l.items = sbx_alloc((size_t)PQntuples(r) * sizeof *l.items);
    for (int i = 0; i < PQntuples(r); i++) {
        sbx_sandbox_row *o = &l.items[l.count++];
        store_copy(r, i, 0, o->id, sizeof o->id);
        store_copy(r, i, 1, o->state, sizeof o->state);
        store_copy(r, i, 2, o->container_id, sizeof o->container_id);
        o->state_changed_ms = store_ms(r, i, 3);
        store_copy(r, i, 4, o->worker, sizeof o->worker);
    }
    *ret = l;
    return 0;
}

int sbx_store_sandbox_all(sbx_store *s, sbx_sandbox_list *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_int(&p, STORE_MAX_ROWS + 1);
    if (store_exec(s, Q_SANDBOX_ALL, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    return read_light(r, ret, err);
}

int sbx_store_sandbox_failed(sbx_store *s, const char *const *ids, size_t count,
                             sbx_sandbox_list *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(MAX_IDS_BYTES);
    store_params p = {0};

    if (ids_param(&p, &b, ids, count, err) != 0 ||
        store_exec(s, Q_SANDBOX_FAILED, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    return read_light(r, ret, err);
}

int sbx_store_sandbox_counts(sbx_store *s, const char *const *names, size_t count, int64_t *ret,
                             sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(MAX_IDS_BYTES);
    store_params p = {0};

    if (ids_param(&p, &b, names, count, err) != 0)
        return -1;
    if (store_exec(s, Q_SANDBOX_COUNTS, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        ret[i] = 0;
        for (int row = 0; row < PQntuples(r); row++) {
            char state[16];
            store_copy(r, row, 0, state, sizeof state);
            if (sbx_streq(state, names[i]))
                ret[i] = store_int(r, row, 1);
        }
    }
    return 0;
}

#define PURGE_AT_ONCE 1000

int sbx_store_sandbox_purge(sbx_store *s, int *ret_count, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_int(&p, PURGE_AT_ONCE);
    if (store_exec(s, Q_SANDBOX_PURGE, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    *ret_count = (int)store_int(r, 0, 0);
    return 0;
}
