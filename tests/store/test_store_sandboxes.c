/* Sandboxes, users, keys and executions, against a real server. */
#include "fixture.h"
#include "store/link.h"

TestSuite(store_sandboxes, .init = migrated_database, .fini = drop_database, .timeout = 60);

Test(store_sandboxes, a_row_reads_back_as_it_was_written)
{
    char *names[] = {"A", "QUOTE"}, *values[] = {"1", "tricky \"\\ \xc3\xa9\n\x01"};
    sbx_pairs env = {names, values, 2}, back = {0};
    sbx_sandbox_row r = new_row(&owner, "my box"), o = {0};

    r.command = sbx_strdup("[\"sleep\",\"9\"]");
    r.image_user = sbx_strdup("1000:1000");
    r.disk_mb = 77;
    sbx_copy(r.worker, sizeof r.worker, owner.s);
    sbx_copy(r.runtime, sizeof r.runtime, "runc");
    sbx_copy(r.host, sizeof r.host, "unix:///var/run/docker.sock");
    OK(sbx_store_sandbox_insert(store, &r, &env, 60, &err));
    cr_expect_gt(r.event_seq, 0u);
    OK(sbx_store_sandbox_get(store, owner.s, r.id, &o, &err));
    cr_expect_str_eq(o.id, r.id);
    cr_expect_str_eq(o.owner, owner.s);
    cr_expect_str_eq(o.worker, owner.s);
    cr_expect_str_eq(o.name, "my box");
    cr_expect_str_eq(o.template_name, "python");
    cr_expect_str_eq(o.image, "sandboxd/python:1");
    cr_expect_str_eq(o.state, "creating");
    cr_expect_null(o.reason);
    cr_expect_str_eq(o.size, "small");
    cr_expect_eq(o.cpu_milli, 1000);
    cr_expect_eq(o.memory_mb, 512);
    cr_expect_eq(o.pids, 100);
    cr_expect_eq(o.disk_mb, 77);
    cr_expect_str_eq(o.network, "none");
    cr_expect_str_eq(o.metadata, "{\"team\": \"blue\"}");
    cr_expect_str_eq(o.env_names, "[\"A\"]");
    cr_expect_str_eq(o.command, "[\"sleep\",\"9\"]");
    cr_expect_eq(o.timeout_s, 600);
    cr_expect_eq(o.idle_timeout_s, 600);
    cr_expect_str_eq(o.on_timeout, "delete");
    cr_expect_str_eq(o.on_idle, "delete");
    cr_expect_eq(o.created_ms, r.created_ms);
    cr_expect_lt(llabs(o.created_ms - sbx_wall_ms()), 60000);
    cr_expect_eq(o.last_active_ms, r.last_active_ms);
    cr_expect_eq(o.state_changed_ms, r.state_changed_ms);
    cr_expect_eq(o.started_ms, 0);
    cr_expect_eq(o.expires_ms, 0);
    cr_expect_str_empty(o.container_id);
    cr_expect_arr_eq(o.token, r.token, sizeof r.token);
    cr_expect_eq(o.epoch, 0u);
    cr_expect_str_eq(o.image_user, "1000:1000");
    cr_expect_str_eq(o.runtime, "runc");
    cr_expect_str_eq(o.host, "unix:///var/run/docker.sock");

    OK(sbx_store_sandbox_env(store, r.id, &back, &err));
    cr_assert_eq(back.count, 2u);
    cr_expect_str_eq(back.names[1], "QUOTE");
    cr_expect_str_eq(back.values[1], values[1]);
    cr_expect_eq(sql("SELECT count(*) FROM sandboxes WHERE position('tricky'::bytea IN env_sealed)"
                     " > 0"),
                 0);
    sbx_pairs_done(&back);
    sbx_sandbox_row_done(&o);
    sbx_sandbox_row_done(&r);
}

Test(store_sandboxes, what_another_owns_is_not_found)
{
    sbx_id id = make_sandbox("running"), other;
    sbx_sandbox_row o = {0};

    OK(sbx_store_user_ensure(store, "bob", "user", "enterprise", &other, &err));
    FAILS(sbx_store_sandbox_get(store, other.s, id.s, &o, &err), NOT_FOUND);
    FAILS(sbx_store_sandbox_renew(store, other.s, id.s, &o, &err), NOT_FOUND);
    FAILS(sbx_store_sandbox_get(store, owner.s, "x' OR '1'='1", &o, &err), NOT_FOUND);
    OK(sbx_store_sandbox_get(store, NULL, id.s, &o, &err));
    sbx_sandbox_row_done(&o);
}

Test(store_sandboxes, sealed_env_moved_to_another_row_is_refused)
{
    sbx_id a = make_sandbox("running"), b = make_sandbox("running");
    sbx_pairs p = {0};

    sql("UPDATE sandboxes SET env_sealed = (SELECT env_sealed FROM sandboxes WHERE id = '%s')"
        " WHERE id = '%s'",
        a.s, b.s);
    OK(sbx_store_sandbox_env(store, a.s, &p, &err));
    FAILS(sbx_store_sandbox_env(store, b.s, &p, &err), INTERNAL);
}

