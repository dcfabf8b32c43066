/* Viewers of the log hub: resuming, gaps, slow and lost clients, sharing, filters, the end. */
#include "logs/hub.h"
#include "logs_fixture.h"

Test(logs_viewers, start_with_the_tail_and_go_on_live)
{
    hub *h = hub_new(0);
    sbx_reply *ws, *sse, *def;

    append(h, 1, 250);
    ws = view(h, query(20), true);
    sse = view(h, query(5), false);
    def = view(h, query(-1), true);
    EXPECT_TRACE(ws, "231-250");
    EXPECT_TRACE(sse, "246-250");
    EXPECT_TRACE(def, "151-250");
    append(h, 251, 300);
    EXPECT_TRACE(ws, "231-300");
    EXPECT_TRACE(sse, "246-300");
    EXPECT_TRACE(def, "151-300");
    finish(h, (sbx_reply *[]){ws, sse, def}, 3);
}

Test(logs_viewers, a_tail_of_none_gets_only_what_comes)
{
    hub *h = hub_new(0);
    sbx_reply *r;

    append(h, 1, 10);
    r = view(h, query(0), true);
    cr_assert(WAIT_FOR(stats(h).fetches == 1));
    settle_stream(h);
    append(h, 11, 12);
    EXPECT_TRACE(r, "11-12");
    finish(h, &r, 1);
}

Test(logs_viewers, one_that_comes_behind_another_misses_no_line)
{
    hub *h = hub_new(0);
    sbx_reply *r[2];

    append(h, 1, 5);
    r[0] = view(h, query(0), true);
    cr_assert(WAIT_FOR(stats(h).fetches == 1));
    /* Its own read is not before the pace of the reads allows it. */
    r[1] = view(h, query(0), true);
    cr_assert(WAIT_FOR(stats(h).viewers == 2));
    append(h, 6, 6);
    EXPECT_TRACE(r[0], "6-6");
    EXPECT_TRACE(r[1], "6-6");
    finish(h, r, 2);
}

Test(logs_viewers, that_come_together_get_as_much_as_each_asked_for)
{
    hub *h = hub_new(0);
    sbx_reply *r[3];

    append(h, 1, 50);
    r[0] = view(h, query(0), true);
    r[1] = view(h, query(10), true);
    r[2] = view(h, query(-1), true);
    EXPECT_TRACE(r[1], "41-50");
    EXPECT_TRACE(r[2], "1-50");
    append(h, 51, 51);
    EXPECT_TRACE(r[0], "51-51");
    EXPECT_TRACE(r[1], "41-51");
    EXPECT_TRACE(r[2], "1-51");
    finish(h, r, 3);
}

Test(logs_viewers, frames_have_the_documented_form)
{
    hub *h = hub_new(0);
    sbx_reply *ws, *sse;
    static const char entry[] =
        "{\"seq\":1,\"ts\":\"2023-11-14T22:13:20.000Z\",\"stream\":\"stdout\",\"source\":\"exec\","
        "\"execId\":\"eeee\",\"data\":\"hello\"}";
    char want[400];

    append(h, 1, 1);
    ws = view(h, query(-1), true);
    sse = view(h, query(-1), false);
    EXPECT_TRACE(ws, "1-1");
    EXPECT_TRACE(sse, "1-1");
    cr_expect(ws->begun);
    snprintf(want, sizeof want, "{\"type\":\"logs\",\"entries\":[%s]}\n", entry);
    cr_expect_str_eq(ws->text.data, want);
    snprintf(want, sizeof want, "id: 1\ndata: %s\n\n\n", entry);
    cr_expect_str_eq(sse->text.data, want);
    finish(h, (sbx_reply *[]){ws, sse}, 2);
}

Test(logs_viewers, resume_where_they_were)
{
    hub *h = hub_new(0);
    sbx_reply *r;

    append(h, 1, 500);
    r = view(h, query_since(123), true);
    EXPECT_TRACE(r, "124-500");
    append(h, 501, 510);
    EXPECT_TRACE(r, "124-510");
    finish(h, &r, 1);
}

