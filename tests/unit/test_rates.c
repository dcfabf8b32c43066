/* Rates: their text form, buckets alone, with a bus that grants, refuses and dies, and addresses.
 */
#include "auth/buckets.h"
#include "sbx/auth/rates.h"
#include "sbx/core/clock.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <time.h>

static sbx_err err;

Test(rates, text_form_of_the_rates_of_a_key)
{
    static const struct {
        const char *text;
        bool ok;
        int64_t want[SBX_RATE_COUNT];
    } cases[] = {
        {"none", true, {0, 0, 0}},
        {"default", true, {-1, -1, -1}},
        {"creates=1,exec=2,reads=3", true, {1, 2, 3}},
        {"reads=10000000", true, {-1, -1, 10000000}},
        {"exec=0", true, {-1, 0, -1}},
        {"reads=3,creates=1", true, {1, -1, 3}},
        {"", false, {0}},
        {"None", false, {0}},
        {"none,reads=1", false, {0}},
        {"reads", false, {0}},
        {"reads=", false, {0}},
        {"reads=-1", false, {0}},
        {"reads=+1", false, {0}},
        {"reads= 1", false, {0}},
        {"reads=1 ", false, {0}},
        {"reads=10000001", false, {0}},
        {"reads=99999999999999999999", false, {0}},
        {"reads=1,reads=2", false, {0}},
        {"reads=1,", false, {0}},
        {",reads=1", false, {0}},
        {"reads=1,,exec=1", false, {0}},
        {"writes=1", false, {0}},
        {"reads=1;exec=2", false, {0}},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int64_t got[SBX_RATE_COUNT] = {7, 7, 7};
        int rc = sbx_rates_parse(cases[i].text, got, &err);

        cr_expect_eq(rc == 0, cases[i].ok, "%s", cases[i].text);
        for (size_t k = 0; k < SBX_RATE_COUNT; k++)
            cr_expect_eq(got[k], cases[i].ok ? cases[i].want[k] : 7, "%s", cases[i].text);
        if (!cases[i].ok)
            cr_expect_str_eq(err.field, "rates");
    }
}

/* --- a bucket, by a clock of the test's --- */

#define SECOND INT64_C(1000000000)

Test(rates, a_bucket_holds_a_minute_and_fills_evenly)
{
    static const int64_t limits[] = {1, 7, 60, 100, 600, 3000, 480001, SBX_MAX_RATE};

    for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
        int64_t limit = limits[i], now = 1000 * SECOND;
        bucket b = {0};

        cr_expect_eq(bucket_tokens(&b, limit, now), limit);
        bucket_spend(&b, limit, limit, now);
        cr_expect_eq(bucket_tokens(&b, limit, now), 0);
        int64_t wait = bucket_wait_ns(&b, limit, 1, now);
        cr_expect_gt(wait, 0);
        cr_expect_eq(bucket_wait_ns(&b, limit, 1, now + wait), 0);
        cr_expect_eq(bucket_tokens(&b, limit, now + wait), 1);
        cr_expect_eq(bucket_tokens(&b, limit, now + wait - 1), 0);
        cr_expect_eq(bucket_tokens(&b, limit, now + 60 * SECOND), limit);
        int64_t half = bucket_tokens(&b, limit, now + 30 * SECOND);
        cr_expect(llabs(half - limit / 2) <= 1 + limit / 1000, "%lld of %lld", (long long)half,
                  (long long)limit);
    }
}

Test(rates, what_is_owed_is_never_more_than_a_minute)
{
    int64_t now = 1000 * SECOND;
    bucket b = {0};

    for (int i = 0; i < 1000; i++)
        bucket_spend(&b, 60, 1, now);
    cr_expect_eq(bucket_wait_ns(&b, 60, 1, now), SECOND);
    bucket_spend(&b, 60, 60, now);
    cr_expect_geq(bucket_tokens(&b, 60, now + 61 * SECOND), 60);
}

Test(rates, a_lower_limit_holds_at_once_and_does_not_go_wrong)
{
    int64_t now = 1000 * SECOND;
    bucket b = {0};

    bucket_spend(&b, 1, 1, now);
    cr_expect_eq(bucket_tokens(&b, SBX_MAX_RATE, now), 0);
    cr_expect_eq(bucket_tokens(&b, SBX_MAX_RATE, now + 60 * SECOND), SBX_MAX_RATE);
}

