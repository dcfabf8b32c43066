/* The STREAM loop: epoll with a wake-up descriptor and a heap of timers.
 *
 * A watch or timer freed inside a callback may still stand in the batch of events that is being
 * delivered; it is marked dead and released when the batch is done. */
#include "sbx/run/stream.h"

#include "sbx/core/clock.h"
#include "sbx/core/thread.h"
#include <errno.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define BATCH 64

struct sbx_watch {
    sbx_stream *stream;
    sbx_watch *next_dead;
    int fd;
    void (*fn)(void *arg, uint32_t events); /* NULL: freed */
    void *arg;
};

struct sbx_timer {
    sbx_stream *stream;
    int64_t at_ms;
    size_t place; /* in the heap */
    void (*fn)(void *arg);
    void *arg;
};

struct sbx_stream {
    pthread_t thread;
    int epoll_fd, wake_fd;
    sbx_mailbox *box;
    bool stopping;    /* STREAM */
    sbx_watch *dead;  /* STREAM */
    sbx_timer **heap; /* STREAM: earliest first */
    size_t timers, heap_cap;
};

static void wake(void *arg)
{
    sbx_stream *s = arg;

    (void)!eventfd_write(s->wake_fd, 1);
}

/* --- timers: a binary heap in which each timer knows its place --- */

static void place(sbx_stream *s, size_t i, sbx_timer *t)
{
    s->heap[i] = t;
    t->place = i;
}

static void sift_up(sbx_stream *s, size_t i)
{
    sbx_timer *t = s->heap[i];

    for (; i && s->heap[(i - 1) / 2]->at_ms > t->at_ms; i = (i - 1) / 2)
        place(s, i, s->heap[(i - 1) / 2]);
    place(s, i, t);
}

static void sift_down(sbx_stream *s, size_t i)
{
    sbx_timer *t = s->heap[i];

    for (;;) {
        size_t child = 2 * i + 1;

        if (child >= s->timers)
            break;
        if (child + 1 < s->timers && s->heap[child + 1]->at_ms < s->heap[child]->at_ms)
            child++;
        if (s->heap[child]->at_ms >= t->at_ms)
            break;
        place(s, i, s->heap[child]);
        i = child;
    }
    place(s, i, t);
}

sbx_timer *sbx_timer_new(sbx_stream *s, int64_t ms, void (*fn)(void *arg), void *arg)
{
    SBX_ASSERT_THREAD(SBX_T_STREAM);
    sbx_timer *t = sbx_alloc(sizeof(*t));

    *t = (sbx_timer){.stream = s, .at_ms = sbx_now_ms() + ms, .fn = fn, .arg = arg};
    if (s->timers == s->heap_cap) {
        s->heap_cap = s->heap_cap ? 2 * s->heap_cap : 64;
        s->heap = sbx_realloc(s->heap, s->heap_cap * sizeof(sbx_timer *));
    }
    place(s, s->timers++, t);
    sift_up(s, t->place);
    return t;
}

static void unheap(sbx_timer *t)
{
    sbx_stream *s = t->stream;
    size_t i = t->place;
    sbx_timer *last = s->heap[--s->timers];

    if (last == t)
        return;
    place(s, i, last);
    sift_up(s, i);
    sift_down(s, last->place);
}

void sbx_timer_free(sbx_timer *t)
{
    if (!t)
        return;
    SBX_ASSERT_THREAD(SBX_T_STREAM);
    unheap(t);
    free(t);
}

static void fire_first(sbx_stream *s)
{
    sbx_timer *t = s->heap[0];
    void (*fn)(void *) = t->fn;
    void *arg = t->arg;

    unheap(t);
    free(t);
    fn(arg);
}

static void run_timers(sbx_stream *s)
{
    int64_t now = sbx_now_ms();

    while (s->timers && s->heap[0]->at_ms <= now)
        fire_first(s);
}

/* Whoever waits by a timer hears now that all is over, and lets go of what he holds. */
static void run_last_timers(sbx_stream *s)
{
    for (size_t n = s->timers; n && s->timers; n--)
        fire_first(s);
}

/* --- watches --- */

