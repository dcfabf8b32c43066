/* The page that people read: the guide, every operation, every schema. Made once from the same
 * tables as the API document; plain HTML without scripts, so nothing is loaded and the policy can
 * refuse all but the one style sheet, which is named by its hash. */
#include "contract.h"

#include "guide.h"
#include "markdown.h"
#include "sbx/core/crypt.h"
#include <stdio.h>

static const char style[] =
    ":root{color-scheme:light dark;--fg:#1d2330;--soft:#5b6475;--bg:#fff;--box:#f4f6f9;"
    "--line:#dde2ea;--link:#0b5fd0;--get:#0a7a3d;--post:#0b5fd0;--other:#9a5b00;--delete:#b3261e}"
    "@media(prefers-color-scheme:dark){:root{--fg:#dfe4ee;--soft:#98a2b5;--bg:#12151c;"
    "--box:#1b202a;--line:#2d3442;--link:#7ab1ff;--get:#5fd394;--post:#7ab1ff;--other:#e5b25d;"
    "--delete:#ff8a80}}"
    "*{box-sizing:border-box}html{scroll-padding-top:1rem}"
    "body{margin:0;font:16px/1.55 system-ui,sans-serif;color:var(--fg);background:var(--bg);"
    "display:grid;grid-template-columns:17rem minmax(0,1fr)}"
    "nav{position:sticky;top:0;height:100vh;overflow:auto;padding:1rem;font-size:.875rem;"
    "border-right:1px solid var(--line)}nav strong{display:block;margin-top:1rem}"
    "nav a{display:block;padding:.1rem 0;color:inherit;text-decoration:none;"
    "overflow-wrap:anywhere}nav a:hover{color:var(--link);text-decoration:underline}"
    "main{padding:1.5rem 2.5rem 6rem;max-width:62rem}"
    "h1{margin:0 0 .5rem}h2{margin-top:3rem;padding-bottom:.3rem;"
    "border-bottom:1px solid var(--line)}h3{margin:2.5rem 0 .5rem;font-size:1.1rem}"
    "h4{margin:1.2rem 0 .3rem;font-size:.8rem;text-transform:uppercase;letter-spacing:.05em;"
    "color:var(--soft)}a{color:var(--link)}h3 a{color:inherit;text-decoration:none}"
    "code{font:.875em ui-monospace,monospace;background:var(--box);padding:.1em .3em;"
    "border-radius:4px}pre{background:var(--box);border:1px solid var(--line);border-radius:6px;"
    "padding:.8rem 1rem;overflow:auto}pre code{background:none;padding:0}"
    "table{border-collapse:collapse;width:100%;font-size:.9rem;display:block;overflow-x:auto}"
    "th,td{text-align:left;vertical-align:top;padding:.35rem .7rem .35rem 0;"
    "border-bottom:1px solid var(--line)}th{color:var(--soft);font-weight:600}"
    ".m{font:700 .8rem ui-monospace,monospace;color:var(--other)}.GET{color:var(--get)}"
    ".POST{color:var(--post)}.DELETE{color:var(--delete)}.soft{color:var(--soft)}"
    "@media(max-width:50rem){body{display:block}nav{position:static;height:auto;"
    "max-height:14rem;border:0;border-bottom:1px solid var(--line)}main{padding:1rem}}"
    "@media print{nav{display:none}body{display:block}}";

static void text(sbx_buf *b, const char *s)
{
    api_html_text(b, s, strlen(s));
}

static void rich(sbx_buf *b, const char *s)
{
    api_html_inline(b, s, strlen(s));
}

/* --- types --- */

static void range(sbx_buf *b, int64_t min, int64_t max, int scale, const char *unit)
{
    if (!min && !max)
        return;
    if (max == INT64_MAX)
        sbx_buf_addf(b, ", at least %lld", (long long)min);
    else if (scale != 1)
        sbx_buf_addf(b, ", %.15g to %.15g%s", (double)min / scale, (double)max / scale, unit);
    else
        sbx_buf_addf(b, ", %lld to %lld%s", (long long)min, (long long)max, unit);
}

