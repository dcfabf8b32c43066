/* A request that follows one command: what its agent tells becomes an answer or events.
 *
 * One object per request. It belongs to the worker that looks for the sandbox, and from the moment
 * it was posted to STREAM. When the channel is lost the command goes on inside, so the request
 * waits for another channel and attaches there behind what it has. */
#include "exec_priv.h"

#include "sbx/core/log.h"

#include <stdio.h>

void exec_free(exec *x)
{
    sbx_reply_unref(x->reply);
    sbx_exec_record_done(&x->record);
    sbx_buf_done(&x->output[0]);
    sbx_buf_done(&x->output[1]);
    follow_done(&x->f);
    sbx_command_spec_done(&x->spec);
    free(x);
}

static void exec_unref(exec *x)
{
    if (--x->refs == 0)
        exec_free(x);
}

static bool is_start(const exec *x);
static void can_use(void *arg);
static void cannot_use(void *arg, const sbx_err *err);

exec *exec_new(sbx_execs *e, exec_kind kind, const char *owner, const char *sandbox, const char *id,
               sbx_reply *reply)
{
    exec *x = sbx_alloc(sizeof(*x));

    x->e = e;
    x->kind = kind;
    x->refs = 1;
    x->reply = sbx_reply_ref(reply);
    x->from_us = sbx_now_us();
    sbx_copy(x->owner, sizeof(x->owner), owner);
    sbx_copy(x->sandbox, sizeof(x->sandbox), sandbox);
    sbx_copy(x->id, sizeof(x->id), id);
    follow_init(&x->f, x->reply, FOLLOW_SSE, 0);
    /* Also whoever finds a channel at once may need another one later. */
    x->use = (sbx_use){.parts = &e->parts,
                       .owner = x->owner,
                       .sandbox = x->sandbox,
                       .cancelled = sbx_reply_cancel_flag(x->reply),
                       .reading = !is_start(x),
                       .ready = can_use,
                       .failed = cannot_use,
                       .arg = x};
    return x;
}

static bool is_stream(const exec *x)
{
    return x->kind == EXEC_STREAM || x->kind == EXEC_OUTPUT;
}

static bool is_start(const exec *x)
{
    return x->kind == EXEC_WAIT || x->kind == EXEC_STREAM || x->kind == EXEC_BACKGROUND;
}

void exec_flush(exec *x)
{
    int64_t grant = follow_flush(&x->f);

    if (grant && x->command)
        sbx_command_grant(x->command, grant);
}

/* --- the end --- */

/* The command, or the wait for it, has let go. */
static void over(exec *x)
{
    x->command = NULL;
    if (x->counted)
        sbx_ledger_end(x->e->c.ledger, x->sandbox);
    if (x->kind == EXEC_WAIT || x->kind == EXEC_STREAM)
        sbx_metrics_observe_us(x->e->c.metrics, SBX_M_EXEC_SECONDS, NULL,
                               sbx_now_us() - x->from_us);
    if (x->f.begun)
        exec_flush(x);
    if (x->many)
        many_over(x);
    exec_unref(x);
}

static void record_failure(exec *x, const sbx_err *err)
{
    sbx_exec_record *r = &x->record;

    sbx_copy(r->error, sizeof(r->error), sbx_code_wire(err->code));
    r->exit_code = -1;
    r->duration_ms = (sbx_now_us() - x->from_us) / 1000;
    sbx_ledger_record(x->e->c.ledger, r);
    sbx_metrics_add(x->e->c.metrics, SBX_M_EXECS, "failed", 1);
}

static void tell_failure(exec *x, const sbx_err *err)
{
    if (x->f.begun)
        follow_error(&x->f, err);
    else if (x->many)
        many_problem(x, err);
    else
        sbx_reply_problem(x->reply, err); /* nothing was sent yet: a plain answer tells more */
}

void exec_fail(exec *x, const sbx_err *err)
{
    if (x->many) {
        many_refused(x, err);
        return;
    }
    sbx_reply_problem(x->reply, err);
    exec_free(x);
}

/* --- answers --- */

static void result_json(const exec *x, const sbx_command_exit *e, bool text, sbx_buf *body)
{
    sbx_jw w = SBX_JW(body);

    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "execId", x->id);
    exec_exit_fields(&w, e->exit_code, e->signal);
    for (int i = 0; i < 2; i++)
        sbx_jw_bytes(&w, i ? "stderr" : "stdout", x->output[i].data ? x->output[i].data : "",
                     x->output[i].len, !text);
    if (!text)
        sbx_jw_str(&w, "encoding", "base64");
    exec_result_fields(&w, e, e->truncated || x->truncated);
    sbx_jw_obj_end(&w);
}