Test(rates, the_table_remembers_who_is_active_and_is_bounded)
{
    bucket_table *t = bucket_table_new();
    pthread_mutex_t *lock;
    int64_t now = SECOND;

    for (int round = 0; round < 2; round++)
        for (uint32_t i = 1; i <= 100000; i++) {
            unsigned char name[BUCKET_NAME_BYTES] = {0};

            memcpy(name, &i, sizeof i);
            bucket_spend(&bucket_table_lock(t, name, now, &lock)->buckets[0], 60, 1, now);
            now++;
            pthread_mutex_unlock(lock);
        }
    /* The last ones are there still: of 4 places in a set one is theirs. */
    uint32_t last = 100000;
    unsigned char name[BUCKET_NAME_BYTES] = {0};
    memcpy(name, &last, sizeof last);
    cell *c = bucket_table_lock(t, name, now, &lock);
    cr_expect_eq(bucket_tokens(c->buckets, 60, now), 59);
    pthread_mutex_unlock(lock);
    bucket_table_free(t);
}

/* --- keys --- */

static struct fake {
    sbx_bus bus;
    int asked;
    bool dead;
    sbx_bus_grant grant;
    sbx_bus_bucket last;
} fake;

static int fake_lease(sbx_bus *b, const sbx_bus_bucket *ask, sbx_bus_grant *ret, sbx_err *e)
{
    (void)b;
    fake.asked++;
    fake.last = *ask;
    if (fake.dead)
        return sbx_fail(e, SBX_E_STORE_UNAVAILABLE, "dead");
    *ret = fake.grant;
    return 0;
}

static const sbx_bus_ops alone_ops = {.name = "memory"};
static const sbx_bus_ops shared_ops = {.name = "redis", .lease = fake_lease};

static sbx_rates *rates_new(bool shared, int64_t creates)
{
    memset(&fake, 0, sizeof fake);
    fake.bus.ops = shared ? &shared_ops : &alone_ops;
    return sbx_rates_new(
        &(sbx_rates_config){.per_minute = {creates, 600, 3000}, .failures = 5, .bus = &fake.bus});
}

static const sbx_principal alice = {.key = "kalice", .rates = {-1, -1, -1}};

static int take(sbx_rates *r, const sbx_principal *who, int64_t cost, sbx_rate_note *note)
{
    memset(&err, 0, sizeof err);
    return sbx_rates_take(r, who, SBX_RATE_CREATES, cost, 0, note, &err);
}

Test(rates, a_key_gets_its_minute_and_then_a_time)
{
    sbx_rates *r = rates_new(false, 10);
    sbx_principal bob = {.key = "kbob", .rates = {3, -1, -1}}, free_ = {.key = "kfree"};
    sbx_rate_note note;

    for (uint32_t i = 0; i < 10; i++) {
        cr_expect_eq(take(r, &alice, 1, &note), 0);
        cr_expect_eq(note.quota, 10);
        cr_expect_eq(note.remaining, 9 - i);
        cr_expect_str_eq(note.policy, "creates");
    }
    cr_expect_eq(take(r, &alice, 1, &note), -1);
    cr_expect_eq(err.code, SBX_E_RATE_LIMITED);
    cr_expect(err.retry_after_s >= 1 && err.retry_after_s <= 6, "%d", err.retry_after_s);
    cr_expect_eq(note.remaining, 0);
    cr_expect_eq(note.reset_s, (uint32_t)err.retry_after_s);
    /* Other classes, other keys and keys without a limit are not concerned. */
    cr_expect_eq(sbx_rates_take(r, &alice, SBX_RATE_EXEC, 1, 0, &note, &err), 0);
    for (int i = 0; i < 3; i++)
        cr_expect_eq(take(r, &bob, 1, &note), 0);
    cr_expect_eq(take(r, &bob, 1, &note), -1);
    for (int i = 0; i < 1000; i++)
        cr_expect_eq(take(r, &free_, 1, &note), 0);
    cr_expect_null(note.policy);
    sbx_rates_free(r);
}

Test(rates, a_request_that_counts_as_many_takes_all_or_nothing)
{
    sbx_rates *r = rates_new(false, 10);
    sbx_rate_note note;

    cr_expect_eq(take(r, &alice, 11, &note), -1);
    cr_expect_eq(err.code, SBX_E_INVALID, "it can never succeed: %s", err.msg);
    cr_expect_eq(take(r, &alice, 8, &note), 0);
    cr_expect_eq(take(r, &alice, 3, &note), -1);
    cr_expect_eq(err.code, SBX_E_RATE_LIMITED);
    cr_expect_eq(take(r, &alice, 2, &note), 0);
    sbx_rates_free(r);
}

