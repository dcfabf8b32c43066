/* The loop of the agent.
 *
 * One turn: signals, then the peers' frames, then every command does what it can, then the log and
 * the followers, then everything is written. Whoever could do more at once asks for another turn
 * without waiting. Commands are freed between turns only.
 */
#include "agent.h"

#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tell.h"
#include "tree.h"

#define READS_PER_TURN  4
#define STRANGER_READS  8 /* in all; a greeting takes one or two */
#define RETRY_SPARE_MS  200
#define SHORT_MS        3
#define IDLE_MS         250
#define ORPHAN_LIMIT_MS 2000
#define GOODBYE_MS      3000
#define LAST_CALL_MS    2000 /* for exits and the log to reach the owner */
#define SILENCE_STEP_S  60
#define STOPS_AT_ONCE   (2 * AGENT_MAX_COMMANDS)

static void collect(void *arg);

static void on_dead_man(void *arg);

static void wait_for_owner(agent *a)
{
    uint64_t left_s = a->lifetime_s - a->silent_s;

    agent_timer_set(&a->shared.loop, &a->dead_man,
                    (left_s < SILENCE_STEP_S ? left_s : SILENCE_STEP_S) * 1000, on_dead_man, a);
}

/* Counted in steps, since a frozen sandbox is not a silent owner: of all the time in the freezer
 * only one step counts. */
static void on_dead_man(void *arg)
{
    agent *a = arg;

    a->silent_s += SILENCE_STEP_S;
    if (a->silent_s >= a->lifetime_s)
        a->stop = true;
    else
        wait_for_owner(a);
}

/* The owner is there: the dead-man's switch begins anew. */
static void hear(agent *a)
{
    a->silent_s = 0;
    if (a->lifetime_s > 0 && a->lifetime_s < UINT32_MAX)
        wait_for_owner(a);
    else
        agent_timer_stop(&a->shared.loop, &a->dead_man);
}

/* --- leaving --- */

static void on_last_call(void *arg)
{
    ((agent *)arg)->stop = true;
}

/* Of a long log the end is worth more, and tells of what is missing by its numbers. */
static void on_hurry(void *arg)
{
    agent *a = arg;

    agent_journal_cut(a->shared.journal, SBX_LOG_UNACKED_BYTES);
    agent_timer_set(&a->shared.loop, &a->last_call, LAST_CALL_MS / 2, on_last_call, a);
}

static void on_grace_over(void *arg)
{
    agent *a = arg;

    for (size_t i = 0; i < a->commands.nlive; i++)
        agent_command_order(a->commands.live[i], (agent_order){.kill = true});
    agent_timer_set(&a->shared.loop, &a->last_call, LAST_CALL_MS / 2, on_hurry, a);
}

void agent_leave(agent *a, uint64_t grace_ms)
{
    a->leaving = true;
    if (grace_ms == 0) {
        on_grace_over(a);
        return;
    }
    for (size_t i = 0; i < a->commands.nlive; i++)
        agent_command_order(a->commands.live[i], (agent_order){.sig = SIGTERM, .tree = true});
    agent_timer_set(&a->shared.loop, &a->last_call, grace_ms, on_grace_over, a);
}

/* Does the owner have all that it will get? */
static bool all_told(const agent *a)
{
    const agent_channel *ch = &a->owner.channel;

    return a->commands.nlive == 0 && agent_list_empty(&a->shared.news) &&
           agent_peer_is_told(&a->owner) && agent_journal_settled(a->shared.journal) &&
           ch->start == ch->end;
}

/* --- out of memory --- */

/* If there is one command only, a kill that was not seen must have hit it. */
static const char *only_command(const agent *a, char name[SBX_LOG_ID_BYTES + 1])
{
    const agent_command *c = a->commands.nlive == 1 ? a->commands.live[0] : NULL;

    name[0] = '\0';
    if (c && agent_command_is_kept(c)) {
        memcpy(name, c->exec_id, c->exec_id_len);
        name[c->exec_id_len] = '\0';
    }
    return name;
}

