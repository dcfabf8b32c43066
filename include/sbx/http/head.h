/* The head of a request: request line and headers, parsed strictly and in place.
 *
 * Any thread, no allocation. What is returned points into the text that was given. */
#ifndef SBX_HTTP_HEAD_H
#define SBX_HTTP_HEAD_H

#include "sbx/core/error.h"
#include "sbx/core/limits.h"
#include "sbx/http/http.h"
#include "sbx/http/negotiate.h"

#define SBX_MAX_HEADERS 100

typedef struct sbx_head {
    sbx_method method;
    int minor;       /* HTTP/1.minor */
    char *path;      /* undecoded, begins with '/'; "*" of OPTIONS */
    char *query;     /* undecoded, without '?'; or NULL */
    bool keep_alive; /* by version and Connection */
    bool expect;     /* 100-continue */
    bool chunked;    /* Transfer-Encoding: chunked */
    bool has_length; /* Content-Length was given */
    uint64_t length;
    bool forwarded;
    sbx_list forwarded_for; /* X-Forwarded-For; of more lines the last ones */
    bool upgrade_ws;        /* Connection: upgrade and Upgrade: websocket */
    bool ws_offered;        /* Sec-WebSocket-Protocol was given */
    bool ws_protocol;       /* and names sandboxd.v1 */
    char *ws_key;           /* Sec-WebSocket-Key, or NULL */
    int ws_version;         /* Sec-WebSocket-Version, or 0 */
    char *ws_bearer;        /* the key in a subprotocol "bearer.KEY", or NULL */
    bool has_host;
    char *authorization, *api_key, *content_type, *content_encoding;
    char *idempotency_key, *last_event_id, *request_id;
    char *range, *if_range, *if_match;
    char *origin, *preflight_method; /* Access-Control-Request-Method */
    sbx_list accept, accept_encoding, if_none_match;
} sbx_head;

/** Find the end of a head in what has arrived so far.
 *
 * @param from  where to go on; 0 at first, kept by the caller between calls.
 * @param ret   length of the head with its empty line, when there is one.
 * @return 1 complete, 0 more is needed, or -1 with INVALID (a line that does not end with CRLF),
 *         URI_TOO_LONG or HEADERS_TOO_LARGE. */
int sbx_head_find(const char *text, size_t len, size_t *from, size_t *ret,
                  sbx_err *err) SBX_MUST_CHECK;

/** Parse a whole head, which is changed in the course (terminators are written into it).
 *
 * On failure `ret` has what could be read, so that a request id is known for the answer.
 * @return 0, or -1 with INVALID. */
int sbx_head_parse(char *text, size_t len, sbx_head *ret, sbx_err *err) SBX_MUST_CHECK;

/** Whether a request id of a caller may be echoed: 1 to 64 of [A-Za-z0-9._-]. */
bool sbx_request_id_sane(const char *id);

/** Decode percent escapes in place. @param plus  a '+' is a space (queries).
 * @return 0, or -1 with INVALID (bad escape, NUL, invalid UTF-8). */
int sbx_percent_decode(char *text, bool plus, sbx_err *err) SBX_MUST_CHECK;

/** Split and decode a query string in place.
 * @param ret  room for SBX_MAX_QUERY_PARAMS.
 * @return 0, or -1 with INVALID (also a name given twice, an empty name, too many). */
int sbx_query_parse(char *query, sbx_param *ret, size_t *count, sbx_err *err) SBX_MUST_CHECK;

/** Refuse parameters that a route does not have.
 * @param known  as in sbx_route.query.
 * @return 0, or -1 with INVALID for the first that is unknown. */
int sbx_query_check(const char *known, const sbx_param *params, size_t count,
                    sbx_err *err) SBX_MUST_CHECK;

#endif
