/* Workers among each other: who may work on a database, who is dead, and who says so. */
#include "fixture.h"
#include "store/internal.h"
#include <poll.h>
#include <signal.h>

static proxy p;
static char proxy_url[512];
static sbx_worker_news news; /* of the last heartbeat */

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
    free(sbx_steal(news.dead));
    sbx_job_scope(0, NULL);
    sbx_store_free(store);
    store = NULL;
    proxy_end(&p);
    drop_database();
}

TestSuite(store_workers, .init = setup, .fini = teardown, .timeout = 90);

static sbx_store *another_store(void)
{
    sbx_store *s = NULL;

    OK(sbx_store_new(db_url, NULL, secrets, &s, &err));
    return s;
}

static int beat(sbx_store *s, const sbx_id *w)
{
    free(news.dead);
    news = (sbx_worker_news){0};
    return sbx_store_heartbeat(s, w->s, &news, &err);
}

static int64_t rows(void)
{
    return sql("SELECT count(*) FROM workers");
}

static void silent_for(const sbx_id *w, const char *time)
{
    sql("UPDATE workers SET heartbeat_at = now() - interval '%s' WHERE id = '%s'", time, w->s);
}

/* Without a pause, until just now. */
static void here_for(const sbx_id *w, const char *time)
{
    sql("UPDATE workers SET heartbeat_at = now(), steady_since = now() - interval '%s'"
        " WHERE id = '%s'",
        time, w->s);
}

static bool has_lock(const sbx_id *w)
{
    return sql("SELECT (NOT pg_try_advisory_xact_lock(hashtextextended('%s', 1935833091)))::int",
               w->s);
}

Test(store_workers, a_worker_alone_keeps_others_out_until_it_is_gone)
{
    sbx_store *a = another_store(), *b = another_store();
    sbx_id wa, wb;

    OK(sbx_store_join(a, true, &wa, &err));
    FAILS(sbx_store_join(b, true, &wb, &err), CONFLICT);
    cr_expect(strstr(err.msg, "REDIS_URL"), "%s", err.msg);
    FAILS(sbx_store_join(b, false, &wb, &err), CONFLICT);
    /* As SIGKILL does: no goodbye to anybody. */
    sbx_store_free(a);
    OK(sbx_store_join(b, true, &wb, &err));
    cr_expect_str_neq(wa.s, wb.s);
    sbx_store_free(b);
}

Test(store_workers, workers_with_a_bus_share_and_keep_a_lonely_one_out)
{
    sbx_store *a = another_store(), *b = another_store(), *c = another_store();
    sbx_id wa, wb, wc;

    OK(sbx_store_join(a, false, &wa, &err));
    OK(sbx_store_join(b, false, &wb, &err));
    FAILS(sbx_store_join(c, true, &wc, &err), CONFLICT);
    OK(beat(a, &wa));
    bool leads = news.leads;
    OK(beat(b, &wb));
    cr_expect_eq(news.others, 1);
    cr_expect_neq(news.leads, leads, "one of them does");
    sbx_store_leave(a, wa.s);
    OK(beat(b, &wb));
    cr_expect_eq(news.others, 0, "one has left");
    cr_expect(news.leads);
    sbx_store_leave(b, wb.s);
    cr_expect_eq(sql("SELECT count(*) FROM workers"), 0);
    OK(sbx_store_join(c, true, &wc, &err));
    FAILS(beat(a, &wa), CONFLICT);
    sbx_store_free(a);
    sbx_store_free(b);
    sbx_store_free(c);
}

Test(store_workers, a_heartbeat_takes_its_lock_again_after_a_broken_connection)
{
    sbx_store *b = another_store();
    sbx_id w, other;

    OK(sbx_store_join(store, true, &w, &err));
    /* The way breaks, but the server has not noticed: its session holds the lock still. */
    atomic_store(&p.mode, PROXY_FREEZE);
    sbx_job_scope(sbx_now_ms() + 200, NULL);
    FAILS(beat(store, &w), TIMEOUT);
    sbx_job_scope(0, NULL);
    cr_expect_eq(sql("SELECT count(*) FROM pg_locks WHERE database = (SELECT oid FROM pg_database "
                     "WHERE datname = current_database()) AND locktype = 'advisory'"),
                 2);
    FAILS(sbx_store_join(b, true, &other, &err), CONFLICT);
    atomic_store(&p.mode, PROXY_PASS);
    EVENTUALLY(beat(store, &w) == 0);
    FAILS(sbx_store_join(b, true, &other, &err), CONFLICT);
    cr_expect_eq(sql("SELECT count(*) FROM pg_locks WHERE database = (SELECT oid FROM pg_database "
                     "WHERE datname = current_database()) AND locktype = 'advisory'"),
                 2);

    cr_assert_eq(sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname "
                     "= current_database() AND application_name LIKE 'sandboxd worker%%'"),
                 1);
    OK(sbx_store_join(b, true, &other, &err));
    FAILS(beat(store, &w), CONFLICT);
    sbx_store_free(b);
}

