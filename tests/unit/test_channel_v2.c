/* Channels to agents of version 2: chunks, followers, input, lists and news. */
#include "channel_fixture.h"

#include <criterion/criterion.h>

static sbx_stream *stream;
static sbx_channels *set;
static agent box;
static atomic_int lost_channels, busy, news, over_news, fresh_news;
static char last_news[SBX_ID_LEN + 1], last_command[256];

#define ID_A "bbbbbbbbbbbbbbbbbbbb"
#define ID_B "cccccccccccccccccccc"

static void on_lost_channel(void *arg, const char *id, bool broken)
{
    (void)arg, (void)id, (void)broken;
    lost_channels++;
}

static void on_busy(void *arg, const char *id, int by)
{
    (void)arg, (void)id;
    busy += by;
}

static void on_news(void *arg, const char *id, const sbx_command_entry *e)
{
    (void)arg;
    cr_expect_str_eq(id, BOX);
    sbx_copy(last_news, sizeof(last_news), e->exec_id);
    sbx_copy(last_command, sizeof(last_command), e->command);
    over_news += e->over;
    fresh_news += e->fresh;
    news++;
}

static uint32_t list_req;

static void make(void)
{
    static const sbx_channel_events events = {
        .lost = on_lost_channel, .busy = on_busy, .news = on_news};
    sbx_err err = {0};

    stream = sbx_stream_new(&err);
    cr_assert(stream, "%s", err.msg);
    set = sbx_channels_new(stream);
    sbx_channels_watch(set, &events);
    sbx_greeting *g = channel_open(set, BOX, 1, &box);
    cr_assert(agent_hello(&box));
    agent_welcome_2(&box, 1);
    cr_assert_eq(sbx_greeting_wait(g, WAIT_MS, &err), 0, "%s", err.msg);
    cr_assert_eq(agent_read(&box), SBX_F_LIST);
    list_req = box.frame.req;
    cr_expect_eq(sbx_channels_version(set, BOX), 2);
}

static void unmake(void)
{
    sbx_channels_shutdown(set);
    sbx_stream_free(stream);
    sbx_channels_free(set);
    if (box.fd > 0)
        close(box.fd);
    cr_expect_eq(conns_open, 0);
    cr_expect_eq(busy, 0, "activity that nobody ended");
}

typedef struct seen {
    atomic_int started, exits, failed, lost, gaps, outputs;
    atomic_size_t bytes;
    _Atomic uint64_t taken, dropped, chunk, gap_from, gap_to;
    sbx_command *command;
    sbx_command_exit exit;
    sbx_err err;
} seen;

static void on_started(void *arg, sbx_command *c, int64_t pid)
{
    (void)pid;
    ((seen *)arg)->command = c;
    ((seen *)arg)->started++;
}

static void on_output(void *arg, sbx_command *c, bool is_stderr, const char *data, size_t len)
{
    seen *s = arg;

    (void)is_stderr, (void)data;
    s->chunk = sbx_command_chunk(c);
    s->bytes += len;
    s->outputs++;
}

static void on_exit_told(void *arg, const sbx_command_exit *e)
{
    ((seen *)arg)->exit = *e;
    ((seen *)arg)->exits++;
}

static void on_failed(void *arg, const sbx_err *err)
{
    ((seen *)arg)->err = *err;
    ((seen *)arg)->failed++;
}

static void on_taken(void *arg, sbx_command *c, uint64_t bytes, uint64_t dropped)
{
    (void)c;
    ((seen *)arg)->taken += bytes;
    ((seen *)arg)->dropped += dropped;
}

static void on_gap(void *arg, sbx_command *c, uint64_t from, uint64_t to)
{
    seen *s = arg;

    (void)c;
    s->gap_from = from;
    s->gap_to = to;
    s->gaps++;
}

static void on_lost(void *arg)
{
    ((seen *)arg)->lost++;
}

static const sbx_command_events events = {on_started, on_output, on_exit_told, on_failed,
                                          on_taken,   on_gap,    on_lost};

static uint32_t attach(seen *s, uint64_t from, int64_t window, bool detached)
{
    *s = (seen){0};
    sbx_channels_attach(set, BOX, ID_A, from, window, detached, &events, s);
    cr_assert(agent_read_until(&box, SBX_F_ATTACH));
    cr_expect_eq(agent_read_num(&box, SBX_T_SEQ), from);
    cr_expect_eq(agent_read_num(&box, SBX_T_WINDOW), (uint64_t)window);
    cr_expect_eq(agent_read_num(&box, SBX_T_FLAGS), detached ? SBX_EXEC_DETACHED : 0u);
    return box.frame.req;
}

