/* The Docker Engine client against a real engine.
 *
 * Needs a Docker Engine (DOCKER_HOST, or the usual socket) and a static busybox. Everything made
 * here carries a cluster label of its own and is removed again. */
#include "../lib/pull_whole.h"
#include "engine_fixture.h"

TestSuite(engine_docker, .init = setup, .fini = teardown, .timeout = 120);

Test(engine_docker, ping_names_the_version)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf text = SBX_BUF_INIT(256);
    sbx_err err = {0};

    must(engine->ops->ping(engine, &text, &err), &err, "ping");
    cr_expect(strncmp(text.data, "Docker Engine ", 14) == 0 && strstr(text.data, "API 1."), "%s",
              text.data);
}

Test(engine_docker, a_container_lives_from_create_to_remove)
{
    sbx_engine_conn *c = NULL;
    sbx_container_info info;
    sbx_err err = {0};
    made m = make("echo hello; echo bad >&2; read x; echo got $x; exit 7", NULL);

    must(engine->ops->attach(engine, m.container, &c, &err), &err, "attach");
    must(engine->ops->start(engine, m.container, &err), &err, "start");
    cr_expect(wait_text(c, 1, "hello\n"));
    cr_expect_eq(sbx_engine_conn_send(c, "line\n", 5, &err), 5);
    cr_expect(wait_text(c, 1, "got line\n"));
    cr_assert(wait_state(m.container, "exited", &info));
    cr_expect_eq(info.exit_code, 7);
    cr_expect_str_eq(info.sandbox_id, m.id.s);
    cr_expect_str_eq(info.cluster, cluster);
    cr_expect_str_eq(info.image, IMAGE);
    cr_expect(strncmp(info.name, "sbx-test-", 9) == 0, "%s", info.name);
    cr_expect(llabs(info.created_at_ms - sbx_wall_ms()) < 60000);
    cr_expect(info.started_at_ms >= info.created_at_ms);
    sbx_engine_conn_close(c);
    must(engine->ops->remove(engine, m.container, &err), &err, "remove");
    cr_expect_eq(engine->ops->inspect(engine, m.container, &info, &err), -1);
    cr_expect_eq(err.code, SBX_E_NOT_FOUND);
    must(engine->ops->remove(engine, m.container, &err), &err, "remove of a removed one");
}

Test(engine_docker, the_end_of_the_container_ends_the_stream)
{
    sbx_engine_conn *c = NULL;
    sbx_err err = {0};
    made m = make("echo bye", NULL);

    must(engine->ops->attach(engine, m.container, &c, &err), &err, "attach");
    must(engine->ops->start(engine, m.container, &err), &err, "start");
    cr_expect_not(wait_text(c, 1, "never"));
    char data[8];
    int at;

    cr_expect_eq(sbx_engine_conn_recv(c, &at, data, sizeof(data), &err), -1);
    cr_expect_eq(err.code, SBX_E_ENGINE_UNAVAILABLE);
    sbx_engine_conn_close(c);
}

Test(engine_docker, the_container_is_confined_and_the_image_has_no_say)
{
    static const struct {
        const char *a, *b, *want;
    } strings[] = {
        {"Config", "User", "0:0"},
        {"Config", "WorkingDir", "/"},
        {"Config", "StopSignal", "SIGTERM"},
        {"HostConfig", "NetworkMode", "none"},
        {"HostConfig", "IpcMode", "private"},
    };
    static const struct {
        const char *name;
        int64_t want;
    } numbers[] = {
        {"Memory", 256 * MIB}, {"MemorySwap", 256 * MIB}, {"CpuQuota", 400000},
        {"CpuPeriod", 100000}, {"PidsLimit", 64},         {"OomScoreAdj", 500},
        {"ShmSize", 64 * MIB}, {"NanoCpus", 0},
    };
    made m = make("true", NULL);
    char path[128];

    snprintf(path, sizeof(path), "/containers/%s/json", m.container);
    sbx_json *j = ask(path);

    cr_assert(j != NULL);
    for (size_t i = 0; i < ARRAY_LEN(strings); i++)
        cr_expect_str_eq(docker_str(docker_get2(j, strings[i].a, strings[i].b)), strings[i].want,
                         "%s", strings[i].b);
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        cr_expect_eq(sbx_json_int(docker_get2(j, "HostConfig", numbers[i].name), -1),
                     numbers[i].want, "%s", numbers[i].name);
    const sbx_json *config = sbx_json_get(j, "Config"), *host = sbx_json_get(j, "HostConfig");

    cr_expect_null(sbx_json_first(sbx_json_get(config, "Cmd")), "the image's CMD came through");
    cr_expect_str_eq(docker_str(sbx_json_first(docker_get2(config, "Healthcheck", "Test"))),
                     "NONE");
    cr_expect_str_eq(docker_str(sbx_json_first(sbx_json_get(host, "CapDrop"))), "ALL");
    cr_expect_str_eq(docker_str(sbx_json_first(sbx_json_get(host, "SecurityOpt"))),
                     "no-new-privileges");
    cr_expect_str_eq(docker_str(docker_get2(host, "LogConfig", "Type")), "none");
    cr_expect(sbx_json_bool(sbx_json_get(config, "OpenStdin"), false));
    cr_expect_not(sbx_json_bool(sbx_json_get(config, "StdinOnce"), true));
    cr_expect_not(sbx_json_bool(sbx_json_get(host, "Init"), true));
    sbx_json_free(j);
}

