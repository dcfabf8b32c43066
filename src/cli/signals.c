/* Signals as something to poll for: see signals.h. */
#include "cli/signals.h"

#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

static sigset_t wanted(bool with_winch)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    if (with_winch)
        sigaddset(&set, SIGWINCH);
    return set;
}

int cli_signals_open(bool with_winch)
{
    sigset_t set = wanted(with_winch);
    int fd;

    if (sigprocmask(SIG_BLOCK, &set, NULL) ||
        (fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)) < 0)
        abort();
    return fd;
}

int cli_signals_next(int fd)
{
    struct signalfd_siginfo info;

    return read(fd, &info, sizeof(info)) == (ssize_t)sizeof(info) ? (int)info.ssi_signo : 0;
}

void cli_signals_close(int fd)
{
    sigset_t set = wanted(true);

    close(fd);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}
