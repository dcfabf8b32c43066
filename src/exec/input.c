/* What is told to a command that runs: input, signals, its end.
 *
 * One object per request, STREAM's once it was posted: it follows the command without its output
 * just as long as it takes to tell. */
#include "exec_priv.h"

#include <signal.h>

typedef enum order_kind { GIVE, SIGNAL, KILL } order_kind;

typedef struct order {
    sbx_execs *e;
    order_kind kind;
    int refs; /* STREAM: the follower or what leads to it, and the watch of the reply */
    sbx_reply *reply;
    char owner[SBX_ID_LEN + 1], sandbox[SBX_ID_LEN + 1], id[SBX_ID_LEN + 1];
    sbx_use use;
    sbx_command *command;
    bool left;
    char *body; /* GIVE */
    size_t len, at;
    uint64_t given; /* that was not taken yet */
    bool close;
    int signal;
    bool tree, known, over; /* the agent knows it; it was over already */
} order;

static void order_free(order *o)
{
    sbx_reply_unref(o->reply);
    free(o->body);
    free(o);
}

static void order_unref(order *o)
{
    if (--o->refs == 0)
        order_free(o);
}

/* The last of the follower: `err` NULL: it was told. */
static void finish(order *o, const sbx_err *err)
{
    sbx_buf empty = SBX_BUF_INIT(1);
    sbx_command *c = sbx_steal(o->command);

    if (c)
        sbx_command_leave(c);
    if (err)
        sbx_reply_problem(o->reply, err);
    else
        sbx_reply_send(o->reply, 204, NULL, NULL, 0, &empty);
    order_unref(o);
}

static void fail(order *o, sbx_code code, const char *text)
{
    sbx_err err;

    sbx_fail(&err, code, "%s", text);
    finish(o, &err);
}

/* --- the command, on STREAM --- */

static void feed(order *o)
{
    size_t n = SBX_MIN(sbx_command_stdin_room(o->command), o->len - o->at);

    if (n) {
        sbx_command_stdin(o->command, o->body + o->at, n);
        o->at += n;
        o->given += n;
    }
    if (o->at < o->len || o->given)
        return;
    if (o->close)
        sbx_command_stdin_end(o->command);
    finish(o, NULL);
}

static void on_started(void *arg, sbx_command *c, int64_t pid)
{
    order *o = arg;

    (void)pid;
    o->command = c;
    if (o->left) {
        fail(o, SBX_E_CANCELLED, "the client went away");
    } else if (o->kind == KILL) {
        sbx_command_kill(c);
        finish(o, NULL);
    } else if (o->kind == SIGNAL) {
        sbx_command_signal(c, o->signal, o->tree);
        finish(o, NULL);
    } else if (!(sbx_command_flags(c) & (SBX_EXEC_STDIN | SBX_EXEC_PTY))) {
        fail(o, SBX_E_CONFLICT, "the command's input is not open: start it with stdinOpen");
    } else {
        feed(o);
    }
}

static void on_output(void *arg, sbx_command *c, bool is_stderr, const char *data, size_t len)
{
    (void)arg, (void)c, (void)is_stderr, (void)data, (void)len;
}

static void on_taken(void *arg, sbx_command *c, uint64_t bytes, uint64_t dropped)
{
    order *o = arg;

    (void)c;
    o->given -= SBX_MIN(o->given, bytes + dropped);
    if (dropped)
        fail(o, SBX_E_CONFLICT, "the command reads no input any more, or its input was closed");
    else
        feed(o);
}

static void on_exit_told(void *arg, const sbx_command_exit *e)
{
    order *o = arg;

    (void)e;
    o->command = NULL;
    if (o->kind == KILL)
        finish(o, NULL);
    else
        fail(o, SBX_E_CONFLICT, "the command is over");
}

static void on_failed(void *arg, const sbx_err *err)
{
    order *o = arg;
    sbx_err told = *err;

    o->command = NULL;
    if (told.code == SBX_E_CONFLICT && strcmp(told.msg, SBX_OLD_AGENT) != 0)
        told.code = SBX_E_CAPACITY; /* no channel here at the moment */
    finish(o, &told);
}

static const sbx_command_events events = {.started = on_started,
                                          .output = on_output,
                                          .exit = on_exit_told,
                                          .failed = on_failed,
                                          .taken = on_taken};

/* --- the client, seen from STREAM --- */

static void closed_on_stream(void *arg)
{
    order *o = arg;

    o->left = true;
    if (o->command)
        fail(o, SBX_E_CANCELLED, "the client went away");
    order_unref(o);
}

static void client_closed(void *arg)
{
    sbx_stream_post(((order *)arg)->e->c.stream, closed_on_stream, arg);
}

static void attach(order *o)
{
    sbx_reply_events watch = {.closed = client_closed, .arg = o};
    sbx_execs *e = o->e;
    char sandbox[SBX_ID_LEN + 1], id[SBX_ID_LEN + 1];

    memcpy(sandbox, o->sandbox, sizeof(sandbox));
    memcpy(id, o->id, sizeof(id));
    o->refs = 2;
    sbx_reply_watch(o->reply, &watch);
    sbx_channels_attach(e->c.channels, sandbox, id, 0, 0, true, &events, o);
}

/* --- which command? --- */

/* Its record tells of one that the agent does not know. WORKER. */
static void look_for_record(void *arg)
{
    order *o = arg;
    sbx_exec_record r = {0};
    sbx_err err;

    if (sbx_store_exec_get(o->e->c.store, o->owner, o->sandbox, o->id, &r, &err))
        finish(o, &err);
    else if (o->kind == KILL)
        finish(o, NULL);
    else
        fail(o, SBX_E_CONFLICT, "the command is over");
    sbx_exec_record_done(&r);
}

