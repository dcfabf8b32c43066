/* The keeper of a context: its socket, its interpreter, and whose turn it is.
 *
 * One thread and one poll loop. All who ask are in one small table; each has a time at which its
 * patience ends, so nobody who connects can hold up anybody else. */
#include "context.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sbx/core/agent_proto.h"

#define MAX_ASKERS 32
#define ASK_MS     2000 /* from the connection to the question */
#define CONTROL_FD 3    /* of the interpreter */
#define LINE_BYTES 64

typedef struct asker {
    int fd; /* -1: the place is free */
    uint32_t kind;
    int fds[AGENT_CELL_FDS];
    uint64_t serial;  /* in the order of the questions */
    int64_t until_ms; /* then its patience ends; 0: never */
} asker;

typedef enum child_state {
    NO_CHILD,
    STARTING,
    IDLE,
    RUNNING,
    ENDING, /* it was killed */
} child_state;

typedef struct context {
    const char *runtime;
    int listener, signals;
    asker askers[MAX_ASKERS];
    uint64_t serial;
    child_state state;
    pid_t child;
    int control; /* -1: no child */
    char line[LINE_BYTES];
    size_t line_len;
    uint32_t cell;    /* number of the last one */
    asker *current;   /* whose cell runs; NULL: nobody's, or he has gone */
    int64_t until_ms; /* start-up or grace of the interpreter; 0: none */
    bool was_ready;   /* the child */
    bool replaced;    /* it was killed for another one */
    bool timed_out;   /* the cell was interrupted as its time was over */
} context;

static int64_t now_ms(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

socklen_t agent_context_address(const char *id, struct sockaddr_un *ret)
{
    size_t len = strlen(id);

    if (len != AGENT_CONTEXT_ID_BYTES || strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789") != len)
        return 0;
    memset(ret, 0, sizeof *ret);
    ret->sun_family = AF_UNIX;
    int n = snprintf(ret->sun_path + 1, sizeof ret->sun_path - 1, "sbx-context-%s", id);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

bool agent_context_line(const char *line, bool *ret_ready, uint32_t *number, int *status)
{
    char *end;

    *ret_ready = strcmp(line, "ready") == 0;
    if (*ret_ready)
        return true;
    if (strncmp(line, "done ", 5) != 0 || line[5] < '0' || line[5] > '9')
        return false;
    unsigned long n = strtoul(line + 5, &end, 10);
    if (n > UINT32_MAX || *end != ' ' || end[1] < '0' || end[1] > '9')
        return false;
    unsigned long code = strtoul(end + 1, &end, 10);
    if (*end || code > 255)
        return false;
    *number = (uint32_t)n;
    *status = (int)code;
    return true;
}

agent_heard agent_context_packet(const void *data, size_t len, size_t fds, agent_ask *ret)
{
    agent_ask ask;

    if (len == 1 && *(const char *)data == AGENT_ASK_INTERRUPT)
        return AGENT_HEARD_INTERRUPT;
    if (len != sizeof ask)
        return AGENT_HEARD_NONSENSE;
    memcpy(&ask, data, sizeof ask);
    bool runs = ask.kind == AGENT_ASK_RUN && fds == AGENT_CELL_FDS && ask.timeout_ms > 0 &&
                ask.timeout_ms <= AGENT_CELL_MAX_MS;
    if (!runs && ask.kind != AGENT_ASK_WAIT && ask.kind != AGENT_ASK_RESTART)
        return AGENT_HEARD_NONSENSE;
    *ret = ask;
    return AGENT_HEARD_ASK;
}

/* --- who asks --- */

static void drop(context *x, asker *a)
{
    for (size_t i = 0; i < AGENT_CELL_FDS; i++) {
        if (a->fds[i] >= 0)
            close(a->fds[i]);
        a->fds[i] = -1;
    }
    close(a->fd);
    a->fd = -1;
    if (x->current == a)
        x->current = NULL;
}

/* Nobody waits for an answer that he does not take. */
static void say(context *x, asker *a, agent_said_kind kind, int value)
{
    agent_said said = {.kind = kind, .value = value};

    (void)!send(a->fd, &said, sizeof said, MSG_NOSIGNAL | MSG_DONTWAIT);
    drop(x, a);
}

static void say_all(context *x, bool runs, agent_said_kind kind, int value)
{
    for (asker *a = x->askers; a < x->askers + MAX_ASKERS; a++)
        if (a->fd >= 0 && a->kind && (a->kind != AGENT_ASK_RUN || runs))
            say(x, a, kind, value);
}

/* --- the interpreter --- */

static _Noreturn void become_interpreter(const context *x, int control)
{
    bool python = strcmp(x->runtime, "python") == 0;
    char fd[16], *text = (char *)(python ? agent_driver_python : agent_driver_node);
    char *const of_python[] = {"python3", "-u", "-c", text, fd, NULL};
    char *const of_node[] = {"node",
                             "--expose-internals",
                             "--disable-warning=ExperimentalWarning",
                             "-e",
                             text,
                             "--",
                             fd,
                             (char *)x->runtime,
                             NULL};
    sigset_t none;

    (void)setsid();
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)signal(SIGPIPE, SIG_DFL);
    (void)signal(SIGINT, SIG_DFL);
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)snprintf(fd, sizeof fd, "%d", CONTROL_FD);
    if (control == CONTROL_FD)
        (void)fcntl(control, F_SETFD, 0);
    else if (dup2(control, CONTROL_FD) < 0)
        _exit(126);
    (void)execvp(python ? "python3" : "node", python ? of_python : of_node);
    (void)dprintf(2, "%s: %s\n", python ? "python3" : "node", strerror(errno));
    _exit(127);
}

static void start_child(context *x)
{
    int ends[2];

    x->line_len = 0;
    x->was_ready = x->replaced = false;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0) {
        say_all(x, true, AGENT_SAID_UNUSABLE, 126 << 8);
        return;
    }
    (void)fcntl(ends[1], F_SETFL, 0);
    x->child = fork();
    if (x->child == 0)
        become_interpreter(x, ends[1]);
    close(ends[1]);
    if (x->child < 0) {
        close(ends[0]);
        say_all(x, true, AGENT_SAID_UNUSABLE, 126 << 8);
        return;
    }
    x->control = ends[0];
    x->state = STARTING;
    x->until_ms = now_ms() + SBX_CONTEXT_START_MS;
}

