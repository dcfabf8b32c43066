/* Groups. A write may be run twice: an insert is known by its id, a change by the version that it
 * leads to. */
#include "sbx/store/groups.h"

#include "internal.h"
#include "sbx/core/limits.h"
#include <stdio.h>

#define MAX_IDS_BYTES (64 * KIB)

void sbx_group_done(sbx_group *g)
{
    free(g->name);
    free(g->metadata);
    free(g->members);
    memset(g, 0, sizeof *g);
}

void sbx_group_list_done(sbx_group_list *l)
{
    for (size_t i = 0; i < l->count; i++)
        sbx_group_done(&l->items[i]);
    free(l->items);
    memset(l, 0, sizeof *l);
}

/* Ids, separated by blanks. */
static void read_members(const PGresult *r, int row, int col, sbx_group *g)
{
    SBX_CLEANUP(sbx_free_str) char *text = store_str(r, row, col);
    size_t most = text ? (strlen(text) + 1) / (SBX_ID_LEN + 1) : 0;

    g->members = sbx_alloc((most + 1) * sizeof *g->members);
    for (const char *p = text; p && *p && g->member_count < most;) {
        size_t len = strcspn(p, " ");

        snprintf(g->members[g->member_count++], SBX_ID_LEN + 1, "%.*s", (int)len, p);
        p += len + (p[len] == ' ');
    }
}

static void read_group(const PGresult *r, int row, sbx_group *g)
{
    memset(g, 0, sizeof *g);
    store_copy(r, row, 0, g->id, sizeof g->id);
    g->name = store_str(r, row, 1);
    g->metadata = store_str(r, row, 2);
    g->version = store_int(r, row, 3);
    g->created_us = store_us(r, row, 4);
    g->created_ms = store_ms(r, row, 4);
    g->updated_ms = store_ms(r, row, 5);
    read_members(r, row, 6, g);
}

static int add_ids(store_params *p, sbx_buf *b, char *const *ids, size_t count, sbx_err *err)
{
    store_add_array(b, (const char *const *)ids, count);
    if (sbx_buf_failed(b))
        return sbx_fail(err, SBX_E_INTERNAL, "too many sandboxes at once");
    store_p_str(p, b->data);
    return 0;
}

/* Column 0: the number, from 1, of the first sandbox that the owner does not have, or NULL. */
static int check_missing(const PGresult *r, const sbx_group_change *c, sbx_err *err)
{
    int64_t missing = store_int(r, 0, 0);
    char field[24];

    if (!missing)
        return 0;
    snprintf(field, sizeof field, "add[%lld]", (long long)missing - 1);
    return sbx_fail_field(err, field, "there is no sandbox %.*s", SBX_ID_LEN, c->add[missing - 1]);
}

static bool exists(sbx_store *s, const char *owner, const char *id)
{
    SBX_CLEANUP_VAL(sbx_group_done) sbx_group g = {0};
    sbx_err ignored;

    return sbx_store_group_get(s, owner, id, &g, &ignored) == 0;
}

int sbx_store_group_insert(sbx_store *s, const char *owner, const char *id,
                           const sbx_group_change *c, int max_groups, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf ids = SBX_BUF_INIT(MAX_IDS_BYTES);
    store_params p = {0};

    store_p_str(&p, id);
    store_p_str(&p, owner);
    store_p_str(&p, c->name);
    store_p_str(&p, c->metadata ? c->metadata : "{}");
    if (add_ids(&p, &ids, c->add, c->add_count, err) != 0)
        return -1;
    store_p_int(&p, max_groups);
    if (store_exec(s, Q_GROUP_INSERT, &p, STORE_AGAIN, &r, err) != 0)
        return err->code == SBX_E_CONFLICT && exists(s, owner, id) ? 0 : -1;
    if (check_missing(r, c, err) != 0)
        return -1;
    if (store_int(r, 0, 1) == 0)
        return sbx_fail(err, SBX_E_QUOTA, "there may be at most %d groups; delete some",
                        max_groups);
    return 0;
}

int sbx_store_group_get(sbx_store *s, const char *owner, const char *id, sbx_group *ret,
                        sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, id);
    store_p_str(&p, owner);
    if (store_exec(s, Q_GROUP_GET, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return sbx_fail(err, SBX_E_NOT_FOUND, "no group %.*s", SBX_ID_LEN, id);
    read_group(r, 0, ret);
    return 0;
}

static int changed(const PGresult *r, const sbx_group_change *c, sbx_err *err)
{
    if (check_missing(r, c, err) != 0)
        return -1;
    if (store_int(r, 0, 2) > SBX_MAX_METADATA)
        return sbx_fail_field(err, "metadata", "metadata: there may be at most %d entries",
                              SBX_MAX_METADATA);
    if (store_int(r, 0, 1) == 0)
        return sbx_fail(err, SBX_E_CONFLICT, "the group was changed by somebody else; try again");
    return 0;
}

int sbx_store_group_change(sbx_store *s, const char *owner, const sbx_group *g,
                           const sbx_group_change *c, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf add = SBX_BUF_INIT(MAX_IDS_BYTES);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf gone = SBX_BUF_INIT(MAX_IDS_BYTES);
    store_params p = {0};

    store_p_str(&p, g->id);
    store_p_str(&p, owner);
    store_p_int(&p, g->version);
    store_p_str(&p, c->name);
    store_p_str(&p, c->metadata);
    if (add_ids(&p, &add, c->add, c->add_count, err) != 0 ||
        add_ids(&p, &gone, c->remove, c->remove_count, err) != 0)
        return -1;
    store_p_int(&p, SBX_MAX_METADATA);
    if (store_exec(s, Q_GROUP_CHANGE, &p, STORE_ONCE, &r, err) != 0)
        return -1;
    return changed(r, c, err);
}

int sbx_store_group_delete(sbx_store *s, const char *owner, const char *id, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, id);
    store_p_str(&p, owner);
    if (store_exec(s, Q_GROUP_DELETE, &p, STORE_ONCE, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return sbx_fail(err, SBX_E_NOT_FOUND, "no group %.*s", SBX_ID_LEN, id);
    return 0;
}

int sbx_store_group_list(sbx_store *s, const sbx_group_filter *f, sbx_group_list *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};
    sbx_group_list l = {0};

    if (f->limit < 1 || f->limit > SBX_MAX_LIST_ITEMS + 1)
        return sbx_fail_field(err, "limit", "must be between 1 and %d", SBX_MAX_LIST_ITEMS);
    store_p_str(&p, f->owner);
    store_p_str(&p, f->name);
    store_p_str(&p, f->metadata);
    store_p_time_us(&p, f->before_us);
    store_p_str(&p, f->before_id ? f->before_id : "");
    store_p_int(&p, f->limit);
    if (store_exec(s, Q_GROUP_LIST, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    l.items = sbx_alloc(((size_t)PQntuples(r) + 1) * sizeof *l.items);
    for (int i = 0; i < PQntuples(r); i++)
        read_group(r, i, &l.items[l.count++]);
    *ret = l;
    return 0;
}
