/* The engine's client and the fake engine that it talks to (tests/fakes/fake_engine.py). */
#ifndef TESTS_UNIT_ENGINE_FIXTURE_H
#define TESTS_UNIT_ENGINE_FIXTURE_H

#include "sbx/core/clock.h"
#include "sbx/core/limits.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include "sbx/engine/engine.h"
#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define FAKE "tests/fakes/fake_engine.py"

/* A running fake: it ends when `in` is closed. */
typedef struct fake {
    pid_t pid;
    int in, port;
} fake;

static char folder[64];
static fake the_fake;
static sbx_engine *engine;

__attribute__((unused)) static fake fake_start(const char *const args[])
{
    const char *argv[16] = {"/usr/bin/python3", FAKE};
    fake f = {0};
    int in[2], out[2], n = 2;
    posix_spawn_file_actions_t acts;
    extern char **environ;

    for (; *args && n < 15; args++)
        argv[n++] = *args;
    cr_assert(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0);
    posix_spawn_file_actions_init(&acts);
    posix_spawn_file_actions_adddup2(&acts, in[0], 0);
    posix_spawn_file_actions_adddup2(&acts, out[1], 1);
    cr_assert_eq(posix_spawn(&f.pid, argv[0], &acts, NULL, (char **)(void *)argv, environ), 0);
    posix_spawn_file_actions_destroy(&acts);
    close(in[0]);
    close(out[1]);
    FILE *lines = fdopen(out[0], "r");

    cr_assert(lines && fscanf(lines, "ready %d", &f.port) == 1, "the fake did not start");
    fclose(lines);
    f.in = in[1];
    return f;
}

__attribute__((unused)) static void fake_stop(fake *f)
{
    close(f->in);
    waitpid(f->pid, NULL, 0);
}

__attribute__((unused)) static sbx_engine *client(const char *host, int64_t timeout_ms)
{
    sbx_docker_config c = {.host = host, .timeout_ms = timeout_ms, .pull_timeout_ms = timeout_ms};
    sbx_engine *e = NULL;
    sbx_err err = {0};

    cr_assert_eq(sbx_docker_new(&c, &e, &err), 0, "%s", err.msg);
    return e;
}

__attribute__((unused)) static void start_with(const char *const extra[], int64_t timeout_ms)
{
    char path[100], host[120];
    const char *args[12] = {"--socket", path};

    for (int i = 0; extra && extra[i]; i++)
        args[2 + i] = extra[i];
    snprintf(path, sizeof(path), "%s/s", folder);
    snprintf(host, sizeof(host), "unix://%s", path);
    unlink(path);
    the_fake = fake_start(args);
    engine = client(host, timeout_ms);
}

__attribute__((unused)) static void setup(void)
{
    snprintf(folder, sizeof(folder), "/tmp/sbx-engine-XXXXXX");
    cr_assert(mkdtemp(folder) != NULL);
    signal(SIGPIPE, SIG_IGN);
    sbx_job_scope(0, NULL);
}

__attribute__((unused)) static void teardown(void)
{
    static const char *const files[] = {"s",          "ca.pem",     "ca-key.pem", "ca.srl",
                                        "cert.pem",   "key.pem",    "server.pem", "server-key.pem",
                                        "server.csr", "client.csr", "server.ext", "client.ext"};
    char path[128];

    if (engine)
        engine->ops->free(engine);
    if (the_fake.pid)
        fake_stop(&the_fake);
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, files[i]);
        unlink(path);
    }
    rmdir(folder);
}

__attribute__((unused)) static void know_the_version(void)
{
    sbx_err err = {0};

    cr_assert_eq(engine->ops->ping(engine, NULL, &err), 0, "%s", err.msg);
}

#endif
