/* Channels and their commands, with the test in the place of a sandbox's agent. */
#include "channel_fixture.h"

#include <criterion/criterion.h>

static sbx_stream *stream;
static sbx_channels *set;
static agent box;

/* What the set told. */
static atomic_int lost, broken;
static atomic_uint lines, last_line;

static void on_log(void *arg, const char *id, const sbx_log_entry *entries, size_t count)
{
    (void)arg;
    cr_expect_str_eq(id, BOX);
    lines += (unsigned)count;
    last_line = (unsigned)entries[count - 1].seq;
    sbx_channels_log_ack(set, id, last_line);
}

static void on_lost(void *arg, const char *id, bool was_broken)
{
    (void)arg, (void)id;
    broken += was_broken;
    lost++;
}

static void make(void)
{
    static const sbx_channel_events events = {.log = on_log, .lost = on_lost};
    sbx_err err;

    stream = sbx_stream_new(&err);
    cr_assert(stream, "%s", err.msg);
    set = sbx_channels_new(stream);
    sbx_channels_watch(set, &events);
}

static void unmake(void)
{
    sbx_channels_shutdown(set);
    sbx_stream_free(stream);
    sbx_channels_free(set);
    if (box.fd > 0)
        close(box.fd);
    cr_expect_eq(conns_open, 0, "%d connections were not closed", conns_open);
}

static void open_box(void)
{
    sbx_err err = {0};
    sbx_greeting *g = channel_open(set, BOX, 1, &box);

    cr_assert(agent_hello(&box));
    agent_welcome(&box, 1);
    cr_assert_eq(sbx_greeting_wait(g, WAIT_MS, &err), 0, "%s", err.msg);
    cr_assert(sbx_channels_has(set, BOX));
}

static void hang_up(void)
{
    close(box.fd);
    box.fd = 0;
}

/* --- a command and what it was told --- */

typedef struct seen {
    atomic_int started, exits, failed;
    atomic_size_t bytes;
    sbx_command *command;
    sbx_command_exit exit;
    sbx_err err;
} seen;

static void on_started(void *arg, sbx_command *c, int64_t pid)
{
    seen *s = arg;

    cr_expect_eq(pid, 77);
    s->command = c;
    s->started++;
}

static void on_output(void *arg, sbx_command *c, bool is_stderr, const char *data, size_t len)
{
    (void)c, (void)is_stderr, (void)data;
    ((seen *)arg)->bytes += len;
}

static void on_exit_told(void *arg, const sbx_command_exit *e)
{
    seen *s = arg;

    s->exit = *e;
    s->exits++;
}

static void on_failed(void *arg, const sbx_err *err)
{
    seen *s = arg;

    s->err = *err;
    s->failed++;
}

static const sbx_command_events events = {on_started, on_output, on_exit_told, on_failed};

static void run(seen *s, int64_t window)
{
    sbx_command_spec spec = {.window = window};

    *s = (seen){0};
    sbx_copy(spec.exec_id, sizeof(spec.exec_id), "bbbbbbbbbbbbbbbbbbbb");
    spec.argv.items = sbx_alloc(2 * sizeof(char *));
    spec.argv.items[spec.argv.count++] = sbx_strdup("true");
    sbx_channels_exec(set, BOX, &spec, &events, s);
}

static uint32_t run_on_agent(seen *s, int64_t window)
{
    run(s, window);
    cr_assert(agent_read_until(&box, SBX_F_EXEC));
    return box.frame.req;
}

/* Everything that was posted has run; then nothing more can come. */
static void settle(void)
{
    sbx_stream_sync(stream);
}

/* --- the greeting --- */

