/* sbx-agent: PID 1 of a sandbox.
 *
 * It starts commands for the sandbox's owner, sequences their output, keeps the sandbox's log and
 * reaps what dies. It trusts nobody but root inside the container, keeps nothing on disk and has
 * one thread. The owner is reached through standard input and output; see core/agent_proto.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "agent.h"
#include "connect.h"
#include "context.h"
#include "machine.h"
#include "probe.h"

#ifndef SBX_VERSION
#error "SBX_VERSION must be defined by the build"
#endif

extern char **environ;

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

static bool parse_token(const char *text, unsigned char token[SBX_PROTO_TOKEN_BYTES])
{
    if (!text || strlen(text) != 2 * SBX_PROTO_TOKEN_BYTES)
        return false;
    for (size_t i = 0; i < SBX_PROTO_TOKEN_BYTES; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

        if (high < 0 || low < 0)
            return false;
        token[i] = (unsigned char)(high * 16 + low);
    }
    return true;
}

/* Takes the secret out of the environment, also out of the memory that /proc shows as such. */
static bool take_token(unsigned char token[SBX_PROTO_TOKEN_BYTES])
{
    char *text = getenv(SBX_PROTO_TOKEN_ENV);
    bool ok = parse_token(text, token);

    if (text) {
        char *entry = text - sizeof SBX_PROTO_TOKEN_ENV;
        size_t len = strlen(entry);

        (void)unsetenv(SBX_PROTO_TOKEN_ENV);
        explicit_bzero(entry, len);
    }
    return ok;
}

/* Moves a standard descriptor of the channel out of the way of children. */
static int take_descriptor(int fd, int null)
{
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, 3);

    if (moved >= 0 && null >= 0)
        (void)dup2(null, fd);
    return moved;
}

static int serve(void)
{
    unsigned char token[SBX_PROTO_TOKEN_BYTES];
    int null, in, out;

    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    if (!take_token(token)) {
        (void)dprintf(2, "sbx-agent: %s must be set to 32 hex digits\n", SBX_PROTO_TOKEN_ENV);
        return 2;
    }
    agent_machine_id();
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    in = take_descriptor(0, null);
    out = take_descriptor(1, null);
    if (in < 0 || out < 0) {
        (void)dprintf(2, "sbx-agent: standard input and output must be open\n");
        return 2;
    }
    if (null > 2)
        close(null);
    if (agent_run(in, out, token, environ) < 0) {
        (void)dprintf(2, "sbx-agent: cannot begin: %s\n", strerror(errno));
        return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        (void)printf("sbx-agent %s\n", SBX_VERSION);
        return 0;
    }
    if (argc == 4 && strcmp(argv[1], "probe") == 0)
        return agent_probe(argv[2], argv[3]);
    if (argc == 2 && strcmp(argv[1], "connect") == 0)
        return agent_connect();
    if ((argc == 4 || argc == 5) && strcmp(argv[1], "context") == 0)
        return agent_context(argv[2], argv[3]);
    if (argc > 3 && strcmp(argv[1], "cell") == 0)
        return agent_cell(argc - 2, argv + 2);
    if (argc > 1) {
        (void)fprintf(
            stderr, "usage: sbx-agent [--version | connect | probe port NUMBER | probe file PATH\n"
                    "                  | context RUNTIME ID [CWD] | cell ID run FILE MS\n"
                    "                  | cell ID wait | cell ID restart]\n");
        return 2;
    }
    return serve();
}
