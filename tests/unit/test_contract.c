/* The tables of the contract fit together: what one names, another has. */
#include "api/contract.h"

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
    static const char others[] = "text,object";

    for (size_t i = 0; i < sbx_api_route_count; i++) {
        const sbx_api_route *r = &sbx_api_routes[i];

        cr_expect(r->tag && r->summary && r->success, "%s %s", r->method, r->path);
        if (r->response && !api_list_has(others, r->response))
            expect_schemas(r->response, r->path);
        expect_schemas(r->sse, r->path);
        expect_schemas(r->ws, r->path);
        cr_expect_eq(r->sse != NULL, (r->accepts & SBX_CAN_SSE) != 0, "%s", r->path);
        cr_expect_eq(r->ws != NULL, (r->accepts & SBX_CAN_WS) != 0, "%s", r->path);
        cr_expect_eq(r->body != NULL, r->max_body != 0, "%s %s", r->method, r->path);
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
            if (f->type == T_REF || f->type == T_LIST)
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

Test(contract, the_document_is_json_and_small)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(MIB);
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    sbx_err err;

    sbx_api_openapi(&b);
    cr_assert_not(sbx_buf_failed(&b));
    cr_assert_eq(sbx_json_parse(b.data, b.len, &root, &err), 0, "%s", err.msg);
    cr_expect_lt(b.len, 256 * KIB);
    cr_expect_str_eq(sbx_json_str(sbx_json_get(root, "openapi")), "3.1.0");
}
