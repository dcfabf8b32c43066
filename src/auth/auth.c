/* API keys: parsing, a short memory, and the question to the database.
 *
 * The memory is an array of sets of four places, found by the keyed hash of what was presented, so
 * that nobody can aim at a place without the master key. It holds answers of both kinds for less
 * than a second: a flood of wrong keys can push out others, which costs statements and no memory.
 * In a set, places that ran out go first, then wrong keys, then the oldest.
 *
 * What does not have the form of a key is refused without asking anybody.
 *
 * The answers of the database also tell when a key was used, within a second; a tick writes that.
 *
 * Threads: `mu` guards the array and is never held across a statement. */
#include "auth_priv.h"
#include "sbx/core/clock.h"
#include "sbx/core/json.h"
#include "sbx/core/limits.h"
#include "sbx/store/identity.h"
#include "sbx/store/secret.h"
#include <pthread.h>
#include <strings.h>

#define REMEMBER_MS                                                                                \
    750 /* with the time that a request takes: a revoked key is good for no second */
#define SETS        1024u
#define WAYS        4u
#define CHECK_CHARS 8      /* at the end of a key: what follows from the rest */
#define MAX_USES    65536u /* not yet written; more are not told */

typedef struct answer {
    unsigned char hash[SBX_HASH_BYTES];
    int64_t until_ms; /* monotonic; 0: empty */
    bool good;
    sbx_principal who; /* also of a key that is not good any more; of an unknown one nobody */
} answer;

typedef struct use {
    char key[SBX_ID_LEN + 1];
    int64_t wall_ms;
} use;

struct sbx_auth {
    sbx_store *store;
    const sbx_crypt *crypt;
    sbx_oidc *oidc; /* or NULL; immutable once requests come */
    pthread_mutex_t mu;
    answer *answers;    /* SETS * WAYS; guarded by mu, as all below */
    uint64_t forgotten; /* how often something was */
    use *uses;
    size_t use_count, use_room;
};

sbx_auth *sbx_auth_new(sbx_store *store, const sbx_crypt *crypt)
{
    sbx_auth *a = sbx_alloc(sizeof *a);

    a->store = store;
    a->crypt = crypt;
    a->answers = sbx_alloc(SETS * WAYS * sizeof *a->answers);
    pthread_mutex_init(&a->mu, NULL);
    return a;
}

void sbx_auth_free(sbx_auth *a)
{
    if (!a)
        return;
    pthread_mutex_destroy(&a->mu);
    free(a->answers);
    free(a->uses);
    free(a);
}

void sbx_auth_set_oidc(sbx_auth *a, sbx_oidc *oidc)
{
    a->oidc = oidc;
}

/* --- the form of keys and scopes --- */

