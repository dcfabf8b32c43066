/* See rates.h.
 *
 * Threads: the buckets are guarded by the table; no lock is held while Redis is asked, so that two
 * threads may fetch a block each. Who meets a Redis that does not answer sends all to their own
 * buckets for a second; then one of them asks again. */
#include "sbx/auth/rates.h"

#include "buckets.h"
#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include <arpa/inet.h>
#include <stdatomic.h>
#include <stdio.h>

#define ALONE_MS 1000 /* between two questions to a Redis that does not answer */
#define LAPSE_NS                                                                                   \
    (INT64_C(10) * 1000000000) /* tokens that are fetched and not used are lost then               \
                                */
#define FAILURES "failures"

struct sbx_rates {
    sbx_rates_config config; /* immutable */
    bucket_table *keys, *addresses;
    _Atomic int64_t alone_until_ms; /* 0: Redis answers */
    _Atomic int64_t failed_ns;      /* the last failure of any address */
};

sbx_rates *sbx_rates_new(const sbx_rates_config *c)
{
    sbx_rates *r = sbx_alloc(sizeof(*r));

    r->config = *c;
    r->keys = bucket_table_new();
    r->addresses = bucket_table_new();
    return r;
}

void sbx_rates_free(sbx_rates *r)
{
    if (!r)
        return;
    bucket_table_free(r->keys);
    bucket_table_free(r->addresses);
    free(r);
}

/* --- telling --- */

static void tell(const bucket *b, const char *policy, int64_t limit, int64_t left, int64_t now,
                 sbx_rate_note *ret)
{
    *ret = (sbx_rate_note){.policy = policy,
                           .quota = (uint32_t)limit,
                           .remaining = (uint32_t)SBX_MAX(left, 0),
                           .reset_s = bucket_seconds(b->full_at_ns - now)};
}

/* Retry-After must not end before the window that `t` tells of. */
static int refused_for(int64_t wait_ns, sbx_rate_note *ret, sbx_err *err)
{
    err->retry_after_s = (int)SBX_MAX(bucket_seconds(wait_ns), 1u);
    ret->reset_s = (uint32_t)err->retry_after_s;
    return -1;
}

static int refuse(sbx_rates *r, sbx_rate class, int64_t limit, int64_t wait_ns, sbx_rate_note *ret,
                  sbx_err *err)
{
    sbx_metrics_add(r->config.metrics, SBX_M_RATE_LIMITED, sbx_rate_name(class), 1);
    sbx_err_set(err, SBX_E_RATE_LIMITED,
                "the key has used up its %lld requests a minute of the class %s", (long long)limit,
                sbx_rate_name(class));
    return refused_for(wait_ns, ret, err);
}

/* --- alone --- */

static int take_alone(sbx_rates *r, const unsigned char *name, sbx_rate class, int64_t limit,
                      int64_t cost, sbx_rate_note *ret, sbx_err *err)
{
    int64_t now = bucket_now_ns();
    pthread_mutex_t *lock;
    bucket *b = &bucket_table_lock(r->keys, name, now, &lock)->buckets[class];
    int64_t wait = bucket_wait_ns(b, limit, cost, now);

    if (wait == 0)
        bucket_spend(b, limit, cost, now);
    tell(b, sbx_rate_name(class), limit, bucket_tokens(b, limit, now), now, ret);
    pthread_mutex_unlock(lock);
    return wait == 0 ? 0 : refuse(r, class, limit, wait, ret, err);
}

static bool may_ask(sbx_rates *r)
{
    int64_t now = sbx_now_ms(), until = atomic_load(&r->alone_until_ms);

    return until == 0 || (now >= until && atomic_compare_exchange_strong(&r->alone_until_ms, &until,
                                                                         now + ALONE_MS));
}

static void heard(sbx_rates *r, bool answered, const sbx_err *err)
{
    int64_t until = answered ? 0 : sbx_now_ms() + ALONE_MS;
    bool was_alone = atomic_exchange(&r->alone_until_ms, until) != 0;

    if (was_alone == !answered)
        return;
    sbx_metrics_set(r->config.metrics, SBX_M_RATES_ALONE, NULL, answered ? 0 : 1);
    if (answered)
        sbx_log(SBX_INFO, "rates are counted with the other workers again", NULL);
    else
        sbx_log_err(SBX_WARN, "rates are counted by this worker alone", err, NULL);
}

/* --- with other workers --- */

typedef enum from_lease { LEASE_TAKEN, LEASE_NONE, LEASE_EMPTY } from_lease;

/* From what this process has, without asking. */
static from_lease take_leased(sbx_rates *r, const unsigned char *name, sbx_rate class,
                              int64_t limit, int64_t cost, int64_t *ret_wait, sbx_rate_note *ret)
{
    int64_t now = bucket_now_ns();
    pthread_mutex_t *lock;
    bucket *b = &bucket_table_lock(r->keys, name, now, &lock)->buckets[class];
    from_lease what = LEASE_NONE;

    if (b->lease_until_ns <= now)
        b->leased = 0;
    if (b->leased >= cost) {
        b->leased -= cost;
        bucket_spend(b, limit, cost, now);
        what = LEASE_TAKEN;
    } else if (b->empty_till_ns > now) {
        *ret_wait = b->empty_till_ns - now;
        what = LEASE_EMPTY;
    }
    tell(b, sbx_rate_name(class), limit, what == LEASE_TAKEN ? b->leased + b->shared_left : 0, now,
         ret);
    pthread_mutex_unlock(lock);
    return what;
}

