/* The router: one node per distinct segment at its place, literal children sorted for bisection,
 * at most one parameter child. Where a literal leads nowhere the parameter is tried, so that
 * "/things/special" and "/things/{id}/more" can stand side by side. */
#include "sbx/http/router.h"

#include "sbx/http/head.h"

#define MAX_SEGMENTS 16
#define METHODS      SBX_METHOD_OTHER

typedef struct node {
    char *literal; /* NULL: the root or a parameter */
    struct node **children;
    size_t child_count;
    struct node *param;
    const sbx_route *routes[METHODS]; /* HEAD stays empty: GET serves it */
    char *names[SBX_MAX_PATH_PARAMS]; /* of the parameters on the way, by the first route here */
    size_t name_count;
} node;

struct sbx_router {
    node root;
};

static const char *const method_names[METHODS] = {"GET",   "HEAD",   "POST",   "PUT",
                                                  "PATCH", "DELETE", "OPTIONS"};

static void node_done(node *n)
{
    for (size_t i = 0; i < n->child_count; i++) {
        node_done(n->children[i]);
        free(n->children[i]);
    }
    if (n->param) {
        node_done(n->param);
        free(n->param);
    }
    for (size_t i = 0; i < n->name_count; i++)
        free(n->names[i]);
    free(n->children);
    free(n->literal);
}

void sbx_router_free(sbx_router *r)
{
    if (!r)
        return;
    node_done(&r->root);
    free(r);
}

/* @return the index of the child, or where it would stand, with *found telling which. */
static size_t bisect(const node *n, const char *segment, bool *found)
{
    size_t lo = 0, hi = n->child_count;

    *found = false;
    while (lo < hi && !*found) {
        size_t mid = lo + (hi - lo) / 2;
        int cmp = strcmp(segment, n->children[mid]->literal);

        if (cmp == 0) {
            lo = mid;
            *found = true;
        } else if (cmp < 0) {
            hi = mid;
        } else {
            lo = mid + 1;
        }
    }
    return lo;
}

static node *add_child(node *n, const char *segment)
{
    bool found;
    size_t at = bisect(n, segment, &found);

    if (found)
        return n->children[at];
    n->children = sbx_realloc(n->children, (n->child_count + 1) * sizeof(node *));
    memmove(n->children + at + 1, n->children + at, (n->child_count - at) * sizeof(node *));
    n->children[at] = sbx_alloc(sizeof(node));
    n->children[at]->literal = sbx_strdup(segment);
    n->child_count++;
    return n->children[at];
}

static int bad_row(const sbx_route *r, const char *what, sbx_err *err)
{
    return sbx_fail(err, SBX_E_INVALID, "route %s %s: %s", r->method, r->path, what);
}

/* Splits at '/' in place. @return how many, or -1 for an empty segment or too many. */
static int split(char *path, char *segments[MAX_SEGMENTS])
{
    int count = 0;

    if (strcmp(path, "/") == 0)
        return 0;
    while (*path == '/') {
        *path++ = '\0';
        if (count == MAX_SEGMENTS || !*path || *path == '/')
            return -1;
        segments[count++] = path;
        path += strcspn(path, "/");
    }
    return count;
}

static int add_route(node *root, const sbx_route *r, sbx_err *err)
{
    SBX_CLEANUP(sbx_free_str) char *path = sbx_strdup(r->path);
    char *segments[MAX_SEGMENTS], *names[SBX_MAX_PATH_PARAMS];
    int count = *path == '/' ? split(path, segments) : -1, method = 0;
    size_t params = 0;
    node *n = root;

    while (method < METHODS && strcmp(method_names[method], r->method) != 0)
        method++;
    if (method == METHODS || method == SBX_HEAD || method == SBX_OPTIONS_M)
        return bad_row(r, "the method is unknown, or served by itself", err);
    if (count < 0 || !r->handler)
        return bad_row(r, "malformed path, or no handler", err);
    for (int i = 0; i < count; i++) {
        size_t len = strlen(segments[i]);

        if (segments[i][0] != '{') {
            n = add_child(n, segments[i]);
            continue;
        }
        if (segments[i][len - 1] != '}' || len < 3 || params == SBX_MAX_PATH_PARAMS)
            return bad_row(r, "bad parameter, or too many", err);
        segments[i][len - 1] = '\0';
        names[params++] = segments[i] + 1;
        if (!n->param)
            n->param = sbx_alloc(sizeof(node));
        n = n->param;
    }
    if (n->routes[method])
        return bad_row(r, "given twice", err);
    n->routes[method] = r;
    if (!n->name_count)
        for (; n->name_count < params; n->name_count++)
            n->names[n->name_count] = sbx_strdup(names[n->name_count]);
    for (size_t i = 0; i < params; i++)
        if (strcmp(n->names[i], names[i]) != 0)
            return bad_row(r, "names its parameters unlike its siblings", err);
    return 0;
}

