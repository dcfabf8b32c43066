/* The agent's volume on the engine that runs here. */
#include "engine_fixture.h"

TestSuite(engine_volume, .init = setup, .fini = teardown, .timeout = 120);

typedef struct volume {
    char name[64];
} volume;

static volume volume_new(void)
{
    volume v;

    snprintf(v.name, sizeof(v.name), "sbx-test-%s", sbx_id_new().s);
    return v;
}

static void volume_drop(const volume *v)
{
    char path[128];

    snprintf(path, sizeof(path), "/volumes/%s?force=1", v->name);
    order("DELETE", path, NULL);
}

static const char script_file[] = "#!/busybox sh\necho from the volume\n";

static const char other_file[] = "#!/busybox sh\necho the other\n";

/* Whoever finds one of them finds the other. */
static const sbx_volume_file files[] = {{"tool", script_file, sizeof(script_file) - 1},
                                        {"other", other_file, sizeof(other_file) - 1}};

static int ensure(const volume *v, sbx_err *err)
{
    return engine->ops->volume_ensure(engine, v->name, cluster, files, ARRAY_LEN(files), err);
}

/* Run the volume's file in a container. */
static bool volume_works(const volume *v)
{
    sbx_engine_conn *c = NULL;
    sbx_err err = {0};
    made m = make("/.sbx/tool; /.sbx/other; echo x > /.sbx/tool || echo read-only", v->name);

    must(engine->ops->attach(engine, m.container, &c, &err), &err, "attach");
    must(engine->ops->start(engine, m.container, &err), &err, "start");
    bool ok = wait_text(c, 1, "from the volume\nthe other\nread-only\n");

    sbx_engine_conn_close(c);
    must(engine->ops->remove(engine, m.container, &err), &err, "remove");
    return ok;
}

static size_t seeds(void)
{
    sbx_container_info *all = NULL;
    size_t count = 0;
    sbx_err err = {0};

    must(docker_list_label((sbx_docker *)engine, cluster, "sandboxd.role=seed", &all, &count, &err),
         &err, "list of seeds");
    free(all);
    return count;
}

Test(engine_volume, a_volume_is_filled_once_and_read_only_inside)
{
    volume v = volume_new();
    sbx_err err = {0};

    must(ensure(&v, &err), &err, "ensure");
    must(ensure(&v, &err), &err, "ensure again");
    cr_expect(volume_works(&v));
    cr_expect_eq(seeds(), 0);
    engine->ops->volume_forget(engine, v.name);
    must(ensure(&v, &err), &err, "ensure of a complete one that was forgotten");
    cr_expect(volume_works(&v));
    volume_drop(&v);
}

Test(engine_volume, a_volume_that_vanished_is_filled_again)
{
    volume v = volume_new();
    sbx_err err = {0};

    must(ensure(&v, &err), &err, "ensure");
    volume_drop(&v);
    cr_expect_not(volume_works(&v)); /* the engine makes an empty one */
    must(ensure(&v, &err), &err, "ensure from memory");
    cr_expect_not(volume_works(&v));
    engine->ops->volume_forget(engine, v.name);
    must(ensure(&v, &err), &err, "ensure");
    cr_expect(volume_works(&v));
    volume_drop(&v);
}

typedef struct filler {
    const volume *v;
    sbx_engine *engine;
    int rc;
    sbx_err err;
} filler;

static void *fill_volume(void *arg)
{
    filler *f = arg;

    f->rc = f->engine->ops->volume_ensure(f->engine, f->v->name, cluster, files, ARRAY_LEN(files),
                                          &f->err);
    return NULL;
}

/* Three clients stand for three servers, two threads each. */
Test(engine_volume, fillers_of_one_volume_do_not_disturb_each_other)
{
    sbx_docker_config c = {.host = "unix:///var/run/docker.sock", .timeout_ms = 60000};
    volume v = volume_new();
    sbx_engine *clients[3];
    filler f[6];
    pthread_t t[6];
    sbx_err err = {0};

    if (getenv("DOCKER_HOST"))
        c.host = getenv("DOCKER_HOST");
    for (int i = 0; i < 3; i++)
        must(sbx_docker_new(&c, &clients[i], &err), &err, "new");
    for (int i = 0; i < 6; i++) {
        f[i] = (filler){.v = &v, .engine = clients[i % 3]};
        pthread_create(&t[i], NULL, fill_volume, &f[i]);
    }
    for (int i = 0; i < 6; i++) {
        pthread_join(t[i], NULL);
        cr_expect_eq(f[i].rc, 0, "%s", f[i].err.msg);
    }
    cr_expect(volume_works(&v));
    cr_expect_eq(seeds(), 0);
    for (int i = 0; i < 3; i++)
        clients[i]->ops->free(clients[i]);
    volume_drop(&v);
}

