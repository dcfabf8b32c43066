/* Sets of packages with a real database: who installs, who waits, who takes over, what is removed.
 */
#include "fixture.h"
#include "sbx/core/limits.h"
#include "sbx/store/packages.h"

static sbx_id worker, other;

static void setup(void)
{
    migrated_database();
    worker = sbx_id_new();
    other = sbx_id_new();
    sql("INSERT INTO workers (id, alone) VALUES ('%s', false), ('%s', false)", worker.s, other.s);
}

static void teardown(void)
{
    sbx_store_free(store);
    store = NULL;
    drop_database();
}

TestSuite(store_packages, .init = setup, .fini = teardown, .timeout = 60);

/* The request number `print` of an owner. @param ret_set  of the set that was meant, if any. */
static sbx_package_state claim_as(const char *who, const char *at, int print, sbx_id *ret_set)
{
    SBX_CLEANUP_VAL(sbx_package_found_done) sbx_package_found found = {0};
    sbx_id id = sbx_id_new();
    sbx_package_request q = {
        .owner = who, .worker = at, .installer = "pip", .set_id = id.s, .deadline_s = 60};

    memset(q.request, print, sizeof q.request);
    OK(sbx_store_packages_claim(store, &q, &found, &err));
    if (found.state == SBX_PACKAGES_MINE)
        *ret_set = id;
    else
        sbx_copy(ret_set->s, sizeof ret_set->s, found.id);
    return found.state;
}

static sbx_package_state claim(int print, sbx_id *ret_set)
{
    return claim_as(owner.s, worker.s, print, ret_set);
}

static int seal(const sbx_id *set, int key, int64_t bytes, int64_t ttl_s, char ret[SBX_ID_LEN + 1])
{
    sbx_package_seal s = {.id = set->s,
                          .worker = worker.s,
                          .installed = "[\"a==1\"]",
                          .size_bytes = bytes,
                          .ttl_s = ttl_s};

    memset(s.key, key, sizeof s.key);
    return sbx_store_packages_seal(store, &s, ret, &err);
}

static sbx_id sealed(int print, int key, int64_t bytes)
{
    char id[SBX_ID_LEN + 1];
    sbx_id set;

    cr_assert_eq(claim(print, &set), SBX_PACKAGES_MINE);
    OK(seal(&set, key, bytes, 3600, id));
    cr_assert_str_eq(id, set.s);
    return set;
}

static int64_t in_state(const char *state)
{
    return sql("SELECT count(*) FROM package_sets WHERE state = '%s'", state);
}

Test(store_packages, of_equal_requests_one_installs_and_the_others_wait_for_it)
{
    sbx_id first, second, again;
    char id[SBX_ID_LEN + 1];

    cr_assert_eq(claim(1, &first), SBX_PACKAGES_MINE);
    cr_expect_eq(claim(1, &second), SBX_PACKAGES_WAIT);
    cr_expect_eq(claim_as(owner.s, other.s, 1, &second), SBX_PACKAGES_WAIT);
    OK(sbx_store_packages_stage(store, first.s, worker.s, sbx_id_new().s, &err));
    OK(seal(&first, 7, 10, 3600, id));
    cr_expect_eq(claim(1, &again), SBX_PACKAGES_SEALED);
    cr_expect_str_eq(again.s, first.s);
    cr_expect_eq(in_state("sealed"), 1);
}

Test(store_packages, another_owner_and_another_request_have_sets_of_their_own)
{
    sbx_id stranger = sbx_id_new(), a, b, c;

    sealed(1, 7, 10);
    cr_expect_eq(claim_as(stranger.s, worker.s, 1, &a), SBX_PACKAGES_MINE);
    cr_expect_eq(claim(2, &b), SBX_PACKAGES_MINE);
    OK(seal(&a, 7, 10, 3600, c.s)); /* the same key, of another owner: no set is shared */
    cr_expect_str_eq(c.s, a.s);
}

Test(store_packages, a_claim_that_is_repeated_is_known_by_its_set)
{
    SBX_CLEANUP_VAL(sbx_package_found_done) sbx_package_found found = {0};
    sbx_id id = sbx_id_new();
    sbx_package_request q = {
        .owner = owner.s, .worker = worker.s, .installer = "npm", .set_id = id.s, .deadline_s = 60};

    for (int i = 0; i < 2; i++) {
        OK(sbx_store_packages_claim(store, &q, &found, &err));
        cr_expect_eq(found.state, SBX_PACKAGES_MINE);
    }
    cr_expect_eq(in_state("installing"), 1);
}

