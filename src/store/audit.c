/* The table `audit`. A batch arrives as one JSON document, so that it is one statement; how long
 * ago an act was is sent in place of its time, which is the database's. */
#include "sbx/store/audit.h"

#include "internal.h"
#include "sbx/core/clock.h"

#define MAX_BATCH_BYTES (4 * MIB)
#define PURGE_AT_ONCE   5000

static void add_text(sbx_jw *w, const char *name, const char *text)
{
    if (text && *text)
        sbx_jw_str(w, name, text);
}

static void add_entry(sbx_jw *w, const sbx_audit_entry *e, int64_t now_ms)
{
    sbx_jw_obj(w, NULL);
    sbx_jw_str(w, "id", e->id);
    sbx_jw_int(w, "age_ms", SBX_MAX(now_ms - e->at_ms, 0));
    add_text(w, "request_id", e->request_id);
    add_text(w, "actor", e->user);
    add_text(w, "key_id", e->key);
    add_text(w, "address", e->address);
    add_text(w, "method", e->method);
    sbx_jw_str(w, "action", e->action);
    add_text(w, "object", e->object);
    add_text(w, "part", e->part);
    if (e->status)
        sbx_jw_int(w, "status", e->status);
    if (e->code != SBX_OK)
        sbx_jw_str(w, "code", sbx_code_wire(e->code));
    sbx_jw_int(w, "count", e->count);
    sbx_jw_bool(w, "foreign_only", e->foreign_only);
    sbx_jw_obj_end(w);
}

int sbx_store_audit_insert(sbx_store *s, const sbx_audit_entry *e, size_t count, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *res = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(MAX_BATCH_BYTES);
    sbx_jw w = SBX_JW(&b);
    int64_t now_ms = sbx_now_ms();
    store_params p = {0};

    if (count == 0)
        return 0;
    sbx_jw_arr(&w, NULL);
    for (size_t i = 0; i < count; i++)
        add_entry(&w, &e[i], now_ms);
    sbx_jw_arr_end(&w);
    if (sbx_buf_failed(&b))
        return sbx_fail(err, SBX_E_INTERNAL, "a batch of %zu acts is too large", count);
    store_p_str(&p, b.data);
    return store_exec(s, Q_AUDIT_INSERT, &p, STORE_AGAIN, &res, err);
}

/* --- reading --- */

static void row_done(sbx_audit_row *r)
{
    char *texts[] = {r->request_id, r->user,   r->user_name, r->key,  r->address,
                     r->method,     r->action, r->object,    r->part, r->code};

    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        free(texts[i]);
}

void sbx_audit_page_done(sbx_audit_page *p)
{
    for (size_t i = 0; i < p->count; i++)
        row_done(&p->items[i]);
    free(p->items);
    memset(p, 0, sizeof *p);
}

static void read_row(const PGresult *r, int row, sbx_audit_row *o)
{
    char **texts[] = {&o->request_id, &o->user,   &o->user_name, &o->key,  &o->address,
                      &o->method,     &o->action, &o->object,    &o->part, &o->code};
    int c = 0;

    store_copy(r, row, c++, o->id, sizeof o->id);
    o->at_us = store_us(r, row, c++);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        *texts[i] = store_str(r, row, c++);
    o->status = (int)store_int(r, row, c++);
    o->count = store_int(r, row, c);
}

int sbx_store_audit_list(sbx_store *s, const sbx_audit_filter *f, sbx_audit_page *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    sbx_audit_page page = {0};
    store_params p = {0};

    store_p_str(&p, f->user);
    store_p_str(&p, f->key);
    store_p_str(&p, f->action);
    store_p_str(&p, f->object);
    store_p_time_us(&p, f->since_ms * 1000);
    store_p_time_us(&p, f->until_ms * 1000);
    store_p_int(&p, f->status_min);
    store_p_int(&p, f->status_max);
    store_p_time_us(&p, f->before_us);
    store_p_str(&p, f->before_id ? f->before_id : "");
    store_p_int(&p, f->limit);
    if (store_exec(s, Q_AUDIT_LIST, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    page.count = (size_t)PQntuples(r);
    page.items = sbx_alloc((page.count + 1) * sizeof *page.items);
    for (size_t i = 0; i < page.count; i++)
        read_row(r, (int)i, &page.items[i]);
    *ret = page;
    return 0;
}

int sbx_store_audit_purge(sbx_store *s, int64_t days, bool *ret_more, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_int(&p, SBX_MAX(days, 1));
    store_p_int(&p, PURGE_AT_ONCE);
    if (store_exec(s, Q_AUDIT_PURGE, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    *ret_more = store_int(r, 0, 0) == PURGE_AT_ONCE;
    return 0;
}
