/* The table `pools`: how many sandboxes wait for whom, and how that went. What waits is rows of
 * `sandboxes`; see sbx_store_sandbox_claim().
 *
 * Threads: WORKER. */
#ifndef SBX_STORE_POOLS_H
#define SBX_STORE_POOLS_H

#include "sbx/core/limits.h"
#include "sbx/store/sandboxes.h"

/* What a row's `pool` begins with: a hash of what the sandbox was made from, and a colon. */
#define SBX_POOL_HASH_BYTES 17

typedef struct sbx_pool_row {
    char key[SBX_MAX_POOL_KEY + 1]; /* size/network/template */
    char template_name[65], size[8], network[12];
    int64_t min, max;
    int64_t hits, misses;    /* since the pool was made */
    int64_t recent_milli;    /* creates of the last minute, as they fade, by 1000 */
    int64_t fill_ms;         /* mean time of a start; 0: none yet */
    char error[256];         /* why the last start failed; "" */
    int64_t ready, filling;  /* of all workers */
    int64_t others, earlier; /* other workers that are alive, and those of a lower id */
} sbx_pool_row;

/** All of them, at most `max`. @param worker  who asks. @return how many, or -1. */
int sbx_store_pool_list(sbx_store *s, const char *worker, sbx_pool_row *ret, size_t max,
                        sbx_err *err) SBX_MUST_CHECK;

/** What waits and `worker` holds, the oldest first: running, creating, and what came to another
 * state while it waited. */
int sbx_store_pool_slots(sbx_store *s, const char *worker, sbx_sandbox_list *ret,
                         sbx_err *err) SBX_MUST_CHECK;

/* News of a pool. */
typedef struct sbx_pool_news {
    int64_t hits, misses;
    int64_t fill_ms;   /* of a start that succeeded; 0: none did */
    bool started;      /* a start is over */
    const char *error; /* why it failed, or NULL */
} sbx_pool_news;
/** Add them up. What a lost connection may have lost is not counted twice. */
int sbx_store_pool_count(sbx_store *s, const char *key, const sbx_pool_news *news,
                         sbx_err *err) SBX_MUST_CHECK;

/** The option asks for this pool. Nothing changes if it asked for the same when it was last read:
 * then a size that was set since holds. @param option  its text. */
int sbx_store_pool_option(sbx_store *s, const sbx_pool_row *p, const char *option,
                          sbx_err *err) SBX_MUST_CHECK;
/** Remove the pools of an option that asks for these alone. */
int sbx_store_pool_options_gone(sbx_store *s, const char *const *keys, size_t count,
                                sbx_err *err) SBX_MUST_CHECK;
/** Make a pool, or set its min and max. */
int sbx_store_pool_resize(sbx_store *s, const sbx_pool_row *p, sbx_err *err) SBX_MUST_CHECK;

#endif
