/* The bus over a real redis-server: history, live messages, outages, rubbish. */
#include "redis_fixture.h"
#include <pthread.h>
#include <stdatomic.h>

#define TOPIC "logs:bbbbbbbbbbbbbbbbbbbb"

typedef struct heard {
    atomic_size_t items, resets, signals;
    _Atomic uint64_t last, disorder;
} heard;

static void hear(void *arg, const char *topic, const sbx_bus_item *items, size_t count, bool reset)
{
    heard *h = arg;

    if (!sbx_streq(topic, TOPIC))
        return;
    h->resets += reset;
    for (size_t i = 0; i < count; i++) {
        if (items[i].seq == 0) {
            h->signals++;
            continue;
        }
        h->disorder += items[i].seq <= h->last;
        h->last = items[i].seq;
        h->items++;
    }
}

static bool put(sbx_bus *b, uint64_t seq)
{
    char text[32];
    int n = snprintf(text, sizeof text, "{\"seq\":%llu}", (unsigned long long)seq);
    sbx_bus_item it = {.seq = seq, .data = text, .len = (size_t)n};

    return b->ops->publish(b, TOPIC, &it, 1);
}

typedef struct answer {
    sbx_bus_item *items;
    size_t count;
    sbx_buf text;
    sbx_err err;
    int rc;
} answer;

static answer ask(sbx_bus *b, uint64_t since, uint64_t until, size_t max, bool tail, size_t room)
{
    answer a = {.text = SBX_BUF_INIT(room)};

    a.rc = b->ops->history(b, TOPIC, since, until, max, tail, &a.items, &a.count, &a.text, &a.err);
    return a;
}

static void answer_done(answer *a)
{
    free(a->items);
    sbx_buf_done(&a->text);
}

Test(bus_redis, history_answers_ranges_and_tails)
{
    static const struct {
        const char *name;
        uint64_t since, until;
        size_t max;
        bool tail;
        uint64_t first, last;
    } cases[] = {
        {"all", 0, 0, 1000, false, 1, 400},
        {"since is exclusive", 5, 0, 1000, false, 6, 400},
        {"until is inclusive", 0, 7, 1000, false, 1, 7},
        {"both", 5, 7, 1000, false, 6, 7},
        {"the oldest of many", 5, 0, 300, false, 6, 305},
        {"the newest of many", 5, 0, 300, true, 101, 400},
        {"the newest up to until", 5, 10, 3, true, 8, 10},
        {"all from the end", 0, 0, 1000, true, 1, 400},
        {"since beyond the end", 400, 0, 3, false, 0, 0},
        {"far beyond", UINT64_MAX, 0, 3, false, 0, 0},
        {"an empty range", 7, 7, 3, false, 0, 0},
        {"a range turned round", 9, 7, 3, true, 0, 0},
        {"none wanted", 0, 0, 0, true, 0, 0},
    };
    server s = server_new();
    sbx_bus *b = bus_new(s.url);

    for (uint64_t i = 1; i <= 400; i++)
        cr_assert(put(b, i));
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        answer a = ask(b, cases[i].since, cases[i].until, cases[i].max, cases[i].tail, MIB);
        size_t want = cases[i].first ? (size_t)(cases[i].last - cases[i].first + 1) : 0;

        cr_expect_eq(a.rc, 0, "%s: %s", cases[i].name, a.err.msg);
        cr_expect_eq(a.count, want, "%s: %zu items", cases[i].name, a.count);
        for (size_t k = 0; k < a.count && a.count == want; k++) {
            char text[32];

            snprintf(text, sizeof text, "{\"seq\":%llu}", (unsigned long long)cases[i].first + k);
            cr_assert_eq(a.items[k].seq, cases[i].first + k, "%s", cases[i].name);
            cr_assert_eq(a.items[k].len, strlen(text));
            cr_assert(memcmp(a.items[k].data, text, strlen(text)) == 0, "%s", cases[i].name);
        }
        answer_done(&a);
    }
    answer a = ask(b, 0, 0, 10, false, 25);
    cr_expect_eq(a.count, 2, "as many as fit");
    answer_done(&a);
    a = ask(b, 0, 0, 10, true, 25);
    cr_expect_eq(a.count, 2);
    cr_expect_eq(a.items[1].seq, 400);
    answer_done(&a);
    a = ask(b, 0, 0, 10, false, 3);
    cr_expect_eq(a.rc, -1);
    cr_expect_eq(a.err.code, SBX_E_TOO_LARGE);
    answer_done(&a);
    b->ops->free(b);
    server_stop(&s);
}

