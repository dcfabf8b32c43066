/* The statements about users and keys: a part of queries.h, which says what the columns are. */
#ifndef SBX_STORE_QUERIES_IDENTITY_H
#define SBX_STORE_QUERIES_IDENTITY_H

/* Of users `u` and keys `k`, in the order in which users.c and keys.c read them. */
#define USER_COLS                                                                                  \
    "u.id, u.name, u.email, u.role, u.tier, u.disabled_at IS NOT NULL, u.issuer, u.subject,"       \
    " u.created_at"
#define KEY_COLS                                                                                   \
    "k.id, k.user_id, k.name, k.prefix, k.scopes, k.kind, k.created_at, k.expires_at,"             \
    " k.last_used_at, k.revoked_at, " KEY_RATES

/* A key `k` of a user `u` is good. */
#define KEY_IS_GOOD                                                                                \
    "k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())"                      \
    " AND u.disabled_at IS NULL"

/* clang-format off */
#define SBX_QUERIES_IDENTITY(X)                                                                    \
    /* One that this very request made is there already: as it is. */                              \
    X(USER_INSERT, 5, SYSTEM,                                                                      \
      "INSERT INTO public.users AS u (id, name, email, role, tier)"                                \
      " SELECT $1, $2, $3, $4, coalesce($5, 'free') WHERE $5::text IS NULL"                        \
      " OR EXISTS (SELECT 1 FROM public.tiers WHERE name = $5)"                                    \
      " ON CONFLICT (id) DO UPDATE SET id = excluded.id RETURNING " USER_COLS)                     \
    X(USER_GET, 1, SYSTEM,                                                                         \
      "SELECT " USER_COLS " FROM public.users u WHERE u.id = $1 AND u.deleted_at IS NULL")         \
    /* $1 name, $2 created_at and $3 id of the cursor, $4 limit */                                 \
    X(USER_LIST, 4, SYSTEM,                                                                        \
      "SELECT " USER_COLS " FROM public.users u WHERE u.deleted_at IS NULL"                        \
      " AND ($1::text IS NULL OR u.name = $1)"                                                     \
      " AND ($2::timestamptz IS NULL OR (u.created_at, u.id) < ($2, $3::text))"                    \
      " ORDER BY u.created_at DESC, u.id DESC LIMIT $4::bigint")                                   \
    /* By id or name; a name may look like the id of somebody else. */                             \
    X(USER_FIND, 1, SYSTEM,                                                                        \
      "SELECT u.id FROM public.users u WHERE (u.id = $1 OR u.name = $1)"                           \
      " AND u.deleted_at IS NULL ORDER BY u.id = $1 DESC LIMIT 1")                                 \
    /* $2 email is given, $3 email, $4 role, $5 tier, $6 1: disable, 2: enable; NULL or 0          \
     * keeps */                                                                                    \
    X(USER_PATCH, 6, SYSTEM,                                                                       \
      "UPDATE public.users u SET email = CASE WHEN $2::bool THEN $3 ELSE email END,"               \
      " role = coalesce($4, role), tier = coalesce($5, tier),"                                     \
      " disabled_at = CASE $6::int WHEN 1 THEN coalesce(disabled_at, now())"                       \
      " WHEN 2 THEN NULL ELSE disabled_at END WHERE id = $1 AND deleted_at IS NULL"                \
      " AND ($5::text IS NULL OR EXISTS (SELECT 1 FROM public.tiers WHERE name = $5))"             \
      " RETURNING " USER_COLS)                                                                     \
    X(USER_DELETE, 1, OWNER,                                                                       \
      "WITH s AS (SELECT count(*) AS n FROM public.sandboxes"                                      \
      " WHERE owner = $1 AND state <> 'deleted'),"                                                 \
      " d AS (UPDATE public.users SET deleted_at = now(), disabled_at = coalesce(disabled_at, now()),"\
      " name = left(name, 100) || ' ~' || id WHERE id = $1 AND deleted_at IS NULL"                 \
      " AND (SELECT n FROM s) = 0 RETURNING 1)"                                                    \
      " SELECT s.n, u.deleted_at IS NOT NULL OR EXISTS (SELECT 1 FROM d)"                          \
      " FROM public.users u, s WHERE u.id = $1")                                                   \
    /* $1 id, $2 name, $3 role, $4 issuer, $5 subject, $6 email, $7 is the role to be so, $8 id and $9\
     * hash of the key that stands for the tokens. */                                              \
    X(OIDC_ENSURE, 9, SYSTEM,                                                                      \
      "WITH u AS (INSERT INTO public.users AS u (id, name, role, issuer, subject, email)"          \
      " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (issuer, subject) DO UPDATE"                   \
      " SET role = CASE WHEN $7::bool THEN excluded.role ELSE u.role END RETURNING id)"            \
      " INSERT INTO public.api_keys (id, user_id, name, prefix, hash, scopes, kind)"               \
      " SELECT $8, id, 'OpenID', 'oidc', $9::bytea, '*', 'oidc' FROM u"                            \
      " ON CONFLICT (hash) DO NOTHING")                                                            \
    /* For administrators: whose the sandbox, group or key is. What waits in a pool is             \
     * nobody's. */                                                                                \
    X(OWNER_OF, 1, SYSTEM,                                                                         \
      "SELECT owner FROM public.sandboxes WHERE id = $1 AND NOT " OF_NOBODY                        \
      " UNION ALL SELECT owner FROM public.groups WHERE id = $1"                                   \
      " UNION ALL SELECT user_id FROM public.api_keys WHERE id = $1")                              \
    /* $2 user, $7 expires_at, $8 most keys, $9 the key that makes it: one of the same user hands its\
     * rates on. */                                                                                \
    /* $9 the key that makes it, of which it has the rates if $10, {creates,exec,reads} with -1 for \
     * the server's, is NULL. */                                                                    \
    X(KEY_MAKE, 10, OWNER,                                                                         \
      "INSERT INTO public.api_keys AS k (id, user_id, name, prefix, hash, scopes, expires_at,"     \
      " rate_creates, rate_exec, rate_reads)"                                                      \
      " SELECT $1, $2, $3, $4, $5::bytea, $6, $7::timestamptz,"                                    \
      " CASE WHEN $10::bigint[] IS NULL THEN m.rate_creates ELSE nullif(($10::bigint[])[1], -1) END,"\
      " CASE WHEN $10::bigint[] IS NULL THEN m.rate_exec ELSE nullif(($10::bigint[])[2], -1) END," \
      " CASE WHEN $10::bigint[] IS NULL THEN m.rate_reads ELSE nullif(($10::bigint[])[3], -1) END" \
      " FROM (SELECT 1) AS one"                                                                    \
      " LEFT JOIN public.api_keys m ON m.id = $9 AND m.user_id = $2"                               \
      " WHERE EXISTS (SELECT 1 FROM public.users WHERE id = $2 AND disabled_at IS NULL)"           \
      " AND (SELECT count(*) FROM public.api_keys WHERE user_id = $2 AND revoked_at IS NULL"       \
      " AND (expires_at IS NULL OR expires_at > now())) < $8::bigint"                              \
      " ON CONFLICT (hash) DO UPDATE SET name = excluded.name RETURNING " KEY_COLS)                \
    X(KEY_GET, 2, OWNER,                                                                           \
      "SELECT " KEY_COLS " FROM public.api_keys k WHERE k.id = $1 AND k.user_id = $2")             \
    /* $2 created_at and $3 id of the cursor, $4 limit */                                          \
    X(KEY_LIST, 4, OWNER,                                                                          \
      "SELECT " KEY_COLS " FROM public.api_keys k WHERE k.user_id = $1 AND k.revoked_at IS NULL"   \
      " AND ($2::timestamptz IS NULL OR (k.created_at, k.id) < ($2, $3::text))"                    \
      " ORDER BY k.created_at DESC, k.id DESC LIMIT $4::bigint")                                   \
    X(KEY_REVOKE, 2, OWNER,                                                                        \
      "UPDATE public.api_keys SET revoked_at = coalesce(revoked_at, now())"                        \
      " WHERE id = $1 AND user_id = $2 AND kind = 'key' RETURNING id")                             \
    /* $3 id, $4 prefix and $5 hash of the new one, $6 seconds that the old one stays. The         \
     * last part is for a statement that is repeated. */                                           \
    X(KEY_ROTATE, 6, OWNER,                                                                        \
      "WITH old AS (SELECT * FROM public.api_keys WHERE id = $1 AND user_id = $2"                  \
      " AND kind = 'key' AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) FOR UPDATE),"\
      " o AS (UPDATE public.api_keys k SET revoked_at = CASE WHEN $6::int = 0 THEN now() END,"     \
      " expires_at = least(k.expires_at, CASE WHEN $6::int > 0"                                    \
      " THEN now() + make_interval(secs => $6::int) END) FROM old WHERE k.id = old.id),"           \
      " k AS (INSERT INTO public.api_keys (id, user_id, name, prefix, hash, scopes, expires_at,"   \
      " rate_creates, rate_exec, rate_reads)"                                                      \
      " SELECT $3, user_id, name, $4, $5::bytea, scopes, expires_at,"                              \
      " rate_creates, rate_exec, rate_reads FROM old RETURNING *)"                                 \
      " SELECT " KEY_COLS " FROM k"                                                                \
      " UNION ALL SELECT " KEY_COLS " FROM public.api_keys k WHERE k.hash = $5::bytea AND k.user_id = $2")\
    /* $1 an array of {"id", "ms"} */                                                              \
    X(KEYS_USED, 1, SYSTEM,                                                                        \
      "UPDATE public.api_keys k SET last_used_at = greatest(k.last_used_at, r.at)"                 \
      " FROM (SELECT id, max(timestamptz 'epoch' + make_interval(secs => ms / 1000.0::float8)) AS at"\
      " FROM json_to_recordset($1::json) AS x (id text, ms bigint) GROUP BY id) r WHERE k.id = r.id")\
    /* Which of these keys are not good any more. */                                               \
    X(KEYS_ENDED, 1, SYSTEM,                                                                       \
      "SELECT h.id FROM unnest($1::text[]) h (id) WHERE NOT EXISTS (SELECT 1"                      \
      " FROM public.api_keys k JOIN public.users u ON u.id = k.user_id"                            \
      " WHERE k.id = h.id AND " KEY_IS_GOOD ")")
/* clang-format on */

#endif
