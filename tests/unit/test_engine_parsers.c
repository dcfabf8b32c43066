/* The engine client's parsers and writers that do no I/O. */
#include "engine/docker.h"
#include "engine/head.h"
#include "engine/lines.h"
#include "engine/tar.h"
#include "sbx/engine/frames.h"
#include <criterion/criterion.h>
#include <stdio.h>

/* --- frames --- */

/* Decode in pieces of `step` bytes; payload becomes "1:abc2:x". -1 on refusal. */
static int decode(const uint8_t *in, size_t len, size_t step, sbx_buf *out)
{
    sbx_frames f = {0};
    size_t at = 0;

    while (at < len) {
        size_t n = SBX_MIN(step, len - at);

        while (n > 0) {
            ssize_t took = sbx_frames_header(&f, in + at, n, NULL);

            if (took < 0)
                return -1;
            at += (size_t)took;
            n -= (size_t)took;
            size_t pay = SBX_MIN(n, f.left);

            if (pay > 0)
                sbx_buf_addf(out, "%d%.*s", f.stream, (int)pay, (const char *)in + at);
            sbx_frames_payload(&f, pay);
            at += pay;
            n -= pay;
        }
    }
    return 0;
}

Test(engine_frames, are_decoded_wherever_they_are_split)
{
    static const uint8_t in[] = {1, 0, 0, 0, 0, 0, 0, 1,   'a', 2, 0, 0, 0, 0, 0, 0, 0,  0,
                                 0, 0, 0, 0, 0, 0, 1, 'b', 2,   0, 0, 0, 0, 0, 0, 1, 'c'};

    for (size_t step = 1; step <= sizeof(in); step++) {
        SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf out = SBX_BUF_INIT(1024);

        cr_assert_eq(decode(in, sizeof(in), step, &out), 0);
        cr_expect_str_eq(out.data, "1a1b2c", "split every %zu bytes", step);
    }
}

Test(engine_frames, with_a_malformed_header_are_refused)
{
    static const struct {
        const char *name;
        uint8_t head[8];
    } cases[] = {
        {"unknown stream", {3, 0, 0, 0, 0, 0, 0, 1}},
        {"padding 1", {1, 1, 0, 0, 0, 0, 0, 1}},
        {"padding 3", {1, 0, 0, 9, 0, 0, 0, 1}},
        {"over the limit", {1, 0, 0, 0, 1, 0, 0, 1}},
        {"4 GiB", {1, 0, 0, 0, 255, 255, 255, 255}},
        {"text", {'h', 'e', 'l', 'l', 'o', ' ', 'w', 'o'}},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_frames f = {0};
        sbx_err err = {0};

        cr_expect_eq(sbx_frames_header(&f, cases[i].head, 8, &err), -1, "%s", cases[i].name);
        cr_expect_eq(err.code, SBX_E_ENGINE_UNAVAILABLE, "%s", cases[i].name);
    }
}

/* --- response heads --- */

