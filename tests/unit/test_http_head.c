/* Heads of requests: what is accepted, what is refused, and what is read out of them. */
#include "sbx/http/head.h"

#include <criterion/criterion.h>

static int parse(const char *text, sbx_head *h, sbx_err *err, char **copy)
{
    *copy = sbx_strdup(text);
    return sbx_head_parse(*copy, strlen(text), h, err);
}

Test(http_head, the_end_is_found_however_the_bytes_arrive)
{
    static const char text[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\nrest";
    size_t from = 0, len = 0;
    sbx_err err;

    for (size_t n = 0; n < 27; n++)
        cr_expect_eq(sbx_head_find(text, n, &from, &len, &err), 0, "at %zu", n);
    cr_expect_eq(sbx_head_find(text, 27, &from, &len, &err), 1);
    cr_expect_eq(len, 27);
    from = 0;
    cr_expect_eq(sbx_head_find(text, sizeof(text) - 1, &from, &len, &err), 1);
    cr_expect_eq(len, 27);
}

Test(http_head, bare_line_feeds_and_excess_are_refused)
{
    size_t from = 0, len;
    sbx_err err;
    char big[SBX_MAX_URI_BYTES + SBX_MAX_HEADER_BYTES + 64];

    cr_expect_eq(sbx_head_find("GET / HTTP/1.1\n", 15, &from, &len, &err), -1);
    cr_expect_eq(err.code, SBX_E_INVALID);
    from = 0;
    cr_expect_eq(sbx_head_find("\n", 1, &from, &len, &err), -1);
    memset(big, 'a', sizeof(big));
    from = 0;
    cr_expect_eq(sbx_head_find(big, SBX_MAX_URI_BYTES + 64, &from, &len, &err), -1);
    cr_expect_eq(err.code, SBX_E_URI_TOO_LONG);
    memcpy(big, "GET / HTTP/1.1\r\n", 16);
    from = 0;
    cr_expect_eq(sbx_head_find(big, sizeof(big), &from, &len, &err), -1);
    cr_expect_eq(err.code, SBX_E_HEADERS_TOO_LARGE);
}

Test(http_head, everything_of_a_request_is_read)
{
    sbx_head h;
    sbx_err err;
    char *copy;

    int rc = parse("PUT /a/b?c=d HTTP/1.1\r\nHost: x:1\r\ncontent-LENGTH:  12 \r\n"
                   "Authorization: Bearer k\r\nX-API-Key:\tq\r\nContent-Type: a/b\r\n"
                   "If-None-Match: \"e\"\r\nIdempotency-Key: i\r\nLast-Event-ID: 7\r\n"
                   "X-Request-Id: r\r\nX-Real-IP: 1.1.1.1\r\nExpect: 100-Continue\r\n"
                   "Accept: application/json;q=0.25, text/event-stream ; q=0.5 ,*/*;q=0.1\r\n"
                   "Other: ignored\r\n\r\n",
                   &h, &err, &copy);
    cr_assert_eq(rc, 0, "%s", err.msg);
    cr_expect_eq(h.method, SBX_PUT);
    cr_expect_eq(h.minor, 1);
    cr_expect_str_eq(h.path, "/a/b");
    cr_expect_str_eq(h.query, "c=d");
    cr_expect(h.has_length && h.length == 12 && !h.chunked && h.keep_alive && h.expect);
    cr_expect_str_eq(h.authorization, "Bearer k");
    cr_expect_str_eq(h.api_key, "q");
    cr_expect_str_eq(h.content_type, "a/b");
    cr_expect_eq(h.if_none_match.count, 1);
    cr_expect_str_eq(h.if_none_match.lines[0], "\"e\"");
    cr_expect_str_eq(h.idempotency_key, "i");
    cr_expect_str_eq(h.last_event_id, "7");
    cr_expect_str_eq(h.request_id, "r");
    cr_expect(h.forwarded && !h.upgrade_ws);
    cr_expect_eq(h.accept.count, 1);
    free(copy);
}

Test(http_head, an_upgrade_needs_both_headers)
{
    sbx_head h;
    sbx_err err;
    char *copy;

    cr_assert_eq(parse("GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\n"
                       "Upgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n"
                       "Sec-WebSocket-Protocol: sandboxd.v1, bearer.a.b\r\n\r\n",
                       &h, &err, &copy),
                 0);
    cr_expect(h.upgrade_ws && h.ws_protocol && h.ws_version == 13);
    cr_expect_str_eq(h.ws_bearer, "a.b");
    free(copy);
    cr_assert_eq(parse("GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n", &h, &err, &copy),
                 0);
    cr_expect(!h.upgrade_ws);
    free(copy);
    cr_assert_eq(parse("GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
                       &h, &err, &copy),
                 0);
    cr_expect(!h.upgrade_ws);
    free(copy);
}

Test(http_head, faults_are_refused_and_the_request_id_is_still_known)
{
    static const char *const lines[] = {"Content-Length: 1\r\nContent-Length: 1",
                                        "Content-Length: 1\r\nTransfer-Encoding: chunked",
                                        "Content-Length: 1x",
                                        "Content-Length: 1234567890123456",
                                        "Transfer-Encoding: gzip",
                                        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                                        "Host: y",
                                        "Expect: x",
                                        "A",
                                        ": a",
                                        "A : b",
                                        " A: b",
                                        "A: b\x01",
                                        "A: b\x7f",
                                        "Authorization: a\r\nAuthorization: a",
                                        "Sec-WebSocket-Protocol: bearer.a, bearer.b",
                                        "Sec-WebSocket-Protocol: a b",
                                        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13",
                                        "Expect: 100-continue\r\nExpect: 100-continue",
                                        "Content-Type: a/b\r\nContent-Type: a/b",
                                        "Content-Encoding: gzip\r\nContent-Encoding: gzip",
                                        "X-API-Key: a\r\nX-API-Key: a"};

    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        sbx_head h;
        sbx_err err;
        char *copy, *text = sbx_asprintf(
                        "GET / HTTP/1.1\r\nHost: x\r\n%s\r\nX-Request-Id: me\r\n\r\n", lines[i]);

        cr_expect_eq(parse(text, &h, &err, &copy), -1, "%s", lines[i]);
        cr_expect_eq(err.code, SBX_E_INVALID);
        cr_expect(sbx_streq(h.request_id, "me"), "%s", lines[i]);
        free(copy);
        free(text);
    }
}

