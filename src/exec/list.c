/* GET of commands. The agent tells of those that run and of the last that are over, the records of
 * all that are over, and of those that ran when they were written: a list is both, without what
 * stands in both. */
#include "exec_priv.h"

#include <stdio.h>

#define MAX_ENTRIES 8192 /* taken from one agent */

typedef struct lister {
    sbx_execs *e;
    sbx_reply *reply;
    char owner[SBX_ID_LEN + 1], sandbox[SBX_ID_LEN + 1];
    char id[SBX_ID_LEN + 1]; /* only this one; "": all */
    sbx_use use;
    bool nothing_runs; /* in the sandbox */
    bool asked;        /* the agent, who answered */
    size_t limit;
    int64_t before_ms; /* the cursor; 0: from the newest */
    char before_id[SBX_ID_LEN + 1];
    exec_view *items; /* records, then the agent's */
    size_t count, cap;
} lister;

static void lister_free(lister *l)
{
    for (size_t i = 0; i < l->count; i++)
        sbx_exec_record_done(&l->items[i].r);
    free(l->items);
    sbx_reply_unref(l->reply);
    free(l);
}

static exec_view *add(lister *l)
{
    if (l->count == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 64;
        l->items = sbx_realloc(l->items, l->cap * sizeof(*l->items));
    }
    l->items[l->count] = (exec_view){0};
    return &l->items[l->count++];
}

/* Newest first. */
static int order(const void *a, const void *b)
{
    const sbx_exec_record *x = &((const exec_view *)a)->r, *y = &((const exec_view *)b)->r;

    if (x->started_ms != y->started_ms)
        return x->started_ms < y->started_ms ? 1 : -1;
    return -strcmp(x->id, y->id);
}

/* A command has one time of its start, so what is told twice stands side by side. A record of its
 * end knows more than the agent where the command did not start. */
static void drop_doubles(lister *l)
{
    size_t kept = 0;

    if (l->count)
        qsort(l->items, l->count, sizeof(*l->items), order);
    for (size_t i = 0; i < l->count; i++) {
        exec_view *last = kept ? &l->items[kept - 1] : NULL, *v = &l->items[i];

        if (!last || strcmp(last->r.id, v->r.id) != 0) {
            l->items[kept++] = *v;
            continue;
        }
        bool worse = last->recorded ? last->running : !v->running || !v->recorded;
        exec_view drop = worse ? *last : *v;
        *last = worse ? *v : *last;
        sbx_exec_record_done(&drop.r);
    }
    l->count = kept;
}

/* Nobody told of the end of what ran when its record was written. */
static void find_lost(lister *l)
{
    for (size_t i = 0; i < l->count; i++)
        if (l->items[i].recorded && l->items[i].running && (l->asked || l->nothing_runs))
            exec_view_lost(&l->items[i]);
}

static void answer_list(lister *l)
{
    sbx_buf b = SBX_BUF_INIT(SBX_MAX_RESPONSE_BYTES);
    char cursor[48];
    sbx_jw w = SBX_JW(&b);

    size_t n = SBX_MIN(l->count, l->limit);
    sbx_buf_adds(&b, "{\"items\":[");
    for (size_t i = 0; i < n; i++) {
        sbx_buf_adds(&b, i ? "," : "");
        exec_view_json(&b, &l->items[i]);
    }
    sbx_buf_adds(&b, "],\"nextCursor\":");
    if (n)
        snprintf(cursor, sizeof(cursor), "%lld-%s", (long long)l->items[n - 1].r.started_ms,
                 l->items[n - 1].r.id);
    sbx_jw_str(&w, NULL, l->count > l->limit ? cursor : NULL);
    sbx_buf_addc(&b, '}');
    sbx_reply_json(l->reply, 200, &b);
    sbx_buf_done(&b);
}

static void answer_one(lister *l)
{
    sbx_buf b = SBX_BUF_INIT(MIB);
    sbx_err err;

    if (l->count) {
        exec_view_json(&b, &l->items[0]);
        sbx_reply_json(l->reply, 200, &b);
    } else {
        sbx_fail(&err, SBX_E_NOT_FOUND, "the sandbox has no command %s", l->id);
        sbx_reply_problem(l->reply, &err);
    }
    sbx_buf_done(&b);
}

static void answer(lister *l)
{
    drop_doubles(l);
    find_lost(l);
    if (*l->id)
        answer_one(l);
    else
        answer_list(l);
    lister_free(l);
}

/* --- what the agent tells; STREAM --- */

static bool is_behind_cursor(const lister *l, const sbx_command_entry *e)
{
    if (!l->before_ms || e->started_ms != l->before_ms)
        return !l->before_ms || e->started_ms < l->before_ms;
    return strcmp(e->exec_id, l->before_id) < 0;
}

static void on_entry(void *arg, const sbx_command_entry *e)
{
    lister *l = arg;

    if (l->count < MAX_ENTRIES && is_behind_cursor(l, e))
        exec_view_entry(l->e, add(l), l->sandbox, e);
}

