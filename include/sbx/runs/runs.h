/* Runs of code over HTTP: a sandbox for one run, or one that is there already.
 *
 * A run is a state machine without a thread: create (or use), files, code, answer; then the
 * sandbox of a one-shot run is deleted, or the code's file is removed. sbx_run_start() runs on a
 * WORKER and returns at once; what waits lives on STREAM.
 *
 * The row of a one-shot sandbox names its execution and the worker that follows it, and its
 * lifetime ends soon after the code's: whoever dies at whatever line, nothing stays. */
#ifndef SBX_RUNS_RUNS_H
#define SBX_RUNS_RUNS_H

#include "sbx/http/http.h"
#include "sbx/metrics/metrics.h"
#include "sbx/packages/packages.h"
#include "sbx/sandbox/sandboxes.h"
#include "sbx/sandbox/use.h"

typedef struct sbx_runs sbx_runs;

typedef struct sbx_runs_config {
    sbx_stream *stream;
    sbx_lanes *lanes;
    sbx_store *store;
    sbx_channels *channels;
    sbx_ledger *ledger;
    sbx_metrics *metrics;
    sbx_sandboxes *sandboxes;
    sbx_packages *packages;
    const char *worker; /* id; borrowed */
} sbx_runs_config;

sbx_runs *sbx_runs_new(const sbx_runs_config *c);
void sbx_runs_free(sbx_runs *r); /* after STREAM and the lanes have ended */

/* Also for the API document. The second are those of a run in a sandbox that is there. */
extern const sbx_json_field sbx_run_fields[], sbx_sandbox_run_fields[];

/** What runs the code of a command that is a run, by the ending of the code's file.
 * @param command  the argument vector as JSON, as its agent tells it: from inside a sandbox.
 * @return a name of the table of runtimes; "": none is found. Any thread. */
const char *sbx_run_runtime_of(const char *command);

/** Check the request, run the code, answer. Takes a reference of the reply; a client that leaves
 * ends the run, unless it sent an Idempotency-Key: then the answer, or what
 * the stream tells, is kept.
 * @param sandbox  NULL: one of its own, which is deleted behind the answer.
 * @param limited  the owner's runs are limited: ask before one in a sandbox that is there.
 * @return 0, or -1 with INVALID (names the field), TOO_LARGE, CAPACITY, or why the sandbox could
 *         not be made. What comes later is answered. */
int sbx_run_start(sbx_runs *r, const char *owner, const char *sandbox, bool limited,
                  const sbx_request *request, sbx_err *err) SBX_MUST_CHECK;

/** Delete what could not be deleted before, and end the sandboxes of runs whose worker is dead.
 * WORKER, every SBX_RUN_TICK_MS. `arg` is the sbx_runs. */
void sbx_runs_tick(void *arg);

#endif
