/* Contexts over HTTP: interpreters that keep their state between runs of a sandbox.
 *
 * All run on a WORKER and return at once; they answer the request later from STREAM, failures
 * included, unless they return -1. Nothing of a context is remembered by the server. */
#ifndef SBX_RUNS_CONTEXTS_H
#define SBX_RUNS_CONTEXTS_H

#include "sbx/runs/runs.h"

extern const sbx_json_field sbx_context_fields[];

/* Which context of which sandbox. Borrowed during the call. */
typedef struct sbx_context_ref {
    const char *owner, *sandbox, *id;
} sbx_context_ref;

/** Make one. @param ref  its id is the one that it gets, as the request may be repeated; NULL: any.
 * @param resumed  an earlier request may have made it.
 * Failures: INVALID, CONFLICT (there are SBX_MAX_CONTEXTS), and those of the use of a sandbox. */
int sbx_context_make(sbx_runs *r, const sbx_context_ref *ref, bool resumed,
                     const sbx_request *request, sbx_err *err) SBX_MUST_CHECK;
/** Those of a sandbox (`id` is NULL), newest first. No use of it. */
int sbx_context_list(sbx_runs *r, const sbx_context_ref *ref, const sbx_request *request,
                     sbx_err *err) SBX_MUST_CHECK;
/** One of them. */
int sbx_context_get(sbx_runs *r, const sbx_context_ref *ref, const sbx_request *request,
                    sbx_err *err) SBX_MUST_CHECK;
/** End one with all that it started; success also when it is over. */
int sbx_context_remove(sbx_runs *r, const sbx_context_ref *ref, const sbx_request *request,
                       sbx_err *err) SBX_MUST_CHECK;
/** Give it a new interpreter, without state; what runs in it is lost. */
int sbx_context_restart(sbx_runs *r, const sbx_context_ref *ref, const sbx_request *request,
                        sbx_err *err) SBX_MUST_CHECK;

#endif
