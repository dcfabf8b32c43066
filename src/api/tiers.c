/* Tiers and prices: everybody reads them, administrators change them. */
#include "handlers.h"

#include "sbx/store/tiers.h"

#define MAX_TIERS  64
#define MAX_PRICES 16
#define END_OF_FIELDS                                                                              \
    {                                                                                              \
        .name = NULL                                                                               \
    }

#define TIER(member) offsetof(sbx_tier_change, to.member), offsetof(sbx_tier_change, member)
#define LIMIT        .nullable = true, .max = SBX_MAX_QUOTA

const sbx_json_field api_tier_fields[] = {
    {"executions", SBX_JF_I64, TIER(executions), LIMIT,
     .doc = "runs of code in a calendar month (UTC); null: no limit"},
    {"computeSeconds", SBX_JF_I64, TIER(compute_s), LIMIT,
     .doc = "time of running sandboxes in such a month, added up; null: no limit"},
    {"longestRunSeconds", SBX_JF_I64, TIER(longest_s), .min = 1, LIMIT,
     .doc = "how long a sandbox runs at a stretch; null: no limit"},
    {"concurrentSandboxes", SBX_JF_I64, TIER(concurrent), LIMIT,
     .doc = "sandboxes at once, also paused ones; null: no limit"},
    END_OF_FIELDS,
};

typedef struct price_body {
    int64_t micros, paused_micros;
    bool micros_given, paused_given;
} price_body;

#define PRICE(member) offsetof(price_body, member)
#define MICROS        .max = SBX_MAX_PRICE

const sbx_json_field api_price_fields[] = {
    {"microsPerHour", SBX_JF_I64, PRICE(micros), PRICE(micros_given), MICROS,
     .doc = "of a running sandbox, in millionths of the currency"},
    {"pausedMicrosPerHour", SBX_JF_I64, PRICE(paused_micros), PRICE(paused_given), MICROS,
     .doc = "of a paused sandbox, in millionths of the currency"},
    END_OF_FIELDS,
};

int api_read_json(const sbx_request *r, sbx_json **ret, sbx_err *err)
{
    return sbx_json_parse(r->body_len ? r->body : "{}", r->body_len ? r->body_len : 2, ret, err);
}

static int reply_one(const sbx_request *r, void (*write)(sbx_jw *w, const void *item),
                     const void *item)
{
    sbx_buf b = SBX_BUF_INIT(MIB);
    sbx_jw w = SBX_JW(&b);

    write(&w, item);
    sbx_reply_json(r->reply, 200, &b);
    sbx_buf_done(&b);
    return 0;
}

/* @param count  of the items; -1: reading them failed. */
static int reply_list(const sbx_request *r, void (*write)(sbx_jw *w, const void *item),
                      const void *items, size_t size, int count)
{
    sbx_buf b = SBX_BUF_INIT(MIB);
    sbx_jw w = SBX_JW(&b);

    if (count < 0)
        return -1;
    sbx_jw_obj(&w, NULL);
    sbx_jw_arr(&w, "items");
    for (int i = 0; i < count; i++)
        write(&w, (const char *)items + (size_t)i * size);
    sbx_jw_arr_end(&w);
    sbx_jw_obj_end(&w);
    sbx_reply_json(r->reply, 200, &b);
    sbx_buf_done(&b);
    return 0;
}

/* --- tiers --- */

void api_limit(sbx_jw *w, const char *name, int64_t limit)
{
    if (limit == SBX_NO_LIMIT)
        sbx_jw_null(w, name);
    else
        sbx_jw_int(w, name, limit);
}

/* Numbers have no value that says null. */
static int read_change(const sbx_request *r, sbx_tier_change *ret, sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;

    if (api_read_json(r, &root, err) || sbx_json_decode(root, api_tier_fields, ret, err))
        return -1;
    for (const sbx_json_field *f = api_tier_fields; f->name; f++) {
        const sbx_json *v = sbx_json_get(root, f->name);

        if (v && sbx_json_kind(v) == SBX_J_NULL)
            *(int64_t *)((char *)ret + f->offset) = SBX_NO_LIMIT;
    }
    return 0;
}

static void tier_json(sbx_jw *w, const void *item)
{
    const sbx_tier *t = item;

    sbx_jw_obj(w, NULL);
    sbx_jw_str(w, "name", t->name);
    api_limit(w, "executions", t->executions);
    api_limit(w, "computeSeconds", t->compute_s);
    api_limit(w, "longestRunSeconds", t->longest_s);
    api_limit(w, "concurrentSandboxes", t->concurrent);
    sbx_jw_obj_end(w);
}

HANDLER(api_tier_list)
{
    sbx_tier tiers[MAX_TIERS];
    int count = sbx_store_tier_list(app->store, tiers, MAX_TIERS, err);

    (void)who;
    return reply_list(r, tier_json, tiers, sizeof(*tiers), count);
}

HANDLER(api_tier_change)
{
    const char *name = sbx_request_path(r, "name");
    sbx_tier_change change = {0};
    sbx_tier now;

    (void)who;
    if (read_change(r, &change, err))
        return -1;
    /* a longer name would be cut to that of another tier */
    if (!sbx_copy(change.to.name, sizeof(change.to.name), name))
        return sbx_fail(err, SBX_E_NOT_FOUND, "there is no such tier");
    if (sbx_store_tier_change(app->store, &change, &now, err))
        return -1;
    return reply_one(r, tier_json, &now);
}

/* --- prices --- */

static void price_json(sbx_jw *w, const void *item)
{
    const sbx_price *p = item;

    sbx_jw_obj(w, NULL);
    sbx_jw_str(w, "size", p->size);
    sbx_jw_milli(w, "cpus", p->cpu_milli);
    sbx_jw_int(w, "memoryMb", p->memory_mb);
    sbx_jw_int(w, "microsPerHour", p->micros);
    sbx_jw_int(w, "pausedMicrosPerHour", p->paused_micros);
    sbx_jw_obj_end(w);
}

HANDLER(api_price_list)
{
    sbx_price prices[MAX_PRICES];
    int count = sbx_store_price_list(app->store, prices, MAX_PRICES, err);

    (void)who;
    return reply_list(r, price_json, prices, sizeof(*prices), count);
}

HANDLER(api_price_change)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    price_body body = {0};

    (void)who;
    if (api_read_json(r, &root, err) || sbx_json_decode(root, api_price_fields, &body, err))
        return -1;
    sbx_price price = {.micros = body.micros_given ? body.micros : -1,
                       .paused_micros = body.paused_given ? body.paused_micros : -1};
    if (!sbx_copy(price.size, sizeof(price.size), sbx_request_path(r, "size")))
        return sbx_fail(err, SBX_E_NOT_FOUND, "there is no such size");
    if (sbx_store_price_change(app->store, &price, err))
        return -1;
    return reply_one(r, price_json, &price);
}
