/* See link.h. libpq's asynchronous interface, driven by poll(2).
 *
 * Errors are classified by SQLSTATE. Texts of the server are passed on only for classes that
 * cannot quote a value of a user (42, 53, 57 and the like); for all others the SQLSTATE, the
 * statement's name and the constraint's name say enough. */
#include "link.h"

#include "sbx/core/clock.h"
#include "sbx/core/thread.h"
#include <endian.h>
#include <poll.h>
#include <stdio.h>

#define IDLE_READS      8
#define CANCEL_CHECK_MS 100
#define EPOCH_2000_US   INT64_C(946684800000000)

/* Guards of the session that the server itself enforces. The first two end what a dead client
 * left behind; compare and set relies on the isolation level. */
#define SESSION_OPTIONS                                                                            \
    "-c client_connection_check_interval=1000 -c statement_timeout=30000"                          \
    " -c idle_in_transaction_session_timeout=60000 -c default_transaction_isolation=read\\ "       \
    "committed -c default_transaction_read_only=off -c search_path=public"                         \
    " -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"

const store_query_info store_queries[Q_COUNT] = {
#define X(name, params, whose, sql) {#name, sql, params},
    SBX_QUERIES(X)
#undef X
};

/* --- parameters --- */

static int next_param(store_params *p)
{
    if (p->count >= STORE_MAX_PARAMS)
        abort();
    return p->count++;
}

void store_p_str(store_params *p, const char *s)
{
    int i = next_param(p);
    p->values[i] = s;
    p->lengths[i] = 0;
    p->formats[i] = 0;
}

void store_p_int(store_params *p, int64_t n)
{
    char *text = p->numbers[p->count % STORE_MAX_PARAMS];

    snprintf(text, sizeof p->numbers[0], "%lld", (long long)n);
    store_p_str(p, text);
}

void store_p_bool(store_params *p, bool b)
{
    store_p_str(p, b ? "t" : "f");
}

void store_p_bytes(store_params *p, const void *data, size_t len)
{
    int i = next_param(p);
    p->values[i] = data;
    p->lengths[i] = (int)len;
    p->formats[i] = 1;
}

void store_p_time_us(store_params *p, int64_t unix_us)
{
    char *bytes = p->numbers[p->count % STORE_MAX_PARAMS];
    int64_t big = (int64_t)htobe64((uint64_t)(unix_us - EPOCH_2000_US));

    memcpy(bytes, &big, sizeof big);
    store_p_bytes(p, unix_us ? bytes : NULL, sizeof big);
}

/* --- waiting --- */

/* Wait for the socket. @return 1 ready, 0 deadline or cancelled (in err). */
static int wait_socket(PGconn *pg, short events, int64_t until_ms, sbx_err *err)
{
    for (;;) {
        struct pollfd p = {.fd = PQsocket(pg), .events = events};
        int64_t left = until_ms - sbx_now_ms();

        if (sbx_job_cancelled()) {
            sbx_fail(err, SBX_E_CANCELLED, "cancelled while the database worked");
            return 0;
        }
        if (left <= 0 && sbx_job_left_ms(1) == 0) {
            sbx_fail(err, SBX_E_TIMEOUT, "the database did not answer within the time limit");
            return 0;
        }
        if (left <= 0) {
            sbx_fail(err, SBX_E_STORE_UNAVAILABLE, "the database does not answer");
            return 0;
        }
        /* EINTR and a time slice that ran out both look at the clock again. */
        if (poll(&p, 1, (int)SBX_MIN(left, CANCEL_CHECK_MS)) > 0)
            return 1;
    }
}

/* --- connecting --- */

/* libpq's message is one or more lines; the error holds the first one's text. */
static void first_line(const char *text, char *out, size_t cap)
{
    size_t len = strcspn(text, "\n");

    snprintf(out, cap, "%.*s", (int)SBX_MIN(len, cap - 1), text);
}

static int connect_failed(store_link *l, sbx_err *err)
{
    const char *text = PQerrorMessage(l->pg);
    char line[256];

    first_line(text, line, sizeof line);
    sbx_fail(err, SBX_E_STORE_UNAVAILABLE, "the database cannot be reached: %s%s", line,
             strstr(text, "unsupported startup parameter")
                 ? " (behind PgBouncer set DATABASE_DIRECT_URL to the server itself)"
                 : "");
    store_link_close(l);
    return -1;
}

static int start_connect(store_link *l, const store_target *t, sbx_err *err)
{
    char options[1024];
    const char *names[] = {"dbname",           "application_name",           "client_encoding",
                           "keepalives_idle",  "keepalives_interval",        "keepalives_count",
                           "tcp_user_timeout", t->pooled ? NULL : "options", NULL};
    const char *values[] = {t->url, t->app, "UTF8", "10", "5", "3", "10000", options, NULL};

    if (snprintf(options, sizeof options, "%s%s%s", t->options ? t->options : "",
                 t->options ? " " : "", SESSION_OPTIONS) >= (int)sizeof options)
        return sbx_fail(err, SBX_E_INVALID, "the database URL's options are too long");
    memset(l, 0, sizeof *l);
    l->pg = PQconnectStartParams(names, values, 1);
    if (!l->pg)
        return sbx_fail(err, SBX_E_STORE_UNAVAILABLE, "out of memory");
    return PQstatus(l->pg) == CONNECTION_BAD ? connect_failed(l, err) : 0;
}

