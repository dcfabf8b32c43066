/* Runs of code in the tables: what two tell of one, and those whose worker is dead. */
#include "fixture.h"
#include "sbx/store/runs.h"

TestSuite(store_runs, .init = migrated_database, .fini = drop_database, .timeout = 60);

static sbx_exec_record record_of(const char *id, const char *sandbox)
{
    sbx_exec_record r = {.kind = "run",
                         .command = "[\"python3\",\"main.py\"]",
                         .started_ms = 1760000000123,
                         .duration_ms = 5,
                         .exit_code = 3};

    sbx_copy(r.id, sizeof r.id, id);
    sbx_copy(r.sandbox, sizeof r.sandbox, sandbox);
    return r;
}

static void expect_whole(const char *sandbox, const char *id)
{
    sbx_exec_record o = {0};

    OK(sbx_store_exec_get(store, owner.s, sandbox, id, &o, &err));
    cr_expect_str_eq(o.runtime, "python");
    cr_expect_str_eq(o.packages, "[\"a==1\"]");
    cr_expect_str_eq(o.error, "timeout");
    cr_expect_eq(o.exit_code, 3);
    sbx_exec_record_done(&o);
}

Test(store_runs, what_the_agent_and_the_request_tell_is_one_record_in_either_order)
{
    sbx_id box = make_sandbox("running");

    for (int order = 0; order < 3; order++) {
        sbx_id id = sbx_id_new();
        sbx_exec_record r[2] = {record_of(id.s, box.s), record_of(id.s, box.s)};
        sbx_exec_record *full = &r[order == 1];

        for (int i = 0; i < 2; i++)
            sbx_copy(r[i].runtime, sizeof r[i].runtime, "python");
        sbx_copy(full->error, sizeof full->error, "timeout");
        full->packages = "[\"a==1\"]";
        if (order == 2) { /* in one batch */
            OK(sbx_store_exec_insert(store, r, 2, &err));
        } else {
            OK(sbx_store_exec_insert(store, &r[0], 1, &err));
            OK(sbx_store_exec_insert(store, &r[1], 1, &err));
        }
        expect_whole(box.s, id.s);
    }
}

Test(store_runs, the_runtime_of_one_that_goes_on_is_recorded_and_stays)
{
    sbx_id box = make_sandbox("running"), id = sbx_id_new();
    sbx_exec_record r = record_of(id.s, box.s), o = {0};

    r.running = true;
    sbx_copy(r.runtime, sizeof r.runtime, "typescript");
    OK(sbx_store_exec_insert(store, &r, 1, &err));
    OK(sbx_store_exec_get(store, owner.s, box.s, id.s, &o, &err));
    cr_expect(o.running);
    cr_expect_str_eq(o.runtime, "typescript");
    sbx_exec_record_done(&o);
    r.running = false;
    r.runtime[0] = '\0';
    OK(sbx_store_exec_insert(store, &r, 1, &err));
    OK(sbx_store_exec_get(store, owner.s, box.s, id.s, &o, &err));
    cr_expect_not(o.running);
    cr_expect_str_eq(o.runtime, "typescript");
    sbx_exec_record_done(&o);
}

/* The sandbox is there for one run. */
static void of_run(const char *box, const char *run, const char *by)
{
    sql("UPDATE sandboxes SET run = '%s', run_worker = '%s' WHERE id = '%s'", run, by, box);
}

Test(store_runs, those_of_a_dead_worker_end_now_and_are_recorded_as_interrupted)
{
    sbx_id box = make_sandbox("running"), mine = make_sandbox("running"), id = sbx_id_new(),
           other = sbx_id_new(), dead = sbx_id_new();
    sbx_exec_record o = {0};
    int64_t n = -1;

    sql("INSERT INTO workers (id, alone) VALUES ('%s', false)", owner.s);
    of_run(mine.s, other.s, owner.s);
    of_run(box.s, id.s, dead.s);
    sql("UPDATE sandboxes SET expires_at = now() + interval '1 hour', on_timeout = 'pause'");
    OK(sbx_store_run_orphans(store, owner.s, 100, &n, &err));
    cr_expect_eq(n, 1);
    cr_expect_eq(sql("SELECT count(*) FROM sandboxes WHERE id = '%s' AND expires_at <= now()"
                     " AND on_timeout = 'delete' AND run_worker IS NULL",
                     box.s),
                 1);
    OK(sbx_store_exec_get(store, owner.s, box.s, id.s, &o, &err));
    cr_expect_str_eq(o.error, "interrupted");
    cr_expect_str_eq(o.kind, "run");
    cr_expect_str_eq(o.runtime, "python");
    cr_expect_eq(o.exit_code, -1);
    cr_expect_not(o.running);
    sbx_exec_record_done(&o);
    OK(sbx_store_run_orphans(store, owner.s, 100, &n, &err));
    cr_expect_eq(n, 0, "once is enough");
    FAILS(sbx_store_exec_get(store, owner.s, mine.s, other.s, &o, &err), NOT_FOUND);
    sql("DELETE FROM workers");
    OK(sbx_store_run_orphans(store, owner.s, 100, &n, &err));
    cr_expect_eq(n, 0, "a worker that was taken for dead leaves its own runs alone");
    OK(sbx_store_run_orphans(store, dead.s, 100, &n, &err));
    cr_expect_eq(n, 1);
}

Test(store_runs, one_that_was_recorded_stays_as_it_is_and_one_that_runs_is_ended)
{
    sbx_id box[2] = {make_sandbox("running"), make_sandbox("running")}, id = sbx_id_new(),
           running = sbx_id_new(), dead = sbx_id_new();
    sbx_exec_record r[2] = {record_of(id.s, box[0].s), record_of(running.s, box[1].s)}, o = {0};
    int64_t n = -1;

    sbx_copy(r[0].runtime, sizeof r[0].runtime, "node");
    r[1].running = true;
    sbx_copy(r[1].runtime, sizeof r[1].runtime, "typescript"); /* of which `node` is the template */
    OK(sbx_store_exec_insert(store, r, 2, &err));
    of_run(box[0].s, id.s, dead.s);
    of_run(box[1].s, running.s, dead.s);
    OK(sbx_store_run_orphans(store, owner.s, 100, &n, &err));
    cr_expect_eq(n, 2);
    OK(sbx_store_exec_get(store, owner.s, box[0].s, id.s, &o, &err));
    cr_expect_eq(o.exit_code, 3);
    cr_expect_str_empty(o.error);
    sbx_exec_record_done(&o);
    OK(sbx_store_exec_get(store, owner.s, box[1].s, running.s, &o, &err));
    cr_expect_not(o.running);
    cr_expect_str_eq(o.error, "interrupted");
    cr_expect_eq(o.started_ms, 1760000000123, "as the agent told it");
    cr_expect_str_eq(o.runtime, "typescript");
    sbx_exec_record_done(&o);
}
