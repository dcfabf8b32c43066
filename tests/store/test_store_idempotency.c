/* Claims of Idempotency-Keys with a real database: who runs, who waits, who takes over. */
#include "fixture.h"
#include "sbx/store/idempotency.h"

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

TestSuite(store_idempotency, .init = setup, .fini = teardown, .timeout = 60);

static sbx_claim try_of(sbx_id *id, int print)
{
    sbx_claim c = {.owner = owner.s, .key = "k", .worker = worker.s, .resource = id->s};

    *id = sbx_id_new();
    memset(c.fingerprint, print, sizeof c.fingerprint);
    return c;
}

static sbx_claim_state claim(const sbx_claim *c)
{
    SBX_CLEANUP_VAL(sbx_claim_found_done) sbx_claim_found found = {0};

    OK(sbx_store_idempotency_claim(store, c, &found, &err));
    return found.state;
}

static void sandbox_of_claim(const char *id, const char *state, bool started)
{
    sql("INSERT INTO sandboxes (id, owner, worker, image, state, size, cpu_milli, memory_mb, pids,"
        " network, timeout_s, idle_timeout_s, on_timeout, on_idle, token, started_at)"
        " VALUES ('%s', '%s', '%s', 'x', '%s', 'small', 1000, 512, 100, 'none', 60, 60, 'delete',"
        " 'delete', '\\x00112233445566778899aabbccddeeff', %s)",
        id, owner.s, worker.s, state, started ? "now()" : "NULL");
}

static void worker_lives(void)
{
    sql("INSERT INTO workers (id, alone) VALUES ('%s', false) ON CONFLICT DO NOTHING", worker.s);
}

static void kill_worker(void)
{
    sql("DELETE FROM workers");
}

Test(store_idempotency, the_first_answer_comes_back_as_it_was)
{
    SBX_CLEANUP_VAL(sbx_claim_found_done) sbx_claim_found found = {0};
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf body = SBX_BUF_INIT(KIB);
    sbx_id a, b;
    sbx_claim first = try_of(&a, 1), second = try_of(&b, 1), other = try_of(&b, 2);

    cr_expect_eq(claim(&first), SBX_CLAIM_MINE);
    cr_expect_eq(claim(&second), SBX_CLAIM_WAIT);
    second.resource = b.s;
    cr_expect_eq(claim(&other), SBX_CLAIM_OTHER);
    sbx_buf_adds(&body, "{\"needle\":1}");
    OK(sbx_store_idempotency_done(store, &first, 201, "/x", &body, &err));
    OK(sbx_store_idempotency_release(store, &first, &err)); /* too late: nothing happens */
    OK(sbx_store_idempotency_claim(store, &second, &found, &err));
    cr_expect_eq(found.state, SBX_CLAIM_FIRST);
    cr_expect_eq(found.status, 201);
    cr_expect_str_eq(found.location, "/x");
    cr_expect_str_eq(found.answer.data, "{\"needle\":1}");
    cr_expect_str_eq(found.resource, a.s);
    cr_expect_eq(claim(&other), SBX_CLAIM_OTHER);
    cr_expect_eq(
        sql("SELECT count(*) FROM idempotency_keys WHERE encode(answer, 'escape') ~ 'needle'"), 0);
}

Test(store_idempotency, a_claim_whose_answer_was_lost_is_recognised)
{
    sbx_id a;
    sbx_claim first = try_of(&a, 1);

    atomic_store(&p.mode, PROXY_CUT_ANSWER);
    cr_expect_eq(claim(&first), SBX_CLAIM_MINE);
    cr_expect_eq(atomic_load(&p.cuts), 1);
}

Test(store_idempotency, a_released_key_is_free)
{
    sbx_id a, b;
    sbx_claim first = try_of(&a, 1), second = try_of(&b, 2);

    cr_expect_eq(claim(&first), SBX_CLAIM_MINE);
    OK(sbx_store_idempotency_release(store, &first, &err));
    cr_expect_eq(claim(&second), SBX_CLAIM_MINE);
}

