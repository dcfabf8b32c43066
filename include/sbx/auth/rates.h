/* How often somebody may ask: the rates of keys by class, and of addresses without a good key.
 *
 * With an in-process bus the buckets are this process's. With Redis they are shared by all workers,
 * and each fetches tokens in small blocks (a second's worth, and no more than an eighth of what is
 * left), so that a request rarely costs a round trip; what it does not use within some seconds
 * lapses. While Redis does not answer each worker counts for itself, from what it has seen: then
 * nobody is refused who would not have been, and more workers allow more.
 *
 * Failures of an address are counted by each process. An address without tokens left is refused
 * before the database is asked, but for keys that were made here (sbx_auth_genuine()).
 *
 * Memory is bounded: 16,384 keys, and as many addresses; of IPv6 the first 64 bits count. */
#ifndef SBX_AUTH_RATES_H
#define SBX_AUTH_RATES_H

#include "sbx/auth/auth.h"
#include "sbx/bus/bus.h"
#include "sbx/metrics/metrics.h"

typedef struct sbx_rates sbx_rates; /* any WORKER at once */

typedef struct sbx_rates_config {
    int64_t per_minute[SBX_RATE_COUNT]; /* of keys without rates of their own; 0: no limit */
    int64_t failures;                   /* of an address a minute; 0: no limit */
    sbx_bus *bus;                       /* borrowed, as the next; outlive the result */
    sbx_metrics *metrics;               /* may be NULL */
} sbx_rates_config;

sbx_rates *sbx_rates_new(const sbx_rates_config *c);
void sbx_rates_free(sbx_rates *r);
SBX_DEFINE_CLEANUP(sbx_rates, sbx_rates_free)

/** Take tokens for a request. Blocks for a round trip to Redis now and then (WORKER), at most some
 * 100 ms.
 * @param cost  1 and more: how many requests it stands for. @param paid  and has taken already.
 * @param ret   what to tell, also on failure; zero if no limit holds.
 * @return 0, or -1 with RATE_LIMITED and its time, or INVALID (so many can never be had). */
int sbx_rates_take(sbx_rates *r, const sbx_principal *who, sbx_rate class, int64_t cost,
                   int64_t paid, sbx_rate_note *ret, sbx_err *err) SBX_MUST_CHECK;

/** May the address ask without a key that is known to be good? Never blocks.
 * @param address  as text; what is none counts as one address.
 * @return 0, or -1 with RATE_LIMITED and its time, and `ret` set. */
int sbx_rates_stranger(sbx_rates *r, const char *address, sbx_rate_note *ret,
                       sbx_err *err) SBX_MUST_CHECK;
/** A request of the address had no good key. Never blocks. */
void sbx_rates_failed(sbx_rates *r, const char *address, sbx_rate_note *ret);

#endif
