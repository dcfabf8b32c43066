/* What breaks: the server, the way to it, other workers, and time. */
#include "fixture.h"
#include "store/internal.h"
#include "store/link.h"
#include <poll.h>
#include <signal.h>

static proxy p;
static atomic_bool ready; /* of a helper thread */
static char proxy_url[512];

/* `store` goes through the proxy; sql() does not. */
static void setup(void)
{
    migrated_database();
    sbx_store_free(store);
    proxy_start(&p, proxy_url, sizeof proxy_url);
    OK(sbx_store_new(proxy_url, NULL, secrets, &store, &err));
}

static void teardown(void)
{
    sbx_job_scope(0, NULL);
    sbx_store_free(store);
    store = NULL;
    proxy_end(&p);
    drop_database();
}

TestSuite(store_faults, .init = setup, .fini = teardown, .timeout = 90);

Test(store_faults, a_backend_that_was_terminated_between_statements_is_replaced)
{
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row r = new_row(&owner, NULL);

    OK(sbx_store_ping(store, &err));
    cr_assert_eq(sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname "
                     "= current_database() AND application_name = 'sandboxd'"),
                 1);
    EVENTUALLY(sql("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "
                   "application_name = 'sandboxd'") == 0);
    OK(sbx_store_sandbox_insert(store, &r, NULL, 60, &err));
}

/* What is found only by sending counts as a failure to reach the database, and three of those in a
 * row refuse everybody's calls. */
Test(store_faults, a_connection_that_the_server_ended_while_idle_is_known_before_it_is_used)
{
    store_target target = {.url = db_url, .app = "idle"};
    store_link l = {0};
    struct pollfd end = {.events = POLLRDHUP};

    OK(store_link_open(&l, &target, sbx_now_ms() + 5000, &err));
    cr_expect(store_link_alive(&l));
    cr_assert_eq(sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname "
                     "= current_database() AND application_name = 'idle'"),
                 1);
    end.fd = PQsocket(l.pg);
    cr_assert_eq(poll(&end, 1, 5000), 1);
    cr_expect_not(store_link_alive(&l));
    cr_expect_null(l.pg);
}

/* Holds a row's lock until the statement under test waits for it, then ends that backend. */
static void *terminate_waiting(void *arg)
{
    PGconn *pg = admin_connect(db_name);
    char text[256];

    PQclear(PQexec(pg, "BEGIN"));
    snprintf(text, sizeof text, "SELECT 1 FROM sandboxes WHERE id = '%s' FOR UPDATE",
             (const char *)arg);
    PQclear(PQexec(pg, text));
    atomic_store(&ready, true);
    UNTIL(
        sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = "
            "current_database() AND application_name = 'sandboxd' AND wait_event_type = 'Lock'") ==
        1);
    PQclear(PQexec(pg, "COMMIT"));
    PQfinish(pg);
    return NULL;
}

Test(store_faults, a_backend_terminated_in_the_middle_of_a_change_of_state)
{
    sbx_id id = make_sandbox("creating");
    sbx_state_change c = {.id = id.s, .from = "creating", .to = "running"};
    sbx_sandbox_row o = {0};
    pthread_t t;

    pthread_create(&t, NULL, terminate_waiting, id.s);
    EVENTUALLY(atomic_load(&ready));
    OK(sbx_store_sandbox_set_state(store, &c, &o, &err));
    pthread_join(t, NULL);
    cr_expect_str_eq(o.state, "running");
    cr_expect_eq(sql("SELECT count(*) FROM events WHERE type = 'sandbox.running'"), 1);
    sbx_sandbox_row_done(&o);
}

Test(store_faults, an_insert_whose_answer_was_lost_is_found_again)
{
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row r = new_row(&owner, NULL);

    OK(sbx_store_ping(store, &err));
    atomic_store(&p.mode, PROXY_CUT_ANSWER);
    OK(sbx_store_sandbox_insert(store, &r, NULL, 60, &err));
    cr_expect_eq(atomic_load(&p.cuts), 1);
    cr_expect_gt(r.created_ms, 0);
    cr_expect_eq(sql("SELECT count(*) FROM sandboxes"), 1);
    cr_expect_eq(sql("SELECT count(*) FROM events"), 1);
}

