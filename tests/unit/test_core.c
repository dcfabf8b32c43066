/* Buffers, errors, clocks, ids, numbers: what everything else stands on. */
#include "sbx/core/buf.h"
#include "sbx/core/clock.h"
#include "sbx/core/error.h"
#include "sbx/core/id.h"
#include "sbx/core/json.h"
#include "sbx/core/log.h"
#include <criterion/criterion.h>
#include <unistd.h>

Test(buf, grows_to_its_ceiling_and_then_fails_for_good)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(10);

    sbx_buf_adds(&b, "12345");
    sbx_buf_addf(&b, "%d", 67890);
    cr_assert(!sbx_buf_failed(&b));
    cr_expect_str_eq(b.data, "1234567890");
    sbx_buf_addc(&b, 'x');
    cr_expect(sbx_buf_failed(&b));
    sbx_buf_reset(&b);
    sbx_buf_adds(&b, "again");
    cr_expect(!sbx_buf_failed(&b));
    cr_expect_str_eq(b.data, "again");
}

Test(buf, consume_keeps_what_follows)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(100);

    sbx_buf_adds(&b, "abcdef");
    sbx_buf_consume(&b, 4);
    cr_expect_str_eq(b.data, "ef");
    sbx_buf_consume(&b, 2);
    cr_expect_eq(b.len, 0);
}

Test(buf, an_unused_buffer_steals_as_an_empty_string)
{
    sbx_buf b = SBX_BUF_INIT(10);
    char *s = sbx_buf_steal(&b);

    cr_expect_str_eq(s, "");
    free(s);
}

Test(error, wrapping_puts_context_first_and_keeps_the_code)
{
    sbx_err err;

    cr_expect_eq(sbx_fail(&err, SBX_E_CONFLICT, "state is %s", "paused"), -1);
    cr_expect_eq(sbx_wrap(&err, "stopping %s", "abc"), -1);
    cr_expect_str_eq(err.msg, "stopping abc: state is paused");
    cr_expect_eq(err.code, SBX_E_CONFLICT);
    cr_expect_eq(sbx_code_status(err.code), 409);
    cr_expect_str_eq(sbx_code_wire(err.code), "conflict");
}

Test(error, the_codes_are_those_of_the_contract)
{
    static const struct {
        const char *wire;
        int status;
    } contract[] = {
        {"invalid_request", 400},
        {"unauthorized", 401},
        {"forbidden", 403},
        {"not_found", 404},
        {"method_not_allowed", 405},
        {"not_acceptable", 406},
        {"conflict", 409},
        {"gone", 410},
        {"precondition_failed", 412},
        {"payload_too_large", 413},
        {"uri_too_long", 414},
        {"unsupported_media_type", 415},
        {"range_not_satisfiable", 416},
        {"package_failed", 422},
        {"rate_limited", 429},
        {"quota_exceeded", 429},
        {"headers_too_large", 431},
        {"internal", 500},
        {"engine_error", 502},
        {"not_ready", 502},
        {"engine_unavailable", 503},
        {"store_unavailable", 503},
        {"at_capacity", 503},
        {"timeout", 504},
    };

    for (size_t i = 0; i < ARRAY_LEN(contract); i++) {
        int found = 0;

        for (int c = SBX_OK + 1; c < SBX_E_COUNT; c++)
            found += sbx_streq(sbx_code_wire((sbx_code)c), contract[i].wire) &&
                     sbx_code_status((sbx_code)c) == contract[i].status;
        cr_expect_eq(found, 1, "%s", contract[i].wire);
    }
    /* One more: what is answered to clients that left, and so read by none. */
    cr_expect_eq(SBX_E_COUNT - 1, ARRAY_LEN(contract) + 1);
    cr_expect_str_eq(sbx_code_wire(SBX_E_CANCELLED), "cancelled");
}

Test(error, every_code_has_a_status_and_a_name)
{
    for (int c = SBX_OK + 1; c < SBX_E_COUNT; c++) {
        cr_expect_geq(sbx_code_status((sbx_code)c), 400);
        cr_expect_leq(sbx_code_status((sbx_code)c), 599);
        cr_expect(*sbx_code_wire((sbx_code)c));
        cr_expect(*sbx_code_title((sbx_code)c));
    }
}

Test(error, a_caller_may_ask_for_no_error)
{
    cr_expect_eq(sbx_fail(NULL, SBX_E_INTERNAL, "nobody hears"), -1);
}

Test(parse_i64, takes_whole_numbers_in_range_only)
{
    static const struct {
        const char *text;
        bool ok;
        int64_t value;
    } cases[] = {
        {"0", true, 0},    {"-5", true, -5},  {"100", true, 100},
        {"101", false, 0}, {"", false, 0},    {"-", false, 0},
        {"+5", false, 0},  {" 5", false, 0},  {"5 ", false, 0},
        {"5.0", false, 0}, {"0x5", false, 0}, {"1e2", false, 0},
        {"-6", false, 0},  {"007", true, 7},  {"99999999999999999999", false, 0},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int64_t n = 0;

        cr_expect_eq(sbx_parse_i64(cases[i].text, -5, 100, &n), cases[i].ok, "%s", cases[i].text);
        cr_expect_eq(n, cases[i].value, "%s", cases[i].text);
    }
}

