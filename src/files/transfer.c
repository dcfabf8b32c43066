/* The mechanics of a transfer: start, input, output, ends. What is done with the output is
 * forms.c's.
 *
 * Flow control, both ways: the tool is granted no more output than the client has taken, and is
 * given no more input than it has read; the client is not read from meanwhile. So a transfer holds
 * a window each way, whatever the size, and whoever is slow holds up nobody else.
 *
 * A tool that is given up is told to end by SIGTERM, on which it takes away what is half done, and
 * is killed if it does not. */
#include "files_priv.h"

#include "sbx/core/clock.h"
#include "sbx/core/thread.h"
#include <signal.h>
#include <stdio.h>

#define KILL_MS     500 /* from SIGTERM to SIGKILL */
#define GRANT_BYTES (SBX_EXEC_WINDOW_BYTES / 4)
#define PIECE_BYTES (32 * KIB) /* of input, in one frame: what the agent reads at once */

sbx_files *sbx_files_new(const sbx_files_config *c)
{
    sbx_files *f = sbx_alloc(sizeof(*f));

    f->c = *c;
    f->parts = (sbx_use_parts){c->stream, c->lanes, c->store, c->channels, c->sandboxes};
    pthread_mutex_init(&f->mu, NULL);
    return f;
}

void sbx_files_free(sbx_files *f)
{
    if (!f)
        return;
    pthread_mutex_destroy(&f->mu);
    free(f);
}

/* --- how many, and how much --- */

static int enter(transfer *x, sbx_err *err)
{
    sbx_files *f = x->f;
    file_crowd *c;

    pthread_mutex_lock(&f->mu);
    HASH_FIND_STR(f->crowds, x->sandbox, c);
    if (!c) {
        c = sbx_alloc(sizeof(*c));
        memcpy(c->sandbox, x->sandbox, sizeof(c->sandbox));
        HASH_ADD_STR(f->crowds, sandbox, c);
    }
    x->entered = c->count < SBX_MAX_TOOLS;
    c->count += x->entered;
    pthread_mutex_unlock(&f->mu);
    return x->entered ? 0
                      : sbx_fail(err, SBX_E_CAPACITY,
                                 "%d requests are at work on files of this sandbox; try again when "
                                 "one has ended",
                                 SBX_MAX_TOOLS);
}

static void leave(transfer *x)
{
    sbx_files *f = x->f;
    file_crowd *c;

    if (!x->entered)
        return;
    pthread_mutex_lock(&f->mu);
    HASH_FIND_STR(f->crowds, x->sandbox, c);
    if (c && --c->count == 0) {
        HASH_DEL(f->crowds, c);
        free(c);
    }
    pthread_mutex_unlock(&f->mu);
    x->entered = false;
}

int transfer_keep(transfer *x, size_t bytes, sbx_err *err)
{
    x->counted += bytes;
    if (atomic_fetch_add(&x->f->bytes, bytes) + bytes > SBX_MAX_TOOL_BYTES)
        return sbx_fail(err, SBX_E_CAPACITY, "too many lists and batches are in memory");
    return 0;
}

static void forget_kept(transfer *x)
{
    atomic_fetch_sub(&x->f->bytes, x->counted);
    x->counted = 0;
    sbx_buf_done(&x->in);
    sbx_buf_done(&x->out);
}

static void transfer_unref(transfer *x)
{
    if (--x->refs)
        return;
    forget_kept(x);
    leave(x);
    sbx_reply_unref(x->reply);
    sbx_buf_done(&x->error);
    for (size_t i = 0; i < x->arg_count; i++)
        free(x->args[i]);
    free(x->user);
    free(x->if_match);
    free(x->if_range);
    free(x);
}

/* --- giving up --- */

static void on_timer(void *arg);

static void set_timer(transfer *x, int64_t ms)
{
    sbx_timer_free(x->timer);
    x->timer = ms ? sbx_timer_new(x->f->c.stream, ms, on_timer, x) : NULL;
}

