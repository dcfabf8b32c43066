/* Alerts: a sandbox came near a limit. Once for 80 and once for 90 percent, and again only after
 * its use was HYSTERESIS below. */
#include "internal.h"

#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include <stdio.h>

#define HYSTERESIS 5
#define TURN_MS    500 /* those whose look is due are asked together */

static const int levels[] = {90, 80};

typedef struct alert {
    sbx_stats *s;
    char sandbox[SBX_ID_LEN + 1];
    char code[32], message[160]; /* "": only what follows */
    bool full;                   /* its disk: then it is stopped */
    int64_t bytes, limit;
} alert;

static void write_alert(void *arg)
{
    alert *a = arg;
    sbx_err err;

    if (*a->code && sbx_sandbox_alert(a->s->c.sandboxes, a->sandbox, a->code, a->message, &err))
        sbx_log_err(SBX_WARN, "an alert could not be recorded", &err, "sandbox", a->sandbox,
                    "alert", a->code, NULL);
    if (a->full) /* not before: what is stopped has no alerts */
        stats_stop_full(a->s, a->sandbox, a->bytes, a->limit);
    free(a);
}

static alert *alert_new(sbx_stats *s, const char *id)
{
    alert *a = sbx_alloc(sizeof(*a));

    a->s = s;
    sbx_copy(a->sandbox, sizeof(a->sandbox), id);
    return a;
}

static void submit(alert *a)
{
    sbx_job job = {.run = write_alert, .arg = a};
    sbx_err err;

    if (sbx_lanes_submit(a->s->c.lanes, SBX_LANE_REAP, &job, &err)) {
        sbx_log_err(SBX_WARN, "an alert could not be recorded", &err, "sandbox", a->sandbox, NULL);
        free(a);
    }
}

static void say(alert *a, const char *what, int level, const char *message)
{
    snprintf(a->code, sizeof(a->code), "%s_%d", what, level);
    sbx_copy(a->message, sizeof(a->message), message);
    sbx_channels_note(a->s->c.channels, a->sandbox, message);
}

static void tell(sbx_stats *s, const char *id, const char *what, int level, const char *message)
{
    alert *a = alert_new(s, id);

    say(a, what, level, message);
    submit(a);
}

/* The level to tell of now, or 0. `told` is what was told before. */
static int rises(int *told, int64_t used, int64_t limit)
{
    if (used < 0 || limit <= 0)
        return 0;
    int64_t percent = used * 100 / limit;

    if (*told && percent < *told - HYSTERESIS)
        *told = percent >= levels[1] ? levels[1] : 0;
    for (size_t i = 0; i < ARRAY_LEN(levels); i++)
        if (percent >= levels[i] && *told < levels[i])
            return *told = levels[i];
    return 0;
}

void stats_look(sbx_stats *s, const char *id, int64_t pids, const sbx_usage *u)
{
    seen *one = stats_seen(s, id);
    char text[160];
    int level;

    if (!one)
        return;
    if ((level = rises(&one->told[0], u->memory_bytes, u->memory_limit_bytes)) != 0) {
        snprintf(text, sizeof(text), "memory is over %d %% of its limit: %lld of %lld MB", level,
                 (long long)(u->memory_bytes / (int64_t)MIB),
                 (long long)(u->memory_limit_bytes / (int64_t)MIB));
        tell(s, id, "memory", level, text);
    }
    if ((level = rises(&one->told[1], u->processes, pids)) != 0) {
        snprintf(text, sizeof(text), "processes are over %d %% of their limit: %lld of %lld", level,
                 (long long)u->processes, (long long)pids);
        tell(s, id, "processes", level, text);
    }
}

void stats_look_disk(sbx_stats *s, const char *id, int64_t bytes, int64_t limit, bool full)
{
    seen *one = stats_seen(s, id);
    alert *a = alert_new(s, id);
    char text[160];
    int level = one ? rises(&one->told[2], bytes, limit) : 0;

    if (one)
        one->disk_bytes = bytes;
    if (level) {
        snprintf(text, sizeof(text), "files are over %d %% of the disk's limit: %lld of %lld MB",
                 level, (long long)(bytes / (int64_t)MIB), (long long)(limit / (int64_t)MIB));
        say(a, "disk", level, text);
    }
    a->full = full;
    a->bytes = bytes;
    a->limit = limit;
    if (level || full)
        submit(a);
    else
        free(a);
}

typedef struct look {
    sbx_stats *s;
    char id[SBX_ID_LEN + 1];
    int64_t pids;
} look;

/* Who does not answer is found by others; an alert that comes late is no use. */
static void on_sample(void *arg, const sbx_usage *u, const sbx_err *err)
{
    look *l = arg;
    seen *one = u && !l->s->closed ? stats_seen(l->s, l->id) : NULL;

    (void)err;
    if (one) {
        one->rests = u->processes == 0;
        (void)stats_cpu_milli(l->s, l->id, u);
        stats_look(l->s, l->id, l->pids, u);
    }
    free(l);
}

/* Where nothing runs nothing grows, and asking hundreds of sandboxes has its price: each question
 * and its answer go through four processes. */
static bool is_due(sbx_stats *s, const char *sandbox, bool busy)
{
    seen *one = stats_seen(s, sandbox);
    int64_t now = sbx_now_ms();

    if (!one)
        return false;
    if (now - one->looked_ms < (one->rests && !busy ? SBX_ALERT_REST_MS : SBX_ALERT_MS))
        return false;
    one->looked_ms = now;
    return true;
}

static void ask(void *arg, const char *sandbox, int64_t pids, bool busy)
{
    if (!is_due(arg, sandbox, busy))
        return;
    look *l = sbx_alloc(sizeof(*l));

    l->s = arg;
    l->pids = pids;
    sbx_copy(l->id, sizeof(l->id), sandbox);
    sbx_channels_sample(l->s->c.channels, sandbox, on_sample, l);
}

static void forget_old(sbx_stats *s)
{
    seen *one, *next;
    int64_t now = sbx_now_ms();

    HASH_ITER (hh, s->seen, one, next) {
        if (now - one->heard_ms < SEEN_FOR_MS)
            continue;
        HASH_DEL(s->seen, one);
        free(one);
    }
}

static void on_time(void *arg)
{
    sbx_stats *s = arg;

    s->alerts = NULL;
    forget_old(s);
    sbx_channels_each(s->c.channels, ask, s);
    if (sbx_now_ms() - s->measured_ms >= SBX_ALERT_MS) {
        s->measured_ms = sbx_now_ms();
        stats_measure_disks(s);
    }
    stats_alerts_begin(s);
}

void stats_alerts_begin(sbx_stats *s)
{
    SBX_ASSERT_THREAD(SBX_T_STREAM);
    if (!s->closed)
        s->alerts = sbx_timer_new(s->c.stream, TURN_MS, on_time, s);
}