Test(store_workers, a_channel_is_taken_only_from_a_worker_without_heartbeat)
{
    sbx_id id = make_sandbox("running"), wa, wb;
    sbx_store *b = another_store();
    uint64_t epoch = 0, was;
    sbx_sandbox_list l = {0};

    OK(sbx_store_join(store, false, &wa, &err));
    OK(sbx_store_join(b, false, &wb, &err));
    OK(sbx_store_sandbox_take(store, id.s, wa.s, &epoch, &err));
    was = epoch;
    OK(sbx_store_sandbox_take(store, id.s, wa.s, &epoch, &err));
    cr_expect_gt(epoch, was);
    FAILS(sbx_store_sandbox_take(b, id.s, wb.s, &epoch, &err), CONFLICT);
    OK(sbx_store_sandbox_adoptable(b, wb.s, &l, &err));
    cr_expect_eq(l.count, 0u);
    silent_for(&wa, "6 s");
    here_for(&wb, "1 minute");
    OK(beat(b, &wb));
    cr_expect_str_eq(news.dead, wa.s);
    OK(sbx_store_sandbox_adoptable(b, wb.s, &l, &err));
    cr_expect_eq(l.count, 1u);
    sbx_sandbox_list_done(&l);
    OK(sbx_store_sandbox_take(b, id.s, wb.s, &epoch, &err));
    cr_expect_gt(epoch, was + 1);
    OK(beat(store, &wa));
    cr_expect(news.late, "it learns that others may have taken what it had");
    cr_expect_eq(rows(), 2);
    FAILS(sbx_store_sandbox_take(store, id.s, wa.s, &epoch, &err), CONFLICT);
    FAILS(sbx_store_sandbox_take(store, owner.s, wa.s, &epoch, &err), CONFLICT);
    sbx_store_free(b);
}

Test(store_workers, one_that_was_killed_is_dead_when_it_is_late_and_its_lock_is_free)
{
    sbx_store *a = another_store(), *b = another_store();
    sbx_id wa, wb;

    OK(sbx_store_join(a, false, &wa, &err));
    OK(sbx_store_join(b, false, &wb, &err));
    cr_expect(has_lock(&wa));
    sbx_store_free(a);
    EVENTUALLY(!has_lock(&wa));
    silent_for(&wa, "2 seconds");
    here_for(&wb, "1 minute");
    OK(beat(b, &wb));
    cr_expect_null(news.dead, "not late yet");
    silent_for(&wa, "3 seconds");
    here_for(&wb, "1 minute");
    OK(beat(b, &wb));
    cr_assert(news.dead);
    cr_expect_str_eq(news.dead, wa.s);
    cr_expect_not(news.late);
    cr_expect_eq(rows(), 1);
    OK(beat(b, &wb));
    cr_expect_null(news.dead, "told once");
    sbx_store_free(b);
}

Test(store_workers, one_that_stands_still_with_its_lock_is_dead_when_it_is_very_late)
{
    sbx_store *b = another_store();
    sbx_id wa, wb;

    OK(sbx_store_join(store, false, &wa, &err));
    OK(sbx_store_join(b, false, &wb, &err));
    silent_for(&wa, "4 seconds");
    here_for(&wb, "1 minute");
    OK(beat(b, &wb));
    cr_expect_null(news.dead, "slow, but there");
    silent_for(&wa, "5 seconds");
    here_for(&wb, "1 minute");
    OK(beat(b, &wb));
    cr_expect_str_eq(news.dead, wa.s);
    OK(beat(store, &wa));
    cr_expect(news.late);
    cr_expect_eq(rows(), 2, "it is back");
    sbx_store_free(b);
}

Test(store_workers, nobody_judges_who_was_silent_himself)
{
    sbx_store *a = another_store(), *b = another_store();
    sbx_id wa, wb;

    OK(sbx_store_join(a, false, &wa, &err));
    OK(sbx_store_join(b, false, &wb, &err));
    sbx_store_free(a);
    /* As after an outage of the database. */
    silent_for(&wa, "1 minute");
    here_for(&wb, "1 hour");
    silent_for(&wb, "1 minute");
    OK(beat(b, &wb));
    cr_expect(news.late);
    cr_expect_null(news.dead);
    OK(beat(b, &wb));
    cr_expect_not(news.late);
    cr_expect_null(news.dead, "others may need a while to come back");
    here_for(&wb, "3 seconds");
    OK(beat(b, &wb));
    cr_expect_str_eq(news.dead, wa.s);
    sbx_store_free(b);
}

Test(store_workers, a_heartbeat_from_the_future_is_as_late_as_one_from_the_past)
{
    sbx_store *a = another_store(), *b = another_store();
    sbx_id wa, wb;

    OK(sbx_store_join(a, false, &wa, &err));
    OK(sbx_store_join(b, false, &wb, &err));
    sbx_store_free(a);
    silent_for(&wa, "-1 hour");
    silent_for(&wb, "-1 hour");
    OK(beat(b, &wb));
    cr_expect(news.late, "the clock was set back");
    here_for(&wb, "3 seconds");
    OK(beat(b, &wb));
    cr_expect_str_eq(news.dead, wa.s);
    sbx_store_free(b);
}

Test(store_workers, a_worker_of_an_older_release_has_no_lock_and_is_judged_by_time_alone)
{
    sbx_id old = sbx_id_new(), w;

    OK(sbx_store_join(store, false, &w, &err));
    sql("INSERT INTO workers (id, alone) VALUES ('%s', false)", old.s);
    silent_for(&old, "3 seconds");
    here_for(&w, "1 minute");
    OK(beat(store, &w));
    cr_expect_null(news.dead);
    silent_for(&old, "6 seconds");
    here_for(&w, "1 minute");
    OK(beat(store, &w));
    cr_expect_str_eq(news.dead, old.s);
}
