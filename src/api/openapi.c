/* The OpenAPI 3.1 document, made once from the tables: routes, fields of requests, contract. */
#include "contract.h"

#include "guide.h"
#include "sbx/sandbox/state.h"
#include <stdio.h>

/* --- fields of requests --- */

static void field_schema(sbx_jw *w, const sbx_json_field *f);

static void typed(sbx_jw *w, const char *type, bool nullable)
{
    if (!nullable) {
        sbx_jw_str(w, "type", type);
        return;
    }
    sbx_jw_arr(w, "type");
    sbx_jw_str(w, NULL, type);
    sbx_jw_str(w, NULL, "null");
    sbx_jw_arr_end(w);
}

/* Exactly one of the names must be given. */
static void one_of_schema(sbx_jw *w, const char *names, bool nullable)
{
    const char *item;
    size_t len;

    sbx_jw_arr(w, "oneOf");
    while (api_list_next(&names, &item, &len)) {
        sbx_jw_obj(w, NULL);
        sbx_jw_str(w, "type", "object");
        sbx_jw_arr(w, "required");
        sbx_jw_strn(w, NULL, item, len);
        sbx_jw_arr_end(w);
        sbx_jw_obj_end(w);
    }
    if (nullable)
        sbx_jw_raw(w, NULL, "{\"type\":\"null\"}");
    sbx_jw_arr_end(w);
}

static void field_members(sbx_jw *w, const sbx_json_field *f)
{
    field_schema(w, f);
    sbx_jw_str(w, "description", f->doc);
    if (f->example) {
        sbx_jw_arr(w, "examples");
        sbx_jw_raw(w, NULL, f->example);
        sbx_jw_arr_end(w);
    }
}

static void object_schema(sbx_jw *w, const sbx_json_field *fields, bool nullable)
{
    bool some = false;

    typed(w, "object", nullable);
    sbx_jw_bool(w, "additionalProperties", false);
    sbx_jw_obj(w, "properties");
    for (const sbx_json_field *f = fields; f->name; f++) {
        some |= f->required;
        if (f->type == SBX_JF_REFUSED)
            continue;
        sbx_jw_obj(w, f->name);
        field_members(w, f);
        sbx_jw_obj_end(w);
    }
    sbx_jw_obj_end(w);
    if (!some)
        return;
    sbx_jw_arr(w, "required");
    for (const sbx_json_field *f = fields; f->name; f++)
        if (f->required)
            sbx_jw_str(w, NULL, f->name);
    sbx_jw_arr_end(w);
}

static void bounds(sbx_jw *w, const char *least, int64_t min, const char *most, int64_t max)
{
    if (min)
        sbx_jw_int(w, least, min);
    if (max && max != INT64_MAX)
        sbx_jw_int(w, most, max);
}

static void strings_schema(sbx_jw *w, const sbx_json_field *f)
{
    typed(w, "array", f->nullable);
    bounds(w, "minItems", f->min, "maxItems", f->max);
    sbx_jw_obj(w, "items");
    sbx_jw_str(w, "type", "string");
    bounds(w, NULL, 0, "maxLength", f->max_each);
    sbx_jw_obj_end(w);
}

static void command_schema(sbx_jw *w, const sbx_json_field *f)
{
    sbx_jw_arr(w, "oneOf");
    sbx_jw_obj(w, NULL);
    typed(w, "string", f->nullable);
    bounds(w, "minLength", 1, "maxLength", f->max_each);
    sbx_jw_obj_end(w);
    sbx_jw_obj(w, NULL);
    strings_schema(w, &(sbx_json_field){.min = f->min, .max = f->max, .max_each = f->max_each});
    sbx_jw_obj_end(w);
    sbx_jw_arr_end(w);
}

static void number_schema(sbx_jw *w, const sbx_json_field *f)
{
    bool milli = f->type == SBX_JF_MILLI;

    typed(w, milli ? "number" : "integer", f->nullable);
    if (milli) {
        sbx_jw_milli(w, "minimum", f->min);
        sbx_jw_milli(w, "maximum", f->max);
        return;
    }
    sbx_jw_int(w, "minimum", f->min);
    sbx_jw_int(w, "maximum", f->max);
    if (f->dflt)
        sbx_jw_int(w, "default", f->dflt);
}