sbx_watch *sbx_stream_watch(sbx_stream *s, int fd, uint32_t events,
                            void (*fn)(void *arg, uint32_t events), void *arg)
{
    SBX_ASSERT_THREAD(SBX_T_STREAM);
    sbx_watch *w = sbx_alloc(sizeof(*w));
    struct epoll_event ev = {.events = events, .data.ptr = w};

    *w = (sbx_watch){.stream = s, .fd = fd, .fn = fn, .arg = arg};
    if (epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &ev))
        abort(); /* only for a descriptor that is not the caller's */
    return w;
}

void sbx_watch_events(sbx_watch *w, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = w};

    epoll_ctl(w->stream->epoll_fd, EPOLL_CTL_MOD, w->fd, &ev);
}

void sbx_watch_free(sbx_watch *w)
{
    if (!w)
        return;
    SBX_ASSERT_THREAD(SBX_T_STREAM);
    epoll_ctl(w->stream->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
    w->fn = NULL;
    w->next_dead = w->stream->dead;
    w->stream->dead = w;
}

static void bury(sbx_stream *s)
{
    while (s->dead) {
        sbx_watch *w = s->dead;

        s->dead = w->next_dead;
        free(w);
    }
}

/* --- the loop --- */

static int wait_ms(const sbx_stream *s)
{
    if (!s->timers)
        return -1;
    int64_t left = s->heap[0]->at_ms - sbx_now_ms();
    return left < 0 ? 0 : left > 60000 ? 60000 : (int)left;
}

static void *loop(void *arg)
{
    sbx_stream *s = arg;
    struct epoll_event events[BATCH];

    sbx_thread_set_role(SBX_T_STREAM, "sbx-stream");
    while (!s->stopping) {
        int n = epoll_wait(s->epoll_fd, events, BATCH, wait_ms(s));

        for (int i = 0; i < n; i++) {
            sbx_watch *w = events[i].data.ptr;

            if (!w) {
                eventfd_t count;
                (void)!eventfd_read(s->wake_fd, &count);
                sbx_mailbox_drain(s->box);
            } else if (w->fn) {
                w->fn(w->arg, events[i].events);
            }
        }
        bury(s);
        run_timers(s);
        bury(s);
    }
    sbx_mailbox_drain(s->box);
    run_last_timers(s);
    bury(s);
    return NULL;
}

sbx_stream *sbx_stream_new(sbx_err *err)
{
    sbx_stream *s = sbx_alloc(sizeof(*s));
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};

    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->box = sbx_mailbox_new(wake, s);
    if (s->epoll_fd >= 0 && s->wake_fd >= 0 &&
        !epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, s->wake_fd, &ev) &&
        !pthread_create(&s->thread, NULL, loop, s))
        return s;
    sbx_fail(err, SBX_E_INTERNAL, "starting the stream thread: %s", strerror(errno));
    sbx_mailbox_free(s->box);
    if (s->epoll_fd >= 0)
        close(s->epoll_fd);
    if (s->wake_fd >= 0)
        close(s->wake_fd);
    free(s);
    return NULL;
}

void sbx_stream_post(sbx_stream *s, sbx_msg_fn fn, void *arg)
{
    sbx_mailbox_post(s->box, fn, arg);
}

static void sync_reached(void *arg)
{
    (void)!eventfd_write(*(int *)arg, 1);
}

void sbx_stream_sync(sbx_stream *s)
{
    int fd = eventfd(0, EFD_CLOEXEC);
    eventfd_t count;

    if (fd < 0)
        abort();
    sbx_stream_post(s, sync_reached, &fd);
    while (eventfd_read(fd, &count) < 0 && errno == EINTR)
        ;
    close(fd);
}

static void stop(void *arg)
{
    ((sbx_stream *)arg)->stopping = true;
}

void sbx_stream_free(sbx_stream *s)
{
    if (!s)
        return;
    sbx_stream_post(s, stop, s);
    pthread_join(s->thread, NULL);
    sbx_mailbox_free(s->box);
    for (size_t i = 0; i < s->timers; i++)
        free(s->heap[i]);
    free(s->heap);
    close(s->epoll_fd);
    close(s->wake_fd);
    free(s);
}