static void named_values(sbx_buf *b, const char *list)
{
    const char *item;
    size_t len;

    while (api_list_next(&list, &item, &len))
        sbx_buf_addf(b, "<code>%.*s</code> ", (int)len, item);
}

static void request_type(sbx_buf *b, const sbx_json_field *f)
{
    switch (f->type) {
    case SBX_JF_STR:
        sbx_buf_adds(b, "string");
        range(b, f->min, f->max, 1, " bytes");
        break;
    case SBX_JF_BOOL:
        sbx_buf_adds(b, "boolean");
        break;
    case SBX_JF_I64:
        sbx_buf_adds(b, "integer");
        range(b, f->min, f->max, 1, "");
        break;
    case SBX_JF_MILLI:
        sbx_buf_adds(b, "number");
        range(b, f->min, f->max, 1000, "");
        break;
    case SBX_JF_ENUM:
        for (size_t i = 0; f->values[i]; i++)
            sbx_buf_addf(b, "%s<code>%s</code>", i ? " " : "", f->values[i]);
        break;
    case SBX_JF_STRS:
        sbx_buf_addf(b, "list of at most %lld strings", (long long)f->max);
        break;
    case SBX_JF_PAIRS:
        sbx_buf_addf(b, "object of at most %lld strings%s", (long long)f->max,
                     f->nullable_each ? " or nulls" : "");
        break;
    case SBX_JF_CMD:
        sbx_buf_addf(b, "string, or list of %lld to %lld strings", (long long)f->min,
                     (long long)f->max);
        break;
    case SBX_JF_KEPT_LIST:
        sbx_buf_addf(b, "list of %lld to %lld objects", (long long)f->min, (long long)f->max);
        break;
    case SBX_JF_JSON:
    case SBX_JF_KEPT:
    case SBX_JF_OBJ:
        sbx_buf_adds(b, "object");
        break;
    case SBX_JF_REFUSED:
        break;
    }
    if (f->one_of) {
        sbx_buf_adds(b, " with exactly one of ");
        named_values(b, f->one_of);
    }
    if (f->nullable)
        sbx_buf_adds(b, ", or null");
}

static void request_default(sbx_buf *b, const sbx_json_field *f)
{
    if (f->required)
        sbx_buf_adds(b, ", <strong>required</strong>");
    else if (f->type == SBX_JF_BOOL)
        sbx_buf_addf(b, ", default %s", f->dflt ? "true" : "false");
    else if (f->dflt_text)
        sbx_buf_addf(b, ", default <code>%s</code>", f->dflt_text);
    else if (f->dflt && f->type == SBX_JF_I64)
        sbx_buf_addf(b, ", default %lld", (long long)f->dflt);
}

static void schema_link(sbx_buf *b, const char *name, size_t len)
{
    sbx_buf_addf(b, "<a href=\"#schema-%.*s\">%.*s</a>", (int)len, name, (int)len, name);
}

static void answer_type(sbx_buf *b, const api_field *f)
{
    static const char *const words[] = {
        [T_STR] = "string",
        [T_INT] = "integer",
        [T_NUM] = "number",
        [T_BOOL] = "boolean",
        [T_TIME] = "time",
        [T_ID] = "id",
        [T_STATE] = "<a href=\"#lifecycle\">state</a>",
        [T_CODE] = "<a href=\"#errors\">code</a>",
        [T_STRS] = "list of strings",
        [T_MAP] = "object of strings",
    };

    if (f->type == T_ENUM) {
        named_values(b, f->of);
    } else if (f->type == T_CONST) {
        sbx_buf_addf(b, "<code>%s</code>", f->of);
    } else if (f->type == T_ONE_OF) {
        const char *list = f->of, *item;
        size_t len;

        sbx_buf_adds(b, "list of ");
        for (const char * or = ""; api_list_next(&list, &item, &len); or = " or ") {
            sbx_buf_adds(b, or);
            schema_link(b, item, len);
        }
    } else if (f->type == T_REF || f->type == T_LIST) {
        sbx_buf_adds(b, f->type == T_LIST ? "list of " : "");
        schema_link(b, f->of, strlen(f->of));
    } else if (f->type == T_REQUEST) {
        const sbx_json_field *source = api_request_field(f->of);

        if (source)
            request_type(b, source);
    } else {
        sbx_buf_adds(b, words[f->type]);
        range(b, f->min, f->max, 1, f->type == T_STR ? " bytes" : "");
    }
    if (f->dflt)
        sbx_buf_addf(b, ", default %s", f->dflt);
    if (f->flags & NULLABLE)
        sbx_buf_adds(b, ", or null");
    if (f->flags & OPTIONAL)
        sbx_buf_adds(b, ", may be absent");
    if (f->flags & REQUIRED)
        sbx_buf_adds(b, ", <strong>required</strong>");
}

