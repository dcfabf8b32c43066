/* A circuit breaker in front of a dependency: after some failures in a row to reach it, calls are
 * refused at once, and one at a time asks whether it is back.
 *
 * closed --3 failures in a row--> open --pause over: one caller probes--> closed or open again.
 * The pause begins with 0.2 s and doubles up to 2 s. What the dependency answers, also a refusal,
 * is a success; a time-out is a failure.
 *
 * Threads: any. No I/O; changes are logged, once each. Time is the caller's monotonic clock. */
#ifndef SBX_CORE_BREAKER_H
#define SBX_CORE_BREAKER_H

#include "sbx/core/error.h"
#include <pthread.h>

#define SBX_BREAKER_FAILURES 3
#define SBX_BREAKER_MIN_MS   200
#define SBX_BREAKER_MAX_MS   2000
#define SBX_BREAKER_PROBE_MS 2000 /* how long a probe should wait for its answer */
#define SBX_BREAKER_SLOW_MS  2000 /* a call given up after this counts as a time-out */

typedef struct sbx_breaker { /* private; in its owner's storage */
    const char *name;        /* immutable, as the next: constant text for messages */
    sbx_code code;
    pthread_mutex_t mu;
    int failures; /* guarded by mu, as all below */
    bool open, probing;
    int64_t pause_ms, probe_at_ms, opened_ms;
    char why[256];
} sbx_breaker;

typedef enum sbx_breaker_go {
    SBX_BREAKER_STOP = -1, /* refused; err is set */
    SBX_BREAKER_CALL,
    SBX_BREAKER_PROBE, /* only for this caller: find out, and tell by sbx_breaker_probed() */
} sbx_breaker_go;

/** @param name  what does not answer: "engine". @param code  of refusals: one with status 503. */
void sbx_breaker_init(sbx_breaker *b, const char *name, sbx_code code);
void sbx_breaker_done(sbx_breaker *b);

sbx_breaker_go sbx_breaker_ask(sbx_breaker *b, int64_t now_ms, sbx_err *err);
/** How a probe ended. @param err  NULL: it answered; CANCELLED: nobody knows, the next may ask. */
void sbx_breaker_probed(sbx_breaker *b, int64_t now_ms, const sbx_err *err);

/** How a call ended. @param err  NULL or what the dependency answered: success; the breaker's own
 * code, or TIMEOUT: a failure, except of a call given up sooner than SBX_BREAKER_SLOW_MS;
 * CANCELLED: counts for nothing. @param from_ms  when it began. */
void sbx_breaker_report(sbx_breaker *b, int64_t from_ms, int64_t now_ms, const sbx_err *err);

/** May change at any moment. @return true while calls are refused. */
bool sbx_breaker_is_open(sbx_breaker *b);

#endif