static void tell_started(uint32_t req, uint32_t flags)
{
    fields f = {.len = 0};

    add_num(&f, SBX_T_PID, 77);
    add_num(&f, SBX_T_FLAGS, flags);
    agent_frame(&box, SBX_F_STARTED, req, f.data, f.len);
}

static void tell_entry(uint32_t req, const char *id, bool over)
{
    fields f = {.len = 0};

    add_text(&f, SBX_T_EXEC_ID, id);
    add_text(&f, SBX_T_ARG, "echo");
    add_text(&f, SBX_T_ARG, "\xff is no text");
    add_text(&f, SBX_T_ARG, "cut \xe2\x82");
    add_num(&f, SBX_T_STARTED_MS, 1760000000123);
    add_num(&f, SBX_T_PID, 5);
    add_num(&f, SBX_T_OLDEST_SEQ, 2);
    add_num(&f, SBX_T_NEXT_SEQ, 9);
    if (over) {
        add_num(&f, SBX_T_EXIT_CODE, 3);
        add_num(&f, SBX_T_EXIT_FLAGS, SBX_EXIT_CPU);
        add_num(&f, SBX_T_CPU_MS, 44);
    }
    agent_frame(&box, SBX_F_ENTRY, req, f.data, f.len);
}

Test(channel_v2, chunks_have_their_agents_numbers, .init = make, .fini = unmake, .timeout = 60)
{
    seen s;
    uint32_t req = attach(&s, 5, 10, false);
    fields gap = {.len = 0}, exit = {.len = 0};

    tell_started(req, SBX_EXEC_PTY);
    cr_assert(EVENTUALLY(s.started == 1));
    add_num(&gap, SBX_T_SEQ, 5);
    add_num(&gap, SBX_T_TO_SEQ, 8);
    agent_frame(&box, SBX_F_GAP, req, gap.data, gap.len);
    agent_chunk(&box, req, 9, "hello", 5);
    agent_chunk(&box, req, 10, "may exceed", 10);
    add_num(&exit, SBX_T_EXIT_CODE, 0);
    add_num(&exit, SBX_T_SEQ, 11);
    add_num(&exit, SBX_T_FLAGS, SBX_EXIT_CPU);
    agent_frame(&box, SBX_F_EXIT, req, exit.data, exit.len);
    cr_assert(EVENTUALLY(s.exits == 1));
    cr_expect(s.gaps == 1 && s.gap_from == 5 && s.gap_to == 8);
    cr_expect_eq(s.chunk, 10);
    cr_expect_eq(s.bytes, 15);
    cr_expect_eq(s.exit.chunks, 10);
    cr_expect(s.exit.cpu_limit && s.exit.told);
    cr_expect_eq(lost_channels, 0);
}

Test(channel_v2, a_chunk_that_is_missing_or_not_paid_for_ends_the_channel, .init = make,
     .fini = unmake, .timeout = 60)
{
    static const struct {
        uint64_t first, second;
        int64_t window;
    } cases[] = {{2, 3, 100}, {1, 3, 100}, {1, 1, 100}, {1, 2, 5}};

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        seen s;
        uint32_t req = attach(&s, 0, cases[i].window, false);

        tell_started(req, 0);
        agent_chunk(&box, req, cases[i].first, "12345", 5);
        agent_chunk(&box, req, cases[i].second, "12345", 5);
        cr_expect(EVENTUALLY(lost_channels == (int)i + 1), "case %zu", i);
        cr_expect_eq(s.lost, 1, "case %zu: it may be attached to again", i);
        cr_expect_eq(s.failed, 0);
        close(box.fd);
        sbx_err err = {0};
        sbx_greeting *g = channel_open(set, BOX, 1, &box);
        cr_assert(agent_hello(&box));
        agent_welcome_2(&box, 1);
        cr_assert_eq(sbx_greeting_wait(g, WAIT_MS, &err), 0);
    }
}

static void leave(void *arg)
{
    sbx_command_leave(((seen *)arg)->command);
}

Test(channel_v2, what_comes_after_leaving_is_not_told, .init = make, .fini = unmake, .timeout = 60)
{
    seen s;
    uint32_t req = attach(&s, 0, 100, false);

    tell_started(req, 0);
    cr_assert(EVENTUALLY(s.started == 1));
    sbx_stream_post(stream, leave, &s);
    cr_assert(agent_read_until(&box, SBX_F_LEAVE));
    cr_expect_eq(box.frame.req, req);
    agent_chunk(&box, req, 1, "late", 4);
    agent_num(&box, SBX_F_EXIT, req, SBX_T_EXIT_CODE, 0);
    tell_entry(0, ID_B, true);
    cr_assert(EVENTUALLY(news == 1));
    cr_expect(s.bytes == 0 && s.exits == 0);
    cr_expect_eq(lost_channels, 0);
}

