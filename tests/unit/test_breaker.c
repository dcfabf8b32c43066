/* The circuit breaker, with time as a number. */
#include "sbx/core/breaker.h"

#include "sbx/core/log.h"
#include <criterion/criterion.h>

static sbx_breaker b;
static sbx_err down, timeout, refused, cancelled;

static void setup(void)
{
    sbx_log_set_level(SBX_ERROR);
    sbx_breaker_init(&b, "engine", SBX_E_ENGINE_UNAVAILABLE);
    sbx_err_set(&down, SBX_E_ENGINE_UNAVAILABLE, "nobody listens");
    sbx_err_set(&timeout, SBX_E_TIMEOUT, "no answer in time");
    sbx_err_set(&refused, SBX_E_CONFLICT, "refused");
    sbx_err_set(&cancelled, SBX_E_CANCELLED, "the client left");
}

static void teardown(void)
{
    sbx_breaker_done(&b);
}

TestSuite(breaker, .init = setup, .fini = teardown);

static void fail_times(int n, int64_t now_ms)
{
    for (int i = 0; i < n; i++)
        sbx_breaker_report(&b, now_ms, now_ms, &down);
}

static sbx_breaker_go ask(int64_t now_ms)
{
    return sbx_breaker_ask(&b, now_ms, NULL);
}

Test(breaker, failures_in_a_row_open_it_and_answers_between_do_not)
{
    for (int i = 0; i < 10; i++) {
        fail_times(SBX_BREAKER_FAILURES - 1, 0);
        sbx_breaker_report(&b, 0, 0, i % 2 ? NULL : &refused);
    }
    cr_expect_eq(ask(0), SBX_BREAKER_CALL);
    fail_times(SBX_BREAKER_FAILURES, 0);
    cr_expect(sbx_breaker_is_open(&b));
    cr_expect_eq(ask(0), SBX_BREAKER_STOP);
}

Test(breaker, what_tells_nothing_counts_for_nothing)
{
    for (int i = 0; i < 20; i++) {
        sbx_breaker_report(&b, 0, 60000, &cancelled);
        sbx_breaker_report(&b, 0, SBX_BREAKER_SLOW_MS - 1, &timeout);
    }
    cr_expect_not(sbx_breaker_is_open(&b));
    fail_times(SBX_BREAKER_FAILURES - 1, 0);
    sbx_breaker_report(&b, 0, 10, &cancelled); /* nor does it end a row of failures */
    sbx_breaker_report(&b, 0, SBX_BREAKER_SLOW_MS, &timeout);
    cr_expect(sbx_breaker_is_open(&b));
}

Test(breaker, a_refusal_says_why_and_when_to_come_again)
{
    sbx_err err = {0};

    fail_times(SBX_BREAKER_FAILURES, 1000);
    cr_expect_eq(sbx_breaker_ask(&b, 1000, &err), SBX_BREAKER_STOP);
    cr_expect_eq(err.code, SBX_E_ENGINE_UNAVAILABLE);
    cr_expect_eq(err.retry_after_s, 1);
    cr_expect(strstr(err.msg, "nobody listens") != NULL, "%s", err.msg);
}

Test(breaker, exactly_one_probes_and_its_success_lets_all_through)
{
    fail_times(SBX_BREAKER_FAILURES, 0);
    cr_expect_eq(ask(SBX_BREAKER_MIN_MS - 1), SBX_BREAKER_STOP);
    cr_expect_eq(ask(SBX_BREAKER_MIN_MS), SBX_BREAKER_PROBE);
    for (int i = 0; i < 10; i++)
        cr_expect_eq(ask(SBX_BREAKER_MIN_MS + 60000), SBX_BREAKER_STOP);
    sbx_breaker_probed(&b, 300, NULL);
    cr_expect_eq(ask(300), SBX_BREAKER_CALL);
    fail_times(SBX_BREAKER_FAILURES - 1, 300); /* it begins anew */
    cr_expect_eq(ask(300), SBX_BREAKER_CALL);
}

Test(breaker, the_pause_doubles_up_to_its_limit_and_begins_anew)
{
    static const int64_t pauses[] = {200, 400, 800, 1600, 2000, 2000, 2000};
    int64_t now = 0;

    for (int round = 0; round < 2; round++) {
        fail_times(SBX_BREAKER_FAILURES, now);
        for (size_t i = 0; i < ARRAY_LEN(pauses); i++) {
            cr_expect_eq(ask(now + pauses[i] - 1), SBX_BREAKER_STOP, "pause %zu", i);
            now += pauses[i];
            cr_expect_eq(ask(now), SBX_BREAKER_PROBE, "pause %zu", i);
            fail_times(9, now); /* late news of calls that were under way */
            sbx_breaker_probed(&b, now, i + 1 < ARRAY_LEN(pauses) ? &down : NULL);
        }
        cr_expect_not(sbx_breaker_is_open(&b));
    }
}

Test(breaker, a_probe_that_was_cancelled_is_made_by_the_next)
{
    fail_times(SBX_BREAKER_FAILURES, 0);
    cr_expect_eq(ask(500), SBX_BREAKER_PROBE);
    sbx_breaker_probed(&b, 600, &cancelled);
    cr_expect_eq(ask(600), SBX_BREAKER_PROBE);
    cr_expect_eq(ask(600), SBX_BREAKER_STOP);
}

Test(breaker, an_answer_to_a_call_that_was_under_way_closes_it)
{
    fail_times(SBX_BREAKER_FAILURES, 0);
    sbx_breaker_report(&b, 0, 100, NULL);
    cr_expect_eq(ask(100), SBX_BREAKER_CALL);
}
