/* Operations on one container: start, stop, pause, unpause, remove, inspect. */
#include "docker.h"
#include "sbx/core/clock.h"
#include <stdio.h>

#define FREEZE_TRIES    5
#define FREEZE_AGAIN_MS 100

void docker_what(char *out, size_t cap, const char *doing, const char *name)
{
    char clean[96];

    docker_clean(clean, sizeof(clean), name, strlen(name));
    snprintf(out, cap, "%s %s", doing, clean);
}

/* [a-zA-Z0-9][a-zA-Z0-9_.-]*, as the engine defines names; ids are a subset. */
static bool name_valid(const char *s)
{
    static const char first[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    static const char more[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
    size_t n = s ? strlen(s) : 0;

    return n > 0 && n <= 255 && strchr(first, s[0]) && strspn(s, more) == n;
}

int docker_container_path(sbx_buf *path, const char *id, const char *suffix, sbx_err *err)
{
    if (!name_valid(id))
        return sbx_fail(err, SBX_E_INVALID, "not a container's name or id");
    sbx_buf_addf(path, "/containers/%s%s", id, suffix);
    return 0;
}

/* A call of the form METHOD /containers/{id}SUFFIX that answers without a body. */
static int verb(sbx_engine *e, const char *method, const char *id, const char *suffix,
                const char *doing, int64_t timeout_ms, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf path = SBX_BUF_INIT(DOCKER_PATH_BYTES);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    char what[160];

    if (docker_container_path(&path, id, suffix, err))
        return sbx_wrap(err, "%s", doing);
    docker_what(what, sizeof(what), doing, id);
    docker_req q = {
        .method = method, .path = path.data, .max_bytes = MIB, .timeout_ms = timeout_ms};

    return docker_call((sbx_docker *)e, &q, what, &res, err);
}

int docker_start(sbx_engine *e, const char *id, sbx_err *err)
{
    return verb(e, "POST", id, "/start", "starting container", 0, err);
}

int docker_stop(sbx_engine *e, const char *id, int grace_s, sbx_err *err)
{
    char suffix[40];

    grace_s = SBX_MAX(grace_s, 0);
    snprintf(suffix, sizeof(suffix), "/stop?t=%d", grace_s);
    return verb(e, "POST", id, suffix, "stopping container",
                ((sbx_docker *)e)->timeout_ms + (int64_t)grace_s * 1000, err);
}

/* On the first version of cgroups a busy kernel may not have frozen all by the time that runc gives
 * up, and thaws it again. */
int docker_freeze(sbx_engine *e, const char *id, sbx_err *err)
{
    for (int tries = 1;; tries++) {
        sbx_err got = {0};

        if (verb(e, "POST", id, "/pause", "pausing container", 0, &got) == 0)
            return 0;
        if (tries == FREEZE_TRIES || !strstr(got.msg, "unable to freeze")) {
            if (err)
                *err = got;
            return -1;
        }
        if (docker_nap(FREEZE_AGAIN_MS, "pausing container", err))
            return -1;
    }
}

int docker_thaw(sbx_engine *e, const char *id, sbx_err *err)
{
    return verb(e, "POST", id, "/unpause", "resuming container", 0, err);
}

/* Another caller is removing it: wait until it is gone. */
static int wait_gone(sbx_engine *e, const char *id, sbx_err *err)
{
    int64_t end = sbx_now_ms() + ((sbx_docker *)e)->timeout_ms;

    while (sbx_now_ms() < end) {
        sbx_container_info info;
        sbx_err seen = {0};

        if (docker_inspect(e, id, &info, &seen)) {
            if (seen.code == SBX_E_NOT_FOUND)
                return 0;
            if (err)
                *err = seen;
            return -1;
        }
        if (docker_nap(50, "waiting for a removal", err))
            return -1;
    }
    return sbx_fail(err, SBX_E_TIMEOUT, "the container is still being removed");
}

int docker_remove(sbx_engine *e, const char *id, sbx_err *err)
{
    sbx_err got = {0};

    if (verb(e, "DELETE", id, "?force=1&v=1", "removing container", 0, &got) == 0 ||
        got.code == SBX_E_NOT_FOUND)
        return 0;
    if (got.code == SBX_E_CONFLICT && strstr(got.msg, "already in progress"))
        return wait_gone(e, id, err);
    if (err)
        *err = got;
    return -1;
}

static void read_info(const sbx_json *json, sbx_container_info *i)
{
    const sbx_json *config = sbx_json_get(json, "Config"), *state = sbx_json_get(json, "State");
    const sbx_json *labels = sbx_json_get(config, "Labels");
    const char *name = docker_str(sbx_json_get(json, "Name"));

    sbx_copy(i->id, sizeof(i->id), docker_str(sbx_json_get(json, "Id")));
    sbx_copy(i->name, sizeof(i->name), name + (name[0] == '/'));
    sbx_copy(i->image, sizeof(i->image), docker_str(sbx_json_get(config, "Image")));
    sbx_copy(i->image_id, sizeof(i->image_id), docker_str(sbx_json_get(json, "Image")));
    sbx_copy(i->sandbox_id, sizeof(i->sandbox_id), docker_str(sbx_json_get(labels, "sandboxd.id")));
    sbx_copy(i->cluster, sizeof(i->cluster), docker_str(sbx_json_get(labels, "sandboxd.cluster")));
    sbx_copy(i->state, sizeof(i->state), docker_str(sbx_json_get(state, "Status")));
    i->exit_code = (int)sbx_json_int(sbx_json_get(state, "ExitCode"), 0);
    i->oom_killed = sbx_json_bool(sbx_json_get(state, "OOMKilled"), false);
    const sbx_json *host = sbx_json_get(json, "HostConfig");
    int64_t period = sbx_json_int(sbx_json_get(host, "CpuPeriod"), 0);

    i->cpu_milli = period > 0 ? sbx_json_int(sbx_json_get(host, "CpuQuota"), 0) * 1000 / period : 0;
    i->memory_bytes = sbx_json_int(sbx_json_get(host, "Memory"), 0);
    i->pids = SBX_MAX(sbx_json_int(sbx_json_get(host, "PidsLimit"), 0), 0);
    i->created_at_ms = docker_time_ms(sbx_json_str(sbx_json_get(json, "Created")));
    i->started_at_ms = docker_time_ms(sbx_json_str(sbx_json_get(state, "StartedAt")));
}

int docker_inspect(sbx_engine *e, const char *id, sbx_container_info *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf path = SBX_BUF_INIT(DOCKER_PATH_BYTES);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    SBX_CLEANUP(sbx_json_free) sbx_json *json = NULL;
    sbx_container_info info = {0};
    char what[160];

    if (docker_container_path(&path, id, "/json", err))
        return -1;
    docker_what(what, sizeof(what), "inspecting container", id);
    docker_req q = {.method = "GET", .path = path.data, .max_bytes = DOCKER_ENTRY_BYTES};

    if (docker_call((sbx_docker *)e, &q, what, &res, err) ||
        docker_parse(res.body.data, res.body.len, &json, err))
        return -1;
    read_info(json, &info);
    if (!info.id[0] || !info.state[0])
        return sbx_fail(err, SBX_E_ENGINE, "%s: the engine's answer lacks id or state", what);
    *ret = info;
    return 0;
}

/* --- limits --- */

static int enough_memory(sbx_engine *e, const char *id, int64_t wanted, sbx_err *err)
{
    sbx_usage u;
    sbx_err got = {0};

    if (docker_usage(e, id, &u, &got)) {
        if (got.code == SBX_E_CONFLICT) /* it does not run */
            return 0;
        if (err)
            *err = got;
        return -1;
    }
    int64_t used = SBX_MAX(u.memory_bytes, 0);
    if (used < wanted)
        return 0;
    return sbx_fail(err, SBX_E_CONFLICT,
                    "%lld MiB of memory are in use, more than the limit of %lld",
                    (long long)(used / (int64_t)MIB), (long long)(wanted / (int64_t)MIB));
}

/* cgroup v1 refuses a limit below the use, v2 would kill processes: so it is looked at first. */
int docker_update(sbx_engine *e, const char *id, int64_t cpu_milli, int64_t memory_bytes,
                  int64_t pids, bool fresh, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf path = SBX_BUF_INIT(DOCKER_PATH_BYTES);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf body = SBX_BUF_INIT(KIB);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    sbx_jw w = SBX_JW(&body);
    sbx_err got = {0};
    char what[160];

    if (memory_bytes > 0 && !fresh && enough_memory(e, id, memory_bytes, err))
        return -1;
    sbx_jw_obj(&w, NULL);
    docker_write_limits(&w, cpu_milli, memory_bytes, pids);
    sbx_jw_obj_end(&w);
    if (docker_container_path(&path, id, "/update", err))
        return -1;
    docker_what(what, sizeof(what), "changing the limits of container", id);
    docker_req q = {.method = "POST",
                    .path = path.data,
                    .body = body.data,
                    .body_len = body.len,
                    .max_bytes = MIB};

    if (docker_call((sbx_docker *)e, &q, what, &res, &got) == 0)
        return 0;
    if (memory_bytes > 0 && strstr(got.msg, "device or resource busy"))
        got.code = SBX_E_CONFLICT; /* it grew meanwhile */
    if (err)
        *err = got;
    return -1;
}
