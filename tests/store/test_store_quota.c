/* Tiers, quotas and metering, with a real database: what is refused, what is counted, and what is
 * given back, whatever happens at the same time. */
#include "fixture.h"
#include "sbx/store/usage.h"

static void setup(void)
{
    migrated_database();
}

static void teardown(void)
{
    drop_database();
}

TestSuite(store_quota, .init = setup, .fini = teardown, .timeout = 60);

/* --- tiers and prices --- */

Test(store_quota, a_new_user_is_free_unless_another_tier_is_asked_for)
{
    sbx_id bob, eve;

    OK(sbx_store_user_ensure(store, "bob", "user", NULL, &bob, &err));
    OK(sbx_store_user_ensure(store, "eve", "user", "pro", &eve, &err));
    cr_expect_eq(sql("SELECT count(*) FROM users WHERE (name, tier) IN (('bob', 'free'),"
                     " ('eve', 'pro'), ('ada', 'enterprise'))"),
                 3);
    OK(sbx_store_user_ensure(store, "eve", "user", NULL, &eve, &err));
    FAILS(sbx_store_user_ensure(store, "eve", "user", "free", &eve, &err), CONFLICT);
    FAILS(sbx_store_user_ensure(store, "kim", "user", "gold", &eve, &err), INVALID);
    cr_expect_eq(sql("SELECT count(*) FROM users WHERE name = 'kim'"), 0);
}

Test(store_quota, tiers_are_as_documented_and_each_limit_changes_alone)
{
    sbx_tier tiers[8], now;
    sbx_tier_change change = {
        .to = {.name = "pro", .concurrent = 7, .compute_s = SBX_NO_LIMIT},
        .concurrent = true,
        .compute_s = true,
    };

    cr_assert_eq(sbx_store_tier_list(store, tiers, ARRAY_LEN(tiers), &err), 4);
    cr_expect_str_eq(tiers[0].name, "free");
    cr_expect_eq(tiers[0].executions, 50);
    cr_expect_eq(tiers[0].compute_s, 7200);
    cr_expect_eq(tiers[0].longest_s, 2700);
    cr_expect_eq(tiers[0].concurrent, 5);
    cr_expect_str_eq(tiers[3].name, "enterprise");
    cr_expect_eq(tiers[3].executions, SBX_NO_LIMIT);
    cr_expect_eq(tiers[3].concurrent, SBX_NO_LIMIT);
    OK(sbx_store_tier_change(store, &change, &now, &err));
    cr_expect_eq(now.concurrent, 7);
    cr_expect_eq(now.compute_s, SBX_NO_LIMIT);
    cr_expect_eq(now.executions, 500);
    cr_expect_eq(now.longest_s, 18000);
    sbx_copy(change.to.name, sizeof change.to.name, "gold");
    FAILS(sbx_store_tier_change(store, &change, &now, &err), NOT_FOUND);
}

Test(store_quota, a_price_changes_alone)
{
    sbx_price prices[8], one = {.size = "nano", .micros = 7, .paused_micros = -1};

    cr_assert_eq(sbx_store_price_list(store, prices, ARRAY_LEN(prices), &err), 5);
    cr_expect_str_eq(prices[0].size, "nano");
    cr_expect_eq(prices[0].micros, 100000);
    cr_expect_str_eq(prices[4].size, "xlarge");
    cr_expect_eq(prices[4].paused_micros, 160000);
    OK(sbx_store_price_change(store, &one, &err));
    cr_expect_eq(one.micros, 7);
    cr_expect_eq(one.paused_micros, 10000);
    sbx_copy(one.size, sizeof one.size, "huge");
    FAILS(sbx_store_price_change(store, &one, &err), NOT_FOUND);
}

/* --- limits --- */

static sbx_id limited;

/* A user of the tier "pro", of which only what is given has a limit. */
static void limit_to(const char *limits)
{
    sql("UPDATE tiers SET executions = NULL, compute_s = NULL, longest_s = NULL,"
        " concurrent = NULL WHERE name = 'pro'");
    sql("UPDATE tiers SET %s WHERE name = 'pro'", limits);
    OK(sbx_store_user_ensure(store, "bob", "user", "pro", &limited, &err));
}

static int make(const char *run, sbx_id *ret)
{
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row r = new_row(&limited, "box");

    sbx_copy(r.run, sizeof r.run, run);
    if (*run)
        sbx_copy(r.worker, sizeof r.worker, limited.s);
    sbx_copy(ret->s, sizeof ret->s, r.id);
    err = (sbx_err){0};
    return sbx_store_sandbox_insert(store, &r, NULL, 60, &err);
}

