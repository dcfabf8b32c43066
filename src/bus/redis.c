/* The bus over Redis: live messages by PUBLISH, the history in one stream per topic.
 *
 * Three kinds of connections: the publisher's, the subscriber's, and a few for queries, which
 * workers lease. A leased connection that turns out to be dead (Redis was restarted) is replaced
 * once before the query fails. Ids of the stream are SEQ-0, so a range of numbers is a range of
 * ids. XRANGE is asked in pieces, as the sizes of lines are not known before. */
#include "redis.h"
#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include <stdio.h>

#define IDLE_MAX    8
#define PIECE_LINES 128
#define LEASE_MS    100 /* a request waits for it */
#define KEY_BYTES   (SBX_BUS_TOPIC_BYTES + 8)

typedef struct redis_bus {
    sbx_bus bus;
    redis_url url; /* immutable */
    bus_readers readers;
    redis_publisher *publisher;
    redis_subscriber *subscriber;
    pthread_mutex_t mu;
    redisContext *idle[IDLE_MAX];   /* guarded by mu */
    size_t idle_count;              /* guarded by mu */
    _Atomic int64_t avoid_until_ms; /* Redis cannot be reached: workers have better to do */
} redis_bus;

static redis_bus *redis_of(sbx_bus *b)
{
    return sbx_container_of(b, redis_bus, bus);
}

/* --- connections for queries --- */

typedef struct session {
    redis_bus *b;
    redisContext *conn;
    bool used_before; /* it may have died in the meantime */
    bool insist;      /* try to connect even if that has just failed */
    int64_t most_ms;  /* for each step */
} session;

static int64_t time_left(int64_t most_ms)
{
    return SBX_MIN(sbx_job_left_ms(most_ms), most_ms);
}

static session session_open(redis_bus *b)
{
    session s = {.b = b, .most_ms = REDIS_TIMEOUT_MS};

    pthread_mutex_lock(&b->mu);
    if (b->idle_count > 0)
        s.conn = b->idle[--b->idle_count];
    pthread_mutex_unlock(&b->mu);
    s.used_before = s.conn != NULL;
    return s;
}

static void session_close(session *s)
{
    bool kept = false;

    if (!s->conn)
        return;
    pthread_mutex_lock(&s->b->mu);
    if (s->b->idle_count < IDLE_MAX) {
        s->b->idle[s->b->idle_count++] = s->conn;
        kept = true;
    }
    pthread_mutex_unlock(&s->b->mu);
    if (!kept)
        redis_close(s->conn);
    s->conn = NULL;
}

static void drop_idle(redis_bus *b)
{
    redisContext *idle[IDLE_MAX];
    size_t count;

    pthread_mutex_lock(&b->mu);
    count = b->idle_count;
    memcpy(idle, b->idle, sizeof idle);
    b->idle_count = 0;
    pthread_mutex_unlock(&b->mu);
    for (size_t i = 0; i < count; i++)
        redis_close(idle[i]);
}

static bool session_ready(session *s, sbx_err *err)
{
    int64_t left = time_left(s->most_ms);
    struct timeval t;

    if (left <= 0) {
        sbx_fail(err, SBX_E_TIMEOUT, "no time left to ask Redis");
        return false;
    }
    if (!s->conn) {
        if (!s->insist && sbx_now_ms() < s->b->avoid_until_ms) {
            sbx_fail(err, SBX_E_STORE_UNAVAILABLE, "Redis cannot be reached");
            return false;
        }
        s->conn = redis_open(&s->b->url, left, err);
        s->used_before = false;
        s->b->avoid_until_ms = s->conn ? 0 : sbx_now_ms() + REDIS_AVOID_MS;
        return s->conn != NULL;
    }
    t = (struct timeval){.tv_sec = left / 1000, .tv_usec = left % 1000 * 1000};
    redisSetTimeout(s->conn, t);
    return true;
}

/* One command. NULL on failure; an error of Redis is one. */
static redisReply *session_ask(session *s, int argc, const char **argv, sbx_err *err)
{
    for (;;) {
        redisReply *r;
        bool again;

        if (!session_ready(s, err))
            return NULL;
        r = redisCommandArgv(s->conn, argc, argv, NULL);
        if (r && r->type == REDIS_REPLY_ERROR) {
            sbx_fail(err, SBX_E_STORE_UNAVAILABLE, "Redis refused: %.200s", r->str);
            freeReplyObject(r);
            return NULL;
        }
        if (r)
            return r;
        sbx_fail(err, SBX_E_STORE_UNAVAILABLE, "Redis does not answer: %s", s->conn->errstr);
        again = s->used_before;
        redis_close(sbx_steal(s->conn));
        if (!again)
            return NULL;
        drop_idle(s->b); /* they are as old */
    }
}

