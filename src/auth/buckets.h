/* A bounded table of token buckets, found by a name of some bytes.
 *
 * A bucket that was left alone for a minute is full, so that forgetting it loses nothing: a new
 * name takes the place in its set that was used longest ago. Only when more than WAYS names of one
 * set are in use within a minute is a bucket forgotten that was not full. Sets are chosen by a hash
 * with a random seed, so that nobody can aim at a place.
 *
 * Threads: any; the cells are guarded by stripes of locks, which are held for arithmetic only. */
#ifndef AUTH_BUCKETS_H
#define AUTH_BUCKETS_H

#include "sbx/core/rates.h"
#include <pthread.h>

#define BUCKET_NAME_BYTES 24
#define BUCKET_WINDOW_NS  (SBX_RATE_WINDOW_S * INT64_C(1000000000))

typedef struct bucket {
    int64_t full_at_ns; /* when it is full again; in the past: it is */
    /* Tokens of a bucket that workers share, which this process has fetched and not used. */
    int64_t leased, lease_until_ns;
    int64_t shared_left;   /* how many were left for others then */
    int64_t empty_till_ns; /* asking for one before is in vain */
} bucket;

typedef struct cell {
    unsigned char name[BUCKET_NAME_BYTES];
    int64_t used_ns; /* 0: free */
    bucket buckets[SBX_RATE_COUNT];
} cell;

typedef struct bucket_table bucket_table;

bucket_table *bucket_table_new(void);
void bucket_table_free(bucket_table *t);

/** The cell of a name, made if there is none, with its lock held.
 * @param ret_lock  to be unlocked by the caller. */
cell *bucket_table_lock(bucket_table *t, const unsigned char name[BUCKET_NAME_BYTES],
                        int64_t now_ns, pthread_mutex_t **ret_lock);

/* Of a bucket of `limit` tokens, 1 to SBX_MAX_RATE. */
int64_t bucket_tokens(const bucket *b, int64_t limit, int64_t now_ns);
/** Take tokens, whether they are there or not. */
void bucket_spend(bucket *b, int64_t limit, int64_t count, int64_t now_ns);
/** Nanoseconds until `count` tokens are there; 0: they are. */
int64_t bucket_wait_ns(const bucket *b, int64_t limit, int64_t count, int64_t now_ns);

int64_t bucket_now_ns(void); /* monotonic */

/** Seconds, rounded up. */
static inline uint32_t bucket_seconds(int64_t ns)
{
    return ns <= 0 ? 0 : (uint32_t)((ns + 999999999) / 1000000000);
}

#endif
