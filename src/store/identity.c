/* Users and keys as they are managed. A write may be run twice: what is made is known by its id or
 * its hash, the others lead to the same again. */
#include "sbx/store/identity.h"

#include "internal.h"
#include "sbx/core/json.h"
#include "sbx/core/limits.h"

#define MAX_KEYS_BYTES (4 * MIB) /* ids of keys in one statement */

/* --- users --- */

void sbx_user_done(sbx_user *u)
{
    free(u->name);
    free(u->email);
    free(u->tier);
    free(u->issuer);
    free(u->subject);
    memset(u, 0, sizeof *u);
}

void sbx_user_list_done(sbx_user_list *l)
{
    for (size_t i = 0; i < l->count; i++)
        sbx_user_done(&l->items[i]);
    free(l->items);
    memset(l, 0, sizeof *l);
}

static void read_user(const PGresult *r, int row, sbx_user *u)
{
    memset(u, 0, sizeof *u);
    store_copy(r, row, 0, u->id, sizeof u->id);
    u->name = store_str(r, row, 1);
    u->email = store_str(r, row, 2);
    store_copy(r, row, 3, u->role, sizeof u->role);
    u->tier = store_str(r, row, 4);
    u->disabled = store_int(r, row, 5) != 0;
    u->issuer = store_str(r, row, 6);
    u->subject = store_str(r, row, 7);
    u->created_us = store_us(r, row, 8);
    u->created_ms = store_ms(r, row, 8);
}

static int no_user(const char *id, sbx_err *err)
{
    return sbx_fail(err, SBX_E_NOT_FOUND, "no user %.*s", SBX_ID_LEN, id);
}

static int no_tier(const char *tier, sbx_err *err)
{
    return sbx_fail_field(err, "tier", "tier: there is no tier %.64s; see GET /tiers", tier);
}

int sbx_store_user_insert(sbx_store *s, const char *id, const sbx_user_change *c, sbx_user *ret,
                          sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, id);
    store_p_str(&p, c->name);
    store_p_str(&p, c->email);
    store_p_str(&p, c->role ? c->role : "user");
    store_p_str(&p, c->tier);
    if (store_exec(s, Q_USER_INSERT, &p, STORE_AGAIN, &r, err) != 0) {
        if (err->code == SBX_E_CONFLICT)
            sbx_fail(err, SBX_E_CONFLICT, "there is a user %.128s already", c->name);
        return -1;
    }
    if (PQntuples(r) == 0)
        return no_tier(c->tier, err);
    read_user(r, 0, ret);
    return 0;
}