/* Removes whatever seed there is, as a filler does that takes it for one that was left. */
static void *remove_seeds(void *arg)
{
    const atomic_bool *over = arg;
    sbx_container_info *all;
    size_t count;
    sbx_err err;

    while (!atomic_load(over)) {
        if (docker_list_label((sbx_docker *)engine, cluster, "sandboxd.role=seed", &all, &count,
                              &err))
            continue;
        for (size_t i = 0; i < count; i++)
            (void)!engine->ops->remove(engine, all[i].id, &err);
        free(all);
        poll(NULL, 0, 40);
    }
    return NULL;
}

Test(engine_volume, a_filler_whose_seed_was_taken_begins_again)
{
    atomic_bool over = false;
    volume v = volume_new();
    pthread_t t;
    sbx_err err = {0};
    int done = 0;

    pthread_create(&t, NULL, remove_seeds, &over);
    for (int i = 0; i < 10; i++) {
        if (ensure(&v, &err) == 0)
            done++;
        else /* again and again, until it gave up: never a torn file */
            cr_expect(err.code == SBX_E_NOT_FOUND || err.code == SBX_E_ENGINE, "%s", err.msg);
        engine->ops->volume_forget(engine, v.name);
    }
    atomic_store(&over, true);
    pthread_join(t, NULL);
    cr_expect_gt(done, 0);
    must(ensure(&v, &err), &err, "ensure");
    cr_expect(volume_works(&v));
    cr_expect_eq(seeds(), 0);
    volume_drop(&v);
}

Test(engine_volume, a_seed_whose_server_was_killed_holds_the_next_for_3_s_at_most)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf body = SBX_BUF_INIT(8 * KIB);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf path = SBX_BUF_INIT(1024);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    volume v = volume_new();
    sbx_err err = {0};

    must(ensure(&v, &err), &err, "ensure"); /* so that the image of seeds is there */
    engine->ops->volume_forget(engine, v.name);
    sbx_buf_addf(&path, "/containers/create?name=sandboxd-seed-%s", v.name);
    sbx_buf_addf(&body,
                 "{\"Image\":\"sandboxd/seed:1\",\"Entrypoint\":[\"/x\"],\"Labels\":{"
                 "\"sandboxd.cluster\":\"%s\",\"sandboxd.role\":\"seed\"}}",
                 cluster);
    docker_req q = {.method = "POST", .path = path.data, .body = body.data, .body_len = body.len};

    must(docker_call((sbx_docker *)engine, &q, "a seed", &res, &err), &err, "a seed");
    int64_t start = sbx_now_ms();

    must(ensure(&v, &err), &err, "ensure");
    cr_expect_lt(sbx_now_ms() - start, 3000);
    cr_expect(volume_works(&v));
    cr_expect_eq(seeds(), 0);
    volume_drop(&v);
}

Test(engine_volume, a_half_filled_volume_is_completed)
{
    static const sbx_volume_file half = {"tool", "#!", 2};
    volume v = volume_new();
    sbx_err err = {0};

    /* What a crash in the middle leaves: the volume, and a file that is shorter and newer. */
    must(engine->ops->volume_ensure(engine, v.name, cluster, &half, 1, &err), &err, "half");
    engine->ops->volume_forget(engine, v.name);
    must(ensure(&v, &err), &err, "ensure");
    cr_expect(volume_works(&v));
    volume_drop(&v);
}

Test(engine_volume, a_cancelled_fill_leaves_nothing_that_blocks_the_next)
{
    volume v = volume_new();
    sbx_err err = {0};

    for (int ms = 1; ms < 40; ms += 3) {
        sbx_job_scope(sbx_now_ms() + ms, NULL);
        if (ensure(&v, &err) == 0)
            break;
        cr_expect_eq(err.code, SBX_E_TIMEOUT, "%s", err.msg);
    }
    sbx_job_scope(0, NULL);
    int64_t start = sbx_now_ms();

    must(ensure(&v, &err), &err, "ensure");
    cr_expect(sbx_now_ms() - start < 3000, "waited for a seed that stayed");
    cr_expect(volume_works(&v));
    cr_expect_eq(seeds(), 0);
    volume_drop(&v);
}