/* --- the history --- */

typedef struct collect {
    sbx_bus_item *items; /* data: the offset in the text, until the end */
    size_t count, cap, max;
    sbx_buf *text;
    bool full;
} collect;

/* [id, [field, value, ...]], as publisher.c wrote it. What is not of that form is left out. */
static bool entry_read(const redisReply *r, uint64_t *ret_seq, const redisReply **ret_value)
{
    uint64_t seq = 0;
    const redisReply *fields;

    if (r->type != REDIS_REPLY_ARRAY || r->elements != 2 ||
        r->element[0]->type != REDIS_REPLY_STRING || r->element[1]->type != REDIS_REPLY_ARRAY)
        return false;
    for (const char *p = r->element[0]->str; *p != '-'; p++) {
        unsigned digit = (unsigned)(unsigned char)*p - '0';

        if (digit > 9 || seq > (UINT64_MAX - digit) / 10)
            return false;
        seq = seq * 10 + digit;
    }
    *ret_seq = seq;
    fields = r->element[1];
    if (fields->elements < 2 || fields->element[1]->type != REDIS_REPLY_STRING)
        *ret_value = NULL;
    else
        *ret_value = fields->element[1];
    return seq > 0;
}

static void collect_add(collect *c, uint64_t seq, const redisReply *value)
{
    if (c->count == c->max || value->len > c->text->max - c->text->len) {
        c->full = true;
        return;
    }
    if (c->count == c->cap) {
        c->cap = c->cap ? c->cap * 2 : 64;
        c->items = sbx_realloc(c->items, c->cap * sizeof *c->items);
    }
    c->items[c->count++] = (sbx_bus_item){
        .seq = seq, .len = value->len, .data = (const char *)(uintptr_t)c->text->len};
    sbx_buf_add(c->text, value->str, value->len);
}

static void collect_finish(collect *c, bool tail)
{
    for (size_t i = 0; i < c->count; i++)
        c->items[i].data = c->text->data + (uintptr_t)c->items[i].data;
    for (size_t i = 0; tail && i < c->count / 2; i++) {
        sbx_bus_item other = c->items[i];

        c->items[i] = c->items[c->count - 1 - i];
        c->items[c->count - 1 - i] = other;
    }
}

/* Take one piece. @return 1 if there may be more behind *last, 0 at the end, -1 on failure. */
static int take_piece(session *s, const char *key, uint64_t low, uint64_t high, bool tail,
                      collect *c, uint64_t *last, sbx_err *err)
{
    const size_t piece = SBX_MIN((size_t)PIECE_LINES, c->max - c->count);
    char from[24], to[24], count[24];
    const char *argv[] = {
        tail ? "XREVRANGE" : "XRANGE", key, tail ? to : from, tail ? from : to, "COUNT", count};
    SBX_CLEANUP_VAL(redis_reply_free) redisReply *r = NULL;

    snprintf(from, sizeof from, "%llu", (unsigned long long)low);
    snprintf(to, sizeof to, "%llu", (unsigned long long)high);
    snprintf(count, sizeof count, "%zu", piece);
    r = session_ask(s, ARRAY_LEN(argv), argv, err);
    if (!r)
        return -1;
    if (r->type != REDIS_REPLY_ARRAY)
        return sbx_fail(err, SBX_E_STORE_UNAVAILABLE, "Redis gave an unexpected answer");
    for (size_t i = 0; i < r->elements && !c->full; i++) {
        const redisReply *value;
        uint64_t seq;

        if (!entry_read(r->element[i], &seq, &value))
            return sbx_fail(err, SBX_E_STORE_UNAVAILABLE, "the history in Redis is malformed");
        *last = seq;
        if (value)
            collect_add(c, seq, value);
    }
    return r->elements == piece && !c->full && c->count < c->max;
}

