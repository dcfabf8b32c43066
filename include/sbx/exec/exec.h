/* Commands over HTTP: from the request to the answer, waiting or streamed.
 *
 * start() runs on a WORKER and returns at once; the command then lives on STREAM (a parked
 * request costs memory, not a thread) and finishes the reply from there. */
#ifndef SBX_EXEC_EXEC_H
#define SBX_EXEC_EXEC_H

#include "sbx/http/http.h"
#include "sbx/metrics/metrics.h"
#include "sbx/sandbox/channel.h"
#include "sbx/sandbox/ledger.h"
#include "sbx/sandbox/sandboxes.h"
#include "sbx/store/sandboxes.h"

typedef struct sbx_execs sbx_execs;

typedef struct sbx_execs_config {
    sbx_stream *stream;
    sbx_lanes *lanes;
    sbx_store *store;
    sbx_channels *channels;
    sbx_ledger *ledger;
    sbx_metrics *metrics;
    sbx_sandboxes *sandboxes; /* resumes what is paused */
    const char *worker;       /* id of this worker; borrowed */
} sbx_execs_config;

sbx_execs *sbx_execs_new(const sbx_execs_config *c);
void sbx_execs_free(sbx_execs *e); /* after STREAM and the lanes have ended */

extern const sbx_json_field sbx_exec_fields[]; /* also for the API document */

/** Parse the body, start the command, answer when it is over (or stream). Takes a reference to
 * the request's reply. A sandbox that is being created is waited for, without a thread.
 * @return 0, or -1 with INVALID, NOT_FOUND, CONFLICT (its state), GONE, CAPACITY (another worker
 *         holds it), STORE_UNAVAILABLE. */
int sbx_exec_start(sbx_execs *e, const char *owner, const char *sandbox, const sbx_request *r,
                   sbx_err *err) SBX_MUST_CHECK;

#endif
