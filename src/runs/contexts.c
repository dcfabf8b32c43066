/* Contexts: interpreters that stay in a sandbox, between runs.
 *
 * A context is a command of its sandbox (src/agentd/context.h), marked as such, and its id is that
 * command's. So its agent is the truth about contexts, any worker serves them, and nothing of them
 * is remembered here: a list is the agent's list of commands, in which the runs tell when a context
 * was used last, and whether it is at work.
 *
 * One object per request; it belongs to the worker that looks for the sandbox, then to STREAM. */
#include "runs_priv.h"

#include "sbx/sandbox/spec.h"
#include <stdio.h>

#define MAX_CONTEXT_CWD 1024 /* it stands in the command, which lists cut */

typedef enum what { LIST, READ, MAKE, RESTART, REMOVE } what;

typedef struct item {
    char id[SBX_ID_LEN + 1], runtime[16];
    char *cwd; /* NULL: the home; owned */
    int64_t made_ms, used_ms;
    bool busy, over;
} item;

typedef struct ctx {
    sbx_runs *r;
    what what;
    int refs; /* STREAM: the work, and the watch of the reply */
    sbx_reply *reply;
    char owner[SBX_ID_LEN + 1], sandbox[SBX_ID_LEN + 1], id[SBX_ID_LEN + 1];
    const runner *how;
    char *cwd;
    sbx_pairs env;
    sbx_use use;
    bool claimed, resumed; /* by an Idempotency-Key: it stays for the repetition; may be there */
    bool busy;             /* counts as activity */
    bool left, asked, over;
    sbx_command *command, *question;
    item *items;
    size_t count, cap;
} ctx;

/* --- what an agent tells of commands --- */

typedef struct words {
    sbx_json *root;
    const char *at[5]; /* "" where there is none */
} words;

static bool read_words(const char *command, words *ret)
{
    sbx_err err;

    if (sbx_json_parse(command, strlen(command), &ret->root, &err))
        return false;
    const sbx_json *a = sbx_json_first(ret->root);
    for (size_t i = 0; i < ARRAY_LEN(ret->at); i++, a = a ? sbx_json_next(a) : NULL)
        ret->at[i] = a && sbx_json_str(a) ? sbx_json_str(a) : "";
    return true;
}

bool context_of_entry(const sbx_command_entry *e, char *runtime, size_t cap, char **ret_cwd)
{
    words w = {0};
    bool ok = (e->flags & SBX_EXEC_CONTEXT) && read_words(e->command, &w) && runner_find(w.at[2]) &&
              sbx_copy(runtime, cap, w.at[2]);

    if (ok && ret_cwd)
        *ret_cwd = *w.at[4] ? sbx_strdup(w.at[4]) : NULL;
    sbx_json_free(w.root);
    return ok;
}

static item *add(ctx *x, const char *id)
{
    for (size_t i = 0; i < x->count; i++)
        if (strcmp(x->items[i].id, id) == 0)
            return &x->items[i];
    if (x->count == x->cap) {
        x->cap = x->cap ? 2 * x->cap : 32;
        x->items = sbx_realloc(x->items, x->cap * sizeof(*x->items));
    }
    item *one = &x->items[x->count++];
    *one = (item){0};
    sbx_copy(one->id, sizeof(one->id), id);
    return one;
}

/* A run in a context: `sbx-agent cell ID run ...`. It may be told of before its context is. */
static void add_use(ctx *x, const sbx_command_entry *e)
{
    words w = {0};

    if (!read_words(e->command, &w) || strcmp(w.at[1], "cell") != 0 || !sbx_id_valid(w.at[2]) ||
        strcmp(w.at[0], SBX_AGENT_PROGRAM) != 0) {
        sbx_json_free(w.root);
        return;
    }
    item *one = add(x, w.at[2]);
    int64_t last = e->started_ms + (e->over ? e->exit.duration_ms : 0);

    one->used_ms = SBX_MAX(one->used_ms, last);
    one->busy |= !e->over;
    sbx_json_free(w.root);
}

static void on_entry(void *arg, const sbx_command_entry *e)
{
    ctx *x = arg;
    char runtime[16], *cwd;

    if (e->flags & SBX_EXEC_RUN) {
        add_use(x, e);
        return;
    }
    if (!context_of_entry(e, runtime, sizeof(runtime), &cwd))
        return;
    item *one = add(x, e->exec_id);
    free(one->cwd);
    sbx_copy(one->runtime, sizeof(one->runtime), runtime);
    one->cwd = cwd;
    one->made_ms = e->started_ms;
    one->used_ms = SBX_MAX(one->used_ms, e->started_ms);
    one->over = e->over;
}