Test(bus_redis, is_trimmed_expires_and_is_forgotten)
{
    server s = server_new();
    sbx_bus *b = bus_new(s.url);
    uint64_t last = 0;
    sbx_err err;
    redisReply *r;

    for (uint64_t i = 1; i <= 5000; i++)
        put(b, i);
    answer a = ask(b, 0, 0, 5000, true, MIB);
    cr_assert_eq(a.count, SBX_LOG_HISTORY_LINES);
    cr_expect_eq(a.items[0].seq, 4001);
    answer_done(&a);
    cr_expect_eq(b->ops->last_seq(b, TOPIC, &last, &err), 0);
    cr_expect_eq(last, 5000);
    r = DIRECT(&s, "XLEN", "sbx:" TOPIC);
    cr_expect_lt(r->integer, 1200);
    freeReplyObject(r);
    r = DIRECT(&s, "TTL", "sbx:" TOPIC);
    cr_expect_gt(r->integer, 86000);
    freeReplyObject(r);
    b->ops->forget(b, TOPIC);
    cr_expect_eq(b->ops->last_seq(b, TOPIC, &last, &err), 0);
    cr_expect_eq(last, 0);
    b->ops->free(b);
    server_stop(&s);
}

Test(bus_redis, sent_twice_is_kept_once_and_signals_are_not)
{
    server s = server_new();
    sbx_bus *b = bus_new(s.url);
    heard h = {0};

    b->ops->set_reader(b, "logs:", hear, &h);
    b->ops->subscribe(b, TOPIC);
    cr_assert(EVENTUALLY(h.resets == 1));
    put(b, 1);
    put(b, 2);
    put(b, 2);
    put(b, 1);
    put(b, 0);
    put(b, 5);
    answer a = ask(b, 0, 0, 10, false, MIB);
    cr_expect_eq(a.count, 3);
    answer_done(&a);
    cr_expect(EVENTUALLY(h.items == 5));
    cr_expect_eq(h.signals, 1);
    cr_expect_eq(b->ops->dropped(b), 0);
    b->ops->free(b);
    server_stop(&s);
}

Test(bus_redis, workers_hear_each_other)
{
    server s = server_new();
    sbx_bus *from = bus_new(s.url), *to = bus_new(s.url);
    heard h = {0};

    to->ops->set_reader(to, "logs:", hear, &h);
    to->ops->subscribe(to, TOPIC);
    cr_assert(EVENTUALLY(h.resets == 1));
    for (uint64_t i = 1; i <= 20000; i++)
        cr_assert(put(from, i) || i > 8000);
    cr_expect(EVENTUALLY(h.last == 20000));
    cr_expect_eq(h.disorder, 0);
    cr_expect_eq(h.items + from->ops->dropped(from), 20000);
    to->ops->unsubscribe(to, TOPIC);
    to->ops->subscribe(to, TOPIC);
    put(from, 20001);
    cr_expect(EVENTUALLY(h.last == 20001 || h.resets > 1));
    to->ops->unsubscribe(to, TOPIC);
    redisReply *r = NULL;
    cr_expect(EVENTUALLY(
        (freeReplyObject(r), r = DIRECT(&s, "PUBSUB", "CHANNELS"), r && r->elements == 0)));
    freeReplyObject(r);
    from->ops->free(from);
    to->ops->free(to);
    server_stop(&s);
}