static bool alnum(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

static bool key_form(const char *key)
{
    if (strnlen(key, SBX_KEY_LEN + 1) != SBX_KEY_LEN || strncmp(key, "sbx_", 4) != 0 ||
        key[SBX_KEY_PREFIX_LEN] != '_')
        return false;
    for (size_t i = 4; i < SBX_KEY_LEN; i++) {
        if (i != SBX_KEY_PREFIX_LEN && !alnum(key[i]))
            return false;
    }
    return true;
}

static const char digits[62] = {"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"};

/* Without the bias of a remainder: bytes from 248 on are thrown away. */
static void random_alnum(char *out, size_t len)
{
    unsigned char bytes[64];
    size_t n = 0;

    while (n < len) {
        sbx_random(bytes, sizeof bytes);
        for (size_t i = 0; i < sizeof bytes && n < len; i++) {
            if (bytes[i] < 248)
                out[n++] = digits[bytes[i] % 62];
        }
    }
    sbx_wipe(bytes, sizeof bytes);
}

/* The last characters of a key. 59 bits that nobody can guess without the master key; a key that
 * passes is no good yet. */
static void check_text(const unsigned char hash[SBX_HASH_BYTES], char out[CHECK_CHARS])
{
    for (size_t i = 0; i < CHECK_CHARS; i++) {
        uint64_t word;

        memcpy(&word, hash + i % 4 * sizeof(word), sizeof(word));
        out[i] = digits[(word >> (i / 4 * 32)) % 62];
    }
}

static void check_chars(const sbx_crypt *crypt, const char *key, char out[CHECK_CHARS])
{
    unsigned char hash[SBX_HASH_BYTES];

    sbx_crypt_key_hash(crypt, key, SBX_KEY_LEN - CHECK_CHARS, hash);
    check_text(hash, out);
    sbx_wipe(hash, sizeof(hash));
}

/* Also of a key that was made before a change of the master key, while that goes on. */
static bool check_fits(const sbx_crypt *crypt, const char *key)
{
    const size_t len = SBX_KEY_LEN - CHECK_CHARS;
    unsigned char before[SBX_HASH_BYTES];
    char check[CHECK_CHARS];

    check_chars(crypt, key, check);
    if (sbx_equal_ct(check, key + len, CHECK_CHARS))
        return true;
    if (!sbx_crypt_key_hash_before(crypt, key, len, before))
        return false;
    check_text(before, check);
    return sbx_equal_ct(check, key + len, CHECK_CHARS);
}

/* Key and prefix. */
static void make_text(const sbx_crypt *crypt, char key[SBX_KEY_LEN + 1])
{
    memcpy(key, "sbx_", 4);
    random_alnum(key + 4, SBX_KEY_PREFIX_CHARS);
    key[SBX_KEY_PREFIX_LEN] = '_';
    random_alnum(key + SBX_KEY_PREFIX_LEN + 1, SBX_KEY_SECRET_CHARS - CHECK_CHARS);
    check_chars(crypt, key, key + SBX_KEY_LEN - CHECK_CHARS);
    key[SBX_KEY_LEN] = '\0';
}

static bool scope_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

/* "*", "word:*" or "word:word". */
static bool scope_form(const char *s, size_t len)
{
    size_t i = 0, j;

    if (len == 1 && s[0] == '*')
        return true;
    while (i < len && scope_char(s[i]))
        i++;
    if (i == 0 || i >= len || s[i] != ':')
        return false;
    j = ++i;
    if (len - i == 1 && s[i] == '*')
        return true;
    while (i < len && scope_char(s[i]))
        i++;
    return i > j && i == len;
}

int sbx_scopes_check(const char *scopes, sbx_err *err)
{
    size_t len = strnlen(scopes, SBX_MAX_SCOPES_BYTES + 1);

    if (len == 0 || len > SBX_MAX_SCOPES_BYTES)
        return sbx_fail_field(err, "scopes", "must have 1 to %d bytes", SBX_MAX_SCOPES_BYTES);
    for (const char *s = scopes;;) {
        size_t word = strcspn(s, " ");

        if (!scope_form(s, word))
            return sbx_fail_field(err, "scopes",
                                  "must be a list such as \"sandbox:read exec:*\", or \"*\"");
        if (!s[word])
            return 0;
        s += word + 1;
    }
}

/* --- making --- */

void sbx_auth_secret(const sbx_auth *a, sbx_secret *ret)
{
    make_text(a->crypt, ret->key);
    sbx_copy(ret->prefix, sizeof ret->prefix, ret->key);
    sbx_crypt_key_hash(a->crypt, ret->key, SBX_KEY_LEN, ret->hash);
}

void sbx_secret_wipe(sbx_secret *s)
{
    sbx_wipe(s, sizeof *s);
}

int sbx_auth_make_key(sbx_auth *a, const char *user, const char *role, const char *tier,
                      const char *name, const char *scopes, char ret_key[SBX_KEY_LEN + 1],
                      sbx_id *ret_id, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_secret_wipe) sbx_secret secret;
    sbx_id user_id, key_id;

    if (sbx_scopes_check(scopes, err) != 0)
        return -1;
    if (!name[0] || strlen(name) > SBX_MAX_NAME_BYTES || !sbx_utf8_valid(name, strlen(name)))
        return sbx_fail_field(err, "name", "must have 1 to %d bytes of UTF-8", SBX_MAX_NAME_BYTES);
    if (sbx_store_user_ensure(a->store, user, role, tier, &user_id, err) != 0)
        return -1;
    sbx_auth_secret(a, &secret);
    if (sbx_store_key_insert(a->store, user_id.s, name, secret.prefix, secret.hash, scopes, &key_id,
                             err) != 0)
        return -1;
    memcpy(ret_key, secret.key, sizeof secret.key);
    if (ret_id)
        *ret_id = key_id;
    return 0;
}

