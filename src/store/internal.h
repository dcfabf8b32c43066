/* What the files of the store share: the store itself, running statements, reading rows. */
#ifndef STORE_INTERNAL_H
#define STORE_INTERNAL_H

#include "link.h"
#include "sbx/core/breaker.h"
#include "sbx/store/sandboxes.h"
#include "sbx/store/store.h"
#include "sbx/store/users.h"
#include <pthread.h>
#include <stdatomic.h>

/* The longest a statement may take when the job has no nearer deadline; and a connect. */
#define STORE_STATEMENT_MS 10000
#define STORE_CONNECT_MS   3000
/* More rows than this in one answer mean that something is wrong. */
#define STORE_MAX_ROWS 100000

/* Numbers of the advisory locks: "sbx" and a digit. */
#define STORE_LOCK_MIGRATE  INT64_C(0x73627801)
#define STORE_LOCK_PRESENCE INT64_C(0x73627802)

typedef struct store_thread_conn {
    struct sbx_store *store;
    struct store_thread_conn *prev, *next; /* guarded by store->mu */
    store_link link;                       /* the thread's own */
} store_thread_conn;

/* The presence of this process as a worker. `mu` is held across statements: only join, the
 * heartbeat and leave use it. */
typedef struct store_presence {
    pthread_mutex_t mu;
    store_link link;
    sbx_id worker; /* "" before join and after leave */
    bool alone;
} store_presence;

struct sbx_store {
    char *url, *options, *direct_url, *direct_options;
    const sbx_crypt *crypt;
    sbx_breaker breaker;
    atomic_bool pooled; /* nothing may be prepared on `url` */
    pthread_key_t key;  /* store_thread_conn */
    pthread_mutex_t mu;
    store_thread_conn *conns; /* guarded by mu */
    store_presence presence;
};

typedef enum store_mode {
    STORE_ONCE,  /* repeated only if surely not applied */
    STORE_AGAIN, /* reads, and writes that may be applied twice: repeated once when lost */
} store_mode;

/** Run a statement on the calling thread's connection. @param ret  PQclear() it. */
int store_exec(sbx_store *s, store_query q, const store_params *p, store_mode mode, PGresult **ret,
               sbx_err *err) SBX_MUST_CHECK;

/** A connection of its own to the server itself (direct URL), for locks of the session. */
int store_open_direct(sbx_store *s, store_link *l, const char *app, int64_t until_ms,
                      sbx_err *err) SBX_MUST_CHECK;

/** Wait without holding anything. Ends early when the job is cancelled. */
void store_pause(int64_t ms);

void store_result_done(PGresult **r); /* for SBX_CLEANUP_VAL */

/* Binary columns. NULL gives 0, "", NULL or false. */
int64_t store_int(const PGresult *r, int row, int col); /* bool, int2, int4, int8 */
int64_t store_us(const PGresult *r, int row, int col);  /* timestamptz as Unix microseconds */
int64_t store_ms(const PGresult *r, int row, int col);
char *store_str(const PGresult *r, int row, int col);     /* owned by the caller */
int64_t store_limit(const PGresult *r, int row, int col); /* of a tier: NULL is SBX_NO_LIMIT */
void store_p_limit(store_params *p, int64_t limit);
void store_copy(const PGresult *r, int row, int col, char *out, size_t cap);

/** Columns of SANDBOX_COLS, from column 0; then, if there is one more, the number of the event. */
void store_read_sandbox(const PGresult *r, int row, sbx_sandbox_row *ret);
#define STORE_SANDBOX_COLS 43
/** Columns of KEY_BY_HASH. */
void store_read_key(const PGresult *r, sbx_key_row *ret);
/** Columns id and owner. */
void store_read_refs(const PGresult *r, sbx_sandbox_refs *ret);
int store_read_list(const PGresult *r, sbx_sandbox_list *ret, sbx_err *err) SBX_MUST_CHECK;

/** Append a one-dimensional text[] as PostgreSQL writes it. */
void store_add_array(sbx_buf *b, const char *const *items, size_t count);

#endif
