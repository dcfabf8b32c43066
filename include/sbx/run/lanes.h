/* Worker lanes: bounded queues in front of a fixed number of threads each.
 *
 * A job is run by one worker from top to bottom, and may block there up to its deadline. A full
 * queue refuses at once. A job that somebody waits for can be refused as well when the lane is too
 * slow for it: at the door, or later while it waits; it never runs then. */
#ifndef SBX_RUN_LANES_H
#define SBX_RUN_LANES_H

#include "sbx/core/error.h"
#include <stdatomic.h>

typedef enum sbx_lane {
    SBX_LANE_FAST,
    SBX_LANE_SLOW,
    SBX_LANE_REAP,
    SBX_LANE_PULSE, /* the sign of life: no request and no cleanup may hold it up */
    SBX_LANE_COUNT
} sbx_lane;

typedef struct sbx_lanes sbx_lanes;

typedef struct sbx_job {
    void (*run)(void *arg); /* on a WORKER */
    /* Instead of run(), on any thread: it waited too long (CAPACITY), or its deadline passed before
     * a worker came to it (TIMEOUT). NULL: it waits for its turn however long that takes. */
    void (*refuse)(void *arg, const sbx_err *why);
    void *arg;
    const atomic_bool *cancelled; /* may be NULL; must outlive the job */
    int64_t deadline_ms;          /* monotonic; 0: none */
} sbx_job;

typedef struct sbx_lanes_config {
    size_t threads[SBX_LANE_COUNT]; /* 0 means 1 */
    size_t queue;                   /* waiting jobs per lane */
    /* How long a job that can be refused may wait; from half of it on, and when by the lane's pace
     * it would wait longer, new ones are refused at the door. 0: as long as it takes */
    int64_t wait_ms[SBX_LANE_COUNT];
} sbx_lanes_config;

sbx_lanes *sbx_lanes_new(const sbx_lanes_config *c);

/** Queue a job. Any thread.
 * @return 0, or -1 with CAPACITY, and when to try again, if the lane's queue is full, the job can
 * be refused and the lane is too slow, or the lanes are stopping. */
int sbx_lanes_submit(sbx_lanes *l, sbx_lane lane, const sbx_job *job, sbx_err *err) SBX_MUST_CHECK;

/** Refuse what has waited too long; to be called a few times a second, from any thread. (Workers
 * do the same with what they take, but they may all be busy.) @return how many were refused. */
size_t sbx_lanes_shed(sbx_lanes *l);

size_t sbx_lanes_waiting(sbx_lanes *l, sbx_lane lane);

/** Refuse new jobs, run those that wait, join the threads. Then submit() still answers, until: */
void sbx_lanes_stop(sbx_lanes *l);
void sbx_lanes_free(sbx_lanes *l); /* stops first, if that was not done */

const char *sbx_lane_name(sbx_lane lane);

#endif
