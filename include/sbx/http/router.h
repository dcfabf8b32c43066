/* The route table compiled for lookup: a tree of path segments.
 *
 * Immutable after new; any thread. A lookup costs as many steps as the path has segments, however
 * many routes there are. */
#ifndef SBX_HTTP_ROUTER_H
#define SBX_HTTP_ROUTER_H

#include "sbx/http/http.h"

typedef struct sbx_router sbx_router;

/** Compile a table: routes sorted by path, then method (both bytewise), each once. A path is "/"
 * or segments, each literal or one whole {parameter}; GET also serves HEAD.
 * @param routes  must outlive the router.
 * @return 0, or -1 with INVALID that names the row. */
int sbx_router_new(const sbx_route *routes, size_t count, sbx_router **ret,
                   sbx_err *err) SBX_MUST_CHECK;
void sbx_router_free(sbx_router *r);
SBX_DEFINE_CLEANUP(sbx_router, sbx_router_free)

typedef struct sbx_match {
    const sbx_route *route; /* NULL: no such path, or no such method (then `allow` is set) */
    char allow[64];         /* "GET, HEAD, POST, OPTIONS", or "" if there is no such path */
    sbx_param params[SBX_MAX_PATH_PARAMS]; /* names are the router's, values within the path */
    size_t count;
} sbx_match;

/** Find the route of a path. Literal segments win over parameters.
 * @param path  undecoded, begins with '/'; decoded in place.
 * @return 0, or -1 with INVALID (bad escape, NUL, not UTF-8). Dot segments, empty segments and a
 *         slash at the end match nothing. */
int sbx_router_match(const sbx_router *r, sbx_method method, char *path, sbx_match *ret,
                     sbx_err *err) SBX_MUST_CHECK;

#endif
