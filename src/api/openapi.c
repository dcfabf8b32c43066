/* The OpenAPI 3.1 document, made from the table of routes and the tables of fields. Schemas of
 * responses stand here, as they are written by hand in the encoders. */
#include "handlers.h"

#include <stdio.h>

static const struct {
    const char *name, *json;
} schemas[] = {
    {"Health", "{\"type\":\"object\",\"required\":[\"status\",\"version\"],\"properties\":{"
               "\"status\":{\"const\":\"ok\"},\"version\":{\"type\":\"string\"}}}"},
    {"Ready", "{\"type\":\"object\",\"required\":[\"status\",\"store\",\"bus\",\"engine\"],"
              "\"properties\":{\"status\":{\"enum\":[\"ready\",\"unavailable\"]},"
              "\"store\":{\"$ref\":\"#/components/schemas/Dependency\"},"
              "\"bus\":{\"$ref\":\"#/components/schemas/Dependency\"},"
              "\"engine\":{\"$ref\":\"#/components/schemas/Dependency\"}}}"},
    {"Dependency", "{\"type\":\"object\",\"required\":[\"status\",\"latencyMs\"],\"properties\":{"
                   "\"status\":{\"enum\":[\"ok\",\"unavailable\"]},\"latencyMs\":{\"type\":"
                   "\"number\"},\"code\":{\"type\":\"string\"}}}"},
    {"Problem",
     "{\"type\":\"object\",\"required\":[\"type\",\"title\",\"status\",\"detail\",\"code\","
     "\"requestId\"],\"properties\":{\"type\":{\"type\":\"string\"},\"title\":{\"type\":"
     "\"string\"},\"status\":{\"type\":\"integer\"},\"detail\":{\"type\":\"string\"},\"code\":{"
     "\"type\":\"string\"},\"requestId\":{\"type\":\"string\"},\"sandboxId\":{\"type\":"
     "\"string\"},\"errors\":{\"type\":\"array\",\"items\":{\"type\":\"object\",\"required\":["
     "\"field\",\"message\"],\"properties\":{\"field\":{\"type\":\"string\"},\"message\":{"
     "\"type\":\"string\"}}}}}}"},
    {"Sandbox",
     "{\"type\":\"object\",\"required\":[\"id\",\"state\",\"image\",\"limits\",\"createdAt\"],"
     "\"properties\":{\"id\":{\"type\":\"string\",\"pattern\":\"^[a-z0-9]{20}$\"},\"name\":{"
     "\"type\":[\"string\",\"null\"]},\"template\":{\"type\":[\"string\",\"null\"]},\"image\":{"
     "\"type\":\"string\"},\"state\":{\"enum\":[\"creating\",\"running\",\"pausing\",\"paused\","
     "\"resuming\",\"stopping\",\"stopped\",\"starting\",\"deleting\",\"deleted\",\"failed\"]},"
     "\"stateReason\":{\"type\":[\"object\",\"null\"],\"properties\":{\"code\":{\"type\":"
     "\"string\"},\"message\":{\"type\":\"string\"},\"exitCode\":{\"type\":\"integer\"},"
     "\"signal\":{\"type\":\"string\"},\"oomKilled\":{\"type\":\"boolean\"}}},"
     "\"stateChangedAt\":{\"type\":\"string\",\"format\":\"date-time\"},\"limits\":{\"type\":"
     "\"object\",\"properties\":{\"cpus\":{\"type\":\"number\"},\"memoryMb\":{\"type\":"
     "\"integer\"},\"pids\":{\"type\":\"integer\"},\"diskMb\":{\"type\":[\"integer\",\"null\"]}}}"
     ",\"size\":{\"type\":\"string\"},\"network\":{\"type\":\"object\"},\"metadata\":{\"type\":"
     "\"object\",\"additionalProperties\":{\"type\":\"string\"}},\"envNames\":{\"type\":"
     "\"array\",\"items\":{\"type\":\"string\"}},\"timeoutSeconds\":{\"type\":\"integer\"},"
     "\"idleTimeoutSeconds\":{\"type\":\"integer\"},\"onTimeout\":{\"type\":\"string\"},"
     "\"onIdle\":{\"type\":\"string\"},\"createdAt\":{\"type\":\"string\",\"format\":"
     "\"date-time\"},\"startedAt\":{\"type\":[\"string\",\"null\"]},\"lastActiveAt\":{\"type\":["
     "\"string\",\"null\"]},\"expiresAt\":{\"type\":[\"string\",\"null\"]},\"warm\":{\"type\":"
     "\"boolean\"},\"runtime\":{\"type\":[\"string\",\"null\"]},\"host\":{\"type\":[\"string\","
     "\"null\"]},\"diskLimit\":{\"enum\":[\"enforced\",\"watched\",\"none\"]}}}"},
    {"SandboxList",
     "{\"type\":\"object\",\"required\":[\"items\",\"nextCursor\"],\"properties\":{\"items\":{"
     "\"type\":\"array\",\"items\":{\"$ref\":\"#/components/schemas/Sandbox\"}},\"nextCursor\":{"
     "\"type\":[\"string\",\"null\"]}}}"},
    {"ExecResult",
     "{\"type\":\"object\",\"required\":[\"execId\",\"exitCode\",\"signal\",\"stdout\","
     "\"stderr\",\"durationMs\",\"timedOut\",\"oomKilled\",\"truncated\"],\"properties\":{"
     "\"execId\":{\"type\":\"string\"},\"exitCode\":{\"type\":\"integer\"},\"signal\":{\"type\":"
     "[\"string\",\"null\"]},\"stdout\":{\"type\":\"string\"},\"stderr\":{\"type\":\"string\"},"
     "\"encoding\":{\"const\":\"base64\"},\"durationMs\":{\"type\":\"integer\"},\"timedOut\":{"
     "\"type\":\"boolean\"},\"oomKilled\":{\"type\":\"boolean\"},\"truncated\":{\"type\":"
     "\"boolean\"}}}"},
    {"LogEntry",
     "{\"type\":\"object\",\"required\":[\"seq\",\"ts\",\"stream\",\"source\",\"execId\","
     "\"data\"],\"properties\":{\"seq\":{\"type\":\"integer\"},\"ts\":{\"type\":\"string\","
     "\"format\":\"date-time\"},\"stream\":{\"enum\":[\"stdout\",\"stderr\",\"system\"]},"
     "\"source\":{\"enum\":[\"main\",\"exec\",\"run\",\"system\"]},\"execId\":{\"type\":["
     "\"string\",\"null\"]},\"data\":{\"type\":\"string\"},\"encoding\":{\"const\":\"base64\"}}}"},
    {"LogPage",
     "{\"type\":\"object\",\"required\":[\"items\",\"nextCursor\"],\"properties\":{\"items\":{"
     "\"type\":\"array\",\"items\":{\"$ref\":\"#/components/schemas/LogEntry\"}},\"nextCursor\":{"
     "\"type\":[\"string\",\"null\"]}}}"},
};

