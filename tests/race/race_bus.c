/* The bus, the metrics and the log hub under the thread sanitizer: everything at once from many
 * threads. The Redis bus joins in if SBX_TEST_REDIS_URL names a server.
 *
 * Exits 0 if nothing was lost that may not be; the sanitizer does the rest. */
#include "sbx/bus/bus.h"
#include "sbx/core/clock.h"
#include "sbx/core/limits.h"
#include "sbx/logs/logs.h"
#include "sbx/metrics/metrics.h"
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>

#define THREADS 4
#define ROUNDS  400
#define HELD    64 /* viewers per thread */

struct sbx_reply {
    pthread_mutex_t mu;
    atomic_int refs;
    bool stuck, watched, closed, gone;
    sbx_reply_events events;
    atomic_size_t bytes;
};

sbx_reply *sbx_reply_ref(sbx_reply *r)
{
    r->refs++;
    return r;
}

void sbx_reply_unref(sbx_reply *r)
{
    if (--r->refs > 0)
        return;
    pthread_mutex_destroy(&r->mu);
    free(r);
}

void sbx_reply_begin(sbx_reply *r, int status, const char *type)
{
    (void)r;
    (void)status;
    (void)type;
}

static void close_locked(sbx_reply *r)
{
    if (r->watched && !r->closed) {
        r->closed = true;
        r->events.closed(r->events.arg);
    }
}

sbx_push sbx_reply_write(sbx_reply *r, const void *data, size_t len)
{
    sbx_push result;

    (void)data;
    pthread_mutex_lock(&r->mu);
    result = r->gone ? SBX_PUSH_GONE : r->stuck ? SBX_PUSH_FULL : SBX_PUSH_OK;
    if (result == SBX_PUSH_OK)
        r->bytes += len;
    pthread_mutex_unlock(&r->mu);
    return result;
}

void sbx_reply_end(sbx_reply *r)
{
    pthread_mutex_lock(&r->mu);
    r->gone = true;
    close_locked(r);
    pthread_mutex_unlock(&r->mu);
}

void sbx_reply_watch(sbx_reply *r, const sbx_reply_events *events)
{
    pthread_mutex_lock(&r->mu);
    r->events = *events;
    r->watched = true;
    if (r->gone)
        close_locked(r);
    pthread_mutex_unlock(&r->mu);
}

const char *sbx_request_query(const sbx_request *r, const char *name)
{
    (void)r;
    (void)name;
    return NULL;
}

static void stick(sbx_reply *r, bool stuck)
{
    pthread_mutex_lock(&r->mu);
    r->stuck = stuck;
    if (!stuck && r->watched && !r->closed)
        r->events.ready(r->events.arg);
    pthread_mutex_unlock(&r->mu);
}

typedef struct world {
    sbx_bus *bus;
    sbx_metrics *metrics;
    sbx_stream *stream;
    sbx_lanes *lanes;
    sbx_logs *logs;
    atomic_int number;
    _Atomic uint64_t seq;
    atomic_bool failed;
} world;

static const char *const ids[] = {"aaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbb"};

static void append(void *arg)
{
    world *w = arg;
    uint64_t seq = ++w->seq;

    for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
        sbx_log_entry e = {.seq = seq, .ts_ms = 1, .data = "line", .len = 4};
        sbx_logs_append(w->logs, ids[i], &e, 1);
    }
}

static void breathe(void)
{
    struct timespec t = {.tv_nsec = 2000000};

    nanosleep(&t, NULL);
}

static sbx_reply *look(world *w, int round)
{
    sbx_reply *r = sbx_alloc(sizeof *r);
    sbx_logs_query q = {.feed.tail = round % 7, .source = SBX_LOGS_ALL};

    pthread_mutex_init(&r->mu, NULL);
    r->refs = 1;
    sbx_logs_view(w->logs, ids[round % 2], &q, r, round % 3 == 0);
    return r;
}

static void leave(sbx_reply *r)
{
    sbx_reply_end(r);
    sbx_reply_unref(r);
}

static void *play(void *arg)
{
    world *w = arg;
    sbx_reply *held[HELD] = {0};
    int me = w->number++;

    for (int round = 0; round < ROUNDS; round++) {
        sbx_reply *r = look(w, round + me), *old = held[round % HELD];
        sbx_logs_query q = {.feed.tail = 5, .source = SBX_LOGS_ALL};
        sbx_buf out = SBX_BUF_INIT(4 * MIB);
        sbx_err err;

        sbx_stream_post(w->stream, append, w);
        stick(r, round % 2);
        sbx_logs_state(w->logs, ids[round % 2], "{\"state\":\"running\"}");
        if (round % 16 == 0 && sbx_logs_page(w->logs, ids[me % 2], &q, &out, &err) < 0)
            w->failed = true;
        sbx_metrics_add(w->metrics, SBX_M_HTTP_REQUESTS, round % 2 ? "a,GET,200" : "b,GET,200", 1);
        sbx_metrics_observe_us(w->metrics, SBX_M_EXEC_SECONDS, NULL, round);
        if (round % 64 == 0) {
            sbx_buf_reset(&out);
            sbx_metrics_text(w->metrics, &out);
        }
        stick(r, false);
        breathe();
        held[round % HELD] = r;
        if (old)
            leave(old);
        sbx_buf_done(&out);
    }
    for (int i = 0; i < HELD; i++)
        leave(held[i]);
    return NULL;
}

static int run(sbx_bus *bus)
{
    world w = {.bus = bus};
    sbx_lanes_config lanes = {.threads = {2, 1, 1}, .queue = 64};
    pthread_t threads[THREADS];
    sbx_logs_stats stats;
    sbx_err err;

    w.metrics = sbx_metrics_new();
    w.stream = sbx_stream_new(&err);
    w.lanes = sbx_lanes_new(&lanes);
    sbx_logs_config c = {
        .stream = w.stream, .lanes = w.lanes, .bus = bus, .metrics = w.metrics, .linger_ms = 1};
    w.logs = sbx_logs_new(&c);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, play, &w);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    sbx_logs_close(w.logs, ids[0]);
    sbx_logs_stop(w.logs);
    sbx_logs_stats_get(w.logs, &stats);
    sbx_lanes_free(w.lanes);
    sbx_logs_free(w.logs);
    sbx_stream_free(w.stream);
    sbx_metrics_free(w.metrics);
    printf("%s: %lu lines, %lu frames, %lu fetches, %lu viewers\n", bus->ops->name,
           (unsigned long)stats.lines, (unsigned long)stats.frames_sent,
           (unsigned long)stats.fetches, (unsigned long)stats.viewers);
    bus->ops->free(bus);
    return w.failed || stats.lines != 2ul * THREADS * ROUNDS;
}

int main(void)
{
    const char *url = getenv("SBX_TEST_REDIS_URL");
    sbx_bus *redis;
    sbx_err err;
    int failed;

    signal(SIGPIPE, SIG_IGN);
    failed = run(sbx_bus_memory_new());
    if (!url)
        return failed;
    if (sbx_bus_redis_new(url, &redis, &err) < 0) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    return run(redis) || failed;
}