Test(store_packages, the_same_content_by_another_request_is_one_set)
{
    sbx_id first = sealed(1, 7, 10), second, found;
    char id[SBX_ID_LEN + 1];

    cr_assert_eq(claim(2, &second), SBX_PACKAGES_MINE);
    OK(seal(&second, 7, 10, 3600, id));
    cr_expect_str_eq(id, first.s);
    cr_expect_eq(in_state("removing"), 1);
    cr_expect_eq(claim(2, &found), SBX_PACKAGES_SEALED);
    cr_expect_str_eq(found.s, first.s);
}

Test(store_packages, names_are_looked_up_anew_when_their_time_is_over)
{
    sbx_id first, again;
    char id[SBX_ID_LEN + 1];

    cr_assert_eq(claim(1, &first), SBX_PACKAGES_MINE);
    OK(seal(&first, 7, 10, 3600, id));
    sql("UPDATE package_requests SET until_at = now()");
    cr_expect_eq(claim(1, &again), SBX_PACKAGES_MINE);
    OK(seal(&again, 7, 10, 3600, id));
    cr_expect_str_eq(id, first.s);
}

Test(store_packages, a_failure_is_answered_for_a_while_and_then_tried_again)
{
    SBX_CLEANUP_VAL(sbx_package_found_done) sbx_package_found found = {0};
    sbx_err why;
    sbx_id set, id = sbx_id_new();
    sbx_package_request q = {
        .owner = owner.s, .worker = worker.s, .installer = "pip", .set_id = id.s, .deadline_s = 60};

    memset(q.request, 1, sizeof q.request);
    cr_assert_eq(claim(1, &set), SBX_PACKAGES_MINE);
    sbx_err_set(&why, SBX_E_PACKAGE, "x: no such package");
    OK(sbx_store_packages_fail(store, set.s, worker.s, &why, "the last lines", 20, &err));
    OK(sbx_store_packages_claim(store, &q, &found, &err));
    cr_expect_eq(found.state, SBX_PACKAGES_FAILED);
    cr_expect_eq(found.failure.code, SBX_E_PACKAGE);
    cr_expect_str_eq(found.failure.msg, "x: no such package");
    cr_expect_str_eq(found.output, "the last lines");
    cr_expect_eq(in_state("removing"), 1);
    sql("UPDATE package_requests SET until_at = now()");
    cr_expect_eq(claim(1, &set), SBX_PACKAGES_MINE);
}

Test(store_packages, what_nobody_waits_for_is_tried_again_at_once)
{
    sbx_err why;
    sbx_id set, next;

    cr_assert_eq(claim(1, &set), SBX_PACKAGES_MINE);
    sbx_err_set(&why, SBX_E_CANCELLED, "nobody waits");
    OK(sbx_store_packages_fail(store, set.s, worker.s, &why, "", 0, &err));
    cr_expect_eq(claim(1, &next), SBX_PACKAGES_MINE);
    cr_expect_str_neq(next.s, set.s);
}

Test(store_packages, the_installation_of_a_dead_worker_is_taken_over_and_its_set_removed)
{
    sbx_id dead_set, mine;
    char id[SBX_ID_LEN + 1];

    cr_assert_eq(claim(1, &dead_set), SBX_PACKAGES_MINE);
    sql("DELETE FROM workers WHERE id = '%s'", worker.s);
    cr_assert_eq(claim_as(owner.s, other.s, 1, &mine), SBX_PACKAGES_MINE);
    OK(sbx_store_packages_overdue(store, &err));
    cr_expect_eq(in_state("removing"), 1);
    cr_expect_eq(in_state("installing"), 1);
    FAILS(sbx_store_packages_stage(store, dead_set.s, worker.s, sbx_id_new().s, &err), CONFLICT);
    FAILS(seal(&dead_set, 7, 1, 60, id), CONFLICT);
    cr_expect_eq(claim(1, &dead_set), SBX_PACKAGES_WAIT);
}

Test(store_packages, an_installation_past_its_deadline_is_given_up)
{
    sbx_id set, next;

    cr_assert_eq(claim(1, &set), SBX_PACKAGES_MINE);
    sql("UPDATE package_sets SET deadline_at = now()");
    OK(sbx_store_packages_overdue(store, &err));
    cr_expect_eq(in_state("removing"), 1);
    cr_expect_eq(claim(1, &next), SBX_PACKAGES_MINE);
}

