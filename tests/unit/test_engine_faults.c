/* The engine client against an engine that misbehaves (tests/fakes/fake_engine.py). */
#include "engine_fixture.h"

TestSuite(engine_faults, .init = setup, .fini = teardown, .timeout = 60);

Test(engine_faults, each_bad_answer_has_its_code)
{
    static const struct {
        const char *name;
        sbx_code code;
        const char *says;
    } cases[] = {
        {"half", SBX_E_ENGINE_UNAVAILABLE, ""},
        {"nothing", SBX_E_ENGINE_UNAVAILABLE, ""},
        {"hang", SBX_E_TIMEOUT, "did not answer in time"},
        {"half_hang", SBX_E_TIMEOUT, "did not answer in time"},
        {"trickle", SBX_E_TIMEOUT, "did not answer in time"},
        {"e500", SBX_E_ENGINE, "boom [2J"},
        {"e503", SBX_E_ENGINE_UNAVAILABLE, "starting"},
        {"e400", SBX_E_INVALID, "bad parameter"},
        {"e418", SBX_E_ENGINE, "418"},
        {"redirect", SBX_E_ENGINE, "301"},
        {"garbage", SBX_E_ENGINE_UNAVAILABLE, ""},
        {"not_json", SBX_E_ENGINE, "answer"},
        {"wrong_json", SBX_E_ENGINE, "lacks"},
        {"endless", SBX_E_ENGINE, "too large"},
        {"headers", SBX_E_ENGINE, "too large"},
    };
    sbx_container_info info;

    start_with(NULL, 500);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_err err = {0};
        int64_t start = sbx_now_ms();

        cr_expect_eq(engine->ops->inspect(engine, cases[i].name, &info, &err), -1, "%s",
                     cases[i].name);
        cr_expect_eq(err.code, cases[i].code, "%s: %s", cases[i].name, err.msg);
        cr_expect(strstr(err.msg, cases[i].says) != NULL, "%s: %s", cases[i].name, err.msg);
        for (const char *p = err.msg; *p; p++)
            cr_expect(*p >= ' ' && *p < 0x7f, "%s: %s", cases[i].name, err.msg);
        cr_expect(sbx_now_ms() - start < 10000, "%s took too long", cases[i].name);
        /* And the next call works. */
        cr_expect_eq(engine->ops->inspect(engine, "fine", &info, &err), 0, "after %s: %s",
                     cases[i].name, err.msg);
    }
}

Test(engine_faults, a_pause_that_found_the_kernel_busy_is_tried_again)
{
    sbx_err err = {0};

    start_with(NULL, 5000);
    cr_expect_eq(engine->ops->pause(engine, "busy_freezer", &err), 0, "%s", err.msg);
    cr_expect_eq(engine->ops->pause(engine, "busy_freezer", &err), -1, "not for ever");
    cr_expect_eq(err.code, SBX_E_ENGINE);
}

Test(engine_faults, an_inspected_container_is_read)
{
    sbx_container_info i;
    sbx_err err = {0};

    start_with(NULL, 5000);
    cr_assert_eq(engine->ops->inspect(engine, "box", &i, &err), 0, "%s", err.msg);
    cr_expect_str_eq(i.name, "v1.41-box");
    cr_expect_str_eq(i.sandbox_id, "aaaaaaaaaaaaaaaaaaaa");
    cr_expect_str_eq(i.cluster, "c");
    cr_expect_str_eq(i.state, "running");
    cr_expect_eq(i.created_at_ms, 1769854830123);
    cr_expect_eq(i.started_at_ms, 1769854830500);
}

Test(engine_faults, a_create_without_a_valid_id_fails)
{
    const char *entry[] = {"/x", NULL};
    sbx_container_spec s = {.name = "bad_id", .image = "i", .entrypoint = entry};
    char id[65] = "untouched";
    sbx_err err = {0};

    start_with(NULL, 5000);
    cr_expect_eq(engine->ops->create(engine, &s, id, &err), -1);
    cr_expect_eq(err.code, SBX_E_ENGINE, "%s", err.msg);
    cr_expect_str_eq(id, "untouched");
}

/* --- versions --- */

