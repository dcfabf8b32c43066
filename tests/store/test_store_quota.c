/* Tiers, quotas and metering, with a real database: what is refused, what is counted, and what is
 * given back, whatever happens at the same time. */
#include "fixture.h"
#include "sbx/store/tiers.h"

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
