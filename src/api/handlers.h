/* One short handler per route; each does: read parameters, call the service, write the answer. */
#ifndef SBX_API_HANDLERS_H
#define SBX_API_HANDLERS_H

#include "app.h"
#include "sbx/api/api.h"
#include "sbx/store/identity.h"

#define HANDLER(name)                                                                              \
    int name(struct sbx_app *app, const sbx_principal *who, const sbx_request *r, sbx_err *err)

/* routes.c */
/** Count a request as `cost` more of its class.
 * @return 0, or -1 with RATE_LIMITED or INVALID (never as many at once). */
int api_rate(struct sbx_app *app, const sbx_principal *who, const sbx_request *r, size_t cost,
             sbx_err *err) SBX_MUST_CHECK;

/* service.c */
HANDLER(api_health);
HANDLER(api_ready);
HANDLER(api_metrics);
HANDLER(api_openapi);
HANDLER(api_docs);
/* sandboxes.c */
HANDLER(api_sandbox_create);
int api_sandbox_made(struct sbx_app *app, const sbx_principal *who, const sbx_request *r,
                     const char *id, sbx_err *err);
HANDLER(api_sandbox_list);
HANDLER(api_sandbox_get);
HANDLER(api_sandbox_delete);
HANDLER(api_sandbox_patch);
HANDLER(api_sandbox_start);
HANDLER(api_sandbox_stop);
HANDLER(api_sandbox_restart);
HANDLER(api_sandbox_pause);
HANDLER(api_sandbox_resume);
HANDLER(api_sandbox_reset);
HANDLER(api_sandbox_keepalive);
/* What lists have in common. A cursor is the time of creation of the last item, in microseconds,
 * and its id, which is left in `text`. */
int api_list_limit(const sbx_request *r, int *ret, sbx_err *err) SBX_MUST_CHECK;
int api_list_cursor(const sbx_request *r, int64_t *ret_us, const char **ret_id, char text[48],
                    sbx_err *err) SBX_MUST_CHECK;
void api_list_next_cursor(sbx_jw *w, bool more, int64_t us, const char *id);
/** The page that is asked for, of one item more than will be told: it says whether there is
 * another.
 * @param ret  zeroed; borrows `text`. */
int api_list_page(const sbx_request *r, sbx_page *ret, char text[48], sbx_err *err) SBX_MUST_CHECK;
/* What was found for a page: an array of structs. */
typedef struct api_items {
    const void *items;
    size_t count, size;       /* how many, and bytes of each */
    size_t id_at, created_at; /* offsets of the id (text) and of the creation (int64_t, us) */
    void (*write)(sbx_jw *w, const void *item);
} api_items;
void api_list_answer(const sbx_request *r, const sbx_page *page, const api_items *l);
/** The parameters metadata.KEY as a JSON object in `metadata`; NULL: there are none. */
const char *api_list_metadata(const sbx_request *r, sbx_buf *metadata);
int api_sandbox_filter(const sbx_request *r, sbx_sandbox_filter *f, sbx_buf *metadata,
                       sbx_err *err) SBX_MUST_CHECK;
/* groups.c */
HANDLER(api_sandbox_batch);
HANDLER(api_sandbox_delete_many);
HANDLER(api_group_create);
HANDLER(api_group_list);
HANDLER(api_group_get);
HANDLER(api_group_patch);
HANDLER(api_group_delete);
HANDLER(api_group_exec);
extern const sbx_json_field api_group_fields[], api_group_patch_fields[];
/* events.c */
HANDLER(api_events);
/* commands.c */
HANDLER(api_exec);
HANDLER(api_exec_list);
HANDLER(api_exec_get);
HANDLER(api_exec_kill);
HANDLER(api_exec_output);
HANDLER(api_exec_signal);
HANDLER(api_exec_stdin);
HANDLER(api_terminal);
HANDLER(api_logs);
HANDLER(api_stats);

/* files.c */
HANDLER(api_file_read);
HANDLER(api_file_write);
HANDLER(api_file_remove);
HANDLER(api_file_stat);
HANDLER(api_file_list);
HANDLER(api_file_mkdir);
HANDLER(api_file_move);
HANDLER(api_file_copy);
HANDLER(api_file_batch);
HANDLER(api_file_pack);
HANDLER(api_file_unpack);
HANDLER(api_file_watch);

/* runs.c */
HANDLER(api_run);
HANDLER(api_sandbox_run);

/* contexts.c */
HANDLER(api_context_create);
HANDLER(api_context_list);
HANDLER(api_context_get);
HANDLER(api_context_delete);
HANDLER(api_context_restart);