static void enum_schema(sbx_jw *w, const sbx_json_field *f)
{
    typed(w, "string", f->nullable);
    sbx_jw_arr(w, "enum");
    for (size_t i = 0; f->values[i]; i++)
        sbx_jw_str(w, NULL, f->values[i]);
    if (f->nullable)
        sbx_jw_null(w, NULL);
    sbx_jw_arr_end(w);
    if (f->dflt_text)
        sbx_jw_str(w, "default", f->dflt_text);
}

static void pairs_schema(sbx_jw *w, const sbx_json_field *f)
{
    typed(w, "object", f->nullable);
    bounds(w, NULL, 0, "maxProperties", f->max);
    sbx_jw_obj(w, "additionalProperties");
    typed(w, "string", f->nullable_each);
    bounds(w, NULL, 0, "maxLength", f->max_each);
    sbx_jw_obj_end(w);
}

/* The members of an object that is JSON already. */
static void schema_members(sbx_jw *w, const char *schema)
{
    if (w->comma)
        sbx_buf_addc(w->out, ',');
    sbx_buf_add(w->out, schema + 1, strlen(schema) - 2);
    w->comma = true;
}

static void field_schema(sbx_jw *w, const sbx_json_field *f)
{
    switch (f->type) {
    case SBX_JF_STR:
        typed(w, "string", f->nullable);
        bounds(w, "minLength", f->min, "maxLength", f->max);
        if (f->dflt_text)
            sbx_jw_str(w, "default", f->dflt_text);
        break;
    case SBX_JF_BOOL:
        sbx_jw_str(w, "type", "boolean");
        sbx_jw_bool(w, "default", f->dflt != 0);
        break;
    case SBX_JF_I64:
    case SBX_JF_MILLI:
        number_schema(w, f);
        break;
    case SBX_JF_ENUM:
        enum_schema(w, f);
        break;
    case SBX_JF_STRS:
        strings_schema(w, f);
        break;
    case SBX_JF_CMD:
        command_schema(w, f);
        break;
    case SBX_JF_PAIRS:
        pairs_schema(w, f);
        break;
    case SBX_JF_JSON:
        schema_members(w, f->schema);
        bounds(w, "minProperties", f->min, "maxProperties", f->max);
        break;
    case SBX_JF_KEPT_LIST:
        sbx_jw_str(w, "type", "array");
        sbx_jw_obj(w, "items");
        object_schema(w, f->sub, false);
        sbx_jw_obj_end(w);
        bounds(w, "minItems", f->min, "maxItems", f->max);
        break;
    case SBX_JF_KEPT:
    case SBX_JF_OBJ:
        object_schema(w, f->sub, f->nullable);
        if (f->one_of)
            one_of_schema(w, f->one_of, f->nullable);
        break;
    case SBX_JF_REFUSED:
        break;
    }
}

/* --- fields of answers, and parameters --- */

static void ref(sbx_jw *w, const char *name, const char *where, const char *of, size_t len)
{
    char text[128];

    snprintf(text, sizeof(text), "#/components/%s/%.*s", where, (int)len, of);
    if (name)
        sbx_jw_obj(w, name);
    sbx_jw_str(w, "$ref", text);
    if (name)
        sbx_jw_obj_end(w);
}

static void list_enum(sbx_jw *w, const char *list, bool nullable)
{
    const char *item;
    size_t len;

    typed(w, "string", nullable);
    sbx_jw_arr(w, "enum");
    while (api_list_next(&list, &item, &len))
        sbx_jw_strn(w, NULL, item, len);
    if (nullable)
        sbx_jw_null(w, NULL);
    sbx_jw_arr_end(w);
}

/* @param status  only the codes with it; 0: all. */
static void codes_enum(sbx_jw *w, int status)
{
    sbx_jw_str(w, "type", "string");
    sbx_jw_arr(w, "enum");
    for (int c = SBX_OK + 1; c < SBX_E_COUNT; c++)
        if (status ? sbx_code_status((sbx_code)c) == status : c != SBX_E_CANCELLED)
            sbx_jw_str(w, NULL, sbx_code_wire((sbx_code)c));
    sbx_jw_arr_end(w);
}