/* --- tables --- */

static void table_head(sbx_buf *b, const char *title, const char *first)
{
    sbx_buf_addf(b, "<h4>%s</h4>\n<table><tr><th>%s</th><th>type</th><th>what</th></tr>\n", title,
                 first);
}

static void request_rows(sbx_buf *b, const sbx_json_field *fields, const char *prefix)
{
    for (const sbx_json_field *f = fields; f->name; f++) {
        char path[96];

        if (f->type == SBX_JF_REFUSED)
            continue;
        snprintf(path, sizeof(path), "%s%s", prefix, f->name);
        sbx_buf_addf(b, "<tr><td><code>%s</code></td><td>", path);
        request_type(b, f);
        request_default(b, f);
        sbx_buf_adds(b, "</td><td>");
        rich(b, f->doc ? f->doc : "");
        sbx_buf_adds(b, "</td></tr>\n");
        if (f->type == SBX_JF_OBJ) {
            snprintf(path, sizeof(path), "%s%s.", prefix, f->name);
            request_rows(b, f->sub, path);
        }
    }
}

static void answer_row(sbx_buf *b, const api_field *f)
{
    sbx_buf_addf(b, "<tr><td><code>%s</code></td><td>", f->name);
    answer_type(b, f);
    sbx_buf_adds(b, "</td><td>");
    rich(b, f->doc);
    sbx_buf_adds(b, "</td></tr>\n");
}

static void parameters(sbx_buf *b, const sbx_api_route *route)
{
    const char *list = route->query, *item;
    size_t len;

    if (!strchr(route->path, '{') && !list)
        return;
    table_head(b, "Parameters", "name");
    for (const char *p = route->path; (p = strchr(p, '{')); p++) {
        const api_field *f = api_param_find(route, p + 1, strcspn(p + 1, "}"));

        if (f)
            answer_row(b, f);
    }
    while (api_list_next(&list, &item, &len)) {
        const api_field *f = api_param_find(route, item, len);

        if (f)
            answer_row(b, f);
    }
    sbx_buf_adds(b, "</table>\n");
}

static void messages(sbx_buf *b, const char *title, const char *list)
{
    const char *item;
    size_t len;

    if (!list)
        return;
    sbx_buf_addf(b, "<p>%s: ", title);
    for (const char *comma = ""; api_list_next(&list, &item, &len); comma = ", ") {
        const char *colon = memchr(item, ':', len);
        const char *schema = colon ? colon + 1 : item;

        sbx_buf_adds(b, comma);
        if (colon)
            sbx_buf_addf(b, "event <code>%.*s</code> with ", (int)(colon - item), item);
        schema_link(b, schema, len - (size_t)(schema - item));
    }
    sbx_buf_adds(b, ".</p>\n");
}

static void failures(sbx_buf *b, const sbx_api_route *route)
{
    int statuses[API_MAX_STATUSES];
    size_t count = api_failures(route, statuses);
    const char *comma = "";

    sbx_buf_adds(b, "<p class=\"soft\"><a href=\"#errors\">Problems</a>: ");
    for (size_t i = 0; i < count; i++)
        for (int c = SBX_OK + 1; c < SBX_E_COUNT; c++)
            if (sbx_code_status((sbx_code)c) == statuses[i]) {
                sbx_buf_addf(b, "%s%d&nbsp;%s", comma, statuses[i], sbx_code_wire((sbx_code)c));
                comma = ", ";
            }
    sbx_buf_adds(b, ".</p>\n");
}

