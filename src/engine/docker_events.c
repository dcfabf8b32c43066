/* The engine's events of our containers, as they happen. */
#include "docker.h"
#include "lines.h"
#include "sbx/core/clock.h"

#define EVENT_TICK_MS 500

typedef struct watching {
    docker_lines lines;
    bool (*fn)(void *arg, const sbx_engine_event *ev);
    void *arg;
    int64_t next_tick_ms;
} watching;

static void watching_done(watching *w)
{
    docker_lines_done(&w->lines);
}

static int digits(const char *s)
{
    int n = 0;

    for (; *s >= '0' && *s <= '9' && n < 1000; s++)
        n = n * 10 + (*s - '0');
    return n;
}

static bool on_value(void *arg, char *text, size_t len)
{
    watching *w = arg;
    SBX_CLEANUP(sbx_json_free) sbx_json *json = NULL;

    if (docker_parse(text, len, &json, NULL))
        return true; /* the sweep finds what an unreadable event would have told */
    const sbx_json *actor = sbx_json_get(json, "Actor"), *a = sbx_json_get(actor, "Attributes");
    sbx_engine_event ev = {
        .action = docker_str(sbx_json_get(json, "Action")),
        .container_id = docker_str(sbx_json_get(actor, "ID")),
        .sandbox_id = docker_str(sbx_json_get(a, "sandboxd.id")),
        .cluster = docker_str(sbx_json_get(a, "sandboxd.cluster")),
        .exit_code = digits(docker_str(sbx_json_get(a, "exitCode"))),
        .time_ns = sbx_json_int(sbx_json_get(json, "timeNano"), 0),
    };

    return !ev.action[0] || !ev.container_id[0] || w->fn(w->arg, &ev);
}

static bool on_piece(void *arg, const char *data, size_t len)
{
    watching *w = arg;

    return docker_lines_take(&w->lines, data, len, on_value, w);
}

static bool on_tick(void *arg)
{
    watching *w = arg;

    if (sbx_now_ms() < w->next_tick_ms)
        return true;
    w->next_tick_ms = sbx_now_ms() + EVENT_TICK_MS;
    return w->fn(w->arg, NULL);
}

static void event_path(sbx_buf *path, const char *cluster, int64_t since_ns)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf json = SBX_BUF_INIT(1024);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf pair = SBX_BUF_INIT(256);
    sbx_jw w = SBX_JW(&json);

    sbx_buf_addf(&pair, "sandboxd.cluster=%s", cluster);
    sbx_jw_obj(&w, NULL);
    sbx_jw_arr(&w, "type");
    sbx_jw_str(&w, NULL, "container");
    sbx_jw_arr_end(&w);
    sbx_jw_arr(&w, "label");
    sbx_jw_str(&w, NULL, pair.data);
    sbx_jw_str(&w, NULL, "sandboxd.id");
    sbx_jw_arr_end(&w);
    sbx_jw_obj_end(&w);
    sbx_buf_adds(path, "/events?");
    if (since_ns > 0) {
        /* JSON numbers keep 53 bits: a time read back may be some hundred ns late. */
        since_ns -= SBX_MIN(since_ns, 1000);
        sbx_buf_addf(path, "since=%lld.%09lld&", (long long)(since_ns / 1000000000),
                     (long long)(since_ns % 1000000000));
    }
    sbx_buf_adds(path, "filters=");
    if (sbx_buf_failed(&json) || sbx_buf_failed(&pair))
        path->failed = true;
    else
        docker_escape(path, json.data);
}

int docker_events(sbx_engine *e, const char *cluster, int64_t since_ns,
                  bool (*fn)(void *arg, const sbx_engine_event *ev), void *arg, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf path = SBX_BUF_INIT(DOCKER_PATH_BYTES);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    SBX_CLEANUP_VAL(watching_done) watching w = {.fn = fn, .arg = arg};

    docker_lines_init(&w.lines, DOCKER_LINE_BYTES);
    event_path(&path, cluster, since_ns);
    if (sbx_buf_failed(&path))
        return sbx_fail(err, SBX_E_INVALID, "watching events: the cluster's name is too long");
    docker_req q = {.method = "GET",
                    .path = path.data,
                    .piece = on_piece,
                    .tick = on_tick,
                    .arg = &w,
                    .timeout_ms = -1};

    if (docker_call((sbx_docker *)e, &q, "watching events", &res, err))
        return -1;
    if (res.gave_up)
        return 0;
    return sbx_fail(err, SBX_E_ENGINE_UNAVAILABLE, "watching events: the engine ended the stream");
}