static void on_entry(void *arg, const sbx_command_entry *e)
{
    ((order *)arg)->known = true;
    ((order *)arg)->over = e->over;
}

static void on_listed(void *arg, const sbx_err *err)
{
    order *o = arg;
    sbx_job job = {.run = look_for_record, .arg = o};
    sbx_err later;

    if (err)
        on_failed(o, err);
    else if (o->known && o->over && o->kind != KILL)
        fail(o, SBX_E_CONFLICT, "the command is over");
    else if (o->known) /* a tree may have outlived its command */
        attach(o);
    else if (sbx_lanes_submit(o->e->c.lanes, SBX_LANE_FAST, &job, &later))
        finish(o, &later);
}

static const sbx_list_events list_events = {on_entry, on_listed};

static void ask(void *arg)
{
    order *o = arg;

    sbx_channels_list(o->e->c.channels, o->sandbox, o->id, &list_events, o);
}

static void cannot_ask(void *arg, const sbx_err *err)
{
    finish(arg, err);
}

static void use(order *o)
{
    o->use = (sbx_use){.parts = &o->e->parts,
                       .owner = o->owner,
                       .sandbox = o->sandbox,
                       .cancelled = sbx_reply_cancel_flag(o->reply),
                       .reading = o->kind != GIVE,
                       .ready = ask,
                       .failed = cannot_ask,
                       .arg = o};
    sbx_sandbox_use(&o->use);
}

static order *order_new(sbx_execs *e, order_kind kind, const sbx_exec_ref *x, const sbx_request *r)
{
    order *o = sbx_alloc(sizeof(*o));

    o->e = e;
    o->kind = kind;
    o->refs = 1;
    o->reply = sbx_reply_ref(r->reply);
    sbx_copy(o->owner, sizeof(o->owner), x->owner);
    sbx_copy(o->sandbox, sizeof(o->sandbox), x->sandbox);
    sbx_copy(o->id, sizeof(o->id), x->id);
    return o;
}

/* --- input --- */

int sbx_exec_stdin(sbx_execs *e, const sbx_exec_ref *x, const sbx_request *r, sbx_err *err)
{
    const char *close = sbx_request_query(r, "close");

    if (close && !sbx_streq(close, "true") && !sbx_streq(close, "false"))
        return sbx_fail_field(err, "close", "close: must be true or false");
    order *o = order_new(e, GIVE, x, r);

    o->close = sbx_streq(close, "true");
    o->len = r->body_len;
    o->body = sbx_alloc(r->body_len + 1);
    memcpy(o->body, r->body ? r->body : "", r->body_len);
    use(o);
    return 0;
}

/* --- signals and kills: they use nothing, so a paused sandbox stays paused --- */

/* Owns `o` unless it fails. */
static int tell(order *o, sbx_err *err)
{
    char state[16];
    int runs = exec_look(o->e, o->owner, o->sandbox, state, err);

    if (runs < 0)
        return -1;
    if (runs && sbx_channels_has(o->e->c.channels, o->sandbox))
        ask(o);
    else if (runs) /* it is just being adopted */
        use(o);
    else if (sbx_streq(state, "stopped") || sbx_streq(state, "failed"))
        look_for_record(o);
    else
        return sbx_fail(err, SBX_E_CONFLICT,
                        "the sandbox is %s: its commands hear nothing until it is running", state);
    return 0;
}

static int told(order *o, sbx_err *err)
{
    if (tell(o, err) == 0)
        return 0;
    order_free(o);
    return -1;
}

typedef struct signal_body {
    char *name;
    bool tree, tree_given;
} signal_body;

const sbx_json_field sbx_signal_fields[] = {
    {"signal", SBX_JF_STR, offsetof(signal_body, name), .required = true, .min = 1, .max = 16,
     .example = "\"TERM\"",
     .doc = "TERM, KILL, INT, HUP, QUIT, USR1, USR2, CONT, STOP, WINCH, another name, or a number"},
    {"tree", SBX_JF_BOOL, offsetof(signal_body, tree), offsetof(signal_body, tree_given),
     .doc = "to every process of the command (the default), or to its first one alone"},
    {.name = NULL},
};

static int signal_number(const char *name)
{
    int64_t n;

    if (sbx_parse_i64(name, 1, 64, &n))
        return (int)n;
    if (strncmp(name, "SIG", 3) == 0)
        name += 3;
    for (int i = 1; i < 64; i++)
        if (sbx_streq(sigabbrev_np(i), name))
            return i;
    return 0;
}

int sbx_exec_signal(sbx_execs *e, const sbx_exec_ref *x, const sbx_request *r, sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    signal_body body = {0};
    int rc = sbx_json_parse(r->body, r->body_len, &root, err) ||
                     sbx_json_decode(root, sbx_signal_fields, &body, err)
                 ? -1
                 : 0;
    int number = rc ? 0 : signal_number(body.name);

    if (!rc && !number)
        rc = sbx_fail_field(err, "signal", "signal: no such signal; for example TERM");
    sbx_json_struct_done(sbx_signal_fields, &body);
    if (rc)
        return -1;
    order *o = order_new(e, SIGNAL, x, r);
    o->signal = number;
    o->tree = body.tree || !body.tree_given;
    return told(o, err);
}

int sbx_exec_kill(sbx_execs *e, const sbx_exec_ref *x, const sbx_request *r, sbx_err *err)
{
    return told(order_new(e, KILL, x, r), err);
}