int sbx_router_new(const sbx_route *routes, size_t count, sbx_router **ret, sbx_err *err)
{
    SBX_CLEANUP(sbx_router_free) sbx_router *r = sbx_alloc(sizeof(*r));

    for (size_t i = 0; i < count; i++) {
        if (i) {
            int cmp = strcmp(routes[i - 1].path, routes[i].path);

            if (cmp > 0 || (cmp == 0 && strcmp(routes[i - 1].method, routes[i].method) >= 0))
                return bad_row(&routes[i], "not in order, or given twice", err);
        }
        if (add_route(&r->root, &routes[i], err))
            return -1;
    }
    *ret = sbx_steal(r);
    return 0;
}

static bool has_routes(const node *n)
{
    for (int i = 0; i < METHODS; i++)
        if (n->routes[i])
            return true;
    return false;
}

/* At most two ways at each segment that is literal and parameter alike, and few paths of the table
 * are both: the depth bounds the work. */
static const node *walk(const node *n, char **segments, int count, char **values, size_t *taken)
{
    bool found;

    if (count == 0)
        return has_routes(n) ? n : NULL;
    size_t at = bisect(n, segments[0], &found), before = *taken;
    const node *hit = found ? walk(n->children[at], segments + 1, count - 1, values, taken) : NULL;
    if (hit || !n->param || before == SBX_MAX_PATH_PARAMS)
        return hit;
    values[before] = segments[0];
    *taken = before + 1;
    hit = walk(n->param, segments + 1, count - 1, values, taken);
    if (!hit)
        *taken = before;
    return hit;
}

static void list_methods(const node *n, char out[64])
{
    size_t at = 0;

    for (int i = 0; i < METHODS; i++) {
        bool here = n->routes[i == SBX_HEAD ? SBX_GET : i] || i == SBX_OPTIONS_M;

        if (!here)
            continue;
        if (at) {
            memcpy(out + at, ", ", 2);
            at += 2;
        }
        size_t len = strlen(method_names[i]);
        memcpy(out + at, method_names[i], len);
        at += len;
    }
    out[at] = '\0';
}

int sbx_router_match(const sbx_router *r, sbx_method method, char *path, sbx_match *ret,
                     sbx_err *err)
{
    char *segments[MAX_SEGMENTS], *values[SBX_MAX_PATH_PARAMS];
    int count = *path == '/' ? split(path, segments) : -1;
    bool nowhere = count < 0;
    size_t taken = 0;

    *ret = (sbx_match){0};
    for (int i = 0; i < count; i++) {
        if (sbx_percent_decode(segments[i], false, err))
            return -1;
        nowhere |= strcmp(segments[i], ".") == 0 || strcmp(segments[i], "..") == 0;
    }
    const node *n = nowhere ? NULL : walk(&r->root, segments, count, values, &taken);
    if (!n)
        return 0;
    list_methods(n, ret->allow);
    if (method < METHODS)
        ret->route = n->routes[method == SBX_HEAD ? SBX_GET : method];
    for (ret->count = 0; ret->count < n->name_count; ret->count++)
        ret->params[ret->count] = (sbx_param){n->names[ret->count], values[ret->count]};
    return 0;
}
