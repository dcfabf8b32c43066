/* Many threads and one breaker: never two probes at once, and it closes in the end. A plain main
 * for the thread sanitizer; exits 0 if all is well. */
#include "sbx/core/breaker.h"
#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include <stdatomic.h>
#include <stdio.h>

#define THREADS 8
#define ROUNDS  20000

static sbx_breaker b;
static atomic_bool down = true;
static atomic_int probing, wrong, probes;
static _Atomic int64_t now_ms;

static void probe(const sbx_err *failure)
{
    if (atomic_fetch_add(&probing, 1))
        atomic_fetch_add(&wrong, 1);
    atomic_fetch_add(&probes, 1);
    bool fails = atomic_load(&down);

    atomic_fetch_sub(&probing, 1);
    sbx_breaker_probed(&b, atomic_load(&now_ms), fails ? failure : NULL);
}

static void *work(void *arg)
{
    sbx_err failure, err;

    (void)arg;
    sbx_err_set(&failure, SBX_E_ENGINE_UNAVAILABLE, "down");
    for (int i = 0; i < ROUNDS; i++) {
        int64_t now = atomic_fetch_add(&now_ms, 1);

        switch (sbx_breaker_ask(&b, now, &err)) {
        case SBX_BREAKER_STOP:
            (void)sbx_breaker_is_open(&b);
            break;
        case SBX_BREAKER_CALL:
            sbx_breaker_report(&b, now, now, atomic_load(&down) ? &failure : NULL);
            break;
        case SBX_BREAKER_PROBE:
            probe(&failure);
            break;
        }
        if (i == ROUNDS / 2)
            atomic_store(&down, false);
    }
    return NULL;
}

int main(void)
{
    pthread_t t[THREADS];

    sbx_log_set_level(SBX_ERROR);
    sbx_breaker_init(&b, "engine", SBX_E_ENGINE_UNAVAILABLE);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&t[i], NULL, work, NULL))
            return 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    bool open = sbx_breaker_is_open(&b);

    printf("%d probes, %d at once with another, %s\n", atomic_load(&probes), atomic_load(&wrong),
           open ? "open" : "closed");
    sbx_breaker_done(&b);
    return atomic_load(&wrong) || !atomic_load(&probes) || open;
}
