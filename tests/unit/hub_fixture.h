/* What the tests of hubs share: a fake reply that records what it is sent, and a bus that can lose
 * messages. Included by one file per program. */
#ifndef SBX_TESTS_HUB_FIXTURE_H
#define SBX_TESTS_HUB_FIXTURE_H

#include "sbx/bus/bus.h"
#include "sbx/core/clock.h"
#include "sbx/http/http.h"
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>

/* --- a fake of the replies --- */

struct sbx_reply {
    pthread_mutex_t mu;
    atomic_int refs;
    uint64_t first, last; /* the run of entries that the trace ends with */
    sbx_buf trace;
    sbx_buf text;    /* frames, each followed by a newline */
    size_t frames;   /* guarded by mu, as all below */
    int64_t *log_at; /* times of the frames of entries */
    size_t log_frames, log_cap;
    bool begun, ended, gone, stuck, watched, closed, counting;
    sbx_reply_events events;
};

static sbx_reply *fake_new(void)
{
    sbx_reply *r = sbx_alloc(sizeof *r);

    pthread_mutex_init(&r->mu, NULL);
    sbx_buf_init(&r->text, 64 * MIB);
    sbx_buf_init(&r->trace, MIB);
    r->refs = 1;
    return r;
}

sbx_reply *sbx_reply_ref(sbx_reply *r)
{
    r->refs++;
    return r;
}

void sbx_reply_unref(sbx_reply *r)
{
    if (--r->refs > 0)
        return;
    sbx_buf_done(&r->text);
    sbx_buf_done(&r->trace);
    free(r->log_at);
    pthread_mutex_destroy(&r->mu);
    free(r);
}

void sbx_reply_begin(sbx_reply *r, int status, const char *type)
{
    (void)type;
    pthread_mutex_lock(&r->mu);
    r->begun = status == 200;
    pthread_mutex_unlock(&r->mu);
}

static void fake_close_locked(sbx_reply *r)
{
    if (!r->watched || r->closed)
        return;
    r->closed = true;
    r->events.closed(r->events.arg);
}

static void trace_locked(sbx_reply *r, const char *what)
{
    if (r->first)
        sbx_buf_addf(&r->trace, "%s%llu-%llu", r->trace.len ? " " : "",
                     (unsigned long long)r->first, (unsigned long long)r->last);
    r->first = r->last = 0;
    if (what)
        sbx_buf_addf(&r->trace, "%s%s", r->trace.len ? " " : "", what);
}

static void note_entries_locked(sbx_reply *r, const char *at, const char *end)
{
    while ((at = memmem(at, (size_t)(end - at), "\"seq\":", 6))) {
        uint64_t seq = strtoull(at + 6, NULL, 10);

        if (r->first && seq != r->last + 1)
            trace_locked(r, NULL);
        r->first = r->first ? r->first : seq;
        r->last = seq;
        at += 6;
    }
}

/* A frame has entries, or is one of the others. */
static void note_frame_locked(sbx_reply *r, const char *data, size_t len)
{
    const char *gap = memmem(data, len, "\"from\":", 7);
    char text[64];

    r->frames++;
    if (memmem(data, len, "\"seq\":", 6)) {
        if (r->log_frames == r->log_cap) {
            r->log_cap = r->log_cap ? 2 * r->log_cap : 8;
            r->log_at = sbx_realloc(r->log_at, r->log_cap * sizeof *r->log_at);
        }
        r->log_at[r->log_frames++] = sbx_now_ms();
        note_entries_locked(r, data, data + len);
    } else if (gap) {
        const char *to = memmem(data, len, "\"to\":", 5);

        cr_assert_not_null(to);
        snprintf(text, sizeof text, "gap:%llu-%llu", strtoull(gap + 7, NULL, 10),
                 strtoull(to + 5, NULL, 10));
        trace_locked(r, text);
    } else {
        trace_locked(r, memmem(data, len, "state", 5)     ? "state"
                        : memmem(data, len, "delayed", 7) ? "delayed"
                                                          : "end");
    }
}

sbx_push sbx_reply_write(sbx_reply *r, const void *data, size_t len)
{
    sbx_push result = SBX_PUSH_OK;

    pthread_mutex_lock(&r->mu);
    if (r->gone) {
        result = SBX_PUSH_GONE;
    } else if (r->stuck) {
        result = SBX_PUSH_FULL;
    } else {
        note_frame_locked(r, data, len);
        sbx_buf_add(&r->text, data, len);
        sbx_buf_addc(&r->text, '\n');
    }
    pthread_mutex_unlock(&r->mu);
    return result;
}

void sbx_reply_end(sbx_reply *r)
{
    pthread_mutex_lock(&r->mu);
    r->ended = true;
    fake_close_locked(r);
    pthread_mutex_unlock(&r->mu);
}

void sbx_reply_watch(sbx_reply *r, const sbx_reply_events *events)
{
    pthread_mutex_lock(&r->mu);
    r->events = *events;
    r->watched = true;
    if (r->gone || r->ended)
        fake_close_locked(r);
    pthread_mutex_unlock(&r->mu);
}

const char *sbx_request_query(const sbx_request *r, const char *name)
{
    for (size_t i = 0; i < r->query_count; i++)
        if (sbx_streq(r->query[i].name, name))
            return r->query[i].value;
    return NULL;
}

static __attribute__((unused)) void fake_leave(sbx_reply *r)
{
    pthread_mutex_lock(&r->mu);
    r->gone = true;
    fake_close_locked(r);
    pthread_mutex_unlock(&r->mu);
}

