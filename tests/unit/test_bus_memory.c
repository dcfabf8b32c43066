/* The in-process bus: history, its bounds and ranges, readers. */
#include "sbx/bus/bus.h"
#include "sbx/core/limits.h"
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>

#define TOPIC "logs:aaaaaaaaaaaaaaaaaaaa"

typedef struct heard {
    size_t calls, items, resets;
    uint64_t last;
    char topic[64];
} heard;

static void hear(void *arg, const char *topic, const sbx_bus_item *items, size_t count, bool reset)
{
    heard *h = arg;

    h->calls++;
    h->items += count;
    h->resets += reset;
    if (count)
        h->last = items[count - 1].seq;
    sbx_copy(h->topic, sizeof h->topic, topic);
}

static bool put(sbx_bus *b, const char *topic, uint64_t seq)
{
    char text[32];
    int n = snprintf(text, sizeof text, "{\"seq\":%llu}", (unsigned long long)seq);
    sbx_bus_item it = {.seq = seq, .data = text, .len = (size_t)n};

    return b->ops->publish(b, topic, &it, 1);
}

typedef struct answer {
    sbx_bus_item *items;
    size_t count;
    sbx_buf text;
    int rc;
} answer;

static answer ask(sbx_bus *b, uint64_t since, uint64_t until, size_t max, bool tail, size_t room)
{
    answer a = {.text = SBX_BUF_INIT(room)};
    sbx_err err = {0};

    a.rc = b->ops->history(b, TOPIC, since, until, max, tail, &a.items, &a.count, &a.text, &err);
    return a;
}

static void answer_done(answer *a)
{
    free(a->items);
    sbx_buf_done(&a->text);
}

Test(bus_memory, history_answers_ranges_and_tails)
{
    static const struct {
        const char *name;
        uint64_t since, until;
        size_t max;
        bool tail;
        uint64_t first, last;
    } cases[] = {
        {"all", 0, 0, 1000, false, 1, 20},
        {"since is exclusive", 5, 0, 1000, false, 6, 20},
        {"until is inclusive", 0, 7, 1000, false, 1, 7},
        {"both", 5, 7, 1000, false, 6, 7},
        {"the oldest of many", 5, 0, 3, false, 6, 8},
        {"the newest of many", 5, 0, 3, true, 18, 20},
        {"the newest up to until", 5, 10, 3, true, 8, 10},
        {"since beyond the end", 20, 0, 3, false, 0, 0},
        {"an empty range", 7, 7, 3, false, 0, 0},
        {"a range turned round", 9, 7, 3, false, 0, 0},
        {"none wanted", 0, 0, 0, true, 0, 0},
    };
    sbx_bus *b = sbx_bus_memory_new();

    for (uint64_t i = 1; i <= 20; i++)
        cr_assert(put(b, TOPIC, i));
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        answer a = ask(b, cases[i].since, cases[i].until, cases[i].max, cases[i].tail, MIB);
        size_t want = cases[i].first ? (size_t)(cases[i].last - cases[i].first + 1) : 0;

        cr_expect_eq(a.rc, 0, "%s", cases[i].name);
        cr_expect_eq(a.count, want, "%s: %zu items", cases[i].name, a.count);
        if (a.count && a.count == want) {
            cr_expect_eq(a.items[0].seq, cases[i].first, "%s", cases[i].name);
            cr_expect_eq(a.items[want - 1].seq, cases[i].last, "%s", cases[i].name);
            cr_expect(memcmp(a.items[0].data, "{\"seq\":", 7) == 0, "%s", cases[i].name);
        }
        answer_done(&a);
    }
    b->ops->free(b);
}

Test(bus_memory, keeps_the_newest_lines_only)
{
    sbx_bus *b = sbx_bus_memory_new();
    uint64_t last = 0;
    sbx_err err;

    for (uint64_t i = 1; i <= 2500; i++)
        put(b, TOPIC, i);
    answer a = ask(b, 0, 0, 5000, false, MIB);
    cr_assert_eq(a.count, SBX_LOG_HISTORY_LINES);
    cr_expect_eq(a.items[0].seq, 1501);
    cr_expect_eq(a.items[a.count - 1].seq, 2500);
    answer_done(&a);
    cr_expect_eq(b->ops->last_seq(b, TOPIC, &last, &err), 0);
    cr_expect_eq(last, 2500);
    b->ops->free(b);
}