static int move_to(const sbx_id *id, const char *from, const char *to)
{
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row now = {0};
    sbx_state_change c = {.id = id->s, .from = from, .to = to, .started = sbx_streq(to, "running")};

    err = (sbx_err){0};
    return sbx_store_sandbox_set_state(store, &c, &now, &err);
}

static void expect_refused(const char *limit, int64_t value, int64_t used, bool monthly)
{
    cr_expect_eq(err.code, SBX_E_QUOTA, "%s", err.msg);
    cr_expect_str_eq(err.quota.limit, limit);
    cr_expect_eq(err.quota.value, value);
    cr_expect_eq(err.quota.used, used);
    cr_expect_eq(err.quota.reset_s != 0, monthly);
    cr_expect_eq(err.retry_after_s > 0, monthly);
}

Test(store_quota, what_is_over_holds_nothing_and_what_is_paused_does)
{
    static const char *const free[] = {"deleting", "deleted", "failed", "stopped"};
    sbx_id a, b;

    limit_to("concurrent = 1");
    cr_assert_eq(make("", &a), 0);
    cr_expect_eq(make("", &b), -1);
    expect_refused("concurrentSandboxes", 1, 1, false);
    sql("UPDATE sandboxes SET state = 'running'");
    sql("UPDATE sandboxes SET state = 'paused'");
    cr_expect_eq(make("", &b), -1, "paused holds");
    for (size_t i = 0; i < ARRAY_LEN(free); i++) {
        sql("UPDATE sandboxes SET state = '%s' WHERE id = '%s'", free[i], a.s);
        cr_assert_eq(make("", &b), 0, "%s", free[i]);
        sql("DELETE FROM sandboxes WHERE id = '%s'", b.s);
    }
    cr_assert_eq(make("", &b), 0);
    cr_expect_eq(move_to(&a, "stopped", "starting"), -1, "a start is checked again");
    expect_refused("concurrentSandboxes", 1, 1, false);
    sql("UPDATE sandboxes SET state = 'failed' WHERE id = '%s'", b.s);
    cr_expect_eq(move_to(&a, "stopped", "starting"), 0);
}

typedef struct racer {
    const char *run;
    int made, refused;
} racer;

#define RACERS 8
#define TRIES  10

static void *race(void *arg)
{
    racer *x = arg;

    for (int i = 0; i < TRIES; i++) {
        SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row r = new_row(&limited, "box");
        sbx_err why = {0};

        if (x->run) {
            sbx_copy(r.run, sizeof r.run, sbx_id_new().s);
            sbx_copy(r.worker, sizeof r.worker, limited.s);
        }
        if (sbx_store_sandbox_insert(store, &r, NULL, 60, &why) == 0)
            x->made++;
        else
            x->refused += why.code == SBX_E_QUOTA;
    }
    return NULL;
}

static int raced(const char *run)
{
    racer all[RACERS] = {0};
    pthread_t threads[RACERS];
    int made = 0, refused = 0;

    for (int i = 0; i < RACERS; i++) {
        all[i].run = run;
        cr_assert_eq(pthread_create(&threads[i], NULL, race, &all[i]), 0);
    }
    for (int i = 0; i < RACERS; i++) {
        pthread_join(threads[i], NULL);
        made += all[i].made;
        refused += all[i].refused;
    }
    cr_expect_eq(made + refused, RACERS * TRIES, "nothing but QUOTA");
    return made;
}

Test(store_quota, of_many_creates_at_once_exactly_as_many_succeed_as_there_may_be)
{
    limit_to("concurrent = 5");
    cr_expect_eq(raced(NULL), 5);
    cr_expect_eq(sql("SELECT count(*) FROM sandboxes WHERE owner = '%s'", limited.s), 5);
    limit_to("concurrent = 1000, executions = 7");
    cr_expect_eq(raced("run"), 7);
    cr_expect_eq(sql("SELECT count(*) FROM usage_runs WHERE owner = '%s'", limited.s), 7);
}

