/* The publisher: a bounded queue and a thread that empties it into Redis.
 *
 * A message becomes one XADD per item ("sbx:TOPIC", id SEQ-0, trimmed), an EXPIRE and one PUBLISH;
 * a batch of messages is sent as one pipeline. A batch stays in hand until every answer is there:
 * when the connection breaks it is sent again as a whole. That is harmless, as Redis refuses an id
 * that is not above the last one, and readers know items by their number.
 *
 * When the queue is full its oldest messages are dropped, counted, and the newest kept: after an
 * outage the history should have what happened last.
 *
 * Threads: put from any; `mu` guards the queue and is never held over I/O. */
#include "redis.h"
#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>

#define QUEUE_MESSAGES 8192
#define QUEUE_BYTES    (32 * MIB)
#define BATCH_MESSAGES 256
#define BATCH_BYTES    (2 * MIB)
#define KEY_SECONDS    "86400" /* of a history that nobody appends to any more */
#define KEY_BYTES      (SBX_BUS_TOPIC_BYTES + 8)
#define NUMBER_BYTES   24

typedef struct message {
    struct message *next;
    uint64_t ticket;
    char topic[SBX_BUS_TOPIC_BYTES];
    bool forget;
    size_t count; /* items */
    sbx_buf frame;
} message;

struct redis_publisher {
    const redis_url *url;
    pthread_t thread;
    pthread_mutex_t mu;
    pthread_cond_t more, fewer;
    message *first, **last; /* guarded by mu, as all below */
    size_t messages, bytes;
    uint64_t put, done; /* tickets */
    uint64_t dropped;   /* items */
    bool stopping;
    bool unreachable; /* the last attempt to connect failed */
    /* the thread's own */
    redisContext *conn;
    size_t expected; /* answers of the pipeline */
};

static void message_free(message *m)
{
    sbx_buf_done(&m->frame);
    free(m);
}

/* --- any thread --- */

static void drop_oldest_locked(redis_publisher *p)
{
    message *m = p->first;

    p->first = m->next;
    if (!p->first)
        p->last = &p->first;
    p->messages--;
    p->bytes -= m->frame.len;
    p->dropped += m->count;
    message_free(m);
}

/* Takes the message. False if something was dropped for it. */
static bool put(redis_publisher *p, message *m)
{
    bool kept = true;

    pthread_mutex_lock(&p->mu);
    while (p->first && (p->messages >= QUEUE_MESSAGES || p->bytes + m->frame.len > QUEUE_BYTES)) {
        drop_oldest_locked(p);
        kept = false;
    }
    m->ticket = ++p->put;
    m->next = NULL;
    *p->last = m;
    p->last = &m->next;
    p->messages++;
    p->bytes += m->frame.len;
    pthread_cond_signal(&p->more);
    pthread_mutex_unlock(&p->mu);
    return kept;
}

static message *message_new(const char *topic)
{
    message *m = sbx_alloc(sizeof *m);

    sbx_buf_init(&m->frame, QUEUE_BYTES / 2);
    if (sbx_copy(m->topic, sizeof m->topic, topic))
        return m;
    free(m);
    return NULL;
}

bool redis_publisher_put(redis_publisher *p, const char *topic, const sbx_bus_item *items,
                         size_t count)
{
    message *m = message_new(topic);

    for (size_t i = 0; m && i < count; i++)
        redis_frame_add(&m->frame, &items[i]);
    if (m && !sbx_buf_failed(&m->frame)) {
        m->count = count;
        return put(p, m);
    }
    if (m)
        message_free(m);
    pthread_mutex_lock(&p->mu);
    p->dropped += count;
    pthread_mutex_unlock(&p->mu);
    return false;
}

void redis_publisher_forget(redis_publisher *p, const char *topic)
{
    message *m = message_new(topic);

    if (!m)
        return;
    m->forget = true;
    (void)put(p, m);
}

uint64_t redis_publisher_dropped(redis_publisher *p)
{
    uint64_t n;

    pthread_mutex_lock(&p->mu);
    n = p->dropped;
    pthread_mutex_unlock(&p->mu);
    return n;
}

