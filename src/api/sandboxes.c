/* Sandboxes: create, list, get, delete. */
#include "handlers.h"

#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include <stdio.h>

static void reply_sandbox(sbx_reply *reply, int status, const sbx_sandbox_row *row)
{
    sbx_buf b = SBX_BUF_INIT(MIB);
    char location[SBX_ID_LEN + 16];
    sbx_header h = {"location", location};

    snprintf(location, sizeof(location), "/sandboxes/%s", row->id);
    sbx_sandbox_json(row, &b);
    sbx_reply_send(reply, status, "application/json", &h, status == 200 ? 0 : 1, &b);
    sbx_buf_done(&b);
}

/* --- create --- */

static void create_over(void *arg, const sbx_sandbox_row *row, const sbx_err *err)
{
    sbx_reply *reply = arg;

    if (err)
        sbx_reply_problem(reply, err);
    else
        reply_sandbox(reply, 201, row);
    sbx_reply_unref(reply);
}

static void client_closed(void *arg)
{
    sbx_create_abandon(arg);
    sbx_create_unref(arg);
}

int api_sandbox_made(sbx_app *app, const sbx_principal *who, const sbx_request *r, const char *id,
                     sbx_err *err)
{
    sbx_sandbox_row row = {0};

    if (sbx_store_sandbox_get(app->store, who->owner, id, &row, err))
        return -1;
    reply_sandbox(r->reply, 201, &row);
    sbx_sandbox_row_done(&row);
    return 0;
}

static int begin(sbx_app *app, const char *owner, const sbx_request *r, sbx_spec *spec,
                 sbx_create **ret, sbx_err *err)
{
    SBX_CLEANUP(sbx_create_unref) sbx_create *c = NULL;
    sbx_err later;

    if (sbx_create_begin(app->sandboxes, owner, api_claimed_id(r), spec, &c, err))
        return -1;
    if (api_claim_begun(r, err)) {
        if (sbx_sandbox_delete(app->sandboxes, owner, sbx_create_row(c)->id, &later))
            sbx_log_err(SBX_WARN, "a create that was given up stays until its deadline", &later,
                        "sandbox", sbx_create_row(c)->id, NULL);
        return -1;
    }
    *ret = sbx_steal(c);
    return 0;
}

/* What is asked for is under way: answer now, or when it is over. */
static void go_on(sbx_reply *reply, sbx_create *c, bool wait)
{
    if (!wait) {
        reply_sandbox(reply, 202, sbx_create_row(c));
        sbx_create_run(c, NULL);
        return;
    }
    sbx_reply_events watch = {.closed = client_closed, .arg = sbx_create_ref(c)};
    sbx_create_waiter waiter = {.cancelled = sbx_reply_cancel_flag(reply),
                                .over = create_over,
                                .arg = sbx_reply_ref(reply)};

    sbx_reply_watch(reply, &watch);
    sbx_create_run(c, &waiter);
}

/* A create that no pool serves, on its way to a thread for what the engine does. */
typedef struct slow_create {
    sbx_app *app;
    sbx_request r; /* the reply alone */
    sbx_spec spec;
    char owner[SBX_ID_LEN + 1];
} slow_create;

static void slow_create_free(slow_create *s)
{
    sbx_spec_done(&s->spec);
    sbx_reply_unref(s->r.reply);
    free(s);
}

static void run_slow(void *arg)
{
    slow_create *s = arg;
    bool wait = s->spec.wait;
    sbx_create *c = NULL;
    sbx_err err = {0};

    if (begin(s->app, s->owner, &s->r, &s->spec, &c, &err))
        sbx_reply_problem(s->r.reply, &err);
    else
        go_on(s->r.reply, c, wait);
    slow_create_free(s);
}

static void refuse_slow(void *arg, const sbx_err *why)
{
    slow_create *s = arg;

    sbx_reply_problem(s->r.reply, why);
    slow_create_free(s);
}

static int submit_slow(sbx_app *app, const sbx_principal *who, const sbx_request *r, sbx_spec *spec,
                       sbx_err *err)
{
    slow_create *s = sbx_alloc(sizeof(*s));
    sbx_job job = {.run = run_slow,
                   .refuse = refuse_slow,
                   .arg = s,
                   .cancelled = sbx_reply_cancel_flag(r->reply),
                   .deadline_ms = r->received_ms + r->route->deadline_ms};

    *s = (slow_create){.app = app, .r.reply = sbx_reply_ref(r->reply), .spec = *spec};
    *spec = (sbx_spec){0};
    sbx_copy(s->owner, sizeof(s->owner), who->owner);
    if (sbx_lanes_submit(app->lanes, SBX_LANE_SLOW, &job, err) == 0)
        return 0;
    slow_create_free(s);
    return -1;
}

