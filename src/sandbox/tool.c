/* One run of sbx-files: input in the window that the agent opens, of the output only the words
 * about a failure. A tool that is given up is told to end by SIGTERM, on which it takes away what
 * is half done, and is killed if it does not. */
#include "sbx/sandbox/tool.h"

#include "sbx/core/clock.h"
#include "sbx/core/limits.h"
#include "sbx/core/thread.h"
#include <signal.h>

#define STALL_MS    60000      /* without anything seen to happen: it is given up */
#define KILL_MS     500        /* from SIGTERM to SIGKILL */
#define PIECE_BYTES (32 * KIB) /* of input, in one frame: what the agent reads at once */
#define ERROR_BYTES 1024       /* its line about a failure */

/* --- failures --- */

static const struct {
    const char *code;
    sbx_code as;
} codes[] = {
    {"not_found", SBX_E_NOT_FOUND},   {"is_directory", SBX_E_INVALID},
    {"not_directory", SBX_E_INVALID}, {"exists", SBX_E_CONFLICT},
    {"not_empty", SBX_E_CONFLICT},    {"permission_denied", SBX_E_FORBIDDEN},
    {"no_space", SBX_E_CONFLICT},     {"too_large", SBX_E_TOO_LARGE},
    {"invalid", SBX_E_INVALID},       {"unsupported", SBX_E_INVALID},
    {"busy", SBX_E_CONFLICT},         {"io_error", SBX_E_ENGINE},
    {"range", SBX_E_RANGE},           {"changed", SBX_E_PRECONDITION},
};

bool sbx_tool_error(const char *line, size_t len, char **path, int64_t *size, sbx_err *ret)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    const char *code = NULL, *message = NULL;

    if (path)
        *path = NULL;
    if (size)
        *size = -1;
    sbx_err_set(ret, SBX_E_ENGINE, "the program for files in the sandbox gave no sensible answer");
    if (!len || sbx_json_parse(line, len, &root, NULL))
        return false;
    code = sbx_json_str(sbx_json_get(root, "code"));
    message = sbx_json_str(sbx_json_get(root, "message"));
    for (size_t i = 0; code && message && i < ARRAY_LEN(codes); i++) {
        if (strcmp(code, codes[i].code) != 0)
            continue;
        sbx_err_set(ret, codes[i].as, "%s: %s", code, message);
        if (path)
            *path = sbx_strdup(sbx_json_str(sbx_json_get(root, "path")));
        if (size && codes[i].as == SBX_E_RANGE)
            *size = sbx_json_int(sbx_json_get(root, "sizeBytes"), 0);
        return true;
    }
    return false;
}

bool sbx_tool_explain(const sbx_command_exit *e, sbx_err *ret)
{
    if (e->oom_killed)
        sbx_err_set(ret, SBX_E_ENGINE,
                    "the sandbox ran out of memory while its files were worked on; give it more "
                    "(limits.memoryMb)");
    else if (e->signal)
        sbx_err_set(ret, SBX_E_ENGINE,
                    "the program for files was ended in the sandbox by signal %d", e->signal);
    else if (e->exit_code == 127)
        sbx_err_set(ret, SBX_E_CONFLICT,
                    "the sandbox was made by an older version, without the program for files: "
                    "make a new one");
    else
        return false;
    return true;
}

/* --- the run --- */

struct sbx_tool {
    sbx_stream *stream;
    void (*over)(void *arg, const sbx_err *err);
    void *arg;
    sbx_command *command; /* while it runs */
    sbx_timer *timer;
    int64_t moved_ms; /* when something was last seen to happen */
    sbx_buf in, error;
    size_t in_at;
    bool in_ended, given_up, stalled;
};

static void on_timer(void *arg);

static void set_timer(sbx_tool *t, int64_t ms)
{
    sbx_timer_free(t->timer);
    t->timer = ms ? sbx_timer_new(t->stream, ms, on_timer, t) : NULL;
}

void sbx_tool_give_up(sbx_tool *t)
{
    SBX_ASSERT_THREAD(SBX_T_STREAM);
    if (t->given_up)
        return;
    t->given_up = true;
    sbx_buf_done(&t->in);
    if (!t->command)
        return; /* `started` comes back to it */
    sbx_command_signal(t->command, SIGTERM, true);
    set_timer(t, KILL_MS);
}

static void on_timer(void *arg)
{
    sbx_tool *t = arg;
    int64_t left = t->moved_ms + STALL_MS - sbx_now_ms();

    t->timer = NULL;
    if (t->given_up) {
        if (t->command)
            sbx_command_kill(t->command);
    } else if (left > 0) {
        set_timer(t, left);
    } else {
        t->stalled = true;
        sbx_tool_give_up(t);
    }
}

