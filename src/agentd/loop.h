/* The event loop: descriptors that become ready, and timers.
 *
 * Design: edge-triggered. An event does nothing but set bits in its source; whoever uses the
 * descriptor clears them when a read or write says EAGAIN. So a descriptor that must not be read
 * now (no window, no room) costs no system call and cannot spin, and nothing is ever freed while
 * events are handed out.
 *
 * Threads: the agent has one.
 */
#ifndef SBX_AGENTD_LOOP_H
#define SBX_AGENTD_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#define AGENT_READABLE (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)
#define AGENT_WRITABLE (EPOLLOUT | EPOLLHUP | EPOLLERR)

typedef struct agent_source {
    int fd;         /* -1: closed */
    int epoll;      /* the loop's, while open */
    uint32_t ready; /* epoll bits seen since they were last cleared; at first it can be written */
    bool waits;     /* for room */
} agent_source;

typedef struct agent_timer {
    uint64_t due_ms;
    bool armed;
    void (*fire)(void *arg);
    void *arg;
    struct agent_timer *next, *prev;
} agent_timer;

typedef struct agent_loop {
    int epoll;
    agent_timer *timers; /* those armed, unordered: they are few */
} agent_loop;

/** @return 0, or -1 with errno set. */
int agent_loop_init(agent_loop *l);

/** Watch `fd` for reading, and for room if that is awaited; the source owns it from now on, also on
 * failure.
 *
 * @param s  must stay where it is until agent_source_close().
 * @return 0, or -1 with errno set and the descriptor closed.
 */
int agent_source_open(agent_loop *l, agent_source *s, int fd);

/** A write said EAGAIN: set EPOLLOUT in `ready` when there is room, once. The caller clears it. */
void agent_source_await_room(agent_source *s);

/** Watch it no more. @return the descriptor, the caller's from now on; -1 if it was closed. */
int agent_source_release(agent_source *s);

/** Close the descriptor, if it is open. */
void agent_source_close(agent_source *s);

/** Wait for events, at most until the next timer; sets ready bits and fires what is due.
 *
 * @param poll  do not wait at all.
 */
void agent_loop_wait(agent_loop *l, bool poll);

/** Arm (again) a timer; `fire(arg)` is called once, from agent_loop_wait(). */
void agent_timer_set(agent_loop *l, agent_timer *t, uint64_t in_ms, void (*fire)(void *arg),
                     void *arg);

/** Disarm a timer, which may be disarmed already. */
void agent_timer_stop(agent_loop *l, agent_timer *t);

/** Monotonic clock, milliseconds. */
uint64_t agent_now_ms(void);

/** Wall clock, milliseconds since 1970. */
int64_t agent_wall_ms(void);

#endif
