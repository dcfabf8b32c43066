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

/* Whoever uses one meanwhile is not surprised: it is named first, and claimed once it is frozen. */
Test(store_awake, reap_stops_or_deletes_what_is_idle_only_when_it_is_frozen)
{
    static const struct {
        const char *on_idle, *want;
    } cases[] = {{"delete", "deleting"}, {"stop", "stopping"}};

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_id id = make_sandbox("running"), w = sbx_id_new(), other = sbx_id_new();
        const char *frozen[] = {id.s};
        sbx_reap named = {.worker = w.s, .max = 9};
        sbx_reap claimed = {.worker = w.s, .frozen = {frozen, 1}, .max = 9};
        sbx_sandbox_list l = {0};

        sql("UPDATE sandboxes SET on_idle = '%s', expires_at = NULL, worker = '%s',"
            " last_active_at = now() - interval '1 day' WHERE id = '%s'",
            cases[i].on_idle, other.s, id.s);
        OK(sbx_store_sandbox_reap(store, &named, &l, &err));
        cr_assert_eq(l.count, 1u);
        cr_expect_str_eq(l.items[0].state, "running");
        cr_expect_eq(l.items[0].event_seq, 0u);
        sbx_sandbox_list_done(&l);
        cr_expect_eq(sql("SELECT 1 FROM sandboxes WHERE id = '%s' AND state = 'running'", id.s), 1);

        sql("INSERT INTO workers (id, alone) VALUES ('%s', false)", other.s);
        OK(sbx_store_sandbox_reap(store, &claimed, &l, &err));
        cr_expect_eq(l.count, 0u, "what a live worker holds is its own to judge");
        sbx_sandbox_list_done(&l);
        sql("DELETE FROM workers WHERE id = '%s'", other.s);

        OK(sbx_store_sandbox_awake(store, id.s, 60, &err));
        sql("UPDATE sandboxes SET last_active_at = now() - interval '1 day'");
        OK(sbx_store_sandbox_reap(store, &claimed, &l, &err));
        cr_expect_eq(l.count, 0u, "what another worker keeps awake");
        sbx_sandbox_list_done(&l);
        sql("UPDATE sandboxes SET awake_until = NULL");

        OK(sbx_store_sandbox_reap(store, &claimed, &l, &err));
        cr_assert_eq(l.count, 1u);
        cr_expect_str_eq(l.items[0].state, cases[i].want);
        sbx_sandbox_list_done(&l);
        sql("DELETE FROM sandboxes WHERE id = '%s'", id.s);
    }
}