static void look_for_oom(void *arg)
{
    agent *a = arg;
    agent_oom *o = &a->shared.oom;
    uint64_t again_ms = agent_oom_look(o);
    char line[AGENT_OOM_LINE], name[SBX_LOG_ID_BYTES + 1];

    if (again_ms == 0) {
        size_t len = agent_oom_tell(o, only_command(a, name), line);

        agent_journal_system(a->shared.journal, line, len);
        again_ms = AGENT_OOM_LOOK_MS;
    }
    if (a->commands.nlive > 0 || o->seen)
        agent_timer_set(&a->shared.loop, &a->look_oom, again_ms, look_for_oom, a);
}

/* Looks only while something runs, so an idle sandbox costs nothing. */
static void watch_oom(agent *a)
{
    if (a->shared.oom.fd < 0)
        return;
    if (a->shared.oom.due || (a->commands.nlive > 0 && !a->look_oom.armed))
        look_for_oom(a);
}

/* Forking costs about what a short command takes, so a command that was just begun goes first: its
 * successor is forked when it is no longer short, or when it has ended. Then its supervisor is
 * waited for, which is about to say that it is idle. */
static bool better_later(const agent *a)
{
    const agent_command *c = a->commands.nlive > 0 ? a->commands.live[a->commands.nlive - 1] : NULL;

    if (!c || c->gone)
        return false;
    return agent_now_ms() < SHORT_MS + (c->state < AGENT_OVER ? c->started_ms : c->ended_ms);
}

static void refill_spare(void *arg);

static void spare_failed(agent *a)
{
    a->spare_failed = true;
    agent_timer_set(&a->shared.loop, &a->retry_spare, RETRY_SPARE_MS, refill_spare, a);
}

static void refill_spare(void *arg)
{
    agent *a = arg;

    a->spare_failed = false;
    agent_timer_stop(&a->shared.loop, &a->retry_spare);
    if (!agent_spare_refill(&a->shared.spare))
        spare_failed(a);
}

static void let_rest(void *arg)
{
    agent_spare_rest(&((agent *)arg)->shared.spare);
}

static void keep_spare(agent *a)
{
    const agent_spare *s = &a->shared.spare;

    if (s->npairs > 0 && s->npairs < AGENT_SPARES && better_later(a)) {
        if (!a->retry_spare.armed)
            agent_timer_set(&a->shared.loop, &a->retry_spare, SHORT_MS, refill_spare, a);
    } else if (s->npairs < AGENT_SPARES && !a->spare_failed) {
        refill_spare(a);
    }
    if (s->nidle > 0 && !a->rest.armed)
        agent_timer_set(&a->shared.loop, &a->rest, IDLE_MS, let_rest, a);
}

/* A supervisor was killed from inside the sandbox, so its tree is ours now: end it. */
static void kill_orphans(agent *a)
{
    pid_t known[AGENT_MAX_COMMANDS + AGENT_SPARES + AGENT_MAX_IDLE];
    agent_tree_except except = {.pids = known, .count = 0};

    for (size_t i = 0; i < a->commands.nlive; i++)
        if (!a->commands.live[i]->reaped)
            known[except.count++] = a->commands.live[i]->supervisor;
    for (size_t i = 0; i < a->shared.spare.npairs; i++)
        known[except.count++] = a->shared.spare.pairs[i].supervisor;
    for (size_t i = 0; i < a->shared.spare.nidle; i++)
        known[except.count++] = a->shared.spare.idle[i].supervisor;
    agent_tree_kill(getpid(), &except, ORPHAN_LIMIT_MS, collect, a);
}

/* Finds whose supervisor has died. @return whether it was one. */
static bool supervisor_died(agent *a, pid_t pid, int status)
{
    agent_command *c = agent_registry_of(&a->commands, pid);

    if (agent_spare_died(&a->shared.spare, pid)) {
        if (WIFEXITED(status) && WEXITSTATUS(status) != 0)
            spare_failed(a); /* there was no room for its child */
        return true;
    }
    if (c)
        agent_command_orphaned(c);
    return c != NULL;
}