Test(engine_docker, anonymous_volumes_of_the_image_go_with_the_container)
{
    made m = make("true", NULL);
    char path[128], volume[256];
    sbx_err err = {0};

    snprintf(path, sizeof(path), "/containers/%s/json", m.container);
    sbx_json *j = ask(path);
    const char *name = docker_str(sbx_json_get(sbx_json_first(sbx_json_get(j, "Mounts")), "Name"));

    cr_assert(name[0] != 0, "the image's VOLUME made no volume");
    snprintf(volume, sizeof(volume), "/volumes/%s", name);
    sbx_json_free(j);
    must(engine->ops->remove(engine, m.container, &err), &err, "remove");
    cr_expect_null(ask(volume), "the volume stayed");
}

Test(engine_docker, list_has_exactly_the_sandboxes_of_the_cluster)
{
    sbx_container_info *all = NULL;
    size_t count = 0;
    sbx_err err = {0};
    made a = make("exit 3", NULL), b = make("sleep 100", NULL);
    sbx_container_info info;

    must(engine->ops->start(engine, a.container, &err), &err, "start");
    cr_assert(wait_state(a.container, "exited", &info));
    must(engine->ops->list(engine, cluster, &all, &count, &err), &err, "list");
    cr_assert_eq(count, 2);
    for (size_t i = 0; i < count; i++) {
        bool is_a = strcmp(all[i].sandbox_id, a.id.s) == 0;

        cr_expect_str_eq(all[i].sandbox_id, is_a ? a.id.s : b.id.s);
        cr_expect_str_eq(all[i].id, is_a ? a.container : b.container);
        cr_expect_str_eq(all[i].state, is_a ? "exited" : "created");
        cr_expect_eq(all[i].exit_code, is_a ? 3 : 0);
        cr_expect(strncmp(all[i].name, "sbx-test-", 9) == 0);
        cr_expect(llabs(all[i].created_at_ms - sbx_wall_ms()) < 60000);
    }
    free(all);
    must(engine->ops->list(engine, "nobody", &all, &count, &err), &err, "list of nobody");
    cr_expect_eq(count, 0);
    free(all);
}

Test(engine_docker, failures_have_their_codes)
{
    sbx_container_info info;
    sbx_image_info image;
    sbx_engine_conn *c = NULL;
    sbx_err err = {0};
    const char *entry[] = {"/nothing-here", NULL};
    sbx_container_spec s = {
        .name = "sbx-test-none", .image = "sandboxd-test/none:1", .entrypoint = entry};
    char id[65];

    cr_expect_eq(engine->ops->create(engine, &s, id, &err), -1);
    cr_expect_eq(err.code, SBX_E_NOT_FOUND, "%s", err.msg);
    cr_expect(strstr(err.msg, "sandboxd-test/none") != NULL, "%s", err.msg);
    cr_expect_eq(engine->ops->start(engine, "nobody", &err), -1);
    cr_expect_eq(err.code, SBX_E_NOT_FOUND);
    cr_expect_eq(engine->ops->inspect(engine, "a/../../b?x#y", &info, &err), -1);
    cr_expect_eq(err.code, SBX_E_INVALID, "%s", err.msg);
    cr_expect_eq(engine->ops->attach(engine, "nobody", &c, &err), -1);
    cr_expect_eq(err.code, SBX_E_NOT_FOUND, "%s", err.msg);
    cr_expect_eq(engine->ops->image_inspect(engine, "sandboxd-test/none:1", &image, &err), -1);
    cr_expect_eq(err.code, SBX_E_NOT_FOUND, "%s", err.msg);
    made m = make("true", NULL);

    cr_expect_eq(engine->ops->pause(engine, m.container, &err), -1);
    cr_expect_eq(err.code, SBX_E_CONFLICT, "%s", err.msg);
    char name[64];
    made again;

    snprintf(name, sizeof(name), "sbx-test-%s", m.id.s);
    s.name = name;
    s.image = IMAGE;
    cr_expect_eq(engine->ops->create(engine, &s, again.container, &err), -1);
    cr_expect_eq(err.code, SBX_E_CONFLICT, "%s", err.msg);
}

