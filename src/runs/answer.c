/* What the client of a run gets: one document, or events. What its box does not take waits here,
 * and nothing more is granted to the agent until it is gone. */
#include "runs_priv.h"

#define EVENT_FACTOR 128 /* bytes of events for each byte of output, at most */
/* Of an installer: told without being taken first, so never more than this. */
#define PROGRESS_BYTES (64 * KIB)
#define PENDING_BYTES                                                                              \
    (PROGRESS_BYTES * 8 + EVENT_FACTOR * (SBX_STREAM_WINDOW_BYTES + SBX_CHUNK_BYTES))

const char *answer_error(const run *x, const char **ret_message)
{
    if (x->failure.code) {
        *ret_message = x->failure.msg;
        return sbx_code_wire(x->failure.code);
    }
    if (x->lost && !x->exit.timed_out) {
        *ret_message = "the interpreter of the context ended while the code ran, and with it the "
                       "state; the next run finds an empty one";
        return "context_lost";
    }
    if (x->exit.oom_killed) {
        *ret_message = "out of memory: the limit was reached and a process of the code was "
                       "killed; give it more (memoryMb)";
        return "oom";
    }
    if (x->exit.timed_out) {
        *ret_message = x->lost ? "its time was over (timeout), and it did not stop when it was "
                                 "interrupted: the context was killed, its state is lost"
                       : *x->context ? "interrupted: its time was over (timeout)"
                                     : "killed: its time was over (timeout)";
        return "timeout";
    }
    return NULL;
}

static void error_fields(const run *x, sbx_jw *w)
{
    const char *message = NULL;

    sbx_jw_str(w, "code", answer_error(x, &message));
    sbx_jw_str(w, "message", message);
    if (x->complaint)
        sbx_jw_str(w, "output", x->complaint);
}

static void exit_fields(const run *x, sbx_jw *w)
{
    if (x->exited && x->exit.exit_code >= 0)
        sbx_jw_int(w, "exitCode", x->exit.exit_code);
    else
        sbx_jw_null(w, "exitCode");
    sbx_jw_signal(w, "signal", x->exited ? x->exit.signal : 0);
}

/* All but the output. */
static void result_fields(const run *x, sbx_jw *w)
{
    const char *message;

    exit_fields(x, w);
    sbx_jw_int(w, "duration", x->record.duration_ms);
    sbx_jw_bool(w, "truncated", x->truncated);
    if (answer_error(x, &message)) {
        sbx_jw_obj(w, "error");
        error_fields(x, w);
        sbx_jw_obj_end(w);
    }
    sbx_jw_str(w, "sandboxId", x->sandbox[0] ? x->sandbox : NULL);
    sbx_jw_str(w, "execId", x->id);
    if (*x->context)
        sbx_jw_bool(w, "stateLost", x->lost);
    sbx_jw_raw(w, "packagesInstalled", x->installed ? x->installed : "[]");
}

/* --- one document --- */

static void write_document(const run *x, bool text, sbx_buf *body)
{
    sbx_jw w = SBX_JW(body);

    sbx_jw_obj(&w, NULL);
    for (int i = 0; i < 2; i++)
        sbx_jw_bytes(&w, i ? "stderr" : "stdout", x->output[i].data ? x->output[i].data : "",
                     x->output[i].len, !text);
    if (!text)
        sbx_jw_str(&w, "encoding", "base64");
    result_fields(x, &w);
    sbx_jw_obj_end(&w);
}

static void answer_document(run *x)
{
    sbx_buf body = SBX_BUF_INIT(SBX_MAX_RESPONSE_BYTES);
    bool text = sbx_utf8_valid(x->output[0].data, x->output[0].len) &&
                sbx_utf8_valid(x->output[1].data, x->output[1].len);

    write_document(x, text, &body);
    if (sbx_buf_failed(&body) && text) { /* escapes took six bytes for one: base64 is shorter */
        sbx_buf_reset(&body);
        write_document(x, false, &body);
    }
    sbx_reply_json(x->reply, 200, &body);
    sbx_buf_done(&body);
}

/* --- events --- */

typedef struct making {
    sbx_buf text;
    sbx_jw w;
} making;

static void open_event(making *m, run *x, const char *type)
{
    sbx_buf_init(&m->text, 8 * SBX_PROTO_MAX_FROM_AGENT);
    sbx_buf_addf(&m->text, "id: %llu\ndata: ", (unsigned long long)++x->events);
    m->w = (sbx_jw)SBX_JW(&m->text);
    sbx_jw_obj(&m->w, NULL);
    sbx_jw_str(&m->w, "type", type);
}

