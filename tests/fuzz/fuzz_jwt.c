/* Tokens and key sets of whoever sends them. The first byte chooses; a token is read, then held
 * against a set of fixed keys, whatever it says. */
#include "sbx/auth/jwt.h"

#define NOW_MS INT64_C(1800000000000)

static const char fixed[] = "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"d\","
                            "\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"},"
                            "{\"kty\":\"EC\",\"crv\":\"P-256\",\"kid\":\"e\","
                            "\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","
                            "\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}]}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_token(const char *text)
{
    static sbx_jwks *keys;
    const sbx_jwt_rules rules = {"i", "a", "g", "o"};
    sbx_err err;
    sbx_jwt t;

    if (!keys && sbx_jwks_parse(fixed, sizeof fixed - 1, &keys, &err) != 0)
        abort();
    (void)sbx_jwt_form(text);
    if (sbx_jwt_read(text, &rules, NOW_MS, &t, &err) != 0)
        return;
    if (sbx_jwt_verify(&t, keys, &err) == 0)
        abort(); /* nobody has the private keys */
    sbx_jwt_done(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sbx_jwks *set = NULL;
    sbx_err err;

    if (!size)
        return 0;
    if (*data & 1) {
        if (sbx_jwks_parse((const char *)data + 1, size - 1, &set, &err) == 0)
            sbx_jwks_free(set);
        return 0;
    }
    char *text = sbx_strndup((const char *)data + 1, size - 1);
    try_token(text);
    free(text);
    return 0;
}
