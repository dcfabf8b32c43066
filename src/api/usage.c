/* What a user may use, has used, and may spend. */
#include "handlers.h"

#include "sbx/store/usage.h"

#define MICROS_AT_MOST (SBX_MAX_QUOTA * 1000000)

/* --- quotas --- */

static void quota_json(sbx_jw *w, const char *name, int64_t limit, int64_t used, int64_t reserved)
{
    sbx_jw_obj(w, name);
    api_limit(w, "limit", limit);
    sbx_jw_int(w, "used", used);
    sbx_jw_int(w, "reserved", reserved);
    sbx_jw_obj_end(w);
}

static void quotas_json(const sbx_quotas *q, sbx_buf *b)
{
    sbx_jw w = SBX_JW(b);

    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "tier", q->tier.name);
    sbx_jw_time(&w, "resetAt", q->reset_ms);
    quota_json(&w, "executions", q->tier.executions, q->runs, q->runs_reserved);
    quota_json(&w, "computeSeconds", q->tier.compute_s, q->running_ms / 1000, 0);
    quota_json(&w, "concurrentSandboxes", q->tier.concurrent, q->sandboxes, q->sandboxes_reserved);
    quota_json(&w, "spendingMicros", q->spending_micros, q->cost_micros, 0);
    api_limit(&w, "longestRunSeconds", q->tier.longest_s);
    sbx_jw_int(&w, "pausedSeconds", q->paused_ms / 1000);
    sbx_jw_bool(&w, "hardStop", q->hard_stop);
    sbx_jw_obj_end(&w);
}

static int reply_quotas(sbx_app *app, const char *owner, const sbx_request *r, sbx_err *err)
{
    sbx_buf b = SBX_BUF_INIT(MIB);
    sbx_quotas q;

    if (sbx_store_quotas_get(app->store, owner, &q, err))
        return -1;
    quotas_json(&q, &b);
    sbx_reply_json(r->reply, 200, &b);
    sbx_buf_done(&b);
    return 0;
}

HANDLER(api_quotas)
{
    return reply_quotas(app, who->owner, r, err);
}

/* --- usage --- */

/* YYYY-MM-DD; whether there is such a day, the database knows. */
static int day_of(const sbx_request *r, const char *name, const char **ret, sbx_err *err)
{
    const char *text = *ret = sbx_request_query(r, name);
    int month = 0, day = 0;

    if (!text)
        return 0;
    for (size_t i = 0; i < 11; i++) {
        bool dash = i == 4 || i == 7;
        bool ok = i == 10 ? !text[i] : dash ? text[i] == '-' : text[i] >= '0' && text[i] <= '9';

        if (!ok)
            return sbx_fail_field(err, name, "%s: must be a day, as 2026-01-31", name);
    }
    month = (text[5] - '0') * 10 + text[6] - '0';
    day = (text[8] - '0') * 10 + text[9] - '0';
    if (month < 1 || month > 12 || day < 1 || day > 31 || !strncmp(text, "0000", 4))
        return sbx_fail_field(err, name, "%s: there is no such day", name);
    return 0;
}

static int usage_filter(const sbx_request *r, sbx_usage_filter *f, sbx_err *err)
{
    static const char *const kinds[] = {"day",      "month",   "sandbox",
                                        "template", "runtime", "package"};
    const char *by = sbx_request_query(r, "by");

    f->by = by ? by : "day";
    f->after = sbx_request_query(r, "cursor");
    f->sandbox = sbx_request_query(r, "sandboxId");
    if (f->sandbox && !sbx_id_valid(f->sandbox))
        return sbx_fail_field(err, "sandboxId", "sandboxId: must be the id of a sandbox");
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (strcmp(kinds[i], f->by) == 0)
            return day_of(r, "from", &f->from, err) || day_of(r, "to", &f->to, err) ||
                           api_list_limit(r, &f->limit, err)
                       ? -1
                       : 0;
    return sbx_fail_field(err, "by",
                          "by: must be one of day, month, sandbox, template, runtime and package");
}

static void item_json(sbx_jw *w, const sbx_usage_item *o, bool of_runs)
{
    sbx_jw_obj(w, NULL);
    sbx_jw_str(w, "key", o->key);
    sbx_jw_int(w, "executions", o->runs);
    sbx_jw_int(w, "computeSeconds", o->running_ms / 1000);
    sbx_jw_int(w, "pausedSeconds", o->paused_ms / 1000);
    if (of_runs)
        sbx_jw_null(w, "costMicros");
    else
        sbx_jw_int(w, "costMicros", o->cost_micros);
    sbx_jw_obj_end(w);
}

HANDLER(api_usage)
{
    sbx_usage_filter f = {.owner = who->owner};
    sbx_buf b = SBX_BUF_INIT(MIB);
    sbx_jw w = SBX_JW(&b);

    if (usage_filter(r, &f, err))
        return -1;
    bool of_runs = strcmp(f.by, "runtime") == 0 || strcmp(f.by, "package") == 0;
    int limit = f.limit++;
    sbx_usage_item *items = sbx_alloc((size_t)f.limit * sizeof(*items));
    int count = sbx_store_usage_list(app->store, &f, items, err);

    if (count >= 0) {
        sbx_jw_obj(&w, NULL);
        sbx_jw_arr(&w, "items");
        for (int i = 0; i < SBX_MIN(count, limit); i++)
            item_json(&w, &items[i], of_runs);
        sbx_jw_arr_end(&w);
        sbx_jw_str(&w, "nextCursor", count > limit ? items[limit - 1].key : NULL);
        sbx_jw_obj_end(&w);
        sbx_reply_json(r->reply, 200, &b);
    }
    sbx_buf_done(&b);
    free(items);
    return count < 0 ? -1 : 0;
}

/* --- spending --- */

typedef struct spending {
    int64_t micros;
    bool given, hard_stop;
} spending;

const sbx_json_field api_spending_fields[] = {
    {"limitMicros", SBX_JF_I64, offsetof(spending, micros), offsetof(spending, given),
     .required = true, .nullable = true, .max = MICROS_AT_MOST,
     .doc = "in a calendar month (UTC), in millionths of the currency; null: no limit"},
    {"hardStop", SBX_JF_BOOL, offsetof(spending, hard_stop),
     .doc = "beyond it nothing is created, started or resumed, and what runs is stopped"},
    {.name = NULL},
};

HANDLER(api_spending_set)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    const char *user = sbx_request_path(r, "id");
    spending s = {0};

    (void)who;
    if (api_read_json(r, &root, err) || sbx_json_decode(root, api_spending_fields, &s, err))
        return -1;
    if (sbx_json_kind(sbx_json_get(root, "limitMicros")) == SBX_J_NULL)
        s.micros = SBX_NO_LIMIT;
    if (sbx_store_spending_set(app->store, user, s.micros, s.hard_stop, err))
        return -1;
    return reply_quotas(app, user, r, err);
}
