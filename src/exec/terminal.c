/* Terminals: a WebSocket is a viewer, and each viewer a follower of the command behind it.
 *
 * A viewer that does not take what comes leaves the command, and joins again where it is by then:
 * it skips, and nobody waits for it. Joining begins with the last output: the agent's chunks are of
 * any size, so as many as could be needed are asked for, and of those that are older than the
 * joining the last bytes are sent. */
#include "exec_priv.h"

#include <signal.h>
#include <stdio.h>
#include <uthash.h>

typedef struct viewer {
    sbx_execs *e;
    int refs; /* STREAM: the follower or what leads to it, and the watch of the reply */
    sbx_reply *reply;
    char owner[SBX_ID_LEN + 1], sandbox[SBX_ID_LEN + 1], id[SBX_ID_LEN + 1];
    sbx_command_spec spec; /* of a new terminal, until it was posted */
    bool is_new, posted, begun, left, skipping, is_terminal, known;
    sbx_use use;
    sbx_command *command;
    uint64_t next;  /* the chunk that comes next; 0: none has come */
    uint64_t from;  /* to attach from */
    uint64_t live;  /* chunks below it are older than the joining */
    sbx_buf replay; /* of those */
    sbx_buf input;  /* that the command's buffer had no room for */
    unsigned cols, rows;
    bool resize; /* it was asked for and not told */
} viewer;

static void viewer_free(viewer *v)
{
    sbx_reply_unref(v->reply);
    sbx_command_spec_done(&v->spec);
    sbx_buf_done(&v->replay);
    sbx_buf_done(&v->input);
    free(v);
}

static void viewer_unref(viewer *v)
{
    if (--v->refs == 0)
        viewer_free(v);
}

/* --- to the client --- */

/* What does not fit is lost with the client that does not take it. */
static void say(viewer *v, const char *json)
{
    (void)sbx_reply_write(v->reply, json, strlen(json));
}

static void say_error(viewer *v, const sbx_err *err)
{
    sbx_buf b = SBX_BUF_INIT(2 * KIB);
    sbx_jw w = SBX_JW(&b);

    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "type", "error");
    sbx_jw_str(&w, "code", sbx_code_wire(err->code));
    sbx_jw_str(&w, "message", err->msg);
    sbx_jw_obj_end(&w);
    if (!sbx_buf_failed(&b))
        say(v, b.data);
    sbx_buf_done(&b);
}

static void finish(viewer *v, const sbx_err *err)
{
    v->command = NULL;
    if (v->begun && err)
        say_error(v, err);
    if (v->begun)
        sbx_reply_end(v->reply);
    else if (err)
        sbx_reply_problem(v->reply, err);
    viewer_unref(v);
}

/* The client is behind: what comes is not for it until it has room. */
static void skip(viewer *v)
{
    v->skipping = true;
    sbx_command_leave(sbx_steal(v->command));
}

static void send_output(viewer *v, const char *data, size_t len)
{
    if (sbx_reply_write_binary(v->reply, data, len) == SBX_PUSH_FULL)
        skip(v);
    else
        sbx_command_grant(v->command, (int64_t)len);
}

/* --- the command, on STREAM --- */

static void send_replay(viewer *v)
{
    sbx_buf *b = &v->replay;
    size_t n = SBX_MIN(b->len, (size_t)SBX_TERMINAL_REPLAY_BYTES);

    v->live = 0;
    if (n && sbx_reply_write_binary(v->reply, b->data + b->len - n, n) == SBX_PUSH_FULL)
        skip(v);
    sbx_buf_done(b);
}

static void keep_for_replay(viewer *v, const char *data, size_t len)
{
    sbx_buf *b = &v->replay;

    sbx_buf_add(b, data, len);
    if (b->len > 2 * SBX_TERMINAL_REPLAY_BYTES)
        sbx_buf_consume(b, b->len - SBX_TERMINAL_REPLAY_BYTES);
    sbx_command_grant(v->command, (int64_t)len);
}

static void pump_input(viewer *v)
{
    size_t n = SBX_MIN(sbx_command_stdin_room(v->command), v->input.len);

    if (n) {
        sbx_command_stdin(v->command, v->input.data, n);
        sbx_buf_consume(&v->input, n);
    }
    if (!v->input.len)
        sbx_buf_done(&v->input);
}

static void begin(viewer *v)
{
    char text[80];

    if (v->begun)
        return;
    v->begun = true;
    sbx_reply_begin(v->reply, 101, NULL);
    snprintf(text, sizeof(text), "{\"type\":\"started\",\"execId\":\"%s\"}", v->id);
    say(v, text);
}

