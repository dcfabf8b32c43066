/* Reading results in PostgreSQL's binary format, which spares the server the formatting of times
 * and this side their parsing. Numbers are big-endian; timestamptz counts microseconds from 2000.
 * A length that does not fit its type reads as 0: the tests read every column. */
#include "internal.h"

#include <endian.h>

#define EPOCH_2000_US INT64_C(946684800000000)

void store_result_done(PGresult **r)
{
    PQclear(*r);
}

int64_t store_int(const PGresult *r, int row, int col)
{
    const char *v = PQgetvalue(r, row, col);
    uint16_t n2;
    uint32_t n4;
    uint64_t n8;

    if (PQgetisnull(r, row, col))
        return 0;
    switch (PQgetlength(r, row, col)) {
    case 1:
        return *v != 0;
    case 2:
        memcpy(&n2, v, sizeof n2);
        return (int16_t)be16toh(n2);
    case 4:
        memcpy(&n4, v, sizeof n4);
        return (int32_t)be32toh(n4);
    case 8:
        memcpy(&n8, v, sizeof n8);
        return (int64_t)be64toh(n8);
    default:
        return 0;
    }
}

int64_t store_us(const PGresult *r, int row, int col)
{
    return PQgetisnull(r, row, col) ? 0 : store_int(r, row, col) + EPOCH_2000_US;
}

int64_t store_ms(const PGresult *r, int row, int col)
{
    return store_us(r, row, col) / 1000;
}

char *store_str(const PGresult *r, int row, int col)
{
    if (PQgetisnull(r, row, col))
        return NULL;
    return sbx_strndup(PQgetvalue(r, row, col), (size_t)PQgetlength(r, row, col));
}

void store_copy(const PGresult *r, int row, int col, char *out, size_t cap)
{
    sbx_copy(out, cap, PQgetisnull(r, row, col) ? "" : PQgetvalue(r, row, col));
}

void store_read_sandbox(const PGresult *r, int row, sbx_sandbox_row *o)
{
    int c = 0;

    memset(o, 0, sizeof *o);
    store_copy(r, row, c++, o->id, sizeof o->id);
    store_copy(r, row, c++, o->owner, sizeof o->owner);
    store_copy(r, row, c++, o->worker, sizeof o->worker);
    o->name = store_str(r, row, c++);
    o->template_name = store_str(r, row, c++);
    o->image = store_str(r, row, c++);
    store_copy(r, row, c++, o->state, sizeof o->state);
    o->reason = store_str(r, row, c++);
    store_copy(r, row, c++, o->size, sizeof o->size);
    o->cpu_milli = store_int(r, row, c++);
    o->memory_mb = store_int(r, row, c++);
    o->pids = store_int(r, row, c++);
    o->disk_mb = store_int(r, row, c++);
    store_copy(r, row, c++, o->network, sizeof o->network);
    o->metadata = store_str(r, row, c++);
    o->env_names = store_str(r, row, c++);
    o->command = store_str(r, row, c++);
    o->timeout_s = store_int(r, row, c++);
    o->idle_timeout_s = store_int(r, row, c++);
    store_copy(r, row, c++, o->on_timeout, sizeof o->on_timeout);
    store_copy(r, row, c++, o->on_idle, sizeof o->on_idle);
    o->created_ms = store_ms(r, row, c++);
    o->started_ms = store_ms(r, row, c++);
    o->last_active_ms = store_ms(r, row, c++);
    o->expires_ms = store_ms(r, row, c++);
    o->state_changed_ms = store_ms(r, row, c++);
    store_copy(r, row, c++, o->container_id, sizeof o->container_id);
    if (PQgetlength(r, row, c) == (int)sizeof o->token)
        memcpy(o->token, PQgetvalue(r, row, c), sizeof o->token);
    c++;
    o->epoch = (uint64_t)store_int(r, row, c++);
    o->image_user = store_str(r, row, c++);
    store_copy(r, row, c++, o->runtime, sizeof o->runtime);
    store_copy(r, row, c++, o->host, sizeof o->host);
    o->readiness = store_str(r, row, c++);
    o->health = store_str(r, row, c++);
    o->health_state = store_str(r, row, c++);
    store_copy(r, row, c++, o->goal, sizeof o->goal);
    o->log_seq = (uint64_t)store_int(r, row, c++);
    o->version = store_int(r, row, c++);
    o->env_version = (uint64_t)store_int(r, row, c++);
    o->change = store_int(r, row, c++);
    store_copy(r, row, c++, o->disk_limit, sizeof o->disk_limit);
    o->pool = store_str(r, row, c++);
    o->warm = store_int(r, row, c++) != 0;
    if (PQnfields(r) > STORE_SANDBOX_COLS)
        o->event_seq = (uint64_t)store_int(r, row, STORE_SANDBOX_COLS);
}

#define COL_CREATED_AT 21

int store_read_list(const PGresult *r, sbx_sandbox_list *ret, sbx_err *err)
{
    int count = PQntuples(r);
    sbx_sandbox_list l = {0};

    if (count > STORE_MAX_ROWS)
        return sbx_fail(err, SBX_E_INTERNAL, "more than %d sandboxes in one answer",
                        STORE_MAX_ROWS);
    if (count > 0) {
        l.items = sbx_alloc((size_t)count * sizeof *l.items);
        l.created_us = sbx_alloc((size_t)count * sizeof *l.created_us);
    }
    for (int i = 0; i < count; i++) {
        store_read_sandbox(r, i, &l.items[i]);
        l.created_us[i] = store_us(r, i, COL_CREATED_AT);
    }
    l.count = (size_t)count;
    *ret = l;
    return 0;
}

void store_read_refs(const PGresult *r, sbx_sandbox_refs *ret)
{
    int count = PQntuples(r);

    *ret = (sbx_sandbox_refs){0};
    if (count > 0)
        ret->items = sbx_alloc((size_t)count * sizeof *ret->items);
    for (int i = 0; i < count; i++) {
        store_copy(r, i, 0, ret->items[i].id, sizeof ret->items[i].id);
        store_copy(r, i, 1, ret->items[i].owner, sizeof ret->items[i].owner);
    }
    ret->count = (size_t)count;
}

void sbx_sandbox_refs_done(sbx_sandbox_refs *r)
{
    free(r->items);
    *r = (sbx_sandbox_refs){0};
}

void sbx_sandbox_row_done(sbx_sandbox_row *r)
{
    free(r->name);
    free(r->template_name);
    free(r->image);
    free(r->reason);
    free(r->metadata);
    free(r->env_names);
    free(r->command);
    free(r->image_user);
    free(r->readiness);
    free(r->health);
    free(r->health_state);
    free(r->pool);
    sbx_wipe(r->token, sizeof r->token);
    memset(r, 0, sizeof *r);
}

void sbx_sandbox_list_done(sbx_sandbox_list *l)
{
    for (size_t i = 0; i < l->count; i++)
        sbx_sandbox_row_done(&l->items[i]);
    free(l->items);
    free(l->created_us);
    memset(l, 0, sizeof *l);
}

void store_add_array(sbx_buf *b, const char *const *items, size_t count)
{
    sbx_buf_addc(b, '{');
    for (size_t i = 0; i < count; i++) {
        sbx_buf_adds(b, i ? ",\"" : "\"");
        for (const char *p = items[i]; *p; p++) {
            if (*p == '"' || *p == '\\')
                sbx_buf_addc(b, '\\');
            sbx_buf_addc(b, *p);
        }
        sbx_buf_addc(b, '"');
    }
    sbx_buf_addc(b, '}');
}