/* --- checking --- */

static int refuse(sbx_err *err)
{
    return sbx_fail(err, SBX_E_UNAUTHORIZED,
                    "the API key is not accepted: it is malformed, unknown, expired or revoked");
}

/* The credentials of "Bearer KEY"; NULL for anything else. The scheme's case does not matter. */
static const char *bearer(const char *header)
{
    if (strncasecmp(header, "Bearer", 6) != 0 || header[6] != ' ')
        return NULL;
    header += 6;
    while (*header == ' ')
        header++;
    return header;
}

static int presented(const char *authorization, const char *api_key, const char **ret, sbx_err *err)
{
    const char *key = authorization ? bearer(authorization) : api_key;

    if (!authorization && !api_key)
        return sbx_fail(err, SBX_E_UNAUTHORIZED,
                        "no API key: send Authorization: Bearer KEY or X-API-Key: KEY");
    if (!key || !key_form(key))
        return refuse(err);
    if (authorization && api_key &&
        (strnlen(api_key, SBX_KEY_LEN + 1) != SBX_KEY_LEN ||
         !sbx_equal_ct(key, api_key, SBX_KEY_LEN)))
        return refuse(err);
    *ret = key;
    return 0;
}

static answer *set_of(sbx_auth *a, const unsigned char hash[SBX_HASH_BYTES])
{
    size_t index = ((size_t)hash[0] << 8 | hash[1]) % SETS;

    return &a->answers[index * WAYS];
}

/* @return whether something is remembered. */
static bool recall(sbx_auth *a, const unsigned char hash[SBX_HASH_BYTES], bool *ret_good,
                   sbx_principal *ret)
{
    int64_t now = sbx_now_ms();
    bool known = false;
    answer *set = set_of(a, hash);

    pthread_mutex_lock(&a->mu);
    for (size_t i = 0; i < WAYS && !known; i++) {
        if (set[i].until_ms <= now || !sbx_equal_ct(set[i].hash, hash, SBX_HASH_BYTES))
            continue;
        known = true;
        *ret_good = set[i].good;
        if (set[i].good)
            *ret = set[i].who;
    }
    pthread_mutex_unlock(&a->mu);
    /* one that seems to be over is looked up: the database's clock decides, not this machine's */
    return known && !(*ret_good && ret->key_ends_ms && ret->key_ends_ms <= sbx_wall_ms());
}

/* The smaller, the sooner to be overwritten. */
static int64_t worth(const answer *x, int64_t now)
{
    if (x->until_ms <= now)
        return 0;
    return x->until_ms + (x->good ? REMEMBER_MS : 0);
}

/* When a question was sent: its answer is at least that old. */
typedef struct question {
    int64_t ms;
    uint64_t forgotten;
} question;

static question begin_question(sbx_auth *a)
{
    question q = {.ms = sbx_now_ms()};

    pthread_mutex_lock(&a->mu);
    q.forgotten = a->forgotten;
    pthread_mutex_unlock(&a->mu);
    return q;
}

/* What was forgotten since the question was sent may be what it asked for.
 * @param who  NULL: nobody knows it. */
