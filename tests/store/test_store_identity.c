/* Users and keys as they are managed, with a real database: also statements that are run twice. */
#include "fixture.h"
#include "sbx/auth/auth.h"
#include "sbx/core/clock.h"
#include "sbx/core/limits.h"
#include "sbx/store/identity.h"

static sbx_auth *auth;

static void setup(void)
{
    migrated_database();
    auth = sbx_auth_new(store, secrets);
}

static void teardown(void)
{
    sbx_auth_free(auth);
    drop_database();
}

TestSuite(store_identity, .init = setup, .fini = teardown, .timeout = 60);

static sbx_id make_user(const char *name, sbx_user *ret)
{
    sbx_user_change c = {.name = name};
    sbx_id id = sbx_id_new();

    OK(sbx_store_user_insert(store, id.s, &c, ret, &err));
    return id;
}

static int make_key(const char *user, const sbx_secret *s, const char *id, const char *maker,
                    int64_t expires_ms, sbx_api_key *ret)
{
    sbx_key_secret secret = {id, s->prefix, s->hash};

    return sbx_store_key_make(store, user, maker, &secret, "k", "a:b c:*", expires_ms, NULL, ret,
                              &err);
}

Test(store_identity, a_user_is_made_once_by_its_id_and_its_name_is_its_own)
{
    sbx_user_change c = {.name = "eve", .email = "e@x", .role = "admin", .tier = "pro"};
    sbx_user a = {0}, b = {0};
    sbx_id id = sbx_id_new(), other = sbx_id_new();

    OK(sbx_store_user_insert(store, id.s, &c, &a, &err));
    OK(sbx_store_user_insert(store, id.s, &c, &b, &err));
    cr_expect_str_eq(a.id, b.id);
    cr_expect_str_eq(b.tier, "pro");
    cr_expect_str_eq(b.role, "admin");
    sbx_user_done(&a);
    sbx_user_done(&b);
    FAILS(sbx_store_user_insert(store, other.s, &c, &a, &err), CONFLICT);
    c = (sbx_user_change){.name = "mia", .tier = "gold"};
    FAILS(sbx_store_user_insert(store, other.s, &c, &a, &err), INVALID);
    cr_expect_str_eq(err.field, "tier");
    cr_expect_eq(sql("SELECT count(*) FROM users WHERE name = 'mia'"), 0);
}

Test(store_identity, a_change_keeps_what_is_not_given)
{
    sbx_user u = {0};
    sbx_id id = make_user("eve", &u);
    sbx_user_change c = {.email = "e@x", .email_given = true, .disable = true};

    sbx_user_done(&u);
    OK(sbx_store_user_patch(store, id.s, &c, &u, &err));
    cr_expect(u.disabled && sbx_streq(u.email, "e@x") && sbx_streq(u.tier, "free"));
    sbx_user_done(&u);
    c = (sbx_user_change){.tier = "pro"};
    OK(sbx_store_user_patch(store, id.s, &c, &u, &err));
    cr_expect(u.disabled && sbx_streq(u.email, "e@x") && sbx_streq(u.tier, "pro"));
    sbx_user_done(&u);
    c = (sbx_user_change){.email_given = true, .enable = true, .role = "admin"};
    OK(sbx_store_user_patch(store, id.s, &c, &u, &err));
    cr_expect(!u.disabled && !u.email && sbx_streq(u.role, "admin"));
    sbx_user_done(&u);
    c = (sbx_user_change){.tier = "gold"};
    FAILS(sbx_store_user_patch(store, id.s, &c, &u, &err), INVALID);
    FAILS(sbx_store_user_patch(store, "nobody", &c, &u, &err), NOT_FOUND);
}

Test(store_identity, a_user_is_deleted_without_sandboxes_and_its_name_is_free_again)
{
    sbx_user u = {0};
    sbx_id id = make_user("eve", &u), found;

    sbx_user_done(&u);
    sql("UPDATE sandboxes SET owner = '%s' WHERE id = '%s'", id.s, make_sandbox("running").s);
    FAILS(sbx_store_user_delete(store, id.s, &err), CONFLICT);
    sql("UPDATE sandboxes SET state = 'deleted'");
    for (int i = 0; i < 2; i++)
        OK(sbx_store_user_delete(store, id.s, &err));
    FAILS(sbx_store_user_delete(store, "nobody", &err), NOT_FOUND);
    FAILS(sbx_store_user_get(store, id.s, &u, &err), NOT_FOUND);
    FAILS(sbx_store_user_find(store, "eve", &found, &err), NOT_FOUND);
    sbx_id again = make_user("eve", &u);
    sbx_user_done(&u);
    OK(sbx_store_user_find(store, "eve", &found, &err));
    cr_expect_str_eq(found.s, again.s);
}

