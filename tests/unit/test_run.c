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
