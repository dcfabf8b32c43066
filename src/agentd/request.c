/* The peers' frames, one function each. */
#include "agent.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "stats.h"
#include "stdin.h"
#include "tell.h"

#define MAX_SIGNAL    64
#define MAX_PING      64
#define MAX_GRACE_MS  3600000
#define MAX_SEQ       ((uint64_t)1 << 62)
#define WELCOME_BYTES (32 * 1024)

/* The numbers of a small record. */
typedef struct numbers {
    uint64_t epoch, log_from, lifetime_s, pids, window, flags, sig, seq, timeout_ms, count, cols,
        rows;
    sbx_field user, exec_id;
} numbers;

static uint64_t *number_of(numbers *n, uint16_t tag)
{
    switch (tag) {
    case SBX_T_EPOCH:
        return &n->epoch;
    case SBX_T_LOG_FROM:
        return &n->log_from;
    case SBX_T_LIFETIME_S:
        return &n->lifetime_s;
    case SBX_T_PIDS:
        return &n->pids;
    case SBX_T_WINDOW:
        return &n->window;
    case SBX_T_FLAGS:
        return &n->flags;
    case SBX_T_SIGNAL:
        return &n->sig;
    case SBX_T_SEQ:
        return &n->seq;
    case SBX_T_TIMEOUT_MS:
        return &n->timeout_ms;
    case SBX_T_COUNT:
        return &n->count;
    case SBX_T_COLS:
        return &n->cols;
    case SBX_T_ROWS:
        return &n->rows;
    default:
        return NULL;
    }
}

static bool read_numbers(const sbx_frame *f, numbers *ret)
{
    sbx_fields fields;
    sbx_field at;
    int more;

    memset(ret, 0, sizeof *ret);
    sbx_fields_init(&fields, f->payload, f->len);
    while ((more = sbx_fields_next(&fields, &at)) > 0) {
        uint64_t *to = number_of(ret, at.tag);

        if (to && at.len != 8)
            return false;
        if (to)
            *to = at.num;
        else if (at.tag == SBX_T_USER)
            ret->user = at;
        else if (at.tag == SBX_T_EXEC_ID)
            ret->exec_id = at;
    }
    return more == 0;
}

static void fail_spawn(agent_peer *p, uint32_t req, const char *what)
{
    char message[128];

    (void)snprintf(message, sizeof message, "cannot %s: %s", what, strerror(errno));
    agent_tell_fail(p, req, SBX_AF_SPAWN, message);
}

/* A number is free again once its EXIT was told; until then it is good for signals. */
static bool free_req(agent_peer *p, uint32_t req)
{
    agent_follower *f = agent_follower_find(p, req);

    if (req == 0 || (f && !f->exit_told))
        return false;
    if (f)
        agent_follower_free(f);
    return true;
}

static bool pick_user(agent *a, const agent_request *r, agent_user *ret)
{
    char spec[AGENT_SPEC_BYTES];

    if (r->user.len > 0)
        memcpy(spec, r->user.data, r->user.len);
    spec[r->user.len] = '\0';
    return agent_user_recall(&a->user, "", a->image_user, spec, ret) == 0;
}

/* Runs a command whose first follower `req` is going to be. Takes the terminal, if there is one. */
static agent_command *launch(agent *a, const sbx_frame *f, const agent_request *r,
                             const agent_user *u, agent_terminal *t)
{
    agent_pair p;

    if (agent_spare_take(&a->shared.spare, &p) < 0)
        return NULL;
    if (agent_launch_write(p.launch, f, r, u, a->image_env, t->name) < 0) {
        int saved = errno;

        agent_pair_close(&p);
        errno = saved;
        return NULL;
    }
    return agent_command_new(&a->shared, f, r, &p, t->master >= 0 ? t : NULL);
}

/* Binds the command's first follower. */
static void begin(agent *a, agent_peer *p, uint32_t req, const agent_request *r, agent_command *c)
{
    agent_follower *first = agent_follower_new(p, c, req, 0, (r->flags & SBX_EXEC_DETACHED) != 0);

    if (!first) {
        agent_command_free(c); /* which kills it, too */
        agent_tell_fail(p, req, SBX_AF_BUSY, "too many commands are followed");
        return;
    }
    agent_follower_grant(first, r->window);
    if ((r->flags & SBX_EXEC_PACED) && !first->detached)
        c->pacer = first;
    agent_registry_add(&a->commands, c);
    a->main_seen |= (r->flags & SBX_EXEC_MAIN) != 0;
}

