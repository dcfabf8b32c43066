/* The tick of the pools: it reads what there is, and brings it nearer to what there should be. One
 * run of it at a time. */
#include "pool_priv.h"

#include "sbx/core/clock.h"
#include "sbx/core/crypt.h"
#include "sbx/core/log.h"
#include <stdio.h>

#define LOOK_MS      2000 /* when nothing happens */
#define LOOK_NONE_MS 5000 /* while there are no pools */
#define IMAGE_MS     5000 /* how long the image of a template is taken for the same */
#define QUIET_MS     200  /* since the last create, before work is done */
#define PUT_OFF_MS   2000 /* creates that come all the time do not put it off for longer */
#define FILLS        2    /* at once */
#define REMOVALS     4    /* in one run */
#define ASK_MS       5000 /* between two questions to each that waits */
#define ASK_AT_ONCE  100  /* of more than these each has its turn later */
#define SILENT_MS    7000 /* for an answer; more than one question goes without */
#define RETRY_MS     1000 /* after a failure; doubles */
#define MAX_RETRY_MS 60000

/* What goes into a sandbox beside its row; to be raised when it changes, so that pools are rolled
 */
#define MADE_AS "1"

/* --- what is read --- */

static int configure(sbx_pools *p, sbx_err *err)
{
    const char *keys[SBX_MAX_POOLS];
    sbx_store *store = p->s->c.store;

    for (size_t i = 0; i < p->option_count; i++) {
        keys[i] = p->options[i].row.key;
        if (sbx_store_pool_option(store, &p->options[i].row, p->options[i].text, err))
            return -1;
    }
    return sbx_store_pool_options_gone(store, keys, p->option_count, err);
}

static pool_kind *kind_of_locked(sbx_pools *p, const sbx_pool_row *row)
{
    pool_kind *k = pool_find_locked(p, row->key);

    if (!k && p->count < SBX_MAX_POOLS) {
        k = sbx_alloc(sizeof(*k));
        p->kinds[p->count++] = k;
        k->row = *row;
    }
    return k;
}

/* A pool that is gone, and of which nothing is left. */
static void drop_unknown_locked(sbx_pools *p)
{
    size_t kept = 0;

    for (size_t i = 0; i < p->count; i++) {
        pool_kind *k = p->kinds[i];

        if (k->known || k->held || k->filling) {
            p->kinds[kept++] = k;
            continue;
        }
        sbx_metrics_set(p->s->c.metrics, SBX_M_POOL_READY, k->row.key, 0);
        sbx_metrics_set(p->s->c.metrics, SBX_M_POOL_TARGET, k->row.key, 0);
        free(k->ready);
        free(k);
    }
    p->count = kept;
}

static void take_rows_locked(sbx_pools *p, const sbx_pool_row *rows, int count)
{
    for (size_t i = 0; i < p->count; i++) {
        p->kinds[i]->known = false;
        p->kinds[i]->held = 0;
        p->kinds[i]->ready_count = 0;
    }
    for (int i = 0; i < count; i++) {
        pool_kind *k = kind_of_locked(p, &rows[i]);

        if (!k)
            continue;
        k->row = rows[i];
        k->known = sbx_sandboxes_template(p->s, k->row.template_name) != NULL &&
                   sbx_size_limits(k->row.size, &k->cpu_milli, &k->memory_mb);
    }
}

/* @return whether it may be taken. `ret_dead`: it has not been heard for so long that it is to be
 * replaced. */
static bool is_heard_locked(sbx_pools *p, const char *id, bool *ret_dead)
{
    bool held = sbx_channels_owns(p->s->c.channels, id);
    pool_silent *one = pool_silent_locked(p, id);

    if (one && one->lost && held) {
        *one = p->silent[--p->silent_count];
        one = NULL;
    } else if (!one && !held) {
        one = pool_add_silent_locked(p, id, true);
    }
    if (one)
        one->seen = true;
    *ret_dead = one && sbx_now_ms() - one->since_ms >= SILENT_MS;
    return held && !one;
}

static void forget_silent_locked(sbx_pools *p)
{
    size_t kept = 0;

    for (size_t i = 0; i < p->silent_count; i++) {
        if (p->silent[i].seen)
            p->silent[kept++] = p->silent[i];
    }
    p->silent_count = kept;
}

