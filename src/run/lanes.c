/* Lanes of workers. Each lane is a ring of jobs, a mutex and a condition; threads take from the
 * front. Jobs that wait when the lanes are freed are still run, so that whoever submitted them
 * gets an answer.
 *
 * A lane knows its pace, the mean time of its jobs, and from that how long a new one would wait.
 * Whoever would wait too long is told so at once, with the time after which to come back: better
 * for all than an answer that nobody waits for any more. */
#include "sbx/run/lanes.h"

#include "sbx/core/clock.h"
#include "sbx/core/thread.h"
#include <pthread.h>
#include <stdio.h>

#define PACE_WEIGHT       16 /* of the jobs before, against one of the newest */
#define RETRY_AFTER_MAX_S 60

typedef struct waiting_job {
    sbx_job job;
    int64_t since_ms;
} waiting_job;

typedef struct lane {
    const char *name;
    int64_t wait_ms; /* immutable after new, as the next */
    size_t wanted;   /* threads, of which the system may have refused some */
    pthread_mutex_t mu;
    pthread_cond_t more;
    waiting_job *ring; /* guarded by mu, as all below */
    int64_t mean_us;   /* of running a job */
    size_t cap, at, waiting;
    bool stopping;
    pthread_t *threads; /* immutable after new */
    size_t thread_count;
} lane;

struct sbx_lanes {
    lane lanes[SBX_LANE_COUNT];
};

const char *sbx_lane_name(sbx_lane l)
{
    static const char *const names[SBX_LANE_COUNT] = {"fast", "slow", "reap", "pulse"};

    return names[l];
}

static waiting_job *nth(lane *l, size_t i)
{
    return &l->ring[(l->at + i) % l->cap];
}

/* How long a job that came now would wait, by the pace of the last ones. */
static int64_t expected_wait_ms_locked(const lane *l)
{
    return (int64_t)l->waiting * l->mean_us / 1000 / (int64_t)l->wanted;
}

static int64_t oldest_ms_locked(lane *l, int64_t now_ms)
{
    return l->waiting ? now_ms - nth(l, 0)->since_ms : 0;
}

static int retry_after_s_locked(lane *l, int64_t now_ms)
{
    int64_t ms = SBX_MAX(expected_wait_ms_locked(l), oldest_ms_locked(l, now_ms));

    return (int)SBX_MIN(ms / 1000 + 1, RETRY_AFTER_MAX_S);
}

static bool too_slow_locked(lane *l, int64_t now_ms)
{
    return l->wait_ms && (oldest_ms_locked(l, now_ms) > l->wait_ms / 2 ||
                          expected_wait_ms_locked(l) > l->wait_ms);
}

/* @return whether the job must not run any more; then `why` says it. */
static bool is_late(const lane *l, const waiting_job *w, int64_t now_ms, sbx_err *why)
{
    if (!w->job.refuse)
        return false;
    if (w->job.deadline_ms && now_ms >= w->job.deadline_ms) {
        sbx_err_set(why, SBX_E_TIMEOUT,
                    "the time limit was reached while the request waited for a worker");
        return true;
    }
    if (!l->wait_ms || now_ms - w->since_ms <= l->wait_ms)
        return false;
    sbx_err_set(why, SBX_E_CAPACITY,
                "the request waited for a worker for more than %lld s; it was not begun",
                (long long)(l->wait_ms / 1000));
    return true;
}

static void run_job(lane *l, const waiting_job *w)
{
    sbx_err why = {0};

    if (is_late(l, w, sbx_now_ms(), &why)) {
        pthread_mutex_lock(&l->mu);
        why.retry_after_s = retry_after_s_locked(l, sbx_now_ms());
        pthread_mutex_unlock(&l->mu);
        w->job.refuse(w->job.arg, &why);
        return;
    }
    int64_t from_us = sbx_now_us();
    sbx_job_scope(w->job.deadline_ms, w->job.cancelled);
    w->job.run(w->job.arg);
    sbx_job_scope(0, NULL);
    int64_t took_us = sbx_now_us() - from_us;
    if (l->wait_ms) /* one that hangs is not the pace of all */
        took_us = SBX_MIN(took_us, l->wait_ms * 1000);
    pthread_mutex_lock(&l->mu);
    l->mean_us += (took_us - l->mean_us) / PACE_WEIGHT;
    pthread_mutex_unlock(&l->mu);
}

static void *worker(void *arg)
{
    lane *l = arg;
    char name[16];

    snprintf(name, sizeof(name), "sbx-%s", l->name);
    sbx_thread_set_role(SBX_T_WORKER, name);
    pthread_mutex_lock(&l->mu);
    for (;;) {
        while (!l->waiting && !l->stopping)
            pthread_cond_wait(&l->more, &l->mu);
        if (!l->waiting)
            break;
        waiting_job w = *nth(l, 0);
        l->at = (l->at + 1) % l->cap;
        l->waiting--;
        pthread_mutex_unlock(&l->mu);
        run_job(l, &w);
        pthread_mutex_lock(&l->mu);
    }
    pthread_mutex_unlock(&l->mu);
    return NULL;
}