Test(http_head, request_lines_are_strict)
{
    static const struct {
        const char *line;
        bool ok;
    } cases[] = {
        {"GET / HTTP/1.1", true},
        {"OPTIONS * HTTP/1.1", true},
        {"BREW / HTTP/1.1", true},
        {"GET http://h/p HTTP/1.1", true},
        {"GET http://h HTTP/1.1", false},
        {"GET * HTTP/1.1", false},
        {"GET  / HTTP/1.1", false},
        {"GET / HTTP/1.1 ", false},
        {"GET / http/1.1", false},
        {"GET / HTTP/1.2", false},
        {"GET / HTTP/2", false},
        {"GET /", false},
        {"", false},
        {" / HTTP/1.1", false},
        {"G\"T / HTTP/1.1", false},
        {"GET /a#b HTTP/1.1", false},
        {"GET /\xc3\xa4 HTTP/1.1", false},
        {"GET a HTTP/1.1", false},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_head h;
        sbx_err err;
        char *copy, *text = sbx_asprintf("%s\r\nHost: x\r\n\r\n", cases[i].line);

        cr_expect_eq(parse(text, &h, &err, &copy) == 0, cases[i].ok, "%s", cases[i].line);
        free(copy);
        free(text);
    }
}

Test(http_head, http_1_0_closes_and_needs_no_host)
{
    sbx_head h;
    sbx_err err;
    char *copy;

    cr_expect_eq(parse("GET / HTTP/1.0\r\n\r\n", &h, &err, &copy), 0);
    cr_expect(!h.keep_alive);
    free(copy);
    cr_expect_eq(parse("GET / HTTP/1.1\r\n\r\n", &h, &err, &copy), -1);
    free(copy);
    cr_expect_eq(parse("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", &h, &err, &copy),
                 -1);
    free(copy);
}