Test(rates, a_block_that_was_fetched_is_used_up_before_the_next)
{
    sbx_rates *r = rates_new(true, 6000);
    sbx_rate_note note;

    fake.grant = (sbx_bus_grant){.granted = 100, .left = 5900};
    for (int i = 0; i < 250; i++)
        cr_expect_eq(take(r, &alice, 1, &note), 0);
    cr_expect_eq(fake.asked, 3);
    cr_expect_eq(fake.last.need, 1);
    cr_expect_eq(fake.last.want, 100);
    cr_expect_str_eq(fake.last.name, "rate:creates:kalice");
    cr_expect_eq(note.remaining, 5950);
    sbx_rates_free(r);
}

Test(rates, a_refusal_of_the_bus_holds_without_asking_again)
{
    sbx_rates *r = rates_new(true, 100);
    sbx_rate_note note;

    fake.grant = (sbx_bus_grant){.wait_us = 200000};
    for (int i = 0; i < 100; i++) {
        cr_expect_eq(take(r, &alice, 1, &note), -1);
        cr_expect_eq(err.code, SBX_E_RATE_LIMITED);
        cr_expect_eq(err.retry_after_s, 1);
    }
    cr_expect_eq(fake.asked, 1);
    fake.grant = (sbx_bus_grant){.granted = 1};
    int64_t until = sbx_now_ms() + 5000;
    while (take(r, &alice, 1, &note) != 0 && sbx_now_ms() < until)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    cr_expect_eq(fake.asked, 2, "asked again when the time had come, and once");
    sbx_rates_free(r);
}

Test(rates, a_dead_bus_is_not_waited_for_and_refuses_nobody)
{
    sbx_rates *r = rates_new(true, 100);
    sbx_rate_note note;

    fake.dead = true;
    for (int i = 0; i < 100; i++)
        cr_expect_eq(take(r, &alice, 1, &note), 0, "%s", err.msg);
    cr_expect_leq(fake.asked, 2);
    cr_expect_eq(take(r, &alice, 1, &note), -1, "this worker's own bucket is empty");
    /* It is asked again, and believed. */
    fake.dead = false;
    fake.grant = (sbx_bus_grant){.granted = 1, .left = 50};
    int asked = fake.asked;
    int64_t until = sbx_now_ms() + 10000;
    while ((void)!take(r, &alice, 1, &note), fake.asked == asked && sbx_now_ms() < until)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    for (int i = 0; i < 20; i++)
        cr_expect_eq(take(r, &alice, 1, &note), 0);
    cr_expect_eq(fake.asked, asked + 21);
    sbx_rates_free(r);
}

/* --- addresses --- */

static bool barred(sbx_rates *r, const char *address)
{
    sbx_rate_note note;

    memset(&err, 0, sizeof err);
    return sbx_rates_stranger(r, address, &note, &err) != 0;
}

Test(rates, an_address_that_fails_too_often_is_barred_for_a_while)
{
    sbx_rates *r = rates_new(false, 10);
    sbx_rate_note note;

    cr_expect(!barred(r, "192.0.2.1"));
    for (uint32_t i = 0; i < 5; i++) {
        cr_expect(!barred(r, "192.0.2.1"));
        sbx_rates_failed(r, "192.0.2.1", &note);
        cr_expect_eq(note.remaining, 4 - i);
        cr_expect_str_eq(note.policy, "failures");
    }
    cr_expect(barred(r, "192.0.2.1"));
    cr_expect_eq(err.code, SBX_E_RATE_LIMITED);
    cr_expect(err.retry_after_s >= 1 && err.retry_after_s <= 12, "%d", err.retry_after_s);
    cr_expect(!strstr(err.msg, "192"), "%s", err.msg);
    cr_expect(!barred(r, "192.0.2.2"));
    cr_expect(!barred(r, ""));
    sbx_rates_free(r);
}

Test(rates, an_ipv6_network_of_64_bits_is_one_address)
{
    sbx_rates *r = rates_new(false, 10);
    sbx_rate_note note;
    char address[64];

    for (int i = 0; i < 5; i++) {
        snprintf(address, sizeof address, "2001:db8:0:1:%x::%d", i, i);
        sbx_rates_failed(r, address, &note);
    }
    cr_expect(barred(r, "2001:db8:0:1:ffff:ffff:ffff:ffff"));
    cr_expect(!barred(r, "2001:db8:0:2::1"));
    cr_expect(!barred(r, "::1"));
    sbx_rates_free(r);
}

Test(rates, no_limit_of_failures_bars_nobody)
{
    sbx_rates *r = rates_new(false, 10);
    sbx_rates *none = sbx_rates_new(&(sbx_rates_config){.bus = &fake.bus});
    sbx_rate_note note;

    for (int i = 0; i < 100; i++)
        sbx_rates_failed(none, "192.0.2.1", &note);
    cr_expect(!barred(none, "192.0.2.1"));
    cr_expect_null(note.policy);
    sbx_rates_free(none);
    sbx_rates_free(r);
}
