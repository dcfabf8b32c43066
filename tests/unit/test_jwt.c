/* Tokens and key sets, with keys that OpenSSL makes here. */
#include "auth/jwks.h"
#include "sbx/core/json.h"

#include <criterion/criterion.h>
#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <stdio.h>

#define NOW_S  INT64_C(1800000000)
#define NOW_MS (NOW_S * 1000)
#define GOOD   "{\"iss\":\"https://issuer\",\"aud\":\"sandboxd\",\"sub\":\"u-1\",\"exp\":1800000100}"

static const sbx_jwt_rules rules = {"https://issuer", "sandboxd", "groups", "operators"};
static EVP_PKEY *rsa, *ec, *ed, *weak;
static sbx_err err;

static void setup(void)
{
    rsa = EVP_RSA_gen(2048);
    weak = EVP_RSA_gen(1024);
    ec = EVP_EC_gen("P-256");
    ed = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
}

static void teardown(void)
{
    EVP_PKEY_free(rsa);
    EVP_PKEY_free(weak);
    EVP_PKEY_free(ec);
    EVP_PKEY_free(ed);
}

TestSuite(jwt, .init = setup, .fini = teardown);

/* --- making --- */

static void add64(sbx_buf *b, const void *data, size_t len)
{
    sbx_buf plain = SBX_BUF_INIT(64 * KIB);

    sbx_base64_add(&plain, data, len);
    for (size_t i = 0; i < plain.len && plain.data[i] != '='; i++)
        sbx_buf_addc(b, plain.data[i] == '+' ? '-' : plain.data[i] == '/' ? '_' : plain.data[i]);
    sbx_buf_done(&plain);
}

static void sign(sbx_buf *token, EVP_PKEY *key, const EVP_MD *md)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    unsigned char sig[1024], raw[64];
    size_t len = sizeof sig;

    cr_assert_eq(EVP_DigestSignInit(ctx, NULL, md, NULL, key), 1);
    cr_assert_eq(EVP_DigestSign(ctx, sig, &len, (const unsigned char *)token->data, token->len), 1);
    EVP_MD_CTX_free(ctx);
    if (EVP_PKEY_base_id(key) == EVP_PKEY_EC) {
        const unsigned char *p = sig;
        ECDSA_SIG *s = d2i_ECDSA_SIG(NULL, &p, (long)len);

        BN_bn2binpad(ECDSA_SIG_get0_r(s), raw, 32);
        BN_bn2binpad(ECDSA_SIG_get0_s(s), raw + 32, 32);
        ECDSA_SIG_free(s);
        sbx_buf_addc(token, '.');
        add64(token, raw, sizeof raw);
        return;
    }
    sbx_buf_addc(token, '.');
    add64(token, sig, len);
}

static void begin(sbx_buf *b, const char *header, const char *claims)
{
    sbx_buf_reset(b);
    add64(b, header, strlen(header));
    sbx_buf_addc(b, '.');
    add64(b, claims, strlen(claims));
}

static const char *token(sbx_buf *b, const char *header, const char *claims, EVP_PKEY *key)
{
    begin(b, header, claims);
    sign(b, key, key == ed ? NULL : EVP_sha256());
    return b->data;
}

static void number(sbx_buf *b, const char *name, EVP_PKEY *key, const char *param)
{
    BIGNUM *n = NULL;
    unsigned char bytes[512];

    cr_assert_eq(EVP_PKEY_get_bn_param(key, param, &n), 1);
    int len = param[0] == 'q' || EVP_PKEY_base_id(key) == EVP_PKEY_EC ? BN_bn2binpad(n, bytes, 32)
                                                                      : BN_bn2bin(n, bytes);
    BN_free(n);
    sbx_buf_addf(b, ",\"%s\":\"", name);
    add64(b, bytes, (size_t)len);
    sbx_buf_addc(b, '"');
}

