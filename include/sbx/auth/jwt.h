/* JSON Web Tokens (RFC 7519) that are signed with a key of a JSON Web Key Set (RFC 7517).
 *
 * The algorithm follows from the key, never from the token: RS256 of RSA keys from 2,048 bits,
 * ES256 of P-256 keys, EdDSA of Ed25519 keys; a token that names another one is refused, as are
 * `none` and all that is symmetric. What a token says about where its key is to be found is not
 * looked at. Everything is bounded and strictly read: base64url without padding in its one form,
 * JSON without duplicate names. */
#ifndef SBX_AUTH_JWT_H
#define SBX_AUTH_JWT_H

#include "sbx/core/buf.h"
#include "sbx/core/error.h"

#define SBX_MAX_JWT_BYTES     (8 * KIB)
#define SBX_MAX_JWKS_BYTES    (256 * KIB)
#define SBX_MAX_JWKS_KEYS     64
#define SBX_MAX_KID_BYTES     255
#define SBX_MAX_SUBJECT_BYTES 255
#define SBX_JWT_LEEWAY_S      60 /* between the clocks of the provider and of this machine */

typedef struct sbx_jwks sbx_jwks; /* immutable; any thread */

/** Read a set. Keys that could not sign a token here (of another type, too weak, for encryption)
 * are left out.
 * @return 0, or -1 with INVALID: it is no set, or no key is left. */
int sbx_jwks_parse(const char *json, size_t len, sbx_jwks **ret, sbx_err *err) SBX_MUST_CHECK;
void sbx_jwks_free(sbx_jwks *s);
SBX_DEFINE_CLEANUP(sbx_jwks, sbx_jwks_free)
size_t sbx_jwks_count(const sbx_jwks *s);

/* What a token must say. All borrowed. */
typedef struct sbx_jwt_rules {
    const char *issuer, *audience;
    const char *admin_claim, *admin_value; /* who says so is an administrator; NULL: nobody */
} sbx_jwt_rules;

typedef struct sbx_jwt {
    char kid[SBX_MAX_KID_BYTES + 1]; /* "": the token names no key */
    char subject[SBX_MAX_SUBJECT_BYTES + 1];
    char *name, *email; /* what to call the subject, or NULL; owned */
    bool admin;
    int64_t ends_ms; /* wall clock, with the leeway */
    const char *alg; /* static */
    const char *signed_part;
    size_t signed_len; /* borrowed from the token, as what it belongs to */
    unsigned char signature[1024];
    size_t signature_len;
} sbx_jwt;
void sbx_jwt_done(sbx_jwt *t);

/** Has it the form of a token, whatever it says? "xxx.yyy.zzz" */
bool sbx_jwt_form(const char *text);

/** Read a token and hold it against the rules; its signature is not looked at.
 * @param text  stays until sbx_jwt_verify(). @param now_ms  wall clock.
 * @return 0, or -1 with UNAUTHORIZED and why. */
int sbx_jwt_read(const char *text, const sbx_jwt_rules *rules, int64_t now_ms, sbx_jwt *ret,
                 sbx_err *err) SBX_MUST_CHECK;

/** Is there a key for it? Without a `kid` the set must have exactly one of its algorithm. */
bool sbx_jwt_has_key(const sbx_jwt *t, const sbx_jwks *keys);

/** Check the signature.
 * @return 0, or -1 with UNAUTHORIZED. */
int sbx_jwt_verify(const sbx_jwt *t, const sbx_jwks *keys, sbx_err *err) SBX_MUST_CHECK;

#endif