Test(store_idempotency, a_claim_without_a_sandbox_is_taken_over_from_a_dead_worker_only)
{
    sbx_id a, b;
    sbx_claim first = try_of(&a, 1), second = try_of(&b, 1);

    cr_expect_eq(claim(&first), SBX_CLAIM_MINE);
    cr_expect_eq(claim(&second), SBX_CLAIM_WAIT);
    kill_worker();
    cr_expect_eq(claim(&second), SBX_CLAIM_MINE);
    /* The first was only slow: it learns that it must undo what it does. */
    FAILS(sbx_store_idempotency_begun(store, &first, &err), CAPACITY);
    OK(sbx_store_idempotency_begun(store, &second, &err));
}

Test(store_idempotency, one_that_begun_is_not_taken_over_though_its_sandbox_is_not_seen)
{
    sbx_id a, b;
    sbx_claim first = try_of(&a, 1), second = try_of(&b, 1);

    cr_expect_eq(claim(&first), SBX_CLAIM_MINE);
    OK(sbx_store_idempotency_begun(store, &first, &err));
    kill_worker();
    cr_expect_eq(claim(&second), SBX_CLAIM_WAIT);
}

Test(store_idempotency, the_sandbox_tells_what_became_of_a_claim)
{
    static const struct {
        const char *state;
        bool started, dead;
        sbx_claim_state want;
    } cases[] = {
        {"creating", false, false, SBX_CLAIM_WAIT}, {"creating", false, true, SBX_CLAIM_WAIT},
        {"deleting", false, true, SBX_CLAIM_WAIT},  {"failed", false, false, SBX_CLAIM_WAIT},
        {"failed", false, true, SBX_CLAIM_MINE},    {"deleted", false, true, SBX_CLAIM_MINE},
        {"running", true, false, SBX_CLAIM_WAIT},   {"running", true, true, SBX_CLAIM_MADE},
        {"failed", true, true, SBX_CLAIM_MADE},     {"paused", true, true, SBX_CLAIM_MADE},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_id a, b;
        sbx_claim first = try_of(&a, 1), second = try_of(&b, 1);

        sql("DELETE FROM idempotency_keys");
        worker_lives();
        cr_assert_eq(claim(&first), SBX_CLAIM_MINE);
        sandbox_of_claim(a.s, cases[i].state, cases[i].started);
        if (cases[i].dead)
            kill_worker();
        cr_expect_eq(claim(&second), cases[i].want, "%s", cases[i].state);
    }
}

Test(store_idempotency, an_answer_that_was_never_written_is_not_waited_for_without_end)
{
    sbx_id a, b;
    sbx_claim first = try_of(&a, 1), second = try_of(&b, 1);

    cr_expect_eq(claim(&first), SBX_CLAIM_MINE);
    sandbox_of_claim(a.s, "failed", false);
    cr_expect_eq(claim(&second), SBX_CLAIM_WAIT);
    sql("UPDATE sandboxes SET state_changed_at = now() - interval '31 seconds'");
    cr_expect_eq(claim(&second), SBX_CLAIM_MINE);
}

Test(store_idempotency, a_create_that_was_answered_202_and_then_interrupted_runs_again)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf body = SBX_BUF_INIT(KIB);
    sbx_id a, b;
    sbx_claim first = try_of(&a, 1), second = try_of(&b, 1);

    cr_expect_eq(claim(&first), SBX_CLAIM_MINE);
    sandbox_of_claim(a.s, "creating", false);
    OK(sbx_store_idempotency_done(store, &first, 202, NULL, &body, &err));
    cr_expect_eq(claim(&second), SBX_CLAIM_FIRST);
    kill_worker();
    cr_expect_eq(claim(&second), SBX_CLAIM_WAIT);
    sql("INSERT INTO workers (id, alone) VALUES ('undoerundoerundoer00', false)");
    sql("UPDATE sandboxes SET worker = 'undoerundoerundoer00'");
    cr_expect_eq(claim(&second), SBX_CLAIM_WAIT, "who undoes it does not go on with it");
    sql("UPDATE sandboxes SET state = 'failed', reason = '{\"code\":\"engine_error\"}'");
    cr_expect_eq(claim(&second), SBX_CLAIM_FIRST);
    sql("UPDATE sandboxes SET reason = '{\"code\":\"interrupted\"}'");
    cr_expect_eq(claim(&second), SBX_CLAIM_MINE);
}

