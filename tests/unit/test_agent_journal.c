/* The agent's journal and the cutting of output into lines. */
#include "journal.h"
#include "lines.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static unsigned char frame[SBX_PROTO_MAX_FROM_AGENT];

static void add(agent_journal *j, const char *data, size_t len)
{
    sbx_log_entry e = {.stream = SBX_LOG_STDOUT,
                       .source = SBX_SRC_EXEC,
                       .exec_id = "id",
                       .exec_id_len = 2,
                       .data = data,
                       .len = (uint32_t)len};

    agent_journal_add(j, &e);
}

/* Takes a frame and checks that its numbers follow `*next`. @return how many entries. */
static size_t take(agent_journal *j, uint64_t *next)
{
    size_t len = agent_journal_fill(j, frame, sizeof frame), n = 0;
    sbx_fields f;
    sbx_log_entry e;

    sbx_fields_init(&f, frame, len);
    while (sbx_log_entry_take(&f, &e) > 0) {
        cr_assert_eq(e.seq, *next, "got %lu, want %lu", e.seq, *next);
        *next = e.seq + 1;
        n++;
    }
    cr_assert_eq(f.left, 0);
    return n;
}

static size_t take_all(agent_journal *j, uint64_t *next)
{
    size_t n = 0, got;

    while ((got = take(j, next)) > 0) {
        n += got;
        agent_journal_ack(j, *next - 1);
    }
    return n;
}

Test(agent_journal, an_empty_one_has_nothing_to_send)
{
    agent_journal *j = agent_journal_new();

    cr_expect_not(agent_journal_pending(j));
    cr_expect_eq(agent_journal_fill(j, frame, sizeof frame), 0);
    cr_expect_eq(agent_journal_next_seq(j), 1);
    cr_expect_eq(agent_journal_oldest_seq(j), 1);
    agent_journal_ack(j, 100);
    agent_journal_resume(j, 0);
    cr_expect_eq(agent_journal_next_seq(j), 1);
    agent_journal_free(j);
}

Test(agent_journal, entries_of_all_sizes_come_in_order)
{
    static char line[SBX_LOG_LINE_BYTES];
    agent_journal *j = agent_journal_new();
    uint64_t next = 1;
    size_t sent = 0;

    srand(7);
    for (int i = 0; i < 20000; i++) {
        add(j, line, (size_t)rand() % (i % 50 ? 100 : SBX_LOG_LINE_BYTES + 1));
        if (i % 997 == 0)
            sent += take_all(j, &next);
    }
    sent += take_all(j, &next);
    cr_expect_eq(sent, 20000);
    cr_expect_leq(agent_journal_next_seq(j) - agent_journal_oldest_seq(j), SBX_JOURNAL_KEEP_LINES);
    agent_journal_free(j);
}

Test(agent_journal, what_is_under_way_is_limited_also_when_it_is_dropped)
{
    static char line[1000];
    agent_journal *j = agent_journal_new();
    uint64_t next = 1, jump;
    size_t n = 0, got;

    for (int i = 0; i < 1000; i++)
        add(j, line, sizeof line);
    while ((got = take(j, &next)) > 0)
        n += got;
    cr_assert_eq(n, SBX_LOG_UNACKED_BYTES / 1025);
    for (int i = 0; i < 20000; i++)
        add(j, line, sizeof line);
    cr_expect_gt(agent_journal_oldest_seq(j), next);
    cr_expect_eq(take(j, &next), 0);
    jump = agent_journal_oldest_seq(j);
    agent_journal_ack(j, next - 1);
    next = jump;
    cr_expect_gt(take(j, &next), 0);
    agent_journal_free(j);
}

Test(agent_journal, it_never_grows_beyond_its_limit)
{
    static char line[SBX_LOG_LINE_BYTES];
    agent_journal *j = agent_journal_new();
    uint64_t next, kept;

    for (int i = 0; i < 3000; i++)
        add(j, line, sizeof line);
    kept = agent_journal_next_seq(j) - agent_journal_oldest_seq(j);
    cr_expect_leq(kept * SBX_LOG_LINE_BYTES, SBX_JOURNAL_MAX_BYTES);
    cr_expect_geq((kept + 2) * (SBX_LOG_LINE_BYTES + 25), SBX_JOURNAL_MAX_BYTES);
    next = agent_journal_oldest_seq(j);
    cr_expect_eq(take_all(j, &next), kept);
    cr_expect_eq(next, 3001);
    agent_journal_free(j);
}