/* Notes what Redis said. */
static void take_grant(sbx_rates *r, const unsigned char *name, sbx_rate class, int64_t limit,
                       int64_t cost, const sbx_bus_grant *g, sbx_rate_note *ret)
{
    int64_t now = bucket_now_ns();
    pthread_mutex_t *lock;
    bucket *b = &bucket_table_lock(r->keys, name, now, &lock)->buckets[class];

    b->shared_left = g->left;
    if (g->granted) {
        if (b->lease_until_ns <= now)
            b->leased = 0;
        b->leased += g->granted - cost;
        b->lease_until_ns = now + LAPSE_NS;
        b->empty_till_ns = 0;
        bucket_spend(b, limit, cost, now);
    } else if (g->left == 0) {
        b->empty_till_ns = now + g->wait_us * 1000;
    }
    tell(b, sbx_rate_name(class), limit, b->leased + g->left, now, ret);
    ret->reset_s =
        bucket_seconds((limit - SBX_MIN(b->leased + g->left, limit)) * (BUCKET_WINDOW_NS / limit));
    pthread_mutex_unlock(lock);
}

static int take_shared(sbx_rates *r, const unsigned char *name, sbx_rate class, int64_t limit,
                       int64_t cost, sbx_rate_note *ret, sbx_err *err)
{
    sbx_bus_bucket ask = {.limit = limit,
                          .window_s = SBX_RATE_WINDOW_S,
                          .need = cost,
                          .want = SBX_MAX(limit / SBX_RATE_WINDOW_S, cost)};
    sbx_bus_grant got;
    int64_t wait = 0;
    sbx_err why = {0};

    switch (take_leased(r, name, class, limit, cost, &wait, ret)) {
    case LEASE_TAKEN:
        return 0;
    case LEASE_EMPTY:
        return refuse(r, class, limit, wait, ret, err);
    case LEASE_NONE:
        break;
    }
    if (!may_ask(r))
        return take_alone(r, name, class, limit, cost, ret, err);
    snprintf(ask.name, sizeof(ask.name), "rate:%s:%s", sbx_rate_name(class), (const char *)name);
    int rc = r->config.bus->ops->lease(r->config.bus, &ask, &got, &why);
    heard(r, rc == 0, &why);
    if (rc)
        return take_alone(r, name, class, limit, cost, ret, err);
    take_grant(r, name, class, limit, cost, &got, ret);
    return got.granted ? 0 : refuse(r, class, limit, got.wait_us * 1000, ret, err);
}

int sbx_rates_take(sbx_rates *r, const sbx_principal *who, sbx_rate class, int64_t cost,
                   int64_t paid, sbx_rate_note *ret, sbx_err *err)
{
    int64_t limit = who->rates[class];
    char name[BUCKET_NAME_BYTES] = "";

    *ret = (sbx_rate_note){0};
    if (limit == SBX_RATE_DEFAULT)
        limit = r->config.per_minute[class];
    if (limit == 0)
        return 0;
    if (cost + paid > limit)
        return sbx_fail(err, SBX_E_INVALID,
                        "the request counts as %lld of the class %s, and the key may make %lld a "
                        "minute: ask for less at once",
                        (long long)(cost + paid), sbx_rate_name(class), (long long)limit);
    sbx_copy(name, sizeof(name), *who->key ? who->key : who->user);
    return (r->config.bus->ops->lease ? take_shared : take_alone)(r, (const unsigned char *)name,
                                                                  class, limit, cost, ret, err);
}

/* --- addresses --- */

/* IPv4 whole, of IPv6 the network of 64 bits; anything else has one name. */
static void name_of(const char *address, unsigned char name[BUCKET_NAME_BYTES])
{
    unsigned char bytes[16];

    memset(name, 0, BUCKET_NAME_BYTES);
    if (inet_pton(AF_INET, address, bytes) == 1) {
        name[0] = 4;
        memcpy(name + 1, bytes, 4);
    } else if (inet_pton(AF_INET6, address, bytes) == 1) {
        name[0] = 6;
        memcpy(name + 1, bytes, 8);
    }
}

int sbx_rates_stranger(sbx_rates *r, const char *address, sbx_rate_note *ret, sbx_err *err)
{
    int64_t now = bucket_now_ns(), limit = r->config.failures, last = atomic_load(&r->failed_ns);
    unsigned char name[BUCKET_NAME_BYTES];
    pthread_mutex_t *lock;

    *ret = (sbx_rate_note){0};
    if (!limit || !last || now - last > BUCKET_WINDOW_NS)
        return 0;
    name_of(address, name);
    bucket *b = bucket_table_lock(r->addresses, name, now, &lock)->buckets;
    int64_t wait = bucket_wait_ns(b, limit, 1, now);
    if (wait)
        tell(b, FAILURES, limit, 0, now, ret);
    pthread_mutex_unlock(lock);
    if (!wait)
        return 0;
    sbx_metrics_add(r->config.metrics, SBX_M_RATE_LIMITED, FAILURES, 1);
    sbx_err_set(err, SBX_E_RATE_LIMITED,
                "too many requests without a good key came from this address");
    return refused_for(wait, ret, err);
}

void sbx_rates_failed(sbx_rates *r, const char *address, sbx_rate_note *ret)
{
    int64_t now = bucket_now_ns(), limit = r->config.failures;
    unsigned char name[BUCKET_NAME_BYTES];
    pthread_mutex_t *lock;

    *ret = (sbx_rate_note){0};
    if (!limit)
        return;
    name_of(address, name);
    bucket *b = bucket_table_lock(r->addresses, name, now, &lock)->buckets;
    bucket_spend(b, limit, 1, now);
    tell(b, FAILURES, limit, bucket_tokens(b, limit, now), now, ret);
    pthread_mutex_unlock(lock);
    atomic_store(&r->failed_ns, now);
}