static void feed(void *arg)
{
    static char data[SBX_STDIN_TAKEN_BYTES];
    sbx_command *c = ((seen *)arg)->command;

    sbx_command_stdin(c, data, sbx_command_stdin_room(c));
    cr_expect_eq(sbx_command_stdin_room(c), 0);
}

/* Bytes of STDIN up to its end, or up to `most`. */
static size_t read_stdin(size_t most, bool *ret_end)
{
    size_t sum = 0;

    *ret_end = false;
    while (sum < most && !*ret_end && agent_read_until(&box, SBX_F_STDIN)) {
        sum += box.frame.len;
        *ret_end = box.frame.len == 0;
    }
    return sum;
}

Test(channel_v2, input_waits_until_it_was_taken, .init = make, .fini = unmake, .timeout = 60)
{
    fields f = {.len = 0};
    bool end;
    seen s;
    uint32_t req = attach(&s, 0, 0, true);

    tell_started(req, SBX_EXEC_STDIN);
    cr_assert(EVENTUALLY(s.started == 1));
    cr_expect_eq(sbx_command_flags(s.command), SBX_EXEC_STDIN);
    sbx_stream_post(stream, feed, &s);
    cr_expect_eq(read_stdin(SBX_STDIN_TAKEN_BYTES, &end), SBX_STDIN_TAKEN_BYTES);
    add_num(&f, SBX_T_WINDOW, 1000);
    add_num(&f, SBX_T_DROPPED, 24);
    agent_frame(&box, SBX_F_TAKEN, req, f.data, f.len);
    cr_assert(EVENTUALLY(s.taken == 1000 && s.dropped == 24));
    sbx_stream_post(stream, feed, &s);
    cr_expect_eq(read_stdin(1024, &end), 1024);
    agent_num(&box, SBX_F_TAKEN, req, SBX_T_WINDOW, 1 << 20);
    cr_expect(EVENTUALLY(lost_channels == 1), "more was taken than was given");
}

Test(channel_v2, long_input_of_a_start_is_given_in_windows, .init = make, .fini = unmake,
     .timeout = 60)
{
    const size_t len = 3 * SBX_STDIN_TAKEN_BYTES / 2;
    sbx_command_spec spec = {.stdin_text = sbx_alloc(len), .stdin_len = len};
    seen s = {0};
    bool end;

    memset(spec.stdin_text, 'x', len);
    sbx_copy(spec.exec_id, sizeof(spec.exec_id), ID_A);
    spec.argv.items = sbx_alloc(2 * sizeof(char *));
    spec.argv.items[spec.argv.count++] = sbx_strdup("cat");
    sbx_channels_exec(set, BOX, &spec, &events, &s);
    cr_assert(agent_read_until(&box, SBX_F_EXEC));
    uint32_t req = box.frame.req;
    tell_started(req, SBX_EXEC_STDIN);
    cr_expect_eq(read_stdin(SBX_STDIN_TAKEN_BYTES, &end), SBX_STDIN_TAKEN_BYTES);
    cr_assert(EVENTUALLY(s.started == 1));
    sbx_stream_post(stream, leave, &s); /* the rest is given all the same */
    agent_num(&box, SBX_F_TAKEN, req, SBX_T_WINDOW, SBX_STDIN_TAKEN_BYTES);
    cr_expect_eq(read_stdin(len, &end), len - SBX_STDIN_TAKEN_BYTES);
    cr_expect(end);
    cr_expect(agent_read_until(&box, SBX_F_LEAVE));
    cr_expect_eq(lost_channels, 0);
}

/* --- lists and news --- */

typedef struct listed {
    atomic_int entries, over;
    sbx_command_entry last;
    sbx_err err;
} listed;

static void on_entry(void *arg, const sbx_command_entry *e)
{
    ((listed *)arg)->last = *e;
    ((listed *)arg)->entries++;
}

static void on_listed(void *arg, const sbx_err *err)
{
    if (err)
        ((listed *)arg)->err = *err;
    ((listed *)arg)->over++;
}

static const sbx_list_events list_events = {on_entry, on_listed};

