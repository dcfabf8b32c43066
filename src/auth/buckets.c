/* See buckets.h. A bucket is one number, the time at which it will be full: each token that is
 * taken puts it off by the time that a token takes to come back. */
#include "buckets.h"

#include "sbx/core/clock.h"
#include "sbx/core/crypt.h"

#define SETS  4096u
#define WAYS  4u
#define LOCKS 64u

struct bucket_table {
    uint64_t seed[3];             /* immutable */
    cell *cells;                  /* SETS * WAYS; those of a set guarded by locks[set % LOCKS] */
    pthread_mutex_t locks[LOCKS]; /* one at a time; never held across a call */
};

int64_t bucket_now_ns(void)
{
    return sbx_now_us() * 1000;
}

bucket_table *bucket_table_new(void)
{
    bucket_table *t = sbx_alloc(sizeof(*t));

    sbx_random(t->seed, sizeof(t->seed));
    t->cells = sbx_alloc(SETS * WAYS * sizeof(*t->cells));
    for (size_t i = 0; i < LOCKS; i++)
        pthread_mutex_init(&t->locks[i], NULL);
    return t;
}

void bucket_table_free(bucket_table *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < LOCKS; i++)
        pthread_mutex_destroy(&t->locks[i]);
    free(t->cells);
    free(t);
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 32) * UINT64_C(0xd6e8feb86659fd93);
    x = (x ^ x >> 32) * UINT64_C(0xd6e8feb86659fd93);
    return x ^ x >> 32;
}

static size_t set_of(const bucket_table *t, const unsigned char name[BUCKET_NAME_BYTES])
{
    uint64_t hash = 0, word;

    for (size_t i = 0; i < ARRAY_LEN(t->seed); i++) {
        memcpy(&word, name + i * sizeof(word), sizeof(word));
        hash = mix(hash ^ word ^ t->seed[i]);
    }
    return hash % SETS;
}

cell *bucket_table_lock(bucket_table *t, const unsigned char name[BUCKET_NAME_BYTES],
                        int64_t now_ns, pthread_mutex_t **ret_lock)
{
    size_t set = set_of(t, name);
    cell *cells = &t->cells[set * WAYS], *found = cells;

    *ret_lock = &t->locks[set % LOCKS];
    pthread_mutex_lock(*ret_lock);
    for (size_t i = 0; i < WAYS; i++) {
        if (cells[i].used_ns && memcmp(cells[i].name, name, BUCKET_NAME_BYTES) == 0) {
            cells[i].used_ns = now_ns;
            return &cells[i];
        }
        if (cells[i].used_ns < found->used_ns)
            found = &cells[i];
    }
    memset(found, 0, sizeof(*found));
    memcpy(found->name, name, BUCKET_NAME_BYTES);
    found->used_ns = now_ns;
    return found;
}

static int64_t token_ns(int64_t limit)
{
    return BUCKET_WINDOW_NS / limit;
}

int64_t bucket_tokens(const bucket *b, int64_t limit, int64_t now_ns)
{
    int64_t missing_ns = SBX_MAX(b->full_at_ns - now_ns, 0);
    int64_t tokens = (token_ns(limit) * limit - missing_ns) / token_ns(limit);

    return SBX_MAX(tokens, 0);
}

void bucket_spend(bucket *b, int64_t limit, int64_t count, int64_t now_ns)
{
    b->full_at_ns = SBX_MAX(b->full_at_ns, now_ns) + count * token_ns(limit);
    /* What is owed is never more than a minute, whatever was taken. */
    b->full_at_ns = SBX_MIN(b->full_at_ns, now_ns + BUCKET_WINDOW_NS);
}

int64_t bucket_wait_ns(const bucket *b, int64_t limit, int64_t count, int64_t now_ns)
{
    int64_t missing_ns = SBX_MAX(b->full_at_ns - now_ns, 0);

    return SBX_MAX(missing_ns - (limit - count) * token_ns(limit), 0);
}
