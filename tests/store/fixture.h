/* A database of its own for each test, on the server that SBX_TEST_DATABASE_URL names (conninfo of
 * a superuser), and a proxy before it that freezes, cuts and refuses on demand. */
#ifndef TESTS_STORE_FIXTURE_H
#define TESTS_STORE_FIXTURE_H

#include "sbx/core/clock.h"
#include "sbx/core/crypt.h"
#include "sbx/core/thread.h"
#include "sbx/store/records.h"
#include "sbx/store/sandboxes.h"
#include "sbx/store/users.h"
#include <criterion/criterion.h>
#include <criterion/hooks.h>
#include <errno.h>
#include <fcntl.h>
#include <libpq-fe.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define OK(call) cr_assert_eq((call), 0, "%s: %s %s", #call, sbx_code_wire(err.code), err.msg)
#define FAILS(call, want)                                                                          \
    do {                                                                                           \
        memset(&err, 0, sizeof err);                                                               \
        cr_expect_eq((call), -1, "%s succeeded", #call);                                           \
        cr_expect_eq(err.code, SBX_E_##want, "%s: %s %s", #call, sbx_code_wire(err.code),          \
                     err.msg);                                                                     \
    } while (0)

/* Poll a condition for ten seconds. @return whether it came true. For helper threads, which must
 * not end the test by themselves. */
#define UNTIL(condition)                                                                           \
    ({                                                                                             \
        int64_t _until = sbx_now_ms() + 10000;                                                     \
        bool _true = false;                                                                        \
        while (!(_true = (condition)) && sbx_now_ms() < _until)                                    \
            (void)poll(NULL, 0, 10);                                                               \
        _true;                                                                                     \
    })
#define EVENTUALLY(condition) cr_assert(UNTIL(condition), "never became true: %s", #condition)

static const char *admin_url;
static char db_name[32], db_url[512], secret_path[64];
static sbx_crypt *secrets;
static sbx_store *store;
static sbx_err err;
static sbx_id owner;

static inline PGconn *admin_connect(const char *dbname)
{
    const char *names[] = {"dbname", "dbname", NULL};
    /* A second dbname overrides that of the URL only if it is no URL itself. */
    const char *values[] = {admin_url, dbname, NULL};
    PGconn *pg = PQconnectdbParams(names, values, 1);

    cr_assert_eq(PQstatus(pg), CONNECTION_OK, "%s", PQerrorMessage(pg));
    return pg;
}

static inline int64_t sql_in(const char *dbname, const char *text)
{
    PGconn *pg = admin_connect(dbname);
    PGresult *r = PQexec(pg, text);
    int64_t n = 0;

    cr_assert(PQresultStatus(r) == PGRES_TUPLES_OK || PQresultStatus(r) == PGRES_COMMAND_OK,
              "%s: %s", text, PQerrorMessage(pg));
    if (PQntuples(r) > 0)
        n = strtoll(PQgetvalue(r, 0, 0), NULL, 10);
    PQclear(r);
    PQfinish(pg);
    return n;
}

/* Run SQL in the test's database as an outsider. @return the first value as a number. */
static inline int64_t sql(const char *fmt, ...) SBX_PRINTF(1, 2);
static inline int64_t sql(const char *fmt, ...)
{
    char text[2048];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return sql_in(db_name, text);
}

static inline void make_crypt(void)
{
    static const char hex[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";
    int fd;

    sbx_copy(secret_path, sizeof secret_path, "/tmp/sbx-test-secret-XXXXXX");
    fd = mkstemp(secret_path);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, hex, sizeof hex - 1), (ssize_t)sizeof hex - 1);
    close(fd);
    OK(sbx_crypt_open(secret_path, &secrets, &err));
}

/* conninfo of the test's database, all parts resolved, with host and port of the caller's choice.
 */
static inline void make_url(const char *host, const char *port, char *out, size_t cap)
{
    PGconn *pg = admin_connect(db_name);

    snprintf(out, cap, "host=%s port=%s user=%s password='%s' dbname=%s sslmode=disable",
             host ? host : PQhost(pg), port ? port : PQport(pg), PQuser(pg), PQpass(pg), db_name);
    PQfinish(pg);
}

static inline void make_database(const char *from)
{
    char text[160];
    sbx_id id = sbx_id_new();

    admin_url = getenv("SBX_TEST_DATABASE_URL");
    cr_assert(admin_url, "SBX_TEST_DATABASE_URL must name a PostgreSQL server");
    snprintf(db_name, sizeof db_name, "sbx_test_%s", id.s);
    snprintf(text, sizeof text, "CREATE DATABASE %s TEMPLATE %s", db_name, from);
    sql_in("postgres", text);
    make_url(NULL, NULL, db_url, sizeof db_url);
    make_crypt();
    OK(sbx_store_new(db_url, NULL, secrets, &store, &err));
}

