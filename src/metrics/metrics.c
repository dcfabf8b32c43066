/* Metrics: the table of metrics.h, counted in cells per thread.
 *
 * A series is one metric with one label. Each thread that counts gets a shard: a small hash table
 * from (metric, label) to its own cell of that series. A cell is written by its thread alone, with
 * relaxed atomic additions, and read by whoever makes the page; so counting takes no lock and no
 * two cores write one cache line. The registry of series is shared and locked, but a thread asks
 * it only at its first use of a label. A shard whose thread ended keeps its sums and is given to
 * the next thread that starts counting.
 *
 * Gauges are set, not added, so they have one cell per series in the registry.
 *
 * Threads: any. `mu` guards the registry and the list of shards; shards[].cells are published
 * with release stores and read with acquire loads. */
#include "sbx/metrics/metrics.h"
#include "process.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#define CACHE_FIRST  64                       /* slots of a shard's table; a power of two */
#define SERIES_SLOTS (SBX_METRICS_SERIES + 1) /* the last one is "other" */

typedef enum metric_type { COUNTER, GAUGE, HISTOGRAM } metric_type;

static const struct metric_row {
    metric_type type;
    const char *name, *labels, *help;
} rows[SBX_M_COUNT] = {
#define X(id, type, name, labels, help) {type, name, labels, help},
    SBX_METRICS(X)
#undef X
};

static const struct bucket {
    int64_t us;
    const char *le;
} buckets[] = {
    {500, "0.0005"},  {1000, "0.001"},  {2500, "0.0025"}, {5000, "0.005"},
    {10000, "0.01"},  {25000, "0.025"}, {50000, "0.05"},  {100000, "0.1"},
    {250000, "0.25"}, {500000, "0.5"},  {1000000, "1"},   {2500000, "2.5"},
    {5000000, "5"},   {10000000, "10"}, {30000000, "30"}, {60000000, "60"},
};
#define BUCKETS ARRAY_LEN(buckets)

/* A counter uses `sum` alone; of a histogram `sum` is in microseconds. */
typedef struct cell {
    _Atomic uint64_t sum;
    _Atomic uint64_t bucket[]; /* histograms: BUCKETS + 1, the last is +Inf; not cumulative */
} cell;

typedef struct cache_entry {
    const char *label; /* owned by the registry; NULL: free slot */
    sbx_metric id;
    cell *cell;
} cache_entry;

typedef struct shard {
    struct shard *next;
    struct shard *next_idle; /* guarded by mu */
    sbx_metrics *metrics;
    cache_entry *cache; /* owner thread only */
    size_t cache_slots, cache_used;
    _Atomic(cell *) *cells[SBX_M_COUNT]; /* SERIES_SLOTS each; made with the shard */
} shard;

typedef struct series {
    char *label;            /* owned */
    _Atomic uint64_t gauge; /* the bits of a double */
} series;

struct sbx_metrics {
    pthread_key_t key;
    pthread_mutex_t mu;
    series series[SBX_M_COUNT][SERIES_SLOTS]; /* labels guarded by mu */
    size_t count[SBX_M_COUNT];                /* guarded by mu; without "other" */
    shard *shards, *idle;                     /* guarded by mu */
};

static uint32_t hash_of(sbx_metric id, const char *label)
{
    uint32_t h = 2166136261u ^ (uint32_t)id;

    for (; *label; label++)
        h = (h ^ (unsigned char)*label) * 16777619u;
    return h;
}

/* The series of a label, made if there is room; the index of "other" if there is none. */
static size_t series_find_locked(sbx_metrics *m, sbx_metric id, const char *label)
{
    if (strlen(label) >= SBX_METRICS_LABEL_BYTES)
        return SBX_METRICS_SERIES;
    for (size_t i = 0; i < m->count[id]; i++)
        if (strcmp(m->series[id][i].label, label) == 0)
            return i;
    if (m->count[id] == SBX_METRICS_SERIES)
        return SBX_METRICS_SERIES;
    m->series[id][m->count[id]].label = sbx_strdup(label);
    return m->count[id]++;
}