Test(channel, junk_before_the_marker_is_dropped, .init = make, .fini = unmake, .timeout = 60)
{
    sbx_err err = {0};
    sbx_greeting *g = channel_open(set, BOX, 3, &box);
    char junk[4096];

    cr_assert(agent_hello(&box));
    memset(junk, 'x', sizeof(junk));
    for (int i = 0; i < 300; i++)
        agent_send(&box, junk, sizeof(junk));
    agent_send(&box, SBX_PROTO_MAGIC, SBX_PROTO_MAGIC_BYTES); /* half a marker */
    agent_marker(&box, 2);                                    /* that of an earlier greeting */
    agent_num(&box, SBX_F_EXIT, 1, SBX_T_EXIT_CODE, 0);
    cr_expect_not(sbx_channels_has(set, BOX));
    cr_expect(sbx_channels_holds(set, BOX));
    agent_welcome(&box, 3);
    cr_expect_eq(sbx_greeting_wait(g, WAIT_MS, &err), 0, "%s", err.msg);
    cr_expect(sbx_channels_has(set, BOX));
}

Test(channel, a_marker_in_single_bytes_is_found, .init = make, .fini = unmake, .timeout = 60)
{
    unsigned char marker[SBX_PROTO_MARKER_BYTES + 8] = {0};
    sbx_err err = {0};
    sbx_greeting *g = channel_open(set, BOX, 1, &box);

    cr_assert(agent_hello(&box));
    memcpy(marker, SBX_PROTO_MAGIC, SBX_PROTO_MAGIC_BYTES);
    memset(marker + SBX_PROTO_MAGIC_BYTES, 7, SBX_PROTO_TOKEN_BYTES);
    marker[SBX_PROTO_MARKER_BYTES] = 1;
    for (size_t i = 0; i < sizeof(marker); i++) {
        agent_send(&box, marker + i, 1);
        settle();
    }
    agent_frame(&box, SBX_F_WELCOME, 0, NULL, 0);
    cr_expect_eq(sbx_greeting_wait(g, WAIT_MS, &err), 0, "%s", err.msg);
}

Test(channel, an_agent_with_another_epoch_is_not_heard, .init = make, .fini = unmake, .timeout = 60)
{
    sbx_err err = {0};
    sbx_greeting *g = channel_open(set, BOX, 5, &box);

    cr_assert(agent_hello(&box));
    agent_welcome(&box, 4);
    cr_expect_eq(sbx_greeting_wait(g, 100, &err), -1);
    cr_expect_eq(err.code, SBX_E_TIMEOUT);
    cr_expect(EVENTUALLY(!sbx_channels_holds(set, BOX)));
    cr_expect_eq(lost, 0);
}

Test(channel, a_hang_up_answers_the_greeting, .init = make, .fini = unmake, .timeout = 60)
{
    sbx_err err = {0};
    sbx_greeting *g = channel_open(set, BOX, 1, &box);

    hang_up();
    cr_expect_eq(sbx_greeting_wait(g, WAIT_MS, &err), -1);
    cr_expect_eq(err.code, SBX_E_ENGINE);
}

Test(channel, a_greeting_that_nobody_waits_for_opens_too, .init = make, .fini = unmake,
     .timeout = 60)
{
    sbx_greeting_forget(channel_open(set, BOX, 1, &box));
    cr_assert(agent_hello(&box));
    cr_expect(sbx_channels_holds(set, BOX));
    agent_welcome(&box, 1);
    cr_expect(EVENTUALLY(sbx_channels_has(set, BOX)));
}

/* An adoption used to keep a thread of the cleanup for ten seconds. */
Test(channel, a_silent_agent_ends_its_channel_without_a_waiting_thread, .init = make,
     .fini = unmake, .timeout = 60)
{
    int64_t from = sbx_now_ms();

    sbx_greeting_forget(channel_open(set, BOX, 1, &box));
    cr_expect(EVENTUALLY(sbx_channels_holds(set, BOX)));
    while (sbx_channels_holds(set, BOX) && sbx_now_ms() < from + 3 * SBX_GREETING_MS)
        pause_1ms();
    cr_expect_not(sbx_channels_holds(set, BOX));
    cr_expect_geq(sbx_now_ms(), from + SBX_GREETING_MS);
}