Test(store_identity, an_id_is_found_before_a_name_that_looks_like_it)
{
    sbx_user u = {0};
    sbx_id id = make_user("eve", &u), found;

    sbx_user_done(&u);
    make_user(id.s, &u);
    sbx_user_done(&u);
    OK(sbx_store_user_find(store, id.s, &found, &err));
    cr_expect_str_eq(found.s, id.s);
}

Test(store_identity, owners_are_found_by_what_they_own_but_not_of_what_waits_in_a_pool)
{
    sbx_id box = make_sandbox("running"), found;
    sbx_secret s;
    sbx_api_key k = {0};

    sbx_auth_secret(auth, &s);
    OK(make_key(owner.s, &s, sbx_id_new().s, "", 0, &k));
    OK(sbx_store_owner_of(store, box.s, &found, &err));
    cr_expect_str_eq(found.s, owner.s);
    OK(sbx_store_owner_of(store, k.id, &found, &err));
    cr_expect_str_eq(found.s, owner.s);
    sbx_api_key_done(&k);
    sql("UPDATE sandboxes SET pool = 'x' WHERE id = '%s'", box.s);
    FAILS(sbx_store_owner_of(store, box.s, &found, &err), NOT_FOUND);
    FAILS(sbx_store_owner_of(store, "nothing", &found, &err), NOT_FOUND);
}

Test(store_identity, a_key_is_made_once_by_its_hash_for_who_is_there_and_not_too_often)
{
    sbx_id id = sbx_id_new(), other = sbx_id_new();
    sbx_secret s, t;
    sbx_api_key a = {0}, b = {0};
    sbx_user u = {0};

    sbx_auth_secret(auth, &s);
    sbx_auth_secret(auth, &t);
    cr_expect_neq(memcmp(s.hash, t.hash, sizeof s.hash), 0);
    OK(make_key(owner.s, &s, id.s, "", 4102444800000, &a));
    OK(make_key(owner.s, &s, id.s, "", 4102444800000, &b));
    cr_expect_str_eq(a.id, b.id);
    cr_expect_eq(b.expires_ms, 4102444800000);
    cr_expect_str_eq(b.scopes, "a:b c:*");
    sbx_api_key_done(&a);
    sbx_api_key_done(&b);
    FAILS(make_key("nobody", &t, other.s, "", 0, &a), INVALID);
    sbx_id eve = make_user("eve", &u);
    sbx_user_done(&u);
    sql("UPDATE users SET disabled_at = now() WHERE id = '%s'", eve.s);
    FAILS(make_key(eve.s, &t, other.s, "", 0, &a), INVALID);
    sql("INSERT INTO api_keys (id, user_id, name, prefix, hash, scopes)"
        " SELECT 'k' || substr(md5(i::text), 1, 19), '%s', 'k', 'p', sha256(i::text::bytea), '*'"
        " FROM generate_series(2, %d) i",
        owner.s, SBX_MAX_KEYS);
    FAILS(make_key(owner.s, &t, other.s, "", 0, &a), QUOTA);
    sql("UPDATE api_keys SET revoked_at = now() WHERE name = 'k' AND prefix = 'p'");
    OK(make_key(owner.s, &t, other.s, "", 0, &a));
    sbx_api_key_done(&a);
}

Test(store_identity, a_key_hands_its_rates_to_those_that_it_makes_for_its_user_alone)
{
    sbx_id first = sbx_id_new(), second = sbx_id_new(), third = sbx_id_new();
    sbx_secret s;
    sbx_api_key k = {0};
    sbx_user u = {0};

    sbx_auth_secret(auth, &s);
    OK(make_key(owner.s, &s, first.s, "", 0, &k));
    sbx_api_key_done(&k);
    sql("UPDATE api_keys SET rate_exec = 7 WHERE id = '%s'", first.s);
    sbx_auth_secret(auth, &s);
    OK(make_key(owner.s, &s, second.s, first.s, 0, &k));
    sbx_api_key_done(&k);
    sbx_id eve = make_user("eve", &u);
    sbx_user_done(&u);
    sbx_auth_secret(auth, &s);
    OK(make_key(eve.s, &s, third.s, first.s, 0, &k));
    sbx_api_key_done(&k);
    cr_expect_eq(sql("SELECT rate_exec FROM api_keys WHERE id = '%s'", second.s), 7);
    cr_expect_eq(sql("SELECT count(rate_exec) FROM api_keys WHERE id = '%s'", third.s), 0);
}

