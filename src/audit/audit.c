/* The queue of acts between requests and the table.
 *
 * One writer at a time (the tick) takes a batch from the front and removes it when it is written,
 * so what fails is still there. Whoever adds an act may find that it is one more of a kind that
 * waits behind that batch.
 *
 * Threads: `mu` guards the queue and is never held across a statement. */
#include "sbx/audit/audit.h"

#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include <pthread.h>

#define BATCH     500
#define LOOK_BACK 256 /* entries among which one of the same kind is looked for */
#define PURGE_MS  600000
#define REPEAT_MS 30000 /* how often an outage is told of */

struct sbx_audit {
    sbx_store *store;
    sbx_metrics *metrics;
    int64_t days;
    int64_t purge_ms;                  /* the tick's; monotonic: when to look for old rows */
    int64_t failing_since_ms, told_ms; /* the tick's; 0: the last batch was written */
    pthread_mutex_t mu;
    sbx_audit_entry *waiting; /* guarded by mu, as all below */
    size_t count, cap;
    size_t sent;  /* of those, at the front, may be in the table already */
    int64_t lost; /* that there was no room for, not told of in the table yet */
};

sbx_audit *sbx_audit_new(sbx_store *store, sbx_metrics *metrics, int64_t days)
{
    sbx_audit *a = sbx_alloc(sizeof(*a));

    a->store = store;
    a->metrics = metrics;
    a->days = days;
    pthread_mutex_init(&a->mu, NULL);
    return a;
}

void sbx_audit_free(sbx_audit *a)
{
    if (!a)
        return;
    pthread_mutex_destroy(&a->mu);
    free(a->waiting);
    free(a);
}

/* --- adding --- */

/* Acts that may be so many, with nothing done, that they are counted. */
static bool merges(const sbx_audit_entry *e)
{
    return e->foreign_only || e->status == 401 || e->status == 429;
}

static bool same_kind(const sbx_audit_entry *a, const sbx_audit_entry *b)
{
    return a->status == b->status && a->action == b->action && a->method == b->method &&
           a->code == b->code && a->foreign_only == b->foreign_only &&
           strcmp(a->user, b->user) == 0 && strcmp(a->key, b->key) == 0 &&
           strcmp(a->address, b->address) == 0 &&
           (!a->foreign_only || strcmp(a->object, b->object) == 0);
}

static sbx_audit_entry *find_kind_locked(sbx_audit *a, const sbx_audit_entry *e)
{
    size_t first = a->count > LOOK_BACK ? a->count - LOOK_BACK : 0;

    for (size_t i = a->count; merges(e) && i > SBX_MAX(first, a->sent); i--)
        if (same_kind(&a->waiting[i - 1], e))
            return &a->waiting[i - 1];
    return NULL;
}

static void add_locked(sbx_audit *a, const sbx_audit_entry *e)
{
    sbx_audit_entry *same = find_kind_locked(a, e);

    if (same) {
        same->count += e->count;
        return;
    }
    if (a->count >= SBX_MAX_AUDIT_WAITING) {
        a->lost += e->count;
        sbx_metrics_add(a->metrics, SBX_M_AUDIT, "lost", (uint64_t)e->count);
        return;
    }
    if (a->count == a->cap) {
        a->cap = a->cap ? 2 * a->cap : 64;
        a->waiting = sbx_realloc(a->waiting, a->cap * sizeof(*a->waiting));
    }
    a->waiting[a->count++] = *e;
}

static void enqueue(sbx_audit *a, const sbx_audit_entry *e)
{
    pthread_mutex_lock(&a->mu);
    add_locked(a, e);
    pthread_mutex_unlock(&a->mu);
}

static sbx_audit_entry stamped(const sbx_audit_entry *e)
{
    sbx_audit_entry one = *e;

    memcpy(one.id, sbx_id_new().s, sizeof(one.id));
    one.at_ms = sbx_now_ms();
    one.count = 1;
    return one;
}

void sbx_audit_add(sbx_audit *a, const sbx_audit_entry *e)
{
    sbx_audit_entry one = stamped(e);

    enqueue(a, &one);
}

void sbx_audit_write(sbx_audit *a, const sbx_audit_entry *e)
{
    sbx_audit_entry one = stamped(e);
    sbx_err err;

    SBX_ASSERT_THREAD(SBX_T_WORKER);
    if (sbx_store_audit_insert(a->store, &one, 1, &err) == 0) {
        sbx_metrics_add(a->metrics, SBX_M_AUDIT, "written", 1);
        return;
    }
    sbx_log_err(SBX_WARN, "an act is answered before it is in the audit log", &err, "action",
                one.action, "req_id", one.request_id, NULL);
    enqueue(a, &one);
}

/* --- writing --- */

/* @return how many; they stay in the queue until written(). */
static size_t take(sbx_audit *a, sbx_audit_entry batch[BATCH])
{
    pthread_mutex_lock(&a->mu);
    size_t n = SBX_MIN(a->count, (size_t)BATCH);
    if (n)
        memcpy(batch, a->waiting, n * sizeof(*batch));
    a->sent = SBX_MAX(a->sent, n);
    pthread_mutex_unlock(&a->mu);
    return n;
}

