/* The command of one run in a context: `cell ID run FILE MS`; and of questions to its keeper:
 * `cell ID wait`, `cell ID restart`. */
#include "context.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sbx/core/agent_proto.h"

#define CONNECT_TRIES 500 /* the keeper has just been started: up to 5 s .. */
#define CONNECT_NS    (10 * 1000 * 1000)

static int keeper = -1;

static int connect_to(const char *id, int tries)
{
    struct timespec pause = {.tv_nsec = CONNECT_NS};
    struct sockaddr_un address;
    socklen_t len = agent_context_address(id, &address);
    int fd = len ? socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0) : -1;

    while (fd >= 0 && connect(fd, (const struct sockaddr *)&address, len) < 0) {
        if ((errno == ECONNREFUSED || errno == EINTR) && --tries > 0) {
            (void)nanosleep(&pause, NULL);
            continue;
        }
        close(fd);
        fd = -1;
    }
    return fd;
}

static bool ask_to(int fd, const agent_ask *ask, const int fds[AGENT_CELL_FDS])
{
    _Alignas(struct cmsghdr) char rights[CMSG_SPACE(AGENT_CELL_FDS * sizeof(int))] = {0};
    struct iovec data = {.iov_base = (void *)ask, .iov_len = sizeof *ask};
    struct msghdr m = {.msg_iov = &data, .msg_iovlen = 1};

    if (fds) {
        m.msg_control = rights;
        m.msg_controllen = sizeof rights;
        struct cmsghdr *head = CMSG_FIRSTHDR(&m);

        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(AGENT_CELL_FDS * sizeof(int));
        memcpy(CMSG_DATA(head), fds, AGENT_CELL_FDS * sizeof(int));
    }
    return sendmsg(fd, &m, MSG_NOSIGNAL) == (ssize_t)sizeof *ask;
}

/* The keeper's end is an answer, too. */
static agent_said hear(int fd)
{
    agent_said said = {0};
    ssize_t n;

    do
        n = recv(fd, &said, sizeof said, 0);
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)sizeof said ? said : (agent_said){0};
}

static _Noreturn void die_of(int sig)
{
    sigset_t all;

    (void)signal(sig, SIG_DFL);
    sigfillset(&all);
    (void)sigprocmask(SIG_UNBLOCK, &all, NULL);
    (void)raise(sig);
    _exit(128 + sig);
}

static void pass_interrupt(int sig)
{
    char interrupt = AGENT_ASK_INTERRUPT;

    (void)sig;
    (void)!send(keeper, &interrupt, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* For people, on the run's stderr. */
static void explain(int status)
{
    if (WIFSIGNALED(status))
        (void)dprintf(2, "the interpreter was killed: %s\n", strsignal(WTERMSIG(status)));
    else
        (void)dprintf(2, "the interpreter ended with exit code %d\n", WEXITSTATUS(status));
}

static int end_as(const agent_said *said)
{
    switch (said->kind) {
    case AGENT_SAID_DONE:
        return said->value & 255;
    case AGENT_SAID_BUSY:
        die_of(SBX_CELL_BUSY);
    case AGENT_SAID_TIMED_OUT:
        die_of(SBX_CELL_TIMED_OUT);
    case AGENT_SAID_TIMED_OUT_LOST:
        die_of(SBX_CELL_TIMED_OUT_LOST);
    case AGENT_SAID_LOST:
    case AGENT_SAID_UNUSABLE:
        explain(said->value);
        die_of(SBX_CELL_LOST);
    default:
        die_of(SBX_CELL_GONE);
    }
}

/* The code's file has served once it is open. */
static int run(const agent_cell_args *a)
{
    struct sigaction interrupt = {.sa_handler = pass_interrupt};
    int code = open(a->file, O_RDONLY | O_CLOEXEC);

    if (code < 0) {
        (void)dprintf(2, "%.200s: %s\n", a->file, strerror(errno));
        return 2;
    }
    (void)unlink(a->file);
    keeper = connect_to(a->id, 1);
    if (keeper < 0)
        die_of(SBX_CELL_GONE);
    (void)sigaction(SIGINT, &interrupt, NULL);
    if (!ask_to(keeper, &a->ask, (const int[AGENT_CELL_FDS]){0, 1, 2, code}))
        die_of(SBX_CELL_GONE);
    agent_said said = hear(keeper);
    return end_as(&said);
}

static int question(const agent_cell_args *a)
{
    keeper = connect_to(a->id, a->ask.kind == AGENT_ASK_WAIT ? CONNECT_TRIES : 1);
    if (keeper < 0 || !ask_to(keeper, &a->ask, NULL))
        return SBX_CELL_NO_CONTEXT;
    agent_said said = hear(keeper);
    if (said.kind == AGENT_SAID_READY)
        return 0;
    if (said.kind != AGENT_SAID_UNUSABLE)
        return SBX_CELL_NO_CONTEXT;
    if (WIFEXITED(said.value) && (WEXITSTATUS(said.value) == SBX_CELL_NO_PROGRAM ||
                                  WEXITSTATUS(said.value) == SBX_CELL_NO_TYPES))
        return WEXITSTATUS(said.value);
    return SBX_CELL_UNUSABLE;
}

bool agent_cell_read(int count, char *const *args, agent_cell_args *ret)
{
    agent_cell_args a = {0};
    char *end;

    if (count == 2 && strcmp(args[1], "wait") == 0) {
        a.ask.kind = AGENT_ASK_WAIT;
    } else if (count == 2 && strcmp(args[1], "restart") == 0) {
        a.ask.kind = AGENT_ASK_RESTART;
    } else if (count == 4 && strcmp(args[1], "run") == 0 && args[3][0] >= '1' &&
               args[3][0] <= '9') {
        a.ask.kind = AGENT_ASK_RUN;
        a.ask.timeout_ms = strtoll(args[3], &end, 10);
        if (*end || a.ask.timeout_ms > AGENT_CELL_MAX_MS)
            return false;
        a.file = args[2];
    } else {
        return false;
    }
    a.id = args[0];
    *ret = a;
    return true;
}

int agent_cell(int count, char **args)
{
    agent_cell_args a;

    if (!agent_cell_read(count, args, &a))
        return 2;
    return a.ask.kind == AGENT_ASK_RUN ? run(&a) : question(&a);
}