static void answers(sbx_buf *b, const sbx_api_route *route)
{
    const char *list = route->success, *item;
    size_t len;

    sbx_buf_adds(b, "<h4>Answers</h4>\n<p>");
    if (!list)
        sbx_buf_adds(b, "<strong>101</strong>");
    for (const char *comma = ""; api_list_next(&list, &item, &len); comma = ", ") {
        size_t schema_len = 0;
        const char *schema = api_response_of(route, api_status(item), &schema_len);

        sbx_buf_addf(b, "%s<strong>%.*s</strong>", comma, (int)len, item);
        if (schema && api_schema_find(schema, schema_len)) {
            sbx_buf_adds(b, " with ");
            schema_link(b, schema, schema_len);
        } else if (schema) {
            sbx_buf_addf(b, " as <code>%s</code>",
                         route->produces ? route->produces : "application/json");
        }
    }
    sbx_buf_adds(b, ".</p>\n");
    messages(b, "With <code>Accept: text/event-stream</code>, server-sent events", route->sse);
    messages(b, "As a WebSocket, frames", route->ws);
    failures(b, route);
}

/* The path with its parameters as variables of the shell: {execId} -> $EXECID. */
static void example_path(sbx_buf *b, const char *path)
{
    bool within = false;

    for (; *path; path++) {
        if (*path == '{' || *path == '}') {
            within = *path == '{';
            sbx_buf_adds(b, within ? "$" : "");
        } else {
            sbx_buf_addc(b, within && *path >= 'a' && *path <= 'z' ? (char)(*path - 32) : *path);
        }
    }
}

static void example(sbx_buf *b, const sbx_api_route *route)
{
    bool implied =
        strcmp(route->method, "GET") == 0 || (strcmp(route->method, "POST") == 0 && route->body);

    sbx_buf_adds(b, "<pre><code>curl -s");
    if (!implied)
        sbx_buf_addf(b, " -X %s", route->method);
    sbx_buf_adds(b, " $URL");
    example_path(b, route->path);
    if (route->scope)
        sbx_buf_adds(b, " -H &quot;$AUTH&quot;");
    if (route->body) {
        sbx_buf_adds(b, " -H &quot;$JSON&quot; -d '");
        text(b, route->example ? route->example : "{}");
        sbx_buf_addc(b, '\'');
    }
    sbx_buf_adds(b, "</code></pre>\n");
}

static void operation(sbx_buf *b, const sbx_api_route *route)
{
    sbx_buf_addf(b,
                 "<section><h3 id=\"%s\"><a href=\"#%s\"><span class=\"m %s\">%s</span> "
                 "<code>%s</code></a></h3>\n<p><strong>%s%s</strong> ",
                 route->name, route->name, route->method, route->method, route->path,
                 route->summary, route->summary[strlen(route->summary) - 1] == '?' ? "" : ".");
    if (route->doc)
        rich(b, route->doc);
    sbx_buf_adds(b, "</p>\n");
    if (route->scope)
        sbx_buf_addf(b, "<p class=\"soft\">Scope <code>%s</code></p>\n", route->scope);
    else
        sbx_buf_adds(b, "<p class=\"soft\">No API key needed</p>\n");
    example(b, route);
    parameters(b, route);
    if (route->body && route->body->name) {
        table_head(b, "Body", "field");
        request_rows(b, route->body, "");
        sbx_buf_adds(b, "</table>\n");
    }
    answers(b, route);
    sbx_buf_adds(b, "</section>\n");
}

static bool about_service(size_t at)
{
    return strcmp(sbx_api_routes[at].tag, "Service") == 0;
}

static bool first_of_tag(size_t at)
{
    for (size_t i = 0; i < at; i++)
        if (strcmp(sbx_api_routes[i].tag, sbx_api_routes[at].tag) == 0)
            return false;
    return true;
}

