/* The life of a command, as far as the agent's loop sees it. */
#include "command.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "output.h"
#include "stdin.h"

#define GRACE_MS       100
#define MAX_TIMEOUT_MS ((uint64_t)1 << 40)

/* The fields of a small frame. */
typedef struct record {
    unsigned char data[512];
    size_t len;
} record;

static void add_num(record *r, uint16_t tag, uint64_t value)
{
    r->len += sbx_field_put_num(r->data + r->len, sizeof r->data - r->len, tag, value);
}

static void add_text(record *r, uint16_t tag, const char *text)
{
    r->len +=
        sbx_field_put(r->data + r->len, sizeof r->data - r->len, tag, text, (uint32_t)strlen(text));
}

static bool can_tell(const agent_command *c)
{
    return c->bound && c->shared->channel.greeted && agent_channel_room(&c->shared->channel, 0);
}

static void tell(agent_command *c, uint8_t type, const record *r)
{
    agent_channel_send(&c->shared->channel, type, c->req, r->data, r->len);
}

static void tell_started(agent_command *c)
{
    record r = {.len = 0};

    if (c->started_told || c->state == AGENT_STARTING || !can_tell(c))
        return;
    add_num(&r, SBX_T_PID, (uint64_t)c->pid);
    tell(c, SBX_F_STARTED, &r);
    c->started_told = true;
}

static void tell_exit(agent_command *c)
{
    int status = c->end.status;
    uint64_t sig = WIFSIGNALED(status) ? (uint64_t)WTERMSIG(status) : 0;
    record r = {.len = 0};

    tell_started(c);
    add_num(&r, SBX_T_EXIT_CODE, sig ? 128 + sig : (uint64_t)WEXITSTATUS(status));
    add_num(&r, SBX_T_SIGNAL, sig);
    add_num(&r, SBX_T_FLAGS,
            (c->timed_out ? SBX_EXIT_TIMED_OUT : 0) | (c->oom ? SBX_EXIT_OOM : 0) |
                (c->truncated ? SBX_EXIT_TRUNCATED : 0));
    add_num(&r, SBX_T_DURATION_MS, c->ended_ms - c->started_ms);
    add_num(&r, SBX_T_CPU_MS, c->end.cpu_ms);
    add_num(&r, SBX_T_PEAK_KB, c->end.peak_kb);
    tell(c, SBX_F_EXIT, &r);
    c->exit_told = true;
}

static void tell_taken(agent_command *c)
{
    record r = {.len = 0};

    add_num(&r, SBX_T_WINDOW, c->in.taken);
    add_num(&r, SBX_T_DROPPED, c->in.dropped);
    tell(c, SBX_F_TAKEN, &r);
    c->in.taken = c->in.dropped = 0;
}

