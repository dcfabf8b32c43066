/* The tables `groups` and `group_members`: named sets of sandboxes of one owner.
 *
 * A member that is deleted, or about to be, is not among the members that are read. Threads:
 * WORKER. Every statement names the owner. */
#ifndef SBX_STORE_GROUPS_H
#define SBX_STORE_GROUPS_H

#include "sbx/store/store.h"

typedef struct sbx_group {
    char id[SBX_ID_LEN + 1];
    char *name;                      /* owned, as the next two */
    char *metadata;                  /* JSON object text */
    char (*members)[SBX_ID_LEN + 1]; /* in the order in which they were added */
    size_t member_count;
    int64_t version; /* counts changes */
    int64_t created_ms, updated_ms, created_us;
} sbx_group;
void sbx_group_done(sbx_group *g);

typedef struct sbx_group_list {
    sbx_group *items;
    size_t count;
} sbx_group_list;
void sbx_group_list_done(sbx_group_list *l);

/* What is to be written. Strings are borrowed. */
typedef struct sbx_group_change {
    const char *name;     /* NULL keeps */
    const char *metadata; /* JSON object text; NULL keeps. Of a change: merged, null removes */
    char *const *add;     /* ids of sandboxes, each once */
    size_t add_count;
    char *const *remove; /* what is no member is no failure */
    size_t remove_count;
} sbx_group_change;

/** Make a group. One with this id that is there already is success: this very request made it.
 * QUOTA beyond `max_groups`, INVALID with the field
 * "add[N]" for a sandbox that the owner does not have. */
int sbx_store_group_insert(sbx_store *s, const char *owner, const char *id,
                           const sbx_group_change *c, int max_groups, sbx_err *err) SBX_MUST_CHECK;

/** NOT_FOUND if the owner has none with that id. */
int sbx_store_group_get(sbx_store *s, const char *owner, const char *id, sbx_group *ret,
                        sbx_err *err) SBX_MUST_CHECK;

/** Change it as it was read: CONFLICT if its version is another one by now; INVALID as above, and
 * for "metadata" that would have more than SBX_MAX_METADATA entries. */
int sbx_store_group_change(sbx_store *s, const char *owner, const sbx_group *g,
                           const sbx_group_change *c, sbx_err *err) SBX_MUST_CHECK;

/** The sandboxes stay. NOT_FOUND if the owner has none with that id. */
int sbx_store_group_delete(sbx_store *s, const char *owner, const char *id,
                           sbx_err *err) SBX_MUST_CHECK;

typedef struct sbx_group_filter {
    const char *owner, *name;
    const char *metadata;  /* JSON object that must be contained, or NULL */
    int64_t before_us;     /* cursor: created_at in microseconds, 0: from the newest */
    const char *before_id; /* tie-break of the cursor */
    int limit;             /* 1..SBX_MAX_LIST_ITEMS + 1 */
} sbx_group_filter;
/** Newest first. */
int sbx_store_group_list(sbx_store *s, const sbx_group_filter *f, sbx_group_list *ret,
                         sbx_err *err) SBX_MUST_CHECK;

#endif
