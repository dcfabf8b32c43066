/* The KEEPER thread: periodic ticks. A tick only submits a job to a lane and never blocks. */
#ifndef SBX_RUN_KEEPER_H
#define SBX_RUN_KEEPER_H

#include "sbx/run/lanes.h"

typedef struct sbx_keeper sbx_keeper;

sbx_keeper *sbx_keeper_new(sbx_lanes *lanes);

/** Run `fn(arg)` on a worker of `lane` every `period_ms` (first after one period). A tick whose
 * last run has not ended is skipped. Before sbx_keeper_start() only. */
void sbx_keeper_every(sbx_keeper *k, const char *name, int64_t period_ms, sbx_lane lane,
                      void (*fn)(void *arg), void *arg);
int sbx_keeper_start(sbx_keeper *k, sbx_err *err) SBX_MUST_CHECK;

/** Have a tick run now; if it runs already, once more behind that. Any thread. */
void sbx_keeper_kick(sbx_keeper *k, const char *name);

/** No more ticks; joins the thread. Then the lanes may be freed, then the keeper. */
void sbx_keeper_stop(sbx_keeper *k);
void sbx_keeper_free(sbx_keeper *k);

#endif
