/* The table `audit`: rows are added in batches, read in pages, and removed when they are old.
 * Threads: WORKER. */
#ifndef SBX_STORE_AUDIT_H
#define SBX_STORE_AUDIT_H

#include "sbx/core/limits.h"
#include "sbx/store/store.h"

/* An act. Empty texts are NULL in the table. */
typedef struct sbx_audit_entry {
    char id[SBX_ID_LEN + 1]; /* given by sbx_audit_add() */
    char request_id[SBX_MAX_REQUEST_ID_BYTES + 1];
    char user[SBX_ID_LEN + 1], key[SBX_ID_LEN + 1];
    char address[64];            /* of the client */
    const char *method;          /* a literal, as `action`; or NULL: the server itself */
    const char *action;          /* name of the route */
    char object[SBX_ID_LEN + 1]; /* id, or shorter name, of what it was about */
    char part[SBX_ID_LEN + 1];   /* id within that, of a command for example */
    int status;                  /* HTTP; 0: none */
    sbx_code code;               /* SBX_OK unless it was refused or failed */
    bool foreign_only;           /* of interest only if the object belongs to somebody else */
    int64_t count;               /* how often, as of one */
    int64_t at_ms;               /* monotonic; of the first */
} sbx_audit_entry;

/** One statement for all. May be repeated: an entry is known by its id. */
int sbx_store_audit_insert(sbx_store *s, const sbx_audit_entry *e, size_t count,
                           sbx_err *err) SBX_MUST_CHECK;

/* What a page is asked for; NULL and 0: anything. Texts are borrowed. */
typedef struct sbx_audit_filter {
    const char *user, *key, *action;
    const char *object;         /* also as `part` */
    int64_t since_ms, until_ms; /* from..before, wall clock */
    int status_min, status_max;
    int64_t before_us; /* the place of the page before: time and id of its last row */
    const char *before_id;
    int limit; /* 1..SBX_MAX_LIST_ITEMS + 1 */
} sbx_audit_filter;

typedef struct sbx_audit_row {
    char id[SBX_ID_LEN + 1];
    int64_t at_us; /* since 1970 */
    char *request_id, *user, *user_name, *key, *address, *method, *action, *object, *part, *code;
    int status; /* 0: none */
    int64_t count;
} sbx_audit_row;

typedef struct sbx_audit_page {
    sbx_audit_row *items; /* owned, with their content */
    size_t count;
} sbx_audit_page;
void sbx_audit_page_done(sbx_audit_page *p);

/** Newest first. */
int sbx_store_audit_list(sbx_store *s, const sbx_audit_filter *f, sbx_audit_page *ret,
                         sbx_err *err) SBX_MUST_CHECK;

/** Remove rows that are older than `days` (1 or more), some thousands at most.
 * @param ret_more  there may be others. */
int sbx_store_audit_purge(sbx_store *s, int64_t days, bool *ret_more, sbx_err *err) SBX_MUST_CHECK;

#endif
