/* See breaker.h. Only a probe's failure lengthens the pause: calls that were under way when the
 * breaker opened end late, and say nothing new. */
#include "sbx/core/breaker.h"

#include "sbx/core/log.h"

void sbx_breaker_init(sbx_breaker *b, const char *name, sbx_code code)
{
    *b = (sbx_breaker){.name = name, .code = code};
    pthread_mutex_init(&b->mu, NULL);
}

void sbx_breaker_done(sbx_breaker *b)
{
    pthread_mutex_destroy(&b->mu);
}

sbx_breaker_go sbx_breaker_ask(sbx_breaker *b, int64_t now_ms, sbx_err *err)
{
    sbx_breaker_go go = SBX_BREAKER_CALL;

    pthread_mutex_lock(&b->mu);
    if (b->open && !b->probing && now_ms >= b->probe_at_ms) {
        b->probing = true;
        go = SBX_BREAKER_PROBE;
    } else if (b->open) {
        int64_t left_ms = SBX_MAX(b->probe_at_ms - now_ms, 0);

        sbx_err_set(err, b->code, "the %s is not reached at the moment: %s", b->name, b->why);
        if (err)
            err->retry_after_s = (int)(left_ms / 1000) + 1;
        go = SBX_BREAKER_STOP;
    }
    pthread_mutex_unlock(&b->mu);
    return go;
}

static void open_locked(sbx_breaker *b, int64_t now_ms, const sbx_err *err)
{
    b->pause_ms = SBX_MIN(SBX_MAX(2 * b->pause_ms, SBX_BREAKER_MIN_MS), SBX_BREAKER_MAX_MS);
    b->probe_at_ms = now_ms + b->pause_ms;
    sbx_copy(b->why, sizeof(b->why), err->msg);
    if (!b->open)
        b->opened_ms = now_ms;
    b->open = true;
}

/* @return true if it was open. */
static bool close_locked(sbx_breaker *b)
{
    bool was = b->open;

    b->open = false;
    b->failures = 0;
    b->pause_ms = 0;
    return was;
}

static void log_closed(const sbx_breaker *b, int64_t for_ms)
{
    sbx_log(SBX_INFO, "dependency answers again", "dependency", b->name, "after_ms",
            SBX_NUM(for_ms), NULL);
}

void sbx_breaker_probed(sbx_breaker *b, int64_t now_ms, const sbx_err *err)
{
    bool closed = false;

    pthread_mutex_lock(&b->mu);
    int64_t for_ms = now_ms - b->opened_ms;

    b->probing = false;
    if (!err)
        closed = close_locked(b);
    else if (b->open && err->code != SBX_E_CANCELLED)
        open_locked(b, now_ms, err);
    pthread_mutex_unlock(&b->mu);
    if (closed)
        log_closed(b, for_ms);
}

static bool is_failure(const sbx_breaker *b, int64_t waited_ms, const sbx_err *err)
{
    return err->code == b->code || (err->code == SBX_E_TIMEOUT && waited_ms >= SBX_BREAKER_SLOW_MS);
}

void sbx_breaker_report(sbx_breaker *b, int64_t from_ms, int64_t now_ms, const sbx_err *err)
{
    bool opened = false, closed = false;
    int64_t for_ms = 0;

    if (err && (err->code == SBX_E_CANCELLED ||
                (err->code == SBX_E_TIMEOUT && !is_failure(b, now_ms - from_ms, err))))
        return;
    pthread_mutex_lock(&b->mu);
    if (!err || !is_failure(b, now_ms - from_ms, err)) {
        for_ms = now_ms - b->opened_ms;
        closed = close_locked(b);
    } else if (!b->open && ++b->failures >= SBX_BREAKER_FAILURES) {
        open_locked(b, now_ms, err);
        opened = true;
    }
    pthread_mutex_unlock(&b->mu);
    if (opened)
        sbx_log_err(SBX_WARN, "dependency is not reached: calls are refused until it answers", err,
                    "dependency", b->name, NULL);
    if (closed)
        log_closed(b, for_ms);
}

bool sbx_breaker_is_open(sbx_breaker *b)
{
    pthread_mutex_lock(&b->mu);
    bool open = b->open;
    pthread_mutex_unlock(&b->mu);
    return open;
}