/* A supervisor was stopped from inside the sandbox: it has orders to follow. */
static void wake_supervisor(const agent *a, pid_t pid)
{
    if (!a->ending &&
        (agent_spare_has(&a->shared.spare, pid) || agent_registry_of(&a->commands, pid)))
        (void)kill(pid, SIGCONT);
}

/* Reaps. @return whether a supervisor was killed, and so left orphans. */
static bool reap(agent *a)
{
    bool orphans = false;
    int status, stops = 0;
    pid_t pid;

    /* who is stopped again and again holds up nothing: the next signal is there already */
    while (stops < STOPS_AT_ONCE && (pid = waitpid(-1, &status, WNOHANG | WUNTRACED)) > 0) {
        if (WIFSTOPPED(status)) {
            wake_supervisor(a, pid);
            stops++;
        } else if (supervisor_died(a, pid, status)) {
            orphans |= WIFSIGNALED(status);
        }
    }
    return orphans;
}

static void collect(void *arg)
{
    (void)reap(arg);
}

static void take_signals(agent *a)
{
    struct signalfd_siginfo info;
    bool child = false;

    if (!(a->signals.ready & AGENT_READABLE))
        return;
    while (read(a->signals.fd, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo == SIGTERM)
            a->stop = true;
        else
            child = true;
    }
    a->signals.ready = 0;
    if (child && reap(a) && !a->stop)
        kill_orphans(a);
}

/* A peer broke the protocol, or its descriptors broke. An owner may greet again; nobody wants news
 * meanwhile: the next one asks what there is. A bridge is swept away. */
static void lose(agent *a, agent_peer *p)
{
    agent_channel_lose(&p->channel);
    agent_peer_unbind(p);
    if (!p->owner)
        return;
    p->channel.lost = false;
    a->shared.wants_news = false;
}

static void take_frames(agent *a, agent_peer *p)
{
    agent_channel *ch = &p->channel;
    agent_input_event event;
    sbx_frame f;
    bool ok = true;

    while ((event = agent_channel_next(ch, &f)) != AGENT_IN_MORE) {
        if (event == AGENT_IN_HELLO)
            ok = agent_greet(a, p, &f);
        else if (event == AGENT_IN_BROKEN)
            ok = false;
        else if (ch->greeted && f.epoch == ch->epoch)
            ok = agent_obey(a, p, &f);
        if (!ok)
            lose(a, p);
        else if (p->owner && f.epoch == ch->epoch)
            hear(a);
    }
}

static bool take_input(agent *a, agent_peer *p)
{
    int reads = p->owner || p->epoch > 0 ? READS_PER_TURN : 1;
    bool more = true;

    for (int i = 0; i < reads && more; i++) {
        more = agent_channel_read(&p->channel);
        take_frames(a, p);
    }
    return more;
}

static bool take_bridges(agent *a)
{
    bool more = false;

    agent_bridges_accept(&a->bridges);
    for (size_t i = 0; i < a->bridges.count; i++) {
        agent_bridge *b = a->bridges.all[i];

        if (b->peer.channel.lost)
            continue;
        b->reads += b->peer.epoch == 0 && (b->peer.channel.in.ready & AGENT_READABLE);
        if (b->reads > STRANGER_READS)
            lose(a, &b->peer);
        else
            more |= take_input(a, &b->peer);
    }
    return more;
}

/* Sends a batch of log entries. */
static void send_log(agent *a)
{
    agent_channel *ch = &a->owner.channel;
    unsigned char *to;
    size_t len;

    if (!ch->greeted || !agent_journal_pending(a->shared.journal))
        return;
    if (!agent_channel_room(ch, SBX_PROTO_MAX_FROM_AGENT)) {
        a->owner.starved = true;
        return;
    }
    to = agent_channel_reserve(ch, SBX_PROTO_MAX_FROM_AGENT);
    len = to ? agent_journal_fill(a->shared.journal, to, SBX_PROTO_MAX_FROM_AGENT) : 0;
    if (len > 0)
        agent_channel_commit(ch, SBX_F_LOG, 0, len);
}