Test(bus_redis, an_outage_blocks_nobody_and_ends_by_itself)
{
    server s = server_new();
    sbx_bus *b = bus_new(s.url);
    heard h = {0};
    sbx_err err = {0};
    uint64_t last = 0;
    int64_t began;

    b->ops->set_reader(b, "logs:", hear, &h);
    b->ops->subscribe(b, TOPIC);
    cr_assert(EVENTUALLY(h.resets == 1));
    put(b, 1);
    cr_assert(EVENTUALLY(h.last == 1));
    cr_assert_eq(b->ops->ping(b, &err), 0);

    server_stop(&s);
    began = sbx_now_ms();
    for (uint64_t i = 2; i <= 500; i++)
        cr_expect(put(b, i));
    cr_expect_lt(sbx_now_ms() - began, 1000);
    cr_expect_eq(b->ops->ping(b, &err), -1);
    cr_expect_eq(err.code, SBX_E_STORE_UNAVAILABLE);
    answer a = ask(b, 0, 0, 10, false, MIB);
    cr_expect_eq(a.rc, -1);
    cr_expect_eq(a.err.code, SBX_E_STORE_UNAVAILABLE);
    answer_done(&a);
    cr_expect_lt(sbx_now_ms() - began, 6000);

    server_start(&s);
    cr_expect_eq(b->ops->ping(b, &err), 0, "%s", err.msg);
    cr_expect(EVENTUALLY(h.resets >= 2), "the reader is told to compare");
    cr_expect(EVENTUALLY(b->ops->last_seq(b, TOPIC, &last, &err) == 0 && last == 500));
    a = ask(b, 0, 0, 1000, false, MIB);
    cr_expect_geq(a.count, 499);
    answer_done(&a);
    cr_expect_eq(b->ops->dropped(b), 0);
    put(b, 501);
    cr_expect(EVENTUALLY(h.last == 501));
    b->ops->free(b);
    server_stop(&s);
}

Test(bus_redis, a_long_outage_keeps_the_newest)
{
    server s = server_new();
    sbx_bus *b;
    char *line = sbx_alloc(16 * KIB);
    bool all = true;
    int64_t began;
    const uint64_t last = 4000;

    memset(line, 'x', 16 * KIB);
    server_stop(&s);
    b = bus_new(s.url); /* while Redis is down */
    began = sbx_now_ms();
    for (uint64_t i = 1; i <= last; i++) {
        sbx_bus_item it = {.seq = i, .data = line, .len = 16 * KIB};
        all = b->ops->publish(b, TOPIC, &it, 1) && all;
    }
    cr_expect_lt(sbx_now_ms() - began, 2000);
    cr_expect_not(all, "the loss is told");
    cr_expect_gt(b->ops->dropped(b), 1000);
    server_start(&s);
    uint64_t have = 0;
    sbx_err err;
    cr_expect(EVENTUALLY(b->ops->last_seq(b, TOPIC, &have, &err) == 0 && have == last));
    free(line);
    b->ops->free(b);
    server_stop(&s);
}

Test(bus_redis, survives_a_killed_connection)
{
    server s = server_new();
    sbx_bus *b = bus_new(s.url);
    heard h = {0};
    sbx_err err;
    uint64_t last = 0;

    b->ops->set_reader(b, "logs:", hear, &h);
    b->ops->subscribe(b, TOPIC);
    cr_assert(EVENTUALLY(h.resets == 1));
    for (uint64_t i = 1; i <= 20; i++) {
        cr_assert_eq(b->ops->ping(b, &err), 0);
        freeReplyObject(DIRECT(&s, "CLIENT", "KILL", "TYPE", i % 2 ? "normal" : "pubsub"));
        put(b, i);
        cr_expect_eq(b->ops->last_seq(b, TOPIC, &last, &err), 0, "%s", err.msg);
        cr_expect_eq(last, i);
    }
    cr_expect(EVENTUALLY(h.resets >= 2));
    cr_expect_eq(b->ops->dropped(b), 0);
    b->ops->free(b);
    server_stop(&s);
}