Test(logs_viewers, are_told_of_a_gap_when_the_history_has_moved_on)
{
    hub *h = hub_new(0);
    sbx_reply *ws, *sse, *zero;

    append(h, 1, 3000);
    ws = view(h, query_since(100), true);
    sse = view(h, query_since(100), false);
    zero = view(h, query_since(0), true);
    EXPECT_TRACE(ws, "gap:101-2000 2001-3000");
    EXPECT_TRACE(sse, "gap:101-2000 2001-3000");
    EXPECT_TRACE(zero, "gap:1-2000 2001-3000");
    cr_expect_eq(strstr(ws->text.data, "{\"type\":\"gap\",\"from\":101,\"to\":2000}\n"),
                 ws->text.data);
    cr_expect_not_null(
        strstr(sse->text.data, "id: 2000\nevent: gap\ndata: {\"from\":101,\"to\":2000}\n\n"));
    finish(h, (sbx_reply *[]){ws, sse, zero}, 3);
}

Test(logs_viewers, numbers_that_never_were_are_a_gap)
{
    hub *h = hub_new(0);
    sbx_reply *r, *late;

    append(h, 1, 10);
    r = view(h, query(-1), true);
    EXPECT_TRACE(r, "1-10");
    append(h, 21, 30);
    EXPECT_TRACE(r, "1-10 gap:11-20 21-30");
    late = view(h, query(15), true);
    EXPECT_TRACE(late, "6-10 gap:11-20 21-30");
    finish(h, (sbx_reply *[]){r, late}, 2);
}

Test(logs_viewers, a_log_that_begins_late_is_no_gap_for_a_new_viewer)
{
    hub *h = hub_new(0);
    sbx_reply *r = view(h, query(-1), true);

    cr_assert(WAIT_FOR(stats(h).fetches == 1));
    settle_stream(h);
    append(h, 5001, 5003);
    EXPECT_TRACE(r, "5001-5003");
    finish(h, &r, 1);
}

Test(logs_viewers, a_number_from_the_future_starts_at_the_end)
{
    hub *h = hub_new(0);
    sbx_reply *r;

    append(h, 1, 10);
    r = view(h, query_since(1000), true);
    cr_assert(WAIT_FOR(stats(h).fetches >= 1));
    pause_ms(20);
    append(h, 11, 12);
    EXPECT_TRACE(r, "11-12");
    finish(h, &r, 1);
}

Test(logs_viewers, a_slow_one_catches_up_from_the_history)
{
    hub *h = hub_new(0);
    sbx_reply *slow = view(h, query(-1), true), *quick = view(h, query(-1), true);

    append(h, 1, 5);
    EXPECT_TRACE(slow, "1-5");
    EXPECT_TRACE(quick, "1-5");
    fake_stick(slow, true);
    append(h, 6, 900);
    EXPECT_TRACE(quick, "1-900");
    EXPECT_TRACE(slow, "1-5");
    fake_stick(slow, false);
    EXPECT_TRACE(slow, "1-900");
    append(h, 901, 905);
    EXPECT_TRACE(slow, "1-905");
    EXPECT_TRACE(quick, "1-905");
    cr_expect_eq(stats(h).gaps, 0);
    finish(h, (sbx_reply *[]){slow, quick}, 2);
}

Test(logs_viewers, one_that_is_much_too_slow_is_told_what_it_missed)
{
    hub *h = hub_new(0);
    sbx_reply *slow = view(h, query(-1), true), *quick = view(h, query(-1), false);
    uint64_t seq = 6;

    append(h, 1, 5);
    EXPECT_TRACE(slow, "1-5");
    fake_stick(slow, true);
    for (; seq < 4000; seq += 500) {
        char want[32];

        append(h, seq, seq + 499);
        snprintf(want, sizeof want, "1-%llu", (unsigned long long)seq + 499);
        EXPECT_TRACE(quick, want);
    }
    fake_stick(slow, false);
    EXPECT_TRACE(slow, "1-5 gap:6-3005 3006-4005");
    finish(h, (sbx_reply *[]){slow, quick}, 2);
}

Test(logs_viewers, a_lost_message_is_refetched)
{
    hub *h = hub_new(0);
    sbx_reply *r = view(h, query(-1), true);

    append(h, 1, 5);
    EXPECT_TRACE(r, "1-5");
    h->bus.lose = true;
    append(h, 6, 9);
    cr_assert(WAIT_FOR(h->acked == 9));
    h->bus.lose = false;
    append(h, 10, 12);
    EXPECT_TRACE(r, "1-12");
    finish(h, &r, 1);
}

