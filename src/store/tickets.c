/* The table `tickets`. Every statement may run twice: an insert is known by its hash, a use by the
 * random number that it leaves in the row. */
#include "sbx/store/tickets.h"

#include "internal.h"
#include "sbx/core/limits.h"

#define RENEW_AT_ONCE 1000

int sbx_store_ticket_insert(sbx_store *s, const unsigned char hash[SBX_HASH_BYTES], const char *key,
                            const char *method, const char *path, int64_t ends_ms,
                            int64_t *ret_expires_ms, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_bytes(&p, hash, SBX_HASH_BYTES);
    store_p_str(&p, key);
    store_p_str(&p, method);
    store_p_str(&p, path);
    store_p_int(&p, SBX_MAX_TICKETS);
    store_p_int(&p, SBX_TICKET_S);
    store_p_time_us(&p, ends_ms * 1000);
    if (store_exec(s, Q_TICKET_INSERT, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQgetisnull(r, 0, 0)) {
        sbx_err_set(err, SBX_E_RATE_LIMITED,
                    "the key has %d tickets that nobody used; use them or let them expire",
                    SBX_MAX_TICKETS);
        err->retry_after_s = (int)SBX_MAX(store_int(r, 0, 1), 1);
        return -1;
    }
    *ret_expires_ms = store_ms(r, 0, 0);
    return 0;
}

int sbx_store_ticket_use(sbx_store *s, const unsigned char hash[SBX_HASH_BYTES], const char *method,
                         const char *path, bool event_stream, sbx_key_row *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};
    int64_t number;

    sbx_random(&number, sizeof number);
    store_p_bytes(&p, hash, SBX_HASH_BYTES);
    store_p_str(&p, method);
    store_p_str(&p, path);
    store_p_bool(&p, event_stream);
    store_p_int(&p, SBX_TICKET_S);
    store_p_int(&p, number);
    if (store_exec(s, Q_TICKET_USE, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return sbx_fail(err, SBX_E_NOT_FOUND, "no such ticket");
    store_read_key(r, ret);
    return 0;
}

/* At most RENEW_AT_ONCE. */
static int renew_some(sbx_store *s, const unsigned char (*hashes)[SBX_HASH_BYTES], size_t count,
                      sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(MIB);
    store_params p = {0};
    char hex[2 * SBX_HASH_BYTES + 1];

    sbx_buf_addc(&b, '{');
    for (size_t i = 0; i < count; i++) {
        sbx_hex(hashes[i], SBX_HASH_BYTES, hex);
        sbx_buf_addf(&b, "%s\"\\\\x%s\"", i ? "," : "", hex);
    }
    sbx_buf_addc(&b, '}');
    store_p_str(&p, b.data);
    store_p_int(&p, SBX_TICKET_S);
    return store_exec(s, Q_TICKET_RENEW, &p, STORE_AGAIN, &r, err);
}

int sbx_store_ticket_renew(sbx_store *s, const unsigned char (*hashes)[SBX_HASH_BYTES],
                           size_t count, sbx_err *err)
{
    for (size_t at = 0; at < count; at += RENEW_AT_ONCE)
        if (renew_some(s, hashes + at, SBX_MIN(count - at, RENEW_AT_ONCE), err) != 0)
            return -1;
    return 0;
}

int sbx_store_ticket_purge(sbx_store *s, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    return store_exec(s, Q_TICKET_PURGE, &p, STORE_AGAIN, &r, err);
}
