/* The audit log: which requests are recorded, and as what; and reading it.
 *
 * Recorded are requests that change something, with whatever result, and refusals: of a credential,
 * of a right, of a limit. Of reads those of other users' objects by administrators, and those of
 * routes that say so. Only ids, names of routes and codes get in: no text of a client does. */
#include "handlers.h"

#include "sbx/core/clock.h"
#include "sbx/core/thread.h"

typedef struct note {
    sbx_app *app;
    const sbx_api_route *route;
    sbx_audit_entry e;
} note;

static bool changes(const sbx_api_route *route)
{
    const char *verb = route->scope ? strchr(route->scope, ':') : NULL;

    return strcmp(route->method, "GET") != 0 || sbx_streq(verb, ":write");
}

/* Whatever a client writes into a path is no name of anything until it looks like one. */
static void copy_name(char *out, size_t cap, const char *text)
{
    size_t len = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-");

    if (!text[len] && (len == SBX_ID_LEN ? sbx_id_valid(text) : len < SBX_ID_LEN))
        sbx_copy(out, cap, text);
}

static void describe(const sbx_api_route *route, const sbx_request *r, const sbx_principal *who,
                     sbx_audit_entry *e)
{
    *e = (sbx_audit_entry){.method = route->method, .action = route->name};
    sbx_copy(e->request_id, sizeof(e->request_id), r->request_id);
    sbx_copy(e->address, sizeof(e->address), r->client);
    if (who) {
        sbx_copy(e->user, sizeof(e->user), who->user);
        sbx_copy(e->key, sizeof(e->key), who->key);
    }
    if (r->path_count > 0)
        copy_name(e->object, sizeof(e->object), r->path[0].value);
    if (r->path_count > 1 && sbx_id_valid(r->path[1].value))
        sbx_copy(e->part, sizeof(e->part), r->path[1].value);
}

/* The ids in "/sandboxes/ID/execs/ID"; what is new is the object, or within the one of the path. */
static void read_location(const char *location, sbx_audit_entry *e)
{
    while (location && *location) {
        size_t len = strcspn(location, "/");
        char segment[SBX_ID_LEN + 1];

        if (len == SBX_ID_LEN) {
            memcpy(segment, location, len);
            segment[len] = '\0';
            if (sbx_id_valid(segment) && strcmp(segment, e->object) != 0)
                sbx_copy(e->object[0] ? e->part : e->object, sizeof(segment), segment);
        }
        location += len + (location[len] == '/');
    }
}

static bool is_refusal(sbx_code code)
{
    return code == SBX_E_UNAUTHORIZED || code == SBX_E_FORBIDDEN || code == SBX_E_RATE_LIMITED ||
           code == SBX_E_QUOTA;
}

static void answered(void *arg, const sbx_answered *a)
{
    note *n = arg;
    sbx_audit_entry *e = &n->e;

    if (a && (a->status < 400 || !e->foreign_only || is_refusal(a->code))) {
        e->status = a->status;
        e->code = a->code;
        read_location(a->location, e);
        if (a->object[0])
            sbx_copy(e->object, sizeof(e->object), a->object);
        if (a->part[0])
            sbx_copy(e->part, sizeof(e->part), a->part);
        if ((n->route->audit & SBX_AUDIT_NOW) && sbx_thread_role() == SBX_T_WORKER)
            sbx_audit_write(n->app->audit, e);
        else
            sbx_audit_add(n->app->audit, e);
    }
    free(n);
}

/* Does a read of this kind, by whoever asks, belong into the log? */
static bool read_counts(const sbx_api_route *route, const sbx_request *r, const sbx_principal *who,
                        sbx_audit_entry *e)
{
    const char *owner = sbx_request_query(r, "owner");

    if (route->audit & SBX_AUDIT_READS)
        return true;
    if (!who->admin)
        return false;
    if (owner && strcmp(owner, who->user) != 0) {
        copy_name(e->object, sizeof(e->object), owner);
        return true;
    }
    e->foreign_only = true; /* whose it is, is looked up when the entry is written */
    return sbx_id_valid(e->object);
}

bool api_audit_begin(sbx_app *app, const sbx_api_route *route, const sbx_request *r,
                     const sbx_principal *who)
{
    bool change = changes(route);

    if (!change && !who->admin && !(route->audit & SBX_AUDIT_READS))
        return false;
    note *n = sbx_alloc(sizeof(*n));
    n->app = app;
    n->route = route;
    describe(route, r, who, &n->e);
    if (!change && !read_counts(route, r, who, &n->e)) {
        free(n);
        return false;
    }
    if (!sbx_reply_on_answer(r->reply, answered, n))
        free(n);
    return true;
}

