/* The contract beside the routes: what answers, parameters and streams look like, as tables.
 *
 * openapi.c writes the tables as OpenAPI, docs.c as a page for people, and the system tests hold
 * real answers against them: a field that is not here, or is here and does not come, fails.
 * Requests are described where they are decoded (sbx_json_field tables). */
#ifndef SBX_API_CONTRACT_H
#define SBX_API_CONTRACT_H

#include "sbx/api/api.h"

typedef enum api_type {
    T_STR,
    T_INT,
    T_NUM,
    T_BOOL,
    T_TIME,    /* RFC 3339, UTC, milliseconds */
    T_ID,      /* of a sandbox, command, ... */
    T_STATE,   /* of a sandbox */
    T_CODE,    /* of a problem */
    T_ENUM,    /* `of`: "a,b,c" */
    T_CONST,   /* `of`: the only value */
    T_REF,     /* `of`: a schema */
    T_LIST,    /* `of`: the schema of the items */
    T_ONE_OF,  /* a list; `of`: the schemas "A,B", of which each item has one */
    T_STRS,    /* list of strings */
    T_MAP,     /* object with strings as values */
    T_REQUEST, /* `of`: a field of the create request, "limits.cpus": same values and bounds */
} api_type;

#define NULLABLE 1u
#define OPTIONAL 2u /* may be absent */
#define REQUIRED 4u /* a parameter of the query that must be given */

/* A field of an answer, or a parameter. Bounds: bytes of a string, or the value; 0, 0: none. */
typedef struct api_field {
    const char *name;
    api_type type;
    unsigned flags;
    const char *of;
    const char *doc;
    int64_t min, max;
    const char *dflt;    /* JSON */
    const char *example; /* JSON */
    const char *route;   /* parameters: only of this route; NULL: of all */
} api_field;

typedef struct api_schema {
    const char *name, *doc;
    const api_field *fields; /* ends with a row whose name is NULL */
} api_schema;

/* contract_audit.c */
extern const api_field api_audit_view[], api_audit_page[], api_audit_params[];
/* contract_code.c */
extern const api_field api_context[], api_context_list_view[];
extern const api_field api_run_end[], api_run_error[], api_run_exit[], api_run_failure[],
    api_run_install[], api_run_output[], api_run_result[], api_run_start[];
/* contract_files.c */
extern const api_field api_file_view[], api_file_list_view[], api_file_batch_view[],
    api_unpacked_view[], api_file_ready_view[], api_file_change_view[], api_file_overflow_view[],
    api_file_watch_error_view[];
/* contract_identity.c */
extern const api_field api_key_view[], api_key_rates_view[], api_key_list_view[],
    api_key_made_view[], api_me_view[], api_stream_error[], api_user_view[], api_user_list_view[],
    api_identity_params[];
/* contract_groups.c */
extern const api_field api_group_view[], api_group_list_view[], api_group_results[],
    api_member_problem[], api_batch[], api_batch_sandbox[], api_batch_problem[], api_deleted_many[],
    api_delete_problem[];
/* contract_quota.c */
extern const api_field api_price_list_view[], api_price_view[], api_quota_view[], api_quotas_view[],
    api_tier_list_view[], api_tier_view[], api_usage_item_view[], api_usage_list_view[],
    api_quota_params[];

extern const api_schema api_schemas[];
extern const size_t api_schema_count;
const api_schema *api_schema_find(const char *name, size_t len); /* NULL if there is none */

extern const api_field api_headers[]; /* header parameters of requests; ends with a NULL name */

/** The schema of a successful answer; NULL: it has none. */
const char *api_response_of(const sbx_api_route *route, int status, size_t *ret_len);

/** The description of a path or query parameter of a route; NULL if the table lacks it. */
const api_field *api_param_find(const sbx_api_route *route, const char *name, size_t len);
/** The field of the create request behind a T_REQUEST; NULL if there is none. */
const sbx_json_field *api_request_field(const char *path);

/** Does a read by this route carry an entity tag? */
bool api_tagged(const sbx_api_route *route);
/** Does this header parameter belong to the route? */
bool api_header_of(const sbx_api_route *route, const api_field *header);

#define API_MAX_STATUSES 24

/** The statuses of problems that a route can answer, ascending. @return how many. */
size_t api_failures(const sbx_api_route *route, int out[API_MAX_STATUSES]);
int api_status(const char *digits);                    /* three of them */
bool api_list_has(const char *list, const char *word); /* "a,b,c" */

/** Walk "a,b,c". @return false at the end; else the item, which is not terminated. */
bool api_list_next(const char **list, const char **item, size_t *len);

#endif