/* Runs of contexts that the agent has forgotten made items, too. */
static bool is_there(const item *one)
{
    return *one->runtime && !one->over;
}

static item *mine(ctx *x)
{
    for (size_t i = 0; i < x->count; i++)
        if (*x->items[i].runtime && strcmp(x->items[i].id, x->id) == 0)
            return &x->items[i];
    return NULL;
}

static void forget_items(ctx *x)
{
    for (size_t i = 0; i < x->count; i++)
        free(x->items[i].cwd);
    x->count = 0;
}

/* --- answers --- */

static void ctx_free(ctx *x)
{
    forget_items(x);
    free(x->items);
    free(x->cwd);
    sbx_pairs_done(&x->env);
    sbx_reply_unref(x->reply);
    free(x);
}

static void write_item(sbx_jw *w, const item *one)
{
    sbx_jw_obj(w, NULL);
    sbx_jw_str(w, "id", one->id);
    sbx_jw_str(w, "runtime", one->runtime);
    sbx_jw_str(w, "cwd", one->cwd);
    sbx_jw_str(w, "state", one->busy ? "busy" : "idle");
    sbx_jw_time(w, "createdAt", one->made_ms);
    sbx_jw_time(w, "lastUsedAt", one->used_ms);
    sbx_jw_obj_end(w);
}

/* Newest first. */
static int order(const void *a, const void *b)
{
    const item *x = a, *y = b;

    return x->made_ms != y->made_ms ? (x->made_ms < y->made_ms ? 1 : -1) : strcmp(x->id, y->id);
}

static void answer_list(ctx *x)
{
    sbx_buf body = SBX_BUF_INIT(MIB);
    sbx_jw w = SBX_JW(&body);

    if (x->count)
        qsort(x->items, x->count, sizeof(*x->items), order);
    sbx_jw_obj(&w, NULL);
    sbx_jw_arr(&w, "items");
    for (size_t i = 0; i < x->count; i++)
        if (is_there(&x->items[i]))
            write_item(&w, &x->items[i]);
    sbx_jw_arr_end(&w);
    sbx_jw_null(&w, "nextCursor");
    sbx_jw_obj_end(&w);
    sbx_reply_json(x->reply, 200, &body);
    sbx_buf_done(&body);
}

static void answer_item(ctx *x, const item *one)
{
    sbx_buf body = SBX_BUF_INIT(16 * KIB);
    char at[80];
    sbx_header location = {"location", at};
    sbx_jw w = SBX_JW(&body);

    write_item(&w, one);
    if (x->what == MAKE) {
        snprintf(at, sizeof(at), "/sandboxes/%s/contexts/%s", x->sandbox, one->id);
        sbx_reply_send(x->reply, 201, "application/json", &location, 1, &body);
    } else {
        sbx_reply_json(x->reply, 200, &body);
    }
    sbx_buf_done(&body);
}

static void answer_nothing(ctx *x)
{
    sbx_buf none = SBX_BUF_INIT(1);

    sbx_reply_send(x->reply, 204, NULL, NULL, 0, &none);
}

static void unref(ctx *x)
{
    SBX_ASSERT_THREAD(SBX_T_STREAM);
    if (--x->refs == 0)
        ctx_free(x);
}

/* The request is answered. */
static void finish(ctx *x)
{
    x->over = true;
    if (x->command)
        sbx_command_leave(sbx_steal(x->command));
    if (x->busy)
        sbx_ledger_end(x->r->c.ledger, x->sandbox);
    unref(x);
}

static void fail(ctx *x, const sbx_err *err)
{
    sbx_reply_problem(x->reply, err);
    finish(x);
}

static void fail_none(ctx *x)
{
    sbx_err err;

    sbx_fail(&err, SBX_E_NOT_FOUND, "the sandbox has no context %s", x->id);
    fail(x, &err);
}

static void fail_and_end(ctx *x, const sbx_err *err)
{
    if (x->command)
        sbx_command_kill(x->command);
    fail(x, err);
}

/* --- the steps; STREAM --- */

static void ask(ctx *x, const char *word);
static void start(ctx *x);

static void gone_failed(void *arg, const sbx_err *err)
{
    ctx *x = arg;

    x->command = NULL;
    if (err->code == SBX_E_NOT_FOUND)
        answer_nothing(x);
    else
        sbx_reply_problem(x->reply, err);
    finish(x);
}

