/* The tables `events` and `event_counters`. Events are written by the statements that change a
 * sandbox (sandboxes.c); here they are read, and removed when they are old. */
#include "sbx/store/events.h"

#include "internal.h"
#include "sbx/core/limits.h"

#define PURGE_AT_ONCE 10000 /* events of one owner */

void sbx_event_page_done(sbx_event_page *p)
{
    for (size_t i = 0; i < p->count; i++) {
        free(p->items[i].type);
        free(p->items[i].data);
    }
    free(p->items);
    memset(p, 0, sizeof *p);
}

static void read_event(const PGresult *r, int row, sbx_event *e)
{
    e->seq = (uint64_t)store_int(r, row, 1);
    e->at_ms = store_ms(r, row, 2);
    e->type = store_str(r, row, 3);
    store_copy(r, row, 4, e->sandbox, sizeof e->sandbox);
    e->data = store_str(r, row, 5);
}

int sbx_store_event_list(sbx_store *s, const sbx_event_filter *f, sbx_event_page *ret, sbx_err *err)
{
    static const store_query queries[2][2] = {{Q_EVENT_LIST, Q_EVENT_LIST_OF},
                                              {Q_EVENT_TAIL, Q_EVENT_TAIL_OF}};
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};
    sbx_event_page out = {0};

    store_p_str(&p, f->owner);
    store_p_int(&p, (int64_t)SBX_MIN(f->since, (uint64_t)INT64_MAX));
    store_p_str(&p, f->type);
    store_p_int(&p, (int64_t)f->limit);
    if (f->sandbox)
        store_p_str(&p, f->sandbox);
    if (store_exec(s, queries[f->newest][f->sandbox != NULL], &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    int rows = PQntuples(r);
    if (rows > 0) {
        out.last = (uint64_t)store_int(r, 0, 0);
        out.items = sbx_alloc((size_t)rows * sizeof *out.items);
    }
    for (int i = 0; i < rows && !PQgetisnull(r, i, 1); i++)
        read_event(r, i, &out.items[out.count++]);
    *ret = out;
    return 0;
}

int sbx_store_event_sandbox(sbx_store *s, const char *owner, const char *sandbox, uint64_t *ret_end,
                            sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};
    char state[16];

    store_p_str(&p, owner);
    store_p_str(&p, sandbox);
    if (store_exec(s, Q_EVENT_SANDBOX, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQgetisnull(r, 0, 0) && PQgetisnull(r, 0, 1))
        return sbx_fail(err, SBX_E_NOT_FOUND, "no sandbox %.*s", SBX_ID_LEN, sandbox);
    store_copy(r, 0, 0, state, sizeof state);
    *ret_end = *state && !sbx_streq(state, "deleted") ? 0 : (uint64_t)store_int(r, 0, 1);
    return 0;
}

int sbx_store_event_counters(sbx_store *s, sbx_event_counter *c, size_t count, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf owners = SBX_BUF_INIT(MIB);
    const char **names;
    store_params p = {0};

    if (count == 0)
        return 0;
    names = sbx_alloc(count * sizeof *names);
    for (size_t i = 0; i < count; i++)
        names[i] = c[i].owner;
    store_add_array(&owners, names, count);
    free(names);
    if (sbx_buf_failed(&owners))
        return sbx_fail(err, SBX_E_INTERNAL, "%zu owners are too many at once", count);
    store_p_str(&p, owners.data);
    if (store_exec(s, Q_EVENT_COUNTERS, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    for (size_t i = 0; i < count; i++)
        c[i].last = (uint64_t)store_int(r, (int)i, 0);
    return 0;
}

int sbx_store_event_purge(sbx_store *s, int *ret_count, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_int(&p, SBX_EVENT_DAYS);
    store_p_int(&p, PURGE_AT_ONCE);
    if (store_exec(s, Q_EVENT_PURGE, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    *ret_count = (int)store_int(r, 0, 0);
    return 0;
}