static void states_enum(sbx_jw *w, bool nullable)
{
    typed(w, "string", nullable);
    sbx_jw_arr(w, "enum");
    for (int s = 0; s < SBX_S_COUNT; s++)
        sbx_jw_str(w, NULL, sbx_state_wire((sbx_state)s));
    if (nullable)
        sbx_jw_null(w, NULL);
    sbx_jw_arr_end(w);
}

static void like_request(sbx_jw *w, const api_field *f)
{
    const sbx_json_field *source = api_request_field(f->of);

    if (!source)
        return;
    sbx_json_field plain = *source;
    plain.dflt = 0;
    plain.dflt_text = NULL;
    plain.nullable = f->flags & NULLABLE;
    field_schema(w, &plain);
}

static void reference(sbx_jw *w, const api_field *f)
{
    if (!(f->flags & NULLABLE)) {
        ref(w, NULL, "schemas", f->of, strlen(f->of));
        return;
    }
    sbx_jw_arr(w, "anyOf");
    sbx_jw_obj(w, NULL);
    ref(w, NULL, "schemas", f->of, strlen(f->of));
    sbx_jw_obj_end(w);
    sbx_jw_raw(w, NULL, "{\"type\":\"null\"}");
    sbx_jw_arr_end(w);
}

static void one_of(sbx_jw *w, const char *list)
{
    const char *item;
    size_t len;

    sbx_jw_arr(w, "oneOf");
    while (api_list_next(&list, &item, &len)) {
        sbx_jw_obj(w, NULL);
        ref(w, NULL, "schemas", item, len);
        sbx_jw_obj_end(w);
    }
    sbx_jw_arr_end(w);
}

static void text_schema(sbx_jw *w, const api_field *f)
{
    typed(w, "string", f->flags & NULLABLE);
    if (f->type == T_TIME)
        sbx_jw_str(w, "format", "date-time");
    else if (f->type == T_ID)
        sbx_jw_str(w, "pattern", "^[a-z0-9]{20}$");
    else
        bounds(w, "minLength", f->min, "maxLength", f->max);
}

static void number_bounds(sbx_jw *w, const api_field *f)
{
    typed(w, f->type == T_NUM ? "number" : "integer", f->flags & NULLABLE);
    if (!f->min && !f->max)
        return;
    sbx_jw_int(w, "minimum", f->min);
    if (f->max != INT64_MAX)
        sbx_jw_int(w, "maximum", f->max);
}

static void value_schema(sbx_jw *w, const api_field *f)
{
    switch (f->type) {
    case T_STR:
    case T_TIME:
    case T_ID:
        text_schema(w, f);
        break;
    case T_INT:
    case T_NUM:
        number_bounds(w, f);
        break;
    case T_BOOL:
        typed(w, "boolean", f->flags & NULLABLE);
        break;
    case T_STATE:
        states_enum(w, f->flags & NULLABLE);
        break;
    case T_CODE:
        codes_enum(w, 0);
        break;
    case T_ENUM:
        list_enum(w, f->of, f->flags & NULLABLE);
        break;
    case T_CONST:
        sbx_jw_str(w, "type", "string");
        sbx_jw_str(w, "const", f->of);
        break;
    case T_REF:
        reference(w, f);
        break;
    case T_LIST:
        sbx_jw_str(w, "type", "array");
        ref(w, "items", "schemas", f->of, strlen(f->of));
        break;
    case T_ONE_OF:
        sbx_jw_str(w, "type", "array");
        sbx_jw_obj(w, "items");
        one_of(w, f->of);
        sbx_jw_obj_end(w);
        break;
    case T_STRS:
        sbx_jw_str(w, "type", "array");
        sbx_jw_raw(w, "items", "{\"type\":\"string\"}");
        break;
    case T_MAP:
        sbx_jw_str(w, "type", "object");
        sbx_jw_raw(w, "additionalProperties", "{\"type\":\"string\"}");
        break;
    case T_REQUEST:
        like_request(w, f);
        break;
    }
    if (f->dflt)
        sbx_jw_raw(w, "default", f->dflt);
}

