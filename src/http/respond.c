/* Rendering of response heads and problems, on whichever thread finishes a request.
 *
 * A head is rendered without its last lines (date, connection, the empty line): those are known
 * only to LOOP when it sends. */
#include "internal.h"

#include "sbx/core/json.h"
#include "sbx/core/log.h"

const char *respond_reason(int status)
{
    static const struct {
        int status;
        const char *reason;
    } reasons[] = {
        {101, "Switching Protocols"},
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {206, "Partial Content"},
        {301, "Moved Permanently"},
        {302, "Found"},
        {304, "Not Modified"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {406, "Not Acceptable"},
        {409, "Conflict"},
        {410, "Gone"},
        {412, "Precondition Failed"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {416, "Range Not Satisfiable"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {499, "Client Closed Request"},
        {500, "Internal Server Error"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
    };

    for (size_t i = 0; i < ARRAY_LEN(reasons); i++)
        if (reasons[i].status == status)
            return reasons[i].reason;
    return "Status";
}

/* Whatever a handler passes, a header stays one line. */
void respond_line(sbx_buf *out, const char *name, const char *value)
{
    sbx_buf_adds(out, name);
    sbx_buf_add(out, ": ", 2);
    for (const char *p = value; *p;) {
        size_t n = strcspn(p, "\r\n");

        sbx_buf_add(out, p, n);
        p += n;
        if (*p) {
            sbx_buf_addc(out, ' ');
            p++;
        }
    }
    sbx_buf_add(out, "\r\n", 2);
}

static void add_vary(sbx_buf *out, unsigned vary)
{
    static const char *const names[] = {"accept-encoding", "accept", "origin"};
    const char *before = "vary: ";

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (!(vary & 1u << i))
            continue;
        sbx_buf_adds(out, before);
        sbx_buf_adds(out, names[i]);
        before = ", ";
    }
    if (vary)
        sbx_buf_add(out, "\r\n", 2);
}

/* Fields of the Internet draft "RateLimit header fields for HTTP", as lists of one item. */
void respond_rate(sbx_buf *out, const sbx_rate_note *note)
{
    if (!note->policy)
        return;
    sbx_buf_addf(out, "ratelimit-policy: \"%s\";q=%u;w=%d\r\n", note->policy, note->quota,
                 SBX_RATE_WINDOW_S);
    sbx_buf_addf(out, "ratelimit: \"%s\";r=%u;t=%u\r\n", note->policy, note->remaining,
                 note->reset_s);
}

/* What every response has, whoever makes it. */
static void add_common(sbx_buf *out, const heading *h)
{
    add_vary(out, h->vary);
    if (h->origin) {
        respond_line(out, "access-control-allow-origin", h->origin);
        sbx_buf_adds(out, "access-control-expose-headers: X-Request-Id, ETag, Location, "
                          "Retry-After, Allow, Link, Idempotency-Replayed, Accept-Ranges, "
                          "Content-Range, Content-Disposition, RateLimit, RateLimit-Policy\r\n");
    }
    respond_rate(out, &h->rate);
    sbx_buf_adds(out, "x-content-type-options: nosniff\r\n");
    respond_line(out, "x-request-id", h->request_id);
}

void respond_head(sbx_buf *out, int status, const char *content_type, const sbx_header *headers,
                  size_t header_count, const heading *h)
{
    char line[] = "HTTP/1.1 000 ";
    bool cache = false, retry = status != 429 && status != 503;

    line[9] = (char)('0' + status / 100 % 10);
    line[10] = (char)('0' + status / 10 % 10);
    line[11] = (char)('0' + status % 10);
    sbx_buf_adds(out, line);
    sbx_buf_adds(out, respond_reason(status));
    sbx_buf_add(out, "\r\n", 2);
    if (content_type)
        respond_line(out, "content-type", content_type);
    for (size_t i = 0; i < header_count; i++) {
        respond_line(out, headers[i].name, headers[i].value);
        cache |= strcmp(headers[i].name, "cache-control") == 0;
        retry |= strcmp(headers[i].name, "retry-after") == 0;
    }
    if (!cache)
        respond_line(out, "cache-control", h->cache ? h->cache : "no-store");
    if (!retry)
        sbx_buf_adds(out, "retry-after: 1\r\n");
    add_common(out, h);
}

void respond_problem_json(sbx_buf *body, const sbx_err *err, const char *request_id)
{
    sbx_jw w = SBX_JW(body);
    char type[96];

    sbx_copy(type, sizeof(type), "urn:sandboxd:problem:");
    sbx_copy(type + strlen(type), sizeof(type) - strlen(type), sbx_code_wire(err->code));
    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "type", type);
    sbx_jw_str(&w, "title", sbx_code_title(err->code));
    sbx_jw_int(&w, "status", sbx_code_status(err->code));
    sbx_jw_str(&w, "detail", err->msg);
    sbx_jw_str(&w, "code", sbx_code_wire(err->code));
    sbx_jw_str(&w, "requestId", request_id);
    if (err->sandbox_id[0])
        sbx_jw_str(&w, "sandboxId", err->sandbox_id);
    if (err->quota.limit[0]) {
        sbx_jw_str(&w, "limit", err->quota.limit);
        sbx_jw_int(&w, "value", err->quota.value);
        sbx_jw_int(&w, "used", err->quota.used);
        sbx_jw_time(&w, "resetAt", err->quota.reset_s * 1000);
    }
    if (err->field[0]) {
        sbx_jw_arr(&w, "errors");
        sbx_jw_obj(&w, NULL);
        sbx_jw_str(&w, "field", err->field);
        sbx_jw_str(&w, "message", err->msg);
        sbx_jw_obj_end(&w);
        sbx_jw_arr_end(&w);
    }
    sbx_jw_obj_end(&w);
}

void respond_problem(sbx_buf *head, sbx_buf *body, const sbx_err *err, const char *allow,
                     const heading *h)
{
    int status = sbx_code_status(err->code);
    sbx_header headers[2];
    size_t count = 0;
    char seconds[24];

    respond_problem_json(body, err, h->request_id);
    if (status == 401)
        headers[count++] = (sbx_header){"www-authenticate", "Bearer"};
    if ((status == 429 || status == 503) && err->retry_after_s > 0)
        headers[count++] = (sbx_header){"retry-after", sbx_num_text(seconds, err->retry_after_s)};
    if (allow && *allow)
        headers[count++] = (sbx_header){"allow", allow};
    respond_head(head, status, "application/problem+json", headers, count, h);
    sbx_buf_adds(head, "content-length: ");
    sbx_buf_adds(head, sbx_num_text(seconds, (int64_t)body->len));
    sbx_buf_add(head, "\r\n", 2);
}