static const struct version_case {
    const char *name, *api, *min_api, *says;
    sbx_code code;
} versions[] = {
    {"too old", "1.40", "1.12", "too old", SBX_E_ENGINE},
    {"oldest", "1.41", "1.12", "v1.41-box", SBX_OK},
    {"between", "1.47", "1.24", "v1.47-box", SBX_OK},
    {"newer than ours", "1.60", "1.44", "v1.51-box", SBX_OK},
    {"too new", "1.60", "1.52", "too new", SBX_E_ENGINE},
    {"not a version", "latest", "1.12", "like a Docker Engine", SBX_E_ENGINE},
    {"version 2", "2.0", "1.12", "like a Docker Engine", SBX_E_ENGINE},
};

Test(engine_faults, the_version_is_negotiated)
{
    for (size_t i = 0; i < ARRAY_LEN(versions); i++) {
        const struct version_case *v = &versions[i];
        const char *extra[] = {"--api", v->api, "--min-api", v->min_api, NULL};
        sbx_container_info info = {0};
        sbx_err err = {0};

        start_with(extra, 5000);
        int rc = engine->ops->inspect(engine, "box", &info, &err);

        cr_expect_eq(err.code, v->code, "%s: %s", v->name, err.msg);
        cr_expect(strstr(rc ? err.msg : info.name, v->says) != NULL, "%s: %s", v->name,
                  rc ? err.msg : info.name);
        engine->ops->free(engine);
        fake_stop(&the_fake);
        engine = NULL;
        the_fake.pid = 0;
    }
}

Test(engine_faults, the_version_line_is_printable)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf text = SBX_BUF_INIT(256);
    sbx_err err = {0};

    start_with(NULL, 5000);
    cr_assert_eq(engine->ops->ping(engine, &text, &err), 0, "%s", err.msg);
    cr_expect_str_eq(text.data, "Docker Engine 99.1 [31m, API 1.41");
}

/* --- connections --- */

Test(engine_faults, no_engine_is_named_with_its_address_and_what_to_check)
{
    static const struct {
        const char *host, *says;
    } cases[] = {
        {"unix:///nowhere/docker.sock", "does not exist"},
        {"tcp://127.0.0.1:1", "nobody listens"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_engine *e = client(cases[i].host, 5000);
        sbx_err err = {0};

        cr_expect_eq(e->ops->ping(e, NULL, &err), -1);
        cr_expect_eq(err.code, SBX_E_ENGINE_UNAVAILABLE);
        cr_expect(strstr(err.msg, cases[i].host) && strstr(err.msg, cases[i].says), "%s", err.msg);
        e->ops->free(e);
    }
}

Test(engine_faults, a_socket_without_permission_says_so)
{
    char path[100];
    sbx_err err = {0};

    start_with(NULL, 5000);
    snprintf(path, sizeof(path), "%s/s", folder);
    chmod(folder, 0711);
    chmod(path, 0600);
    cr_assert(geteuid() != 0 || seteuid(65534) == 0);
    cr_expect_eq(engine->ops->ping(engine, NULL, &err), -1);
    cr_expect(seteuid(getuid()) == 0);
    if (getuid() == 0) {
        cr_expect_eq(err.code, SBX_E_ENGINE_UNAVAILABLE);
        cr_expect(strstr(err.msg, "permission denied") != NULL, "%s", err.msg);
    }
}

Test(engine_faults, connections_are_kept_between_calls)
{
    sbx_container_info first, last;
    sbx_err err = {0};

    start_with(NULL, 5000);
    cr_assert_eq(engine->ops->inspect(engine, "count", &first, &err), 0, "%s", err.msg);
    for (int i = 0; i < 20; i++)
        cr_assert_eq(engine->ops->inspect(engine, "count", &last, &err), 0, "%s", err.msg);
    cr_expect_eq(first.created_at_ms, 1000);
    cr_expect_eq(last.created_at_ms, 1000, "the fake counted %lld connections",
                 (long long)last.created_at_ms / 1000);
}

Test(engine_faults, a_kept_connection_that_the_engine_closed_fails_nothing)
{
    sbx_container_info info;
    sbx_err err = {0};

    start_with(NULL, 5000);
    for (int i = 0; i < 50; i++)
        cr_expect_eq(engine->ops->inspect(engine, "stale", &info, &err), 0, "call %d: %s", i,
                     err.msg);
}

Test(engine_faults, an_engine_that_restarts_with_another_version_is_found_again)
{
    static const char *const newer[] = {"--api", "1.45", NULL};
    sbx_container_info info;
    sbx_err err = {0};
    char path[100];
    const char *args[] = {"--socket", path, newer[0], newer[1], NULL};

    start_with(NULL, 5000);
    snprintf(path, sizeof(path), "%s/s", folder);
    cr_assert_eq(engine->ops->inspect(engine, "box", &info, &err), 0, "%s", err.msg);
    fake_stop(&the_fake);
    cr_expect_eq(engine->ops->inspect(engine, "box", &info, &err), -1);
    cr_expect_eq(err.code, SBX_E_ENGINE_UNAVAILABLE, "%s", err.msg);
    unlink(path);
    the_fake = fake_start(args);
    cr_assert_eq(engine->ops->inspect(engine, "box", &info, &err), 0, "%s", err.msg);
    cr_expect_str_eq(info.name, "v1.45-box");
}

Test(engine_faults, an_engine_replaced_between_two_calls_is_asked_again)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf text = SBX_BUF_INIT(256);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf later = SBX_BUF_INIT(256);
    sbx_container_info info;
    sbx_err err = {0};
    char path[100];
    const char *args[] = {"--socket", path, "--api", "1.60", "--min-api", "1.44", NULL};

    start_with(NULL, 5000);
    snprintf(path, sizeof(path), "%s/s", folder);
    for (int i = 0; i < 2; i++) { /* the second is answered by the engine's ping */
        sbx_buf_reset(&text);
        cr_assert_eq(engine->ops->ping(engine, &text, &err), 0, "%s", err.msg);
        cr_expect_str_eq(text.data, "Docker Engine 99.1 [31m, API 1.41");
    }
    fake_stop(&the_fake);
    unlink(path);
    the_fake = fake_start(args);
    cr_assert_eq(engine->ops->inspect(engine, "box", &info, &err), 0, "%s", err.msg);
    cr_expect_str_eq(info.name, "v1.51-box");
    fake_stop(&the_fake);
    unlink(path);
    args[3] = "1.50";
    the_fake = fake_start(args);
    cr_assert_eq(engine->ops->ping(engine, &later, &err), 0, "%s", err.msg);
    cr_expect_str_eq(later.data, "Docker Engine 99.1 [31m, API 1.50");
}

