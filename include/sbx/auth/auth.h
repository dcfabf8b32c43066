/* API keys: making them, recognising them, and what they allow.
 *
 * A key is `sbx_PPPPPPPP_SSSS…`: 8 characters by which people recognise it and 40 that are secret,
 * all of [A-Za-z0-9]; the last 8 follow from the others by a keyed hash, so that a key that was
 * made here is told from one that was made up without asking anybody (keys of older releases lack
 * that). The database holds its keyed hash only. What a check found is remembered for 750 ms, so a
 * busy client costs four statements in three seconds; workers that revoke tell the others to
 * forget, and a worker that nothing can be told still refuses within that time.
 */
#ifndef SBX_AUTH_AUTH_H
#define SBX_AUTH_AUTH_H

#include "sbx/auth/oidc.h"
#include "sbx/core/rates.h"
#include "sbx/store/store.h"

#define SBX_KEY_PREFIX_CHARS 8
#define SBX_KEY_SECRET_CHARS 40
#define SBX_KEY_PREFIX_LEN   (4 + SBX_KEY_PREFIX_CHARS) /* "sbx_PPPPPPPP" */
#define SBX_KEY_LEN          (SBX_KEY_PREFIX_LEN + 1 + SBX_KEY_SECRET_CHARS)
#define SBX_MAX_SCOPES_BYTES 255

typedef struct sbx_auth sbx_auth; /* any WORKER at once */

/* Who asks. A plain value. */
typedef struct sbx_principal {
    char user[SBX_ID_LEN + 1];
    char owner[SBX_ID_LEN + 1]; /* whose objects are asked for: the user, unless he is an
                                   administrator who names those of somebody else */
    char key[SBX_ID_LEN + 1];   /* id of the key, not the key */
    bool admin;                 /* may see what others own */
    int64_t key_ends_ms;        /* wall clock; 0: never */
    int64_t token_ends_ms;      /* the same of the token that was presented; 0: it was a key */
    bool limited;               /* the user's tier limits how many runs there are */
    char scopes[SBX_MAX_SCOPES_BYTES + 1];
    int64_t rates[SBX_RATE_COUNT]; /* requests a minute; 0: no limit, SBX_RATE_DEFAULT */
} sbx_principal;

/** @param store, crypt  borrowed; outlive the result. */
sbx_auth *sbx_auth_new(sbx_store *store, const sbx_crypt *crypt);
void sbx_auth_free(sbx_auth *a);
SBX_DEFINE_CLEANUP(sbx_auth, sbx_auth_free)

/** Take tokens of an OpenID provider in the place of keys, too. Before the first check.
 * @param oidc  borrowed; outlives `a`. */
void sbx_auth_set_oidc(sbx_auth *a, sbx_oidc *oidc);

/** Make a key, and its user if the name is new. Blocks (WORKER or a command).
 * @param user    name of the user. @param role  "user" or "admin".
 * @param tier    name of a tier; NULL: whatever the user has, a new one `free`.
 * @param name    of the key, 1..SBX_MAX_NAME_BYTES bytes.
 * @param scopes  space-separated: "*", "sandbox:*", "sandbox:read".
 * @param ret_key the key's text, shown once and to be wiped. @param ret_id  id of the key or NULL.
 * @return 0, or -1 with INVALID (a field), CONFLICT (the user has another role or tier) or what the
 *         store fails with. */
int sbx_auth_make_key(sbx_auth *a, const char *user, const char *role, const char *tier,
                      const char *name, const char *scopes, char ret_key[SBX_KEY_LEN + 1],
                      sbx_id *ret_id, sbx_err *err) SBX_MUST_CHECK;

/* A new secret, which belongs to no key yet. */
typedef struct sbx_secret {
    char key[SBX_KEY_LEN + 1]; /* to be shown once, and wiped */
    char prefix[SBX_KEY_PREFIX_LEN + 1];
    unsigned char hash[SBX_HASH_BYTES];
} sbx_secret;
void sbx_auth_secret(const sbx_auth *a, sbx_secret *ret);
void sbx_secret_wipe(sbx_secret *s); /* for SBX_CLEANUP_VAL */

/** Are these scopes well formed ("sandbox:*", "sandbox:read", "*", with blanks between)?
 * @return 0, or -1 with INVALID (the field "scopes"). */
int sbx_scopes_check(const char *scopes, sbx_err *err) SBX_MUST_CHECK;

/** May the key give `scopes` until `ends_ms` (0: for ever) to another one? Neither may be more than
 * its own; what a token may do does not end with the token.
 * @return 0, or -1 with FORBIDDEN. */
int sbx_principal_may_give(const sbx_principal *p, const char *scopes, int64_t ends_ms,
                           sbx_err *err) SBX_MUST_CHECK;

/** Forget what was answered about a key or about the keys of a user, and what is being asked: the
 * next check asks the database. Any thread; never blocks.
 * @param id  of the key or of the user; NULL: forget all. */
void sbx_auth_forget(sbx_auth *a, const char *id);

/** Write when keys were used since the last time: every few seconds, one run at a time. Blocks
 * (WORKER). On failure the next run does it. */
int sbx_auth_write_uses(sbx_auth *a, sbx_err *err) SBX_MUST_CHECK;

/** Who presents this key, or token of the OpenID provider? The subject of a token becomes a user at
 * first sight. Blocks if the answer is not remembered (WORKER).
 * @param authorization  the Authorization header or NULL. @param api_key  X-API-Key or NULL. If
 *        both are given they must hold the same key.
 * @return 0, or -1 with UNAUTHORIZED (one text for every key that is not accepted) or
 *         STORE_UNAVAILABLE and the like when the database or the provider cannot be asked. */
int sbx_auth_check(sbx_auth *a, const char *authorization, const char *api_key, sbx_principal *ret,
                   sbx_err *err) SBX_MUST_CHECK;

/** May what is presented be good, as far as can be said without the database? True for keys that
 * were made here, revoked or not, for those that were found good not long ago, and for what has the
 * form of a token, if there is a provider. Never blocks. */
bool sbx_auth_genuine(sbx_auth *a, const char *authorization, const char *api_key);

/** Do the scopes of the key cover `scope` ("sandbox:write")? */
bool sbx_principal_allows(const sbx_principal *p, const char *scope);

/** The same as an error: FORBIDDEN that names the scope. */
int sbx_principal_require(const sbx_principal *p, const char *scope, sbx_err *err) SBX_MUST_CHECK;

#endif