static void remember(sbx_auth *a, const unsigned char hash[SBX_HASH_BYTES], question asked,
                     bool good, const sbx_principal *who)
{
    answer *set = set_of(a, hash), *place = set;
    int64_t now = sbx_now_ms(), until = asked.ms + REMEMBER_MS;

    pthread_mutex_lock(&a->mu);
    for (size_t i = 0; i < WAYS; i++) {
        if (sbx_equal_ct(set[i].hash, hash, SBX_HASH_BYTES)) {
            place = &set[i];
            break;
        }
        if (worth(&set[i], now) < worth(place, now))
            place = &set[i];
    }
    /* A slow question must not overwrite the answer to a later one. */
    if (asked.forgotten == a->forgotten &&
        (!sbx_equal_ct(place->hash, hash, SBX_HASH_BYTES) || place->until_ms <= until)) {
        memcpy(place->hash, hash, SBX_HASH_BYTES);
        place->until_ms = until;
        place->good = good;
        place->who = who ? *who : (sbx_principal){0};
    }
    pthread_mutex_unlock(&a->mu);
}

void sbx_auth_forget(sbx_auth *a, const char *id)
{
    pthread_mutex_lock(&a->mu);
    a->forgotten++;
    for (size_t i = 0; i < SETS * WAYS; i++) {
        answer *x = &a->answers[i];

        if (!id || sbx_streq(x->who.key, id) || sbx_streq(x->who.user, id))
            memset(x, 0, sizeof *x);
    }
    pthread_mutex_unlock(&a->mu);
}

/* --- when keys were used --- */

static void note_use(sbx_auth *a, const char *key)
{
    pthread_mutex_lock(&a->mu);
    if (a->use_count == a->use_room && a->use_room < MAX_USES) {
        a->use_room = a->use_room ? 2 * a->use_room : 64;
        a->uses = sbx_realloc(a->uses, a->use_room * sizeof *a->uses);
    }
    if (a->use_count < a->use_room) {
        use *u = &a->uses[a->use_count++];

        sbx_copy(u->key, sizeof u->key, key);
        u->wall_ms = sbx_wall_ms();
    }
    pthread_mutex_unlock(&a->mu);
}

int sbx_auth_write_uses(sbx_auth *a, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(16 * MIB);
    sbx_jw w = SBX_JW(&b);
    size_t count;

    sbx_jw_arr(&w, NULL);
    pthread_mutex_lock(&a->mu);
    count = a->use_count;
    for (size_t i = 0; i < count; i++) {
        sbx_jw_obj(&w, NULL);
        sbx_jw_str(&w, "id", a->uses[i].key);
        sbx_jw_int(&w, "ms", a->uses[i].wall_ms);
        sbx_jw_obj_end(&w);
    }
    pthread_mutex_unlock(&a->mu);
    sbx_jw_arr_end(&w);
    if (!count)
        return 0;
    if (sbx_store_keys_used(a->store, b.data, err) != 0)
        return -1;
    pthread_mutex_lock(&a->mu);
    a->use_count -= count;
    memmove(a->uses, a->uses + count, a->use_count * sizeof *a->uses);
    pthread_mutex_unlock(&a->mu);
    return 0;
}

/* --- asking --- */

void auth_principal(const sbx_key_row *row, sbx_principal *ret)
{
    memset(ret, 0, sizeof *ret);
    sbx_copy(ret->user, sizeof ret->user, row->user);
    sbx_copy(ret->owner, sizeof ret->owner, row->user);
    ret->key_ends_ms = row->expires_ms;
    ret->token_ends_ms = row->token_ms;
    sbx_copy(ret->key, sizeof ret->key, row->id);
    ret->admin = sbx_streq(row->role, "admin");
    ret->limited = row->limited;
    /* Scopes that do not fit would be cut to something else: allow nothing then. */
    if (!sbx_copy(ret->scopes, sizeof ret->scopes, row->scopes))
        ret->scopes[0] = '\0';
    memcpy(ret->rates, row->rates, sizeof ret->rates);
}

