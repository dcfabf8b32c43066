/* Volumes that are written by containers: made empty, looked for, listed, removed. */
#include "docker.h"
#include <stdio.h>

#define LIST_ITEMS 100000

static int volume_path(sbx_buf *path, const char *volume, sbx_err *err)
{
    sbx_buf_adds(path, "/volumes/");
    docker_escape(path, volume);
    return sbx_buf_failed(path) || !volume[0]
               ? sbx_fail(err, SBX_E_INVALID, "the volume's name is not valid")
               : 0;
}

int docker_volume_make(sbx_engine *e, const char *volume, const char *cluster, const char *role,
                       sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf body = SBX_BUF_INIT(8 * KIB);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    sbx_jw w = SBX_JW(&body);

    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "Name", volume);
    sbx_jw_str(&w, "Driver", "local");
    sbx_jw_obj(&w, "Labels");
    sbx_jw_str(&w, "sandboxd.cluster", cluster);
    sbx_jw_str(&w, "sandboxd.role", role);
    sbx_jw_obj_end(&w);
    sbx_jw_obj_end(&w);
    docker_req q = {.method = "POST",
                    .path = "/volumes/create",
                    .body = body.data,
                    .body_len = body.len,
                    .max_bytes = MIB};

    return docker_call((sbx_docker *)e, &q, "making a volume", &res, err);
}

int docker_volume_look(sbx_engine *e, const char *volume, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf path = SBX_BUF_INIT(DOCKER_PATH_BYTES);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    docker_req q = {.method = "GET", .max_bytes = MIB};

    if (volume_path(&path, volume, err))
        return -1;
    q.path = path.data;
    return docker_call((sbx_docker *)e, &q, "looking for a volume", &res, err);
}

int docker_volume_remove(sbx_engine *e, const char *volume, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf path = SBX_BUF_INIT(DOCKER_PATH_BYTES);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    docker_req q = {.method = "DELETE", .max_bytes = MIB};
    sbx_err got = {0};

    if (volume_path(&path, volume, err))
        return -1;
    q.path = path.data;
    if (docker_call((sbx_docker *)e, &q, "removing a volume", &res, &got) == 0 ||
        got.code == SBX_E_NOT_FOUND)
        return 0;
    if (err)
        *err = got;
    return -1;
}

int docker_volume_list(sbx_engine *e, const char *cluster, const char *role, sbx_volume_info **ret,
                       size_t *ret_count, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf path = SBX_BUF_INIT(DOCKER_PATH_BYTES);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    SBX_CLEANUP(sbx_json_free) sbx_json *json = NULL;
    char label[64];
    size_t cap = 0, count = 0;
    sbx_volume_info *all = NULL;

    snprintf(label, sizeof(label), "sandboxd.role=%s", role);
    sbx_buf_adds(&path, "/volumes?filters=");
    docker_label_filters(&path, cluster, label);
    if (sbx_buf_failed(&path))
        return sbx_fail(err, SBX_E_INVALID, "listing volumes: the cluster's name is too long");
    docker_req q = {.method = "GET", .path = path.data};

    if (docker_call((sbx_docker *)e, &q, "listing volumes", &res, err) ||
        docker_parse(res.body.data, res.body.len, &json, err))
        return -1;
    for (const sbx_json *v = sbx_json_first(sbx_json_get(json, "Volumes")); v && count < LIST_ITEMS;
         v = sbx_json_next(v)) {
        const char *name = docker_str(sbx_json_get(v, "Name"));

        if (!*name || strlen(name) >= sizeof(all->name))
            continue;
        if (count == cap) {
            cap = cap ? cap * 2 : 16;
            all = sbx_realloc(all, cap * sizeof(*all));
        }
        sbx_copy(all[count].name, sizeof(all[count].name), name);
        all[count++].created_ms = docker_time_ms(docker_str(sbx_json_get(v, "CreatedAt")));
    }
    *ret = all;
    *ret_count = count;
    return 0;
}
