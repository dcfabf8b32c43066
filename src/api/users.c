/* Users, for administrators; and who one is oneself. */
#include "handlers.h"

#include "sbx/core/json.h"
#include "sbx/store/identity.h"
#include <stdio.h>

static const char *const roles[] = {"user", "admin", NULL};

typedef struct user_body {
    char *name, *email, *tier;
    const char *role;
    bool email_given, disabled, disabled_given;
} user_body;

#define AT(member) offsetof(user_body, member)
#define END_OF_FIELDS                                                                              \
    {                                                                                              \
        .name = NULL                                                                               \
    }
#define ROLE "role", SBX_JF_ENUM, AT(role), .values = roles
#define TIER "tier", SBX_JF_STR, AT(tier), .min = 1, .max = 64
#define EMAIL                                                                                      \
    "email", SBX_JF_STR, AT(email), .given_offset = AT(email_given), .nullable = true, .min = 3,   \
                                    .max = SBX_MAX_EMAIL_BYTES, .example = "\"ada@example.com\""

const sbx_json_field api_user_fields[] = {
    {"name", SBX_JF_STR, AT(name), .required = true, .min = 1, .max = SBX_MAX_NAME_BYTES,
     .doc = "unique; without control characters"},
    {EMAIL, .doc = "its address; nothing is sent there"},
    {ROLE, .doc = "what the user may do; default: user"},
    {TIER, .example = "\"free\"", .doc = "the tier by which it is limited; default: free"},
    END_OF_FIELDS,
};
const sbx_json_field api_user_patch_fields[] = {
    {EMAIL, .doc = "its address; null: none"},
    {ROLE, .doc = "what the user may do"},
    {TIER, .example = "\"free\"", .doc = "the tier by which it is limited"},
    {"disabled", SBX_JF_BOOL, AT(disabled), .given_offset = AT(disabled_given),
     .doc = "true: none of its keys and tokens is accepted, and its open streams end"},
    END_OF_FIELDS,
};

/* --- the view --- */

static void user_json(sbx_jw *w, const char *name, const sbx_user *u)
{
    sbx_jw_obj(w, name);
    sbx_jw_str(w, "id", u->id);
    sbx_jw_str(w, "name", u->name);
    sbx_jw_str(w, "email", u->email);
    sbx_jw_str(w, "role", u->role);
    sbx_jw_str(w, "tier", u->tier);
    sbx_jw_bool(w, "disabled", u->disabled);
    sbx_jw_str(w, "issuer", u->issuer);
    sbx_jw_str(w, "subject", u->subject);
    sbx_jw_time(w, "createdAt", u->created_ms);
    sbx_jw_obj_end(w);
}

static void reply_user(const sbx_request *r, int status, const sbx_user *u)
{
    sbx_buf b = SBX_BUF_INIT(64 * KIB);
    sbx_jw w = SBX_JW(&b);
    char location[SBX_ID_LEN + 16];
    sbx_header h = {"location", location};

    snprintf(location, sizeof(location), "/users/%s", u->id);
    user_json(&w, NULL, u);
    sbx_reply_send(r->reply, status, "application/json", &h, status == 201 ? 1 : 0, &b);
    sbx_buf_done(&b);
}

/* --- the body --- */

static bool plain(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < ' ' || *s == 0x7f)
            return false;
    return true;
}

/* Enough to find a slip: one @, something around it, nothing that could be more than an address. */
static bool email_form(const char *s)
{
    const char *at = strchr(s, '@');

    if (!at || at == s || !at[1] || strchr(at + 1, '@'))
        return false;
    for (; *s; s++)
        if ((unsigned char)*s <= ' ' || strchr("<>()[],;:\\\"\x7f", *s))
            return false;
    return true;
}

static int read_body(const sbx_request *r, const sbx_json_field *fields, user_body *ret,
                     sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;

    if (sbx_json_parse(r->body_len ? r->body : "{}", r->body_len ? r->body_len : 2, &root, err) ||
        sbx_json_decode(root, fields, ret, err))
        return -1;
    if (ret->name && !plain(ret->name))
        return sbx_fail_field(err, "name", "name: must have no control characters");
    if (ret->email && !email_form(ret->email))
        return sbx_fail_field(err, "email", "email: must be an address such as ada@example.com");
    return 0;
}

/* --- create, list, get, change, delete --- */