static void on_started(void *arg, sbx_command *c, int64_t pid)
{
    viewer *v = arg;

    (void)pid;
    v->command = c;
    if (v->left) {
        sbx_command_leave(sbx_steal(v->command));
        finish(v, NULL);
        return;
    }
    begin(v);
    if (v->resize)
        sbx_command_resize(c, v->cols, v->rows);
    v->resize = false;
    pump_input(v);
}

static void on_output(void *arg, sbx_command *c, bool is_stderr, const char *data, size_t len)
{
    viewer *v = arg;

    (void)is_stderr;
    v->next = sbx_command_chunk(c) + 1;
    if (v->next <= v->live)
        keep_for_replay(v, data, len);
    else
        send_output(v, data, len);
    if (v->command && v->live && v->next >= v->live)
        send_replay(v);
}

static void on_gap(void *arg, sbx_command *c, uint64_t from, uint64_t to)
{
    viewer *v = arg;

    (void)c, (void)from;
    v->next = to + 1;
    if (!v->live)
        say(v, "{\"type\":\"gap\"}");
    else if (v->next >= v->live)
        send_replay(v);
}

static void on_taken(void *arg, sbx_command *c, uint64_t bytes, uint64_t dropped)
{
    (void)c, (void)bytes, (void)dropped;
    pump_input(arg);
}

static void on_exit_told(void *arg, const sbx_command_exit *e)
{
    viewer *v = arg;
    sbx_buf b = SBX_BUF_INIT(256);
    sbx_jw w = SBX_JW(&b);

    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "type", "exit");
    exec_exit_fields(&w, e->exit_code, e->signal);
    sbx_jw_obj_end(&w);
    say(v, b.data);
    sbx_buf_done(&b);
    finish(v, NULL);
}

static void on_failed(void *arg, const sbx_err *err)
{
    sbx_err told = *err;

    if (told.code == SBX_E_CONFLICT && strcmp(told.msg, SBX_OLD_AGENT) != 0)
        told.code = SBX_E_CAPACITY; /* no channel here at the moment */
    finish(arg, &told);
}

static void use_on_worker(void *arg)
{
    sbx_sandbox_use(&((viewer *)arg)->use);
}

/* The channel: the terminal goes on inside. */
static void on_lost(void *arg)
{
    viewer *v = arg;
    sbx_job job = {.run = use_on_worker, .arg = v};
    sbx_err err;

    v->command = NULL;
    v->is_new = false;
    v->use.again = true;
    if (v->left || v->skipping)
        finish(v, NULL);
    else if (sbx_lanes_submit(v->e->c.lanes, SBX_LANE_FAST, &job, &err))
        finish(v, &err);
}

static const sbx_command_events events = {on_started, on_output, on_exit_told, on_failed,
                                          on_taken,   on_gap,    on_lost};

/* --- joining, on STREAM --- */

static void on_entry(void *arg, const sbx_command_entry *e)
{
    viewer *v = arg;
    uint64_t most = SBX_TERMINAL_REPLAY_BYTES; /* chunks, if each were a byte */

    v->known = true;
    v->is_terminal = e->flags & SBX_EXEC_PTY;
    if (v->next && !v->skipping) { /* after the loss of a channel: nothing is missed */
        v->from = v->next;
        v->live = 0;
        return;
    }
    v->from = e->next_seq > most ? e->next_seq - most : 1;
    v->from = SBX_MAX(v->from, e->oldest_seq);
    v->live = e->next_seq > v->from ? e->next_seq : 0;
}

static void on_listed(void *arg, const sbx_err *err)
{
    viewer *v = arg;
    sbx_err told;

    if (v->left) {
        finish(v, NULL);
    } else if (err) {
        on_failed(v, err);
    } else if (!v->known || !v->is_terminal) {
        if (v->known)
            sbx_fail(&told, SBX_E_CONFLICT, "the command %s has no terminal", v->id);
        else
            sbx_fail(&told, SBX_E_NOT_FOUND, "the sandbox has no terminal %s any more", v->id);
        finish(v, &told);
    } else {
        v->skipping = false;
        sbx_channels_attach(v->e->c.channels, v->sandbox, v->id, v->from, SBX_STREAM_WINDOW_BYTES,
                            false, &events, v);
    }
}

static const sbx_list_events list_events = {on_entry, on_listed};

static void join_on_stream(void *arg)
{
    viewer *v = arg;

    v->known = false;
    sbx_channels_list(v->e->c.channels, v->sandbox, v->id, &list_events, v);
}

/* --- the client, seen from STREAM --- */

static void ready_on_stream(void *arg)
{
    viewer *v = arg;

    if (!v->skipping || v->left)
        return;
    say(v, "{\"type\":\"gap\"}");
    join_on_stream(v);
}