/* Who is told that the server ends the connection (class 57P) does not wait for the end itself. */
static void take_notice(void *arg, const PGresult *r)
{
    store_link *l = arg;

    l->ending |= strncmp(PQresultErrorField(r, PG_DIAG_SQLSTATE) ?: "", "57P", 3) == 0;
}

int store_link_open(store_link *l, const store_target *t, int64_t until_ms, sbx_err *err)
{
    PostgresPollingStatusType want = PGRES_POLLING_WRITING;

    if (start_connect(l, t, err) != 0)
        return -1;
    while (want != PGRES_POLLING_OK) {
        if (!wait_socket(l->pg, want == PGRES_POLLING_READING ? POLLIN : POLLOUT, until_ms, err)) {
            store_link_close(l);
            return -1;
        }
        want = PQconnectPoll(l->pg);
        if (want == PGRES_POLLING_FAILED)
            return connect_failed(l, err);
    }
    PQsetNoticeReceiver(l->pg, take_notice, l);
    if (PQsetnonblocking(l->pg, 1) != 0)
        return connect_failed(l, err);
    return 0;
}

void store_link_close(store_link *l)
{
    /* PQfinish() sends a goodbye; on a non-blocking connection it does not wait for it. */
    PQfinish(l->pg);
    l->pg = NULL;
    l->ending = false;
    memset(l->prepared, 0, sizeof l->prepared);
}

bool store_link_alive(store_link *l)
{
    struct pollfd p = {.events = POLLIN};
    bool alive = l->pg && PQstatus(l->pg) == CONNECTION_OK;

    if (!l->pg)
        return false;
    p.fd = PQsocket(l->pg);
    /* An idle connection has nothing to say, unless it ends or a parameter changed. The server's
     * last words and the end behind them are two reads. */
    for (int i = 0; alive && i < IDLE_READS && poll(&p, 1, 0) > 0; i++) {
        alive = PQconsumeInput(l->pg) && PQstatus(l->pg) == CONNECTION_OK;
        (void)PQisBusy(l->pg);
        alive &= !l->ending;
    }
    if (!alive)
        store_link_close(l);
    return alive;
}

/* --- failures --- */

static bool class_is(const char *state, const char *class)
{
    return strncmp(state, class, strlen(class)) == 0;
}

static sbx_code code_of(const char *state)
{
    static const struct {
        const char *prefix;
        sbx_code code;
    } table[] = {
        {"08", SBX_E_STORE_UNAVAILABLE},    /* connection */
        {"57P", SBX_E_STORE_UNAVAILABLE},   /* shutdown, crash, starting up */
        {"57014", SBX_E_STORE_UNAVAILABLE}, /* statement_timeout */
        {"53", SBX_E_STORE_UNAVAILABLE},    /* out of connections, disk, memory */
        {"25006", SBX_E_STORE_UNAVAILABLE}, /* read-only: a standby after a failover */
        {"40", SBX_E_STORE_UNAVAILABLE},    /* deadlock or serialisation, after the retries */
        {"55P03", SBX_E_STORE_UNAVAILABLE}, /* lock_timeout */
        {"23505", SBX_E_CONFLICT},
        {"22", SBX_E_INVALID}, /* a value that the type cannot hold */
    };

    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        if (class_is(state, table[i].prefix))
            return table[i].code;
    }
    return SBX_E_INTERNAL;
}

/* Fill the error from a result of the server. */
static void fail_by_result(store_link *l, const char *what, const PGresult *r, sbx_err *err)
{
    const char *state = PQresultErrorField(r, PG_DIAG_SQLSTATE);
    const char *text = PQresultErrorField(r, PG_DIAG_MESSAGE_PRIMARY);
    const char *constraint = PQresultErrorField(r, PG_DIAG_CONSTRAINT_NAME);
    bool tells;

    sbx_copy(l->sqlstate, sizeof l->sqlstate, state ? state : "");
    if (sbx_streq(l->sqlstate, STORE_SQLSTATE_QUOTA)) {
        store_refused(PQresultErrorField(r, PG_DIAG_MESSAGE_DETAIL), err);
        return;
    }
    tells = class_is(l->sqlstate, "42") || class_is(l->sqlstate, "53") ||
            class_is(l->sqlstate, "57") || class_is(l->sqlstate, "25") ||
            class_is(l->sqlstate, "08");
    sbx_fail(err, code_of(l->sqlstate), "database: %s failed with SQLSTATE %s%s%s%s%s", what,
             l->sqlstate[0] ? l->sqlstate : "unknown", constraint ? ", constraint " : "",
             constraint ? constraint : "", tells && text ? ": " : "", tells && text ? text : "");
}

