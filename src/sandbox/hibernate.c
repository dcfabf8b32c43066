/* Whose time has come: what has expired or is idle is claimed here, unless it is in use.
 *
 * And sandboxes that were to pause or to resume by themselves and could not: each is tried again
 * after a pause that doubles, and told of by an alert once it is more than an accident. What is
 * known here is lost with the process, which then simply tries at once. */
#include "sandboxes_priv.h"

#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include <pthread.h>
#include <stdio.h>
#include <uthash.h>

#define MAX_WAIT_MS    300000
#define ALERT_AFTER    3      /* pauses in a row; a resume, for which somebody waits, at once */
#define ALERT_EVERY_MS 300000 /* of one sandbox */
#define FORGET_MS      3600000
#define MAX_TROUBLES   10000 /* beyond them nothing is paced */

typedef struct trouble {
    char id[SBX_ID_LEN + 1];
    int failures[2]; /* in a row, by sandbox_trouble */
    int64_t at_ms;   /* of the last failure; monotonic, as the next */
    int64_t next_ms; /* not to be paused before */
    int64_t told_ms; /* the last alert; 0: none */
    UT_hash_handle hh;
} trouble;

struct sandbox_troubles {
    pthread_mutex_t mu;
    int64_t first_wait_ms; /* immutable */
    trouble *all;          /* guarded by mu */
};

sandbox_troubles *sandbox_troubles_new(int64_t first_wait_ms)
{
    sandbox_troubles *t = sbx_alloc(sizeof(*t));

    t->first_wait_ms = first_wait_ms;
    pthread_mutex_init(&t->mu, NULL);
    return t;
}

void sandbox_troubles_free(sandbox_troubles *t)
{
    trouble *one, *next;

    if (!t)
        return;
    HASH_ITER (hh, t->all, one, next) {
        HASH_DEL(t->all, one);
        free(one);
    }
    pthread_mutex_destroy(&t->mu);
    free(t);
}

static int64_t wait_after(const sandbox_troubles *t, int failures)
{
    int64_t ms = t->first_wait_ms;

    while (--failures > 0 && ms < MAX_WAIT_MS)
        ms *= 2;
    return SBX_MIN(ms, MAX_WAIT_MS);
}

/* What is worth to be told of a failure. */
typedef struct news {
    int failures;
    int64_t wait_ms;
    bool alert;
} news;

static trouble *find_or_add_locked(sandbox_troubles *t, const char *id)
{
    trouble *one;

    HASH_FIND_STR(t->all, id, one);
    if (one || HASH_COUNT(t->all) >= MAX_TROUBLES)
        return one;
    one = sbx_alloc(sizeof(*one));
    sbx_copy(one->id, sizeof(one->id), id);
    HASH_ADD_STR(t->all, id, one);
    return one;
}

static news note_failure(sandbox_troubles *t, const char *id, sandbox_trouble what)
{
    int64_t now = sbx_now_ms();
    news n = {.failures = 1, .wait_ms = t->first_wait_ms};

    pthread_mutex_lock(&t->mu);
    trouble *one = find_or_add_locked(t, id);
    if (one) {
        n.failures = ++one->failures[what];
        one->at_ms = now;
        if (what == TROUBLE_PAUSE) {
            n.wait_ms = wait_after(t, n.failures);
            one->next_ms = now + n.wait_ms;
        }
        n.alert = n.failures >= (what == TROUBLE_PAUSE ? ALERT_AFTER : 1) &&
                  (!one->told_ms || now - one->told_ms >= ALERT_EVERY_MS);
        if (n.alert)
            one->told_ms = now;
    }
    pthread_mutex_unlock(&t->mu);
    return n;
}

static void note_success(sandbox_troubles *t, const char *id, sandbox_trouble what)
{
    trouble *one;

    pthread_mutex_lock(&t->mu);
    HASH_FIND_STR(t->all, id, one);
    if (one)
        one->failures[what] = 0;
    if (one && !one->failures[TROUBLE_PAUSE] && !one->failures[TROUBLE_RESUME]) {
        HASH_DEL(t->all, one);
        free(one);
    }
    pthread_mutex_unlock(&t->mu);
}

