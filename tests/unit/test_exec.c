/* Commands over HTTP, between a client whose box the test opens and closes, and an agent that the
 * test plays. The store, the ledger and the replies are the test's, everything between is real. */
#include "channel_fixture.h"
#include "sbx/exec/exec.h"

#include <criterion/criterion.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>

/* --- a reply that keeps what it is given --- */

struct sbx_reply {
    atomic_int refs;
    atomic_bool full, begun, ended, gone;
    atomic_int status;
    pthread_mutex_t mu;
    sbx_buf text; /* guarded by mu */
    sbx_reply_events events;
};

sbx_reply *sbx_reply_ref(sbx_reply *r)
{
    r->refs++;
    return r;
}

void sbx_reply_unref(sbx_reply *r)
{
    r->refs--;
}

void sbx_reply_begin(sbx_reply *r, int status, const char *content_type)
{
    (void)content_type;
    r->status = status;
    r->begun = true;
}

sbx_push sbx_reply_write(sbx_reply *r, const void *data, size_t len)
{
    if (r->full)
        return SBX_PUSH_FULL;
    pthread_mutex_lock(&r->mu);
    sbx_buf_add(&r->text, data, len);
    pthread_mutex_unlock(&r->mu);
    return SBX_PUSH_OK;
}

void sbx_reply_end(sbx_reply *r)
{
    r->ended = true;
}

void sbx_reply_json(sbx_reply *r, int status, sbx_buf *body)
{
    r->text = *body;
    *body = (sbx_buf){0};
    r->status = status;
    r->ended = true;
}

sbx_push sbx_reply_write_binary(sbx_reply *r, const void *data, size_t len)
{
    return sbx_reply_write(r, data, len);
}

void sbx_reply_send(sbx_reply *r, int status, const char *content_type, const sbx_header *headers,
                    size_t header_count, sbx_buf *body)
{
    (void)content_type, (void)headers, (void)header_count;
    sbx_reply_json(r, status, body);
}

const char *sbx_request_query(const sbx_request *r, const char *name)
{
    for (size_t i = 0; i < r->query_count; i++)
        if (strcmp(r->query[i].name, name) == 0)
            return r->query[i].value;
    return NULL;
}

void sbx_reply_problem_json(const sbx_reply *r, const sbx_err *err, sbx_buf *out)
{
    (void)r;
    sbx_buf_addf(out, "{\"code\":\"%s\"}", sbx_code_wire(err->code));
}

void sbx_reply_problem(sbx_reply *r, const sbx_err *err)
{
    r->status = sbx_code_status(err->code);
    r->ended = true;
}

void sbx_reply_about(sbx_reply *r, const char *object, const char *part)
{
    (void)r;
    (void)object;
    (void)part;
}

void sbx_reply_watch(sbx_reply *r, const sbx_reply_events *events)
{
    r->events = *events;
}

const atomic_bool *sbx_reply_cancel_flag(const sbx_reply *r)
{
    return &r->gone;
}

bool sbx_reply_gone(const sbx_reply *r)
{
    return r->gone;
}

/* --- the store and the ledger --- */

static const char *state_of_box = "running";
static atomic_int started_box_ms = 1;
static atomic_int records;
static atomic_int active;

int sbx_store_sandbox_get(sbx_store *s, const char *owner, const char *id, sbx_sandbox_row *ret,
                          sbx_err *err)
{
    (void)s, (void)owner, (void)err;
    *ret = (sbx_sandbox_row){0};
    sbx_copy(ret->id, sizeof(ret->id), id);
    sbx_copy(ret->state, sizeof(ret->state), state_of_box);
    ret->started_ms = started_box_ms;
    return 0;
}

int sbx_store_sandbox_env(sbx_store *s, const char *id, sbx_pairs *ret, sbx_err *err)
{
    (void)s, (void)id, (void)ret;
    return sbx_fail(err, SBX_E_INTERNAL, "env was not changed");
}

