/* The event hub under load: clients that come and go, full outboxes, changes of state that are
 * written and told by several threads at once, reads by workers, the poll. */
#include "sbx/core/clock.h"
#include "sbx/core/crypt.h"
#include "sbx/events/events.h"
#include "sbx/store/sandboxes.h"
#include "sbx/store/users.h"
#include <libpq-fe.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>

#define THREADS 4
#define ROUNDS  120
#define HELD    4

/* A client that takes what it gets, unless it is stuck. */
struct sbx_reply {
    pthread_mutex_t mu;
    atomic_int refs;
    bool over, stuck, told;
    sbx_reply_events events;
};

sbx_reply *sbx_reply_ref(sbx_reply *r)
{
    r->refs++;
    return r;
}

void sbx_reply_unref(sbx_reply *r)
{
    if (--r->refs > 0)
        return;
    pthread_mutex_destroy(&r->mu);
    free(r);
}

void sbx_reply_begin(sbx_reply *r, int status, const char *type)
{
    (void)r, (void)status, (void)type;
}

static void tell_locked(sbx_reply *r)
{
    if (!r->over || r->told || !r->events.closed)
        return;
    r->told = true;
    r->events.closed(r->events.arg);
}

sbx_push sbx_reply_write(sbx_reply *r, const void *data, size_t len)
{
    (void)data, (void)len;
    pthread_mutex_lock(&r->mu);
    sbx_push rc = r->over ? SBX_PUSH_GONE : r->stuck ? SBX_PUSH_FULL : SBX_PUSH_OK;
    pthread_mutex_unlock(&r->mu);
    return rc;
}

void sbx_reply_end(sbx_reply *r)
{
    pthread_mutex_lock(&r->mu);
    r->over = true;
    tell_locked(r);
    pthread_mutex_unlock(&r->mu);
}

void sbx_reply_watch(sbx_reply *r, const sbx_reply_events *events)
{
    pthread_mutex_lock(&r->mu);
    r->events = *events;
    tell_locked(r);
    pthread_mutex_unlock(&r->mu);
}

const char *sbx_request_query(const sbx_request *r, const char *name)
{
    (void)r, (void)name;
    return NULL;
}

static void unstick(sbx_reply *r)
{
    pthread_mutex_lock(&r->mu);
    r->stuck = false;
    if (r->events.ready && !r->told)
        r->events.ready(r->events.arg);
    pthread_mutex_unlock(&r->mu);
}

/* --- the world --- */

typedef struct world {
    sbx_store *store;
    sbx_events *events;
    sbx_id owners[2];
    atomic_int number;
    atomic_bool failed;
} world;

static void write_one(world *w, const char *owner)
{
    sbx_id id = sbx_id_new();
    sbx_sandbox_row r = {.image = (char[]){"x"}, .cpu_milli = 1000, .memory_mb = 512, .pids = 100};
    sbx_err err;

    sbx_copy(r.id, sizeof r.id, id.s);
    sbx_copy(r.owner, sizeof r.owner, owner);
    sbx_copy(r.state, sizeof r.state, "creating");
    sbx_copy(r.size, sizeof r.size, "small");
    sbx_copy(r.network, sizeof r.network, "none");
    sbx_copy(r.on_timeout, sizeof r.on_timeout, "delete");
    sbx_copy(r.on_idle, sizeof r.on_idle, "delete");
    r.timeout_s = r.idle_timeout_s = 600;
    if (sbx_store_sandbox_insert(w->store, &r, NULL, 60, &err)) {
        fprintf(stderr, "insert: %s\n", err.msg);
        w->failed = true;
    }
    sbx_events_written(w->events, owner, r.event_seq);
}

static void *play(void *arg)
{
    world *w = arg;
    sbx_reply *held[HELD] = {0};
    int me = w->number++;
    sbx_err err;

    for (int round = 0; round < ROUNDS + HELD; round++) {
        sbx_reply *old = held[round % HELD], *r = NULL;
        sbx_events_query q = {.feed = {.has_since = round % 2, .tail = round % 5}};

        if (round < ROUNDS) {
            r = sbx_alloc(sizeof *r);
            pthread_mutex_init(&r->mu, NULL);
            r->refs = 1;
            r->stuck = round % 3 == 0;
            if (sbx_events_view(w->events, w->owners[round % 2].s, &q, r, me % 2, &err))
                w->failed = true;
            write_one(w, w->owners[(round + me) % 2].s);
            unstick(r);
        }
        held[round % HELD] = r;
        if (old) {
            sbx_reply_end(old);
            sbx_reply_unref(old);
        }
    }
    return NULL;
}

