/* Sandboxes that must not be paused just now, with a real database. */
#include "fixture.h"

TestSuite(store_awake, .init = migrated_database, .fini = drop_database, .timeout = 60);

Test(store_awake, what_is_kept_awake_is_not_paused)
{
    sbx_id id = make_sandbox("running"), w = sbx_id_new();
    sbx_state_change pausing = {.id = id.s, .from = "running", .to = "pausing", .worker = w.s};
    sbx_sandbox_list l = {0};
    sbx_sandbox_row row = {0};

    sql("UPDATE sandboxes SET on_idle = 'pause', idle_timeout_s = 1, expires_at = NULL");
    OK(sbx_store_sandbox_awake(store, id.s, 60, &err));
    sql("UPDATE sandboxes SET last_active_at = now() - interval '1 hour'");
    OK(sbx_store_sandbox_reap(store, &(sbx_reap){.worker = w.s, .max = 9}, &l, &err));
    cr_expect_eq(l.count, 0u);
    sbx_sandbox_list_done(&l);
    FAILS(sbx_store_sandbox_set_state(store, &pausing, &row, &err), CONFLICT);
    OK(sbx_store_sandbox_awake(store, id.s, 0, &err));
    OK(sbx_store_sandbox_set_state(store, &pausing, &row, &err));
    sbx_sandbox_row_done(&row);
    FAILS(sbx_store_sandbox_awake(store, id.s, 60, &err), CONFLICT);
}
