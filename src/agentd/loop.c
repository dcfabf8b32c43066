/* epoll and timers. */
#include "loop.h"

#include <errno.h>
#include <limits.h>
#include <time.h>
#include <unistd.h>

#define EVENTS_PER_WAIT 64
#define WATCHED         (EPOLLIN | EPOLLRDHUP | EPOLLET)

static uint64_t clock_ms(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

uint64_t agent_now_ms(void)
{
    return clock_ms(CLOCK_MONOTONIC);
}

int64_t agent_wall_ms(void)
{
    return (int64_t)clock_ms(CLOCK_REALTIME);
}

int agent_loop_init(agent_loop *l)
{
    l->timers = NULL;
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    return l->epoll < 0 ? -1 : 0;
}

int agent_source_open(agent_loop *l, agent_source *s, int fd)
{
    struct epoll_event ev = {.events = WATCHED, .data.ptr = s};
    int saved;

    s->fd = fd;
    s->epoll = l->epoll;
    s->waits = false;
    s->ready = EPOLLOUT;
    if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, fd, &ev) == 0)
        return 0;
    saved = errno;
    agent_source_close(s);
    errno = saved;
    return -1;
}

static void watch(agent_source *s, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = s};

    (void)epoll_ctl(s->epoll, EPOLL_CTL_MOD, s->fd, &ev);
}

/* Room in a pipe is news only to who has been refused: otherwise each read at the other end would
 * wake the agent for nothing. */
void agent_source_await_room(agent_source *s)
{
    if (s->fd < 0 || s->waits)
        return;
    s->waits = true;
    watch(s, WATCHED | EPOLLOUT);
}

int agent_source_release(agent_source *s)
{
    int fd = s->fd;

    if (fd >= 0)
        (void)epoll_ctl(s->epoll, EPOLL_CTL_DEL, fd, NULL);
    s->fd = -1;
    s->ready = 0;
    return fd;
}

/* Closing alone does not end the watch: a supervisor that was forked a moment ago still has a copy
 * of the descriptor, and the next event would name a source that is gone. */
void agent_source_close(agent_source *s)
{
    int fd = agent_source_release(s);

    if (fd >= 0)
        close(fd);
}

void agent_timer_set(agent_loop *l, agent_timer *t, uint64_t in_ms, void (*fire)(void *arg),
                     void *arg)
{
    agent_timer_stop(l, t);
    t->due_ms = agent_now_ms() + in_ms;
    t->fire = fire;
    t->arg = arg;
    t->armed = true;
    t->prev = NULL;
    t->next = l->timers;
    if (t->next)
        t->next->prev = t;
    l->timers = t;
}

void agent_timer_stop(agent_loop *l, agent_timer *t)
{
    if (!t->armed)
        return;
    t->armed = false;
    if (t->next)
        t->next->prev = t->prev;
    if (t->prev)
        t->prev->next = t->next;
    else
        l->timers = t->next;
}

/* How long epoll may sleep: -1 for ever. */
static int sleep_ms(const agent_loop *l)
{
    uint64_t first = UINT64_MAX;
    uint64_t now;

    if (!l->timers)
        return -1;
    for (const agent_timer *t = l->timers; t; t = t->next)
        if (t->due_ms < first)
            first = t->due_ms;
    now = agent_now_ms();
    if (first <= now)
        return 0;
    return first - now > INT_MAX ? INT_MAX : (int)(first - now);
}

/* Fires one due timer. A handler may arm and stop any timer, so the list is walked anew. */
static bool fire_one(agent_loop *l, uint64_t now)
{
    for (agent_timer *t = l->timers; t; t = t->next) {
        if (t->due_ms > now)
            continue;
        agent_timer_stop(l, t);
        t->fire(t->arg);
        return true;
    }
    return false;
}

void agent_loop_wait(agent_loop *l, bool poll)
{
    struct epoll_event events[EVENTS_PER_WAIT];
    int n = epoll_wait(l->epoll, events, EVENTS_PER_WAIT, poll ? 0 : sleep_ms(l));
    uint64_t now;

    for (int i = 0; i < n; i++) {
        agent_source *s = events[i].data.ptr;

        s->ready |= events[i].events;
        if (s->waits && (events[i].events & EPOLLOUT)) {
            s->waits = false;
            watch(s, WATCHED);
        }
    }
    if (!l->timers)
        return;
    now = agent_now_ms();
    while (fire_one(l, now))
        ;
}
