/* The audit log with a real database: what is written, merged, kept through an outage, and that
 * nothing but the retention can take anything away. */
#include "fixture.h"
#include "sbx/audit/audit.h"

static proxy p;
static char proxy_url[512];
static sbx_metrics *metrics;
static sbx_audit *audit;

static void setup(void)
{
    migrated_database();
    sbx_store_free(store);
    proxy_start(&p, proxy_url, sizeof proxy_url);
    OK(sbx_store_new(proxy_url, NULL, secrets, &store, &err));
    metrics = sbx_metrics_new();
    audit = sbx_audit_new(store, metrics, 90);
}

static void teardown(void)
{
    sbx_audit_free(audit);
    sbx_metrics_free(metrics);
    sbx_store_free(store);
    store = NULL;
    proxy_end(&p);
    drop_database();
}

TestSuite(store_audit, .init = setup, .fini = teardown, .timeout = 120);

static sbx_audit_entry act(const char *action, int status)
{
    sbx_audit_entry e = {.method = "POST", .action = action, .status = status};

    sbx_copy(e.user, sizeof e.user, owner.s);
    sbx_copy(e.request_id, sizeof e.request_id, "req-1");
    sbx_copy(e.address, sizeof e.address, "192.0.2.7");
    return e;
}

static void add(const char *action, int status)
{
    sbx_audit_entry e = act(action, status);

    sbx_audit_add(audit, &e);
}

static int64_t rows(void)
{
    return sql("SELECT count(*) FROM audit");
}

static bool metric_is(const char *line)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(SBX_METRICS_PAGE_BYTES);

    sbx_metrics_text(metrics, &b);
    return strstr(b.data, line) != NULL;
}

Test(store_audit, acts_wait_for_the_tick_and_come_back_as_they_were)
{
    sbx_audit_filter f = {.limit = 10};
    sbx_audit_entry e = act("pool_set", 403);
    sbx_audit_page page;
    sbx_id object = sbx_id_new(), part = sbx_id_new();

    e.code = SBX_E_FORBIDDEN;
    memcpy(e.object, object.s, sizeof e.object);
    memcpy(e.part, part.s, sizeof e.part);
    sbx_audit_add(audit, &e);
    cr_expect_eq(rows(), 0);
    sbx_audit_tick(audit);
    OK(sbx_store_audit_list(store, &f, &page, &err));
    cr_assert_eq(page.count, 1);
    const sbx_audit_row *row = &page.items[0];
    cr_expect_str_eq(row->user, owner.s);
    cr_expect_null(row->key);
    cr_expect_str_eq(row->address, "192.0.2.7");
    cr_expect_str_eq(row->action, "pool_set");
    cr_expect_str_eq(row->method, "POST");
    cr_expect_str_eq(row->object, object.s);
    cr_expect_str_eq(row->part, part.s);
    cr_expect_str_eq(row->code, "forbidden");
    cr_expect_str_eq(row->request_id, "req-1");
    cr_expect_eq(row->status, 403);
    cr_expect_eq(row->count, 1);
    cr_expect_lt(llabs(row->at_us / 1000 - sbx_wall_ms()), 10000);
    sbx_audit_page_done(&page);
    cr_expect(metric_is("sandboxd_audit_acts_total{result=\"written\"} 1"));
}

Test(store_audit, an_act_of_importance_is_there_when_the_call_returns)
{
    sbx_audit_entry e = act("pool_set", 200);

    sbx_audit_write(audit, &e);
    cr_expect_eq(rows(), 1);
}

Test(store_audit, a_flood_of_refusals_is_one_row_with_a_count)
{
    sbx_audit_entry e = act("sandbox_list", 401);

    e.user[0] = '\0';
    for (int i = 0; i < 5000; i++)
        sbx_audit_add(audit, &e);
    sbx_copy(e.address, sizeof e.address, "192.0.2.8");
    sbx_audit_add(audit, &e);
    for (int i = 0; i < 3; i++)
        add("sandbox_create", 201);
    sbx_audit_tick(audit);
    cr_expect_eq(rows(), 5);
    cr_expect_eq(sql("SELECT max(count) FROM audit"), 5000);
    cr_expect_eq(sql("SELECT count FROM audit WHERE address = '192.0.2.8'"
                     " AND status = 401"),
                 1);
}

Test(store_audit, reads_of_foreign_objects_are_told_from_own_ones_when_they_are_written)
{
    sbx_audit_entry e = act("group_get", 200);
    sbx_id other, mine = sbx_id_new(), theirs = sbx_id_new();

    OK(sbx_store_user_ensure(store, "other", "user", NULL, &other, &err));
    sql("INSERT INTO groups (id, owner, name, metadata, version) VALUES ('%s', '%s', 'a', '{}', 1),"
        " ('%s', '%s', 'b', '{}', 1)",
        mine.s, owner.s, theirs.s, other.s);
    e.foreign_only = true;
    for (int i = 0; i < 3; i++) {
        memcpy(e.object, mine.s, sizeof e.object);
        sbx_audit_add(audit, &e);
        memcpy(e.object, theirs.s, sizeof e.object);
        sbx_audit_add(audit, &e);
    }
    sbx_audit_tick(audit);
    cr_expect_eq(rows(), 1);
    cr_expect_eq(sql("SELECT count FROM audit WHERE object = '%s'", theirs.s), 3);
}

