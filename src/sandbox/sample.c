/* What a sandbox uses, told by its agent. */
#include "channel_priv.h"

#include "sbx/core/clock.h"
#include "sbx/core/thread.h"

#define SAMPLE_NUMS (SBX_T_NET_TX + 1)

static int64_t number(const uint64_t *n, uint16_t tag)
{
    return n[tag] > INT64_MAX ? -1 : (int64_t)n[tag];
}

bool sample_frame(channel *ch, const sbx_frame *f)
{
    uint64_t n[SAMPLE_NUMS];
    question *q = question_find(ch, f->req);

    memset(n, 0xff, sizeof(n)); /* what is not told is not known */
    if (!frame_nums(f, n, ARRAY_LEN(n)))
        return false;
    if (!q || !q->sample)
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
    question_end(q, &u, NULL);
    return true;
}

void sbx_channels_each(sbx_channels *c,
                       void (*fn)(void *arg, const char *sandbox, int64_t pids, bool busy),
                       void *arg)
{
    SBX_ASSERT_THREAD(SBX_T_STREAM);
    for (channel *ch = c->all, *next; ch; ch = next) {
        next = ch->hh.next;
        if (ch->ready && !ch->frozen && ch->version >= 2 && !ch->bridge)
            fn(arg, ch->id, ch->pids, ch->alive || ch->commands);
    }
}