static void answer_schema(sbx_jw *w, const api_schema *s)
{
    sbx_jw_obj(w, s->name);
    sbx_jw_str(w, "type", "object");
    sbx_jw_str(w, "description", s->doc);
    sbx_jw_bool(w, "additionalProperties", false);
    sbx_jw_obj(w, "properties");
    for (const api_field *f = s->fields; f->name; f++) {
        sbx_jw_obj(w, f->name);
        value_schema(w, f);
        sbx_jw_str(w, "description", f->doc);
        if (f->example) {
            sbx_jw_arr(w, "examples");
            sbx_jw_raw(w, NULL, f->example);
            sbx_jw_arr_end(w);
        }
        sbx_jw_obj_end(w);
    }
    sbx_jw_obj_end(w);
    sbx_jw_arr(w, "required");
    for (const api_field *f = s->fields; f->name; f++)
        if (!(f->flags & OPTIONAL))
            sbx_jw_str(w, NULL, f->name);
    sbx_jw_arr_end(w);
    sbx_jw_obj_end(w);
}

/* --- operations --- */

static void parameter(sbx_jw *w, const api_field *f, const char *in)
{
    sbx_jw_str(w, "name", f->name);
    sbx_jw_str(w, "in", in);
    sbx_jw_bool(w, "required", strcmp(in, "path") == 0 || f->flags & REQUIRED);
    sbx_jw_str(w, "description", f->doc);
    sbx_jw_obj(w, "schema");
    value_schema(w, f);
    sbx_jw_obj_end(w);
    if (f->example)
        sbx_jw_raw(w, "example", f->example);
}

static void named_parameter(sbx_jw *w, const sbx_api_route *route, const char *name, size_t len,
                            const char *in)
{
    const api_field *f = api_param_find(route, name, len);

    if (!f)
        return;
    sbx_jw_obj(w, NULL);
    parameter(w, f, in);
    sbx_jw_obj_end(w);
}

static void parameters(sbx_jw *w, const sbx_api_route *route)
{
    const char *list = route->query, *item;
    size_t len;

    sbx_jw_arr(w, "parameters");
    for (const char *p = route->path; (p = strchr(p, '{')); p++)
        named_parameter(w, route, p + 1, strcspn(p + 1, "}"), "path");
    while (api_list_next(&list, &item, &len))
        named_parameter(w, route, item, len, "query");
    for (const api_field *h = api_headers; h->name; h++) {
        if (!api_header_of(route, h))
            continue;
        sbx_jw_obj(w, NULL);
        ref(w, NULL, "parameters", h->name, strlen(h->name));
        sbx_jw_obj_end(w);
    }
    sbx_jw_arr_end(w);
}

static void raw_body(sbx_jw *w, const sbx_api_route *route)
{
    sbx_jw_obj(w, "requestBody");
    sbx_jw_int(w, "x-maxBytes", (int64_t)route->max_body);
    sbx_jw_raw(w, "content", "{\"application/octet-stream\":{}}");
    sbx_jw_obj_end(w);
}

static void request_body(sbx_jw *w, const sbx_api_route *route)
{
    if (!route->body && route->max_body)
        raw_body(w, route);
    if (!route->body)
        return;
    sbx_jw_obj(w, "requestBody");
    sbx_jw_int(w, "x-maxBytes", (int64_t)route->max_body);
    sbx_jw_obj(w, "content");
    sbx_jw_obj(w, "application/json");
    sbx_jw_obj(w, "schema");
    object_schema(w, route->body, false);
    sbx_jw_obj_end(w);
    sbx_jw_raw(w, "example", route->example ? route->example : "{}");
    sbx_jw_obj_end(w);
    sbx_jw_obj_end(w);
    sbx_jw_obj_end(w);
}

/* The messages of a stream: "LogEntry,gap:Gap" is schemas, some with the name of their event. */
static void messages(sbx_jw *w, const char *name, const char *list)
{
    const char *item;
    size_t len;

    sbx_jw_arr(w, name);
    while (api_list_next(&list, &item, &len)) {
        const char *colon = memchr(item, ':', len);
        const char *schema = colon ? colon + 1 : item;

        sbx_jw_obj(w, NULL);
        if (colon)
            sbx_jw_strn(w, "event", item, (size_t)(colon - item));
        ref(w, "data", "schemas", schema, len - (size_t)(schema - item));
        sbx_jw_obj_end(w);
    }
    sbx_jw_arr_end(w);
}

