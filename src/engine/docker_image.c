/* Images: what one declares. */
#include "docker.h"

void sbx_image_info_done(sbx_image_info *i)
{
    free(i->user);
    free(i->workdir);
    sbx_strs_done(&i->env);
    memset(i, 0, sizeof(*i));
}

static void read_env(const sbx_json *list, sbx_strs *ret)
{
    size_t n = 0;

    for (const sbx_json *v = sbx_json_first(list); v; v = sbx_json_next(v))
        n++;
    if (n == 0)
        return;
    ret->items = sbx_alloc((n + 1) * sizeof(*ret->items));
    for (const sbx_json *v = sbx_json_first(list); v; v = sbx_json_next(v))
        if (sbx_json_str(v))
            ret->items[ret->count++] = sbx_strdup(sbx_json_str(v));
}

/* /images/{name}/json; slashes of the name stay, as the engine's router wants them. */
static void image_path(sbx_buf *path, const char *image)
{
    sbx_buf_adds(path, "/images/");
    for (const char *p = image; *p; p++) {
        char one[2] = {*p, 0};

        if (*p == '/')
            sbx_buf_addc(path, '/');
        else
            docker_escape(path, one);
    }
    sbx_buf_adds(path, "/json");
}

int docker_image_inspect(sbx_engine *e, const char *image, sbx_image_info *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf path = SBX_BUF_INIT(DOCKER_PATH_BYTES);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    SBX_CLEANUP(sbx_json_free) sbx_json *json = NULL;
    char what[160];

    /* "a/../b" would be folded into another path on the way. */
    if (!image[0] || image[0] == '/' || strstr(image, "..") || strstr(image, "//"))
        return sbx_fail(err, SBX_E_INVALID, "the image's name is not valid");
    image_path(&path, image);
    docker_what(what, sizeof(what), "inspecting image", image);
    if (sbx_buf_failed(&path))
        return sbx_fail(err, SBX_E_INVALID, "%s: the name is too long", what);
    docker_req q = {.method = "GET", .path = path.data, .max_bytes = DOCKER_ENTRY_BYTES};

    if (docker_call((sbx_docker *)e, &q, what, &res, err) ||
        docker_parse(res.body.data, res.body.len, &json, err))
        return -1;
    const char *id = sbx_json_str(sbx_json_get(json, "Id"));

    if (!id || strlen(id) >= sizeof(ret->id))
        return sbx_fail(err, SBX_E_ENGINE, "%s: the engine gave no valid id", what);
    memset(ret, 0, sizeof(*ret));
    sbx_copy(ret->id, sizeof(ret->id), id);
    ret->user = sbx_strdup(docker_str(docker_get2(json, "Config", "User")));
    ret->workdir = sbx_strdup(docker_str(docker_get2(json, "Config", "WorkingDir")));
    ret->size_bytes = sbx_json_int(sbx_json_get(json, "Size"), 0);
    read_env(docker_get2(json, "Config", "Env"), &ret->env);
    return 0;
}