/* @return whether the slot is to be removed: its pool is gone, it was made from what has changed,
 * it does not run, or is not heard. */
static bool take_slot_locked(sbx_pools *p, const sbx_sandbox_row *row)
{
    pool_kind *k = pool_find_locked(p, row->pool + SBX_POOL_HASH_BYTES);
    bool creating = strcmp(row->state, "creating") == 0;
    bool running = strcmp(row->state, "running") == 0, dead;

    if (pool_is_taken_locked(p, row->id) || strcmp(row->state, "deleting") == 0)
        return false;
    if (!k || !k->known)
        return !creating;
    if (creating) {
        k->held++;
        return false;
    }
    if (!running || (*k->name && strcmp(k->name, row->pool) != 0))
        return true;
    bool heard = is_heard_locked(p, row->id, &dead);

    if (dead)
        return true;
    k->held++;
    if (*k->name && heard)
        pool_add_ready_locked(k, row->id);
    return false;
}

/* Forget whose claim was over before the reading that comes. */
static void begin_reading_locked(sbx_pools *p)
{
    size_t kept = 0;

    for (size_t i = 0; i < p->taken_count; i++)
        if (!p->taken[i].over)
            p->taken[kept++] = p->taken[i];
    p->taken_count = kept;
    p->stirred = false;
}

typedef struct removals {
    pool_id ids[REMOVALS];
    size_t count;
} removals;

static void add_removal(removals *r, const char *id)
{
    if (r->count < REMOVALS)
        sbx_copy(r->ids[r->count++].s, sizeof(pool_id), id);
}

/* The newest of those that are too many. */
static void trim_locked(sbx_pools *p, removals *r)
{
    for (size_t i = 0; i < p->count; i++) {
        pool_kind *k = p->kinds[i];
        size_t share = k->known ? pool_share(&k->row) : 0;

        while (k->held > share && k->ready_count && r->count < REMOVALS) {
            add_removal(r, k->ready[k->ready_count - 1].s);
            k->ready_count--;
            k->held--;
        }
        sbx_metrics_set(p->s->c.metrics, SBX_M_POOL_READY, k->row.key, (double)k->ready_count);
        sbx_metrics_set(p->s->c.metrics, SBX_M_POOL_TARGET, k->row.key, (double)share);
    }
}

static int look(sbx_pools *p, removals *ret, sbx_err *err)
{
    sbx_pool_row *rows = sbx_alloc(SBX_MAX_POOLS * sizeof(*rows));
    sbx_sandbox_list slots = {0};
    sbx_store *store = p->s->c.store;

    pthread_mutex_lock(&p->mu);
    begin_reading_locked(p);
    pthread_mutex_unlock(&p->mu);
    int count = sbx_store_pool_list(store, p->s->c.worker, rows, SBX_MAX_POOLS, err);
    int rc = count < 0 ? -1 : sbx_store_pool_slots(store, p->s->c.worker, &slots, err);

    if (!rc) {
        pthread_mutex_lock(&p->mu);
        take_rows_locked(p, rows, count);
        for (size_t i = 0; i < p->silent_count; i++)
            p->silent[i].seen = false;
        for (size_t i = 0; i < slots.count; i++)
            if (take_slot_locked(p, &slots.items[i]))
                add_removal(ret, slots.items[i].id);
        forget_silent_locked(p);
        trim_locked(p, ret);
        drop_unknown_locked(p);
        pthread_mutex_unlock(&p->mu);
    }
    sbx_sandbox_list_done(&slots);
    free(rows);
    return rc;
}

/* --- what is written --- */

static void write_news(sbx_pools *p, pool_kind *k)
{
    char error[sizeof(k->error)];
    sbx_pool_news news;
    sbx_err err;

    pthread_mutex_lock(&p->mu);
    news = k->news;
    memcpy(error, k->error, sizeof(error));
    k->news = (sbx_pool_news){0};
    pthread_mutex_unlock(&p->mu);
    if (!news.hits && !news.misses && !news.started)
        return;
    if (news.error)
        news.error = error;
    if (sbx_store_pool_count(p->s->c.store, k->row.key, &news, &err))
        sbx_log_err(SBX_WARN, "news of a pool were lost", &err, "pool", k->row.key, NULL);
}