/* The group, as a terminal does: what a cell waits for is interrupted with it. */
static void signal_child(const context *x, int sig)
{
    if (kill(-x->child, sig) < 0)
        (void)kill(x->child, sig); /* it leads no group yet */
}

static void kill_child(context *x)
{
    signal_child(x, SIGKILL);
    x->state = ENDING;
    x->until_ms = 0;
}

static void child_ended(context *x, int status)
{
    bool unusable = !x->was_ready && !x->replaced;

    (void)kill(-x->child, SIGKILL); /* what it left in its group */
    close(x->control);
    x->control = -1;
    x->state = NO_CHILD;
    x->until_ms = 0;
    if (x->current)
        say(x, x->current, x->timed_out ? AGENT_SAID_TIMED_OUT_LOST : AGENT_SAID_LOST, status);
    if (unusable)
        say_all(x, true, AGENT_SAID_UNUSABLE, status);
}

static void reap(context *x)
{
    struct signalfd_siginfo info;
    int status;

    while (read(x->signals, &info, sizeof info) > 0)
        continue;
    if (x->state != NO_CHILD && waitpid(x->child, &status, WNOHANG) == x->child)
        child_ended(x, status);
}

static void interrupt(context *x)
{
    signal_child(x, SIGINT);
    if (!x->until_ms)
        x->until_ms = now_ms() + SBX_CONTEXT_GRACE_MS;
}

static void take_line(context *x, const char *line)
{
    uint32_t number;
    bool ready;
    int status;

    if (!agent_context_line(line, &ready, &number, &status))
        return;
    if (ready && x->state == STARTING) {
        x->state = IDLE;
        x->was_ready = true;
        x->until_ms = 0;
        say_all(x, false, AGENT_SAID_READY, 0);
    } else if (!ready && x->state == RUNNING && number == x->cell) {
        x->state = IDLE;
        x->until_ms = 0;
        if (x->current)
            say(x, x->current, x->timed_out ? AGENT_SAID_TIMED_OUT : AGENT_SAID_DONE, status);
    }
}