static int read_history(session *s, const char *key, uint64_t since, uint64_t until, bool tail,
                        collect *c, sbx_err *err)
{
    uint64_t low = since + 1, high = until ? until : UINT64_MAX, last = 0;
    int more = 1;

    while (more > 0 && low <= high) {
        more = take_piece(s, key, low, high, tail, c, &last, err);
        if (more < 0)
            return -1;
        if (tail)
            high = last - 1;
        else
            low = last + 1;
    }
    return 0;
}

static int redis_history(sbx_bus *bus, const char *topic, uint64_t since, uint64_t until,
                         size_t max, bool tail, sbx_bus_item **ret, size_t *ret_count,
                         sbx_buf *ret_text, sbx_err *err)
{
    redis_bus *b = redis_of(bus);
    collect c = {.text = ret_text, .max = SBX_MIN(max, (size_t)SBX_LOG_HISTORY_LINES)};
    session s;
    char key[KEY_BYTES];
    int rc;

    if (redis_publisher_wait(b->publisher, time_left(REDIS_TIMEOUT_MS), err) < 0)
        return -1;
    if (since >= INT64_MAX || c.max == 0) {
        *ret = NULL;
        *ret_count = 0;
        return 0;
    }
    snprintf(key, sizeof key, "sbx:%s", topic);
    s = session_open(b);
    rc = read_history(&s, key, since, until, tail, &c, err);
    session_close(&s);
    if (rc == 0 && c.full && c.count == 0)
        rc = sbx_fail(err, SBX_E_TOO_LARGE, "the buffer is too small for one item");
    if (rc < 0) {
        free(c.items);
        return -1;
    }
    collect_finish(&c, tail);
    *ret = c.items;
    *ret_count = c.count;
    return 0;
}

static int redis_last_seq(sbx_bus *bus, const char *topic, uint64_t *ret, sbx_err *err)
{
    redis_bus *b = redis_of(bus);
    SBX_CLEANUP_VAL(redis_reply_free) redisReply *r = NULL;
    const redisReply *value;
    session s;
    uint64_t seq = 0;
    char key[KEY_BYTES];
    const char *argv[] = {"XREVRANGE", key, "+", "-", "COUNT", "1"};

    if (redis_publisher_wait(b->publisher, time_left(REDIS_TIMEOUT_MS), err) < 0)
        return -1;
    snprintf(key, sizeof key, "sbx:%s", topic);
    s = session_open(b);
    r = session_ask(&s, ARRAY_LEN(argv), argv, err);
    session_close(&s);
    if (!r)
        return -1;
    if (r->type != REDIS_REPLY_ARRAY ||
        (r->elements > 0 && !entry_read(r->element[0], &seq, &value)))
        return sbx_fail(err, SBX_E_STORE_UNAVAILABLE, "the history in Redis is malformed");
    *ret = seq;
    return 0;
}

static int redis_ping(sbx_bus *bus, sbx_err *err)
{
    session s = session_open(redis_of(bus));
    const char *argv[] = {"PING"};
    redisReply *r;

    s.insist = true;
    r = session_ask(&s, 1, argv, err);
    session_close(&s);
    if (!r)
        return -1;
    freeReplyObject(r);
    return 0;
}

/* --- token buckets --- */

/* KEYS[1] bucket; ARGV limit, window in microseconds, need, want. The value is the time at which
 * the bucket will be full, in microseconds. Redis's clock, so that workers need not agree. */
static const char lease_script[] =
    "local t = redis.call('TIME') local now = t[1] * 1000000 + t[2]"
    " local limit, need, want = tonumber(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[4])"
    " local token = ARGV[2] / limit"
    " local full = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)"
    " local left = math.max(math.floor(limit - (full - now) / token + 0.000001), 0)"
    " if left < need then"
    " return {0, left, math.ceil((full - now) - (limit - need) * token)} end"
    " local take = math.max(need, math.min(want, math.floor(left / 8)))"
    " full = full + take * token"
    " redis.call('SET', KEYS[1], string.format('%.3f', full), 'PX',"
    " math.ceil((full - now) / 1000) + 1000)"
    " return {take, left - take, 0}";

static bool grant_read(const redisReply *r, sbx_bus_grant *ret)
{
    if (r->type != REDIS_REPLY_ARRAY || r->elements != 3)
        return false;
    for (size_t i = 0; i < r->elements; i++)
        if (r->element[i]->type != REDIS_REPLY_INTEGER || r->element[i]->integer < 0)
            return false;
    *ret = (sbx_bus_grant){.granted = r->element[0]->integer,
                           .left = r->element[1]->integer,
                           .wait_us = r->element[2]->integer};
    return true;
}

