/* The tables `tiers` and `prices`. */
#include "sbx/store/tiers.h"

#include "internal.h"

int64_t store_limit(const PGresult *r, int row, int col)
{
    return PQgetisnull(r, row, col) ? SBX_NO_LIMIT : store_int(r, row, col);
}

void store_p_limit(store_params *p, int64_t limit)
{
    if (limit == SBX_NO_LIMIT)
        store_p_str(p, NULL);
    else
        store_p_int(p, limit);
}

static void read_tier(const PGresult *r, int row, sbx_tier *o)
{
    store_copy(r, row, 0, o->name, sizeof o->name);
    o->executions = store_limit(r, row, 1);
    o->compute_s = store_limit(r, row, 2);
    o->longest_s = store_limit(r, row, 3);
    o->concurrent = store_limit(r, row, 4);
}

int sbx_store_tier_list(sbx_store *s, sbx_tier *ret, size_t max, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    if (store_exec(s, Q_TIER_LIST, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    int count = (int)SBX_MIN((size_t)PQntuples(r), max);

    for (int i = 0; i < count; i++)
        read_tier(r, i, &ret[i]);
    return count;
}

static void limit_param(store_params *p, bool given, int64_t limit)
{
    store_p_bool(p, given);
    store_p_limit(p, limit);
}

int sbx_store_tier_change(sbx_store *s, const sbx_tier_change *c, sbx_tier *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, c->to.name);
    limit_param(&p, c->executions, c->to.executions);
    limit_param(&p, c->compute_s, c->to.compute_s);
    limit_param(&p, c->longest_s, c->to.longest_s);
    limit_param(&p, c->concurrent, c->to.concurrent);
    if (store_exec(s, Q_TIER_CHANGE, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return sbx_fail(err, SBX_E_NOT_FOUND, "there is no tier \"%s\"", c->to.name);
    read_tier(r, 0, ret);
    return 0;
}

static void read_price(const PGresult *r, int row, sbx_price *o)
{
    store_copy(r, row, 0, o->size, sizeof o->size);
    o->cpu_milli = store_int(r, row, 1);
    o->memory_mb = store_int(r, row, 2);
    o->micros = store_int(r, row, 3);
    o->paused_micros = store_int(r, row, 4);
}

int sbx_store_price_list(sbx_store *s, sbx_price *ret, size_t max, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    if (store_exec(s, Q_PRICE_LIST, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    int count = (int)SBX_MIN((size_t)PQntuples(r), max);

    for (int i = 0; i < count; i++)
        read_price(r, i, &ret[i]);
    return count;
}

int sbx_store_price_change(sbx_store *s, sbx_price *price, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, price->size);
    store_p_int(&p, price->micros);
    store_p_int(&p, price->paused_micros);
    if (store_exec(s, Q_PRICE_CHANGE, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return sbx_fail(err, SBX_E_NOT_FOUND, "there is no size \"%s\"", price->size);
    read_price(r, 0, price);
    return 0;
}