int sbx_sandbox_move(sbx_sandboxes *s, const char *owner, const char *id, sbx_move *m,
                     sbx_sandbox_row *ret, sbx_err *err)
{
    (void)s, (void)owner, (void)id, (void)m, (void)ret;
    return sbx_fail(err, SBX_E_INTERNAL, "nothing was paused");
}

int sbx_sandbox_bridge(sbx_sandboxes *s, const char *owner, const char *id, sbx_err *err)
{
    (void)s, (void)owner, (void)id;
    return sbx_fail(err, SBX_E_CONFLICT, "there is no other worker");
}

void sbx_sandbox_row_done(sbx_sandbox_row *r)
{
    *r = (sbx_sandbox_row){0};
}

static sbx_exec_record stored; /* what the store has, under its id */

int sbx_store_exec_get(sbx_store *s, const char *owner, const char *sandbox, const char *id,
                       sbx_exec_record *ret, sbx_err *err)
{
    (void)s, (void)owner, (void)sandbox;
    if (strcmp(stored.id, id) != 0)
        return sbx_fail(err, SBX_E_NOT_FOUND, "no such record");
    *ret = stored;
    ret->command = sbx_strdup("[]");
    return 0;
}

int sbx_store_exec_list(sbx_store *s, const char *owner, const char *sandbox, int64_t before_ms,
                        const char *before_id, int limit, sbx_exec_page *ret, sbx_err *err)
{
    (void)s, (void)owner, (void)sandbox, (void)before_ms, (void)before_id, (void)limit, (void)err;
    *ret = (sbx_exec_page){.items = sbx_alloc(sizeof(stored)), .count = *stored.id ? 1 : 0};
    ret->items[0] = stored;
    ret->items[0].command = sbx_strdup("[]");
    if (!ret->count)
        free(ret->items[0].command);
    return 0;
}

void sbx_exec_record_done(sbx_exec_record *r)
{
    free(r->command);
    *r = (sbx_exec_record){0};
}

void sbx_ledger_begin(sbx_ledger *l, const char *sandbox)
{
    (void)l, (void)sandbox;
    active++;
}

sbx_ledger *sbx_sandboxes_ledger(const sbx_sandboxes *s)
{
    (void)s;
    return NULL;
}

bool sbx_ledger_use(sbx_ledger *l, const char *sandbox)
{
    sbx_ledger_begin(l, sandbox);
    return true;
}

void sbx_ledger_end(sbx_ledger *l, const char *sandbox)
{
    (void)l, (void)sandbox;
    active--;
}

void sbx_ledger_record(sbx_ledger *l, sbx_exec_record *r)
{
    (void)l;
    sbx_exec_record_done(r);
    records++;
}

static atomic_int starts; /* records of them that were written */

int sbx_store_exec_insert(sbx_store *s, const sbx_exec_record *r, size_t count, sbx_err *err)
{
    (void)s, (void)err;
    starts += count == 1 && r->running;
    return 0;
}

void sbx_ledger_record_start(sbx_ledger *l, sbx_exec_record *r)
{
    (void)l;
    sbx_exec_record_done(r);
}

/* --- the fixture --- */

static sbx_stream *stream;
static sbx_lanes *lanes;
static sbx_channels *set;
static sbx_metrics *metrics;
static sbx_execs *execs;
static sbx_reply reply;
static agent box;

static const char *runtime_of(const char *command)
{
    (void)command;
    return "python";
}

static void make(void)
{
    sbx_lanes_config config = {.threads = {1, 1, 1}, .queue = 16};
    sbx_err err = {0};

    stream = sbx_stream_new(&err);
    cr_assert(stream, "%s", err.msg);
    lanes = sbx_lanes_new(&config);
    set = sbx_channels_new(stream);
    metrics = sbx_metrics_new();
    execs = sbx_execs_new(&(sbx_execs_config){.stream = stream,
                                              .lanes = lanes,
                                              .channels = set,
                                              .metrics = metrics,
                                              .runtime_of = runtime_of});
    pthread_mutex_init(&reply.mu, NULL);
    sbx_buf_init(&reply.text, 64 * MIB);
    reply.refs = 1;
}

