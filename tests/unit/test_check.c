/* What may be asked for as a check, and how results become a status; time is a number here. */
#include "sbx/sandbox/check.h"
#include "sbx/sandbox/spec.h"

#include "sbx/core/limits.h"
#include <criterion/criterion.h>
#include <stdio.h>

static int parse(const char *body, sbx_spec *spec, sbx_err *err)
{
    *spec = (sbx_spec){0};
    *err = (sbx_err){0};
    return sbx_spec_parse(body, strlen(body), spec, err);
}

Test(check, absent_or_null_means_none)
{
    static const char *const bodies[] = {"{}", "{\"readiness\":null,\"health\":null}"};
    sbx_spec s;
    sbx_err err;

    for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
        cr_assert_eq(parse(bodies[i], &s, &err), 0, "%s", err.msg);
        cr_expect(!s.has_readiness && !s.has_health);
        sbx_spec_done(&s);
    }
}

Test(check, defaults_are_filled_in)
{
    sbx_spec s;
    sbx_err err;

    cr_assert_eq(parse("{\"readiness\":{\"port\":80},\"health\":{\"file\":\"/x\"}}", &s, &err), 0,
                 "%s", err.msg);
    cr_expect(s.has_readiness && s.has_health);
    cr_expect_eq(s.readiness.interval_ms, 500);
    cr_expect_eq(s.readiness.timeout_ms, 2000);
    cr_expect_eq(s.readiness.retries, 30);
    cr_expect_eq(s.health.interval_s, 10);
    cr_expect_eq(s.health.timeout_ms, 2000);
    cr_expect_eq(s.health.retries, 3);
    cr_expect_eq(s.health.start_period_s, 0);
    sbx_spec_done(&s);
}

Test(check, errors_name_the_field)
{
    static const struct {
        const char *check, *field;
    } cases[] = {
        {"\"readiness\":{}", "readiness"},
        {"\"readiness\":{\"port\":80,\"file\":\"/x\"}", "readiness"},
        {"\"readiness\":{\"command\":\"true\",\"port\":1}", "readiness"},
        {"\"health\":{\"intervalSeconds\":5}", "health"},
        {"\"health\":{\"file\":\"relative\"}", "health"},
        {"\"readiness\":{\"port\":0}", "readiness.port"},
        {"\"readiness\":{\"port\":65536}", "readiness.port"},
        {"\"readiness\":{\"port\":\"80\"}", "readiness.port"},
        {"\"readiness\":{\"command\":[]}", "readiness.command"},
        {"\"readiness\":{\"command\":\"\"}", "readiness.command"},
        {"\"readiness\":{\"port\":1,\"intervalMs\":99}", "readiness.intervalMs"},
        {"\"readiness\":{\"port\":1,\"intervalMs\":60001}", "readiness.intervalMs"},
        {"\"readiness\":{\"port\":1,\"retries\":0}", "readiness.retries"},
        {"\"readiness\":{\"port\":1,\"intervalSeconds\":1}", "readiness.intervalSeconds"},
        {"\"readiness\":{\"port\":1,\"intervalMs\":60000,\"retries\":11}", "readiness"},
        {"\"readiness\":{\"port\":1,\"timeoutMs\":60000,\"retries\":11}", "readiness"},
        {"\"health\":{\"port\":1,\"intervalMs\":500}", "health.intervalMs"},
        {"\"health\":{\"port\":1,\"intervalSeconds\":0}", "health.intervalSeconds"},
        {"\"health\":{\"port\":1,\"intervalSeconds\":3601}", "health.intervalSeconds"},
        {"\"health\":{\"port\":1,\"retries\":101}", "health.retries"},
        {"\"health\":{\"port\":1,\"startPeriodSeconds\":-1}", "health.startPeriodSeconds"},
        {"\"health\":7", "health"},
    };
    char body[256];
    sbx_spec s;
    sbx_err err;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        snprintf(body, sizeof(body), "{%s}", cases[i].check);
        cr_expect_eq(parse(body, &s, &err), -1, "%s", body);
        cr_expect_eq(err.code, SBX_E_INVALID, "%s", body);
        cr_expect_str_eq(err.field, cases[i].field, "%s", body);
        sbx_spec_done(&s);
    }
}

Test(check, a_command_may_have_so_many_bytes_in_all)
{
    sbx_buf body = SBX_BUF_INIT(MIB);
    sbx_spec s;
    sbx_err err;

    sbx_buf_adds(&body, "{\"health\":{\"command\":[\"true\"");
    for (int i = 0; i < 200; i++)
        sbx_buf_adds(&body, ",\"0123456789012345678901234567890123456789\"");
    sbx_buf_adds(&body, "]}}");
    cr_expect_eq(parse(body.data, &s, &err), -1);
    cr_expect_str_eq(err.field, "health");
    sbx_spec_done(&s);
    sbx_buf_done(&body);
}

Test(check, what_is_written_can_be_read_again)
{
    static const char *const bodies[] = {
        "{\"readiness\":{\"command\":\"echo \\\"\\u00fc\\\" | grep x\",\"intervalMs\":100}}",
        "{\"readiness\":{\"command\":[\"a\",\"\",\"c d\"],\"retries\":7}}",
        "{\"readiness\":{\"port\":8080,\"timeoutMs\":100}}",
        "{\"readiness\":{\"file\":\"/tmp/ready\"}}",
    };
    sbx_spec s;
    sbx_err err;

    for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
        SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf first = SBX_BUF_INIT(MIB);
        SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf second = SBX_BUF_INIT(MIB);
        SBX_CLEANUP_VAL(sbx_check_done) sbx_check read = {0};

        cr_assert_eq(parse(bodies[i], &s, &err), 0, "%s", err.msg);
        sbx_check_json(&s.readiness, false, &first);
        cr_assert_eq(sbx_check_load(first.data, false, &read, &err), 0, "%s", err.msg);
        sbx_check_json(&read, false, &second);
        cr_expect_str_eq(first.data, second.data);
        cr_expect_eq(read.command.count, s.readiness.command.count);
        sbx_spec_done(&s);
    }
}

