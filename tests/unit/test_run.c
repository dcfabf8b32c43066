/* Lanes, mailbox, stream, keeper: order, bounds, timers, ends. */
#include "sbx/core/clock.h"
#include "sbx/core/thread.h"
#include "sbx/run/keeper.h"
#include "sbx/run/lanes.h"
#include "sbx/run/stream.h"
#include <criterion/criterion.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <unistd.h>

static const sbx_lanes_config small = {.threads = {1, 1, 1}, .queue = 2};

typedef struct gate {
    sem_t entered, leave;
    int ran;
} gate;

static void wait_at_gate(void *arg)
{
    gate *g = arg;

    sem_post(&g->entered);
    sem_wait(&g->leave);
    g->ran++;
}

static void gate_init(gate *g)
{
    g->ran = 0;
    sem_init(&g->entered, 0, 0);
    sem_init(&g->leave, 0, 0);
}

Test(lanes, a_full_queue_refuses_and_what_was_taken_is_run, .timeout = 20)
{
    sbx_lanes *l = sbx_lanes_new(&small);
    gate g;
    sbx_job job = {.run = wait_at_gate, .arg = &g};
    sbx_err err;

    gate_init(&g);
    cr_assert_eq(sbx_lanes_submit(l, SBX_LANE_FAST, &job, &err), 0);
    sem_wait(&g.entered); /* running, no longer waiting */
    cr_expect_eq(sbx_lanes_submit(l, SBX_LANE_FAST, &job, &err), 0);
    cr_expect_eq(sbx_lanes_submit(l, SBX_LANE_FAST, &job, &err), 0);
    cr_expect_eq(sbx_lanes_waiting(l, SBX_LANE_FAST), 2);
    cr_expect_eq(sbx_lanes_submit(l, SBX_LANE_FAST, &job, &err), -1);
    cr_expect_eq(err.code, SBX_E_CAPACITY);
    for (int i = 0; i < 3; i++)
        sem_post(&g.leave);
    sbx_lanes_stop(l);
    cr_expect_eq(g.ran, 3);
    cr_expect_eq(sbx_lanes_submit(l, SBX_LANE_FAST, &job, &err), -1);
    sbx_lanes_free(l);
}

static void must_not_run(void *arg)
{
    (void)arg;
    cr_assert_fail("a late job was run");
}

typedef struct refusal {
    atomic_int count;
    sbx_code code;
    int retry_after_s;
} refusal;

static void note_refusal(void *arg, const sbx_err *why)
{
    refusal *r = arg;

    r->code = why->code;
    r->retry_after_s = why->retry_after_s;
    atomic_fetch_add(&r->count, 1);
}

static sbx_lanes *busy_lane(const sbx_lanes_config *config, gate *g)
{
    sbx_lanes *l = sbx_lanes_new(config);
    sbx_job job = {.run = wait_at_gate, .arg = g};
    sbx_err err;

    gate_init(g);
    cr_assert_eq(sbx_lanes_submit(l, SBX_LANE_FAST, &job, &err), 0);
    sem_wait(&g->entered);
    return l;
}

Test(lanes, a_job_whose_deadline_passed_while_it_waited_is_refused_not_run, .timeout = 20)
{
    gate g;
    sbx_lanes *l = busy_lane(&small, &g);
    refusal shed = {0}, taken = {0};
    sbx_job job = {
        .run = must_not_run, .refuse = note_refusal, .arg = &shed, .deadline_ms = sbx_now_ms() - 1};
    sbx_err err;

    cr_assert_eq(sbx_lanes_submit(l, SBX_LANE_FAST, &job, &err), 0);
    cr_expect_eq(sbx_lanes_shed(l), 1);
    cr_expect_eq(shed.code, SBX_E_TIMEOUT);
    cr_expect_eq(sbx_lanes_waiting(l, SBX_LANE_FAST), 0);
    job.arg = &taken;
    cr_assert_eq(sbx_lanes_submit(l, SBX_LANE_FAST, &job, &err), 0);
    sem_post(&g.leave); /* now the worker finds it */
    sbx_lanes_free(l);
    cr_expect_eq(taken.count, 1);
    cr_expect_eq(taken.code, SBX_E_TIMEOUT);
}

