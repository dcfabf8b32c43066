/* Migrations and the presence of workers, against a real server. */
#include "fixture.h"
#include "store/link.h"
#include "store/migrations.h"

TestSuite(store_migrate, .init = empty_database, .fini = drop_database, .timeout = 60);

Test(store_migrate, applies_all_once_and_then_nothing)
{
    int applied = -1;

    FAILS(sbx_store_check(store, &err), INTERNAL);
    cr_expect(strstr(err.msg, "sandboxd migrate"), "%s", err.msg);
    OK(sbx_store_migrate(store, &applied, &err));
    cr_expect_eq(applied, (int)store_migration_count);
    OK(sbx_store_check(store, &err));
    OK(sbx_store_migrate(store, &applied, &err));
    cr_expect_eq(applied, 0);
    cr_expect_eq(sql("SELECT count(*) FROM schema_migrations"), (int64_t)store_migration_count);
}

static void *migrate_thread(void *arg)
{
    sbx_store *s = NULL;
    sbx_err e = {0};
    int *n = arg;

    if (sbx_store_new(db_url, NULL, secrets, &s, &e) != 0 || sbx_store_migrate(s, n, &e) != 0)
        *n = -1;
    sbx_store_free(s);
    return NULL;
}

Test(store_migrate, four_at_once_apply_each_migration_once)
{
    pthread_t threads[4];
    int applied[4], sum = 0;

    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, migrate_thread, &applied[i]);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        cr_expect_geq(applied[i], 0);
        sum += applied[i];
    }
    cr_expect_eq(sum, (int)store_migration_count);
}

Test(store_migrate, a_changed_text_is_refused)
{
    int applied = 0;

    OK(sbx_store_migrate(store, &applied, &err));
    sql("UPDATE schema_migrations SET checksum = repeat('0', 64) WHERE version = 1");
    FAILS(sbx_store_migrate(store, &applied, &err), CONFLICT);
    cr_expect(strstr(err.msg, "0001_base"), "%s", err.msg);
    FAILS(sbx_store_check(store, &err), INTERNAL);
}

Test(store_migrate, a_newer_database_is_refused)
{
    int applied = 0;

    OK(sbx_store_migrate(store, &applied, &err));
    sql("INSERT INTO schema_migrations VALUES (%zu, '9999_later', repeat('0', 64))",
        store_migration_count + 1);
    FAILS(sbx_store_migrate(store, &applied, &err), CONFLICT);
    cr_expect(strstr(err.msg, "newer"), "%s", err.msg);
    FAILS(sbx_store_check(store, &err), INTERNAL);
}

Test(store_migrate, a_failing_migration_leaves_nothing_behind)
{
    int applied = 0;

    sql("CREATE TABLE public.events (hindrance int)");
    FAILS(sbx_store_migrate(store, &applied, &err), INTERNAL);
    cr_expect(strstr(err.msg, "0001_base"), "%s", err.msg);
    cr_expect_eq(sql("SELECT count(*) FROM pg_tables WHERE tablename = 'sandboxes'"), 0);
    sql("DROP TABLE public.events");
    OK(sbx_store_migrate(store, &applied, &err));
}

Test(store_migrate, every_query_prepares_against_the_schema)
{
    int applied = 0;
    PGconn *pg;

    OK(sbx_store_migrate(store, &applied, &err));
    pg = admin_connect(db_name);
    for (int q = 0; q < Q_COUNT; q++) {
        const store_query_info *info = &store_queries[q];
        PGresult *r = PQprepare(pg, info->name, info->sql, 0, NULL);

        cr_expect_eq(PQresultStatus(r), PGRES_COMMAND_OK, "%s: %s", info->name, PQerrorMessage(pg));
        PQclear(r);
        r = PQdescribePrepared(pg, info->name);
        cr_expect_eq(PQnparams(r), info->params, "%s has %d parameters", info->name, PQnparams(r));
        PQclear(r);
    }
    PQfinish(pg);
}

Test(store_migrate, the_cluster_id_is_valid_and_stays)
{
    int applied = 0;
    sbx_id a, b;

    OK(sbx_store_migrate(store, &applied, &err));
    OK(sbx_store_cluster(store, &a, &err));
    OK(sbx_store_cluster(store, &b, &err));
    cr_expect(sbx_id_valid(a.s));
    cr_expect_str_eq(a.s, b.s);
}

Test(store_migrate, a_bad_url_is_refused_without_quoting_it)
{
    sbx_store *s = NULL;

    FAILS(sbx_store_new("postgresql://u:hunter2@[bad", NULL, NULL, &s, &err), INVALID);
    cr_expect(!strstr(err.msg, "hunter2"), "%s", err.msg);
    FAILS(sbx_store_new("", NULL, NULL, &s, &err), INVALID);
    FAILS(sbx_store_new(db_url, "nonsense", NULL, &s, &err), INVALID);
}

Test(store_migrate, events_of_the_base_are_numbered_anew_per_owner)
{
    const store_migration *base = &store_migrations[0];
    unsigned char hash[SBX_HASH_BYTES];
    char hex[2 * SBX_HASH_BYTES + 1];
    int applied = 0;

    sql_in(db_name, base->text);
    sbx_sha256(base->text, base->len, hash);
    sbx_hex(hash, sizeof hash, hex);
    sql("CREATE TABLE schema_migrations (version integer PRIMARY KEY, name text NOT NULL,"
        " checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())");
    sql("INSERT INTO schema_migrations VALUES (1, '%s', '%s')", base->name, hex);
    sql("INSERT INTO events (owner, type, data) SELECT CASE WHEN i %% 3 = 0 THEN 'bob' ELSE 'ada'"
        " END, 't' || i, '{}' FROM generate_series(0, 5) i");
    sql("DELETE FROM events WHERE type = 't1'"); /* the numbers of old had holes */

    OK(sbx_store_migrate(store, &applied, &err));
    cr_expect_eq(applied, (int)store_migration_count - 1);
    cr_expect_eq(sql("SELECT last FROM event_counters WHERE owner = 'ada'"), 3);
    cr_expect_eq(sql("SELECT last FROM event_counters WHERE owner = 'bob'"), 2);
    cr_expect_eq(sql("SELECT seq FROM events WHERE type = 't5'"), 3);
    cr_expect_eq(sql("SELECT seq FROM events WHERE type = 't3'"), 2);
}
