/* The table of buckets and the rates on top of it, from many threads at once, for the thread
 * sanitizer.
 *
 * By one clock that stands still a bucket gives exactly its tokens, however many ask, and while
 * other names come and go around it; by the real one no more than has come back meanwhile. */
#include "auth/buckets.h"
#include "sbx/auth/rates.h"
#include "sbx/core/clock.h"

#include <stdatomic.h>
#include <stdio.h>

#define THREADS 6
#define ROUNDS  20000
#define LIMIT   5000
#define NOW     (INT64_C(1000000000) * 1000)

static bucket_table *table;
static sbx_rates *rates;
static atomic_long taken[SBX_RATE_COUNT], allowed, refused, strangers;

/* One token of a bucket that all take from, and of one that nobody else knows. */
static void take_of_table(unsigned self, unsigned i)
{
    unsigned char common[BUCKET_NAME_BYTES] = "common", other[BUCKET_NAME_BYTES] = {0};
    unsigned class = i % SBX_RATE_COUNT;
    pthread_mutex_t *lock;

    bucket *b = &bucket_table_lock(table, common, NOW, &lock)->buckets[class];
    if (bucket_wait_ns(b, LIMIT, 1, NOW) == 0) {
        bucket_spend(b, LIMIT, 1, NOW);
        taken[class]++;
    }
    pthread_mutex_unlock(lock);
    memcpy(other, &(unsigned[]){self + 1, i}, 2 * sizeof(unsigned));
    bucket_spend(bucket_table_lock(table, other, NOW - 1, &lock)->buckets, LIMIT, 1, NOW - 1);
    pthread_mutex_unlock(lock);
}

static void take_of_rates(unsigned self, unsigned i)
{
    sbx_principal who = {.key = "key", .rates = {LIMIT, SBX_RATE_DEFAULT, 0}};
    char address[32];
    sbx_rate_note note;
    sbx_err err;

    if (sbx_rates_take(rates, &who, SBX_RATE_CREATES, 1, 0, &note, &err) == 0)
        allowed++;
    else
        refused++;
    snprintf(address, sizeof(address), "10.0.%u.%u", self, i % 256);
    if (sbx_rates_stranger(rates, address, &note, &err) == 0)
        strangers++;
    sbx_rates_failed(rates, address, &note);
}

static void *work(void *arg)
{
    unsigned self = (unsigned)(uintptr_t)arg;

    for (unsigned i = 0; i < ROUNDS; i++) {
        take_of_table(self, i);
        take_of_rates(self, i);
    }
    return NULL;
}

int main(void)
{
    sbx_bus *bus = sbx_bus_memory_new();
    sbx_metrics *metrics = sbx_metrics_new();
    pthread_t threads[THREADS];
    bool good = true;

    table = bucket_table_new();
    rates = sbx_rates_new(&(sbx_rates_config){
        .per_minute = {1, 1, 1}, .failures = 3, .bus = bus, .metrics = metrics});
    int64_t began = sbx_now_ms();
    for (uintptr_t i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, work, (void *)i);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    int64_t most = LIMIT + LIMIT * (sbx_now_ms() - began + 1000) / 60000;

    for (int i = 0; i < SBX_RATE_COUNT; i++)
        good &= taken[i] == LIMIT;
    good &= allowed >= LIMIT && allowed <= most && allowed + refused == THREADS * ROUNDS;
    good &= strangers >= THREADS * 256 * 3;
    printf("%ld, %ld and %ld of %d tokens; %ld of at most %lld requests; %ld strangers\n", taken[0],
           taken[1], taken[2], LIMIT, allowed, (long long)most, strangers);
    sbx_rates_free(rates);
    bucket_table_free(table);
    sbx_metrics_free(metrics);
    bus->ops->free(bus);
    return good ? 0 : 1;
}
