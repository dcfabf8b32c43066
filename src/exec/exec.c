/* One object per command, owned by STREAM from the moment it was posted. It collects (waiting) or
 * forwards (streaming) the output, and writes the record at the end.
 *
 * Back-pressure of a stream: the agent may send only what was granted. What the client's box does
 * not take waits in `pending`, what comes behind it in `held`, and nothing more is granted until
 * both are empty. `held` keeps the bytes as they came and becomes one event of each stream: of a
 * program that writes single bytes, the events would take fifty times the window. */
#include "sbx/exec/exec.h"

#include "sbx/core/clock.h"
#include "sbx/core/limits.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include "sbx/sandbox/spec.h"
#include "sbx/sandbox/use.h"
#include <stdio.h>

#define UTF8_CARRY 3

struct sbx_execs { /* immutable after new */
    sbx_execs_config c;
    sbx_use_parts parts;
};

typedef struct exec_body {
    sbx_strs command;
    sbx_pairs env;
    char *cwd, *user, *stdin_text;
    int64_t timeout_ms, max_output;
    bool max_output_given, kill_on_disconnect;
} exec_body;

typedef struct exec {
    sbx_execs *e;
    int refs;              /* STREAM: the command, and the watch of the reply */
    sbx_command_spec spec; /* until it was posted to the channel */
    sbx_use use;           /* until then */
    sbx_reply *reply;
    bool streaming, kill_on_disconnect, finished;
    bool stop_when_started; /* the client left before the command existed */
    sbx_command *command;   /* while it runs */
    char sandbox[SBX_ID_LEN + 1];
    sbx_exec_record record;
    int64_t from_us;
    sbx_buf output[2]; /* waiting: stdout, stderr */
    bool truncated;
    sbx_buf pending; /* streaming: events that the client's box did not take */
    sbx_buf held[2]; /* streaming: output that came meanwhile; at most a window in all */
    int64_t to_grant;
    uint64_t next_event;
    char carry[2][UTF8_CARRY]; /* streaming: a character that is not complete yet */
    size_t carried[2];
} exec;

#define AT(member) offsetof(exec_body, member)

const sbx_json_field sbx_exec_fields[] = {
    {"command", SBX_JF_CMD, AT(command), .required = true, .min = 1, .max = SBX_MAX_ARGS,
     .max_each = SBX_MAX_ARG_BYTES, .doc = "a shell command, or a program and its arguments"},
    {"cwd", SBX_JF_STR, AT(cwd), .nullable = true, .min = 1, .max = 4096,
     .doc = "working directory; default: the user's home"},
    {"env", SBX_JF_PAIRS, AT(env), .max = SBX_MAX_ENV, .max_each = SBX_MAX_ENV_BYTES,
     .doc = "added to the sandbox's environment"},
    {"user", SBX_JF_STR, AT(user), .nullable = true, .min = 1, .max = 128,
     .doc = "name, uid, name:group or uid:gid; default: the image's user, never root"},
    {"stdin", SBX_JF_STR, AT(stdin_text), .nullable = true, .max = SBX_MAX_STDIN_BYTES,
     .doc = "text for standard input, which then ends"},
    {"timeoutMs", SBX_JF_I64, AT(timeout_ms), .min = 1, .max = SBX_MAX_EXEC_MS,
     .dflt = SBX_DEFAULT_EXEC_MS, .doc = "then the whole process tree is killed"},
    {"maxOutputBytes", SBX_JF_I64, AT(max_output), AT(max_output_given), .min = 1,
     .max = SBX_MAX_OUTPUT_BYTES, .dflt = SBX_DEFAULT_OUTPUT_BYTES,
     .doc = "stdout and stderr together; more is dropped (streams: no limit by default)"},
    {"killOnDisconnect", SBX_JF_BOOL, AT(kill_on_disconnect),
     .doc = "kill the command when the client goes away"},
    {"background", SBX_JF_REFUSED, .doc = "background commands are not available"},
    {"stdinOpen", SBX_JF_REFUSED, .doc = "an open stdin is not available; give \"stdin\""},
    {.name = NULL},
};

sbx_execs *sbx_execs_new(const sbx_execs_config *c)
{
    sbx_execs *e = sbx_alloc(sizeof(*e));

    e->c = *c;
    e->parts = (sbx_use_parts){c->stream, c->lanes, c->store, c->channels, c->sandboxes};
    return e;
}

void sbx_execs_free(sbx_execs *e)
{
    free(e);
}

static void exec_unref(exec *x)
{
    if (--x->refs)
        return;
    sbx_reply_unref(x->reply);
    sbx_exec_record_done(&x->record);
    sbx_buf_done(&x->output[0]);
    sbx_buf_done(&x->output[1]);
    sbx_buf_done(&x->pending);
    sbx_buf_done(&x->held[0]);
    sbx_buf_done(&x->held[1]);
    sbx_command_spec_done(&x->spec);
    free(x);
}

