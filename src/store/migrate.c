/* Migrations: forward only, one transaction each, recorded with the SHA-256 of their text.
 *
 * A lock of the session makes them one at a time; who waits then finds the work done. They run on
 * a connection of their own to the server itself. What is recorded must be the beginning of what
 * this program brings, text by text: a database of a newer program, or one that somebody changed
 * by hand, is refused before anything runs. */
#include "internal.h"
#include "migrations.h"

#include "sbx/core/clock.h"
#include "sbx/core/thread.h"

#define LOCK_WAIT_MS 60000
#define LOCK_POLL_MS 100
#define MIGRATION_MS (30 * 60 * 1000)

static void checksum(const store_migration *m, char out[2 * SBX_HASH_BYTES + 1])
{
    unsigned char hash[SBX_HASH_BYTES];

    sbx_sha256(m->text, m->len, hash);
    sbx_hex(hash, sizeof hash, out);
}

/* Compare what is recorded with what we have. @return 0 and how many are applied. */
static int compare(const PGresult *r, size_t *ret_applied, sbx_err *err)
{
    char ours[2 * SBX_HASH_BYTES + 1], theirs[2 * SBX_HASH_BYTES + 2], name[64];

    for (int row = 0; row < PQntuples(r); row++) {
        int version = (int)store_int(r, row, 0);

        store_copy(r, row, 1, name, sizeof name);
        store_copy(r, row, 2, theirs, sizeof theirs);
        if (version > (int)store_migration_count)
            return sbx_fail(err, SBX_E_CONFLICT,
                            "the database is newer than this program: it has the migration %s, "
                            "this program knows %zu; install the newer program",
                            name, store_migration_count);
        if (version != row + 1)
            return sbx_fail(err, SBX_E_CONFLICT, "the database lacks migration %d but has %s",
                            row + 1, name);
        checksum(&store_migrations[row], ours);
        if (!sbx_streq(ours, theirs))
            return sbx_fail(err, SBX_E_CONFLICT,
                            "migration %s was applied with another text than this program's "
                            "(checksum %.12s…, expected %.12s…)",
                            name, theirs, ours);
    }
    *ret_applied = (size_t)PQntuples(r);
    return 0;
}

static int run(store_link *l, store_query q, store_params *p, int64_t until_ms, PGresult **ret,
               sbx_err *err)
{
    return store_link_run(l, q, p, false, until_ms, ret, err) == STORE_DONE ? 0 : -1;
}

static int script(store_link *l, const char *what, const char *sql, int64_t until_ms, sbx_err *err)
{
    return store_link_script(l, what, sql, until_ms, err) == STORE_DONE ? 0 : -1;
}

static int take_lock(store_link *l, sbx_err *err)
{
    int64_t until = sbx_now_ms() + sbx_job_left_ms(LOCK_WAIT_MS);

    for (;;) {
        SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
        store_params p = {0};

        store_p_int(&p, STORE_LOCK_MIGRATE);
        if (run(l, Q_MIGRATE_LOCK, &p, until, &r, err) != 0)
            return -1;
        if (store_int(r, 0, 0))
            return 0;
        if (sbx_now_ms() >= until || sbx_job_cancelled())
            return sbx_fail(err, SBX_E_TIMEOUT, "another program is migrating the database still");
        store_pause(LOCK_POLL_MS);
    }
}

static int apply(store_link *l, const store_migration *m, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    int64_t until = sbx_now_ms() + MIGRATION_MS;
    store_params p = {0};
    char sum[2 * SBX_HASH_BYTES + 1];

    checksum(m, sum);
    store_p_int(&p, m->version);
    store_p_str(&p, m->name);
    store_p_str(&p, sum);
    /* A failure in between closes the connection, which rolls back. */
    if (script(l, "BEGIN", SBX_SQL_BEGIN, until, err) != 0 ||
        script(l, m->name, m->text, until, err) != 0 ||
        run(l, Q_MIGRATE_RECORD, &p, until, &r, err) != 0 ||
        script(l, "COMMIT", SBX_SQL_COMMIT, until, err) != 0)
        return sbx_wrap(err, "migration %s", m->name);
    return 0;
}

static int migrate(store_link *l, int *ret_applied, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    int64_t until = sbx_now_ms() + STORE_STATEMENT_MS;
    store_params p = {0};
    size_t done;

    if (script(l, "schema_migrations", SBX_SQL_MIGRATIONS_TABLE, until, err) != 0 ||
        run(l, Q_MIGRATIONS, &p, until, &r, err) != 0 || compare(r, &done, err) != 0)
        return -1;
    *ret_applied = 0;
    for (size_t i = done; i < store_migration_count; i++) {
        if (apply(l, &store_migrations[i], err) != 0)
            return -1;
        (*ret_applied)++;
    }
    return 0;
}

int sbx_store_migrate(sbx_store *s, int *ret_applied, sbx_err *err)
{
    store_link l = {0};
    int applied = 0, rc;

    if (store_open_direct(s, &l, "sandboxd migrate", sbx_now_ms() + STORE_CONNECT_MS, err) != 0)
        return -1;
    rc = take_lock(&l, err);
    if (rc == 0)
        rc = migrate(&l, &applied, err);
    store_link_close(&l); /* releases the lock */
    if (rc == 0)
        *ret_applied = applied;
    return rc;
}

/* The recorded ones; none if even the table is not there. */
static int recorded(sbx_store *s, PGresult **ret, sbx_err *err)
{
    store_params p = {0};
    sbx_err why = {0};

    if (store_exec(s, Q_MIGRATIONS, &p, STORE_AGAIN, ret, &why) == 0 ||
        strstr(why.msg, "SQLSTATE 42P01")) /* no such table */
        return 0;
    return sbx_fail(err, why.code, "%s", why.msg);
}

int sbx_store_migrations(sbx_store *s,
                         void (*each)(void *arg, const char *name, const char *sum,
                                      const char *state),
                         void *arg, int *ret_pending, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    char sum[2 * SBX_HASH_BYTES + 1], theirs[2 * SBX_HASH_BYTES + 2], name[64];
    size_t there, done;

    *ret_pending = 0;
    if (recorded(s, &r, err))
        return -1;
    there = r ? (size_t)PQntuples(r) : 0;
    for (size_t i = 0; i < SBX_MAX(there, store_migration_count); i++) {
        if (i < there)
            store_copy(r, (int)i, 2, theirs, sizeof theirs);
        if (i >= store_migration_count) {
            store_copy(r, (int)i, 1, name, sizeof name);
            each(arg, name, theirs, "unknown");
            continue;
        }
        checksum(&store_migrations[i], sum);
        each(arg, store_migrations[i].name, sum,
             i >= there               ? "pending"
             : sbx_streq(sum, theirs) ? "applied"
                                      : "differs");
        *ret_pending += i >= there;
    }
    return r ? compare(r, &done, err) : 0;
}

int sbx_store_check(sbx_store *s, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    size_t done = 0;
    sbx_err why = {0};

    if (recorded(s, &r, err))
        return -1;
    if (!r)
        return sbx_fail(err, SBX_E_INTERNAL, "the database is empty: run `sandboxd migrate` first");
    if (compare(r, &done, &why) != 0)
        return sbx_fail(err, SBX_E_INTERNAL, "%s", why.msg);
    if (done < store_migration_count)
        return sbx_fail(err, SBX_E_INTERNAL,
                        "the database lacks %zu migrations: run `sandboxd migrate` first",
                        store_migration_count - done);
    return 0;
}