HANDLER(api_user_create)
{
    SBX_CLEANUP_VAL(sbx_user_done) sbx_user user = {0};
    const char *claimed = api_claimed_id(r);
    sbx_id fresh = sbx_id_new();
    user_body b = {0};
    int rc = read_body(r, api_user_fields, &b, err);

    (void)who;
    sbx_user_change c = {.name = b.name, .email = b.email, .role = b.role, .tier = b.tier};
    if (!rc)
        rc = sbx_store_user_insert(app->store, claimed ? claimed : fresh.s, &c, &user, err);
    sbx_json_struct_done(api_user_fields, &b);
    if (rc)
        return -1;
    reply_user(r, 201, &user);
    return 0;
}

static void write_item(sbx_jw *w, const void *item)
{
    user_json(w, NULL, item);
}

HANDLER(api_user_list)
{
    sbx_user_list list = {0};
    sbx_page page = {0};
    char cursor[48];

    (void)who;
    if (api_list_page(r, &page, cursor, err) ||
        sbx_store_user_list(app->store, sbx_request_query(r, "name"), &page, &list, err))
        return -1;
    api_list_answer(r, &page,
                    &(api_items){.items = list.items,
                                 .count = list.count,
                                 .size = sizeof(*list.items),
                                 .id_at = offsetof(sbx_user, id),
                                 .created_at = offsetof(sbx_user, created_us),
                                 .write = write_item});
    sbx_user_list_done(&list);
    return 0;
}

HANDLER(api_user_get)
{
    SBX_CLEANUP_VAL(sbx_user_done) sbx_user user = {0};

    (void)who;
    if (sbx_store_user_get(app->store, sbx_request_path(r, "id"), &user, err))
        return -1;
    reply_user(r, 200, &user);
    return 0;
}

/* Whoever takes his own rights away cannot give them back. */
static int check_self(const sbx_principal *who, const char *id, bool harm, sbx_err *err)
{
    if (!harm || strcmp(who->user, id) != 0)
        return 0;
    return sbx_fail(err, SBX_E_CONFLICT,
                    "an administrator cannot disable, delete or demote himself: another one can");
}

HANDLER(api_user_patch)
{
    SBX_CLEANUP_VAL(sbx_user_done) sbx_user user = {0};
    const char *id = sbx_request_path(r, "id");
    user_body b = {0};
    int rc = read_body(r, api_user_patch_fields, &b, err);
    bool disable = b.disabled_given && b.disabled;

    sbx_user_change c = {.email = b.email,
                         .email_given = b.email_given,
                         .role = b.role,
                         .tier = b.tier,
                         .disable = disable,
                         .enable = b.disabled_given && !b.disabled};
    if (!rc)
        rc = check_self(who, id, disable || sbx_streq(b.role, "user"), err);
    if (!rc)
        rc = sbx_store_user_patch(app->store, id, &c, &user, err);
    sbx_json_struct_done(api_user_patch_fields, &b);
    if (rc)
        return -1;
    api_bearer_forget(app, id, disable);
    reply_user(r, 200, &user);
    if (disable)
        sbx_http_end_bearer(app->http, id);
    return 0;
}

HANDLER(api_user_delete)
{
    const char *id = sbx_request_path(r, "id");
    sbx_buf empty = SBX_BUF_INIT(1);

    if (check_self(who, id, true, err) || sbx_store_user_delete(app->store, id, err))
        return -1;
    api_bearer_forget(app, id, true);
    sbx_reply_send(r->reply, 204, NULL, NULL, 0, &empty);
    sbx_http_end_bearer(app->http, id);
    return 0;
}

/* --- oneself --- */

HANDLER(api_me)
{
    SBX_CLEANUP_VAL(sbx_api_key_done) sbx_api_key key = {0};
    SBX_CLEANUP_VAL(sbx_user_done) sbx_user user = {0};
    sbx_buf b = SBX_BUF_INIT(64 * KIB);
    sbx_jw w = SBX_JW(&b);

    if (sbx_store_user_get(app->store, who->user, &user, err) ||
        sbx_store_key_get(app->store, who->user, who->key, &key, err))
        return -1;
    sbx_jw_obj(&w, NULL);
    user_json(&w, "user", &user);
    api_key_json(&w, "key", &key, NULL);
    sbx_jw_str(&w, "role", who->admin ? "admin" : "user");
    sbx_jw_str(&w, "tier", user.tier);
    api_scopes_json(&w, "scopes", who->scopes);
    sbx_jw_obj_end(&w);
    sbx_reply_json(r->reply, 200, &b);
    sbx_buf_done(&b);
    return 0;
}