Test(store_packages, room_is_made_by_the_least_used_but_not_by_those_in_use)
{
    sbx_id old = sealed(1, 1, 60), young = sealed(2, 2, 60), used, found;
    int count = -1;

    used = sealed(3, 3, 60);
    OK(sbx_store_packages_evict(store, 0, &count, &err));
    cr_expect_eq(count, 0); /* all were used just now */
    sql("UPDATE package_sets SET used_at = now() - interval '2 days' WHERE id = '%s'", old.s);
    sql("UPDATE package_sets SET used_at = now() - interval '1 day' WHERE id = '%s'", young.s);
    OK(sbx_store_packages_evict(store, 120, &count, &err));
    cr_expect_eq(count, 1);
    cr_expect_eq(claim(1, &found), SBX_PACKAGES_MINE);
    cr_expect_eq(claim(2, &found), SBX_PACKAGES_SEALED); /* and now it was used */
    OK(sbx_store_packages_evict(store, 0, &count, &err));
    cr_expect_eq(count, 0);
    cr_expect_eq(claim(3, &found), SBX_PACKAGES_SEALED);
    cr_expect_str_eq(found.s, used.s);
}

Test(store_packages, a_set_that_a_container_has_comes_back_unless_its_place_was_taken)
{
    sbx_id set = sealed(1, 7, 60), next;
    char id[SBX_ID_LEN + 1];
    int count;

    sql("UPDATE package_sets SET used_at = now() - interval '2 days'");
    OK(sbx_store_packages_evict(store, 0, &count, &err));
    cr_expect_eq(count, 1);
    OK(sbx_store_packages_restore(store, set.s, &err));
    cr_expect_eq(in_state("sealed"), 1);
    sql("UPDATE package_sets SET used_at = now() - interval '2 days'");
    OK(sbx_store_packages_evict(store, 0, &count, &err));
    cr_assert_eq(claim(1, &next), SBX_PACKAGES_MINE);
    OK(seal(&next, 7, 60, 60, id));
    OK(sbx_store_packages_restore(store, set.s, &err));
    cr_expect_eq(in_state("removing"), 1);
    OK(sbx_store_packages_removed(store, set.s, &err));
    cr_expect_eq(in_state("removing"), 0);
    OK(sbx_store_packages_removed(store, next.s, &err)); /* sealed: it stays */
    cr_expect_eq(in_state("sealed"), 1);
}

Test(store_packages, a_set_whose_volume_is_lost_is_not_offered_again)
{
    sbx_package_row *rows = NULL;
    sbx_id set = sealed(1, 7, 60), next;
    size_t count = 0;

    OK(sbx_store_packages_lost(store, set.s, &err));
    OK(sbx_store_packages_all(store, &rows, &count, &err));
    cr_assert_eq(count, 1);
    cr_expect(rows[0].removing && !rows[0].was_sealed && rows[0].size_bytes == 0);
    cr_expect_str_eq(rows[0].owner, owner.s);
    free(rows);
    cr_expect_eq(claim(1, &next), SBX_PACKAGES_MINE);
}

typedef struct racer {
    pthread_t thread;
    int mine;
} racer;

static void *race(void *arg)
{
    racer *r = arg;
    sbx_package_found found = {0};
    sbx_err why;

    for (int print = 0; print < 20; print++) {
        sbx_id id = sbx_id_new();
        sbx_package_request q = {.owner = owner.s,
                                 .worker = worker.s,
                                 .installer = "pip",
                                 .set_id = id.s,
                                 .deadline_s = 60};

        memset(q.request, print, sizeof q.request);
        if (sbx_store_packages_claim(store, &q, &found, &why) == 0)
            r->mine += found.state == SBX_PACKAGES_MINE;
        sbx_package_found_done(&found);
    }
    return NULL;
}

Test(store_packages, many_at_once_install_each_request_once)
{
    racer racers[8] = {0};
    int mine = 0;

    for (size_t i = 0; i < ARRAY_LEN(racers); i++)
        pthread_create(&racers[i].thread, NULL, race, &racers[i]);
    for (size_t i = 0; i < ARRAY_LEN(racers); i++) {
        pthread_join(racers[i].thread, NULL);
        mine += racers[i].mine;
    }
    cr_expect_eq(mine, 20);
    cr_expect_eq(in_state("installing"), 20);
}
