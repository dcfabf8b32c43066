/* One connection to PostgreSQL, and one statement on it at a time, always with a deadline.
 *
 * Private to the store. A link belongs to one thread. Nothing here blocks past the deadline or
 * 100 ms past a cancellation: connecting and waiting are done by poll(2) on libpq's socket, so a
 * server that is frozen costs a worker its deadline and no more. A statement that is given up
 * closes the link; the server notices (client_connection_check_interval, statement_timeout) and
 * ends it. PQcancel() is not used: it blocks without a limit when the server is frozen. */
#ifndef STORE_LINK_H
#define STORE_LINK_H

#include "queries.h"
#include "sbx/core/error.h"
#include <libpq-fe.h>

typedef enum store_query {
#define X(name, params, scope, sql) Q_##name,
    SBX_QUERIES(X)
#undef X
        Q_COUNT
} store_query;

typedef struct store_query_info {
    const char *name, *sql;
    int params;
} store_query_info;

extern const store_query_info store_queries[Q_COUNT];

#define STORE_MAX_PARAMS 32

/* The database refuses by a limit of the user. */
#define STORE_SQLSTATE_QUOTA "SBXQ1"
/** Read its detail. usage.c. */
void store_refused(const char *detail, sbx_err *err);

/* Parameters of one statement. Strings are borrowed until it has run. */
typedef struct store_params {
    int count;
    const char *values[STORE_MAX_PARAMS];
    int lengths[STORE_MAX_PARAMS];
    int formats[STORE_MAX_PARAMS];
    char numbers[STORE_MAX_PARAMS][24]; /* text of numbers, bytes of times */
} store_params;

void store_p_str(store_params *p, const char *s); /* NULL: SQL's NULL */
void store_p_int(store_params *p, int64_t n);
void store_p_bool(store_params *p, bool b);
void store_p_bytes(store_params *p, const void *data, size_t len); /* NULL: SQL's NULL */
void store_p_time_us(store_params *p, int64_t unix_us);            /* 0: SQL's NULL */

typedef struct store_link {
    PGconn *pg; /* NULL: closed */
    bool prepared[Q_COUNT];
    char sqlstate[6]; /* of the last failure that the server reported */
    bool ending;      /* the server has said that it ends the connection */
} store_link;

typedef enum store_outcome {
    STORE_DONE,
    STORE_REFUSED,  /* the server answered with an error; the link is in order */
    STORE_NOT_SENT, /* the link was dead before anything was sent; it is closed */
    STORE_LOST,     /* the link broke after sending: applied or not, nobody knows; it is closed */
    STORE_GAVE_UP,  /* deadline or cancellation: nobody knows; the link is closed */
} store_outcome;

typedef struct store_target {
    const char *url;
    const char *app;     /* application_name */
    bool pooled;         /* a pooler may stand between: no startup options, nothing prepared */
    const char *options; /* the user's own startup options, or NULL */
} store_target;

/** Connect. @param until_ms  monotonic. @return 0, or -1 with STORE_UNAVAILABLE, TIMEOUT or
 * CANCELLED. */
int store_link_open(store_link *l, const store_target *t, int64_t until_ms,
                    sbx_err *err) SBX_MUST_CHECK;
void store_link_close(store_link *l);

/** Is it open and, as far as one can tell without asking the server, alive? Closes it if not. */
bool store_link_alive(store_link *l);

/** Run a statement of queries.h. @param ret  binary results, on STORE_DONE; PQclear() it. */
store_outcome store_link_run(store_link *l, store_query q, const store_params *p, bool prepare,
                             int64_t until_ms, PGresult **ret, sbx_err *err);

/** Run a script (several statements; migrations and BEGIN/COMMIT), results dropped.
 * @param what  for messages. */
store_outcome store_link_script(store_link *l, const char *what, const char *sql, int64_t until_ms,
                                sbx_err *err);

#endif
