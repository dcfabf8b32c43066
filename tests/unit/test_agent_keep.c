/* What the agent keeps of the output of commands. */
#include "keep.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define COMMANDS 7

/* Any byte of any command, by its place in the command's whole output. */
static unsigned char byte_of(unsigned command, uint64_t at)
{
    return (unsigned char)(command * 31 + at * 7 + at / 251);
}

typedef struct world {
    agent_keep *keep;
    agent_kept kept[COMMANDS];
    uint64_t written[COMMANDS];
    agent_place place[COMMANDS];
    uint64_t read[COMMANDS];
    unsigned seed;
} world;

static void make(world *w, unsigned seed)
{
    memset(w, 0, sizeof *w);
    w->keep = agent_keep_new();
    cr_assert_not_null(w->keep);
    w->seed = seed;
    for (int i = 0; i < COMMANDS; i++) {
        agent_kept_init(&w->kept[i]);
        agent_keep_begin(w->keep, &w->kept[i], &w->place[i], 0);
    }
}

static unsigned dice(world *w, unsigned sides)
{
    w->seed = w->seed * 1103515245u + 12345u;
    return (w->seed >> 8) % sides;
}

static void write_some(world *w, unsigned i, size_t len)
{
    static unsigned char data[SBX_CHUNK_BYTES];

    for (size_t k = 0; k < len; k++)
        data[k] = byte_of(i, w->written[i] + k);
    agent_keep_add(w->keep, &w->kept[i], 1, data, len);
    w->written[i] += len;
    cr_assert_eq(w->kept[i].bytes, w->written[i]);
}

/* Reads what is next. @return whether there was something. */
static bool read_some(world *w, unsigned i)
{
    agent_place *p = &w->place[i];
    agent_chunk c;

    switch (agent_keep_look(w->keep, &w->kept[i], p, &c)) {
    case AGENT_LOOK_NONE:
        return false;
    case AGENT_LOOK_GAP:
        agent_keep_skip(&w->kept[i], p);
        w->read[i] = p->read;
        return true;
    case AGENT_LOOK_CHUNK:
        break;
    }
    cr_assert_eq(c.number, p->next);
    cr_assert(c.len > 0 && c.len <= SBX_CHUNK_BYTES);
    for (uint32_t k = 0; k < c.len; k++)
        cr_assert_eq(c.data[k], byte_of(i, w->read[i] + k), "command %u, chunk %lu, byte %u", i,
                     c.number, k);
    w->read[i] += c.len;
    agent_keep_pass(w->keep, &w->kept[i], p);
    cr_assert_eq(p->read, w->read[i]);
    return true;
}

Test(agent_keep, readers_get_what_was_written_or_know_what_is_gone)
{
    static const unsigned sizes[] = {1, 1, 3, 17, 300, 4000, SBX_CHUNK_BYTES};
    static world w;

    for (unsigned seed = 1; seed <= 4; seed++) {
        make(&w, seed);
        for (int step = 0; step < 60000; step++) {
            unsigned i = dice(&w, COMMANDS);

            if (dice(&w, 3) > 0)
                write_some(&w, i, 1 + dice(&w, sizes[dice(&w, 7)]));
            else if (i % 2) /* the others are slow */
                (void)read_some(&w, i);
        }
        for (unsigned i = 0; i < COMMANDS; i++) {
            while (read_some(&w, i))
                ;
            cr_expect_eq(w.read[i], w.written[i]);
            cr_expect_eq(w.place[i].next, w.kept[i].next);
            agent_keep_begin(w.keep, &w.kept[i], &w.place[i], w.kept[i].first);
            w.read[i] = w.place[i].read = w.kept[i].gone;
            while (read_some(&w, i))
                ;
            cr_expect_eq(w.read[i], w.written[i]);
        }
        agent_keep_free(w.keep);
    }
}