Test(logs_viewers, a_reset_compares_with_the_history)
{
    hub *h = hub_new(0);
    sbx_reply *r = view(h, query(-1), true);

    append(h, 1, 5);
    EXPECT_TRACE(r, "1-5");
    h->bus.lose = true;
    append(h, 6, 9);
    cr_assert(WAIT_FOR(h->acked == 9));
    h->bus.lose = false;
    h->bus.fn(h->bus.arg, TOPIC, NULL, 0, true);
    EXPECT_TRACE(r, "1-9");
    h->bus.fn(h->bus.arg, TOPIC, NULL, 0, true);
    append(h, 10, 10);
    EXPECT_TRACE(r, "1-10");
    finish(h, &r, 1);
}

Test(logs_viewers, wait_while_the_history_is_down_and_then_go_on)
{
    hub *h = hub_new(0);
    sbx_reply *r;

    append(h, 1, 50);
    h->bus.fail = true;
    r = view(h, query_since(10), true);
    cr_assert(WAIT_FOR(stats(h).fetches >= 2));
    EXPECT_TRACE(r, "");
    h->bus.fail = false;
    EXPECT_TRACE(r, "11-50");
    finish(h, &r, 1);
}

Test(logs_viewers, rubbish_on_the_bus_is_left_out)
{
    static const sbx_bus_item items[] = {
        {.seq = 2, .data = "no json", .len = 7},
        {.seq = 0, .data = "{}", .len = 2},
        {.seq = 0, .data = "{\"type\":\"end\",\"last\":x}", .len = 23},
        {.seq = 0, .data = "{\"type\":\"end\",\"last\":", .len = 21},
        {.seq = 0, .data = "{\"type\":\"state\",\"sandbox\":", .len = 26},
        {.seq = 3, .data = "{\n}", .len = 3},
        {.seq = 4, .data = "", .len = 0},
    };
    hub *h = hub_new(0);
    sbx_reply *r = view(h, query(-1), true);

    append(h, 1, 1);
    EXPECT_TRACE(r, "1-1");
    h->bus.fn(h->bus.arg, TOPIC, items, ARRAY_LEN(items), false);
    h->bus.fn(h->bus.arg, "logs:", NULL, 0, true);
    h->bus.fn(h->bus.arg, "logs:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", NULL, 0, true);
    append(h, 2, 4);
    EXPECT_TRACE(r, "1-4");
    cr_expect_not(r->ended);
    finish(h, &r, 1);
}

Test(logs_viewers, a_filter_leaves_no_gaps)
{
    hub *h = hub_new(0);
    sbx_logs_query q = query(3);
    sbx_reply *tail, *since;

    append(h, 1, 20); /* odd: exec, even: main */
    q.source = SBX_LOGS_MAIN;
    tail = view(h, q, true);
    q = query_since(15);
    q.source = SBX_LOGS_EXEC;
    since = view(h, q, false);
    EXPECT_TRACE(tail, "16-16 18-18 20-20");
    EXPECT_TRACE(since, "17-17 19-19");
    append(h, 21, 24);
    EXPECT_TRACE(tail, "16-16 18-18 20-20 22-22 24-24");
    EXPECT_TRACE(since, "17-17 19-19 21-21 23-23");
    cr_expect_eq(stats(h).gaps, 0);
    finish(h, (sbx_reply *[]){tail, since}, 2);
}

Test(logs_viewers, a_websocket_gets_at_most_one_frame_of_entries_in_100_ms)
{
    hub *h = hub_new(0);
    sbx_reply *r = view(h, query(-1), true);
    int64_t until = sbx_now_ms() + 700;
    uint64_t seq = 1;
    char want[32];

    while (sbx_now_ms() < until) {
        append(h, seq, seq + 4);
        seq += 5;
        pause_ms(5);
    }
    snprintf(want, sizeof want, "1-%llu", (unsigned long long)seq - 1);
    EXPECT_TRACE(r, want);
    cr_expect_geq(r->log_frames, 4);
    for (size_t i = 1; i < r->log_frames; i++)
        cr_expect_geq(r->log_at[i] - r->log_at[i - 1], 99, "frame %zu", i);
    finish(h, &r, 1);
}