static void send_kill(agent_command *c)
{
    agent_order order = {.kill = true};

    c->kill_due = c->notes.fd >= 0 &&
                  send(c->notes.fd, &order, sizeof order, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 &&
                  errno == EAGAIN;
}

void agent_command_order(agent_command *c, agent_order order)
{
    c->ordered = true;
    if (order.kill)
        send_kill(c);
    else if (c->notes.fd >= 0)
        (void)send(c->notes.fd, &order, sizeof order, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void end_tree(agent_command *c)
{
    c->ordered = true;
    send_kill(c);
}

static void on_timeout(void *arg)
{
    agent_command *c = arg;

    c->timed_out = true;
    end_tree(c);
}

static void on_grace_over(void *arg)
{
    agent_output_begin_drain(arg);
}

static void open_sources(agent_command *c, const agent_pair *p, bool *ret_ok)
{
    agent_loop *l = &c->shared->loop;

    *ret_ok = agent_source_open(l, &c->notes, p->notes) == 0;
    *ret_ok &= agent_source_open(l, &c->out[0].source, p->out) == 0;
    *ret_ok &= agent_source_open(l, &c->out[1].source, p->err) == 0;
    if (p->in >= 0)
        *ret_ok &= agent_source_open(l, &c->in.source, p->in) == 0;
    else
        c->in.source.fd = -1;
    c->in.source.ready = c->in.source.fd >= 0 ? EPOLLOUT : 0; /* the pipe is empty */
}

static void set_lines(agent_command *c, uint64_t flags)
{
    for (int i = 0; i < 2; i++) {
        c->out[i].lines =
            (agent_lines){.journal = flags & SBX_EXEC_CHECK ? NULL : c->shared->journal,
                          .exec_id = c->exec_id,
                          .exec_id_len = c->exec_id_len,
                          .stream = (uint8_t)(i == 0 ? SBX_LOG_STDOUT : SBX_LOG_STDERR),
                          .source = (uint8_t)(flags & SBX_EXEC_MAIN ? SBX_SRC_MAIN : SBX_SRC_EXEC)};
    }
}

agent_command *agent_command_new(agent_shared *shared, uint32_t req, const agent_request *r,
                                 agent_pair *p)
{
    agent_command *c = calloc(1, sizeof *c);
    bool ok;

    if (!c) {
        agent_pair_close(p);
        errno = ENOMEM;
        return NULL;
    }
    c->shared = shared;
    c->req = req;
    c->bound = true;
    c->supervisor = p->supervisor;
    c->exec_id_len = (uint8_t)r->exec_id.len;
    if (r->exec_id.len > 0)
        memcpy(c->exec_id, r->exec_id.data, r->exec_id.len);
    c->detached = (r->flags & SBX_EXEC_DETACHED) != 0;
    c->check = (r->flags & SBX_EXEC_CHECK) != 0;
    c->main = (r->flags & SBX_EXEC_MAIN) != 0;
    c->window = r->window;
    c->output_left = r->max_output ? r->max_output : UINT64_MAX;
    c->started_ms = agent_now_ms();
    c->oom_at_start = agent_oom_count(&shared->oom);
    set_lines(c, r->flags);
    if (!(r->flags & SBX_EXEC_STDIN)) {
        close(p->in);
        p->in = -1;
    }
    open_sources(c, p, &ok);
    if (!ok) {
        int saved = errno;

        p->notes = p->out = p->err = p->in = -1;
        agent_pair_close(p);
        agent_command_free(c);
        errno = saved;
        return NULL;
    }
    if (r->timeout_ms > 0 && r->timeout_ms < MAX_TIMEOUT_MS)
        agent_timer_set(&shared->loop, &c->timeout, r->timeout_ms, on_timeout, c);
    agent_pair_go(p);
    return c;
}

void agent_command_free(agent_command *c)
{
    if (!c)
        return;
    agent_timer_stop(&c->shared->loop, &c->timeout);
    agent_timer_stop(&c->shared->loop, &c->drain);
    agent_source_close(&c->notes);
    agent_stdin_close(&c->in);
    for (int i = 0; i < 2; i++) {
        agent_lines_end(&c->out[i].lines);
        agent_source_close(&c->out[i].source);
    }
    free(c);
}

/* The request did not become a command. */
static void fail(agent_command *c, int code, const char *message)
{
    record r = {.len = 0};

    add_num(&r, SBX_T_CODE, (uint64_t)code);
    add_text(&r, SBX_T_MESSAGE, message);
    if (can_tell(c))
        tell(c, SBX_F_FAIL, &r);
    agent_timer_stop(&c->shared->loop, &c->timeout);
    agent_stdin_close(&c->in);
    c->started_told = c->exit_told = true;
    c->state = AGENT_LEFT;
}

static void on_failed(agent_command *c, const agent_note *note)
{
    char message[160];

    (void)snprintf(message, sizeof message, "%s: %s",
                   note->code == SBX_AF_BAD_CWD ? "cannot enter the working directory"
                                                : "cannot start the command",
                   strerror(note->error));
    fail(c, note->code, message);
}

static void on_end(agent_command *c, const agent_note *note)
{
    if (c->state == AGENT_STARTING && !c->ordered) {
        fail(c, SBX_AF_SPAWN, "the process was lost before it became the command");
        return;
    }
    c->end = *note;
    c->pid = note->pid;
    c->ended_ms = agent_now_ms();
    c->state = AGENT_ENDED;
    c->timed_out &= WIFSIGNALED(note->status) && WTERMSIG(note->status) == SIGKILL;
    c->oom = agent_oom_judge(&c->shared->oom, c->oom_at_start, note->killed);
    agent_timer_stop(&c->shared->loop, &c->timeout);
    agent_stdin_close(&c->in);
    agent_timer_set(&c->shared->loop, &c->drain, GRACE_MS, on_grace_over, c);
    if (c->check)
        end_tree(c);
}

static void on_note(agent_command *c, const agent_note *note)
{
    switch (note->kind) {
    case AGENT_NOTE_READY:
        c->pid = note->pid;
        c->state = AGENT_RUNNING;
        tell_started(c);
        break;
    case AGENT_NOTE_FAILED:
        on_failed(c, note);
        break;
    case AGENT_NOTE_EXIT:
        if (c->state == AGENT_STARTING || c->state == AGENT_RUNNING)
            on_end(c, note);
        break;
    case AGENT_NOTE_KILLED:
        (void)agent_oom_judge(&c->shared->oom, c->oom_at_start, true);
        break;
    }
}

/* The tree has gone: its last output is in the pipes, whether or not an event has told so. */
static void supervisor_gone(agent_command *c)
{
    c->gone = true;
    agent_source_close(&c->notes);
    for (int i = 0; i < 2; i++)
        if (c->out[i].source.fd >= 0)
            c->out[i].source.ready |= EPOLLIN;
}

static void read_notes(agent_command *c)
{
    while (c->notes.fd >= 0 && (c->notes.ready & AGENT_READABLE)) {
        agent_note note;
        ssize_t n = recv(c->notes.fd, &note, sizeof note, MSG_DONTWAIT);

        if (n == sizeof note) {
            on_note(c, &note);
        } else if (n < 0 && errno == EAGAIN) {
            c->notes.ready &= ~(uint32_t)AGENT_READABLE;
        } else if (n >= 0 || errno != EINTR) {
            supervisor_gone(c);
        }
    }
}

void agent_command_orphaned(agent_command *c)
{
    c->notes.ready |= EPOLLIN;
    read_notes(c);
    if (c->state == AGENT_STARTING || c->state == AGENT_RUNNING) {
        agent_note note = {.kind = AGENT_NOTE_EXIT, .pid = c->pid, .status = SIGKILL};

        on_end(c, &note);
    }
    c->reaped = true;
    supervisor_gone(c);
}

/* Is the command over, for the owner and for us? What a stranger still holds open of its pipes
 * after the tree has gone is not waited for. */
static bool is_done(const agent_command *c)
{
    if (!c->exit_told || !c->gone || !c->reaped)
        return false;
    for (int i = 0; i < 2; i++)
        if (c->out[i].source.fd >= 0 && (c->out[i].source.ready & AGENT_READABLE))
            return false;
    return true;
}

bool agent_command_step(agent_command *c, bool *now_starved)
{
    bool more = false;

    read_notes(c);
    if (c->kill_due)
        send_kill(c);
    tell_started(c);
    agent_stdin_pump(&c->in);
    if (agent_stdin_has_news(&c->in) && can_tell(c))
        tell_taken(c);
    for (int i = 0; i < 2; i++)
        more |= agent_output_pump(c, i, now_starved);
    if (c->state == AGENT_ENDED && agent_output_drained(c) && can_tell(c)) {
        tell_exit(c);
        agent_timer_stop(&c->shared->loop, &c->drain);
        c->state = AGENT_LEFT;
        more = true;
    }
    c->done = is_done(c);
    return more;
}

void agent_command_stdin(agent_command *c, const unsigned char *data, size_t len)
{
    agent_stdin_add(&c->in, data, len);
}

void agent_command_grant(agent_command *c, uint64_t window)
{
    c->window = window > UINT64_MAX - c->window ? UINT64_MAX : c->window + window;
}

void agent_command_unbind(agent_command *c)
{
    c->bound = false;
    c->window = 0;
    if (c->check) { /* nobody can ask for it again: it has no name */
        c->detached = true;
        end_tree(c);
    }
}

void agent_command_bind(agent_command *c, uint32_t req, uint64_t window)
{
    c->req = req;
    c->bound = true;
    c->window = window;
    c->started_told = false;
    tell_started(c);
}

bool agent_command_ended(const agent_command *c)
{
    return c->state == AGENT_ENDED || c->state == AGENT_LEFT;
}
