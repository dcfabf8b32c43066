/* All containers of a cluster. The answer is taken apart as it comes: it may be long, and labels of
 * images stand in it. */
#include "docker.h"
#include "lines.h"

#define LIST_ITEMS 100000

typedef struct listing {
    docker_lines lines;
    sbx_container_info *items;
    size_t count, cap;
    bool too_many;
} listing;

static void listing_done(listing *l)
{
    docker_lines_done(&l->lines);
    free(l->items);
}

/* "Exited (137) 2 minutes ago" -> 137 */
static int exit_code_of(const char *status)
{
    const char *open = strchr(status, '(');
    int code = 0;

    for (open = open ? open + 1 : ""; *open >= '0' && *open <= '9' && code < 1000; open++)
        code = code * 10 + (*open - '0');
    return code;
}

static bool on_element(void *arg, char *text, size_t len)
{
    listing *l = arg;
    SBX_CLEANUP(sbx_json_free) sbx_json *json = NULL;

    if (docker_parse(text, len, &json, NULL)) {
        l->lines.skipped++;
        return true;
    }
    if (l->count == LIST_ITEMS) {
        l->too_many = true;
        return false;
    }
    if (l->count == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 64;
        l->items = sbx_realloc(l->items, l->cap * sizeof(*l->items));
    }
    sbx_container_info *i = &l->items[l->count];
    const sbx_json *labels = sbx_json_get(json, "Labels");
    const char *name = docker_str(sbx_json_first(sbx_json_get(json, "Names")));
    const char *status = docker_str(sbx_json_get(json, "Status"));

    memset(i, 0, sizeof(*i));
    sbx_copy(i->id, sizeof(i->id), docker_str(sbx_json_get(json, "Id")));
    sbx_copy(i->name, sizeof(i->name), name + (name[0] == '/'));
    sbx_copy(i->image, sizeof(i->image), docker_str(sbx_json_get(json, "Image")));
    sbx_copy(i->sandbox_id, sizeof(i->sandbox_id), docker_str(sbx_json_get(labels, "sandboxd.id")));
    sbx_copy(i->cluster, sizeof(i->cluster), docker_str(sbx_json_get(labels, "sandboxd.cluster")));
    sbx_copy(i->state, sizeof(i->state), docker_str(sbx_json_get(json, "State")));
    if (strcmp(i->state, "exited") == 0)
        i->exit_code = exit_code_of(status);
    i->created_at_ms = sbx_json_int(sbx_json_get(json, "Created"), 0) * 1000;
    if (i->id[0])
        l->count++;
    return true;
}

static bool on_piece(void *arg, const char *data, size_t len)
{
    listing *l = arg;

    return docker_lines_take(&l->lines, data, len, on_element, l);
}

void docker_label_filters(sbx_buf *path, const char *cluster, const char *label)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf json = SBX_BUF_INIT(1024);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf pair = SBX_BUF_INIT(256);
    sbx_jw w = SBX_JW(&json);

    sbx_buf_addf(&pair, "sandboxd.cluster=%s", cluster);
    sbx_jw_obj(&w, NULL);
    sbx_jw_arr(&w, "label");
    sbx_jw_str(&w, NULL, pair.data);
    sbx_jw_str(&w, NULL, label);
    sbx_jw_arr_end(&w);
    sbx_jw_obj_end(&w);
    if (sbx_buf_failed(&json) || sbx_buf_failed(&pair))
        path->failed = true;
    else
        docker_escape(path, json.data);
}

int docker_list_label(sbx_docker *d, const char *cluster, const char *label,
                      sbx_container_info **ret, size_t *ret_count, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf path = SBX_BUF_INIT(DOCKER_PATH_BYTES);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    SBX_CLEANUP_VAL(listing_done) listing l = {0};

    docker_lines_init(&l.lines, DOCKER_ENTRY_BYTES);
    sbx_buf_adds(&path, "/containers/json?all=1&filters=");
    docker_label_filters(&path, cluster, label);
    if (sbx_buf_failed(&path))
        return sbx_fail(err, SBX_E_INVALID, "listing containers: the cluster's name is too long");
    docker_req q = {.method = "GET", .path = path.data, .piece = on_piece, .arg = &l};

    if (docker_call(d, &q, "listing containers", &res, err))
        return -1;
    if (l.too_many || l.lines.depth)
        return sbx_fail(err, SBX_E_ENGINE, "listing containers: %s",
                        l.too_many ? "too many of them" : "the answer is cut off");
    *ret = sbx_steal(l.items);
    *ret_count = l.count;
    return 0;
}

int docker_list(sbx_engine *e, const char *cluster, sbx_container_info **ret, size_t *ret_count,
                sbx_err *err)
{
    return docker_list_label((sbx_docker *)e, cluster, "sandboxd.id", ret, ret_count, err);
}
