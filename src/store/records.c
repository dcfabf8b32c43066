/* The table `sandbox_executions`. Executions arrive in batches as one JSON document: one statement,
 * one round trip, and applying it twice is the same as once. A record whose sandbox is gone for
 * good is left out. */
#include "sbx/store/records.h"

#include "internal.h"

#define MAX_BATCH_BYTES (16 * MIB)

void sbx_exec_record_done(sbx_exec_record *r)
{
    free(r->command);
    memset(r, 0, sizeof *r);
}

static void add_record(sbx_jw *w, const sbx_exec_record *r)
{
    sbx_jw_obj(w, NULL);
    sbx_jw_str(w, "id", r->id);
    sbx_jw_str(w, "sandbox", r->sandbox);
    sbx_jw_str(w, "owner", r->owner);
    sbx_jw_str(w, "kind", r->kind);
    sbx_jw_raw(w, "command", r->command ? r->command : "[]");
    sbx_jw_int(w, "started_ms", r->started_ms);
    sbx_jw_int(w, "duration_ms", r->duration_ms);
    if (r->exit_code >= 0)
        sbx_jw_int(w, "exit_code", r->exit_code);
    if (r->signal > 0)
        sbx_jw_int(w, "signal", r->signal);
    sbx_jw_bool(w, "timed_out", r->timed_out);
    sbx_jw_bool(w, "oom_killed", r->oom_killed);
    sbx_jw_bool(w, "truncated", r->truncated);
    sbx_jw_str(w, "error", r->error);
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
