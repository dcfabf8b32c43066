/* Tickets: for requests of browsers that cannot carry a header (WebSocket, EventSource, a link).
 *
 * A ticket is "tkt_" and 64 hexadecimal digits: 128 random bits, and as many that follow from them
 * by a keyed hash, so that one that was made up costs no statement. It is made by a key for one
 * method and one path, good for SBX_TICKET_S to its first use and for one request only. The first
 * use by an event stream makes it that stream's: it stays good, for event streams, while one is
 * connected anywhere, and SBX_TICKET_S longer. It allows what the key allows at that moment.
 *
 * The database holds a lease that a tick renews for the streams of this process, so that a crash
 * ends it by itself and any worker may be asked. */
#ifndef SBX_AUTH_TICKETS_H
#define SBX_AUTH_TICKETS_H

#include "sbx/auth/auth.h"

#define SBX_TICKET_LEN (4 + 2 * 32)

typedef struct sbx_tickets sbx_tickets;           /* any thread, unless said otherwise */
typedef struct sbx_ticket_lease sbx_ticket_lease; /* one connected stream */

/** @param store, crypt  borrowed; outlive the result. */
sbx_tickets *sbx_tickets_new(sbx_store *store, const sbx_crypt *crypt);
void sbx_tickets_free(sbx_tickets *t); /* after all streams have ended */

/** Make a ticket. Blocks (WORKER).
 * @param ret  its text, shown once and to be wiped.
 * @return 0, or -1 with RATE_LIMITED or what the store fails with. */
int sbx_tickets_issue(sbx_tickets *t, const sbx_principal *who, const char *method,
                      const char *path, char ret[SBX_TICKET_LEN + 1], int64_t *ret_expires_ms,
                      sbx_err *err) SBX_MUST_CHECK;

/** Was it made here, whatever became of it? Never blocks. */
bool sbx_tickets_genuine(const sbx_tickets *t, const char *ticket);

/** Who presents this ticket? Blocks (WORKER).
 * @param path       undecoded, without the query.
 * @param ret_lease  of an event stream: to be ended when it is over. NULL if the request is none.
 * @return 0, or -1 with UNAUTHORIZED (one text for all that is not accepted) or what the store
 *         fails with. */
int sbx_tickets_use(sbx_tickets *t, const char *ticket, const char *method, const char *path,
                    sbx_ticket_lease **ret_lease, sbx_principal *ret, sbx_err *err) SBX_MUST_CHECK;

/** The stream is over: the ticket is renewed once more. Never blocks. */
void sbx_ticket_lease_end(sbx_ticket_lease *l);

/** Renew the tickets of all connected streams: every SBX_TICKET_RENEW_MS, one run at a time. Blocks
 * (WORKER). On failure the next run does it. */
int sbx_tickets_renew(sbx_tickets *t, sbx_err *err) SBX_MUST_CHECK;

#endif