Test(lanes, what_waits_too_long_is_refused_and_the_rest_keeps_its_order, .timeout = 20)
{
    const sbx_lanes_config config = {.threads = {1, 1, 1}, .queue = 8, .wait_ms = {20, 0, 0}};
    gate g, later;
    sbx_lanes *l = busy_lane(&config, &g);
    refusal r = {0};
    sbx_job patient = {.run = wait_at_gate, .arg = &later};
    sbx_job hurried = {.run = must_not_run, .refuse = note_refusal, .arg = &r};
    sbx_err err;
    int64_t from_ms = sbx_now_ms();

    gate_init(&later);
    cr_assert_eq(sbx_lanes_submit(l, SBX_LANE_FAST, &patient, &err), 0);
    cr_assert_eq(sbx_lanes_submit(l, SBX_LANE_FAST, &hurried, &err), 0);
    cr_assert_eq(sbx_lanes_submit(l, SBX_LANE_FAST, &patient, &err), 0);
    cr_assert_eq(sbx_lanes_submit(l, SBX_LANE_FAST, &hurried, &err), 0);
    while (r.count < 2)
        sbx_lanes_shed(l);
    cr_expect_gt(sbx_now_ms() - from_ms, 20);
    cr_expect_eq(r.code, SBX_E_CAPACITY);
    cr_expect_geq(r.retry_after_s, 1);
    cr_expect_eq(sbx_lanes_waiting(l, SBX_LANE_FAST), 2);
    /* The oldest has waited for long: who can be refused is, at once; who cannot is taken */
    cr_expect_eq(sbx_lanes_submit(l, SBX_LANE_FAST, &hurried, &err), -1);
    cr_expect_eq(err.code, SBX_E_CAPACITY);
    cr_expect_geq(err.retry_after_s, 1);
    cr_expect_eq(sbx_lanes_submit(l, SBX_LANE_FAST, &patient, &err), 0);
    sem_post(&g.leave);
    for (int i = 0; i < 3; i++)
        sem_post(&later.leave);
    sbx_lanes_free(l);
    cr_expect_eq(later.ran, 3);
    cr_expect_eq(r.count, 2);
}

static void nap(void *arg)
{
    struct timespec ts = {.tv_nsec = 100000000};

    (void)arg;
    nanosleep(&ts, NULL);
}

Test(lanes, who_would_wait_too_long_by_the_pace_is_refused_at_the_door, .timeout = 20)
{
    const sbx_lanes_config config = {.threads = {1, 1, 1}, .queue = 4096, .wait_ms = {0, 1000, 0}};
    sbx_lanes *l = sbx_lanes_new(&config);
    refusal r = {0};
    sbx_job slow = {.run = nap}, job = {.run = nap, .refuse = note_refusal, .arg = &r};
    size_t taken = 0;
    sbx_err err;

    cr_assert_eq(sbx_lanes_submit(l, SBX_LANE_SLOW, &slow, &err), 0);
    cr_assert_eq(sbx_lanes_submit(l, SBX_LANE_SLOW, &slow, &err), 0);
    while (sbx_lanes_waiting(l, SBX_LANE_SLOW)) /* one is done: the pace is known */
        sched_yield();
    while (taken < 4096 && sbx_lanes_submit(l, SBX_LANE_SLOW, &job, &err) == 0)
        taken++;
    cr_expect_lt(taken, 4096, "the queue was never refused early");
    cr_expect_gt(taken, 10);
    cr_expect_eq(err.code, SBX_E_CAPACITY);
    cr_expect_geq(err.retry_after_s, 1);
    cr_expect_leq(err.retry_after_s, 60);
    while (r.count + 10 < (int)taken) /* too many for a second: the rest is refused as it waits */
        sbx_lanes_shed(l);
    sbx_lanes_free(l);
}

static void see_scope(void *arg)
{
    bool *ok = arg;

    *ok = sbx_thread_role() == SBX_T_WORKER && sbx_job_cancelled() && sbx_job_left_ms(-1) > 0 &&
          sbx_job_left_ms(-1) <= 5000;
}