static inline void empty_database(void)
{
    make_database("template1");
}

/* What all tests of one program copy instead of migrating: their common parent is that program. */
static inline void name_template(pid_t program, char out[32])
{
    snprintf(out, 32, "sbx_migrated_%d", (int)program);
}

static inline void make_template(const char *name)
{
    char text[160];
    int applied = 0;

    empty_database();
    OK(sbx_store_migrate(store, &applied, &err));
    cr_assert_geq(applied, 1);
    sbx_store_free(store);
    sbx_crypt_free(secrets);
    unlink(secret_path);
    snprintf(text, sizeof text, "ALTER DATABASE %s RENAME TO %s", db_name, name);
    sql_in("postgres", text);
}

static inline void migrated_database(void)
{
    char name[32], text[160];

    admin_url = getenv("SBX_TEST_DATABASE_URL");
    cr_assert(admin_url, "SBX_TEST_DATABASE_URL must name a PostgreSQL server");
    name_template(getppid(), name);
    snprintf(text, sizeof text, "SELECT count(*)::text FROM pg_database WHERE datname = '%s'",
             name);
    if (sql_in("postgres", text) == 0)
        make_template(name);
    make_database(name);
    OK(sbx_store_user_ensure(store, "ada", "user", "enterprise", &owner, &err));
}

ReportHook(POST_ALL)(struct criterion_global_stats *stats)
{
    char name[32], text[160];

    (void)stats;
    admin_url = getenv("SBX_TEST_DATABASE_URL");
    if (!admin_url)
        return;
    name_template(getpid(), name);
    snprintf(text, sizeof text, "DROP DATABASE IF EXISTS %s WITH (FORCE)", name);
    PGconn *pg = PQconnectdb(admin_url);
    PQclear(PQexec(pg, text));
    PQfinish(pg);
}

static inline void drop_database(void)
{
    char text[128];

    sbx_store_free(store);
    sbx_crypt_free(secrets);
    unlink(secret_path);
    snprintf(text, sizeof text, "DROP DATABASE IF EXISTS %s WITH (FORCE)", db_name);
    sql_in("postgres", text);
}

static inline sbx_sandbox_row new_row(const sbx_id *who, const char *name)
{
    sbx_sandbox_row r = {0};
    sbx_id id = sbx_id_new();

    sbx_copy(r.id, sizeof r.id, id.s);
    sbx_copy(r.owner, sizeof r.owner, who->s);
    r.name = sbx_strdup(name);
    r.template_name = sbx_strdup("python");
    r.image = sbx_strdup("sandboxd/python:1");
    r.metadata = sbx_strdup("{\"team\":\"blue\"}");
    r.env_names = sbx_strdup("[\"A\"]");
    sbx_copy(r.state, sizeof r.state, "creating");
    sbx_copy(r.size, sizeof r.size, "small");
    sbx_copy(r.network, sizeof r.network, "none");
    sbx_copy(r.on_timeout, sizeof r.on_timeout, "delete");
    sbx_copy(r.on_idle, sizeof r.on_idle, "delete");
    r.cpu_milli = 1000;
    r.memory_mb = 512;
    r.pids = 100;
    r.timeout_s = r.idle_timeout_s = 600;
    sbx_random(r.token, sizeof r.token);
    return r;
}

/* Insert a sandbox and bring it to `state` ("creating" or "running"). */
static inline sbx_id make_sandbox(const char *state)
{
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row r = new_row(&owner, "box");
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row now = {0};
    sbx_state_change c = {.id = r.id, .from = "creating", .to = state, .started = true};
    sbx_id id;

    OK(sbx_store_sandbox_insert(store, &r, NULL, 60, &err));
    if (strcmp(state, "creating") != 0)
        OK(sbx_store_sandbox_set_state(store, &c, &now, &err));
    sbx_copy(id.s, sizeof id.s, r.id);
    return id;
}

/* --- the proxy --- */

enum { PROXY_PASS, PROXY_FREEZE, PROXY_CUT_ANSWER, PROXY_CUT_QUERY };
#define PROXY_PAIRS 16

typedef struct proxy {
    char dir[40], path[96];
    int listener;
    int client[PROXY_PAIRS], server[PROXY_PAIRS];
    pthread_t thread;
    atomic_int mode; /* CUT_*: the next statement on any connection, then PASS */
    atomic_int cuts;
    atomic_bool stop;
} proxy;

