/* Probes: one question, answered by the exit status. */
#include "probe.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static bool connects(const struct sockaddr *to, socklen_t len)
{
    int fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool ok = fd >= 0 && connect(fd, to, len) == 0;
    int saved = errno;

    if (fd >= 0)
        close(fd);
    errno = saved;
    return ok;
}

static int probe_port(const char *what)
{
    char *end;
    unsigned long port = strtoul(what, &end, 10);
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};

    if (*end || port < 1 || port > 65535)
        return 2;
    v4.sin_port = v6.sin6_port = htons((uint16_t)port);
    if (connects((struct sockaddr *)&v4, sizeof v4))
        return 0;
    int why = errno;
    if (connects((struct sockaddr *)&v6, sizeof v6))
        return 0;
    (void)printf("port %lu: %s\n", port, strerror(why));
    return 1;
}

static int probe_file(const char *what)
{
    struct stat st;

    if (stat(what, &st) == 0)
        return 0;
    (void)printf("%s: %s\n", what, strerror(errno));
    return 1;
}

int agent_probe(const char *kind, const char *what)
{
    if (strcmp(kind, "port") == 0)
        return probe_port(what);
    if (strcmp(kind, "file") == 0)
        return probe_file(what);
    return 2;
}