static void plain_content(sbx_jw *w, const sbx_api_route *route, int status)
{
    const char *type, *types = route->produces ? route->produces : "application/json";
    size_t len = 0, type_len;
    const char *of = api_response_of(route, status, &len);
    char name[64];

    while (api_list_next(&types, &type, &type_len)) {
        snprintf(name, sizeof(name), "%.*s", (int)type_len, type);
        sbx_jw_obj(w, name);
        if (strcmp(of, "text") == 0)
            sbx_jw_raw(w, "schema", "{\"type\":\"string\"}");
        else if (strcmp(of, "object") == 0)
            sbx_jw_raw(w, "schema", "{\"type\":\"object\"}");
        else if (strcmp(of, "bytes") == 0 || strcmp(of, "file") == 0)
            sbx_jw_raw(w, "schema", "{}");
        else
            ref(w, "schema", "schemas", of, len);
        sbx_jw_obj_end(w);
    }
}

static void success_content(sbx_jw *w, const sbx_api_route *route, int status)
{
    if (route->response)
        plain_content(w, route, status);
    if (route->sse && status == 200) {
        sbx_jw_obj(w, "text/event-stream");
        sbx_jw_raw(w, "schema", "{\"type\":\"string\"}");
        messages(w, "x-events", route->sse);
        sbx_jw_obj_end(w);
    }
}

static void headers(sbx_jw *w, const char *const *names)
{
    sbx_jw_obj(w, "headers");
    for (; *names; names++)
        ref(w, *names, "headers", *names, strlen(*names));
    sbx_jw_obj_end(w);
}

static const char *success_words(int status)
{
    switch (status) {
    case 201:
        return "Made";
    case 202:
        return "Begun; it goes on behind this answer";
    case 204:
        return "Done; there is nothing to say";
    case 503:
        return "Not now";
    default:
        return "Done";
    }
}

/* Is what is answered a thing of its own, with a path? */
static bool has_id(const sbx_api_route *route, int status)
{
    size_t len = 0;
    const char *response = api_response_of(route, status, &len);
    const api_schema *s = response ? api_schema_find(response, len) : NULL;

    for (const api_field *f = s ? s->fields : NULL; f && f->name; f++)
        if (strcmp(f->name, "id") == 0 || strcmp(f->name, "execId") == 0)
            return true;
    return false;
}

#define RATES "RateLimit", "RateLimit-Policy"

static void success(sbx_jw *w, const sbx_api_route *route, const char *digits, bool fails_too)
{
    static const char *const open[] = {"X-Request-Id", NULL};
    static const char *const plain[] = {"X-Request-Id", RATES, NULL};
    static const char *const read[] = {"X-Request-Id", "ETag", RATES, NULL};
    static const char *const open_read[] = {"X-Request-Id", "ETag", NULL};
    static const char *const made[] = {"X-Request-Id", "Location", RATES, NULL};
    static const char *const busy[] = {"X-Request-Id", "Retry-After", NULL};
    int status = api_status(digits);
    bool location = (status == 201 || status == 202) && has_id(route, status);
    bool tagged = status < 300 && api_tagged(route);

    sbx_jw_str(w, "description", success_words(status));
    headers(w, location        ? made
               : tagged        ? route->scope ? read : open_read
               : status == 503 ? busy
               : route->scope  ? plain
                               : open);
    if (status == 204)
        return;
    sbx_jw_obj(w, "content");
    success_content(w, route, status);
    if (fails_too)
        sbx_jw_raw(w, "application/problem+json",
                   "{\"schema\":{\"$ref\":\"#/components/schemas/Problem\"}}");
    sbx_jw_obj_end(w);
}

static void not_modified(sbx_jw *w)
{
    static const char *const names[] = {"X-Request-Id", "ETag", NULL};

    sbx_jw_obj(w, "304");
    sbx_jw_str(w, "description", "What you have is current");
    headers(w, names);
    sbx_jw_obj_end(w);
}