static void series_other_locked(sbx_metrics *m, sbx_metric id)
{
    series *s = &m->series[id][SBX_METRICS_SERIES];

    if (!s->label)
        s->label = sbx_strdup("other");
}

static cell *cell_make(shard *s, sbx_metric id, size_t index)
{
    cell *c = atomic_load_explicit(&s->cells[id][index], memory_order_relaxed);
    size_t extra = rows[id].type == HISTOGRAM ? (BUCKETS + 1) * sizeof(uint64_t) : 0;

    if (c)
        return c;
    c = sbx_alloc(sizeof *c + extra);
    atomic_store_explicit(&s->cells[id][index], c, memory_order_release);
    return c;
}

static cache_entry *cache_slot(cache_entry *cache, size_t slots, sbx_metric id, const char *label)
{
    size_t i = hash_of(id, label) & (slots - 1);

    while (cache[i].label && (cache[i].id != id || strcmp(cache[i].label, label) != 0))
        i = (i + 1) & (slots - 1);
    return &cache[i];
}

/* At most SBX_M_COUNT * SBX_METRICS_SERIES entries: only registered labels get in. */
static void cache_grow(shard *s)
{
    size_t slots = s->cache_slots ? s->cache_slots * 2 : CACHE_FIRST;
    cache_entry *cache = sbx_alloc(slots * sizeof *cache);

    for (size_t i = 0; i < s->cache_slots; i++) {
        const cache_entry *e = &s->cache[i];

        if (e->label)
            *cache_slot(cache, slots, e->id, e->label) = *e;
    }
    free(s->cache);
    s->cache = cache;
    s->cache_slots = slots;
}

static shard *shard_new(sbx_metrics *m)
{
    shard *s;

    pthread_mutex_lock(&m->mu);
    s = m->idle;
    if (s)
        m->idle = s->next_idle;
    pthread_mutex_unlock(&m->mu);
    if (!s) {
        s = sbx_alloc(sizeof *s);
        s->metrics = m;
        for (int id = 0; id < SBX_M_COUNT; id++)
            if (rows[id].type != GAUGE)
                s->cells[id] =
                    sbx_alloc((rows[id].labels ? SERIES_SLOTS : 1) * sizeof *s->cells[id]);
        cache_grow(s);
        pthread_mutex_lock(&m->mu);
        s->next = m->shards;
        m->shards = s;
        pthread_mutex_unlock(&m->mu);
    }
    pthread_setspecific(m->key, s);
    return s;
}

/* The thread ended: its sums stay, the next thread counts on in them. */
static void shard_release(void *arg)
{
    shard *s = arg;
    sbx_metrics *m = s->metrics;

    pthread_mutex_lock(&m->mu);
    s->next_idle = m->idle;
    m->idle = s;
    pthread_mutex_unlock(&m->mu);
}

static cell *cell_of(sbx_metrics *m, sbx_metric id, const char *label)
{
    shard *s = pthread_getspecific(m->key);
    cache_entry *e;
    size_t index;
    const char *owned;

    if (!s)
        s = shard_new(m);
    if (!rows[id].labels)
        return cell_make(s, id, 0);
    e = cache_slot(s->cache, s->cache_slots, id, label);
    if (e->label)
        return e->cell;

    pthread_mutex_lock(&m->mu);
    index = series_find_locked(m, id, label);
    if (index == SBX_METRICS_SERIES)
        series_other_locked(m, id);
    owned = m->series[id][index].label;
    pthread_mutex_unlock(&m->mu);
    if (index == SBX_METRICS_SERIES)
        return cell_make(s, id, index);

    if ((s->cache_used + 1) * 2 > s->cache_slots) {
        cache_grow(s);
        e = cache_slot(s->cache, s->cache_slots, id, label);
    }
    s->cache_used++;
    *e = (cache_entry){.label = owned, .id = id, .cell = cell_make(s, id, index)};
    return e->cell;
}