/* Of many they must fit into one answer: twice their bytes, which base64 does not take. */
static size_t max_result(const exec *x)
{
    return x->many ? 2 * x->output[0].max + 64 * KIB : SBX_MAX_RESPONSE_BYTES;
}

static void answer(exec *x, const sbx_command_exit *e)
{
    sbx_buf body = SBX_BUF_INIT(max_result(x));
    bool text = sbx_utf8_valid(x->output[0].data, x->output[0].len) &&
                sbx_utf8_valid(x->output[1].data, x->output[1].len);

    result_json(x, e, text, &body);
    if (sbx_buf_failed(&body) && text) { /* escapes took six bytes for one: base64 is shorter */
        sbx_buf_reset(&body);
        result_json(x, e, false, &body);
    }
    if (x->many)
        many_result(x, &body);
    else
        sbx_reply_json(x->reply, 200, &body);
    sbx_buf_done(&body);
}

static void answer_started(exec *x)
{
    sbx_buf body = SBX_BUF_INIT(MIB);
    char location[2 * SBX_ID_LEN + 32];
    sbx_header h = {"location", location};
    exec_view v = {.r = x->record, .running = true, .pid = x->pid};

    snprintf(location, sizeof(location), "/sandboxes/%s/execs/%s", x->sandbox, x->id);
    exec_view_json(&body, &v);
    if (x->many)
        many_result(x, &body);
    else
        sbx_reply_send(x->reply, 202, "application/json", &h, 1, &body);
    sbx_buf_done(&body);
}

/* --- the record of a start ---
 *
 * Whoever is told the id of a command may ask for it whatever dies in the next moment, its agent
 * and this worker together, too. So the record is written before the answer, or, as a stream is not
 * to wait, beside its first event. One that cannot be written now waits in the ledger, where the
 * agent's news put it. */

static void insert_start(const sbx_execs *e, sbx_exec_record *r)
{
    sbx_err err;

    r->running = true;
    r->exit_code = -1;
    if (sbx_store_exec_insert(e->c.store, r, 1, &err))
        sbx_log_err(SBX_WARN, "the start of a command is not recorded yet", &err, "sandbox",
                    r->sandbox, NULL);
}

static void started_on_stream(void *arg)
{
    exec *x = arg;

    answer_started(x);
    over(x);
}

static void write_start(void *arg)
{
    exec *x = arg;

    insert_start(x->e, &x->record);
    sbx_stream_post(x->e->c.stream, started_on_stream, x);
}

/* The command was left: nobody else touches `x->record` until it is back. */
static void record_start(exec *x)
{
    sbx_job job = {.run = write_start, .arg = x};
    sbx_err err;

    if (sbx_lanes_submit(x->e->c.lanes, SBX_LANE_FAST, &job, &err))
        started_on_stream(x);
}

typedef struct beside {
    const sbx_execs *e;
    sbx_exec_record r;
} beside;

static void write_beside(void *arg)
{
    beside *b = arg;

    insert_start(b->e, &b->r);
    sbx_exec_record_done(&b->r);
    free(b);
}

static void record_start_beside(const exec *x)
{
    beside *b = sbx_alloc(sizeof(*b));
    sbx_job job = {.run = write_beside, .arg = b};
    sbx_err err;

    *b = (beside){.e = x->e, .r = x->record};
    b->r.command = sbx_strdup(x->record.command);
    if (!sbx_lanes_submit(x->e->c.lanes, SBX_LANE_FAST, &job, &err))
        return;
    sbx_exec_record_done(&b->r);
    free(b);
}

/* All that there was when the page began, or as much as was asked for. */
static bool page_is_full(const exec *x)
{
    return x->f.items >= x->limit || (!x->is_over && x->f.last >= x->upto + 1);
}

static void page_end(exec *x, bool more)
{
    sbx_command *c = sbx_steal(x->command);

    if (c)
        sbx_command_leave(c);
    follow_page(&x->f, more);
    over(x);
}

/* --- callbacks of the command, on STREAM --- */

