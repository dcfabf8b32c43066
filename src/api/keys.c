/* API keys: made, rotated and revoked by their users. A key's text is shown once, by the request
 * that makes it, and stands nowhere: not in what an Idempotency-Key remembers either. */
#include "handlers.h"

#include "sbx/core/clock.h"
#include "sbx/core/json.h"
#include "sbx/store/identity.h"
#include <stdio.h>

typedef struct rates_body {
    int64_t creates, exec, reads;
} rates_body;

typedef struct key_body {
    char *user_id, *name, *expires_at;
    sbx_strs scopes;
    bool expires_given, rates_given;
    rates_body rates;
    int64_t overlap_s;
} key_body;

#define AT(member) offsetof(key_body, member)

#define RATE(class, text)                                                                          \
    {                                                                                              \
#class, SBX_JF_I64, offsetof(rates_body, class),                                           \
            .nullable = true, .max = SBX_MAX_RATE, .dflt = SBX_RATE_DEFAULT,                       \
            .doc = text " a minute; 0: no limit, null: as the server's options say"                \
    }

static const sbx_json_field rates_fields[] = {
    RATE(creates, "creates and runs"),
    RATE(exec, "commands and changes"),
    RATE(reads, "reads and deletes"),
    {.name = NULL},
};

const sbx_json_field api_key_fields[] = {
    {"name", SBX_JF_STR, AT(name), .required = true, .min = 1, .max = SBX_MAX_NAME_BYTES,
     .doc = "for people; need not be unique"},
    {"userId", SBX_JF_STR, AT(user_id), .min = SBX_ID_LEN, .max = SBX_ID_LEN,
     .doc = "whose key it is; for administrators. Default: the caller's own"},
    {"scopes", SBX_JF_STRS, AT(scopes), .min = 1, .max = SBX_MAX_SCOPES, .max_each = 64,
     .example = "[\"sandbox:*\",\"exec:write\"]",
     .doc = "what it allows, such as sandbox:read, files:* or *; no more than the caller's own, "
            "which are the default"},
    {"expiresAt", SBX_JF_STR, AT(expires_at), .given_offset = AT(expires_given), .nullable = true,
     .min = 20, .max = 40, .example = "\"2099-12-31T23:59:59.000Z\"",
     .doc =
         "until when it is accepted, RFC 3339; null: for ever. A key that expires makes none that "
         "outlives it"},
    {"rates", SBX_JF_OBJ, AT(rates), AT(rates_given), .nullable = true, .sub = rates_fields,
     .doc = "for administrators. Default: those of the key that makes it, if both are of one user"},
    {.name = NULL},
};
const sbx_json_field api_key_rotate_fields[] = {
    {"overlapSeconds", SBX_JF_I64, AT(overlap_s), .min = 0, .max = SBX_MAX_OVERLAP_S, .dflt = 0,
     .doc = "so long the old key stays good, too"},
    {.name = NULL},
};

/* --- the view --- */

void api_scopes_json(sbx_jw *w, const char *name, const char *scopes)
{
    sbx_jw_arr(w, name);
    for (const char *s = scopes; *s; s += strspn(s, " ")) {
        size_t len = strcspn(s, " ");

        sbx_jw_strn(w, NULL, s, len);
        s += len;
    }
    sbx_jw_arr_end(w);
}

void api_key_json(sbx_jw *w, const char *name, const sbx_api_key *k, const char *secret)
{
    sbx_jw_obj(w, name);
    sbx_jw_str(w, "id", k->id);
    if (secret)
        sbx_jw_str(w, "key", secret);
    sbx_jw_str(w, "userId", k->user);
    sbx_jw_str(w, "name", k->name);
    sbx_jw_str(w, "prefix", k->prefix);
    sbx_jw_str(w, "kind", k->oidc ? "oidc" : "key");
    api_scopes_json(w, "scopes", k->scopes);
    sbx_rates_json(w, "rates", k->rates);
    sbx_jw_time(w, "createdAt", k->created_ms);
    sbx_jw_time(w, "expiresAt", k->expires_ms);
    sbx_jw_time(w, "lastUsedAt", k->last_used_ms);
    sbx_jw_time(w, "revokedAt", k->revoked_ms);
    sbx_jw_obj_end(w);
}

