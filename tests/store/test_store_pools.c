/* Taking sandboxes out of pools, with a real database: one statement that gives all of a create or
 * nothing, whoever else wants the same one, and whatever is lost on the way. */
#include "fixture.h"
#include "sbx/store/idempotency.h"
#include "sbx/store/pools.h"

#define WAITS_AS "0123456789abcdef:small/none/python"

static proxy p;
static char proxy_url[512];
static sbx_id worker;

static void setup(void)
{
    migrated_database();
    sbx_store_free(store);
    proxy_start(&p, proxy_url, sizeof proxy_url);
    OK(sbx_store_new(proxy_url, NULL, secrets, &store, &err));
    worker = sbx_id_new();
    sql("INSERT INTO workers (id, alone) VALUES ('%s', false)", worker.s);
}

static void teardown(void)
{
    sbx_store_free(store);
    store = NULL;
    proxy_end(&p);
    drop_database();
}

TestSuite(store_pools, .init = setup, .fini = teardown, .timeout = 60);

static sbx_id slot(void)
{
    sbx_id nobody = {.s = SBX_POOL_OWNER}, id;
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row r = new_row(&nobody, NULL);
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row now = {0};
    sbx_state_change c = {.id = r.id, .from = "creating", .to = "running", .started = true};

    r.pool = sbx_strdup(WAITS_AS);
    sbx_copy(r.worker, sizeof r.worker, worker.s);
    OK(sbx_store_sandbox_insert(store, &r, NULL, 60, &err));
    OK(sbx_store_sandbox_set_state(store, &c, &now, &err));
    cr_expect_str_eq(now.pool, WAITS_AS);
    cr_expect_eq(now.expires_ms, 0);
    sbx_copy(id.s, sizeof id.s, r.id);
    return id;
}

static sbx_sandbox_row wish(const sbx_id *id, const char *state)
{
    sbx_sandbox_row r = new_row(&owner, "mine");

    sbx_copy(r.id, sizeof r.id, id->s);
    sbx_copy(r.state, sizeof r.state, state);
    sbx_copy(r.worker, sizeof r.worker, worker.s);
    r.pool = sbx_strdup(WAITS_AS);
    r.memory_mb = 300;
    return r;
}

static int claim(sbx_sandbox_row *r, const sbx_claim *key)
{
    char *names[] = {(char *)"A"}, *values[] = {(char *)"1"};
    sbx_pairs env = {.names = names, .values = values, .count = 1};

    memset(&err, 0, sizeof err);
    return sbx_store_sandbox_claim(store, r, &env, 60, key, &err);
}

Test(store_pools, what_waits_has_no_events_and_a_claim_writes_those_of_a_create)
{
    sbx_id id = slot();
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row r = wish(&id, "running");
    SBX_CLEANUP_VAL(sbx_pairs_done) sbx_pairs env = {0};

    cr_expect_eq(sql("SELECT count(*) FROM events"), 0);
    cr_expect_eq(claim(&r, NULL), 1, "%s", err.msg);
    cr_expect_str_eq(r.owner, owner.s);
    cr_expect_str_eq(r.state, "running");
    cr_expect(r.warm && !r.pool);
    cr_expect_eq(r.event_seq, 2);
    cr_expect_eq(r.memory_mb, 300);
    cr_expect_eq(r.expires_ms - r.started_ms, 600000);
    cr_expect_eq(sql("SELECT count(*) FROM events WHERE owner = '%s' AND sandbox = '%s' AND ((seq ="
                     " 1 AND type = 'sandbox.creating') OR (seq = 2 AND type = 'sandbox.running'))",
                     owner.s, id.s),
                 2);
    OK(sbx_store_sandbox_env(store, id.s, &env, &err));
    cr_expect_eq(env.count, 1);
}

Test(store_pools, a_claim_that_has_more_to_do_is_a_create_that_can_be_overdue)
{
    sbx_id id = slot();
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row r = wish(&id, "creating");

    cr_expect_eq(claim(&r, NULL), 1);
    cr_expect_eq(r.event_seq, 1);
    cr_expect_eq(r.started_ms, 0);
    cr_expect_eq(sql("SELECT count(*) FROM sandboxes WHERE deadline_at > now()"), 1);
}