typedef struct news {
    atomic_int lost, all, up, down;
    _Atomic uint64_t last;
    atomic_uint line;
} news;

static void on_lost(void *arg, const char *topic, uint64_t last, uint32_t line)
{
    news *n = arg;

    n->lost += topic != NULL;
    n->all += topic == NULL;
    n->last = last;
    n->line = line;
}

static void on_reached(void *arg, bool reached)
{
    news *n = arg;

    n->up += reached;
    n->down += !reached;
}

static void put_at(sbx_bus *b, uint64_t seq, uint64_t after, uint32_t line)
{
    char text[32];
    int n = snprintf(text, sizeof text, "{\"seq\":%llu}", (unsigned long long)seq);
    sbx_bus_item it = {.seq = seq, .data = text, .len = (size_t)n};

    b->ops->publish_at(b, TOPIC, &it, 1, &(sbx_bus_place){.after = after, .line = line});
}

Test(bus_redis, nothing_is_taken_behind_a_hole_and_nothing_old)
{
    server s = server_new();
    sbx_bus *b = bus_new(s.url);
    heard h = {0};
    news n = {0};
    sbx_err err;
    uint64_t last = 0;

    b->ops->set_watch(b, &(sbx_bus_watch){on_lost, on_reached, &n});
    b->ops->set_reader(b, "logs:", hear, &h);
    b->ops->subscribe(b, TOPIC);
    cr_assert(EVENTUALLY(h.resets == 1));
    put_at(b, 5, 0, 1);
    put_at(b, 6, 5, 1);
    put_at(b, 9, 6, 1); /* the agent's journal had a hole */
    cr_expect_eq(b->ops->last_seq(b, TOPIC, &last, &err), 0);
    cr_expect_eq(last, 9);
    put_at(b, 12, 11, 7);
    cr_expect(EVENTUALLY(n.lost == 1));
    cr_expect_eq(n.last, 9);
    cr_expect_eq(n.line, 7u);
    put_at(b, 7, 6, 1); /* of a worker that stood still */
    put_at(b, 10, 9, 8);
    cr_expect(EVENTUALLY(h.last == 10));
    answer a = ask(b, 0, 0, 10, false, MIB);
    cr_expect_eq(a.count, 4);
    answer_done(&a);
    cr_expect_eq(n.lost, 1);
    b->ops->set_watch(b, NULL);
    b->ops->free(b);
    server_stop(&s);
}

Test(bus_redis, a_memory_that_was_lost_is_told_also_when_nobody_publishes)
{
    server s = server_new();
    sbx_bus *b = bus_new(s.url), *other = bus_new(s.url);
    news n = {0}, o = {0};

    b->ops->set_watch(b, &(sbx_bus_watch){on_lost, on_reached, &n});
    other->ops->set_watch(other, &(sbx_bus_watch){on_lost, on_reached, &o});
    put(b, 1);
    put(other, 2);
    cr_assert(EVENTUALLY(b->ops->last_seq(b, TOPIC, &(uint64_t){0}, &(sbx_err){0}) == 0 &&
                         other->ops->last_seq(other, TOPIC, &(uint64_t){0}, &(sbx_err){0}) == 0));
    freeReplyObject(DIRECT(&s, "FLUSHALL"));
    cr_expect(EVENTUALLY(n.all == 1 && o.all == 1));
    server_stop(&s);
    cr_expect(EVENTUALLY(n.down == 1), "an idle worker notices, too");
    server_start(&s);
    cr_expect(EVENTUALLY(n.up == 1 && n.all == 2 && o.all == 2));
    cr_expect_eq(n.lost, 0);
    b->ops->set_watch(b, NULL);
    other->ops->set_watch(other, NULL);
    b->ops->free(b);
    other->ops->free(other);
    server_stop(&s);
}

