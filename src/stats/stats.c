/* Samples over HTTP. A request is owned by one thread at a time: by the worker that looks at the
 * row or asks the engine, otherwise by STREAM. */
#include "internal.h"

#include "sbx/core/clock.h"
#include "sbx/core/thread.h"
#include "sbx/http/feed.h"
#include "sbx/sandbox/state.h"
#include <utlist.h>

#define SHARE_MS 1000 /* so old may the engine's answer be for another viewer */

/* What a row says of its sandbox's limits, and when it was started by the wall clock. */
typedef struct limits {
    int64_t cpu_milli, pids, disk_mb, started_ms;
} limits;

typedef struct viewer {
    struct viewer *next; /* of those who wait for the engine */
    sbx_stats *s;
    sbx_reply *reply;
    bool streaming;
    int64_t every_ms, due_ms;
    uint64_t number; /* of the last sample sent */
    char owner[SBX_ID_LEN + 1], sandbox[SBX_ID_LEN + 1];
    limits limits;
} viewer;

/* A question to the engine, and for a while its answer: all who view a sandbox share it. STREAM; a
 * worker has it between submit_engine() and engine_told(), and leaves `viewers` alone. */
struct by_engine {
    sbx_stats *s;
    char owner[SBX_ID_LEN + 1], sandbox[SBX_ID_LEN + 1];
    viewer *viewers;   /* who wait */
    sbx_timer *forget; /* once answered */
    bool answered, failed;
    limits limits;
    sbx_usage usage;
    int64_t cpu_milli; /* of the processor's use */
    sbx_err err;
    UT_hash_handle hh;
};

seen *stats_seen(sbx_stats *s, const char *id)
{
    seen *one;

    SBX_ASSERT_THREAD(SBX_T_STREAM);
    HASH_FIND_STR(s->seen, id, one);
    if (!one && !s->closed && HASH_COUNT(s->seen) < MAX_SEEN) {
        one = sbx_alloc(sizeof(*one));
        sbx_copy(one->id, sizeof(one->id), id);
        one->cpu_us = -1;
        one->disk_bytes = -1;
        one->at_ms = one->looked_ms = sbx_now_ms();
        HASH_ADD_STR(s->seen, id, one);
    }
    if (one)
        one->heard_ms = sbx_now_ms();
    return one;
}

int64_t stats_cpu_milli(sbx_stats *s, const char *id, const sbx_usage *u)
{
    seen *one = stats_seen(s, id);
    int64_t now = sbx_now_ms(), milli = -1;

    if (!one || u->cpu_us < 0)
        return -1;
    int64_t passed = now - one->at_ms;
    if (one->cpu_us >= 0 && one->cpu_us <= u->cpu_us && passed <= SEEN_FOR_MS) {
        if (passed < CPU_AT_LEAST_MS)
            return -1;
        milli = (u->cpu_us - one->cpu_us) * 100 / passed;
    }
    one->at_ms = now;
    one->cpu_us = u->cpu_us;
    return milli;
}

static void viewer_free(viewer *v)
{
    sbx_reply_unref(v->reply);
    free(v);
}

/* --- what is answered --- */

static void known(sbx_jw *w, const char *name, int64_t value)
{
    if (value < 0)
        sbx_jw_null(w, name);
    else
        sbx_jw_int(w, name, value);
}

static void sample_json(const viewer *v, const sbx_usage *u, bool by_agent, int64_t cpu_milli,
                        sbx_buf *b)
{
    sbx_jw w = SBX_JW(b);

    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "sandboxId", v->sandbox);
    sbx_jw_time(&w, "ts", sbx_wall_ms());
    sbx_jw_str(&w, "source", by_agent ? "agent" : "engine");
    known(&w, "cpuTimeMs", u->cpu_us < 0 ? -1 : u->cpu_us / 1000);
    if (cpu_milli < 0)
        sbx_jw_null(&w, "cpuPercent");
    else
        sbx_jw_milli(&w, "cpuPercent", cpu_milli);
    sbx_jw_milli(&w, "cpus", v->limits.cpu_milli);
    known(&w, "memoryBytes", u->memory_bytes);
    known(&w, "memoryPeakBytes", u->memory_peak_bytes);
    known(&w, "memoryLimitBytes", u->memory_limit_bytes);
    known(&w, "pids", u->processes);
    known(&w, "pidsLimit", v->limits.pids);
    known(&w, "oomKills", u->oom_kills);
    known(&w, "diskBytes", u->disk_bytes);
    known(&w, "diskLimitBytes", v->limits.disk_mb ? v->limits.disk_mb * (int64_t)MIB : -1);
    known(&w, "networkRxBytes", u->network_rx_bytes);
    known(&w, "networkTxBytes", u->network_tx_bytes);
    /* one that waited in a pool was started earlier than its record says */
    known(&w, "uptimeMs",
          u->uptime_ms < 0
              ? -1
              : SBX_MIN(u->uptime_ms, SBX_MAX(sbx_wall_ms() - v->limits.started_ms, 0)));
    sbx_jw_obj_end(&w);
}