static int make_user(sbx_auth *a, const sbx_jwt *t, const unsigned char hash[SBX_HASH_BYTES],
                     sbx_err *err)
{
    sbx_oidc_user u = {.issuer = sbx_oidc_issuer(a->oidc),
                       .subject = t->subject,
                       .name = t->name,
                       .email = t->email,
                       .admin = t->admin,
                       .sync_role = sbx_oidc_names_admins(a->oidc)};

    return sbx_store_oidc_ensure(a->store, &u, hash, err);
}

/* Is the role another one than the provider says? */
static bool role_differs(const sbx_auth *a, const sbx_jwt *t, bool admin)
{
    return t && sbx_oidc_names_admins(a->oidc) && t->admin != admin;
}

/* @param t  the token of a user who is to be made, or whose role is; NULL: it is a key. */
static int look_up(sbx_auth *a, const unsigned char hash[SBX_HASH_BYTES], const sbx_jwt *t,
                   sbx_key_row *ret, sbx_err *err)
{
    bool there = sbx_store_key_by_hash(a->store, hash, ret, err) == 0;

    if (!t || (!there && err->code != SBX_E_NOT_FOUND) ||
        (there && !role_differs(a, t, sbx_streq(ret->role, "admin"))))
        return there ? 0 : -1;
    sbx_key_row_done(ret);
    return make_user(a, t, hash, err) || sbx_store_key_by_hash(a->store, hash, ret, err) ? -1 : 0;
}

static int ask(sbx_auth *a, const unsigned char hash[SBX_HASH_BYTES], const sbx_jwt *t,
               sbx_principal *ret, sbx_err *err)
{
    question asked = begin_question(a);
    sbx_key_row row = {0};
    sbx_principal who;
    sbx_err why = {0};
    bool good;

    if (look_up(a, hash, t, &row, &why) != 0) {
        if (why.code != SBX_E_NOT_FOUND)
            return sbx_fail(err, why.code, "%s", why.msg);
        remember(a, hash, asked, false, NULL);
        return refuse(err);
    }
    good = !row.expired && !row.revoked;
    auth_principal(&row, &who);
    sbx_key_row_done(&row);
    remember(a, hash, asked, good, &who);
    if (!good)
        return refuse(err);
    note_use(a, who.key);
    *ret = who;
    return 0;
}

/* --- tokens of the OpenID provider --- */

/* NULL: what is presented is no token. */
static const char *token_of(const sbx_auth *a, const char *authorization, const char *api_key)
{
    const char *text = authorization ? bearer(authorization) : api_key;

    if (!a->oidc || !text || !sbx_jwt_form(text) ||
        (authorization && api_key && strcmp(text, api_key) != 0))
        return NULL;
    return text;
}

/* What stands for the subject in the place of a key: a text of which nobody can present the hash.
 */
static void subject_hash(const sbx_auth *a, const char *subject, unsigned char out[SBX_HASH_BYTES])
{
    SBX_CLEANUP(sbx_free_str)
    char *text = sbx_asprintf("oidc\n%s\n%s", sbx_oidc_issuer(a->oidc), subject);

    sbx_crypt_key_hash(a->crypt, text, strlen(text), out);
}

static int check_token(sbx_auth *a, const char *token, sbx_principal *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_jwt_done) sbx_jwt t = {0};
    unsigned char hash[SBX_HASH_BYTES];
    sbx_principal who;
    bool good = false;

    if (sbx_oidc_check(a->oidc, token, &t, err) != 0)
        return -1;
    subject_hash(a, t.subject, hash);
    if (!recall(a, hash, &good, &who) || (good && role_differs(a, &t, who.admin))) {
        if (ask(a, hash, &t, &who, err) != 0)
            return -1;
    } else if (!good) {
        return refuse(err);
    }
    who.token_ends_ms = t.ends_ms;
    *ret = who;
    return 0;
}

/* After a change of the master key, while the former one is accepted. */
static int rehash(sbx_auth *a, const char *key, const unsigned char hash[SBX_HASH_BYTES],
                  sbx_err *err)
{
    unsigned char before[SBX_HASH_BYTES];

    if (!sbx_crypt_key_hash_before(a->crypt, key, SBX_KEY_LEN, before))
        return 0;
    return sbx_store_key_rehash(a->store, before, hash, err);
}