static void failed_locked(pool_kind *k, const sbx_err *err)
{
    int64_t pause = RETRY_MS << SBX_MIN(k->failures, 6);

    k->failures++;
    k->retry_ms = sbx_now_ms() + SBX_MIN(pause, MAX_RETRY_MS);
    k->news.started = true;
    sbx_copy(k->error, sizeof(k->error), err->msg);
    k->news.error = k->error;
}

static void failed(sbx_pools *p, pool_kind *k, const sbx_err *err)
{
    sbx_metrics_add(p->s->c.metrics, SBX_M_POOL_FAILURES, k->row.key, 1);
    sbx_log_err(SBX_WARN, "a sandbox for a pool did not start", err, "pool", k->row.key, NULL);
    pthread_mutex_lock(&p->mu);
    failed_locked(k, err);
    pthread_mutex_unlock(&p->mu);
}

/* A claim whose answer was lost, of a client that was told that it failed. */
static void settle_doubts(sbx_pools *p)
{
    for (;;) {
        SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row row = {0};
        sbx_err err = {0};

        pthread_mutex_lock(&p->mu);
        pool_doubt d = p->doubt_count ? p->doubts[p->doubt_count - 1] : (pool_doubt){0};
        pthread_mutex_unlock(&p->mu);
        if (!d.change)
            return;
        int rc = sbx_store_sandbox_get(p->s->c.store, d.owner, d.id, &row, &err);
        if (!rc && row.change == d.change)
            rc = sbx_sandbox_delete(p->s, d.owner, d.id, &err);
        if (rc && err.code != SBX_E_NOT_FOUND)
            return; /* next time */
        pthread_mutex_lock(&p->mu);
        for (size_t i = 0; i < p->doubt_count; i++)
            if (p->doubts[i].change == d.change)
                p->doubts[i] = p->doubts[--p->doubt_count];
        pthread_mutex_unlock(&p->mu);
    }
}

/* --- starting --- */

/* What a sandbox of the pool is made from, now. */
static int name_kind(sbx_pools *p, pool_kind *k, sbx_err *err)
{
    sbx_sandboxes *s = p->s;
    const char *image = sbx_sandboxes_template(s, k->row.template_name);
    sbx_image_info info = {0};
    unsigned char hash[SBX_HASH_BYTES];
    char text[1024], name[POOL_NAME_BYTES], hex[SBX_POOL_HASH_BYTES];

    if (s->c.engine->ops->image_inspect(s->c.engine, image, &info, err)) {
        if (err->code != SBX_E_NOT_FOUND)
            return -1;
        sandbox_fetch_image(s, image);
        return sbx_fail(err, SBX_E_NOT_FOUND, "image %s is not on the engine yet", image);
    }
    snprintf(text, sizeof(text), "%s\n%s\n%s\n%s\n%s\n%lld %lld %d\n" MADE_AS, info.id, image,
             s->volume, s->c.runtime, k->row.network, (long long)k->cpu_milli,
             (long long)k->memory_mb, SBX_DEFAULT_PIDS);
    sbx_image_info_done(&info);
    sbx_sha256(text, strlen(text), hash);
    sbx_hex(hash, (SBX_POOL_HASH_BYTES - 1) / 2, hex);
    snprintf(name, sizeof(name), "%s:%s", hex, k->row.key);
    pthread_mutex_lock(&p->mu);
    k->image_looked_ms = sbx_now_ms();
    if (strcmp(k->name, name) != 0) {
        k->ready_count = 0; /* the next look finds those that fit */
        p->stirred = true;
        memcpy(k->name, name, sizeof(name));
    }
    pthread_mutex_unlock(&p->mu);
    return 0;
}

typedef struct fill {
    sbx_pools *p;
    int64_t from_us;
    sbx_create *c;
    char key[SBX_MAX_POOL_KEY + 1];
} fill;

