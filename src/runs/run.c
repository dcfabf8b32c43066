/* A run: create or use, files, code, answer, cleanup.
 *
 * One object per request. It belongs to the worker that reads the request; from run_begin() on a
 * create or a wait for the sandbox may be at work on a worker, which touches nothing of it but
 * what its callbacks pass on, and all else is STREAM's. It has two references there: the work,
 * and the watch of the reply. */
#include "runs_priv.h"

run *run_new(sbx_runs *r, const char *owner, const char *sandbox, sbx_reply *reply)
{
    run *x = sbx_alloc(sizeof(*x));

    x->r = r;
    x->refs = 1;
    x->reply = sbx_reply_ref(reply);
    x->from_us = sbx_now_us();
    x->one_shot = !sandbox;
    x->kept = sbx_reply_interceptor(reply) != NULL;
    sbx_copy(x->owner, sizeof(x->owner), owner);
    sbx_copy(x->sandbox, sizeof(x->sandbox), sandbox ? sandbox : "");
    sbx_copy(x->id, sizeof(x->id), sbx_id_new().s);
    sbx_reply_about(reply, x->sandbox, x->id);
    sbx_buf_init(&x->batch, 2 * SBX_MAX_BODY_RUN);
    sbx_buf_init(&x->copy, SBX_MAX_KEPT_ANSWER);
    return x;
}

static void forget_batch(run *x)
{
    sbx_buf_done(&x->batch);
    atomic_fetch_sub(&x->r->bytes, x->counted);
    x->counted = 0;
}

void run_free(run *x)
{
    forget_batch(x);
    sbx_command_spec_done(&x->spec);
    sbx_exec_record_done(&x->record);
    sbx_feed_queue_done(&x->queue);
    answer_forget_copy(x);
    sbx_buf_done(&x->output[0]);
    sbx_buf_done(&x->output[1]);
    sbx_create_unref(x->create);
    sbx_spec_done(&x->own);
    sbx_strs_done(&x->packages);
    free(x->installed);
    free(x->complaint);
    sbx_reply_unref(x->reply);
    free(x);
}

void run_unref(run *x)
{
    SBX_ASSERT_THREAD(SBX_T_STREAM);
    if (--x->refs == 0)
        run_free(x);
}

void run_flush(run *x)
{
    int64_t grant = answer_flush(x);

    if (grant && x->command)
        sbx_command_grant(x->command, grant);
}

/* --- the end --- */

static const char *outcome(const run *x)
{
    const char *message, *error = answer_error(x, &message);

    return x->failure.code     ? "failed"
           : error             ? error
           : x->exit.signal    ? "signal"
           : x->exit.exit_code ? "nonzero"
                               : "ok";
}

static void record(run *x)
{
    sbx_runs_config *c = &x->r->c;
    sbx_exec_record *r = &x->record;
    const char *message, *error = answer_error(x, &message);

    memcpy(r->sandbox, x->sandbox, sizeof(r->sandbox));
    sbx_copy(r->error, sizeof(r->error), error ? error : "");
    r->truncated |= x->truncated;
    /* In a sandbox that was never reached there was no run; it may be somebody else's. */
    if (x->sandbox[0] && (x->one_shot || x->busy || x->reserved))
        sbx_ledger_record(c->ledger, r);
    sbx_metrics_add(c->metrics, SBX_M_RUNS, outcome(x), 1);
    sbx_metrics_observe_us(c->metrics, SBX_M_RUN_SECONDS, x->how->runtime,
                           sbx_now_us() - x->from_us);
}

/* Everything is over: the answer, then the sandbox. */
static void finish(run *x)
{
    answer_end(x);
    run_flush(x);
    if (x->busy)
        sbx_ledger_end(x->r->c.ledger, x->sandbox);
    record(x);
    if (x->one_shot && x->sandbox[0] && !x->unmade)
        runs_delete_later(x->r, x->owner, x->sandbox);
    run_unref(x);
}

static void removed(void *arg, const sbx_err *err)
{
    run *x = arg;

    (void)err; /* whoever removed it before, or the sandbox, was faster */
    x->tool = NULL;
    finish(x);
}

/* The code's file has served; what it read of it is with the interpreter. */
static void conclude(run *x)
{
    const char *const argv[] = {"remove", x->file, "0", NULL};
    sbx_buf none = SBX_BUF_INIT(1);

    if (x->one_shot || !x->written) {
        finish(x);
        return;
    }
    x->written = false;
    x->removing = true;
    x->tool = sbx_tool_run(x->r->c.stream, x->r->c.channels, x->sandbox, argv, &none, removed, x);
}

void run_fail(run *x, const sbx_err *err)
{
    if (err != &x->failure)
        x->failure = *err;
    if (!x->record.duration_ms && x->started)
        x->record.duration_ms = SBX_MAX(sbx_wall_ms() - x->record.started_ms, 0);
    conclude(x);
}

