/* What waits in the pools, who may take it, and how the API shows it. See pool.h. */
#include "pool_priv.h"

#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include <stdio.h>

/* --- the option --- */

static int bad_option(const char *item, size_t len, const char *why, sbx_err *err)
{
    return sbx_fail(err, SBX_E_INVALID,
                    "option --pool: \"%.*s\": %s; write TEMPLATE=MIN[:MAX][/SIZE][/NETWORK]",
                    (int)SBX_MIN(len, (size_t)80), item, why);
}

static void set_key(sbx_pool_row *r)
{
    snprintf(r->key, sizeof(r->key), "%s/%s/%s", r->size, r->network, r->template_name);
}

/* "/medium/none", in any order. */
static bool read_parts(char *parts, sbx_pool_row *r)
{
    int64_t cpu_milli, memory_mb;
    char *at, *part;

    for (part = strtok_r(parts, "/", &at); part; part = strtok_r(NULL, "/", &at)) {
        if (sbx_size_limits(part, &cpu_milli, &memory_mb))
            sbx_copy(r->size, sizeof(r->size), part);
        else if (strcmp(part, "open") == 0 || strcmp(part, "none") == 0)
            sbx_copy(r->network, sizeof(r->network), part);
        else
            return false;
    }
    return true;
}

static int read_option(const char *item, size_t len, const char *network, sbx_pool_option *o,
                       sbx_err *err)
{
    char text[sizeof(o->text)];

    *o = (sbx_pool_option){0};
    if (len >= sizeof(text))
        return bad_option(item, len, "it is too long", err);
    snprintf(text, sizeof(text), "%.*s", (int)len, item);
    sbx_copy(o->text, sizeof(o->text), text);
    char *eq = strchr(text, '=');
    if (!eq || eq == text || eq - text > 64)
        return bad_option(item, len, "it names no template", err);
    *eq++ = '\0';
    sbx_copy(o->row.template_name, sizeof(o->row.template_name), text);
    sbx_copy(o->row.size, sizeof(o->row.size), "small");
    sbx_copy(o->row.network, sizeof(o->row.network), network);
    char *parts = strchr(eq, '/');
    if (parts)
        *parts++ = '\0';
    if (parts && !read_parts(parts, &o->row))
        return bad_option(item, len, "behind / stands a size, or a network (open, none)", err);
    char *colon = strchr(eq, ':');
    if (colon)
        *colon++ = '\0';
    if (!sbx_parse_i64(eq, 0, SBX_MAX_POOL, &o->row.min) ||
        !sbx_parse_i64(colon ? colon : eq, o->row.min, SBX_MAX_POOL, &o->row.max))
        return bad_option(item, len, "MIN and MAX are numbers up to 1000, MIN the smaller", err);
    set_key(&o->row);
    return 0;
}

int sbx_pool_options_parse(const char *text, const char *network, sbx_pool_option *ret,
                           size_t *ret_count, sbx_err *err)
{
    size_t count = 0;

    while (text && *text) {
        size_t len = strcspn(text, ",");

        if (count == SBX_MAX_POOLS)
            return sbx_fail(err, SBX_E_INVALID, "option --pool: more than %d pools", SBX_MAX_POOLS);
        if (read_option(text, len, network, &ret[count], err))
            return -1;
        for (size_t i = 0; i < count; i++)
            if (strcmp(ret[i].row.key, ret[count].row.key) == 0)
                return bad_option(text, len, "the same pool stands there twice", err);
        count++;
        text += len + (text[len] == ',');
    }
    *ret_count = count;
    return 0;
}

/* --- the object --- */

int sandbox_pools_new(sbx_sandboxes *s, const char *text, sbx_pools **ret, sbx_err *err)
{
    sbx_pools *p = sbx_alloc(sizeof(*p));

    p->s = s;
    atomic_init(&p->busy, 0);
    pthread_mutex_init(&p->mu, NULL);
    *ret = p;
    if (sbx_pool_options_parse(text, s->c.network, p->options, &p->option_count, err))
        return -1;
    for (size_t i = 0; i < p->option_count; i++)
        if (!sbx_sandboxes_template(s, p->options[i].row.template_name))
            return sbx_fail(err, SBX_E_INVALID, "option --pool: there is no template \"%s\"",
                            p->options[i].row.template_name);
    return 0;
}

void sandbox_pools_free(sbx_pools *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->count; i++) {
        free(p->kinds[i]->ready);
        free(p->kinds[i]);
    }
    free(p->taken);
    pthread_mutex_destroy(&p->mu);
    free(p);
}

pool_kind *pool_find_locked(sbx_pools *p, const char *key)
{
    for (size_t i = 0; i < p->count; i++)
        if (strcmp(p->kinds[i]->row.key, key) == 0)
            return p->kinds[i];
    return NULL;
}

