/* An OpenID provider: its keys, fetched and kept, and the tokens that it signs.
 *
 * The keys are fetched at the start, every SBX_OIDC_REFRESH_MS, and when a token names one that is
 * not known: that at most once per SBX_OIDC_AGAIN_MS, once per name, and by one thread at a time. A
 * provider that cannot be reached keeps its keys for SBX_OIDC_KEEP_MS. */
#ifndef SBX_AUTH_OIDC_H
#define SBX_AUTH_OIDC_H

#include "sbx/auth/jwt.h"

#define SBX_OIDC_TICK_MS    1000 /* how often it is looked at whether one is due */
#define SBX_OIDC_REFRESH_MS 300000
#define SBX_OIDC_AGAIN_MS   10000
#define SBX_OIDC_KEEP_MS    86400000

typedef struct sbx_oidc sbx_oidc; /* any WORKER at once */

typedef struct sbx_oidc_config {
    const char *issuer, *audience; /* both must be given */
    const char *jwks_url;          /* "": as the issuer's discovery document says */
    const char *ca_path;           /* PEM file by which it is trusted; "": the system's */
    const char *admin;             /* "CLAIM=VALUE" makes administrators; "": nobody is one */
} sbx_oidc_config;

/** @return 0, or -1 with INVALID that names the option. */
int sbx_oidc_new(const sbx_oidc_config *c, sbx_oidc **ret, sbx_err *err) SBX_MUST_CHECK;
void sbx_oidc_free(sbx_oidc *o);
SBX_DEFINE_CLEANUP(sbx_oidc, sbx_oidc_free)

const char *sbx_oidc_issuer(const sbx_oidc *o);
bool sbx_oidc_names_admins(const sbx_oidc *o); /* does the provider say who is one? */

/** Whose token is it? Blocks up to 10 s when the keys have to be fetched (WORKER).
 * @param ret  sbx_jwt_done() it.
 * @return 0, or -1 with UNAUTHORIZED and why, or CAPACITY while there are no keys at all. */
int sbx_oidc_check(sbx_oidc *o, const char *token, sbx_jwt *ret, sbx_err *err) SBX_MUST_CHECK;

/** Fetch the keys if that is due: a tick. Blocks (WORKER).
 * @return 0, or -1 with what went wrong. */
int sbx_oidc_refresh(sbx_oidc *o, sbx_err *err) SBX_MUST_CHECK;

#endif