static void closed_on_stream(void *arg)
{
    viewer *v = arg;
    bool follows = v->command;

    v->left = true;
    if (follows)
        sbx_command_leave(sbx_steal(v->command));
    if (follows || v->skipping)
        finish(v, NULL);
    viewer_unref(v);
}

typedef struct message {
    viewer *v;
    bool binary;
    size_t len;
    char data[];
} message;

typedef struct control {
    char *type;
    int64_t cols, rows;
} control;

#define SIZE_FIELD(name)                                                                           \
    {                                                                                              \
#name, SBX_JF_I64, offsetof(control, name), .min = 1, .max = SBX_TERMINAL_MAX_SIZE,        \
                                                    .dflt = 0                                      \
    }

static const sbx_json_field control_fields[] = {
    {"type", SBX_JF_STR, offsetof(control, type), .required = true, .min = 1, .max = 64},
    SIZE_FIELD(cols),
    SIZE_FIELD(rows),
    {.name = NULL},
};

static int read_control(const message *m, control *c, sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;

    if (sbx_json_parse(m->data, m->len, &root, err) ||
        sbx_json_decode(root, control_fields, c, err))
        return -1;
    if (!sbx_streq(c->type, "resize"))
        return sbx_fail_field(err, "type", "type: only \"resize\" is known, not \"%.64s\"",
                              c->type);
    if (!c->cols || !c->rows)
        return sbx_fail_field(err, "cols", "a resize has cols and rows");
    return 0;
}

static void take_control(viewer *v, const message *m)
{
    control c = {0};
    sbx_err err;

    if (read_control(m, &c, &err)) {
        say_error(v, &err);
    } else {
        v->cols = (unsigned)c.cols;
        v->rows = (unsigned)c.rows;
        v->resize = !v->command;
        if (v->command)
            sbx_command_resize(v->command, v->cols, v->rows);
    }
    sbx_json_struct_done(control_fields, &c);
}

/* A key goes straight on; what the command has no room for waits. */
static void take_input(viewer *v, const message *m)
{
    sbx_err err;

    if (v->command && !v->input.len && m->len && sbx_command_stdin_room(v->command) >= m->len) {
        sbx_command_stdin(v->command, m->data, m->len);
        return;
    }
    if (v->input.len + m->len > SBX_TERMINAL_INPUT_BYTES) {
        sbx_fail(&err, SBX_E_TOO_LARGE,
                 "the terminal takes its input too slowly: %zu bytes of it "
                 "were dropped",
                 m->len);
        say_error(v, &err);
        return;
    }
    sbx_buf_add(&v->input, m->data, m->len);
    if (v->command)
        pump_input(v);
}

static void message_on_stream(void *arg)
{
    message *m = arg;

    if (!m->v->left && m->binary)
        take_input(m->v, m);
    else if (!m->v->left)
        take_control(m->v, m);
    free(m);
}

/* --- the client, on LOOP --- */

static void client_ready(void *arg)
{
    sbx_stream_post(((viewer *)arg)->e->c.stream, ready_on_stream, arg);
}

static void client_closed(void *arg)
{
    sbx_stream_post(((viewer *)arg)->e->c.stream, closed_on_stream, arg);
}

static void client_message(void *arg, const char *data, size_t len, bool binary)
{
    viewer *v = arg;
    message *m = sbx_alloc(sizeof(*m) + len + 1);

    *m = (message){.v = v, .binary = binary, .len = len};
    memcpy(m->data, data, len);
    sbx_stream_post(v->e->c.stream, message_on_stream, m);
}

/* --- beginning --- */

static void can_use(void *arg)
{
    viewer *v = arg;
    sbx_execs *e = v->e;
    sbx_reply_events watch = {client_ready, client_message, client_closed, .arg = v};
    char sandbox[SBX_ID_LEN + 1];
    sbx_err err;

    if (!v->posted && sbx_channels_version(e->c.channels, v->sandbox) == 1) {
        sbx_fail(&err, SBX_E_CONFLICT, "%s", SBX_OLD_AGENT);
        finish(v, &err);
        return;
    }
    bool first = !v->posted, is_new = v->is_new;
    sbx_command_spec spec = v->spec;

    v->spec = (sbx_command_spec){0};
    v->posted = true;
    memcpy(sandbox, v->sandbox, sizeof(sandbox));
    if (first) {
        v->refs = 2;
        sbx_reply_watch(v->reply, &watch);
    }
    if (is_new)
        sbx_channels_exec(e->c.channels, sandbox, &spec, &events, v);
    else
        sbx_stream_post(e->c.stream, join_on_stream, v);
}

typedef struct failing {
    viewer *v;
    sbx_err err;
} failing;

