/* exec: a command in a sandbox, as if it ran here.
 *
 * One loop over its parts: the stream of events (which is joined again when it is lost), standard
 * input (a request per piece, the next one when the last was taken), signals, and what is still to
 * be written. Output that is not taken here holds the stream, and with it the command. */
#include "cli/exec.h"

#include "cli/signals.h"
#include "sbx/core/clock.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define MAX_AHEAD    (256 * KIB) /* of output that is not written yet: the stream is held */
#define MAX_AWAY_MS  600000
#define MIN_PAUSE_MS 200
#define MAX_PAUSE_MS 5000
#define PIECE        4096 /* what a pipe that can be written takes without blocking */

typedef struct exec_run {
    cli *c;
    char sandbox[24], exec[24];
    cli_call stream;
    cli_sse sse;
    bool attached; /* began with a command that runs already */
    int64_t next_try_ms, pause_ms, alive_ms;
    int tries;    /* of the first request */
    bool waiting; /* for next_try_ms */

    sbx_buf out[2]; /* to be written to standard output and error */
    bool out_gone;

    bool stdin_open, stdin_busy, stdin_again, stdin_lost;
    cli_call stdin_call;

    int signal_fd, signals, last_signal;
    bool signal_busy, kill_asked, signals_refused;
    const char *signal_due; /* to be sent: a name; "" to kill */
    cli_call signal_call;

    bool over, left;
    int status;
} exec_run;

/* --- events --- */

static void take_output(exec_run *x, sbx_json_span event, bool is_error)
{
    if (cli_event_output(event, &x->out[is_error]))
        return;
    x->status = cli_fail(x->c, "the server sent output that is no base64");
    x->over = true;
}

static void take_end(exec_run *x, const char *text, size_t len, bool is_error)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *e = NULL;
    sbx_err err;

    x->over = true;
    if (sbx_json_parse(text, len, &e, &err)) {
        x->status = cli_fail(x->c, "the server's last event is malformed: %s", err.msg);
        return;
    }
    const char *message = sbx_json_str(sbx_json_get(e, "message"));
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf shown = SBX_BUF_INIT(8 * KIB);

    sbx_buf_adds(&shown, "");
    cli_escape(&shown, message ? message : "", message ? strnlen(message, 2000) : 0);
    if (is_error) {
        x->status = cli_fail(x->c, "the command was lost: %s", shown.data);
        return;
    }
    int64_t code = sbx_json_int(sbx_json_get(e, "exitCode"), -1);

    x->status = code < 0 ? cli_fail(x->c, "the server did not tell the exit status") : code & 0xff;
    if (shown.len)
        cli_warn(x->c, "%s", shown.data);
    else if (sbx_json_bool(sbx_json_get(e, "oomKilled"), false))
        cli_warn(x->c, "the sandbox ran out of memory");
    else if (sbx_json_bool(sbx_json_get(e, "timedOut"), false))
        cli_warn(x->c, "the time limit was reached, and the command was killed");
    if (sbx_json_bool(sbx_json_get(e, "truncated"), false))
        cli_warn(x->c, "output beyond the limit was dropped");
}

static bool take_event(void *arg, const cli_event *e)
{
    exec_run *x = arg;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf type = SBX_BUF_INIT(256);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf id = SBX_BUF_INIT(256);
    sbx_json_span event;
    sbx_err err;

    x->alive_ms = sbx_now_ms();
    x->pause_ms = MIN_PAUSE_MS;
    if (sbx_json_span_of(e->data, e->len, &event, &err)) {
        x->status = cli_fail(x->c, "the server sent a malformed event: %s", err.msg);
        x->over = true;
        return false;
    }
    sbx_buf_adds(&type, "");
    if (!cli_event_text(event, "type", &type))
        sbx_buf_adds(&type, e->type);
    if (x->c->json) {
        sbx_buf_add(&x->out[0], e->data, e->len);
        sbx_buf_addc(&x->out[0], '\n');
    }
    if (strcmp(type.data, "start") == 0 && cli_event_text(event, "execId", &id))
        sbx_copy(x->exec, sizeof(x->exec), id.data);
    else if (!x->c->json && strcmp(type.data, "stdout") == 0)
        take_output(x, event, false);
    else if (!x->c->json && strcmp(type.data, "stderr") == 0)
        take_output(x, event, true);
    else if (strcmp(type.data, "gap") == 0)
        cli_warn(x->c, "a part of the output is gone for good");
    else if (strcmp(type.data, "exit") == 0 || strcmp(type.data, "error") == 0)
        take_end(x, e->data, e->len, type.data[1] == 'r');
    return !x->over;
}