Test(agent_keep, a_chunk_that_was_sent_or_followed_does_not_change)
{
    agent_keep *k = agent_keep_new();
    agent_kept c;
    agent_place p, q;
    agent_chunk first, again;

    agent_kept_init(&c);
    agent_keep_begin(k, &c, &p, 0);
    agent_keep_add(k, &c, 1, (const unsigned char *)"ab", 2);
    agent_keep_add(k, &c, 1, (const unsigned char *)"cd", 2);
    cr_expect_eq(c.next, 2, "small writes become one chunk");
    cr_assert_eq(agent_keep_look(k, &c, &p, &first), AGENT_LOOK_CHUNK);
    agent_keep_pass(k, &c, &p);
    agent_keep_add(k, &c, 1, (const unsigned char *)"e", 1);
    agent_keep_add(k, &c, 2, (const unsigned char *)"f", 1);
    agent_keep_add(k, &c, 1, (const unsigned char *)"g", 1);
    cr_expect_eq(c.next, 5);
    agent_keep_begin(k, &c, &q, 1);
    cr_assert_eq(agent_keep_look(k, &c, &q, &again), AGENT_LOOK_CHUNK);
    cr_expect(again.len == 4 && memcmp(again.data, "abcd", 4) == 0);
    agent_keep_begin(k, &c, &q, 5);
    agent_keep_add(k, &c, 1, (const unsigned char *)"h", 1);
    cr_expect_eq(c.next, 6, "a reader that has been told of chunk 4 must not miss bytes of it");
    agent_keep_free(k);
}

Test(agent_keep, single_bytes_of_two_commands_do_not_cost_a_chunk_each)
{
    static world w;

    make(&w, 1);
    for (int i = 0; i < 100000; i++) {
        write_some(&w, 0, 1);
        write_some(&w, 1, 1);
    }
    cr_expect_lt(w.kept[0].next, 6);
    cr_expect_lt(w.kept[1].next, 6);
    while (read_some(&w, 0) || read_some(&w, 1))
        ;
    cr_expect_eq(w.read[0], 100000);
    cr_expect_eq(w.read[1], 100000);
    agent_keep_free(w.keep);
}

Test(agent_keep, a_dropped_command_leaves_the_others_alone)
{
    static world w;

    make(&w, 5);
    for (int round = 0; round < 200; round++) {
        for (unsigned i = 0; i < COMMANDS; i++)
            write_some(&w, i, 1 + dice(&w, 20000));
        if (round % 3)
            continue;
        unsigned i = dice(&w, COMMANDS);

        agent_keep_drop(w.keep, &w.kept[i]);
        cr_expect_eq(w.kept[i].first, w.kept[i].next);
        agent_kept_init(&w.kept[i]);
        w.written[i] = w.read[i] = 0;
        agent_keep_begin(w.keep, &w.kept[i], &w.place[i], 0);
    }
    for (unsigned i = 0; i < COMMANDS; i++) {
        while (read_some(&w, i))
            ;
        cr_expect_eq(w.read[i], w.written[i]);
    }
    for (unsigned i = 0; i < COMMANDS; i++)
        agent_keep_drop(w.keep, &w.kept[i]);
    agent_keep_free(w.keep);
}

Test(agent_keep, the_beginning_of_a_character_is_found)
{
    static const struct {
        const char *text;
        size_t tail;
    } cases[] = {
        {"", 0},
        {"a", 0},
        {"\xc3", 1},
        {"\xc3\xa4", 0},
        {"a\xe2", 1},
        {"\xe2\x82", 2},
        {"\xe2\x82\xac", 0},
        {"\xf0\x9d\x84", 3},
        {"\xf0\x9d", 2},
        {"\xf0", 1},
        {"\xff", 0},
        {"\xc0", 0},
        {"\x80", 0},
        {"\x80\x80", 0},
        {"\x80\x80\x80", 0},
        {"\x80\x80\x80\x80", 0},
        {"a\xc3\x80", 0},
        {"\xf5\x80", 0},
        {"\xf0\x9d\x84\x9e", 0},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        cr_expect_eq(agent_utf8_tail((const unsigned char *)cases[i].text, strlen(cases[i].text)),
                     cases[i].tail, "case %zu", i);
}
