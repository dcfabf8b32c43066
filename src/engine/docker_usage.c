/* What a container uses, as the engine counts it. */
#include "docker.h"

static int64_t number(const sbx_json *v)
{
    return sbx_json_int(v, -1);
}

static void read_memory(const sbx_json *memory, sbx_usage *u)
{
    const sbx_json *stats = sbx_json_get(memory, "stats");
    const sbx_json *files = sbx_json_get(stats, "total_inactive_file"); /* cgroup v1 */
    int64_t used = number(sbx_json_get(memory, "usage"));

    files = files ? files : sbx_json_get(stats, "inactive_file");
    u->memory_bytes = used < 0 ? -1 : SBX_MAX(used - sbx_json_int(files, 0), 0);
    u->memory_peak_bytes = number(sbx_json_get(memory, "max_usage"));
    u->memory_limit_bytes = number(sbx_json_get(memory, "limit"));
}

static void read_networks(const sbx_json *networks, sbx_usage *u)
{
    u->network_rx_bytes = u->network_tx_bytes = networks ? 0 : -1;
    for (const sbx_json *n = sbx_json_first(networks); n; n = sbx_json_next(n)) {
        u->network_rx_bytes += sbx_json_int(sbx_json_get(n, "rx_bytes"), 0);
        u->network_tx_bytes += sbx_json_int(sbx_json_get(n, "tx_bytes"), 0);
    }
}

int docker_usage(sbx_engine *e, const char *id, sbx_usage *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf path = SBX_BUF_INIT(DOCKER_PATH_BYTES);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    SBX_CLEANUP(sbx_json_free) sbx_json *json = NULL;
    sbx_usage u = SBX_USAGE_UNKNOWN;
    char what[160];

    if (docker_container_path(&path, id, "/stats?stream=false&one-shot=true", err))
        return -1;
    docker_what(what, sizeof(what), "reading the use of container", id);
    docker_req q = {.method = "GET", .path = path.data, .max_bytes = MIB};

    if (docker_call((sbx_docker *)e, &q, what, &res, err) ||
        docker_parse(res.body.data, res.body.len, &json, err))
        return -1;
    /* so it answers for a container that does not run, and where it cannot read control groups */
    if (!sbx_json_get(sbx_json_get(json, "memory_stats"), "usage"))
        return sbx_fail(err, SBX_E_CONFLICT, "%s: the engine has no numbers of it", what);
    int64_t cpu_ns =
        number(sbx_json_get(docker_get2(json, "cpu_stats", "cpu_usage"), "total_usage"));
    u.cpu_us = cpu_ns < 0 ? -1 : cpu_ns / 1000;
    u.processes = number(docker_get2(json, "pids_stats", "current"));
    read_memory(sbx_json_get(json, "memory_stats"), &u);
    read_networks(sbx_json_get(json, "networks"), &u);
    *ret = u;
    return 0;
}

int docker_disk(sbx_engine *e, const char *id, int64_t *ret_bytes, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf path = SBX_BUF_INIT(DOCKER_PATH_BYTES);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    SBX_CLEANUP(sbx_json_free) sbx_json *json = NULL;
    char what[160];

    if (docker_container_path(&path, id, "/json?size=1", err))
        return -1;
    docker_what(what, sizeof(what), "measuring the disk of container", id);
    docker_req q = {.method = "GET", .path = path.data, .max_bytes = DOCKER_ENTRY_BYTES};

    if (docker_call((sbx_docker *)e, &q, what, &res, err) ||
        docker_parse(res.body.data, res.body.len, &json, err))
        return -1;
    int64_t bytes = number(sbx_json_get(json, "SizeRw"));

    if (bytes < 0)
        return sbx_fail(err, SBX_E_ENGINE, "%s: the engine's answer lacks the size", what);
    *ret_bytes = bytes;
    return 0;
}