Test(store_faults, an_insert_that_never_arrived_is_sent_again)
{
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row r = new_row(&owner, NULL);

    OK(sbx_store_ping(store, &err));
    atomic_store(&p.mode, PROXY_CUT_QUERY);
    OK(sbx_store_sandbox_insert(store, &r, NULL, 60, &err));
    cr_expect_eq(atomic_load(&p.cuts), 1);
    cr_expect_eq(sql("SELECT count(*) FROM sandboxes"), 1);
}

Test(store_faults, a_change_of_state_whose_answer_was_lost_is_success)
{
    sbx_id id = make_sandbox("creating");
    sbx_state_change c = {.id = id.s, .from = "creating", .to = "running", .started = true};
    sbx_sandbox_row o = {0};

    for (int mode = PROXY_CUT_ANSWER; mode <= PROXY_CUT_QUERY; mode++) {
        atomic_store(&p.mode, mode);
        OK(sbx_store_sandbox_set_state(store, &c, &o, &err));
        cr_expect_str_eq(o.state, c.to);
        sbx_sandbox_row_done(&o);
        c = (sbx_state_change){.id = id.s, .from = "running", .to = "deleting", .deadline_s = 60};
    }
    cr_expect_eq(atomic_load(&p.cuts), 2);
    cr_expect_eq(sql("SELECT count(*) FROM events"), 3);
    FAILS(sbx_store_sandbox_set_state(store, &c, &o, &err), CONFLICT);
}

Test(store_faults, a_reap_whose_answer_was_lost_returns_its_rows)
{
    sbx_sandbox_list l = {0};
    sbx_id w = sbx_id_new();

    for (int i = 0; i < 3; i++)
        make_sandbox("running");
    sql("UPDATE sandboxes SET expires_at = now() - interval '1 s'");
    atomic_store(&p.mode, PROXY_CUT_ANSWER);
    OK(sbx_store_sandbox_reap(store, &(sbx_reap){.worker = w.s, .max = 10}, &l, &err));
    cr_expect_eq(atomic_load(&p.cuts), 1);
    cr_expect_eq(l.count, 3u);
    sbx_sandbox_list_done(&l);
}

Test(store_faults, a_frozen_server_costs_a_job_its_deadline_and_no_more)
{
    int64_t since;

    OK(sbx_store_ping(store, &err));
    atomic_store(&p.mode, PROXY_FREEZE);
    since = sbx_now_ms();
    sbx_job_scope(sbx_now_ms() + 300, NULL);
    FAILS(sbx_store_ping(store, &err), TIMEOUT);
    cr_expect_lt(sbx_now_ms() - since, 1500);
    /* A connect to it ends as well, and others are then refused at once. */
    sbx_job_scope(0, NULL);
    since = sbx_now_ms();
    FAILS(sbx_store_ping(store, &err), STORE_UNAVAILABLE);
    cr_expect_lt(sbx_now_ms() - since, 6000);
    atomic_store(&p.mode, PROXY_PASS);
    EVENTUALLY(sbx_store_ping(store, &err) == 0);
}

static void *raise_flag(void *arg)
{
    (void)poll(NULL, 0, 200);
    atomic_store((atomic_bool *)arg, true);
    return NULL;
}

Test(store_faults, a_cancelled_job_leaves_a_frozen_server)
{
    atomic_bool cancelled = false;
    int64_t since = sbx_now_ms();
    pthread_t t;

    OK(sbx_store_ping(store, &err));
    atomic_store(&p.mode, PROXY_FREEZE);
    sbx_job_scope(0, &cancelled);
    pthread_create(&t, NULL, raise_flag, &cancelled);
    FAILS(sbx_store_ping(store, &err), CANCELLED);
    cr_expect_lt(sbx_now_ms() - since, 3000);
    pthread_join(t, NULL);
    atomic_store(&p.mode, PROXY_PASS);
}

