/* Every failure that a caller can meet, in one table: its name, HTTP status, wire code and title.
 * An error is a value: nothing to allocate, nothing to leak. */
#ifndef SBX_CORE_ERROR_H
#define SBX_CORE_ERROR_H

#include "sbx/core/base.h"

#define SBX_ERRORS(X)                                                                              \
    X(INVALID, 400, "invalid_request", "The request is not valid")                                 \
    X(UNAUTHORIZED, 401, "unauthorized", "Authentication is required")                             \
    X(FORBIDDEN, 403, "forbidden", "The key does not allow this")                                  \
    X(NOT_FOUND, 404, "not_found", "Not found")                                                    \
    X(METHOD, 405, "method_not_allowed", "The resource has no such method")                        \
    X(NOT_ACCEPTABLE, 406, "not_acceptable", "No representation of that type")                     \
    X(CONFLICT, 409, "conflict", "The state of the resource does not allow this")                  \
    X(GONE, 410, "gone", "The resource was deleted")                                               \
    X(PRECONDITION, 412, "precondition_failed", "It is not what the request expects")              \
    X(TOO_LARGE, 413, "payload_too_large", "The request body is too large")                        \
    X(URI_TOO_LONG, 414, "uri_too_long", "The request target is too long")                         \
    X(MEDIA_TYPE, 415, "unsupported_media_type", "The request body has another type")              \
    X(RANGE, 416, "range_not_satisfiable", "The resource has no such range")                       \
    X(PACKAGE, 422, "package_failed", "A package could not be installed")                          \
    X(RATE_LIMITED, 429, "rate_limited", "Too many requests")                                      \
    X(QUOTA, 429, "quota_exceeded", "A limit of the account is reached")                           \
    X(HEADERS_TOO_LARGE, 431, "headers_too_large", "The request headers are too large")            \
    X(CANCELLED, 499, "cancelled", "The client went away")                                         \
    X(INTERNAL, 500, "internal", "Internal error")                                                 \
    X(ENGINE, 502, "engine_error", "The container engine refused")                                 \
    X(NOT_READY, 502, "not_ready", "The sandbox did not become ready")                             \
    X(ENGINE_UNAVAILABLE, 503, "engine_unavailable", "The container engine cannot be reached")     \
    X(STORE_UNAVAILABLE, 503, "store_unavailable", "The database cannot be reached")               \
    X(CAPACITY, 503, "at_capacity", "The server is at capacity")                                   \
    X(TIMEOUT, 504, "timeout", "The time limit was reached")

typedef enum sbx_code {
    SBX_OK,
#define X(name, status, wire, title) SBX_E_##name,
    SBX_ERRORS(X)
#undef X
        SBX_E_COUNT
} sbx_code;

/* Which limit of a user was reached. */
typedef struct sbx_quota {
    char limit[24];      /* "concurrentSandboxes"; "": none */
    int64_t value, used; /* how much it is; how much is used, or was asked for */
    int64_t reset_s;     /* when it begins anew, Unix time; 0: not by time */
} sbx_quota;

typedef struct sbx_err {
    sbx_code code;
    char field[64];      /* the request field that was wrong, or "" */
    char sandbox_id[24]; /* the record that stays, when a create failed, or "" */
    int retry_after_s;   /* 0: the code's default */
    sbx_quota quota;     /* of QUOTA */
    char msg[400];
} sbx_err;

/** Set `err` (may be NULL). sbx_fail() and the like are -1, visibly to the compiler, so that a
 * failure is one statement. */
void sbx_err_set(sbx_err *err, sbx_code code, const char *fmt, ...) SBX_PRINTF(3, 4);
/** The same for a request field: code INVALID. */
void sbx_err_set_field(sbx_err *err, const char *field, const char *fmt, ...) SBX_PRINTF(3, 4);
/** Put context before the message: "context: message". */
void sbx_err_wrap(sbx_err *err, const char *fmt, ...) SBX_PRINTF(2, 3);

static inline int sbx_failed(void)
{
    return -1;
}

#define sbx_fail(err, code, ...) (sbx_err_set((err), (code), __VA_ARGS__), sbx_failed())
#define sbx_fail_field(err, field, ...)                                                            \
    (sbx_err_set_field((err), (field), __VA_ARGS__), sbx_failed())
#define sbx_wrap(err, ...) (sbx_err_wrap((err), __VA_ARGS__), sbx_failed())

int sbx_code_status(sbx_code code);       /* HTTP status; 200 for SBX_OK */
const char *sbx_code_wire(sbx_code code); /* "not_found" */
const char *sbx_code_title(sbx_code code);

#endif