static void fill_over(void *arg, const sbx_sandbox_row *row, const sbx_err *err)
{
    fill *f = arg;
    sbx_pools *p = f->p;
    int64_t took_us = sbx_now_us() - f->from_us;

    if (err) {
        sbx_metrics_add(p->s->c.metrics, SBX_M_POOL_FAILURES, f->key, 1);
        sbx_log_err(SBX_WARN, "a sandbox for a pool did not start", err, "pool", f->key, NULL);
    } else {
        sbx_metrics_observe_us(p->s->c.metrics, SBX_M_POOL_FILL_SECONDS, f->key, took_us);
    }
    pthread_mutex_lock(&p->mu);
    pool_kind *k = pool_find_locked(p, f->key);
    if (k) {
        k->filling--;
        if (err) {
            failed_locked(k, err);
        } else {
            k->failures = 0;
            k->news.started = true;
            k->news.error = NULL;
            k->news.fill_ms = SBX_MAX(took_us / 1000, 1);
            if (sbx_streq(row->pool, k->name))
                pool_add_ready_locked(k, row->id);
        }
    }
    p->stirred = true;
    pthread_mutex_unlock(&p->mu);
    free(f);
    if (p->s->c.pool_kick)
        p->s->c.pool_kick(p->s->c.arg);
}

static void run_fill(void *arg)
{
    fill *f = arg;
    sbx_create_waiter waiter = {.over = fill_over, .arg = f};

    sbx_create_run(f->c, &waiter);
}

static int start_one(sbx_pools *p, pool_kind *k, sbx_err *err)
{
    sbx_spec spec = {.template_name = sbx_strdup(k->row.template_name),
                     .size = k->row.size,
                     .limits = {k->cpu_milli, k->memory_mb, SBX_DEFAULT_PIDS},
                     .timeout_s = SBX_MAX_LIFETIME_S,
                     .on_timeout = "delete",
                     .on_idle = "delete",
                     .network.mode = k->row.network};
    fill *f = sbx_alloc(sizeof(*f));
    sbx_job job = {.run = run_fill, .arg = f};

    *f = (fill){.p = p, .from_us = sbx_now_us()};
    memcpy(f->key, k->row.key, sizeof(f->key));
    if (sandbox_create_for_pool(p->s, k->name, &spec, &f->c, err)) {
        sbx_spec_done(&spec);
        free(f);
        return -1;
    }
    pthread_mutex_lock(&p->mu);
    k->held++;
    k->filling++;
    pthread_mutex_unlock(&p->mu);
    if (sbx_lanes_submit(p->s->c.lanes, SBX_LANE_SLOW, &job, err))
        run_fill(f); /* the row is there: it has to come to an end */
    return 0;
}

static bool creates_wait(const sbx_pools *p)
{
    return atomic_load(&p->busy) > 0 || sbx_lanes_waiting(p->s->c.lanes, SBX_LANE_SLOW) > 0;
}

static bool was_quiet(sbx_pools *p)
{
    pthread_mutex_lock(&p->mu);
    int64_t quiet_ms = sbx_now_ms() - p->create_ms;
    pthread_mutex_unlock(&p->mu);
    return quiet_ms >= QUIET_MS;
}

bool sbx_sandboxes_quiet(sbx_sandboxes *s)
{
    return !creates_wait(s->pools) && was_quiet(s->pools);
}

/* Is nobody else at work, or about to be? */
static bool may_work(sbx_pools *p)
{
    int64_t now_ms = sbx_now_ms();

    if (creates_wait(p))
        return false;
    if (was_quiet(p)) {
        p->waits_since_ms = 0;
        return true;
    }
    if (!p->waits_since_ms)
        p->waits_since_ms = now_ms;
    return now_ms - p->waits_since_ms >= PUT_OFF_MS;
}

/* The pool that lacks most, by its share. */
static pool_kind *neediest(sbx_pools *p)
{
    pool_kind *found = NULL;
    double most = 0;
    size_t filling = 0;

    pthread_mutex_lock(&p->mu);
    for (size_t i = 0; i < p->count; i++) {
        pool_kind *k = p->kinds[i];
        size_t share = k->known ? pool_share(&k->row) : 0;
        double lack = share > k->held ? (double)(share - k->held) / (double)share : 0;

        filling += k->filling;
        if (lack > most && *k->name && sbx_now_ms() >= k->retry_ms) {
            most = lack;
            found = k;
        }
    }
    pthread_mutex_unlock(&p->mu);
    return filling < FILLS ? found : NULL;
}

