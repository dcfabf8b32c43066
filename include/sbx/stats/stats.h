/* What sandboxes use: samples and streams of them over HTTP, and alerts.
 *
 * The agent is asked (under 1 ms); where it cannot be (the sandbox is paused, another worker holds
 * it, the agent is too old or silent), the engine is, on the slow lane. Neither resumes a sandbox
 * or counts as activity. */
#ifndef SBX_STATS_STATS_H
#define SBX_STATS_STATS_H

#include "sbx/engine/engine.h"
#include "sbx/http/http.h"
#include "sbx/sandbox/channel.h"
#include "sbx/sandbox/sandboxes.h"
#include "sbx/store/sandboxes.h"

typedef struct sbx_stats sbx_stats;

typedef struct sbx_stats_config {
    sbx_stream *stream;
    sbx_lanes *lanes;
    sbx_store *store;
    sbx_engine *engine;
    sbx_channels *channels;
    sbx_sandboxes *sandboxes;
    const char *worker; /* id of this worker; borrowed */
} sbx_stats_config;

sbx_stats *sbx_stats_new(const sbx_stats_config *c);
/** No more alerts; streams end. Before STREAM is freed. */
void sbx_stats_shutdown(sbx_stats *s);
void sbx_stats_free(sbx_stats *s); /* after STREAM and the lanes have ended */

#define SBX_STATS_MIN_MS     100 /* between two samples of a stream */
#define SBX_STATS_MAX_MS     60000
#define SBX_STATS_DEFAULT_MS 1000
#define SBX_ALERT_MS         5000  /* between two looks at what a sandbox that is held here uses */
#define SBX_ALERT_REST_MS    30000 /* at one in which nothing runs */

/** Answer one sample, or, to Accept: text/event-stream, one every `intervalMs` until the sandbox
 * does not run any more. Takes a reference to the request's reply. WORKER.
 * @return 0, or -1 with INVALID, NOT_FOUND, GONE, CONFLICT (it does not run; names the state). */
int sbx_stats_start(sbx_stats *s, const char *owner, const char *sandbox, const sbx_request *r,
                    sbx_err *err) SBX_MUST_CHECK;

#endif
