/* The socket, and who comes through it. */
#include "bridges.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "address.h"
#include "tree.h"

#define BACKLOG     64
#define PATIENCE_MS 2000
#define BURST       16 /* connections taken at once .. */
#define PAUSE_MS    5  /* .. and the pause behind them */

void agent_bridges_init(agent_bridges *b, agent_loop *l, const unsigned char *token)
{
    struct sockaddr_un at;
    socklen_t len = agent_address(&at);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    *b = (agent_bridges){.loop = l, .token = token, .socket.fd = -1};
    if (fd < 0)
        return;
    if (bind(fd, (struct sockaddr *)&at, len) < 0 || listen(fd, BACKLOG) < 0)
        close(fd);
    else
        (void)agent_source_open(l, &b->socket, fd);
}

static void on_pause_over(void *arg)
{
    ((agent_bridges *)arg)->socket.ready |= EPOLLIN;
}

static void on_impatient(void *arg)
{
    ((agent_bridge *)arg)->expired = true;
}

/* All that runs in the sandbox descends from the agent; what the engine puts there by an exec has
 * no parent in it, and what is outside has no number. A kernel that tells our own number (gVisor)
 * knows nothing of the peer: then the token alone decides. */
static bool is_welcome(int fd)
{
    struct ucred who;
    socklen_t len = sizeof who;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0 || who.uid != 0)
        return false;
    return who.pid == 0 || who.pid == getpid() || agent_tree_parent(who.pid) == 0;
}

static void drop(agent_bridges *b, size_t i)
{
    agent_bridge *bridge = b->all[i];

    b->all[i] = b->all[--b->count];
    agent_timer_stop(b->loop, &bridge->patience);
    agent_peer_done(&bridge->peer);
    free(bridge);
}

static bool is_stranger(const agent_bridge *bridge)
{
    return bridge->peer.epoch == 0;
}

/* Makes a place for a stranger. */
static void make_place(agent_bridges *b)
{
    size_t strangers = 0, oldest = 0;

    for (size_t i = 0; i < b->count; i++) {
        if (!is_stranger(b->all[i]))
            continue;
        if (strangers++ == 0 || b->all[i]->serial < b->all[oldest]->serial)
            oldest = i;
    }
    if (strangers >= AGENT_MAX_STRANGERS)
        drop(b, oldest);
}

/* Takes the descriptor. */
static void welcome(agent_bridges *b, int fd)
{
    agent_bridge *bridge;
    int out;

    if (!is_welcome(fd)) {
        close(fd);
        return;
    }
    make_place(b);
    bridge = calloc(1, sizeof *bridge);
    out = bridge ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;
    if (out < 0) {
        free(bridge);
        close(fd);
        return;
    }
    bridge->serial = ++b->serial;
    if (agent_peer_init(&bridge->peer, b->loop, fd, out, b->token, false) < 0) {
        agent_peer_done(&bridge->peer);
        free(bridge);
        return;
    }
    agent_timer_set(b->loop, &bridge->patience, PATIENCE_MS, on_impatient, bridge);
    b->all[b->count++] = bridge;
}

void agent_bridges_accept(agent_bridges *b)
{
    for (int i = 0; i < BURST; i++) {
        int fd;

        if (b->socket.fd < 0 || b->pause.armed || !(b->socket.ready & AGENT_READABLE))
            return;
        fd = accept4(b->socket.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            welcome(b, fd);
        } else if (errno != EINTR && errno != ECONNABORTED) {
            b->socket.ready &= ~(uint32_t)AGENT_READABLE;
            if (errno != EAGAIN)
                break; /* out of descriptors: look again later */
            return;
        }
    }
    b->socket.ready &= ~(uint32_t)AGENT_READABLE;
    agent_timer_set(b->loop, &b->pause, PAUSE_MS, on_pause_over, b);
}

bool agent_bridges_may_greet(const agent_bridges *b, const agent_peer *p)
{
    size_t greeted = 0;

    for (size_t i = 0; i < b->count; i++)
        greeted += !is_stranger(b->all[i]) && &b->all[i]->peer != p;
    return greeted < SBX_MAX_BRIDGES;
}

void agent_bridges_sweep(agent_bridges *b)
{
    for (size_t i = 0; i < b->count;) {
        agent_bridge *bridge = b->all[i];

        if (bridge->peer.channel.lost || (bridge->expired && is_stranger(bridge)))
            drop(b, i);
        else
            i++;
    }
}
