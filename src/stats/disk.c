/* Limits of disks that the engine's storage driver cannot keep: they are looked at, and a sandbox
 * that has written more is stopped. Its files stay, so its owner can start it and make room. */
#include "internal.h"

#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include <stdio.h>

#define LOOK_AT_MOST 100 /* sandboxes in a turn; others have theirs in the next ones */
#define STOP_TRIES   3

typedef struct written {
    sbx_stats *s;
    char id[SBX_ID_LEN + 1];
    int64_t bytes, limit;
} written;

static void tell_on_stream(void *arg)
{
    written *w = arg;

    stats_look_disk(w->s, w->id, w->bytes, w->limit, w->bytes > w->limit);
    free(w);
}

void stats_stop_full(sbx_stats *s, const char *id, int64_t bytes, int64_t limit)
{
    char text[160];
    sbx_move stop = {.verb = SBX_V_STOP, .why_code = "disk_full", .why_message = text};
    sbx_sandbox_row now = {0};
    sbx_err err;
    int rc = 1;

    snprintf(text, sizeof(text), "%lld MB were written, and the limit is %lld MB",
             (long long)(bytes / (int64_t)MIB), (long long)(limit / (int64_t)MIB));
    sbx_channels_note(s->c.channels, id, text);
    /* begun is enough; 1 may also mean that somebody else has just changed the row */
    for (int i = 0; i < STOP_TRIES && rc == 1 && !stop.begun; i++)
        rc = sbx_sandbox_move(s->c.sandboxes, NULL, id, &stop, &now, &err);
    sbx_sandbox_row_done(&now);
    if (rc < 0 && err.code != SBX_E_CONFLICT && err.code != SBX_E_GONE)
        sbx_log_err(SBX_WARN, "a sandbox over its disk limit could not be stopped", &err, "sandbox",
                    id, NULL);
}

static void look_at(sbx_stats *s, const sbx_sandbox_row *row)
{
    char name[SBX_ID_LEN + 8];
    int64_t bytes;
    sbx_err err;

    sbx_sandbox_container(row->id, name);
    if (s->c.engine->ops->disk(s->c.engine, name, &bytes, &err)) {
        if (err.code != SBX_E_NOT_FOUND)
            sbx_log_err(SBX_WARN, "a sandbox's disk could not be measured", &err, "sandbox",
                        row->id, NULL);
        return;
    }
    written *w = sbx_alloc(sizeof(*w));

    *w = (written){.s = s, .bytes = bytes, .limit = row->disk_mb * (int64_t)MIB};
    sbx_copy(w->id, sizeof(w->id), row->id);
    sbx_stream_post(s->c.stream, tell_on_stream, w);
}

static void looked_on_stream(void *arg)
{
    sbx_stats *s = arg;

    s->measuring = false;
}

static void measure(void *arg)
{
    sbx_stats *s = arg;
    sbx_sandbox_list list = {0};
    sbx_err err;

    if (sbx_store_sandbox_watched(s->c.store, s->c.worker, LOOK_AT_MOST, &list, &err))
        sbx_log_err(SBX_WARN, "disks could not be looked at", &err, NULL);
    for (size_t i = 0; i < list.count && !sbx_job_cancelled(); i++)
        look_at(s, &list.items[i]);
    sbx_sandbox_list_done(&list);
    sbx_stream_post(s->c.stream, looked_on_stream, s);
}

void stats_measure_disks(sbx_stats *s)
{
    sbx_job job = {.run = measure, .arg = s};
    sbx_err ignored;

    SBX_ASSERT_THREAD(SBX_T_STREAM);
    if (!s->measuring)
        s->measuring = sbx_lanes_submit(s->c.lanes, SBX_LANE_REAP, &job, &ignored) == 0;
}
