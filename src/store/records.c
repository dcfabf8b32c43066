/* The table `sandbox_executions`. Executions arrive in batches as one JSON document: one statement,
 * one round trip, and applying it twice is the same as once. Of a run there may be two: what its
 * agent tells, and what its request knows, which adds packages (`[]`: none) and error. A record
 * whose sandbox is gone for good is left out. */
#include "sbx/store/records.h"

#include "internal.h"
#include "sbx/core/limits.h"

#define MAX_BATCH_BYTES (16 * MIB)

void sbx_exec_record_done(sbx_exec_record *r)
{
    free(r->command);
    free(r->packages);
    memset(r, 0, sizeof *r);
}

static void add_record(sbx_jw *w, const sbx_exec_record *r)
{
    sbx_jw_obj(w, NULL);
    sbx_jw_str(w, "id", r->id);
    sbx_jw_str(w, "sandbox", r->sandbox);
    sbx_jw_str(w, "kind", r->kind);
    sbx_jw_raw(w, "command", r->command ? r->command : "[]");
    sbx_jw_int(w, "started_ms", r->started_ms);
    if (!r->running)
        sbx_jw_int(w, "duration_ms", r->duration_ms);
    if (r->exit_code >= 0)
        sbx_jw_int(w, "exit_code", r->exit_code);
    if (r->signal > 0)
        sbx_jw_int(w, "signal", r->signal);
    sbx_jw_bool(w, "timed_out", r->timed_out);
    sbx_jw_bool(w, "oom_killed", r->oom_killed);
    sbx_jw_bool(w, "truncated", r->truncated);
    sbx_jw_bool(w, "cpu_limit", r->cpu_limit);
    sbx_jw_bool(w, "background", r->background);
    sbx_jw_bool(w, "terminal", r->terminal);
    if (r->measured) {
        sbx_jw_int(w, "cpu_ms", r->cpu_ms);
        sbx_jw_int(w, "peak_kb", r->peak_kb);
        sbx_jw_int(w, "chunks", r->chunks);
    }
    sbx_jw_str(w, "error", r->error);
    if (*r->runtime)
        sbx_jw_str(w, "runtime", r->runtime);
    if (r->packages)
        sbx_jw_raw(w, "packages", r->packages);
    sbx_jw_obj_end(w);
}

int sbx_store_exec_insert(sbx_store *s, const sbx_exec_record *r, size_t count, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *res = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(MAX_BATCH_BYTES);
    sbx_jw w = SBX_JW(&b);
    store_params p = {0};

    if (count == 0)
        return 0;
    sbx_jw_arr(&w, NULL);
    for (size_t i = 0; i < count; i++)
        add_record(&w, &r[i]);
    sbx_jw_arr_end(&w);
    if (sbx_buf_failed(&b))
        return sbx_fail(err, SBX_E_INTERNAL, "a batch of %zu executions is too large", count);
    store_p_str(&p, b.data);
    return store_exec(s, Q_EXEC_INSERT, &p, STORE_AGAIN, &res, err);
}

/* --- reading --- */

void sbx_exec_page_done(sbx_exec_page *p)
{
    for (size_t i = 0; i < p->count; i++)
        sbx_exec_record_done(&p->items[i]);
    free(p->items);
    memset(p, 0, sizeof *p);
}

static void read_record(const PGresult *r, int row, sbx_exec_record *o)
{
    int c = 0;

    memset(o, 0, sizeof *o);
    store_copy(r, row, c++, o->id, sizeof o->id);
    store_copy(r, row, c++, o->sandbox, sizeof o->sandbox);
    store_copy(r, row, c++, o->kind, sizeof o->kind);
    o->command = store_str(r, row, c++);
    o->started_ms = store_ms(r, row, c++);
    o->running = PQgetisnull(r, row, c);
    o->duration_ms = store_int(r, row, c++);
    o->exit_code = PQgetisnull(r, row, c) ? -1 : (int)store_int(r, row, c);
    c++;
    o->signal = (int)store_int(r, row, c++);
    o->timed_out = store_int(r, row, c++);
    o->oom_killed = store_int(r, row, c++);
    o->truncated = store_int(r, row, c++);
    store_copy(r, row, c++, o->error, sizeof o->error);
    o->cpu_limit = store_int(r, row, c++);
    o->background = store_int(r, row, c++);
    o->terminal = store_int(r, row, c++);
    o->measured = !PQgetisnull(r, row, c);
    o->cpu_ms = store_int(r, row, c++);
    o->peak_kb = store_int(r, row, c++);
    o->chunks = store_int(r, row, c++);
    store_copy(r, row, c++, o->runtime, sizeof o->runtime);
    o->packages = store_str(r, row, c++);
}

int sbx_store_exec_list(sbx_store *s, const char *owner, const char *sandbox, int64_t before_ms,
                        const char *before_id, int limit, sbx_exec_page *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    sbx_exec_page page = {0};
    store_params p = {0};

    if (limit < 1 || limit > SBX_MAX_LIST_ITEMS + 1)
        return sbx_fail_field(err, "limit", "must be between 1 and %d", SBX_MAX_LIST_ITEMS);
    store_p_str(&p, owner);
    store_p_str(&p, sandbox);
    store_p_time_us(&p, before_ms * 1000);
    store_p_str(&p, before_id ? before_id : "");
    store_p_int(&p, limit);
    if (store_exec(s, Q_EXEC_LIST, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    page.count = (size_t)PQntuples(r);
    page.items = sbx_alloc((page.count + 1) * sizeof *page.items);
    for (size_t i = 0; i < page.count; i++)
        read_record(r, (int)i, &page.items[i]);
    *ret = page;
    return 0;
}

int sbx_store_exec_get(sbx_store *s, const char *owner, const char *sandbox, const char *id,
                       sbx_exec_record *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, owner);
    store_p_str(&p, sandbox);
    store_p_str(&p, id);
    if (store_exec(s, Q_EXEC_GET, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return sbx_fail(err, SBX_E_NOT_FOUND, "the sandbox has no command %.*s", SBX_ID_LEN, id);
    read_record(r, 0, ret);
    return 0;
}
