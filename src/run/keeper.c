/* The KEEPER: sleeps until the next tick is due and submits it as a job. A tick that is still
 * running, or whose lane is full, is skipped until its next time. */
#include "sbx/run/keeper.h"

#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include <errno.h>
#include <pthread.h>
#include <time.h>

#define MAX_TICKS 32

typedef struct tick {
    const char *name;
    int64_t period_ms;
    sbx_lane lane;
    void (*fn)(void *arg);
    void *arg;
    int64_t due_ms; /* KEEPER and, under mu, kick() */
    bool running;   /* guarded by mu */
    bool again;     /* guarded by mu; kicked while it ran */
    struct sbx_keeper *keeper;
} tick;

struct sbx_keeper {
    sbx_lanes *lanes;
    tick ticks[MAX_TICKS];
    size_t count;
    pthread_t thread;
    bool started;
    pthread_mutex_t mu;
    pthread_cond_t wake;
    bool stopping; /* guarded by mu, as the due times */
};

sbx_keeper *sbx_keeper_new(sbx_lanes *lanes)
{
    sbx_keeper *k = sbx_alloc(sizeof(*k));

    k->lanes = lanes;
    pthread_mutex_init(&k->mu, NULL);
    pthread_cond_init(&k->wake, NULL);
    return k;
}

void sbx_keeper_every(sbx_keeper *k, const char *name, int64_t period_ms, sbx_lane lane,
                      void (*fn)(void *arg), void *arg)
{
    if (k->count == MAX_TICKS || k->started)
        abort();
    tick *t = &k->ticks[k->count++];
    t->keeper = k;
    t->name = name;
    t->period_ms = period_ms;
    t->lane = lane;
    t->fn = fn;
    t->arg = arg;
    t->due_ms = sbx_now_ms() + period_ms;
}

/* What a kick came for may have been looked at before it came: one more run. */
static void over(tick *t)
{
    sbx_keeper *k = t->keeper;

    pthread_mutex_lock(&k->mu);
    t->running = false;
    if (t->again)
        t->due_ms = 0;
    t->again = false;
    pthread_cond_signal(&k->wake);
    pthread_mutex_unlock(&k->mu);
}

static void run_tick(void *arg)
{
    tick *t = arg;

    t->fn(t->arg);
    over(t);
}

static void submit(sbx_keeper *k, tick *t)
{
    sbx_job job = {.run = run_tick, .arg = t};
    sbx_err err;

    if (sbx_lanes_submit(k->lanes, t->lane, &job, &err)) {
        sbx_log_err(SBX_WARN, "periodic work skipped", &err, "tick", t->name, NULL);
        over(t);
    }
}

static void sleep_until_locked(sbx_keeper *k, int64_t until_ms)
{
    struct timespec at = {.tv_sec = (time_t)(until_ms / 1000),
                          .tv_nsec = (until_ms % 1000) * 1000000};

    pthread_cond_clockwait(&k->wake, &k->mu, CLOCK_MONOTONIC, &at);
}

static void *keep(void *arg)
{
    sbx_keeper *k = arg;

    sbx_thread_set_role(SBX_T_KEEPER, "sbx-keeper");
    pthread_mutex_lock(&k->mu);
    while (!k->stopping) {
        int64_t now = sbx_now_ms(), next = now + 60000;

        for (size_t i = 0; i < k->count; i++) {
            tick *t = &k->ticks[i];

            if (t->due_ms <= now) {
                t->due_ms = now + t->period_ms;
                if (t->running)
                    continue;
                t->running = true;
                pthread_mutex_unlock(&k->mu);
                submit(k, t);
                pthread_mutex_lock(&k->mu);
            }
            next = SBX_MIN(next, t->due_ms);
        }
        if (!k->stopping)
            sleep_until_locked(k, next);
    }
    pthread_mutex_unlock(&k->mu);
    return NULL;
}

int sbx_keeper_start(sbx_keeper *k, sbx_err *err)
{
    int rc = pthread_create(&k->thread, NULL, keep, k);

    if (rc)
        return sbx_fail(err, SBX_E_INTERNAL, "starting the keeper thread: %s", strerror(rc));
    k->started = true;
    return 0;
}

void sbx_keeper_kick(sbx_keeper *k, const char *name)
{
    pthread_mutex_lock(&k->mu);
    for (size_t i = 0; i < k->count; i++) {
        tick *t = &k->ticks[i];

        if (strcmp(t->name, name) != 0)
            continue;
        t->again = t->running;
        if (!t->running)
            t->due_ms = 0;
    }
    pthread_cond_signal(&k->wake);
    pthread_mutex_unlock(&k->mu);
}

void sbx_keeper_stop(sbx_keeper *k)
{
    if (!k->started)
        return;
    pthread_mutex_lock(&k->mu);
    k->stopping = true;
    pthread_cond_signal(&k->wake);
    pthread_mutex_unlock(&k->mu);
    pthread_join(k->thread, NULL);
    k->started = false;
}

void sbx_keeper_free(sbx_keeper *k)
{
    if (!k)
        return;
    pthread_cond_destroy(&k->wake);
    pthread_mutex_destroy(&k->mu);
    free(k);
}
