/* Three tables under one mutex: records that wait, commands that started since the last flush, and
 * sandboxes with their activity. */
#include "sbx/sandbox/ledger.h"

#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include <pthread.h>
#include <uthash.h>

#define MAX_WAITING 20000
#define BATCH       500
#define OTHERS_MS   5000 /* for what another thread is writing */

/* A command that has started, and of which the store has not heard. */
typedef struct started {
    sbx_exec_record r;
    UT_hash_handle hh;
} started;

typedef struct activity {
    char id[SBX_ID_LEN + 1];
    int running, writing; /* commands; statements under way that write its activity */
    bool touched;         /* since the last flush */
    bool freezing;
    UT_hash_handle hh;
} activity;

struct sbx_ledger {
    sbx_store *store;
    pthread_mutex_t mu;
    sbx_exec_record *waiting; /* guarded by mu, as all below */
    size_t count, cap;
    uint64_t dropped;
    int writing; /* flushes that took records, and have not written them */
    pthread_cond_t written;
    started *started; /* hash by id */
    activity *sandboxes;
};

sbx_ledger *sbx_ledger_new(sbx_store *store)
{
    sbx_ledger *l = sbx_alloc(sizeof(*l));

    l->store = store;
    pthread_mutex_init(&l->mu, NULL);
    pthread_cond_init(&l->written, NULL);
    return l;
}

static void drop_started_locked(sbx_ledger *l, started *one)
{
    HASH_DEL(l->started, one);
    sbx_exec_record_done(&one->r);
    free(one);
}

void sbx_ledger_free(sbx_ledger *l)
{
    activity *a, *next;
    started *one, *next_one;

    if (!l)
        return;
    HASH_ITER (hh, l->started, one, next_one)
        drop_started_locked(l, one);
    HASH_ITER (hh, l->sandboxes, a, next) {
        HASH_DEL(l->sandboxes, a);
        free(a);
    }
    for (size_t i = 0; i < l->count; i++)
        sbx_exec_record_done(&l->waiting[i]);
    free(l->waiting);
    pthread_cond_destroy(&l->written);
    pthread_mutex_destroy(&l->mu);
    free(l);
}

/* False: there is no room. */
static bool add_locked(sbx_ledger *l, sbx_exec_record *r)
{
    if (l->count >= MAX_WAITING) {
        l->dropped++;
        return false;
    }
    if (l->count == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 64;
        l->waiting = sbx_realloc(l->waiting, l->cap * sizeof(*l->waiting));
    }
    l->waiting[l->count++] = *r;
    *r = (sbx_exec_record){0};
    return true;
}

void sbx_ledger_record(sbx_ledger *l, sbx_exec_record *r)
{
    started *one;

    pthread_mutex_lock(&l->mu);
    HASH_FIND_STR(l->started, r->id, one);
    if (one)
        drop_started_locked(l, one);
    bool room = add_locked(l, r);
    pthread_mutex_unlock(&l->mu);
    if (!room)
        sbx_exec_record_done(r);
}

void sbx_ledger_record_start(sbx_ledger *l, sbx_exec_record *r)
{
    started *one;

    pthread_mutex_lock(&l->mu);
    HASH_FIND_STR(l->started, r->id, one);
    bool room = !one && HASH_COUNT(l->started) < MAX_WAITING;
    if (room) {
        one = sbx_alloc(sizeof(*one));
        one->r = *r;
        *r = (sbx_exec_record){0};
        HASH_ADD_STR(l->started, r.id, one);
    }
    pthread_mutex_unlock(&l->mu);
    if (!room)
        sbx_exec_record_done(r);
}

static activity *entry_locked(sbx_ledger *l, const char *id)
{
    activity *a;

    HASH_FIND_STR(l->sandboxes, id, a);
    if (!a) {
        a = sbx_alloc(sizeof(*a));
        sbx_copy(a->id, sizeof(a->id), id);
        HASH_ADD_STR(l->sandboxes, id, a);
    }
    return a;
}

static void change(sbx_ledger *l, const char *sandbox, int by)
{
    pthread_mutex_lock(&l->mu);
    activity *a = entry_locked(l, sandbox);
    a->running += by;
    a->touched = true;
    pthread_mutex_unlock(&l->mu);
}

void sbx_ledger_begin(sbx_ledger *l, const char *sandbox)
{
    change(l, sandbox, 1);
}

void sbx_ledger_end(sbx_ledger *l, const char *sandbox)
{
    change(l, sandbox, -1);
}

static bool is_active(const activity *a)
{
    return a->running || a->touched || a->writing;
}

bool sbx_ledger_use(sbx_ledger *l, const char *sandbox)
{
    pthread_mutex_lock(&l->mu);
    activity *a = entry_locked(l, sandbox);
    bool may = !a->freezing;
    if (may) {
        a->running++;
        a->touched = true;
    }
    pthread_mutex_unlock(&l->mu);
    return may;
}

bool sbx_ledger_freeze(sbx_ledger *l, const char *sandbox)
{
    pthread_mutex_lock(&l->mu);
    activity *a = entry_locked(l, sandbox);
    bool may = !is_active(a) && !a->freezing;
    if (may)
        a->freezing = true;
    pthread_mutex_unlock(&l->mu);
    return may;
}

