/* The beginning counts as one step more, so that over() is not called while steps are launched. */
#include "fan.h"

typedef struct launch {
    fan *f;
    size_t i;
} launch;

static void run(void *arg)
{
    launch l = *(launch *)arg;

    free(arg);
    l.f->step(l.f->arg, l.i);
}

static bool take(fan *f, size_t *ret)
{
    pthread_mutex_lock(&f->mu);
    bool some = f->next < f->count;
    *ret = f->next;
    f->next += some;
    pthread_mutex_unlock(&f->mu);
    return some;
}

static void end_one(fan *f)
{
    pthread_mutex_lock(&f->mu);
    bool last = ++f->ended == f->count + 1;
    pthread_mutex_unlock(&f->mu);
    if (!last)
        return;
    pthread_mutex_destroy(&f->mu);
    f->over(f->arg);
}

/* The next step that the lane takes. The caller has one that is not ended yet. */
static void launch_next(fan *f)
{
    sbx_err err;
    size_t i;

    while (take(f, &i)) {
        launch *l = sbx_alloc(sizeof(*l));
        sbx_job job = {.run = run, .arg = l};

        *l = (launch){f, i};
        if (sbx_lanes_submit(f->lanes, f->lane, &job, &err) == 0)
            return;
        free(l);
        f->refused(f->arg, i, &err);
        end_one(f);
    }
}

void fan_begin(fan *f)
{
    f->next = f->ended = 0;
    pthread_mutex_init(&f->mu, NULL);
    for (size_t i = 0; i < SBX_MIN(f->parallel, f->count); i++)
        launch_next(f);
    end_one(f);
}

void fan_done(fan *f)
{
    launch_next(f);
    end_one(f);
}