/* The client went away: what it began in the background, or without killOnDisconnect, goes on. */
static void let_go(exec *x)
{
    sbx_command *c = x->command;

    if (x->kill_on_disconnect)
        sbx_command_kill(c);
    if (x->old) { /* its exit is needed for the record */
        sbx_command_detach(c);
        return;
    }
    sbx_command_leave(c);
    over(x);
}

static void begin_stream(exec *x)
{
    if (x->f.begun)
        return;
    x->f.begun = true;
    sbx_reply_begin(x->reply, 200, x->f.form == FOLLOW_WS ? NULL : "text/event-stream");
}

static void command_started(void *arg, sbx_command *c, int64_t pid)
{
    exec *x = arg;

    x->command = c;
    x->started = true;
    sbx_command_spec_done(&x->spec);
    if (x->left) {
        let_go(x);
        return;
    }
    if (is_stream(x)) {
        begin_stream(x);
        follow_start(&x->f, x->id, pid);
        exec_flush(x);
        if (is_start(x))
            record_start_beside(x);
    } else if (x->kind == EXEC_BACKGROUND) {
        x->pid = pid;
        sbx_command_leave(sbx_steal(x->command));
        record_start(x);
    } else if (x->kind == EXEC_PAGE) {
        follow_start(&x->f, x->id, pid);
        if (page_is_full(x))
            page_end(x, true);
    }
}

static void command_output(void *arg, sbx_command *c, bool is_stderr, const char *data, size_t len)
{
    exec *x = arg;

    if (x->kind == EXEC_WAIT) {
        /* The agent keeps the limit; a sandbox that broke its agent is held to it here. */
        sbx_buf *to = &x->output[is_stderr];

        sbx_buf_add(to, data, len);
        if (sbx_buf_failed(to)) {
            to->failed = false;
            x->truncated = true;
        }
        x->f.last = sbx_command_chunk(c) + 1;
        sbx_command_grant(c, (int64_t)len);
        return;
    }
    follow_output(&x->f, sbx_command_chunk(c), is_stderr, data, len);
    if (x->kind == EXEC_PAGE && page_is_full(x))
        page_end(x, true);
    else
        exec_flush(x);
}

static void command_gap(void *arg, sbx_command *c, uint64_t from, uint64_t to)
{
    exec *x = arg;

    (void)c;
    if (x->kind == EXEC_WAIT) {
        x->truncated = true;
        x->f.last = to + 1;
        return;
    }
    follow_gap(&x->f, from, to);
    if (x->kind == EXEC_PAGE && page_is_full(x))
        page_end(x, true);
    else
        exec_flush(x);
}

static void command_exit(void *arg, const sbx_command_exit *e)
{
    exec *x = arg;

    x->command = NULL;
    if (x->kind == EXEC_WAIT) {
        answer(x, e);
    } else if (x->kind == EXEC_PAGE) {
        follow_exit(&x->f, e);
        follow_page(&x->f, false);
    } else if (is_stream(x)) {
        follow_exit(&x->f, e);
    }
    if (is_start(x) && !e->told) {
        x->record.truncated = x->truncated;
        sbx_exec_record_exit(&x->record, e);
        sbx_ledger_record(x->e->c.ledger, &x->record);
        sbx_metrics_add(x->e->c.metrics, SBX_M_EXECS, exec_outcome(e), 1);
    }
    over(x);
}

static void look_for_record(exec *x);

/* The agent of a sandbox that ended, or was started anew, knows nothing of the command any more. */
static bool is_gone(const exec *x, const sbx_err *err)
{
    return err->code == SBX_E_NOT_FOUND || (err->code == SBX_E_CONFLICT && x->started);
}

static bool begin_again(exec *x);

/* It ran, or was on its way to the agent when the channel broke. */
static bool may_have_begun(const exec *x)
{
    return x->started || x->use.again;
}

static void command_failed(void *arg, const sbx_err *err)
{
    exec *x = arg;
    sbx_err told = *err;

    x->command = NULL;
    if (err->code == SBX_E_NOT_FOUND && begin_again(x))
        return;
    if (is_gone(x, err) && !is_start(x) && !x->looked) {
        look_for_record(x);
        return;
    }
    if (told.code == SBX_E_NOT_FOUND && is_start(x))
        sbx_fail(&told, SBX_E_ENGINE, "%s",
                 x->started ? "the command's outcome is unknown: the sandbox was restarted"
                            : "the connection to the sandbox broke before the command started");
    if (told.code == SBX_E_CONFLICT && may_have_begun(x) && is_start(x))
        sbx_fail(&told, SBX_E_ENGINE, "the command's outcome is unknown: %s", err->msg);
    if (told.code == SBX_E_CONFLICT && !may_have_begun(x) && strcmp(told.msg, SBX_OLD_AGENT) != 0) {
        told.code = SBX_E_CAPACITY; /* no channel here at the moment */
        told.retry_after_s = 1;
    }
    tell_failure(x, &told);
    if (is_start(x) && (x->old || !x->started || is_gone(x, err)))
        record_failure(x, &told);
    over(x);
}