void sandbox_note_trouble(sbx_sandboxes *s, const char *id, sandbox_trouble what,
                          const sbx_err *why)
{
    static const char *const labels[] = {"pause,failed", "resume,failed"};
    static const char *const codes[] = {"pause_failed", "resume_failed"};
    news n = note_failure(s->troubles, id, what);
    char text[600];
    sbx_err err;

    sbx_metrics_add(s->c.metrics, SBX_M_HIBERNATION, labels[what], 1);
    sbx_log_err(SBX_WARN, "a sandbox could not hibernate or wake up", why, "sandbox", id, "what",
                codes[what], "failures", SBX_NUM(n.failures), NULL);
    if (!n.alert)
        return;
    if (what == TROUBLE_PAUSE)
        snprintf(text, sizeof(text),
                 "it could not be paused, %d times in a row; the next try is in %lld s: %s",
                 n.failures, (long long)n.wait_ms / 1000, sandbox_public_reason(why, id));
    else
        snprintf(text, sizeof(text), "it could not be resumed; its next use tries again: %s",
                 sandbox_public_reason(why, id));
    if (sbx_sandbox_alert(s, id, codes[what], text, &err))
        sbx_log_err(SBX_WARN, "an alert could not be recorded", &err, "sandbox", id, "alert",
                    codes[what], NULL);
}

void sandbox_note_move(sbx_sandboxes *s, const char *id, sandbox_trouble what, bool undone)
{
    static const char *const labels[][2] = {{"pause,ok", "pause,undone"}, {"resume,ok", NULL}};

    sbx_metrics_add(s->c.metrics, SBX_M_HIBERNATION, labels[what][undone], 1);
    note_success(s->troubles, id, what);
}

/* Those whose last pauses failed and which are not to be paused yet. */
static size_t not_now(sbx_sandboxes *s, char ***ret)
{
    sandbox_troubles *t = s->troubles;
    int64_t now = sbx_now_ms();
    trouble *one, *next;
    size_t n = 0;

    pthread_mutex_lock(&t->mu);
    *ret = sbx_alloc((HASH_COUNT(t->all) + 1) * sizeof(char *));
    HASH_ITER (hh, t->all, one, next) {
        if (one->next_ms > now) {
            (*ret)[n++] = sbx_strdup(one->id);
        } else if (now - one->at_ms > FORGET_MS) {
            HASH_DEL(t->all, one);
            free(one);
        }
    }
    pthread_mutex_unlock(&t->mu);
    return n;
}

/* --- the claim --- */

static void free_ids(char **ids, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(ids[i]);
    free(ids);
}

/* Takes out of the list what was not claimed. What nobody uses at the moment is frozen.
 * @param ret  room for all; owned. NULL: none is frozen. */
static size_t take_unclaimed(sbx_sandboxes *s, sbx_sandbox_list *l, char **ret)
{
    size_t kept = 0, frozen = 0;

    for (size_t i = 0; i < l->count; i++) {
        sbx_sandbox_row row = l->items[i];

        if (strcmp(row.state, sbx_state_wire(SBX_S_RUNNING)) != 0) {
            l->items[kept++] = row;
            continue;
        }
        if (ret && sbx_ledger_freeze(s->c.ledger, row.id))
            ret[frozen++] = sbx_strdup(row.id);
        sbx_sandbox_row_done(&row);
    }
    l->count = kept;
    return frozen;
}

static void append(sbx_sandbox_list *to, sbx_sandbox_list *from)
{
    to->items = sbx_realloc(to->items, (to->count + from->count + 1) * sizeof(*to->items));
    if (from->count)
        memcpy(to->items + to->count, from->items, from->count * sizeof(*from->items));
    to->count += from->count;
    from->count = 0;
    sbx_sandbox_list_done(from);
}

/* A failure is no loss: they are idle at the next look, too. */
static void claim_frozen(sbx_sandboxes *s, sbx_reap *which, sbx_sandbox_list *ret)
{
    char **ids = sbx_alloc((ret->count + 1) * sizeof(*ids));
    size_t count = take_unclaimed(s, ret, ids);
    sbx_sandbox_list more = {0};
    sbx_err err;

    which->frozen = (sbx_ids){(const char *const *)ids, count};
    if (count && sbx_store_sandbox_reap(s->c.store, which, &more, &err) == 0) {
        (void)take_unclaimed(s, &more, NULL);
        append(ret, &more);
    }
    for (size_t i = 0; i < count; i++)
        sbx_ledger_thaw(s->c.ledger, ids[i]);
    free_ids(ids, count);
}

int sbx_sandboxes_reap(sbx_sandboxes *s, int max, sbx_sandbox_list *ret, sbx_err *err)
{
    char **busy, **later;
    sbx_reap which = {.worker = s->c.worker, .max = max};

    which.busy.count = sbx_ledger_busy(s->c.ledger, &busy);
    which.busy.items = (const char *const *)busy;
    which.later.count = not_now(s, &later);
    which.later.items = (const char *const *)later;
    int rc = sbx_store_sandbox_reap(s->c.store, &which, ret, err);

    if (!rc)
        claim_frozen(s, &which, ret);
    free_ids(busy, which.busy.count);
    free_ids(later, which.later.count);
    return rc;
}
