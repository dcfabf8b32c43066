/* Images: what one declares, and fetching one from a registry.
 *
 * A pull answers 200 at once and reports its failures inside the stream. */
#include "docker.h"
#include "lines.h"

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

/* --- pull --- */

typedef struct pulling {
    docker_lines lines;
    bool (*progress)(void *arg, const char *status, int64_t done, int64_t total);
    void *arg;
    bool failed;
    char message[300];
} pulling;

static void pulling_done(pulling *p)
{
    docker_lines_done(&p->lines);
}

static bool on_value(void *arg, char *text, size_t len)
{
    pulling *p = arg;
    SBX_CLEANUP(sbx_json_free) sbx_json *json = NULL;
    char status[128];

    if (docker_parse(text, len, &json, NULL))
        return true; /* progress is decoration; the end is checked by its own means */
    const char *error = sbx_json_str(docker_get2(json, "errorDetail", "message"));

    error = error ? error : sbx_json_str(sbx_json_get(json, "error"));
    if (error && !p->failed) {
        p->failed = true;
        docker_clean(p->message, sizeof(p->message), error, strlen(error));
    }
    if (p->failed || !p->progress)
        return true;
    const char *s = docker_str(sbx_json_get(json, "status"));
    const sbx_json *detail = sbx_json_get(json, "progressDetail");

    docker_clean(status, sizeof(status), s, strlen(s));
    return p->progress(p->arg, status, sbx_json_int(sbx_json_get(detail, "current"), 0),
                       sbx_json_int(sbx_json_get(detail, "total"), 0));
}

static bool on_piece(void *arg, const char *data, size_t len)
{
    pulling *p = arg;

    return docker_lines_take(&p->lines, data, len, on_value, p);
}

/* The registries' words for an image that is not there or not for us. */
static bool says_unknown(const char *message)
{
    static const char *const words[] = {
        "not found",    "manifest unknown", "does not exist", "access denied",
        "name unknown", "denied:",          "unauthorized"};

    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (strcasestr(message, words[i]))
            return true;
    return false;
}

static int pull_fail(const char *image, const char *message, sbx_code code, sbx_err *err)
{
    if (code == SBX_E_NOT_FOUND || (code == SBX_E_ENGINE && says_unknown(message)))
        return sbx_fail(err, SBX_E_NOT_FOUND, "image %.255s cannot be pulled: %s", image, message);
    return sbx_fail(err, code, "pulling image %.255s: %s", image, message);
}

/* Without a tag the engine would fetch every tag there is. */
static bool has_version(const char *image)
{
    const char *slash = strrchr(image, '/');

    return strchr(image, '@') || strchr(slash ? slash : image, ':');
}

int docker_pull(sbx_engine *e, const char *image,
                bool (*progress)(void *arg, const char *status, int64_t done, int64_t total),
                void *arg, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf path = SBX_BUF_INIT(DOCKER_PATH_BYTES);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    SBX_CLEANUP_VAL(pulling_done) pulling p = {.progress = progress, .arg = arg};
    sbx_docker *d = (sbx_docker *)e;
    char shown[SBX_ENGINE_IMAGE_BYTES];
    sbx_err got = {0};

    docker_lines_init(&p.lines, DOCKER_LINE_BYTES);
    docker_clean(shown, sizeof(shown), image, strlen(image));
    sbx_buf_adds(&path, "/images/create?fromImage=");
    docker_escape(&path, image);
    if (!has_version(image))
        sbx_buf_adds(&path, "&tag=latest");
    if (!image[0] || sbx_buf_failed(&path))
        return sbx_fail(err, SBX_E_INVALID, "the image's name is not valid");
    docker_req q = {.method = "POST",
                    .path = path.data,
                    .piece = on_piece,
                    .arg = &p,
                    .timeout_ms = d->pull_timeout_ms};

    if (docker_call(d, &q, "the registry", &res, &got))
        return pull_fail(shown, got.msg, got.code, err);
    if (p.failed)
        return pull_fail(shown, p.message, SBX_E_ENGINE, err);
    if (res.gave_up)
        return sbx_fail(err, SBX_E_CANCELLED, "pulling image %s: given up", shown);
    return 0;
}
