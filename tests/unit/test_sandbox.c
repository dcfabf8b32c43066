/* The table of states, and what a create request may say. */
#include "sbx/sandbox/spec.h"
#include "sbx/sandbox/state.h"

#include "sbx/core/limits.h"
#include <criterion/criterion.h>
#include <stdio.h>

Test(sandbox_state, only_listed_moves_are_legal)
{
    static const struct {
        const char *name;
        sbx_state from, to;
        bool ok;
    } cases[] = {
        {"a create ends well", SBX_S_CREATING, SBX_S_RUNNING, true},
        {"a create fails", SBX_S_CREATING, SBX_S_FAILED, true},
        {"delete during create", SBX_S_CREATING, SBX_S_DELETING, true},
        {"running is not created again", SBX_S_RUNNING, SBX_S_CREATING, false},
        {"paused needs resuming", SBX_S_PAUSED, SBX_S_RUNNING, false},
        {"stopped starts first", SBX_S_STOPPED, SBX_S_RUNNING, false},
        {"deleting ends deleted only", SBX_S_DELETING, SBX_S_FAILED, false},
        {"deleted is the end", SBX_S_DELETED, SBX_S_DELETING, false},
        {"failed may be deleted", SBX_S_FAILED, SBX_S_DELETING, true},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        cr_expect_eq(sbx_state_may(cases[i].from, cases[i].to), cases[i].ok, "%s", cases[i].name);
}

Test(sandbox_state, every_state_but_deleted_can_be_left_and_can_reach_deleted)
{
    for (int s = 0; s < SBX_S_COUNT; s++) {
        unsigned reached = 1u << s;

        for (int round = 0; round < SBX_S_COUNT; round++)
            for (int a = 0; a < SBX_S_COUNT; a++)
                for (int b = 0; b < SBX_S_COUNT; b++)
                    if ((reached & 1u << a) && sbx_state_may((sbx_state)a, (sbx_state)b))
                        reached |= 1u << b;
        cr_expect(reached & 1u << SBX_S_DELETED, "%s", sbx_state_wire((sbx_state)s));
        cr_expect_eq(sbx_state_parse(sbx_state_wire((sbx_state)s)), (sbx_state)s);
    }
    cr_expect_eq(sbx_state_parse("asleep"), SBX_S_COUNT);
}

static int parse(const char *body, sbx_spec *spec, sbx_err *err)
{
    *spec = (sbx_spec){0};
    return sbx_spec_parse(body, strlen(body), spec, err);
}

Test(sandbox_spec, no_body_means_all_defaults)
{
    sbx_spec s;
    sbx_err err;

    cr_assert_eq(parse("", &s, &err), 0, "%s", err.msg);
    cr_expect_str_eq(s.size, "small");
    cr_expect_eq(s.limits.cpu_milli, 1000);
    cr_expect_eq(s.limits.memory_mb, 512);
    cr_expect_eq(s.limits.pids, 100);
    cr_expect_eq(s.timeout_s, 1800);
    cr_expect_eq(s.idle_timeout_s, 900);
    cr_expect_str_eq(s.on_timeout, "delete");
    cr_expect_str_eq(s.on_idle, "pause");
    cr_expect_null(s.network.mode, "the server's default");
    cr_expect(s.wait);
    sbx_spec_done(&s);
}

Test(sandbox_spec, idleness_does_what_the_given_time_out_does)
{
    static const struct {
        const char *body, *on_timeout, *on_idle;
    } cases[] = {
        {"{\"onTimeout\":\"delete\"}", "delete", "delete"},
        {"{\"onTimeout\":\"stop\"}", "stop", "stop"},
        {"{\"onIdle\":\"stop\"}", "delete", "stop"},
        {"{\"onTimeout\":\"pause\",\"onIdle\":\"delete\"}", "pause", "delete"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_spec s;
        sbx_err err;

        cr_assert_eq(parse(cases[i].body, &s, &err), 0, "%s", err.msg);
        cr_expect_str_eq(s.on_timeout, cases[i].on_timeout, "%s", cases[i].body);
        cr_expect_str_eq(s.on_idle, cases[i].on_idle, "%s", cases[i].body);
        sbx_spec_done(&s);
    }
}

Test(sandbox_spec, limits_override_the_size)
{
    sbx_spec s;
    sbx_err err;

    cr_assert_eq(parse("{\"size\":\"xlarge\",\"limits\":{\"cpus\":0.5,\"diskMb\":null}}", &s, &err),
                 0, "%s", err.msg);
    cr_expect_eq(s.limits.cpu_milli, 500);
    cr_expect_eq(s.limits.memory_mb, 4096);
    sbx_spec_done(&s);
}

Test(sandbox_spec, what_the_document_says_of_a_size_is_what_it_gives)
{
    const sbx_json_field *f = sbx_spec_fields;

    while (strcmp(f->name, "size") != 0)
        f++;
    for (size_t i = 0; f->values[i]; i++) {
        char body[64], words[64];
        sbx_spec s;
        sbx_err err;

        snprintf(body, sizeof body, "{\"size\":\"%s\"}", f->values[i]);
        cr_assert_eq(parse(body, &s, &err), 0, "%s", err.msg);
        snprintf(words, sizeof words, "%s %g/%lld", f->values[i], (double)s.limits.cpu_milli / 1000,
                 (long long)s.limits.memory_mb);
        cr_expect(strstr(f->doc, words), "%s", words);
        sbx_spec_done(&s);
    }
}

Test(sandbox_spec, refusals_name_the_field)
{
    static const struct {
        const char *body, *field;
    } cases[] = {
        {"{\"limits\":{\"cpus\":8}}", "limits.cpus"},
        {"{\"limits\":{\"memoryMb\":128}}", "limits.memoryMb"},
        {"{\"limits\":{\"pids\":1}}", "limits.pids"},
        {"{\"limits\":{\"diskMb\":15}}", "limits.diskMb"},
        {"{\"limits\":{\"gpus\":1}}", "limits.gpus"},
        {"{\"network\":{\"mode\":\"allowlist\"}}", "network.mode"},
        {"{\"network\":{\"allow\":[]}}", "network.allow"},
        {"{\"volumes\":[]}", "volumes"},
        {"{\"timeoutSeconds\":0}", "timeoutSeconds"},
        {"{\"timeoutSeconds\":86401}", "timeoutSeconds"},
        {"{\"onIdle\":\"sleep\"}", "onIdle"},
        {"{\"size\":\"tiny\"}", "size"},
        {"{\"env\":{\"1A\":\"x\"}}", "env"},
        {"{\"env\":{\"A=B\":\"x\"}}", "env"},
        {"{\"env\":{\"SBX_AGENT_TOKEN\":\"x\"}}", "env"},
        {"{\"image\":\"--privileged\"}", "image"},
        {"{\"image\":\"a b\"}", "image"},
        {"{\"name\":\"a\\nb\"}", "name"},
        {"{\"command\":[]}", "command"},
        {"{\"wait\":\"no\"}", "wait"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_spec s;
        sbx_err err = {0};

        cr_expect_eq(parse(cases[i].body, &s, &err), -1, "%s", cases[i].body);
        cr_expect_str_eq(err.field, cases[i].field, "%s: %s", cases[i].body, err.msg);
        sbx_spec_done(&s);
    }
}

Test(sandbox_spec, the_environment_as_a_whole_is_bounded)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(MIB);
    sbx_spec s;
    sbx_err err;

    sbx_buf_adds(&b, "{\"env\":{");
    for (int i = 0; i < 5; i++)
        sbx_buf_addf(&b, "%s\"V%d\":\"%030000d\"", i ? "," : "", i, 0);
    sbx_buf_adds(&b, "}}");
    cr_expect_eq(parse(b.data, &s, &err), -1);
    cr_expect_str_eq(err.field, "env");
    sbx_spec_done(&s);
}
