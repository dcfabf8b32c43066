/* JSON Web Tokens: reading, and checking their signatures. See jwt.h. */
#include "sbx/auth/jwt.h"

#include "jwks.h"
#include "sbx/core/json.h"
#include "sbx/core/limits.h"
#include <openssl/ecdsa.h>
#include <openssl/err.h>

#define ES256_BYTES 64
#define MAX_TIME_S  INT64_C(253402300799) /* the year 9999 */

void sbx_jwt_done(sbx_jwt *t)
{
    free(t->name);
    free(t->email);
    t->name = t->email = NULL;
}

/* --- the form --- */

typedef struct parts {
    const char *at[3];
    size_t len[3];
} parts;

static bool split(const char *text, parts *ret)
{
    size_t all = strnlen(text, SBX_MAX_JWT_BYTES + 1);

    if (all > SBX_MAX_JWT_BYTES)
        return false;
    for (int i = 0; i < 3; i++) {
        ret->at[i] = text;
        ret->len[i] = strcspn(text, ".");
        text += ret->len[i];
        if (!ret->len[i] || (*text == '.') != (i < 2))
            return false;
        text++;
    }
    return true;
}

bool sbx_jwt_form(const char *text)
{
    parts p;

    return split(text, &p);
}

static int refuse(sbx_err *err, const char *why)
{
    return sbx_fail(err, SBX_E_UNAUTHORIZED, "the token is not accepted: %s", why);
}

static sbx_json *decode(const char *text, size_t len)
{
    unsigned char *bytes = sbx_alloc(len + 1);
    sbx_json *root = NULL;
    size_t n;
    sbx_err ignored;

    if (!base64url_decode(text, len, bytes, len, &n) ||
        sbx_json_parse((const char *)bytes, n, &root, &ignored) != 0)
        root = NULL;
    free(bytes);
    if (root && sbx_json_kind(root) != SBX_J_OBJ) {
        sbx_json_free(root);
        root = NULL;
    }
    return root;
}

/* --- the header --- */

static int read_header(const sbx_json *h, sbx_jwt *t, sbx_err *err)
{
    static const char *const algs[] = {"RS256", "ES256", "EdDSA"};
    const char *alg = sbx_json_str(sbx_json_get(h, "alg"));
    const sbx_json *kid = sbx_json_get(h, "kid");

    for (size_t i = 0; i < ARRAY_LEN(algs); i++)
        if (sbx_streq(alg, algs[i]))
            t->alg = algs[i];
    if (!t->alg)
        return refuse(err, "its algorithm is none of RS256, ES256 and EdDSA");
    if (sbx_json_get(h, "crit"))
        return refuse(err, "it asks for extensions (crit)");
    if (kid && (!sbx_json_str(kid) || !sbx_copy(t->kid, sizeof t->kid, sbx_json_str(kid))))
        return refuse(err, "its kid is no text, or too long");
    return 0;
}

/* --- the claims --- */

/* Is it the text, or a list that has it? */
static bool says(const sbx_json *claim, const char *text)
{
    if (!claim)
        return false;
    if (sbx_json_kind(claim) != SBX_J_ARR)
        return sbx_streq(sbx_json_str(claim), text);
    for (const sbx_json *v = sbx_json_first(claim); v; v = sbx_json_next(v))
        if (sbx_streq(sbx_json_str(v), text))
            return true;
    return false;
}

/* @return 1, 0 if it is absent, -1 if it is no time. */
static int read_time(const sbx_json *claims, const char *name, int64_t *ret)
{
    const sbx_json *v = sbx_json_get(claims, name);

    if (!v)
        return 0;
    double s = sbx_json_num(v, -1);
    if (!(s >= 0 && s <= (double)MAX_TIME_S))
        return -1;
    *ret = (int64_t)s;
    return 1;
}

static int read_times(const sbx_json *claims, int64_t now_s, sbx_jwt *t, sbx_err *err)
{
    int64_t exp = 0, nbf = 0;

    if (read_time(claims, "exp", &exp) != 1)
        return refuse(err, "it has no time of expiry (exp)");
    if (read_time(claims, "nbf", &nbf) < 0)
        return refuse(err, "its nbf is no time");
    if (exp + SBX_JWT_LEEWAY_S <= now_s)
        return refuse(err, "it has expired");
    if (nbf - SBX_JWT_LEEWAY_S > now_s)
        return refuse(err, "it is not valid yet (nbf)");
    t->ends_ms = (exp + SBX_JWT_LEEWAY_S) * 1000;
    return 0;
}

/* A text without control characters, of at most `max` bytes. */
static char *plain_text(const sbx_json *claims, const char *name, size_t max)
{
    const char *s = sbx_json_str(sbx_json_get(claims, name));
    size_t len = s ? strlen(s) : 0;

    if (len == 0 || len > max)
        return NULL;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)s[i] < ' ' || s[i] == 0x7f)
            return NULL;
    return sbx_strdup(s);
}