static size_t written(sbx_audit *a, size_t done)
{
    pthread_mutex_lock(&a->mu);
    a->sent -= SBX_MIN(a->sent, done);
    a->count -= done;
    if (a->count && done)
        memmove(a->waiting, a->waiting + done, a->count * sizeof(*a->waiting));
    if (!a->count && a->cap > BATCH) {
        free(sbx_steal(a->waiting));
        a->cap = 0;
    }
    size_t left = a->count;
    pthread_mutex_unlock(&a->mu);
    sbx_metrics_set(a->metrics, SBX_M_AUDIT_WAITING, NULL, (double)left);
    return left;
}

/* The log tells itself that something is missing. */
static void tell_lost(sbx_audit *a)
{
    sbx_audit_entry e = stamped(&(sbx_audit_entry){.action = "audit_lost"});

    pthread_mutex_lock(&a->mu);
    e.count = a->lost;
    if (e.count && a->count < SBX_MAX_AUDIT_WAITING) {
        a->lost = 0;
        add_locked(a, &e);
    }
    pthread_mutex_unlock(&a->mu);
    if (e.count)
        sbx_log(SBX_ERROR, "acts are missing in the audit log", "count", SBX_NUM(e.count), NULL);
}

/* What the database will never take must not stand before all that comes after it. */
static bool worth_repeating(const sbx_err *err)
{
    return err->code == SBX_E_STORE_UNAVAILABLE || err->code == SBX_E_TIMEOUT ||
           err->code == SBX_E_CANCELLED;
}

static void refused(sbx_audit *a, const sbx_audit_entry *batch, size_t n, const sbx_err *err)
{
    int64_t count = 0;

    for (size_t i = 0; i < n; i++)
        count += batch[i].count;
    sbx_log_err(SBX_ERROR, "the database refuses acts of the audit log", err, "count",
                SBX_NUM(count), NULL);
    sbx_metrics_add(a->metrics, SBX_M_AUDIT, "lost", (uint64_t)count);
    pthread_mutex_lock(&a->mu);
    a->lost += count;
    pthread_mutex_unlock(&a->mu);
}

static void outage(sbx_audit *a, const sbx_err *err, size_t waiting)
{
    int64_t now = sbx_now_ms();

    if (!a->failing_since_ms)
        a->failing_since_ms = now;
    if (a->told_ms && now - a->told_ms < REPEAT_MS)
        return;
    a->told_ms = now;
    sbx_log_err(SBX_ERROR, "the audit log cannot be written; it waits in memory", err, "waiting",
                SBX_NUM(waiting), NULL);
}

static void recovered(sbx_audit *a)
{
    if (!a->failing_since_ms)
        return;
    sbx_log(SBX_INFO, "the audit log is written again", "after_ms",
            SBX_NUM(sbx_now_ms() - a->failing_since_ms), NULL);
    a->failing_since_ms = a->told_ms = 0;
}

/* @return whether the database took it, or will never. */
static bool write_batch(sbx_audit *a, const sbx_audit_entry *batch, size_t n)
{
    sbx_err err;

    if (sbx_store_audit_insert(a->store, batch, n, &err) == 0) {
        sbx_metrics_add(a->metrics, SBX_M_AUDIT, "written", n);
        recovered(a);
        return true;
    }
    if (worth_repeating(&err)) {
        outage(a, &err, n);
        return false;
    }
    /* One that is refused must not take the others with it. */
    for (size_t i = 0; i < n; i++) {
        if (n > 1 && sbx_store_audit_insert(a->store, &batch[i], 1, &err) == 0)
            continue;
        if (n > 1 && worth_repeating(&err))
            return false;
        refused(a, &batch[i], 1, &err);
    }
    return true;
}

static void purge(sbx_audit *a)
{
    bool more = true;
    sbx_err err;

    if (sbx_now_ms() < a->purge_ms)
        return;
    a->purge_ms = sbx_now_ms() + PURGE_MS;
    while (more && !sbx_job_cancelled())
        if (sbx_store_audit_purge(a->store, a->days, &more, &err)) {
            sbx_log_err(SBX_WARN, "old acts stay in the audit log", &err, NULL);
            return;
        }
}

void sbx_audit_tick(void *audit)
{
    sbx_audit *a = audit;
    sbx_audit_entry *batch;
    size_t n;

    SBX_ASSERT_THREAD(SBX_T_WORKER);
    purge(a);
    tell_lost(a);
    pthread_mutex_lock(&a->mu);
    n = a->count;
    pthread_mutex_unlock(&a->mu);
    if (!n)
        return;
    batch = sbx_alloc(BATCH * sizeof(*batch));
    while ((n = take(a, batch))) {
        bool done = write_batch(a, batch, n);

        written(a, done ? n : 0);
        if (!done)
            break;
    }
    free(batch);
}