static bool take_data(void *arg, const char *data, size_t len)
{
    exec_run *x = arg;
    bool more = cli_sse_feed(&x->sse, data, len);

    if (x->out[0].len + x->out[1].len > MAX_AHEAD)
        x->stream.hold = true;
    return more;
}

/* --- the stream --- */

static void join(exec_run *x)
{
    cli_call_done(&x->stream);
    cli_call_init(&x->stream, "GET", "/sandboxes/%s/execs/%s/output", x->sandbox, x->exec);
    x->stream.accept = "text/event-stream";
    x->stream.impatient = true;
    x->stream.on_data = take_data;
    x->stream.arg = x;
    if (*x->sse.id)
        sbx_buf_addf(&x->stream.headers, "Last-Event-ID: %s", x->sse.id);
    cli_sse_restart(&x->sse);
    cli_start(x->c, &x->stream);
}

static void try_later(exec_run *x)
{
    x->waiting = true;
    x->next_try_ms = sbx_now_ms() + x->pause_ms;
    x->pause_ms = SBX_MIN(x->pause_ms * 2, MAX_PAUSE_MS);
}

/* The stream is done, and the command is not known to be over. */
static void stream_lost(exec_run *x)
{
    cli_call *k = &x->stream;
    bool answered = k->status >= 200 && k->status < 300;
    bool refused = k->result == CURLE_OK && !answered && k->status != 503;

    if (!*x->exec && answered) {
        x->status = cli_fail(x->c, "the connection was lost before the command's id was told; "
                                   "it may run, or have run: sbx exec --list");
        x->over = true;
    } else if (!*x->exec || refused || sbx_now_ms() - x->alive_ms > MAX_AWAY_MS) {
        if (*x->exec && !x->attached)
            cli_warn(x->c, "the command %s cannot be followed any more", x->exec);
        x->status = cli_complain(x->c, k);
        x->over = true;
    } else {
        if (!x->waiting && answered)
            cli_note(x->c, "the connection is lost, joining the command again");
        try_later(x);
    }
}

static void look_at_stream(exec_run *x)
{
    if (x->over)
        return;
    if (x->waiting) {
        if (sbx_now_ms() < x->next_try_ms)
            return;
        x->waiting = false;
        if (*x->exec) /* else the first request, which did not get out */
            join(x);
        else
            cli_start(x->c, &x->stream);
        return;
    }
    if (!x->stream.done)
        return;
    int64_t after_ms;

    if (!*x->exec && cli_worth_a_retry(&x->stream, ++x->tries, &after_ms)) {
        cli_note(x->c, "%s; again", x->stream.why);
        x->waiting = true;
        x->next_try_ms = sbx_now_ms() + after_ms;
        return;
    }
    stream_lost(x);
}

/* --- standard input --- */

static void send_stdin(exec_run *x, const char *data, size_t len)
{
    cli_call_done(&x->stdin_call);
    cli_call_init(&x->stdin_call, "POST", "/sandboxes/%s/execs/%s/stdin%s", x->sandbox, x->exec,
                  len ? "" : "?close=true");
    x->stdin_call.type = "application/octet-stream";
    sbx_buf_add(&x->stdin_call.body, data, len);
    x->stdin_busy = true;
    cli_start(x->c, &x->stdin_call);
}

