/* Keys and scopes, as far as they need no database: the store names a server that is not there, so
 * that whatever would ask it shows as STORE_UNAVAILABLE. */
#include "sbx/auth/auth.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <unistd.h>

#define KEY "sbx_abcdEFGH_0123456789012345678901234567890123456789"

static sbx_crypt *secrets;
static sbx_store *store;
static sbx_auth *a;
static sbx_err err;

static void setup(void)
{
    char path[] = "/tmp/sbx-test-auth-XXXXXX";
    int fd = mkstemp(path);

    for (int i = 0; i < 64; i++)
        cr_assert_eq(write(fd, "a", 1), 1);
    close(fd);
    cr_assert_eq(sbx_crypt_open(path, &secrets, &err), 0, "%s", err.msg);
    unlink(path);
    cr_assert_eq(sbx_store_new("host=/nonexistent dbname=x", NULL, secrets, &store, &err), 0);
    a = sbx_auth_new(store, secrets);
}

static void teardown(void)
{
    sbx_auth_free(a);
    sbx_store_free(store);
    sbx_crypt_free(secrets);
}

TestSuite(auth, .init = setup, .fini = teardown);

Test(auth, only_what_has_the_form_of_a_key_reaches_the_database)
{
    static const struct {
        const char *name, *authorization, *api_key;
        sbx_code want;
    } cases[] = {
        {"nothing", NULL, NULL, SBX_E_UNAUTHORIZED},
        {"bearer", "Bearer " KEY, NULL, SBX_E_STORE_UNAVAILABLE},
        {"scheme in another case", "bEARER " KEY, NULL, SBX_E_STORE_UNAVAILABLE},
        {"two spaces", "Bearer  " KEY, NULL, SBX_E_STORE_UNAVAILABLE},
        {"header of its own", NULL, KEY, SBX_E_STORE_UNAVAILABLE},
        {"both the same", "Bearer " KEY, KEY, SBX_E_STORE_UNAVAILABLE},
        {"both, different", "Bearer " KEY, "sbx_other", SBX_E_UNAUTHORIZED},
        {"both, prefix", "Bearer " KEY, KEY "0", SBX_E_UNAUTHORIZED},
        {"empty", "", NULL, SBX_E_UNAUTHORIZED},
        {"empty key", NULL, "", SBX_E_UNAUTHORIZED},
        {"scheme alone", "Bearer", NULL, SBX_E_UNAUTHORIZED},
        {"scheme and space", "Bearer ", NULL, SBX_E_UNAUTHORIZED},
        {"no space", "Bearer" KEY, NULL, SBX_E_UNAUTHORIZED},
        {"tab", "Bearer\t" KEY, NULL, SBX_E_UNAUTHORIZED},
        {"basic", "Basic " KEY, NULL, SBX_E_UNAUTHORIZED},
        {"basic hides a good header", "Basic x", KEY, SBX_E_UNAUTHORIZED},
        {"bare key", KEY, NULL, SBX_E_UNAUTHORIZED},
        {"space after", "Bearer " KEY " ", NULL, SBX_E_UNAUTHORIZED},
        {"too long", "Bearer " KEY "0", NULL, SBX_E_UNAUTHORIZED},
        {"too short", NULL, "sbx_abcdEFGH_012345678901234567890123456789012345678",
         SBX_E_UNAUTHORIZED},
        {"other start", NULL, "sbX_abcdEFGH_0123456789012345678901234567890123456789",
         SBX_E_UNAUTHORIZED},
        {"no separator", NULL, "sbx_abcdEFGHx0123456789012345678901234567890123456789",
         SBX_E_UNAUTHORIZED},
        {"bad character", NULL, "sbx_abcdEFGH_012345678901234567890123456789012345678'",
         SBX_E_UNAUTHORIZED},
        {"separator too many", NULL, "sbx_abcd_FGH_0123456789012345678901234567890123456789",
         SBX_E_UNAUTHORIZED},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_principal p = {.user = "untouched"};

        memset(&err, 0, sizeof err);
        cr_expect_eq(sbx_auth_check(a, cases[i].authorization, cases[i].api_key, &p, &err), -1);
        cr_expect_eq(err.code, cases[i].want, "%s: %s", cases[i].name, err.msg);
        cr_expect(!strstr(err.msg, "0123456789"), "%s: the key is in the message", cases[i].name);
        cr_expect_str_eq(p.user, "untouched");
    }
}

Test(auth, without_a_key_the_message_tells_how_to_send_one)
{
    sbx_principal p;

    cr_expect_eq(sbx_auth_check(a, NULL, NULL, &p, &err), -1);
    cr_expect(strstr(err.msg, "Authorization: Bearer"), "%s", err.msg);
}

Test(auth, scopes_cover_what_they_name_and_nothing_else)
{
    static const struct {
        const char *granted, *scope;
        bool ok;
    } cases[] = {
        {"*", "sandbox:write", true},
        {"sandbox:write", "sandbox:write", true},
        {"sandbox:*", "sandbox:write", true},
        {"a:b sandbox:read", "sandbox:read", true},
        {"a:b  sandbox:* ", "sandbox:read", true},
        {"sandbox:write", "sandbox:read", false},
        {"sandbox:*", "sandboxes:read", false},
        {"sandbox:*", "sandbox", false},
        {"sandbox:re", "sandbox:read", false},
        {"sandbox:reader", "sandbox:read", false},
        {"sand*", "sandbox:read", false},
        {":*", "sandbox:read", false},
        {"** *x", "sandbox:read", false},
        {"", "sandbox:read", false},
        {" ", "sandbox:read", false},
        {"exec:* file:*", "sandbox:read", false},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_principal p = {0};

        sbx_copy(p.scopes, sizeof p.scopes, cases[i].granted);
        cr_expect_eq(sbx_principal_allows(&p, cases[i].scope), cases[i].ok, "'%s' and %s",
                     cases[i].granted, cases[i].scope);
        memset(&err, 0, sizeof err);
        if (sbx_principal_require(&p, cases[i].scope, &err) != 0) {
            cr_expect_eq(err.code, SBX_E_FORBIDDEN);
            cr_expect(strstr(err.msg, cases[i].scope), "%s", err.msg);
        }
    }
}

Test(auth, a_key_with_senseless_scopes_or_name_is_not_made)
{
    static const char *const bad[] = {"",   " ",   "sandbox", "sandbox:", ":read", "a:b ", " a:b",
                                      "**", "A:b", "a:b,c:d", "a:b  c:d", "a:b*",  "a:*b"};
    char key[SBX_KEY_LEN + 1], longer[300];

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        memset(&err, 0, sizeof err);
        cr_expect_eq(
            sbx_auth_make_key(a, "ada", "user", "enterprise", "k", bad[i], key, NULL, &err), -1);
        cr_expect_eq(err.code, SBX_E_INVALID, "'%s': %s", bad[i], err.msg);
        cr_expect_str_eq(err.field, "scopes");
    }
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    cr_expect_eq(sbx_auth_make_key(a, "ada", "user", "enterprise", "k", longer, key, NULL, &err),
                 -1);
    cr_expect_eq(err.code, SBX_E_INVALID);
    cr_expect_eq(sbx_auth_make_key(a, "ada", "user", "enterprise", longer, "*", key, NULL, &err),
                 -1);
    cr_expect_str_eq(err.field, "name");
    cr_expect_eq(
        sbx_auth_make_key(a, "ada", "user", "enterprise", "k", "a:b c:* *", key, NULL, &err), -1);
    cr_expect_eq(err.code, SBX_E_STORE_UNAVAILABLE, "%s", err.msg);
}