static void field_schema(sbx_jw *w, const sbx_json_field *f);

static void object_schema(sbx_jw *w, const sbx_json_field *fields)
{
    sbx_jw_str(w, "type", "object");
    sbx_jw_bool(w, "additionalProperties", false);
    sbx_jw_obj(w, "properties");
    for (const sbx_json_field *f = fields; f->name; f++)
        if (f->type != SBX_JF_REFUSED)
            field_schema(w, f);
    sbx_jw_obj_end(w);
    sbx_jw_arr(w, "required");
    for (const sbx_json_field *f = fields; f->name; f++)
        if (f->required)
            sbx_jw_str(w, NULL, f->name);
    sbx_jw_arr_end(w);
}

static void typed(sbx_jw *w, const sbx_json_field *f, const char *type)
{
    if (!f->nullable) {
        sbx_jw_str(w, "type", type);
        return;
    }
    sbx_jw_arr(w, "type");
    sbx_jw_str(w, NULL, type);
    sbx_jw_str(w, NULL, "null");
    sbx_jw_arr_end(w);
}

static void strings_schema(sbx_jw *w, const sbx_json_field *f)
{
    sbx_jw_str(w, "type", "array");
    sbx_jw_int(w, "minItems", f->min);
    sbx_jw_int(w, "maxItems", f->max);
    sbx_jw_obj(w, "items");
    sbx_jw_str(w, "type", "string");
    sbx_jw_int(w, "maxLength", f->max_each);
    sbx_jw_obj_end(w);
}

