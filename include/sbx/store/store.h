/* PostgreSQL: a connection per worker thread, prepared statements, reconnect.
 *
 * Every statement stands in src/store/queries.h. Times are the database's: deadlines and expiry
 * are computed by SQL with now(). Functions block up to the job's deadline (core/thread.h).
 *
 * Failures: STORE_UNAVAILABLE (no connection, lost connection, shutting down), CONFLICT (compare
 * and set found another state; unique violation), NOT_FOUND, INVALID (a value that a column cannot
 * hold), TIMEOUT and CANCELLED (the job's), INTERNAL (anything else, with SQLSTATE, without
 * parameters). A statement takes at most 10 s and a connect 3 s, also with a frozen server. A
 * statement whose connection breaks is repeated once on a new one if it reads or can tell that
 * it was applied before; deadlocks are repeated a few times. PostgreSQL 14 or newer. */
#ifndef SBX_STORE_STORE_H
#define SBX_STORE_STORE_H

#include "sbx/core/base.h"
#include "sbx/core/breaker.h"
#include "sbx/core/crypt.h"
#include "sbx/core/error.h"
#include "sbx/core/id.h"
#include "sbx/core/json.h"

/* Who owns what waits in pools, and the sandboxes in which packages are installed; no key can
 * belong to him, so no user reaches them. */
#define SBX_POOL_OWNER "pool0000000000000000"

typedef struct sbx_store sbx_store;

/** Does not connect yet.
 * @param url  libpq URI or conninfo. @param direct_url  past a pooler, or NULL or ""; when set,
 *        nothing is prepared on `url` (PgBouncer in transaction mode).
 * @param crypt  borrowed; seals env values; NULL if only migrations run.
 * @return 0, or -1 with INVALID (not a URL; the message never quotes it). */
int sbx_store_new(const char *url, const char *direct_url, const sbx_crypt *crypt, sbx_store **ret,
                  sbx_err *err) SBX_MUST_CHECK;
void sbx_store_free(sbx_store *s); /* after the worker threads have ended */
SBX_DEFINE_CLEANUP(sbx_store, sbx_store_free)

int sbx_store_ping(sbx_store *s, sbx_err *err) SBX_MUST_CHECK;
/** While it is open all statements fail at once with STORE_UNAVAILABLE. */
sbx_breaker *sbx_store_breaker(sbx_store *s);

/** Apply the migrations that are missing, under an advisory lock; verify the checksums of those
 * applied. @param ret_applied  how many. CONFLICT if an applied one differs or is unknown
 * (newer database). TIMEOUT if another program holds the lock for a minute. */
int sbx_store_migrate(sbx_store *s, int *ret_applied, sbx_err *err) SBX_MUST_CHECK;
/** What sbx_store_migrate() would find and do; changes nothing. `each` is called for every
 * migration that is recorded or known, in order; `state`: "applied", "pending", "differs" (it was
 * applied with another text), "unknown" (of a newer program). `sum` is the checksum of the text
 * here, or the recorded one if there is none here.
 * @return 0, or -1 as sbx_store_migrate() would fail; `each` was called all the same. */
int sbx_store_migrations(sbx_store *s,
                         void (*each)(void *arg, const char *name, const char *sum,
                                      const char *state),
                         void *arg, int *ret_pending, sbx_err *err) SBX_MUST_CHECK;
/** Are all migrations applied? INTERNAL with what to do if not. */
int sbx_store_check(sbx_store *s, sbx_err *err) SBX_MUST_CHECK;

typedef struct sbx_store_facts {
    int version; /* 150004 is 15.4 */
    char version_text[64];
    int64_t max_connections, reserved_connections, connections; /* of the server; used now */
    int64_t skew_ms;                                            /* its clock minus ours */
    bool read_only;
} sbx_store_facts;
/** What the server says of itself. */
int sbx_store_facts_get(sbx_store *s, sbx_store_facts *ret, sbx_err *err) SBX_MUST_CHECK;

/** The installation's id, made by the first migration. @param out  a sbx_id. */
int sbx_store_cluster(sbx_store *s, sbx_id *out, sbx_err *err) SBX_MUST_CHECK;

/** Hold a worker's presence for the life of the process on a connection of its own (session
 * advisory lock, direct url): id of this worker. `alone` asks for exclusive presence (no Redis):
 * CONFLICT if another live worker is there; with `alone` false CONFLICT if one that asked for
 * exclusive presence is there. Writes a row in `workers`; sbx_store_heartbeat() renews it and
 * re-takes the locks on a new connection if the old one died (CONFLICT: somebody else has it now,
 * this process must end; STORE_UNAVAILABLE: try again). Call it every second: a worker that died
 * without a word is known to be dead 2.5 to 3.5 s after its last heartbeat, one that stands still
 * 5 to 6 s after it. join() waits up to 3 s for a killed predecessor's lock. sbx_store_leave()
 * gives it all up at once. Each statement has 3 s. Any WORKER; the three exclude each other. */
int sbx_store_join(sbx_store *s, bool alone, sbx_id *ret_worker, sbx_err *err) SBX_MUST_CHECK;

typedef struct sbx_worker_news {
    bool late; /* nothing was heard of this worker for 2 s: others may have taken what it had */
    char
        *dead; /* ids, with spaces between, of workers that are dead as of now; NULL: none; owned */
    int64_t others; /* workers besides this one, the dead among them */
    bool leads;     /* it is the first of all by id: it does what one of them has to do */
} sbx_worker_news;

int sbx_store_heartbeat(sbx_store *s, const char *worker, sbx_worker_news *ret,
                        sbx_err *err) SBX_MUST_CHECK;
void sbx_store_leave(sbx_store *s, const char *worker);

#endif