static bool is_a(sbx_metric id, metric_type type)
{
    return (unsigned)id < SBX_M_COUNT && rows[id].type == type;
}

void sbx_metrics_add(sbx_metrics *m, sbx_metric id, const char *label, uint64_t n)
{
    if (!m || !is_a(id, COUNTER))
        return;
    atomic_fetch_add_explicit(&cell_of(m, id, label ? label : "")->sum, n, memory_order_relaxed);
}

void sbx_metrics_observe_us(sbx_metrics *m, sbx_metric id, const char *label, int64_t us)
{
    size_t i = 0;
    cell *c;

    if (!m || !is_a(id, HISTOGRAM))
        return;
    us = SBX_MAX(us, 0);
    while (i < BUCKETS && us > buckets[i].us)
        i++;
    c = cell_of(m, id, label ? label : "");
    atomic_fetch_add_explicit(&c->sum, (uint64_t)us, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->bucket[i], 1, memory_order_relaxed);
}

void sbx_metrics_set(sbx_metrics *m, sbx_metric id, const char *label, double value)
{
    uint64_t bits;
    size_t index;

    if (!m || !is_a(id, GAUGE))
        return;
    memcpy(&bits, &value, sizeof bits);
    pthread_mutex_lock(&m->mu);
    index = series_find_locked(m, id, rows[id].labels && label ? label : "");
    if (index == SBX_METRICS_SERIES)
        series_other_locked(m, id);
    atomic_store_explicit(&m->series[id][index].gauge, bits, memory_order_relaxed);
    pthread_mutex_unlock(&m->mu);
}

/* --- the page --- */

static void add_label_value(sbx_buf *out, const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (s[i] == '\n')
            sbx_buf_adds(out, "\\n");
        else if (s[i] == '"' || s[i] == '\\')
            sbx_buf_addf(out, "\\%c", s[i]);
        else
            sbx_buf_addc(out, s[i]);
    }
}

/* {a="x",b="y",le="1"}: the names of the row with the values of the label, then `le`. */
static void add_labels(sbx_buf *out, const struct metric_row *row, const char *label,
                       const char *le)
{
    const char *names = row->labels, *values = label;

    if (!names && !le)
        return;
    sbx_buf_addc(out, '{');
    while (names) {
        const char *name_end = strchrnul(names, ',');
        bool last = *name_end == '\0';
        const char *value_end = last ? values + strlen(values) : strchrnul(values, ',');

        sbx_buf_add(out, names, (size_t)(name_end - names));
        sbx_buf_adds(out, "=\"");
        add_label_value(out, values, (size_t)(value_end - values));
        sbx_buf_addc(out, '"');
        names = last ? NULL : name_end + 1;
        values = *value_end ? value_end + 1 : value_end;
        if (names || le)
            sbx_buf_addc(out, ',');
    }
    if (le)
        sbx_buf_addf(out, "le=\"%s\"", le);
    sbx_buf_addc(out, '}');
}

typedef struct sums {
    uint64_t sum;
    uint64_t bucket[BUCKETS + 1];
    bool used;
} sums;

static sums sum_locked(sbx_metrics *m, sbx_metric id, size_t index)
{
    sums t = {0};

    for (shard *s = m->shards; s; s = s->next) {
        cell *c = atomic_load_explicit(&s->cells[id][index], memory_order_acquire);

        if (!c)
            continue;
        t.used = true;
        t.sum += atomic_load_explicit(&c->sum, memory_order_relaxed);
        for (size_t i = 0; rows[id].type == HISTOGRAM && i <= BUCKETS; i++)
            t.bucket[i] += atomic_load_explicit(&c->bucket[i], memory_order_relaxed);
    }
    return t;
}