/* A key as a set has it, without its braces. */
static void add_key(sbx_buf *b, EVP_PKEY *key, const char *kid, const char *more)
{
    unsigned char x[32];
    size_t len = sizeof x;

    sbx_buf_addf(b, "%s{\"kid\":\"%s\"%s", b->data[b->len - 1] == '}' ? "," : "", kid, more);
    switch (EVP_PKEY_base_id(key)) {
    case EVP_PKEY_RSA:
        sbx_buf_adds(b, ",\"kty\":\"RSA\"");
        number(b, "n", key, OSSL_PKEY_PARAM_RSA_N);
        number(b, "e", key, OSSL_PKEY_PARAM_RSA_E);
        break;
    case EVP_PKEY_EC:
        sbx_buf_adds(b, ",\"kty\":\"EC\",\"crv\":\"P-256\"");
        number(b, "x", key, OSSL_PKEY_PARAM_EC_PUB_X);
        number(b, "y", key, OSSL_PKEY_PARAM_EC_PUB_Y);
        break;
    default:
        cr_assert_eq(EVP_PKEY_get_raw_public_key(key, x, &len), 1);
        sbx_buf_adds(b, ",\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"");
        add64(b, x, len);
        sbx_buf_addc(b, '"');
    }
    sbx_buf_addc(b, '}');
}

static sbx_jwks *three_keys(void)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(64 * KIB);
    sbx_jwks *s;

    sbx_buf_adds(&b, "{\"keys\":[");
    add_key(&b, rsa, "r", ",\"use\":\"sig\",\"alg\":\"RS256\"");
    add_key(&b, ec, "e", ",\"key_ops\":[\"verify\"]");
    add_key(&b, ed, "d", "");
    sbx_buf_adds(&b, "]}");
    cr_assert_eq(sbx_jwks_parse(b.data, b.len, &s, &err), 0, "%s", err.msg);
    cr_assert_eq(sbx_jwks_count(s), 3);
    return s;
}

/* NULL: accepted; else why not. */
static const char *judge(const char *text, const sbx_jwks *keys)
{
    sbx_jwt t;

    err.msg[0] = '\0';
    if (sbx_jwt_read(text, &rules, NOW_MS, &t, &err) != 0) {
        cr_expect_eq(err.code, SBX_E_UNAUTHORIZED);
        return err.msg;
    }
    int rc = sbx_jwt_verify(&t, keys, &err);
    sbx_jwt_done(&t);
    return rc ? err.msg : NULL;
}

/* --- the tests --- */

Test(jwt, each_algorithm_is_accepted_with_its_key_and_no_other)
{
    SBX_CLEANUP(sbx_jwks_free) sbx_jwks *keys = three_keys();
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(64 * KIB);
    struct {
        const char *alg, *kid;
        EVP_PKEY *key;
    } of[] = {{"RS256", "r", rsa}, {"ES256", "e", ec}, {"EdDSA", "d", ed}};
    char header[96];

    for (size_t a = 0; a < ARRAY_LEN(of); a++)
        for (size_t k = 0; k < ARRAY_LEN(of); k++) {
            snprintf(header, sizeof header, "{\"alg\":\"%s\",\"kid\":\"%s\",\"typ\":\"JWT\"}",
                     of[a].alg, of[k].kid);
            const char *why = judge(token(&b, header, GOOD, of[a].key), keys);
            cr_expect_eq(why == NULL, a == k, "%s with %s: %s", of[a].alg, of[k].kid, why);
        }
    /* Without a name, where there is only one of the kind */
    cr_expect_null(judge(token(&b, "{\"alg\":\"ES256\"}", GOOD, ec), keys));
}

Test(jwt, other_algorithms_are_refused_also_when_they_are_signed_with_what_is_public)
{
    SBX_CLEANUP(sbx_jwks_free) sbx_jwks *keys = three_keys();
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(64 * KIB);
    unsigned char *pem = NULL, mac[32];
    unsigned mac_len = 0;
    BIO *bio = BIO_new(BIO_s_mem());

    PEM_write_bio_PUBKEY(bio, rsa);
    long len = BIO_get_mem_data(bio, &pem);
    begin(&b, "{\"alg\":\"HS256\",\"kid\":\"r\"}", GOOD);
    HMAC(EVP_sha256(), pem, (int)len, (unsigned char *)b.data, b.len, mac, &mac_len);
    sbx_buf_addc(&b, '.');
    add64(&b, mac, mac_len);
    cr_expect_not_null(strstr(judge(b.data, keys), "algorithm"));
    BIO_free(bio);
    static const char *const headers[] = {
        "{\"alg\":\"none\"}",
        "{\"alg\":\"None\",\"kid\":\"r\"}",
        "{\"alg\":\"\"}",
        "{\"alg\":null}",
        "{\"kid\":\"r\"}",
        "{\"alg\":\"RS512\",\"kid\":\"r\"}",
        "{\"alg\":[\"RS256\"]}",
        "{\"alg\":\"rs256\",\"kid\":\"r\"}",
        "{\"alg\":\"PS256\",\"kid\":\"r\"}",
    };
    for (size_t i = 0; i < ARRAY_LEN(headers); i++)
        cr_expect_not_null(judge(token(&b, headers[i], GOOD, rsa), keys), "%s", headers[i]);
    begin(&b, "{\"alg\":\"none\"}", GOOD);
    sbx_buf_addc(&b, '.');
    cr_expect_not_null(judge(b.data, keys));
    cr_expect_not_null(
        judge(token(&b, "{\"alg\":\"RS256\",\"kid\":\"r\",\"crit\":[\"x\"]}", GOOD, rsa), keys));
}

