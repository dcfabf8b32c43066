/* The life of a command, as far as the agent's loop sees it. */
#include "command.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "output.h"
#include "registry.h"
#include "stdin.h"

#define GRACE_MS       100
#define ANNOUNCE_MS    25
#define MAX_TIMEOUT_MS ((uint64_t)1 << 40)

static void send_kill(agent_command *c)
{
    agent_order order = {.kill = true};

    c->kill_due = c->notes.fd >= 0 &&
                  send(c->notes.fd, &order, sizeof order, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 &&
                  errno == EAGAIN;
    if (c->kill_due)
        agent_source_await_room(&c->notes);
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

/* Puts the master of a terminal in the place of the pipes. */
static void use_terminal(agent_command *c, agent_pair *p, agent_terminal *t)
{
    close(p->in);
    close(p->out);
    close(p->err);
    p->in = fcntl(t->master, F_DUPFD_CLOEXEC, 3);
    p->out = t->master;
    p->err = -1;
    c->slave = t->slave;
    c->in.terminal = true;
    t->master = t->slave = -1;
}

/* Opens a source, if there is a descriptor. The descriptor is not the pair's any more. */
static bool open_source(agent_command *c, agent_source *s, int *fd)
{
    int taken = *fd;

    *fd = -1;
    return taken < 0 || agent_source_open(&c->shared->loop, s, taken) == 0;
}

static bool open_sources(agent_command *c, agent_pair *p)
{
    bool ok = open_source(c, &c->notes, &p->notes);

    ok &= open_source(c, &c->out[0].source, &p->out);
    ok &= open_source(c, &c->out[1].source, &p->err);
    ok &= open_source(c, &c->in.source, &p->in);
    return ok;
}

static void close_slave(agent_command *c)
{
    if (c->slave >= 0)
        close(c->slave);
    c->slave = -1;
}

static void set_lines(agent_command *c)
{
    bool silent = (c->flags & (SBX_EXEC_CHECK | SBX_EXEC_PTY)) != 0;

    for (int i = 0; i < 2; i++) {
        c->out[i].lines =
            (agent_lines){.journal = silent ? NULL : c->shared->journal,
                          .exec_id = c->exec_id,
                          .exec_id_len = c->exec_id_len,
                          .stream = (uint8_t)(i == 0 ? SBX_LOG_STDOUT : SBX_LOG_STDERR),
                          .source = c->flags & SBX_EXEC_MAIN  ? SBX_SRC_MAIN
                                    : c->flags & SBX_EXEC_RUN ? SBX_SRC_RUN
                                                              : SBX_SRC_EXEC};
    }
}

/* Adds a field ARG, as much of it as is told of. @return whether it was all of it. */
static bool add_arg(agent_command *c, const sbx_field *arg)
{
    size_t left = SBX_ENTRY_ARG_BYTES - c->args_len;
    size_t head = sbx_field_put(c->args + c->args_len, left, SBX_T_ARG, "", 0);
    size_t len = arg->len;

    if (head == 0)
        return false;
    if (len > left - head) {
        len = left - head;
        len -= agent_utf8_tail((const unsigned char *)arg->data, len);
    }
    c->args_len += sbx_field_put(c->args + c->args_len, left, SBX_T_ARG, arg->data, (uint32_t)len);
    return len == arg->len;
}

static bool keep_args(agent_command *c, const sbx_frame *f)
{
    sbx_fields fields;
    sbx_field at;

    c->args = malloc(f->len < SBX_ENTRY_ARG_BYTES ? f->len : SBX_ENTRY_ARG_BYTES);
    if (!c->args)
        return false;
    sbx_fields_init(&fields, f->payload, f->len);
    while (sbx_fields_next(&fields, &at) > 0)
        if (at.tag == SBX_T_ARG && !add_arg(c, &at))
            break;
    return true;
}

static void init_links(agent_command *c)
{
    agent_list_init(&c->all);
    agent_list_init(&c->id);
    agent_list_init(&c->settled);
    agent_list_init(&c->news);
    agent_list_init(&c->followers);
}

static agent_command *make(agent_shared *shared, const sbx_frame *f, const agent_request *r,
                           const agent_pair *p)
{
    agent_command *c = calloc(1, sizeof *c);

    if (!c)
        return NULL;
    init_links(c);
    agent_kept_init(&c->kept);
    c->notes.fd = c->in.source.fd = c->out[0].source.fd = c->out[1].source.fd = -1;
    c->slave = -1;
    c->shared = shared;
    c->supervisor = p->supervisor;
    c->exec_id_len = (uint8_t)r->exec_id.len;
    if (r->exec_id.len > 0)
        memcpy(c->exec_id, r->exec_id.data, r->exec_id.len);
    c->flags = (uint32_t)r->flags;
    c->output_left = r->max_output ? r->max_output : UINT64_MAX;
    c->started_ms = agent_now_ms();
    c->started_wall_ms = agent_wall_ms();
    c->oom_at_start = agent_oom_count(&shared->oom);
    set_lines(c);
    if (agent_command_is_kept(c) && !keep_args(c, f)) {
        free(c);
        return NULL;
    }
    return c;
}

agent_command *agent_command_new(agent_shared *shared, const sbx_frame *f, const agent_request *r,
                                 agent_pair *p, agent_terminal *t)
{
    agent_command *c = make(shared, f, r, p);

    if (!c) {
        agent_pair_close(p);
        if (t)
            agent_terminal_close(t);
        errno = ENOMEM;
        return NULL;
    }
    if (t) {
        use_terminal(c, p, t);
    } else if (!(r->flags & SBX_EXEC_STDIN)) {
        close(p->in);
        p->in = -1;
    }
    if (!open_sources(c, p)) {
        int saved = errno;

        agent_pair_close(p);
        agent_command_free(c);
        errno = saved;
        return NULL;
    }
    if (r->cpu_ms > 0)
        (void)send(c->notes.fd, &(agent_order){.cpu_ms = r->cpu_ms}, sizeof(agent_order),
                   MSG_NOSIGNAL | MSG_DONTWAIT); /* the first one, so there is room */
    if (r->timeout_ms > 0 && r->timeout_ms < MAX_TIMEOUT_MS)
        agent_timer_set(&shared->loop, &c->timeout, r->timeout_ms, on_timeout, c);
    agent_pair_go(p);
    return c;
}

void agent_command_settle(agent_command *c)
{
    agent_timer_stop(&c->shared->loop, &c->timeout);
    agent_timer_stop(&c->shared->loop, &c->drain);
    agent_timer_stop(&c->shared->loop, &c->hangup);
    agent_timer_stop(&c->shared->loop, &c->announce);
    agent_source_close(&c->notes);
    agent_stdin_close(&c->in);
    close_slave(c);
    for (int i = 0; i < 2; i++) {
        agent_lines_end(&c->out[i].lines);
        agent_source_close(&c->out[i].source);
    }
    c->is_settled = true;
}

void agent_command_free(agent_command *c)
{
    if (!c)
        return;
    c->is_settled = true; /* followers that go find nothing to end */
    while (!agent_list_empty(&c->followers))
        agent_follower_free(AGENT_OF(c->followers.next, agent_follower, of_command));
    agent_command_settle(c);
    agent_keep_drop(c->shared->keep, &c->kept);
    agent_list_remove(&c->all);
    agent_list_remove(&c->id);
    agent_list_remove(&c->settled);
    agent_list_remove(&c->news);
    free(c->args);
    free(c);
}

void agent_command_wake(agent_command *c)
{
    for (agent_link *at = c->followers.next; at != &c->followers; at = at->next)
        agent_follower_wake(AGENT_OF(at, agent_follower, of_command));
}

/* The owner should know what has become of it. */
static void make_news(agent_command *c)
{
    if (!c->shared->wants_news || !agent_command_is_kept(c))
        return;
    agent_list_remove(&c->news);
    agent_list_add(&c->shared->news, &c->news);
}

/* The request did not become a command. */
static void fail(agent_command *c, int code, int error)
{
    c->end = (agent_note){.kind = AGENT_NOTE_FAILED, .code = code, .error = error};
    agent_timer_stop(&c->shared->loop, &c->timeout);
    agent_stdin_close(&c->in);
    close_slave(c);
    c->state = AGENT_FAILED;
    agent_command_wake(c);
}

static bool judge_oom(agent_command *c, bool killed)
{
    return agent_oom_judge(&c->shared->oom, c->oom_at_start, killed, c->exec_id, c->exec_id_len);
}

static void on_end(agent_command *c, const agent_note *note)
{
    bool by_kill;

    if (c->state == AGENT_STARTING && !c->ordered) {
        fail(c, SBX_AF_SPAWN, 0);
        return;
    }
    c->end = *note;
    c->pid = note->pid;
    close_slave(c);
    c->ended_ms = agent_now_ms();
    c->state = AGENT_ENDED;
    by_kill = WIFSIGNALED(note->status) && WTERMSIG(note->status) == SIGKILL;
    c->timed_out &= by_kill;
    c->cpu_over &= by_kill;
    if (c->cpu_over && c->end.cpu_ms < c->cpu_used_ms)
        c->end.cpu_ms = c->cpu_used_ms; /* not all of the tree has been reaped yet */
    c->oom = judge_oom(c, note->killed);
    agent_timer_stop(&c->shared->loop, &c->timeout);
    agent_stdin_close(&c->in);
    agent_timer_set(&c->shared->loop, &c->drain, GRACE_MS, on_grace_over, c);
    if (agent_command_is_check(c))
        end_tree(c);
}

/* The tree has gone: its last output is in the pipes, whether or not an event has told so. */
static void tree_gone(agent_command *c)
{
    c->gone = true;
    for (int i = 0; i < 2; i++)
        if (c->out[i].source.fd >= 0)
            c->out[i].source.ready |= EPOLLIN;
}

static void supervisor_gone(agent_command *c)
{
    agent_source_close(&c->notes);
    tree_gone(c);
}

/* Its supervisor is not this command's any more. */
static void dismiss(agent_command *c)
{
    int notes = agent_source_release(&c->notes);

    c->kill_due = false;
    c->reaped = true;
    tree_gone(c);
    agent_spare_return(&c->shared->spare, c->supervisor, notes);
}

static void announce(void *arg)
{
    agent_command *c = arg;

    agent_command_wake(c);
    make_news(c);
}

static void on_ready(agent_command *c, const agent_note *note)
{
    c->pid = note->pid;
    c->state = AGENT_RUNNING;
    close_slave(c);
    if (c->flags & SBX_EXEC_PATIENT)
        agent_timer_set(&c->shared->loop, &c->announce, ANNOUNCE_MS, announce, c);
    else
        announce(c);
}

static void on_note(agent_command *c, const agent_note *note)
{
    switch (note->kind) {
    case AGENT_NOTE_READY:
        on_ready(c, note);
        break;
    case AGENT_NOTE_FAILED:
        fail(c, note->code, note->error);
        break;
    case AGENT_NOTE_EXIT:
        if (c->state == AGENT_STARTING || c->state == AGENT_RUNNING)
            on_end(c, note);
        break;
    case AGENT_NOTE_CPU:
        c->cpu_over = true;
        c->cpu_used_ms = note->cpu_ms;
        break;
    case AGENT_NOTE_KILLED:
        (void)judge_oom(c, true);
        break;
    case AGENT_NOTE_EMPTY:
        dismiss(c);
        break;
    }
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

/* What a stranger still holds open of its pipes after the tree has gone is not waited for. */
static bool is_done(const agent_command *c)
{
    if (c->state < AGENT_OVER || !c->gone || !c->reaped)
        return false;
    for (int i = 0; i < 2; i++)
        if (c->out[i].source.fd >= 0 && (c->out[i].source.ready & AGENT_READABLE))
            return false;
    return true;
}

bool agent_command_step(agent_command *c)
{
    bool more = false;

    read_notes(c);
    if (c->kill_due)
        send_kill(c);
    agent_stdin_pump(&c->in);
    for (int i = 0; i < 2; i++)
        more |= agent_output_pump(c, i);
    if (c->state == AGENT_ENDED && agent_output_drained(c)) {
        agent_output_finish(c);
        agent_timer_stop(&c->shared->loop, &c->drain);
        agent_timer_stop(&c->shared->loop, &c->announce);
        c->state = AGENT_OVER;
        agent_command_wake(c);
        make_news(c);
        more = true;
    }
    c->done = is_done(c);
    return more;
}

void agent_command_unpace(agent_command *c, agent_follower *f)
{
    if (c->pacer != f)
        return;
    c->pacer = NULL;
    c->shared->again = true;
}

void agent_command_left_by(agent_command *c, agent_follower *f)
{
    agent_command_unpace(c, f);
    agent_stdin_forget(&c->in, f);
    if (agent_command_is_check(c) && !c->is_settled)
        end_tree(c); /* nobody can ask for it again: it has no name */
}

void agent_command_resize(agent_command *c, uint64_t cols, uint64_t rows)
{
    if (c->in.terminal && c->out[0].source.fd >= 0 && cols >= 1 && rows >= 1 &&
        cols <= AGENT_TERMINAL_MAX_SIDE && rows <= AGENT_TERMINAL_MAX_SIDE)
        agent_terminal_resize(c->out[0].source.fd, (unsigned)cols, (unsigned)rows);
}

bool agent_command_is_check(const agent_command *c)
{
    return (c->flags & SBX_EXEC_CHECK) != 0;
}

bool agent_command_is_kept(const agent_command *c)
{
    return !agent_command_is_check(c) && c->exec_id_len > 0 && c->state != AGENT_FAILED;
}
