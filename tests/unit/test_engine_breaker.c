/* The engine client and its circuit breaker, against an engine that comes and goes. */
#include "engine_fixture.h"

TestSuite(engine_breaker, .init = setup, .fini = teardown, .timeout = 60);

static int64_t inspect_ms(const char *name, sbx_err *err)
{
    sbx_container_info info;
    int64_t from = sbx_now_ms();

    *err = (sbx_err){0};
    (void)!engine->ops->inspect(engine, name, &info, err);
    return sbx_now_ms() - from;
}

Test(engine_breaker, an_engine_that_is_gone_is_asked_by_one_and_found_again)
{
    char host[120];
    sbx_err err;

    sbx_log_set_level(SBX_ERROR);
    snprintf(host, sizeof(host), "unix://%s/s", folder);
    engine = client(host, 5000);
    for (int i = 0; i < SBX_BREAKER_FAILURES; i++) {
        inspect_ms("box", &err);
        cr_expect_eq(err.code, SBX_E_ENGINE_UNAVAILABLE, "%s", err.msg);
    }
    inspect_ms("box", &err);
    cr_expect(strstr(err.msg, "not reached at the moment") && strstr(err.msg, "socket"), "%s",
              err.msg);
    cr_expect_eq(err.retry_after_s, 1);
    sbx_engine *asking = sbx_steal(engine);

    start_with(NULL, 5000);
    engine->ops->free(engine);
    engine = asking;
    int64_t from = sbx_now_ms();

    while (inspect_ms("box", &err), err.code)
        cr_assert_lt(sbx_now_ms() - from, SBX_BREAKER_MAX_MS + 1000, "%s", err.msg);
    cr_expect_not(sbx_breaker_is_open(engine->breaker));
}

Test(engine_breaker, refusals_and_errors_of_an_engine_that_answers_open_nothing)
{
    static const char *const names[] = {"e500", "e400", "not_json", "redirect", "e418"};
    sbx_err err;

    start_with(NULL, 5000);
    for (int i = 0; i < 20; i++)
        inspect_ms(names[i % (int)ARRAY_LEN(names)], &err);
    cr_expect_not(sbx_breaker_is_open(engine->breaker));
}

static void *hang_for_a_while(void *arg)
{
    sbx_err err;

    sbx_job_scope(sbx_now_ms() + SBX_BREAKER_SLOW_MS + 100, NULL);
    inspect_ms("hang", &err);
    return arg;
}

Test(engine_breaker, calls_that_hang_end_when_the_breaker_opens)
{
    pthread_t t[SBX_BREAKER_FAILURES];
    sbx_err err;

    sbx_log_set_level(SBX_ERROR);
    start_with(NULL, 60000);
    know_the_version();
    for (int i = 0; i < SBX_BREAKER_FAILURES; i++)
        pthread_create(&t[i], NULL, hang_for_a_while, NULL);
    cr_expect_lt(inspect_ms("hang", &err), 20000);
    cr_expect_eq(err.code, SBX_E_ENGINE_UNAVAILABLE, "%s", err.msg);
    for (int i = 0; i < SBX_BREAKER_FAILURES; i++)
        pthread_join(t[i], NULL);
}