/* idempotency.c */
/** Run the handler of a request with an Idempotency-Key, or answer it as the first time, or keep
 * it until the first one has an answer. @return 0, SBX_KEPT or -1. */
int api_idempotent(struct sbx_app *app, const sbx_api_route *route, const sbx_principal *who,
                   const sbx_request *r, sbx_err *err) SBX_MUST_CHECK;
/** The id that the handler is to give to what it makes; NULL: any, the request has no key. */
const char *api_claimed_id(const sbx_request *r);
/** To be called once the intent is written under that id, before anything is done about it.
 * CAPACITY if another request took over meanwhile: the intent must be undone. */
int api_claim_begun(const sbx_request *r, sbx_err *err) SBX_MUST_CHECK;

/** Was an earlier request run under that id? */
bool api_claim_resumed(const sbx_request *r);
/** Before the answer, any thread: what was begun is not at its end, so that the next request with
 * the key goes on with it. Nothing without a key. */
void api_claim_open(sbx_reply *reply);

/** The claim of the request's key, for who writes it together with the intent; NULL: no key. */
const struct sbx_claim *api_claim(const sbx_request *r);
/** That was done: the claim names `id` now, and is begun. */
void api_claim_named(const sbx_request *r, const char *id);

/* audit.c */
HANDLER(api_audit_list);
/** Have the request's answer recorded, if it is one of those that are. Before its handler.
 * @return whether it is. */
bool api_audit_begin(struct sbx_app *app, const sbx_api_route *route, const sbx_request *r,
                     const sbx_principal *who);
/** Record a request of which api_audit_begin() knows nothing, if it was refused.
 * @param who  NULL: nobody knows. @return -1, for the caller to pass on. */
int api_audit_refused(struct sbx_app *app, const sbx_api_route *route, const sbx_request *r,
                      const sbx_principal *who, const sbx_err *err);

/* pool.c */
HANDLER(api_pool_get);
HANDLER(api_pool_set);

/* usage.c */
HANDLER(api_quotas);
HANDLER(api_usage);
HANDLER(api_spending_set);
extern const sbx_json_field api_spending_fields[];

/* tiers.c */
/** The body, {} if there is none. */
int api_read_json(const sbx_request *r, sbx_json **ret, sbx_err *err) SBX_MUST_CHECK;
HANDLER(api_price_list);
HANDLER(api_price_change);
HANDLER(api_tier_list);
HANDLER(api_tier_change);
extern const sbx_json_field api_price_fields[], api_tier_fields[];
void api_limit(sbx_jw *w, const char *name, int64_t limit); /* none is null */
/* reach.c */
/* bearers.c */
/** Have all workers forget a key, or the keys of a user, because what was known is not true any
 * more. Before the answer; never blocks.
 * @param id     of the key or of the user.
 * @param ended  whether requests in work end on the other workers, too. On this one
 *               sbx_http_end_bearer() does that, behind the answer: the request may be one of them.
 */
void api_bearer_forget(struct sbx_app *app, const char *id, bool ended);

/** Whose objects the request is about: `who->owner`. An administrator reaches those of everybody by
 * their id, and the lists of others by the parameter `owner`.
 * @return 0, or -1 with FORBIDDEN or INVALID (`owner`), or what the store fails with. */
int api_reach(struct sbx_app *app, const sbx_request *r, sbx_principal *who,
              sbx_err *err) SBX_MUST_CHECK;

/* users.c */
HANDLER(api_me);
HANDLER(api_user_create);
HANDLER(api_user_list);
HANDLER(api_user_get);
HANDLER(api_user_patch);
HANDLER(api_user_delete);
extern const sbx_json_field api_user_fields[], api_user_patch_fields[];
/* keys.c */
HANDLER(api_key_create);
HANDLER(api_key_list);
HANDLER(api_key_get);
HANDLER(api_key_revoke);
HANDLER(api_key_rotate);
extern const sbx_json_field api_key_fields[], api_key_rotate_fields[];
/** The scopes as an array, and a key as an object. */
void api_scopes_json(sbx_jw *w, const char *name, const char *scopes);
struct sbx_api_key;
void api_key_json(sbx_jw *w, const char *name, const struct sbx_api_key *k, const char *secret);

/* tickets.c */
HANDLER(api_ticket_create);
extern const sbx_json_field api_ticket_fields[];
/** Who presents the request's ticket? An event stream keeps its ticket alive until it is over.
 * As sbx_auth_check() otherwise; INVALID if a key was sent as well. */
int api_ticket_check(struct sbx_app *app, const sbx_request *r, sbx_principal *ret,
                     sbx_err *err) SBX_MUST_CHECK;

#endif
