/* Lanes of workers. Each lane is a ring of jobs, a mutex and a condition; threads take from the
 * front. Jobs that wait when the lanes are freed are still run, so that whoever submitted them
 * gets an answer. */
#include "sbx/run/lanes.h"

#include "sbx/core/thread.h"
#include <pthread.h>
#include <stdio.h>

typedef struct lane {
    const char *name;
    pthread_mutex_t mu;
    pthread_cond_t more;
    sbx_job *ring; /* guarded by mu, as all below */
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
    static const char *const names[SBX_LANE_COUNT] = {"fast", "slow", "reap"};

    return names[l];
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
        sbx_job job = l->ring[l->at];
        l->at = (l->at + 1) % l->cap;
        l->waiting--;
        pthread_mutex_unlock(&l->mu);
        sbx_job_scope(job.deadline_ms, job.cancelled);
        job.run(job.arg);
        sbx_job_scope(0, NULL);
        pthread_mutex_lock(&l->mu);
    }
    pthread_mutex_unlock(&l->mu);
    return NULL;
}

static void lane_start(lane *l, const char *name, size_t threads, size_t queue)
{
    l->name = name;
    l->cap = queue;
    l->ring = sbx_alloc(queue * sizeof(sbx_job));
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
        lane_start(&l->lanes[i], sbx_lane_name((sbx_lane)i), c->threads[i], c->queue);
    return l;
}

int sbx_lanes_submit(sbx_lanes *ls, sbx_lane which, const sbx_job *job, sbx_err *err)
{
    lane *l = &ls->lanes[which];

    pthread_mutex_lock(&l->mu);
    bool room = l->waiting < l->cap && !l->stopping;
    if (room) {
        l->ring[(l->at + l->waiting) % l->cap] = *job;
        l->waiting++;
        pthread_cond_signal(&l->more);
    }
    pthread_mutex_unlock(&l->mu);
    if (!room)
        return sbx_fail(err, SBX_E_CAPACITY, "too many requests are waiting; try again shortly");
    return 0;
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
