/* Pools: started sandboxes that wait for a create, which then only takes one over.
 *
 * What waits is a row of `sandboxes` of a reserved owner, so that adoption, sweep and recovery hold
 * for it as for all others; a create takes it by one statement (claim.c). Each worker offers what
 * it holds itself: the channel is open. Pools are rows of `pools`; the option --pool says what they
 * begin with, requests resize them for all workers.
 *
 * How many are to wait: as many as creates came in the last minute, but at least `min` and at most
 * `max`. Workers share that evenly. Starting more is for idle moments: at most two at once, none
 * while a create is at work or waits, or came a moment ago; after a failure ever less often.
 *
 * Threads: WORKER, unless said otherwise. */
#ifndef SBX_SANDBOX_POOL_H
#define SBX_SANDBOX_POOL_H

#include "sbx/sandbox/sandboxes.h"
#include "sbx/store/pools.h"

#define SBX_POOL_TICK_MS 250

/* What the option asks for. */
typedef struct sbx_pool_option {
    sbx_pool_row row; /* key, template, size, network, min, max */
    char text[160];
} sbx_pool_option;

/** Read "python=5:20,node=3/medium/none". @param network  of pools that name none.
 * @param ret  SBX_MAX_POOLS of them. @return 0, or -1 with INVALID. */
int sbx_pool_options_parse(const char *text, const char *network, sbx_pool_option *ret,
                           size_t *ret_count, sbx_err *err) SBX_MUST_CHECK;

/** To be called every SBX_POOL_TICK_MS: look what waits, start what is missing, remove what is too
 * many or was made from what has changed. `arg` is the sbx_sandboxes. */
void sbx_pool_tick(void *arg);

/** Is no create at work, nor was one a moment ago? Work that can wait lets creates pass. Any
 * thread. */
bool sbx_sandboxes_quiet(sbx_sandboxes *s);

/** All pools, as the API shows them. */
int sbx_pool_json(sbx_sandboxes *s, sbx_buf *out, sbx_err *err) SBX_MUST_CHECK;

typedef struct sbx_pool_resize {
    char *template_name;
    const char *size, *network; /* NULL: what creates have by default */
    int64_t min, max;
    bool max_given;
} sbx_pool_resize;
extern const sbx_json_field sbx_pool_fields[];

/** Make a pool, or set how many wait in it. INVALID names the field. @param out  the pool. */
int sbx_pool_set(sbx_sandboxes *s, const char *body, size_t len, sbx_buf *out,
                 sbx_err *err) SBX_MUST_CHECK;

#endif
