/* The store: a connection per thread, and the rules of repeating a statement.
 *
 * Each thread that calls has a connection of its own, made at its first statement and closed when
 * the thread ends; nothing is shared and nothing is locked while a statement runs. A circuit
 * breaker (core/breaker.h) refuses all threads at once while the database is not reached, so that
 * one that hangs does not make every worker wait for it in turn.
 *
 * A statement whose connection breaks was perhaps applied. It is repeated only if it reads or if
 * applying it twice is the same as once; the others carry an own number by which they find out
 * (sandboxes.c). Deadlocks and serialisation failures were surely not applied.
 *
 * Behind a pooler in transaction mode nothing can be prepared: with a direct URL configured all
 * statements are sent unnamed, and a server that does not know a statement that was prepared
 * a moment ago shows that one stands there. */
#include "internal.h"

#include "sbx/core/clock.h"
#include "sbx/core/thread.h"
#include <poll.h>
#include <stdio.h>

#define BACKOFF_MS   50
#define RECONNECT_MS 2000 /* how long a lost statement waits for the server to come back */
#define MAX_RETRIES  3
#define APPLICATION  "sandboxd"

/* --- life --- */

static void thread_conn_free(store_thread_conn *c)
{
    store_link_close(&c->link);
    free(c);
}

static void thread_ended(void *arg)
{
    store_thread_conn *c = arg;
    sbx_store *s = c->store;

    pthread_mutex_lock(&s->mu);
    if (c->prev)
        c->prev->next = c->next;
    else
        s->conns = c->next;
    if (c->next)
        c->next->prev = c->prev;
    pthread_mutex_unlock(&s->mu);
    thread_conn_free(c);
}

static int parse_url(const char *url, const char *name, char **ret_options, sbx_err *err)
{
    char *why = NULL;
    PQconninfoOption *list = PQconninfoParse(url, &why);
    int rc = 0;

    if (!list) {
        /* libpq's text may quote the URL and with it the password. */
        rc = sbx_fail(err, SBX_E_INVALID, "%s is not a valid libpq URI or conninfo string", name);
        PQfreemem(why);
        return rc;
    }
    for (PQconninfoOption *o = list; o->keyword; o++) {
        if (sbx_streq(o->keyword, "options") && o->val && o->val[0])
            *ret_options = sbx_strdup(o->val);
    }
    PQconninfoFree(list);
    return 0;
}

int sbx_store_new(const char *url, const char *direct_url, const sbx_crypt *crypt, sbx_store **ret,
                  sbx_err *err)
{
    bool direct = direct_url && direct_url[0];
    sbx_store *s;

    if (!url || !url[0])
        return sbx_fail(err, SBX_E_INVALID, "DATABASE_URL is not set");
    s = sbx_alloc(sizeof *s);
    s->crypt = crypt;
    sbx_breaker_init(&s->breaker, "database", SBX_E_STORE_UNAVAILABLE);
    pthread_mutex_init(&s->mu, NULL);
    pthread_mutex_init(&s->presence.mu, NULL);
    if (pthread_key_create(&s->key, thread_ended) != 0)
        abort(); /* only a program that makes stores without end gets here */
    if (parse_url(url, "DATABASE_URL", &s->options, err) != 0 ||
        (direct && parse_url(direct_url, "DATABASE_DIRECT_URL", &s->direct_options, err) != 0)) {
        sbx_store_free(s);
        return -1;
    }
    s->url = sbx_strdup(url);
    s->direct_url = direct ? sbx_strdup(direct_url) : NULL;
    atomic_init(&s->pooled, direct);
    *ret = s;
    return 0;
}

void sbx_store_free(sbx_store *s)
{
    if (!s)
        return;
    pthread_key_delete(s->key);
    while (s->conns) {
        store_thread_conn *c = s->conns;
        s->conns = c->next;
        thread_conn_free(c);
    }
    store_link_close(&s->presence.link);
    sbx_breaker_done(&s->breaker);
    pthread_mutex_destroy(&s->presence.mu);
    pthread_mutex_destroy(&s->mu);
    free(s->url);
    free(s->options);
    free(s->direct_url);
    free(s->direct_options);
    free(s);
}

/* --- connections --- */

static store_link *thread_link(sbx_store *s)
{
    store_thread_conn *c = pthread_getspecific(s->key);

    if (c)
        return &c->link;
    c = sbx_alloc(sizeof *c);
    c->store = s;
    pthread_mutex_lock(&s->mu);
    c->next = s->conns;
    if (c->next)
        c->next->prev = c;
    s->conns = c;
    pthread_mutex_unlock(&s->mu);
    if (pthread_setspecific(s->key, c) != 0)
        abort();
    return &c->link;
}

static int open_thread_link(sbx_store *s, store_link *l, int64_t until_ms, sbx_err *err)
{
    int64_t now = sbx_now_ms();
    store_target target = {
        .url = s->url, .app = APPLICATION, .pooled = s->direct_url != NULL, .options = s->options};

    return store_link_open(l, &target, SBX_MIN(until_ms, now + STORE_CONNECT_MS), err);
}

/* Is the database back? A job that ends first says nothing about that. */
static int probe(sbx_store *s, store_link *l, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    int64_t until = sbx_now_ms() + SBX_BREAKER_PROBE_MS;
    store_params p = {0};
    sbx_err got = {0};
    int rc = 0;

    if (!store_link_alive(l))
        rc = open_thread_link(s, l, until, &got);
    if (!rc)
        rc = store_link_run(l, Q_PING, &p, false, until, &r, &got) == STORE_DONE ? 0 : -1;
    sbx_err why = got;

    if (why.code == SBX_E_TIMEOUT) /* the job's; the store's own is STORE_UNAVAILABLE */
        why.code = SBX_E_CANCELLED;
    sbx_breaker_probed(&s->breaker, sbx_now_ms(), rc ? &why : NULL);
    return rc ? sbx_fail(err, got.code, "%s", got.msg) : 0;
}