static void to_end_started(void *arg, sbx_command *c, int64_t pid)
{
    (void)pid;
    ((ctx *)arg)->command = c;
    sbx_command_kill(c);
}

static void end_output(void *arg, sbx_command *c, bool is_stderr, const char *data, size_t len)
{
    (void)arg, (void)is_stderr, (void)data;
    sbx_command_grant(c, (int64_t)len);
}

static void ended(void *arg, const sbx_command_exit *e)
{
    ctx *x = arg;

    (void)e;
    x->command = NULL;
    answer_nothing(x);
    finish(x);
}

static const sbx_command_events end_events = {
    .started = to_end_started, .output = end_output, .exit = ended, .failed = gone_failed};

static void remove_it(ctx *x, const item *one)
{
    if (one->over) {
        answer_nothing(x);
        finish(x);
        return;
    }
    sbx_channels_attach(x->r->c.channels, x->sandbox, x->id, 0, SBX_EXEC_WINDOW_BYTES, true,
                        &end_events, x);
}

static void listed(void *arg, const sbx_err *err)
{
    ctx *x = arg;
    item *one = mine(x);

    if (err) {
        fail(x, err);
    } else if (x->what == LIST) {
        answer_list(x);
        finish(x);
    } else if (x->what == REMOVE && one) {
        remove_it(x, one);
    } else if (x->what == MAKE && x->resumed && !x->asked && !one) {
        start(x);
    } else if (!one || one->over) {
        fail_none(x);
    } else if (!x->asked && x->what != READ) {
        ask(x, x->what == RESTART ? "restart" : "wait");
    } else {
        answer_item(x, one);
        finish(x);
    }
}

static const sbx_list_events list_events = {on_entry, listed};

static void look(ctx *x)
{
    forget_items(x);
    sbx_channels_list(x->r->c.channels, x->sandbox, NULL, &list_events, x);
}

/* --- the keeper is asked --- */

static void explain(const ctx *x, int code, sbx_err *ret)
{
    if (code == SBX_CELL_NO_PROGRAM)
        sbx_fail_field(ret, "runtime", "runtime: there is no %s in this sandbox",
                       x->how && sbx_streq(x->how->runtime, "python") ? "python3" : "node");
    else if (code == SBX_CELL_NO_TYPES)
        sbx_fail_field(ret, "runtime",
                       "runtime: the Node.js of this sandbox cannot run TypeScript in a context; "
                       "22.13 or newer can");
    else if (code == SBX_CELL_NO_CONTEXT)
        sbx_fail(ret, SBX_E_NOT_FOUND, "the context %s has ended", x->id);
    else if (code == 2)
        sbx_fail(ret, SBX_E_CONFLICT, "%s", SBX_OLD_AGENT);
    else
        sbx_fail(ret, SBX_E_CONFLICT,
                 "the interpreter of the context did not start; the output of the command %s says "
                 "why",
                 x->id);
}

static void question_started(void *arg, sbx_command *c, int64_t pid)
{
    ctx *x = arg;

    (void)pid;
    x->question = c;
    if (x->left)
        sbx_command_kill(c);
}

static void question_exit(void *arg, const sbx_command_exit *e)
{
    ctx *x = arg;
    sbx_err err;

    x->question = NULL;
    x->asked = true;
    if (x->left && !x->claimed) {
        sbx_err_set(&err, SBX_E_CANCELLED, "the client went away");
        if (x->what == MAKE)
            fail_and_end(x, &err);
        else
            fail(x, &err);
        return;
    }
    if (!e->exit_code && !e->signal) {
        look(x);
        return;
    }
    explain(x, e->exit_code, &err);
    if (x->what == MAKE)
        fail_and_end(x, &err);
    else
        fail(x, &err);
}

static void question_failed(void *arg, const sbx_err *err)
{
    ctx *x = arg;

    x->question = NULL;
    fail(x, err);
}

static const sbx_command_events question_events = {.started = question_started,
                                                   .output = end_output,
                                                   .exit = question_exit,
                                                   .failed = question_failed};