/* --- the code, on STREAM --- */

static void code_started(void *arg, sbx_command *c, int64_t pid)
{
    run *x = arg;

    (void)pid;
    x->command = c;
    x->started = true;
    if (x->left) {
        sbx_command_kill(c);
        return;
    }
    answer_started(x);
    run_flush(x);
}

static void code_output(void *arg, sbx_command *c, bool is_stderr, const char *data, size_t len)
{
    run *x = arg;

    x->chunk = sbx_command_chunk(c);
    if (x->left) {
        sbx_command_grant(c, (int64_t)len); /* it is being killed */
        return;
    }
    answer_output(x, is_stderr, data, len);
    run_flush(x);
}

static void code_gap(void *arg, sbx_command *c, uint64_t from, uint64_t to)
{
    run *x = arg;

    (void)c, (void)from;
    x->chunk = to;
    x->truncated = true;
}

static void code_exit(void *arg, const sbx_command_exit *e)
{
    run *x = arg;

    x->command = NULL;
    x->exit = *e;
    x->exited = true;
    if (*x->context && !cell_exit(x)) {
        run_fail(x, &x->failure);
        return;
    }
    x->truncated |= e->truncated;
    sbx_exec_record_exit(&x->record, &x->exit);
    conclude(x);
}

static void code_failed(void *arg, const sbx_err *err)
{
    run *x = arg;
    sbx_err told = *err;

    x->command = NULL;
    if (told.code == SBX_E_NOT_FOUND)
        sbx_err_set(&told, SBX_E_ENGINE, "%s",
                    x->started ? "the outcome is unknown: the sandbox was restarted"
                               : "the connection to the sandbox broke before the code started");
    if (told.code == SBX_E_CONFLICT && (x->started || x->use.again))
        sbx_err_set(&told, SBX_E_ENGINE, "the outcome is unknown: %s", err->msg);
    if (told.code == SBX_E_CONFLICT) {
        told.code = SBX_E_CAPACITY; /* no channel here at the moment */
        told.retry_after_s = 1;
    }
    run_fail(x, &told);
}

static void code_lost(void *arg);

static const sbx_command_events code_events = {.started = code_started,
                                               .output = code_output,
                                               .exit = code_exit,
                                               .failed = code_failed,
                                               .gap = code_gap,
                                               .lost = code_lost};

void run_start_code(run *x)
{
    x->record.started_ms = sbx_wall_ms();
    sbx_channels_exec(x->r->c.channels, x->sandbox, &x->spec, &code_events, x);
}

/* --- another channel: the code goes on inside --- */

static void attach_on_stream(void *arg)
{
    run *x = arg;

    sbx_channels_attach(x->r->c.channels, x->sandbox, x->id, x->chunk + 1,
                        x->streams ? SBX_STREAM_WINDOW_BYTES : SBX_EXEC_WINDOW_BYTES, false,
                        &code_events, x);
}

static void found_again(void *arg)
{
    sbx_stream_post(((run *)arg)->r->c.stream, attach_on_stream, arg);
}

typedef struct failing {
    run *x;
    sbx_err err;
    void (*fn)(void *arg, const sbx_err *err);
} failing;

static void fail_on_stream(void *arg)
{
    failing *f = arg;

    f->fn(f->x, &f->err);
    free(f);
}

void run_pass_on(run *x, const sbx_err *err, void (*fn)(void *arg, const sbx_err *err))
{
    failing *f = sbx_alloc(sizeof(*f));

    *f = (failing){.x = x, .err = *err, .fn = fn};
    sbx_stream_post(x->r->c.stream, fail_on_stream, f);
}

static void not_found_again(void *arg, const sbx_err *err)
{
    run_pass_on(arg, err, code_failed);
}

static void use_on_worker(void *arg)
{
    sbx_sandbox_use(&((run *)arg)->use);
}

static void code_lost(void *arg)
{
    run *x = arg;
    sbx_job job = {.run = use_on_worker, .arg = x};
    sbx_err err;

    x->command = NULL;
    x->use = (sbx_use){.parts = &x->r->parts,
                       .owner = x->owner,
                       .sandbox = x->sandbox,
                       .again = true,
                       .ready = found_again,
                       .failed = not_found_again,
                       .arg = x};
    if (sbx_lanes_submit(x->r->c.lanes, SBX_LANE_FAST, &job, &err))
        code_failed(x, &err);
}

/* --- the files --- */

/* What is wrong with files is wrong with the request. */
static void name_files(sbx_err *err)
{
    if (err->code == SBX_E_ENGINE || err->code == SBX_E_CAPACITY || err->code == SBX_E_GONE ||
        err->code == SBX_E_TIMEOUT || err->code == SBX_E_CANCELLED)
        return;
    char text[sizeof(err->msg)];

    sbx_copy(text, sizeof(text), err->msg);
    sbx_err_set_field(err, "files", "files: %s", text);
}

