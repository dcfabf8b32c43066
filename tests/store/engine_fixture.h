/* The engine that runs here, and what the tests of its client share. */
#ifndef TESTS_STORE_ENGINE_FIXTURE_H
#define TESTS_STORE_ENGINE_FIXTURE_H

#include "engine/docker.h"
#include "engine/tar.h"
#include "sbx/core/clock.h"
#include "sbx/core/id.h"
#include "sbx/core/thread.h"
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

#define IMAGE   "sandboxd-test/engine:1"
#define WAIT_MS 20000

static sbx_engine *engine;
static char cluster[40];

__attribute__((unused)) static void must(int rc, const sbx_err *err, const char *what)
{
    cr_assert(rc == 0, "%s: %s", what, err->msg);
}

/* A value that the engine answers to GET, or NULL; the caller frees. */
__attribute__((unused)) static sbx_json *ask(const char *path)
{
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    sbx_json *json = NULL;
    sbx_err err = {0};
    docker_req q = {.method = "GET", .path = path};

    if (docker_call((sbx_docker *)engine, &q, "test", &res, &err) ||
        docker_parse(res.body.data, res.body.len, &json, &err))
        return NULL;
    return json;
}

__attribute__((unused)) static int order(const char *method, const char *path, const sbx_buf *body)
{
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    sbx_err err = {0};
    docker_req q = {.method = method,
                    .path = path,
                    .type = "application/x-tar",
                    .body = body ? body->data : NULL,
                    .body_len = body ? body->len : 0};
    int rc = docker_call((sbx_docker *)engine, &q, "test", &res, &err);

    return rc ? (int)err.code : 0;
}

/* busybox alone, with everything an image can bring that must not work. */
__attribute__((unused)) static void make_image(void)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf tar = SBX_BUF_INIT(64 * MIB);
    FILE *f = fopen("/bin/busybox", "rb");
    static char data[8 * MIB];

    cr_assert(f != NULL, "needs /bin/busybox (package busybox-static)");
    size_t n = fread(data, 1, sizeof(data), f);
    fclose(f);
    cr_assert(docker_tar_file(&tar, "busybox", 1, data, n));
    docker_tar_end(&tar);
    cr_assert_eq(order("POST",
                       "/images/create?fromSrc=-&repo=sandboxd-test%2Fengine&tag=1"
                       "&changes=CMD%20%5B%22image-cmd%22%5D&changes=USER%20nobody"
                       "&changes=VOLUME%20/leak&changes=HEALTHCHECK%20CMD%20true"
                       "&changes=ENV%20FROM_IMAGE%3D1",
                       &tar),
                 0);
}

__attribute__((unused)) static void setup(void)
{
    const char *host = getenv("DOCKER_HOST");
    sbx_docker_config c = {.host = host ? host : "unix:///var/run/docker.sock",
                           .timeout_ms = 60000,
                           .pull_timeout_ms = 60000};
    sbx_err err = {0};

    must(sbx_docker_new(&c, &engine, &err), &err, "new");
    snprintf(cluster, sizeof(cluster), "test-%s", sbx_id_new().s);
    sbx_image_info info;
    /* Tests run side by side: one of them makes the image. */
    int lock = open("/tmp/sbx-test-engine.lock", O_CREAT | O_RDWR | O_CLOEXEC, 0600);

    cr_assert(lock >= 0 && flock(lock, LOCK_EX) == 0);
    if (engine->ops->image_inspect(engine, IMAGE, &info, &err) == 0)
        sbx_image_info_done(&info);
    else
        make_image();
    close(lock);
}

/* Volumes of a test that failed before it dropped them. */
__attribute__((unused)) static void drop_volumes(void)
{
    char path[256];

    snprintf(path, sizeof(path),
             "/volumes?filters=%%7B%%22label%%22%%3A%%5B%%22sandboxd.cluster%%3D%s%%22%%5D%%7D",
             cluster);
    SBX_CLEANUP(sbx_json_free) sbx_json *all = ask(path);

    for (const sbx_json *v = sbx_json_first(sbx_json_get(all, "Volumes")); v;
         v = sbx_json_next(v)) {
        snprintf(path, sizeof(path), "/volumes/%s?force=1", docker_str(sbx_json_get(v, "Name")));
        order("DELETE", path, NULL);
    }
}

__attribute__((unused)) static void teardown(void)
{
    static const char *const labels[] = {"sandboxd.id", "sandboxd.role=seed"};
    sbx_err err = {0};

    sbx_job_scope(0, NULL);
    for (size_t l = 0; l < ARRAY_LEN(labels); l++) {
        sbx_container_info *all = NULL;
        size_t count = 0;

        if (docker_list_label((sbx_docker *)engine, cluster, labels[l], &all, &count, &err) == 0)
            for (size_t i = 0; i < count; i++)
                engine->ops->remove(engine, all[i].id, &err);
        free(all);
    }
    drop_volumes();
    engine->ops->free(engine);
}

/* --- helpers --- */

typedef struct made {
    sbx_id id;
    char container[65];
} made;

__attribute__((unused)) static made make(const char *script, const char *volume)
{
    made m = {.id = sbx_id_new()};
    char name[64];
    const char *entry[] = {"/busybox", "sh", "-c", script, NULL};
    const char *env[] = {"FROM_US=ü=\"1\"", NULL};
    const char *caps[] = {"SETUID", "SETGID", "KILL", NULL};
    char *names[] = {"sandboxd.id", "sandboxd.cluster"};
    char *values[] = {m.id.s, cluster};
    sbx_pairs labels = {.names = names, .values = values, .count = 2};
    sbx_err err = {0};

    snprintf(name, sizeof(name), "sbx-test-%s", m.id.s);
    sbx_container_spec s = {.name = name,
                            .image = IMAGE,
                            .hostname = "box",
                            .entrypoint = entry,
                            .env = env,
                            .labels = &labels,
                            .cpu_milli = 4000,
                            .memory_bytes = 256 * MIB,
                            .pids = 64,
                            .nofile = 512,
                            .network = "none",
                            .volume = volume,
                            .volume_target = "/.sbx",
                            .cap_add = caps};

    must(engine->ops->create(engine, &s, m.container, &err), &err, "create");
    return m;
}

/* Receive until `text` was seen on the stream, or the time is over. */
__attribute__((unused)) static bool wait_text(sbx_engine_conn *c, int stream, const char *text)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf seen = SBX_BUF_INIT(MIB);
    int64_t end = sbx_now_ms() + WAIT_MS;
    sbx_err err = {0};

    while (sbx_now_ms() < end) {
        char data[4096];
        int at = 0;
        ssize_t n = sbx_engine_conn_recv(c, &at, data, sizeof(data), &err);

        if (n < 0)
            return false;
        if (n == 0) {
            struct pollfd p = {.fd = sbx_engine_conn_fd(c), .events = POLLIN};

            poll(&p, 1, 1000);
            continue;
        }
        if (at == stream)
            sbx_buf_add(&seen, data, (size_t)n);
        if (seen.data && strstr(seen.data, text))
            return true;
    }
    return false;
}

__attribute__((unused)) static bool wait_state(const char *id, const char *state,
                                               sbx_container_info *ret)
{
    sbx_err err = {0};

    for (int64_t end = sbx_now_ms() + WAIT_MS; sbx_now_ms() < end; poll(NULL, 0, 20))
        if (engine->ops->inspect(engine, id, ret, &err) == 0 && strcmp(ret->state, state) == 0)
            return true;
    return false;
}

#endif
