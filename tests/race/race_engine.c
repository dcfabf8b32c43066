/* Many threads share one engine client: the pool, the version, the breaker and the streams, under
 * the thread sanitizer. A plain main; exits 0 if all is well. */
#include "sbx/core/thread.h"
#include "sbx/engine/engine.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 8
#define ROUNDS  100

static sbx_engine *engine;
static atomic_int failures, answered;

static void check(bool ok, const char *what, const sbx_err *err)
{
    if (ok)
        return;
    fprintf(stderr, "%s: %s\n", what, err->msg);
    atomic_fetch_add(&failures, 1);
}

/* So many connections break that the breaker opens now and then, and refuses what is good. */
static void check_good(int rc, const char *what, const sbx_err *err)
{
    if (rc == 0)
        atomic_fetch_add(&answered, 1);
    else
        check(err->code == SBX_E_ENGINE_UNAVAILABLE, what, err);
}

static void *work(void *arg)
{
    size_t n = (size_t)arg;

    sbx_thread_set_role(SBX_T_WORKER, "worker");
    for (int i = 0; i < ROUNDS; i++) {
        sbx_container_info info;
        sbx_engine_conn *c = NULL;
        sbx_err err = {0};

        if ((n + (size_t)i) % 4 == 0) /* a broken connection forgets the version */
            check(engine->ops->inspect(engine, "nothing", &info, &err) == -1 &&
                      err.code == SBX_E_ENGINE_UNAVAILABLE,
                  "nothing", &err);
        else if ((n + (size_t)i) % 4 == 1)
            check_good(engine->ops->attach(engine, "early", &c, &err), "attach", &err);
        else
            check_good(engine->ops->inspect(engine, i % 2 ? "stale" : "box", &info, &err),
                       "inspect", &err);
        sbx_engine_conn_close(c);
    }
    return NULL;
}

static bool start_fake(pid_t *ret_pid, int *ret_in, int *ret_port)
{
    char *argv[] = {"/usr/bin/python3", "tests/fakes/fake_engine.py", NULL};
    extern char **environ;
    posix_spawn_file_actions_t acts;
    int in[2], out[2];

    if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
        return false;
    posix_spawn_file_actions_init(&acts);
    posix_spawn_file_actions_adddup2(&acts, in[0], 0);
    posix_spawn_file_actions_adddup2(&acts, out[1], 1);
    bool ok = posix_spawn(ret_pid, argv[0], &acts, NULL, argv, environ) == 0;

    posix_spawn_file_actions_destroy(&acts);
    close(in[0]);
    close(out[1]);
    FILE *lines = fdopen(out[0], "r");

    ok = ok && lines && fscanf(lines, "ready %d", ret_port) == 1;
    if (lines)
        fclose(lines);
    *ret_in = in[1];
    return ok;
}

int main(void)
{
    pthread_t t[THREADS];
    char host[64];
    sbx_docker_config c = {.host = host, .timeout_ms = 20000};
    sbx_err err = {0};
    pid_t pid = 0;
    int in = -1, port = 0;

    signal(SIGPIPE, SIG_IGN);
    if (!start_fake(&pid, &in, &port))
        return 1;
    snprintf(host, sizeof(host), "tcp://127.0.0.1:%d", port);
    check(sbx_docker_new(&c, &engine, &err) == 0, "new", &err);
    if (!engine)
        return 1;
    for (size_t i = 0; i < THREADS; i++)
        pthread_create(&t[i], NULL, work, (void *)i);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    engine->ops->free(engine);
    close(in);
    waitpid(pid, NULL, 0);
    return atomic_load(&failures) || !atomic_load(&answered) ? 1 : 0;
}