Test(bus_redis, rubbish_does_no_harm)
{
    static const char *const messages[] = {
        "",          "x",      "1",       "1 ",        "1 5\nabc", "1 99999999999999999999\n",
        "-1 1\na\n", "1 1\na", "1 1\nab", "1 1\nab\n", "\n\n\n",   "1 18446744073709551615\na\n",
    };
    server s = server_new();
    sbx_bus *b = bus_new(s.url);
    heard h = {0};
    uint64_t last;
    sbx_err err;

    b->ops->set_reader(b, "logs:", hear, &h);
    b->ops->subscribe(b, TOPIC);
    cr_assert(EVENTUALLY(h.resets == 1));
    for (size_t i = 0; i < ARRAY_LEN(messages); i++)
        freeReplyObject(DIRECT(&s, "PUBLISH", TOPIC, messages[i]));
    put(b, 7);
    cr_expect(EVENTUALLY(h.last == 7));
    cr_expect_eq(h.items, 1);

    freeReplyObject(DIRECT(&s, "XADD", "sbx:" TOPIC, "9-3", "other", "{}", "d", "x"));
    answer a = ask(b, 0, 0, 10, false, MIB);
    cr_expect_eq(a.rc, 0);
    cr_expect_eq(a.count, 2);
    answer_done(&a);
    freeReplyObject(DIRECT(&s, "DEL", "sbx:" TOPIC));
    freeReplyObject(DIRECT(&s, "SET", "sbx:" TOPIC, "a string"));
    a = ask(b, 0, 0, 10, false, MIB);
    cr_expect_eq(a.rc, -1);
    answer_done(&a);
    cr_expect_eq(b->ops->last_seq(b, TOPIC, &last, &err), -1);
    put(b, 8); /* the history fails, the message is heard, and others go on */
    cr_expect(EVENTUALLY(h.last == 8));
    cr_expect(EVENTUALLY(b->ops->dropped(b) >= 1));
    freeReplyObject(DIRECT(&s, "DEL", "sbx:" TOPIC));
    put(b, 9);
    cr_expect_eq(b->ops->last_seq(b, TOPIC, &last, &err), 0);
    cr_expect_eq(last, 9);
    b->ops->free(b);
    server_stop(&s);
}

Test(bus_redis, a_wrong_password_is_an_error_that_does_not_show_it)
{
    server s = server_new();
    char url[128];
    sbx_bus *b;
    sbx_err err = {0};

    snprintf(url, sizeof url, "redis://:sesame@127.0.0.1:%d/3", s.port);
    b = bus_new(url);
    put(b, 1);
    cr_expect_eq(b->ops->ping(b, &err), -1);
    cr_expect_eq(err.code, SBX_E_STORE_UNAVAILABLE);
    cr_expect_null(strstr(err.msg, "sesame"));
    b->ops->free(b);
    server_stop(&s);
}

Test(bus_redis, speaks_to_the_configured_server)
{
    const char *url = getenv("SBX_TEST_REDIS_URL");
    sbx_bus *b;
    sbx_err err = {0};

    if (!url)
        cr_skip_test("SBX_TEST_REDIS_URL is not set");
    signal(SIGPIPE, SIG_IGN);
    b = bus_new(url);
    cr_expect_eq(b->ops->ping(b, &err), 0, "%s", err.msg);
    b->ops->forget(b, TOPIC);
    put(b, 3);
    answer a = ask(b, 0, 0, 10, false, MIB);
    cr_expect_eq(a.count, 1, "%s", a.err.msg);
    answer_done(&a);
    b->ops->forget(b, TOPIC);
    b->ops->free(b);
}

/* --- token buckets --- */