/* --- jobs --- */

static void *raise_later(void *flag)
{
    poll(NULL, 0, 100);
    atomic_store((atomic_bool *)flag, true);
    return NULL;
}

/* One call that never ends by itself. @return its error code. */
static sbx_code endless_call(int which)
{
    sbx_container_info info;
    sbx_engine_conn *c = NULL;
    sbx_err err = {0};

    if (which == 0)
        (void)engine->ops->inspect(engine, "hang", &info, &err);
    else
        (void)engine->ops->attach(engine, "hang", &c, &err);
    return err.code;
}

Test(engine_faults, a_cancelled_job_ends_its_call_at_once)
{
    start_with(NULL, 30000);
    for (int which = 0; which < 2; which++) {
        atomic_bool cancelled = false;
        pthread_t t;
        int64_t start = sbx_now_ms();

        sbx_job_scope(0, &cancelled);
        pthread_create(&t, NULL, raise_later, &cancelled);
        cr_expect_eq(endless_call(which), SBX_E_CANCELLED, "call %d", which);
        cr_expect(sbx_now_ms() - start < 1500, "call %d", which);
        pthread_join(t, NULL);
        sbx_job_scope(0, NULL);
    }
}

/* Cut off, the engine would make it all the same, behind the removal of what is not there yet. */
Test(engine_faults, a_create_that_was_sent_is_not_cut_off_by_a_cancelled_job)
{
    const char *entry[] = {"/x", NULL};
    sbx_container_spec s = {.name = "late", .image = "i", .entrypoint = entry};
    atomic_bool cancelled = false;
    char id[65] = "";
    pthread_t t;
    sbx_err err = {0};

    start_with(NULL, 30000);
    sbx_job_scope(0, &cancelled);
    pthread_create(&t, NULL, raise_later, &cancelled);
    cr_expect_eq(engine->ops->create(engine, &s, id, &err), 0, "%s", err.msg);
    cr_expect_eq(strlen(id), 64);
    pthread_join(t, NULL);
    cr_expect_eq(engine->ops->create(engine, &s, id, &err), -1);
    cr_expect_eq(err.code, SBX_E_CANCELLED);
    sbx_job_scope(0, NULL);
}