Test(agent_journal, of_a_long_one_the_end_is_sent_when_there_is_no_time)
{
    agent_journal *j = agent_journal_new();
    uint64_t next = 1;
    char line[1000] = {0};

    for (int i = 0; i < 2000; i++)
        add(j, line, sizeof line);
    (void)take(j, &next);
    agent_journal_cut(j, 100000);
    next = agent_journal_oldest_seq(j);
    cr_expect_gt(next, 1900);
    cr_expect_gt(take_all(j, &next), 50);
    cr_expect_eq(next, 2001, "the last one is among them");
    agent_journal_ack(j, 2000);
    cr_expect(agent_journal_settled(j));
    agent_journal_cut(j, 0);
    agent_journal_free(j);
}

Test(agent_journal, a_new_owner_resumes_where_it_wants)
{
    agent_journal *j = agent_journal_new();
    uint64_t next = 1;

    for (int i = 0; i < 10; i++)
        add(j, "x", 1);
    cr_assert_eq(take_all(j, &next), 10);
    agent_journal_resume(j, 4);
    next = 4;
    cr_expect_eq(take(j, &next), 7);
    agent_journal_resume(j, 0);
    next = 1;
    cr_expect_eq(take(j, &next), 10);
    agent_journal_resume(j, 11);
    cr_expect_not(agent_journal_pending(j));
    agent_journal_resume(j, 50);
    cr_expect_eq(agent_journal_next_seq(j), 50);
    add(j, "y", 1);
    next = 50;
    cr_expect_eq(take(j, &next), 1);
    agent_journal_free(j);
}

Test(agent_lines, output_is_cut_the_same_however_it_arrives)
{
    static const struct {
        const char *name;
        size_t len[4]; /* of the lines written, each with a newline, ended by SIZE_MAX */
        size_t entries;
    } cases[] = {
        {"empty line", {0, SIZE_MAX}, 1},
        {"two lines", {3, 5, SIZE_MAX}, 2},
        {"exactly the limit", {SBX_LOG_LINE_BYTES, 1, SIZE_MAX}, 2},
        {"one over the limit", {SBX_LOG_LINE_BYTES + 1, SIZE_MAX}, 2},
        {"three times the limit", {3 * SBX_LOG_LINE_BYTES, 0, SIZE_MAX}, 4},
    };
    static const size_t cuts[] = {1, 7, 1000, SBX_LOG_LINE_BYTES, SBX_LOG_LINE_BYTES + 1, 1 << 20};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (size_t k = 0; k < sizeof cuts / sizeof *cuts; k++) {
            static unsigned char text[5 * SBX_LOG_LINE_BYTES];
            agent_journal *j = agent_journal_new();
            agent_lines l = {.journal = j, .exec_id = ""};
            size_t len = 0;
            uint64_t next = 1;

            for (size_t n = 0; cases[i].len[n] != SIZE_MAX; n++) {
                memset(text + len, 'a', cases[i].len[n]);
                len += cases[i].len[n];
                text[len++] = '\n';
            }
            for (size_t at = 0; at < len; at += cuts[k])
                agent_lines_add(&l, text + at, len - at < cuts[k] ? len - at : cuts[k]);
            agent_lines_end(&l);
            cr_expect_eq(take_all(j, &next), cases[i].entries, "%s, cut at %zu", cases[i].name,
                         cuts[k]);
            agent_journal_free(j);
        }
    }
}

Test(agent_lines, an_unfinished_line_comes_at_the_end_once)
{
    agent_journal *j = agent_journal_new();
    agent_lines l = {.journal = j, .exec_id = ""};
    uint64_t next = 1;

    agent_lines_add(&l, (const unsigned char *)"part", 4);
    cr_expect_eq(agent_journal_next_seq(j), 1);
    agent_lines_end(&l);
    agent_lines_end(&l);
    cr_expect_eq(take_all(j, &next), 1);
    agent_journal_free(j);
}
