/* What the files of the reaper share. */
#ifndef SBX_REAPER_REAPER_PRIV_H
#define SBX_REAPER_REAPER_PRIV_H

#include "sbx/reaper/reaper.h"
#include "sbx/store/events.h"
#include "sbx/store/idempotency.h"
#include "sbx/store/tickets.h"
#include <pthread.h>
#include <stdatomic.h>

/* A container without a row that may have one, and since when this process knows of it. */
typedef struct orphan {
    char id[65];
    int64_t since_ms; /* monotonic */
} orphan;

struct sbx_reaper {
    orphan *orphans;     /* of the last sweep; only the sweep's, of which one runs at a time */
    size_t orphan_count; /* immutable after start, but for the flags */
    sbx_reaper_config c;
    sbx_keeper *keeper;
    int64_t others;    /* workers at the last heartbeat; only the heartbeat's */
    atomic_bool leads; /* of all workers, at the last heartbeat */
    pthread_t listener;
    bool listening;
    atomic_bool stopping;
    bool engine_missed;           /* the ping's */
    _Atomic int64_t sweep_due_ms; /* before its turn; 0: not */
};

void reaper_sweep(void *arg);
void reaper_meter(void *arg);
void reaper_usage_tidy(sbx_reaper *r);
int reaper_listen(sbx_reaper *r, sbx_err *err);
void reaper_listen_stop(sbx_reaper *r);

#endif
