/* The columns `run` and `run_worker` of the table `sandboxes`. */
#include "sbx/store/runs.h"

#include "internal.h"

int sbx_store_run_orphans(sbx_store *s, const char *worker, int64_t limit, int64_t *ret,
                          sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_int(&p, limit);
    store_p_str(&p, worker);
    if (store_exec(s, Q_RUN_ORPHANS, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    *ret = store_int(r, 0, 0);
    return 0;
}

int sbx_store_batch_hold(sbx_store *s, const char *sandbox, const char *worker, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, sandbox);
    store_p_str(&p, worker);
    if (store_exec(s, Q_BATCH_HOLD, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return sbx_fail(err, SBX_E_CONFLICT, "the sandbox was deleted while it was created");
    return 0;
}

int sbx_store_batch_keep(sbx_store *s, const char *const *ids, size_t count, const char *worker,
                         sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf list = SBX_BUF_INIT(64 * KIB);
    store_params p = {0};

    store_add_array(&list, ids, count);
    if (sbx_buf_failed(&list))
        return sbx_fail(err, SBX_E_INTERNAL, "too many sandboxes in one batch");
    store_p_str(&p, list.data);
    store_p_str(&p, worker);
    if (store_exec(s, Q_BATCH_KEEP, &p, STORE_ONCE, &r, err) != 0)
        return -1;
    if ((size_t)PQntuples(r) != count)
        return sbx_fail(err, SBX_E_CAPACITY,
                        "this server stood still and was taken for dead; try again");
    return 0;
}