Test(logs_viewers, a_flood_is_bounded_and_in_order)
{
    hub *h = hub_new(0);
    sbx_reply *r = view(h, query(-1), true);
    char line[1001], *trace;

    memset(line, 'x', 1000);
    line[1000] = '\0';
    cr_assert(WAIT_FOR(stats(h).fetches == 1));
    for (uint64_t seq = 1; seq < 60000; seq += 1000)
        append_data(h, seq, seq + 999, SBX_SRC_MAIN, line);
    cr_expect(WAIT_FOR(h->acked == 60000));
    /* Everything is either sent or told, each number once. */
    cr_expect(WAIT_FOR((trace = fake_trace(r),
                        strstr(trace, "-60000") ? (free(trace), true) : (free(trace), false))));
    trace = fake_trace(r);
    unsigned long long at = 0, from, to;
    int n;
    for (const char *p = trace; *p; p += n) {
        n = 0;
        if (strncmp(p, "gap:", 4) == 0)
            p += 4;
        cr_assert_eq(sscanf(p, "%llu-%llu%n", &from, &to, &n), 2, "%s", trace);
        cr_assert_eq(from, at + 1, "%s", trace);
        at = to;
        n += p[n] == ' ';
    }
    cr_expect_eq(at, 60000);
    free(trace);
    finish(h, &r, 1);
}

#define MANY 1000

Test(logs_viewers, a_thousand_share_their_frames)
{
    hub *h = hub_new(0);
    sbx_reply *r[MANY];
    sbx_logs_stats before, after;
    const uint64_t batches = 5;

    append(h, 1, 50);
    for (int i = 0; i < MANY; i++)
        r[i] = view(h, query(-1), i % 2);
    cr_assert(WAIT_FOR(stats(h).viewers == MANY));
    for (int i = 0; i < MANY; i++)
        cr_assert(WAIT_FOR(trace_is(r[i], "1-50")), "viewer %d", i);
    before = stats(h);
    cr_expect_lt(before.fetches, 20, "%lu reads of the history", before.fetches);
    for (uint64_t b = 0; b < batches; b++) {
        append(h, 51 + b * 10, 60 + b * 10);
        uint64_t sent = before.frames_sent + (b + 1) * MANY;
        cr_assert(WAIT_FOR(stats(h).frames_sent >= sent));
    }
    for (int i = 0; i < MANY; i++)
        cr_assert(WAIT_FOR(trace_is(r[i], "1-100")), "viewer %d", i);
    after = stats(h);
    cr_expect_leq(after.frames_built - before.frames_built, 2 * 2 * batches,
                  "%lu frames were built for %lu that were sent",
                  after.frames_built - before.frames_built, after.frames_sent - before.frames_sent);
    /* One more, for those that came during the last one. */
    cr_expect_leq(after.fetches, before.fetches + 1);
    cr_expect_lt(sizeof(viewer), 512);
    finish(h, r, MANY);
}

typedef struct many_rooms {
    hub *h;
    char ids[30][SBX_ID_LEN + 1];
} many_rooms;

static void append_in_rooms(void *arg)
{
    many_rooms *m = arg;

    for (size_t i = 0; i < ARRAY_LEN(m->ids); i++) {
        sbx_log_entry e = {.seq = 1, .ts_ms = 1, .data = "x", .len = 1};

        snprintf(m->ids[i], sizeof m->ids[i], "room%zu", i);
        sbx_logs_append(m->h->logs, m->ids[i], &e, 1);
    }
}

Test(logs_viewers, many_rooms_take_turns_at_the_history)
{
    many_rooms m = {.h = hub_new(0)};
    sbx_reply *r[ARRAY_LEN(m.ids)], *gone = fake_new();
    sbx_logs_query q = query(-1);

    on_stream(m.h, append_in_rooms, &m);
    m.h->bus.fail = true;
    for (size_t i = 0; i < ARRAY_LEN(m.ids); i++) {
        r[i] = fake_new();
        sbx_logs_view(m.h->logs, m.ids[i], &q, r[i], true);
    }
    sbx_logs_view(m.h->logs, "passer-by", &q, gone, true);
    cr_assert(WAIT_FOR(stats(m.h).viewers == ARRAY_LEN(m.ids) + 1));
    fake_leave(gone); /* perhaps while its room waits for its turn */
    cr_assert(WAIT_FOR(gone->refs == 1));
    m.h->bus.fail = false;
    for (size_t i = 0; i < ARRAY_LEN(m.ids); i++)
        EXPECT_TRACE(r[i], "1-1");
    sbx_reply_unref(gone);
    finish(m.h, r, ARRAY_LEN(m.ids));
}

