/* Groups: named sets of sandboxes; and requests for many sandboxes at once. */
#include "handlers.h"

#include "sbx/sandbox/spec.h"
#include "sbx/store/groups.h"
#include <stdio.h>

#define CHANGE_TRIES 4

typedef struct body {
    char *name;
    sbx_pairs metadata;
    sbx_strs add, remove;
} body;

#define AT(member) offsetof(body, member)
#define END_OF_FIELDS                                                                              \
    {                                                                                              \
        .name = NULL                                                                               \
    }
#define NAME                                                                                       \
    "name", SBX_JF_STR, AT(name), .min = 1, .max = SBX_MAX_NAME_BYTES,                             \
                                  .doc = "for people; need not be unique"
#define MEMBERS .max = SBX_MAX_GROUP_MEMBERS, .max_each = SBX_ID_LEN

const sbx_json_field api_group_fields[] = {
    {NAME, .required = true},
    {"sandboxes", SBX_JF_STRS, AT(add), MEMBERS, .doc = "ids of the first members"},
    {"metadata", SBX_JF_PAIRS, AT(metadata), .max = SBX_MAX_METADATA,
     .max_each = SBX_MAX_METADATA_BYTES, .doc = "labels of your own"},
    END_OF_FIELDS,
};
const sbx_json_field api_group_patch_fields[] = {
    {NAME},
    {"metadata", SBX_JF_PAIRS, AT(metadata), .nullable_each = true, .max = SBX_MAX_METADATA,
     .max_each = SBX_MAX_METADATA_BYTES, .doc = "merged; null removes"},
    {"add", SBX_JF_STRS, AT(add), MEMBERS, .doc = "ids of sandboxes that become members"},
    {"remove", SBX_JF_STRS, AT(remove), MEMBERS, .doc = "ids of members that are none any more"},
    END_OF_FIELDS,
};

/* --- the view --- */

static void group_json(const sbx_group *g, sbx_buf *b)
{
    sbx_jw w = SBX_JW(b);

    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "id", g->id);
    sbx_jw_str(&w, "name", g->name);
    sbx_jw_raw(&w, "metadata", g->metadata);
    sbx_jw_arr(&w, "sandboxes");
    for (size_t i = 0; i < g->member_count; i++)
        sbx_jw_str(&w, NULL, g->members[i]);
    sbx_jw_arr_end(&w);
    sbx_jw_time(&w, "createdAt", g->created_ms);
    sbx_jw_time(&w, "updatedAt", g->updated_ms);
    sbx_jw_obj_end(&w);
}

static int reply_group(sbx_app *app, const sbx_principal *who, const char *id, const sbx_request *r,
                       int status, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_group_done) sbx_group g = {0};
    sbx_buf b = SBX_BUF_INIT(MIB);
    char location[SBX_ID_LEN + 16];
    sbx_header h = {"location", location};

    if (sbx_store_group_get(app->store, who->owner, id, &g, err))
        return -1;
    snprintf(location, sizeof(location), "/groups/%s", g.id);
    group_json(&g, &b);
    sbx_reply_send(r->reply, status, "application/json", &h, status == 201 ? 1 : 0, &b);
    sbx_buf_done(&b);
    return 0;
}

/* --- the body --- */

/* Each id once. @param other  and none of these. */
static int check_ids(const char *field, const sbx_strs *ids, const sbx_strs *other, sbx_err *err)
{
    char name[32];

    for (size_t i = 0; i < ids->count; i++) {
        bool twice = false;

        snprintf(name, sizeof(name), "%s[%zu]", field, i);
        if (!sbx_id_valid(ids->items[i]))
            return sbx_fail_field(err, name, "%s: must be the id of a sandbox", name);
        for (size_t k = 0; k < i; k++)
            twice |= strcmp(ids->items[i], ids->items[k]) == 0;
        for (size_t k = 0; other && k < other->count; k++)
            twice |= strcmp(ids->items[i], other->items[k]) == 0;
        if (twice)
            return sbx_fail_field(err, name, "%s: stands in the request twice", name);
    }
    return 0;
}

static int read_body(const sbx_request *r, const sbx_json_field *fields, body *ret, sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    const char *members = fields == api_group_fields ? "sandboxes" : "add";

    if (sbx_json_parse(r->body_len ? r->body : "{}", r->body_len ? r->body_len : 2, &root, err) ||
        sbx_json_decode(root, fields, ret, err) || sbx_name_check(ret->name, err) ||
        check_ids(members, &ret->add, NULL, err) ||
        check_ids("remove", &ret->remove, &ret->add, err)) {
        sbx_json_struct_done(fields, ret);
        return -1;
    }
    return 0;
}