Test(engine_head, is_read_strictly)
{
    static const struct {
        const char *name, *text;
        int status; /* 0: incomplete, -1: refused */
        int64_t length;
        bool chunked;
    } cases[] = {
        {"upgrade", "HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\n", 101, -1, false},
        {"no reason", "HTTP/1.0 200\r\n\r\n", 200, -1, false},
        {"length", "HTTP/1.1 404 Not Found\r\ncontent-LENGTH:  12 \r\n\r\n{", 404, 12, false},
        {"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, -1, true},
        {"not whole", "HTTP/1.1 200 OK\r\nUpgrade: tcp\r\n", 0, 0, false},
        {"not a line", "HTTP/1.1 2", 0, 0, false},
        {"nothing", "", 0, 0, false},
        {"other protocol", "SSH-2.0-x\r\n", -1, 0, false},
        {"version 2", "HTTP/2.0 200 OK\r\n\r\n", -1, 0, false},
        {"version 1.2", "HTTP/1.2 200 OK\r\n\r\n", -1, 0, false},
        {"status of letters", "HTTP/1.1 2x0 OK\r\n\r\n", -1, 0, false},
        {"status of 4 digits", "HTTP/1.1 2000 OK\r\n\r\n", -1, 0, false},
        {"status too small", "HTTP/1.1 099 OK\r\n\r\n", -1, 0, false},
        {"bare LF", "HTTP/1.1 200 OK\n\n", -1, 0, false},
        {"empty first", "\r\nHTTP/1.1 200 OK\r\n\r\n", -1, 0, false},
        {"no colon", "HTTP/1.1 200 OK\r\nhello\r\n\r\n", -1, 0, false},
        {"no name", "HTTP/1.1 200 OK\r\n: x\r\n\r\n", -1, 0, false},
        {"folded", "HTTP/1.1 200 OK\r\nA: b\r\n c: d\r\n\r\n", -1, 0, false},
        {"control character", "HTTP/1.1 200 OK\r\nA: \x01\r\n\r\n", -1, 0, false},
        {"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", -1, 0,
         false},
        {"negative", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", -1, 0, false},
        {"absurd", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", -1, 0, false},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        docker_head h = {0};
        ssize_t n = docker_head_read(cases[i].text, strlen(cases[i].text), &h);
        int status = n < 0 ? -1 : n == 0 ? 0 : h.status;

        cr_expect_eq(status, cases[i].status, "%s: %d", cases[i].name, status);
        if (n > 0) {
            cr_expect_eq(h.length, cases[i].length, "%s", cases[i].name);
            cr_expect_eq(h.chunked, cases[i].chunked, "%s", cases[i].name);
        }
    }
}

Test(engine_head, has_a_largest_size)
{
    static char big[DOCKER_HEAD_BYTES + 1];
    docker_head h;

    memset(big, 'x', sizeof(big));
    cr_expect_eq(docker_head_read(big, DOCKER_HEAD_BYTES - 1, &h), 0);
    cr_expect_eq(docker_head_read(big, DOCKER_HEAD_BYTES, &h), -1);
}

/* --- values of a stream --- */

static bool collect(void *arg, char *json, size_t len)
{
    sbx_buf_add(arg, json, len);
    sbx_buf_addc(arg, '|');
    return !memchr(json, '!', len);
}

Test(engine_lines, are_split_wherever_the_bytes_are)
{
    static const char in[] = " [{\"a\":\"}\\\"{\"},\r\n{\"b\":{\"c\":[1,{}]}}]{}\n{\"d\":1";

    for (size_t step = 1; step < sizeof(in); step++) {
        SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf out = SBX_BUF_INIT(1024);
        SBX_CLEANUP_VAL(docker_lines_done) docker_lines l;

        docker_lines_init(&l, 100);
        for (size_t at = 0; at < sizeof(in) - 1; at += step)
            cr_assert(
                docker_lines_take(&l, in + at, SBX_MIN(step, sizeof(in) - 1 - at), collect, &out));
        cr_expect_str_eq(out.data, "{\"a\":\"}\\\"{\"}|{\"b\":{\"c\":[1,{}]}}|{}|", "step %zu",
                         step);
        cr_expect_eq(l.depth, 1, "the last one is open");
    }
}

Test(engine_lines, that_are_too_long_are_stepped_over)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf out = SBX_BUF_INIT(1024);
    SBX_CLEANUP_VAL(docker_lines_done) docker_lines l;
    static const char in[] = "{\"a\":\"0123456789\"}{\"b\":1}";

    docker_lines_init(&l, 10);
    for (size_t at = 0; at < sizeof(in) - 1; at++)
        cr_assert(docker_lines_take(&l, in + at, 1, collect, &out));
    cr_expect_str_eq(out.data, "{\"b\":1}|");
    cr_expect_eq(l.skipped, 1);
}

Test(engine_lines, stop_when_the_reader_has_enough)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf out = SBX_BUF_INIT(1024);
    SBX_CLEANUP_VAL(docker_lines_done) docker_lines l;

    docker_lines_init(&l, 100);
    cr_expect_not(docker_lines_take(&l, "{}{\"!\":1}{}", 11, collect, &out));
    cr_expect_str_eq(out.data, "{}|{\"!\":1}|");
}

/* --- answers --- */

Test(engine_json, reads_times)
{
    static const struct {
        const char *text;
        int64_t ms;
    } cases[] = {
        {"1970-01-01T00:00:01Z", 1000},
        {"2026-01-31T10:20:30.123456789Z", 1769854830123},
        {"2026-01-31T10:20:30.5Z", 1769854830500},
        {"2026-01-31T11:20:30.5+01:00", 1769854830500},
        {"2026-01-31T08:50:30-01:30", 1769854830000},
        {"0001-01-01T00:00:00Z", 0},
        {"", 0},
        {"yesterday", 0},
        {"2026-13-31T10:20:30Z", 0},
        {"2026-01-31T10:20:30", 0},
        {"2026-01-31T10:20:30*01:00", 0},
        {"2026-01-31", 0},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        cr_expect_eq(docker_time_ms(cases[i].text), cases[i].ms, "%s: %lld", cases[i].text,
                     (long long)docker_time_ms(cases[i].text));
    cr_expect_eq(docker_time_ms(NULL), 0);
}

Test(engine_json, an_escaped_nul_in_a_label_breaks_nothing)
{
    char text[] = "{\"a\":\"x\\u0000y\",\"b\":\"\\\\u0000\",\"c\":\"\\\\\\u0000\"}";
    SBX_CLEANUP(sbx_json_free) sbx_json *json = NULL;
    sbx_err err = {0};

    cr_assert_eq(docker_parse(text, strlen(text), &json, &err), 0, "%s", err.msg);
    cr_expect_str_eq(sbx_json_str(sbx_json_get(json, "a")), "x?y");
    cr_expect_str_eq(sbx_json_str(sbx_json_get(json, "b")), "\\u0000");
    cr_expect_str_eq(sbx_json_str(sbx_json_get(json, "c")), "\\?");
}

Test(engine_json, text_is_cleaned_for_messages)
{
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"plain", "plain"},
        {"a\x1b[2Jb", "a [2Jb"},
        {"\n\n two\n\nlines\n", " two lines"},
        {"caf\xc3\xa9", "caf??"},
        {"", ""},
        {"0123456789abcdef", "0123456789a"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char out[12];

        docker_clean(out, sizeof(out), cases[i].in, strlen(cases[i].in));
        cr_expect_str_eq(out, cases[i].out);
    }
}

/* --- tar --- */

Test(engine_tar, is_what_tar_reads)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(MIB);
    static char data[1000];

    memset(data, 'd', sizeof(data));
    cr_assert(docker_tar_file(&b, "tool", 315532800, data, sizeof(data)));
    docker_tar_end(&b);
    cr_assert_eq(b.len, 512 + 1024 + 1024);
    cr_expect_str_eq(b.data, "tool");
    cr_expect_str_eq(b.data + 100, "0000755");
    cr_expect_str_eq(b.data + 124, "00000001750");
    cr_expect_eq(memcmp(b.data + 257, "ustar\00000", 8), 0);
    unsigned sum = 0, told = 0;

    cr_assert_eq(sscanf(b.data + 148, "%o", &told), 1);
    for (int i = 0; i < 512; i++)
        sum += i >= 148 && i < 156 ? ' ' : (unsigned char)b.data[i];
    cr_expect_eq(sum, told);
    cr_expect_eq(memcmp(b.data + 512, data, sizeof(data)), 0);
    cr_expect_eq(b.data[512 + 1000], 0);
}