static void reply_key(const sbx_request *r, int status, const sbx_api_key *k, const char *secret)
{
    sbx_buf b = SBX_BUF_INIT(64 * KIB);
    sbx_jw w = SBX_JW(&b);
    char location[SBX_ID_LEN + 16];
    sbx_header h = {"location", location};

    snprintf(location, sizeof(location), "/keys/%s", k->id);
    api_key_json(&w, NULL, k, secret);
    sbx_reply_send(r->reply, status, "application/json", &h, status == 201 ? 1 : 0, &b);
    sbx_buf_done(&b);
}

/* --- the body --- */

static int join_scopes(const sbx_strs *scopes, const char *otherwise, sbx_buf *out, sbx_err *err)
{
    for (size_t i = 0; i < scopes->count; i++) {
        if (strchr(scopes->items[i], ' '))
            return sbx_fail_field(err, "scopes", "scopes: each must be one, such as sandbox:read");
        sbx_buf_adds(out, i ? " " : "");
        sbx_buf_adds(out, scopes->items[i]);
    }
    if (!scopes->count)
        sbx_buf_adds(out, otherwise);
    if (sbx_buf_failed(out))
        return sbx_fail_field(err, "scopes", "scopes: together at most %d bytes",
                              SBX_MAX_SCOPES_BYTES);
    return sbx_scopes_check(out->data, err);
}

static int read_expiry(const key_body *b, const sbx_principal *who, int64_t *ret, sbx_err *err)
{
    int64_t now = sbx_wall_ms();

    *ret = b->expires_given ? 0 : who->key_ends_ms;
    if (!b->expires_at)
        return 0;
    if (!sbx_time_parse(b->expires_at, ret))
        return sbx_fail_field(err, "expiresAt",
                              "expiresAt: must be a time such as 2030-01-31T12:00:00Z");
    if (*ret <= now)
        return sbx_fail_field(err, "expiresAt", "expiresAt: must be in the future");
    return 0;
}

static int read_body(const sbx_request *r, const sbx_json_field *fields, key_body *ret,
                     sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;

    return sbx_json_parse(r->body_len ? r->body : "{}", r->body_len ? r->body_len : 2, &root,
                          err) ||
                   sbx_json_decode(root, fields, ret, err)
               ? -1
               : 0;
}

/* --- making and rotating --- */

/* A repetition is told what the first request made, but for its text, which nobody knows any more.
 * @return 1 if that was so, 0, or -1. */
static int made_before(sbx_app *app, const char *owner, const char *claimed, const sbx_request *r,
                       sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_api_key_done) sbx_api_key key = {0};

    if (!claimed)
        return 0;
    if (sbx_store_key_get(app->store, owner, claimed, &key, err))
        return err->code == SBX_E_NOT_FOUND ? 0 : -1;
    reply_key(r, 200, &key, NULL);
    return 1;
}

/* The answer with the text is not to be remembered. */
static void reply_made(const sbx_request *r, const sbx_api_key *key, const sbx_secret *secret)
{
    api_claim_open(r->reply);
    reply_key(r, 201, key, secret->key);
}

