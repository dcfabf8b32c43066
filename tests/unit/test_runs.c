/* Code and files of a run on their way to sbx-files, what that says, and what runs code. */
#include "runs/runs_priv.h"

#include <criterion/criterion.h>
#include <stdio.h>

static int add(const char *json, bool inside, sbx_buf *out, sbx_err *err)
{
    sbx_json *root;

    cr_assert_eq(sbx_json_parse(json, strlen(json), &root, err), 0, "%s", json);
    int rc = sbx_batch_add_json(out, root, inside, err);
    sbx_json_free(root);
    return rc;
}

Test(runs, a_batch_is_counted_records)
{
    static const char want[] = "\2\0\0\0"
                               "\1\0\0\0\377\377\377\377\2\0\0\0\0\0\0\0ahi"
                               "\3\0\0\0\355\1\0\0\3\0\0\0\0\0\0\0b/c\0\1\2";
    sbx_buf b = SBX_BUF_INIT(KIB);
    sbx_err err;

    sbx_batch_add(&b, "a", SBX_NO_MODE, "hi", 2);
    cr_assert_eq(add("{\"b/c\":{\"content\":\"AAEC\",\"encoding\":\"base64\",\"mode\":\"755\"}}",
                     true, &b, &err),
                 0, "%s", err.msg);
    cr_assert_eq(b.len, sizeof(want) - 1);
    cr_expect_arr_eq(b.data, want, b.len);
    sbx_buf_done(&b);
}

Test(runs, files_that_lead_out_are_refused_by_name)
{
    static const struct {
        const char *path;
        bool ok;
    } cases[] = {
        {"a", true},          {"a/b", true},      {"./a", true},           {"a/../b", true},
        {"a//b", true},       {"..a", true},      {"a..", true},           {"a/..b/c", true},
        {"/tmp/x", true},     {"a/./../b", true}, {"..", false},           {"../a", false},
        {"a/../../b", false}, {"./../a", false},  {"a/b/../../..", false}, {".//..//x", false},
        {"", false},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char json[128];
        sbx_buf b = SBX_BUF_INIT(KIB);
        sbx_err err = {0};

        snprintf(json, sizeof(json), "{\"%s\":\"x\"}", cases[i].path);
        cr_expect_eq(add(json, true, &b, &err), cases[i].ok ? 0 : -1, "%s", cases[i].path);
        cr_expect_str_eq(err.field, cases[i].ok ? "" : "files", "%s", cases[i].path);
        sbx_buf_done(&b);
        sbx_buf_init(&b, KIB);
        cr_expect_eq(add(json, false, &b, &err), *cases[i].path ? 0 : -1, "%s", cases[i].path);
        sbx_buf_done(&b);
    }
}

Test(runs, files_that_are_too_large_together_are_413)
{
    sbx_buf b = SBX_BUF_INIT(30);
    sbx_err err;

    cr_expect_eq(add("{\"a\":\"0123456789abcdef\"}", true, &b, &err), -1);
    cr_expect_eq(err.code, SBX_E_TOO_LARGE);
    cr_expect_str_eq(err.field, "files");
    sbx_buf_done(&b);
}