Test(store_idempotency, keys_are_forgotten_after_a_day)
{
    sbx_id a, b;
    sbx_claim first = try_of(&a, 1), second = try_of(&b, 2);

    cr_expect_eq(claim(&first), SBX_CLAIM_MINE);
    OK(sbx_store_idempotency_purge(store, &err));
    cr_expect_eq(claim(&second), SBX_CLAIM_OTHER);
    sql("UPDATE idempotency_keys SET created_at = now() - interval '1 day'");
    cr_expect_eq(claim(&second), SBX_CLAIM_MINE);
    sql("UPDATE idempotency_keys SET created_at = now() - interval '1 day'");
    OK(sbx_store_idempotency_purge(store, &err));
    cr_expect_eq(sql("SELECT count(*) FROM idempotency_keys"), 0);
}

/* --- requests that may be run again under the same id --- */

static sbx_claim_state claim_id(const sbx_claim *c, char id[SBX_ID_LEN + 1])
{
    SBX_CLEANUP_VAL(sbx_claim_found_done) sbx_claim_found found = {0};

    OK(sbx_store_idempotency_claim(store, c, &found, &err));
    sbx_copy(id, SBX_ID_LEN + 1, found.resource);
    return found.state;
}

static sbx_claim rerun_of(sbx_id *id, int print)
{
    sbx_claim c = try_of(id, print);

    c.rerun = true;
    return c;
}

Test(store_idempotency, a_rerun_goes_on_with_the_id_of_the_first)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf body = SBX_BUF_INIT(KIB);
    sbx_id a, b, c;
    sbx_claim first = rerun_of(&a, 1), second = rerun_of(&b, 1), third = rerun_of(&c, 1);
    sbx_claim other = rerun_of(&c, 2);
    char id[SBX_ID_LEN + 1];

    third.resource = other.resource = c.s;
    cr_expect_eq(claim_id(&first, id), SBX_CLAIM_MINE);
    cr_expect_str_eq(id, a.s);
    cr_expect_eq(claim_id(&second, id), SBX_CLAIM_WAIT, "its worker lives");
    cr_expect_eq(claim_id(&other, id), SBX_CLAIM_OTHER);
    kill_worker();
    cr_expect_eq(claim_id(&other, id), SBX_CLAIM_OTHER);
    cr_expect_eq(claim_id(&second, id), SBX_CLAIM_MINE);
    cr_expect_str_eq(id, a.s);
    worker_lives();
    cr_expect_eq(claim_id(&third, id), SBX_CLAIM_WAIT, "the second one is at it");
    second.resource = a.s;
    OK(sbx_store_idempotency_done(store, &second, 201, NULL, &body, &err));
    cr_expect_eq(claim_id(&third, id), SBX_CLAIM_FIRST);
}

Test(store_idempotency, a_rerun_that_was_let_go_is_taken_at_once)
{
    sbx_id a, b;
    sbx_claim first = rerun_of(&a, 1), second = rerun_of(&b, 1);
    char id[SBX_ID_LEN + 1];

    cr_expect_eq(claim_id(&first, id), SBX_CLAIM_MINE);
    OK(sbx_store_idempotency_leave(store, &first, &err));
    atomic_store(&p.mode, PROXY_CUT_ANSWER);
    cr_expect_eq(claim_id(&second, id), SBX_CLAIM_MINE);
    cr_expect_eq(atomic_load(&p.cuts), 1);
    cr_expect_str_eq(id, a.s);
}

Test(store_idempotency, a_rerun_is_not_taken_from_a_slow_worker_by_the_clock)
{
    sbx_id a, b;
    sbx_claim first = rerun_of(&a, 1), second = rerun_of(&b, 1);
    char id[SBX_ID_LEN + 1];

    cr_expect_eq(claim_id(&first, id), SBX_CLAIM_MINE);
    sql("UPDATE idempotency_keys SET created_at = now() - interval '1 hour'");
    cr_expect_eq(claim_id(&second, id), SBX_CLAIM_WAIT);
}
