/* Opening and handling pseudo terminals. */
#include "terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#define DEFAULT_EOF 4 /* ^D */

void agent_terminal_resize(int master, unsigned cols, unsigned rows)
{
    struct winsize size = {.ws_col = (unsigned short)cols, .ws_row = (unsigned short)rows};

    (void)ioctl(master, TIOCSWINSZ, &size);
}

static int prepare(agent_terminal *t, uid_t owner)
{
    if (t->master < 0 || fcntl(t->master, F_SETFD, FD_CLOEXEC) < 0 ||
        fcntl(t->master, F_SETFL, O_RDWR | O_NONBLOCK) < 0 || grantpt(t->master) < 0 ||
        unlockpt(t->master) < 0 || ptsname_r(t->master, t->name, sizeof t->name) != 0)
        return -1;
    t->slave = open(t->name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (t->slave < 0)
        return -1;
    return fchown(t->slave, owner, (gid_t)-1);
}

int agent_terminal_open(agent_terminal *t, uid_t owner, unsigned cols, unsigned rows)
{
    *t = (agent_terminal){.slave = -1};
    t->master = posix_openpt(O_RDWR | O_NOCTTY);
    if (prepare(t, owner) < 0) {
        int saved = errno;

        agent_terminal_close(t);
        errno = saved;
        return -1;
    }
    agent_terminal_resize(t->master, cols, rows);
    return 0;
}

void agent_terminal_close(agent_terminal *t)
{
    if (t->master >= 0)
        close(t->master);
    if (t->slave >= 0)
        close(t->slave);
    t->master = t->slave = -1;
}

/* The character ends a line that was begun; only at the beginning of one it is the end of file. */
size_t agent_terminal_eof(int master, bool line_begun, unsigned char out[AGENT_EOF_BYTES])
{
    struct termios modes;
    bool by_lines = false;

    out[0] = DEFAULT_EOF;
    if (tcgetattr(master, &modes) == 0) {
        by_lines = (modes.c_lflag & ICANON) != 0;
        if (modes.c_cc[VEOF] != _POSIX_VDISABLE)
            out[0] = modes.c_cc[VEOF];
    }
    out[1] = out[0];
    return by_lines && line_begun ? 2 : 1;
}