static void command_lost(void *arg);

static const sbx_command_events events = {.started = command_started,
                                          .output = command_output,
                                          .exit = command_exit,
                                          .failed = command_failed,
                                          .gap = command_gap,
                                          .lost = command_lost};

/* --- another channel --- */

/* It was on its way when the channel broke or passed to another worker, and the agent, which is the
 * same still, has not got it. Should it come yet, the agent refuses the second one with its id. */
static bool begin_again(exec *x)
{
    sbx_command_spec spec = x->spec;

    if (!is_start(x) || x->started || !spec.argv.count || x->use.started_ms != x->begun_in_ms)
        return false;
    x->spec = (sbx_command_spec){0};
    sbx_channels_exec(x->e->c.channels, x->sandbox, &spec, &events, x);
    return true;
}

static void use_on_worker(void *arg)
{
    sbx_sandbox_use(&((exec *)arg)->use);
}

/* The wait for another channel reads the row, which a worker does. */
static void command_lost(void *arg)
{
    exec *x = arg;
    sbx_job job = {.run = use_on_worker, .arg = x};
    sbx_err err;

    x->command = NULL;
    x->use.again = true;
    if (x->kill_on_disconnect)
        x->use.cancelled = NULL; /* it is to be killed yet */
    if (x->left && !x->kill_on_disconnect)
        over(x);
    else if (sbx_lanes_submit(x->e->c.lanes, SBX_LANE_FAST, &job, &err))
        command_failed(x, &err);
}

/* --- the client, seen from STREAM --- */

static void ready_on_stream(void *arg)
{
    exec_flush(arg);
}

void exec_left(exec *x)
{
    x->left = true;
    if (x->command)
        let_go(x);
    exec_unref(x);
}

static void closed_on_stream(void *arg)
{
    exec_left(arg);
}

static void client_ready(void *arg)
{
    sbx_stream_post(((exec *)arg)->e->c.stream, ready_on_stream, arg);
}

static void client_closed(void *arg)
{
    sbx_stream_post(((exec *)arg)->e->c.stream, closed_on_stream, arg);
}

/* --- beginning --- */

static int64_t window_of(const exec *x)
{
    return x->kind == EXEC_WAIT ? SBX_EXEC_WINDOW_BYTES
           : x->many            ? SBX_MANY_WINDOW_BYTES
                                : SBX_STREAM_WINDOW_BYTES;
}

static void attach_on_stream(void *arg)
{
    exec *x = arg;

    if (x->left && !x->kill_on_disconnect) {
        over(x);
        return;
    }
    sbx_channels_attach(x->e->c.channels, x->sandbox, x->id, follow_next_chunk(&x->f), window_of(x),
                        x->kind == EXEC_BACKGROUND, &events, x);
}

static void watch(exec *x)
{
    sbx_reply_events events_of_client = {.ready = client_ready, .closed = client_closed, .arg = x};

    x->posted = true;
    x->refs = 2;
    /* STREAM may own x from here on, and keeps it until both references are dropped */
    if (x->many)
        many_joins(x);
    else
        sbx_reply_watch(x->reply, &events_of_client);
}

static void attach(exec *x)
{
    watch(x);
    sbx_stream_post(x->e->c.stream, attach_on_stream, x);
}

/* How far a page goes: up to what there is now. */
static void page_entry(void *arg, const sbx_command_entry *entry)
{
    exec *x = arg;

    x->upto = entry->next_seq - 1;
    x->is_over = entry->over;
}

static void page_listed(void *arg, const sbx_err *err)
{
    if (err)
        exec_fail(arg, err);
    else
        attach(arg);
}

static const sbx_list_events page_events = {page_entry, page_listed};

void exec_follow(exec *x)
{
    if (x->kind == EXEC_PAGE)
        sbx_channels_list(x->e->c.channels, x->sandbox, x->id, &page_events, x);
    else
        attach(x);
}