Test(store_quota, a_run_counts_once_and_one_that_came_to_nothing_not_at_all)
{
    sbx_id box, id = sbx_id_new(), other = sbx_id_new();
    sbx_exec_record r = {.exit_code = -1, .duration_ms = 5, .started_ms = sbx_wall_ms()};

    limit_to("executions = 1");
    cr_assert_eq(make("", &box), 0);
    for (int i = 0; i < 2; i++)
        cr_expect_eq(
            sbx_store_run_reserve(store, limited.s, box.s, id.s, "python", limited.s, &err), 1);
    err = (sbx_err){0};
    cr_expect_eq(sbx_store_run_reserve(store, limited.s, box.s, other.s, "python", limited.s, &err),
                 -1);
    expect_refused("executions", 1, 1, true);
    sbx_copy(r.id, sizeof r.id, id.s);
    sbx_copy(r.sandbox, sizeof r.sandbox, box.s);
    sbx_copy(r.kind, sizeof r.kind, "run");
    sbx_copy(r.error, sizeof r.error, "at_capacity");
    OK(sbx_store_exec_insert(store, &r, 1, &err));
    cr_expect_eq(sql("SELECT count(*) FROM usage_runs"), 0, "given back");
    sbx_copy(r.id, sizeof r.id, other.s);
    cr_expect_eq(sbx_store_run_reserve(store, limited.s, box.s, other.s, "python", limited.s, &err),
                 1);
    r.error[0] = '\0';
    r.exit_code = 3;
    OK(sbx_store_exec_insert(store, &r, 1, &err));
    OK(sbx_store_exec_insert(store, &r, 1, &err));
    cr_expect_eq(sql("SELECT count(*) FROM usage_runs WHERE done AND duration_ms = 5"), 1);
    /* the limit is of a month: last month's do not count */
    sql("UPDATE usage_runs SET day = usage_month() - 1");
    cr_expect_eq(sbx_store_run_reserve(store, limited.s, box.s, id.s, "python", limited.s, &err),
                 1);
}

Test(store_quota, what_was_reserved_and_never_begun_is_given_back)
{
    sbx_id box, over, id[3] = {sbx_id_new(), sbx_id_new(), sbx_id_new()};

    limit_to("executions = 9");
    cr_assert_eq(make("", &box), 0);
    cr_assert_eq(make(id[0].s, &over), 0);
    sql("INSERT INTO workers (id, alone) VALUES ('%s', false)", limited.s);
    cr_expect_eq(sbx_store_run_reserve(store, limited.s, box.s, id[1].s, "python", limited.s, &err),
                 1);
    cr_expect_eq(sbx_store_run_reserve(store, limited.s, box.s, id[2].s, "python", owner.s, &err),
                 1);
    sql("UPDATE sandboxes SET state = 'failed' WHERE id = '%s'", over.s);
    OK(sbx_store_usage_tidy(store, &err));
    cr_expect_eq(sql("SELECT count(*) FROM usage_runs"), 2,
                 "what is young may just be beginning, unless its worker is dead");
    sql("UPDATE usage_runs SET at = now() - interval '2 minutes'");
    OK(sbx_store_usage_tidy(store, &err));
    cr_expect_eq(sql("SELECT count(*) FROM usage_runs WHERE id = '%s'", id[1].s), 1,
                 "its worker is alive");
    cr_expect_eq(sql("SELECT count(*) FROM usage_runs"), 1);
}

Test(store_quota, no_sandbox_runs_for_longer_than_the_tier_allows)
{
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row now = {0};
    sbx_id a, run = sbx_id_new();

    limit_to("longest_s = 599");
    cr_expect_eq(make("", &a), -1);
    expect_refused("longestRunSeconds", 599, 600, false);
    cr_assert_eq(make(run.s, &a), 0, "the sandbox of a run may outlive its code");
    sql("UPDATE tiers SET longest_s = 700 WHERE name = 'pro'");
    cr_assert_eq(make("", &a), 0);
    OK(move_to(&a, "creating", "running"));
    sql("SET session_replication_role = replica; UPDATE sandboxes SET running_since ="
        " now() - interval '500 seconds' WHERE id = '%s'",
        a.s);
    OK(sbx_store_sandbox_renew(store, limited.s, a.s, &now, &err));
    cr_expect_eq(sql("SELECT count(*) FROM sandboxes WHERE id = '%s' AND expires_at ="
                     " running_since + interval '700 seconds'",
                     a.s),
                 1, "renewing does not help");
}

/* --- metering --- */

static int64_t used_ms(const char *column, const sbx_id *id)
{
    return sql("SELECT coalesce(sum(%s), 0) FROM usage WHERE sandbox = '%s'", column, id->s);
}

static void shift(const sbx_id *id, const char *by)
{
    sql("SET session_replication_role = replica;"
        " UPDATE sandboxes SET metered_at = metered_at - interval '%s' WHERE id = '%s'",
        by, id->s);
}

/* What was used between the two ends of a shift, to the millisecond: the rest is real time. */
static void expect_about(int64_t got, int64_t want)
{
    cr_expect(got >= want && got < want + 20000, "%lld, not about %lld", (long long)got,
              (long long)want);
}

