/* The network of sandboxes that may reach something: a bridge of its own on the engine's host.
 *
 * The engine names networks without making the names unique, but it lets only one of them have a
 * bridge of a given name: that decides among servers that make it at the same time. */
#include "docker.h"
#include <stdio.h>

#define OPT_BRIDGE "com.docker.network.bridge.name"
#define OPT_ICC    "com.docker.network.bridge.enable_icc"

static int network_path(sbx_buf *path, const char *name, sbx_err *err)
{
    sbx_buf_adds(path, "/networks/");
    docker_escape(path, name);
    return sbx_buf_failed(path) || !name[0]
               ? sbx_fail(err, SBX_E_INVALID, "the network's name is not valid")
               : 0;
}

static bool is_ours(const sbx_json *json, const char *bridge, const char *cluster)
{
    const sbx_json *options = sbx_json_get(json, "Options");
    const char *owner = docker_str(docker_get2(json, "Labels", "sandboxd.cluster"));

    return strcmp(owner, cluster) == 0 &&
           strcmp(docker_str(sbx_json_get(options, OPT_BRIDGE)), bridge) == 0 &&
           strcmp(docker_str(sbx_json_get(options, OPT_ICC)), "false") == 0 &&
           strcmp(docker_str(sbx_json_get(json, "Driver")), "bridge") == 0 &&
           !sbx_json_bool(sbx_json_get(json, "EnableIPv6"), true);
}

static int network_inspect(sbx_docker *d, const char *name, const char *bridge, const char *cluster,
                           sbx_network_info *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf path = SBX_BUF_INIT(DOCKER_PATH_BYTES);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    SBX_CLEANUP(sbx_json_free) sbx_json *json = NULL;
    sbx_network_info info = {0};

    if (network_path(&path, name, err))
        return -1;
    docker_req q = {.method = "GET", .path = path.data, .max_bytes = DOCKER_ENTRY_BYTES};

    if (docker_call(d, &q, "inspecting the sandboxes' network", &res, err) ||
        docker_parse(res.body.data, res.body.len, &json, err))
        return -1;
    if (!is_ours(json, bridge, cluster))
        return sbx_fail(err, SBX_E_CONFLICT,
                        "the network %.64s was made with other settings: remove it "
                        "(docker network rm), and it will be made as it must be",
                        name);
    const sbx_json *ipam = sbx_json_first(docker_get2(json, "IPAM", "Config"));

    sbx_copy(info.id, sizeof(info.id), docker_str(sbx_json_get(json, "Id")));
    sbx_copy(info.subnet, sizeof(info.subnet), docker_str(sbx_json_get(ipam, "Subnet")));
    if (!info.id[0] || !info.subnet[0])
        return sbx_fail(err, SBX_E_ENGINE, "the network %.64s has no IPv4 subnet", name);
    *ret = info;
    return 0;
}

static int network_create(sbx_docker *d, const char *name, const char *bridge, const char *cluster,
                          sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf body = SBX_BUF_INIT(8 * KIB);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    sbx_jw w = SBX_JW(&body);

    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "Name", name);
    sbx_jw_str(&w, "Driver", "bridge");
    sbx_jw_bool(&w, "CheckDuplicate", true);
    sbx_jw_bool(&w, "EnableIPv6", false);
    sbx_jw_obj(&w, "Options");
    sbx_jw_str(&w, OPT_BRIDGE, bridge);
    sbx_jw_str(&w, OPT_ICC, "false");
    sbx_jw_obj_end(&w);
    sbx_jw_obj(&w, "Labels");
    sbx_jw_str(&w, "sandboxd.cluster", cluster);
    sbx_jw_obj_end(&w);
    sbx_jw_obj_end(&w);
    docker_req q = {.method = "POST",
                    .path = "/networks/create",
                    .body = body.data,
                    .body_len = body.len,
                    .max_bytes = MIB};

    return docker_call(d, &q, "making the sandboxes' network", &res, err);
}

int docker_network_ensure(sbx_engine *e, const char *name, const char *bridge, const char *cluster,
                          sbx_network_info *ret, sbx_err *err)
{
    sbx_docker *d = (sbx_docker *)e;
    sbx_err made = {0}, seen = {0};

    if (network_inspect(d, name, bridge, cluster, ret, &seen) == 0)
        return 0;
    if (seen.code == SBX_E_NOT_FOUND) {
        int rc = network_create(d, name, bridge, cluster, &made);

        if (network_inspect(d, name, bridge, cluster, ret, &seen) == 0)
            return 0;
        /* Of two failures the first one tells why. */
        if (rc && seen.code == SBX_E_NOT_FOUND)
            seen = made;
    }
    if (err)
        *err = seen;
    return -1;
}