Test(lanes, a_job_sees_its_deadline_and_its_cancel_flag, .timeout = 20)
{
    sbx_lanes *l = sbx_lanes_new(&small);
    atomic_bool flag = true;
    bool ok = false;
    sbx_job job = {
        .run = see_scope, .arg = &ok, .cancelled = &flag, .deadline_ms = sbx_now_ms() + 5000};
    sbx_err err;

    cr_assert_eq(sbx_lanes_submit(l, SBX_LANE_SLOW, &job, &err), 0);
    sbx_lanes_free(l);
    cr_expect(ok);
}

typedef struct trace {
    sbx_stream *s;
    sem_t done;
    char text[32];
    sbx_timer *doomed;
    sbx_watch *watch;
    int fds[2];
} trace;

static void add(trace *t, char c)
{
    t->text[strlen(t->text)] = c;
}

static void timer_b(void *arg)
{
    add(arg, 'b');
    sem_post(&((trace *)arg)->done);
}

static void timer_a(void *arg)
{
    trace *t = arg;

    add(t, 'a');
    sbx_timer_free(t->doomed);
}

static void timer_never(void *arg)
{
    add(arg, 'X');
}

static void arm(void *arg)
{
    trace *t = arg;

    (void)sbx_timer_new(t->s, 30, timer_b, t);
    (void)sbx_timer_new(t->s, 10, timer_a, t);
    t->doomed = sbx_timer_new(t->s, 20, timer_never, t);
}

Test(stream, timers_fire_in_order_and_freed_ones_do_not, .timeout = 20)
{
    sbx_err err;
    trace t = {.s = sbx_stream_new(&err)};

    cr_assert_not_null(t.s);
    sem_init(&t.done, 0, 0);
    sbx_stream_post(t.s, arm, &t);
    sem_wait(&t.done);
    sbx_stream_free(t.s);
    cr_expect_str_eq(t.text, "ab");
}

static void readable(void *arg, uint32_t events)
{
    trace *t = arg;
    char c;

    cr_expect(events & EPOLLIN);
    cr_expect_eq(read(t->fds[0], &c, 1), 1);
    add(t, c);
    sbx_watch_free(t->watch); /* from within its own callback */
    sem_post(&t->done);
}

static void watch(void *arg)
{
    trace *t = arg;

    t->watch = sbx_stream_watch(t->s, t->fds[0], EPOLLIN, readable, t);
}

Test(stream, a_watch_may_be_freed_in_its_callback, .timeout = 20)
{
    sbx_err err;
    trace t = {.s = sbx_stream_new(&err)};

    cr_assert_eq(pipe(t.fds), 0);
    sem_init(&t.done, 0, 0);
    sbx_stream_post(t.s, watch, &t);
    cr_assert_eq(write(t.fds[1], "zz", 2), 2);
    sem_wait(&t.done);
    sbx_stream_sync(t.s);
    sbx_stream_free(t.s);
    cr_expect_str_eq(t.text, "z");
}

static void count(void *arg)
{
    sem_post(arg);
}

Test(keeper, ticks_come_again_and_at_once_when_kicked, .timeout = 20)
{
    sbx_lanes *l = sbx_lanes_new(&small);
    sbx_keeper *k = sbx_keeper_new(l);
    sem_t often, rare;
    sbx_err err;

    sem_init(&often, 0, 0);
    sem_init(&rare, 0, 0);
    sbx_keeper_every(k, "often", 5, SBX_LANE_REAP, count, &often);
    sbx_keeper_every(k, "rare", 3600 * 1000, SBX_LANE_SLOW, count, &rare);
    cr_assert_eq(sbx_keeper_start(k, &err), 0);
    for (int i = 0; i < 3; i++)
        sem_wait(&often);
    cr_expect_neq(sem_trywait(&rare), 0);
    sbx_keeper_kick(k, "rare");
    sem_wait(&rare);
    sbx_keeper_stop(k);
    sbx_lanes_free(l);
    sbx_keeper_free(k);
}