Test(store_quota, time_is_metered_by_state_and_price_and_never_twice)
{
    sbx_id a;
    int64_t n, running, paused;

    limit_to("concurrent = 9");
    cr_assert_eq(make("", &a), 0);
    cr_expect_eq(sql("SELECT count(*) FROM sandboxes WHERE metered_at IS NULL"), 1);
    OK(move_to(&a, "creating", "running"));
    shift(&a, "1 hour");
    OK(sbx_store_usage_meter(store, 9, &n, &err));
    cr_expect_eq(n, 1);
    OK(sbx_store_usage_meter(store, 9, &n, &err));
    cr_expect_eq(n, 0, "it is metered up to now");
    shift(&a, "1 hour");
    OK(move_to(&a, "running", "pausing"));
    OK(move_to(&a, "pausing", "paused"));
    shift(&a, "10 hours");
    OK(move_to(&a, "paused", "stopping"));
    OK(move_to(&a, "stopping", "stopped"));
    running = used_ms("running_ms", &a);
    paused = used_ms("paused_ms", &a);
    expect_about(running, 2 * 3600000);
    expect_about(paused, 10 * 3600000);
    cr_expect_eq(sql("SELECT count(*) FROM (SELECT sum(cost) AS c FROM usage) x"
                     " WHERE c = %lld",
                     (long long)(running * 200000 + paused * 20000)),
                 1);
    cr_expect_eq(sql("SELECT count(*) FROM sandboxes WHERE metered_at IS NULL"), 1);
    sql("DELETE FROM sandboxes");
    cr_expect_eq(used_ms("running_ms", &a), running, "usage outlives the sandbox");
}

Test(store_quota, a_time_over_midnight_is_of_both_days_and_of_both_prices_when_resized)
{
    sbx_id a;

    limit_to("concurrent = 9");
    cr_assert_eq(make("", &a), 0);
    OK(move_to(&a, "creating", "running"));
    sql("SET session_replication_role = replica; UPDATE sandboxes SET metered_at ="
        " (date_trunc('day', now() AT TIME ZONE 'UTC') - interval '2 hours') AT TIME ZONE 'UTC'");
    sql("UPDATE sandboxes SET memory_mb = 4096");
    cr_expect_eq(
        sql("SELECT running_ms FROM usage WHERE day = (now() AT TIME ZONE 'UTC')::date - 1"),
        2 * 3600000);
    cr_expect_eq(sql("SELECT cost / 200000 FROM usage WHERE day = (now() AT TIME ZONE 'UTC')::date"
                     " - 1"),
                 2 * 3600000);
    shift(&a, "1 second");
    sql("UPDATE sandboxes SET state = 'failed'");
    cr_expect_geq(sql("SELECT cost FROM usage WHERE day = (now() AT TIME ZONE 'UTC')::date"),
                  1600000 * 1000);
}

Test(store_quota, who_is_found_dead_after_an_outage_is_not_charged_for_it)
{
    sbx_id a, b;

    limit_to("concurrent = 9");
    cr_assert_eq(make("", &a), 0);
    cr_assert_eq(make("", &b), 0);
    OK(move_to(&a, "creating", "running"));
    OK(move_to(&b, "creating", "running"));
    shift(&a, "1 hour");
    shift(&b, "1 hour");
    sql("UPDATE sandboxes SET state = 'failed' WHERE id = '%s'", a.s);
    cr_expect_eq(used_ms("running_ms", &a), 0);
    sql("UPDATE sandboxes SET metered_at = now() WHERE id = '%s'", b.s);
    expect_about(used_ms("running_ms", &b), 3600000);
}

Test(store_quota, compute_time_and_spending_that_are_used_up_stop_and_refuse)
{
    SBX_CLEANUP_VAL(sbx_sandbox_list_done) sbx_sandbox_list over = {0}, none = {0};
    sbx_id a, b;

    limit_to("compute_s = 3600");
    cr_assert_eq(make("", &a), 0);
    OK(move_to(&a, "creating", "running"));
    OK(sbx_store_quota_over(store, owner.s, 9, &none, &err));
    cr_expect_eq(none.count, 0);
    shift(&a, "61 minutes"); /* not metered yet, and counted all the same */
    cr_expect_eq(make("", &b), -1);
    cr_expect_str_eq(err.quota.limit, "computeSeconds");
    OK(sbx_store_quota_over(store, owner.s, 9, &over, &err));
    cr_assert_eq(over.count, 1);
    cr_expect_str_eq(over.items[0].id, a.s);
    cr_expect_str_eq(over.items[0].reason, "compute");
    OK(move_to(&a, "running", "stopping"));
    OK(move_to(&a, "stopping", "stopped"));
    cr_expect_eq(move_to(&a, "stopped", "starting"), -1);
    sql("UPDATE usage SET day = usage_month() - 1");
    OK(move_to(&a, "stopped", "starting"));
}

