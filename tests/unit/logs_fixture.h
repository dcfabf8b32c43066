/* What the tests of the log hub share: the hub with its threads. Included by one file per program.
 */
#ifndef SBX_TESTS_LOGS_FIXTURE_H
#define SBX_TESTS_LOGS_FIXTURE_H

#include "hub_fixture.h"
#include "sbx/core/limits.h"
#include "sbx/logs/logs.h"
#include <semaphore.h>

#define ID    "aaaaaaaaaaaaaaaaaaaa"
#define TOPIC "logs:" ID

/* --- the hub with its threads --- */

typedef struct hub {
    sbx_stream *stream;
    sbx_lanes *lanes;
    lossy bus;
    sbx_logs *logs;
    _Atomic uint64_t acked;
    _Atomic uint64_t first, last; /* that the agent has; 0: it sends nothing again */
    atomic_int agains;
} hub;

static void note_ack(void *arg, const char *id, uint64_t seq)
{
    (void)id;
    ((hub *)arg)->acked = seq;
}

static void send_again(void *arg);

typedef struct again {
    hub *h;
    uint64_t from;
} again;

static void note_again(void *arg, const char *id, uint64_t from)
{
    hub *h = arg;
    again *a = sbx_alloc(sizeof *a);

    (void)id;
    h->agains++;
    *a = (again){h, from};
    sbx_stream_post(h->stream, send_again, a);
}

/* Takes the bus. */
static hub *hub_new_on(sbx_bus *bus, int64_t linger_ms)
{
    hub *h = sbx_alloc(sizeof *h);
    sbx_err err;
    sbx_lanes_config lanes = {.threads = {2, 1, 1}, .queue = 64};

    h->stream = sbx_stream_new(&err);
    cr_assert_not_null(h->stream);
    h->lanes = sbx_lanes_new(&lanes);
    h->bus.bus.ops = &lossy_ops;
    h->bus.inner = bus;
    sbx_logs_config c = {.stream = h->stream,
                         .lanes = h->lanes,
                         .bus = &h->bus.bus,
                         .acked = note_ack,
                         .again = note_again,
                         .arg = h,
                         .linger_ms = linger_ms};
    h->logs = sbx_logs_new(&c);
    return h;
}

static __attribute__((unused)) hub *hub_new(int64_t linger_ms)
{
    return hub_new_on(sbx_bus_memory_new(), linger_ms);
}

static void hub_free(hub *h)
{
    sbx_logs_stop(h->logs);
    sbx_lanes_free(h->lanes);
    sbx_logs_free(h->logs);
    sbx_stream_free(h->stream);
    h->bus.inner->ops->free(h->bus.inner);
    free(h);
}

typedef struct call {
    void (*fn)(void *arg);
    void *arg;
    sem_t done;
} call;

static void call_run(void *arg)
{
    call *c = arg;

    c->fn(c->arg);
    sem_post(&c->done);
}

static void on_stream(hub *h, void (*fn)(void *arg), void *arg)
{
    call c = {.fn = fn, .arg = arg};

    sem_init(&c.done, 0, 0);
    sbx_stream_post(h->stream, call_run, &c);
    while (sem_wait(&c.done) < 0)
        ;
    sem_destroy(&c.done);
}

typedef struct lines {
    hub *h;
    uint64_t from, to;
    const char *data;
    int source; /* -1: exec and main in turns */
} lines;

static void append_lines(void *arg)
{
    const lines *a = arg;
    sbx_log_entry e[64];

    for (uint64_t seq = a->from; seq <= a->to;) {
        size_t n = 0;

        for (; n < ARRAY_LEN(e) && seq <= a->to; n++, seq++)
            e[n] = (sbx_log_entry){
                .seq = seq,
                .ts_ms = 1700000000000,
                .stream = SBX_LOG_STDOUT,
                .source = (uint8_t)(a->source >= 0 ? a->source
                                    : seq % 2      ? SBX_SRC_EXEC
                                                   : SBX_SRC_MAIN),
                .exec_id = "eeee",
                .exec_id_len = 4,
                .data = a->data,
                .len = (uint32_t)strlen(a->data),
            };
        sbx_logs_append(a->h->logs, ID, e, n);
    }
}

/* As an agent does that has the lines still. */
static void send_again(void *arg)
{
    again *a = arg;
    lines l = {.h = a->h,
               .from = SBX_MAX(a->from, (uint64_t)a->h->first),
               .to = a->h->last,
               .data = "hello",
               .source = -1};

    if (a->h->first)
        append_lines(&l);
    free(a);
}

static void append_data(hub *h, uint64_t from, uint64_t to, int source, const char *data)
{
    lines a = {.h = h, .from = from, .to = to, .data = data, .source = source};

    on_stream(h, append_lines, &a);
}

static void append(hub *h, uint64_t from, uint64_t to)
{
    append_data(h, from, to, -1, "hello");
}

static void nothing(void *arg)
{
    (void)arg;
}

static __attribute__((unused)) void settle_stream(hub *h)
{
    on_stream(h, nothing, NULL);
}

static sbx_logs_query query(int tail)
{
    return (sbx_logs_query){.feed.tail = tail, .source = SBX_LOGS_ALL};
}

static __attribute__((unused)) sbx_logs_query query_since(uint64_t since)
{
    return (sbx_logs_query){
        .feed.has_since = true, .feed.since = since, .feed.tail = -1, .source = SBX_LOGS_ALL};
}

static __attribute__((unused)) sbx_reply *view(hub *h, sbx_logs_query q, bool websocket)
{
    sbx_reply *r = fake_new();

    sbx_logs_view(h->logs, ID, &q, r, websocket);
    return r;
}

static __attribute__((unused)) sbx_logs_stats stats(const hub *h)
{
    sbx_logs_stats s;

    sbx_logs_stats_get(h->logs, &s);
    return s;
}

/* End a test: the client leaves, the hub goes. */
static __attribute__((unused)) void finish(hub *h, sbx_reply **replies, size_t count)
{
    for (size_t i = 0; i < count; i++)
        fake_leave(replies[i]);
    cr_expect(WAIT_FOR(stats(h).viewers == 0));
    hub_free(h);
    for (size_t i = 0; i < count; i++)
        sbx_reply_unref(replies[i]);
}

#endif
