/* The tables `usage`, `usage_runs` and `spending_alerts`, and refusals by a limit of the user. */
#include "sbx/store/usage.h"

#include "internal.h"
#include "sbx/core/clock.h"

#define TIDY_AT_ONCE 10000

/* --- refusals --- */

/* "what value used reset", as quota_refuse() of the database writes it. */
static bool read_detail(const char *detail, sbx_quota *ret)
{
    char text[128], *at = text, *parts[4];

    if (!detail || !sbx_copy(text, sizeof text, detail))
        return false;
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        parts[i] = at;
        at += strcspn(at, " ");
        if ((i + 1 < ARRAY_LEN(parts)) != (*at == ' '))
            return false;
        if (*at)
            *at++ = '\0';
    }
    return sbx_copy(ret->limit, sizeof ret->limit, parts[0]) &&
           sbx_parse_i64(parts[1], 0, INT64_MAX, &ret->value) &&
           sbx_parse_i64(parts[2], 0, INT64_MAX, &ret->used) &&
           sbx_parse_i64(parts[3], 0, INT64_MAX / 1000, &ret->reset_s);
}

static void explain(const sbx_quota *q, sbx_err *err)
{
    long long value = (long long)q->value, used = (long long)q->used;

    if (sbx_streq(q->limit, "executions"))
        sbx_err_set(err, SBX_E_QUOTA, "the %lld runs of this month are used up", value);
    else if (sbx_streq(q->limit, "computeSeconds"))
        sbx_err_set(err, SBX_E_QUOTA,
                    "the compute time of this month, %lld seconds of running sandboxes, is used up",
                    value);
    else if (sbx_streq(q->limit, "concurrentSandboxes"))
        sbx_err_set(err, SBX_E_QUOTA,
                    "there are %lld sandboxes, and there may be %lld: delete or stop one", used,
                    value);
    else if (sbx_streq(q->limit, "longestRunSeconds"))
        sbx_err_set(err, SBX_E_QUOTA,
                    "a sandbox of this user runs for at most %lld seconds, not %lld: ask for a "
                    "shorter time-out",
                    value, used);
    else
        sbx_err_set(err, SBX_E_QUOTA, "this month's spending has reached its limit");
}

void store_refused(const char *detail, sbx_err *err)
{
    sbx_quota q = {0};

    if (!read_detail(detail, &q)) {
        sbx_err_set(err, SBX_E_INTERNAL, "database: a refusal that cannot be read");
        return;
    }
    explain(&q, err);
    if (!err)
        return;
    err->quota = q;
    if (q.reset_s)
        err->retry_after_s =
            (int)SBX_MIN(SBX_MAX(q.reset_s - sbx_wall_ms() / 1000, 1), (int64_t)INT32_MAX);
}