Test(engine_faults, a_jobs_deadline_ends_its_call)
{
    start_with(NULL, 30000);
    for (int which = 0; which < 2; which++) {
        int64_t start = sbx_now_ms();

        sbx_job_scope(start + 200, NULL);
        cr_expect_eq(endless_call(which), SBX_E_TIMEOUT, "call %d", which);
        cr_expect(sbx_now_ms() - start < 1500, "call %d", which);
        sbx_job_scope(0, NULL);
    }
}

/* --- lists, events, pulls --- */

Test(engine_faults, a_container_with_hostile_labels_hides_no_other)
{
    sbx_container_info *all = NULL;
    size_t count = 0;
    sbx_err err = {0};

    start_with(NULL, 20000);
    cr_assert_eq(engine->ops->list(engine, "c", &all, &count, &err), 0, "%s", err.msg);
    cr_assert_eq(count, 3); /* the one with 5 MB of labels is left out */
    cr_expect_str_eq(all[0].name, "n1");
    cr_expect_str_eq(all[1].name, "n2");
    cr_expect_str_eq(all[2].name, "n4");
    cr_expect_eq(all[2].exit_code, 4);
    cr_expect_eq(all[2].created_at_ms, 1004000);
    free(all);
}

typedef struct seen {
    char text[256];
    int ticks, stop_at;
    int64_t last_ms, longest_ms;
} seen;

static bool on_event(void *arg, const sbx_engine_event *ev)
{
    seen *s = arg;
    int64_t now = sbx_now_ms();

    if (s->last_ms)
        s->longest_ms = SBX_MAX(s->longest_ms, now - s->last_ms);
    s->last_ms = now;
    if (!ev)
        return ++s->ticks != s->stop_at;
    size_t n = strlen(s->text);

    snprintf(s->text + n, sizeof(s->text) - n, "%s:%s:%d ", ev->action, ev->cluster, ev->exit_code);
    return true;
}

Test(engine_faults, events_come_one_by_one_and_the_streams_end_is_told)
{
    seen s = {0};
    sbx_err err = {0};

    start_with(NULL, 5000);
    cr_expect_eq(engine->ops->events(engine, "c", 1, on_event, &s, &err), -1);
    cr_expect_eq(err.code, SBX_E_ENGINE_UNAVAILABLE, "%s", err.msg);
    cr_expect_str_eq(s.text, "die:c:137 oom:c:0 destroy:c:3 ");
}

Test(engine_faults, a_quiet_event_stream_wakes_its_reader)
{
    static const char *const stay[] = {"--events-stay", NULL};
    seen s = {.stop_at = 3};
    sbx_err err = {0};

    start_with(stay, 5000);
    cr_expect_eq(engine->ops->events(engine, "c", 0, on_event, &s, &err), 0, "%s", err.msg);
    cr_expect_eq(s.ticks, 3);
    cr_expect(s.longest_ms < 1500, "woken after %lld ms", (long long)s.longest_ms);
}

/* --- volumes --- */

static const sbx_volume_file tool = {"tool", "abc", 3};

Test(engine_faults, filling_a_volume_removes_old_seeds_and_its_own)
{
    sbx_container_info info;
    sbx_err err = {0};

    start_with(NULL, 5000);
    cr_assert_eq(engine->ops->volume_ensure(engine, "v", "c", &tool, 1, &err), 0, "%s", err.msg);
    cr_assert_eq(engine->ops->inspect(engine, "removed", &info, &err), 0, "%s", err.msg);
    cr_expect_str_eq(info.name, "09,ef"); /* the old one, then its own */
}

Test(engine_faults, a_file_that_arrives_torn_is_no_success)
{
    sbx_container_info info;
    sbx_err err = {0};

    start_with(NULL, 5000);
    for (int i = 0; i < 2; i++) { /* nothing is remembered */
        cr_expect_eq(engine->ops->volume_ensure(engine, "torn", "c", &tool, 1, &err), -1);
        cr_expect_eq(err.code, SBX_E_ENGINE, "%s", err.msg);
        cr_expect(strstr(err.msg, "did not arrive complete") != NULL, "%s", err.msg);
    }
    cr_assert_eq(engine->ops->inspect(engine, "removed", &info, &err), 0, "%s", err.msg);
    cr_expect_str_eq(info.name, "ef,ef");
}