static struct timespec after_ms(int64_t ms)
{
    int64_t at = sbx_now_ms() + ms;

    return (struct timespec){.tv_sec = at / 1000, .tv_nsec = at % 1000 * 1000000};
}

int redis_publisher_wait(redis_publisher *p, int64_t timeout_ms, sbx_err *err)
{
    struct timespec until = after_ms(timeout_ms);
    uint64_t ticket;
    bool done;

    pthread_mutex_lock(&p->mu);
    ticket = p->put;
    while (p->done < ticket && !p->unreachable &&
           pthread_cond_clockwait(&p->fewer, &p->mu, CLOCK_MONOTONIC, &until) != ETIMEDOUT)
        ;
    done = p->done >= ticket;
    pthread_mutex_unlock(&p->mu);
    return done ? 0
                : sbx_fail(err, SBX_E_STORE_UNAVAILABLE, "Redis does not take what is published");
}

/* --- the thread --- */

static void send_args(redis_publisher *p, int argc, const char **argv, const size_t *lens)
{
    if (redisAppendCommandArgv(p->conn, argc, argv, lens) == REDIS_OK)
        p->expected++;
}

static void send_item(redis_publisher *p, const char *key, const sbx_bus_item *item)
{
    char id[NUMBER_BYTES + 2], lines[NUMBER_BYTES];
    const char *argv[] = {"XADD", key, "MAXLEN", "~", lines, id, "d", item->data};
    size_t lens[ARRAY_LEN(argv)];

    snprintf(id, sizeof id, "%llu-0", (unsigned long long)item->seq);
    snprintf(lines, sizeof lines, "%d", SBX_LOG_HISTORY_LINES);
    for (size_t i = 0; i + 1 < ARRAY_LEN(argv); i++)
        lens[i] = strlen(argv[i]);
    lens[ARRAY_LEN(argv) - 1] = item->len;
    send_args(p, ARRAY_LEN(argv), argv, lens);
}

static void send_message(redis_publisher *p, const message *m)
{
    char key[KEY_BYTES];
    sbx_bus_item *items = NULL;
    long count = redis_frame_parse(m->frame.data ? m->frame.data : "", m->frame.len, &items);
    bool kept = false;

    snprintf(key, sizeof key, "sbx:%s", m->topic);
    if (m->forget) {
        send_args(p, 2, (const char *[]){"DEL", key}, (size_t[]){3, strlen(key)});
        return;
    }
    for (long i = 0; i < count; i++) {
        if (items[i].seq == 0)
            continue;
        send_item(p, key, &items[i]);
        kept = true;
    }
    free(items);
    if (kept)
        send_args(p, 3, (const char *[]){"EXPIRE", key, KEY_SECONDS},
                  (size_t[]){6, strlen(key), sizeof KEY_SECONDS - 1});
    send_args(p, 3, (const char *[]){"PUBLISH", m->topic, m->frame.data},
              (size_t[]){7, strlen(m->topic), m->frame.len});
}

static bool begins(const redisReply *r, const char *prefix)
{
    return strncmp(r->str, prefix, strlen(prefix)) == 0;
}

/* An answer after which the batch should be sent again, on a new connection. */
static bool is_temporary(const redisReply *r)
{
    return begins(r, "LOADING") || begins(r, "READONLY") || begins(r, "MASTERDOWN") ||
           begins(r, "CLUSTERDOWN") || begins(r, "TRYAGAIN") || begins(r, "NOAUTH");
}

/* @return false if the batch must be sent again. */
static bool take_answers(redis_publisher *p)
{
    while (p->expected > 0) {
        SBX_CLEANUP_VAL(redis_reply_free) redisReply *r = NULL;

        if (redisGetReply(p->conn, (void **)&r) != REDIS_OK)
            return false;
        p->expected--;
        if (r->type != REDIS_REPLY_ERROR)
            continue;
        if (is_temporary(r))
            return false;
        if (strstr(r->str, "equal or smaller"))
            continue; /* sent before */
        pthread_mutex_lock(&p->mu);
        p->dropped++;
        pthread_mutex_unlock(&p->mu);
    }
    return true;
}

