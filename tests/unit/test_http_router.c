/* The router: precedence, parameters, methods, and the checks of the table. */
#include "sbx/http/head.h"
#include "sbx/http/router.h"

#include <criterion/criterion.h>

static int handler(void *app, const sbx_request *r, sbx_err *err)
{
    (void)app;
    (void)r;
    (void)err;
    return 0;
}

#define ROUTE(m, p)                                                                                \
    {                                                                                              \
        .method = (m), .path = (p), .handler = handler, .name = (p)                                \
    }

static const sbx_route table[] = {
    ROUTE("GET", "/"),
    ROUTE("GET", "/a"),
    ROUTE("POST", "/a"),
    ROUTE("POST", "/a/batch"),
    ROUTE("DELETE", "/a/{id}"),
    ROUTE("GET", "/a/{id}"),
    ROUTE("POST", "/a/{id}/act"),
    ROUTE("GET", "/a/{id}/sub/{sub}"),
    ROUTE("GET", "/z/{x}"),
};

static sbx_router *make(void)
{
    sbx_router *r = NULL;
    sbx_err err;

    cr_assert_eq(sbx_router_new(table, ARRAY_LEN(table), &r, &err), 0, "%s", err.msg);
    return r;
}

Test(http_router, paths_lead_to_their_routes)
{
    static const struct {
        sbx_method method;
        const char *path, *want, *value, *allow;
    } cases[] = {
        {SBX_GET, "/", "/", NULL, "GET, HEAD, OPTIONS"},
        {SBX_GET, "/a", "/a", NULL, "GET, HEAD, POST, OPTIONS"},
        {SBX_HEAD, "/a", "/a", NULL, "GET, HEAD, POST, OPTIONS"},
        {SBX_DELETE, "/a", NULL, NULL, "GET, HEAD, POST, OPTIONS"},
        {SBX_METHOD_OTHER, "/a", NULL, NULL, "GET, HEAD, POST, OPTIONS"},
        {SBX_GET, "/a/1", "/a/{id}", "1", "GET, HEAD, DELETE, OPTIONS"},
        {SBX_DELETE, "/a/1", "/a/{id}", "1", "GET, HEAD, DELETE, OPTIONS"},
        {SBX_POST, "/a/batch", "/a/batch", NULL, "POST, OPTIONS"},
        {SBX_POST, "/a/batch/act", "/a/{id}/act", "batch", "POST, OPTIONS"},
        {SBX_GET, "/a/1/sub/2", "/a/{id}/sub/{sub}", "1", "GET, HEAD, OPTIONS"},
        {SBX_GET, "/a/%31", "/a/{id}", "1", "GET, HEAD, DELETE, OPTIONS"},
        {SBX_GET, "/a/x%2Fy", "/a/{id}", "x/y", "GET, HEAD, DELETE, OPTIONS"},
        {SBX_GET, "/a/1/", NULL, NULL, ""},
        {SBX_GET, "/a//act", NULL, NULL, ""},
        {SBX_GET, "/a/..", NULL, NULL, ""},
        {SBX_GET, "/a/%2e", NULL, NULL, ""},
        {SBX_GET, "/a/1/sub", NULL, NULL, ""},
        {SBX_GET, "/b", NULL, NULL, ""},
        {SBX_GET, "/A", NULL, NULL, ""},
        {SBX_GET, "/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17/18", NULL, NULL, ""},
    };
    SBX_CLEANUP(sbx_router_free) sbx_router *r = make();

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char path[128];
        sbx_match m;
        sbx_err err;

        sbx_copy(path, sizeof(path), cases[i].path);
        cr_assert_eq(sbx_router_match(r, cases[i].method, path, &m, &err), 0);
        cr_expect_eq(m.route != NULL, cases[i].want != NULL, "%s", cases[i].path);
        if (m.route && cases[i].want)
            cr_expect_str_eq(m.route->path, cases[i].want);
        cr_expect_str_eq(m.allow, cases[i].allow, "%s: %s", cases[i].path, m.allow);
        if (cases[i].value) {
            cr_expect_str_eq(m.params[0].name, "id");
            cr_expect_str_eq(m.params[0].value, cases[i].value);
        }
    }
}

Test(http_router, bad_escapes_are_errors)
{
    static const char *const paths[] = {"/a/%", "/a/%zz", "/a/%00", "/a/%ff", "/%c0%80"};
    SBX_CLEANUP(sbx_router_free) sbx_router *r = make();

    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        char path[32];
        sbx_match m;
        sbx_err err;

        sbx_copy(path, sizeof(path), paths[i]);
        cr_expect_eq(sbx_router_match(r, SBX_GET, path, &m, &err), -1, "%s", paths[i]);
    }
}

Test(http_router, the_table_is_checked)
{
    static const struct {
        const char *name;
        sbx_route rows[2];
    } cases[] = {
        {"twice", {ROUTE("GET", "/a"), ROUTE("GET", "/a")}},
        {"methods unsorted", {ROUTE("POST", "/a"), ROUTE("GET", "/a")}},
        {"paths unsorted", {ROUTE("GET", "/b"), ROUTE("GET", "/a")}},
        {"unknown method", {ROUTE("BREW", "/a"), ROUTE("GET", "/b")}},
        {"HEAD is implied", {ROUTE("HEAD", "/a"), ROUTE("GET", "/b")}},
        {"no slash", {ROUTE("GET", "a"), ROUTE("GET", "b")}},
        {"slash at the end", {ROUTE("GET", "/a/"), ROUTE("GET", "/b")}},
        {"half a parameter", {ROUTE("GET", "/a"), ROUTE("GET", "/{x")}},
        {"no name", {ROUTE("GET", "/a"), ROUTE("GET", "/{}")}},
        {"names differ", {ROUTE("DELETE", "/{x}"), ROUTE("GET", "/{y}")}},
        {"five parameters", {ROUTE("GET", "/a"), ROUTE("GET", "/{a}/{b}/{c}/{d}/{e}")}},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_router *r = NULL;
        sbx_err err = {0};

        cr_expect_eq(sbx_router_new(cases[i].rows, 2, &r, &err), -1, "%s", cases[i].name);
        cr_expect_eq(err.code, SBX_E_INVALID);
        cr_expect_null(r);
    }
}

Test(http_router, queries_are_split_and_decoded)
{
    char text[] = "a=1&b&c=x+y%26&&d==";
    sbx_param got[SBX_MAX_QUERY_PARAMS];
    size_t n = 0;
    sbx_err err;

    cr_assert_eq(sbx_query_parse(text, got, &n, &err), 0);
    cr_assert_eq(n, 4);
    cr_expect_str_eq(got[1].name, "b");
    cr_expect_str_eq(got[1].value, "");
    cr_expect_str_eq(got[2].value, "x y&");
    cr_expect_str_eq(got[3].value, "=");

    static const char *const bad[] = {"a=1&a=2", "=1", "a=%", "%00=1", "a=%ff", "a&%61"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char copy[32];

        sbx_copy(copy, sizeof(copy), bad[i]);
        cr_expect_eq(sbx_query_parse(copy, got, &n, &err), -1, "%s", bad[i]);
    }
    cr_expect_eq(sbx_query_parse(NULL, got, &n, &err), 0);
    cr_expect_eq(n, 0);
}