static bool needs_new_agent(const exec *x)
{
    return !is_start(x) || x->kind == EXEC_BACKGROUND || x->spec.cpu_ms ||
           (x->spec.flags & SBX_EXEC_STDIN);
}

/* On a WORKER. */
static void can_use(void *arg)
{
    exec *x = arg;
    sbx_execs *e = x->e;
    sbx_err err;

    if (x->posted) {
        sbx_stream_post(e->c.stream, attach_on_stream, x);
        return;
    }
    x->old = sbx_channels_version(e->c.channels, x->sandbox) == 1;
    if (x->old && needs_new_agent(x)) {
        sbx_fail(&err, SBX_E_CONFLICT, "%s", SBX_OLD_AGENT);
        exec_fail(x, &err);
        return;
    }
    if (!is_start(x)) {
        exec_follow(x);
        return;
    }
    sbx_command_spec spec;
    sbx_command_spec_copy(&x->spec, &spec);
    x->begun_in_ms = x->use.started_ms;
    x->counted = true;
    x->record.started_ms = sbx_wall_ms();
    sbx_ledger_begin(e->c.ledger, x->sandbox);
    char sandbox[SBX_ID_LEN + 1];
    memcpy(sandbox, x->sandbox, sizeof(sandbox));
    watch(x);
    sbx_channels_exec(e->c.channels, sandbox, &spec, &events, x);
}

typedef struct failing {
    exec *x;
    sbx_err err;
} failing;

static void fail_on_stream(void *arg)
{
    failing *f = arg;

    command_failed(f->x, &f->err);
    free(f);
}

/* On a WORKER or STREAM. */
static void cannot_use(void *arg, const sbx_err *err)
{
    exec *x = arg;

    if (!x->posted && !is_start(x) && err->code == SBX_E_CONFLICT && !x->asked) {
        sbx_job job = {.run = exec_output_again, .arg = x};
        sbx_err full;

        x->asked = true;
        if (sbx_lanes_submit(x->e->c.lanes, SBX_LANE_FAST, &job, &full))
            exec_fail(x, &full);
        return;
    }
    if (!x->posted) {
        exec_fail(x, err);
        return;
    }
    failing *f = sbx_alloc(sizeof(*f));
    *f = (failing){.x = x, .err = *err};
    sbx_stream_post(x->e->c.stream, fail_on_stream, f);
}

void exec_use(exec *x)
{
    if (x->many)
        x->use.cancelled = many_cancel_flag(x);
    sbx_sandbox_use(&x->use);
}

/* --- what the agent does not know any more --- */

void exec_tell_record(exec *x, const sbx_exec_record *r)
{
    sbx_command_exit e = {.exit_code = r->exit_code,
                          .signal = r->signal,
                          .timed_out = r->timed_out,
                          .oom_killed = r->oom_killed,
                          .truncated = r->truncated,
                          .cpu_limit = r->cpu_limit,
                          .duration_ms = r->duration_ms,
                          .chunks = (uint64_t)r->chunks};
    sbx_err lost;

    if (is_stream(x))
        begin_stream(x);
    follow_gap(&x->f, follow_next_chunk(&x->f), e.chunks);
    if (r->running || sbx_streq(r->error, SBX_EXEC_LOST)) {
        sbx_fail(&lost, SBX_E_ENGINE, "the command was lost: its sandbox ended before it did");
        follow_error(&x->f, &lost);
    } else {
        follow_exit(&x->f, &e);
    }
    if (is_stream(x))
        follow_flush(&x->f);
    else
        follow_page(&x->f, false);
}

static void record_on_stream(void *arg)
{
    exec *x = arg;

    exec_tell_record(x, &x->record);
    over(x);
}

/* STREAM waits for it, so nobody else touches `x->record`. */
static void read_record(void *arg)
{
    exec *x = arg;
    sbx_err err;

    if (sbx_store_exec_get(x->e->c.store, x->owner, x->sandbox, x->id, &x->record, &err))
        cannot_use(x, &err);
    else
        sbx_stream_post(x->e->c.stream, record_on_stream, x);
}

static void look_for_record(exec *x)
{
    sbx_job job = {.run = read_record, .arg = x};
    sbx_err err;

    x->looked = true;
    if (sbx_lanes_submit(x->e->c.lanes, SBX_LANE_FAST, &job, &err))
        command_failed(x, &err);
}