static bool connected(redis_publisher *p)
{
    if (p->conn)
        return true;
    p->conn = redis_open(p->url, REDIS_TIMEOUT_MS, NULL);
    pthread_mutex_lock(&p->mu);
    p->unreachable = !p->conn;
    pthread_cond_broadcast(&p->fewer);
    pthread_mutex_unlock(&p->mu);
    return p->conn != NULL;
}

static bool send_batch(redis_publisher *p, const message *batch)
{
    if (!connected(p))
        return false;
    p->expected = 0;
    for (const message *m = batch; m; m = m->next)
        send_message(p, m);
    if (take_answers(p))
        return true;
    redis_close(sbx_steal(p->conn));
    return false;
}

/* The front of the queue, cut off; NULL when stopping and empty. */
static message *take_batch(redis_publisher *p)
{
    message *batch, **end;
    size_t count = 0, bytes = 0;

    pthread_mutex_lock(&p->mu);
    while (!p->first && !p->stopping)
        pthread_cond_wait(&p->more, &p->mu);
    batch = p->first;
    for (end = &batch; *end && count < BATCH_MESSAGES && bytes < BATCH_BYTES; end = &(*end)->next) {
        count++;
        bytes += (*end)->frame.len;
    }
    p->first = *end;
    *end = NULL;
    if (!p->first)
        p->last = &p->first;
    p->messages -= count;
    p->bytes -= bytes;
    pthread_mutex_unlock(&p->mu);
    return batch;
}

/* A pause that ends when the publisher stops. @return false then. */
static bool pause_unless_stopping(redis_publisher *p, int64_t ms)
{
    struct timespec until = after_ms(ms);
    bool go;

    pthread_mutex_lock(&p->mu);
    while (!p->stopping &&
           pthread_cond_clockwait(&p->more, &p->mu, CLOCK_MONOTONIC, &until) != ETIMEDOUT)
        ;
    go = !p->stopping;
    pthread_mutex_unlock(&p->mu);
    return go;
}

static void batch_done(redis_publisher *p, message *batch, bool sent)
{
    uint64_t ticket = 0, lost = 0;

    while (batch) {
        message *m = batch;

        batch = m->next;
        ticket = m->ticket;
        lost += sent ? 0 : m->count;
        message_free(m);
    }
    pthread_mutex_lock(&p->mu);
    p->done = ticket;
    p->dropped += lost;
    pthread_cond_broadcast(&p->fewer);
    pthread_mutex_unlock(&p->mu);
}

static void *publisher_run(void *arg)
{
    redis_publisher *p = arg;
    message *batch;
    bool sent = true;

    pthread_setname_np(pthread_self(), "sbx-publish");
    while ((batch = take_batch(p))) {
        int64_t pause = 0;

        /* A failure while stopping is the last one: what is left is given up at once. */
        while (sent && !(sent = send_batch(p, batch))) {
            pause = redis_backoff_next(pause);
            sent = pause_unless_stopping(p, pause);
            if (!sent)
                break;
        }
        batch_done(p, batch, sent);
    }
    redis_close(p->conn);
    return NULL;
}

redis_publisher *redis_publisher_new(const redis_url *u, sbx_err *err)
{
    redis_publisher *p = sbx_alloc(sizeof *p);
    int rc;

    p->url = u;
    p->last = &p->first;
    pthread_mutex_init(&p->mu, NULL);
    pthread_cond_init(&p->more, NULL);
    pthread_cond_init(&p->fewer, NULL);
    rc = pthread_create(&p->thread, NULL, publisher_run, p);
    if (rc == 0)
        return p;
    sbx_fail(err, SBX_E_INTERNAL, "starting the publisher: %s", strerror(rc));
    free(p);
    return NULL;
}

/* What is queued is sent if Redis answers, and given up at the first failure. */
void redis_publisher_free(redis_publisher *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->mu);
    p->stopping = true;
    pthread_cond_broadcast(&p->more);
    pthread_mutex_unlock(&p->mu);
    pthread_join(p->thread, NULL);
    pthread_cond_destroy(&p->more);
    pthread_cond_destroy(&p->fewer);
    pthread_mutex_destroy(&p->mu);
    free(p);
}