static void responses(sbx_jw *w, const sbx_api_route *route)
{
    int failures[API_MAX_STATUSES];
    size_t count = api_failures(route, failures), len;
    const char *list = route->success, *item;
    char name[16];

    sbx_jw_obj(w, "responses");
    if (route->ws) {
        sbx_jw_obj(w, "101");
        sbx_jw_str(w, "description",
                   "The WebSocket is open: text frames, of which each is one JSON message.");
        messages(w, "x-frames", route->ws);
        sbx_jw_obj_end(w);
    }
    while (api_list_next(&list, &item, &len)) {
        bool fails_too = false;

        for (size_t i = 0; i < count; i++)
            fails_too |= failures[i] == api_status(item);
        sbx_jw_obj(w, (snprintf(name, sizeof(name), "%.3s", item), name));
        success(w, route, item, fails_too);
        sbx_jw_obj_end(w);
    }
    if (api_tagged(route) && route->success)
        not_modified(w);
    for (size_t i = 0; i < count; i++) {
        snprintf(name, sizeof(name), "%d", failures[i]);
        if (api_list_has(route->success, name))
            continue;
        sbx_jw_obj(w, name);
        ref(w, NULL, "responses", name, 3);
        sbx_jw_obj_end(w);
    }
    sbx_jw_obj_end(w);
}

static void security(sbx_jw *w, const sbx_api_route *route)
{
    if (strcmp(route->name, "metrics") == 0)
        sbx_jw_raw(w, "security", "[{},{\"metricsToken\":[]}]");
    else if (route->scope && strcmp(route->method, "GET") == 0)
        sbx_jw_raw(w, "security", "[{\"bearer\":[]},{\"apiKey\":[]},{\"ticket\":[]}]");
    else
        sbx_jw_raw(w, "security", route->scope ? "[{\"bearer\":[]},{\"apiKey\":[]}]" : "[]");
    if (route->scope && *route->scope)
        sbx_jw_str(w, "x-scope", route->scope);
}

static void operation(sbx_jw *w, const sbx_api_route *route)
{
    char method[8] = "";

    for (size_t i = 0; route->method[i] && i < sizeof(method) - 1; i++)
        method[i] = (char)(route->method[i] | 0x20);
    sbx_jw_obj(w, method);
    sbx_jw_str(w, "operationId", route->name);
    sbx_jw_str(w, "summary", route->summary);
    if (route->doc)
        sbx_jw_str(w, "description", route->doc);
    sbx_jw_arr(w, "tags");
    sbx_jw_str(w, NULL, route->tag);
    sbx_jw_arr_end(w);
    security(w, route);
    parameters(w, route);
    request_body(w, route);
    responses(w, route);
    sbx_jw_obj_end(w);
}

static void paths(sbx_jw *w)
{
    sbx_jw_obj(w, "paths");
    for (size_t i = 0; i < sbx_api_route_count; i++) {
        const char *path = sbx_api_routes[i].path;

        if (i == 0 || strcmp(path, sbx_api_routes[i - 1].path) != 0)
            sbx_jw_obj(w, path);
        operation(w, &sbx_api_routes[i]);
        if (i + 1 == sbx_api_route_count || strcmp(path, sbx_api_routes[i + 1].path) != 0)
            sbx_jw_obj_end(w);
    }
    sbx_jw_obj_end(w);
}

/* --- components --- */

static void problem_response(sbx_jw *w, int status)
{
    static const char *const plain[] = {"X-Request-Id", NULL};
    static const char *const again[] = {"X-Request-Id", "Retry-After", NULL};
    static const char *const limited[] = {"X-Request-Id", "Retry-After", RATES, NULL};
    static const char *const methods[] = {"X-Request-Id", "Allow", NULL};
    static const char *const who[] = {"X-Request-Id", "WWW-Authenticate", NULL};
    char name[16];

    snprintf(name, sizeof(name), "%d", status);
    sbx_jw_obj(w, name);
    for (int c = SBX_OK + 1; c < SBX_E_COUNT; c++)
        if (sbx_code_status((sbx_code)c) == status) {
            sbx_jw_str(w, "description", sbx_code_title((sbx_code)c));
            break;
        }
    headers(w, status == 429   ? limited
               : status == 503 ? again
               : status == 405 ? methods
               : status == 401 ? who
                               : plain);
    sbx_jw_obj(w, "content");
    sbx_jw_obj(w, "application/problem+json");
    sbx_jw_obj(w, "schema");
    ref(w, NULL, "schemas", "Problem", 7);
    sbx_jw_obj(w, "properties");
    sbx_jw_obj(w, "status");
    sbx_jw_int(w, "const", status);
    sbx_jw_obj_end(w);
    sbx_jw_obj(w, "code");
    codes_enum(w, status);
    for (int depth = 0; depth < 6; depth++)
        sbx_jw_obj_end(w);
}

