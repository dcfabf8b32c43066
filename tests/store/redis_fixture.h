/* A private redis-server on a port of its own, started and stopped by the test. */
#ifndef SBX_TESTS_REDIS_FIXTURE_H
#define SBX_TESTS_REDIS_FIXTURE_H

#include "sbx/bus/bus.h"
#include "sbx/core/clock.h"
#include "sbx/core/limits.h"
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <fcntl.h>
#include <hiredis.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PASSWORD "p@ss:w/rd"

typedef struct server {
    pid_t pid;
    int port;
    char url[128];
} server;

static void pause_for_ms(long ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    nanosleep(&t, NULL);
}

/* Wait up to 20 s for a condition. */
#define EVENTUALLY(condition)                                                                      \
    ({                                                                                             \
        int64_t _until = sbx_now_ms() + 20000;                                                     \
        while (!(condition) && sbx_now_ms() < _until)                                              \
            pause_for_ms(5);                                                                       \
        (condition);                                                                               \
    })

static int free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert_geq(fd, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    close(fd);
    return ntohs(a.sin_port);
}

/* A command on a connection of its own, past the bus. */
static redisReply *direct(const server *s, int argc, const char **argv)
{
    redisContext *c = redisConnect("127.0.0.1", s->port);
    redisReply *r = NULL;

    if (c && !c->err) {
        freeReplyObject(redisCommand(c, "AUTH %s", PASSWORD));
        freeReplyObject(redisCommand(c, "SELECT 3"));
        r = redisCommandArgv(c, argc, argv, NULL);
    }
    if (c)
        redisFree(c);
    return r;
}

#define DIRECT(s, ...)                                                                             \
    direct((s), sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *),                            \
           (const char *[]){__VA_ARGS__})

static bool answers(const server *s)
{
    redisReply *r = DIRECT(s, "PING");
    bool ok = r && r->type == REDIS_REPLY_STATUS;

    freeReplyObject(r);
    return ok;
}

static void server_start(server *s)
{
    char port[16];

    snprintf(port, sizeof port, "%d", s->port);
    fflush(NULL);
    s->pid = fork();
    cr_assert_geq(s->pid, 0);
    if (s->pid == 0) {
        int null = open("/dev/null", O_RDWR);

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(null, 1);
        dup2(null, 2);
        execlp("redis-server", "redis-server", "--port", port, "--bind", "127.0.0.1",
               "--requirepass", PASSWORD, "--save", "", "--appendonly", "no", "--dir", "/tmp",
               (char *)NULL);
        _exit(127);
    }
    cr_assert(EVENTUALLY(answers(s)), "redis-server does not start");
}

static void server_stop(server *s)
{
    if (s->pid <= 0)
        return;
    kill(s->pid, SIGKILL);
    waitpid(s->pid, NULL, 0);
    s->pid = 0;
}

static server server_new(void)
{
    server s = {.port = free_port()};

    signal(SIGPIPE, SIG_IGN);
    snprintf(s.url, sizeof s.url, "redis://:p%%40ss%%3Aw%%2Frd@127.0.0.1:%d/3", s.port);
    server_start(&s);
    return s;
}

static sbx_bus *bus_new(const char *url)
{
    sbx_bus *b = NULL;
    sbx_err err = {0};

    cr_assert_eq(sbx_bus_redis_new(url, &b, &err), 0, "%s", err.msg);
    return b;
}

#endif
