/* A terminal in a sandbox.
 *
 * The terminal here is raw while it lasts and always given back. Bytes typed are kept as they came
 * and become a frame when the one before is out, so that a connection that is lost takes none of
 * those with it that had to wait. A lost connection is made again by the id of the terminal; the
 * server then sends what was last on the screen. */
#include "cli/exec.h"

#include "cli/signals.h"
#include "cli/ws.h"
#include "sbx/core/clock.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#define MAX_TYPED    (64 * KIB)
#define OPEN_MS      30000
#define REOPEN_MS    5000
#define MAX_AWAY_MS  600000 /* as long as the server keeps a terminal that nobody looks at */
#define END_MS       1000
#define MIN_PAUSE_MS 200
#define MAX_PAUSE_MS 5000

typedef struct terminal {
    cli *c;
    const char *sandbox, *command;
    char exec[24];
    cli_ws ws;
    bool raw, stdin_over, resized;
    int64_t end_told_ms;
    struct termios before;
    int signal_fd;
    sbx_buf typed; /* not sent yet */
    bool line_begins, tilde;
    bool over; /* the exit status is known, or there is no way on */
    int status;
} terminal;

/* --- the terminal here --- */

static void make_raw(terminal *t)
{
    struct termios raw;

    if (!isatty(0) || tcgetattr(0, &t->before))
        return;
    raw = t->before;
    cfmakeraw(&raw);
    t->raw = tcsetattr(0, TCSADRAIN, &raw) == 0;
}

static void give_back(terminal *t)
{
    if (t->raw)
        tcsetattr(0, TCSADRAIN, &t->before);
    t->raw = false;
}

/* A line of our own between what the terminal shows. */
static void say(const terminal *t, const char *text)
{
    fprintf(stderr, "%ssbx: %s%s", t->raw ? "\r\n" : "", text, t->raw ? "\r\n" : "\n");
}

static void size_of(int *cols, int *rows)
{
    struct winsize size = {0};

    *cols = 80;
    *rows = 24;
    if ((ioctl(1, TIOCGWINSZ, &size) == 0 || ioctl(0, TIOCGWINSZ, &size) == 0) && size.ws_col) {
        *cols = SBX_MIN((int)size.ws_col, 1000);
        *rows = SBX_MIN(SBX_MAX((int)size.ws_row, 1), 1000);
    }
}

static void send_size(terminal *t)
{
    char text[80];
    int cols, rows;

    size_of(&cols, &rows);
    int n =
        snprintf(text, sizeof(text), "{\"type\":\"resize\",\"cols\":%d,\"rows\":%d}", cols, rows);
    cli_ws_send(&t->ws, SBX_WS_TEXT, text, (size_t)n);
    t->resized = false;
}

/* --- what is typed --- */

static void leave(terminal *t, int status)
{
    t->over = true;
    t->status = status;
    if (*t->exec) {
        char text[120];

        snprintf(text, sizeof(text), "left; to come back: sbx shell --attach %s %s", t->exec,
                 t->sandbox);
        say(t, text);
    }
}

/* ~. and ~~ at the beginning of a line, from a terminal only. */
static void take_typed(terminal *t, const char *data, size_t len)
{
    for (size_t i = 0; i < len && !t->over; i++) {
        char ch = data[i];

        if (t->tilde) {
            t->tilde = false;
            if (ch == '.') {
                leave(t, CLI_OK);
                return;
            }
            sbx_buf_addc(&t->typed, '~');
            if (ch == '~') {
                t->line_begins = false;
                continue;
            }
        } else if (t->raw && t->line_begins && ch == '~') {
            t->tilde = true;
            continue;
        }
        sbx_buf_addc(&t->typed, ch);
        t->line_begins = ch == '\r' || ch == '\n';
    }
}

static void read_stdin(terminal *t)
{
    char data[4 * KIB];
    ssize_t n = read(0, data, sizeof(data));

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n > 0) {
        take_typed(t, data, (size_t)n);
        return;
    }
    t->stdin_over = true;
    if (t->raw)
        leave(t, CLI_FAILED); /* the terminal is gone */
}