static void pairs_json(const sbx_pairs *p, sbx_buf *out)
{
    sbx_jw w = SBX_JW(out);

    sbx_jw_obj(&w, NULL);
    for (size_t i = 0; i < p->count; i++)
        if (p->values[i])
            sbx_jw_str(&w, p->names[i], p->values[i]);
        else
            sbx_jw_null(&w, p->names[i]);
    sbx_jw_obj_end(&w);
}

/* The store names members by the list of those to add. */
static void name_members(const char *field, sbx_err *err)
{
    char index[24], text[sizeof(err->msg)];

    if (strncmp(err->field, "add[", 4) != 0)
        return;
    sbx_copy(index, sizeof(index), err->field + 3);
    sbx_copy(text, sizeof(text), err->msg);
    snprintf(err->field, sizeof(err->field), "%s%s", field, index);
    snprintf(err->msg, sizeof(err->msg), "%s: %s", err->field, text);
}

/* --- create, list, get, change --- */

HANDLER(api_group_create)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf metadata = SBX_BUF_INIT(MIB);
    const char *claimed = api_claimed_id(r);
    sbx_id fresh = sbx_id_new();
    body b = {0};

    if (read_body(r, api_group_fields, &b, err))
        return -1;
    pairs_json(&b.metadata, &metadata);
    sbx_group_change c = {
        .name = b.name, .metadata = metadata.data, .add = b.add.items, .add_count = b.add.count};
    int rc = sbx_store_group_insert(app->store, who->owner, claimed ? claimed : fresh.s, &c,
                                    SBX_MAX_GROUPS, err);
    if (rc)
        name_members("sandboxes", err);
    sbx_json_struct_done(api_group_fields, &b);
    return rc ? -1 : reply_group(app, who, claimed ? claimed : fresh.s, r, 201, err);
}

HANDLER(api_group_list)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf metadata = SBX_BUF_INIT(64 * KIB);
    sbx_group_filter f = {.owner = who->owner, .name = sbx_request_query(r, "name")};
    sbx_buf b = SBX_BUF_INIT(SBX_MAX_RESPONSE_BYTES);
    sbx_group_list list = {0};
    sbx_jw w = SBX_JW(&b);
    char cursor[48];
    int limit;

    if (api_list_limit(r, &limit, err) ||
        api_list_cursor(r, &f.before_us, &f.before_id, cursor, err))
        return -1;
    f.metadata = api_list_metadata(r, &metadata);
    f.limit = limit + 1;
    if (sbx_store_group_list(app->store, &f, &list, err))
        return -1;
    size_t n = SBX_MIN(list.count, (size_t)limit);
    sbx_jw_obj(&w, NULL);
    sbx_jw_arr(&w, "items");
    for (size_t i = 0; i < n; i++) {
        SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf item = SBX_BUF_INIT(MIB);

        group_json(&list.items[i], &item);
        sbx_jw_raw(&w, NULL, item.data);
    }
    sbx_jw_arr_end(&w);
    api_list_next_cursor(&w, list.count > n, n ? list.items[n - 1].created_us : 0,
                         n ? list.items[n - 1].id : "");
    sbx_jw_obj_end(&w);
    sbx_reply_json(r->reply, 200, &b);
    sbx_buf_done(&b);
    sbx_group_list_done(&list);
    return 0;
}

HANDLER(api_group_get)
{
    return reply_group(app, who, sbx_request_path(r, "id"), r, 200, err);
}

static int check_size(const sbx_group *g, const body *b, sbx_err *err)
{
    size_t count = g->member_count + b->add.count;

    for (size_t i = 0; i < g->member_count; i++) {
        bool gone = false;

        for (size_t k = 0; k < b->remove.count; k++)
            gone |= strcmp(g->members[i], b->remove.items[k]) == 0;
        for (size_t k = 0; k < b->add.count; k++)
            gone |= strcmp(g->members[i], b->add.items[k]) == 0;
        count -= gone;
    }
    if (count <= SBX_MAX_GROUP_MEMBERS)
        return 0;
    return sbx_fail_field(err, "add",
                          "add: a group has at most %d members; this one would have %zu",
                          SBX_MAX_GROUP_MEMBERS, count);
}

/* @return 0, 1 if somebody else was faster, or -1. */
static int try_change(sbx_app *app, const sbx_principal *who, const char *id, const body *b,
                      const sbx_group_change *c, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_group_done) sbx_group g = {0};

    if (sbx_store_group_get(app->store, who->owner, id, &g, err) || check_size(&g, b, err))
        return -1;
    if (sbx_store_group_change(app->store, who->owner, &g, c, err) == 0)
        return 0;
    return err->code == SBX_E_CONFLICT ? 1 : -1;
}