static sbx_bus_grant lease(sbx_bus *b, const char *name, int64_t limit, int64_t need, int64_t want)
{
    sbx_bus_bucket ask = {.limit = limit, .window_s = 60, .need = need, .want = want};
    sbx_bus_grant got = {.granted = -1};
    sbx_err err = {0};

    sbx_copy(ask.name, sizeof ask.name, name);
    cr_expect_eq(b->ops->lease(b, &ask, &got, &err), 0, "%s", err.msg);
    return got;
}

Test(bus_redis, a_bucket_is_shared_and_grants_no_token_twice, .timeout = 60)
{
    server s = server_new();
    sbx_bus *a = bus_new(s.url), *b = bus_new(s.url);
    int64_t sum = 0, from = sbx_now_ms();
    sbx_bus_grant g;

    while ((g = lease(sum % 2 ? a : b, "rate:x", 100, 1, 1)).granted)
        sum += g.granted;
    /* A token comes back every 600 ms. */
    cr_expect(sum >= 100 && sum <= 100 + (sbx_now_ms() - from) / 600 + 1, "%lld", (long long)sum);
    cr_expect_eq(g.left, 0);
    cr_expect(g.wait_us > 0 && g.wait_us <= 600000, "%lld", (long long)g.wait_us);
    int64_t refused_ms = sbx_now_ms(), wait_us = g.wait_us, back = 0;
    cr_expect(EVENTUALLY(back || (back = lease(a, "rate:x", 100, 1, 1).granted)));
    cr_expect_geq(sbx_now_ms() + 2, refused_ms + wait_us / 1000);
    cr_expect_eq(lease(a, "rate:y", 100, 1, 1).granted, 1, "another bucket");
    a->ops->free(a);
    b->ops->free(b);
    server_stop(&s);
}

Test(bus_redis, a_block_is_an_eighth_of_what_is_left_and_many_are_all_or_nothing, .timeout = 60)
{
    server s = server_new();
    sbx_bus *b = bus_new(s.url);

    sbx_bus_grant g = lease(b, "rate:x", 10000000, 1, 166666);
    cr_expect_eq(g.granted, 166666);
    g = lease(b, "rate:z", 800, 1, 500);
    cr_expect_eq(g.granted, 100);
    cr_expect_eq(g.left, 700);
    g = lease(b, "rate:z", 800, 600, 600);
    cr_expect_eq(g.granted, 600);
    g = lease(b, "rate:z", 800, 200, 200);
    cr_expect_eq(g.granted, 0);
    cr_expect(g.left >= 100 && g.left < 110, "nothing was taken: %lld", (long long)g.left);
    /* What is full is forgotten by itself. */
    redisReply *r = DIRECT(&s, "PTTL", "sbx:rate:z");
    cr_expect(r && r->integer > 50000 && r->integer < 62000, "%lld", r ? r->integer : 0);
    freeReplyObject(r);
    b->ops->free(b);
    server_stop(&s);
}

Test(bus_redis, a_bucket_without_redis_is_an_error_at_once, .timeout = 60)
{
    server s = server_new();
    sbx_bus *b = bus_new(s.url);
    sbx_bus_bucket ask = {.name = "rate:x", .limit = 10, .window_s = 60, .need = 1, .want = 1};
    sbx_bus_grant got;
    sbx_err err = {0};

    lease(b, "rate:x", 10, 1, 1);
    kill(s.pid, SIGSTOP);
    int64_t from = sbx_now_ms();
    cr_expect_eq(b->ops->lease(b, &ask, &got, &err), -1);
    cr_expect_eq(err.code, SBX_E_STORE_UNAVAILABLE);
    cr_expect_lt(sbx_now_ms() - from, 1500);
    kill(s.pid, SIGCONT);
    server_stop(&s);
    cr_expect_eq(b->ops->lease(b, &ask, &got, &err), -1);
    cr_expect_eq(err.code, SBX_E_STORE_UNAVAILABLE);
    b->ops->free(b);
}