static void ask(void *arg);

static void next_sample(viewer *v)
{
    int64_t now = sbx_now_ms();

    if (sbx_reply_gone(v->reply)) {
        viewer_free(v);
        return;
    }
    v->due_ms = SBX_MAX(v->due_ms + v->every_ms, now);
    (void)sbx_timer_new(v->s->c.stream, v->due_ms - now, ask, v); /* ends by itself */
}

/* A sample that a slow client does not take is left out: the next one is as good. */
static void send_sample(viewer *v, const sbx_usage *u, bool by_agent, int64_t cpu_milli)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(4 * KIB);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf event = SBX_BUF_INIT(8 * KIB);

    seen *one = stats_seen(v->s, v->sandbox);
    sbx_usage now = *u;

    if (one && now.disk_bytes < 0)
        now.disk_bytes = one->disk_bytes;
    sample_json(v, &now, by_agent, cpu_milli, &b);
    if (!v->streaming) {
        sbx_reply_json(v->reply, 200, &b);
        viewer_free(v);
        return;
    }
    if (!v->number++)
        sbx_reply_begin(v->reply, 200, "text/event-stream");
    sbx_feed_add(&event, false, "", v->number, b.data, b.len);
    (void)sbx_reply_write(v->reply, event.data, event.len);
    next_sample(v);
}

static void end_stream(viewer *v, const sbx_err *err)
{
    if (v->streaming && v->number) {
        sbx_feed f = {.reply = v->reply};

        (void)sbx_feed_end(&f);
        sbx_reply_end(v->reply);
    } else {
        sbx_reply_problem(v->reply, err);
    }
    viewer_free(v);
}

/* --- the engine --- */

/* Fills in what the row says. @return -1 if the sandbox cannot have a sample. */
static int look(sbx_stats *s, const char *owner, const char *sandbox, limits *ret, bool *ret_frozen,
                sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row row = {0};

    if (sbx_store_sandbox_get(s->c.store, owner, sandbox, &row, err))
        return -1;
    *ret = (limits){row.cpu_milli, row.pids, row.disk_mb, row.started_ms};
    switch (sbx_state_parse(row.state)) {
    case SBX_S_RUNNING:
    case SBX_S_STOPPING:
    case SBX_S_PAUSING:
        *ret_frozen = false;
        return 0;
    case SBX_S_PAUSED:
    case SBX_S_RESUMING:
        *ret_frozen = true;
        return 0;
    case SBX_S_DELETED:
        return sbx_fail(err, SBX_E_GONE, "the sandbox was deleted");
    default:
        return sbx_fail(err, SBX_E_CONFLICT, "the sandbox is %s: nothing runs in it", row.state);
    }
}

static void drop_answer(by_engine *e)
{
    sbx_timer_free(e->forget);
    HASH_DEL(e->s->by_engine, e);
    free(e);
}

static void forget_answer(void *arg)
{
    by_engine *e = arg;

    e->forget = NULL;
    drop_answer(e);
}

static void tell(const by_engine *e, viewer *v)
{
    v->limits = e->limits;
    if (e->failed)
        end_stream(v, &e->err);
    else
        send_sample(v, &e->usage, false, e->cpu_milli);
}

static void engine_told(void *arg)
{
    by_engine *e = arg;
    viewer *v, *next, *waiting = sbx_steal(e->viewers);

    e->answered = true;
    if (!e->failed)
        e->cpu_milli = stats_cpu_milli(e->s, e->sandbox, &e->usage);
    LL_FOREACH_SAFE(waiting, v, next)
    tell(e, v);
    if (e->failed || e->s->closed)
        drop_answer(e);
    else
        e->forget = sbx_timer_new(e->s->c.stream, SHARE_MS, forget_answer, e);
}