static void unmake(void)
{
    sbx_lanes_stop(lanes);
    if (reply.events.closed)
        reply.events.closed(reply.events.arg);
    sbx_channels_shutdown(set);
    sbx_stream_free(stream);
    cr_expect_eq(reply.refs, 1, "%d references of the reply are left", reply.refs - 1);
    cr_expect_eq(active, 0);
    sbx_lanes_free(lanes);
    sbx_execs_free(execs);
    sbx_channels_free(set);
    sbx_metrics_free(metrics);
    sbx_buf_done(&reply.text);
    if (box.fd > 0)
        close(box.fd);
}

static void start(const char *body, sbx_accept accept)
{
    sbx_request r = {
        .accept = accept, .body = (char *)body, .body_len = strlen(body), .reply = &reply};
    sbx_err err = {0};

    cr_assert_eq(sbx_exec_start(execs, "owner", BOX, &r, &err), 0, "%s", err.msg);
}

static uint32_t start_on_agent(const char *body, sbx_accept accept)
{
    sbx_err err = {0};
    sbx_greeting *g = channel_open(set, BOX, 1, &box);

    cr_assert(agent_hello(&box));
    agent_welcome(&box, 1);
    cr_assert_eq(sbx_greeting_wait(g, WAIT_MS, &err), 0, "%s", err.msg);
    start(body, accept);
    cr_assert(agent_read_until(&box, SBX_F_EXEC));
    return box.frame.req;
}

static void tell_started(uint32_t req)
{
    agent_num(&box, SBX_F_STARTED, req, SBX_T_PID, 77);
}

/* The sanitizer makes strstr() look at all of the text each time. */
static size_t count_of(const char *text, const char *what)
{
    size_t n = 0, len = strlen(what);

    for (; text && *text; text++)
        n += *text == *what && strncmp(text, what, len) == 0;
    return n;
}

/* Bytes that the server granted, up to `wanted`. */
static uint64_t granted(uint64_t wanted)
{
    uint64_t sum = 0;

    while (sum < wanted && agent_read_until(&box, SBX_F_WINDOW)) {
        sbx_fields f;
        sbx_field field;

        sbx_fields_init(&f, box.frame.payload, box.frame.len);
        cr_assert_eq(sbx_fields_next(&f, &field), 1);
        sum += field.num;
    }
    return sum;
}

/* Has the server read all that the agent sent? */
static bool all_read(void)
{
    int unread = 0;

    return ioctl(box.fd, SIOCOUTQ, &unread) == 0 && unread == 0;
}

/* The events of single bytes outgrew the buffer, and what was beyond it was cut off. */
Test(exec, single_bytes_for_a_client_that_is_behind_are_not_lost, .init = make, .fini = unmake,
     .timeout = 60)
{
    const size_t bytes = SBX_STREAM_WINDOW_BYTES;
    uint32_t req = start_on_agent("{\"command\":\"x\"}", SBX_ACCEPT_SSE);

    tell_started(req);
    cr_assert(EVENTUALLY(reply.begun));
    reply.full = true;
    for (size_t i = 0; i < bytes; i++)
        agent_output(&box, req, "Z", 1);
    cr_assert(EVENTUALLY(all_read()));
    sbx_stream_sync(stream);
    reply.full = false;
    reply.events.ready(reply.events.arg);
    cr_expect_eq(granted(bytes), bytes);
    agent_num(&box, SBX_F_EXIT, req, SBX_T_EXIT_CODE, 0);
    cr_expect(EVENTUALLY(reply.ended));
    cr_expect_eq(count_of(reply.text.data, "Z"), bytes);
    cr_expect_eq(count_of(reply.text.data, "\n\n"), count_of(reply.text.data, "id: "));
    cr_expect_eq(count_of(reply.text.data, "\"type\":\"exit\""), 1);
}