void pool_add_ready_locked(pool_kind *k, const char *id)
{
    for (size_t i = 0; i < k->ready_count; i++)
        if (strcmp(k->ready[i].s, id) == 0)
            return;
    if (k->ready_count == k->ready_cap) {
        k->ready_cap = k->ready_cap ? 2 * k->ready_cap : 8;
        k->ready = sbx_realloc(k->ready, k->ready_cap * sizeof(*k->ready));
    }
    sbx_copy(k->ready[k->ready_count++].s, sizeof(pool_id), id);
}

void pool_drop_ready_locked(pool_kind *k, const char *id)
{
    for (size_t i = 0; i < k->ready_count; i++)
        if (strcmp(k->ready[i].s, id) == 0) {
            k->ready_count--;
            memmove(&k->ready[i], &k->ready[i + 1], (k->ready_count - i) * sizeof(*k->ready));
            return;
        }
}

bool pool_is_taken_locked(const sbx_pools *p, const char *id)
{
    for (size_t i = 0; i < p->taken_count; i++)
        if (strcmp(p->taken[i].id.s, id) == 0)
            return true;
    return false;
}

size_t pool_target(const sbx_pool_row *row)
{
    int64_t recent = (row->recent_milli + 999) / 1000;

    return (size_t)SBX_MIN(SBX_MAX(recent, row->min), row->max);
}

size_t pool_share(const sbx_pool_row *row)
{
    size_t target = pool_target(row), workers = (size_t)row->others + 1;

    return target / workers + ((size_t)row->earlier < target % workers);
}

/* --- taking --- */

/* The one that fits best: of the same limits, else any that has some. */
static pool_kind *choose_locked(sbx_pools *p, const pool_wish *wish, bool even_empty)
{
    pool_kind *found = NULL;

    for (size_t i = 0; i < p->count; i++) {
        pool_kind *k = p->kinds[i];

        if (!k->known || strcmp(k->row.template_name, wish->template_name) != 0 ||
            strcmp(k->row.network, wish->network) != 0 || (!k->ready_count && !even_empty) ||
            (even_empty && !k->row.max))
            continue;
        bool same = k->cpu_milli == wish->cpu_milli && k->memory_mb == wish->memory_mb;

        if (same)
            return k;
        if (!found || k->ready_count > found->ready_count)
            found = k;
    }
    return found;
}

static void remember_taken_locked(sbx_pools *p, const char *id)
{
    if (p->taken_count == p->taken_cap) {
        p->taken_cap = p->taken_cap ? 2 * p->taken_cap : 16;
        p->taken = sbx_realloc(p->taken, p->taken_cap * sizeof(*p->taken));
    }
    pool_taken *t = &p->taken[p->taken_count++];

    t->over = false;
    sbx_copy(t->id.s, sizeof(t->id), id);
}

bool sandbox_pool_take(sbx_pools *p, const pool_wish *wish, pool_slot *ret)
{
    bool found = false;

    pthread_mutex_lock(&p->mu);
    p->create_ms = sbx_now_ms();
    for (pool_kind *k; !found && (k = choose_locked(p, wish, false));) {
        *ret = (pool_slot){.cpu_milli = k->cpu_milli, .memory_mb = k->memory_mb};
        memcpy(ret->id, k->ready[0].s, sizeof(ret->id));
        memcpy(ret->name, k->name, sizeof(k->name));
        pool_drop_ready_locked(k, ret->id);
        /* one whose channel was lost comes back with the next look, or is replaced */
        found = sbx_channels_owns(p->s->c.channels, ret->id);
        if (found)
            remember_taken_locked(p, ret->id);
    }
    p->stirred = true;
    pthread_mutex_unlock(&p->mu);
    return found;
}

void sandbox_pool_taken(sbx_pools *p, const pool_slot *slot, bool hit)
{
    const char *key = slot->name + SBX_POOL_HASH_BYTES;

    pthread_mutex_lock(&p->mu);
    for (size_t i = 0; i < p->taken_count; i++)
        if (strcmp(p->taken[i].id.s, slot->id) == 0)
            p->taken[i].over = true;
    pool_kind *k = pool_find_locked(p, key);
    if (k && hit)
        k->news.hits++;
    p->create_ms = sbx_now_ms();
    pthread_mutex_unlock(&p->mu);
    if (hit) {
        char label[SBX_MAX_POOL_KEY + 8];

        snprintf(label, sizeof(label), "%s,hit", key);
        sbx_metrics_add(p->s->c.metrics, SBX_M_POOL_CREATES, label, 1);
    }
}