static int read_claims(const sbx_json *claims, const sbx_jwt_rules *rules, int64_t now_ms,
                       sbx_jwt *t, sbx_err *err)
{
    const char *sub = sbx_json_str(sbx_json_get(claims, "sub"));

    if (!sbx_streq(sbx_json_str(sbx_json_get(claims, "iss")), rules->issuer))
        return refuse(err, "it is of another issuer");
    if (!says(sbx_json_get(claims, "aud"), rules->audience))
        return refuse(err, "it is for another audience");
    if (read_times(claims, now_ms / 1000, t, err) != 0)
        return -1;
    if (!sub || !*sub || !sbx_copy(t->subject, sizeof t->subject, sub))
        return refuse(err, "it has no subject (sub), or one that is too long");
    t->admin =
        rules->admin_claim && says(sbx_json_get(claims, rules->admin_claim), rules->admin_value);
    t->email = plain_text(claims, "email", SBX_MAX_EMAIL_BYTES);
    t->name = plain_text(claims, "preferred_username", SBX_MAX_NAME_BYTES);
    if (!t->name && t->email)
        t->name = plain_text(claims, "email", SBX_MAX_NAME_BYTES);
    return 0;
}

int sbx_jwt_read(const char *text, const sbx_jwt_rules *rules, int64_t now_ms, sbx_jwt *ret,
                 sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *header = NULL;
    SBX_CLEANUP(sbx_json_free) sbx_json *claims = NULL;
    sbx_jwt t = {0};
    parts p;

    if (!split(text, &p) || !(header = decode(p.at[0], p.len[0])) ||
        !(claims = decode(p.at[1], p.len[1])) ||
        !base64url_decode(p.at[2], p.len[2], t.signature, sizeof t.signature, &t.signature_len))
        return refuse(err, "it is malformed");
    t.signed_part = text;
    t.signed_len = p.len[0] + 1 + p.len[1];
    if (read_header(header, &t, err) != 0 || read_claims(claims, rules, now_ms, &t, err) != 0) {
        sbx_jwt_done(&t);
        return -1;
    }
    *ret = t;
    return 0;
}

/* --- the signature --- */

/* NULL: there is none, or without a kid more than one. */
static const jwk *key_for(const sbx_jwt *t, const sbx_jwks *s)
{
    const jwk *found = NULL;

    for (size_t i = 0; i < s->count; i++) {
        const jwk *k = &s->keys[i];

        if (strcmp(k->alg, t->alg) != 0 || (t->kid[0] && strcmp(k->kid, t->kid) != 0))
            continue;
        if (found)
            return NULL;
        found = k;
    }
    return found;
}

bool sbx_jwt_has_key(const sbx_jwt *t, const sbx_jwks *keys)
{
    return key_for(t, keys) != NULL;
}

/* Two numbers of 32 bytes, as OpenSSL wants them. @return bytes, 0 on failure; OPENSSL_free(). */
static int to_der(const unsigned char raw[ES256_BYTES], unsigned char **ret)
{
    ECDSA_SIG *sig = ECDSA_SIG_new();
    BIGNUM *r = BN_bin2bn(raw, ES256_BYTES / 2, NULL);
    BIGNUM *s = BN_bin2bn(raw + ES256_BYTES / 2, ES256_BYTES / 2, NULL);
    int len = 0;

    *ret = NULL;
    if (sig && r && s && ECDSA_SIG_set0(sig, r, s) == 1) {
        len = i2d_ECDSA_SIG(sig, ret);
    } else {
        BN_free(r);
        BN_free(s);
    }
    ECDSA_SIG_free(sig);
    return SBX_MAX(len, 0);
}

static bool check(const sbx_jwt *t, const jwk *k, const unsigned char *signature, size_t len)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    const EVP_MD *md = strcmp(k->alg, "EdDSA") == 0 ? NULL : EVP_sha256();
    bool good = ctx && EVP_DigestVerifyInit(ctx, NULL, md, NULL, k->key) == 1 &&
                EVP_DigestVerify(ctx, signature, len, (const unsigned char *)t->signed_part,
                                 t->signed_len) == 1;

    EVP_MD_CTX_free(ctx);
    ERR_clear_error();
    return good;
}

int sbx_jwt_verify(const sbx_jwt *t, const sbx_jwks *keys, sbx_err *err)
{
    const jwk *k = key_for(t, keys);
    bool good = false;

    if (!k)
        return refuse(err, "the provider has no such key");
    if (strcmp(k->alg, "ES256") != 0) {
        good = check(t, k, t->signature, t->signature_len);
    } else if (t->signature_len == ES256_BYTES) {
        unsigned char *der;
        int len = to_der(t->signature, &der);

        good = len && check(t, k, der, (size_t)len);
        OPENSSL_free(der);
    }
    return good ? 0 : refuse(err, "its signature is wrong");
}