HANDLER(api_group_patch)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf metadata = SBX_BUF_INIT(MIB);
    const char *id = sbx_request_path(r, "id");
    body b = {0};
    int rc = 1;

    if (read_body(r, api_group_patch_fields, &b, err))
        return -1;
    pairs_json(&b.metadata, &metadata);
    sbx_group_change c = {.name = b.name,
                          .metadata = b.metadata.count ? metadata.data : NULL,
                          .add = b.add.items,
                          .add_count = b.add.count,
                          .remove = b.remove.items,
                          .remove_count = b.remove.count};
    for (int i = 0; rc == 1 && i < CHANGE_TRIES; i++)
        rc = try_change(app, who, id, &b, &c, err);
    if (rc)
        name_members("add", err);
    sbx_json_struct_done(api_group_patch_fields, &b);
    return rc ? -1 : reply_group(app, who, id, r, 200, err);
}

/* --- with the members --- */

HANDLER(api_group_delete)
{
    SBX_CLEANUP_VAL(sbx_group_done) sbx_group g = {0};
    const char *with = sbx_request_query(r, "sandboxes"), *id = sbx_request_path(r, "id");
    sbx_buf empty = SBX_BUF_INIT(1);

    if (with && !sbx_streq(with, "true") && !sbx_streq(with, "false"))
        return sbx_fail_field(err, "sandboxes", "sandboxes: must be true or false");
    if (sbx_streq(with, "true")) {
        if (sbx_store_group_get(app->store, who->owner, id, &g, err))
            return -1;
        sbx_batch_victims v = {.owner = who->owner,
                               .ids = sbx_steal(g.members),
                               .count = g.member_count,
                               .group = g.id};
        sbx_batch_delete(app->batches, &v, r);
        return 0;
    }
    if (sbx_store_group_delete(app->store, who->owner, id, err))
        return -1;
    sbx_reply_send(r->reply, 204, NULL, NULL, 0, &empty);
    return 0;
}

HANDLER(api_group_exec)
{
    SBX_CLEANUP_VAL(sbx_group_done) sbx_group g = {0};

    if (sbx_store_group_get(app->store, who->owner, sbx_request_path(r, "id"), &g, err) ||
        (g.member_count > 1 && api_rate(app, who, r, g.member_count - 1, err)))
        return -1;
    return sbx_exec_many(app->execs, who->owner, g.members, g.member_count, r, err);
}

/* --- many without a group --- */

typedef struct asking {
    sbx_app *app;
    const sbx_principal *who;
    const sbx_request *r;
} asking;

/* The request itself has paid for one. */
static int pay_for(void *arg, size_t count, sbx_err *err)
{
    const asking *a = arg;

    return count > 1 ? api_rate(a->app, a->who, a->r, count - 1, err) : 0;
}

HANDLER(api_sandbox_batch)
{
    asking a = {app, who, r};
    sbx_batch_claim claim = {.id = api_claimed_id(r),
                             .resumed = api_claim_resumed(r),
                             .open = api_claim_open,
                             .admit = pay_for,
                             .arg = &a};

    return sbx_batch_create(app->batches, who->owner, &claim, r, err);
}

HANDLER(api_sandbox_delete_many)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf metadata = SBX_BUF_INIT(64 * KIB);
    sbx_sandbox_filter f = {.owner = who->owner, .limit = SBX_MAX_DELETES + 1};
    sbx_sandbox_list list = {0};

    if (api_sandbox_filter(r, &f, &metadata, err))
        return -1;
    if (!f.metadata)
        return sbx_fail_field(err, "metadata.*",
                              "metadata.KEY=VALUE: at least one is required, so that a request "
                              "without it does not delete everything");
    bool none = sbx_streq(f.state, "deleted");
    if (!none && sbx_store_sandbox_list(app->store, &f, &list, err))
        return -1;
    sbx_batch_victims v = {.owner = who->owner,
                           .count = SBX_MIN(list.count, (size_t)SBX_MAX_DELETES)};
    v.more = list.count > v.count;
    v.ids = sbx_alloc((v.count + 1) * sizeof(*v.ids));
    for (size_t i = 0; i < v.count; i++)
        sbx_copy(v.ids[i], sizeof(v.ids[i]), list.items[i].id);
    sbx_sandbox_list_done(&list);
    sbx_batch_delete(app->batches, &v, r);
    return 0;
}