/* --- streams --- */

/* Receive all, as "1:text 2:text "; waits for the descriptor, never for time. */
static int drain(sbx_engine_conn *c, size_t cap, char *out, size_t out_cap, sbx_err *err)
{
    int last = 0, idle = 0;

    out[0] = 0;
    for (;;) {
        char data[64];
        int at = 0;
        ssize_t n = sbx_engine_conn_recv(c, &at, data, cap, err);
        size_t used = strlen(out);

        if (n < 0)
            return -1;
        if (n == 0) {
            struct pollfd p = {.fd = sbx_engine_conn_fd(c), .events = POLLIN};

            if (poll(&p, 1, 300) == 0 && ++idle > 1)
                return 0;
            continue;
        }
        if (at != last)
            snprintf(out + used, out_cap - used, "%d:%.*s", at, (int)n, data);
        else
            snprintf(out + used, out_cap - used, "%.*s", (int)n, data);
        last = at;
    }
}

Test(engine_faults, streams_are_taken_out_of_their_frames)
{
    static const struct {
        const char *name, *want;
        bool ends;
    } cases[] = {
        {"frames", "1:out12:err1:out2out3", true},
        {"early", "1:early2:bird", false},
        {"plain200", "1:ok", true},
        {"bad_frame", "1:good", true},
        {"huge_frame", "", true},
    };

    start_with(NULL, 5000);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        for (size_t cap = 1; cap < 64; cap += 31) {
            SBX_CLEANUP(sbx_engine_conn_close) sbx_engine_conn *c = NULL;
            char got[256];
            sbx_err err = {0};

            cr_assert_eq(engine->ops->attach(engine, cases[i].name, &c, &err), 0, "%s", err.msg);
            int rc = drain(c, cap, got, sizeof(got), &err);

            cr_expect_str_eq(got, cases[i].want, "%s", cases[i].name);
            cr_expect_eq(rc, cases[i].ends ? -1 : 0, "%s", cases[i].name);
            cr_expect_eq(err.code, cases[i].ends ? SBX_E_ENGINE_UNAVAILABLE : SBX_OK, "%s",
                         cases[i].name);
        }
    }
}

Test(engine_faults, what_is_no_stream_is_refused)
{
    static const struct {
        const char *name;
        sbx_code code;
        const char *says;
    } cases[] = {
        {"chunked", SBX_E_ENGINE, "hand the connection over"},
        {"garbage", SBX_E_ENGINE, "not HTTP"},
        {"long_head", SBX_E_ENGINE, "not HTTP"},
        {"conflict", SBX_E_CONFLICT, "container is paused"},
        {"hang", SBX_E_TIMEOUT, "did not answer"},
        {"../x", SBX_E_INVALID, "name"},
        {"", SBX_E_INVALID, "name"},
    };

    start_with(NULL, 500);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_engine_conn *c = NULL;
        sbx_err err = {0};

        cr_expect_eq(engine->ops->attach(engine, cases[i].name, &c, &err), -1, "%s", cases[i].name);
        cr_expect_eq(err.code, cases[i].code, "%s: %s", cases[i].name, err.msg);
        cr_expect(strstr(err.msg, cases[i].says) != NULL, "%s: %s", cases[i].name, err.msg);
    }
}

/* Send `total` bytes to the echo and check every one that comes back. */
static void echo(sbx_engine_conn *c, size_t total)
{
    static unsigned char out[70001], in[50021];
    size_t sent = 0, got = 0;
    sbx_err err = {0};

    while (got < total) {
        size_t off = sent % 251, n = SBX_MIN(sizeof(out) - off, total - sent);
        int at;

        for (size_t i = 0; sent < total && i < n; i++)
            out[i] = (unsigned char)((sent + i) % 251);
        ssize_t s = sent < total && sent - got < MIB ? sbx_engine_conn_send(c, out, n, &err) : 0;
        ssize_t r = sbx_engine_conn_recv(c, &at, in, sizeof(in), &err);

        cr_assert(s >= 0 && r >= 0, "%s", err.msg);
        for (ssize_t i = 0; i < r; i++)
            cr_assert_eq(in[i], (got + (size_t)i) % 251);
        sent += (size_t)s;
        got += (size_t)r;
        if (s == 0 && r == 0) {
            struct pollfd p = {.fd = sbx_engine_conn_fd(c), .events = POLLIN};

            cr_assert(poll(&p, 1, 10000) >= 0);
        }
    }
}

