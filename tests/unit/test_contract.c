/* The tables of the contract fit together: what one names, another has. */
#include "api/contract.h"
#include "api/guide.h"
#include "api/markdown.h"

#include <criterion/criterion.h>

static void expect_schemas(const char *list, const char *where)
{
    const char *item;
    size_t len;

    while (api_list_next(&list, &item, &len)) {
        const char *colon = memchr(item, ':', len);
        const char *name = colon ? colon + 1 : item;

        cr_expect(api_schema_find(name, len - (size_t)(name - item)), "%s: no schema %.*s", where,
                  (int)len, item);
    }
}

Test(contract, each_parameter_of_a_route_is_described)
{
    for (size_t i = 0; i < sbx_api_route_count; i++) {
        const sbx_api_route *r = &sbx_api_routes[i];
        const char *list = r->query, *item;
        size_t len;

        for (const char *p = r->path; (p = strchr(p, '{')); p++)
            cr_expect(api_param_find(r, p + 1, strcspn(p + 1, "}")), "%s: %s", r->path, p);
        while (api_list_next(&list, &item, &len))
            cr_expect(api_param_find(r, item, len), "%s: %.*s", r->path, (int)len, item);
    }
}

Test(contract, each_schema_that_a_route_names_exists)
{
    static const char others[] = "text,object,bytes,file";

    for (size_t i = 0; i < sbx_api_route_count; i++) {
        const sbx_api_route *r = &sbx_api_routes[i];

        cr_expect(r->tag && r->summary && (r->success || r->ws), "%s %s", r->method, r->path);
        if (r->response && !api_list_has(others, r->response))
            expect_schemas(r->response, r->path);
        expect_schemas(r->sse, r->path);
        expect_schemas(r->ws, r->path);
        cr_expect_eq(r->sse != NULL, (r->accepts & SBX_CAN_SSE) != 0, "%s", r->path);
        cr_expect_eq(r->ws != NULL, (r->accepts & SBX_CAN_WS) != 0, "%s", r->path);
        cr_expect_eq(r->body != NULL,
                     r->max_body != 0 && !(r->accepts & (SBX_BODY_RAW | SBX_BODY_STREAM)), "%s %s",
                     r->method, r->path);
    }
}

Test(contract, each_field_is_described_and_what_it_names_exists)
{
    for (size_t i = 0; i < api_schema_count; i++) {
        cr_expect(i == 0 || strcmp(api_schemas[i - 1].name, api_schemas[i].name) < 0, "%s",
                  api_schemas[i].name);
        for (const api_field *f = api_schemas[i].fields; f->name; f++) {
            const char *where = api_schemas[i].name;

            cr_expect(f->doc, "%s.%s", where, f->name);
            if (f->type == T_REF || f->type == T_LIST || f->type == T_ONE_OF)
                expect_schemas(f->of, where);
            if (f->type == T_REQUEST)
                cr_expect(api_request_field(f->of), "%s.%s", where, f->name);
        }
    }
}

Test(contract, statuses_of_failure_rise_and_fit_the_route)
{
    for (size_t i = 0; i < sbx_api_route_count; i++) {
        int statuses[API_MAX_STATUSES];
        size_t count = api_failures(&sbx_api_routes[i], statuses);

        cr_assert_gt(count, 0);
        cr_expect_lt(count, API_MAX_STATUSES);
        for (size_t k = 1; k < count; k++)
            cr_expect_lt(statuses[k - 1], statuses[k], "%s", sbx_api_routes[i].path);
    }
}

Test(contract, the_guide_has_no_marks_left_and_tells_only_of_routes_that_there_are)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(MIB);
    bool tickets = false;

    for (size_t i = 0; i < sbx_api_route_count; i++)
        tickets |= strcmp(sbx_api_routes[i].name, "ticket_create") == 0;
    api_guide(&b);
    cr_assert_not(sbx_buf_failed(&b));
    cr_expect_not(strstr(b.data, "{{"), "%.40s", strstr(b.data, "{{"));
    cr_expect(strstr(b.data, "## Lifecycle\n\n| state |"));
    cr_expect(strstr(b.data, "| 404 | `not_found` |"));
    cr_expect(strstr(b.data, "and at most 200."));
    cr_expect_eq(strstr(b.data, "/tickets") != NULL, tickets);
}

Test(contract, markdown_becomes_escaped_html)
{
    static const struct {
        const char *markdown, *html;
    } cases[] = {
        {"## A b\n", "<h2 id=\"a-b\">A b</h2>\n"},
        {"a <b>\nc", "<p>a &lt;b&gt;\nc\n</p>\n"},
        {"`<x>` **y** [z](#q)",
         "<p><code>&lt;x&gt;</code> <strong>y</strong> <a href=\"#q\">z</a>\n"
         "</p>\n"},
        {"[z](javascript:x)", "<p>[z](javascript:x)\n</p>\n"},
        {"- a\n- b\n", "<ul>\n<li>a</li>\n<li>b</li>\n</ul>\n"},
        {"| a | b |\n|---|---|\n| 1 | |\n",
         "<table>\n<tr><th>a</th><th>b</th></tr>\n<tr><td>1</td><td></td></tr>\n</table>\n"},
        {"```js\nif (a < b) {\n\n}\n```\n", "<pre><code>if (a &lt; b) {\n\n}\n</code></pre>\n"},
        {"an `open", "<p>an `open\n</p>\n"},
        {"\"", "<p>&quot;\n</p>\n"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(KIB);

        api_html_markdown(&b, cases[i].markdown);
        cr_expect_str_eq(b.data, cases[i].html, "%s", cases[i].markdown);
    }
}

Test(contract, the_document_is_json_and_small)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(MIB);
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    sbx_err err;

    sbx_api_openapi(&b);
    cr_assert_not(sbx_buf_failed(&b));
    cr_assert_eq(sbx_json_parse(b.data, b.len, &root, &err), 0, "%s", err.msg);
    cr_expect_lt(b.len, 384 * KIB);
    cr_expect_str_eq(sbx_json_str(sbx_json_get(root, "openapi")), "3.1.0");
}