Test(store_quota, spending_is_told_at_80_and_100_percent_once_and_may_stop_everything)
{
    sbx_quotas q;
    sbx_id a, b;

    limit_to("concurrent = 9");
    OK(sbx_store_spending_set(store, limited.s, 250000, false, &err));
    cr_assert_eq(make("", &a), 0);
    OK(move_to(&a, "creating", "running"));
    cr_expect_eq(sbx_store_spending_alerts(store, &err), 0);
    shift(&a, "61 minutes");
    cr_expect_eq(sbx_store_spending_alerts(store, &err), 1);
    cr_expect_eq(sbx_store_spending_alerts(store, &err), 0);
    shift(&a, "20 minutes");
    cr_expect_eq(sbx_store_spending_alerts(store, &err), 1);
    cr_expect_eq(sql("SELECT count(*) FROM events WHERE type = 'spending.alert' AND owner = '%s'"
                     " AND sandbox IS NULL AND data->'reason'->>'code' IN ('spending_80',"
                     " 'spending_100')",
                     limited.s),
                 2);
    cr_expect_eq(make("", &b), 0, "without a hard stop it goes on");
    OK(sbx_store_spending_set(store, limited.s, 250000, true, &err));
    cr_expect_eq(make("", &b), -1);
    cr_expect_str_eq(err.quota.limit, "spendingMicros");
    OK(sbx_store_quotas_get(store, limited.s, &q, &err));
    cr_expect(q.hard_stop && q.spending_micros == 250000);
    cr_expect(q.cost_micros >= 270000 && q.cost_micros < 280000, "%lld", (long long)q.cost_micros);
    cr_expect_eq(q.sandboxes, 1);
    cr_expect_eq(q.sandboxes_reserved, 1);
    FAILS(sbx_store_spending_set(store, a.s, 1, true, &err), NOT_FOUND);
}

Test(store_quota, usage_is_listed_by_each_kind_and_in_pages)
{
    sbx_usage_filter f = {.owner = limited.s, .limit = 9};
    static const char *const kinds[] = {"day", "month", "sandbox", "template"};
    sbx_exec_record r = {.kind = "run", .duration_ms = 1500, .started_ms = sbx_wall_ms()};
    sbx_usage_item items[9];
    sbx_id a, b;

    limit_to("concurrent = 9");
    cr_assert_eq(make("", &a), 0);
    cr_assert_eq(make("", &b), 0);
    OK(move_to(&a, "creating", "running"));
    OK(move_to(&b, "creating", "running"));
    sbx_copy(r.id, sizeof r.id, sbx_id_new().s);
    sbx_copy(r.sandbox, sizeof r.sandbox, a.s);
    sbx_copy(r.runtime, sizeof r.runtime, "python");
    r.packages = sbx_strdup("[\"numpy==1.2\",\"@scope/x@3\",{\"name\":\"six\",\"version\":\"1\"}]");
    OK(sbx_store_exec_insert(store, &r, 1, &err));
    sbx_exec_record_done(&r);
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        f.by = kinds[i];
        cr_expect_eq(sbx_store_usage_list(store, &f, items, &err), i == 2 ? 2 : 1, "%s: %s",
                     kinds[i], err.msg);
    }
    cr_expect_str_eq(items[0].key, "python");
    cr_expect_eq(items[0].runs, 1);
    f.by = "package";
    cr_assert_eq(sbx_store_usage_list(store, &f, items, &err), 3, "%s", err.msg);
    cr_expect_str_eq(items[0].key, "@scope/x");
    cr_expect_str_eq(items[1].key, "numpy");
    cr_expect_eq(items[1].running_ms, 1500);
    cr_expect_str_eq(items[2].key, "six");
    f.after = "numpy";
    cr_expect_eq(sbx_store_usage_list(store, &f, items, &err), 1);
    f = (sbx_usage_filter){.owner = owner.s, .limit = 9, .by = "runtime"};
    cr_expect_eq(sbx_store_usage_list(store, &f, items, &err), 0, "of the user alone");
    f.from = "2026-02-30";
    FAILS(sbx_store_usage_list(store, &f, items, &err), INVALID);
}