static int rotate(const char *id, const sbx_secret *s, const char *new_id, int overlap_s,
                  sbx_api_key *ret)
{
    sbx_key_secret secret = {new_id, s->prefix, s->hash};

    return sbx_store_key_rotate(store, owner.s, id, &secret, overlap_s, ret, &err);
}

Test(store_identity, a_rotation_makes_one_key_and_ends_the_other_also_when_it_is_repeated)
{
    sbx_id first = sbx_id_new(), second = sbx_id_new(), third = sbx_id_new();
    sbx_secret s, t;
    sbx_api_key k = {0};

    sbx_auth_secret(auth, &s);
    sbx_auth_secret(auth, &t);
    OK(make_key(owner.s, &s, first.s, "", 4102444800000, &k));
    sbx_api_key_done(&k);
    sql("UPDATE api_keys SET rate_reads = 9 WHERE id = '%s'", first.s);
    for (int i = 0; i < 2; i++) {
        OK(rotate(first.s, &t, second.s, 0, &k));
        cr_expect_str_eq(k.id, second.s);
        cr_expect_eq(k.expires_ms, 4102444800000);
        sbx_api_key_done(&k);
    }
    cr_expect_eq(sql("SELECT count(*) FROM api_keys WHERE rate_reads = 9"), 2);
    cr_expect_eq(sql("SELECT count(*) FROM api_keys WHERE revoked_at IS NULL"), 1);
    sbx_auth_secret(auth, &s);
    FAILS(rotate(first.s, &s, third.s, 0, &k), CONFLICT);
    OK(rotate(second.s, &s, third.s, 60, &k));
    sbx_api_key_done(&k);
    cr_expect_eq(sql("SELECT count(*) FROM api_keys WHERE id = '%s' AND revoked_at IS NULL"
                     " AND expires_at BETWEEN now() + interval '50 s' AND now() + interval '60 s'",
                     second.s),
                 1);
}

static void count_ended(void *arg, const char *id)
{
    (void)id;
    ++*(int *)arg;
}

Test(store_identity, ended_keys_are_those_that_nobody_accepts)
{
    static const char *const spoil[] = {
        "UPDATE api_keys SET revoked_at = now()", "UPDATE api_keys SET expires_at = now()",
        "UPDATE users SET disabled_at = now()", "DELETE FROM api_keys"};

    for (size_t i = 0; i < ARRAY_LEN(spoil); i++) {
        sbx_id id = sbx_id_new();
        const char *ids[] = {id.s};
        sbx_secret s;
        sbx_api_key k = {0};
        int ended = 0;

        sbx_auth_secret(auth, &s);
        OK(make_key(owner.s, &s, id.s, "", 0, &k));
        sbx_api_key_done(&k);
        OK(sbx_store_keys_ended(store, ids, 1, count_ended, &ended, &err));
        cr_expect_eq(ended, 0);
        sql("%s", spoil[i]);
        OK(sbx_store_keys_ended(store, ids, 1, count_ended, &ended, &err));
        cr_expect_eq(ended, 1, "%s", spoil[i]);
        sql("UPDATE users SET disabled_at = NULL");
    }
}

Test(store_identity, uses_are_written_together_and_never_go_back)
{
    char key[SBX_KEY_LEN + 1];
    sbx_principal who;

    OK(sbx_auth_make_key(auth, "ada", "user", "enterprise", "k", "*", key, NULL, &err));
    OK(sbx_auth_write_uses(auth, &err));
    cr_expect_eq(sql("SELECT count(last_used_at) FROM api_keys"), 0);
    OK(sbx_auth_check(auth, NULL, key, &who, &err));
    OK(sbx_auth_write_uses(auth, &err));
    cr_expect_eq(sql("SELECT count(*) FROM api_keys WHERE last_used_at > now() - interval '5 s'"),
                 1);
    sql("UPDATE api_keys SET last_used_at = '2100-01-01'");
    sbx_auth_forget(auth, NULL);
    OK(sbx_auth_check(auth, NULL, key, &who, &err));
    OK(sbx_auth_write_uses(auth, &err));
    cr_expect_eq(sql("SELECT count(*) FROM api_keys WHERE last_used_at = '2100-01-01'"), 1);
}