static void ask(ctx *x, const char *word)
{
    sbx_command_spec spec = {.window = SBX_EXEC_WINDOW_BYTES,
                             .flags = SBX_EXEC_CHECK,
                             .timeout_ms = 2 * SBX_CONTEXT_START_MS};

    sbx_copy(spec.exec_id, sizeof(spec.exec_id), sbx_id_new().s);
    sbx_strs_add(&spec.argv, SBX_AGENT_PROGRAM);
    sbx_strs_add(&spec.argv, "cell");
    sbx_strs_add(&spec.argv, x->id);
    sbx_strs_add(&spec.argv, word);
    sbx_channels_exec(x->r->c.channels, x->sandbox, &spec, &question_events, x);
}

/* --- a new one --- */

static void keeper_started(void *arg, sbx_command *c, int64_t pid)
{
    ctx *x = arg;
    sbx_err err;

    (void)pid;
    x->command = c;
    if (!x->left || x->claimed) {
        ask(x, "wait");
        return;
    }
    sbx_err_set(&err, SBX_E_CANCELLED, "the client went away");
    fail_and_end(x, &err);
}

/* The question is answered as well, by the end of the keeper's socket. */
static void keeper_exit(void *arg, const sbx_command_exit *e)
{
    (void)e;
    ((ctx *)arg)->command = NULL;
}

static void keeper_failed(void *arg, const sbx_err *err)
{
    ctx *x = arg;
    bool asked = x->command != NULL;

    x->command = NULL;
    if (!asked)
        fail(x, err);
}

static const sbx_command_events keeper_events = {
    .started = keeper_started, .output = end_output, .exit = keeper_exit, .failed = keeper_failed};

static void start(ctx *x)
{
    sbx_command_spec spec = {.window = SBX_EXEC_WINDOW_BYTES,
                             .flags = SBX_EXEC_CONTEXT | SBX_EXEC_DETACHED};

    memcpy(spec.exec_id, x->id, sizeof(spec.exec_id));
    sbx_strs_add(&spec.argv, SBX_AGENT_PROGRAM);
    sbx_strs_add(&spec.argv, "context");
    sbx_strs_add(&spec.argv, x->how->runtime);
    sbx_strs_add(&spec.argv, x->id);
    if (x->cwd)
        sbx_strs_add(&spec.argv, x->cwd);
    spec.cwd = x->cwd ? sbx_strdup(x->cwd) : NULL;
    spec.env = x->env;
    x->env = (sbx_pairs){0};
    sbx_channels_exec(x->r->c.channels, x->sandbox, &spec, &keeper_events, x);
}

/* --- the sandbox --- */

static void begin_on_stream(void *arg)
{
    ctx *x = arg;

    if (x->what == MAKE || x->what == RESTART) {
        x->busy = true;
        sbx_ledger_begin(x->r->c.ledger, x->sandbox);
    }
    if (x->what == MAKE && !x->resumed)
        start(x);
    else
        look(x);
}

static void can_use(void *arg)
{
    sbx_stream_post(((ctx *)arg)->r->c.stream, begin_on_stream, arg);
}

typedef struct failing {
    ctx *x;
    sbx_err err;
} failing;

static void fail_on_stream(void *arg)
{
    failing *f = arg;

    fail(f->x, &f->err);
    free(f);
}

static void cannot_use(void *arg, const sbx_err *err)
{
    ctx *x = arg;
    failing *f = sbx_alloc(sizeof(*f));

    *f = (failing){.x = x, .err = *err};
    sbx_stream_post(x->r->c.stream, fail_on_stream, f);
}

static void left_on_stream(void *arg)
{
    ctx *x = arg;

    x->left = true;
    if (!x->over && x->question && !x->claimed)
        sbx_command_kill(x->question);
    unref(x);
}

static void client_closed(void *arg)
{
    sbx_stream_post(((ctx *)arg)->r->c.stream, left_on_stream, arg);
}

static void client_ready(void *arg)
{
    (void)arg; /* nothing is streamed */
}

static void begin(ctx *x)
{
    sbx_reply_events watch = {.ready = client_ready, .closed = client_closed, .arg = x};

    x->refs = 2;
    x->use = (sbx_use){.parts = &x->r->parts,
                       .owner = x->owner,
                       .sandbox = x->sandbox,
                       .cancelled = x->claimed ? NULL : sbx_reply_cancel_flag(x->reply),
                       .reading = x->what == LIST || x->what == READ || x->what == REMOVE,
                       .ready = can_use,
                       .failed = cannot_use,
                       .arg = x};
    sbx_reply_watch(x->reply, &watch);
    sbx_sandbox_use(&x->use);
}

