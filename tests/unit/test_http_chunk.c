/* The chunk decoder: the grammar, its limits, and that it does not matter how the bytes arrive. */
#include "sbx/http/chunk.h"

#include <criterion/criterion.h>

typedef struct result {
    int rc;
    bool done;
    size_t used;
    sbx_code code;
    char out[64];
} result;

static result decode(const char *text, size_t step)
{
    sbx_buf out = SBX_BUF_INIT(40);
    size_t len = strlen(text), at = 0;
    result r = {0};
    sbx_chunk c;
    sbx_err err = {0};

    sbx_chunk_init(&c);
    while (at < len && !r.rc && !r.done) {
        size_t n = SBX_MIN(step, len - at), used = 0;

        r.rc = sbx_chunk_feed(&c, text + at, n, &used, &out, &r.done, &err);
        at += used;
        if (!r.rc && !r.done)
            cr_assert_eq(used, n, "all is taken until the end");
    }
    r.used = at;
    r.code = err.code;
    if (out.data)
        sbx_copy(r.out, sizeof(r.out), out.data);
    sbx_buf_done(&out);
    return r;
}

Test(http_chunk, content_is_the_same_however_it_is_cut)
{
    static const struct {
        const char *text, *want;
        size_t used;
    } cases[] = {
        {"0\r\n\r\n", "", 5},
        {"5\r\nhello\r\n0\r\n\r\n", "hello", 15},
        {"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "abc", 18},
        {"A\r\n0123456789\r\n0\r\n\r\n", "0123456789", 20},
        {"a\r\n0123456789\r\n0\r\nX: y\r\nZ: \t\r\n\r\n", "0123456789", 32},
        {"1\r\na\r\n0\r\n\r\nGET / HTTP/1.1", "a", 11},
        {"5\r\n\r\n0\r\n\r\n0\r\n\r\n", "\r\n0\r\n", 15},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        for (size_t step = 1; step < 40; step++) {
            result r = decode(cases[i].text, step);

            cr_expect_eq(r.rc, 0, "case %zu step %zu", i, step);
            cr_expect(r.done);
            cr_expect_str_eq(r.out, cases[i].want);
            cr_expect_eq(r.used, cases[i].used, "case %zu: %zu", i, r.used);
        }
}

Test(http_chunk, faults_are_found_however_they_are_cut)
{
    static const struct {
        const char *text;
        sbx_code code;
    } cases[] = {
        {"\r\n", SBX_E_INVALID},
        {"g\r\n", SBX_E_INVALID},
        {"-1\r\n", SBX_E_INVALID},
        {"+1\r\n", SBX_E_INVALID},
        {"0x1\r\n", SBX_E_INVALID},
        {" 1\r\n", SBX_E_INVALID},
        {"1 \r\n", SBX_E_INVALID},
        {"01\r\n", SBX_E_INVALID},
        {"00\r\n", SBX_E_INVALID},
        {"1;a=b\r\n", SBX_E_INVALID},
        {"1\n", SBX_E_INVALID},
        {"1\ra", SBX_E_INVALID},
        {"1\r\nab", SBX_E_INVALID},
        {"1\r\na\n", SBX_E_INVALID},
        {"1\r\na\r\r", SBX_E_INVALID},
        {"0\r\n\n", SBX_E_INVALID},
        {"0\r\nA\x01: b", SBX_E_INVALID},
        {"0\r\nA: b\n", SBX_E_INVALID},
        {"0\r\nA: b\r\r\n", SBX_E_INVALID},
        {"29\r\n", SBX_E_TOO_LARGE},
        {"ffffffff\r\n", SBX_E_TOO_LARGE},
        {"100000000", SBX_E_TOO_LARGE},
        {"28\r\n0123456789012345678901234567890123456789\r\n1\r\n", SBX_E_TOO_LARGE},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        for (size_t step = 1; step < 50; step += 7) {
            result r = decode(cases[i].text, step);

            cr_expect_eq(r.rc, -1, "case %zu step %zu", i, step);
            cr_expect_eq(r.code, cases[i].code, "case %zu: code %d", i, (int)r.code);
        }
}

Test(http_chunk, trailers_are_bounded)
{
    char text[SBX_MAX_TRAILER_BYTES + 16] = "0\r\n";

    memset(text + 3, 'a', sizeof(text) - 4);
    text[sizeof(text) - 1] = '\0';
    result r = decode(text, 100);
    cr_expect_eq(r.rc, -1);
    cr_expect_eq(r.code, SBX_E_TOO_LARGE);
}
