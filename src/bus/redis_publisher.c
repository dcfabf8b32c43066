/* The publisher: a bounded queue and a thread that empties it into Redis.
 *
 * A message is one command: a script that adds its items to the stream "sbx:TOPIC" (id SEQ-0,
 * trimmed) and publishes it, or refuses it if the stream ends before the place of the message. A
 * batch of messages is sent as one pipeline, and stays in hand until every answer is there: when
 * the connection breaks it is sent again as a whole. That is harmless, as the script adds nothing
 * that is not above the last number, and readers know items by their number. For the same reason a
 * worker that stood still while another one took over changes nothing.
 *
 * Logs that nobody writes to have no message that could be refused. So a random text in Redis is
 * looked at after each connect, and every other second: if it is another one, all is lost.
 *
 * When the queue is full its oldest messages are dropped, counted, and the newest kept: after an
 * outage the history should have what happened last.
 *
 * Threads: put from any; `mu` guards the queue and is never held over I/O. */
#include "redis.h"
#include "sbx/core/clock.h"
#include "sbx/core/id.h"
#include "sbx/core/log.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>

#define QUEUE_MESSAGES 8192
#define QUEUE_BYTES    (32 * MIB)
#define BATCH_MESSAGES 256
#define BATCH_BYTES    (2 * MIB)
#define KEY_SECONDS    "86400" /* of a history that nobody appends to any more */
#define MARK_KEY       "sbx:mark"
#define LOOK_MS        2000
#define KEY_BYTES      (SBX_BUS_TOPIC_BYTES + 8)
#define NUMBER_BYTES   24

typedef struct message {
    struct message *next;
    uint64_t ticket;
    char topic[SBX_BUS_TOPIC_BYTES];
    bool forget;
    bool kept;    /* it has numbered items, for the history */
    size_t count; /* items */
    sbx_bus_place place;
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
    bool unreachable;         /* the last attempt to connect failed */
    pthread_mutex_t watch_mu; /* held while the watch runs; no other lock is taken under it */
    sbx_bus_watch watch;      /* guarded by watch_mu */
    /* the thread's own */
    redisContext *conn;
    char mark[SBX_ID_LEN + 1]; /* that Redis had when it was last looked at; "" before */
    int64_t looked_ms;
};

/* KEYS[1] the stream; ARGV: the message, its topic, the place, lines to keep, seconds to live.
 * @return -1, or the last number of a history that ends before the place. */
