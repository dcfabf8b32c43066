/* The product's table of contents: every route with its scope, lane, limits and description. The
 * HTTP server's table, the API document and the checks of the tests are derived from it. */
#ifndef SBX_API_API_H
#define SBX_API_API_H

#include "sbx/auth/auth.h"
#include "sbx/http/http.h"

struct sbx_app;

#define SBX_ANY_SCOPE "" /* a key is needed, and any will do */

/* Runs on a worker of the route's lane, authenticated (`who` is NULL for routes without a scope).
 * As sbx_handler otherwise. */
typedef int (*sbx_api_handler)(struct sbx_app *app, const sbx_principal *who, const sbx_request *r,
                               sbx_err *err);

/* Answers as if the request had just made the object `id`, which an earlier one with the same
 * Idempotency-Key made and could not answer for. */
typedef int (*sbx_api_made)(struct sbx_app *app, const sbx_principal *who, const sbx_request *r,
                            const char *id, sbx_err *err);

#define SBX_AUDIT_NOW   1u /* in the audit log before the answer: what changes who may do what */
#define SBX_AUDIT_READS 2u /* in the audit log although it is a read */

typedef struct sbx_api_route {
    const char *method, *path, *scope; /* scope NULL: no authentication */
    sbx_lane lane;
    size_t max_body;
    unsigned accepts;
    int64_t deadline_ms;
    sbx_api_handler handler;
    const char *name, *summary;
    const sbx_json_field *body; /* fields of the request, or NULL */
    const char *query;          /* as in sbx_route, and for the document; or NULL */
    const char *produces;       /* as in sbx_route */
    const char *success;        /* statuses of success: "200" or "201,202"; NULL: only streams */
    const char *response;       /* schema of the response (src/api/contract.c), or text, object;
                                   "A,202:B": another one for a status */
    const char *failures;       /* statuses of failure besides those of every such route */
    const char *tag;            /* the heading that it stands under in the document */
    const char *doc;            /* more than the summary says, or NULL; Markdown, one paragraph */
    const char *example;        /* a body that works, as JSON; NULL: {} does */
    unsigned rate;              /* SBX_RATED(class); 0: by the method, see sbx_api_rate() */
    const char *sse, *ws;       /* schemas of the messages: "LogEntry,gap:Gap" (event:schema) */
    /* These honour Idempotency-Key; a request with one gets a stream only with `rerun`. */
    sbx_api_made made; /* answers for what was made */
    bool admin;        /* for administrators alone */
    unsigned audit;    /* SBX_AUDIT_* */
    bool rerun;        /* the handler may be run again under the same id, and completes its work */
} sbx_api_route;

extern const sbx_api_route sbx_api_routes[];
extern const size_t sbx_api_route_count;

#define SBX_RATED(class) (1u + SBX_RATE_##class)

/** The class of a route's requests: as its row says, else reads for GET and DELETE and exec for all
 * others. So what frees something is not held up by the rate of what takes it. */
sbx_rate sbx_api_rate(const sbx_api_route *route);

/** The same table as the HTTP server wants it; all handlers are one dispatcher.
 * @param ret  owned by the caller. The server's `app` must be the sbx_app. */
sbx_route *sbx_api_http_routes(void);

/** As sbx_http_config.bearers wants it: asks, on a worker, which keys are not good any more, and
 * ends their requests. LOOP. @param app  the sbx_app. */
void sbx_api_bearers(void *app, sbx_bearer *ids, size_t count);

/** Hear from now on what other workers tell of ended rights, until deafened: forget such keys, and
 * end their requests. Before serving, and after; the bus and the server must be there. */
void sbx_api_rights_listen(struct sbx_app *app);
void sbx_api_rights_deafen(struct sbx_app *app);

/** The OpenAPI 3.1 document. */
void sbx_api_openapi(sbx_buf *out);

/** The page to read it: HTML without scripts. */
void sbx_api_docs(sbx_buf *out);
/** The value of Content-Security-Policy for that page. */
void sbx_api_docs_policy(sbx_buf *out);

#endif