int sbx_store_user_get(sbx_store *s, const char *id, sbx_user *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, id);
    if (store_exec(s, Q_USER_GET, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return no_user(id, err);
    read_user(r, 0, ret);
    return 0;
}

/* The parameters of a page, behind those of the list. */
static int add_page(store_params *p, const sbx_page *page, sbx_err *err)
{
    if (page->limit < 1 || page->limit > SBX_MAX_LIST_ITEMS + 1)
        return sbx_fail_field(err, "limit", "must be between 1 and %d", SBX_MAX_LIST_ITEMS);
    store_p_time_us(p, page->before_us);
    store_p_str(p, page->before_id ? page->before_id : "");
    store_p_int(p, page->limit);
    return 0;
}

int sbx_store_user_list(sbx_store *s, const char *name, const sbx_page *page, sbx_user_list *ret,
                        sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};
    sbx_user_list l = {0};

    store_p_str(&p, name);
    if (add_page(&p, page, err) != 0 || store_exec(s, Q_USER_LIST, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    l.items = sbx_alloc(((size_t)PQntuples(r) + 1) * sizeof *l.items);
    for (int i = 0; i < PQntuples(r); i++)
        read_user(r, i, &l.items[l.count++]);
    *ret = l;
    return 0;
}

int sbx_store_user_patch(sbx_store *s, const char *id, const sbx_user_change *c, sbx_user *ret,
                         sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    SBX_CLEANUP_VAL(sbx_user_done) sbx_user there = {0};
    store_params p = {0};

    store_p_str(&p, id);
    store_p_bool(&p, c->email_given);
    store_p_str(&p, c->email);
    store_p_str(&p, c->role);
    store_p_str(&p, c->tier);
    store_p_int(&p, c->disable ? 1 : c->enable ? 2 : 0);
    if (store_exec(s, Q_USER_PATCH, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0) {
        if (!c->tier || sbx_store_user_get(s, id, &there, err) != 0)
            return c->tier ? -1 : no_user(id, err);
        return no_tier(c->tier, err);
    }
    read_user(r, 0, ret);
    return 0;
}

int sbx_store_user_delete(sbx_store *s, const char *id, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, id);
    if (store_exec(s, Q_USER_DELETE, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return no_user(id, err);
    if (store_int(r, 0, 1) == 0)
        return sbx_fail(err, SBX_E_CONFLICT,
                        "the user has %lld sandboxes: delete them first (GET /sandboxes?owner=%.*s "
                        "lists them)",
                        (long long)store_int(r, 0, 0), SBX_ID_LEN, id);
    return 0;
}

/* The id in the only column. */
static int find(sbx_store *s, store_query q, const char *word, sbx_id *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, word);
    if (store_exec(s, q, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return sbx_fail(err, SBX_E_NOT_FOUND, "there is none");
    store_copy(r, 0, 0, ret->s, sizeof ret->s);
    return 0;
}

int sbx_store_user_find(sbx_store *s, const char *word, sbx_id *ret, sbx_err *err)
{
    return find(s, Q_USER_FIND, word, ret, err);
}

int sbx_store_owner_of(sbx_store *s, const char *id, sbx_id *ret, sbx_err *err)
{
    return find(s, Q_OWNER_OF, id, ret, err);
}

/* --- keys --- */

void sbx_api_key_done(sbx_api_key *k)
{
    free(k->name);
    free(k->prefix);
    free(k->scopes);
    memset(k, 0, sizeof *k);
}

void sbx_api_key_list_done(sbx_api_key_list *l)
{
    for (size_t i = 0; i < l->count; i++)
        sbx_api_key_done(&l->items[i]);
    free(l->items);
    memset(l, 0, sizeof *l);
}

static void read_api_key(const PGresult *r, int row, sbx_api_key *k)
{
    char kind[8];

    memset(k, 0, sizeof *k);
    store_copy(r, row, 0, k->id, sizeof k->id);
    store_copy(r, row, 1, k->user, sizeof k->user);
    k->name = store_str(r, row, 2);
    k->prefix = store_str(r, row, 3);
    k->scopes = store_str(r, row, 4);
    store_copy(r, row, 5, kind, sizeof kind);
    k->oidc = sbx_streq(kind, "oidc");
    k->created_us = store_us(r, row, 6);
    k->created_ms = store_ms(r, row, 6);
    k->expires_ms = store_ms(r, row, 7);
    k->last_used_ms = store_ms(r, row, 8);
    k->revoked_ms = store_ms(r, row, 9);
    for (int i = 0; i < SBX_RATE_COUNT; i++)
        k->rates[i] = store_int(r, row, 10 + i);
}

static int no_key(const char *id, sbx_err *err)
{
    return sbx_fail(err, SBX_E_NOT_FOUND, "no key %.*s", SBX_ID_LEN, id);
}

int sbx_store_key_make(sbx_store *s, const char *owner, const char *maker,
                       const sbx_key_secret *secret, const char *name, const char *scopes,
                       int64_t expires_ms, const int64_t *rates, sbx_api_key *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    SBX_CLEANUP_VAL(sbx_user_done) sbx_user user = {0};
    char numbers[SBX_RATE_COUNT * 24];
    store_params p = {0};

    store_p_str(&p, secret->id);
    store_p_str(&p, owner);
    store_p_str(&p, name);
    store_p_str(&p, secret->prefix);
    store_p_bytes(&p, secret->hash, SBX_HASH_BYTES);
    store_p_str(&p, scopes);
    store_p_time_us(&p, expires_ms * 1000);
    store_p_int(&p, SBX_MAX_KEYS);
    store_p_str(&p, maker);
    if (rates)
        snprintf(numbers, sizeof numbers, "{%lld,%lld,%lld}", (long long)rates[SBX_RATE_CREATES],
                 (long long)rates[SBX_RATE_EXEC], (long long)rates[SBX_RATE_READS]);
    store_p_str(&p, rates ? numbers : NULL);
    if (store_exec(s, Q_KEY_MAKE, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0) {
        if (sbx_store_user_get(s, owner, &user, err) != 0 && err->code != SBX_E_NOT_FOUND)
            return -1;
        if (!user.name || user.disabled)
            return sbx_fail_field(err, "userId",
                                  "userId: there is no such user, or it is disabled");
        return sbx_fail(err, SBX_E_QUOTA, "a user has at most %d keys; revoke some", SBX_MAX_KEYS);
    }
    read_api_key(r, 0, ret);
    return 0;
}

int sbx_store_key_get(sbx_store *s, const char *owner, const char *id, sbx_api_key *ret,
                      sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, id);
    store_p_str(&p, owner);
    if (store_exec(s, Q_KEY_GET, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return no_key(id, err);
    read_api_key(r, 0, ret);
    return 0;
}

int sbx_store_key_list(sbx_store *s, const char *owner, const sbx_page *page, sbx_api_key_list *ret,
                       sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};
    sbx_api_key_list l = {0};

    store_p_str(&p, owner);
    if (add_page(&p, page, err) != 0 || store_exec(s, Q_KEY_LIST, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    l.items = sbx_alloc(((size_t)PQntuples(r) + 1) * sizeof *l.items);
    for (int i = 0; i < PQntuples(r); i++)
        read_api_key(r, i, &l.items[l.count++]);
    *ret = l;
    return 0;
}

int sbx_store_key_revoke(sbx_store *s, const char *owner, const char *id, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    SBX_CLEANUP_VAL(sbx_api_key_done) sbx_api_key key = {0};
    store_params p = {0};

    store_p_str(&p, id);
    store_p_str(&p, owner);
    if (store_exec(s, Q_KEY_REVOKE, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r))
        return 0;
    if (sbx_store_key_get(s, owner, id, &key, err) != 0)
        return -1;
    return sbx_fail(err, SBX_E_CONFLICT,
                    "it stands for the tokens of an OpenID provider: disable the user instead");
}

int sbx_store_key_rotate(sbx_store *s, const char *owner, const char *id,
                         const sbx_key_secret *secret, int overlap_s, sbx_api_key *ret,
                         sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, id);
    store_p_str(&p, owner);
    store_p_str(&p, secret->id);
    store_p_str(&p, secret->prefix);
    store_p_bytes(&p, secret->hash, SBX_HASH_BYTES);
    store_p_int(&p, overlap_s);
    if (store_exec(s, Q_KEY_ROTATE, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return sbx_fail(err, SBX_E_CONFLICT,
                        "the key was revoked, has expired, or stands for the tokens of an OpenID "
                        "provider; make a new one with POST /keys");
    read_api_key(r, 0, ret);
    return 0;
}

int sbx_store_keys_used(sbx_store *s, const char *json, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, json);
    return store_exec(s, Q_KEYS_USED, &p, STORE_AGAIN, &r, err);
}

int sbx_store_keys_ended(sbx_store *s, const char *const *ids, size_t count,
                         void (*ended)(void *arg, const char *id), void *arg, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf list = SBX_BUF_INIT(MAX_KEYS_BYTES);
    store_params p = {0};
    char id[SBX_ID_LEN + 1];

    store_add_array(&list, ids, count);
    if (sbx_buf_failed(&list))
        return sbx_fail(err, SBX_E_INTERNAL, "too many keys at once");
    store_p_str(&p, list.data);
    if (store_exec(s, Q_KEYS_ENDED, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    for (int i = 0; i < PQntuples(r); i++) {
        store_copy(r, i, 0, id, sizeof id);
        ended(arg, id);
    }
    return 0;
}

/* --- users of an OpenID provider --- */

static int ensure(sbx_store *s, const sbx_oidc_user *u, const char *id, const char *name,
                  const unsigned char hash[SBX_HASH_BYTES], sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};
    sbx_id key = sbx_id_new();

    store_p_str(&p, id);
    store_p_str(&p, name);
    store_p_str(&p, u->admin ? "admin" : "user");
    store_p_str(&p, u->issuer);
    store_p_str(&p, u->subject);
    store_p_str(&p, u->email);
    store_p_bool(&p, u->sync_role);
    store_p_str(&p, key.s);
    store_p_bytes(&p, hash, SBX_HASH_BYTES);
    return store_exec(s, Q_OIDC_ENSURE, &p, STORE_AGAIN, &r, err);
}

int sbx_store_oidc_ensure(sbx_store *s, const sbx_oidc_user *u,
                          const unsigned char hash[SBX_HASH_BYTES], sbx_err *err)
{
    sbx_id id = sbx_id_new();
    size_t len =
        u->name ? SBX_MIN(strlen(u->name), (size_t)SBX_MAX_NAME_BYTES - SBX_ID_LEN - 1) : 0;

    if (u->name && ensure(s, u, id.s, u->name, hash, err) == 0)
        return 0;
    if (u->name && err->code != SBX_E_CONFLICT)
        return -1;
    len -= len ? sbx_utf8_tail(u->name, len) : 0;
    SBX_CLEANUP(sbx_free_str)
    char *name = sbx_asprintf("%.*s-%s", (int)len, len ? u->name : "", id.s);
    return ensure(s, u, id.s, len ? name : id.s, hash, err);
}