int api_audit_refused(sbx_app *app, const sbx_api_route *route, const sbx_request *r,
                      const sbx_principal *who, const sbx_err *err)
{
    sbx_audit_entry e;

    if (is_refusal(err->code)) {
        describe(route, r, who, &e);
        e.status = sbx_code_status(err->code);
        e.code = err->code;
        sbx_audit_add(app->audit, &e);
    }
    return -1;
}

/* --- reading --- */

static const struct {
    const char *name;
    int min, max;
} results[] = {{"success", 0, 399}, {"refused", 400, 499}, {"failed", 500, 599}};

static int read_time(const sbx_request *r, const char *name, int64_t *ret, sbx_err *err)
{
    const char *text = sbx_request_query(r, name);

    if (text && !sbx_time_parse(text, ret))
        return sbx_fail_field(err, name, "%s: must be a time such as 2026-01-31T10:20:30Z", name);
    return 0;
}

static int read_id(const sbx_request *r, const char *name, const char **ret, sbx_err *err)
{
    const char *text = sbx_request_query(r, name);

    if (text && !sbx_id_valid(text))
        return sbx_fail_field(err, name, "%s: must be an id", name);
    *ret = text;
    return 0;
}

static int read_result(const sbx_request *r, sbx_audit_filter *f, sbx_err *err)
{
    const char *text = sbx_request_query(r, "result");

    for (size_t i = 0; text && i < ARRAY_LEN(results); i++)
        if (strcmp(results[i].name, text) == 0) {
            f->status_min = SBX_MAX(results[i].min, 1);
            f->status_max = results[i].max;
            return 0;
        }
    return text ? sbx_fail_field(err, "result", "result: must be success, refused or failed") : 0;
}

static void write_row(sbx_jw *w, const sbx_audit_row *row)
{
    sbx_jw_obj(w, NULL);
    sbx_jw_str(w, "id", row->id);
    sbx_jw_time(w, "at", row->at_us / 1000);
    sbx_jw_str(w, "requestId", row->request_id);
    sbx_jw_str(w, "userId", row->user);
    sbx_jw_str(w, "userName", row->user_name);
    sbx_jw_str(w, "keyId", row->key);
    sbx_jw_str(w, "address", row->address);
    sbx_jw_str(w, "method", row->method);
    sbx_jw_str(w, "action", row->action);
    sbx_jw_str(w, "object", row->object);
    sbx_jw_str(w, "part", row->part);
    if (row->status)
        sbx_jw_int(w, "status", row->status);
    else
        sbx_jw_null(w, "status");
    sbx_jw_str(w, "code", row->code);
    sbx_jw_int(w, "count", row->count);
    sbx_jw_obj_end(w);
}

static void write_page(sbx_buf *b, const sbx_audit_page *p, size_t limit)
{
    sbx_jw w = SBX_JW(b);
    size_t n = SBX_MIN(p->count, limit);

    sbx_jw_obj(&w, NULL);
    sbx_jw_arr(&w, "items");
    for (size_t i = 0; i < n; i++)
        write_row(&w, &p->items[i]);
    sbx_jw_arr_end(&w);
    api_list_next_cursor(&w, p->count > limit, n ? p->items[n - 1].at_us : 0,
                         n ? p->items[n - 1].id : "");
    sbx_jw_obj_end(&w);
}

HANDLER(api_audit_list)
{
    SBX_CLEANUP_VAL(sbx_audit_page_done) sbx_audit_page page = {0};
    sbx_audit_filter f = {.action = sbx_request_query(r, "action"),
                          .object = sbx_request_query(r, "object")};
    sbx_buf b = SBX_BUF_INIT(SBX_MAX_RESPONSE_BYTES);
    char cursor[48];
    int limit;

    (void)who;
    if (read_id(r, "user", &f.user, err) || read_id(r, "key", &f.key, err) ||
        read_time(r, "since", &f.since_ms, err) || read_time(r, "until", &f.until_ms, err) ||
        read_result(r, &f, err) || api_list_limit(r, &limit, err) ||
        api_list_cursor(r, &f.before_us, &f.before_id, cursor, err))
        return -1;
    f.limit = limit + 1; /* one more tells if there is a next page */
    if (sbx_store_audit_list(app->store, &f, &page, err))
        return -1;
    write_page(&b, &page, (size_t)limit);
    sbx_reply_json(r->reply, 200, &b);
    sbx_buf_done(&b);
    return 0;
}
