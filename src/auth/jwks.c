/* JSON Web Key Sets: see jwt.h. What a provider serves is trusted to be its own (by TLS), not to be
 * well formed. */
#include "jwks.h"

#include "sbx/core/json.h"
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/param_build.h>

#define MIN_RSA_BITS 2048
#define MAX_RSA_BITS 8192
#define P256_BYTES   32
#define ED_BYTES     32

/* --- base64url --- */

static int digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '-' ? 62 : c == '_' ? 63 : -1;
}

bool base64url_decode(const char *text, size_t len, unsigned char *out, size_t cap, size_t *ret)
{
    uint32_t bits = 0;
    unsigned have = 0;
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        int d = digit(text[i]);

        if (d < 0)
            return false;
        bits = bits << 6 | (uint32_t)d;
        have += 6;
        if (have < 8)
            continue;
        if (n == cap)
            return false;
        have -= 8;
        out[n++] = (unsigned char)(bits >> have);
    }
    if (have == 6 || (bits & ((1u << have) - 1)))
        return false;
    *ret = n;
    return true;
}

/* A member that is base64url, of 1 to `cap` bytes. */
static bool bytes_of(const sbx_json *k, const char *name, unsigned char *out, size_t cap,
                     size_t *ret)
{
    const char *text = sbx_json_str(sbx_json_get(k, name));

    return text && base64url_decode(text, strlen(text), out, cap, ret) && *ret > 0;
}

/* --- keys --- */

static EVP_PKEY *from_params(const char *type, OSSL_PARAM_BLD *build)
{
    OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(build);
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
    EVP_PKEY *key = NULL;

    if (!params || !ctx || EVP_PKEY_fromdata_init(ctx) != 1 ||
        EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_PUBLIC_KEY, params) != 1)
        key = NULL;
    EVP_PKEY_CTX_free(ctx);
    OSSL_PARAM_free(params);
    return key;
}

static bool is_sound(EVP_PKEY *key)
{
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL);
    bool sound = ctx && EVP_PKEY_public_check(ctx) == 1;

    EVP_PKEY_CTX_free(ctx);
    return sound;
}

static EVP_PKEY *read_rsa(const sbx_json *k)
{
    unsigned char n[MAX_RSA_BITS / 8 + 1], e[8];
    size_t n_len, e_len;
    EVP_PKEY *key = NULL;

    if (!bytes_of(k, "n", n, sizeof n, &n_len) || !bytes_of(k, "e", e, sizeof e, &e_len))
        return NULL;
    OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
    BIGNUM *bn = BN_bin2bn(n, (int)n_len, NULL), *be = BN_bin2bn(e, (int)e_len, NULL);
    if (build && bn && be && BN_num_bits(bn) >= MIN_RSA_BITS && BN_num_bits(bn) <= MAX_RSA_BITS &&
        BN_is_odd(bn) && BN_is_odd(be) && !BN_is_one(be) &&
        OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_N, bn) == 1 &&
        OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_E, be) == 1)
        key = from_params("RSA", build);
    BN_free(bn);
    BN_free(be);
    OSSL_PARAM_BLD_free(build);
    return key;
}

static EVP_PKEY *read_ec(const sbx_json *k)
{
    unsigned char point[1 + 2 * P256_BYTES] = {4}; /* not compressed */
    size_t x_len, y_len;
    EVP_PKEY *key = NULL;

    if (!sbx_streq(sbx_json_str(sbx_json_get(k, "crv")), "P-256") ||
        !bytes_of(k, "x", point + 1, P256_BYTES, &x_len) || x_len != P256_BYTES ||
        !bytes_of(k, "y", point + 1 + P256_BYTES, P256_BYTES, &y_len) || y_len != P256_BYTES)
        return NULL;
    OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
    if (build &&
        OSSL_PARAM_BLD_push_utf8_string(build, OSSL_PKEY_PARAM_GROUP_NAME, "prime256v1", 0) == 1 &&
        OSSL_PARAM_BLD_push_octet_string(build, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof point) == 1)
        key = from_params("EC", build);
    OSSL_PARAM_BLD_free(build);
    if (key && !is_sound(key)) {
        EVP_PKEY_free(key);
        key = NULL;
    }
    return key;
}

static EVP_PKEY *read_okp(const sbx_json *k)
{
    unsigned char x[ED_BYTES];
    size_t len;

    if (!sbx_streq(sbx_json_str(sbx_json_get(k, "crv")), "Ed25519") ||
        !bytes_of(k, "x", x, sizeof x, &len) || len != ED_BYTES)
        return NULL;
    return EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, x, sizeof x);
}

static bool for_signatures(const sbx_json *k, const char *alg)
{
    const sbx_json *use = sbx_json_get(k, "use"), *ops = sbx_json_get(k, "key_ops"),
                   *of = sbx_json_get(k, "alg");
    bool verify = !ops;

    for (const sbx_json *op = sbx_json_first(ops); op; op = sbx_json_next(op))
        verify |= sbx_streq(sbx_json_str(op), "verify");
    return verify && (!use || sbx_streq(sbx_json_str(use), "sig")) &&
           (!of || sbx_streq(sbx_json_str(of), alg));
}

static bool read_key(const sbx_json *k, jwk *ret)
{
    static const struct {
        const char *type, *alg;
        EVP_PKEY *(*read)(const sbx_json *k);
    } types[] = {{"RSA", "RS256", read_rsa}, {"EC", "ES256", read_ec}, {"OKP", "EdDSA", read_okp}};
    const char *type = sbx_json_str(sbx_json_get(k, "kty"));
    const sbx_json *kid = sbx_json_get(k, "kid");

    *ret = (jwk){0};
    if (kid && (!sbx_json_str(kid) || !sbx_copy(ret->kid, sizeof ret->kid, sbx_json_str(kid))))
        return false;
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        if (!sbx_streq(type, types[i].type) || !for_signatures(k, types[i].alg))
            continue;
        ret->alg = types[i].alg;
        ret->key = types[i].read(k);
        ERR_clear_error();
    }
    return ret->key != NULL;
}

int sbx_jwks_parse(const char *json, size_t len, sbx_jwks **ret, sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    SBX_CLEANUP(sbx_jwks_free) sbx_jwks *s = sbx_alloc(sizeof *s);

    if (len > SBX_MAX_JWKS_BYTES)
        return sbx_fail(err, SBX_E_INVALID, "the key set is larger than %u bytes",
                        SBX_MAX_JWKS_BYTES);
    if (sbx_json_parse(json, len, &root, err) != 0)
        return -1;
    const sbx_json *keys = sbx_json_get(root, "keys");
    if (!keys || sbx_json_kind(keys) != SBX_J_ARR)
        return sbx_fail(err, SBX_E_INVALID, "it is no key set: \"keys\" is missing");
    for (const sbx_json *k = sbx_json_first(keys); k && s->count < SBX_MAX_JWKS_KEYS;
         k = sbx_json_next(k))
        s->count += read_key(k, &s->keys[s->count]);
    if (!s->count)
        return sbx_fail(err, SBX_E_INVALID, "the set has no key for RS256, ES256 or EdDSA");
    *ret = sbx_steal(s);
    return 0;
}

void sbx_jwks_free(sbx_jwks *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->count; i++)
        EVP_PKEY_free(s->keys[i].key);
    free(s);
}

size_t sbx_jwks_count(const sbx_jwks *s)
{
    return s->count;
}