/* Tells the owner which commands have started, and which are over. */
static void send_news(agent *a)
{
    agent_link *news = &a->shared.news;

    while (!agent_list_empty(news) && agent_channel_room(&a->owner.channel, AGENT_ENTRY_BYTES)) {
        agent_command *c = AGENT_OF(news->next, agent_command, news);

        agent_list_remove(&c->news);
        agent_tell_entry(&a->owner, 0, c);
    }
}

/* Tells the owner what it did not ask for, and what it did. Log and output take turns in being
 * first, so that neither starves for want of room. */
static bool serve_owner(agent *a)
{
    agent_peer *p = &a->owner;
    bool more;

    a->log_first = !a->log_first;
    if (a->log_first)
        send_log(a);
    send_news(a);
    more = agent_peer_serve(p, &a->commands);
    if (!a->log_first)
        send_log(a);
    if (a->drain_req && !agent_journal_pending(a->shared.journal)) {
        agent_channel_send(&p->channel, SBX_F_PONG, a->drain_req, NULL, 0);
        a->drain_req = 0;
    }
    return more;
}

/* Writes, and looks what could be written in addition. @return whether to come again at once. */
static bool flush(agent *a, agent_peer *p)
{
    agent_channel *ch = &p->channel;
    bool waits;

    agent_channel_flush(ch);
    if (ch->lost)
        lose(a, p);
    waits = p->starved || !agent_list_empty(&p->ready) || !agent_list_empty(&p->listings) ||
            (p->owner && ch->greeted && !agent_list_empty(&a->shared.news));
    p->starved = false;
    return waits && agent_channel_room(ch, SBX_PROTO_MAX_FROM_AGENT);
}

static bool serve_bridges(agent *a)
{
    bool more = false;

    for (size_t i = 0; i < a->bridges.count; i++) {
        agent_peer *p = &a->bridges.all[i]->peer;

        more |= agent_peer_serve(p, &a->commands);
        more |= flush(a, p);
    }
    agent_bridges_sweep(&a->bridges);
    return more;
}

/* @return whether there is more to do at once. */
static bool turn(agent *a)
{
    bool more;

    a->shared.again = false;
    take_signals(a);
    more = take_input(a, &a->owner);
    more |= take_bridges(a);
    more |= agent_registry_step(&a->commands);
    watch_oom(a);
    more |= serve_owner(a);
    more |= flush(a, &a->owner);
    more |= serve_bridges(a);
    a->stop |= a->leaving && all_told(a);
    keep_spare(a);
    return more | a->shared.again;
}

static int watch_signals(agent *a)
{
    sigset_t set;
    int fd;

    (void)signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return -1;
    fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    return fd < 0 ? -1 : agent_source_open(&a->shared.loop, &a->signals, fd);
}

/* Ends all that runs. As PID 1 the kernel would do it at our exit; elsewhere it would not. */
static void end_all(agent *a)
{
    a->ending = true;
    agent_tree_kill(getpid(), NULL, GOODBYE_MS, collect, a);
}

int agent_run(int in_fd, int out_fd, const unsigned char token[SBX_PROTO_TOKEN_BYTES],
              char *const *image_env)
{
    static agent a;
    agent_shared *sh = &a.shared;
    bool more = true;

    a.image_env = image_env;
    a.started_ms = agent_wall_ms();
    if (agent_loop_init(&sh->loop) < 0 || watch_signals(&a) < 0)
        return -1;
    sh->journal = agent_journal_new();
    sh->keep = agent_keep_new();
    agent_list_init(&sh->news);
    agent_registry_init(&a.commands);
    if (!sh->journal || !sh->keep ||
        agent_peer_init(&a.owner, &sh->loop, in_fd, out_fd, token, true) < 0)
        return -1;
    agent_bridges_init(&a.bridges, &sh->loop, token);
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    agent_oom_init(&sh->oom);
    agent_spare_init(&sh->spare);
    while (!a.stop) {
        agent_loop_wait(&sh->loop, more);
        more = turn(&a);
    }
    end_all(&a);
    return 0;
}
