/* Presence: that this process works on this database, whether it may, and who else does.
 *
 * Locks of the session on a connection of its own say it. One is that of all workers: shared among
 * those that have a bus in common, exclusive for one that works alone. The other one is the
 * worker's own. The server releases them when the process dies, so a restart after SIGKILL is never
 * refused for long, and no clock is involved. A worker is alive for the others while it has a row
 * in `workers`: each heartbeat removes the rows of those that are late and whose lock is free, or
 * that are very late (a process that stands still keeps its lock).
 *
 * If the connection breaks, the heartbeat makes a new one, ends what the server still holds of
 * the old one (found by its application name, which carries the worker's id) and takes the locks
 * again. If somebody else took the first one in between, that is a CONFLICT and this process must
 * end. */
#include "internal.h"

#include "sbx/core/clock.h"
#include "sbx/core/thread.h"
#include <stdio.h>

#define JOIN_WAIT_MS 3000 /* for the server to notice that a killed predecessor is gone */
#define BEAT_MS      3000 /* for a statement; the others wait no longer than 5 s */
#define JOIN_POLL_MS 50

typedef struct app_name {
    char s[48];
} app_name;

static app_name name_of(const char *worker)
{
    app_name n;

    snprintf(n.s, sizeof n.s, "sandboxd worker %s", worker);
    return n;
}

static int64_t deadline(void)
{
    return sbx_now_ms() + SBX_MIN(sbx_job_left_ms(BEAT_MS), BEAT_MS);
}

static int run(store_link *l, store_query q, store_params *p, int64_t *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;

    if (store_link_run(l, q, p, false, deadline(), &r, err) != STORE_DONE)
        return -1;
    if (ret)
        *ret = PQntuples(r) == 1 ? store_int(r, 0, 0) : 0;
    return 0;
}

static int end_stale(store_link *l, const char *worker, sbx_err *err)
{
    app_name app = name_of(worker);
    store_params p = {0};

    store_p_str(&p, app.s);
    store_p_int(&p, PQbackendPID(l->pg));
    return run(l, Q_PRESENCE_END_STALE, &p, NULL, err);
}

static int take_lock(store_link *l, bool alone, sbx_err *err)
{
    int64_t until = sbx_now_ms() + JOIN_WAIT_MS;

    for (;;) {
        store_params p = {0};
        int64_t got = 0;

        store_p_int(&p, STORE_LOCK_PRESENCE);
        if (run(l, alone ? Q_PRESENCE_ALONE : Q_PRESENCE_SHARED, &p, &got, err) != 0)
            return -1;
        if (got)
            return 0;
        if (sbx_now_ms() >= until || sbx_job_cancelled())
            return sbx_fail(err, SBX_E_CONFLICT, "%s",
                            alone ? "another worker runs on this database, and without Redis "
                                    "there can be only one: set REDIS_URL for both or stop it"
                                  : "a worker without Redis runs on this database, so there can "
                                    "be no other: set REDIS_URL for it too or stop it");
        store_pause(JOIN_POLL_MS);
    }
}

static int take_own_lock(store_link *l, const char *worker, sbx_err *err)
{
    store_params p = {0};

    store_p_str(&p, worker);
    return run(l, Q_PRESENCE_OWN, &p, NULL, err);
}

static int beat(store_link *l, const char *worker, bool alone, sbx_worker_news *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, worker);
    store_p_bool(&p, alone);
    if (store_link_run(l, Q_WORKER_BEAT, &p, false, deadline(), &r, err) != STORE_DONE)
        return -1;
    ret->late = store_int(r, 0, 0);
    ret->dead = PQgetisnull(r, 0, 1) ? NULL : store_str(r, 0, 1);
    ret->others = store_int(r, 0, 2);
    ret->leads = store_int(r, 0, 3);
    return 0;
}

static int connect_and_lock(sbx_store *s, store_link *l, const char *worker, bool alone, bool again,
                            sbx_worker_news *ret, sbx_err *err)
{
    app_name app = name_of(worker);

    if (store_open_direct(s, l, app.s, deadline(), err) != 0)
        return -1;
    if ((again && end_stale(l, worker, err) != 0) || take_lock(l, alone, err) != 0 ||
        take_own_lock(l, worker, err) != 0 || beat(l, worker, alone, ret, err) != 0) {
        store_link_close(l);
        return -1;
    }
    return 0;
}

int sbx_store_join(sbx_store *s, bool alone, sbx_id *ret_worker, sbx_err *err)
{
    store_presence *me = &s->presence;
    sbx_worker_news none = {0}; /* who has just come judges nobody */
    sbx_id id = sbx_id_new();
    int rc;

    pthread_mutex_lock(&me->mu);
    if (me->worker.s[0])
        rc = sbx_fail(err, SBX_E_CONFLICT, "this process has joined already");
    else
        rc = connect_and_lock(s, &me->link, id.s, alone, false, &none, err);
    if (rc == 0) {
        me->worker = id;
        me->alone = alone;
        *ret_worker = id;
    }
    pthread_mutex_unlock(&me->mu);
    return rc;
}

static int heartbeat_locked(sbx_store *s, sbx_worker_news *ret, sbx_err *err)
{
    store_presence *me = &s->presence;
    sbx_err why = {0};

    if (store_link_alive(&me->link)) {
        if (beat(&me->link, me->worker.s, me->alone, ret, &why) == 0)
            return 0;
        /* Refused by a server that is there, or out of time: a new connection would not help. */
        if (me->link.pg || why.code != SBX_E_STORE_UNAVAILABLE)
            return sbx_fail(err, why.code, "%s", why.msg);
    }
    return connect_and_lock(s, &me->link, me->worker.s, me->alone, true, ret, err);
}

int sbx_store_heartbeat(sbx_store *s, const char *worker, sbx_worker_news *ret, sbx_err *err)
{
    store_presence *me = &s->presence;
    int rc;

    pthread_mutex_lock(&me->mu);
    if (!sbx_streq(me->worker.s, worker))
        rc = sbx_fail(err, SBX_E_CONFLICT, "worker %s has not joined", worker);
    else
        rc = heartbeat_locked(s, ret, err);
    pthread_mutex_unlock(&me->mu);
    return rc;
}

void sbx_store_leave(sbx_store *s, const char *worker)
{
    store_presence *me = &s->presence;
    store_params p = {0};

    pthread_mutex_lock(&me->mu);
    if (sbx_streq(me->worker.s, worker)) {
        store_p_str(&p, worker);
        /* If this fails the others find the lock free, a little later. */
        if (store_link_alive(&me->link))
            (void)!run(&me->link, Q_WORKER_DELETE, &p, NULL, NULL);
        store_link_close(&me->link);
        me->worker.s[0] = '\0';
    }
    pthread_mutex_unlock(&me->mu);
}