void sbx_ledger_thaw(sbx_ledger *l, const char *sandbox)
{
    pthread_mutex_lock(&l->mu);
    entry_locked(l, sandbox)->freezing = false;
    pthread_mutex_unlock(&l->mu);
}

size_t sbx_ledger_busy(sbx_ledger *l, char ***ret)
{
    size_t n = 0;
    activity *a, *next;

    pthread_mutex_lock(&l->mu);
    *ret = sbx_alloc((HASH_COUNT(l->sandboxes) + 1) * sizeof(char *));
    HASH_ITER (hh, l->sandboxes, a, next)
        if (is_active(a))
            (*ret)[n++] = sbx_strdup(a->id);
    pthread_mutex_unlock(&l->mu);
    return n;
}

/* Records that the store will never take must not stand before all that come after them. */
static bool worth_repeating(const sbx_err *err)
{
    return err->code == SBX_E_STORE_UNAVAILABLE || err->code == SBX_E_TIMEOUT ||
           err->code == SBX_E_CANCELLED;
}

/* What still runs is worth a record now. */
static void begin_writing(sbx_ledger *l)
{
    started *one, *next;

    pthread_mutex_lock(&l->mu);
    l->writing++;
    HASH_ITER (hh, l->started, one, next) {
        (void)add_locked(l, &one->r);
        drop_started_locked(l, one);
    }
    pthread_mutex_unlock(&l->mu);
}

/* Whoever flushes before he does something wants to find the records of others written, too. */
static void end_writing(sbx_ledger *l)
{
    int64_t until_ms = sbx_now_ms() + OTHERS_MS;
    struct timespec until = {.tv_sec = until_ms / 1000, .tv_nsec = until_ms % 1000 * 1000000};
    int rc = 0;

    pthread_mutex_lock(&l->mu);
    l->writing--;
    pthread_cond_broadcast(&l->written);
    while (l->writing && !rc)
        rc = pthread_cond_clockwait(&l->written, &l->mu, CLOCK_MONOTONIC, &until);
    pthread_mutex_unlock(&l->mu);
}

static int flush_records(sbx_ledger *l, sbx_err *err)
{
    sbx_exec_record batch[BATCH];

    for (;;) {
        pthread_mutex_lock(&l->mu);
        size_t n = SBX_MIN(l->count, (size_t)BATCH);
        if (n)
            memcpy(batch, l->waiting, n * sizeof(*batch));
        l->count -= n;
        if (l->count)
            memmove(l->waiting, l->waiting + n, l->count * sizeof(*batch));
        uint64_t dropped = l->dropped;
        l->dropped = 0;
        pthread_mutex_unlock(&l->mu);
        if (dropped)
            sbx_log(SBX_ERROR, "records of commands were dropped", "count", SBX_NUM(dropped), NULL);
        if (!n)
            return 0;
        int rc = sbx_store_exec_insert(l->store, batch, n, err);
        bool again = rc && worth_repeating(err);
        if (rc && !again)
            sbx_log_err(SBX_ERROR, "records of commands were refused", err, "count", SBX_NUM(n),
                        NULL);
        for (size_t i = 0; i < n; i++) {
            if (again)
                sbx_ledger_record(l, &batch[i]);
            else
                sbx_exec_record_done(&batch[i]);
        }
        if (rc)
            return rc;
    }
}

/* Sandboxes that were or are active; idle entries are dropped. */
static size_t take_touched(sbx_ledger *l, char ***ret)
{
    size_t n = 0;
    activity *a, *next;

    pthread_mutex_lock(&l->mu);
    *ret = sbx_alloc((HASH_COUNT(l->sandboxes) + 1) * sizeof(char *));
    HASH_ITER (hh, l->sandboxes, a, next) {
        if (a->running || a->touched) {
            (*ret)[n++] = sbx_strdup(a->id);
            a->writing++;
            a->touched = false;
        } else if (!a->writing && !a->freezing) {
            HASH_DEL(l->sandboxes, a);
            free(a);
        }
    }
    pthread_mutex_unlock(&l->mu);
    return n;
}

/* What was not written is remembered for the next time. */
static void written(sbx_ledger *l, char **ids, size_t count, bool ok)
{
    pthread_mutex_lock(&l->mu);
    for (size_t i = 0; i < count; i++) {
        activity *a = entry_locked(l, ids[i]);

        a->writing--;
        a->touched |= !ok;
    }
    pthread_mutex_unlock(&l->mu);
}

int sbx_ledger_flush(sbx_ledger *l, sbx_sandbox_refs *ret_frozen, sbx_err *err)
{
    char **ids;
    size_t n = take_touched(l, &ids);
    int rc =
        n ? sbx_store_sandbox_touch(l->store, (const char *const *)ids, n, ret_frozen, err) : 0;

    written(l, ids, n, rc == 0);
    for (size_t i = 0; i < n; i++)
        free(ids[i]);
    free(ids);
    if (rc)
        return rc;
    begin_writing(l);
    rc = flush_records(l, err);
    end_writing(l);
    return rc;
}