int sbx_store_run_reserve(sbx_store *s, const char *owner, const char *sandbox, const char *run,
                          const char *runtime, const char *worker, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, run);
    store_p_str(&p, owner);
    store_p_str(&p, sandbox);
    store_p_str(&p, runtime);
    store_p_str(&p, worker);
    if (store_exec(s, Q_RUN_RESERVE, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    return PQntuples(r) > 0;
}

/* --- reading --- */

int sbx_store_quotas_get(sbx_store *s, const char *owner, sbx_quotas *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};
    int c = 0;

    store_p_str(&p, owner);
    if (store_exec(s, Q_QUOTAS_GET, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return sbx_fail(err, SBX_E_NOT_FOUND, "there is no such user");
    *ret = (sbx_quotas){0};
    store_copy(r, 0, c++, ret->tier.name, sizeof ret->tier.name);
    ret->tier.executions = store_limit(r, 0, c++);
    ret->tier.compute_s = store_limit(r, 0, c++);
    ret->tier.longest_s = store_limit(r, 0, c++);
    ret->tier.concurrent = store_limit(r, 0, c++);
    ret->spending_micros = store_limit(r, 0, c++);
    ret->hard_stop = store_int(r, 0, c++);
    ret->runs = store_int(r, 0, c++);
    ret->runs_reserved = store_int(r, 0, c++);
    ret->running_ms = store_int(r, 0, c++);
    ret->paused_ms = store_int(r, 0, c++);
    ret->cost_micros = store_int(r, 0, c++);
    ret->sandboxes = store_int(r, 0, c++);
    ret->sandboxes_reserved = store_int(r, 0, c++);
    ret->reset_ms = store_ms(r, 0, c++);
    return 0;
}

int sbx_store_usage_list(sbx_store *s, const sbx_usage_filter *f, sbx_usage_item *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    bool of_runs = sbx_streq(f->by, "runtime") || sbx_streq(f->by, "package");
    store_params p = {0};

    if (f->limit < 1 || f->limit > SBX_MAX_LIST_ITEMS + 1)
        return sbx_fail_field(err, "limit", "must be between 1 and %d", SBX_MAX_LIST_ITEMS);
    store_p_str(&p, f->owner);
    store_p_str(&p, f->from);
    store_p_str(&p, f->to);
    store_p_str(&p, f->by);
    store_p_str(&p, f->after);
    store_p_int(&p, f->limit);
    store_p_str(&p, f->sandbox);
    if (store_exec(s, of_runs ? Q_USAGE_OF_RUNS : Q_USAGE_LIST, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    for (int i = 0; i < PQntuples(r); i++) {
        sbx_usage_item *o = &ret[i];

        store_copy(r, i, 0, o->key, sizeof o->key);
        o->runs = store_int(r, i, 1);
        o->running_ms = store_int(r, i, 2);
        o->paused_ms = store_int(r, i, 3);
        o->cost_micros = store_int(r, i, 4);
    }
    return PQntuples(r);
}

int sbx_store_spending_set(sbx_store *s, const char *user, int64_t micros, bool hard_stop,
                           sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, user);
    store_p_limit(&p, micros);
    store_p_bool(&p, hard_stop);
    if (store_exec(s, Q_SPENDING_SET, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    return PQntuples(r) ? 0 : sbx_fail(err, SBX_E_NOT_FOUND, "there is no such user");
}

/* --- now and then --- */

int sbx_store_usage_meter(sbx_store *s, int older_s, int64_t *ret_count, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_int(&p, older_s);
    store_p_int(&p, STORE_MAX_ROWS);
    if (store_exec(s, Q_USAGE_METER, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    *ret_count = store_int(r, 0, 0);
    return 0;
}

int sbx_store_quota_over(sbx_store *s, const char *worker, int max, sbx_sandbox_list *ret,
                         sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    sbx_sandbox_list l = {0};
    store_params p = {0};

    store_p_str(&p, worker);
    store_p_int(&p, max);
    if (store_exec(s, Q_QUOTA_OVER, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    l.items = sbx_alloc(((size_t)PQntuples(r) + 1) * sizeof *l.items);
    for (int i = 0; i < PQntuples(r); i++) {
        sbx_sandbox_row *o = &l.items[l.count++];

        store_copy(r, i, 0, o->id, sizeof o->id);
        store_copy(r, i, 1, o->owner, sizeof o->owner);
        o->reason = store_str(r, i, 2);
    }
    *ret = l;
    return 0;
}

int sbx_store_spending_alerts(sbx_store *s, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    if (store_exec(s, Q_SPENDING_ALERTS, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    return (int)store_int(r, 0, 0);
}

int sbx_store_usage_tidy(sbx_store *s, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *given = NULL, *old = NULL;
    store_params none = {0}, p = {0};

    store_p_int(&p, SBX_USAGE_DAYS);
    store_p_int(&p, TIDY_AT_ONCE);
    return store_exec(s, Q_RUN_RELEASE, &none, STORE_AGAIN, &given, err) ||
                   store_exec(s, Q_USAGE_PURGE, &p, STORE_AGAIN, &old, err)
               ? -1
               : 0;
}
