/* The table `tickets`. A ticket is stored as its keyed hash only. Threads: WORKER. */
#ifndef SBX_STORE_TICKETS_H
#define SBX_STORE_TICKETS_H

#include "sbx/store/users.h"

/** Write a ticket of a key, good for its first use within SBX_TICKET_S.
 * @param key  id of the API key. @param path  undecoded.
 * @param ends_ms  wall clock: it is not good any more then, whatever renews it; 0: no such end.
 * @return 0, or -1 with RATE_LIMITED (and when one will expire) if the key has SBX_MAX_TICKETS
 *         that nobody used; inserts at the same moment may exceed it by their number. */
int sbx_store_ticket_insert(sbx_store *s, const unsigned char hash[SBX_HASH_BYTES], const char *key,
                            const char *method, const char *path, int64_t ends_ms,
                            int64_t *ret_expires_ms, sbx_err *err) SBX_MUST_CHECK;

/** Use a ticket: the first use makes it one of an event stream, which may be used again until it
 * expires, or else ends it. One statement, so that of two at once one wins.
 * @param ret  the key that made the ticket, neither expired nor revoked.
 * @return 0, or -1 with NOT_FOUND if there is no such ticket for this method and path, it has
 *         expired or was used, or its key or user is not good any more. */
int sbx_store_ticket_use(sbx_store *s, const unsigned char hash[SBX_HASH_BYTES], const char *method,
                         const char *path, bool event_stream, sbx_key_row *ret,
                         sbx_err *err) SBX_MUST_CHECK;

/** Let tickets of event streams be good for SBX_TICKET_S from now on; others are left alone. */
int sbx_store_ticket_renew(sbx_store *s, const unsigned char (*hashes)[SBX_HASH_BYTES],
                           size_t count, sbx_err *err) SBX_MUST_CHECK;

/** Remove those that expired. */
int sbx_store_ticket_purge(sbx_store *s, sbx_err *err) SBX_MUST_CHECK;

#endif