Test(engine_faults, a_stream_carries_bytes_both_ways)
{
    SBX_CLEANUP(sbx_engine_conn_close) sbx_engine_conn *c = NULL;
    sbx_err err = {0};

    start_with(NULL, 5000);
    cr_assert_eq(engine->ops->attach(engine, "echo", &c, &err), 0, "%s", err.msg);
    echo(c, 5000000);
}

Test(engine_faults, a_stream_whose_engine_died_ends)
{
    SBX_CLEANUP(sbx_engine_conn_close) sbx_engine_conn *c = NULL;
    char got[64];
    sbx_err err = {0};

    start_with(NULL, 5000);
    cr_assert_eq(engine->ops->attach(engine, "echo", &c, &err), 0, "%s", err.msg);
    fake_stop(&the_fake);
    the_fake.pid = 0;
    cr_expect_eq(drain(c, 64, got, sizeof(got), &err), -1);
    cr_expect_eq(err.code, SBX_E_ENGINE_UNAVAILABLE);
    cr_expect_eq(sbx_engine_conn_send(c, "x", 1, &err), -1);
    cr_expect_eq(err.code, SBX_E_ENGINE_UNAVAILABLE);
}

/* --- TLS --- */

static sbx_engine *tls_client(int port, const char *certs)
{
    char host[64];
    sbx_docker_config c = {.host = host, .tls = true, .cert_path = certs, .timeout_ms = 5000};
    sbx_engine *e = NULL;
    sbx_err err = {0};

    snprintf(host, sizeof(host), "tcp://127.0.0.1:%d", port);
    cr_assert_eq(sbx_docker_new(&c, &e, &err), 0, "%s", err.msg);
    return e;
}

Test(engine_faults, tls_serves_calls_and_streams)
{
    const char *args[] = {"--tls", folder, NULL};
    SBX_CLEANUP(sbx_engine_conn_close) sbx_engine_conn *c = NULL;
    SBX_CLEANUP(sbx_engine_conn_close) sbx_engine_conn *early = NULL;
    sbx_container_info info;
    char got[256];
    sbx_err err = {0};

    the_fake = fake_start(args);
    engine = tls_client(the_fake.port, folder);
    cr_assert_eq(engine->ops->inspect(engine, "box", &info, &err), 0, "%s", err.msg);
    cr_assert_eq(engine->ops->attach(engine, "early", &early, &err), 0, "%s", err.msg);
    cr_expect_eq(drain(early, 3, got, sizeof(got), &err), 0, "%s", err.msg);
    cr_expect_str_eq(got, "1:early2:bird");
    cr_assert_eq(engine->ops->attach(engine, "echo", &c, &err), 0, "%s", err.msg);
    echo(c, 3000000);
}

Test(engine_faults, tls_with_an_authority_of_somebody_else_is_refused)
{
    const char *args[] = {"--tls", folder, NULL};
    char other[64] = "/tmp/sbx-engine-XXXXXX";
    const char *other_args[] = {"--tls", other, NULL};
    sbx_engine_conn *c = NULL;
    sbx_err err = {0};

    cr_assert(mkdtemp(other) != NULL);
    the_fake = fake_start(args);
    fake stranger = fake_start(other_args);
    sbx_engine *e = tls_client(stranger.port, folder);

    cr_expect_eq(e->ops->ping(e, NULL, &err), -1);
    cr_expect_eq(err.code, SBX_E_ENGINE_UNAVAILABLE);
    cr_expect(strstr(err.msg, "TLS") != NULL, "%s", err.msg);
    cr_expect_eq(e->ops->attach(e, "echo", &c, &err), -1);
    e->ops->free(e);
    fake_stop(&stranger);
    char mine[64];

    memcpy(mine, folder, sizeof(mine));
    memcpy(folder, other, sizeof(folder));
    fake keep = the_fake;

    the_fake.pid = 0;
    teardown();
    memcpy(folder, mine, sizeof(folder));
    the_fake = keep;
    engine = NULL;
}