Test(bus_memory, holds_a_byte_ceiling_per_topic)
{
    sbx_bus *b = sbx_bus_memory_new();
    char *line = sbx_alloc(64 * KIB);

    memset(line, 'x', 64 * KIB);
    for (uint64_t i = 1; i <= 200; i++) {
        sbx_bus_item it = {.seq = i, .data = line, .len = 64 * KIB};
        b->ops->publish(b, TOPIC, &it, 1);
    }
    answer a = ask(b, 0, 0, 1000, false, 64 * MIB);
    cr_assert_eq(a.count, SBX_BUS_HISTORY_BYTES / (64 * KIB));
    cr_expect_eq(a.items[a.count - 1].seq, 200);
    answer_done(&a);
    free(line);
    b->ops->free(b);
}

Test(bus_memory, sent_twice_is_kept_once)
{
    sbx_bus *b = sbx_bus_memory_new();

    put(b, TOPIC, 1);
    put(b, TOPIC, 2);
    put(b, TOPIC, 2);
    put(b, TOPIC, 1);
    put(b, TOPIC, 0);
    put(b, TOPIC, 5);
    answer a = ask(b, 0, 0, 10, false, MIB);
    cr_assert_eq(a.count, 3);
    cr_expect_eq(a.items[2].seq, 5);
    answer_done(&a);
    b->ops->free(b);
}

Test(bus_memory, a_small_buffer_gets_fewer_items_but_at_least_one)
{
    sbx_bus *b = sbx_bus_memory_new();

    for (uint64_t i = 1; i <= 9; i++)
        put(b, TOPIC, i); /* 9 bytes each */
    answer a = ask(b, 0, 0, 10, false, 20);
    cr_assert_eq(a.count, 2);
    cr_expect_eq(a.items[0].seq, 1);
    answer_done(&a);
    a = ask(b, 0, 0, 10, true, 20);
    cr_assert_eq(a.count, 2);
    cr_expect_eq(a.items[1].seq, 9);
    answer_done(&a);
    a = ask(b, 0, 0, 10, false, 5);
    cr_expect_eq(a.rc, -1);
    answer_done(&a);
    b->ops->free(b);
}

Test(bus_memory, readers_hear_what_they_subscribed_to)
{
    sbx_bus *b = sbx_bus_memory_new();
    heard logs = {0}, events = {0};

    b->ops->set_reader(b, "logs:", hear, &logs);
    b->ops->set_reader(b, "events:", hear, &events);
    put(b, TOPIC, 1);
    cr_expect_eq(logs.calls, 0);
    b->ops->subscribe(b, TOPIC);
    b->ops->subscribe(b, TOPIC);
    b->ops->subscribe(b, "events:u");
    put(b, TOPIC, 2);
    put(b, "events:u", 7);
    put(b, "logs:other", 8);
    cr_expect_eq(logs.calls, 1);
    cr_expect_eq(logs.last, 2);
    cr_expect_str_eq(logs.topic, TOPIC);
    cr_expect_eq(events.last, 7);
    b->ops->unsubscribe(b, TOPIC);
    put(b, TOPIC, 3);
    cr_expect_eq(logs.last, 3, "the second subscription holds");
    put(b, TOPIC, 0);
    cr_expect_eq(logs.calls, 3, "signals are heard");
    b->ops->unsubscribe(b, TOPIC);
    b->ops->unsubscribe(b, TOPIC);
    put(b, TOPIC, 4);
    cr_expect_eq(logs.calls, 3);
    b->ops->set_reader(b, "events:", NULL, NULL);
    put(b, "events:u", 9);
    cr_expect_eq(events.calls, 1);
    b->ops->free(b);
}

Test(bus_memory, forgets_a_history_but_not_its_subscribers)
{
    sbx_bus *b = sbx_bus_memory_new();
    heard h = {0};
    uint64_t last = 9;
    sbx_err err;

    b->ops->set_reader(b, "logs:", hear, &h);
    b->ops->subscribe(b, TOPIC);
    put(b, TOPIC, 1);
    b->ops->forget(b, TOPIC);
    b->ops->forget(b, "logs:unknown");
    b->ops->last_seq(b, TOPIC, &last, &err);
    cr_expect_eq(last, 0);
    put(b, TOPIC, 1);
    cr_expect_eq(h.calls, 2);
    cr_expect_eq(b->ops->ping(b, &err), 0);
    b->ops->free(b);
}

Test(bus_memory, a_topic_that_is_too_long_is_refused_and_counted)
{
    sbx_bus *b = sbx_bus_memory_new();
    char name[200];

    memset(name, 'a', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    cr_expect_not(put(b, name, 1));
    cr_expect_eq(b->ops->dropped(b), 1);
    b->ops->subscribe(b, name);
    b->ops->unsubscribe(b, name);
    b->ops->free(b);
}
