/* Use of a sandbox by a request: the wait until its agent can be told something.
 *
 * Use counts as activity, resumes a paused sandbox, waits for one that is being created, started or
 * adopted, opens a bridge to one that another worker holds, and gives the channel the environment
 * that the row has by now. A wait costs memory, not a thread. */
#ifndef SBX_SANDBOX_USE_H
#define SBX_SANDBOX_USE_H

#include "sbx/sandbox/sandboxes.h"
#include <stdatomic.h>

/* What it needs; immutable. */
typedef struct sbx_use_parts {
    sbx_stream *stream;
    sbx_lanes *lanes;
    sbx_store *store;
    sbx_channels *channels;
    sbx_sandboxes *sandboxes;
} sbx_use_parts;

/* Owned by the user, and borrowed from sbx_sandbox_use() until one of the two was called. */
typedef struct sbx_use {
    const sbx_use_parts *parts;
    const char *owner, *sandbox;
    const atomic_bool *cancelled; /* nobody waits any more; may be NULL */
    bool reading; /* it is no use: does not count, and a paused sandbox is CONFLICT */
    /* Exactly one of them is called, once: `ready` on a WORKER, when this worker has an answered
     * channel; `failed` on a WORKER or on STREAM, with NOT_FOUND, GONE, CONFLICT (names the state),
     * CAPACITY (not in time, or another worker holds it), CANCELLED, or why the store or the resume
     * failed. Both may come before sbx_sandbox_use() returns. */
    void (*ready)(void *arg);
    void (*failed)(void *arg, const sbx_err *err);
    void *arg;
    bool again;         /* it was in use, and what it was used for goes on inside: be patient */
    int64_t started_ms; /* when it is ready: since when the sandbox runs, wall clock */
    int64_t from_ms;    /* not the user's, as the next two */
    int64_t running_ms; /* since then it runs, and cannot be reached from here; 0: it can */
    bool bridged, counted;
} sbx_use;

/** Begin. On a WORKER: the first look is taken at once, so a sandbox that runs here costs one
 * statement and no wait. */
void sbx_sandbox_use(sbx_use *u);

#endif
