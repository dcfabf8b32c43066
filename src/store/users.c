/* The tables `users` and `api_keys`. Both inserts may run twice: a user is known by its name, a key
 * by its hash, which nobody else can have. */
#include "sbx/store/users.h"

#include "internal.h"
#include "sbx/core/limits.h"

void sbx_key_row_done(sbx_key_row *r)
{
    free(r->scopes);
    memset(r, 0, sizeof *r);
}

int sbx_store_user_ensure(sbx_store *s, const char *name, const char *role, const char *tier,
                          sbx_id *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};
    sbx_id id = sbx_id_new();
    char has[16], has_tier[SBX_MAX_TIER_BYTES + 1];

    if (!sbx_streq(role, "user") && !sbx_streq(role, "admin"))
        return sbx_fail_field(err, "role", "must be user or admin");
    if (!name[0] || strlen(name) > SBX_MAX_NAME_BYTES || !sbx_utf8_valid(name, strlen(name)))
        return sbx_fail_field(err, "name", "must have 1 to %d bytes of UTF-8", SBX_MAX_NAME_BYTES);
    store_p_str(&p, id.s);
    store_p_str(&p, name);
    store_p_str(&p, role);
    store_p_str(&p, tier);
    if (store_exec(s, Q_USER_ENSURE, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return sbx_fail_field(err, "tier", "there is no tier \"%s\"", tier);
    store_copy(r, 0, 1, has, sizeof has);
    store_copy(r, 0, 2, has_tier, sizeof has_tier);
    /* Never raise or lower somebody silently. */
    if (!sbx_streq(has, role))
        return sbx_fail(err, SBX_E_CONFLICT, "the user %s exists and has the role %s", name, has);
    if (tier && !sbx_streq(has_tier, tier))
        return sbx_fail(err, SBX_E_CONFLICT, "the user %s exists and has the tier %s", name,
                        has_tier);
    store_copy(r, 0, 0, ret->s, sizeof ret->s);
    return 0;
}

int sbx_store_key_insert(sbx_store *s, const char *user, const char *name, const char *prefix,
                         const unsigned char hash[SBX_HASH_BYTES], const char *scopes, sbx_id *ret,
                         sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};
    sbx_id id = sbx_id_new();

    store_p_str(&p, id.s);
    store_p_str(&p, user);
    store_p_str(&p, name);
    store_p_str(&p, prefix);
    store_p_bytes(&p, hash, SBX_HASH_BYTES);
    store_p_str(&p, scopes);
    if (store_exec(s, Q_KEY_INSERT, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    store_copy(r, 0, 0, ret->s, sizeof ret->s);
    return 0;
}

void store_read_key(const PGresult *r, sbx_key_row *ret)
{
    memset(ret, 0, sizeof *ret);
    store_copy(r, 0, 0, ret->id, sizeof ret->id);
    store_copy(r, 0, 1, ret->user, sizeof ret->user);
    store_copy(r, 0, 2, ret->role, sizeof ret->role);
    ret->scopes = store_str(r, 0, 3);
    ret->expired = store_int(r, 0, 4) != 0;
    ret->revoked = store_int(r, 0, 5) != 0;
    ret->expires_ms = store_ms(r, 0, 6);
    ret->token_ms = store_ms(r, 0, 7);
    for (int i = 0; i < SBX_RATE_COUNT; i++)
        ret->rates[i] = store_int(r, 0, 8 + i);
    ret->limited = store_int(r, 0, 8 + SBX_RATE_COUNT) != 0;
}

int sbx_store_key_rates(sbx_store *s, const char *id, const int64_t rates[SBX_RATE_COUNT],
                        sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, id);
    for (size_t i = 0; i < SBX_RATE_COUNT; i++)
        store_p_int(&p, rates[i]);
    return store_exec(s, Q_KEY_RATES_SET, &p, STORE_AGAIN, &r, err);
}

int sbx_store_key_by_hash(sbx_store *s, const unsigned char hash[SBX_HASH_BYTES], sbx_key_row *ret,
                          sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_bytes(&p, hash, SBX_HASH_BYTES);
    if (store_exec(s, Q_KEY_BY_HASH, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return sbx_fail(err, SBX_E_NOT_FOUND, "no such key");
    store_read_key(r, ret);
    return 0;
}