/* --- the stream of events --- */

static void event_begin(exec *x, sbx_jw *w, const char *type)
{
    sbx_buf_addf(&x->pending, "id: %llu\ndata: ", (unsigned long long)++x->next_event);
    *w = (sbx_jw){.out = &x->pending};
    sbx_jw_obj(w, NULL);
    sbx_jw_str(w, "type", type);
}

static void event_end(exec *x, sbx_jw *w)
{
    sbx_jw_obj_end(w);
    sbx_buf_adds(&x->pending, "\n\n");
}

static void data_event(exec *x, int stream, const char *data, size_t len)
{
    bool text = sbx_utf8_valid(data, len);
    sbx_jw w;

    event_begin(x, &w, stream ? "stderr" : "stdout");
    sbx_jw_bytes(&w, "data", data, len, !text);
    if (!text)
        sbx_jw_str(&w, "encoding", "base64");
    event_end(x, &w);
}

/* Bytes at the end that may be the beginning of a character: 0..3. */
static size_t incomplete_tail(const char *data, size_t len)
{
    for (size_t back = 1; back <= UTF8_CARRY && back <= len; back++) {
        unsigned char c = (unsigned char)data[len - back];

        if ((c & 0xC0) == 0x80)
            continue;
        size_t need = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC2 ? 2 : 1;
        return need > back ? back : 0;
    }
    return 0;
}

static void forward(exec *x, int stream, const char *data, size_t len)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf joined = SBX_BUF_INIT(len + UTF8_CARRY);

    if (x->carried[stream]) {
        sbx_buf_add(&joined, x->carry[stream], x->carried[stream]);
        sbx_buf_add(&joined, data, len);
        data = joined.data;
        len = joined.len;
        x->carried[stream] = 0;
    }
    size_t tail = incomplete_tail(data, len);
    memcpy(x->carry[stream], data + len - tail, tail);
    x->carried[stream] = tail;
    if (len > tail)
        data_event(x, stream, data, len - tail);
}

static void release_held(exec *x)
{
    for (int stream = 0; stream < 2; stream++) {
        sbx_buf *b = &x->held[stream];

        if (b->len)
            forward(x, stream, b->data, b->len);
        sbx_buf_done(b);
    }
}

/* Everything that the client is still to see, as events. */
static void forward_rest(exec *x)
{
    release_held(x);
    for (int stream = 0; stream < 2; stream++)
        if (x->carried[stream])
            data_event(x, stream, x->carry[stream], x->carried[stream]);
}

/* False: the client's box is full; client_ready() goes on. */
static bool push_pending(exec *x)
{
    if (x->pending.len &&
        sbx_reply_write(x->reply, x->pending.data, x->pending.len) == SBX_PUSH_FULL)
        return false;
    sbx_buf_done(&x->pending);
    return true;
}

static void flush_pending(exec *x)
{
    if (!push_pending(x))
        return;
    release_held(x);
    if (!push_pending(x))
        return;
    if (x->command && x->to_grant)
        sbx_command_grant(x->command, x->to_grant);
    x->to_grant = 0;
    if (x->finished)
        sbx_reply_end(x->reply);
}

/* --- callbacks of the command, on STREAM --- */

static void command_started(void *arg, sbx_command *c, int64_t pid)
{
    exec *x = arg;
    sbx_jw w;

    x->command = c;
    if (x->stop_when_started) {
        if (x->kill_on_disconnect)
            sbx_command_kill(c);
        else
            sbx_command_detach(c);
    }
    if (!x->streaming)
        return;
    sbx_reply_begin(x->reply, 200, "text/event-stream");
    event_begin(x, &w, "start");
    sbx_jw_str(&w, "execId", x->record.id);
    sbx_jw_int(&w, "pid", pid);
    event_end(x, &w);
    flush_pending(x);
}

static void command_output(void *arg, sbx_command *c, bool is_stderr, const char *data, size_t len)
{
    exec *x = arg;

    x->command = c;
    if (x->streaming) {
        if (x->pending.len) /* the client is behind */
            sbx_buf_add(&x->held[is_stderr], data, len);
        else
            forward(x, is_stderr, data, len);
        x->to_grant += (int64_t)len;
        flush_pending(x);
        return;
    }
    /* The agent keeps the limit; a sandbox that broke its agent is held to it here. */
    sbx_buf *to = &x->output[is_stderr];
    sbx_buf_add(to, data, len);
    if (sbx_buf_failed(to)) {
        to->failed = false;
        x->truncated = true;
    }
    sbx_command_grant(c, (int64_t)len);
}

static void exit_fields(sbx_jw *w, const sbx_command_exit *e)
{
    sbx_jw_int(w, "exitCode", e->exit_code);
    sbx_jw_signal(w, "signal", e->signal);
}

