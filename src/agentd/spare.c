/* Making pairs. */
#include "spare.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "child.h"
#include "notes.h"
#include "supervisor.h"

static const agent_pair no_pair = {
    .notes = -1, .go = -1, .launch = -1, .in = -1, .out = -1, .err = -1};
static const agent_child_fds no_fds = {-1, -1, -1, -1, -1, -1};

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void agent_pair_close(agent_pair *p)
{
    close_fd(&p->notes);
    close_fd(&p->go);
    close_fd(&p->launch);
    close_fd(&p->in);
    close_fd(&p->out);
    close_fd(&p->err);
}

static void child_fds_close(agent_child_fds *c)
{
    close_fd(&c->in);
    close_fd(&c->out);
    close_fd(&c->err);
    close_fd(&c->go);
    close_fd(&c->notes);
}

/* A pipe of which the agent's end does not block. */
static int make_pipe(int *ret_read, int *ret_write, bool agent_writes)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) < 0)
        return -1;
    (void)fcntl(ends[agent_writes], F_SETFL, O_NONBLOCK);
    *ret_read = ends[0];
    *ret_write = ends[1];
    return 0;
}

static int make_descriptors(agent_pair *p, agent_child_fds *c)
{
    if (make_pipe(&c->in, &p->in, true) < 0 || make_pipe(&p->out, &c->out, false) < 0 ||
        make_pipe(&p->err, &c->err, false) < 0 || make_pipe(&c->go, &p->go, true) < 0)
        return -1;
    p->launch = memfd_create("sbx-launch", MFD_CLOEXEC);
    c->launch = p->launch;
    return p->launch < 0 ? -1 : 0;
}

static int make_notes(agent_pair *p, agent_child_fds *c)
{
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return -1;
    p->notes = ends[0];
    c->notes = ends[1];
    return 0;
}

/* The child's ends are with the child, or nobody needs them. @return ok, or -1 with errno kept. */
static int finish(agent_pair *p, agent_child_fds *c, bool ok, agent_pair *ret)
{
    int saved = errno;

    child_fds_close(c);
    if (ok) {
        *ret = *p;
        return 0;
    }
    agent_pair_close(p);
    errno = saved;
    return -1;
}

static int fork_pair(const struct rlimit *nofile, agent_pair *ret)
{
    agent_pair p = no_pair;
    agent_child_fds c = no_fds;

    p.supervisor = make_descriptors(&p, &c) == 0 && make_notes(&p, &c) == 0 ? fork() : -1;
    if (p.supervisor == 0)
        agent_supervisor_run(&c, nofile);
    return finish(&p, &c, p.supervisor > 0, ret);
}

static bool send_next(int notes, const agent_child_fds *c)
{
    int fds[AGENT_NEXT_FDS] = {c->in, c->out, c->err, c->go, c->launch};
    _Alignas(struct cmsghdr) char rights[CMSG_SPACE(sizeof fds)] = {0};
    agent_order order = {.next = true};
    struct iovec data = {.iov_base = &order, .iov_len = sizeof order};
    struct msghdr m = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = rights, .msg_controllen = sizeof rights};
    struct cmsghdr *head = CMSG_FIRSTHDR(&m);

    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof fds);
    memcpy(CMSG_DATA(head), fds, sizeof fds);
    return sendmsg(notes, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof order;
}

/* An idle supervisor forks a child for the next command. */
static int employ(const agent_idle *i, agent_pair *ret)
{
    agent_pair p = no_pair;
    agent_child_fds c = no_fds;

    p.supervisor = i->supervisor;
    p.notes = i->notes;
    return finish(&p, &c, make_descriptors(&p, &c) == 0 && send_next(p.notes, &c), ret);
}

static int make_pair(agent_spare *s, agent_pair *ret)
{
    while (s->nidle > 0)
        if (employ(&s->idle[--s->nidle], ret) == 0)
            return 0;
    return fork_pair(&s->nofile, ret);
}

void agent_spare_init(agent_spare *s)
{
    struct rlimit own;

    memset(s, 0, sizeof *s);
    (void)getrlimit(RLIMIT_NOFILE, &s->nofile);
    own = s->nofile;
    own.rlim_cur = own.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &own);
    (void)agent_spare_refill(s);
}

bool agent_spare_refill(agent_spare *s)
{
    while (s->npairs < AGENT_SPARES && make_pair(s, &s->pairs[s->npairs]) == 0)
        s->npairs++;
    return s->npairs == AGENT_SPARES;
}

static void drop_pair(agent_spare *s, size_t i)
{
    s->npairs--;
    memmove(&s->pairs[i], &s->pairs[i + 1], (s->npairs - i) * sizeof s->pairs[0]);
}

int agent_spare_take(agent_spare *s, agent_pair *ret)
{
    if (s->npairs == 0)
        return make_pair(s, ret);
    *ret = s->pairs[0];
    drop_pair(s, 0);
    return 0;
}

bool agent_spare_has(const agent_spare *s, pid_t supervisor)
{
    for (size_t i = 0; i < s->npairs; i++)
        if (s->pairs[i].supervisor == supervisor)
            return true;
    for (size_t i = 0; i < s->nidle; i++)
        if (s->idle[i].supervisor == supervisor)
            return true;
    return false;
}

void agent_spare_return(agent_spare *s, pid_t supervisor, int notes)
{
    if (s->nidle < AGENT_MAX_IDLE)
        s->idle[s->nidle++] = (agent_idle){.supervisor = supervisor, .notes = notes};
    else
        close(notes);
}

void agent_spare_rest(agent_spare *s)
{
    while (s->nidle > 0)
        close(s->idle[--s->nidle].notes);
}

static bool idle_died(agent_spare *s, pid_t supervisor)
{
    for (size_t i = 0; i < s->nidle; i++) {
        if (s->idle[i].supervisor == supervisor) {
            close(s->idle[i].notes);
            s->idle[i] = s->idle[--s->nidle];
            return true;
        }
    }
    return false;
}

bool agent_spare_died(agent_spare *s, pid_t supervisor)
{
    if (idle_died(s, supervisor))
        return true;
    for (size_t i = 0; i < s->npairs; i++) {
        if (s->pairs[i].supervisor == supervisor) {
            agent_pair_close(&s->pairs[i]);
            drop_pair(s, i);
            return true;
        }
    }
    return false;
}

void agent_pair_go(agent_pair *p)
{
    char byte = 1;

    (void)!write(p->go, &byte, 1);
    close_fd(&p->go);
    close_fd(&p->launch);
}