static void start_missing(sbx_pools *p)
{
    pool_kind *k;
    sbx_err err;

    while (may_work(p) && !sbx_images_stopped(p->s->images) && (k = neediest(p)))
        if (start_one(p, k, &err)) {
            failed(p, k, &err);
            return;
        }
}

static void look_at_images(sbx_pools *p)
{
    for (size_t i = 0; i < p->count; i++) { /* only the tick changes the list */
        pool_kind *k = p->kinds[i];
        int64_t now_ms = sbx_now_ms();
        sbx_err err;

        if (!k->known || !k->row.max || now_ms < k->retry_ms ||
            (*k->name && now_ms - k->image_looked_ms < IMAGE_MS))
            continue;
        if (name_kind(p, k, &err))
            failed(p, k, &err);
    }
}

static void remove_slots(sbx_pools *p, const removals *r)
{
    sbx_err err;

    for (size_t i = 0; i < r->count; i++)
        if (sbx_sandbox_delete(p->s, SBX_POOL_OWNER, r->ids[i].s, &err) &&
            err.code != SBX_E_NOT_FOUND)
            sbx_log_err(SBX_WARN, "a sandbox of a pool could not be removed", &err, "sandbox",
                        r->ids[i].s, NULL);
}

/* --- asking --- */

typedef struct asked {
    sbx_pools *p;
    pool_id id;
} asked;

/* What a lost channel has to say is seen by the next look. */
static void on_answer(void *arg, const sbx_usage *u, const sbx_err *err)
{
    asked *a = arg;

    if (u || err->code == SBX_E_TIMEOUT)
        pool_heard(a->p, a->id.s, u != NULL);
    free(a);
}

static void ask_one(sbx_pools *p, const char *id)
{
    asked *a = sbx_alloc(sizeof(*a));

    a->p = p;
    sbx_copy(a->id.s, sizeof(a->id), id);
    sbx_channels_sample(p->s->c.channels, id, on_answer, a);
}

/* Does what is offered still live? Those that did not answer are asked again. */
static void ask_waiting(sbx_pools *p)
{
    size_t total = 0, at = 0;

    if (sbx_now_ms() - p->asked_ms < ASK_MS)
        return;
    p->asked_ms = sbx_now_ms();
    pthread_mutex_lock(&p->mu);
    for (size_t i = 0; i < p->silent_count; i++)
        if (!p->silent[i].lost)
            ask_one(p, p->silent[i].id.s);
    for (size_t i = 0; i < p->count; i++)
        total += p->kinds[i]->ready_count;
    if (p->asked_at >= total)
        p->asked_at = 0;
    for (size_t i = 0; i < p->count; i++)
        for (size_t n = 0; n < p->kinds[i]->ready_count; n++, at++)
            if (at >= p->asked_at && at < p->asked_at + ASK_AT_ONCE)
                ask_one(p, p->kinds[i]->ready[n].s);
    p->asked_at += ASK_AT_ONCE;
    pthread_mutex_unlock(&p->mu);
}

static bool look_is_due(sbx_pools *p)
{
    pthread_mutex_lock(&p->mu);
    bool stirred = p->stirred;
    int64_t pause_ms = p->count ? LOOK_MS : LOOK_NONE_MS;
    pthread_mutex_unlock(&p->mu);
    return !p->looked_ms || sbx_now_ms() - p->looked_ms >= pause_ms ||
           (p->count && stirred && atomic_load(&p->busy) == 0);
}

void sbx_pool_tick(void *arg)
{
    sbx_pools *p = ((sbx_sandboxes *)arg)->pools;
    removals remove = {0};
    sbx_err err;

    ask_waiting(p);
    if (!look_is_due(p))
        return;
    if (!p->configured && configure(p, &err)) {
        sbx_log_err(SBX_WARN, "the pools were not configured", &err, NULL);
        return;
    }
    p->configured = true;
    settle_doubts(p);
    for (size_t i = 0; i < p->count; i++)
        write_news(p, p->kinds[i]);
    if (look(p, &remove, &err)) {
        sbx_log_err(SBX_WARN, "the pools could not be read", &err, NULL);
        return;
    }
    p->looked_ms = sbx_now_ms();
    look_at_images(p);
    if (may_work(p))
        remove_slots(p, &remove);
    start_missing(p);
}