static void read_stdin(exec_run *x)
{
    char data[CLI_CHUNK];
    ssize_t n = read(0, data, sizeof(data));

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0)
        x->stdin_open = false;
    send_stdin(x, data, n > 0 ? (size_t)n : 0);
}

static void look_at_stdin(exec_run *x)
{
    cli_call *k = &x->stdin_call;

    if (x->stdin_again && sbx_now_ms() >= x->next_try_ms) {
        x->stdin_again = false;
        cli_start(x->c, k);
        return;
    }
    if (!x->stdin_busy || x->stdin_again || !k->done)
        return;
    if (k->result == CURLE_COULDNT_CONNECT || k->status == 503) {
        x->stdin_again = true;
        if (!x->waiting)
            x->next_try_ms = sbx_now_ms() + MIN_PAUSE_MS * 2;
        return;
    }
    x->stdin_busy = false;
    if (cli_ok(k))
        return;
    x->stdin_open = false;
    if (k->status == 404 || k->status == 409 || k->status == 410)
        return; /* the command is over, or has closed it */
    x->stdin_lost = true;
    if (k->status)
        cli_complain(x->c, k);
    else
        cli_warn(x->c, "the connection was lost while standard input was sent: a part of it may "
                       "be missing");
    send_stdin(x, "", 0);
}

/* Is there anything to be sent to the command? */
static bool stdin_wanted(const cli *c)
{
    struct stat st;

    if (cli_flag(c, "no-stdin") || fstat(0, &st))
        return false;
    if (S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3))
        return false;
    return cli_flag(c, "interactive") || !isatty(0);
}

/* --- signals --- */

static void send_signal(exec_run *x)
{
    if (!x->signal_due || x->signal_busy || !*x->exec)
        return;
    bool kill = !*x->signal_due;

    cli_call_done(&x->signal_call);
    cli_call_init(&x->signal_call, kill ? "DELETE" : "POST", "/sandboxes/%s/execs/%s%s", x->sandbox,
                  x->exec, kill ? "" : "/signal");
    if (!kill) {
        sbx_jw w = cli_body(&x->signal_call);

        sbx_jw_obj(&w, NULL);
        sbx_jw_str(&w, "signal", x->signal_due);
        sbx_jw_obj_end(&w);
    }
    x->signal_due = NULL;
    x->signal_busy = true;
    cli_start(x->c, &x->signal_call);
}

static void look_at_signal(exec_run *x)
{
    if (!x->signal_busy || !x->signal_call.done)
        return;
    x->signal_busy = false;
    long status = x->signal_call.status;
    if (cli_ok(&x->signal_call) || status == 404 || status == 409 || status == 410)
        return;
    cli_warn(x->c, "the command could not be told; once more leaves it alone");
    x->signals_refused = true;
}

static void on_signal(exec_run *x, int sig)
{
    x->last_signal = sig;
    x->signals++;
    if (x->signals >= 3 || x->signals_refused || (x->signals == 2 && !*x->exec)) {
        x->left = true;
        return;
    }
    if (x->signals == 2)
        cli_warn(x->c, "killing the command; once more leaves it alone");
    x->signal_due = x->signals == 2 ? "" : sig == SIGTERM ? "TERM" : sig == SIGHUP ? "HUP" : "INT";
}

/* --- writing --- */

static void write_out(exec_run *x, int which)
{
    sbx_buf *b = &x->out[which];
    struct stat st;
    /* only a file takes any amount at once */
    size_t most = fstat(which + 1, &st) == 0 && S_ISREG(st.st_mode) ? b->len : PIECE;
    size_t at = 0;

    while (at < b->len) {
        struct pollfd p = {.fd = which + 1, .events = POLLOUT};

        if (poll(&p, 1, 0) != 1)
            break;
        ssize_t n = write(which + 1, b->data + at, SBX_MIN(b->len - at, most));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            x->out_gone = n < 0 && errno != EAGAIN;
            break;
        }
        at += (size_t)n;
    }
    sbx_buf_consume(b, at);
}