Test(store_pools, only_one_of_two_takes_it_and_only_what_runs_and_is_held)
{
    sbx_id id = slot(), other = sbx_id_new();
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row a = wish(&id, "running");
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row b = wish(&id, "running");
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row c = wish(&id, "running");

    sbx_copy(c.worker, sizeof c.worker, other.s);
    cr_expect_eq(claim(&c, NULL), 0, "another worker's");
    sql("UPDATE sandboxes SET state = 'deleting'");
    cr_expect_eq(claim(&a, NULL), 0, "on its way");
    sql("UPDATE sandboxes SET state = 'running'");
    cr_expect_eq(claim(&a, NULL), 1);
    cr_expect_eq(claim(&b, NULL), 0);
    cr_expect_eq(sql("SELECT count(*) FROM events"), 2);
}

Test(store_pools,
     a_claim_whose_answer_was_lost_is_success_and_one_that_did_not_arrive_is_sent_again)
{
    for (int mode = PROXY_CUT_ANSWER; mode <= PROXY_CUT_QUERY; mode++) {
        sbx_id id = slot();
        SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row r = wish(&id, "running");

        OK(sbx_store_ping(store, &err));
        atomic_store(&p.mode, mode);
        cr_expect_eq(claim(&r, NULL), 1, "%d: %s", mode, err.msg);
        cr_expect_str_eq(r.owner, owner.s);
    }
    cr_expect_eq(sql("SELECT count(*) FROM events"), 4);
}

Test(store_pools, the_key_names_what_was_taken_or_nothing_is_changed)
{
    sbx_id id = slot(), fresh = sbx_id_new();
    sbx_claim key = {.owner = owner.s, .key = "k", .worker = worker.s, .resource = fresh.s};
    SBX_CLEANUP_VAL(sbx_claim_found_done) sbx_claim_found found = {0};
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row r = wish(&id, "running");
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row late = wish(&id, "running");

    OK(sbx_store_idempotency_claim(store, &key, &found, &err));
    cr_expect_eq(found.state, SBX_CLAIM_MINE);
    cr_expect_eq(claim(&r, &key), 1);
    cr_expect_eq(sql("SELECT count(*) FROM idempotency_keys WHERE resource = '%s' AND begun", id.s),
                 1);
    cr_expect_eq(claim(&late, &key), 0);
    cr_expect_eq(sql("SELECT count(*) FROM idempotency_keys WHERE resource = '%s' AND begun", id.s),
                 1);
}

Test(store_pools, a_key_that_was_taken_over_meanwhile_is_told)
{
    sbx_id id = slot(), fresh = sbx_id_new();
    sbx_claim key = {.owner = owner.s, .key = "gone", .worker = worker.s, .resource = fresh.s};
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row r = wish(&id, "running");

    cr_expect_eq(claim(&r, &key), -1);
    cr_expect_eq(err.code, SBX_E_CAPACITY);
}

Test(store_pools, creates_fade_and_an_option_that_says_the_same_leaves_a_resize)
{
    sbx_pool_row row = {.key = "small/none/python",
                        .template_name = "python",
                        .size = "small",
                        .network = "none",
                        .min = 2,
                        .max = 5};
    sbx_pool_row got[4];
    sbx_pool_news news = {.hits = 3, .misses = 1, .fill_ms = 200, .started = true, .error = "why"};
    const char *keys[] = {row.key};

    OK(sbx_store_pool_option(store, &row, "python=2:5", &err));
    OK(sbx_store_pool_count(store, row.key, &news, &err));
    (void)slot();
    cr_assert_eq(sbx_store_pool_list(store, worker.s, got, 4, &err), 1);
    cr_expect_eq(got[0].hits, 3);
    cr_expect_eq(got[0].misses, 1);
    cr_expect_eq(got[0].fill_ms, 200);
    cr_expect_eq(got[0].ready, 1);
    cr_expect_str_eq(got[0].error, "why");
    cr_expect(got[0].recent_milli > 3500 && got[0].recent_milli <= 4000);
    sql("UPDATE pools SET recent_at = now() - interval '1 minute'");
    cr_assert_eq(sbx_store_pool_list(store, worker.s, got, 4, &err), 1);
    cr_expect(got[0].recent_milli > 1300 && got[0].recent_milli < 1600);
    row.min = row.max = 9;
    OK(sbx_store_pool_resize(store, &row, &err));
    OK(sbx_store_pool_option(store, &row, "python=2:5", &err));
    row.min = 1;
    OK(sbx_store_pool_options_gone(store, keys, 1, &err));
    cr_assert_eq(sbx_store_pool_list(store, worker.s, got, 4, &err), 1);
    cr_expect_eq(got[0].min, 9);
    OK(sbx_store_pool_options_gone(store, keys, 0, &err));
    cr_expect_eq(sbx_store_pool_list(store, worker.s, got, 4, &err), 0);
}
