/* The subscriber: the BUS thread, its connection, and which topics are wanted.
 *
 * What is wanted is a table of topics with counts; any thread changes it and wakes the thread,
 * which makes the connection agree. A new connection simply has no topic yet. When Redis confirms a
 * subscription the reader is called with reset=true, since messages before it may have been missed:
 * this holds for the first one and after every reconnect alike.
 *
 * The connection is read when poll() says so and written with a time-out. A PING every few seconds
 * finds a peer that is gone without a word.
 *
 * Threads: `mu` guards the table; it is not held over I/O or while a reader runs. */
#include "redis.h"
#include "sbx/core/clock.h"
#include "sbx/core/thread.h"
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <uthash.h>

#define PING_MS 5000 /* between pings; silence of twice that is the end */

typedef struct topic {
    char name[SBX_BUS_TOPIC_BYTES];
    unsigned wanted; /* subscribers; guarded by mu */
    bool active;     /* sent on this connection; BUS, under mu */
    UT_hash_handle hh;
} topic;

struct redis_subscriber {
    const redis_url *url;
    bus_readers *readers;
    pthread_t thread;
    int wake_fd;
    atomic_bool stopping;
    atomic_bool dirty; /* the table and the connection may differ */
    pthread_mutex_t mu;
    topic *topics; /* guarded by mu */
    /* BUS */
    redisContext *conn;
    int64_t heard_ms, pinged_ms, pause_ms;
};

static void wake(redis_subscriber *s)
{
    atomic_store(&s->dirty, true);
    (void)!eventfd_write(s->wake_fd, 1);
}

void redis_subscriber_add(redis_subscriber *s, const char *name)
{
    topic *t = NULL;

    if (strlen(name) >= SBX_BUS_TOPIC_BYTES)
        return;
    pthread_mutex_lock(&s->mu);
    HASH_FIND_STR(s->topics, name, t);
    if (!t) {
        t = sbx_alloc(sizeof *t);
        (void)sbx_copy(t->name, sizeof t->name, name);
        HASH_ADD_STR(s->topics, name, t);
    }
    t->wanted++;
    pthread_mutex_unlock(&s->mu);
    wake(s);
}

void redis_subscriber_remove(redis_subscriber *s, const char *name)
{
    topic *t = NULL;

    pthread_mutex_lock(&s->mu);
    HASH_FIND_STR(s->topics, name, t);
    if (t && t->wanted > 0)
        t->wanted--;
    pthread_mutex_unlock(&s->mu);
    wake(s);
}

/* --- BUS --- */

static void forget_connection(redis_subscriber *s)
{
    topic *t, *next;

    redis_close(sbx_steal(s->conn));
    pthread_mutex_lock(&s->mu);
    HASH_ITER (hh, s->topics, t, next) {
        t->active = false;
    }
    pthread_mutex_unlock(&s->mu);
    atomic_store(&s->dirty, true);
}

/* Queue the commands that make the connection agree with the table. */
static void agree(redis_subscriber *s)
{
    topic *t, *next;

    if (!atomic_exchange(&s->dirty, false))
        return;
    pthread_mutex_lock(&s->mu);
    HASH_ITER (hh, s->topics, t, next) {
        if ((t->wanted > 0) != t->active)
            redisAppendCommand(s->conn, "%s %s", t->wanted ? "SUBSCRIBE" : "UNSUBSCRIBE", t->name);
        t->active = t->wanted > 0;
        if (!t->wanted) {
            HASH_DEL(s->topics, t);
            free(t);
        }
    }
    pthread_mutex_unlock(&s->mu);
}

static bool flush(redis_subscriber *s)
{
    int done = 0;

    while (!done)
        if (redisBufferWrite(s->conn, &done) != REDIS_OK)
            return false;
    return true;
}

static void take_message(redis_subscriber *s, const redisReply *r)
{
    const redisReply *kind = r->element[0], *name = r->element[1], *body = r->element[2];
    sbx_bus_item *items = NULL;
    long count;

    if (kind->type != REDIS_REPLY_STRING || name->type != REDIS_REPLY_STRING)
        return;
    if (sbx_streq(kind->str, "subscribe")) {
        bus_readers_call(s->readers, name->str, NULL, 0, true);
        return;
    }
    if (!sbx_streq(kind->str, "message") || body->type != REDIS_REPLY_STRING)
        return;
    count = redis_frame_parse(body->str, body->len, &items);
    if (count > 0)
        bus_readers_call(s->readers, name->str, items, (size_t)count, false);
    free(items);
}

