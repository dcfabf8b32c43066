/* The table `idempotency_keys`: what was answered to requests that may be repeated.
 *
 * A request claims its key before it makes anything, under an id that it chose, and leaves its
 * answer in the claim or gives it up. A claim of a dead worker, or one that nobody answered, is
 * judged by what became of the sandbox with its id; or, if its request may be run again under the
 * same id, goes with that id to the next one. Keys are remembered for a day.
 * Threads: WORKER. */
#ifndef SBX_STORE_IDEMPOTENCY_H
#define SBX_STORE_IDEMPOTENCY_H

#include "sbx/store/store.h"

typedef struct sbx_claim {
    const char *owner, *key;                   /* borrowed */
    unsigned char fingerprint[SBX_HASH_BYTES]; /* of the request */
    const char *worker;                        /* of this process; borrowed */
    const char *resource;                      /* the id for what is made; borrowed */
    bool rerun; /* run again with the same id, the request completes what was begun */
} sbx_claim;

typedef enum sbx_claim_state {
    SBX_CLAIM_MINE,  /* to be run with the id found, and ended with done(), release() or leave() */
    SBX_CLAIM_WAIT,  /* the first one runs, or its end is not known yet: ask again */
    SBX_CLAIM_OTHER, /* the key stands for another request */
    SBX_CLAIM_FIRST, /* `answer` is the first answer */
    SBX_CLAIM_MADE,  /* `resource` was made, but nobody was told */
} sbx_claim_state;

typedef struct sbx_claim_found {
    sbx_claim_state state;
    int status;
    char *location;                /* or NULL; owned */
    sbx_buf answer;                /* the body */
    char resource[SBX_ID_LEN + 1]; /* of MINE: another one than the claim's if it is a rerun */
} sbx_claim_found;
void sbx_claim_found_done(sbx_claim_found *f);

/** Claim a key, or learn what became of it. A repeated statement is known by `resource`, so every
 * try of a request needs a new one. */
int sbx_store_idempotency_claim(sbx_store *s, const sbx_claim *c, sbx_claim_found *ret,
                                sbx_err *err) SBX_MUST_CHECK;

/** The row of what is made exists: from now on it alone tells what became of the claim. CAPACITY
 * if the claim was taken over by another request, which happens to a process that stood still. */
int sbx_store_idempotency_begun(sbx_store *s, const sbx_claim *c, sbx_err *err) SBX_MUST_CHECK;

/** Leave the answer, which is sealed. Nothing happens if the claim was taken over. */
int sbx_store_idempotency_done(sbx_store *s, const sbx_claim *c, int status, const char *location,
                               const sbx_buf *body, sbx_err *err) SBX_MUST_CHECK;

/** Forget the claim: the next request with the key runs. */
int sbx_store_idempotency_release(sbx_store *s, const sbx_claim *c, sbx_err *err) SBX_MUST_CHECK;

/** Let go of a claim of a rerun: the next request with the key goes on with its id. `resource` may
 * also be the id with which the claim was asked for. */
int sbx_store_idempotency_leave(sbx_store *s, const sbx_claim *c, sbx_err *err) SBX_MUST_CHECK;

/** Remove what is older than a day. */
int sbx_store_idempotency_purge(sbx_store *s, sbx_err *err) SBX_MUST_CHECK;

#endif