static void components(sbx_jw *w)
{
    int last = 0;

    sbx_jw_obj(w, "components");
    sbx_jw_raw(w, "securitySchemes",
               "{\"bearer\":{\"type\":\"http\",\"scheme\":\"bearer\",\"description\":\"An API "
               "key\"},\"apiKey\":{\"type\":\"apiKey\",\"in\":\"header\",\"name\":\"X-API-Key\"},"
               "\"ticket\":{\"type\":\"apiKey\",\"in\":\"query\",\"name\":\"ticket\","
               "\"description\":\"From `POST /tickets`, for this very path\"},"
               "\"metricsToken\":{\"type\":\"http\",\"scheme\":\"bearer\",\"description\":\"The "
               "operator's token for metrics\"}}");
    sbx_jw_raw(w, "headers",
               "{\"ETag\":{\"required\":true,\"description\":\"Of this representation; strong\","
               "\"schema\":{\"type\":\"string\"}},\"X-Request-Id\":{\"required\":true,"
               "\"description\":\"Names the request\","
               "\"schema\":{\"type\":\"string\"}},\"Location\":{\"required\":true,\"description\":"
               "\"The path of what was made\",\"schema\":{\"type\":\"string\"}},\"Retry-After\":{"
               "\"required\":true,\"description\":\"Seconds to wait\",\"schema\":{\"type\":"
               "\"integer\",\"minimum\":1}},\"Allow\":{\"required\":true,\"description\":\"The "
               "methods there are\",\"schema\":{\"type\":\"string\"}},\"WWW-Authenticate\":{"
               "\"required\":true,\"schema\":{\"type\":\"string\"}},\"RateLimit\":{"
               "\"description\":\"Of the key's rate for such requests: `r` are left, all are there "
               "again in `t` seconds, or, of a 429, enough; not there if there is no "
               "limit\",\"schema\":{\"type\":"
               "\"string\"},\"example\":\"\\\"reads\\\";r=2999;t=1\"},\"RateLimit-Policy\":{"
               "\"description\":\"That rate: `q` requests in `w` seconds\",\"schema\":{\"type\":"
               "\"string\"},\"example\":\"\\\"reads\\\";q=3000;w=60\"}}");
    sbx_jw_obj(w, "parameters");
    for (const api_field *h = api_headers; h->name; h++) {
        sbx_jw_obj(w, h->name);
        parameter(w, h, "header");
        sbx_jw_obj_end(w);
    }
    sbx_jw_obj_end(w);
    sbx_jw_obj(w, "responses");
    for (int c = SBX_OK + 1; c < SBX_E_COUNT; c++) {
        int status = sbx_code_status((sbx_code)c);

        if (status != last && c != SBX_E_CANCELLED)
            problem_response(w, status);
        last = status;
    }
    sbx_jw_obj_end(w);
    sbx_jw_obj(w, "schemas");
    for (size_t i = 0; i < api_schema_count; i++)
        answer_schema(w, &api_schemas[i]);
    sbx_jw_obj_end(w);
    sbx_jw_obj_end(w);
}

void sbx_api_openapi(sbx_buf *out)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf guide = SBX_BUF_INIT(256 * KIB);
    sbx_jw w = SBX_JW(out);

    api_guide(&guide);
    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "openapi", "3.1.0");
    sbx_jw_obj(&w, "info");
    sbx_jw_str(&w, "title", "sandboxd");
    sbx_jw_str(&w, "version", SBX_VERSION);
    sbx_jw_str(&w, "description", guide.data);
    sbx_jw_obj_end(&w);
    paths(&w);
    components(&w);
    sbx_jw_obj_end(&w);
}