Test(exec, what_was_held_back_comes_before_the_exit, .init = make, .fini = unmake, .timeout = 60)
{
    uint32_t req = start_on_agent("{\"command\":\"x\"}", SBX_ACCEPT_SSE);

    tell_started(req);
    cr_assert(EVENTUALLY(reply.begun));
    reply.full = true;
    agent_output(&box, req, "first", 5);
    agent_output(&box, req, "sec", 3);
    agent_output(&box, req, "ond\xc3", 4); /* half a character */
    agent_num(&box, SBX_F_EXIT, req, SBX_T_EXIT_CODE, 0);
    cr_expect(EVENTUALLY(records == 1));
    cr_expect_not(reply.ended);
    reply.full = false;
    reply.events.ready(reply.events.arg);
    cr_expect(EVENTUALLY(reply.ended));
    const char *first = strstr(reply.text.data, "first");
    const char *second = strstr(reply.text.data, "\"ond\"");
    const char *half = strstr(reply.text.data, "\"ww==\",\"encoding\":\"base64\"");
    const char *last = strstr(reply.text.data, "\"exit\"");
    cr_expect(first && second && half && last && first < second && second < half && half < last);
}

/* 16 MiB of zeros are valid UTF-8 and take 96 MiB of escapes: that was a 500. */
Test(exec, output_that_escapes_make_too_long_is_answered_in_base64, .init = make, .fini = unmake,
     .timeout = 60)
{
    static const char zeros[32 * 1024];
    uint32_t req =
        start_on_agent("{\"command\":\"x\",\"maxOutputBytes\":16777216}", SBX_ACCEPT_JSON);

    tell_started(req);
    for (size_t sent = 0; sent < SBX_MAX_OUTPUT_BYTES; sent += sizeof(zeros)) {
        agent_output(&box, req, zeros, sizeof(zeros));
        cr_assert_eq(granted(sizeof(zeros)), sizeof(zeros));
    }
    agent_num(&box, SBX_F_EXIT, req, SBX_T_EXIT_CODE, 0);
    cr_expect(EVENTUALLY(reply.ended));
    cr_expect_eq(reply.status, 200);
    cr_expect_not(sbx_buf_failed(&reply.text));
    cr_assert(reply.text.len > 0);
    cr_expect(strstr(reply.text.data, "\"encoding\":\"base64\"") != NULL);
}

/* It stayed without an answer, holding its reply beyond the end of the server. */
Test(exec, one_that_waits_for_a_create_is_answered_at_the_end, .init = make, .fini = unmake,
     .timeout = 60)
{
    state_of_box = "creating";
    start("{\"command\":\"x\"}", SBX_ACCEPT_JSON);
    sbx_stream_sync(stream);
    sbx_lanes_stop(lanes);
    sbx_channels_shutdown(set);
    sbx_stream_free(stream);
    sbx_channels_free(set);
    cr_expect_eq(reply.status, 503);
    cr_expect_eq(reply.refs, 1);
    sbx_err err = {0}; /* for unmake() */
    stream = sbx_stream_new(&err);
    set = sbx_channels_new(stream);
}

/* A command whose client leaves between EXEC and STARTED. */
static uint32_t start_and_leave(const char *body, sbx_accept accept)
{
    uint32_t req = start_on_agent(body, accept);

    cr_assert(reply.events.closed != NULL);
    reply.events.closed(reply.events.arg);
    reply.events.closed = NULL;
    sbx_stream_sync(stream);
    tell_started(req);
    return req;
}

Test(exec, a_client_that_left_before_the_start_lets_the_command_go_on, .init = make, .fini = unmake,
     .timeout = 60)
{
    uint32_t req = start_and_leave("{\"command\":\"x\"}", SBX_ACCEPT_JSON);

    cr_expect(agent_read_until(&box, SBX_F_DETACH));
    agent_num(&box, SBX_F_EXIT, req, SBX_T_EXIT_CODE, 0);
    cr_expect(EVENTUALLY(records == 1));
}