static void ask_engine(void *arg)
{
    by_engine *e = arg;
    sbx_engine *engine = e->s->c.engine;
    char container[SBX_ID_LEN + 8];
    bool frozen;

    sbx_sandbox_container(e->sandbox, container);
    e->failed = look(e->s, e->owner, e->sandbox, &e->limits, &frozen, &e->err) ||
                engine->ops->usage(engine, container, &e->usage, &e->err);
    sbx_stream_post(e->s->c.stream, engine_told, e);
}

static void submit_engine(viewer *v)
{
    sbx_stats *s = v->s;
    by_engine *e;

    HASH_FIND_STR(s->by_engine, v->sandbox, e);
    if (e && e->answered) {
        tell(e, v);
        return;
    }
    if (e) {
        LL_PREPEND(e->viewers, v);
        return;
    }
    e = sbx_alloc(sizeof(*e));
    sbx_job job = {.run = ask_engine, .arg = e};

    e->s = s;
    e->limits = v->limits;
    memcpy(e->owner, v->owner, sizeof(e->owner));
    memcpy(e->sandbox, v->sandbox, sizeof(e->sandbox));
    HASH_ADD_STR(s->by_engine, sandbox, e);
    LL_PREPEND(e->viewers, v);
    if (sbx_lanes_submit(s->c.lanes, SBX_LANE_SLOW, &job, &e->err)) {
        e->failed = true;
        engine_told(e);
    }
}

/* --- the agent --- */

static void on_sample(void *arg, const sbx_usage *u, const sbx_err *err)
{
    viewer *v = arg;

    (void)err; /* the engine is asked, and says better what is wrong */
    if (u)
        send_sample(v, u, true, stats_cpu_milli(v->s, v->sandbox, u));
    else
        submit_engine(v);
}

static void ask(void *arg)
{
    viewer *v = arg;
    sbx_err err;

    if (v->s->closed) {
        sbx_fail(&err, SBX_E_CAPACITY, "the server is stopping");
        end_stream(v, &err);
        return;
    }
    sbx_channels_sample(v->s->c.channels, v->sandbox, on_sample, v);
}

static void ask_by_engine_first(void *arg)
{
    submit_engine(arg);
}

/* --- the request --- */

int sbx_stats_start(sbx_stats *s, const char *owner, const char *sandbox, const sbx_request *r,
                    sbx_err *err)
{
    int64_t every = SBX_STATS_DEFAULT_MS;
    bool frozen = false;

    if (sbx_feed_number(r, "intervalMs", SBX_STATS_MAX_MS, &every, err))
        return -1;
    if (every < SBX_STATS_MIN_MS)
        return sbx_fail_field(err, "intervalMs", "intervalMs must be from %d to %d",
                              SBX_STATS_MIN_MS, SBX_STATS_MAX_MS);
    viewer *v = sbx_alloc(sizeof(*v));

    v->s = s;
    v->reply = sbx_reply_ref(r->reply);
    v->streaming = r->accept == SBX_ACCEPT_SSE;
    v->every_ms = every;
    v->due_ms = sbx_now_ms();
    sbx_copy(v->owner, sizeof(v->owner), owner);
    sbx_copy(v->sandbox, sizeof(v->sandbox), sandbox);
    if (look(s, v->owner, v->sandbox, &v->limits, &frozen, err)) {
        viewer_free(v);
        return -1;
    }
    sbx_stream_post(s->c.stream, frozen ? ask_by_engine_first : ask, v);
    return 0;
}

/* --- the service --- */

static void begin_on_stream(void *arg)
{
    stats_alerts_begin(arg);
}

sbx_stats *sbx_stats_new(const sbx_stats_config *c)
{
    sbx_stats *s = sbx_alloc(sizeof(*s));

    s->c = *c;
    sbx_stream_post(c->stream, begin_on_stream, s);
    return s;
}

static void shutdown_on_stream(void *arg)
{
    sbx_stats *s = arg;
    by_engine *e, *next_e;
    seen *one, *next;

    s->closed = true;
    sbx_timer_free(sbx_steal(s->alerts));
    HASH_ITER (hh, s->by_engine, e, next_e)
        if (e->answered) /* else it is with a worker, and dropped when that is heard */
            drop_answer(e);
    HASH_ITER (hh, s->seen, one, next) {
        HASH_DEL(s->seen, one);
        free(one);
    }
}

void sbx_stats_shutdown(sbx_stats *s)
{
    sbx_stream_post(s->c.stream, shutdown_on_stream, s);
}

void sbx_stats_free(sbx_stats *s)
{
    free(s);
}