static void start(agent *a, agent_peer *p, const sbx_frame *f, const agent_request *r,
                  const agent_user *u)
{
    agent_terminal t = {.master = -1, .slave = -1};
    agent_command *c;

    if ((r->flags & SBX_EXEC_PTY) &&
        agent_terminal_open(&t, u->uid, (unsigned)r->cols, (unsigned)r->rows) < 0) {
        fail_spawn(p, f->req, "open a terminal");
        return;
    }
    c = launch(a, f, r, u, &t);
    if (c) {
        begin(a, p, f->req, r, c);
    } else {
        fail_spawn(p, f->req, "start a process");
        agent_terminal_close(&t);
    }
}

static bool contexts_full(const agent *a)
{
    size_t n = 0;

    for (size_t i = 0; i < a->commands.nlive; i++)
        n += (a->commands.live[i]->flags & SBX_EXEC_CONTEXT) &&
             a->commands.live[i]->state != AGENT_OVER;
    return n >= SBX_MAX_CONTEXTS;
}

static bool on_exec(agent *a, agent_peer *p, const sbx_frame *f)
{
    agent_request r;
    const char *why;
    agent_user u;
    int ok = agent_request_parse(f, &r, &why);

    if (ok < 0)
        return false;
    if (ok == 0)
        agent_tell_fail(p, f->req, SBX_AF_BAD_REQUEST, why);
    else if (!free_req(p, f->req) ||
             agent_registry_find(&a->commands, r.exec_id.data, r.exec_id.len))
        agent_tell_fail(p, f->req, SBX_AF_BAD_REQUEST,
                        "a command with this req or EXEC_ID is there");
    else if ((r.flags & SBX_EXEC_MAIN) && !p->owner)
        return false;
    else if ((r.flags & SBX_EXEC_MAIN) && a->main_seen)
        agent_tell_fail(p, f->req, SBX_AF_BAD_REQUEST, "the main process was started already");
    else if (a->leaving)
        agent_tell_fail(p, f->req, SBX_AF_BUSY, "the sandbox is being stopped");
    else if (agent_registry_full(&a->commands))
        agent_tell_fail(p, f->req, SBX_AF_BUSY, "too many commands at once");
    else if ((r.flags & SBX_EXEC_CONTEXT) && contexts_full(a))
        agent_tell_fail(p, f->req, SBX_AF_CONTEXTS, "too many contexts");
    else if (!pick_user(a, &r, &u))
        agent_tell_fail(p, f->req, SBX_AF_BAD_USER, "no such user or group");
    else
        start(a, p, f, &r, &u);
    return true;
}

static bool on_attach(agent *a, agent_peer *p, const sbx_frame *f)
{
    numbers n;
    agent_command *c;
    agent_follower *to;

    if (!read_numbers(f, &n))
        return false;
    c = agent_registry_find(&a->commands, n.exec_id.data, n.exec_id.len);
    if (!c || c->state == AGENT_FAILED) {
        agent_tell_fail(p, f->req, SBX_AF_NOT_FOUND, "no such command");
    } else if (!free_req(p, f->req)) {
        agent_tell_fail(p, f->req, SBX_AF_BAD_REQUEST, "a command with this req is there");
    } else {
        to = agent_follower_new(p, c, f->req, n.seq, (n.flags & SBX_EXEC_DETACHED) != 0);
        if (to)
            agent_follower_grant(to, n.window);
        else
            agent_tell_fail(p, f->req, SBX_AF_BUSY, "too many commands are followed");
    }
    return true;
}