static void give_up(transfer *x)
{
    forget_kept(x);
    x->in_ended = true;
    if (x->given_up || !x->command)
        return;
    x->given_up = true;
    sbx_command_signal(x->command, SIGTERM, true);
    set_timer(x, KILL_MS);
}

void transfer_settle(transfer *x)
{
    x->answered = true;
    give_up(x);
}

void transfer_fail(transfer *x, const sbx_err *err, const sbx_header *more)
{
    if (!x->answered && !x->begun)
        sbx_reply_problem_with(x->reply, err, more);
    else if (!x->answered && x->op->form->fail)
        x->op->form->fail(x, err);
    else if (!x->answered)
        sbx_reply_abort(x->reply); /* the client sees that it is not whole */
    transfer_settle(x);
}

/* Then it is the client who is slow, and whom the HTTP layer cuts off. */
static bool waits_for_client(const transfer *x)
{
    return x->out.len || (x->op->body && !x->in_ended && x->in_at == x->in.len);
}

static int64_t quiet_ms(const transfer *x)
{
    return x->op->quiet * x->f->c.stall_ms;
}

static void on_timer(void *arg)
{
    transfer *x = arg;
    int64_t left = x->moved_ms + quiet_ms(x) - sbx_now_ms();
    sbx_err err;

    x->timer = NULL;
    if (x->given_up) {
        sbx_command_kill(x->command);
    } else if (left > 0 || waits_for_client(x)) {
        set_timer(x, left > 0 ? left : quiet_ms(x));
    } else {
        sbx_fail(&err, SBX_E_TIMEOUT,
                 "nothing has happened in the sandbox for %lld s; it was given up",
                 (long long)(quiet_ms(x) / 1000));
        transfer_fail(x, &err, NULL);
    }
}

static void moved(transfer *x)
{
    x->moved_ms = sbx_now_ms();
}

/* --- input --- */

/* Takes more of the body. @return whether there is something to send now. */
static bool refill(transfer *x)
{
    sbx_err err;

    if (!x->op->body)
        return x->in_at < x->in.len;
    int rc = sbx_reply_body(x->reply, &x->in, &err);
    x->in_at = 0;
    if (rc < 0)
        transfer_fail(x, &err, NULL);
    return rc && !x->in_ended;
}

static void pump(transfer *x)
{
    while (x->command && !x->in_ended) {
        size_t room = sbx_command_stdin_room(x->command);

        if (!room)
            return;
        if (x->in_at == x->in.len && !refill(x)) {
            if (!x->in_ended)
                sbx_command_stdin_end(x->command);
            x->in_ended = true;
            return;
        }
        if (!x->in.len)
            return; /* of the body more is to come */
        size_t n = SBX_MIN(SBX_MIN(room, x->in.len - x->in_at), PIECE_BYTES);
        sbx_command_stdin(x->command, x->in.data + x->in_at, n);
        x->in_at += n;
        moved(x);
    }
}

/* --- output --- */

void transfer_grant(transfer *x, int64_t bytes)
{
    x->to_grant += bytes;
    if (x->to_grant < GRANT_BYTES || !x->command || x->given_up)
        return;
    sbx_command_grant(x->command, x->to_grant);
    x->to_grant = 0;
}

void transfer_push(transfer *x, const char *data, size_t len)
{
    sbx_push told = x->out.len ? SBX_PUSH_FULL : sbx_reply_write(x->reply, data, len);

    if (told == SBX_PUSH_FULL)
        sbx_buf_add(&x->out, data, len);
    else if (told == SBX_PUSH_GONE)
        transfer_settle(x);
    else
        transfer_grant(x, (int64_t)len);
}

void transfer_flush(transfer *x)
{
    sbx_push told = SBX_PUSH_OK;
    size_t at = 0;

    while (at < x->out.len && told == SBX_PUSH_OK) {
        size_t n = SBX_MIN(x->out.len - at, (size_t)SBX_PROTO_MAX_FROM_AGENT);

        told = sbx_reply_write(x->reply, x->out.data + at, n);
        at += told == SBX_PUSH_OK ? n : 0;
    }
    if (told == SBX_PUSH_GONE) {
        transfer_settle(x);
        return;
    }
    sbx_buf_consume(&x->out, at);
    transfer_grant(x, (int64_t)at);
    if (x->over && !x->out.len) {
        x->answered = true;
        sbx_reply_end(x->reply);
    }
}