static ctx *ctx_new(sbx_runs *r, what goal, const sbx_context_ref *ref, const sbx_request *q)
{
    ctx *x = sbx_alloc(sizeof(*x));

    x->r = r;
    x->what = goal;
    x->refs = 1;
    x->reply = sbx_reply_ref(q->reply);
    sbx_copy(x->owner, sizeof(x->owner), ref->owner);
    sbx_copy(x->sandbox, sizeof(x->sandbox), ref->sandbox);
    sbx_copy(x->id, sizeof(x->id), ref->id ? ref->id : sbx_id_new().s);
    return x;
}

/* --- requests; WORKER --- */

typedef struct context_body {
    const char *runtime;
    char *cwd;
    sbx_pairs env;
} context_body;

#define AT(member) offsetof(context_body, member)

const sbx_json_field sbx_context_fields[] = {
    {"runtime", SBX_JF_ENUM, AT(runtime), .required = true, .values = run_runtimes,
     .doc = "what runs the code; `typescript` is Node.js, too"},
    {"cwd", SBX_JF_STR, AT(cwd), .nullable = true, .min = 1, .max = MAX_CONTEXT_CWD,
     .doc = "working directory; default: the user's home", .example = "\"/tmp\""},
    {"env", SBX_JF_PAIRS, AT(env), .max = SBX_MAX_ENV, .max_each = SBX_MAX_ENV_BYTES,
     .doc = "added to the sandbox's environment, for all runs in the context"},
    {.name = NULL},
};

int sbx_context_make(sbx_runs *r, const sbx_context_ref *ref, bool resumed, const sbx_request *q,
                     sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    context_body body = {0};

    if (sbx_json_parse(q->body, q->body_len, &root, err))
        return -1;
    if (sbx_json_decode(root, sbx_context_fields, &body, err) ||
        sbx_env_check("env", &body.env, err)) {
        sbx_json_struct_done(sbx_context_fields, &body);
        return -1;
    }
    ctx *x = ctx_new(r, MAKE, ref, q);
    x->how = runner_find(body.runtime);
    x->cwd = body.cwd;
    x->env = body.env;
    x->claimed = ref->id != NULL;
    x->resumed = resumed;
    begin(x);
    return 0;
}

/* What does not run has no contexts. @return 1 it runs, or will; 0; -1 with NOT_FOUND, GONE. */
static int may_run(sbx_runs *r, const sbx_context_ref *ref, sbx_err *err)
{
    sbx_sandbox_row row = {0};

    if (sbx_store_sandbox_get(r->c.store, ref->owner, ref->sandbox, &row, err))
        return -1;
    int runs = !sbx_streq(row.state, "stopped") && !sbx_streq(row.state, "failed");
    bool deleted = sbx_streq(row.state, "deleted");
    sbx_sandbox_row_done(&row);
    return deleted ? sbx_fail(err, SBX_E_GONE, "the sandbox was deleted") : runs;
}

int sbx_context_list(sbx_runs *r, const sbx_context_ref *ref, const sbx_request *q, sbx_err *err)
{
    int runs = may_run(r, ref, err);

    if (runs < 0)
        return -1;
    ctx *x = ctx_new(r, LIST, ref, q);
    if (runs) {
        begin(x);
    } else {
        answer_list(x);
        ctx_free(x);
    }
    return 0;
}

static int begin_with_one(sbx_runs *r, what goal, const sbx_context_ref *ref, const sbx_request *q,
                          sbx_err *err)
{
    int runs = may_run(r, ref, err);

    if (runs < 0)
        return -1;
    if (!runs)
        return sbx_fail(err, SBX_E_NOT_FOUND, "the sandbox has no context %.24s", ref->id);
    begin(ctx_new(r, goal, ref, q));
    return 0;
}

int sbx_context_get(sbx_runs *r, const sbx_context_ref *ref, const sbx_request *q, sbx_err *err)
{
    return begin_with_one(r, READ, ref, q, err);
}

int sbx_context_remove(sbx_runs *r, const sbx_context_ref *ref, const sbx_request *q, sbx_err *err)
{
    return begin_with_one(r, REMOVE, ref, q, err);
}

int sbx_context_restart(sbx_runs *r, const sbx_context_ref *ref, const sbx_request *q, sbx_err *err)
{
    static const sbx_json_field none[] = {{.name = NULL}};
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    char nothing;

    if (q->body_len && (sbx_json_parse(q->body, q->body_len, &root, err) ||
                        sbx_json_decode(root, none, &nothing, err)))
        return -1;
    begin(ctx_new(r, RESTART, ref, q));
    return 0;
}