Test(channel, shutdown_answers_a_waiting_greeting, .init = make, .fini = unmake, .timeout = 60)
{
    sbx_err err = {0};
    sbx_greeting *g = channel_open(set, BOX, 1, &box);

    sbx_channels_shutdown(set);
    cr_expect_eq(sbx_greeting_wait(g, WAIT_MS, &err), -1);
    cr_expect_eq(err.code, SBX_E_ENGINE);
}

Test(channel, none_is_opened_after_the_shutdown, .init = make, .fini = unmake, .timeout = 60)
{
    sbx_err err = {0};

    sbx_channels_shutdown(set);
    sbx_greeting *g = channel_open(set, BOX, 1, &box);
    cr_expect_eq(sbx_greeting_wait(g, WAIT_MS, &err), -1);
    cr_expect_not(sbx_channels_holds(set, BOX));
}

Test(channel, a_new_channel_replaces_the_old_one, .init = make, .fini = unmake, .timeout = 60)
{
    static agent newer;
    sbx_err err = {0};
    seen s;

    open_box();
    (void)run_on_agent(&s, 10);
    sbx_greeting *g = channel_open(set, BOX, 2, &newer);
    cr_assert(agent_hello(&newer));
    agent_welcome(&newer, 2);
    cr_expect_eq(sbx_greeting_wait(g, WAIT_MS, &err), 0, "%s", err.msg);
    cr_expect_eq(s.failed, 1, "the command on the old channel was told");
    cr_expect(sbx_channels_has(set, BOX));
    cr_expect_eq(sbx_channels_count(set), 1);
    cr_expect_eq(lost, 0);
    close(newer.fd);
    cr_expect(EVENTUALLY(lost == 1));
}

/* --- a broken agent --- */

Test(channel, whoever_breaks_the_protocol_loses_the_channel_alone, .init = make, .fini = unmake,
     .timeout = 60)
{
    static const struct {
        const char *name;
        uint8_t type;
        uint32_t req;
        const char *payload;
        size_t len;
    } cases[] = {
        {"a second WELCOME", SBX_F_WELCOME, 0, NULL, 0},
        {"a frame of the owner's", SBX_F_EXEC, 0, NULL, 0},
        {"half a log entry", SBX_F_LOG, 0, "12345", 5},
        {"a PID that is cut", SBX_F_STARTED, 1, "\x13", 1},
        {"OUTPUT without its head", SBX_F_OUTPUT, 1, "\1", 1},
        {"OUTPUT of no stream", SBX_F_OUTPUT, 1, "\3AAAAAAAAB", 10},
        {"an EXIT that is cut", SBX_F_EXIT, 1, "\x14\0\x08\0\0\0", 6},
        {"a FAIL that is cut", SBX_F_FAIL, 1, "\1", 1},
        {"a type that does not exist", 200, 1, NULL, 0},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        static agent other;
        sbx_err err = {0};
        seen s;

        sbx_greeting *g = channel_open(set, "cccccccccccccccccccc", 1, &other);
        cr_assert(agent_hello(&other));
        agent_welcome(&other, 1);
        cr_assert_eq(sbx_greeting_wait(g, WAIT_MS, &err), 0);
        lost = broken = 0;
        open_box();
        cr_assert_eq(run_on_agent(&s, 10), 1);
        agent_frame(&box, cases[i].type, cases[i].req, cases[i].payload, cases[i].len);
        cr_expect(EVENTUALLY(lost == 1), "%s", cases[i].name);
        cr_expect_eq(broken, 1, "%s", cases[i].name);
        cr_expect_not(sbx_channels_holds(set, BOX), "%s", cases[i].name);
        cr_expect_eq(s.failed, 1, "%s", cases[i].name);
        cr_expect_eq(s.err.code, SBX_E_ENGINE, "%s", cases[i].name);
        cr_expect_eq(s.exits, 0, "%s", cases[i].name);
        cr_expect(sbx_channels_has(set, "cccccccccccccccccccc"), "%s", cases[i].name);
        hang_up();
        close(other.fd);
        cr_expect(EVENTUALLY(sbx_channels_count(set) == 0));
    }
}