Test(store_sandboxes, hostile_values_are_errors_and_the_connection_survives)
{
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row r = new_row(&owner, "\xff\xfe");
    sbx_sandbox_list l = {0};
    sbx_sandbox_filter f = {.owner = owner.s, .limit = 10, .metadata = "{\"a\":\"\\u0000\"}"};

    FAILS(sbx_store_sandbox_insert(store, &r, NULL, 60, &err), INVALID);
    FAILS(sbx_store_sandbox_list(store, &f, &l, &err), INVALID);
    f.metadata = "not json";
    FAILS(sbx_store_sandbox_list(store, &f, &l, &err), INVALID);
    f.metadata = NULL;
    f.limit = 0;
    FAILS(sbx_store_sandbox_list(store, &f, &l, &err), INVALID);
    free(r.name);
    r.name = NULL;
    r.pids = 0;
    FAILS(sbx_store_sandbox_insert(store, &r, NULL, 60, &err), INTERNAL);
    cr_expect(strstr(err.msg, "sandboxes_pids_check"), "%s", err.msg);
    OK(sbx_store_ping(store, &err));
}

Test(store_sandboxes, an_id_that_is_taken_is_a_conflict)
{
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row r = new_row(&owner, NULL);

    OK(sbx_store_sandbox_insert(store, &r, NULL, 60, &err));
    r.token[0] ^= 1;
    FAILS(sbx_store_sandbox_insert(store, &r, NULL, 60, &err), CONFLICT);
}

Test(store_sandboxes, a_change_of_state_compares_and_writes_its_event)
{
    sbx_id id = make_sandbox("creating");
    sbx_sandbox_row o = {0};
    sbx_state_change c = {.id = id.s,
                          .from = "creating",
                          .to = "running",
                          .container_id = "c1",
                          .worker = id.s,
                          .image_user = "me",
                          .started = true};

    OK(sbx_store_sandbox_set_state(store, &c, &o, &err));
    cr_expect_str_eq(o.state, "running");
    cr_expect_str_eq(o.container_id, "c1");
    cr_expect_str_eq(o.worker, id.s);
    cr_expect_str_eq(o.image_user, "me");
    cr_expect_eq(o.expires_ms - o.started_ms, 600000);
    cr_expect_eq(sql("SELECT count(*) FROM events WHERE seq = %llu AND sandbox = '%s'"
                     " AND owner = '%s' AND type = 'sandbox.running' AND data->>'from' = 'creating'"
                     " AND data->>'to' = 'running'",
                     (unsigned long long)o.event_seq, id.s, owner.s),
                 1);
    cr_expect_eq(sql("SELECT count(*) FROM sandboxes WHERE deadline_at IS NULL"), 1);
    sbx_sandbox_row_done(&o);

    FAILS(sbx_store_sandbox_set_state(store, &c, &o, &err), CONFLICT);
    cr_expect(strstr(err.msg, "is running"), "%s", err.msg);
    cr_expect_eq(sql("SELECT count(*) FROM events"), 2);

    c = (sbx_state_change){.id = id.s, .from = "running", .to = "running", .container_id = "c2"};
    OK(sbx_store_sandbox_set_state(store, &c, &o, &err));
    cr_expect_str_eq(o.container_id, "c2");
    cr_expect_str_eq(o.worker, id.s);
    cr_expect_eq(o.event_seq, 0u);
    cr_expect_eq(sql("SELECT count(*) FROM events"), 2);
    sbx_sandbox_row_done(&o);

    c = (sbx_state_change){.id = id.s,
                           .from = "running",
                           .to = "deleting",
                           .deadline_s = 30,
                           .worker = "",
                           .reason = "{\"code\":\"requested\"}"};
    OK(sbx_store_sandbox_set_state(store, &c, &o, &err));
    cr_expect_str_eq(o.reason, "{\"code\":\"requested\"}");
    cr_expect_str_empty(o.worker);
    sbx_sandbox_row_done(&o);
    c.id = owner.s;
    FAILS(sbx_store_sandbox_set_state(store, &c, &o, &err), NOT_FOUND);
}

Test(store_sandboxes, deletion_removes_env_and_reads_for_a_day)
{
    sbx_id id = make_sandbox("running");
    sbx_sandbox_row o = {0};
    sbx_pairs p = {0};
    sbx_exec_record e = {.kind = "exec", .command = "[\"true\"]", .started_ms = 1000};
    sbx_state_change c = {.id = id.s, .from = "running", .to = "deleted"};
    int n = -1;
    sbx_id x = sbx_id_new();

    sbx_copy(e.id, sizeof e.id, x.s);
    sbx_copy(e.sandbox, sizeof e.sandbox, id.s);
    OK(sbx_store_exec_insert(store, &e, 1, &err));
    OK(sbx_store_sandbox_set_state(store, &c, &o, &err));
    sbx_sandbox_row_done(&o);
    FAILS(sbx_store_sandbox_env(store, id.s, &p, &err), NOT_FOUND);
    OK(sbx_store_sandbox_get(store, owner.s, id.s, &o, &err));
    cr_expect_str_eq(o.state, "deleted");
    sbx_sandbox_row_done(&o);
    OK(sbx_store_sandbox_purge(store, &n, &err));
    cr_expect_eq(n, 0);
    sql("UPDATE sandboxes SET state_changed_at = now() - interval '25 hours'");
    FAILS(sbx_store_sandbox_get(store, owner.s, id.s, &o, &err), NOT_FOUND);
    OK(sbx_store_sandbox_purge(store, &n, &err));
    cr_expect_eq(n, 1);
    cr_expect_eq(sql("SELECT count(*) FROM sandbox_executions"), 0);
    cr_expect_eq(sql("SELECT count(*) FROM events WHERE sandbox = '%s'", id.s), 3);
}

