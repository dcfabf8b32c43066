/* Sandboxes of a batch that is all or none, with a real database. */
#include "fixture.h"
#include "sbx/store/runs.h"

TestSuite(store_batch, .init = migrated_database, .fini = drop_database, .timeout = 60);

Test(store_batch, a_batch_that_is_held_goes_with_its_worker_and_stays_when_it_was_kept)
{
    sbx_id a = make_sandbox("creating"), b = make_sandbox("creating"), worker = sbx_id_new(),
           other = sbx_id_new();
    const char *both[] = {a.s, b.s};
    int64_t n = -1;

    OK(sbx_store_batch_hold(store, a.s, worker.s, &err));
    OK(sbx_store_batch_hold(store, b.s, worker.s, &err));
    sql("UPDATE sandboxes SET state = 'running', expires_at = now() + interval '1 hour'");
    FAILS(sbx_store_batch_hold(store, a.s, worker.s, &err), CONFLICT);
    sql("INSERT INTO workers (id, alone) VALUES ('%s', false)", worker.s);
    OK(sbx_store_run_orphans(store, other.s, 10, &n, &err));
    cr_expect_eq(n, 0, "its worker lives");
    OK(sbx_store_batch_keep(store, both, 2, worker.s, &err));
    sql("DELETE FROM workers");
    OK(sbx_store_run_orphans(store, other.s, 10, &n, &err));
    cr_expect_eq(n, 0, "all of it ran");

    sql("UPDATE sandboxes SET state = 'creating'");
    OK(sbx_store_batch_hold(store, a.s, worker.s, &err));
    OK(sbx_store_batch_hold(store, b.s, worker.s, &err));
    sql("UPDATE sandboxes SET state = 'running' WHERE id = '%s'", a.s);
    OK(sbx_store_run_orphans(store, other.s, 10, &n, &err));
    cr_expect_eq(n, 2);
    cr_expect_eq(sql("SELECT count(*) FROM sandboxes WHERE expires_at <= now()"), 1);
    cr_expect_eq(sql("SELECT count(*) FROM sandbox_executions"), 0);
    FAILS(sbx_store_batch_keep(store, both, 2, worker.s, &err), CAPACITY);
}