Test(channel, nothing_is_heard_before_the_welcome, .init = make, .fini = unmake, .timeout = 60)
{
    unsigned char log[64];
    sbx_log_entry e = {.seq = 1, .len = 2, .data = "hi"};
    sbx_err err = {0};
    sbx_greeting *g = channel_open(set, BOX, 1, &box);

    cr_assert(agent_hello(&box));
    agent_marker(&box, 1);
    agent_frame(&box, SBX_F_LOG, 0, log, sbx_log_entry_put(log, sizeof(log), &e));
    cr_expect_eq(sbx_greeting_wait(g, WAIT_MS, &err), -1);
    cr_expect_eq(err.code, SBX_E_ENGINE);
    cr_expect_eq(lines, 0);
}

Test(channel, a_frame_over_the_limit_ends_the_channel, .init = make, .fini = unmake, .timeout = 60)
{
    unsigned char head[SBX_PROTO_HEADER_BYTES];

    open_box();
    sbx_frame_put_header(head, SBX_PROTO_MAX_FROM_AGENT + 1, SBX_F_LOG, 1, 0);
    agent_send(&box, head, sizeof(head));
    cr_expect(EVENTUALLY(lost == 1));
    cr_expect_eq(broken, 1);
}

Test(channel, output_beyond_the_grant_ends_the_channel, .init = make, .fini = unmake, .timeout = 60)
{
    seen s;

    open_box();
    uint32_t req = run_on_agent(&s, 10);
    agent_num(&box, SBX_F_STARTED, req, SBX_T_PID, 77);
    agent_output(&box, req, "0123456789", 10);
    cr_expect(EVENTUALLY(s.bytes == 10));
    cr_expect_eq(lost, 0);
    agent_output(&box, req, "x", 1);
    cr_expect(EVENTUALLY(lost == 1));
    cr_expect_eq(s.bytes, 10);
    cr_expect_eq(s.failed, 1);
}

/* Each made an event of a stream, whatever its client had taken. */
Test(channel, a_second_start_of_a_command_ends_the_channel, .init = make, .fini = unmake,
     .timeout = 60)
{
    seen s;

    open_box();
    uint32_t req = run_on_agent(&s, 10);
    agent_num(&box, SBX_F_STARTED, req, SBX_T_PID, 77);
    agent_num(&box, SBX_F_STARTED, req, SBX_T_PID, 77);
    cr_expect(EVENTUALLY(lost == 1));
    cr_expect_eq(s.started, 1);
    cr_expect_eq(s.failed, 1);
}

Test(channel, a_forged_number_of_a_command_is_ignored, .init = make, .fini = unmake, .timeout = 60)
{
    seen s;

    open_box();
    uint32_t req = run_on_agent(&s, 10);
    agent_output(&box, req + 1, "0123456789 and more", 19);
    agent_num(&box, SBX_F_EXIT, UINT32_MAX, SBX_T_EXIT_CODE, 3);
    agent_num(&box, SBX_F_EXIT, req, SBX_T_EXIT_CODE, 4);
    cr_expect(EVENTUALLY(s.exits == 1));
    cr_expect_eq(s.exit.exit_code, 4);
    cr_expect_eq(s.bytes, 0);
    cr_expect_eq(lost, 0);
}

/* --- commands --- */

Test(channel, a_command_ends_exactly_once, .init = make, .fini = unmake, .timeout = 60)
{
    seen s;

    open_box();
    uint32_t req = run_on_agent(&s, 10);
    agent_num(&box, SBX_F_STARTED, req, SBX_T_PID, 77);
    agent_num(&box, SBX_F_EXIT, req, SBX_T_EXIT_CODE, 9);
    agent_num(&box, SBX_F_EXIT, req, SBX_T_EXIT_CODE, 10);
    agent_num(&box, SBX_F_FAIL, req, SBX_T_CODE, SBX_AF_SPAWN);
    hang_up();
    cr_expect(EVENTUALLY(lost == 1));
    cr_expect_eq(broken, 0);
    cr_expect_eq(s.started, 1);
    cr_expect_eq(s.exits, 1);
    cr_expect_eq(s.failed, 0);
    cr_expect_eq(s.exit.exit_code, 9);
}