Test(store_sandboxes, failed_records_go_after_a_day)
{
    sbx_id id = make_sandbox("failed");
    sbx_sandbox_row o = {0};
    int n = -1;

    OK(sbx_store_sandbox_purge(store, &n, &err));
    cr_expect_eq(n, 0);
    sql("UPDATE sandboxes SET state_changed_at = now() - interval '25 hours'");
    OK(sbx_store_sandbox_purge(store, &n, &err));
    cr_expect_eq(n, 1);
    FAILS(sbx_store_sandbox_get(store, owner.s, id.s, &o, &err), NOT_FOUND);
}

Test(store_sandboxes, lists_page_through_all_newest_first)
{
    enum { N = 25 };
    sbx_sandbox_filter f = {.owner = owner.s, .limit = 10};
    sbx_id other;
    int seen = 0, pages = 0;
    char last[SBX_ID_LEN + 1] = "", before[SBX_ID_LEN + 1];

    for (int i = 0; i < N; i++)
        make_sandbox("running");
    /* Equal times: the id breaks the tie. */
    sql("UPDATE sandboxes SET created_at = '2026-01-01 10:00:00.123457Z' WHERE id IN"
        " (SELECT id FROM sandboxes LIMIT 12)");
    OK(sbx_store_user_ensure(store, "bob", "user", "enterprise", &other, &err));
    sql("UPDATE sandboxes SET owner = '%s' WHERE id = (SELECT max(id) FROM sandboxes)", other.s);
    for (;; pages++) {
        sbx_sandbox_list l = {0};
        int64_t prev = INT64_MAX;

        OK(sbx_store_sandbox_list(store, &f, &l, &err));
        for (size_t i = 0; i < l.count; i++) {
            cr_expect_leq(l.created_us[i], prev);
            cr_expect_str_neq(l.items[i].id, last);
            prev = l.created_us[i];
            sbx_copy(last, sizeof last, l.items[i].id);
        }
        seen += (int)l.count;
        if (l.count > 0) {
            f.before_us = l.created_us[l.count - 1];
            sbx_copy(before, sizeof before, l.items[l.count - 1].id);
            f.before_id = before;
        }
        sbx_sandbox_list_done(&l);
        if (l.count == 0 && seen >= N - 1)
            break;
        cr_assert_lt(pages, 10);
    }
    cr_expect_eq(seen, N - 1);
}

static size_t count_list(const sbx_sandbox_filter *f)
{
    sbx_sandbox_list l = {0};
    size_t n;

    OK(sbx_store_sandbox_list(store, f, &l, &err));
    n = l.count;
    sbx_sandbox_list_done(&l);
    return n;
}