static void lane_start(lane *l, const char *name, size_t threads, size_t queue, int64_t wait_ms)
{
    l->name = name;
    l->wait_ms = wait_ms;
    l->wanted = SBX_MAX(threads, 1u);
    l->cap = queue;
    l->ring = sbx_alloc(queue * sizeof(waiting_job));
    l->threads = sbx_alloc(threads * sizeof(pthread_t));
    pthread_mutex_init(&l->mu, NULL);
    pthread_cond_init(&l->more, NULL);
    for (; l->thread_count < threads; l->thread_count++)
        if (pthread_create(&l->threads[l->thread_count], NULL, worker, l))
            break;
    if (!l->thread_count)
        abort(); /* a lane without a thread would never answer */
}

sbx_lanes *sbx_lanes_new(const sbx_lanes_config *c)
{
    sbx_lanes *l = sbx_alloc(sizeof(*l));

    for (int i = 0; i < SBX_LANE_COUNT; i++)
        lane_start(&l->lanes[i], sbx_lane_name((sbx_lane)i), SBX_MAX(c->threads[i], (size_t)1),
                   c->queue, c->wait_ms[i]);
    return l;
}

int sbx_lanes_submit(sbx_lanes *ls, sbx_lane which, const sbx_job *job, sbx_err *err)
{
    lane *l = &ls->lanes[which];
    int64_t now_ms = sbx_now_ms();
    int retry_after_s = 1;

    pthread_mutex_lock(&l->mu);
    bool room = l->waiting < l->cap && !l->stopping && !(job->refuse && too_slow_locked(l, now_ms));
    if (room) {
        *nth(l, l->waiting) = (waiting_job){.job = *job, .since_ms = now_ms};
        l->waiting++;
        pthread_cond_signal(&l->more);
    } else {
        retry_after_s = retry_after_s_locked(l, now_ms);
    }
    pthread_mutex_unlock(&l->mu);
    if (room)
        return 0;
    sbx_err_set(err, SBX_E_CAPACITY, "too many requests are waiting; try again in %d s",
                retry_after_s);
    if (err)
        err->retry_after_s = retry_after_s;
    return sbx_failed();
}

/* Takes what is late out of the ring; the others keep their order. */
static size_t shed_lane(lane *l)
{
    struct refused {
        sbx_job job;
        sbx_err why;
    } *list = NULL;
    int64_t now_ms = sbx_now_ms();
    size_t count = 0, kept = 0;
    sbx_err why;

    pthread_mutex_lock(&l->mu);
    for (size_t i = 0; i < l->waiting; i++) {
        waiting_job w = *nth(l, i);

        if (!is_late(l, &w, now_ms, &why)) {
            *nth(l, kept++) = w;
            continue;
        }
        why.retry_after_s = retry_after_s_locked(l, now_ms);
        if (!list)
            list = sbx_alloc(l->waiting * sizeof(*list));
        list[count++] = (struct refused){w.job, why};
    }
    l->waiting = kept;
    pthread_mutex_unlock(&l->mu);
    for (size_t i = 0; i < count; i++)
        list[i].job.refuse(list[i].job.arg, &list[i].why);
    free(list);
    return count;
}

size_t sbx_lanes_shed(sbx_lanes *ls)
{
    size_t count = 0;

    for (int i = 0; i < SBX_LANE_COUNT; i++)
        count += shed_lane(&ls->lanes[i]);
    return count;
}

size_t sbx_lanes_waiting(sbx_lanes *ls, sbx_lane which)
{
    lane *l = &ls->lanes[which];

    pthread_mutex_lock(&l->mu);
    size_t n = l->waiting;
    pthread_mutex_unlock(&l->mu);
    return n;
}

static void lane_stop(lane *l)
{
    pthread_mutex_lock(&l->mu);
    l->stopping = true;
    pthread_cond_broadcast(&l->more);
    pthread_mutex_unlock(&l->mu);
    for (size_t i = 0; i < l->thread_count; i++)
        pthread_join(l->threads[i], NULL);
    l->thread_count = 0;
}

void sbx_lanes_stop(sbx_lanes *ls)
{
    for (int i = 0; i < SBX_LANE_COUNT; i++)
        lane_stop(&ls->lanes[i]);
}

void sbx_lanes_free(sbx_lanes *ls)
{
    if (!ls)
        return;
    sbx_lanes_stop(ls);
    for (int i = 0; i < SBX_LANE_COUNT; i++) {
        lane *l = &ls->lanes[i];

        pthread_cond_destroy(&l->more);
        pthread_mutex_destroy(&l->mu);
        free(l->threads);
        free(l->ring);
    }
    free(ls);
}