Test(store_faults, a_backend_stopped_by_a_signal_does_not_hang_a_worker)
{
    int64_t pid, since;

    OK(sbx_store_ping(store, &err));
    pid = sql("SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND "
              "application_name = 'sandboxd'");
    if (kill((pid_t)pid, SIGSTOP) != 0)
        cr_skip_test("may not signal the server's processes");
    since = sbx_now_ms();
    sbx_job_scope(sbx_now_ms() + 500, NULL);
    FAILS(sbx_store_ping(store, &err), TIMEOUT);
    cr_expect_lt(sbx_now_ms() - since, 1500);
    sbx_job_scope(0, NULL);
    OK(sbx_store_ping(store, &err));
    kill((pid_t)pid, SIGCONT);
    EVENTUALLY(sql("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "
                   "pid = %lld",
                   (long long)pid) == 0);
}

Test(store_faults, a_statement_that_was_given_up_ends_on_the_server)
{
    sbx_id id = make_sandbox("creating");
    sbx_state_change c = {.id = id.s, .from = "creating", .to = "running"};
    sbx_sandbox_row o = {0};
    PGconn *pg = admin_connect(db_name);
    char text[128];

    PQclear(PQexec(pg, "BEGIN"));
    snprintf(text, sizeof text, "SELECT 1 FROM sandboxes WHERE id = '%s' FOR UPDATE", id.s);
    PQclear(PQexec(pg, text));
    sbx_job_scope(sbx_now_ms() + 200, NULL);
    FAILS(sbx_store_sandbox_set_state(store, &c, &o, &err), TIMEOUT);
    sbx_job_scope(0, NULL);
    EVENTUALLY(sql("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "
                   "application_name = 'sandboxd'") == 0);
    PQclear(PQexec(pg, "COMMIT"));
    PQfinish(pg);
    cr_expect_eq(sql("SELECT count(*) FROM sandboxes WHERE state = 'creating'"), 1);
}

Test(store_faults, a_server_that_is_away_is_told_at_once_and_found_again)
{
    int64_t since;

    OK(sbx_store_ping(store, &err));
    proxy_down(&p);
    since = sbx_now_ms();
    for (int i = 0; i < 200; i++)
        FAILS(sbx_store_ping(store, &err), STORE_UNAVAILABLE);
    cr_expect_lt(sbx_now_ms() - since, 5000);
    proxy_run(&p);
    EVENTUALLY(sbx_store_ping(store, &err) == 0);
}

static void *deadlock_thread(void *arg)
{
    PGconn *pg = admin_connect(db_name);
    char text[256];
    char(*ids)[SBX_ID_LEN + 1] = arg;

    PQclear(PQexec(pg, "SET deadlock_timeout = '10min'; BEGIN"));
    snprintf(text, sizeof text, "UPDATE sandboxes SET pids = 50 WHERE id = '%s'", ids[1]);
    PQclear(PQexec(pg, text));
    atomic_store(&ready, true);
    UNTIL(sql("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "
              "application_name = 'sandboxd' AND wait_event_type = 'Lock'") == 1);
    snprintf(text, sizeof text, "UPDATE sandboxes SET pids = 50 WHERE id = '%s'", ids[0]);
    PQclear(PQexec(pg, text));
    PQclear(PQexec(pg, "COMMIT"));
    PQfinish(pg);
    return NULL;
}