/* The end of a pipe is told as Ctrl-D, again and again: it ends one reader, not the next, and is
 * lost on one that changes the mode of the terminal in that moment. */
static void tell_end(terminal *t)
{
    int64_t now = sbx_now_ms();

    if (!t->stdin_over || t->typed.len || now < t->end_told_ms + END_MS)
        return;
    t->end_told_ms = now;
    sbx_buf_addc(&t->typed, 4);
}

static void on_signals(terminal *t)
{
    for (int sig; (sig = cli_signals_next(t->signal_fd));)
        if (sig == SIGWINCH)
            t->resized = true;
        else if (sig == SIGINT && !t->raw)
            sbx_buf_addc(&t->typed, 3);
        else
            leave(t, 128 + sig);
}

/* --- what comes --- */

static void take_control(terminal *t, const char *data, size_t len)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *m = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf text = SBX_BUF_INIT(8 * KIB);
    sbx_err err;

    if (sbx_json_parse(data, len, &m, &err))
        return;
    const char *type = cli_text_of(m, "type"), *message = cli_text_of(m, "message");

    if (strcmp(type, "started") == 0) {
        const char *exec = cli_text_of(m, "execId");

        if (strspn(exec, "abcdefghijklmnopqrstuvwxyz0123456789") == strlen(exec))
            sbx_copy(t->exec, sizeof(t->exec), exec);
    } else if (strcmp(type, "exit") == 0) {
        t->over = true;
        t->status = (int)sbx_json_int(sbx_json_get(m, "exitCode"), CLI_FAILED) & 0xff;
    } else if (strcmp(type, "error") == 0) {
        cli_escape(&text, message, strnlen(message, 2000));
        say(t, text.len ? text.data : "the server tells of an error");
    }
}

static bool take_message(void *arg, bool binary, const char *data, size_t len)
{
    terminal *t = arg;

    if (!binary)
        take_control(t, data, len);
    else if (!cli_write(1, data, len))
        leave(t, CLI_FAILED);
    return !t->over;
}

/* --- the connection --- */

static cli_ws_result open_socket(terminal *t, cli_call *k, int timeout_ms)
{
    int cols, rows;

    size_of(&cols, &rows);
    cli_call_init(k, "GET", "/sandboxes/%s/terminal?cols=%d&rows=%d", t->sandbox, cols, rows);
    if (*t->exec)
        cli_query(k, "execId", t->exec);
    else
        cli_query(k, "command", t->command);
    t->resized = false;
    return cli_ws_open(t->c, &t->ws, k, timeout_ms);
}