Test(store_identity, what_is_forgotten_is_asked_again_and_nothing_else)
{
    char ada[SBX_KEY_LEN + 1], bob[SBX_KEY_LEN + 1];
    sbx_id ada_key;
    sbx_principal who;

    OK(sbx_auth_make_key(auth, "ada", "user", "enterprise", "k", "*", ada, &ada_key, &err));
    OK(sbx_auth_make_key(auth, "bob", "user", "enterprise", "k", "*", bob, NULL, &err));
    OK(sbx_auth_check(auth, NULL, bob, &who, &err));
    OK(sbx_auth_check(auth, NULL, ada, &who, &err));
    sql("DROP TABLE api_keys CASCADE"); /* so only what is remembered can be answered */
    sbx_auth_forget(auth, sbx_id_new().s);
    OK(sbx_auth_check(auth, NULL, ada, &who, &err));
    sbx_auth_forget(auth, ada_key.s);
    FAILS(sbx_auth_check(auth, NULL, ada, &who, &err), INTERNAL);
    OK(sbx_auth_check(auth, NULL, bob, &who, &err));
    sbx_auth_forget(auth, who.user);
    FAILS(sbx_auth_check(auth, NULL, bob, &who, &err), INTERNAL);
}

typedef struct asking {
    const char *key;
    int rc;
} asking;

static void *ask(void *arg)
{
    asking *a = arg;
    sbx_principal who;
    sbx_err why;

    sbx_thread_set_role(SBX_T_WORKER, "asking");
    a->rc = sbx_auth_check(auth, NULL, a->key, &who, &why);
    return NULL;
}

/* The answer to a question from before a key was revoked must not be remembered behind that. */
Test(store_identity, what_was_asked_before_it_was_forgotten_is_not_remembered)
{
    char key[SBX_KEY_LEN + 1];
    sbx_id id;
    asking a = {.key = key, .rc = -1};
    sbx_principal who;
    pthread_t thread;

    OK(sbx_auth_make_key(auth, "ada", "user", "enterprise", "k", "*", key, &id, &err));
    PGconn *pg = admin_connect(db_name);
    PQclear(PQexec(pg, "BEGIN; LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE"));
    cr_assert_eq(pthread_create(&thread, NULL, ask, &a), 0);
    EVENTUALLY(sql("SELECT count(*) FROM pg_locks WHERE NOT granted") == 1);
    sbx_auth_forget(auth, id.s);
    PQclear(PQexec(pg, "COMMIT"));
    PQfinish(pg);
    pthread_join(thread, NULL);
    cr_expect_eq(a.rc, 0);
    sql("UPDATE api_keys SET revoked_at = now()");
    FAILS(sbx_auth_check(auth, NULL, key, &who, &err), UNAUTHORIZED);
}

Test(store_identity, a_subject_is_one_user_whatever_its_name)
{
    sbx_oidc_user ada = {.issuer = "i", .subject = "1", .name = "ada", .email = "a@x"};
    unsigned char hash[SBX_HASH_BYTES] = {1}, other[SBX_HASH_BYTES] = {2};

    for (int i = 0; i < 2; i++)
        OK(sbx_store_oidc_ensure(store, &ada, hash, &err));
    cr_expect_eq(sql("SELECT count(*) FROM users WHERE issuer = 'i' AND name LIKE 'ada-%%'"), 1);
    cr_expect_eq(sql("SELECT count(*) FROM api_keys WHERE kind = 'oidc'"), 1);
    ada.subject = "2";
    ada.name = NULL;
    ada.admin = true;
    OK(sbx_store_oidc_ensure(store, &ada, other, &err));
    cr_expect_eq(sql("SELECT count(*) FROM users WHERE name = id AND role = 'admin'"), 1);
    ada.admin = false;
    OK(sbx_store_oidc_ensure(store, &ada, other, &err));
    cr_expect_eq(sql("SELECT count(*) FROM users WHERE name = id AND role = 'admin'"), 1);
    ada.sync_role = true;
    OK(sbx_store_oidc_ensure(store, &ada, other, &err));
    cr_expect_eq(sql("SELECT count(*) FROM users WHERE name = id AND role = 'user'"), 1);
}
