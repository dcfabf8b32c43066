/* Many steps of one request, a few at a time: each is begun by a job of a lane, and a new one when
 * one before it is over, however long that takes and whoever ends it. No thread waits. */
#ifndef SBX_BATCH_FAN_H
#define SBX_BATCH_FAN_H

#include "sbx/run/lanes.h"
#include <pthread.h>

typedef struct fan {
    sbx_lanes *lanes; /* immutable, as all up to arg */
    sbx_lane lane;
    size_t count, parallel;
    /* Begin step `i`, on a WORKER. Exactly one call of fan_done() must follow, from any thread. */
    void (*step)(void *arg, size_t i);
    /* The lane takes no more: step `i` is over without a beginning. Any thread. */
    void (*refused)(void *arg, size_t i, const sbx_err *why);
    /* All are over. Once, by whoever ended the last one, or by fan_begin(). */
    void (*over)(void *arg);
    void *arg;
    pthread_mutex_t mu;
    size_t next, ended; /* guarded by mu */
} fan;

/** Begin. The fan must live until over() was called; `mu` is made here and destroyed before. */
void fan_begin(fan *f);
/** A step is over. The fan may be gone when this returns. */
void fan_done(fan *f);

#endif