static __attribute__((unused)) void fake_stick(sbx_reply *r, bool stuck)
{
    pthread_mutex_lock(&r->mu);
    r->stuck = stuck;
    if (!stuck && r->watched && !r->closed)
        r->events.ready(r->events.arg);
    pthread_mutex_unlock(&r->mu);
}

/* What the client saw, in short: "1-20 gap:21-30 31-40 state end". */
static char *fake_trace(sbx_reply *r)
{
    sbx_buf out = SBX_BUF_INIT(MIB);

    pthread_mutex_lock(&r->mu);
    sbx_buf_add(&out, r->trace.data, r->trace.len);
    if (r->first)
        sbx_buf_addf(&out, "%s%llu-%llu", out.len ? " " : "", (unsigned long long)r->first,
                     (unsigned long long)r->last);
    pthread_mutex_unlock(&r->mu);
    return sbx_buf_steal(&out);
}

/* --- a bus that can lose messages and fail --- */

typedef struct lossy {
    sbx_bus bus;
    sbx_bus *inner;
    sbx_bus_fn fn;
    void *arg;
    atomic_bool lose, fail;
    atomic_int published;
} lossy;

static lossy *lossy_of(sbx_bus *b)
{
    return sbx_container_of(b, lossy, bus);
}

static bool lossy_publish(sbx_bus *b, const char *t, const sbx_bus_item *items, size_t n)
{
    lossy_of(b)->published++;
    return lossy_of(b)->inner->ops->publish(lossy_of(b)->inner, t, items, n);
}

static bool lossy_publish_at(sbx_bus *b, const char *t, const sbx_bus_item *items, size_t n,
                             const sbx_bus_place *place)
{
    lossy_of(b)->published++;
    return lossy_of(b)->inner->ops->publish_at(lossy_of(b)->inner, t, items, n, place);
}

static void lossy_set_watch(sbx_bus *b, const sbx_bus_watch *watch)
{
    lossy_of(b)->inner->ops->set_watch(lossy_of(b)->inner, watch);
}

static void lossy_hear(void *arg, const char *t, const sbx_bus_item *items, size_t n, bool reset)
{
    lossy *y = arg;

    if (!y->lose)
        y->fn(y->arg, t, items, n, reset);
}

static void lossy_set_reader(sbx_bus *b, const char *prefix, sbx_bus_fn fn, void *arg)
{
    lossy *y = lossy_of(b);

    if (fn) {
        y->fn = fn;
        y->arg = arg;
    }
    y->inner->ops->set_reader(y->inner, prefix, fn ? lossy_hear : NULL, y);
}

static void lossy_subscribe(sbx_bus *b, const char *t)
{
    lossy_of(b)->inner->ops->subscribe(lossy_of(b)->inner, t);
}

static void lossy_unsubscribe(sbx_bus *b, const char *t)
{
    lossy_of(b)->inner->ops->unsubscribe(lossy_of(b)->inner, t);
}

static int lossy_history(sbx_bus *b, const char *t, uint64_t since, uint64_t until, size_t max,
                         bool tail, sbx_bus_item **ret, size_t *count, sbx_buf *text, sbx_err *err)
{
    if (lossy_of(b)->fail)
        return sbx_fail(err, SBX_E_STORE_UNAVAILABLE, "down");
    return lossy_of(b)->inner->ops->history(lossy_of(b)->inner, t, since, until, max, tail, ret,
                                            count, text, err);
}

static int lossy_last_seq(sbx_bus *b, const char *t, uint64_t *ret, sbx_err *err)
{
    return lossy_of(b)->inner->ops->last_seq(lossy_of(b)->inner, t, ret, err);
}

static void lossy_forget(sbx_bus *b, const char *t)
{
    lossy_of(b)->inner->ops->forget(lossy_of(b)->inner, t);
}

static const sbx_bus_ops lossy_ops = {
    .publish = lossy_publish,
    .publish_at = lossy_publish_at,
    .set_watch = lossy_set_watch,
    .set_reader = lossy_set_reader,
    .subscribe = lossy_subscribe,
    .unsubscribe = lossy_unsubscribe,
    .history = lossy_history,
    .last_seq = lossy_last_seq,
    .forget = lossy_forget,
    .name = "lossy",
};

/* --- waiting --- */

static void pause_ms(long ms)
{
    struct timespec t = {.tv_nsec = ms * 1000000};

    nanosleep(&t, NULL);
}

/* Wait up to 10 s for a condition. */
#define WAIT_FOR(condition)                                                                        \
    ({                                                                                             \
        int64_t _until = sbx_now_ms() + 10000;                                                     \
        while (!(condition) && sbx_now_ms() < _until)                                              \
            pause_ms(2);                                                                           \
        (condition);                                                                               \
    })

static __attribute__((unused)) bool trace_is(sbx_reply *r, const char *want)
{
    char *have = fake_trace(r);
    bool same = strcmp(have, want) == 0;

    free(have);
    return same;
}

#define EXPECT_TRACE(reply, want)                                                                  \
    do {                                                                                           \
        bool _ok = WAIT_FOR(trace_is((reply), (want)));                                            \
        char *_have = fake_trace(reply);                                                           \
        cr_expect(_ok, "wanted: %s\nhave:   %s", (want), _have);                                   \
        free(_have);                                                                               \
    } while (0)

#endif