static inline int dial_server(void)
{
    PGconn *pg = admin_connect("postgres");
    const char *host = PQhost(pg);
    int fd = -1;

    if (host[0] == '/') {
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        snprintf(a.sun_path, sizeof a.sun_path, "%s/.s.PGSQL.%s", host, PQport(pg));
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        cr_assert_eq(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    } else {
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
        cr_assert_eq(getaddrinfo(host, PQport(pg), &hints, &list), 0);
        fd = socket(list->ai_family, SOCK_STREAM, 0);
        cr_assert_eq(connect(fd, list->ai_addr, list->ai_addrlen), 0);
        freeaddrinfo(list);
    }
    PQfinish(pg);
    return fd;
}

static inline void proxy_close(proxy *p, int i)
{
    close(p->client[i]);
    close(p->server[i]);
    p->client[i] = p->server[i] = -1;
}

static inline void proxy_move(proxy *p, int i, bool from_client)
{
    char buf[65536];
    int from = from_client ? p->client[i] : p->server[i];
    int to = from_client ? p->server[i] : p->client[i];
    ssize_t n = recv(from, buf, sizeof buf, MSG_DONTWAIT);
    int mode = atomic_load(&p->mode);

    if (n < 0 && errno == EAGAIN)
        return;
    /* 'B' binds a prepared statement, '2' is its answer. */
    if (n <= 0 || (mode == PROXY_CUT_ANSWER && !from_client && buf[0] == '2') ||
        (mode == PROXY_CUT_QUERY && from_client && buf[0] == 'B')) {
        if (n > 0) {
            atomic_store(&p->mode, PROXY_PASS);
            atomic_fetch_add(&p->cuts, 1);
        }
        proxy_close(p, i);
        return;
    }
    for (ssize_t done = 0; done < n;) {
        ssize_t w = send(to, buf + done, (size_t)(n - done), MSG_NOSIGNAL);
        if (w <= 0) {
            proxy_close(p, i);
            return;
        }
        done += w;
    }
}

static inline void proxy_accept(proxy *p)
{
    for (int i = 0; i < PROXY_PAIRS; i++) {
        if (p->client[i] >= 0)
            continue;
        p->client[i] = accept(p->listener, NULL, NULL);
        p->server[i] = p->client[i] < 0 ? -1 : dial_server();
        return;
    }
}

static inline void *proxy_main(void *arg)
{
    proxy *p = arg;

    while (!atomic_load(&p->stop)) {
        struct pollfd fds[1 + 2 * PROXY_PAIRS];

        if (atomic_load(&p->mode) == PROXY_FREEZE) {
            (void)poll(NULL, 0, 5);
            continue;
        }
        fds[0] = (struct pollfd){.fd = p->listener, .events = POLLIN};
        for (int i = 0; i < PROXY_PAIRS; i++) {
            fds[1 + 2 * i] = (struct pollfd){.fd = p->client[i], .events = POLLIN};
            fds[2 + 2 * i] = (struct pollfd){.fd = p->server[i], .events = POLLIN};
        }
        if (poll(fds, ARRAY_LEN(fds), 20) <= 0)
            continue;
        if (atomic_load(&p->mode) == PROXY_FREEZE)
            continue;
        for (int i = 0; i < PROXY_PAIRS; i++) {
            if (p->client[i] >= 0 && fds[1 + 2 * i].revents)
                proxy_move(p, i, true);
            if (p->server[i] >= 0 && fds[2 + 2 * i].revents)
                proxy_move(p, i, false);
        }
        if (fds[0].revents)
            proxy_accept(p);
    }
    return NULL;
}

static inline void proxy_listen(proxy *p)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    snprintf(a.sun_path, sizeof a.sun_path, "%s", p->path);
    p->listener = socket(AF_UNIX, SOCK_STREAM, 0);
    cr_assert_eq(bind(p->listener, (struct sockaddr *)&a, sizeof a), 0);
    cr_assert_eq(listen(p->listener, 16), 0);
}

static inline void proxy_run(proxy *p)
{
    proxy_listen(p);
    atomic_store(&p->stop, false);
    cr_assert_eq(pthread_create(&p->thread, NULL, proxy_main, p), 0);
}

/* Start it; `url` gets the conninfo through it. */
static inline void proxy_start(proxy *p, char *url, size_t cap)
{
    memset(p, 0, sizeof *p);
    for (int i = 0; i < PROXY_PAIRS; i++)
        p->client[i] = p->server[i] = -1;
    sbx_copy(p->dir, sizeof p->dir, "/tmp/sbx-test-proxy-XXXXXX");
    cr_assert(mkdtemp(p->dir));
    snprintf(p->path, sizeof p->path, "%s/.s.PGSQL.5432", p->dir);
    make_url(p->dir, "5432", url, cap);
    proxy_run(p);
}

/* As a server that is stopped: every connection ends, new ones are refused. */
static inline void proxy_down(proxy *p)
{
    atomic_store(&p->stop, true);
    pthread_join(p->thread, NULL);
    for (int i = 0; i < PROXY_PAIRS; i++) {
        if (p->client[i] >= 0)
            proxy_close(p, i);
    }
    close(p->listener);
    unlink(p->path);
}

static inline void proxy_end(proxy *p)
{
    proxy_down(p);
    rmdir(p->dir);
}

#endif
