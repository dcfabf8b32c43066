/* A whole head from the wire: found, parsed, routed, its query split. Whatever is accepted must be
 * valid: UTF-8, sane ids, one way of framing. */
#include "sbx/core/json.h"
#include "sbx/http/head.h"
#include "sbx/http/router.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int handler(void *app, const sbx_request *r, sbx_err *err)
{
    (void)app;
    (void)r;
    (void)err;
    return 0;
}

static const sbx_route table[] = {
    {.method = "GET", .path = "/", .handler = handler},
    {.method = "GET", .path = "/a", .handler = handler},
    {.method = "POST", .path = "/a", .handler = handler},
    {.method = "POST", .path = "/a/b", .handler = handler},
    {.method = "GET", .path = "/a/{id}", .handler = handler},
    {.method = "GET", .path = "/a/{id}/b/{x}", .handler = handler},
    {.method = "DELETE", .path = "/{y}/c", .handler = handler},
};

static void check_text(const char *s)
{
    if (s && !sbx_utf8_valid(s, strlen(s)))
        abort();
}

static void check_request(const sbx_router *router, sbx_head *h)
{
    sbx_param query[SBX_MAX_QUERY_PARAMS];
    size_t count = 0;
    sbx_match m;
    sbx_err err;

    if (!h->path || (h->chunked && (h->has_length || h->keep_alive)))
        abort();
    if (h->path[0] == '/' && !sbx_router_match(router, h->method, h->path, &m, &err)) {
        if (m.route && !m.allow[0])
            abort();
        for (size_t i = 0; i < m.count; i++)
            check_text(m.params[i].value);
    }
    if (!sbx_query_parse(h->query, query, &count, &err))
        for (size_t i = 0; i < count; i++) {
            check_text(query[i].name);
            check_text(query[i].value);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static sbx_router *router;
    size_t from = 0, len = 0;
    sbx_err err;
    sbx_head h;

    if (!router && sbx_router_new(table, ARRAY_LEN(table), &router, &err))
        abort();
    if (sbx_head_find((const char *)data, size, &from, &len, &err) != 1)
        return 0;
    if (len > size)
        abort();
    char *text = sbx_strndup((const char *)data, len);
    size_t real = strlen(text); /* strndup stops at a NUL; give the parser the whole */
    if (real < len) {
        text = sbx_realloc(text, len + 1);
        memcpy(text, data, len);
        text[len] = '\0';
    }
    if (!sbx_head_parse(text, len, &h, &err))
        check_request(router, &h);
    else if (err.code == SBX_OK || !err.msg[0])
        abort();
    free(text);
    return 0;
}