static const char add_script[] =
    "local e = redis.pcall('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)"
    " if e.err then redis.call('PUBLISH', ARGV[2], ARGV[1]) return e end"
    " local last = e[1] and tonumber(string.match(e[1][1], '^%d+')) or 0"
    " if last < tonumber(ARGV[3]) then return last end"
    " local m, at = ARGV[1], 1"
    " while true do"
    " local _, head, seq, len = string.find(m, '^(%d+) (%d+)\\n', at)"
    " if not head then break end"
    " at = head + tonumber(len) + 2"
    " if tonumber(seq) > last then redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], seq .. '-0',"
    " 'd', string.sub(m, head + 1, at - 2)) last = tonumber(seq) end end"
    " redis.call('EXPIRE', KEYS[1], ARGV[5])"
    " redis.call('PUBLISH', ARGV[2], m) return -1";

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
                         size_t count, const sbx_bus_place *place)
{
    message *m = message_new(topic);

    for (size_t i = 0; m && i < count; i++) {
        redis_frame_add(&m->frame, &items[i]);
        m->kept = m->kept || items[i].seq > 0;
    }
    if (m && place)
        m->place = *place;
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

void redis_publisher_watch(redis_publisher *p, const sbx_bus_watch *watch)
{
    pthread_mutex_lock(&p->watch_mu);
    p->watch = watch ? *watch : (sbx_bus_watch){0};
    pthread_mutex_unlock(&p->watch_mu);
}

/* --- the thread --- */

static void tell_lost(redis_publisher *p, const char *topic, uint64_t last, uint32_t line)
{
    pthread_mutex_lock(&p->watch_mu);
    if (p->watch.lost)
        p->watch.lost(p->watch.arg, topic, last, line);
    pthread_mutex_unlock(&p->watch_mu);
}

static void tell_reached(redis_publisher *p, bool reached)
{
    bool news;

    pthread_mutex_lock(&p->mu);
    news = p->unreachable == reached;
    p->unreachable = !reached;
    pthread_cond_broadcast(&p->fewer);
    pthread_mutex_unlock(&p->mu);
    pthread_mutex_lock(&p->watch_mu);
    if (news && p->watch.reached)
        p->watch.reached(p->watch.arg, reached);
    pthread_mutex_unlock(&p->watch_mu);
}

static void send_message(const redis_publisher *p, const message *m)
{
    char key[KEY_BYTES], after[NUMBER_BYTES], lines[NUMBER_BYTES];
    const char *add[] = {"EVAL",   add_script, "1",   key,        m->frame.data,
                         m->topic, after,      lines, KEY_SECONDS};
    const char *forget[] = {"DEL", key}, *tell[] = {"PUBLISH", m->topic, m->frame.data};
    const char **argv = m->forget ? forget : m->kept ? add : tell;
    int argc = m->forget ? ARRAY_LEN(forget) : m->kept ? ARRAY_LEN(add) : ARRAY_LEN(tell);
    size_t lens[ARRAY_LEN(add)];

    snprintf(key, sizeof key, "sbx:%s", m->topic);
    snprintf(after, sizeof after, "%llu", (unsigned long long)m->place.after);
    snprintf(lines, sizeof lines, "%d", SBX_LOG_HISTORY_LINES);
    for (int i = 0; i < argc; i++)
        lens[i] = argv[i] == m->frame.data ? m->frame.len : strlen(argv[i]);
    /* That there is no memory for it is told by the connection, when the answers are read. */
    (void)redisAppendCommandArgv(p->conn, argc, argv, lens);
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
static bool take_answers(redis_publisher *p, const message *batch)
{
    for (const message *m = batch; m; m = m->next) {
        SBX_CLEANUP_VAL(redis_reply_free) redisReply *r = NULL;

        if (redisGetReply(p->conn, (void **)&r) != REDIS_OK)
            return false;
        if (r->type == REDIS_REPLY_INTEGER && m->kept && r->integer >= 0)
            tell_lost(p, m->topic, (uint64_t)r->integer, m->place.line);
        if (r->type != REDIS_REPLY_ERROR)
            continue;
        if (is_temporary(r))
            return false;
        pthread_mutex_lock(&p->mu);
        p->dropped += m->count;
        pthread_mutex_unlock(&p->mu);
    }
    return true;
}

/* Does Redis still have what it had? What is lost is told.
 * @return false if it cannot be asked. */
static bool look_at_mark(redis_publisher *p)
{
    sbx_id mine = sbx_id_new();
    SBX_CLEANUP_VAL(redis_reply_free)
    redisReply *set = redisCommand(p->conn, "SET %s %s NX", MARK_KEY, mine.s);
    SBX_CLEANUP_VAL(redis_reply_free)
    redisReply *got = set ? redisCommand(p->conn, "GET %s", MARK_KEY) : NULL;

    p->looked_ms = sbx_now_ms();
    if (!got || got->type == REDIS_REPLY_ERROR)
        return false;
    if (got->type != REDIS_REPLY_STRING || sbx_streq(got->str, p->mark))
        return true;
    if (*p->mark)
        tell_lost(p, NULL, 0, 0);
    (void)sbx_copy(p->mark, sizeof p->mark, got->str);
    return true;
}

static void disconnect(redis_publisher *p)
{
    redis_close(sbx_steal(p->conn));
}

static bool connected(redis_publisher *p)
{
    if (!p->conn)
        p->conn = redis_open(p->url, REDIS_TIMEOUT_MS, NULL);
    else if (sbx_now_ms() - p->looked_ms < LOOK_MS)
        return true;
    if (p->conn && !look_at_mark(p))
        disconnect(p);
    tell_reached(p, p->conn != NULL);
    return p->conn != NULL;
}

static bool send_batch(redis_publisher *p, const message *batch)
{
    if (!connected(p))
        return false;
    for (const message *m = batch; m; m = m->next)
        send_message(p, m);
    if (take_answers(p, batch))
        return true;
    disconnect(p);
    return false;
}

/* Wait for something to send, but not past the time of the next look.
 * @return false when stopping and empty. */
static bool wait_for_more(redis_publisher *p)
{
    struct timespec until = after_ms(LOOK_MS);
    bool go;

    pthread_mutex_lock(&p->mu);
    while (!p->first && !p->stopping &&
           pthread_cond_clockwait(&p->more, &p->mu, CLOCK_MONOTONIC, &until) != ETIMEDOUT)
        ;
    go = p->first || !p->stopping;
    pthread_mutex_unlock(&p->mu);
    return go;
}

/* The front of the queue, cut off; NULL if it is empty. */
static message *take_batch(redis_publisher *p)
{
    message *batch, **end;
    size_t count = 0, bytes = 0;

    pthread_mutex_lock(&p->mu);
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
    bool sent = true;

    pthread_setname_np(pthread_self(), "sbx-publish");
    while (wait_for_more(p)) {
        message *batch = take_batch(p);
        int64_t pause = 0;

        if (!batch) {
            (void)connected(p);
            continue;
        }
        /* A failure while stopping is the last one: what is left is given up at once. */
        while (sent && !(sent = send_batch(p, batch))) {
            pause = redis_backoff_next(pause);
            sent = pause_unless_stopping(p, pause);
            if (!sent)
                break;
        }
        batch_done(p, batch, sent);
    }
    disconnect(p);
    return NULL;
}

redis_publisher *redis_publisher_new(const redis_url *u, sbx_err *err)
{
    redis_publisher *p = sbx_alloc(sizeof *p);
    int rc;

    p->url = u;
    p->last = &p->first;
    pthread_mutex_init(&p->mu, NULL);
    pthread_mutex_init(&p->watch_mu, NULL);
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
    pthread_mutex_destroy(&p->watch_mu);
    pthread_mutex_destroy(&p->mu);
    free(p);
}