static void add_histogram(sbx_buf *out, const struct metric_row *row, const char *label,
                          const sums *t)
{
    uint64_t count = 0;

    for (size_t i = 0; i <= BUCKETS; i++) {
        count += t->bucket[i];
        sbx_buf_addf(out, "%s_bucket", row->name);
        add_labels(out, row, label, i < BUCKETS ? buckets[i].le : "+Inf");
        sbx_buf_addf(out, " %llu\n", (unsigned long long)count);
    }
    sbx_buf_addf(out, "%s_sum", row->name);
    add_labels(out, row, label, NULL);
    sbx_buf_addf(out, " %llu.%06llu\n", (unsigned long long)(t->sum / 1000000),
                 (unsigned long long)(t->sum % 1000000));
    sbx_buf_addf(out, "%s_count", row->name);
    add_labels(out, row, label, NULL);
    sbx_buf_addf(out, " %llu\n", (unsigned long long)count);
}

static void add_series_locked(sbx_metrics *m, sbx_buf *out, sbx_metric id, size_t index)
{
    const struct metric_row *row = &rows[id];
    const char *label = m->series[id][index].label;

    label = label ? label : "";
    if (row->type == GAUGE) {
        uint64_t bits = atomic_load_explicit(&m->series[id][index].gauge, memory_order_relaxed);
        double value;

        memcpy(&value, &bits, sizeof value);
        sbx_buf_adds(out, row->name);
        add_labels(out, row, label, NULL);
        sbx_buf_addf(out, " %.15g\n", value);
        return;
    }
    sums t = sum_locked(m, id, index);

    if (row->labels && !t.used)
        return;
    if (row->type == HISTOGRAM) {
        add_histogram(out, row, label, &t);
        return;
    }
    sbx_buf_adds(out, row->name);
    add_labels(out, row, label, NULL);
    sbx_buf_addf(out, " %llu\n", (unsigned long long)t.sum);
}

void sbx_metrics_text(sbx_metrics *m, sbx_buf *out)
{
    static const char *const types[] = {
        [COUNTER] = "counter", [GAUGE] = "gauge", [HISTOGRAM] = "histogram"};

    pthread_mutex_lock(&m->mu);
    for (int id = 0; id < SBX_M_COUNT; id++) {
        const struct metric_row *row = &rows[id];

        sbx_buf_addf(out, "# HELP %s %s\n# TYPE %s %s\n", row->name, row->help, row->name,
                     types[row->type]);
        if (!row->labels) {
            add_series_locked(m, out, (sbx_metric)id, 0);
            continue;
        }
        for (size_t i = 0; i < m->count[id]; i++)
            add_series_locked(m, out, (sbx_metric)id, i);
        if (m->series[id][SBX_METRICS_SERIES].label)
            add_series_locked(m, out, (sbx_metric)id, SBX_METRICS_SERIES);
    }
    pthread_mutex_unlock(&m->mu);
    metrics_process_text(out);
}

sbx_metrics *sbx_metrics_new(void)
{
    sbx_metrics *m = sbx_alloc(sizeof *m);

    pthread_mutex_init(&m->mu, NULL);
    if (pthread_key_create(&m->key, shard_release) != 0)
        abort(); /* 1,024 keys per process, and one set of metrics */
    return m;
}

void sbx_metrics_free(sbx_metrics *m)
{
    shard *next;

    if (!m)
        return;
    pthread_key_delete(m->key);
    for (shard *s = m->shards; s; s = next) {
        next = s->next;
        for (int id = 0; id < SBX_M_COUNT; id++) {
            size_t slots = s->cells[id] ? (rows[id].labels ? SERIES_SLOTS : 1) : 0;

            for (size_t i = 0; i < slots; i++)
                free(atomic_load(&s->cells[id][i]));
            free(s->cells[id]);
        }
        free(s->cache);
        free(s);
    }
    for (int id = 0; id < SBX_M_COUNT; id++)
        for (size_t i = 0; i < SERIES_SLOTS; i++)
            free(m->series[id][i].label);
    pthread_mutex_destroy(&m->mu);
    free(m);
}