Test(exec, kill_on_disconnect_kills_one_that_had_not_started_too, .init = make, .fini = unmake,
     .timeout = 60)
{
    uint32_t req = start_and_leave("{\"command\":\"x\",\"killOnDisconnect\":true}", SBX_ACCEPT_SSE);

    cr_expect(agent_read_until(&box, SBX_F_KILL));
    agent_num(&box, SBX_F_EXIT, req, SBX_T_EXIT_CODE, 137);
    cr_expect(EVENTUALLY(records == 1));
}

static uint32_t start_on_agent_2(const char *body, sbx_accept accept)
{
    sbx_err err = {0};
    sbx_greeting *g = channel_open(set, BOX, 1, &box);

    cr_assert(agent_hello(&box));
    agent_welcome_2(&box, 1);
    cr_assert_eq(sbx_greeting_wait(g, WAIT_MS, &err), 0, "%s", err.msg);
    start(body, accept);
    cr_assert(agent_read_until(&box, SBX_F_EXEC));
    return box.frame.req;
}

/* The channel ends, another one is there, and the agent does not know the command. */
static void lose_what_was_sent(uint64_t epoch)
{
    sbx_err err = {0};

    close(box.fd);
    cr_assert(EVENTUALLY(!sbx_channels_has(set, BOX)));
    sbx_greeting *g = channel_open(set, BOX, epoch, &box);

    cr_assert(agent_hello(&box));
    agent_welcome_2(&box, epoch);
    cr_assert_eq(sbx_greeting_wait(g, WAIT_MS, &err), 0, "%s", err.msg);
    cr_assert(agent_read_until(&box, SBX_F_ATTACH));
    agent_num(&box, SBX_F_FAIL, box.frame.req, SBX_T_CODE, SBX_AF_NOT_FOUND);
}

Test(exec, a_start_that_the_agent_did_not_get_is_sent_again_once, .init = make, .fini = unmake,
     .timeout = 60)
{
    start_on_agent_2("{\"command\":\"x\"}", SBX_ACCEPT_JSON);
    lose_what_was_sent(2);
    cr_assert(agent_read_until(&box, SBX_F_EXEC));
    tell_started(box.frame.req);
    agent_num(&box, SBX_F_EXIT, box.frame.req, SBX_T_EXIT_CODE, 0);
    cr_expect(EVENTUALLY(reply.ended));
    cr_expect_eq(reply.status, 200);
}

Test(exec, a_start_that_is_lost_twice_is_told, .init = make, .fini = unmake, .timeout = 60)
{
    start_on_agent_2("{\"command\":\"x\"}", SBX_ACCEPT_JSON);
    lose_what_was_sent(2);
    cr_assert(agent_read_until(&box, SBX_F_EXEC));
    lose_what_was_sent(3);
    cr_expect(EVENTUALLY(reply.ended));
    cr_expect_eq(reply.status, 502);
}

/* It may have run before the restart. */
Test(exec, a_start_from_before_a_restart_is_not_sent_again, .init = make, .fini = unmake,
     .timeout = 60)
{
    start_on_agent_2("{\"command\":\"x\"}", SBX_ACCEPT_JSON);
    started_box_ms = 2;
    lose_what_was_sent(2);
    cr_expect(EVENTUALLY(reply.ended));
    cr_expect_eq(reply.status, 502);
}

Test(exec, one_in_the_background_is_told_when_its_start_is_recorded, .init = make, .fini = unmake,
     .timeout = 60)
{
    uint32_t req = start_on_agent_2("{\"command\":\"x\",\"background\":true}", SBX_ACCEPT_JSON);

    tell_started(req);
    cr_expect(EVENTUALLY(reply.ended));
    cr_expect_eq(reply.status, 202);
    cr_expect_eq(starts, 1);
}