static bool on_list(agent *a, agent_peer *p, const sbx_frame *f)
{
    numbers n;
    agent_command *c;

    if (!read_numbers(f, &n))
        return false;
    if (n.exec_id.len == 0) {
        if (!agent_peer_list(p, f->req, n.count))
            agent_tell_fail(p, f->req, SBX_AF_BUSY, "too many lists are asked for at once");
        return true;
    }
    c = agent_registry_find(&a->commands, n.exec_id.data, n.exec_id.len);
    if (c && c->state != AGENT_STARTING && c->state != AGENT_FAILED)
        agent_tell_entry(p, f->req, c);
    agent_channel_send(&p->channel, SBX_F_LISTED, f->req, NULL, 0);
    return true;
}

static bool on_signal(agent_follower *to, const sbx_frame *f)
{
    numbers n;

    if (!read_numbers(f, &n))
        return false;
    if (to && n.sig >= 1 && n.sig <= MAX_SIGNAL)
        agent_command_order(
            to->command, (agent_order){.sig = (int)n.sig, .tree = (n.flags & SBX_SIG_TREE) != 0});
    return true;
}

static bool on_window(agent_follower *to, const sbx_frame *f)
{
    numbers n;

    if (!read_numbers(f, &n))
        return false;
    if (to)
        agent_follower_grant(to, n.window);
    return true;
}

static bool on_resize(agent_follower *to, const sbx_frame *f)
{
    numbers n;

    if (!read_numbers(f, &n))
        return false;
    if (to)
        agent_command_resize(to->command, n.cols, n.rows);
    return true;
}

static void on_detach(agent_follower *f)
{
    f->detached = true;
    agent_command_unpace(f->command, f);
    agent_follower_wake(f);
}

static bool on_log_ack(agent *a, const sbx_frame *f)
{
    numbers n;

    if (!read_numbers(f, &n))
        return false;
    agent_journal_ack(a->shared.journal, n.seq);
    if (n.log_from > 0 && n.log_from < agent_journal_next_seq(a->shared.journal))
        agent_journal_resume(a->shared.journal, n.log_from);
    return true;
}

static void on_syslog(agent *a, const sbx_frame *f)
{
    agent_journal_system(a->shared.journal, f->payload, f->len);
    if (f->req)
        a->drain_req = f->req;
}

static bool on_stop(agent *a, const sbx_frame *f)
{
    numbers n;

    if (!read_numbers(f, &n))
        return false;
    if (!a->leaving)
        agent_leave(a, n.timeout_ms < MAX_GRACE_MS ? n.timeout_ms : MAX_GRACE_MS);
    return true;
}

static bool on_ping(agent_peer *p, const sbx_frame *f)
{
    if (f->len > MAX_PING)
        return false;
    agent_channel_send(&p->channel, SBX_F_PONG, f->req, f->payload, f->len);
    return true;
}

/* The spare pair, the supervisors, and the other ends of bridges are the agent's own. */
static uint64_t own_processes(const agent *a)
{
    uint64_t own = 1 + 2 * a->shared.spare.npairs + a->shared.spare.nidle + a->bridges.count;

    for (size_t i = 0; i < a->commands.nlive; i++)
        own += !a->commands.live[i]->reaped;
    return own;
}

static void on_stats(agent *a, agent_peer *p, const sbx_frame *f)
{
    unsigned char out[AGENT_SAMPLE_BYTES];
    agent_stats_known known = {.started_ms = a->started_ms,
                               .own = own_processes(a),
                               .oom_kills = agent_oom_count(&a->shared.oom),
                               .knows_oom = a->shared.oom.fd >= 0};

    agent_channel_send(&p->channel, SBX_F_SAMPLE, f->req, out, agent_stats_write(out, &known));
}

/* Frames to a command, from one of its followers; nothing happens if the number means nothing. */
static bool obey_follower(agent_follower *to, const sbx_frame *f)
{
    switch (f->type) {
    case SBX_F_WINDOW:
        return on_window(to, f);
    case SBX_F_SIGNAL:
        return on_signal(to, f);
    case SBX_F_RESIZE:
        return on_resize(to, f);
    case SBX_F_STDIN:
        if (to)
            agent_stdin_add(&to->command->in, to, f->payload, f->len);
        return true;
    case SBX_F_KILL:
        if (to)
            agent_command_order(to->command, (agent_order){.kill = true});
        return true;
    case SBX_F_DETACH:
        if (to)
            on_detach(to);
        return true;
    case SBX_F_LEAVE:
        if (to)
            agent_follower_free(to);
        return true;
    default:
        return false;
    }
}