static void result_json(const exec *x, const sbx_command_exit *e, bool text, sbx_buf *body)
{
    sbx_jw w = SBX_JW(body);

    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "execId", x->record.id);
    exit_fields(&w, e);
    for (int i = 0; i < 2; i++)
        sbx_jw_bytes(&w, i ? "stderr" : "stdout", x->output[i].data ? x->output[i].data : "",
                     x->output[i].len, !text);
    if (!text)
        sbx_jw_str(&w, "encoding", "base64");
    sbx_jw_int(&w, "durationMs", e->duration_ms);
    sbx_jw_bool(&w, "timedOut", e->timed_out);
    sbx_jw_bool(&w, "oomKilled", e->oom_killed);
    sbx_jw_bool(&w, "truncated", e->truncated || x->truncated);
    sbx_jw_obj_end(&w);
}

static void answer(exec *x, const sbx_command_exit *e)
{
    sbx_buf body = SBX_BUF_INIT(SBX_MAX_RESPONSE_BYTES);
    bool text = sbx_utf8_valid(x->output[0].data, x->output[0].len) &&
                sbx_utf8_valid(x->output[1].data, x->output[1].len);

    result_json(x, e, text, &body);
    if (sbx_buf_failed(&body) && text) { /* escapes took six bytes for one: base64 is shorter */
        sbx_buf_reset(&body);
        result_json(x, e, false, &body);
    }
    sbx_reply_json(x->reply, 200, &body);
    sbx_buf_done(&body);
}

static void exit_event(exec *x, const sbx_command_exit *e)
{
    sbx_jw w;

    forward_rest(x);
    event_begin(x, &w, "exit");
    exit_fields(&w, e);
    sbx_jw_int(&w, "durationMs", e->duration_ms);
    sbx_jw_bool(&w, "timedOut", e->timed_out);
    sbx_jw_bool(&w, "oomKilled", e->oom_killed);
    sbx_jw_bool(&w, "truncated", e->truncated);
    event_end(x, &w);
}

static void over(exec *x, const char *outcome)
{
    sbx_execs *e = x->e;

    x->command = NULL;
    sbx_metrics_add(e->c.metrics, SBX_M_EXECS, outcome, 1);
    sbx_metrics_observe_us(e->c.metrics, SBX_M_EXEC_SECONDS, NULL, sbx_now_us() - x->from_us);
    sbx_ledger_end(e->c.ledger, x->sandbox);
    sbx_ledger_record(e->c.ledger, &x->record);
    if (x->streaming) {
        x->finished = true;
        flush_pending(x);
    }
    exec_unref(x);
}

static void command_exit(void *arg, const sbx_command_exit *e)
{
    exec *x = arg;
    sbx_exec_record *r = &x->record;

    if (x->streaming)
        exit_event(x, e);
    else
        answer(x, e);
    r->duration_ms = e->duration_ms;
    r->exit_code = e->exit_code;
    r->signal = e->signal;
    r->timed_out = e->timed_out;
    r->oom_killed = e->oom_killed;
    r->truncated = e->truncated || x->truncated;
    over(x, e->oom_killed  ? "oom"
            : e->timed_out ? "timeout"
            : e->signal    ? "signal"
            : e->exit_code ? "nonzero"
                           : "ok");
}

static void command_failed(void *arg, const sbx_err *err)
{
    exec *x = arg;
    sbx_jw w;
    sbx_err told = *err;

    if (told.code == SBX_E_CONFLICT) { /* no channel here at the moment */
        told.code = SBX_E_CAPACITY;
        told.retry_after_s = 1;
    }
    if (x->streaming && x->next_event) {
        forward_rest(x);
        event_begin(x, &w, "error");
        sbx_jw_str(&w, "code", sbx_code_wire(told.code));
        sbx_jw_str(&w, "message", told.msg);
        event_end(x, &w);
    } else {
        x->streaming = false; /* nothing was sent yet: a plain answer tells more */
        sbx_reply_problem(x->reply, &told);
    }
    sbx_copy(x->record.error, sizeof(x->record.error), sbx_code_wire(told.code));
    x->record.exit_code = -1;
    x->record.duration_ms = (sbx_now_us() - x->from_us) / 1000;
    over(x, "failed");
}

static const sbx_command_events events = {command_started, command_output, command_exit,
                                          command_failed};

/* --- the client, seen from STREAM --- */

static void ready_on_stream(void *arg)
{
    flush_pending(arg);
}

static void closed_on_stream(void *arg)
{
    exec *x = arg;

    if (x->command && x->kill_on_disconnect)
        sbx_command_kill(x->command);
    else if (x->command)
        sbx_command_detach(x->command);
    else
        x->stop_when_started = true;
    exec_unref(x);
}