Test(runs, what_the_program_says_of_a_failure_is_read_strictly)
{
    static const struct {
        const char *line;
        sbx_code code;
        const char *path;
        int64_t size;
    } cases[] = {
        {"{\"code\":\"not_found\",\"message\":\"m\",\"path\":\"/x\"}", SBX_E_NOT_FOUND, "/x", -1},
        {"{\"code\":\"range\",\"message\":\"m\",\"sizeBytes\":7}", SBX_E_RANGE, NULL, 7},
        {"{\"code\":\"no_space\",\"message\":\"m\"}", SBX_E_CONFLICT, NULL, -1},
        {"{\"code\":\"no_such_code\",\"message\":\"m\"}", SBX_E_ENGINE, NULL, -1},
        {"{\"code\":\"invalid\"}", SBX_E_ENGINE, NULL, -1},
        {"{\"code\":7,\"message\":\"m\"}", SBX_E_ENGINE, NULL, -1},
        {"[]", SBX_E_ENGINE, NULL, -1},
        {"no JSON", SBX_E_ENGINE, NULL, -1},
        {"", SBX_E_ENGINE, NULL, -1},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *path = NULL;
        int64_t size = 0;
        sbx_err err = {0};
        bool known = sbx_tool_error(cases[i].line, strlen(cases[i].line), &path, &size, &err);

        cr_expect_eq(known, cases[i].code != SBX_E_ENGINE, "%s", cases[i].line);
        cr_expect_eq(err.code, cases[i].code, "%s", cases[i].line);
        cr_expect_eq(size, cases[i].size, "%s", cases[i].line);
        cr_expect(sbx_streq(path, cases[i].path) || (!path && !cases[i].path), "%s", cases[i].line);
        free(path);
    }
}

Test(runs, how_the_program_ended_explains_some_failures)
{
    sbx_err err = {0};

    cr_expect(sbx_tool_explain(&(sbx_command_exit){.exit_code = 137, .oom_killed = true}, &err));
    cr_expect_eq(err.code, SBX_E_ENGINE);
    cr_expect(sbx_tool_explain(&(sbx_command_exit){.exit_code = 137, .signal = 9}, &err));
    cr_expect(sbx_tool_explain(&(sbx_command_exit){.exit_code = 127}, &err));
    cr_expect_eq(err.code, SBX_E_CONFLICT);
    cr_expect_not(sbx_tool_explain(&(sbx_command_exit){.exit_code = 1}, &err));
}

Test(runs, each_runtime_of_the_requests_has_a_runner)
{
    for (size_t i = 0; run_runtimes[i]; i++) {
        const runner *r = runner_find(run_runtimes[i]);

        cr_assert_not_null(r, "%s", run_runtimes[i]);
        cr_expect_str_eq(r->runtime, run_runtimes[i]);
        cr_expect(r->argv[0] && r->extension[0] == '.' && r->template_name);
    }
    cr_expect_null(runner_find("cobol"));
}

Test(runs, what_is_not_the_codes_doing_has_a_code)
{
    run x = {.exited = true};
    const char *message = NULL;

    cr_expect_null(answer_error(&x, &message));
    x.exit = (sbx_command_exit){.exit_code = 1};
    cr_expect_null(answer_error(&x, &message), "code that fails does so by itself");
    x.exit.timed_out = true;
    cr_expect_str_eq(answer_error(&x, &message), "timeout");
    x.exit.oom_killed = true;
    cr_expect_str_eq(answer_error(&x, &message), "oom");
    sbx_err_set(&x.failure, SBX_E_GONE, "deleted");
    cr_expect_str_eq(answer_error(&x, &message), "gone");
    cr_expect_str_eq(message, "deleted");
}

Test(runs, the_runtime_of_a_run_is_read_from_its_command)
{
    static const struct {
        const char *command, *runtime;
    } cases[] = {
        {"[\"python3\",\"-u\",\"main.py\"]", "python"},
        {"[\"node\",\"--disable-warning=X\",\".run-abcdefghij0123456789.js\"]", "node"},
        {"[\"node\",\"--experimental-transform-types\",\"main.ts\"]", "typescript"},
        {"[\"/opt/sbx-agent\",\"cell\",\"abc\",\"run\",\".run-abc.ts\",\"300000\"]", "typescript"},
        {"[]", ""},
        {"[\".py\"]", ""},
        {"[\"python3\",7,null,[\"main.py\"],{\"a\":\"b.js\"}]", ""},
        {"\"main.py\"", ""},
        {"[\"main.py\"", ""},
        {"", ""},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        cr_expect_str_eq(sbx_run_runtime_of(cases[i].command), cases[i].runtime, "%s",
                         cases[i].command);
}
