/* Merging looks at each path for itself, so the order of what is told stays the order of events. */
#include "changes.h"

#include "sbx/core/json.h"
#include "stream.h"

#define FLUSH_BYTES (48 * KIB)

static void forget(ft_changes *c, const char *path)
{
    ft_told *t;

    HASH_FIND_STR(c->told, path, t);
    if (t) {
        HASH_DEL(c->told, t);
        free(t->path);
        free(t);
    }
}

static void empty(ft_changes *c)
{
    ft_told *t, *next;

    HASH_ITER (hh, c->told, t, next) {
        HASH_DEL(c->told, t);
        free(t->path);
        free(t);
    }
    for (size_t i = 0; i < c->n; i++) {
        free(c->list[i].path);
        free(c->list[i].to);
    }
    c->n = c->bytes = 0;
}

void ft_changes_done(ft_changes *c)
{
    empty(c);
    free(c->list);
    *c = (ft_changes){0};
}

/* @return whether the change says something new */
static bool is_new(ft_changes *c, ft_kind kind, const char *path)
{
    ft_told *t;

    if (kind == FT_REMOVE || kind == FT_RENAME) {
        forget(c, path);
        return true;
    }
    HASH_FIND_STR(c->told, path, t);
    if (t && (t->kinds & (1u << kind | 1u << FT_CREATE)))
        return false;
    if (!t) {
        t = sbx_alloc(sizeof(*t));
        t->path = sbx_strdup(path);
        HASH_ADD_KEYPTR(hh, c->told, t->path, strlen(t->path), t);
    }
    t->kinds |= 1u << kind;
    return true;
}

size_t ft_changes_add(ft_changes *c, ft_kind kind, const char *path)
{
    if (path && !is_new(c, kind, path))
        return SIZE_MAX;
    if (c->n == c->cap) {
        c->cap = SBX_MAX(c->cap * 2, (size_t)64);
        c->list = sbx_realloc(c->list, c->cap * sizeof(*c->list));
    }
    c->list[c->n] = (ft_change){.kind = kind, .path = sbx_strdup(path)};
    c->bytes += (path ? strlen(path) : 0) + sizeof(ft_change);
    return c->n++;
}

void ft_changes_renamed(ft_changes *c, size_t number, const char *to)
{
    forget(c, to);
    c->list[number].kind = FT_RENAME;
    c->list[number].to = sbx_strdup(to);
    c->bytes += strlen(to);
}

static void tell(const ft_change *c, sbx_buf *out)
{
    static const char *const types[] = {
        [FT_CREATE] = "create", [FT_WRITE] = "write", [FT_REMOVE] = "remove",
        [FT_RENAME] = "rename", [FT_CHMOD] = "chmod", [FT_OVERFLOW] = "overflow"};
    sbx_jw w = SBX_JW(out);
    bool base64 = (c->path && !sbx_utf8_valid(c->path, strlen(c->path))) ||
                  (c->to && !sbx_utf8_valid(c->to, strlen(c->to)));

    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "type", types[c->kind]);
    if (c->path)
        sbx_jw_bytes(&w, "path", c->path, strlen(c->path), base64);
    if (c->to)
        sbx_jw_bytes(&w, "to", c->to, strlen(c->to), base64);
    if (base64)
        sbx_jw_str(&w, "encoding", "base64");
    sbx_jw_obj_end(&w);
    sbx_buf_addc(out, '\n');
}

int ft_changes_tell(ft_changes *c, sbx_buf *out, ft_err *err)
{
    int rc = 0;

    for (size_t i = 0; i < c->n && rc == 0; i++) {
        tell(&c->list[i], out);
        rc = ft_out_flush(out, FLUSH_BYTES, err);
    }
    empty(c);
    return rc < 0 ? -1 : ft_out_flush(out, 0, err);
}