Test(check, health_is_loaded_with_its_interval)
{
    sbx_check c;
    sbx_err err;

    cr_assert_eq(sbx_check_load("{\"port\":1,\"intervalSeconds\":7}", true, &c, &err), 0);
    cr_expect_eq(c.interval_ms, 7000);
    sbx_check_done(&c);
}

/* --- results --- */

Test(health, failures_in_a_row_make_it_unhealthy_and_one_success_healthy)
{
    sbx_check c = {.port = 1, .retries = 3};
    sbx_health h = {0};

    cr_expect(!sbx_health_step(&h, &c, false, "no", 1, 1001));
    cr_expect(!sbx_health_step(&h, &c, false, "no", 2, 1002));
    cr_expect_eq(h.status, SBX_H_STARTING);
    cr_expect_eq(h.failures, 2);
    cr_expect(sbx_health_step(&h, &c, true, "ignored", 3, 1003));
    cr_expect_eq(h.status, SBX_H_HEALTHY);
    cr_expect_eq(h.failures, 0);
    cr_expect_str_eq(h.message, "");
    for (int i = 0; i < 2; i++)
        cr_expect(!sbx_health_step(&h, &c, false, "gone", 4, 1004));
    cr_expect_eq(h.status, SBX_H_HEALTHY);
    cr_expect(sbx_health_step(&h, &c, false, "gone", 5, 1005));
    cr_expect_eq(h.status, SBX_H_UNHEALTHY);
    cr_expect_eq(h.failures, 3);
    cr_expect_eq(h.checked_ms, 1005);
    cr_expect_str_eq(h.message, "gone");
    cr_expect(!sbx_health_step(&h, &c, false, "gone", 6, 1006), "unhealthy already");
    cr_expect_eq(h.failures, 4);
    cr_expect(sbx_health_step(&h, &c, true, "", 7, 1007));
    cr_expect_eq(h.status, SBX_H_HEALTHY);
}

Test(health, failures_of_the_start_period_do_not_count)
{
    sbx_check c = {.port = 1, .retries = 1, .start_period_s = 10};
    sbx_health h = {.began_ms = 5000};

    cr_expect(!sbx_health_step(&h, &c, false, "not yet", 5000, 1));
    cr_expect(!sbx_health_step(&h, &c, false, "not yet", 14999, 1));
    cr_expect_eq(h.failures, 0);
    cr_expect_str_eq(h.message, "not yet");
    cr_expect(sbx_health_step(&h, &c, false, "still not", 15000, 1));
    cr_expect_eq(h.status, SBX_H_UNHEALTHY);
}

Test(health, the_start_period_ends_with_the_first_success)
{
    sbx_check c = {.port = 1, .retries = 1, .start_period_s = 10};
    sbx_health h = {.began_ms = 5000};

    cr_expect(sbx_health_step(&h, &c, true, "", 5001, 1));
    cr_expect(sbx_health_step(&h, &c, false, "no", 5002, 1));
    cr_expect_eq(h.status, SBX_H_UNHEALTHY);
}

Test(health, the_status_comes_back_from_the_record)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(KIB);

    for (int i = SBX_H_STARTING; i <= SBX_H_UNHEALTHY; i++) {
        sbx_health h = {.status = (sbx_health_status)i, .message = "\"quoted\""};

        sbx_buf_reset(&b);
        sbx_health_json(&h, &b);
        cr_expect_eq((int)sbx_health_read(b.data), i);
    }
    cr_expect_eq(sbx_health_read(NULL), SBX_H_STARTING);
    cr_expect_eq(sbx_health_read("{\"status\":\"odd\"}"), SBX_H_STARTING);
    cr_expect_eq(sbx_health_read("no JSON"), SBX_H_STARTING);
}

/* --- messages --- */

static void expect_clean(const char *data, size_t len, const char *want)
{
    char out[SBX_CHECK_MESSAGE_BYTES + 1];

    sbx_check_clean(out, data, len);
    cr_expect_str_eq(out, want);
    cr_expect(sbx_utf8_valid(out, strlen(out)));
}

Test(message, is_one_clean_line)
{
    expect_clean("", 0, "");
    expect_clean("plain\n", 6, "plain");
    expect_clean("a\nb\tc\r\n\n", 8, "a b c");
    expect_clean("\x1b[31mred\x7f\0x", 11, " [31mred  x");
    expect_clean("gr\xc3\xbc\xc3\x9f", 6, "gr\xc3\xbc\xc3\x9f");
    expect_clean("\xc2\x85next", 6, "  next");
    expect_clean("bad \xff\xc3 \xe2\x82", 9, "bad ?? ??");
    expect_clean("\xed\xa0\x80", 3, "???");
}

Test(message, is_cut_between_characters)
{
    char long_text[1000], want[SBX_CHECK_MESSAGE_BYTES + 1];

    memset(long_text, 'x', sizeof(long_text));
    memset(want, 'x', SBX_CHECK_MESSAGE_BYTES);
    want[SBX_CHECK_MESSAGE_BYTES] = '\0';
    expect_clean(long_text, sizeof(long_text), want);
    memcpy(long_text + SBX_CHECK_MESSAGE_BYTES - 1, "\xe2\x82\xac", 3);
    want[SBX_CHECK_MESSAGE_BYTES - 1] = '\0';
    expect_clean(long_text, sizeof(long_text), want);
}