static int gate(sbx_store *s, sbx_err *err)
{
    switch (sbx_breaker_ask(&s->breaker, sbx_now_ms(), err)) {
    case SBX_BREAKER_CALL:
        return 0;
    case SBX_BREAKER_PROBE:
        return probe(s, thread_link(s), err);
    case SBX_BREAKER_STOP:
        break;
    }
    return -1;
}

sbx_breaker *sbx_store_breaker(sbx_store *s)
{
    return &s->breaker;
}

int store_open_direct(sbx_store *s, store_link *l, const char *app, int64_t until_ms, sbx_err *err)
{
    store_target target = {.url = s->direct_url ? s->direct_url : s->url,
                           .app = app,
                           .options = s->direct_url ? s->direct_options : s->options};

    return store_link_open(l, &target, SBX_MIN(until_ms, sbx_now_ms() + STORE_CONNECT_MS), err);
}

void store_pause(int64_t ms)
{
    int64_t until = sbx_now_ms() + ms;

    for (int64_t left = ms; left > 0 && !sbx_job_cancelled(); left = until - sbx_now_ms())
        (void)poll(NULL, 0, (int)SBX_MIN(left, 100));
}

/* --- statements --- */

/* After a refusal: is running it again right, and what is to be done before? */
static bool refusal_passes(sbx_store *s, store_link *l, int tries)
{
    bool deadlock = sbx_streq(l->sqlstate, "40P01") || sbx_streq(l->sqlstate, "40001");
    /* "does not exist" and "already exists" of a prepared statement: a pooler gave us the session
     * of another client. */
    bool pooler = sbx_streq(l->sqlstate, "26000") || sbx_streq(l->sqlstate, "42P05");
    /* "cached plan must not change result type", after a migration by a newer server. */
    bool stale = sbx_streq(l->sqlstate, "0A000");

    if (tries >= MAX_RETRIES || !(deadlock || pooler || stale))
        return false;
    if (pooler)
        atomic_store(&s->pooled, true);
    if (stale)
        store_link_close(l);
    if (deadlock)
        store_pause(5 + sbx_now_us() % 20);
    return true;
}

/* Connect, after a loss patiently: the server may be just restarting. */
static int get_link(sbx_store *s, bool patient, int64_t until_ms, store_link **ret, sbx_err *err)
{
    store_link *l = thread_link(s);
    int64_t since = sbx_now_ms();

    for (;;) {
        int64_t from = sbx_now_ms();
        int rc = gate(s, err);

        if (!rc && !store_link_alive(l)) {
            rc = open_thread_link(s, l, until_ms, err);
            sbx_breaker_report(&s->breaker, from, sbx_now_ms(), rc ? err : NULL);
        }
        if (!rc)
            break;
        if (!patient || err->code != SBX_E_STORE_UNAVAILABLE ||
            sbx_now_ms() - since > RECONNECT_MS || sbx_job_cancelled())
            return -1;
        store_pause(BACKOFF_MS);
    }
    *ret = l;
    return 0;
}

/* What a statement's end says of the database: an answer of any kind, or none. */
static void report(sbx_store *s, store_outcome outcome, int64_t from_ms, const sbx_err *err)
{
    if (outcome == STORE_LOST || outcome == STORE_GAVE_UP)
        sbx_breaker_report(&s->breaker, from_ms, sbx_now_ms(), err);
    else if (outcome != STORE_NOT_SENT)
        sbx_breaker_report(&s->breaker, from_ms, sbx_now_ms(), NULL);
}

int store_exec(sbx_store *s, store_query q, const store_params *p, store_mode mode, PGresult **ret,
               sbx_err *err)
{
    int64_t until = sbx_now_ms() + sbx_job_left_ms(STORE_STATEMENT_MS);
    bool lost = false;
    store_link *l;
    sbx_err own;

    until = SBX_MIN(until, sbx_now_ms() + STORE_STATEMENT_MS);
    if (!err)
        err = &own;
    for (int tries = 0;; tries++) {
        if (get_link(s, lost, until, &l, err) != 0)
            return -1;
        int64_t from = sbx_now_ms();
        store_outcome outcome = store_link_run(l, q, p, !atomic_load(&s->pooled), until, ret, err);

        report(s, outcome, from, err);
        switch (outcome) {
        case STORE_DONE:
            return 0;
        case STORE_REFUSED:
            if (!refusal_passes(s, l, tries))
                return -1;
            break;
        case STORE_NOT_SENT:
            if (tries >= MAX_RETRIES)
                return -1;
            break;
        case STORE_LOST:
            if (lost || mode == STORE_ONCE)
                return -1;
            lost = true;
            break;
        case STORE_GAVE_UP:
            return -1;
        }
    }
}

int sbx_store_ping(sbx_store *s, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    return store_exec(s, Q_PING, &p, STORE_AGAIN, &r, err);
}

int sbx_store_cluster(sbx_store *s, sbx_id *out, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};
    sbx_id id;

    if (store_exec(s, Q_CLUSTER, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) != 1)
        return sbx_fail(err, SBX_E_INTERNAL, "the database has no cluster id: restore table meta");
    store_copy(r, 0, 0, id.s, sizeof id.s);
    if (!sbx_id_valid(id.s))
        return sbx_fail(err, SBX_E_INTERNAL, "the database's cluster id is not valid");
    *out = id;
    return 0;
}
