/* The tables `tiers` and `prices`: what users may use, and what it costs. Threads: WORKER. */
#ifndef SBX_STORE_TIERS_H
#define SBX_STORE_TIERS_H

#include "sbx/core/limits.h"
#include "sbx/store/store.h"

#define SBX_NO_LIMIT (-1)

/* Limits of a tier; SBX_NO_LIMIT: none. */
typedef struct sbx_tier {
    char name[SBX_MAX_TIER_BYTES + 1];
    int64_t executions; /* runs of code in a month */
    int64_t compute_s;  /* time of running sandboxes in a month */
    int64_t longest_s;  /* that a sandbox runs at a stretch */
    int64_t concurrent; /* sandboxes at once */
} sbx_tier;

/* Which of them are to be changed. */
typedef struct sbx_tier_change {
    sbx_tier to;
    bool executions, compute_s, longest_s, concurrent;
} sbx_tier_change;

/** The tiers in their order, at most `max`. @return how many, or -1. */
int sbx_store_tier_list(sbx_store *s, sbx_tier *ret, size_t max, sbx_err *err) SBX_MUST_CHECK;
/** Change the tier `c->to.name`. NOT_FOUND. @param ret  as it is then. */
int sbx_store_tier_change(sbx_store *s, const sbx_tier_change *c, sbx_tier *ret,
                          sbx_err *err) SBX_MUST_CHECK;

/* In millionths of the currency an hour. */
typedef struct sbx_price {
    char size[8];
    int64_t cpu_milli, memory_mb; /* the most that it holds */
    int64_t micros, paused_micros;
} sbx_price;

/** From the smallest size on, at most `max`. @return how many, or -1. */
int sbx_store_price_list(sbx_store *s, sbx_price *ret, size_t max, sbx_err *err) SBX_MUST_CHECK;
/** Change the prices of `p->size`; -1 keeps one. NOT_FOUND. @param p  as they are then. */
int sbx_store_price_change(sbx_store *s, sbx_price *p, sbx_err *err) SBX_MUST_CHECK;

#endif