static void files_over(void *arg, const sbx_err *why)
{
    run *x = arg;
    sbx_err err;

    x->tool = NULL;
    if (why) {
        err = *why;
        name_files(&err);
        run_fail(x, &err);
        return;
    }
    x->written = true;
    if (x->left)
        conclude(x);
    else if (x->packages.count && !x->one_shot)
        packages_install(x);
    else
        run_start_code(x);
}

void run_put_files(run *x)
{
    static const char *const argv[] = {"batch", NULL};

    x->busy = true;
    sbx_ledger_begin(x->r->c.ledger, x->sandbox);
    x->tool =
        sbx_tool_run(x->r->c.stream, x->r->c.channels, x->sandbox, argv, &x->batch, files_over, x);
    forget_batch(x);
}

/* --- the sandbox --- */

static void ready_on_stream(void *arg)
{
    run *x = arg;

    x->creating = false;
    if (x->left)
        conclude(x);
    else if (*x->context)
        cell_look(x);
    else
        run_put_files(x);
}

void run_failed(void *arg, const sbx_err *err)
{
    run *x = arg;

    x->creating = false;
    x->unmade = true;
    x->failure = *err;
    conclude(x);
}

static void created(void *arg, const sbx_sandbox_row *row, const sbx_err *err)
{
    run *x = arg;

    (void)row;
    if (err)
        run_pass_on(x, err, run_failed);
    else
        sbx_stream_post(x->r->c.stream, ready_on_stream, x);
}

static void can_use(void *arg)
{
    sbx_stream_post(((run *)arg)->r->c.stream, ready_on_stream, arg);
}

static void cannot_use(void *arg, const sbx_err *err)
{
    run_pass_on(arg, err, run_failed);
}

/* --- the client, seen from STREAM --- */

static void client_ready_on_stream(void *arg)
{
    run_flush(arg);
}

static void client_closed_on_stream(void *arg)
{
    run *x = arg;

    if (x->kept) { /* it goes on for the repetition of its request */
        run_flush(x);
        run_unref(x);
        return;
    }
    x->left = true;
    if (x->creating && x->made)
        sbx_create_abandon(x->create);
    packages_give_up(x);
    if (x->tool && !x->removing)
        sbx_tool_give_up(x->tool);
    if (x->command)
        sbx_command_kill(x->command);
    run_unref(x);
}

static void client_ready(void *arg)
{
    sbx_stream_post(((run *)arg)->r->c.stream, client_ready_on_stream, arg);
}

static void client_closed(void *arg)
{
    sbx_stream_post(((run *)arg)->r->c.stream, client_closed_on_stream, arg);
}

static void made_on_stream(void *arg)
{
    run *x = arg;

    x->made = true;
    if (x->left)
        sbx_create_abandon(x->create);
}

static const atomic_bool *cancel_flag(const run *x)
{
    return x->kept ? NULL : sbx_reply_cancel_flag(x->reply);
}

/* Begin to make the sandbox whose intent is written. On a WORKER. */
static void create(run *x)
{
    sbx_create_waiter waiter = {.cancelled = cancel_flag(x), .over = created, .arg = x};

    sbx_stream_post(x->r->c.stream, made_on_stream, x);
    sbx_create_run(sbx_create_ref(x->create), &waiter);
}

static void make_job(void *arg)
{
    run *x = arg;
    sbx_err err;

    if (run_make(x, &err))
        run_pass_on(x, &err, run_failed);
    else
        create(x);
}

static void make_refused(void *arg, const sbx_err *why)
{
    run_pass_on(arg, why, run_failed);
}

void run_make_later(run *x)
{
    sbx_job job = {.run = make_job,
                   .refuse = make_refused,
                   .arg = x,
                   .cancelled = cancel_flag(x),
                   .deadline_ms = x->deadline_ms};
    sbx_err err;

    if (sbx_lanes_submit(x->r->c.lanes, SBX_LANE_SLOW, &job, &err))
        run_pass_on(x, &err, run_failed);
}

void run_begin(run *x)
{
    sbx_reply_events watch = {.ready = client_ready, .closed = client_closed, .arg = x};

    x->refs = x->one_shot && x->packages.count ? 3 : 2; /* one is packages_get()'s */
    x->creating = true;
    x->use = (sbx_use){.parts = &x->r->parts,
                       .owner = x->owner,
                       .sandbox = x->sandbox,
                       .cancelled = cancel_flag(x),
                       .ready = can_use,
                       .failed = cannot_use,
                       .arg = x};
    sbx_reply_watch(x->reply, &watch);
    if (!x->one_shot)
        sbx_sandbox_use(&x->use);
    else if (x->packages.count)
        packages_get(x);
    else if (x->create)
        create(x);
    else
        run_make_later(x);
}
