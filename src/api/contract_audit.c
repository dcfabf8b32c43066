/* What is answered about the audit log. */
#include "contract.h"

const api_field api_audit_view[] = {
    {"id", T_ID, 0, NULL, "Of the entry."},
    {"at", T_TIME, 0, NULL, "When it was answered; of a stream, when it began."},
    {"requestId", T_STR, NULLABLE, NULL, "As in `X-Request-Id` and the server's log."},
    {"userId", T_STR, NULLABLE, NULL, "Who; null: nobody knows, such as behind a bad key."},
    {"userName", T_STR, NULLABLE, NULL, "The user's name now; null: there is no such user."},
    {"keyId", T_STR, NULLABLE, NULL, "By which key; null: by none."},
    {"address", T_STR, NULLABLE, NULL, "From where."},
    {"method", T_STR, NULLABLE, NULL, "Of the route.", .example = "\"POST\""},
    {"action", T_STR, 0, NULL,
     "Name of the route, the operationId of this document; `audit_lost`: so many entries are "
     "missing.",
     .example = "\"sandbox_create\""},
    {"object", T_STR, NULLABLE, NULL, "Id of what it made, changed or was refused for."},
    {"part", T_STR, NULLABLE, NULL, "Id of something within that, such as a command."},
    {"status", T_INT, NULLABLE, NULL, "HTTP status of the answer.", 100, 599},
    {"code", T_STR, NULLABLE, NULL, "Of the problem; null: there was none."},
    {"count", T_INT, 0, NULL,
     "How often: of what may come in floods (401, 429, reads) entries of one client are one.", 1,
     INT64_MAX},
    {0},
};

const api_field api_audit_page[] = {
    {"items", T_LIST, 0, "AuditEntry", "Newest first."},
    {"nextCursor", T_STR, NULLABLE, NULL, "For the next page; null: this was the last."},
    {0},
};

const api_field api_audit_params[] = {
    {"user", T_ID, 0, NULL, "Only what this user did.", .route = "audit_list"},
    {"key", T_ID, 0, NULL, "Only what was done with this key.", .route = "audit_list"},
    {"action", T_STR, 0, NULL, "Only requests of this route, by its name.",
     .example = "\"sandbox_create\"", .route = "audit_list"},
    {"object", T_STR, 0, NULL, "Only what was done to this, or to this part of something.",
     .route = "audit_list"},
    {"since", T_TIME, 0, NULL, "From this time on.", .route = "audit_list"},
    {"until", T_TIME, 0, NULL, "Before this time.", .route = "audit_list"},
    {"result", T_ENUM, 0, "success,refused,failed",
     "Only such: `refused` is a 4xx, `failed` a 5xx.", .route = "audit_list"},
    {0},
};
