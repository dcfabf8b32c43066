/* Lanes, mailboxes and the stream under many threads; a plain main for the thread sanitizer. */
#include "sbx/core/clock.h"
#include "sbx/core/thread.h"
#include "sbx/run/keeper.h"
#include "sbx/run/lanes.h"
#include "sbx/run/stream.h"
#include <pthread.h>
#include <stdio.h>

#define POSTERS  4
#define MESSAGES 20000

static sbx_stream *stream;
static sbx_lanes *lanes;
static uint64_t on_stream; /* STREAM only */
static atomic_uint on_workers, refused;

static void count_stream(void *arg)
{
    (void)arg;
    on_stream++;
}

static void timer_fired(void *arg)
{
    count_stream(arg);
}

static void arm(void *arg)
{
    (void)sbx_timer_new(stream, 1, timer_fired, arg);
}

static void count_worker(void *arg)
{
    (void)arg;
    atomic_fetch_add(&on_workers, 1);
    sbx_stream_post(stream, count_stream, NULL);
}

static void *poster(void *arg)
{
    sbx_job job = {.run = count_worker};
    sbx_err err;

    (void)arg;
    for (int i = 0; i < MESSAGES; i++) {
        if (i % 100 == 0)
            sbx_stream_post(stream, arm, NULL);
        if (sbx_lanes_submit(lanes, (sbx_lane)(i % SBX_LANE_COUNT), &job, &err))
            atomic_fetch_add(&refused, 1);
    }
    return NULL;
}

static void tick(void *arg)
{
    (void)arg;
    atomic_fetch_add(&on_workers, 1);
    sbx_stream_post(stream, count_stream, NULL);
}

int main(void)
{
    sbx_lanes_config config = {.threads = {3, 2, 1}, .queue = 64};
    pthread_t threads[POSTERS];
    sbx_err err;

    stream = sbx_stream_new(&err);
    lanes = sbx_lanes_new(&config);
    sbx_keeper *keeper = sbx_keeper_new(lanes);
    sbx_keeper_every(keeper, "tick", 1, SBX_LANE_FAST, tick, NULL);
    if (!stream || sbx_keeper_start(keeper, &err))
        return 1;
    for (int i = 0; i < POSTERS; i++)
        if (pthread_create(&threads[i], NULL, poster, NULL))
            return 1;
    for (int i = 0; i < POSTERS; i++)
        pthread_join(threads[i], NULL);
    sbx_keeper_stop(keeper);
    sbx_lanes_free(lanes);
    sbx_keeper_free(keeper);
    sbx_stream_sync(stream);
    sbx_stream_free(stream);
    unsigned run = atomic_load(&on_workers), no = atomic_load(&refused);
    printf("%u run, %u refused, %llu on STREAM\n", run, no, (unsigned long long)on_stream);
    return run + no >= POSTERS * MESSAGES && on_stream >= run ? 0 : 1;
}
