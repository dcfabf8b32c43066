/* Everything that the process is made of, wired together in main.c and handed to the API. */
#ifndef SBX_APP_H
#define SBX_APP_H

#include "sbx/audit/audit.h"
#include "sbx/auth/auth.h"
#include "sbx/auth/rates.h"
#include "sbx/auth/tickets.h"
#include "sbx/batch/batch.h"
#include "sbx/bus/bus.h"
#include "sbx/core/options.h"
#include "sbx/engine/engine.h"
#include "sbx/events/events.h"
#include "sbx/exec/exec.h"
#include "sbx/files/files.h"
#include "sbx/guard/guard.h"
#include "sbx/http/http.h"
#include "sbx/logs/logs.h"
#include "sbx/metrics/metrics.h"
#include "sbx/moves/moves.h"
#include "sbx/packages/packages.h"
#include "sbx/reaper/reaper.h"
#include "sbx/run/keeper.h"
#include "sbx/run/stream.h"
#include "sbx/runs/runs.h"
#include "sbx/sandbox/sandboxes.h"
#include "sbx/stats/stats.h"
#include "sbx/store/store.h"
#include <pthread.h>
#include <stdatomic.h>

/* What /ready found last. One caller looks, and tells all who ask within a second, or meanwhile. */
typedef struct sbx_ready {
    pthread_mutex_t mu;
    struct sbx_ready_part {
        bool checking;
        int64_t at_ms; /* monotonic; 0: not looked yet */
        int64_t latency_us;
        sbx_code code; /* SBX_OK, or why not */
    } parts[3];        /* guarded by mu */
} sbx_ready;

/* Whose the objects are that administrators asked for: an owner never changes. */
#define SBX_REACH_PLACES 1024
typedef struct sbx_reach {
    pthread_mutex_t mu;
    struct sbx_reach_place {
        sbx_id object, owner;
    } places[SBX_REACH_PLACES]; /* guarded by mu */
} sbx_reach;

typedef struct sbx_app {
    sbx_options options;
    sbx_id cluster, worker;
    sbx_crypt *crypt;
    sbx_store *store;
    sbx_audit *audit;
    sbx_auth *auth;
    sbx_oidc *oidc; /* or NULL */
    sbx_tickets *tickets;
    sbx_rates *rates;
    sbx_engine *engine;
    sbx_bus *bus;
    sbx_metrics *metrics;
    sbx_lanes *lanes;
    sbx_stream *stream;
    sbx_keeper *keeper;
    sbx_guard *guard;
    sbx_channels *channels;
    sbx_checks *checks;
    sbx_ledger *ledger;
    sbx_sandboxes *sandboxes;
    sbx_execs *execs;
    sbx_batches *batches;
    sbx_files *files;
    sbx_runs *runs;
    sbx_moves *moves;
    sbx_packages *packages;
    sbx_stats *stats;
    sbx_logs *logs;
    sbx_events *events;
    sbx_reaper *reaper;
    sbx_route *routes; /* the HTTP table; row i is sbx_api_routes[i] */
    sbx_http *http;
    sbx_ready ready;
    sbx_reach reach;
    atomic_bool checking_bearers; /* a job is at it */
    atomic_size_t claims_ending;  /* bytes of answers to requests with a key, not recorded yet */
    /* Made once: the API document, the page to read it, and that page's policy. */
    char *openapi, *docs, *docs_policy;
} sbx_app;

#endif
