/* Users and their keys, as they are managed over the API. What an owner may do names him; what
 * administrators alone may do does not. Threads: WORKER. */
#ifndef SBX_STORE_IDENTITY_H
#define SBX_STORE_IDENTITY_H

#include "sbx/core/rates.h"
#include "sbx/store/store.h"

typedef struct sbx_user {
    char id[SBX_ID_LEN + 1];
    char role[8];              /* user, admin */
    char *name, *email, *tier; /* owned; email may be NULL */
    char *issuer, *subject;    /* of an OpenID provider, or NULL; owned */
    bool disabled;
    int64_t created_us, created_ms;
} sbx_user;
void sbx_user_done(sbx_user *u);

typedef struct sbx_user_list {
    sbx_user *items;
    size_t count;
} sbx_user_list;
void sbx_user_list_done(sbx_user_list *l);

/* What a user is made of, or a change. */
typedef struct sbx_user_change {
    const char *name;  /* of a new one */
    const char *email; /* or NULL: none, or (of a change, unless email_given) as it was */
    bool email_given;
    const char *role, *tier; /* NULL: user, free, or as it was */
    bool disable, enable;
} sbx_user_change;

/* The page of a list. */
typedef struct sbx_page {
    int64_t before_us;     /* cursor: created_at in microseconds; 0: from the newest */
    const char *before_id; /* tie-break of the cursor */
    int limit;             /* 1..SBX_MAX_LIST_ITEMS + 1 */
} sbx_page;

/** Make a user. One with this id that is there already is success: this very request made it.
 * @return 0, or -1 with CONFLICT (the name is taken) or INVALID (the field "tier"). */
int sbx_store_user_insert(sbx_store *s, const char *id, const sbx_user_change *c, sbx_user *ret,
                          sbx_err *err) SBX_MUST_CHECK;
int sbx_store_user_get(sbx_store *s, const char *id, sbx_user *ret, sbx_err *err) SBX_MUST_CHECK;
/** Newest first. @param name  only the one of this name, or NULL. */
int sbx_store_user_list(sbx_store *s, const char *name, const sbx_page *page, sbx_user_list *ret,
                        sbx_err *err) SBX_MUST_CHECK;
/** NOT_FOUND, or INVALID (the field "tier"). */
int sbx_store_user_patch(sbx_store *s, const char *id, const sbx_user_change *c, sbx_user *ret,
                         sbx_err *err) SBX_MUST_CHECK;
/** Delete the record; again is success. NOT_FOUND, or CONFLICT while there are sandboxes that are
 * not deleted. */
int sbx_store_user_delete(sbx_store *s, const char *id, sbx_err *err) SBX_MUST_CHECK;
/** Who is meant by an id or a name. NOT_FOUND. */
int sbx_store_user_find(sbx_store *s, const char *word, sbx_id *ret, sbx_err *err) SBX_MUST_CHECK;

/** Whose a sandbox, group or key is. NOT_FOUND. */
int sbx_store_owner_of(sbx_store *s, const char *id, sbx_id *ret, sbx_err *err) SBX_MUST_CHECK;

typedef struct sbx_api_key {
    char id[SBX_ID_LEN + 1], user[SBX_ID_LEN + 1];
    char *name, *prefix, *scopes; /* owned */
    bool oidc;                    /* stands for the tokens of its user */
    int64_t created_us, created_ms;
    int64_t expires_ms, last_used_ms, revoked_ms; /* 0: never */
    int64_t rates[SBX_RATE_COUNT];                /* as of sbx_key_row */
} sbx_api_key;
void sbx_api_key_done(sbx_api_key *k);

typedef struct sbx_api_key_list {
    sbx_api_key *items;
    size_t count;
} sbx_api_key_list;
void sbx_api_key_list_done(sbx_api_key_list *l);

/* A user as an OpenID provider tells of it. */
typedef struct sbx_oidc_user {
    const char *issuer, *subject; /* together they are the user */
    const char *name;      /* of a new one; NULL: made from its id. Taken: with an addition */
    const char *email;     /* of a new one, or NULL */
    bool admin, sync_role; /* sync_role: also of one that is there */
} sbx_oidc_user;
/** Make the user, and the key of this hash that stands for its tokens, unless they are there. */
int sbx_store_oidc_ensure(sbx_store *s, const sbx_oidc_user *u,
                          const unsigned char hash[SBX_HASH_BYTES], sbx_err *err) SBX_MUST_CHECK;

/* A new secret. */
typedef struct sbx_key_secret {
    const char *id;     /* of the key */
    const char *prefix; /* for recognition, at most 16 characters */
    const unsigned char *hash;
} sbx_key_secret;

/** @param maker  id of the key that makes it; one of the same user hands its rates on.
 * @param expires_ms  wall clock, 0: never.
 * @param rates  SBX_RATE_COUNT as of sbx_key_row; NULL: as the maker's.
 * @return 0, or -1 with INVALID (the field "userId": unknown or disabled) or QUOTA beyond
 *         SBX_MAX_KEYS. Keys that are made at the same moment may exceed it by their number. */
int sbx_store_key_make(sbx_store *s, const char *owner, const char *maker,
                       const sbx_key_secret *secret, const char *name, const char *scopes,
                       int64_t expires_ms, const int64_t *rates, sbx_api_key *ret,
                       sbx_err *err) SBX_MUST_CHECK;
int sbx_store_key_get(sbx_store *s, const char *owner, const char *id, sbx_api_key *ret,
                      sbx_err *err) SBX_MUST_CHECK;
/** Newest first, without revoked ones. */
int sbx_store_key_list(sbx_store *s, const char *owner, const sbx_page *page, sbx_api_key_list *ret,
                       sbx_err *err) SBX_MUST_CHECK;
/** Again is success. NOT_FOUND, or CONFLICT if it stands for tokens. */
int sbx_store_key_revoke(sbx_store *s, const char *owner, const char *id,
                         sbx_err *err) SBX_MUST_CHECK;
/** Make a key as `id` is, which ends at once, or after `overlap_s` seconds.
 * @return 0, or -1 with CONFLICT if `id` is not good any more, or stands for tokens. */
int sbx_store_key_rotate(sbx_store *s, const char *owner, const char *id,
                         const sbx_key_secret *secret, int overlap_s, sbx_api_key *ret,
                         sbx_err *err) SBX_MUST_CHECK;

/** Write when keys were used. @param json  an array of {"id", "ms"} (wall clock). */
int sbx_store_keys_used(sbx_store *s, const char *json, sbx_err *err) SBX_MUST_CHECK;

/** Call `ended` for those of the keys that are not good any more: revoked, expired, gone, or of a
 * user who is disabled. */
int sbx_store_keys_ended(sbx_store *s, const char *const *ids, size_t count,
                         void (*ended)(void *arg, const char *id), void *arg,
                         sbx_err *err) SBX_MUST_CHECK;

#endif