Test(engine_tar, refuses_names_that_lead_elsewhere)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(MIB);
    char longest[102];

    memset(longest, 'n', sizeof(longest));
    longest[101] = 0;
    cr_expect_not(docker_tar_file(&b, "", 1, "", 0));
    cr_expect_not(docker_tar_file(&b, "../x", 1, "", 0));
    cr_expect_not(docker_tar_file(&b, longest, 1, "", 0));
    cr_expect(docker_tar_file(&b, longest + 1, 1, "", 0));
}

/* --- configuration --- */

Test(engine_config, addresses_are_checked)
{
    static const struct {
        const char *host;
        bool tls, ok;
    } cases[] = {
        {"unix:///var/run/docker.sock", false, true},
        {"tcp://127.0.0.1:2375", false, true},
        {"tcp://[::1]:2375", false, true},
        {"tcp://host", false, false},
        {"tcp://host:0", false, false},
        {"tcp://host:99999", false, false},
        {"tcp://host:23x", false, false},
        {"tcp://user@host:1", false, false},
        {"tcp://host:1/path", false, false},
        {"tcp://:1", false, false},
        {"unix://relative", false, false},
        {"unix:///var/run/docker.sock", true, false},
        {"tcp://127.0.0.1:2376", true, false}, /* no certificates */
        {"ssh://host", false, false},
        {"", false, false},
        {NULL, false, false},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_docker_config c = {.host = cases[i].host, .tls = cases[i].tls, .cert_path = "/nowhere"};
        sbx_engine *e = NULL;
        sbx_err err = {0};
        int rc = sbx_docker_new(&c, &e, &err);

        cr_expect_eq(rc == 0, cases[i].ok, "%s", cases[i].host);
        if (rc == 0)
            e->ops->free(e);
        else
            cr_expect(err.code == SBX_E_INVALID && strstr(err.msg, "DOCKER_"), "%s", err.msg);
    }
}
