/* What the database server says of itself, for whoever looks after the installation. */
#include "internal.h"

#include "sbx/core/clock.h"

int sbx_store_facts_get(sbx_store *s, sbx_store_facts *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    *ret = (sbx_store_facts){0};
    if (sbx_store_ping(s, err)) /* so that connecting is not taken for a wrong clock */
        return -1;
    int64_t before_ms = sbx_wall_ms();
    if (store_exec(s, Q_FACTS, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    int64_t here_ms = before_ms + (sbx_wall_ms() - before_ms) / 2;

    if (PQntuples(r) != 1)
        return sbx_fail(err, SBX_E_INTERNAL, "the server gave no answer about itself");
    ret->version = (int)store_int(r, 0, 0);
    store_copy(r, 0, 1, ret->version_text, sizeof ret->version_text);
    ret->max_connections = store_int(r, 0, 2);
    ret->reserved_connections = store_int(r, 0, 3);
    ret->connections = store_int(r, 0, 4);
    ret->skew_ms = store_ms(r, 0, 5) - here_ms;
    ret->read_only = store_int(r, 0, 6) != 0;
    return 0;
}