Test(http_head, escapes_are_decoded_strictly)
{
    static const struct {
        const char *text;
        bool plus;
        const char *want; /* NULL: refused */
    } cases[] = {
        {"abc", false, "abc"},   {"a%20b", false, "a b"}, {"a+b", false, "a+b"},
        {"a+b", true, "a b"},    {"%41%4a", false, "AJ"}, {"%C3%A4", false, "\xc3\xa4"},
        {"%", false, NULL},      {"%4", false, NULL},     {"%4g", false, NULL},
        {"%00", false, NULL},    {"%ff", false, NULL},    {"%c0%af", false, NULL},
        {"%2525", false, "%25"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char text[32];
        sbx_err err;

        sbx_copy(text, sizeof(text), cases[i].text);
        int rc = sbx_percent_decode(text, cases[i].plus, &err);
        cr_expect_eq(rc == 0, cases[i].want != NULL, "%s", cases[i].text);
        if (!rc && cases[i].want)
            cr_expect_str_eq(text, cases[i].want);
    }
}

Test(http_head, a_list_header_may_stand_on_several_lines_within_a_bound)
{
    sbx_buf b = SBX_BUF_INIT(4 * KIB);
    sbx_head h;
    sbx_err err;
    char *copy;

    sbx_buf_adds(&b, "GET / HTTP/1.1\r\nHost: x\r\n");
    for (size_t i = 0; i < SBX_MAX_LIST_LINES; i++)
        sbx_buf_adds(&b, "If-None-Match: \"a\"\r\n");
    size_t full = b.len;
    sbx_buf_adds(&b, "\r\n");
    cr_expect_eq(parse(b.data, &h, &err, &copy), 0);
    cr_expect_eq(h.if_none_match.count, SBX_MAX_LIST_LINES);
    free(copy);
    b.len = full;
    sbx_buf_adds(&b, "If-None-Match: \"a\"\r\n\r\n");
    cr_expect_eq(parse(b.data, &h, &err, &copy), -1);
    cr_expect_eq(err.code, SBX_E_INVALID);
    free(copy);
    sbx_buf_done(&b);
}

Test(http_head, query_parameters_must_be_known)
{
    static const struct {
        const char *known, *query;
        const char *field; /* NULL: accepted */
    } cases[] = {
        {NULL, "", NULL},         {NULL, "a=1", "a"},           {"a", "a=1", NULL},
        {"a,b", "b=1&a=2", NULL}, {"a,b", "b=1&c=2", "c"},      {"ab", "a=1", "a"},
        {"a", "ab=1", "ab"},      {"a,m.*", "m.x=1&a=2", NULL}, {"a,m.*", "m.=1", "m."},
        {"a,m.*", "m=1", "m"},    {"m.*,a", "x=1", "x"},        {"*", "x=1&y=2", NULL},
        {"a", "A=1", "A"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_param params[SBX_MAX_QUERY_PARAMS];
        size_t count;
        sbx_err err = {0};
        char text[32];

        sbx_copy(text, sizeof(text), cases[i].query);
        cr_assert_eq(sbx_query_parse(text, params, &count, &err), 0);
        int rc = sbx_query_check(cases[i].known, params, count, &err);
        cr_expect_eq(rc == 0, !cases[i].field, "%s", cases[i].query);
        if (cases[i].field)
            cr_expect_str_eq(err.field, cases[i].field);
    }
}

Test(http_head, request_ids_are_judged)
{
    char longest[SBX_MAX_REQUEST_ID_BYTES + 2];

    memset(longest, 'a', sizeof(longest));
    longest[sizeof(longest) - 1] = '\0';
    cr_expect(sbx_request_id_sane("aZ09._-"));
    cr_expect(sbx_request_id_sane(longest + 1));
    cr_expect_not(sbx_request_id_sane(longest));
    cr_expect_not(sbx_request_id_sane(""));
    cr_expect_not(sbx_request_id_sane("a b"));
    cr_expect_not(sbx_request_id_sane("a\nb"));
}
