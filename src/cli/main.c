/* sbx: reads the command line, runs the command. */
#include "cli/cli.h"

#include "cli/client.h"
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Where output goes, and what it may hold. */
static void look_at_terminal(cli *c)
{
    const char *plain = getenv("NO_COLOR"), *term = getenv("TERM");
    struct winsize size = {0};

    if (!isatty(1))
        return;
    c->columns = ioctl(1, TIOCGWINSZ, &size) == 0 && size.ws_col ? size.ws_col : 80;
    c->colour =
        !(plain && *plain) && !(term && strcmp(term, "dumb") == 0) && !cli_flag(c, "no-color");
}

int main(int argc, char **argv)
{
    cli c = {0};
    sbx_err err;
    int status;

    signal(SIGPIPE, SIG_IGN);
    setlocale(LC_CTYPE, "C.UTF-8"); /* the API speaks UTF-8 alone */
    if (cli_args_read(&c, argc - 1, argv + 1, &err)) {
        status = cli_usage(&c, "%s", err.msg);
    } else {
        look_at_terminal(&c);
        status = c.command->run(&c);
    }
    cli_client_free(c.client);
    cli_args_done(&c);
    return status;
}