Test(jwt, claims_are_held_against_the_rules)
{
    SBX_CLEANUP(sbx_jwks_free) sbx_jwks *keys = three_keys();
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(64 * KIB);
#define START "{\"iss\":\"https://issuer\",\"sub\":\"u\""
    static const struct {
        const char *claims, *why;
    } cases[] = {
        {START ",\"aud\":\"sandboxd\",\"exp\":1799999941}", NULL},
        {START ",\"aud\":\"sandboxd\",\"exp\":1799999940}", "expired"},
        {START ",\"aud\":\"sandboxd\",\"exp\":1800000100,\"nbf\":1800000060}", NULL},
        {START ",\"aud\":\"sandboxd\",\"exp\":1800000100,\"nbf\":1800000061}", "not valid yet"},
        {START ",\"aud\":\"sandboxd\",\"exp\":1800000100,\"nbf\":\"x\"}", "nbf"},
        {START ",\"aud\":\"sandboxd\"}", "exp"},
        {START ",\"aud\":\"sandboxd\",\"exp\":\"1800000100\"}", "exp"},
        {START ",\"aud\":\"sandboxd\",\"exp\":-1}", "exp"},
        {START ",\"aud\":\"sandboxd\",\"exp\":1e300}", "exp"},
        {START ",\"aud\":[\"x\",\"sandboxd\"],\"exp\":1800000100}", NULL},
        {START ",\"aud\":[\"x\"],\"exp\":1800000100}", "audience"},
        {START ",\"aud\":\"sandboxd2\",\"exp\":1800000100}", "audience"},
        {START ",\"exp\":1800000100}", "audience"},
        {"{\"iss\":\"https://issuer/\",\"sub\":\"u\",\"aud\":\"sandboxd\",\"exp\":1800000100}",
         "issuer"},
        {"{\"sub\":\"u\",\"aud\":\"sandboxd\",\"exp\":1800000100}", "issuer"},
        {"{\"iss\":\"https://issuer\",\"aud\":\"sandboxd\",\"exp\":1800000100}", "subject"},
        {"{\"iss\":\"https://issuer\",\"sub\":\"\",\"aud\":\"sandboxd\",\"exp\":1800000100}",
         "subject"},
        {"{\"iss\":\"https://issuer\",\"sub\":7,\"aud\":\"sandboxd\",\"exp\":1800000100}",
         "subject"},
        {START ",\"sub\":\"v\",\"aud\":\"sandboxd\",\"exp\":1800000100}", "malformed"},
        {"[]", "malformed"},
        {"{", "malformed"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const char *why =
            judge(token(&b, "{\"alg\":\"EdDSA\",\"kid\":\"d\"}", cases[i].claims, ed), keys);
        if (cases[i].why)
            cr_expect(why && strstr(why, cases[i].why), "%s: %s", cases[i].claims, why);
        else
            cr_expect_null(why, "%s: %s", cases[i].claims, why);
    }
}

Test(jwt, a_token_tells_its_subject_and_whether_it_is_an_administrators)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(64 * KIB);
    static const struct {
        const char *more, *name, *email;
        bool admin;
    } cases[] = {
        {"", NULL, NULL, false},
        {",\"groups\":\"operators\"", NULL, NULL, true},
        {",\"groups\":[\"x\",\"operators\"]", NULL, NULL, true},
        {",\"groups\":[\"operators2\"]", NULL, NULL, false},
        {",\"groups\":{\"operators\":true}", NULL, NULL, false},
        {",\"preferred_username\":\"ada\",\"email\":\"a@b\"", "ada", "a@b", false},
        {",\"email\":\"a@b\"", "a@b", "a@b", false},
        {",\"preferred_username\":\"a\\nb\"", NULL, NULL, false},
    };
    char claims[256];

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_jwt t;

        snprintf(claims, sizeof claims, "%.*s%s}", (int)strlen(GOOD) - 1, GOOD, cases[i].more);
        cr_assert_eq(
            sbx_jwt_read(token(&b, "{\"alg\":\"EdDSA\"}", claims, ed), &rules, NOW_MS, &t, &err), 0,
            "%s", err.msg);
        cr_expect_str_eq(t.subject, "u-1");
        cr_expect_eq(t.ends_ms, INT64_C(1800000160000));
        cr_expect_eq(t.admin, cases[i].admin, "%s", cases[i].more);
        cr_expect(t.name == cases[i].name || sbx_streq(t.name, cases[i].name), "%s", cases[i].more);
        cr_expect(t.email == cases[i].email || sbx_streq(t.email, cases[i].email));
        sbx_jwt_done(&t);
    }
}

