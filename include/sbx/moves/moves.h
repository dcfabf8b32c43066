/* Moves of sandboxes over HTTP: start, stop, restart, pause, resume, reset, keepalive.
 *
 * A request whose move takes its time (a stop with its grace, somebody else's move with the same
 * goal) is parked with STREAM, which has it looked at again by a worker now and then. */
#ifndef SBX_MOVES_MOVES_H
#define SBX_MOVES_MOVES_H

#include "sbx/http/http.h"
#include "sbx/sandbox/sandboxes.h"

typedef struct sbx_moves sbx_moves;

typedef struct sbx_moves_config {
    sbx_stream *stream;
    sbx_lanes *lanes;
    sbx_sandboxes *sandboxes;
} sbx_moves_config;

sbx_moves *sbx_moves_new(const sbx_moves_config *c);
void sbx_moves_free(sbx_moves *m); /* after STREAM and the lanes have ended */

/* Fields of the bodies; also for the API document. */
extern const sbx_json_field sbx_stop_fields[], sbx_restart_fields[], sbx_reset_fields[];
extern const sbx_json_field sbx_no_fields[]; /* of the others */

/** Read the body, begin the move, and answer 200 with the sandbox when it is there. Takes a
 * reference to the request's reply. WORKER.
 * @return 0, or -1 with INVALID or what sbx_sandbox_move() says. */
int sbx_moves_start(sbx_moves *m, sbx_verb verb, const char *owner, const char *sandbox,
                    const sbx_request *r, sbx_err *err) SBX_MUST_CHECK;

#endif