Test(engine_docker, an_entrypoint_that_is_missing_is_the_requests_fault)
{
    sbx_err err = {0};
    char name[64], id[65];
    sbx_id sid = sbx_id_new();
    const char *entry[] = {"/nothing-here", NULL};
    char *names[] = {"sandboxd.id", "sandboxd.cluster"}, *values[] = {sid.s, cluster};
    sbx_pairs labels = {.names = names, .values = values, .count = 2};
    sbx_container_spec s = {.name = name, .image = IMAGE, .entrypoint = entry, .labels = &labels};

    snprintf(name, sizeof(name), "sbx-test-%s", sid.s);
    must(engine->ops->create(engine, &s, id, &err), &err, "create");
    cr_expect_eq(engine->ops->start(engine, id, &err), -1);
    cr_expect_eq(err.code, SBX_E_INVALID, "%s", err.msg);
    cr_expect(strstr(err.msg, "no such file") != NULL, "%s", err.msg);
}

Test(engine_docker, pause_stops_and_unpause_resumes)
{
    sbx_container_info info;
    sbx_err err = {0};
    made m = make("while :; do sleep 1; done", NULL);

    must(engine->ops->start(engine, m.container, &err), &err, "start");
    must(engine->ops->pause(engine, m.container, &err), &err, "pause");
    must(engine->ops->inspect(engine, m.container, &info, &err), &err, "inspect");
    cr_expect_str_eq(info.state, "paused");
    made frozen = make("while :; do sleep 1; done", NULL);

    must(engine->ops->start(engine, frozen.container, &err), &err, "start");
    must(engine->ops->pause(engine, frozen.container, &err), &err, "pause");
    must(engine->ops->remove(engine, frozen.container, &err), &err, "remove of a paused one");
    must(engine->ops->unpause(engine, m.container, &err), &err, "unpause");
    must(engine->ops->stop(engine, m.container, 0, &err), &err, "stop");
    cr_expect(wait_state(m.container, "exited", &info));
    cr_expect_eq(info.exit_code, 137);
    must(engine->ops->stop(engine, m.container, 0, &err), &err, "stop of a stopped one");
}

Test(engine_docker, image_inspect_tells_what_the_image_declares)
{
    sbx_image_info i;
    sbx_err err = {0};

    must(engine->ops->image_inspect(engine, IMAGE, &i, &err), &err, "image_inspect");
    cr_expect(strncmp(i.id, "sha256:", 7) == 0);
    cr_expect_str_eq(i.user, "nobody");
    cr_expect_eq(i.env.count, 1);
    cr_expect_str_eq(i.env.items[0], "FROM_IMAGE=1");
    cr_expect(i.size_bytes > 100000);
    sbx_image_info_done(&i);
}
/* --- events --- */

typedef struct watcher {
    char wanted[65];
    char actions[512];
    int exit_code, foreign;
    int64_t since_ns, last_ns;
    atomic_bool ready;
    int64_t end_ms;
    int rc;
    sbx_err err;
} watcher;

static bool on_event(void *arg, const sbx_engine_event *ev)
{
    watcher *w = arg;

    atomic_store(&w->ready, true);
    if (!ev)
        return sbx_now_ms() < w->end_ms;
    if (strcmp(ev->cluster, cluster) != 0 || !sbx_id_valid(ev->sandbox_id))
        w->foreign++;
    if (strcmp(ev->container_id, w->wanted) != 0)
        return true;
    size_t n = strlen(w->actions);

    snprintf(w->actions + n, sizeof(w->actions) - n, "%s ", ev->action);
    if (strcmp(ev->action, "die") == 0)
        w->exit_code = ev->exit_code;
    w->last_ns = ev->time_ns;
    return strcmp(ev->action, "destroy") != 0;
}

