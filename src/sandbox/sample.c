/* What a sandbox uses, told by its agent. */
#include "channel_priv.h"

#include "sbx/core/clock.h"
#include "sbx/core/thread.h"
#include <utlist.h>

#define SAMPLE_NUMS (SBX_T_NET_TX + 1)

static void finish(sample *s, const sbx_usage *u, const sbx_err *err)
{
    LL_DELETE(s->ch->samples, s);
    sbx_timer_free(s->late);
    s->fn(s->arg, u, err);
    free(s);
}

static int64_t number(const uint64_t *n, uint16_t tag)
{
    return n[tag] > INT64_MAX ? -1 : (int64_t)n[tag];
}

bool sample_frame(channel *ch, const sbx_frame *f)
{
    uint64_t n[SAMPLE_NUMS];
    sample *s;

    memset(n, 0xff, sizeof(n)); /* what is not told is not known */
    if (!frame_nums(f, n, ARRAY_LEN(n)))
        return false;
    LL_SEARCH_SCALAR(ch->samples, s, req, f->req);
    if (!s)
        return true;
    int64_t started_ms = number(n, SBX_T_STARTED_MS);
    sbx_usage u = {.cpu_us = number(n, SBX_T_CPU_US),
                   .memory_bytes = number(n, SBX_T_MEMORY),
                   .memory_peak_bytes = number(n, SBX_T_MEMORY_PEAK),
                   .memory_limit_bytes = number(n, SBX_T_MEMORY_LIMIT),
                   .processes = number(n, SBX_T_PROCESSES),
                   .oom_kills = number(n, SBX_T_OOM_KILLS),
                   .disk_bytes = number(n, SBX_T_DISK),
                   .network_rx_bytes = number(n, SBX_T_NET_RX),
                   .network_tx_bytes = number(n, SBX_T_NET_TX),
                   .uptime_ms = started_ms < 0 ? -1 : SBX_MAX(sbx_wall_ms() - started_ms, 0)};
    finish(s, &u, NULL);
    return true;
}

void samples_fail(channel *ch, sbx_code why, const char *text)
{
    sbx_err err;

    sbx_fail(&err, why, "the sandbox's agent was not heard: %s", text);
    while (ch->samples)
        finish(ch->samples, NULL, &err);
}

static void on_late(void *arg)
{
    sample *s = arg;
    sbx_err err;

    s->late = NULL;
    sbx_fail(&err, SBX_E_TIMEOUT, "the sandbox's agent did not answer in time");
    finish(s, NULL, &err);
}

typedef struct asking {
    sbx_channels *set;
    char sandbox[SBX_ID_LEN + 1];
    sbx_sample_fn fn;
    void *arg;
} asking;

static void ask_on_stream(void *arg)
{
    asking *a = arg;
    channel *ch = channel_find(a->set, a->sandbox);
    sbx_err err;

    if (ch && ch->ready && ch->version >= 2) {
        sample *s = sbx_alloc(sizeof(*s));

        *s = (sample){.ch = ch, .req = command_free_req(ch), .fn = a->fn, .arg = a->arg};
        s->late = sbx_timer_new(ch->set->stream, SBX_SAMPLE_MS, on_late, s);
        LL_PREPEND(ch->samples, s);
        channel_send(ch, SBX_F_STATS, s->req, NULL, 0);
        channel_flush(ch);
    } else {
        sbx_fail(&err, SBX_E_CONFLICT,
                 "this worker has no channel to the sandbox's agent, or an "
                 "older one that cannot tell");
        a->fn(a->arg, NULL, &err);
    }
    free(a);
}

void sbx_channels_sample(sbx_channels *c, const char *sandbox, sbx_sample_fn fn, void *arg)
{
    asking *a = sbx_alloc(sizeof(*a));

    *a = (asking){.set = c, .fn = fn, .arg = arg};
    sbx_copy(a->sandbox, sizeof(a->sandbox), sandbox);
    sbx_stream_post(c->stream, ask_on_stream, a);
}

void sbx_channels_each(sbx_channels *c, void (*fn)(void *arg, const char *sandbox, int64_t pids),
                       void *arg)
{
    SBX_ASSERT_THREAD(SBX_T_STREAM);
    for (channel *ch = c->all, *next; ch; ch = next) {
        next = ch->hh.next;
        if (ch->ready && ch->version >= 2 && !ch->bridge)
            fn(arg, ch->id, ch->pids);
    }
}

typedef struct limit {
    sbx_channels *set;
    char sandbox[SBX_ID_LEN + 1];
    int64_t pids;
} limit;

static void limit_on_stream(void *arg)
{
    limit *l = arg;
    channel *ch = channel_find(l->set, l->sandbox);

    if (ch)
        ch->pids = l->pids;
    free(l);
}

void sbx_channels_pids(sbx_channels *c, const char *sandbox, int64_t pids)
{
    limit *l = sbx_alloc(sizeof(*l));

    *l = (limit){.set = c, .pids = pids};
    sbx_copy(l->sandbox, sizeof(l->sandbox), sandbox);
    sbx_stream_post(c->stream, limit_on_stream, l);
}
