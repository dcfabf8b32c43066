/* Which master key the database's values were written with, and the change to another one.
 * Threads: WORKER, or a command. */
#ifndef SBX_STORE_SECRET_H
#define SBX_STORE_SECRET_H

#include "sbx/store/store.h"

/** Is the master key of the store the one that the database knows? The first one is remembered; one
 * that comes with the former one accepted (sbx_crypt_accept()) takes its place.
 * @param ret_changed  it did so now.
 * @return 0, or -1 with INVALID that says what to do. */
int sbx_store_secret_check(sbx_store *s, bool *ret_changed, sbx_err *err) SBX_MUST_CHECK;

typedef struct sbx_reseal {
    int64_t sealed;  /* env of sandboxes that were sealed anew */
    int64_t lost;    /* that neither key opens */
    int64_t unused;  /* API keys that nobody has presented since the change */
    int64_t answers; /* kept answers (Idempotency-Key) of before the change; none is a day old */
} sbx_reseal;

/** Seal all that was sealed under the former key under the present one. May be repeated, and run
 * beside servers. */
int sbx_store_reseal(sbx_store *s, sbx_reseal *ret, sbx_err *err) SBX_MUST_CHECK;

/** A key that is presented: if it was hashed under the former master key, it is now hashed under
 * the present one. */
int sbx_store_key_rehash(sbx_store *s, const unsigned char before[SBX_HASH_BYTES],
                         const unsigned char now[SBX_HASH_BYTES], sbx_err *err) SBX_MUST_CHECK;

#endif
