/* Two directions, each with a buffer of its own, so that neither waits for the other. */
#include "connect.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "address.h"

#define BUFFER_BYTES (64 * 1024)

typedef struct way {
    int from, to;
    size_t start, end;
    bool ended; /* nothing more comes */
    bool broken;
    unsigned char data[BUFFER_BYTES];
} way;

static way ways[2];

static void fill(way *w)
{
    ssize_t n = read(w->from, w->data + w->end, sizeof w->data - w->end);

    if (n > 0)
        w->end += (size_t)n;
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        w->ended = true;
}

static void drain(way *w)
{
    ssize_t n = write(w->to, w->data + w->start, w->end - w->start);

    if (n > 0)
        w->start += (size_t)n;
    else if (n < 0 && errno != EAGAIN && errno != EINTR)
        w->broken = true;
    if (w->start == w->end)
        w->start = w->end = 0;
}

/* What this way waits for now. */
static void ask(const way *w, struct pollfd *from, struct pollfd *to)
{
    bool room = !w->ended && w->end < sizeof w->data;

    *from = (struct pollfd){.fd = room ? w->from : -1, .events = POLLIN};
    *to = (struct pollfd){.fd = w->start < w->end ? w->to : -1, .events = POLLOUT};
}

static void carry(void)
{
    struct pollfd fds[4];

    for (;;) {
        for (int i = 0; i < 2; i++) {
            if (ways[i].broken || (ways[i].ended && ways[i].start == ways[i].end))
                return;
            ask(&ways[i], &fds[2 * i], &fds[2 * i + 1]);
        }
        if (poll(fds, 4, -1) < 0 && errno != EINTR)
            return;
        for (int i = 0; i < 2; i++) {
            if (fds[2 * i].revents)
                fill(&ways[i]);
            if (fds[2 * i + 1].revents || ways[i].start < ways[i].end)
                drain(&ways[i]);
        }
    }
}

static void set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags >= 0)
        (void)fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

int agent_connect(void)
{
    struct sockaddr_un at;
    socklen_t len = agent_address(&at);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)signal(SIGPIPE, SIG_IGN);
    if (fd < 0 || connect(fd, (struct sockaddr *)&at, len) < 0) {
        (void)dprintf(2, "sbx-agent: cannot reach the agent: %s\n", strerror(errno));
        return 1;
    }
    ways[0].from = 0;
    ways[0].to = ways[1].from = fd;
    ways[1].to = 1;
    for (int i = 0; i < 2; i++)
        set_nonblocking(i);
    set_nonblocking(fd);
    carry();
    return 0;
}
