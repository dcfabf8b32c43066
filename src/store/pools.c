/* The table `pools`. */
#include "sbx/store/pools.h"

#include "internal.h"

static void read_pool(const PGresult *r, int row, sbx_pool_row *o)
{
    int c = 0;

    memset(o, 0, sizeof *o);
    store_copy(r, row, c++, o->key, sizeof o->key);
    store_copy(r, row, c++, o->template_name, sizeof o->template_name);
    store_copy(r, row, c++, o->size, sizeof o->size);
    store_copy(r, row, c++, o->network, sizeof o->network);
    o->min = store_int(r, row, c++);
    o->max = store_int(r, row, c++);
    o->hits = store_int(r, row, c++);
    o->misses = store_int(r, row, c++);
    o->recent_milli = store_int(r, row, c++);
    o->fill_ms = store_int(r, row, c++);
    store_copy(r, row, c++, o->error, sizeof o->error);
    o->ready = store_int(r, row, c++);
    o->filling = store_int(r, row, c++);
    o->others = store_int(r, row, c++);
    o->earlier = store_int(r, row, c++);
}

int sbx_store_pool_list(sbx_store *s, const char *worker, sbx_pool_row *ret, size_t max,
                        sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};
    int count;

    store_p_str(&p, worker);
    if (store_exec(s, Q_POOL_LIST, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    count = (int)SBX_MIN((size_t)PQntuples(r), max);
    for (int i = 0; i < count; i++)
        read_pool(r, i, &ret[i]);
    return count;
}

int sbx_store_pool_slots(sbx_store *s, const char *worker, sbx_sandbox_list *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, worker);
    store_p_int(&p, STORE_MAX_ROWS + 1);
    if (store_exec(s, Q_POOL_SLOTS, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    return store_read_list(r, ret, err);
}

int sbx_store_pool_count(sbx_store *s, const char *key, const sbx_pool_news *news, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, key);
    store_p_int(&p, news->hits);
    store_p_int(&p, news->misses);
    store_p_int(&p, news->fill_ms);
    store_p_bool(&p, news->started);
    store_p_str(&p, news->error);
    return store_exec(s, Q_POOL_COUNT, &p, STORE_ONCE, &r, err);
}

static void pool_params(store_params *p, const sbx_pool_row *row)
{
    store_p_str(p, row->key);
    store_p_str(p, row->template_name);
    store_p_str(p, row->size);
    store_p_str(p, row->network);
    store_p_int(p, row->min);
    store_p_int(p, row->max);
}

int sbx_store_pool_option(sbx_store *s, const sbx_pool_row *row, const char *option, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    pool_params(&p, row);
    store_p_str(&p, option);
    return store_exec(s, Q_POOL_OPTION, &p, STORE_AGAIN, &r, err);
}

int sbx_store_pool_options_gone(sbx_store *s, const char *const *keys, size_t count, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(MIB);
    store_params p = {0};

    store_add_array(&b, keys, count);
    store_p_str(&p, b.data);
    return store_exec(s, Q_POOL_OPTIONS_GONE, &p, STORE_AGAIN, &r, err);
}

int sbx_store_pool_resize(sbx_store *s, const sbx_pool_row *row, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    pool_params(&p, row);
    return store_exec(s, Q_POOL_RESIZE, &p, STORE_AGAIN, &r, err);
}