static bool is_error(const PGresult *r)
{
    ExecStatusType s = PQresultStatus(r);
    return s != PGRES_COMMAND_OK && s != PGRES_TUPLES_OK && s != PGRES_EMPTY_QUERY;
}

/* --- running --- */

/* Sets `ret` to the first error, else the last result; NULL if the link broke without any. */
static int collect(store_link *l, int64_t until_ms, PGresult **ret, sbx_err *err)
{
    *ret = NULL;
    for (;;) {
        int unsent = PQflush(l->pg);

        while (!PQisBusy(l->pg)) {
            PGresult *r = PQgetResult(l->pg);

            if (!r)
                return 0;
            if (*ret && is_error(*ret)) {
                PQclear(r);
                continue;
            }
            PQclear(*ret);
            *ret = r;
            /* Statements never copy; a script that tries would wait for ever. */
            if (PQstatus(l->pg) == CONNECTION_BAD || PQresultStatus(r) == PGRES_COPY_IN ||
                PQresultStatus(r) == PGRES_COPY_OUT || PQresultStatus(r) == PGRES_COPY_BOTH)
                return 0;
        }
        if (!wait_socket(l->pg, unsent == 1 ? POLLIN | POLLOUT : POLLIN, until_ms, err)) {
            PQclear(*ret);
            *ret = NULL;
            return -1;
        }
        /* A failure shows as a result of class 08 or 57, or as none at all. */
        (void)!PQconsumeInput(l->pg);
    }
}

static store_outcome finish(store_link *l, const char *what, int64_t until_ms, PGresult **ret,
                            sbx_err *err)
{
    PGresult *r = NULL;
    store_outcome out;

    if (collect(l, until_ms, &r, err) != 0) {
        store_link_close(l);
        return STORE_GAVE_UP;
    }
    if (!r || PQstatus(l->pg) != CONNECTION_OK ||
        class_is(PQresultErrorField(r, PG_DIAG_SQLSTATE) ?: "", "57P")) {
        sbx_fail(err, SBX_E_STORE_UNAVAILABLE, "the connection to the database broke");
        PQclear(r);
        store_link_close(l);
        return STORE_LOST;
    }
    if (!is_error(r)) {
        *ret = r;
        return STORE_DONE;
    }
    fail_by_result(l, what, r, err);
    out = STORE_REFUSED;
    PQclear(r);
    /* A script can leave a transaction open; a standby never takes a write. */
    if (PQtransactionStatus(l->pg) != PQTRANS_IDLE || class_is(l->sqlstate, "25006"))
        store_link_close(l);
    return out;
}

/* libpq could not even queue it. */
static store_outcome not_sent(store_link *l, sbx_err *err)
{
    store_link_close(l);
    sbx_fail(err, SBX_E_STORE_UNAVAILABLE, "the connection to the database broke");
    return STORE_NOT_SENT;
}

static store_outcome prepare(store_link *l, store_query q, int64_t until_ms, sbx_err *err)
{
    const store_query_info *info = &store_queries[q];
    PGresult *r = NULL;
    store_outcome out;

    if (!PQsendPrepare(l->pg, info->name, info->sql, info->params, NULL))
        return not_sent(l, err);
    out = finish(l, info->name, until_ms, &r, err);
    PQclear(r);
    if (out == STORE_DONE)
        l->prepared[q] = true;
    /* Preparing changes nothing: losing it is as good as not having sent the statement. */
    return out == STORE_LOST ? STORE_NOT_SENT : out;
}

store_outcome store_link_run(store_link *l, store_query q, const store_params *p, bool named,
                             int64_t until_ms, PGresult **ret, sbx_err *err)
{
    const store_query_info *info = &store_queries[q];
    int sent;

    if (p->count != info->params)
        abort();
    l->sqlstate[0] = '\0';
    if (named && !l->prepared[q]) {
        store_outcome out = prepare(l, q, until_ms, err);
        if (out != STORE_DONE)
            return out;
    }
    if (named)
        sent =
            PQsendQueryPrepared(l->pg, info->name, p->count, p->values, p->lengths, p->formats, 1);
    else
        sent = PQsendQueryParams(l->pg, info->sql, p->count, NULL, p->values, p->lengths,
                                 p->formats, 1);
    if (!sent)
        return not_sent(l, err);
    return finish(l, info->name, until_ms, ret, err);
}

store_outcome store_link_script(store_link *l, const char *what, const char *sql, int64_t until_ms,
                                sbx_err *err)
{
    PGresult *r = NULL;
    store_outcome out;

    l->sqlstate[0] = '\0';
    if (!PQsendQuery(l->pg, sql))
        return not_sent(l, err);
    out = finish(l, what, until_ms, &r, err);
    PQclear(r);
    return out;
}