static int run(sbx_store *store)
{
    world w = {.store = store};
    sbx_lanes_config lanes = {.threads = {2, 1, 1}, .queue = 64};
    pthread_t threads[THREADS];
    sbx_events_stats stats;
    sbx_err err;
    sbx_bus *bus = sbx_bus_memory_new();
    sbx_events_config c = {.stream = sbx_stream_new(&err),
                           .lanes = sbx_lanes_new(&lanes),
                           .store = store,
                           .bus = bus,
                           .poll_ms = 5};

    if (sbx_store_user_ensure(store, "ada", "user", "enterprise", &w.owners[0], &err) ||
        sbx_store_user_ensure(store, "bob", "user", "enterprise", &w.owners[1], &err))
        return 1;
    w.events = sbx_events_new(&c);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, play, &w);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    sbx_lanes_stop(c.lanes);
    sbx_events_stats_get(w.events, &stats);
    sbx_events_stop(w.events);
    sbx_events_free(w.events);
    sbx_stream_free(c.stream);
    sbx_lanes_free(c.lanes);
    bus->ops->free(bus);
    printf("%llu reads, %llu polls, %llu frames sent\n", (unsigned long long)stats.reads,
           (unsigned long long)stats.polls, (unsigned long long)stats.sent);
    return w.failed || stats.reads == 0 || stats.sent == 0;
}

/* --- a database of its own --- */

static bool sql(const char *text)
{
    PGconn *pg = PQconnectdb(getenv("SBX_TEST_DATABASE_URL"));
    PGresult *r = PQexec(pg, text);
    bool ok = PQresultStatus(r) == PGRES_COMMAND_OK;

    if (!ok)
        fprintf(stderr, "%s: %s", text, PQerrorMessage(pg));
    PQclear(r);
    PQfinish(pg);
    return ok;
}

static sbx_crypt *make_crypt(void)
{
    char path[] = "/tmp/sbx-race-secret-XXXXXX";
    int fd = mkstemp(path);
    FILE *f = fdopen(fd, "w");
    sbx_crypt *crypt = NULL;
    sbx_err err;

    for (int i = 0; i < 32; i++)
        fprintf(f, "%02x", i);
    fputc('\n', f);
    fclose(f);
    if (sbx_crypt_open(path, &crypt, &err))
        fprintf(stderr, "%s\n", err.msg);
    remove(path);
    return crypt;
}

int main(void)
{
    char name[40], text[96], url[512];
    sbx_id id = sbx_id_new();
    sbx_store *store = NULL;
    sbx_err err = {0};
    int rc = 1, applied;

    if (!getenv("SBX_TEST_DATABASE_URL")) {
        fprintf(stderr, "SBX_TEST_DATABASE_URL must name a PostgreSQL server\n");
        return 1;
    }
    snprintf(name, sizeof name, "sbx_race_%s", id.s);
    snprintf(text, sizeof text, "CREATE DATABASE %s", name);
    if (!sql(text))
        return 1;
    PGconn *pg = PQconnectdb(getenv("SBX_TEST_DATABASE_URL"));
    snprintf(url, sizeof url, "host=%s port=%s user=%s dbname=%s", PQhost(pg), PQport(pg),
             PQuser(pg), name);
    PQfinish(pg);
    sbx_crypt *crypt = make_crypt();
    if (crypt && sbx_store_new(url, NULL, crypt, &store, &err) == 0 &&
        sbx_store_migrate(store, &applied, &err) == 0)
        rc = run(store);
    else
        fprintf(stderr, "%s\n", err.msg);
    sbx_store_free(store);
    sbx_crypt_free(crypt);
    snprintf(text, sizeof text, "DROP DATABASE IF EXISTS %s WITH (FORCE)", name);
    return sql(text) ? rc : 1;
}
