/* One key of a set, for whoever checks a signature. */
#ifndef JWKS_H
#define JWKS_H

#include "sbx/auth/jwt.h"
#include <openssl/evp.h>

typedef struct jwk {
    char kid[SBX_MAX_KID_BYTES + 1]; /* "": it has none */
    const char *alg;                 /* RS256, ES256, EdDSA: the only one it is for; static */
    EVP_PKEY *key;
} jwk;

struct sbx_jwks {
    jwk keys[SBX_MAX_JWKS_KEYS];
    size_t count;
};

/** Decode base64url in its one form: no padding, no bits that mean nothing. At most `cap` bytes.
 * @return false if it is none, or longer. */
bool base64url_decode(const char *text, size_t len, unsigned char *out, size_t cap, size_t *ret);

#endif