/* Nobody reads what it writes any more: as it would be killed here. */
static void output_gone(exec_run *x)
{
    sbx_buf_reset(&x->out[0]);
    sbx_buf_reset(&x->out[1]);
    if (x->kill_asked)
        return;
    x->kill_asked = true;
    x->signal_due = "";
}

static void flush(exec_run *x)
{
    for (int i = 0; i < 2; i++)
        if (x->out[i].len)
            write_out(x, i);
    if (x->out_gone)
        output_gone(x);
    if (x->out[0].len + x->out[1].len <= MAX_AHEAD / 2)
        cli_go_on(&x->stream);
}

/* --- the loop --- */

static bool busy(const exec_run *x)
{
    return !x->left && (!x->over || (!x->out_gone && (x->out[0].len || x->out[1].len)));
}

static int pause_of(const exec_run *x)
{
    int64_t ms = 1000;

    if (x->waiting || x->stdin_again)
        ms = SBX_MAX(x->next_try_ms - sbx_now_ms(), (int64_t)1);
    return (int)SBX_MIN(ms, (int64_t)1000);
}

static void wait_for_anything(exec_run *x)
{
    struct curl_waitfd fds[4];
    unsigned n = 0;
    bool reads = x->stdin_open && !x->stdin_busy && *x->exec;
    struct pollfd in = {.fd = 0, .events = POLLIN};

    fds[n++] = (struct curl_waitfd){.fd = x->signal_fd, .events = CURL_WAIT_POLLIN};
    if (reads)
        fds[n++] = (struct curl_waitfd){.fd = 0, .events = CURL_WAIT_POLLIN};
    for (int i = 0; i < 2; i++)
        if (x->out[i].len)
            fds[n++] = (struct curl_waitfd){.fd = i + 1, .events = CURL_WAIT_POLLOUT};
    cli_wait(x->c, fds, n, pause_of(x));
    for (int sig; (sig = cli_signals_next(x->signal_fd));)
        on_signal(x, sig);
    /* curl does not tell of an end without data */
    if (reads && poll(&in, 1, 0) == 1)
        read_stdin(x);
}

static void step(exec_run *x)
{
    cli_drive(x->c);
    flush(x);
    look_at_stream(x);
    look_at_stdin(x);
    look_at_signal(x);
    send_signal(x);
    if (busy(x))
        wait_for_anything(x);
}

static int run(exec_run *x)
{
    cli *c = x->c;

    x->signal_fd = cli_signals_open(false);
    x->alive_ms = sbx_now_ms();
    x->pause_ms = MIN_PAUSE_MS;
    cli_sse_init(&x->sse, take_event, x);
    for (int i = 0; i < 2; i++)
        x->out[i] = (sbx_buf)SBX_BUF_INIT(2 * CLI_MAX_EVENT);
    if (x->attached)
        join(x);
    else
        cli_start(c, &x->stream);
    while (busy(x))
        step(x);
    if (!x->stream.done)
        cli_cancel(c, &x->stream);
    if (x->stdin_busy && !x->stdin_call.done)
        cli_cancel(c, &x->stdin_call);
    if (x->signal_busy && !x->signal_call.done)
        cli_cancel(c, &x->signal_call);
    cli_sse_done(&x->sse);
    cli_signals_close(x->signal_fd);
    if (x->left) {
        cli_warn(c, "left; the command%s%s may still run", *x->exec ? " " : "", x->exec);
        return 128 + x->last_signal;
    }
    if (x->out_gone)
        return 128 + SIGPIPE;
    return x->stdin_lost && !x->status ? CLI_FAILED : x->status;
}

static void run_done(exec_run *x)
{
    cli_call_done(&x->stream);
    cli_call_done(&x->stdin_call);
    cli_call_done(&x->signal_call);
    sbx_buf_done(&x->out[0]);
    sbx_buf_done(&x->out[1]);
}

