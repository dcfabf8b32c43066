/* The tables `package_requests` and `package_sets`: which volumes hold which packages, for whom.
 *
 * Of equal requests one is to install, and the others ask again until it has. Whoever asks finds
 * out by the same statement if the one who was at it died. Threads: WORKER. */
#ifndef SBX_STORE_PACKAGES_H
#define SBX_STORE_PACKAGES_H

#include "sbx/store/store.h"

typedef struct sbx_package_request {
    const char *owner, *worker, *installer; /* borrowed */
    unsigned char request[SBX_HASH_BYTES];
    const char *set_id; /* of the set to be made, should it come to that; a new one each time */
    int deadline_s;     /* for making it */
} sbx_package_request;

typedef enum sbx_package_state {
    SBX_PACKAGES_MINE,   /* the row of `set_id` was written: install */
    SBX_PACKAGES_SEALED, /* `id` is ready, and stays for SBX_PACKAGES_USE_S at least */
    SBX_PACKAGES_WAIT,   /* somebody installs: ask again */
    SBX_PACKAGES_FAILED, /* not long ago: `failure` and `output` */
} sbx_package_state;

typedef struct sbx_package_found {
    sbx_package_state state;
    char id[SBX_ID_LEN + 1];
    char *installed; /* JSON array text; owned */
    sbx_err failure;
    char *output; /* owned */
} sbx_package_found;
void sbx_package_found_done(sbx_package_found *f);

/** Which set answers a request. */
int sbx_store_packages_claim(sbx_store *s, const sbx_package_request *r, sbx_package_found *ret,
                             sbx_err *err) SBX_MUST_CHECK;

/** A sandbox is about to be made that has the set mounted. CONFLICT: the set is not ours any more.
 */
int sbx_store_packages_stage(sbx_store *s, const char *id, const char *worker, const char *sandbox,
                             sbx_err *err) SBX_MUST_CHECK;

typedef struct sbx_package_seal {
    const char *id, *worker;
    unsigned char key[SBX_HASH_BYTES];
    const char *installed; /* JSON array text */
    int64_t size_bytes;
    int64_t ttl_s;
} sbx_package_seal;

/** The set is complete. If the owner has one with the same key already, that one is used, and this
 * one is to be removed. @param ret_id  which one. CONFLICT: the set is not ours any more. */
int sbx_store_packages_seal(sbx_store *s, const sbx_package_seal *p, char ret_id[SBX_ID_LEN + 1],
                            sbx_err *err) SBX_MUST_CHECK;

/** It came to nothing: the set is to be removed, and the request is answered with `why` for
 * `seconds`. @param output  UTF-8. */
int sbx_store_packages_fail(sbx_store *s, const char *id, const char *worker, const sbx_err *why,
                            const char *output, int seconds, sbx_err *err) SBX_MUST_CHECK;

/** The volume of a sealed set is not there any more. */
int sbx_store_packages_lost(sbx_store *s, const char *id, sbx_err *err) SBX_MUST_CHECK;

/** Give up installations that are past their deadline or whose worker is dead, and forget old
 * requests. */
int sbx_store_packages_overdue(sbx_store *s, sbx_err *err) SBX_MUST_CHECK;

/** Have the sets removed that were used longest ago, until the others take at most `max_bytes`; of
 * those that nobody has asked for within SBX_PACKAGES_USE_S. @param ret_count  how many. */
int sbx_store_packages_evict(sbx_store *s, int64_t max_bytes, int *ret_count,
                             sbx_err *err) SBX_MUST_CHECK;

typedef struct sbx_package_row {
    char id[SBX_ID_LEN + 1], owner[SBX_ID_LEN + 1], sandbox[SBX_ID_LEN + 1]; /* sandbox "": none */
    bool removing, was_sealed;
    int64_t size_bytes;
} sbx_package_row;

/** All sets. @param ret  the caller's to free. */
int sbx_store_packages_all(sbx_store *s, sbx_package_row **ret, size_t *ret_count,
                           sbx_err *err) SBX_MUST_CHECK;
/** The volume of a set that is `removing` is gone. */
int sbx_store_packages_removed(sbx_store *s, const char *id, sbx_err *err) SBX_MUST_CHECK;
/** It is in use: keep it for longer. Nothing happens to one that was never sealed, or whose place
 * was taken. */
int sbx_store_packages_restore(sbx_store *s, const char *id, sbx_err *err) SBX_MUST_CHECK;

#endif