static void command_schema(sbx_jw *w, const sbx_json_field *f)
{
    sbx_jw_arr(w, "oneOf");
    sbx_jw_obj(w, NULL);
    sbx_jw_str(w, "type", "string");
    sbx_jw_int(w, "minLength", 1);
    sbx_jw_int(w, "maxLength", f->max_each);
    sbx_jw_obj_end(w);
    sbx_jw_obj(w, NULL);
    strings_schema(w, f);
    sbx_jw_obj_end(w);
    sbx_jw_arr_end(w);
}

static void number_schema(sbx_jw *w, const sbx_json_field *f)
{
    bool milli = f->type == SBX_JF_MILLI;

    typed(w, f, milli ? "number" : "integer");
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

static void field_schema(sbx_jw *w, const sbx_json_field *f)
{
    sbx_jw_obj(w, f->name);
    sbx_jw_str(w, "description", f->doc);
    switch (f->type) {
    case SBX_JF_STR:
        typed(w, f, "string");
        sbx_jw_int(w, "minLength", f->min);
        sbx_jw_int(w, "maxLength", f->max);
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
        sbx_jw_arr(w, "enum");
        for (size_t i = 0; f->values[i]; i++)
            sbx_jw_str(w, NULL, f->values[i]);
        sbx_jw_arr_end(w);
        break;
    case SBX_JF_STRS:
        strings_schema(w, f);
        break;
    case SBX_JF_CMD:
        command_schema(w, f);
        break;
    case SBX_JF_PAIRS:
        sbx_jw_str(w, "type", "object");
        sbx_jw_int(w, "maxProperties", f->max);
        sbx_jw_raw(w, "additionalProperties", "{\"type\":\"string\"}");
        break;
    case SBX_JF_OBJ:
        object_schema(w, f->sub);
        break;
    case SBX_JF_REFUSED:
        break;
    }
    sbx_jw_obj_end(w);
}

static void parameter(sbx_jw *w, const char *name, size_t len, const char *in)
{
    sbx_jw_obj(w, NULL);
    sbx_jw_strn(w, "name", name, len);
    sbx_jw_str(w, "in", in);
    sbx_jw_bool(w, "required", strcmp(in, "path") == 0);
    sbx_jw_raw(w, "schema", "{\"type\":\"string\"}");
    sbx_jw_obj_end(w);
}

static void parameters(sbx_jw *w, const sbx_api_route *route)
{
    sbx_jw_arr(w, "parameters");
    for (const char *p = route->path; (p = strchr(p, '{')); p++)
        parameter(w, p + 1, strcspn(p + 1, "}"), "path");
    for (const char *q = route->query; q && *q; q += strcspn(q, ",") + (strchr(q, ',') != NULL))
        parameter(w, q, strcspn(q, ","), "query");
    sbx_jw_arr_end(w);
}

static void success_content(sbx_jw *w, const sbx_api_route *route)
{
    char ref[96];

    if (!route->response)
        return;
    sbx_jw_obj(w, "content");
    if (strcmp(route->response, "text") == 0) {
        sbx_jw_raw(w, "text/plain", "{\"schema\":{\"type\":\"string\"}}");
    } else if (strcmp(route->response, "object") == 0) {
        sbx_jw_raw(w, "application/json", "{\"schema\":{\"type\":\"object\"}}");
    } else {
        snprintf(ref, sizeof(ref), "{\"schema\":{\"$ref\":\"#/components/schemas/%s\"}}",
                 route->response);
        sbx_jw_raw(w, "application/json", ref);
    }
    if (route->accepts & SBX_CAN_SSE)
        sbx_jw_raw(w, "text/event-stream", "{\"schema\":{\"type\":\"string\"}}");
    sbx_jw_obj_end(w);
}

static void statuses(sbx_jw *w, const char *list, const sbx_api_route *success)
{
    for (const char *s = list; s && *s; s += strcspn(s, ",") + (strchr(s, ',') != NULL)) {
        char name[4];

        snprintf(name, sizeof(name), "%.3s", s);
        sbx_jw_obj(w, name);
        sbx_jw_str(w, "description", success ? "success" : "problem");
        if (success)
            success_content(w, success);
        else
            sbx_jw_raw(w, "content",
                       "{\"application/problem+json\":{\"schema\":{\"$ref\":\"#/components/"
                       "schemas/Problem\"}}}");
        sbx_jw_obj_end(w);
    }
}

static void operation(sbx_jw *w, const sbx_api_route *route)
{
    char method[8];
    int i = 0;

    for (; route->method[i] && i < 7; i++)
        method[i] = (char)(route->method[i] | 0x20);
    method[i] = '\0';
    sbx_jw_obj(w, method);
    sbx_jw_str(w, "operationId", route->name);
    sbx_jw_str(w, "summary", route->summary);
    sbx_jw_raw(w, "security", route->scope ? "[{\"bearer\":[]},{\"apiKey\":[]}]" : "[]");
    if (route->scope)
        sbx_jw_str(w, "x-scope", route->scope);
    parameters(w, route);
    if (route->body) {
        sbx_jw_obj(w, "requestBody");
        sbx_jw_obj(w, "content");
        sbx_jw_obj(w, "application/json");
        sbx_jw_obj(w, "schema");
        object_schema(w, route->body);
        sbx_jw_obj_end(w);
        sbx_jw_obj_end(w);
        sbx_jw_obj_end(w);
        sbx_jw_obj_end(w);
    }
    sbx_jw_obj(w, "responses");
    statuses(w, route->success, route);
    statuses(w, route->scope ? "400,401,403,500" : "400,500", NULL);
    if (!strstr(route->success, "503"))
        statuses(w, "503", NULL);
    statuses(w, route->failures, NULL);
    sbx_jw_obj_end(w);
    sbx_jw_obj_end(w);
}

void sbx_api_openapi(sbx_buf *out)
{
    sbx_jw w = SBX_JW(out);

    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "openapi", "3.1.0");
    sbx_jw_obj(&w, "info");
    sbx_jw_str(&w, "title", "sandboxd");
    sbx_jw_str(&w, "version", SBX_VERSION);
    sbx_jw_obj_end(&w);
    sbx_jw_obj(&w, "paths");
    for (size_t i = 0; i < sbx_api_route_count; i++) {
        const char *path = sbx_api_routes[i].path;

        if (i == 0 || strcmp(path, sbx_api_routes[i - 1].path) != 0)
            sbx_jw_obj(&w, path);
        operation(&w, &sbx_api_routes[i]);
        if (i + 1 == sbx_api_route_count || strcmp(path, sbx_api_routes[i + 1].path) != 0)
            sbx_jw_obj_end(&w);
    }
    sbx_jw_obj_end(&w);
    sbx_jw_obj(&w, "components");
    sbx_jw_raw(&w, "securitySchemes",
               "{\"bearer\":{\"type\":\"http\",\"scheme\":\"bearer\"},\"apiKey\":{\"type\":"
               "\"apiKey\",\"in\":\"header\",\"name\":\"X-API-Key\"}}");
    sbx_jw_obj(&w, "schemas");
    for (size_t i = 0; i < ARRAY_LEN(schemas); i++)
        sbx_jw_raw(&w, schemas[i].name, schemas[i].json);
    sbx_jw_obj_end(&w);
    sbx_jw_obj_end(&w);
    sbx_jw_obj_end(&w);
}
