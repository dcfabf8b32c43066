/* Reaping, reporting, and the tree kill. */
#include "supervisor.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "descriptors.h"
#include "loop.h"
#include "notes.h"
#include "sbx/core/agent_proto.h"
#include "tree.h"

#define KILL_LIMIT_MS 30000
/* Between looks at the CPU time; near the limit the shorter one. */
#define CPU_LOOK_MS     200
#define CPU_MIN_LOOK_MS 20

typedef struct supervisor {
    int notes;
    pid_t command;         /* 0 once it has been reaped */
    bool empty;            /* no child is left */
    bool killing;          /* from now on a SIGKILL is our own */
    bool killed;           /* a SIGKILL that was not ours has been seen */
    uint64_t cpu_limit_ms; /* of the whole tree; 0: none */
    uint64_t look_ms;      /* when to look at it again */
} supervisor;

static void tell(const supervisor *s, const agent_note *note)
{
    (void)!send(s->notes, note, sizeof *note, MSG_NOSIGNAL);
}

/* Of all that was reaped here, with what that had reaped. */
static uint64_t reaped_cpu_ms(struct rusage *ret)
{
    uint64_t us, sec;

    (void)getrusage(RUSAGE_CHILDREN, ret);
    us = (uint64_t)(ret->ru_utime.tv_usec + ret->ru_stime.tv_usec);
    sec = (uint64_t)(ret->ru_utime.tv_sec + ret->ru_stime.tv_sec);
    return sec * 1000 + us / 1000;
}

static void command_ended(supervisor *s, int status)
{
    struct rusage ru;
    uint64_t cpu_ms = reaped_cpu_ms(&ru);
    agent_note note = {.kind = AGENT_NOTE_EXIT,
                       .pid = s->command,
                       .status = status,
                       .killed = s->killed,
                       .cpu_ms = cpu_ms,
                       .peak_kb = (uint64_t)ru.ru_maxrss};

    s->command = 0;
    tell(s, &note);
}

static void reap(void *arg)
{
    supervisor *s = arg;
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        bool by_kill = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && !s->killing;

        s->killed |= by_kill;
        if (pid == s->command) {
            command_ended(s, status);
        } else if (by_kill && s->command == 0) {
            agent_note note = {.kind = AGENT_NOTE_KILLED};

            tell(s, &note);
        }
    }
    s->empty = pid < 0 && errno == ECHILD;
}

static void kill_tree(supervisor *s)
{
    s->killing = true;
    agent_tree_kill(getpid(), NULL, KILL_LIMIT_MS, reap, s);
    reap(s);
    s->killing = false;
}

/* Kills a tree that has used up its CPU time, of which children that were reaped are a part. What a
 * parent that ignores SIGCHLD lets go unreaped is in nobody's books once it has ended: who forks to
 * hide from this limit is still held by the sandbox's share of the CPU.
 * @return how long to wait until the next look, -1 for ever. */
static int look_at_cpu(supervisor *s)
{
    uint64_t now = agent_now_ms();
    agent_note note = {.kind = AGENT_NOTE_CPU, .pid = s->command};
    struct rusage ru;
    agent_tree_use use;
    uint64_t left;

    if (s->cpu_limit_ms == 0)
        return -1;
    if (now < s->look_ms)
        return (int)(s->look_ms - now);
    agent_tree_sum(getpid(), &use);
    use.cpu_ms += reaped_cpu_ms(&ru);
    if (use.cpu_ms >= s->cpu_limit_ms) {
        s->cpu_limit_ms = 0;
        note.cpu_ms = use.cpu_ms;
        tell(s, &note);
        kill_tree(s);
        return 0;
    }
    left = (s->cpu_limit_ms - use.cpu_ms) / 2;
    left = left < CPU_MIN_LOOK_MS ? CPU_MIN_LOOK_MS : left > CPU_LOOK_MS ? CPU_LOOK_MS : left;
    s->look_ms = now + left;
    return (int)left;
}

/* Carries out what the agent wants. @return whether the agent is still there. */
static bool obey(supervisor *s)
{
    agent_order order;
    ssize_t n = recv(s->notes, &order, sizeof order, MSG_DONTWAIT);

    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    if (n != sizeof order)
        return false;
    if (order.cpu_ms > 0)
        s->cpu_limit_ms = order.cpu_ms;
    else if (order.kill)
        kill_tree(s);
    else if (order.tree)
        agent_tree_signal(getpid(), order.sig);
    else if (s->command > 0)
        (void)kill(s->command, order.sig);
    return true;
}

static void on_child(int sig)
{
    (void)sig; /* only ends the wait */
}

static void catch_children(sigset_t *ret_waiting)
{
    struct sigaction sa = {.sa_handler = on_child};

    (void)sigaction(SIGCHLD, &sa, NULL);
    sigfillset(ret_waiting);
    sigdelset(ret_waiting, SIGCHLD);
}

static _Noreturn void supervise(supervisor *s)
{
    struct pollfd p = {.fd = s->notes, .events = POLLIN};
    sigset_t waiting;

    catch_children(&waiting);
    for (;;) {
        struct timespec wait;
        int ms;

        reap(s);
        if (s->empty)
            _exit(0);
        ms = look_at_cpu(s);
        wait = (struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
        if (ppoll(&p, 1, ms < 0 ? NULL : &wait, &waiting) > 0 && !obey(s)) {
            kill_tree(s);
            _exit(0);
        }
    }
}

_Noreturn void agent_supervisor_run(const agent_child_fds *fds, const struct rlimit *nofile)
{
    int keep[] = {fds->in, fds->out, fds->err, fds->go, fds->launch, fds->notes};
    supervisor s = {.notes = fds->notes};
    int last[] = {fds->notes};
    sigset_t all;

    sigfillset(&all);
    (void)sigprocmask(SIG_SETMASK, &all, NULL);
    agent_descriptors_keep(keep, sizeof keep / sizeof *keep);
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    (void)prctl(PR_SET_NAME, "sbx-supervisor", 0, 0, 0);
    s.command = fork();
    if (s.command == 0)
        agent_child_run(fds, nofile);
    if (s.command < 0) {
        agent_note note = {.kind = AGENT_NOTE_FAILED, .code = SBX_AF_SPAWN, .error = errno};

        tell(&s, &note);
        _exit(1);
    }
    agent_descriptors_keep(last, 1);
    supervise(&s);
}