/* Its end is told by SIGCHLD. Lines that are too long are none. */
static void hear_child(context *x)
{
    char got[LINE_BYTES];
    ssize_t n = read(x->control, got, sizeof got);

    if (n == 0 && x->state != ENDING)
        kill_child(x); /* it closed what it should speak by */
    for (ssize_t i = 0; i < n; i++) {
        if (got[i] != '\n') {
            x->line[x->line_len] = got[i];
            x->line_len += x->line_len < sizeof x->line - 1;
            continue;
        }
        x->line[x->line_len] = '\0';
        x->line_len = 0;
        take_line(x, x->line);
    }
}

/* --- cells --- */

static asker *next_cell(context *x)
{
    asker *first = NULL;

    for (asker *a = x->askers; a < x->askers + MAX_ASKERS; a++)
        if (a->fd >= 0 && a->kind == AGENT_ASK_RUN && (!first || a->serial < first->serial))
            first = a;
    return first;
}

static void run_cell(context *x, asker *a)
{
    char line[LINE_BYTES * 2];
    int len = snprintf(line, sizeof line, "cell %u %d %d %d %d %d\n", ++x->cell, (int)getpid(),
                       a->fds[0], a->fds[1], a->fds[2], a->fds[3]);

    x->current = a;
    x->timed_out = false;
    x->state = RUNNING;
    if (send(x->control, line, (size_t)len, MSG_NOSIGNAL) != len)
        kill_child(x);
}

static void go_on(context *x)
{
    bool wanted = false;

    for (asker *a = x->askers; a < x->askers + MAX_ASKERS; a++)
        wanted |= a->fd >= 0 && a->kind != 0;
    if (x->state == NO_CHILD && wanted)
        start_child(x);
    asker *next = x->state == IDLE ? next_cell(x) : NULL;
    if (next)
        run_cell(x, next);
}

/* --- questions --- */

static void accept_one(context *x)
{
    agent_said busy = {.kind = AGENT_SAID_BUSY};
    int fd = accept4(x->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return;
    for (asker *a = x->askers; a < x->askers + MAX_ASKERS; a++) {
        if (a->fd >= 0)
            continue;
        *a = (asker){.fd = fd, .fds = {-1, -1, -1, -1}, .until_ms = now_ms() + ASK_MS};
        return;
    }
    (void)!send(fd, &busy, sizeof busy, MSG_NOSIGNAL);
    close(fd);
}

/* Takes what descriptors came with a packet, at most as many as belong there. */
static void take_rights(asker *a, struct msghdr *m)
{
    for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
        size_t count = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        int fds[AGENT_CELL_FDS];

        if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS || count > AGENT_CELL_FDS)
            continue;
        memcpy(fds, CMSG_DATA(h), count * sizeof(int));
        for (size_t i = 0; i < count; i++) {
            if (a->fds[i] >= 0)
                close(a->fds[i]);
            a->fds[i] = fds[i];
        }
    }
}

static size_t rights_of(const asker *a)
{
    size_t n = 0;

    while (n < AGENT_CELL_FDS && a->fds[n] >= 0)
        n++;
    return n;
}

static void take_question(context *x, asker *a, const agent_ask *ask)
{
    a->kind = ask->kind;
    a->serial = ++x->serial;
    a->until_ms = ask->kind == AGENT_ASK_RUN ? now_ms() + ask->timeout_ms : 0;
    if (ask->kind == AGENT_ASK_WAIT && (x->state == IDLE || x->state == RUNNING)) {
        say(x, a, AGENT_SAID_READY, 0);
    } else if (ask->kind == AGENT_ASK_RESTART && x->state != NO_CHILD) {
        x->replaced = true;
        kill_child(x);
    }
}

static void asker_left(context *x, asker *a)
{
    if (x->current == a && x->state == RUNNING)
        interrupt(x);
    drop(x, a);
}