/* --- what the command tells, on STREAM --- */

static void run_again(transfer *x);

static void command_started(void *arg, sbx_command *c, int64_t pid)
{
    transfer *x = arg;

    (void)pid;
    x->command = c;
    moved(x);
    if (x->gone || x->answered)
        give_up(x);
    else
        pump(x);
}

static void command_output(void *arg, sbx_command *c, bool is_stderr, const char *data, size_t len)
{
    transfer *x = arg;

    x->command = c;
    if (x->answered || x->given_up)
        return;
    moved(x);
    if (!is_stderr) {
        x->op->form->output(x, data, len);
        return;
    }
    sbx_buf_add(&x->error, data, SBX_MIN(len, ERROR_BYTES - SBX_MIN(ERROR_BYTES, x->error.len)));
    transfer_grant(x, (int64_t)len);
}

static void command_taken(void *arg, sbx_command *c, uint64_t bytes, uint64_t dropped)
{
    transfer *x = arg;

    (void)c, (void)bytes, (void)dropped;
    moved(x);
    pump(x);
}

/* The command is gone. */
static void tool_over(transfer *x)
{
    x->command = NULL;
    set_timer(x, 0);
    if (x->again && !x->gone) {
        run_again(x);
        return;
    }
    if (!x->op->passive)
        sbx_ledger_end(x->f->c.ledger, x->sandbox);
    leave(x);
    transfer_unref(x);
}

static void tool_failed(transfer *x, const sbx_command_exit *e)
{
    char size[40];
    int64_t range = -1;
    sbx_err err;

    if (!sbx_tool_explain(e, &err))
        entry_error(x, x->error.data, x->error.len, &err, &range);
    snprintf(size, sizeof(size), "bytes */%lld", (long long)range);
    transfer_fail(x, &err, range < 0 ? NULL : &(sbx_header){"content-range", size});
}

static void command_exit(void *arg, const sbx_command_exit *e)
{
    transfer *x = arg;

    x->command = NULL;
    if (!x->answered && !x->given_up) {
        if (e->exit_code || e->signal)
            tool_failed(x, e);
        else
            x->op->form->done(x);
    }
    tool_over(x);
}

static void command_failed(void *arg, const sbx_err *why)
{
    transfer *x = arg;
    sbx_err err = *why;

    x->command = NULL;
    x->again = false;
    if (err.code == SBX_E_CONFLICT) { /* no channel here at the moment */
        err.code = SBX_E_CAPACITY;
        err.retry_after_s = 1;
    }
    transfer_fail(x, &err, NULL);
    tool_over(x);
}

static const sbx_command_events events = {
    .started = command_started,
    .output = command_output,
    .exit = command_exit,
    .failed = command_failed,
    .taken = command_taken,
};

/* --- the client, seen from STREAM --- */

static void ready_on_stream(void *arg)
{
    transfer *x = arg;

    if (x->answered || !x->begun)
        return;
    moved(x);
    x->op->form->ready(x);
}

static void body_on_stream(void *arg)
{
    transfer *x = arg;

    moved(x);
    pump(x);
}

static void closed_on_stream(void *arg)
{
    transfer *x = arg;
    sbx_err err;

    x->gone = true;
    sbx_fail(&err, SBX_E_CANCELLED, "the client went away");
    transfer_fail(x, &err, NULL);
    transfer_unref(x);
}

static void client_ready(void *arg)
{
    transfer *x = arg;

    sbx_stream_post(x->f->c.stream, ready_on_stream, x);
}

static void client_body(void *arg)
{
    transfer *x = arg;

    sbx_stream_post(x->f->c.stream, body_on_stream, x);
}

