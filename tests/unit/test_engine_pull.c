/* Pulls, against an engine that misbehaves. */
#include "../lib/pull_whole.h"
#include "engine_fixture.h"

TestSuite(engine_pull, .init = setup, .fini = teardown, .timeout = 60);

Test(engine_pull, pulls_report_what_the_stream_says)
{
    static const struct {
        const char *image;
        sbx_code code;
        const char *says;
    } cases[] = {
        {"good:1", SBX_OK, ""},
        {"unknown:1", SBX_E_NOT_FOUND, "unknown:1"},
        {"denied:1", SBX_E_NOT_FOUND, "denied:1"},
        {"broken:1", SBX_E_ENGINE, "unexpected EOF"},
        {"full:1", SBX_E_ENGINE, "the disk of the engine's host is full"},
        {"noise:1", SBX_OK, ""},
        {"cut:1", SBX_E_ENGINE_UNAVAILABLE, "cut:1"},
        {"slow:1", SBX_E_TIMEOUT, "slow:1 was not pulled within 2 s"},
        {"hang:1", SBX_E_TIMEOUT, "--pull-timeout"},
        {"", SBX_E_INVALID, "name"},
    };

    start_with(NULL, 2000);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_err err = {0};

        know_the_version();
        cr_expect_eq(pull_whole(engine, cases[i].image, &err), cases[i].code ? -1 : 0, "%s",
                     cases[i].image);
        cr_expect_eq(err.code, cases[i].code, "%s: %s", cases[i].image, err.msg);
        cr_expect(strstr(err.msg, cases[i].says) != NULL, "%s", err.msg);
    }
}

Test(engine_pull, a_pull_does_not_ask_for_the_version_itself)
{
    sbx_err err = {0};

    start_with(NULL, 1000);
    cr_expect_eq(pull_whole(engine, "good:1", &err), -1);
    cr_expect_eq(err.code, SBX_E_ENGINE_UNAVAILABLE, "%s", err.msg);
    know_the_version();
    cr_expect_eq(pull_whole(engine, "good:1", &err), 0, "%s", err.msg);
}

Test(engine_pull, a_step_of_a_pull_never_blocks_and_a_closed_one_frees_all)
{
    sbx_engine_pull *p = NULL;
    sbx_err err = {0};

    start_with(NULL, 20000);
    know_the_version();
    cr_assert_eq(engine->ops->pull(engine, "hang:1", &p, &err), 0, "%s", err.msg);
    for (int i = 0; i < 200; i++) {
        int64_t from = sbx_now_ms();

        cr_assert_eq(sbx_engine_pull_step(p, &err), 0, "%s", err.msg);
        cr_expect(sbx_now_ms() - from < 500);
    }
    sbx_engine_pull_close(p);
}
