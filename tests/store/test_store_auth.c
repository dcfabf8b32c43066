/* API keys with a real database: made, accepted, remembered for a second, revoked. */
#include "fixture.h"
#include "sbx/auth/auth.h"

static proxy p;
static char proxy_url[512];
static sbx_auth *auth;

static void setup(void)
{
    migrated_database();
    sbx_store_free(store);
    proxy_start(&p, proxy_url, sizeof proxy_url);
    OK(sbx_store_new(proxy_url, NULL, secrets, &store, &err));
    auth = sbx_auth_new(store, secrets);
}

static void teardown(void)
{
    sbx_auth_free(auth);
    sbx_store_free(store);
    store = NULL;
    proxy_end(&p);
    drop_database();
}

TestSuite(store_auth, .init = setup, .fini = teardown, .timeout = 60);

Test(store_auth, a_key_is_accepted_and_says_who_it_is)
{
    char key[SBX_KEY_LEN + 1], header[80];
    sbx_principal who;
    sbx_id id;

    OK(sbx_auth_make_key(auth, "root", "admin", "enterprise", "first", "sandbox:* exec:run", key,
                         &id, &err));
    cr_expect_eq(strlen(key), (size_t)SBX_KEY_LEN);
    snprintf(header, sizeof header, "Bearer %s", key);
    for (int i = 0; i < 2; i++) {
        memset(&who, 0xff, sizeof who);
        OK(sbx_auth_check(auth, i ? NULL : header, i ? key : NULL, &who, &err));
        cr_expect(who.admin);
        cr_expect_str_eq(who.key, id.s);
        cr_expect(sbx_id_valid(who.user));
        cr_expect(sbx_principal_allows(&who, "sandbox:write"));
        cr_expect(!sbx_principal_allows(&who, "exec:write"));
    }
    /* The database knows the hash and the first characters only. */
    cr_expect_eq(sql("SELECT count(*) FROM api_keys WHERE prefix = left('%s', 12)", key), 1);
    cr_expect_eq(sql("SELECT count(*) FROM api_keys WHERE api_keys::text LIKE '%%%s%%'",
                     key + SBX_KEY_PREFIX_LEN + 1),
                 0);
}

Test(store_auth, keys_differ_and_their_user_is_the_same)
{
    char a[SBX_KEY_LEN + 1], b[SBX_KEY_LEN + 1];
    sbx_principal pa, pb;

    OK(sbx_auth_make_key(auth, "ada", "user", "enterprise", "one", "*", a, NULL, &err));
    OK(sbx_auth_make_key(auth, "ada", "user", "enterprise", "two", "*", b, NULL, &err));
    OK(sbx_auth_check(auth, NULL, a, &pa, &err));
    OK(sbx_auth_check(auth, NULL, b, &pb, &err));
    cr_expect_str_neq(a, b);
    cr_expect_str_eq(pa.user, pb.user);
    cr_expect_str_eq(pa.user, owner.s);
    cr_expect_str_neq(pa.key, pb.key);
    cr_expect(!pa.admin);
}

Test(store_auth, unknown_revoked_expired_and_disabled_are_refused_with_one_text)
{
    static const char *const spoil[] = {
        "UPDATE api_keys SET revoked_at = now()",
        "UPDATE api_keys SET expires_at = now()",
        "UPDATE users SET disabled_at = now() WHERE name = 'ada'",
        "DELETE FROM api_keys",
    };
    char key[SBX_KEY_LEN + 1], text[400] = "";
    sbx_principal who;

    for (size_t i = 0; i < ARRAY_LEN(spoil); i++) {
        sql("UPDATE users SET disabled_at = NULL");
        OK(sbx_auth_make_key(auth, "ada", "user", "enterprise", "k", "*", key, NULL, &err));
        OK(sbx_auth_check(auth, NULL, key, &who, &err));
        sql("%s", spoil[i]);
        int64_t since = sbx_now_ms();
        EVENTUALLY(sbx_auth_check(auth, NULL, key, &who, &err) != 0);
        cr_expect_lt(sbx_now_ms() - since, 1500, "%s took effect late", spoil[i]);
        cr_expect_eq(err.code, SBX_E_UNAUTHORIZED, "%s", err.msg);
        if (text[0])
            cr_expect_str_eq(err.msg, text);
        sbx_copy(text, sizeof text, err.msg);
    }
    FAILS(sbx_auth_check(auth, NULL, "malformed", &who, &err), UNAUTHORIZED);
    cr_expect_str_eq(err.msg, text);
}

Test(store_auth, what_was_asked_is_remembered_for_a_second_without_a_database)
{
    char key[SBX_KEY_LEN + 1];
    char wrong[] = "sbx_abcdEFGH_0123456789012345678901234567890123456789";
    sbx_principal who;

    OK(sbx_auth_make_key(auth, "ada", "user", "enterprise", "k", "*", key, NULL, &err));
    OK(sbx_auth_check(auth, NULL, key, &who, &err));
    FAILS(sbx_auth_check(auth, NULL, wrong, &who, &err), UNAUTHORIZED);
    proxy_down(&p);
    OK(sbx_auth_check(auth, NULL, key, &who, &err));
    FAILS(sbx_auth_check(auth, NULL, wrong, &who, &err), UNAUTHORIZED);
    EVENTUALLY(sbx_auth_check(auth, NULL, key, &who, &err) != 0 &&
               err.code == SBX_E_STORE_UNAVAILABLE);
    EVENTUALLY(sbx_auth_check(auth, NULL, wrong, &who, &err) != 0 &&
               err.code == SBX_E_STORE_UNAVAILABLE);
    proxy_run(&p);
    EVENTUALLY(sbx_auth_check(auth, NULL, key, &who, &err) == 0);
}

Test(store_auth, a_flood_of_wrong_keys_leaves_the_right_one_working)
{
    char key[SBX_KEY_LEN + 1], wrong[SBX_KEY_LEN + 1];
    sbx_principal who;

    OK(sbx_auth_make_key(auth, "ada", "user", "enterprise", "k", "*", key, NULL, &err));
    for (int i = 0; i < 6000; i++) {
        snprintf(wrong, sizeof wrong, "sbx_abcdEFGH_%040d", i);
        FAILS(sbx_auth_check(auth, NULL, wrong, &who, &err), UNAUTHORIZED);
        if (i % 500 == 0)
            OK(sbx_auth_check(auth, NULL, key, &who, &err));
    }
}

static void *check_thread(void *arg)
{
    sbx_principal who;
    sbx_err e = {0};

    for (int i = 0; i < 2000; i++) {
        if (sbx_auth_check(auth, NULL, arg, &who, &e) != 0 || !sbx_streq(who.user, owner.s))
            return arg;
    }
    return NULL;
}

Test(store_auth, many_threads_share_the_memory)
{
    char key[SBX_KEY_LEN + 1];
    pthread_t threads[6];
    void *failed;

    OK(sbx_auth_make_key(auth, "ada", "user", "enterprise", "k", "*", key, NULL, &err));
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        pthread_create(&threads[i], NULL, check_thread, key);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++) {
        pthread_join(threads[i], &failed);
        cr_expect_null(failed);
    }
}