static void hear_asker(context *x, asker *a)
{
    _Alignas(struct cmsghdr) char rights[CMSG_SPACE(AGENT_CELL_FDS * sizeof(int))];
    char packet[sizeof(agent_ask)];
    agent_ask ask;
    struct iovec data = {.iov_base = packet, .iov_len = sizeof packet};
    struct msghdr m = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = rights, .msg_controllen = sizeof rights};
    ssize_t n = recvmsg(a->fd, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT | MSG_TRUNC);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0)
        take_rights(a, &m);
    agent_heard heard =
        n > 0 ? agent_context_packet(packet, (size_t)n, rights_of(a), &ask) : AGENT_HEARD_NONSENSE;

    if (heard == AGENT_HEARD_ASK && !a->kind)
        take_question(x, a, &ask);
    else if (heard == AGENT_HEARD_INTERRUPT && x->current == a)
        signal_child(x, SIGINT);
    else
        asker_left(x, a);
}

/* --- time --- */

static void patience_over(context *x, asker *a)
{
    a->until_ms = 0;
    if (!a->kind) {
        drop(x, a);
    } else if (x->current != a) {
        say(x, a, AGENT_SAID_BUSY, 0);
    } else {
        x->timed_out = true;
        interrupt(x);
    }
}

static void tick(context *x)
{
    int64_t now = now_ms();

    for (asker *a = x->askers; a < x->askers + MAX_ASKERS; a++)
        if (a->fd >= 0 && a->until_ms && now >= a->until_ms)
            patience_over(x, a);
    if (x->until_ms && now >= x->until_ms && x->state != NO_CHILD)
        kill_child(x);
}

static int wait_ms(const context *x)
{
    int64_t first = x->until_ms, now = now_ms();

    for (const asker *a = x->askers; a < x->askers + MAX_ASKERS; a++)
        if (a->fd >= 0 && a->until_ms && (!first || a->until_ms < first))
            first = a->until_ms;
    if (!first)
        return -1;
    int64_t left = first - now;
    return left < 0 ? 0 : left > INT32_MAX ? INT32_MAX : (int)left;
}

/* --- the loop --- */

static bool turn(context *x)
{
    struct pollfd polled[MAX_ASKERS + 3] = {{.fd = x->listener, .events = POLLIN},
                                            {.fd = x->signals, .events = POLLIN},
                                            {.fd = x->control, .events = POLLIN}};

    for (size_t i = 0; i < MAX_ASKERS; i++)
        polled[3 + i] = (struct pollfd){.fd = x->askers[i].fd, .events = POLLIN};
    if (poll(polled, MAX_ASKERS + 3, wait_ms(x)) < 0 && errno != EINTR)
        return false;
    for (size_t i = 0; i < MAX_ASKERS; i++)
        if (x->askers[i].fd >= 0 && polled[3 + i].revents)
            hear_asker(x, &x->askers[i]);
    if (x->control >= 0 && polled[2].revents)
        hear_child(x);
    if (polled[1].revents)
        reap(x);
    if (polled[0].revents)
        accept_one(x);
    tick(x);
    go_on(x);
    return true;
}

static int listen_as(const char *id)
{
    struct sockaddr_un address;
    socklen_t len = agent_context_address(id, &address);
    int fd = len ? socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) : -1;

    if (fd >= 0 && bind(fd, (const struct sockaddr *)&address, len) == 0 &&
        listen(fd, MAX_ASKERS) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

int agent_context(const char *runtime, const char *id)
{
    context x = {.runtime = runtime, .control = -1, .listener = listen_as(id)};
    sigset_t ended;

    sigemptyset(&ended);
    sigaddset(&ended, SIGCHLD);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGINT, SIG_IGN);
    (void)sigprocmask(SIG_BLOCK, &ended, NULL);
    x.signals = signalfd(-1, &ended, SFD_CLOEXEC | SFD_NONBLOCK);
    if (x.listener < 0 || x.signals < 0) {
        (void)dprintf(2, "sbx-agent: the context cannot begin: %s\n", strerror(errno));
        return 1;
    }
    for (size_t i = 0; i < MAX_ASKERS; i++)
        x.askers[i].fd = -1;
    while (turn(&x))
        continue;
    return 1;
}