void sandbox_pool_put_back(sbx_pools *p, const pool_slot *slot)
{
    pthread_mutex_lock(&p->mu);
    pool_kind *k = pool_find_locked(p, slot->name + SBX_POOL_HASH_BYTES);

    for (size_t i = 0; i < p->taken_count; i++)
        if (strcmp(p->taken[i].id.s, slot->id) == 0) {
            p->taken[i] = p->taken[--p->taken_count];
            break;
        }
    if (k && strcmp(k->name, slot->name) == 0)
        pool_add_ready_locked(k, slot->id);
    pthread_mutex_unlock(&p->mu);
}

void sandbox_pool_missed(sbx_pools *p, const pool_wish *wish)
{
    char label[SBX_MAX_POOL_KEY + 8] = "";

    pthread_mutex_lock(&p->mu);
    pool_kind *k = choose_locked(p, wish, true);
    if (k) {
        k->news.misses++;
        snprintf(label, sizeof(label), "%s,miss", k->row.key);
        p->stirred = true;
    }
    pthread_mutex_unlock(&p->mu);
    if (*label)
        sbx_metrics_add(p->s->c.metrics, SBX_M_POOL_CREATES, label, 1);
}

void sandbox_pool_busy(sbx_pools *p, int by)
{
    atomic_fetch_add(&p->busy, by);
    pthread_mutex_lock(&p->mu);
    p->create_ms = sbx_now_ms();
    pthread_mutex_unlock(&p->mu);
}

void sandbox_pool_doubt(sbx_pools *p, const sbx_sandbox_row *row)
{
    pthread_mutex_lock(&p->mu);
    if (p->doubt_count < POOL_DOUBTS) {
        pool_doubt *d = &p->doubts[p->doubt_count++];

        memcpy(d->id, row->id, sizeof(d->id));
        memcpy(d->owner, row->owner, sizeof(d->owner));
        d->change = row->change;
    }
    pthread_mutex_unlock(&p->mu);
}

pool_silent *pool_silent_locked(sbx_pools *p, const char *id)
{
    for (size_t i = 0; i < p->silent_count; i++)
        if (strcmp(p->silent[i].id.s, id) == 0)
            return &p->silent[i];
    return NULL;
}

pool_silent *pool_add_silent_locked(sbx_pools *p, const char *id, bool lost)
{
    if (p->silent_count == POOL_SILENTS)
        return NULL;
    pool_silent *one = &p->silent[p->silent_count++];

    *one = (pool_silent){.since_ms = sbx_now_ms(), .lost = lost, .seen = true};
    sbx_copy(one->id.s, sizeof(one->id), id);
    return one;
}

static bool is_ready_locked(const sbx_pools *p, const char *id)
{
    for (size_t i = 0; i < p->count; i++)
        for (size_t n = 0; n < p->kinds[i]->ready_count; n++)
            if (strcmp(p->kinds[i]->ready[n].s, id) == 0)
                return true;
    return false;
}

void pool_heard(sbx_pools *p, const char *id, bool answered)
{
    bool news = false;

    pthread_mutex_lock(&p->mu);
    pool_silent *one = pool_silent_locked(p, id);

    if (answered && one) {
        *one = p->silent[--p->silent_count];
        p->stirred = true;
    } else if (!answered && !one && is_ready_locked(p, id)) {
        news = pool_add_silent_locked(p, id, false) != NULL;
        for (size_t i = 0; news && i < p->count; i++)
            pool_drop_ready_locked(p->kinds[i], id);
        p->stirred = true;
    }
    pthread_mutex_unlock(&p->mu);
    if (news)
        sbx_log(SBX_WARN, "a sandbox that waits in a pool does not answer", "sandbox", id, NULL);
}

void sandbox_pool_no_image(sbx_pools *p, const char *image, const sbx_err *err)
{
    pthread_mutex_lock(&p->mu);
    for (size_t i = 0; i < p->count; i++) {
        pool_kind *k = p->kinds[i];
        const char *wanted = sbx_sandboxes_template(p->s, k->row.template_name);

        if (!sbx_streq(wanted, image))
            continue;
        sbx_copy(k->error, sizeof(k->error), err->msg);
        k->news.started = true;
        k->news.error = k->error;
    }
    p->stirred = true;
    pthread_mutex_unlock(&p->mu);
}

/* --- the view --- */

static void pool_json(const sbx_sandboxes *s, const sbx_pool_row *r, sbx_jw *w, const char *name)
{
    sbx_jw_obj(w, name);
    sbx_jw_str(w, "template", r->template_name);
    sbx_jw_str(w, "size", r->size);
    sbx_jw_str(w, "network", r->network);
    sbx_jw_str(w, "runtime", *s->c.runtime ? s->c.runtime : NULL);
    sbx_jw_int(w, "min", r->min);
    sbx_jw_int(w, "max", r->max);
    sbx_jw_int(w, "target", (int64_t)pool_target(r));
    sbx_jw_int(w, "ready", r->ready);
    sbx_jw_int(w, "filling", r->filling);
    sbx_jw_int(w, "hits", r->hits);
    sbx_jw_int(w, "misses", r->misses);
    sbx_jw_milli(w, "claimsPerMinute", r->recent_milli);
    sbx_jw_str(w, "lastError", *r->error ? r->error : NULL);
    if (r->fill_ms)
        sbx_jw_int(w, "averageFillMs", r->fill_ms);
    else
        sbx_jw_null(w, "averageFillMs");
    sbx_jw_obj_end(w);
}