int sbx_auth_check(sbx_auth *a, const char *authorization, const char *api_key, sbx_principal *ret,
                   sbx_err *err)
{
    unsigned char hash[SBX_HASH_BYTES];
    sbx_principal who;
    const char *key, *token = token_of(a, authorization, api_key);
    bool good = false;

    if (token)
        return check_token(a, token, ret, err);
    if (presented(authorization, api_key, &key, err) != 0)
        return -1;
    sbx_crypt_key_hash(a->crypt, key, SBX_KEY_LEN, hash);
    if (!recall(a, hash, &good, &who)) {
        if (rehash(a, key, hash, err) != 0 || ask(a, hash, NULL, &who, err) != 0)
            return -1;
    } else if (!good) {
        return refuse(err);
    }
    *ret = who;
    return 0;
}

/* Was the last answer, however old, that it is good? */
static bool was_good(sbx_auth *a, const unsigned char hash[SBX_HASH_BYTES])
{
    answer *set = set_of(a, hash);
    bool good = false;

    pthread_mutex_lock(&a->mu);
    for (size_t i = 0; i < WAYS; i++)
        good |= set[i].good && sbx_equal_ct(set[i].hash, hash, SBX_HASH_BYTES);
    pthread_mutex_unlock(&a->mu);
    return good;
}

bool sbx_auth_genuine(sbx_auth *a, const char *authorization, const char *api_key)
{
    unsigned char hash[SBX_HASH_BYTES];
    const char *key;

    if (token_of(a, authorization, api_key))
        return true; /* its signature is judged before the database is asked */
    if (presented(authorization, api_key, &key, NULL) != 0)
        return false;
    if (check_fits(a->crypt, key))
        return true;
    sbx_crypt_key_hash(a->crypt, key, SBX_KEY_LEN, hash);
    return was_good(a, hash);
}

/* --- what it allows --- */

static bool covers(const char *granted, size_t len, const char *scope)
{
    if (len == 1 && granted[0] == '*')
        return true;
    if (len > 2 && granted[len - 1] == '*' && granted[len - 2] == ':')
        return strncmp(granted, scope, len - 1) == 0;
    return strlen(scope) == len && strncmp(granted, scope, len) == 0;
}

bool sbx_principal_allows(const sbx_principal *p, const char *scope)
{
    for (const char *s = p->scopes; *s;) {
        size_t len = strcspn(s, " ");

        if (len > 0 && covers(s, len, scope))
            return true;
        s += len;
        s += strspn(s, " ");
    }
    return false;
}

int sbx_principal_require(const sbx_principal *p, const char *scope, sbx_err *err)
{
    if (sbx_principal_allows(p, scope))
        return 0;
    return sbx_fail(err, SBX_E_FORBIDDEN, "the key lacks the scope %s", scope);
}

/* Each of them by one of its own. */
static bool all_allowed(const sbx_principal *p, const char *scopes)
{
    char scope[SBX_MAX_SCOPES_BYTES + 1];

    for (const char *s = scopes; *s; s += strspn(s, " ")) {
        size_t len = strcspn(s, " ");

        if (len >= sizeof scope)
            return false;
        memcpy(scope, s, len);
        scope[len] = '\0';
        if (!sbx_principal_allows(p, scope))
            return false;
        s += len;
    }
    return true;
}

int sbx_principal_may_give(const sbx_principal *p, const char *scopes, int64_t ends_ms,
                           sbx_err *err)
{
    if (!all_allowed(p, scopes))
        return sbx_fail(err, SBX_E_FORBIDDEN,
                        "a key gives no scope that it does not have itself: %s", p->scopes);
    if (p->key_ends_ms && (!ends_ms || ends_ms > p->key_ends_ms))
        return sbx_fail(err, SBX_E_FORBIDDEN,
                        "a key that expires gives no key that outlives it: set expiresAt");
    return 0;
}