Test(logs_viewers, one_that_leaves_is_removed_at_once)
{
    hub *h = hub_new(0);
    sbx_reply *r = view(h, query(-1), true), *gone = fake_new();
    sbx_logs_query q = query(-1);

    cr_assert(WAIT_FOR(stats(h).viewers == 1));
    fake_leave(r);
    cr_expect(WAIT_FOR(stats(h).viewers == 0 && stats(h).rooms == 0));
    cr_expect(WAIT_FOR(r->refs == 1));
    fake_leave(gone); /* before it is a viewer */
    sbx_logs_view(h->logs, ID, &q, gone, false);
    cr_expect(WAIT_FOR(gone->closed));
    cr_expect(WAIT_FOR(stats(h).viewers == 0 && stats(h).rooms == 0));
    hub_free(h);
    sbx_reply_unref(r);
    sbx_reply_unref(gone);
}

Test(logs_viewers, the_end_comes_behind_the_last_entry)
{
    hub *h = hub_new(1500);
    sbx_reply *ws = view(h, query(-1), true), *sse = view(h, query(-1), false), *late;
    sbx_err err;
    uint64_t last = 0;

    append(h, 1, 5);
    EXPECT_TRACE(ws, "1-5");
    append(h, 6, 300);
    sbx_logs_close(h->logs, ID);
    late = view(h, query(2), true);
    settle_stream(h);
    append(h, 301, 310); /* ignored */
    EXPECT_TRACE(ws, "1-300 end");
    cr_expect(WAIT_FOR(ws->ended && sse->ended));
    cr_expect_not_null(strstr(sse->text.data, "event: end\ndata: {}\n\n"));
    EXPECT_TRACE(late, "299-300 end");
    cr_expect(WAIT_FOR(stats(h).viewers == 0 && stats(h).rooms == 0));
    cr_expect_eq(sbx_logs_last_seq(h->logs, ID, &last, &err), 0);
    cr_expect_eq(last, 0, "the history is forgotten");
    finish(h, (sbx_reply *[]){ws, sse, late}, 3);
}

Test(logs_viewers, a_slow_one_gets_its_end_even_after_the_history_went)
{
    hub *h = hub_new(400);
    sbx_reply *r = view(h, query(-1), true);
    sbx_err err;
    uint64_t last = 1;

    append(h, 1, 5);
    EXPECT_TRACE(r, "1-5");
    fake_stick(r, true);
    append(h, 6, 20);
    sbx_logs_close(h->logs, ID);
    cr_expect(WAIT_FOR(sbx_logs_last_seq(h->logs, ID, &last, &err) == 0 && last == 0));
    fake_stick(r, false);
    EXPECT_TRACE(r, "1-5 gap:6-20 end");
    finish(h, &r, 1);
}

Test(logs_viewers, hear_of_states_and_a_slow_one_of_the_last)
{
    hub *h = hub_new(0);
    sbx_reply *ws = view(h, query(-1), true), *sse = view(h, query(-1), false);
    char text[64];

    append(h, 1, 1);
    EXPECT_TRACE(ws, "1-1");
    EXPECT_TRACE(sse, "1-1");
    fake_stick(sse, true);
    for (int i = 0; i < 3; i++) {
        size_t frames = ws->frames;

        snprintf(text, sizeof text, "{\"state\":\"s%d\"}", i);
        sbx_logs_state(h->logs, ID, text);
        cr_expect(WAIT_FOR(ws->frames == frames + 1));
    }
    sbx_logs_state(h->logs, ID, "{\"state\":\"two\nlines\"}"); /* refused */
    fake_stick(sse, false);
    append(h, 2, 2);
    EXPECT_TRACE(ws, "1-1 state state state 2-2");
    EXPECT_TRACE(sse, "1-1 state 2-2");
    cr_expect_not_null(
        strstr(ws->text.data, "{\"type\":\"state\",\"sandbox\":{\"state\":\"s0\"}}\n"));
    cr_expect_not_null(strstr(sse->text.data, "event: state\ndata: {\"state\":\"s2\"}\n\n"));
    cr_expect_null(strstr(sse->text.data, "s1"));
    finish(h, (sbx_reply *[]){ws, sse}, 2);
}

Test(logs_viewers, a_hub_that_goes_lets_its_viewers_go)
{
    hub *h = hub_new(0);
    sbx_reply *r = view(h, query(-1), true);

    append(h, 1, 5);
    cr_assert(WAIT_FOR(stats(h).viewers == 1));
    hub_free(h);
    cr_expect_eq(r->refs, 1);
    sbx_reply_unref(r);
}