Test(store_sandboxes, lists_filter)
{
    sbx_id a = make_sandbox("running"), b = make_sandbox("creating"), c = make_sandbox("running");
    sbx_sandbox_row o = {0};
    sbx_state_change d = {.id = c.s, .from = "running", .to = "deleted"};

    OK(sbx_store_sandbox_set_state(store, &d, &o, &err));
    sbx_sandbox_row_done(&o);
    sql("UPDATE sandboxes SET metadata = '{\"k\":\"v\",\"x\":\"y\"}', name = 'n', template = 'node'"
        " WHERE id = '%s'",
        a.s);
    (void)b;
    const struct {
        const char *name;
        sbx_sandbox_filter f;
        size_t want;
    } cases[] = {
        {"all but deleted", {.limit = 9}, 2},
        {"of the owner", {.owner = owner.s, .limit = 9}, 2},
        {"deleted", {.owner = owner.s, .state = "deleted", .limit = 9}, 1},
        {"running", {.owner = owner.s, .state = "running", .limit = 9}, 1},
        {"name", {.owner = owner.s, .name = "n", .limit = 9}, 1},
        {"template", {.owner = owner.s, .template_name = "node", .limit = 9}, 1},
        {"metadata", {.owner = owner.s, .metadata = "{\"k\":\"v\"}", .limit = 9}, 1},
        {"other metadata", {.owner = owner.s, .metadata = "{\"k\":\"w\"}", .limit = 9}, 0},
        {"another owner", {.owner = a.s, .limit = 9}, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        cr_expect_eq(count_list(&cases[i].f), cases[i].want, "%s", cases[i].name);
}

/* --- reaping --- */

static void expire_all(void)
{
    sql("UPDATE sandboxes SET expires_at = now() - interval '1 second' WHERE state = 'running'");
}

typedef struct reaper {
    char (*ids)[SBX_ID_LEN + 1];
    size_t count;
} reaper;

static void *reap_thread(void *arg)
{
    reaper *me = arg;
    sbx_err e = {0};
    sbx_id w = sbx_id_new();

    for (;;) {
        sbx_sandbox_list l = {0};

        if (sbx_store_sandbox_reap(store, &(sbx_reap){.worker = w.s, .max = 7}, &l, &e) != 0 ||
            l.count == 0)
            return NULL;
        for (size_t i = 0; i < l.count; i++)
            sbx_copy(me->ids[me->count++], SBX_ID_LEN + 1, l.items[i].id);
        sbx_sandbox_list_done(&l);
    }
}

Test(store_sandboxes, four_reapers_claim_each_row_exactly_once)
{
    enum { N = 60 };
    static char ids[4][N][SBX_ID_LEN + 1];
    reaper reapers[4];
    pthread_t threads[4];
    size_t sum = 0;

    for (int i = 0; i < N; i++)
        make_sandbox("running");
    expire_all();
    for (int i = 0; i < 4; i++) {
        reapers[i] = (reaper){.ids = ids[i]};
        pthread_create(&threads[i], NULL, reap_thread, &reapers[i]);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        sum += reapers[i].count;
    }
    /* A reaper may have stopped at rows that another was just claiming; none is left or double. */
    reap_thread(&reapers[0]);
    cr_expect_eq(sum, (size_t)N);
    cr_expect_eq(sql("SELECT count(*) FROM sandboxes WHERE state = 'deleting'"), N);
    cr_expect_eq(sql("SELECT count(*) FROM events WHERE type = 'sandbox.deleting'"), N);
}

Test(store_sandboxes, reap_takes_expired_and_idle_but_not_busy)
{
    sbx_id expired = make_sandbox("running"), idle = make_sandbox("running");
    sbx_id busy = make_sandbox("running"), fresh = make_sandbox("running");
    sbx_id w = sbx_id_new(), never = make_sandbox("running");
    const char *busy_ids[] = {busy.s, expired.s}, *frozen_ids[] = {idle.s};
    sbx_sandbox_list l = {0};

    sql("UPDATE sandboxes SET expires_at = now() - interval '1 s' WHERE id = '%s'", expired.s);
    sql("UPDATE sandboxes SET last_active_at = now() - interval '601 s' WHERE id IN"
        " ('%s', '%s', '%s')",
        idle.s, busy.s, never.s);
    sql("UPDATE sandboxes SET idle_timeout_s = 0, expires_at = NULL WHERE id = '%s'", never.s);
    OK(sbx_store_sandbox_reap(
        store,
        &(sbx_reap){.worker = w.s, .busy = {busy_ids, 2}, .frozen = {frozen_ids, 1}, .max = 100},
        &l, &err));
    cr_assert_eq(l.count, 2u, "%zu", l.count);
    for (size_t i = 0; i < l.count; i++) {
        bool is_idle = sbx_streq(l.items[i].id, idle.s);

        cr_expect(is_idle || sbx_streq(l.items[i].id, expired.s));
        cr_expect_str_eq(l.items[i].state, "deleting");
        cr_expect_str_eq(l.items[i].worker, w.s);
        cr_expect_gt(l.items[i].event_seq, 0u);
        cr_expect(strstr(l.items[i].reason, is_idle ? "\"idle\"" : "\"expired\""), "%s",
                  l.items[i].reason);
    }
    sbx_sandbox_list_done(&l);
    (void)fresh;
}

Test(store_sandboxes, reap_pauses_and_stops)
{
    static const struct {
        const char *state, *on_timeout, *on_idle, *want, *why;
        bool expired, idle;
    } cases[] = {
        {"running", "delete", "pause", "deleting", "\"expired\"", true, true},
        {"running", "pause", "delete", "pausing", "\"expired\"", true, true},
        {"running", "stop", "delete", "stopping", "\"expired\"", true, false},
        {"running", "delete", "pause", "pausing", "\"idle\"", false, true},
        {"running", "delete", "stop", "stopping", "\"idle\"", false, true},
        {"running", "delete", "delete", "deleting", "\"idle\"", false, true},
        {"paused", "delete", "delete", "deleting", "\"expired\"", true, true},
        {"paused", "stop", "delete", "stopping", "\"expired\"", true, true},
        {"paused", "pause", "delete", "paused", NULL, true, true},
        {"paused", "delete", "delete", NULL, NULL, false, true},
        {"stopped", "delete", "delete", NULL, NULL, true, true},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_id id = make_sandbox("running"), w = sbx_id_new();
        const char *frozen[] = {id.s};
        sbx_sandbox_list l = {0};

        sql("UPDATE sandboxes SET state = '%s', on_timeout = '%s', on_idle = '%s',"
            " expires_at = now() + interval '%s', last_active_at = now() - interval '%s'"
            " WHERE id = '%s'",
            cases[i].state, cases[i].on_timeout, cases[i].on_idle,
            cases[i].expired ? "-1 s" : "1 day", cases[i].idle ? "1 day" : "0", id.s);
        OK(sbx_store_sandbox_reap(
            store, &(sbx_reap){.worker = w.s, .frozen = {frozen, 1}, .max = 9}, &l, &err));
        cr_assert_eq(l.count, cases[i].want ? 1u : 0u, "%zu", i);
        if (cases[i].want) {
            bool same = sbx_streq(cases[i].want, cases[i].state);

            cr_expect_str_eq(l.items[0].state, cases[i].want, "%zu", i);
            cr_expect_eq(l.items[0].event_seq > 0, !same, "%zu", i);
            cr_expect_eq(l.items[0].expires_ms > 0, !same, "%zu", i);
            cr_expect(!cases[i].why || strstr(l.items[0].reason, cases[i].why), "%zu", i);
        }
        sbx_sandbox_list_done(&l);
        sql("DELETE FROM sandboxes WHERE id = '%s'", id.s);
    }
}

Test(store_sandboxes, reap_leaves_pausing_to_the_live_worker_that_has_the_channel)
{
    sbx_id id = make_sandbox("running"), me = sbx_id_new(), other = sbx_id_new();
    sbx_sandbox_list l = {0};

    sql("INSERT INTO workers (id, alone) VALUES ('%s', false)", other.s);
    sql("UPDATE sandboxes SET worker = '%s', on_timeout = 'pause', expires_at = now() -"
        " interval '1 s' WHERE id = '%s'",
        other.s, id.s);
    OK(sbx_store_sandbox_reap(store, &(sbx_reap){.worker = me.s, .max = 9}, &l, &err));
    cr_expect_eq(l.count, 0u);
    sbx_sandbox_list_done(&l);
    OK(sbx_store_sandbox_reap(store, &(sbx_reap){.worker = other.s, .max = 9}, &l, &err));
    cr_expect_eq(l.count, 1u);
    sbx_sandbox_list_done(&l);
    sql("DELETE FROM workers WHERE id = '%s'", other.s);
}

Test(store_sandboxes, goal_image_log_and_lifetime_change_with_the_state)
{
    sbx_id id = make_sandbox("running");
    sbx_sandbox_row r = {0};
    sbx_state_change stop = {.id = id.s,
                             .from = "running",
                             .to = "stopping",
                             .goal = "fresh",
                             .template_name = "node",
                             .image = "node:1",
                             .deadline_s = 9};
    sbx_state_change stopped = {
        .id = id.s, .from = "stopping", .to = "stopped", .log_seq = 7, .expiry = SBX_EXPIRY_NONE};
    sbx_state_change lower = {.id = id.s, .from = "stopped", .to = "starting", .log_seq = 3};
    sbx_state_change paused = {.id = id.s, .from = "starting", .to = "paused", .goal = ""};
    sbx_state_change on = {
        .id = id.s, .from = "paused", .to = "running", .expiry = SBX_EXPIRY_GO_ON};

    OK(sbx_store_sandbox_set_state(store, &stop, &r, &err));
    cr_expect_str_eq(r.goal, "fresh");
    cr_expect_str_eq(r.template_name, "node");
    cr_expect_str_eq(r.image, "node:1");
    cr_expect_gt(r.expires_ms, 0);
    sbx_sandbox_row_done(&r);
    OK(sbx_store_sandbox_set_state(store, &stopped, &r, &err));
    cr_expect_eq(r.expires_ms, 0);
    cr_expect_eq(r.log_seq, 7u);
    sbx_sandbox_row_done(&r);
    OK(sbx_store_sandbox_set_state(store, &lower, &r, &err));
    cr_expect_eq(r.log_seq, 7u);
    cr_expect_str_eq(r.goal, "fresh");
    sbx_sandbox_row_done(&r);
    OK(sbx_store_sandbox_set_state(store, &paused, &r, &err));
    cr_expect_str_eq(r.goal, "");
    cr_expect_str_eq(r.image, "node:1");
    sbx_sandbox_row_done(&r);
    OK(sbx_store_sandbox_set_state(store, &on, &r, &err));
    cr_expect_gt(r.expires_ms, 0);
    sbx_sandbox_row_done(&r);
}

Test(store_sandboxes, a_patch_is_all_or_nothing_and_refuses_a_row_that_changed)
{
    sbx_id id = make_sandbox("running");
    sbx_sandbox_row r = {0}, stale = {0};
    char *names[] = {"A"}, *values[] = {"1"};
    sbx_pairs env = {.names = names, .values = values, .count = 1}, got = {0};
    sbx_sandbox_change all = {.name_given = true,
                              .name = "n",
                              .metadata = "{\"k\":\"v\"}",
                              .env = &env,
                              .env_names = "[\"A\"]",
                              .size = "nano",
                              .cpu_milli = 700,
                              .memory_mb = 300,
                              .pids = 20,
                              .timeout_s = 50,
                              .idle_timeout_s = 60,
                              .on_timeout = "stop",
                              .on_idle = "pause"};
    sbx_sandbox_change clear = {.name_given = true};

    OK(sbx_store_sandbox_get(store, owner.s, id.s, &r, &err));
    OK(sbx_store_sandbox_get(store, owner.s, id.s, &stale, &err));
    OK(sbx_store_sandbox_patch(store, &r, &all, &err));
    cr_expect_str_eq(r.name, "n");
    cr_expect_str_eq(r.size, "nano");
    cr_expect(r.cpu_milli == 700 && r.memory_mb == 300 && r.pids == 20 && r.timeout_s == 50);
    cr_expect_str_eq(r.on_timeout, "stop");
    cr_expect_str_eq(r.on_idle, "pause");
    cr_expect(r.version == 1 && r.env_version == 1);
    cr_expect_eq(sql("SELECT count(*) FROM sandboxes WHERE id = '%s' AND expires_at"
                     " BETWEEN now() AND now() + interval '50 s'",
                     id.s),
                 1);
    OK(sbx_store_sandbox_env(store, id.s, &got, &err));
    cr_expect_str_eq(got.values[0], "1");
    sbx_pairs_done(&got);
    FAILS(sbx_store_sandbox_patch(store, &stale, &clear, &err), CONFLICT);
    OK(sbx_store_sandbox_patch(store, &r, &clear, &err));
    cr_expect_null(r.name);
    cr_expect(r.env_version == 1 && r.version == 2 && r.pids == 20);
    sql("UPDATE sandboxes SET state = 'deleting' WHERE id = '%s'", id.s);
    FAILS(sbx_store_sandbox_patch(store, &r, &clear, &err), CONFLICT);
    sbx_sandbox_row_done(&r);
    sbx_sandbox_row_done(&stale);
}

Test(store_sandboxes, limits_are_marked_until_row_and_container_agree)
{
    sbx_id id = make_sandbox("running"), w = sbx_id_new();
    sbx_sandbox_row r = {0};
    sbx_sandbox_list l = {0};
    sbx_sandbox_change c = {.pids = 30, .limits_state = "running"};
    sbx_sandbox_change late = {.pids = 40, .limits_state = "stopped"};

    OK(sbx_store_sandbox_limits_begin(store, id.s, "running", 60, &err));
    FAILS(sbx_store_sandbox_limits_begin(store, id.s, "running", 60, &err), CONFLICT);
    OK(sbx_store_sandbox_get(store, owner.s, id.s, &r, &err));
    FAILS(sbx_store_sandbox_patch(store, &r, &late, &err), CONFLICT);
    OK(sbx_store_sandbox_patch(store, &r, &c, &err));
    FAILS(sbx_store_sandbox_limits_begin(store, id.s, "stopped", 60, &err), CONFLICT);
    OK(sbx_store_sandbox_limits_begin(store, id.s, "running", 60, &err));
    OK(sbx_store_sandbox_overdue(store, w.s, 9, &l, &err));
    cr_expect_eq(l.count, 0u);
    sql("UPDATE sandboxes SET limits_due_at = now() - interval '1 s' WHERE id = '%s'", id.s);
    OK(sbx_store_sandbox_overdue(store, w.s, 9, &l, &err));
    cr_assert_eq(l.count, 1u);
    cr_expect_str_eq(l.items[0].state, "running");
    cr_expect_str_neq(l.items[0].worker, w.s);
    sbx_sandbox_list_done(&l);
    OK(sbx_store_sandbox_limits_end(store, id.s, 0, 512, 0, &err));
    cr_expect_eq(sql("SELECT count(*) FROM sandboxes WHERE id = '%s' AND limits_due_at IS NULL"
                     " AND memory_mb = 512 AND pids = 30",
                     id.s),
                 1);
    sbx_sandbox_row_done(&r);
}

Test(store_sandboxes, the_sweep_reads_failed_rows_by_id_only)
{
    sbx_id a = make_sandbox("running"), b = make_sandbox("failed"), c = make_sandbox("failed");
    const char *ids[] = {a.s, b.s, "unknown"};
    sbx_sandbox_list l = {0};

    OK(sbx_store_sandbox_all(store, &l, &err));
    cr_expect_eq(l.count, 1u);
    sbx_sandbox_list_done(&l);
    OK(sbx_store_sandbox_failed(store, ids, 3, &l, &err));
    cr_assert_eq(l.count, 1u);
    cr_expect_str_eq(l.items[0].id, b.s);
    sbx_sandbox_list_done(&l);
    (void)c;
}

static void *renew_thread(void *arg)
{
    sbx_sandbox_row r = {0};
    sbx_err e = {0};
    int rc;

    rc = sbx_store_sandbox_renew(store, owner.s, arg, &r, &e);
    sbx_sandbox_row_done(&r);
    return (void *)(intptr_t)(rc == 0 ? 1 : e.code == SBX_E_CONFLICT ? 2 : 3);
}

Test(store_sandboxes, of_a_renewal_and_a_reap_at_once_exactly_one_wins)
{
    sbx_id w = sbx_id_new();

    for (int i = 0; i < 40; i++) {
        sbx_id id = make_sandbox("running");
        sbx_sandbox_list l = {0};
        pthread_t t;
        void *renewed;

        sql("UPDATE sandboxes SET expires_at = now() - interval '1 s' WHERE id = '%s'", id.s);
        pthread_create(&t, NULL, renew_thread, id.s);
        OK(sbx_store_sandbox_reap(store, &(sbx_reap){.worker = w.s, .max = 10}, &l, &err));
        pthread_join(t, &renewed);
        /* SKIP LOCKED may leave a row that a losing renewal looked at, never take a renewed one. */
        cr_expect_neq((intptr_t)renewed, 3);
        cr_expect_eq((intptr_t)renewed == 1, l.count == 0);
        sbx_sandbox_list_done(&l);
    }
}

Test(store_sandboxes, touch_counts_and_all)
{
    sbx_id a = make_sandbox("running"), b = make_sandbox("creating");
    const char *ids[] = {a.s, "nonsense\"},{"}, *states[] = {"creating", "running", "failed"};
    int64_t n[3] = {-1, -1, -1};
    sbx_sandbox_refs frozen = {0};
    sbx_sandbox_list l = {0};

    sql("UPDATE sandboxes SET last_active_at = now() - interval '1 hour'");
    OK(sbx_store_sandbox_touch(store, ids, 2, &frozen, &err));
    OK(sbx_store_sandbox_touch(store, NULL, 0, &frozen, &err));
    cr_expect_eq(sql("SELECT count(*) FROM sandboxes WHERE last_active_at > now() -"
                     " interval '1 minute'"),
                 1);
    OK(sbx_store_sandbox_counts(store, states, 3, n, &err));
    cr_expect(n[0] == 1 && n[1] == 1 && n[2] == 0);
    OK(sbx_store_sandbox_all(store, &l, &err));
    cr_expect_eq(l.count, 2u);
    sbx_sandbox_list_done(&l);
    (void)b;
}

/* --- users, keys, records --- */

Test(store_sandboxes, users_are_made_once_and_never_change_their_role)
{
    sbx_id again;

    OK(sbx_store_user_ensure(store, "ada", "user", "enterprise", &again, &err));
    cr_expect_str_eq(again.s, owner.s);
    FAILS(sbx_store_user_ensure(store, "ada", "admin", "enterprise", &again, &err), CONFLICT);
    FAILS(sbx_store_user_ensure(store, "eve", "god", "enterprise", &again, &err), INVALID);
    FAILS(sbx_store_user_ensure(store, "", "user", "enterprise", &again, &err), INVALID);
}

Test(store_sandboxes, keys_are_found_by_their_hash)
{
    unsigned char hash[SBX_HASH_BYTES] = {1, 0, 2};
    sbx_key_row k = {0};
    sbx_id id;

    FAILS(sbx_store_key_by_hash(store, hash, &k, &err), NOT_FOUND);
    OK(sbx_store_key_insert(store, owner.s, "laptop", "sbx_abcdefgh", hash, "*", &id, &err));
    OK(sbx_store_key_by_hash(store, hash, &k, &err));
    cr_expect_str_eq(k.id, id.s);
    cr_expect_str_eq(k.user, owner.s);
    cr_expect_str_eq(k.role, "user");
    cr_expect_str_eq(k.scopes, "*");
    cr_expect(!k.expired && !k.revoked);
    sbx_key_row_done(&k);
    sql("UPDATE api_keys SET expires_at = now() - interval '1 s', revoked_at = now()");
    OK(sbx_store_key_by_hash(store, hash, &k, &err));
    cr_expect(k.expired && k.revoked);
    sbx_key_row_done(&k);
}

Test(store_sandboxes, executions_arrive_in_one_batch_and_twice_is_once)
{
    sbx_id id = make_sandbox("running");
    sbx_exec_record r[3];

    for (int i = 0; i < 3; i++) {
        sbx_id x = sbx_id_new();

        r[i] = (sbx_exec_record){.kind = "exec",
                                 .command = "[\"sh\",\"-c\",\"echo \\\"\\u00e9\"]",
                                 .started_ms = 1760000000123,
                                 .duration_ms = 5,
                                 .exit_code = i - 1};
        sbx_copy(r[i].id, sizeof r[i].id, x.s);
        sbx_copy(r[i].sandbox, sizeof r[i].sandbox, i == 2 ? x.s : id.s);
    }
    r[0].signal = 9;
    r[0].oom_killed = true;
    OK(sbx_store_exec_insert(store, r, 3, &err));
    OK(sbx_store_exec_insert(store, r, 3, &err));
    cr_expect_eq(sql("SELECT count(*) FROM sandbox_executions"), 2);
    cr_expect_eq(sql("SELECT count(*) FROM sandbox_executions WHERE exit_code IS NULL AND"
                     " signal = 9 AND oom_killed AND started_at ="
                     " '2025-10-09 08:53:20.123Z'::timestamptz"),
                 1);
}

static const char *error_of(const char *sandbox, const char *id, bool *ret_running)
{
    static char text[64];
    sbx_exec_record r = {0};

    OK(sbx_store_exec_get(store, owner.s, sandbox, id, &r, &err));
    sbx_copy(text, sizeof text, r.error);
    *ret_running = r.running;
    sbx_exec_record_done(&r);
    return text;
}

Test(store_sandboxes, an_execution_that_runs_ends_as_told_or_is_lost_with_its_sandbox)
{
    sbx_id id = make_sandbox("running"), x[3] = {sbx_id_new(), sbx_id_new(), sbx_id_new()};
    sbx_exec_record r = {.kind = "exec", .command = "[]", .started_ms = 1760000000123};
    sbx_state_change stop = {.id = id.s, .from = "running", .to = "failed", .worker = ""};
    sbx_sandbox_row row = {0};
    bool runs;

    sbx_copy(r.sandbox, sizeof r.sandbox, id.s);
    r.running = true;
    for (int i = 0; i < 2; i++) {
        sbx_copy(r.id, sizeof r.id, x[i].s);
        OK(sbx_store_exec_insert(store, &r, 1, &err));
    }
    sbx_exec_record both[] = {r, r}; /* its end, and once more its start */
    both[0].running = false;
    both[0].exit_code = 3;
    OK(sbx_store_exec_insert(store, both, 2, &err));
    cr_expect_str_empty(error_of(id.s, x[1].s, &runs));
    cr_expect_not(runs);
    cr_expect_str_empty(error_of(id.s, x[0].s, &runs));
    cr_expect(runs);

    OK(sbx_store_sandbox_set_state(store, &stop, &row, &err));
    sbx_sandbox_row_done(&row);
    cr_expect_str_eq(error_of(id.s, x[0].s, &runs), "lost");
    cr_expect_not(runs);
    cr_expect_str_empty(error_of(id.s, x[1].s, &runs));
    sbx_copy(r.id, sizeof r.id, x[2].s); /* too late: nothing runs in it */
    OK(sbx_store_exec_insert(store, &r, 1, &err));
    cr_expect_str_eq(error_of(id.s, x[2].s, &runs), "lost");
    cr_expect_not(runs);
    sbx_copy(r.id, sizeof r.id, x[1].s); /* a start that is told again takes no end away */
    OK(sbx_store_exec_insert(store, &r, 1, &err));
    cr_expect_str_empty(error_of(id.s, x[1].s, &runs));
    sbx_copy(both[0].id, sizeof both[0].id, x[0].s); /* it was heard after all */
    OK(sbx_store_exec_insert(store, both, 1, &err));
    cr_expect_str_empty(error_of(id.s, x[0].s, &runs));
}

Test(store_sandboxes, executions_are_listed_newest_first_and_of_their_owner_alone)
{
    sbx_id id = make_sandbox("running"), ids[3];
    sbx_exec_record r = {.kind = "exec",
                         .command = "[\"true\"]",
                         .measured = true,
                         .cpu_ms = 7,
                         .peak_kb = 8,
                         .chunks = 9,
                         .background = true};
    sbx_exec_record one = {0};
    sbx_exec_page p = {0};

    sbx_copy(r.sandbox, sizeof r.sandbox, id.s);
    for (int i = 0; i < 3; i++) {
        ids[i] = sbx_id_new();
        sbx_copy(r.id, sizeof r.id, ids[i].s);
        r.started_ms = 1760000000000 + i;
        OK(sbx_store_exec_insert(store, &r, 1, &err));
    }
    OK(sbx_store_exec_list(store, owner.s, id.s, 0, NULL, 2, &p, &err));
    cr_assert_eq(p.count, 2);
    cr_expect_str_eq(p.items[0].id, ids[2].s);
    cr_expect_str_eq(p.items[1].id, ids[1].s);
    sbx_exec_page_done(&p);
    OK(sbx_store_exec_list(store, owner.s, id.s, 1760000000001, ids[1].s, 2, &p, &err));
    cr_assert_eq(p.count, 1);
    cr_expect_str_eq(p.items[0].id, ids[0].s);
    sbx_exec_page_done(&p);
    OK(sbx_store_exec_list(store, id.s, id.s, 0, NULL, 2, &p, &err));
    cr_expect_eq(p.count, 0);
    sbx_exec_page_done(&p);
    OK(sbx_store_exec_get(store, owner.s, id.s, ids[1].s, &one, &err));
    cr_expect_eq(one.started_ms, 1760000000001);
    cr_expect(one.measured && one.background && !one.terminal);
    cr_expect(one.cpu_ms == 7 && one.peak_kb == 8 && one.chunks == 9);
    cr_expect_str_eq(one.command, "[\"true\"]");
    sbx_exec_record_done(&one);
    FAILS(sbx_store_exec_get(store, id.s, id.s, ids[1].s, &one, &err), NOT_FOUND);
    FAILS(sbx_store_exec_get(store, owner.s, owner.s, ids[1].s, &one, &err), NOT_FOUND);
}