static int redis_lease(sbx_bus *bus, const sbx_bus_bucket *bucket, sbx_bus_grant *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(redis_reply_free) redisReply *r = NULL;
    session s = session_open(redis_of(bus));
    char key[KEY_BYTES], limit[24], window[24], need[24], want[24];
    const char *argv[] = {"EVAL", lease_script, "1", key, limit, window, need, want};

    s.most_ms = LEASE_MS;
    snprintf(key, sizeof key, "sbx:%s", bucket->name);
    sbx_num_text(limit, bucket->limit);
    sbx_num_text(window, bucket->window_s * 1000000);
    sbx_num_text(need, bucket->need);
    sbx_num_text(want, bucket->want);
    r = session_ask(&s, ARRAY_LEN(argv), argv, err);
    session_close(&s);
    if (!r)
        return -1;
    if (!grant_read(r, ret))
        return sbx_fail(err, SBX_E_STORE_UNAVAILABLE, "Redis gave an unexpected answer");
    return 0;
}

/* --- the rest goes to the threads --- */

static bool redis_publish_at(sbx_bus *bus, const char *topic, const sbx_bus_item *items,
                             size_t count, const sbx_bus_place *place)
{
    return count == 0 || redis_publisher_put(redis_of(bus)->publisher, topic, items, count, place);
}

static bool redis_publish(sbx_bus *bus, const char *topic, const sbx_bus_item *items, size_t count)
{
    return redis_publish_at(bus, topic, items, count, NULL);
}

static void redis_set_watch(sbx_bus *bus, const sbx_bus_watch *watch)
{
    redis_publisher_watch(redis_of(bus)->publisher, watch);
}

static void redis_set_reader(sbx_bus *bus, const char *prefix, sbx_bus_fn fn, void *arg)
{
    bus_readers_set(&redis_of(bus)->readers, prefix, fn, arg);
}

static void redis_subscribe(sbx_bus *bus, const char *topic)
{
    redis_subscriber_add(redis_of(bus)->subscriber, topic);
}

static void redis_unsubscribe(sbx_bus *bus, const char *topic)
{
    redis_subscriber_remove(redis_of(bus)->subscriber, topic);
}

static void redis_forget(sbx_bus *bus, const char *topic)
{
    redis_publisher_forget(redis_of(bus)->publisher, topic);
}

static uint64_t redis_dropped(sbx_bus *bus)
{
    return redis_publisher_dropped(redis_of(bus)->publisher);
}

static void redis_free(sbx_bus *bus)
{
    redis_bus *b;

    if (!bus)
        return;
    b = redis_of(bus);
    redis_subscriber_free(b->subscriber);
    redis_publisher_free(b->publisher);
    drop_idle(b);
    bus_readers_done(&b->readers);
    pthread_mutex_destroy(&b->mu);
    redis_url_done(&b->url);
    free(b);
}

static const sbx_bus_ops redis_ops = {
    .publish = redis_publish,
    .publish_at = redis_publish_at,
    .set_watch = redis_set_watch,
    .set_reader = redis_set_reader,
    .subscribe = redis_subscribe,
    .unsubscribe = redis_unsubscribe,
    .history = redis_history,
    .last_seq = redis_last_seq,
    .forget = redis_forget,
    .ping = redis_ping,
    .lease = redis_lease,
    .dropped = redis_dropped,
    .name = "redis",
    .free = redis_free,
};

int sbx_bus_redis_new(const char *url, sbx_bus **ret, sbx_err *err)
{
    redis_url parsed;
    redis_bus *b;

    if (redis_url_parse(url, &parsed, err) < 0)
        return -1;
    b = sbx_alloc(sizeof *b);
    b->bus.ops = &redis_ops;
    b->url = parsed;
    pthread_mutex_init(&b->mu, NULL);
    bus_readers_init(&b->readers);
    b->publisher = redis_publisher_new(&b->url, err);
    if (b->publisher)
        b->subscriber = redis_subscriber_new(&b->url, &b->readers, err);
    if (!b->subscriber) {
        redis_free(&b->bus);
        return -1;
    }
    *ret = &b->bus;
    return 0;
}
