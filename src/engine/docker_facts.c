/* What the engine says of itself and its host. */
#include "docker.h"

static void runtimes(const sbx_json *all, sbx_engine_facts *ret)
{
    size_t at = 0;

    for (const sbx_json *r = sbx_json_first(all); r; r = sbx_json_next(r)) {
        const char *name = sbx_json_name(r);
        size_t room = sizeof(ret->runtimes) - at, len = strlen(name);

        if (len + 2 > room)
            return;
        if (at)
            ret->runtimes[at++] = ' ';
        docker_clean(ret->runtimes + at, room - 1, name, len);
        at += strlen(ret->runtimes + at);
    }
}

static bool has_option(const sbx_json *options, const char *name)
{
    for (const sbx_json *o = sbx_json_first(options); o; o = sbx_json_next(o)) {
        const char *text = docker_str(o);

        if (strncmp(text, "name=", 5) == 0 && strncmp(text + 5, name, strlen(name)) == 0)
            return true;
    }
    return false;
}

static void take(const sbx_json *json, const char *name, char *out, size_t cap)
{
    const char *text = docker_str(sbx_json_get(json, name));

    docker_clean(out, cap, text, strlen(text));
}

int docker_facts(sbx_engine *e, sbx_engine_facts *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    SBX_CLEANUP(sbx_json_free) sbx_json *json = NULL;
    docker_req q = {.method = "GET", .path = "/info", .max_bytes = DOCKER_ENTRY_BYTES};

    *ret = (sbx_engine_facts){0};
    if (docker_call((sbx_docker *)e, &q, "asking the engine about itself", &res, err) ||
        docker_parse(res.body.data, res.body.len, &json, err))
        return -1;
    take(json, "CgroupVersion", ret->cgroup_version, sizeof(ret->cgroup_version));
    take(json, "CgroupDriver", ret->cgroup_driver, sizeof(ret->cgroup_driver));
    take(json, "Driver", ret->storage_driver, sizeof(ret->storage_driver));
    take(json, "DefaultRuntime", ret->default_runtime, sizeof(ret->default_runtime));
    take(json, "DockerRootDir", ret->root, sizeof(ret->root));
    take(json, "Architecture", ret->architecture, sizeof(ret->architecture));
    runtimes(sbx_json_get(json, "Runtimes"), ret);
    ret->memory_limit = sbx_json_bool(sbx_json_get(json, "MemoryLimit"), false);
    ret->swap_limit = sbx_json_bool(sbx_json_get(json, "SwapLimit"), false);
    ret->pids_limit = sbx_json_bool(sbx_json_get(json, "PidsLimit"), false);
    ret->cpu_quota = sbx_json_bool(sbx_json_get(json, "CpuCfsQuota"), false);
    ret->seccomp = has_option(sbx_json_get(json, "SecurityOptions"), "seccomp");
    ret->cpus = sbx_json_int(sbx_json_get(json, "NCPU"), 0);
    ret->memory_bytes = sbx_json_int(sbx_json_get(json, "MemTotal"), 0);
    return 0;
}