/* Frames that only the owner may send. */
static bool obey_owner(agent *a, const sbx_frame *f)
{
    switch (f->type) {
    case SBX_F_LOG_ACK:
        return on_log_ack(a, f);
    case SBX_F_SYSLOG:
        on_syslog(a, f);
        return true;
    default:
        return on_stop(a, f);
    }
}

bool agent_obey(agent *a, agent_peer *p, const sbx_frame *f)
{
    switch (f->type) {
    case SBX_F_EXEC:
        return on_exec(a, p, f);
    case SBX_F_ATTACH:
        return on_attach(a, p, f);
    case SBX_F_LIST:
        return on_list(a, p, f);
    case SBX_F_STATS:
        on_stats(a, p, f);
        return true;
    case SBX_F_PING:
        return on_ping(p, f);
    case SBX_F_LOG_ACK:
    case SBX_F_SYSLOG:
    case SBX_F_STOP:
        return p->owner && obey_owner(a, f);
    default:
        return obey_follower(agent_follower_find(p, f->req), f);
    }
}

static void send_welcome(agent *a, agent_peer *p)
{
    agent_channel *ch = &p->channel;
    agent_journal *j = a->shared.journal;
    unsigned char *to = agent_channel_reserve(ch, WELCOME_BYTES);
    size_t len = 0;

    if (!to)
        return;
    len += sbx_field_put_num(to + len, WELCOME_BYTES - len, SBX_T_VERSION, SBX_PROTO_VERSION);
    len += sbx_field_put_num(to + len, WELCOME_BYTES - len, SBX_T_EPOCH, p->epoch);
    len +=
        sbx_field_put_num(to + len, WELCOME_BYTES - len, SBX_T_NEXT_SEQ, agent_journal_next_seq(j));
    len += sbx_field_put_num(to + len, WELCOME_BYTES - len, SBX_T_OLDEST_SEQ,
                             agent_journal_oldest_seq(j));
    len += sbx_field_put_num(to + len, WELCOME_BYTES - len, SBX_T_MAIN, a->main_seen);
    for (size_t i = 0; i < a->commands.nlive; i++) {
        const agent_command *c = a->commands.live[i];

        if (!agent_command_is_kept(c) || c->state == AGENT_OVER)
            continue;
        len +=
            sbx_field_put(to + len, WELCOME_BYTES - len, SBX_T_EXEC_ID, c->exec_id, c->exec_id_len);
        if (c->flags & SBX_EXEC_MAIN)
            len += sbx_field_put_num(to + len, WELCOME_BYTES - len, SBX_T_FLAGS, SBX_EXEC_MAIN);
    }
    agent_channel_commit(ch, SBX_F_WELCOME, 0, len);
}

/* What the owner's greeting says of the sandbox. @return false if it is malformed. */
static bool take_ownership(agent *a, const numbers *n)
{
    if (n->log_from > MAX_SEQ || n->user.len >= sizeof a->image_user ||
        (n->user.len > 0 && memchr(n->user.data, '\0', n->user.len)))
        return false;
    a->drain_req = 0;
    a->lifetime_s = n->lifetime_s;
    if (n->user.len > 0)
        memcpy(a->image_user, n->user.data, n->user.len);
    a->image_user[n->user.len] = '\0';
    agent_user_provide("", a->image_user);
    agent_journal_resume(a->shared.journal, n->log_from);
    while (!agent_list_empty(&a->shared.news))
        agent_list_remove(a->shared.news.next);
    a->shared.wants_news = true;
    return true;
}

bool agent_greet(agent *a, agent_peer *p, const sbx_frame *f)
{
    numbers n;

    if (!read_numbers(f, &n) || n.epoch == 0)
        return false;
    if (n.epoch < p->epoch)
        return true;
    if (p->owner ? !take_ownership(a, &n) : !agent_bridges_may_greet(&a->bridges, p))
        return false;
    p->epoch = n.epoch;
    agent_peer_unbind(p);
    agent_channel_greet(&p->channel, n.epoch);
    send_welcome(a, p);
    return true;
}