static void on_listed(void *arg, const sbx_err *err)
{
    lister *l = arg;
    sbx_err told;

    if (!err) {
        l->asked = true;
        answer(l);
        return;
    }
    told = *err;
    if (told.code == SBX_E_CONFLICT && strcmp(told.msg, SBX_OLD_AGENT) != 0)
        told.code = SBX_E_CAPACITY; /* no channel here at the moment */
    sbx_reply_problem(l->reply, &told);
    lister_free(l);
}

static const sbx_list_events list_events = {on_entry, on_listed};

static void ask(void *arg)
{
    lister *l = arg;

    sbx_channels_list(l->e->c.channels, l->sandbox, *l->id ? l->id : NULL, &list_events, l);
}

static void cannot_ask(void *arg, const sbx_err *err)
{
    on_listed(arg, err);
}

/* --- records; WORKER --- */

static int read_records(lister *l, sbx_err *err)
{
    sbx_exec_page page = {0};

    if (sbx_store_exec_list(l->e->c.store, l->owner, l->sandbox, l->before_ms, l->before_id,
                            (int)l->limit + 1, &page, err))
        return -1;
    for (size_t i = 0; i < page.count; i++)
        exec_view_record(add(l), &page.items[i]);
    free(page.items);
    return 0;
}

/* @return 1 it is over, and nothing changes it any more; 0 it runs, or there is none; -1. */
static int read_one(lister *l, sbx_err *err)
{
    sbx_exec_record r;

    if (sbx_store_exec_get(l->e->c.store, l->owner, l->sandbox, l->id, &r, err))
        return err->code == SBX_E_NOT_FOUND ? 0 : -1;
    exec_view_record(add(l), &r);
    return !r.running;
}

static int run(lister *l, sbx_err *err)
{
    char state[16];
    int runs = exec_look(l->e, l->owner, l->sandbox, state, err);

    bool deleted = runs < 0 && err->code == SBX_E_GONE;

    if (runs < 0 && !deleted)
        return -1;
    if (deleted) /* records last as long as that of the sandbox: a run's are read then */
        runs = 0;
    l->nothing_runs = deleted || sbx_streq(state, "stopped") || sbx_streq(state, "failed");
    int rc = *l->id ? read_one(l, err) : read_records(l, err);

    if (rc < 0)
        return -1;
    if (rc > 0 || !runs) {
        answer(l);
    } else if (sbx_channels_has(l->e->c.channels, l->sandbox)) {
        ask(l);
    } else { /* it is just being adopted */
        l->use = (sbx_use){.parts = &l->e->parts,
                           .owner = l->owner,
                           .sandbox = l->sandbox,
                           .cancelled = sbx_reply_cancel_flag(l->reply),
                           .reading = true,
                           .ready = ask,
                           .failed = cannot_ask,
                           .arg = l};
        sbx_sandbox_use(&l->use);
    }
    return 0;
}

static lister *lister_new(sbx_execs *e, const char *owner, const char *sandbox,
                          const sbx_request *r)
{
    lister *l = sbx_alloc(sizeof(*l));

    l->e = e;
    l->reply = sbx_reply_ref(r->reply);
    sbx_copy(l->owner, sizeof(l->owner), owner);
    sbx_copy(l->sandbox, sizeof(l->sandbox), sandbox);
    return l;
}

static int start(lister *l, sbx_err *err)
{
    if (run(l, err) == 0)
        return 0;
    lister_free(l);
    return -1;
}

/* A cursor is the time of the last item's start in milliseconds, a dash, and its id. */
static int read_query(lister *l, const sbx_request *r, sbx_err *err)
{
    const char *cursor = sbx_request_query(r, "cursor"), *limit = sbx_request_query(r, "limit");
    char text[48];
    int64_t n = 50;

    if (limit && !sbx_parse_i64(limit, 1, SBX_MAX_LIST_ITEMS, &n))
        return sbx_fail_field(err, "limit", "limit: must be a whole number from 1 to %d",
                              SBX_MAX_LIST_ITEMS);
    l->limit = (size_t)n;
    if (!cursor)
        return 0;
    char *dash = sbx_copy(text, sizeof(text), cursor) ? strchr(text, '-') : NULL;
    if (dash)
        *dash++ = '\0';
    if (!dash || !sbx_id_valid(dash) || !sbx_parse_i64(text, 1, (int64_t)1 << 43, &l->before_ms))
        return sbx_fail_field(err, "cursor", "cursor: use the nextCursor of the page before");
    sbx_copy(l->before_id, sizeof(l->before_id), dash);
    return 0;
}

int sbx_exec_list(sbx_execs *e, const char *owner, const char *sandbox, const sbx_request *r,
                  sbx_err *err)
{
    lister *l = lister_new(e, owner, sandbox, r);

    if (read_query(l, r, err)) {
        lister_free(l);
        return -1;
    }
    return start(l, err);
}

int sbx_exec_get(sbx_execs *e, const sbx_exec_ref *x, const sbx_request *r, sbx_err *err)
{
    lister *l = lister_new(e, x->owner, x->sandbox, r);

    sbx_copy(l->id, sizeof(l->id), x->id);
    return start(l, err);
}
