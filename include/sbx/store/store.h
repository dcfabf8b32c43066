/* PostgreSQL: a connection per worker thread, prepared statements, reconnect.
 *
 * Every statement stands in src/store/queries.h. Times are the database's: deadlines and expiry
 * are computed by SQL with now(). Functions block up to the job's deadline (core/thread.h).
 *
 * Failures: STORE_UNAVAILABLE (no connection, lost connection, shutting down), CONFLICT (compare
 * and set found another state; unique violation), NOT_FOUND, INTERNAL (anything else, logged text
 * without parameters). A statement that only reads is repeated once on a fresh connection when
 * the old one turns out dead; one that writes only if it was surely not sent. */
#ifndef SBX_STORE_STORE_H
#define SBX_STORE_STORE_H

#include "sbx/core/buf.h"
#include "sbx/core/crypt.h"
#include "sbx/core/error.h"
#include "sbx/core/id.h"
#include "sbx/core/json.h"

typedef struct sbx_store sbx_store;

/** @param url  libpq URI or conninfo. @param direct_url  or NULL. Does not connect yet.
 * @param crypt  borrowed; seals env values. */
int  sbx_store_new(const char *url, const char *direct_url, const sbx_crypt *crypt,
                   sbx_store **ret, sbx_err *err) SBX_MUST_CHECK;
void sbx_store_free(sbx_store *s); /* after the worker threads have ended */

int sbx_store_ping(sbx_store *s, sbx_err *err) SBX_MUST_CHECK;

/** Apply the migrations that are missing, under an advisory lock; verify the checksums of those
 * applied. @param ret_applied  how many. CONFLICT if a landed one differs or is unknown (newer
 * database). */
int sbx_store_migrate(sbx_store *s, int *ret_applied, sbx_err *err) SBX_MUST_CHECK;
/** Are all migrations applied? INTERNAL with what to do if not. */
int sbx_store_check(sbx_store *s, sbx_err *err) SBX_MUST_CHECK;

/** The installation's id, made by the first migration. @param out  a sbx_id. */
int sbx_store_cluster(sbx_store *s, sbx_id *out, sbx_err *err) SBX_MUST_CHECK;

/** Hold a worker's presence for the life of the process on a connection of its own (session
 * advisory lock, direct url): id of this worker. `alone` asks for exclusive presence (no Redis):
 * CONFLICT if another live worker is there; with `alone` false CONFLICT if one that asked for
 * exclusive presence is there. Writes a row in `workers`; sbx_store_heartbeat() renews it and
 * re-takes the lock on a new connection if the old one died. */
int  sbx_store_join(sbx_store *s, bool alone, sbx_id *ret_worker, sbx_err *err) SBX_MUST_CHECK;
int  sbx_store_heartbeat(sbx_store *s, const char *worker, sbx_err *err) SBX_MUST_CHECK;
void sbx_store_leave(sbx_store *s, const char *worker);

#endif