static void *watch(void *arg)
{
    watcher *w = arg;

    w->rc = engine->ops->events(engine, cluster, w->since_ns, on_event, w, &w->err);
    return NULL;
}

Test(engine_docker, events_tell_a_containers_life_live_and_afterwards)
{
    watcher live = {.end_ms = sbx_now_ms() + WAIT_MS};
    sbx_container_info info;
    sbx_err err = {0};
    int64_t before_ns = sbx_wall_ms() * 1000000;
    made m = make("exit 5", NULL);
    pthread_t t;

    sbx_copy(live.wanted, sizeof(live.wanted), m.container);
    pthread_create(&t, NULL, watch, &live);
    while (!atomic_load(&live.ready) && sbx_now_ms() < live.end_ms)
        poll(NULL, 0, 10);
    must(engine->ops->start(engine, m.container, &err), &err, "start");
    cr_assert(wait_state(m.container, "exited", &info));
    must(engine->ops->remove(engine, m.container, &err), &err, "remove");
    pthread_join(t, NULL);
    cr_expect_eq(live.rc, 0, "%s", live.err.msg);
    cr_expect(strstr(live.actions, "start ") && strstr(live.actions, "die ") &&
                  strstr(live.actions, "destroy "),
              "%s", live.actions);
    cr_expect_eq(live.exit_code, 5);
    cr_expect_eq(live.foreign, 0);
    watcher later = {.end_ms = sbx_now_ms() + WAIT_MS, .since_ns = before_ns};

    sbx_copy(later.wanted, sizeof(later.wanted), m.container);
    watch(&later);
    cr_expect(strncmp(later.actions, "create ", 7) == 0 && strstr(later.actions, "destroy "), "%s",
              later.actions);
}

/* --- pulls and removals --- */

Test(engine_docker, a_pull_from_no_registry_fails_with_a_reason)
{
    sbx_err err = {0};

    cr_expect_eq(pull_whole(engine, "127.0.0.1:1/nothing", &err), -1);
    cr_expect_eq(err.code, SBX_E_ENGINE, "%s", err.msg);
    cr_expect(strstr(err.msg, "127.0.0.1:1/nothing") != NULL, "%s", err.msg);
    cr_expect_eq(pull_whole(engine, "Not An Image", &err), -1);
    cr_expect_eq(err.code, SBX_E_INVALID, "%s", err.msg);
}

typedef struct remover {
    const char *id;
    int rc;
    sbx_err err;
} remover;

static void *remove_one(void *arg)
{
    remover *r = arg;

    r->rc = engine->ops->remove(engine, r->id, &r->err);
    return NULL;
}

Test(engine_docker, removals_of_one_container_at_once_all_succeed)
{
    sbx_container_info info;
    sbx_err err = {0};
    made m = make("sleep 1000", NULL);
    remover r[4];
    pthread_t t[4];

    must(engine->ops->start(engine, m.container, &err), &err, "start");
    for (int i = 0; i < 4; i++) {
        r[i] = (remover){.id = m.container};
        pthread_create(&t[i], NULL, remove_one, &r[i]);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(t[i], NULL);
        cr_expect_eq(r[i].rc, 0, "%s", r[i].err.msg);
    }
    cr_expect_eq(engine->ops->inspect(engine, m.container, &info, &err), -1);
    cr_expect_eq(err.code, SBX_E_NOT_FOUND);
}

Test(engine_docker, descriptors_are_given_back)
{
    sbx_err err = {0};
    int first = dup(0);

    close(first);
    for (int i = 0; i < 5; i++) {
        sbx_engine_conn *c = NULL, *again = NULL;
        made m = make("cat", NULL);

        must(engine->ops->attach(engine, m.container, &c, &err), &err, "attach");
        must(engine->ops->start(engine, m.container, &err), &err, "start");
        cr_expect_eq(sbx_engine_conn_send(c, "ping\n", 5, &err), 5);
        cr_expect(wait_text(c, 1, "ping"));
        sbx_engine_conn_close(c);
        must(engine->ops->attach(engine, m.container, &again, &err), &err, "attach again");
        cr_expect_eq(sbx_engine_conn_send(again, "pong\n", 5, &err), 5);
        cr_expect(wait_text(again, 1, "pong"));
        sbx_engine_conn_close(again);
        must(engine->ops->remove(engine, m.container, &err), &err, "remove");
        int now = dup(0);

        /* The pool keeps one connection and its wake-up pair. */
        cr_expect(now <= first + 6, "%d descriptors stay", now - first);
        close(now);
    }
}