HANDLER(api_sandbox_create)
{
    sbx_spec spec = {0};
    sbx_create *c = NULL;
    int rc = sbx_spec_parse(r->body, r->body_len, &spec, err);
    bool wait = spec.wait;

    if (!rc)
        rc = sbx_create_claim(app->sandboxes, who->owner, api_claim(r), &spec, &c, err);
    if (!rc && c) {
        api_claim_named(r, sbx_create_row(c)->id);
        go_on(r->reply, c, wait);
    } else if (!rc) {
        rc = submit_slow(app, who, r, &spec, err);
    }
    sbx_spec_done(&spec);
    return rc;
}

/* --- list --- */

int api_sandbox_filter(const sbx_request *r, sbx_sandbox_filter *f, sbx_buf *metadata, sbx_err *err)
{
    f->metadata = api_list_metadata(r, metadata);
    f->state = sbx_request_query(r, "state");
    f->template_name = sbx_request_query(r, "template");
    f->name = sbx_request_query(r, "name");
    if (f->state && sbx_state_parse(f->state) == SBX_S_COUNT)
        return sbx_fail_field(err, "state", "state: no such state");
    return 0;
}

static void list_json(const sbx_sandbox_list *l, size_t limit, sbx_buf *b)
{
    sbx_jw w = SBX_JW(b);
    size_t n = SBX_MIN(l->count, limit);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf item = SBX_BUF_INIT(MIB);

    sbx_jw_obj(&w, NULL);
    sbx_jw_arr(&w, "items");
    for (size_t i = 0; i < n; i++) {
        sbx_buf_reset(&item);
        sbx_sandbox_json(&l->items[i], &item);
        sbx_jw_raw(&w, NULL, item.data);
    }
    sbx_jw_arr_end(&w);
    api_list_next_cursor(&w, l->count > limit, n ? l->created_us[n - 1] : 0,
                         n ? l->items[n - 1].id : "");
    sbx_jw_obj_end(&w);
}

HANDLER(api_sandbox_list)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf metadata = SBX_BUF_INIT(64 * KIB);
    sbx_sandbox_filter f = {.owner = who->owner};
    sbx_sandbox_list list = {0};
    sbx_buf b = SBX_BUF_INIT(SBX_MAX_RESPONSE_BYTES);
    char cursor[48];
    int limit;

    if (api_sandbox_filter(r, &f, &metadata, err) || api_list_limit(r, &limit, err) ||
        api_list_cursor(r, &f.before_us, &f.before_id, cursor, err))
        return -1;
    f.limit = limit + 1; /* one more tells if there is a next page */
    if (sbx_store_sandbox_list(app->store, &f, &list, err))
        return -1;
    list_json(&list, (size_t)limit, &b);
    sbx_reply_json(r->reply, 200, &b);
    sbx_buf_done(&b);
    sbx_sandbox_list_done(&list);
    return 0;
}

/* --- one --- */

HANDLER(api_sandbox_get)
{
    sbx_sandbox_row row = {0};

    if (sbx_store_sandbox_get(app->store, who->owner, sbx_request_path(r, "id"), &row, err))
        return -1;
    reply_sandbox(r->reply, 200, &row);
    sbx_sandbox_row_done(&row);
    return 0;
}

HANDLER(api_sandbox_patch)
{
    sbx_sandbox_row row = {0};
    sbx_patch patch = {0};
    int rc = sbx_patch_parse(r->body, r->body_len, &patch, err);

    if (!rc)
        rc = sbx_sandbox_patch(app->sandboxes, who->owner, sbx_request_path(r, "id"), &patch, &row,
                               err);
    sbx_patch_done(&patch);
    if (rc)
        return -1;
    reply_sandbox(r->reply, 200, &row);
    sbx_sandbox_row_done(&row);
    return 0;
}

HANDLER(api_sandbox_delete)
{
    sbx_buf empty = SBX_BUF_INIT(1);

    if (sbx_sandbox_delete(app->sandboxes, who->owner, sbx_request_path(r, "id"), err))
        return -1;
    sbx_reply_send(r->reply, 204, NULL, NULL, 0, &empty);
    return 0;
}

/* --- moves --- */

#define MOVE(name, verb)                                                                           \
    HANDLER(name)                                                                                  \
    {                                                                                              \
        return sbx_moves_start(app->moves, verb, who->owner, sbx_request_path(r, "id"), r, err);   \
    }

MOVE(api_sandbox_start, SBX_V_START)
MOVE(api_sandbox_stop, SBX_V_STOP)
MOVE(api_sandbox_restart, SBX_V_RESTART)
MOVE(api_sandbox_pause, SBX_V_PAUSE)
MOVE(api_sandbox_resume, SBX_V_RESUME)
MOVE(api_sandbox_reset, SBX_V_RESET)
MOVE(api_sandbox_keepalive, SBX_V_KEEPALIVE)