static void finish(sbx_tool *t, const sbx_err *err)
{
    void (*over)(void *arg, const sbx_err *e) = t->over;
    void *arg = t->arg;

    set_timer(t, 0);
    sbx_buf_done(&t->in);
    sbx_buf_done(&t->error);
    free(t);
    over(arg, err);
}

static void pump(sbx_tool *t)
{
    while (t->command && !t->in_ended && !t->given_up) {
        size_t room = sbx_command_stdin_room(t->command);
        size_t n = SBX_MIN(SBX_MIN(room, t->in.len - t->in_at), (size_t)PIECE_BYTES);

        if (t->in_at == t->in.len) {
            t->in_ended = true;
            sbx_command_stdin_end(t->command);
            return;
        }
        if (!n)
            return;
        sbx_command_stdin(t->command, t->in.data + t->in_at, n);
        t->in_at += n;
    }
}

static void tool_started(void *arg, sbx_command *c, int64_t pid)
{
    sbx_tool *t = arg;

    (void)pid;
    t->command = c;
    t->moved_ms = sbx_now_ms();
    if (t->given_up) {
        sbx_command_signal(c, SIGTERM, true);
        set_timer(t, KILL_MS);
        return;
    }
    pump(t);
}

static void tool_output(void *arg, sbx_command *c, bool is_stderr, const char *data, size_t len)
{
    sbx_tool *t = arg;

    t->moved_ms = sbx_now_ms();
    if (is_stderr)
        sbx_buf_add(&t->error, data,
                    SBX_MIN(len, ERROR_BYTES - SBX_MIN(ERROR_BYTES, t->error.len)));
    sbx_command_grant(c, (int64_t)len);
}

static void tool_taken(void *arg, sbx_command *c, uint64_t bytes, uint64_t dropped)
{
    sbx_tool *t = arg;

    (void)c, (void)bytes, (void)dropped;
    t->moved_ms = sbx_now_ms();
    pump(t);
}

static void tool_exit(void *arg, const sbx_command_exit *e)
{
    sbx_tool *t = arg;
    sbx_err err;

    if (t->stalled) {
        sbx_err_set(&err, SBX_E_TIMEOUT,
                    "nothing has happened in the sandbox for %d s; it was given up",
                    STALL_MS / 1000);
    } else if (t->given_up) {
        sbx_err_set(&err, SBX_E_CANCELLED, "it was given up");
    } else if (!e->exit_code && !e->signal) {
        finish(t, NULL);
        return;
    } else if (!sbx_tool_explain(e, &err)) {
        (void)sbx_tool_error(t->error.data, t->error.len, NULL, NULL, &err);
    }
    finish(t, &err);
}

static void tool_failed(void *arg, const sbx_err *why)
{
    sbx_err err = *why;

    if (err.code == SBX_E_CONFLICT) { /* no channel here at the moment */
        err.code = SBX_E_CAPACITY;
        err.retry_after_s = 1;
    }
    finish(arg, &err);
}

static const sbx_command_events tool_events = {
    .started = tool_started,
    .output = tool_output,
    .exit = tool_exit,
    .failed = tool_failed,
    .taken = tool_taken,
};

sbx_tool *sbx_tool_run(sbx_stream *stream, sbx_channels *channels, const char *sandbox,
                       const char *const *argv, sbx_buf *input,
                       void (*over)(void *arg, const sbx_err *err), void *arg)
{
    sbx_tool *t = sbx_alloc(sizeof(*t));
    sbx_command_spec spec = {.window = SBX_EXEC_WINDOW_BYTES,
                             .flags = SBX_EXEC_CHECK | SBX_EXEC_STDIN};
    size_t n = 0;

    SBX_ASSERT_THREAD(SBX_T_STREAM);
    t->stream = stream;
    t->over = over;
    t->arg = arg;
    t->in = *input;
    *input = (sbx_buf){.max = input->max};
    t->moved_ms = sbx_now_ms();
    sbx_buf_init(&t->error, ERROR_BYTES);
    set_timer(t, STALL_MS);
    while (argv[n])
        n++;
    sbx_copy(spec.exec_id, sizeof(spec.exec_id), sbx_id_new().s);
    spec.argv.items = sbx_alloc((n + 2) * sizeof(char *));
    spec.argv.items[spec.argv.count++] = sbx_strdup(SBX_FILES_PROGRAM);
    for (size_t i = 0; i < n; i++)
        spec.argv.items[spec.argv.count++] = sbx_strdup(argv[i]);
    sbx_channels_exec(channels, sandbox, &spec, &tool_events, t);
    return t;
}
