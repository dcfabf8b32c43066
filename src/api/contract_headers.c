/* The headers that requests may have, and which routes they belong to. */
#include "contract.h"

const api_field api_headers[] = {
    {"X-Request-Id", T_STR, OPTIONAL, NULL,
     "Yours, if it has 1 to 64 of the characters A-Z a-z 0-9 . _ -; it comes back, and stands in "
     "the log.",
     1, SBX_MAX_REQUEST_ID_BYTES},
    {"If-None-Match", T_STR, OPTIONAL, NULL,
     "The `ETag` of what you have, or several; 304 if it is still current."},
    {"If-Match", T_STR, OPTIONAL, NULL, "The file's `ETag`; 412 if it has another one by now."},
    {"Range", T_STR, OPTIONAL, NULL, "One range of bytes, as `bytes=0-99`; 206 with that part."},
    {"Idempotency-Key", T_STR, OPTIONAL, NULL,
     "Visible ASCII, your own. The same key with the same request within 24 hours makes nothing "
     "again and has the first answer, with `Idempotency-Replayed: true`; while the first one runs "
     "it is waited for. With another request it is 409. What failed by the server's fault (5xx) or "
     "was not allowed (401, 403, 429) is not remembered, and runs again.",
     1, SBX_MAX_IDEMPOTENCY_KEY},
    {"Last-Event-ID", T_INT, OPTIONAL, NULL,
     "The number to resume behind, as an EventSource sends it by itself; wins over `since`.", 0,
     INT64_MAX},
    {0},
};

bool api_tagged(const sbx_api_route *route)
{
    return strcmp(route->method, "GET") == 0 && route->response &&
           strcmp(route->response, "bytes") != 0;
}

bool api_header_of(const sbx_api_route *route, const api_field *header)
{
    bool get = strcmp(route->method, "GET") == 0;

    if (strcmp(header->name, "If-None-Match") == 0)
        return api_tagged(route);
    if (strcmp(header->name, "If-Match") == 0)
        return strcmp(route->name, "file_read") == 0 || strcmp(route->name, "file_write") == 0;
    if (strcmp(header->name, "Range") == 0)
        return strcmp(route->name, "file_read") == 0;
    if (strcmp(header->name, "Last-Event-ID") == 0)
        return get && api_list_has(route->query, "since");
    if (strcmp(header->name, "Idempotency-Key") == 0)
        return route->made || route->rerun;
    return true;
}