Test(channel, a_refused_command_says_which_field_was_wrong, .init = make, .fini = unmake,
     .timeout = 60)
{
    static const struct {
        sbx_agent_fail told;
        sbx_code code;
        const char *field;
    } cases[] = {
        {SBX_AF_BAD_CWD, SBX_E_INVALID, "cwd"}, {SBX_AF_BAD_USER, SBX_E_INVALID, "user"},
        {SBX_AF_BUSY, SBX_E_CAPACITY, ""},      {SBX_AF_SPAWN, SBX_E_CAPACITY, ""},
        {SBX_AF_BAD_REQUEST, SBX_E_ENGINE, ""}, {(sbx_agent_fail)999, SBX_E_ENGINE, ""},
    };

    open_box();
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        seen s;
        uint32_t req = run_on_agent(&s, 10);

        agent_num(&box, SBX_F_FAIL, req, SBX_T_CODE, cases[i].told);
        cr_expect(EVENTUALLY(s.failed == 1));
        cr_expect_eq(s.err.code, cases[i].code);
        cr_expect_str_eq(s.err.field, cases[i].field);
    }
    cr_expect_eq(lost, 0);
}

Test(channel, a_loss_fails_every_command_once, .init = make, .fini = unmake, .timeout = 60)
{
    seen s[5];

    open_box();
    for (size_t i = 0; i < ARRAY_LEN(s); i++)
        (void)run_on_agent(&s[i], 10);
    hang_up();
    cr_expect(EVENTUALLY(lost == 1));
    for (size_t i = 0; i < ARRAY_LEN(s); i++) {
        cr_expect_eq(s[i].failed, 1);
        cr_expect_eq(s[i].err.code, SBX_E_ENGINE);
    }
}

Test(channel, a_deletion_tells_its_commands_that_the_sandbox_is_gone, .init = make, .fini = unmake,
     .timeout = 60)
{
    seen s;

    open_box();
    (void)run_on_agent(&s, 10);
    sbx_channels_close(set, BOX, SBX_E_GONE);
    cr_expect(EVENTUALLY(s.failed == 1));
    cr_expect_eq(s.err.code, SBX_E_GONE);
    cr_expect_eq(lost, 0);
}

Test(channel, a_command_without_a_channel_fails_at_once, .init = make, .fini = unmake,
     .timeout = 60)
{
    seen s;

    run(&s, 10);
    cr_expect(EVENTUALLY(s.failed == 1));
    cr_expect_eq(s.err.code, SBX_E_CONFLICT);
    sbx_greeting *g = channel_open(set, BOX, 1, &box); /* not answered yet */
    run(&s, 10);
    cr_expect(EVENTUALLY(s.failed == 1));
    sbx_greeting_forget(g);
}

static void detach(void *arg)
{
    sbx_command_detach(((seen *)arg)->command);
}

Test(channel, output_of_a_detached_command_is_not_delivered, .init = make, .fini = unmake,
     .timeout = 60)
{
    seen s;

    open_box();
    uint32_t req = run_on_agent(&s, 10);
    agent_num(&box, SBX_F_STARTED, req, SBX_T_PID, 77);
    cr_assert(EVENTUALLY(s.started == 1));
    sbx_stream_post(stream, detach, &s);
    cr_expect(agent_read_until(&box, SBX_F_DETACH));
    agent_output(&box, req, "was under way already", 21);
    agent_num(&box, SBX_F_EXIT, req, SBX_T_EXIT_CODE, 0);
    cr_expect(EVENTUALLY(s.exits == 1));
    cr_expect_eq(s.bytes, 0);
    cr_expect_eq(lost, 0);
}

