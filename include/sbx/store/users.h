/* The tables `users` and `api_keys`, as far as a request's key needs them. Keys are stored as keyed
 * hashes only. Their management: store/identity.h. Threads: WORKER. */
#ifndef SBX_STORE_USERS_H
#define SBX_STORE_USERS_H

#include "sbx/core/rates.h"
#include "sbx/store/store.h"

typedef struct sbx_key_row {
    char id[SBX_ID_LEN + 1], user[SBX_ID_LEN + 1];
    char role[8]; /* user, admin */
    char *scopes; /* space-separated; "*" all; owned */
    bool expired, revoked;
    int64_t rates[SBX_RATE_COUNT]; /* a minute; SBX_RATE_DEFAULT: the server's */
    int64_t expires_ms;            /* wall clock; 0: never */
    int64_t token_ms; /* of a ticket that a token made: when that one ends; 0: none did */
    bool limited;     /* the tier limits how many runs there are */
} sbx_key_row;
void sbx_key_row_done(sbx_key_row *r);

/** Make the user if the name is new. @param role  user or admin; CONFLICT if the user has the
 * other one. @param tier  the same: INVALID if there is none of that name; NULL: any, of a new user
 * `free`. */
int sbx_store_user_ensure(sbx_store *s, const char *name, const char *role, const char *tier,
                          sbx_id *ret, sbx_err *err) SBX_MUST_CHECK;
/** @param prefix  the first characters of the key (at most 16), for recognition. */
int sbx_store_key_insert(sbx_store *s, const char *user, const char *name, const char *prefix,
                         const unsigned char hash[SBX_HASH_BYTES], const char *scopes, sbx_id *ret,
                         sbx_err *err) SBX_MUST_CHECK;
/** Give a key other rates. @param id  of the key. */
int sbx_store_key_rates(sbx_store *s, const char *id, const int64_t rates[SBX_RATE_COUNT],
                        sbx_err *err) SBX_MUST_CHECK;
/** NOT_FOUND if there is none; expired and revoked ones (also: user disabled) are returned. */
int sbx_store_key_by_hash(sbx_store *s, const unsigned char hash[SBX_HASH_BYTES], sbx_key_row *ret,
                          sbx_err *err) SBX_MUST_CHECK;

#endif