/* Read what is there. False if the connection is of no use any more. */
static bool receive(redis_subscriber *s)
{
    if (redisBufferRead(s->conn) != REDIS_OK)
        return false;
    s->heard_ms = sbx_now_ms();
    for (;;) {
        SBX_CLEANUP_VAL(redis_reply_free) redisReply *r = NULL;

        if (redisGetReplyFromReader(s->conn, (void **)&r) != REDIS_OK)
            return false;
        if (!r)
            return true;
        if (r->type == REDIS_REPLY_ERROR)
            return false;
        if (r->type == REDIS_REPLY_ARRAY && r->elements == 3)
            take_message(s, r);
    }
}

static bool keep_alive(redis_subscriber *s)
{
    int64_t now = sbx_now_ms();

    if (now - s->heard_ms > 2 * PING_MS)
        return false;
    if (now - s->heard_ms >= PING_MS && now - s->pinged_ms >= PING_MS) {
        redisAppendCommand(s->conn, "PING");
        s->pinged_ms = now;
    }
    return true;
}

/* Wait for the connection (if there is one), a change of the table, or the time. */
static short wait_for(const redis_subscriber *s, int64_t ms)
{
    struct pollfd fds[] = {{.fd = s->wake_fd, .events = POLLIN},
                           {.fd = s->conn ? s->conn->fd : -1, .events = POLLIN}};
    eventfd_t count;

    (void)poll(fds, ARRAY_LEN(fds), (int)ms);
    if (fds[0].revents)
        (void)!eventfd_read(s->wake_fd, &count);
    return fds[1].revents;
}

static void reconnect(redis_subscriber *s)
{
    int64_t until;

    s->conn = redis_open(s->url, REDIS_TIMEOUT_MS, NULL);
    if (s->conn) {
        s->heard_ms = sbx_now_ms();
        atomic_store(&s->dirty, true);
        return;
    }
    s->pause_ms = redis_backoff_next(s->pause_ms);
    until = sbx_now_ms() + s->pause_ms;
    for (int64_t left; !s->stopping && (left = until - sbx_now_ms()) > 0;)
        (void)wait_for(s, left);
}

static void *subscriber_run(void *arg)
{
    redis_subscriber *s = arg;

    sbx_thread_set_role(SBX_T_BUS, "sbx-bus");
    while (!s->stopping) {
        bool good;

        if (!s->conn)
            reconnect(s);
        if (!s->conn)
            continue;
        good = keep_alive(s);
        agree(s);
        good = good && flush(s);
        if (good && wait_for(s, 1000))
            good = receive(s);
        if (good && s->heard_ms > s->pinged_ms)
            s->pause_ms = 0;
        if (!good) {
            forget_connection(s);
            s->pause_ms = redis_backoff_next(s->pause_ms);
            (void)wait_for(s, s->pause_ms);
        }
    }
    redis_close(s->conn);
    return NULL;
}

redis_subscriber *redis_subscriber_new(const redis_url *u, bus_readers *readers, sbx_err *err)
{
    redis_subscriber *s = sbx_alloc(sizeof *s);

    s->url = u;
    s->readers = readers;
    pthread_mutex_init(&s->mu, NULL);
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->wake_fd >= 0 && pthread_create(&s->thread, NULL, subscriber_run, s) == 0)
        return s;
    sbx_fail(err, SBX_E_INTERNAL, "starting the bus thread failed");
    if (s->wake_fd >= 0)
        close(s->wake_fd);
    free(s);
    return NULL;
}

void redis_subscriber_free(redis_subscriber *s)
{
    topic *t, *next;

    if (!s)
        return;
    atomic_store(&s->stopping, true);
    wake(s);
    pthread_join(s->thread, NULL);
    HASH_ITER (hh, s->topics, t, next) {
        HASH_DEL(s->topics, t);
        free(t);
    }
    close(s->wake_fd);
    pthread_mutex_destroy(&s->mu);
    free(s);
}