static void fail_on_stream(void *arg)
{
    failing *f = arg;

    finish(f->v, &f->err);
    free(f);
}

static void cannot_use(void *arg, const sbx_err *err)
{
    viewer *v = arg;

    if (!v->posted) {
        finish(v, err);
        return;
    }
    failing *f = sbx_alloc(sizeof(*f));
    *f = (failing){.v = v, .err = *err};
    sbx_stream_post(v->e->c.stream, fail_on_stream, f);
}

/* The user's login shell, if the image has it. */
static const char login_shell[] =
    "u=$(id -u 2>/dev/null); s=; while IFS=: read -r n p i g c h l; do"
    " [ \"$i\" = \"$u\" ] && { s=$l; break; }; done </etc/passwd 2>/dev/null;"
    " case $s in */nologin|*/false|'') s=/bin/sh;; esac;"
    " [ -x \"$s\" ] || s=/bin/sh; SHELL=$s; export SHELL; exec \"$s\" -l";

static void take_spec(viewer *v, const char *command)
{
    sbx_command_spec *s = &v->spec;

    *s = (sbx_command_spec){.window = SBX_STREAM_WINDOW_BYTES,
                            .cols = v->cols,
                            .rows = v->rows,
                            .flags = SBX_EXEC_PTY | SBX_EXEC_STDIN};
    memcpy(s->exec_id, v->id, sizeof(s->exec_id));
    s->argv.items = sbx_alloc(4 * sizeof(char *));
    s->argv.items[s->argv.count++] = sbx_strdup("/bin/sh");
    s->argv.items[s->argv.count++] = sbx_strdup("-c");
    s->argv.items[s->argv.count++] = sbx_strdup(command ? command : login_shell);
}

static int read_size(const sbx_request *r, const char *name, unsigned *ret, sbx_err *err)
{
    const char *text = sbx_request_query(r, name);
    int64_t n;

    if (!text)
        return 0;
    if (!sbx_parse_i64(text, 1, SBX_TERMINAL_MAX_SIZE, &n))
        return sbx_fail_field(err, name, "%s: must be a whole number from 1 to %d", name,
                              SBX_TERMINAL_MAX_SIZE);
    *ret = (unsigned)n;
    return 0;
}

static int read_query(viewer *v, const sbx_request *r, sbx_err *err)
{
    const char *id = sbx_request_query(r, "execId"), *command = sbx_request_query(r, "command");

    if (id && command)
        return sbx_fail_field(err, "command", "command: a terminal that is rejoined has one");
    if (id && !sbx_id_valid(id))
        return sbx_fail_field(err, "execId", "execId: must be the id of a command");
    if (command && !*command)
        return sbx_fail_field(err, "command", "command: must not be empty");
    v->is_new = !id;
    v->resize = id && sbx_request_query(r, "cols") && sbx_request_query(r, "rows");
    v->cols = 80;
    v->rows = 24;
    if (read_size(r, "cols", &v->cols, err) || read_size(r, "rows", &v->rows, err))
        return -1;
    sbx_copy(v->id, sizeof(v->id), id ? id : sbx_id_new().s);
    if (!id)
        take_spec(v, command);
    sbx_reply_about(r->reply, v->sandbox, v->id);
    return 0;
}

static int is_upgrade(const viewer *v, const sbx_request *r, sbx_err *err)
{
    char state[16];

    if (r->accept == SBX_ACCEPT_WS)
        return 0;
    if (exec_look(v->e, v->owner, v->sandbox, state, err) < 0)
        return -1;
    return sbx_fail(err, SBX_E_INVALID, "a terminal is a WebSocket: ask for an upgrade");
}

int sbx_exec_terminal(sbx_execs *e, const char *owner, const char *sandbox, const sbx_request *r,
                      sbx_err *err)
{
    viewer *v = sbx_alloc(sizeof(*v));

    v->e = e;
    v->refs = 1;
    v->reply = sbx_reply_ref(r->reply);
    sbx_buf_init(&v->replay, 4 * SBX_TERMINAL_REPLAY_BYTES);
    sbx_buf_init(&v->input, SBX_TERMINAL_INPUT_BYTES);
    sbx_copy(v->owner, sizeof(v->owner), owner);
    sbx_copy(v->sandbox, sizeof(v->sandbox), sandbox);
    if (read_query(v, r, err) || is_upgrade(v, r, err)) {
        viewer_free(v);
        return -1;
    }
    v->use = (sbx_use){.parts = &e->parts,
                       .owner = v->owner,
                       .sandbox = v->sandbox,
                       .cancelled = sbx_reply_cancel_flag(v->reply),
                       .ready = can_use,
                       .failed = cannot_use,
                       .arg = v};
    sbx_sandbox_use(&v->use);
    return 0;
}