Test(channel_v2, a_list_has_what_the_agent_tells, .init = make, .fini = unmake, .timeout = 60)
{
    listed l = {0};

    sbx_channels_list(set, BOX, ID_A, &list_events, &l);
    cr_assert(agent_read_until(&box, SBX_F_LIST));
    uint32_t req = box.frame.req;
    cr_expect_eq(agent_read_num(&box, SBX_T_COUNT), 0);
    tell_entry(req, ID_A, true);
    tell_entry(req, "no id at all", false);
    tell_entry(req + 100, ID_A, false);
    agent_frame(&box, SBX_F_LISTED, req, NULL, 0);
    cr_assert(EVENTUALLY(l.over == 1));
    cr_expect_eq(l.entries, 1);
    cr_expect_eq(l.err.code, SBX_OK);
    cr_expect_str_eq(l.last.exec_id, ID_A);
    cr_expect(l.last.over && l.last.exit.cpu_limit && !l.last.fresh);
    cr_expect_eq(l.last.exit.exit_code, 3);
    cr_expect_eq(l.last.exit.chunks, 8);
    cr_expect_eq(l.last.exit.cpu_ms, 44);
    cr_expect_eq(l.last.started_ms, 1760000000123);
    cr_expect_eq(l.last.oldest_seq, 2);
    cr_expect_eq(news, 0);
}

Test(channel_v2, a_list_ends_with_its_channel, .init = make, .fini = unmake, .timeout = 60)
{
    listed l = {0}, none = {0};

    sbx_channels_list(set, BOX, NULL, &list_events, &l);
    cr_assert(agent_read_until(&box, SBX_F_LIST));
    sbx_channels_close(set, BOX, SBX_E_GONE);
    cr_assert(EVENTUALLY(l.over == 1));
    cr_expect_eq(l.err.code, SBX_E_GONE);
    sbx_channels_list(set, BOX, NULL, &list_events, &none);
    cr_assert(EVENTUALLY(none.over == 1));
    cr_expect_eq(none.err.code, SBX_E_CONFLICT);
}

Test(channel_v2, news_tell_of_every_command_and_count_as_activity, .init = make, .fini = unmake,
     .timeout = 60)
{
    tell_entry(list_req, ID_A, false); /* what an earlier owner began */
    tell_entry(list_req, ID_B, true);
    agent_frame(&box, SBX_F_LISTED, list_req, NULL, 0);
    cr_assert(EVENTUALLY(news == 2));
    cr_expect_eq(fresh_news, 0);
    cr_expect_eq(busy, 1);
    cr_expect_str_eq(last_command, "[\"echo\",\"?\",\"cut \"]");
    tell_entry(0, ID_A, false);
    cr_assert(EVENTUALLY(news == 3));
    cr_expect_eq(busy, 1, "the same one");
    tell_entry(0, ID_A, true);
    cr_assert(EVENTUALLY(over_news == 2));
    cr_expect_eq(busy, 0);
    tell_entry(0, ID_B, false);
    cr_assert(EVENTUALLY(busy == 1)); /* ends with the channel */
}

Test(channel_v2, an_old_agent_is_told_so, .timeout = 60)
{
    sbx_err err = {0};
    listed l = {0};
    seen s = {0};

    stream = sbx_stream_new(&err);
    set = sbx_channels_new(stream);
    sbx_greeting *g = channel_open(set, BOX, 1, &box);
    cr_assert(agent_hello(&box));
    agent_welcome(&box, 1);
    cr_assert_eq(sbx_greeting_wait(g, WAIT_MS, &err), 0);
    cr_expect_eq(sbx_channels_version(set, BOX), 1);
    sbx_channels_list(set, BOX, NULL, &list_events, &l);
    cr_assert(EVENTUALLY(l.over == 1));
    cr_expect_str_eq(l.err.msg, SBX_OLD_AGENT);
    sbx_channels_attach(set, BOX, ID_A, 0, 1, false, &events, &s);
    cr_assert(EVENTUALLY(s.failed == 1));
    cr_expect_str_eq(s.err.msg, SBX_OLD_AGENT);
    cr_expect(sbx_channels_has(set, BOX));
    unmake();
}

/* --- bridges --- */

static sbx_greeting *open_bridge(agent *a)
{
    sbx_channel_hello hello = {.epoch = 1, .image_user = "", .bridge = true};
    sbx_pairs env = {0};

    sbx_copy(hello.sandbox, sizeof(hello.sandbox), ID_A);
    memset(hello.token, 7, sizeof(hello.token));
    return sbx_channels_open(set, &hello, &env, conn_pair(&a->fd));
}

