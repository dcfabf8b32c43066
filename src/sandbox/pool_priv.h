/* What the files of the pools share: pool.c (what waits, and the choice), refill.c (the tick). */
#ifndef SBX_SANDBOX_POOL_PRIV_H
#define SBX_SANDBOX_POOL_PRIV_H

#include "sandboxes_priv.h"
#include "sbx/sandbox/pool.h"
#include <pthread.h>
#include <stdatomic.h>

#define POOL_NAME_BYTES (SBX_POOL_HASH_BYTES + SBX_MAX_POOL_KEY + 1)

typedef struct pool_id {
    char s[SBX_ID_LEN + 1];
} pool_id;

/* One pool, as this worker knows it. */
typedef struct pool_kind {
    sbx_pool_row row; /* as it was last read */
    bool known;       /* it was there then */
    int64_t cpu_milli, memory_mb;
    char image[SBX_MAX_IMAGE_BYTES + 1];
    char name[POOL_NAME_BYTES]; /* what is made now; "" while the image is not known */
    int64_t image_looked_ms;
    pool_id *ready; /* may be taken; the first one is the oldest */
    size_t ready_count, ready_cap;
    size_t held;    /* of this worker, ready or not */
    size_t filling; /* starts under way here */
    int failures;   /* in a row */
    int64_t retry_ms;
    sbx_pool_news news; /* not written yet; its error is `error` */
    char error[256];
} pool_kind;

/* What is being taken, or was since the table was last read: that reading is no news of it. */
typedef struct pool_taken {
    pool_id id;
    bool over;
} pool_taken;

/* A claim whose answer was lost. */
typedef struct pool_doubt {
    char id[SBX_ID_LEN + 1], owner[SBX_ID_LEN + 1];
    int64_t change;
} pool_doubt;
#define POOL_DOUBTS 64

/* One that waits and has no channel here, or whose agent does not answer. */
typedef struct pool_silent {
    pool_id id;
    int64_t since_ms;
    bool lost; /* the channel; one that is opened again is enough */
    bool seen; /* it still waits; of the look that is under way */
} pool_silent;
#define POOL_SILENTS 64 /* of more than that the next samples tell again */

struct sbx_pools {
    sbx_sandboxes *s; /* immutable, as the options */
    sbx_pool_option options[SBX_MAX_POOLS];
    size_t option_count;
    bool configured; /* the tick's, as the next two */
    int64_t looked_ms;
    int64_t waits_since_ms; /* work is put off since then; 0: it is not */
    atomic_int busy;        /* creates at work */
    pthread_mutex_t mu;     /* held for moments only; guards all below */
    bool stirred;           /* something happened since the last look */
    int64_t create_ms;      /* when the last create came */
    pool_kind *kinds[SBX_MAX_POOLS];
    size_t count;
    pool_taken *taken;
    size_t taken_count, taken_cap;
    pool_doubt doubts[POOL_DOUBTS];
    size_t doubt_count;
    pool_silent silent[POOL_SILENTS];
    size_t silent_count;
    int64_t asked_ms; /* the tick's: when those that wait were asked last */
    size_t asked_at;  /* the tick's: where in the line the next ones are */
};

pool_kind *pool_find_locked(sbx_pools *p, const char *key); /* NULL if there is none */
void pool_add_ready_locked(pool_kind *k, const char *id);
void pool_drop_ready_locked(pool_kind *k, const char *id);
bool pool_is_taken_locked(const sbx_pools *p, const char *id);
pool_silent *pool_silent_locked(sbx_pools *p, const char *id); /* NULL if it is not */
/* A ready one, or one that was silent, was asked: did its agent answer? Any thread. */
void pool_heard(sbx_pools *p, const char *id, bool answered);
/* @return NULL if there is no room. */
pool_silent *pool_add_silent_locked(sbx_pools *p, const char *id, bool lost);
/* How many are to wait in all, and of these here. */
size_t pool_target(const sbx_pool_row *row);
size_t pool_share(const sbx_pool_row *row);

#endif
