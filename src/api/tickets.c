/* Tickets: made by a key, presented as ?ticket= where a browser cannot send a header. */
#include "handlers.h"

#include "sbx/core/json.h"

static const char *const methods[] = {"GET", NULL};

typedef struct ticket_body {
    const char *method;
    char *path;
} ticket_body;

const sbx_json_field api_ticket_fields[] = {
    {"method", SBX_JF_ENUM, offsetof(ticket_body, method), .values = methods,
     .doc = "what the ticket is for; a ticket is for reading only"},
    {"path", SBX_JF_STR, offsetof(ticket_body, path), .required = true, .min = 1,
     .max = SBX_MAX_URI_BYTES,
     .doc = "the path of the request, exactly as it will be sent and without its query, such as "
            "/sandboxes/{id}/logs"},
    {.name = NULL},
};

/* Does the path have the form of the route's? Segments are compared undecoded. */
static bool fits(const char *route, const char *path)
{
    while (*route && *path) {
        size_t want = strcspn(route + 1, "/"), have = strcspn(path + 1, "/");

        if (route[1] == '{' ? have == 0 : want != have || memcmp(route + 1, path + 1, want) != 0)
            return false;
        route += 1 + want;
        path += 1 + have;
    }
    return !*route && !*path;
}

/* The route that the ticket will be used on: a mistake is told now, since browsers hide what a
 * WebSocket or an EventSource is answered. */
static int find_route(const ticket_body *t, const sbx_api_route **ret, sbx_err *err)
{
    for (const char *p = t->path; *p; p++)
        if (*p <= ' ' || *p >= 0x7f || *p == '?' || *p == '#')
            return sbx_fail_field(err, "path",
                                  "path: give it as it will be sent: escaped, without a query");
    for (size_t i = 0; i < sbx_api_route_count; i++) {
        const sbx_api_route *r = &sbx_api_routes[i];

        if (r->scope && strcmp(r->method, t->method) == 0 && fits(r->path, t->path)) {
            *ret = r;
            return 0;
        }
    }
    return sbx_fail_field(err, "path", "path: there is no %s of such a path that needs a ticket",
                          t->method);
}

static void reply_ticket(const sbx_request *r, const ticket_body *t, const char *ticket,
                         int64_t expires_ms)
{
    sbx_buf b = SBX_BUF_INIT(64 * KIB);
    sbx_jw w = SBX_JW(&b);

    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "ticket", ticket);
    sbx_jw_str(&w, "method", t->method);
    sbx_jw_str(&w, "path", t->path);
    sbx_jw_time(&w, "expiresAt", expires_ms);
    sbx_jw_obj_end(&w);
    sbx_reply_json(r->reply, 201, &b);
    sbx_buf_done(&b);
}

static int issue(sbx_app *app, const sbx_principal *who, const sbx_request *r,
                 const ticket_body *body, sbx_err *err)
{
    char ticket[SBX_TICKET_LEN + 1];
    const sbx_api_route *route;
    int64_t expires_ms;

    if (find_route(body, &route, err) || sbx_principal_require(who, route->scope, err) ||
        sbx_tickets_issue(app->tickets, who, body->method, body->path, ticket, &expires_ms, err))
        return -1;
    reply_ticket(r, body, ticket, expires_ms);
    sbx_wipe(ticket, sizeof(ticket));
    return 0;
}

HANDLER(api_ticket_create)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    ticket_body body = {0};
    int rc =
        sbx_json_parse(r->body_len ? r->body : "{}", r->body_len ? r->body_len : 2, &root, err);

    if (!rc)
        rc = sbx_json_decode(root, api_ticket_fields, &body, err);
    if (!rc && !body.method)
        body.method = methods[0];
    if (!rc)
        rc = issue(app, who, r, &body, err);
    sbx_json_struct_done(api_ticket_fields, &body);
    return rc;
}

/* --- using one --- */

static void stream_over(void *lease)
{
    sbx_ticket_lease_end(lease);
}

int api_ticket_check(sbx_app *app, const sbx_request *r, sbx_principal *ret, sbx_err *err)
{
    const char *method = r->method == SBX_HEAD ? "HEAD" : r->route->method;
    bool events = r->accept == SBX_ACCEPT_SSE;
    sbx_ticket_lease *lease;

    if (r->authorization || r->api_key)
        return sbx_fail_field(err, "ticket", "ticket: send a key or a ticket, not both");
    if (sbx_tickets_use(app->tickets, r->ticket, method, r->target, events ? &lease : NULL, ret,
                        err))
        return -1;
    if (events)
        sbx_reply_on_over(r->reply, stream_over, lease);
    return 0;
}
