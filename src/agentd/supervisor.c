/* Reaping, reporting, and the tree kill, for one command after the other. */
#include "supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
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

#define SUPERVISOR_NAME "sbx-supervisor" /* also of the process that is to become the command */
#define STOPS_AT_ONCE   64               /* who is stopped again and again holds up nothing */

typedef struct supervisor {
    int notes;
    int launch;            /* holds a description once the command is wanted */
    pid_t command;         /* 0 once it has been reaped */
    bool empty;            /* no child is left */
    bool killing;          /* from now on a SIGKILL is our own */
    bool killed;           /* a SIGKILL that was not ours has been seen */
    uint64_t cpu_limit_ms; /* of the whole tree; 0: none */
    uint64_t look_ms;      /* when to look at it again */
    uint64_t cpu_us;       /* of all that was reaped, with what that had reaped */
    uint64_t peak_kb;      /* the most of them */
} supervisor;

static void tell(const supervisor *s, const agent_note *note)
{
    (void)!send(s->notes, note, sizeof *note, MSG_NOSIGNAL);
}

static uint64_t us_of(struct timeval t)
{
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_usec;
}

/* Not RUSAGE_CHILDREN, which would hold the commands before as well. */
static void count(supervisor *s, const struct rusage *ru)
{
    uint64_t peak_kb = (uint64_t)ru->ru_maxrss;

    s->cpu_us += us_of(ru->ru_utime) + us_of(ru->ru_stime);
    s->peak_kb = peak_kb > s->peak_kb ? peak_kb : s->peak_kb;
}

static void command_ended(supervisor *s, int status)
{
    agent_note note = {.kind = AGENT_NOTE_EXIT,
                       .pid = s->command,
                       .status = status,
                       .killed = s->killed,
                       .cpu_ms = s->cpu_us / 1000,
                       .peak_kb = s->peak_kb};

    s->command = 0;
    tell(s, &note);
}

/* Does the process still wait for its command? */
static bool is_not_started(pid_t pid)
{
    char path[40], name[sizeof SUPERVISOR_NAME] = "";
    int fd;

    (void)snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    (void)!read(fd, name, sizeof name - 1);
    close(fd);
    return strcmp(name, SUPERVISOR_NAME) == 0;
}

/* What is stopped before it has become a command was not stopped by who wants to stop a command. */
static void reap(void *arg)
{
    supervisor *s = arg;
    struct rusage ru;
    int status, stops = 0;
    pid_t pid;

    while (stops < STOPS_AT_ONCE && (pid = wait4(-1, &status, WNOHANG | WUNTRACED, &ru)) > 0) {
        if (WIFSTOPPED(status)) {
            if (pid == s->command && !s->killing && is_not_started(pid))
                (void)kill(pid, SIGCONT);
            stops++;
            continue;
        }
        bool by_kill = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && !s->killing;

        count(s, &ru);
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
    agent_tree_use use;
    uint64_t left;

    if (s->cpu_limit_ms == 0)
        return -1;
    if (now < s->look_ms)
        return (int)(s->look_ms - now);
    agent_tree_sum(getpid(), &use);
    use.cpu_ms += s->cpu_us / 1000;
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

/* What the agent ignores no command is to inherit; what is caught an exec resets. */
static void catch_children(sigset_t *ret_waiting)
{
    struct sigaction sa = {.sa_handler = on_child};

    for (int sig = 1; sig < NSIG; sig++)
        (void)signal(sig, SIG_DFL);
    (void)sigaction(SIGCHLD, &sa, NULL);
    sigfillset(ret_waiting);
    sigdelset(ret_waiting, SIGCHLD);
}

/* Until the tree is empty. */
static void supervise(supervisor *s, const sigset_t *waiting)
{
    struct pollfd p = {.fd = s->notes, .events = POLLIN};

    for (;;) {
        struct timespec wait;
        int ms;

        reap(s);
        if (s->empty)
            return;
        ms = look_at_cpu(s);
        wait = (struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
        if (ppoll(&p, 1, ms < 0 ? NULL : &wait, waiting) > 0 && !obey(s)) {
            kill_tree(s);
            _exit(0);
        }
    }
}

/* Forks the process that becomes the command, and keeps of its descriptors only `launch`. */
static void fork_child(supervisor *s, const agent_child_fds *fds, const struct rlimit *nofile)
{
    s->command = fork();
    if (s->command == 0)
        agent_child_run(fds, nofile);
    if (s->command < 0) {
        agent_note note = {.kind = AGENT_NOTE_FAILED, .code = SBX_AF_SPAWN, .error = errno};

        tell(s, &note);
        _exit(1);
    }
    close(fds->in);
    close(fds->out);
    close(fds->err);
    close(fds->go);
}

static bool was_wanted(const supervisor *s)
{
    struct stat st;

    return fstat(s->launch, &st) == 0 && st.st_size > 0;
}

/* Takes the descriptors out of a message. @return whether they were all there. */
static bool unpack(struct msghdr *m, agent_child_fds *fds)
{
    struct cmsghdr *head = CMSG_FIRSTHDR(m);
    int got[AGENT_NEXT_FDS];

    if (!head || head->cmsg_type != SCM_RIGHTS || head->cmsg_len != CMSG_LEN(sizeof got))
        return false;
    memcpy(got, CMSG_DATA(head), sizeof got);
    fds->in = got[0];
    fds->out = got[1];
    fds->err = got[2];
    fds->go = got[3];
    fds->launch = got[4];
    return true;
}

/* Waits for another command. Orders that crossed the note EMPTY are for the one before. */
static void await_next(supervisor *s, agent_child_fds *fds)
{
    agent_note empty = {.kind = AGENT_NOTE_EMPTY};

    tell(s, &empty);
    for (;;) {
        _Alignas(struct cmsghdr) char rights[CMSG_SPACE(AGENT_NEXT_FDS * sizeof(int))];
        agent_order order;
        struct iovec data = {.iov_base = &order, .iov_len = sizeof order};
        struct msghdr m = {.msg_iov = &data,
                           .msg_iovlen = 1,
                           .msg_control = rights,
                           .msg_controllen = sizeof rights};
        ssize_t n = recvmsg(s->notes, &m, MSG_CMSG_CLOEXEC);

        if (n < 0 && errno == EINTR)
            continue;
        if (n != sizeof order)
            _exit(0); /* the agent is gone, or needs no more of us */
        if (order.next && unpack(&m, fds))
            return;
    }
}

_Noreturn void agent_supervisor_run(const agent_child_fds *first, const struct rlimit *nofile)
{
    agent_child_fds fds = *first;
    int keep[] = {fds.in, fds.out, fds.err, fds.go, fds.launch, fds.notes};
    sigset_t all, waiting;

    sigfillset(&all);
    (void)sigprocmask(SIG_SETMASK, &all, NULL);
    agent_descriptors_keep(keep, sizeof keep / sizeof *keep);
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    (void)prctl(PR_SET_NAME, SUPERVISOR_NAME, 0, 0, 0);
    catch_children(&waiting);
    for (;;) {
        supervisor s = {.notes = fds.notes, .launch = fds.launch};

        fork_child(&s, &fds, nofile);
        supervise(&s, &waiting);
        if (!was_wanted(&s))
            _exit(0); /* the child died while it waited: another pair takes our place */
        close(s.launch);
        await_next(&s, &fds);
    }
}
