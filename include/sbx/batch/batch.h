/* Many sandboxes by one request: made, or deleted.
 *
 * A few at a time, without a thread for each that is waited for; what the answer says of each is
 * what it would have been told alone. All but new() and free() run on a WORKER and return at once.
 * They answer every failure themselves, unless they return -1. */
#ifndef SBX_BATCH_BATCH_H
#define SBX_BATCH_BATCH_H

#include "sbx/http/http.h"
#include "sbx/run/lanes.h"
#include "sbx/sandbox/sandboxes.h"

typedef struct sbx_batches sbx_batches;

typedef struct sbx_batches_config {
    sbx_stream *stream;
    sbx_lanes *lanes;
    sbx_store *store;
    sbx_sandboxes *sandboxes;
    const char *worker; /* borrowed */
} sbx_batches_config;

sbx_batches *sbx_batches_new(const sbx_batches_config *c);
void sbx_batches_free(sbx_batches *b); /* after STREAM and the lanes have ended */

extern const sbx_json_field sbx_creates_fields[]; /* also for the API document */

typedef struct sbx_batch_claim {
    const char *id; /* the ids of the sandboxes follow from it; NULL: they are new */
    bool resumed;   /* it was begun before: what is there already is not made again */
    /* Before the answer, if what failed may succeed when the request is repeated. */
    void (*open)(sbx_reply *reply);
    /* Asked before anything is made, with how many that will be; -1 is the answer. May be NULL. */
    int (*admit)(void *arg, size_t count, sbx_err *err);
    void *arg;
} sbx_batch_claim;

/** Make the sandboxes that the body asks for. A client that leaves ends it where it is, unless
 * there is a claim: what runs stays, what is on its way is undone.
 * Failures: INVALID (with the field's path, "sandboxes[3].limits.cpus"), before anything is made.
 */
int sbx_batch_create(sbx_batches *b, const char *owner, const sbx_batch_claim *claim,
                     const sbx_request *r, sbx_err *err) SBX_MUST_CHECK;

typedef struct sbx_batch_victims {
    const char *owner;
    char (*ids)[SBX_ID_LEN + 1]; /* taken over */
    size_t count;
    bool more;         /* for the answer: there are others */
    const char *group; /* deleted when all of them are; or NULL */
} sbx_batch_victims;

/** Delete sandboxes, and tell which. It goes on when the client leaves. */
void sbx_batch_delete(sbx_batches *b, const sbx_batch_victims *v, const sbx_request *r);

#endif