Test(channel, commands_of_an_earlier_owner_are_taken_over, .init = make, .fini = unmake,
     .timeout = 60)
{
    static const char ids[2][SBX_ID_LEN + 1] = {"dddddddddddddddddddd", "eeeeeeeeeeeeeeeeeeee"};
    unsigned char welcome[128];
    sbx_err err = {0};
    size_t n = 0;
    seen s;

    sbx_greeting *g = channel_open(set, BOX, 1, &box);
    cr_assert(agent_hello(&box));
    for (int i = 0; i < 2; i++)
        n += sbx_field_put(welcome + n, sizeof(welcome) - n, SBX_T_EXEC_ID, ids[i], SBX_ID_LEN);
    agent_marker(&box, 1);
    agent_frame(&box, SBX_F_WELCOME, 0, welcome, n);
    cr_expect_eq(sbx_greeting_wait(g, WAIT_MS, &err), 0, "%s", err.msg);
    for (uint32_t i = 0; i < 2; i++) {
        cr_expect_eq(agent_read(&box), SBX_F_ATTACH);
        cr_expect_eq(box.frame.req, i + 1);
        cr_expect(memmem(box.frame.payload, box.frame.len, ids[i], SBX_ID_LEN) != NULL);
        cr_expect_eq(agent_read(&box), SBX_F_DETACH);
    }
    agent_num(&box, SBX_F_STARTED, 1, SBX_T_PID, 77);
    agent_num(&box, SBX_F_EXIT, 1, SBX_T_EXIT_CODE, 0);
    agent_num(&box, SBX_F_FAIL, 2, SBX_T_CODE, SBX_AF_NOT_FOUND);
    cr_expect_eq(run_on_agent(&s, 10), 3, "their numbers are not used again at once");
    agent_num(&box, SBX_F_EXIT, 3, SBX_T_EXIT_CODE, 0);
    cr_expect(EVENTUALLY(s.exits == 1));
    cr_expect_eq(lost, 0);
}

/* --- logs --- */

Test(channel, log_entries_are_delivered_and_acknowledged, .init = make, .fini = unmake,
     .timeout = 60)
{
    unsigned char log[SBX_PROTO_MAX_FROM_AGENT];
    size_t n = 0;
    uint64_t seq = 0;

    open_box();
    while (seq < 1500) { /* more than are handed on at once */
        sbx_log_entry e = {.seq = ++seq, .len = 2, .data = "hi"};

        n += sbx_log_entry_put(log + n, sizeof(log) - n, &e);
    }
    agent_frame(&box, SBX_F_LOG, 0, log, n);
    cr_expect(EVENTUALLY(lines == 1500));
    cr_expect_eq(last_line, 1500);
    cr_expect(agent_read_until(&box, SBX_F_LOG_ACK));
    cr_expect_eq(lost, 0);
}

/* What a TLS library had read already waited for the next event of the socket. */
Test(channel, what_the_connection_has_buffered_is_read_without_an_event, .init = make,
     .fini = unmake, .timeout = 60)
{
    unsigned char log[SBX_PROTO_MAX_FROM_AGENT];
    size_t n = 0;

    open_box();
    conns_buffer = true;
    for (uint64_t seq = 1; seq <= 1500; seq++) {
        sbx_log_entry e = {.seq = seq, .len = 2, .data = "hi"};

        n += sbx_log_entry_put(log + n, sizeof(log) - n, &e);
    }
    agent_frame(&box, SBX_F_LOG, 0, log, n);
    cr_expect(EVENTUALLY(lines == 1500));
}

Test(channel, a_note_reaches_the_agent, .init = make, .fini = unmake, .timeout = 60)
{
    open_box();
    sbx_channels_note(set, BOX, "something happened");
    cr_expect_eq(agent_read(&box), SBX_F_SYSLOG);
    cr_expect_eq(box.frame.len, strlen("something happened"));
}