Test(store_audit, an_outage_delays_acts_and_loses_none)
{
    add("sandbox_create", 201);
    proxy_down(&p);
    for (int i = 0; i < 1200; i++)
        add("sandbox_delete", 204);
    sbx_audit_tick(audit);
    cr_expect_eq(rows(), 0);
    proxy_run(&p);
    EVENTUALLY((sbx_audit_tick(audit), rows() == 1201));
    cr_expect(metric_is("sandboxd_audit_waiting 0"));
}

Test(store_audit, a_batch_whose_answer_is_lost_is_written_once)
{
    add("sandbox_create", 201);
    sbx_audit_tick(audit); /* prepares the statement */
    for (int i = 0; i < 10; i++)
        add("sandbox_delete", 204);
    atomic_store(&p.mode, PROXY_CUT_ANSWER);
    EVENTUALLY((sbx_audit_tick(audit), rows() == 11 && atomic_load(&p.cuts) == 1));
    sbx_audit_tick(audit);
    cr_expect_eq(rows(), 11);
}

Test(store_audit, what_there_is_no_room_for_is_counted_and_told_in_the_log_itself)
{
    for (int i = 0; i < SBX_MAX_AUDIT_WAITING + 7; i++)
        add("sandbox_delete", 204);
    cr_expect(metric_is("sandboxd_audit_acts_total{result=\"lost\"} 7"));
    sbx_audit_tick(audit);
    sbx_audit_tick(audit);
    cr_expect_eq(sql("SELECT count(*) FROM audit WHERE action = 'sandbox_delete'"),
                 SBX_MAX_AUDIT_WAITING);
    cr_expect_eq(sql("SELECT count FROM audit WHERE action = 'audit_lost' AND actor IS NULL"), 7);
}

Test(store_audit, one_act_that_the_database_refuses_does_not_take_others_with_it)
{
    static char long_name[80];

    memset(long_name, 'x', sizeof long_name - 1);
    add("sandbox_create", 201);
    add(long_name, 201);
    add("sandbox_delete", 204);
    sbx_audit_tick(audit);
    sbx_audit_tick(audit);
    cr_expect_eq(sql("SELECT count(*) FROM audit WHERE action LIKE 'sandbox%%'"), 2);
    cr_expect_eq(sql("SELECT count FROM audit WHERE action = 'audit_lost'"), 1);
}

/* @return whether the statement was refused by the table's triggers. */
static bool is_refused(const char *statement)
{
    PGconn *pg = admin_connect(db_name);
    PGresult *r = PQexec(pg, statement);
    bool refused = sbx_streq(PQresultErrorField(r, PG_DIAG_SQLSTATE), "42501");

    PQclear(r);
    PQfinish(pg);
    return refused;
}

Test(store_audit, nothing_changes_or_removes_a_row)
{
    static const char *const statements[] = {
        "UPDATE audit SET status = 200",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "SELECT set_config('sandboxd.audit_days', '0', false); DELETE FROM audit",
        "SELECT set_config('sandboxd.audit_days', '-5', false); DELETE FROM audit",
        "SELECT set_config('sandboxd.audit_days', '30', false); DELETE FROM audit",
    };

    add("sandbox_create", 201);
    sbx_audit_tick(audit);
    for (size_t i = 0; i < ARRAY_LEN(statements); i++)
        cr_expect(is_refused(statements[i]), "%s", statements[i]);
    cr_expect_eq(rows(), 1);
}

Test(store_audit, rows_older_than_the_retention_go_and_younger_ones_stay)
{
    bool more;

    sql("INSERT INTO audit (id, at, action) SELECT 'a' || lpad(i::text, 19, '0'),"
        " now() - make_interval(days => i), 'old' FROM generate_series(80, 100) i");
    OK(sbx_store_audit_purge(store, 90, &more, &err));
    cr_expect(!more);
    cr_expect_eq(sql("SELECT count(*) FROM audit"), 10); /* 80 to 89 days */
    cr_expect(is_refused("DELETE FROM audit"));
}

Test(store_audit, filters_add_up_and_pages_follow_each_other)
{
    sbx_audit_filter f = {.limit = 3};
    size_t seen = 0, rounds = 0, got;
    char last[SBX_ID_LEN + 1];
    sbx_audit_page page;

    for (int i = 0; i < 4; i++) {
        add("sandbox_create", 201);
        add("sandbox_create", 409);
        add("sandbox_delete", 503);
    }
    sbx_audit_tick(audit);
    f.action = "sandbox_create";
    do {
        OK(sbx_store_audit_list(store, &f, &page, &err));
        for (size_t i = 0; i < page.count; i++) {
            cr_expect_str_eq(page.items[i].action, "sandbox_create");
            f.before_us = page.items[i].at_us;
            memcpy(last, page.items[i].id, sizeof last);
            f.before_id = last;
            seen++;
        }
        got = page.count;
        sbx_audit_page_done(&page);
        rounds++;
    } while (got == 3);
    cr_expect_eq(seen, 8);
    cr_expect_eq(rounds, 3);
    f = (sbx_audit_filter){.limit = 50, .status_min = 400, .status_max = 499, .user = owner.s};
    OK(sbx_store_audit_list(store, &f, &page, &err));
    cr_expect_eq(page.count, 4);
    sbx_audit_page_done(&page);
    f = (sbx_audit_filter){.limit = 50, .since_ms = sbx_wall_ms() + 60000};
    OK(sbx_store_audit_list(store, &f, &page, &err));
    cr_expect_eq(page.count, 0);
    sbx_audit_page_done(&page);
}