static int make(sbx_app *app, const sbx_principal *who, const sbx_request *r, const key_body *b,
                sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_api_key_done) sbx_api_key key = {0};
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf scopes = SBX_BUF_INIT(SBX_MAX_SCOPES_BYTES + 1);
    SBX_CLEANUP_VAL(sbx_secret_wipe) sbx_secret secret;
    const char *owner = b->user_id ? b->user_id : who->user, *claimed = api_claimed_id(r);
    sbx_id fresh = sbx_id_new();
    const int64_t rates[SBX_RATE_COUNT] = {[SBX_RATE_CREATES] = b->rates.creates,
                                           [SBX_RATE_EXEC] = b->rates.exec,
                                           [SBX_RATE_READS] = b->rates.reads};
    int64_t expires_ms;

    if (strcmp(owner, who->user) != 0 && !who->admin)
        return sbx_fail(err, SBX_E_FORBIDDEN, "userId: keys of others are for administrators");
    if (b->rates_given && !who->admin)
        return sbx_fail(err, SBX_E_FORBIDDEN, "rates: the rates of keys are for administrators");
    if (join_scopes(&b->scopes, who->scopes, &scopes, err) ||
        read_expiry(b, who, &expires_ms, err) ||
        sbx_principal_may_give(who, scopes.data, expires_ms, err))
        return -1;
    int rc = made_before(app, owner, claimed, r, err);
    if (rc)
        return rc < 0 ? -1 : 0;
    sbx_auth_secret(app->auth, &secret);
    sbx_key_secret made = {claimed ? claimed : fresh.s, secret.prefix, secret.hash};
    if (sbx_store_key_make(app->store, owner, who->key, &made, b->name, scopes.data, expires_ms,
                           b->rates_given ? rates : NULL, &key, err))
        return -1;
    reply_made(r, &key, &secret);
    return 0;
}

HANDLER(api_key_create)
{
    key_body b = {0};
    int rc = read_body(r, api_key_fields, &b, err);

    if (!rc)
        rc = make(app, who, r, &b, err);
    sbx_json_struct_done(api_key_fields, &b);
    return rc;
}

HANDLER(api_key_rotate)
{
    SBX_CLEANUP_VAL(sbx_api_key_done) sbx_api_key old = {0}, key = {0};
    SBX_CLEANUP_VAL(sbx_secret_wipe) sbx_secret secret;
    const char *id = sbx_request_path(r, "id"), *claimed = api_claimed_id(r);
    sbx_id fresh = sbx_id_new();
    key_body b = {0};

    if (read_body(r, api_key_rotate_fields, &b, err) ||
        sbx_store_key_get(app->store, who->owner, id, &old, err))
        return -1;
    int rc = made_before(app, who->owner, claimed, r, err);
    if (rc)
        return rc < 0 ? -1 : 0;
    sbx_auth_secret(app->auth, &secret);
    sbx_key_secret made = {claimed ? claimed : fresh.s, secret.prefix, secret.hash};
    if (sbx_principal_may_give(who, old.scopes, old.expires_ms, err) ||
        sbx_store_key_rotate(app->store, who->owner, id, &made, (int)b.overlap_s, &key, err))
        return -1;
    if (!b.overlap_s)
        api_bearer_forget(app, id, true);
    reply_made(r, &key, &secret);
    if (!b.overlap_s)
        sbx_http_end_bearer(app->http, id);
    return 0;
}

/* --- list, get, revoke --- */

static void write_item(sbx_jw *w, const void *item)
{
    api_key_json(w, NULL, item, NULL);
}

HANDLER(api_key_list)
{
    sbx_api_key_list list = {0};
    sbx_page page = {0};
    char cursor[48];

    if (api_list_page(r, &page, cursor, err) ||
        sbx_store_key_list(app->store, who->owner, &page, &list, err))
        return -1;
    api_list_answer(r, &page,
                    &(api_items){.items = list.items,
                                 .count = list.count,
                                 .size = sizeof(*list.items),
                                 .id_at = offsetof(sbx_api_key, id),
                                 .created_at = offsetof(sbx_api_key, created_us),
                                 .write = write_item});
    sbx_api_key_list_done(&list);
    return 0;
}

HANDLER(api_key_get)
{
    SBX_CLEANUP_VAL(sbx_api_key_done) sbx_api_key key = {0};

    if (sbx_store_key_get(app->store, who->owner, sbx_request_path(r, "id"), &key, err))
        return -1;
    reply_key(r, 200, &key, NULL);
    return 0;
}

HANDLER(api_key_revoke)
{
    const char *id = sbx_request_path(r, "id");
    sbx_buf empty = SBX_BUF_INIT(1);

    if (sbx_store_key_revoke(app->store, who->owner, id, err))
        return -1;
    api_bearer_forget(app, id, true);
    sbx_reply_send(r->reply, 204, NULL, NULL, 0, &empty);
    sbx_http_end_bearer(app->http, id);
    return 0;
}
