/* Readiness and health in the table of sandboxes. */
#include "fixture.h"

TestSuite(store_checks, .init = migrated_database, .fini = drop_database, .timeout = 60);

#define WORKER   "waaaaaaaaaaaaaaaaaaa"
#define HEALTHY  "{\"status\":\"healthy\",\"failures\":0,\"checkedAt\":null,\"message\":null}"
#define HEALTHY2 "{\"status\":\"healthy\",\"failures\":1,\"checkedAt\":null,\"message\":\"x\"}"
#define UNHEALTHY                                                                                  \
    "{\"status\":\"unhealthy\",\"failures\":3,\"checkedAt\":null,\"message\":\"it's\"}"

/* A running sandbox of WORKER; `health` may be NULL. */
static sbx_id checked_sandbox(const char *health)
{
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row r = new_row(&owner, "box");
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row now = {0};
    sbx_state_change c = {
        .id = r.id, .from = "creating", .to = "running", .worker = WORKER, .started = true};
    sbx_id id;

    r.health = sbx_strdup(health);
    r.readiness = sbx_strdup("{\"port\":80}");
    OK(sbx_store_sandbox_insert(store, &r, NULL, 60, &err));
    OK(sbx_store_sandbox_set_state(store, &c, &now, &err));
    sbx_copy(id.s, sizeof id.s, r.id);
    return id;
}

static int change(const sbx_id *id, const char *worker, const char *state)
{
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row now = {0};
    int rc = sbx_store_sandbox_health(store, id->s, worker, state, &now, &err);

    if (rc == 1) {
        cr_expect_str_eq(now.id, id->s);
        cr_expect_str_eq(now.health_state, state);
        cr_expect_gt(now.event_seq, 0u);
    }
    return rc;
}

static void expect_state(const sbx_id *id, const char *want)
{
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row now = {0};

    OK(sbx_store_sandbox_get(store, NULL, id->s, &now, &err));
    if (want)
        cr_expect_str_eq(now.health_state, want);
    else
        cr_expect_null(now.health_state);
}

Test(store_checks, what_was_asked_for_reads_back)
{
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row now = {0};
    sbx_id id = checked_sandbox("{\"file\": \"/x\"}");

    OK(sbx_store_sandbox_get(store, NULL, id.s, &now, &err));
    cr_expect_str_eq(now.readiness, "{\"port\":80}");
    cr_expect_str_eq(now.health, "{\"file\": \"/x\"}", "byte for byte");
    cr_expect_null(now.health_state);
}

Test(store_checks, a_change_is_written_once_with_its_event)
{
    sbx_id id = checked_sandbox("{\"port\":1}");

    cr_expect_eq(change(&id, WORKER, HEALTHY), 1);
    cr_expect_eq(change(&id, WORKER, HEALTHY), 0, "it is healthy already");
    cr_expect_eq(change(&id, WORKER, HEALTHY2), 0, "that is no change of status");
    cr_expect_eq(change(&id, WORKER, UNHEALTHY), 1);
    expect_state(&id, UNHEALTHY);
    cr_expect_eq(sql("SELECT count(*) FROM events WHERE sandbox = '%s' AND type IN"
                     " ('sandbox.healthy', 'sandbox.unhealthy')",
                     id.s),
                 2);
    cr_expect_eq(sql("SELECT count(*) FROM events WHERE type = 'sandbox.unhealthy'"
                     " AND data->>'from' = 'healthy' AND data->>'to' = 'unhealthy'"
                     " AND data->'reason'->>'message' = 'it''s'"),
                 1);
    cr_expect_eq(sql("SELECT count(*) FROM events WHERE type = 'sandbox.healthy'"
                     " AND data->>'from' = 'starting'"),
                 1);
}

Test(store_checks, only_the_holder_of_a_running_sandbox_writes)
{
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row now = {0};
    sbx_id none = checked_sandbox(NULL), id = checked_sandbox("{\"port\":1}");
    sbx_state_change c = {.id = id.s, .from = "running", .to = "pausing", .deadline_s = 60};

    cr_expect_eq(change(&none, WORKER, HEALTHY), 0, "it has no health check");
    cr_expect_eq(change(&id, "wbbbbbbbbbbbbbbbbbbb", HEALTHY), 0, "another worker");
    OK(sbx_store_sandbox_set_state(store, &c, &now, &err));
    cr_expect_eq(change(&id, WORKER, HEALTHY), 0, "it does not run");
    expect_state(&id, NULL);
    cr_expect_eq(sql("SELECT count(*) FROM events WHERE type = 'sandbox.healthy'"), 0);
}

Test(store_checks, a_refresh_of_many_changes_no_status_and_writes_no_event)
{
    sbx_id a = checked_sandbox("{\"port\":1}"), b = checked_sandbox("{\"port\":1}");
    int64_t before;
    char states[600];

    cr_expect_eq(change(&a, WORKER, HEALTHY), 1);
    before = sql("SELECT count(*) FROM events");
    snprintf(states, sizeof states,
             "[{\"id\":\"%s\",\"state\":" HEALTHY2 "},{\"id\":\"%s\",\"state\":" HEALTHY2
             "},{\"id\":\"nobody\",\"state\":" HEALTHY2 "}]",
             a.s, b.s);
    OK(sbx_store_sandbox_health_refresh(store, "wbbbbbbbbbbbbbbbbbbb", states, &err));
    expect_state(&a, HEALTHY);
    OK(sbx_store_sandbox_health_refresh(store, WORKER, states, &err));
    expect_state(&a, HEALTHY2);
    expect_state(&b, NULL);
    cr_expect_eq(sql("SELECT count(*) FROM events"), before);
}

Test(store_checks, a_refresh_is_taken_before_the_first_status)
{
    static const char early[] = "{\"status\":\"starting\",\"failures\":0,\"checkedAt\":null,"
                                "\"message\":\"not yet\"}";
    sbx_id id = checked_sandbox("{\"port\":1}");
    char states[400];

    snprintf(states, sizeof states, "[{\"id\":\"%s\",\"state\":%s}]", id.s, early);
    OK(sbx_store_sandbox_health_refresh(store, WORKER, states, &err));
    expect_state(&id, early);
}

Test(store_checks, a_new_start_forgets_the_health)
{
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row now = {0};
    sbx_id id = checked_sandbox("{\"port\":1}");
    static const char *const way[] = {"running", "stopping", "stopped", "starting", "running"};

    cr_expect_eq(change(&id, WORKER, UNHEALTHY), 1);
    for (int i = 1; i < 5; i++) {
        sbx_state_change c = {.id = id.s, .from = way[i - 1], .to = way[i], .started = i == 4};

        sbx_sandbox_row_done(&now);
        OK(sbx_store_sandbox_set_state(store, &c, &now, &err));
        if (i < 4)
            cr_expect_str_eq(now.health_state, UNHEALTHY);
    }
    expect_state(&id, NULL);
}