int sbx_pool_json(sbx_sandboxes *s, sbx_buf *out, sbx_err *err)
{
    sbx_pool_row *rows = sbx_alloc(SBX_MAX_POOLS * sizeof(*rows));
    int count = sbx_store_pool_list(s->c.store, s->c.worker, rows, SBX_MAX_POOLS, err);
    sbx_jw w = SBX_JW(out);

    if (count >= 0) {
        sbx_jw_obj(&w, NULL);
        sbx_jw_arr(&w, "items");
        for (int i = 0; i < count; i++)
            pool_json(s, &rows[i], &w, NULL);
        sbx_jw_arr_end(&w);
        sbx_jw_obj_end(&w);
    }
    free(rows);
    return count < 0 ? -1 : 0;
}

static const char *const sizes[] = {"nano", "small", "medium", "large", "xlarge", NULL};
static const char *const modes[] = {"open", "none", NULL};

const sbx_json_field sbx_pool_fields[] = {
    {"template", SBX_JF_STR, offsetof(sbx_pool_resize, template_name), .required = true, .min = 1,
     .max = 64, .doc = "a template of this server"},
    {"size", SBX_JF_ENUM, offsetof(sbx_pool_resize, size), .values = sizes, .dflt_text = "small",
     .doc = "of what waits; a create of another size takes it, too, and resizes it"},
    {"network", SBX_JF_ENUM, offsetof(sbx_pool_resize, network), .values = modes,
     .doc = "of what waits; default: what the server is set to"},
    {"min", SBX_JF_I64, offsetof(sbx_pool_resize, min), .required = true, .max = SBX_MAX_POOL,
     .doc = "so many always wait"},
    {"max", SBX_JF_I64, offsetof(sbx_pool_resize, max), offsetof(sbx_pool_resize, max_given),
     .max = SBX_MAX_POOL, .doc = "so many wait while creates are frequent; default: min"},
    {.name = NULL},
};

static int read_resize(sbx_sandboxes *s, const char *body, size_t len, sbx_pool_row *row,
                       sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    sbx_pool_resize want = {0};
    int rc = sbx_json_parse(len ? body : "{}", len ? len : 2, &root, err) ||
                     sbx_json_decode(root, sbx_pool_fields, &want, err)
                 ? -1
                 : 0;

    if (!rc && !sbx_sandboxes_template(s, want.template_name))
        rc = sbx_fail_field(err, "template", "template: there is no template \"%s\"",
                            want.template_name);
    if (!want.max_given)
        want.max = want.min;
    if (!rc && want.max < want.min)
        rc = sbx_fail_field(err, "max", "max: must not be below min");
    if (!rc) {
        sbx_copy(row->template_name, sizeof(row->template_name), want.template_name);
        sbx_copy(row->size, sizeof(row->size), want.size);
        sbx_copy(row->network, sizeof(row->network), want.network ? want.network : s->c.network);
        row->min = want.min;
        row->max = want.max;
        set_key(row);
    }
    sbx_json_struct_done(sbx_pool_fields, &want);
    return rc;
}

int sbx_pool_set(sbx_sandboxes *s, const char *body, size_t len, sbx_buf *out, sbx_err *err)
{
    sbx_pool_row *rows = sbx_alloc(SBX_MAX_POOLS * sizeof(*rows));
    sbx_pool_row row = {0};
    sbx_jw w = SBX_JW(out);
    int rc = read_resize(s, body, len, &row, err);
    int count = rc ? -1 : sbx_store_pool_list(s->c.store, s->c.worker, rows, SBX_MAX_POOLS, err);
    int at = 0;

    while (at < count && strcmp(rows[at].key, row.key) != 0)
        at++;
    if (count == SBX_MAX_POOLS && at == count)
        rc = sbx_fail(err, SBX_E_CONFLICT, "there are %d pools; that is the limit", SBX_MAX_POOLS);
    else if (count < 0 || sbx_store_pool_resize(s->c.store, &row, err))
        rc = -1;
    if (!rc) {
        if (at < count) {
            rows[at].min = row.min;
            rows[at].max = row.max;
            row = rows[at];
        }
        pool_json(s, &row, &w, NULL);
        pthread_mutex_lock(&s->pools->mu);
        s->pools->stirred = true;
        pthread_mutex_unlock(&s->pools->mu);
    }
    free(rows);
    return rc;
}