Test(clock, times_are_rfc_3339_with_milliseconds)
{
    static const struct {
        int64_t ms;
        const char *text;
    } cases[] = {
        {0, "1970-01-01T00:00:00.000Z"},
        {1767225600001, "2026-01-01T00:00:00.001Z"},
        {-1, "1969-12-31T23:59:59.999Z"},
        {951782400000, "2000-02-29T00:00:00.000Z"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char out[SBX_TIME_TEXT];

        sbx_time_text(cases[i].ms, out);
        cr_expect_str_eq(out, cases[i].text);
    }
}

Test(id, is_twenty_characters_that_make_a_dns_label)
{
    for (int i = 0; i < 2000; i++) {
        sbx_id a = sbx_id_new(), b = sbx_id_new();

        cr_expect(sbx_id_valid(a.s));
        cr_expect(a.s[0] >= 'a' && a.s[0] <= 'z');
        cr_expect_str_neq(a.s, b.s);
    }
    cr_expect(!sbx_id_valid(NULL));
    cr_expect(!sbx_id_valid(""));
    cr_expect(!sbx_id_valid("short"));
    cr_expect(!sbx_id_valid("aaaaaaaaaaaaaaaaaaaaa"));
    cr_expect(!sbx_id_valid("aaaaaaaaaaaaaaaaaaaA"));
    cr_expect(!sbx_id_valid("aaaaaaaaaaaaaaaaaaa/"));
}

Test(copy, cuts_and_terminates)
{
    char small[4];

    cr_expect(sbx_copy(small, sizeof(small), "abc"));
    cr_expect(!sbx_copy(small, sizeof(small), "abcd"));
    cr_expect_str_eq(small, "abc");
}

/* Half a character in a reason was refused by the database, and in an answer by strict clients. */
Test(error, texts_that_are_cut_stay_utf8)
{
    char long_text[1001], name[128];
    sbx_err err;

    for (size_t offset = 0; offset < 4; offset++) {
        memset(long_text, 'x', offset);
        for (size_t i = offset; i + 4 <= 1000; i += 4)
            memcpy(long_text + i, "\xf0\x9f\x98\x80", 5);
        sbx_copy(name, sizeof(name), long_text);
        (void)sbx_fail_field(&err, name, "%s: \"%.41s\" in %s", "env", long_text, long_text);
        cr_expect(sbx_utf8_valid(err.field, strlen(err.field)), "%zu", offset);
        cr_expect(sbx_utf8_valid(err.msg, strlen(err.msg)), "%zu", offset);
        (void)sbx_wrap(&err, "a%s", "b");
        cr_expect(sbx_utf8_valid(err.msg, strlen(err.msg)), "%zu", offset);
        cr_expect(strstr(err.msg, "\xf0\x9f\x98\x80") != NULL, "whole characters stay");
    }
    (void)sbx_fail(&err, SBX_E_ENGINE, "%s", "\xff\xfe ok \xc3\xa4 \xc3");
    cr_expect_str_eq(err.msg, "?? ok \xc3\xa4 ?");
}

/* A line with many escapes was dropped without a word. */
Test(log, a_line_of_nothing_but_escapes_is_written)
{
    char value[2000];
    char got[40000];
    size_t have = 0;
    ssize_t n;
    int fds[2], kept = dup(STDERR_FILENO);

    memset(value, '\x01', sizeof(value) - 1);
    value[sizeof(value) - 1] = '\0';
    cr_assert_eq(pipe(fds), 0);
    dup2(fds[1], STDERR_FILENO);
    sbx_log(SBX_ERROR, "escapes", "a", value, "b", value, "c", value, NULL);
    dup2(kept, STDERR_FILENO);
    close(fds[1]);
    while ((n = read(fds[0], got + have, sizeof(got) - have - 1)) > 0)
        have += (size_t)n;
    got[have] = '\0';
    cr_expect(strstr(got, "\"msg\":\"escapes\"") != NULL);
    cr_expect_eq(have > 3 * 6 * 1024, true);
}

Test(core, times_are_read_strictly)
{
    static const struct {
        const char *text;
        int64_t ms;
    } good[] = {
        {"1970-01-01T00:00:00Z", 0},
        {"2026-01-31T10:20:30.123Z", INT64_C(1769854830123)},
        {"2026-01-31T10:20:30.123999Z", INT64_C(1769854830123)},
        {"2026-01-31T12:50:30.1+02:30", INT64_C(1769854830100)},
        {"2026-01-31T04:20:30-06:00", INT64_C(1769854830000)},
        {"2024-02-29T00:00:00Z", INT64_C(1709164800000)},
    };
    static const char *const bad[] = {
        "",
        "2026",
        "2026-01-31",
        "2026-01-31T10:20:30",
        "2026-01-31 10:20:30Z",
        "2026-02-29T00:00:00Z",
        "2026-04-31T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:60:00Z",
        "2026-01-01T00:00:60Z",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00z",
        "2026-01-01T00:00:00+0100",
        "2026-01-01T00:00:00+24:00",
        "2026-01-01T00:00:00Z ",
        " 2026-01-01T00:00:00Z",
        "+026-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
    };
    int64_t ms;

    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        cr_expect(sbx_time_parse(good[i].text, &ms), "%s", good[i].text);
        cr_expect_eq(ms, good[i].ms, "%s is %lld", good[i].text, (long long)ms);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        cr_expect(!sbx_time_parse(bad[i], &ms), "\"%s\" is no time", bad[i]);
}