Test(channel_v2, a_bridge_runs_commands_and_holds_nothing, .init = make, .fini = unmake,
     .timeout = 60)
{
    static agent bridge, second;
    listed l = {0};
    sbx_err err = {0};
    sbx_greeting *g = open_bridge(&bridge);

    cr_assert(agent_hello(&bridge));
    agent_welcome_2(&bridge, 1);
    cr_assert_eq(sbx_greeting_wait(g, WAIT_MS, &err), 0, "%s", err.msg);
    cr_expect(sbx_channels_has(set, ID_A));
    cr_expect_not(sbx_channels_owns(set, ID_A));
    cr_expect_not(sbx_channels_holds(set, ID_A));
    sbx_channels_note(set, ID_A, "not for a bridge");
    sbx_channels_stop(set, ID_A, 1);
    sbx_channels_list(set, ID_A, NULL, &list_events, &l);
    cr_expect_eq(agent_read(&bridge), SBX_F_LIST, "and nothing before it");
    g = open_bridge(&second); /* one is enough */
    cr_expect_eq(sbx_greeting_wait(g, WAIT_MS, &err), -1);
    cr_expect(sbx_channels_has(set, ID_A));
    agent_frame(&bridge, SBX_F_LOG, 0, NULL, 0); /* a bridge gets no log */
    cr_expect(EVENTUALLY(!sbx_channels_has(set, ID_A)));
    cr_expect_eq(l.over, 1);
    cr_expect_eq(l.err.code, SBX_E_ENGINE);
    cr_expect_eq(lost_channels, 0, "no channel of a holder was lost");
    close(bridge.fd);
    close(second.fd);
}

/* One that cannot be gone on with elsewhere, as uploads cannot. */
Test(channel_v2, what_was_begun_on_a_bridge_goes_on_when_a_channel_takes_its_place, .init = make,
     .fini = unmake, .timeout = 60)
{
    static agent bridge, owner;
    static listed l; /* told at the end, when the channels end */
    static seen s;
    sbx_err err = {0};
    fields started = {.len = 0}, exit = {.len = 0};
    int others = conns_open;
    sbx_greeting *g = open_bridge(&bridge);

    cr_assert(agent_hello(&bridge));
    agent_welcome_2(&bridge, 1);
    cr_assert_eq(sbx_greeting_wait(g, WAIT_MS, &err), 0);
    sbx_channels_attach(set, ID_A, ID_B, 0, 10, false, &events, &s);
    cr_assert(agent_read_until(&bridge, SBX_F_ATTACH));
    uint32_t req = bridge.frame.req;
    g = channel_open(set, ID_A, 2, &owner);
    cr_assert(agent_hello(&owner));
    agent_welcome_2(&owner, 2);
    cr_assert_eq(sbx_greeting_wait(g, WAIT_MS, &err), 0);
    cr_expect(sbx_channels_owns(set, ID_A));
    sbx_channels_list(set, ID_A, NULL, &list_events, &l);
    cr_expect(agent_read_until(&owner, SBX_F_LIST), "what is new goes to the channel");
    cr_expect_eq(s.lost, 0);
    cr_expect_eq(conns_open, others + 2);
    sbx_channels_bridge_idle(set, 20);
    add_num(&started, SBX_T_PID, 7);
    agent_frame(&bridge, SBX_F_STARTED, req, started.data, started.len);
    agent_chunk(&bridge, req, 1, "hello", 5);
    add_num(&exit, SBX_T_EXIT_CODE, 0);
    add_num(&exit, SBX_T_SEQ, 2);
    agent_frame(&bridge, SBX_F_EXIT, req, exit.data, exit.len);
    cr_assert(EVENTUALLY(s.exits == 1));
    cr_expect_eq(s.bytes, 5);
    cr_expect(EVENTUALLY(conns_open == others + 1), "a bridge that nobody needs is closed");
    cr_expect(sbx_channels_owns(set, ID_A));
    close(bridge.fd);
    close(owner.fd);
}

Test(channel_v2, a_channel_takes_the_place_of_a_bridge_that_is_not_used, .init = make,
     .fini = unmake, .timeout = 60)
{
    static agent bridge, owner;
    sbx_err err = {0};
    int others = conns_open;
    sbx_greeting *g = open_bridge(&bridge);

    cr_assert(agent_hello(&bridge));
    agent_welcome_2(&bridge, 1);
    cr_assert_eq(sbx_greeting_wait(g, WAIT_MS, &err), 0);
    g = channel_open(set, ID_A, 2, &owner);
    cr_assert(agent_hello(&owner));
    agent_welcome_2(&owner, 2);
    cr_assert_eq(sbx_greeting_wait(g, WAIT_MS, &err), 0);
    cr_expect(sbx_channels_owns(set, ID_A));
    cr_expect_eq(conns_open, others + 1);
    close(bridge.fd);
    close(owner.fd);
}