/* --- the command --- */

static int write_request(cli *c, sbx_jw *w, bool with_stdin)
{
    const char *timeout = cli_opt(c, "timeout");
    int status;
    int64_t ms;

    sbx_jw_obj(w, NULL);
    if ((status = cli_write_command(c, w, 1)) || (status = cli_write_env(c, w)))
        return status;
    if (cli_flag(c, "workdir"))
        sbx_jw_str(w, "cwd", cli_opt(c, "workdir"));
    if (cli_flag(c, "user"))
        sbx_jw_str(w, "user", cli_opt(c, "user"));
    if (timeout) {
        if (!cli_parse_duration(timeout, &ms) || !ms)
            return cli_usage(c, "--timeout %s: not a time such as 90s, 500ms or 10m", timeout);
        sbx_jw_int(w, "timeoutMs", ms);
    } else if (!cli_flag(c, "detach")) {
        sbx_jw_int(w, "timeoutMs", 0); /* who looks on ends it by hand */
    }
    if (with_stdin)
        sbx_jw_bool(w, "stdinOpen", true);
    if (cli_flag(c, "detach"))
        sbx_jw_bool(w, "background", true);
    sbx_jw_obj_end(w);
    return CLI_OK;
}

static int detach(cli *c, cli_call *k)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *made = NULL;

    if (!cli_request(c, k))
        return CLI_FAILED;
    if (c->json)
        return cli_print_answer(k);
    if (!(made = cli_answer_json(c, k)))
        return CLI_FAILED;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf line = SBX_BUF_INIT(KIB);
    cli_escape(&line, cli_text_of(made, "execId"), strnlen(cli_text_of(made, "execId"), 100));
    sbx_buf_addc(&line, '\n');
    return cli_write(1, line.data, line.len) ? CLI_OK : CLI_FAILED;
}

static int begin(cli *c, exec_run *x)
{
    bool with_stdin = !cli_flag(c, "detach") && stdin_wanted(c);

    cli_call_init(&x->stream, "POST", "/sandboxes/%s/exec", x->sandbox);
    sbx_jw w = cli_body(&x->stream);
    int status = write_request(c, &w, with_stdin);
    if (status)
        return status;
    if (cli_flag(c, "detach"))
        return detach(c, &x->stream);
    x->stdin_open = with_stdin;
    x->stream.accept = "text/event-stream";
    x->stream.impatient = true;
    x->stream.on_data = take_data;
    x->stream.arg = x;
    return run(x);
}

static int follow(cli *c, exec_run *x, const char *exec)
{
    if (!cli_exec_id(c, exec))
        return CLI_USAGE;
    x->attached = true;
    sbx_copy(x->exec, sizeof(x->exec), exec);
    return run(x);
}

int cli_exec(cli *c)
{
    const char *attach = cli_opt(c, "attach"), *kill = cli_opt(c, "kill");
    bool list = cli_flag(c, "list"), tty = cli_flag(c, "tty");
    int modes = (attach != NULL) + (kill != NULL) + list + cli_flag(c, "detach");
    exec_run x = {.c = c};

    if (modes > 1)
        return cli_usage(c, "--detach, --attach, --list and --kill exclude each other");
    if ((attach || kill || list) && c->arg_count > 1)
        return cli_usage(c, "with --attach, --list or --kill there is no COMMAND");
    if (!(attach || kill || list) && c->arg_count < 2)
        return cli_usage(c, "it needs a COMMAND; `sbx shell` opens a terminal");
    if (!cli_connect(c) || !cli_resolve(c, c->args[0], x.sandbox))
        return CLI_FAILED;
    if (list)
        return cli_exec_list(c, x.sandbox);
    if (kill)
        return cli_exec_kill(c, x.sandbox, kill);
    if (tty)
        return cli_exec_terminal(c, x.sandbox, attach);
    int status = attach ? follow(c, &x, attach) : begin(c, &x);
    run_done(&x);
    return status;
}
