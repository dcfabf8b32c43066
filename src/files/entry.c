/* What sbx-files says, read strictly: it runs among the processes of its user, who may have put
 * anything in its place. What goes to clients is written anew, field by field. */
#include "files_priv.h"

#include <stdio.h>

static const char *const types[] = {"file", "directory", "symlink", "other"};

static bool is_one_of(const char *text, const char *const *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (sbx_streq(text, list[i]))
            return true;
    return false;
}

/* "2026-01-02T03:04:05.678Z" */
static bool is_time(const char *text)
{
    static const char form[] = "0000-00-00T00:00:00.000Z";

    for (size_t i = 0; i < sizeof(form); i++)
        if (!text || (form[i] == '0' ? text[i] < '0' || text[i] > '9' : text[i] != form[i]))
            return false;
    return true;
}

static bool is_etag(const char *text)
{
    size_t n = text ? strlen(text) : 0;

    return n > 0 && n <= 90 && strspn(text, "0123456789abcdef-") == n;
}

int entry_nonsense(sbx_err *err)
{
    return sbx_fail(err, SBX_E_ENGINE,
                    "what the sandbox said of its files cannot be understood; something in it may "
                    "have interfered");
}

/* A field that must be text. @return whether it is. */
static bool copy_text(sbx_jw *w, const sbx_json *line, const char *name)
{
    const char *text = sbx_json_str(sbx_json_get(line, name));

    sbx_jw_str(w, name, text);
    return text != NULL;
}

static bool write_entry(const sbx_json *line, sbx_jw *w)
{
    const char *type = sbx_json_str(sbx_json_get(line, "type"));
    const char *time = sbx_json_str(sbx_json_get(line, "modifiedAt"));
    int64_t size = sbx_json_int(sbx_json_get(line, "sizeBytes"), -1);
    bool ok;

    sbx_jw_obj(w, NULL);
    ok = copy_text(w, line, "name");
    ok &= copy_text(w, line, "path");
    sbx_jw_str(w, "type", type);
    sbx_jw_int(w, "sizeBytes", size);
    ok &= copy_text(w, line, "mode");
    ok &= copy_text(w, line, "owner");
    ok &= copy_text(w, line, "group");
    sbx_jw_str(w, "modifiedAt", time);
    sbx_jw_str(w, "target", sbx_json_str(sbx_json_get(line, "target")));
    if (sbx_streq(sbx_json_str(sbx_json_get(line, "encoding")), "base64"))
        sbx_jw_str(w, "encoding", "base64");
    if (sbx_json_str(sbx_json_get(line, "error")))
        copy_text(w, line, "error");
    sbx_jw_obj_end(w);
    return ok && is_one_of(type, types, ARRAY_LEN(types)) && is_time(time) && size >= 0;
}

sbx_json *entry_read(const char *line, size_t len, sbx_buf *out, char etag[96], sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf ignored = SBX_BUF_INIT(HEAD_BYTES);
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    sbx_jw w = SBX_JW(out ? out : &ignored);

    if (sbx_json_parse(line, len, &root, NULL) || !write_entry(root, &w) || sbx_buf_failed(w.out)) {
        (void)entry_nonsense(err);
        return NULL;
    }
    const char *tag = sbx_json_str(sbx_json_get(root, "etag"));
    etag[0] = '\0';
    if (is_etag(tag))
        snprintf(etag, 96, "\"%s\"", tag);
    return sbx_steal(root);
}

/* --- failures --- */

/* Which of two fields is meant: the path that failed ends with what `to` was given as. */
static const char *lead_of(const transfer *x, const char *path)
{
    if (strcmp(x->lead, "from") != 0 || !path || x->arg_count < 2)
        return x->lead;
    size_t n = strlen(path), m = strlen(x->args[1]);
    return n >= m && strcmp(path + n - m, x->args[1]) == 0 ? "to" : "from";
}

void entry_error(const transfer *x, const char *line, size_t len, sbx_err *ret, int64_t *range)
{
    SBX_CLEANUP(sbx_free_str) char *path = NULL;

    if (sbx_tool_error(line, len, &path, range, ret))
        sbx_copy(ret->field, sizeof(ret->field), lead_of(x, path));
}

/* --- changes --- */

bool entry_change(const char *line, size_t len, sbx_buf *out)
{
    static const char *const changes[] = {"create", "write", "remove", "rename", "chmod"};
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    sbx_jw w = SBX_JW(out);

    if (sbx_json_parse(line, len, &root, NULL))
        return false;
    const char *type = sbx_json_str(sbx_json_get(root, "type"));
    bool bare = sbx_streq(type, "ready") || sbx_streq(type, "overflow");
    const char *path = sbx_json_str(sbx_json_get(root, "path"));
    const char *to = sbx_json_str(sbx_json_get(root, "to"));

    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "type", type);
    if (!bare)
        sbx_jw_str(&w, "path", path);
    if (!bare && to)
        sbx_jw_str(&w, "to", to);
    if (!bare && sbx_streq(sbx_json_str(sbx_json_get(root, "encoding")), "base64"))
        sbx_jw_str(&w, "encoding", "base64");
    sbx_jw_obj_end(&w);
    return bare || (path && is_one_of(type, changes, ARRAY_LEN(changes)));
}