Test(jwt, what_was_changed_is_refused_wherever_it_was)
{
    SBX_CLEANUP(sbx_jwks_free) sbx_jwks *keys = three_keys();
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(64 * KIB);
    struct {
        const char *header;
        EVP_PKEY *key;
    } of[] = {{"{\"alg\":\"RS256\",\"kid\":\"r\"}", rsa},
              {"{\"alg\":\"ES256\",\"kid\":\"e\"}", ec},
              {"{\"alg\":\"EdDSA\",\"kid\":\"d\"}", ed}};

    for (size_t a = 0; a < ARRAY_LEN(of); a++) {
        token(&b, of[a].header, GOOD, of[a].key);
        cr_assert_null(judge(b.data, keys));
        for (size_t i = 0; i < b.len; i++) {
            char was = b.data[i];

            b.data[i] = was == 'A' ? 'B' : 'A';
            cr_expect_not_null(judge(b.data, keys), "character %zu of %s", i, of[a].header);
            b.data[i] = was;
        }
        for (size_t len = b.len - 1; len > 0; len -= SBX_MIN(len, (size_t)7)) {
            char was = b.data[len];

            b.data[len] = '\0';
            cr_expect_not_null(judge(b.data, keys), "cut to %zu", len);
            b.data[len] = was;
        }
        sbx_buf_adds(&b, ".x");
        cr_expect_not_null(judge(b.data, keys));
    }
}

Test(jwt, sets_are_read_strictly_and_weak_keys_are_left_out)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(64 * KIB);
    static const char *const bad[] = {
        "",
        "{}",
        "[]",
        "{\"keys\":{}}",
        "{\"keys\":[]}",
        "{\"keys\":[1,null,\"x\",[]]}",
        "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}",
        "{\"keys\":[{\"kty\":\"RSA\",\"n\":\"AQ\",\"e\":\"AQAB\"}]}",
        "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AQ\",\"y\":\"AQ\"}]}",
        /* not on the curve */
        "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\","
        "\"x\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE\","
        "\"y\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE\"}]}",
        "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"X25519\","
        "\"x\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE\"}]}",
    };
    static const char *const unfit[] = {",\"use\":\"enc\"", ",\"key_ops\":[\"sign\"]",
                                        ",\"alg\":\"RS512\"", ",\"alg\":\"HS256\""};
    sbx_jwks *s = NULL;

    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        cr_expect_eq(sbx_jwks_parse(bad[i], strlen(bad[i]), &s, &err), -1, "%s", bad[i]);
    for (size_t i = 0; i <= ARRAY_LEN(unfit); i++) {
        sbx_buf_reset(&b);
        sbx_buf_adds(&b, "{\"keys\":[");
        add_key(&b, i < ARRAY_LEN(unfit) ? rsa : weak, "k", i < ARRAY_LEN(unfit) ? unfit[i] : "");
        sbx_buf_adds(&b, "]}");
        cr_expect_eq(sbx_jwks_parse(b.data, b.len, &s, &err), -1, "%s", b.data);
    }
}

Test(jwt, base64url_has_one_form)
{
    static const struct {
        const char *text;
        int bytes; /* -1: refused */
    } cases[] = {{"", 0},      {"AA", 1},   {"AAA", 2},    {"AAAA", 3},   {"AQ", 1},
                 {"A", -1},    {"AB", -1},  {"AAB", -1},   {"AA==", -1},  {"A+AA", -1},
                 {"A/AA", -1}, {"-_-_", 3}, {"AAAAA", -1}, {"AA AA", -1}, {"AAAAAAA", -1}};
    unsigned char out[4];
    size_t n;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        bool ok = base64url_decode(cases[i].text, strlen(cases[i].text), out, sizeof out, &n);

        cr_expect_eq(ok, cases[i].bytes >= 0, "%s", cases[i].text);
        if (ok)
            cr_expect_eq(n, (size_t)cases[i].bytes, "%s", cases[i].text);
    }
}