static void client_ready(void *arg)
{
    exec *x = arg;

    sbx_stream_post(x->e->c.stream, ready_on_stream, x);
}

static void client_closed(void *arg)
{
    exec *x = arg;

    sbx_stream_post(x->e->c.stream, closed_on_stream, x);
}

/* --- the request --- */

static char *command_json(const sbx_strs *argv)
{
    sbx_buf b = SBX_BUF_INIT(SBX_MAX_RECORDED_COMMAND);
    sbx_jw w = SBX_JW(&b);

    sbx_jw_arr(&w, NULL);
    for (size_t i = 0; i < argv->count; i++)
        sbx_jw_str(&w, NULL, argv->items[i]);
    sbx_jw_arr_end(&w);
    char *text = sbx_buf_steal(&b);
    sbx_buf_done(&b);
    return text ? text : sbx_strdup("[]"); /* too long to be kept */
}

static exec *exec_new(sbx_execs *e, const char *owner, const char *sandbox, const sbx_request *r,
                      exec_body *body)
{
    exec *x = sbx_alloc(sizeof(*x));
    sbx_id id = sbx_id_new();

    x->e = e;
    x->refs = 1;
    x->reply = sbx_reply_ref(r->reply);
    x->streaming = r->accept == SBX_ACCEPT_SSE;
    x->kill_on_disconnect = body->kill_on_disconnect;
    x->from_us = sbx_now_us();
    sbx_copy(x->sandbox, sizeof(x->sandbox), sandbox);
    sbx_copy(x->record.id, sizeof(x->record.id), id.s);
    sbx_copy(x->record.sandbox, sizeof(x->record.sandbox), sandbox);
    sbx_copy(x->record.owner, sizeof(x->record.owner), owner);
    sbx_copy(x->record.kind, sizeof(x->record.kind), "exec");
    x->record.command = command_json(&body->command);
    x->record.started_ms = sbx_wall_ms();
    sbx_buf_init(&x->output[0], (size_t)body->max_output);
    sbx_buf_init(&x->output[1], (size_t)body->max_output);
    /* JSON takes at most six bytes for one of output */
    sbx_buf_init(&x->pending, 8 * SBX_EXEC_WINDOW_BYTES);
    sbx_buf_init(&x->held[0], SBX_EXEC_WINDOW_BYTES + SBX_CHUNK_BYTES);
    sbx_buf_init(&x->held[1], SBX_EXEC_WINDOW_BYTES + SBX_CHUNK_BYTES);
    x->spec = (sbx_command_spec){
        .argv = body->command,
        .env = body->env,
        .cwd = body->cwd,
        .user = body->user,
        .stdin_text = body->stdin_text,
        .stdin_len = body->stdin_text ? strlen(body->stdin_text) : 0,
        .timeout_ms = body->timeout_ms,
        .max_output = x->streaming && !body->max_output_given ? 0 : body->max_output,
        .window = SBX_EXEC_WINDOW_BYTES,
        .flags = SBX_EXEC_PACED,
    };
    memcpy(x->spec.exec_id, x->record.id, sizeof(x->spec.exec_id));
    return x;
}

/* On a WORKER, which owns `x` here. */
static void begin(void *arg)
{
    exec *x = arg;
    sbx_execs *e = x->e;
    sbx_reply_events watch = {.ready = client_ready, .closed = client_closed, .arg = x};
    sbx_command_spec spec = x->spec;

    x->spec = (sbx_command_spec){0};
    x->refs = 2;
    sbx_ledger_begin(e->c.ledger, x->sandbox);
    sbx_reply_watch(x->reply, &watch);
    /* STREAM may own x from here on, and keeps it until both references are dropped: the id is
     * immutable, and the command's own reference is dropped by what this call leads to */
    sbx_channels_exec(e->c.channels, x->sandbox, &spec, &events, x);
}

static void cannot_begin(void *arg, const sbx_err *err)
{
    exec *x = arg;

    sbx_reply_problem(x->reply, err);
    exec_unref(x);
}

int sbx_exec_start(sbx_execs *e, const char *owner, const char *sandbox, const sbx_request *r,
                   sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    exec_body body = {0};

    if (sbx_json_parse(r->body, r->body_len, &root, err) ||
        sbx_json_decode(root, sbx_exec_fields, &body, err) ||
        sbx_env_check("env", &body.env, err)) {
        sbx_json_struct_done(sbx_exec_fields, &body);
        return -1;
    }
    exec *x = exec_new(e, owner, sandbox, r, &body);
    x->use = (sbx_use){.parts = &e->parts,
                       .owner = x->record.owner,
                       .sandbox = x->sandbox,
                       .cancelled = sbx_reply_cancel_flag(x->reply),
                       .ready = begin,
                       .failed = cannot_begin,
                       .arg = x};
    sbx_sandbox_use(&x->use);
    return 0;
}