void answer_forget_copy(run *x)
{
    sbx_buf_done(&x->copy);
    atomic_fetch_sub(&x->r->bytes, x->copied);
    x->copied = 0;
}

/* What repetitions will get. Together with what waits to be run it is bounded. */
static void copy_event(run *x, const sbx_buf *text)
{
    if (sbx_buf_failed(&x->copy))
        return;
    sbx_buf_add(&x->copy, text->data, text->len);
    size_t more = x->copy.cap - x->copied;
    x->copied = x->copy.cap;
    if (atomic_fetch_add(&x->r->bytes, more) + more > SBX_MAX_RUN_BYTES)
        x->copy.failed = true;
}

static void close_event(making *m, run *x)
{
    sbx_jw_obj_end(&m->w);
    sbx_buf_adds(&m->text, "\n\n");
    if (x->kept)
        copy_event(x, &m->text);
    sbx_feed_queue_add(&x->queue, m->text.data, m->text.len);
    sbx_buf_done(&m->text);
}

static void begin_stream(run *x)
{
    if (x->begun)
        return;
    x->begun = true;
    sbx_feed_queue_init(&x->queue, x->reply, PENDING_BYTES);
    sbx_reply_begin(x->reply, 200, "text/event-stream");
}

void answer_progress(run *x, const char *line, size_t len)
{
    making m;

    if (!x->streams || x->left || x->progressed > PROGRESS_BYTES)
        return;
    x->progressed += len;
    begin_stream(x);
    open_event(&m, x, "install");
    sbx_jw_strn(&m.w, "data", line, len);
    close_event(&m, x);
}

void answer_started(run *x)
{
    making m;

    if (!x->streams)
        return;
    begin_stream(x);
    open_event(&m, x, "start");
    sbx_jw_str(&m.w, "sandboxId", x->sandbox);
    sbx_jw_str(&m.w, "execId", x->id);
    close_event(&m, x);
}

static void event_output(run *x, bool is_stderr, const char *data, size_t len)
{
    bool text = sbx_utf8_valid(data, len);
    making m;

    open_event(&m, x, is_stderr ? "stderr" : "stdout");
    sbx_jw_bytes(&m.w, "data", data, len, !text);
    if (!text)
        sbx_jw_str(&m.w, "encoding", "base64");
    close_event(&m, x);
    x->to_grant += (int64_t)len;
}

static void collect(run *x, bool is_stderr, const char *data, size_t len)
{
    /* The agent keeps the limit; a sandbox that broke its agent is held to it here. */
    sbx_buf *to = &x->output[is_stderr];

    sbx_buf_add(to, data, len);
    if (sbx_buf_failed(to)) {
        to->failed = false;
        x->truncated = true;
    }
    x->to_grant += (int64_t)len;
}

void answer_output(run *x, bool is_stderr, const char *data, size_t len)
{
    if (x->begun)
        event_output(x, is_stderr, data, len);
    else
        collect(x, is_stderr, data, len);
}

static void end_stream(run *x)
{
    const char *message;
    making m;

    if (answer_error(x, &message)) {
        open_event(&m, x, "error");
        error_fields(x, &m.w);
        close_event(&m, x);
    }
    open_event(&m, x, "result");
    result_fields(x, &m.w);
    close_event(&m, x);
    open_event(&m, x, "exit");
    exit_fields(x, &m.w);
    close_event(&m, x);
    x->ended = true;
}

void answer_end(run *x)
{
    if (x->left)
        return;
    if (!x->started && x->failure.code && x->failure.code != SBX_E_PACKAGE && !x->begun) {
        sbx_reply_problem(x->reply, &x->failure); /* nothing has run: a plain answer tells more */
        return;
    }
    if (x->streams)
        begin_stream(x);
    if (x->begun)
        end_stream(x);
    else
        answer_document(x);
}

/* With a key the end comes when the copy is written down. */
static void end_reply(run *x)
{
    if (!x->kept) {
        sbx_reply_end(x->reply);
    } else if (!x->handed) {
        x->handed = true;
        sbx_reply_end_kept(x->reply, &x->copy);
        answer_forget_copy(x);
    }
}

int64_t answer_flush(run *x)
{
    int64_t grant = x->to_grant;

    if (x->begun && !sbx_feed_queue_push(&x->queue))
        return 0;
    if (x->ended)
        end_reply(x);
    x->to_grant = 0;
    return grant;
}
