/* The owner's frames, one function each. */
#include "agent.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MAX_SIGNAL    64
#define MAX_PING      64
#define MAX_GRACE_MS  3600000
#define MAX_SEQ       ((uint64_t)1 << 62)
#define WELCOME_BYTES (32 * 1024)

/* The numbers of a small record. */
typedef struct numbers {
    uint64_t epoch, log_from, lifetime_s, pids, window, flags, sig, seq, timeout_ms;
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

static agent_command *find_req(agent *a, uint32_t req)
{
    for (size_t i = 0; i < a->ncommands; i++)
        if (a->commands[i]->bound && a->commands[i]->req == req)
            return a->commands[i];
    return NULL;
}

static agent_command *find_id(agent *a, const sbx_field *id)
{
    for (size_t i = 0; i < a->ncommands; i++) {
        agent_command *c = a->commands[i];

        if (id->len > 0 && c->exec_id_len == id->len && memcmp(c->exec_id, id->data, id->len) == 0)
            return c;
    }
    return NULL;
}

static void fail(agent *a, uint32_t req, sbx_agent_fail code, const char *message)
{
    unsigned char data[512];
    size_t len = sbx_field_put_num(data, sizeof data, SBX_T_CODE, (uint64_t)code);

    len += sbx_field_put(data + len, sizeof data - len, SBX_T_MESSAGE, message,
                         (uint32_t)strlen(message));
    agent_channel_send(&a->shared.channel, SBX_F_FAIL, req, data, len);
}

static void fail_spawn(agent *a, uint32_t req)
{
    char message[128];

    (void)snprintf(message, sizeof message, "cannot start a process: %s", strerror(errno));
    fail(a, req, SBX_AF_SPAWN, message);
}

/* Makes room for a command by forgetting one that is over and that nobody has asked for. */
static bool make_place(agent *a)
{
    for (size_t i = 0; a->ncommands == AGENT_MAX_COMMANDS && i < a->ncommands; i++) {
        agent_command *c = a->commands[i];

        if (c->bound || !c->reaped || !agent_command_ended(c))
            continue;
        agent_command_free(c);
        a->commands[i] = a->commands[--a->ncommands];
    }
    return a->ncommands < AGENT_MAX_COMMANDS;
}

/* A finished command may keep its number for signals; a new one takes it away. */
static bool free_req(agent *a, uint32_t req)
{
    agent_command *c = find_req(a, req);

    if (c && !c->exit_told)
        return false;
    if (c)
        agent_command_unbind(c);
    return true;
}

static bool pick_user(agent *a, const agent_request *r, agent_user *ret)
{
    char spec[AGENT_SPEC_BYTES];

    if (r->user.len == 0)
        return agent_user_default("", a->image_user, ret) == 0;
    memcpy(spec, r->user.data, r->user.len);
    spec[r->user.len] = '\0';
    return agent_user_resolve("", spec, ret) == 0;
}

static void start(agent *a, const sbx_frame *f, const agent_request *r, const agent_user *u)
{
    agent_pair p;
    agent_command *c;

    if (agent_spare_take(&a->shared.spare, &p) < 0) {
        fail_spawn(a, f->req);
        return;
    }
    if (agent_launch_write(p.launch, f, r, u, a->image_env) < 0) {
        fail_spawn(a, f->req);
        agent_pair_close(&p);
        return;
    }
    c = agent_command_new(&a->shared, f->req, r, &p);
    if (!c)
        fail_spawn(a, f->req);
    else
        a->commands[a->ncommands++] = c;
    a->main_seen |= c && (r->flags & SBX_EXEC_MAIN);
}

static bool on_exec(agent *a, const sbx_frame *f)
{
    agent_request r;
    const char *why;
    agent_user u;
    int ok = agent_request_parse(f, &r, &why);

    if (ok < 0)
        return false;
    if (ok == 0)
        fail(a, f->req, SBX_AF_BAD_REQUEST, why);
    else if (f->req == 0 || !free_req(a, f->req) || find_id(a, &r.exec_id))
        fail(a, f->req, SBX_AF_BAD_REQUEST, "a command with this req or EXEC_ID is there");
    else if ((r.flags & SBX_EXEC_MAIN) && a->main_seen)
        fail(a, f->req, SBX_AF_BAD_REQUEST, "the main process was started already");
    else if (a->leaving)
        fail(a, f->req, SBX_AF_BUSY, "the sandbox is being stopped");
    else if (!make_place(a))
        fail(a, f->req, SBX_AF_BUSY, "too many commands at once");
    else if (!pick_user(a, &r, &u))
        fail(a, f->req, SBX_AF_BAD_USER, "no such user or group");
    else
        start(a, f, &r, &u);
    return true;
}

static bool on_attach(agent *a, const sbx_frame *f)
{
    numbers n;
    agent_command *c;

    if (!read_numbers(f, &n))
        return false;
    c = find_id(a, &n.exec_id);
    if (!c || c->exit_told || (c->bound && c->req != f->req))
        fail(a, f->req, SBX_AF_NOT_FOUND, "no such command");
    else if (f->req == 0 || (!c->bound && !free_req(a, f->req)))
        fail(a, f->req, SBX_AF_BAD_REQUEST, "a command with this req is there");
    else
        agent_command_bind(c, f->req, n.window);
    return true;
}

static bool on_window(agent *a, const sbx_frame *f)
{
    agent_command *c = find_req(a, f->req);
    numbers n;

    if (!read_numbers(f, &n))
        return false;
    if (c)
        agent_command_grant(c, n.window);
    return true;
}

static bool on_signal(agent *a, const sbx_frame *f)
{
    agent_command *c = find_req(a, f->req);
    numbers n;

    if (!read_numbers(f, &n))
        return false;
    if (c && n.sig >= 1 && n.sig <= MAX_SIGNAL)
        agent_command_order(
            c, (agent_order){.sig = (int)n.sig, .tree = (n.flags & SBX_SIG_TREE) != 0});
    return true;
}

static bool on_log_ack(agent *a, const sbx_frame *f)
{
    numbers n;

    if (!read_numbers(f, &n))
        return false;
    agent_journal_ack(a->shared.journal, n.seq);
    return true;
}

/* A system line longer than an entry is cut, not split: the owner writes them, and short. */
static void on_syslog(agent *a, const sbx_frame *f)
{
    sbx_log_entry e = {.ts_ms = agent_wall_ms(),
                       .stream = SBX_LOG_SYSTEM,
                       .source = SBX_SRC_SYSTEM,
                       .len = f->len < SBX_LOG_LINE_BYTES ? f->len : SBX_LOG_LINE_BYTES,
                       .data = (const char *)f->payload};

    agent_journal_add(a->shared.journal, &e);
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

static bool on_ping(agent *a, const sbx_frame *f)
{
    if (f->len > MAX_PING)
        return false;
    agent_channel_send(&a->shared.channel, SBX_F_PONG, f->req, f->payload, f->len);
    return true;
}

bool agent_obey(agent *a, const sbx_frame *f)
{
    agent_command *c = find_req(a, f->req);

    switch (f->type) {
    case SBX_F_EXEC:
        return on_exec(a, f);
    case SBX_F_STDIN:
        if (c)
            agent_command_stdin(c, f->payload, f->len);
        return true;
    case SBX_F_WINDOW:
        return on_window(a, f);
    case SBX_F_SIGNAL:
        return on_signal(a, f);
    case SBX_F_KILL:
        if (c)
            agent_command_order(c, (agent_order){.kill = true});
        return true;
    case SBX_F_DETACH:
        if (c)
            c->detached = true;
        return true;
    case SBX_F_LOG_ACK:
        return on_log_ack(a, f);
    case SBX_F_PING:
        return on_ping(a, f);
    case SBX_F_SYSLOG:
        on_syslog(a, f);
        return true;
    case SBX_F_ATTACH:
        return on_attach(a, f);
    case SBX_F_STOP:
        return on_stop(a, f);
    default:
        return false;
    }
}

static void send_welcome(agent *a)
{
    agent_channel *ch = &a->shared.channel;
    agent_journal *j = a->shared.journal;
    unsigned char *to = agent_channel_reserve(ch, WELCOME_BYTES);
    size_t len = 0;

    if (!to)
        return;
    len += sbx_field_put_num(to + len, WELCOME_BYTES - len, SBX_T_VERSION, SBX_PROTO_VERSION);
    len += sbx_field_put_num(to + len, WELCOME_BYTES - len, SBX_T_EPOCH, a->epoch);
    len +=
        sbx_field_put_num(to + len, WELCOME_BYTES - len, SBX_T_NEXT_SEQ, agent_journal_next_seq(j));
    len += sbx_field_put_num(to + len, WELCOME_BYTES - len, SBX_T_OLDEST_SEQ,
                             agent_journal_oldest_seq(j));
    len += sbx_field_put_num(to + len, WELCOME_BYTES - len, SBX_T_MAIN, a->main_seen);
    for (size_t i = 0; i < a->ncommands; i++) {
        const agent_command *c = a->commands[i];

        if (c->exec_id_len == 0 || c->exit_told)
            continue;
        len +=
            sbx_field_put(to + len, WELCOME_BYTES - len, SBX_T_EXEC_ID, c->exec_id, c->exec_id_len);
        if (c->main)
            len += sbx_field_put_num(to + len, WELCOME_BYTES - len, SBX_T_FLAGS, SBX_EXEC_MAIN);
    }
    agent_channel_commit(ch, SBX_F_WELCOME, 0, len);
}

bool agent_greet(agent *a, const sbx_frame *f)
{
    numbers n;

    if (!read_numbers(f, &n) || n.epoch == 0 || n.log_from > MAX_SEQ ||
        n.user.len >= sizeof a->image_user ||
        (n.user.len > 0 && memchr(n.user.data, '\0', n.user.len)))
        return false;
    if (n.epoch < a->epoch)
        return true;
    a->epoch = n.epoch;
    a->drain_req = 0;
    a->lifetime_s = n.lifetime_s;
    if (n.user.len > 0)
        memcpy(a->image_user, n.user.data, n.user.len);
    a->image_user[n.user.len] = '\0';
    agent_user_provide("", a->image_user);
    for (size_t i = 0; i < a->ncommands; i++)
        agent_command_unbind(a->commands[i]);
    agent_journal_resume(a->shared.journal, n.log_from);
    agent_channel_greet(&a->shared.channel, n.epoch);
    send_welcome(a);
    return true;
}
