/* API keys: making them, recognising them, and what they allow.
 *
 * A key is `sbx_PPPPPPPP_SSSS…`: 8 characters by which people recognise it and 40 that are secret,
 * all of [A-Za-z0-9]; the last 8 follow from the others by a keyed hash, so that a key that was
 * made here is told from one that was made up without asking anybody (keys of older releases lack
 * that). The database holds its keyed hash only. What a check found is remembered for at most one
 * second, so that a revoked key works for a second at most and a busy client costs one statement a
 * second.
 */
#ifndef SBX_AUTH_AUTH_H
#define SBX_AUTH_AUTH_H

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
    char key[SBX_ID_LEN + 1]; /* id of the key, not the key */
    bool admin;               /* may see what others own */
    char scopes[SBX_MAX_SCOPES_BYTES + 1];
    int64_t rates[SBX_RATE_COUNT]; /* requests a minute; 0: no limit, SBX_RATE_DEFAULT */
} sbx_principal;

/** @param store, crypt  borrowed; outlive the result. */
sbx_auth *sbx_auth_new(sbx_store *store, const sbx_crypt *crypt);
void sbx_auth_free(sbx_auth *a);
SBX_DEFINE_CLEANUP(sbx_auth, sbx_auth_free)

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

/** Who presents this key? Blocks if the answer is not remembered (WORKER).
 * @param authorization  the Authorization header or NULL. @param api_key  X-API-Key or NULL. If
 *        both are given they must hold the same key.
 * @return 0, or -1 with UNAUTHORIZED (one text for every key that is not accepted) or
 *         STORE_UNAVAILABLE and the like when the database cannot be asked. */
int sbx_auth_check(sbx_auth *a, const char *authorization, const char *api_key, sbx_principal *ret,
                   sbx_err *err) SBX_MUST_CHECK;

/** May what is presented be good, as far as can be said without the database? True for keys that
 * were made here, revoked or not, and for those that were found good not long ago. Never blocks. */
bool sbx_auth_genuine(sbx_auth *a, const char *authorization, const char *api_key);

/** Do the scopes of the key cover `scope` ("sandbox:write")? */
bool sbx_principal_allows(const sbx_principal *p, const char *scope);

/** The same as an error: FORBIDDEN that names the scope. */
int sbx_principal_require(const sbx_principal *p, const char *scope, sbx_err *err) SBX_MUST_CHECK;

#endif