Test(store_faults, a_deadlock_is_tried_again)
{
    char ids[2][SBX_ID_LEN + 1];
    sbx_sandbox_refs frozen = {0};
    const char *both[] = {ids[0], ids[1]};
    pthread_t t;

    for (int i = 0; i < 2; i++)
        sbx_copy(ids[i], sizeof ids[i], make_sandbox("running").s);
    /* The batch locks in the order of the table, which is that of the inserts. */
    pthread_create(&t, NULL, deadlock_thread, ids);
    EVENTUALLY(atomic_load(&ready));
    OK(sbx_store_sandbox_touch(store, both, 2, &frozen, &err));
    pthread_join(t, NULL);
    cr_expect_eq(sql("SELECT count(*) FROM sandboxes WHERE pids = 50"), 2);
}

Test(store_faults, behind_a_pooler_nothing_is_prepared)
{
    sbx_store *pooled = NULL, *was = store;
    sbx_worker_news news = {0};
    sbx_id w, id;

    OK(sbx_store_new(proxy_url, db_url, secrets, &pooled, &err));
    store = pooled;
    id = make_sandbox("running");
    OK(sbx_store_join(pooled, true, &w, &err));
    OK(sbx_store_heartbeat(pooled, w.s, &news, &err));
    cr_expect(sbx_id_valid(id.s));
    /* A proxy that cuts prepared statements finds none. */
    atomic_store(&p.mode, PROXY_CUT_QUERY);
    OK(sbx_store_ping(pooled, &err));
    cr_expect_eq(atomic_load(&p.cuts), 0);
    sbx_store_leave(pooled, w.s);
    sbx_store_free(pooled);
    store = was;
}

Test(store_faults, a_prepared_statement_that_vanished_is_survived)
{
    store_thread_conn *c;

    OK(sbx_store_ping(store, &err));
    /* As a pooler does that nobody announced: another session, without our statements. */
    c = pthread_getspecific(store->key);
    PQclear(PQexec(c->link.pg, "DEALLOCATE ALL"));
    cr_expect(!atomic_load(&store->pooled));
    OK(sbx_store_ping(store, &err));
    cr_expect(atomic_load(&store->pooled));
}

Test(store_faults, a_plan_that_a_migration_made_stale_is_made_again)
{
    sbx_id id;

    OK(sbx_store_cluster(store, &id, &err));
    sql("ALTER TABLE meta ALTER COLUMN value TYPE varchar(64)");
    OK(sbx_store_cluster(store, &id, &err));
}

Test(store_faults, overdue_and_ownerless_rows_are_claimed_once)
{
    sbx_id late = make_sandbox("creating"), orphan = make_sandbox("creating");
    sbx_id busy = make_sandbox("creating"), w, dead = sbx_id_new();
    sbx_sandbox_list l = {0};

    make_sandbox("running");
    OK(sbx_store_join(store, false, &w, &err));
    sql("UPDATE sandboxes SET worker = '%s'", w.s);
    sql("UPDATE sandboxes SET worker = '%s' WHERE id = '%s'", dead.s, orphan.s);
    sql("UPDATE sandboxes SET deadline_at = now() - interval '1 s' WHERE id = '%s'", late.s);
    OK(sbx_store_sandbox_overdue(store, w.s, 10, &l, &err));
    cr_expect_eq(l.count, 2u);
    for (size_t i = 0; i < l.count; i++) {
        cr_expect_str_neq(l.items[i].id, busy.s);
        cr_expect_str_eq(l.items[i].state, "creating");
        cr_expect_str_eq(l.items[i].worker, w.s);
    }
    sbx_sandbox_list_done(&l);
    OK(sbx_store_sandbox_overdue(store, w.s, 10, &l, &err));
    cr_expect_eq(l.count, 0u);
}

static void *ping_thread(void *arg)
{
    sbx_err e = {0};

    return sbx_store_ping(arg, &e) == 0 ? NULL : arg;
}

Test(store_faults, the_connection_of_a_thread_ends_with_it)
{
    for (int i = 0; i < 20; i++) {
        pthread_t t;
        void *failed;

        pthread_create(&t, NULL, ping_thread, store);
        pthread_join(t, &failed);
        cr_expect_null(failed);
    }
    EVENTUALLY(sql("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "
                   "application_name = 'sandboxd'") == 0);
}