/* Until then, and as long as nobody wants to leave; what is typed is kept. */
static void pause_until(terminal *t, int64_t until_ms)
{
    while (!t->over && sbx_now_ms() < until_ms) {
        struct pollfd p[2] = {{.fd = t->signal_fd, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
        bool reads = !t->stdin_over && t->typed.len < MAX_TYPED / 2;

        poll(p, reads ? 2 : 1, (int)(until_ms - sbx_now_ms()));
        on_signals(t);
        if (reads && p[1].revents && !t->over)
            read_stdin(t);
    }
}

/* What a try came to. @return whether the terminal is there again. */
static bool joined(terminal *t, cli_ws_result result, const cli_call *k, int64_t since_ms)
{
    if (result == CLI_WS_OPEN) {
        if (t->raw && isatty(1)) /* the server sends the screen again */
            (void)cli_write(1, "\033[2J\033[H", 7);
        return true;
    }
    cli_ws_free(&t->ws);
    if ((result == CLI_WS_UNREACHED || k->status == 503 || k->status == 502) &&
        sbx_now_ms() - since_ms < MAX_AWAY_MS)
        return false;
    give_back(t);
    t->over = true;
    t->status = cli_complain(t->c, k);
    return false;
}

/* @return whether the terminal is there again; else it is over. */
static bool reconnect(terminal *t)
{
    int64_t since_ms = sbx_now_ms(), pause_ms = MIN_PAUSE_MS;

    cli_ws_free(&t->ws);
    if (!*t->exec) {
        say(t, "the connection was lost before the terminal was there");
        t->over = true;
        t->status = CLI_FAILED;
        return false;
    }
    say(t, "the connection is lost, reconnecting… (~. leaves)");
    for (;;) {
        cli_call k;

        cli_ws_result result = open_socket(t, &k, REOPEN_MS);
        bool again = joined(t, result, &k, since_ms);
        cli_call_done(&k);
        if (again || t->over)
            return again;
        pause_until(t, sbx_now_ms() + pause_ms);
        if (t->over)
            return false;
        pause_ms = SBX_MIN(pause_ms * 2, MAX_PAUSE_MS);
    }
}

/* --- the loop --- */

static void wait_for_anything(terminal *t)
{
    struct pollfd p[3] = {
        {.fd = t->signal_fd, .events = POLLIN},
        {.fd = t->ws.fd, .events = (short)(POLLIN | (t->ws.out.len ? POLLOUT : 0))},
        {.fd = 0, .events = POLLIN}};
    bool reads = !t->stdin_over && t->typed.len < MAX_TYPED / 2;

    poll(p, reads ? 3 : 2, 1000);
    on_signals(t);
    if (reads && p[2].revents && !t->over)
        read_stdin(t);
}

static void serve(terminal *t)
{
    while (!t->over) {
        bool lives = cli_ws_step(&t->ws, take_message, t);

        if (t->over)
            return;
        if (!lives && t->ws.close_code == 1000) {
            say(t, "the server ended the terminal");
            t->status = CLI_FAILED;
            return;
        }
        if (!lives && !reconnect(t))
            return;
        if (t->resized)
            send_size(t);
        tell_end(t);
        if (t->typed.len && !t->ws.out.len) {
            cli_ws_send(&t->ws, SBX_WS_BIN, t->typed.data, t->typed.len);
            sbx_buf_reset(&t->typed);
            continue;
        }
        wait_for_anything(t);
    }
}

static int first_open(terminal *t)
{
    for (int tries = 1;; tries++) {
        SBX_CLEANUP_VAL(cli_call_done) cli_call k;
        int64_t after_ms;
        cli_ws_result result = open_socket(t, &k, OPEN_MS);

        if (result == CLI_WS_OPEN)
            return CLI_OK;
        cli_ws_free(&t->ws);
        if (result == CLI_WS_REFUSED || !cli_worth_a_retry(&k, tries, &after_ms))
            return cli_complain(t->c, &k);
        cli_note(t->c, "%s; again", k.why);
        poll(NULL, 0, (int)after_ms);
    }
}

int cli_terminal(cli *c, const char *sandbox, const char *command, const char *attach)
{
    terminal t = {.c = c,
                  .sandbox = sandbox,
                  .command = command,
                  .typed = SBX_BUF_INIT(MAX_TYPED),
                  .line_begins = true};

    sbx_copy(t.exec, sizeof(t.exec), attach ? attach : "");
    t.status = first_open(&t);
    if (!t.status) {
        t.signal_fd = cli_signals_open(true);
        make_raw(&t);
        serve(&t);
        give_back(&t);
        cli_signals_close(t.signal_fd);
    }
    cli_ws_free(&t.ws);
    sbx_buf_done(&t.typed);
    return t.status;
}

int cli_shell(cli *c)
{
    const char *attach = cli_opt(c, "attach"), *command = cli_opt(c, "command");
    char id[24];

    if (attach && command)
        return cli_usage(c, "--attach and --command exclude each other");
    if (attach && !cli_exec_id(c, attach))
        return CLI_USAGE;
    if (!cli_connect(c) || !cli_resolve(c, c->args[0], id))
        return CLI_FAILED;
    return cli_terminal(c, id, command, attach);
}