static void operations_of(sbx_buf *b, size_t first, bool as_links)
{
    const char *tag = sbx_api_routes[first].tag;

    if (as_links)
        sbx_buf_addf(b, "<strong>%s</strong>\n", tag);
    else
        sbx_buf_addf(b, "<h2 id=\"tag-%s\">%s</h2>\n", tag, tag);
    for (size_t i = first; i < sbx_api_route_count; i++) {
        const sbx_api_route *route = &sbx_api_routes[i];

        if (strcmp(route->tag, tag) != 0)
            continue;
        if (as_links)
            sbx_buf_addf(b, "<a href=\"#%s\"><span class=\"m %s\">%s</span> %s</a>\n", route->name,
                         route->method, route->method, route->path);
        else
            operation(b, route);
    }
}

/* By tags, in the order in which these appear, the service itself last: links or in full. */
static void operations(sbx_buf *b, bool as_links)
{
    for (int service = 0; service < 2; service++)
        for (size_t i = 0; i < sbx_api_route_count; i++)
            if (first_of_tag(i) && about_service(i) == (service == 1))
                operations_of(b, i, as_links);
}

static void schemas(sbx_buf *b)
{
    sbx_buf_adds(b, "<h2 id=\"schemas\">Schemas</h2>\n");
    for (size_t i = 0; i < api_schema_count; i++) {
        const api_schema *s = &api_schemas[i];

        sbx_buf_addf(b, "<h3 id=\"schema-%s\"><a href=\"#schema-%s\">%s</a></h3>\n<p>", s->name,
                     s->name, s->name);
        rich(b, s->doc);
        sbx_buf_adds(b, "</p>\n");
        if (!s->fields->name)
            continue;
        sbx_buf_adds(b, "<table><tr><th>field</th><th>type</th><th>what</th></tr>\n");
        for (const api_field *f = s->fields; f->name; f++)
            answer_row(b, f);
        sbx_buf_adds(b, "</table>\n");
    }
}

static void guide_links(sbx_buf *b, const char *guide)
{
    for (const char *p = strstr(guide, "## "); p; p = strstr(p + 1, "\n## ")) {
        const char *title = p + (*p == '\n' ? 4 : 3);
        size_t len = strcspn(title, "\n");

        sbx_buf_adds(b, "<a href=\"#");
        api_html_slug(b, title, len);
        sbx_buf_adds(b, "\">");
        api_html_text(b, title, len);
        sbx_buf_adds(b, "</a>\n");
    }
}

void sbx_api_docs(sbx_buf *out)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf guide = SBX_BUF_INIT(256 * KIB);

    api_guide(&guide);
    sbx_buf_adds(out, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
                      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
                      "<title>sandboxd API</title>\n<style>");
    sbx_buf_adds(out, style);
    sbx_buf_adds(out, "</style></head>\n<body><nav aria-label=\"Contents\">\n"
                      "<a href=\"#top\"><strong>sandboxd API</strong></a>\n"
                      "<strong>Guide</strong>\n");
    guide_links(out, guide.data);
    operations(out, true);
    sbx_buf_adds(out,
                 "<strong>Reference</strong>\n<a href=\"#schemas\">Schemas</a>\n"
                 "<a href=\"openapi.json\">openapi.json</a>\n</nav>\n<main id=\"top\">\n"
                 "<h1>sandboxd API</h1>\n<p class=\"soft\">Version " SBX_VERSION
                 ". The same as OpenAPI 3.1: <a href=\"openapi.json\">openapi.json</a>.</p>\n");
    api_html_markdown(out, guide.data);
    operations(out, false);
    schemas(out);
    sbx_buf_adds(out, "</main></body></html>\n");
}

void sbx_api_docs_policy(sbx_buf *out)
{
    unsigned char hash[SBX_HASH_BYTES];

    sbx_sha256(style, sizeof(style) - 1, hash);
    sbx_buf_adds(out, "default-src 'none'; base-uri 'none'; form-action 'none'; "
                      "frame-ancestors 'none'; style-src 'sha256-");
    sbx_base64_add(out, hash, sizeof(hash));
    sbx_buf_adds(out, "'");
}
