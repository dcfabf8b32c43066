/* What is answered about users and keys. */
#include "contract.h"

const api_field api_user_view[] = {
    {"id", T_ID, 0, NULL, "Of the user."},
    {"name", T_STR, 0, NULL, "Unique.", .example = "\"ada\""},
    {"email", T_STR, NULLABLE, NULL, "Its address; null: none is known."},
    {"role", T_ENUM, 0, "user,admin", "`admin`: reaches what everybody owns."},
    {"tier", T_STR, 0, NULL, "By which it is limited.", .example = "\"free\""},
    {"disabled", T_BOOL, 0, NULL, "None of its keys and tokens is accepted."},
    {"issuer", T_STR, NULLABLE, NULL, "The OpenID provider that vouches for it; null: none."},
    {"subject", T_STR, NULLABLE, NULL, "What that one calls it."},
    {"createdAt", T_TIME, 0, NULL, "When it was made."},
    {0},
};

const api_field api_user_list_view[] = {
    {"items", T_LIST, 0, "User", "Newest first."},
    {"nextCursor", T_STR, NULLABLE, NULL, "For the next page; null: this was the last."},
    {0},
};

#define KEY_FIELDS                                                                                 \
    {"userId", T_ID, 0, NULL, "Whose key it is."}, {"name", T_STR, 0, NULL, "For people."},        \
        {"prefix", T_STR, 0, NULL, "What its text begins with, to recognise it."},                 \
        {"kind", T_ENUM, 0, "key,oidc", "`oidc`: stands for the tokens of an OpenID provider."},   \
        {"scopes", T_STRS, 0, NULL, "What it allows."},                                            \
        {"rates", T_REF, 0, "KeyRates", "Requests a minute, instead of the server's."},            \
        {"createdAt", T_TIME, 0, NULL, "When it was made."},                                       \
        {"expiresAt", T_TIME, NULLABLE, NULL, "Until when it is accepted; null: for ever."},       \
        {"lastUsedAt", T_TIME, NULLABLE, NULL, "Some seconds old; null: never."},                  \
    {                                                                                              \
        "revokedAt", T_TIME, NULLABLE, NULL, "Since when it is not accepted; null: it is."         \
    }

const api_field api_key_rates_view[] = {
    {"creates", T_INT, NULLABLE, NULL, "Creates and runs; 0: no limit, null: the server's."},
    {"exec", T_INT, NULLABLE, NULL, "Commands and changes; the same."},
    {"reads", T_INT, NULLABLE, NULL, "Reads and deletes; the same."},
    {0},
};

const api_field api_key_view[] = {
    {"id", T_ID, 0, NULL, "Of the key; not the key."},
    KEY_FIELDS,
    {0},
};

const api_field api_key_made_view[] = {
    {"id", T_ID, 0, NULL, "Of the key; not the key."},
    {"key", T_STR, OPTIONAL, NULL,
     "The key itself, shown by this answer alone. Absent where an Idempotency-Key repeats the "
     "request."},
    KEY_FIELDS,
    {0},
};

const api_field api_key_list_view[] = {
    {"items", T_LIST, 0, "Key", "Newest first, without revoked ones."},
    {"nextCursor", T_STR, NULLABLE, NULL, "For the next page; null: this was the last."},
    {0},
};

const api_field api_me_view[] = {
    {"user", T_REF, 0, "User", "Who asks."},
    {"key", T_REF, 0, "Key", "With what."},
    {"role", T_ENUM, 0, "user,admin", "As of the user."},
    {"tier", T_STR, 0, NULL, "As of the user.", .example = "\"free\""},
    {"scopes", T_STRS, 0, NULL, "What the key allows."},
    {0},
};

const api_field api_stream_error[] = {
    {"type", T_CONST, 0, "error", "The stream ends here; a WebSocket with the code 4401."},
    {"code", T_CODE, 0, NULL, "As in a problem: `unauthorized`."},
    {"message", T_STR, 0, NULL, "For people."},
    {0},
};

#define OF_USER(of)                                                                                \
    {                                                                                              \
        "id", T_ID, 0, NULL, "The user.", .route = of                                              \
    }
#define OF_KEY(of)                                                                                 \
    {                                                                                              \
        "id", T_ID, 0, NULL, "The key, by its id.", .route = of                                    \
    }

const api_field api_identity_params[] = {
    OF_USER("user_get"),
    OF_USER("user_patch"),
    OF_USER("user_delete"),
    OF_KEY("key_get"),
    OF_KEY("key_revoke"),
    OF_KEY("key_rotate"),
    {"owner", T_STR, 0, NULL,
     "For administrators: a user's id or name, whose objects are meant instead of one's own.",
     .example = "\"root\""},
    {0},
};