static void client_closed(void *arg)
{
    transfer *x = arg;

    sbx_stream_post(x->f->c.stream, closed_on_stream, x);
}

/* --- beginning --- */

static void run_tool(transfer *x)
{
    sbx_command_spec spec = {.user = x->user ? sbx_strdup(x->user) : NULL,
                             .window = SBX_EXEC_WINDOW_BYTES,
                             .flags = SBX_EXEC_CHECK | (x->op->input ? SBX_EXEC_STDIN : 0)};

    sbx_copy(spec.exec_id, sizeof(spec.exec_id), sbx_id_new().s);
    spec.argv.items = sbx_alloc((x->arg_count + 3) * sizeof(char *));
    spec.argv.items[spec.argv.count++] = sbx_strdup(SBX_FILES_PROGRAM);
    spec.argv.items[spec.argv.count++] = sbx_strdup(x->op->name);
    for (size_t i = 0; i < x->arg_count; i++)
        spec.argv.items[spec.argv.count++] = sbx_strdup(x->args[i]);
    sbx_channels_exec(x->f->c.channels, x->sandbox, &spec, &events, x);
}

static void run_on_stream(void *arg)
{
    transfer *x = arg;

    if (x->gone) {
        tool_over(x);
        return;
    }
    moved(x);
    set_timer(x, quiet_ms(x));
    run_tool(x);
}

static void run_again(transfer *x)
{
    x->again = x->given_up = x->answered = false;
    x->to_grant = 0;
    sbx_buf_reset(&x->error);
    run_on_stream(x);
}

static void cannot_begin(void *arg, const sbx_err *err)
{
    transfer *x = arg;

    sbx_reply_problem(x->reply, err);
    transfer_unref(x);
}

/* On a WORKER, which owns `x` here. */
static void begin(void *arg)
{
    transfer *x = arg;
    sbx_files *f = x->f;
    sbx_reply_events watch = {
        .ready = client_ready, .closed = client_closed, .body = client_body, .arg = x};
    sbx_err err;

    if (enter(x, &err)) {
        cannot_begin(x, &err);
        return;
    }
    x->refs = 2;
    sbx_ledger_begin(f->c.ledger, x->sandbox);
    if (x->op->passive)
        sbx_ledger_end(f->c.ledger, x->sandbox);
    sbx_reply_watch(x->reply, &watch);
    sbx_stream_post(f->c.stream, run_on_stream, x);
}

int sbx_files_begin(sbx_files *f, sbx_file_verb verb, const char *owner, const char *sandbox,
                    const sbx_request *r, sbx_err *err)
{
    const file_op *op = &file_ops[verb];
    transfer *x = sbx_alloc(sizeof(*x));

    x->f = f;
    x->op = op;
    x->refs = 1;
    x->reply = sbx_reply_ref(r->reply);
    x->websocket = r->accept == SBX_ACCEPT_WS;
    x->lead = "path";
    x->in_ended = !op->input || op->passive; /* the input of a watch ends with the watch */
    sbx_copy(x->owner, sizeof(x->owner), owner);
    sbx_copy(x->sandbox, sizeof(x->sandbox), sandbox);
    sbx_buf_init(&x->in, SBX_MAX_TOOL_BYTES);
    sbx_buf_init(&x->out, SBX_MAX_LIST_BYTES);
    sbx_buf_init(&x->error, ERROR_BYTES);
    const char *user = sbx_request_query(r, "user");
    int rc = user && (!*user || strlen(user) > 128)
                 ? sbx_fail_field(err, "user", "user must have 1 to 128 bytes")
                 : op->read(x, r, err);
    if (rc) {
        transfer_unref(x);
        return -1;
    }
    x->user = sbx_strdup(user);
    x->use = (sbx_use){.parts = &f->parts,
                       .owner = x->owner,
                       .sandbox = x->sandbox,
                       .cancelled = sbx_reply_cancel_flag(x->reply),
                       .ready = begin,
                       .failed = cannot_begin,
                       .arg = x};
    sbx_sandbox_use(&x->use);
    return 0;
}
