/* Every SQL statement of the server: name, number of parameters, whose rows it touches, text.
 *
 * OWNER means that the statement runs for a user and takes the owner as a parameter; tests/arch
 * holds it to that for every table that belongs to somebody. SYSTEM statements run for the server
 * itself or for an administrator. Results come in PostgreSQL's binary format: a new type of column
 * needs a reader in rows.c. Tables are named with their schema, so that no search_path matters.
 * Times are now(). */
#ifndef SBX_STORE_QUERIES_H
#define SBX_STORE_QUERIES_H

#include "queries_identity.h"
#include "queries_usage.h"
#include "queries_workers.h"
#include "sbx/store/records.h"

/* The columns of sbx_sandbox_row, in the order in which rows.c reads them. */
#define SANDBOX_COLS                                                                               \
    "id, owner, worker, name, template, image, state, reason, size, cpu_milli, memory_mb, pids, "  \
    "disk_mb, network, metadata::text, env_names, command, timeout_s, idle_timeout_s, "            \
    "on_timeout, on_idle, created_at, started_at, last_active_at, expires_at, state_changed_at, "  \
    "container_id, token, epoch, image_user, runtime, host, readiness, health, health_state, "     \
    "goal, log_seq, version, env_version, change, disk_limit, pool, warm"

/* The columns of sbx_exec_record, in the order in which records.c reads them. */
#define EXEC_COLS                                                                                  \
    "id, sandbox, kind, command::text, started_at, duration_ms, exit_code, signal, timed_out, "    \
    "oom_killed, truncated, error, cpu_limit, background, terminal, cpu_ms, peak_kb, chunks, "     \
    "runtime, packages::text"

/* Of a row `s`: the worker that holds it. */
#define HOLDER_IS_DEAD IS_DEAD("s.worker")

#define STILL_READABLE "(state <> 'deleted' OR state_changed_at > now() - interval '1 day')"

/* Of a row `i` of idempotency_keys: whoever was at it is dead, or has had time enough since. The
 * holder of a sandbox that is `creating` may be who undoes it. */
#define CLAIMER_IS_DEAD        IS_DEAD("i.worker")
#define IDEMPOTENT_LEFT(since) "(" CLAIMER_IS_DEAD " OR " since " <= now() - interval '30 seconds')"

/* Of a row `i` on which a claim falls: nobody is at it any more, and its request may be run again
 * under its id; or this claim has taken it, and the answer to that was lost. */
#define IDEMPOTENT_RERUN                                                                           \
    "(i.rerun AND i.status IS NULL AND i.fingerprint = excluded.fingerprint"                       \
    " AND i.created_at > now() - interval '1 day'"                                                 \
    " AND (i.taken = excluded.resource OR " CLAIMER_IS_DEAD "))"

/* Of a row `i`: nothing came of it, and nothing will. That its sandbox failed is not enough while
 * its worker may still be writing down the answer. */
#define IDEMPOTENT_FAILED                                                                          \
    "((i.status IS NULL AND NOT i.begun AND " IDEMPOTENT_LEFT(                                     \
        "i.created_at") " AND NOT EXISTS (SELECT 1 FROM public.sandboxes s WHERE s.id = "          \
                        "i.resource))"                                                             \
                        " OR EXISTS (SELECT 1 FROM public.sandboxes s WHERE s.id = i.resource"     \
                        " AND s.state IN ('failed', 'deleted') AND s.started_at IS NULL"           \
                        " AND ((i.status IS NULL AND " IDEMPOTENT_LEFT(                            \
                            "s.state_changed_at") ")"                                              \
                                                  " OR (i.status = 202 AND s.reason ->> 'code' = " \
                                                  "'interrupted'))))"

/* Of a row `u` of users. */
#define USER_IS_LIMITED                                                                            \
    "EXISTS (SELECT 1 FROM public.tiers t WHERE t.name = u.tier AND t.executions IS NOT NULL)"

#define TRANSITIONAL "('creating', 'pausing', 'resuming', 'stopping', 'starting', 'deleting')"

/* A row that is no user's: what waits in a pool, and what packages are installed in. */
#define OF_NOBODY "(pool IS NOT NULL OR owner = '" SBX_POOL_OWNER "')"

/* Events of the rows in `u` that meet `which`; what is nobody's has none. The counters are
 * locked until the commit: what is numbered later becomes visible later. Lock order: rows of
 * sandboxes, then counters by owner. */
#define EVENTS_OF(status, data, which)                                                             \
    " n AS (INSERT INTO public.event_counters AS c (owner, last)"                                  \
    " SELECT owner, count(*) FROM u WHERE NOT " OF_NOBODY " AND (" which ") GROUP BY owner"        \
    " ORDER BY owner"                                                                              \
    " ON CONFLICT (owner) DO UPDATE SET last = c.last + excluded.last"                             \
    " RETURNING c.owner AS of_owner, c.last),"                                                     \
    " e AS (INSERT INTO public.events (owner, seq, sandbox, type, data)"                           \
    " SELECT owner, last + 1 - row_number() OVER (PARTITION BY owner ORDER BY id DESC), id,"       \
    " 'sandbox.' || " status ", " data " FROM u JOIN n ON of_owner = owner"                        \
    " WHERE NOT " OF_NOBODY " AND (" which ") RETURNING sandbox, seq)"

/* Of changes of state; the former one is the column or expression `was`. */
#define EVENTS_OF_CHANGE(was, which)                                                               \
    EVENTS_OF("state", "json_build_object('from', " was ", 'to', state, 'reason', reason)", which)

/* Commands that had not ended when nothing runs any more in the sandbox of a row in `u`. */
#define EXECS_LOST                                                                                 \
    " l AS (UPDATE public.sandbox_executions x SET error = '" SBX_EXEC_LOST "',"                   \
    " duration_ms = greatest(0, extract(epoch FROM now() - x.started_at) * 1000)::bigint"          \
    " FROM u WHERE x.sandbox = u.id AND x.duration_ms IS NULL"                                     \
    " AND u.state IN ('stopped', 'starting', 'failed', 'deleted'))"

/* The highest number of the owner $1, and beside it a page of the events that meet `which`: $2
 * since, $3 type or NULL, $4 limit. */
#define EVENT_PAGE(which, direction)                                                               \
    "SELECT last, seq, at, type, sandbox, translate(data::text, E'\\r\\n', '  ')"                  \
    " FROM public.event_counters c LEFT JOIN LATERAL"                                              \
    " (SELECT * FROM public.events WHERE owner = $1 AND seq > $2::bigint" which                    \
    " AND ($3::text IS NULL OR type = $3) ORDER BY seq " direction " LIMIT $4::bigint) e ON true"  \
    " WHERE c.owner = $1 ORDER BY seq"

/* Of groups `g`, in the order in which groups.c reads them. */
#define GROUP_COLS                                                                                 \
    "g.id, g.name, g.metadata::text, g.version, g.created_at, g.updated_at,"                       \
    " (SELECT string_agg(m.sandbox, ' ' ORDER BY m.position) FROM public.group_members m"          \
    " JOIN public.sandboxes s ON s.id = m.sandbox WHERE m.group_id = g.id"                         \
    " AND s.state NOT IN ('deleting', 'deleted'))"

/* Sandboxes that are to be members of a group, `ids`, of the owner $2: which of them is the first
 * that he does not have; and their rows for the new members. */
#define GROUP_MISSING(ids)                                                                         \
    " missing AS (SELECT min(i) AS i FROM unnest(" ids ") WITH ORDINALITY u (sandbox, i)"          \
    " WHERE NOT EXISTS (SELECT 1 FROM public.sandboxes s WHERE s.id = u.sandbox"                   \
    " AND s.owner = $2::text AND s.state NOT IN ('deleting', 'deleted')))"
#define GROUP_ADD(ids)                                                                             \
    " m AS (INSERT INTO public.group_members (group_id, sandbox)"                                  \
    " SELECT g.id, u.sandbox FROM g, unnest(" ids ") WITH ORDINALITY u (sandbox, i)"               \
    " ORDER BY u.i ON CONFLICT DO NOTHING)"

/* Of a key `k`, behind the columns that say whether it is good: its rates, -1 where it has none. */
#define KEY_RATES                                                                                  \
    "coalesce(k.rate_creates, -1), coalesce(k.rate_exec, -1), coalesce(k.rate_reads, -1)"

/* $1 owner (or unused), $2 state, $3 template, $4 name, $5 metadata, $6 created_at and $7 id of
 * the cursor, $8 limit. */
#define LIST_REST                                                                                  \
    " AND CASE WHEN $2::text IS NULL THEN state <> 'deleted' ELSE state = $2 END"                  \
    " AND " STILL_READABLE " AND ($3::text IS NULL OR template = $3)"                              \
    " AND ($4::text IS NULL OR name = $4)"                                                         \
    " AND ($5::jsonb IS NULL OR metadata @> $5)"                                                   \
    " AND ($6::timestamptz IS NULL OR (created_at, id) < ($6, $7::text))"                          \
    " ORDER BY created_at DESC, id DESC LIMIT $8::bigint"

/* clang-format off */
#define SBX_QUERIES(X)                                                                             \
    X(PING, 0, SYSTEM, "SELECT 1")                                                                 \
    SBX_QUERIES_WORKERS(X)                                                                         \
    SBX_QUERIES_USAGE(X)                                                                           \
    X(FACTS, 0, SYSTEM,                                                                            \
      "SELECT current_setting('server_version_num')::int, current_setting('server_version'),"      \
      " current_setting('max_connections')::int,"                                                  \
      " current_setting('superuser_reserved_connections')::int,"                                   \
      " (SELECT sum(numbackends)::bigint FROM pg_stat_database), clock_timestamp(),"               \
      " pg_is_in_recovery()")                                                                      \
    X(CLUSTER, 0, SYSTEM, "SELECT value FROM public.meta WHERE key = 'cluster'")                   \
    X(MIGRATIONS, 0, SYSTEM,                                                                       \
      "SELECT version, name, checksum FROM public.schema_migrations ORDER BY version")             \
                                                                                                   \
    X(SANDBOX_INSERT, 31, OWNER,                                                                   \
      "WITH u AS (INSERT INTO public.sandboxes (id, owner, worker, name, template, image, state,"  \
      " size, cpu_milli, memory_mb, pids, disk_mb, network, metadata, env_names, env_sealed,"      \
      " command, timeout_s, idle_timeout_s, on_timeout, on_idle, token, image_user, runtime, host,"\
      " deadline_at, change, readiness, health, pool, run, run_worker)"                                             \
      " VALUES ($1, $2, nullif($3, ''), $4, $5, $6, $7, $8, $9::bigint, $10::bigint, $11::bigint," \
      " $12::bigint, $13, $14::jsonb, $15::json, $16::bytea, $17::json, $18::bigint, $19::bigint," \
      " $20, $21, $22::bytea, $23, $24, $25, now() + make_interval(secs => $26::int),"             \
      " $27::bigint, $28::json, $29::json, $30, $31::text,"                                       \
      " CASE WHEN $31::text IS NOT NULL THEN $3 END) RETURNING *)," EVENTS_OF_CHANGE("NULL", "true")    \
      " SELECT created_at, last_active_at, state_changed_at, coalesce(e.seq, 0)"                   \
      " FROM u LEFT JOIN e ON true")                                                               \
    /* From a pool: $2 what it waits as, $3 worker, $4 owner, $5 state (running, or creating until \
     * $21 seconds from now), $22 number of this change, $23 Idempotency-Key, $24 its id so far,   \
     * $25 the execution that it is for.                                                           \
     * All that a create writes, its events and the claim of the key together. */                  \
    X(SANDBOX_CLAIM, 25, OWNER,                                                                    \
      "WITH u AS (UPDATE public.sandboxes SET owner = $4, state = $5::text, name = $6, size = $7," \
      " cpu_milli = $8::bigint, memory_mb = $9::bigint, pids = $10::bigint,"                       \
      " metadata = $11::jsonb, env_names = $12::json, env_sealed = $13::bytea,"                    \
      " env_version = env_version + 1, command = $14::json, timeout_s = $15::bigint,"              \
      " idle_timeout_s = $16::bigint, on_timeout = $17, on_idle = $18, readiness = $19::json,"     \
      " health = $20::json, deadline_at = CASE WHEN $21::int > 0"                                  \
      " THEN now() + make_interval(secs => $21::int) END, change = $22::bigint,"                   \
      " created_at = now(), last_active_at = now(), state_changed_at = now(),"                     \
      " started_at = CASE WHEN $5::text = 'running' THEN now() END,"                               \
      " expires_at = CASE WHEN $5::text = 'running'"                                               \
      " THEN now() + make_interval(secs => $15::bigint) END, pool = NULL, warm = true,"            \
      " run = $25::text, run_worker = CASE WHEN $25::text IS NOT NULL THEN $3 END"                \
      " WHERE id = $1 AND pool = $2 AND worker = $3 AND state = 'running' RETURNING *),"           \
      " k AS (UPDATE public.idempotency_keys i SET resource = $1, begun = true FROM u"             \
      " WHERE i.owner = $4 AND i.key = $23 AND i.resource = $24 AND i.status IS NULL"              \
      " RETURNING 1),"                                                                             \
      " n AS (INSERT INTO public.event_counters AS c (owner, last)"                                \
      " SELECT owner, CASE state WHEN 'running' THEN 2 ELSE 1 END FROM u"                          \
      " ON CONFLICT (owner) DO UPDATE SET last = c.last + excluded.last RETURNING last),"          \
      " e AS (INSERT INTO public.events (owner, seq, sandbox, type, data)"                         \
      " SELECT owner, last - CASE state WHEN 'running' THEN 2 ELSE 1 END + i, id,"                 \
      " 'sandbox.' || is_now,"                                                                     \
      " json_build_object('from', was, 'to', is_now, 'reason', NULL::json)"                        \
      " FROM u, n, (VALUES (1, NULL, 'creating'), (2, 'creating', 'running')) s (i, was, is_now)"  \
      " WHERE i = 1 OR state = 'running' RETURNING seq)"                                           \
      " SELECT " SANDBOX_COLS ", (SELECT max(seq) FROM e),"                                        \
      " $23::text IS NULL OR EXISTS (SELECT 1 FROM k) FROM u")                                     \
    X(SANDBOX_GET, 1, SYSTEM,                                                                      \
      "SELECT " SANDBOX_COLS " FROM public.sandboxes WHERE id = $1 AND " STILL_READABLE)           \
    X(SANDBOX_GET_OWNED, 2, OWNER,                                                                 \
      "SELECT " SANDBOX_COLS " FROM public.sandboxes"                                              \
      " WHERE id = $1 AND owner = $2 AND " STILL_READABLE)                                         \
    X(SANDBOX_CHANGE, 1, SYSTEM,                                                                   \
      "SELECT " SANDBOX_COLS " FROM public.sandboxes WHERE id = $1")            \
    X(SANDBOX_ENV, 1, SYSTEM, "SELECT env_sealed FROM public.sandboxes WHERE id = $1")             \
    X(SANDBOX_LIST, 8, SYSTEM,                                                                     \
      "SELECT " SANDBOX_COLS " FROM public.sandboxes WHERE $1::text IS NULL"                       \
      " AND NOT " OF_NOBODY LIST_REST)                                                            \
    X(SANDBOX_LIST_OWNED, 8, OWNER,                                                                \
      "SELECT " SANDBOX_COLS " FROM public.sandboxes WHERE owner = $1" LIST_REST)                  \
                                                                                                   \
    /* $2 from, $3 to, $4 reason, $5 worker, $6 container, $7 image user, $8 deadline, $9 started, \
     * $10 number of this change, $11 goal, $12 last number of the log, $13 end of the lifetime    \
     * (1 keep it or begin anew, 2 none), $14 template, $15 image, $16 number of the last change,   \
     * 0 any */                               \
    X(SANDBOX_SET_STATE, 16, SYSTEM,                                                               \
      "WITH u AS (UPDATE public.sandboxes SET state = $3::text, reason = $4::json,"                \
      " worker = CASE WHEN $5::text IS NULL THEN worker ELSE nullif($5, '') END,"                  \
      " container_id = coalesce($6, container_id), image_user = coalesce($7, image_user),"         \
      " deadline_at = CASE WHEN $8::int > 0 THEN now() + make_interval(secs => $8::int)"           \
      " WHEN $2::text = $3::text THEN deadline_at END,"                                            \
      " started_at = CASE WHEN $9::bool THEN now() ELSE started_at END,"                           \
      " last_active_at = CASE WHEN $9::bool OR $13::int = 1 THEN now() ELSE last_active_at END,"   \
      " expires_at = CASE WHEN pool IS NOT NULL THEN NULL"                                         \
      " WHEN $9::bool THEN now() + make_interval(secs => timeout_s)"                               \
      " WHEN $13::int = 1 THEN coalesce(expires_at, now() + make_interval(secs => timeout_s))"     \
      " WHEN $13::int = 2 THEN NULL ELSE expires_at END,"                                          \
      " health_state = CASE WHEN $9::bool THEN NULL ELSE health_state END,"                        \
      " state_changed_at = CASE WHEN $2::text = $3::text THEN state_changed_at ELSE now() END,"    \
      " env_sealed = CASE WHEN $3::text = 'deleted' THEN NULL ELSE env_sealed END,"                \
      " goal = CASE WHEN $11::text IS NULL THEN goal ELSE nullif($11, '') END,"                    \
      " log_seq = greatest(log_seq, $12::bigint),"                                                 \
      " template = CASE WHEN $15::text IS NULL THEN template ELSE $14 END,"                        \
      " image = coalesce($15::text, image),"                                                       \
      " change = $10::bigint WHERE id = $1 AND state = $2::text"\
      " AND NOT ($3::text = 'pausing' AND coalesce(awake_until > now(), false))"                   \
      " AND ($16::bigint = 0 OR change = $16) RETURNING *),"                     \
      EXECS_LOST ","                                                                               \
      EVENTS_OF_CHANGE("$2::text", "$2::text <> $3::text")                                         \
      " SELECT " SANDBOX_COLS ", coalesce(e.seq, 0) FROM u LEFT JOIN e ON true")                   \
    /* Another status of health: $2 worker, $3 what is known now. */                               \
    X(SANDBOX_HEALTH, 3, SYSTEM,                                                                   \
      "WITH old AS (SELECT id AS old_id, coalesce(health_state->>'status', 'starting') AS was"     \
      " FROM public.sandboxes WHERE id = $1 AND worker = $2 AND state = 'running'"                 \
      " AND health IS NOT NULL FOR UPDATE),"                                                       \
      " u AS (UPDATE public.sandboxes SET health_state = $3::json FROM old WHERE id = old_id"      \
      " AND was <> $3::json->>'status' RETURNING sandboxes.*, was),"                               \
      EVENTS_OF("(health_state->>'status')", "json_build_object('from', was, 'to',"                \
      " health_state->>'status', 'reason', json_build_object('code', 'health', 'message',"         \
      " coalesce(health_state->>'message', '')))", "true")                                         \
      " SELECT " SANDBOX_COLS ", e.seq FROM u, e")                                                 \
    X(SANDBOX_DISK, 2, SYSTEM, "UPDATE public.sandboxes SET disk_limit = $2 WHERE id = $1")        \
    X(SANDBOX_WATCHED, 2, SYSTEM,                                                                  \
      "SELECT " SANDBOX_COLS " FROM public.sandboxes WHERE worker = $1 AND state = 'running'"      \
      " AND disk_limit = 'watched' ORDER BY random() LIMIT $2::bigint")                            \
    /* $2 worker, $3 the reason: of a sandbox that runs here, or is paused. */                      \
    X(SANDBOX_ALERT, 3, SYSTEM,                                                                    \
      "WITH u AS (SELECT * FROM public.sandboxes WHERE id = $1"                                    \
      " AND (state = 'paused' OR (state = 'running' AND worker = $2)) FOR KEY SHARE),"             \
      EVENTS_OF("'alert'", "json_build_object('from', state, 'to', state, 'reason', $3::json)",    \
      "true") " SELECT " SANDBOX_COLS ", e.seq FROM u, e")                                         \
    /* $1 ids of sandboxes that wait for their image, $2 the reason, how far it is */              \
    X(SANDBOX_PULLING, 2, SYSTEM,                                                                  \
      "WITH u AS (SELECT * FROM public.sandboxes WHERE id = ANY ($1::text[])"                      \
      " AND state IN ('creating', 'starting') ORDER BY id FOR KEY SHARE),"                         \
      EVENTS_OF("'pulling'", "json_build_object('from', state, 'to', state, 'reason', $2::json)",  \
      "true") " SELECT count(*) FROM e")                                                           \
    /* $1 worker, $2 an array of {"id", "state"}: of unchanged status */                           \
    X(SANDBOX_HEALTH_REFRESH, 2, SYSTEM,                                                           \
      "UPDATE public.sandboxes s SET health_state = r.state"                                       \
      " FROM json_to_recordset($2::json) AS r (id text, state json)"                               \
      " WHERE s.id = r.id AND s.worker = $1 AND s.state = 'running'"                               \
      " AND coalesce(s.health_state->>'status', 'starting') = r.state->>'status'")                 \
    /* Its agent drops what is older, and a database that was restored must not seem so: hence the  \
     * time. */                                                                                    \
    X(SANDBOX_TAKE, 2, SYSTEM,                                                                     \
      "UPDATE public.sandboxes s SET worker = $2::text, "                                       \
      " epoch = greatest(epoch + 1, extract(epoch FROM now())::bigint)"                            \
      " WHERE id = $1 AND state <> 'deleted' AND (s.worker = $2::text OR " HOLDER_IS_DEAD ")"      \
      " RETURNING epoch")                                                                          \
    X(SANDBOX_TOUCH, 1, SYSTEM,                                                                    \
      "WITH u AS (UPDATE public.sandboxes SET last_active_at = now()"                              \
      " WHERE id = ANY ($1::text[]) AND state <> 'deleted' RETURNING id, owner, state, reason)"    \
      " SELECT id, owner FROM u WHERE state = 'paused' AND reason->>'code' = 'idle'")              \
    /* $2 seconds from now, 0: no longer. */                                                       \
    X(SANDBOX_AWAKE, 2, SYSTEM,                                                                    \
      "UPDATE public.sandboxes SET last_active_at = now(), awake_until = CASE WHEN $2::int > 0"    \
      " THEN now() + make_interval(secs => $2::int) END"                                           \
      " WHERE id = $1 AND state = 'running' RETURNING id")                                         \
    X(SANDBOX_RENEW, 2, OWNER,                                                                     \
      "UPDATE public.sandboxes SET expires_at = CASE WHEN expires_at IS NOT NULL"                  \
      " THEN now() + make_interval(secs => timeout_s) END"                                         \
      " WHERE id = $1 AND owner = $2 AND state IN ('running', 'paused')"                           \
      " RETURNING " SANDBOX_COLS)                                                                  \
    /* $3 version, $4 name is given, $5 name, $6 metadata, $7 env, $8 its names, $9 size, $10 cpu, \
     * $11 memory, $12 pids, $13 timeout, $14 idle timeout, $15 on timeout, $16 on idle, $17 the   \
     * state in which the container got these limits; NULL or 0 keeps */                           \
    X(SANDBOX_PATCH, 17, OWNER,                                                                    \
      "UPDATE public.sandboxes SET name = CASE WHEN $4::bool THEN $5 ELSE name END,"               \
      " metadata = coalesce($6::jsonb, metadata), env_sealed = coalesce($7::bytea, env_sealed),"   \
      " env_names = coalesce($8::json, env_names), size = coalesce($9, size),"                     \
      " cpu_milli = coalesce(nullif($10::bigint, 0), cpu_milli),"                                  \
      " memory_mb = coalesce(nullif($11::bigint, 0), memory_mb),"                                  \
      " pids = coalesce(nullif($12::bigint, 0), pids),"                                            \
      " timeout_s = coalesce(nullif($13::bigint, 0), timeout_s),"                                  \
      " expires_at = CASE WHEN $13::bigint > 0 AND state IN ('running', 'paused')"                 \
      " THEN now() + make_interval(secs => $13::bigint) ELSE expires_at END,"                      \
      " idle_timeout_s = coalesce(nullif($14::bigint, 0), idle_timeout_s),"                        \
      " on_timeout = coalesce($15, on_timeout), on_idle = coalesce($16, on_idle),"                 \
      " limits_due_at = CASE WHEN $17::text IS NULL THEN limits_due_at END,"                       \
      " env_version = env_version + ($7::bytea IS NOT NULL)::int, version = version + 1"           \
      " WHERE id = $1 AND owner = $2 AND version = $3::bigint"                                     \
      " AND state NOT IN ('deleting', 'deleted') AND ($17::text IS NULL OR state = $17)"           \
      " RETURNING " SANDBOX_COLS)                                                                  \
    X(SANDBOX_LIMITS_BEGIN, 3, SYSTEM,                                                             \
      "UPDATE public.sandboxes SET limits_due_at = now() + make_interval(secs => $3::int)"         \
      " WHERE id = $1 AND state = $2 AND (limits_due_at IS NULL OR limits_due_at <= now())"        \
      " RETURNING id")                                                                             \
    X(SANDBOX_LIMITS_END, 4, SYSTEM,                                                               \
      "UPDATE public.sandboxes SET limits_due_at = NULL,"                                          \
      " cpu_milli = coalesce(nullif($2::bigint, 0), cpu_milli),"                                   \
      " memory_mb = coalesce(nullif($3::bigint, 0), memory_mb),"                                   \
      " pids = coalesce(nullif($4::bigint, 0), pids) WHERE id = $1")                               \
    /* $1 worker, $2 busy ids, $3 limit, $4 number of this change, $5 ids that are not to be paused \
     * or stopped now, $6 ids that nobody uses until this is over. What is idle is left to whoever  \
     * holds its channel; if it is to be stopped or deleted and is not in $6 it is only returned. */ \
    X(SANDBOX_REAP, 6, SYSTEM,                                                                     \
      "WITH due AS (SELECT id AS due_id, state AS was, coalesce(expires_at <= now(), false)"       \
      " AS expired, CASE WHEN expires_at <= now() THEN on_timeout ELSE on_idle END AS act,"        \
      " coalesce(expires_at <= now(), false) OR on_idle = 'pause' OR id = ANY ($6::text[]) AS sure" \
      " FROM public.sandboxes s WHERE state IN ('running', 'paused')"                              \
      " AND (expires_at <= now() OR (state = 'running' AND idle_timeout_s > 0"                     \
      " AND last_active_at <= now() - make_interval(secs => idle_timeout_s)"                       \
      " AND id <> ALL ($2::text[])))"                                                              \
      " AND ((expires_at <= now() AND on_timeout = 'delete')"                                      \
      " OR (id <> ALL ($5::text[]) AND coalesce(awake_until <= now(), true)"                       \
      " AND (s.worker = $1::text OR " HOLDER_IS_DEAD ")))"                                         \
      " ORDER BY expires_at LIMIT $3::bigint FOR UPDATE SKIP LOCKED),"                             \
      " u AS (UPDATE public.sandboxes s SET worker = $1::text, goal = NULL,"                       \
      " state = CASE act WHEN 'delete' THEN 'deleting' WHEN 'stop' THEN 'stopping'"                \
      " ELSE CASE was WHEN 'running' THEN 'pausing' ELSE 'paused' END END,"                        \
      " expires_at = CASE WHEN act = 'pause' AND was = 'paused' THEN NULL ELSE expires_at END,"    \
      " state_changed_at = CASE WHEN act = 'pause' AND was = 'paused' THEN state_changed_at"       \
      " ELSE now() END, deadline_at = now() + interval '60 seconds',"                              \
      " change = $4::bigint, reason = CASE WHEN act = 'pause' AND was = 'paused' THEN reason"      \
      " WHEN expired THEN json_build_object('code', 'expired', 'message',"                         \
      " format('its lifetime of %s seconds was over', timeout_s))"                                 \
      " ELSE json_build_object('code', 'idle', 'message',"                                         \
      " format('nothing happened in it for %s seconds', idle_timeout_s)) END"                      \
      " FROM due WHERE id = due_id AND sure RETURNING s.*, was),"                                  \
      EVENTS_OF_CHANGE("was", "was <> state")                                                      \
      " SELECT " SANDBOX_COLS ", coalesce(e.seq, 0) FROM u LEFT JOIN e ON e.sandbox = u.id"        \
      " UNION ALL SELECT " SANDBOX_COLS ", 0::bigint FROM public.sandboxes JOIN due ON id = due_id" \
      " WHERE NOT sure")                                                                           \
    X(SANDBOX_CHANGED_BY, 1, SYSTEM,                                                               \
      "SELECT " SANDBOX_COLS ", 0::bigint FROM public.sandboxes"                                   \
      " WHERE change = $1::bigint AND state IN " TRANSITIONAL)                                     \
    /* A claim is a change: who was at the row before finds that it is not his any more. */ \
    X(SANDBOX_OVERDUE, 3, SYSTEM,                                                                  \
      "WITH due AS (SELECT id AS due_id FROM public.sandboxes s WHERE (state IN " TRANSITIONAL     \
      " AND (deadline_at <= now() OR (s.worker IS DISTINCT FROM $1::text AND " HOLDER_IS_DEAD ")))"\
      " OR (limits_due_at <= now() AND state <> 'deleted')"                                        \
      " ORDER BY deadline_at LIMIT $2::bigint FOR UPDATE SKIP LOCKED),"                            \
      " u AS (UPDATE public.sandboxes s SET"                                                       \
      " worker = CASE WHEN state IN " TRANSITIONAL " THEN $1::text ELSE worker END,"\
      " change = CASE WHEN state IN " TRANSITIONAL " THEN $3::bigint ELSE change END,"               \
      " deadline_at = CASE WHEN state IN " TRANSITIONAL " THEN now() + interval '60 seconds' END," \
      " limits_due_at = CASE WHEN limits_due_at <= now() THEN now() + interval '60 seconds'"       \
      " ELSE limits_due_at END FROM due WHERE id = due_id RETURNING s.*)"                          \
      " SELECT " SANDBOX_COLS ", 0::bigint FROM u")                                                \
    /* Nobody is at them, so their time is up; whoever has claimed one since is left alone. */       \
    X(SANDBOX_RELEASE, 2, SYSTEM,                                                                  \
      "UPDATE public.sandboxes SET deadline_at = now() WHERE id = ANY ($1::text[])"                \
      " AND worker = $2 AND state IN " TRANSITIONAL " AND state <> 'creating'")                    \
    X(SANDBOX_ADOPTABLE, 2, SYSTEM,                                                                \
      "SELECT " SANDBOX_COLS " FROM public.sandboxes s WHERE state = 'running'"                    \
      " AND (s.worker = $1::text OR " HOLDER_IS_DEAD ") ORDER BY created_at LIMIT $2::bigint")     \
    X(SANDBOX_ALL, 1, SYSTEM,                                                                      \
      "SELECT id, state, container_id, state_changed_at, worker FROM public.sandboxes"             \
      " WHERE state NOT IN ('deleted', 'failed') LIMIT $1::bigint")                                \
    X(SANDBOX_FAILED, 1, SYSTEM,                                                                   \
      "SELECT id, state, container_id, state_changed_at, worker FROM public.sandboxes"             \
      " WHERE state = 'failed' AND id = ANY ($1::text[])")                                         \
    X(SANDBOX_COUNTS, 1, SYSTEM,                                                                   \
      "SELECT state, count(*) FROM public.sandboxes"                                               \
      " WHERE state = ANY ($1::text[]) AND NOT " OF_NOBODY " GROUP BY 1")                         \
    X(SANDBOX_PURGE, 1, SYSTEM,                                                                    \
      "WITH old AS (SELECT id AS old_id FROM public.sandboxes WHERE state IN ('deleted', 'failed')"\
      " AND state_changed_at <= now() - interval '1 day'"                                          \
      " LIMIT $1::bigint FOR UPDATE SKIP LOCKED),"                                                 \
      " s AS (DELETE FROM public.sandboxes USING old WHERE id = old_id RETURNING id)"              \
      " SELECT count(*) FROM s")                                                                   \
                                                                                                   \
    /* $1 id, $3 name, $4 metadata, $5 members, $6 most groups */                                  \
    X(GROUP_INSERT, 6, OWNER,                                                                      \
      "WITH" GROUP_MISSING("$5::text[]") ","                                                       \
      " g AS (INSERT INTO public.groups (id, owner, name, metadata)"                               \
      " SELECT $1, $2::text, $3, $4::jsonb WHERE (SELECT i FROM missing) IS NULL"                  \
      " AND (SELECT count(*) FROM public.groups WHERE owner = $2::text) < $6::bigint"              \
      " RETURNING id)," GROUP_ADD("$5::text[]")                                                    \
      " SELECT (SELECT i FROM missing), (SELECT count(*) FROM g)")                                 \
    X(GROUP_GET, 2, OWNER,                                                                         \
      "SELECT " GROUP_COLS " FROM public.groups g WHERE g.id = $1 AND g.owner = $2")               \
    /* $3 version, $4 name, $5 metadata, $6 new members, $7 former ones, $8 most metadata */       \
    X(GROUP_CHANGE, 8, OWNER,                                                                      \
      "WITH" GROUP_MISSING("$6::text[]") ","                                                       \
      " next AS (SELECT jsonb_strip_nulls(metadata || coalesce($5::jsonb, '{}')) AS labels"        \
      " FROM public.groups WHERE id = $1 AND owner = $2::text),"                                   \
      " sizes AS (SELECT count(k) AS n FROM next, jsonb_object_keys(labels) k),"                   \
      " g AS (UPDATE public.groups SET name = coalesce($4, name), metadata = labels,"              \
      " version = version + 1, updated_at = now() FROM next WHERE id = $1"                         \
      " AND owner = $2::text AND version = $3::bigint AND (SELECT i FROM missing) IS NULL"         \
      " AND (SELECT n FROM sizes) <= $8::bigint RETURNING id),"                                    \
      " gone AS (DELETE FROM public.group_members USING g WHERE group_id = g.id"                   \
      " AND sandbox = ANY ($7::text[]))," GROUP_ADD("$6::text[]")                                  \
      " SELECT (SELECT i FROM missing), (SELECT count(*) FROM g), (SELECT n FROM sizes)")          \
    X(GROUP_DELETE, 2, OWNER,                                                                      \
      "DELETE FROM public.groups WHERE id = $1 AND owner = $2 RETURNING id")                       \
    /* $2 name, $3 metadata, $4 created_at and $5 id of the cursor, $6 limit */                    \
    X(GROUP_LIST, 6, OWNER,                                                                        \
      "SELECT " GROUP_COLS " FROM public.groups g WHERE g.owner = $1"                              \
      " AND ($2::text IS NULL OR g.name = $2) AND ($3::jsonb IS NULL OR g.metadata @> $3)"         \
      " AND ($4::timestamptz IS NULL OR (g.created_at, g.id) < ($4, $5::text))"                    \
      " ORDER BY g.created_at DESC, g.id DESC LIMIT $6::bigint")                                   \
    /* $1 an array. Of a command that is told twice the end counts, and what ended it most of all:
     * "lost" is written before it is known. So is one that is told to run, and whose sandbox does
     * not. Of a run its request knows more than its agent, and alone tells of packages, if only of none. */ \
    X(EXEC_INSERT, 1, SYSTEM,                                                                      \
      "INSERT INTO public.sandbox_executions AS x (id, sandbox, owner, kind, command, started_at," \
      " duration_ms, exit_code, signal, timed_out, oom_killed, truncated, error, cpu_limit,"       \
      " background, terminal, cpu_ms, peak_kb, chunks, runtime, packages)"                         \
      " SELECT DISTINCT ON (r.id) r.id, r.sandbox, s.owner, r.kind, r.command,"                    \
      " timestamptz 'epoch' + make_interval(secs => r.started_ms / 1000.0::float8),"               \
      " CASE WHEN r.duration_ms IS NULL AND s.state IN ('stopped', 'failed')"                      \
      " THEN greatest(extract(epoch FROM now()) * 1000 - r.started_ms, 0)::bigint"                 \
      " ELSE r.duration_ms END, r.exit_code, r.signal, r.timed_out, r.oom_killed, r.truncated,"    \
      " CASE WHEN r.duration_ms IS NULL AND s.state IN ('stopped', 'failed')"                      \
      " THEN '" SBX_EXEC_LOST "' ELSE r.error END,"                                                \
      " r.cpu_limit, r.background, r.terminal, r.cpu_ms, r.peak_kb, r.chunks, r.runtime,"          \
      " r.packages"                                                                                \
      " FROM json_to_recordset($1::json) AS r (id text, sandbox text, kind text, command json,"    \
      " started_ms bigint, duration_ms bigint, exit_code int, signal int, timed_out bool,"         \
      " oom_killed bool, truncated bool, error text, cpu_limit bool, background bool,"             \
      " terminal bool, cpu_ms bigint, peak_kb bigint, chunks bigint, runtime text, packages json)" \
      " JOIN public.sandboxes s ON s.id = r.sandbox"                                               \
      " WHERE r.duration_ms IS NOT NULL"                                                           \
      " OR s.state NOT IN ('deleting', 'deleted')"                                                 \
      " ORDER BY r.id, r.duration_ms IS NULL, r.packages IS NULL"                                   \
      " ON CONFLICT (id) DO UPDATE SET duration_ms = excluded.duration_ms,"                        \
      " exit_code = excluded.exit_code, signal = excluded.signal,"                                 \
      " timed_out = excluded.timed_out, oom_killed = excluded.oom_killed,"                         \
      " truncated = excluded.truncated, error = excluded.error, cpu_limit = excluded.cpu_limit,"   \
      " cpu_ms = excluded.cpu_ms, peak_kb = excluded.peak_kb, chunks = excluded.chunks,"           \
      " runtime = coalesce(excluded.runtime, x.runtime),"                                          \
      " packages = coalesce(excluded.packages, x.packages)"                                        \
      " WHERE excluded.duration_ms IS NOT NULL"                                                    \
      " AND (x.duration_ms IS NULL OR x.error = '" SBX_EXEC_LOST "'"                               \
      " OR (x.packages IS NULL AND excluded.packages IS NOT NULL))")                                 \
    /* At most $1, of others than $2, who knows what he follows. The reaper ends what has no        \
     * lifetime left. */                                                                            \
    X(RUN_ORPHANS, 2, SYSTEM,                                                                      \
      "WITH due AS (SELECT id AS due_id FROM public.sandboxes s WHERE run_worker <> $2::text"      \
      " AND state NOT IN ('deleting', 'deleted')"                                                  \
      " AND " IS_DEAD("s.run_worker") " LIMIT $1::bigint FOR UPDATE SKIP LOCKED),"                                                 \
      " u AS (UPDATE public.sandboxes s SET run_worker = NULL, on_timeout = 'delete',"             \
      " expires_at = CASE WHEN state IN ('running', 'paused', 'pausing', 'resuming') THEN now()"   \
      " ELSE expires_at END FROM due WHERE id = due_id RETURNING s.*),"                            \
      " r AS (INSERT INTO public.sandbox_executions AS x (id, sandbox, owner, kind, command,"           \
      " started_at, duration_ms, timed_out, oom_killed, truncated, error, runtime)"                \
      " SELECT run, id, owner, 'run', '[]', created_at,"                                           \
      " greatest(extract(epoch FROM now() - created_at) * 1000, 0)::bigint, false, false, false,"  \
      " 'interrupted', template FROM u WHERE run IS NOT NULL"                                      \
      " ON CONFLICT (id) DO UPDATE SET duration_ms = excluded.duration_ms,"                        \
      " error = excluded.error, runtime = coalesce(x.runtime, excluded.runtime)"                                        \
      " WHERE x.duration_ms IS NULL OR x.error = '" SBX_EXEC_LOST "')"                             \
      " SELECT count(*) FROM u")                                                                   \
    X(BATCH_HOLD, 2, SYSTEM,                                                                       \
      "UPDATE public.sandboxes SET run_worker = $2::text"                                          \
      " WHERE id = $1 AND state = 'creating' RETURNING id")                                        \
    X(BATCH_KEEP, 2, SYSTEM,                                                                       \
      "UPDATE public.sandboxes SET run_worker = NULL"                                              \
      " WHERE id = ANY ($1::text[]) AND run_worker = $2::text RETURNING id")                       \
    X(EXEC_LIST, 5, OWNER,                                                                         \
      "SELECT " EXEC_COLS " FROM public.sandbox_executions WHERE owner = $1 AND sandbox = $2"      \
      " AND ($3::timestamptz IS NULL OR (started_at, id) < ($3, $4::text))"                        \
      " ORDER BY started_at DESC, id DESC LIMIT $5::bigint")                                       \
    X(EXEC_GET, 3, OWNER,                                                                          \
      "SELECT " EXEC_COLS " FROM public.sandbox_executions"                                        \
      " WHERE owner = $1 AND sandbox = $2 AND id = $3")                                            \
    X(EVENT_LIST, 4, OWNER, EVENT_PAGE("", "ASC"))                                                 \
    X(EVENT_LIST_OF, 5, OWNER, EVENT_PAGE(" AND sandbox = $5", "ASC"))                             \
    X(EVENT_TAIL, 4, OWNER, EVENT_PAGE("", "DESC"))                                                \
    X(EVENT_TAIL_OF, 5, OWNER, EVENT_PAGE(" AND sandbox = $5", "DESC"))                            \
    X(EVENT_COUNTERS, 1, SYSTEM,                                                                   \
      "SELECT coalesce(last, 0) FROM unnest($1::text[]) WITH ORDINALITY o (name, i)"               \
      " LEFT JOIN public.event_counters ON owner = name ORDER BY i")                               \
    X(EVENT_SANDBOX, 2, OWNER,                                                                     \
      "SELECT (SELECT state FROM public.sandboxes WHERE id = $2 AND owner = $1),"                  \
      " (SELECT max(seq) FROM public.events WHERE owner = $1 AND sandbox = $2)")                   \
    /* Of each owner the oldest that are older than $1 days, at most $2. */                        \
    X(EVENT_PURGE, 2, SYSTEM,                                                                      \
      "WITH old AS (SELECT owner, min(seq) AS first FROM public.events"                            \
      " WHERE at <= now() - make_interval(days => $1::int) GROUP BY owner),"                       \
      " keep AS (SELECT owner AS of_owner, least(first + $2::bigint,"                              \
      " (SELECT min(seq) FROM public.events y WHERE y.owner = old.owner"                           \
      " AND y.at > now() - make_interval(days => $1::int))) AS from_seq FROM old),"                \
      " gone AS (DELETE FROM public.events USING keep WHERE owner = of_owner AND seq < from_seq"   \
      " RETURNING 1) SELECT count(*) FROM gone")                                                   \
                                                                                                   \
    SBX_QUERIES_IDENTITY(X)                                                                        \
    X(USER_ENSURE, 4, SYSTEM,                                                                      \
      "INSERT INTO public.users (id, name, role, tier) SELECT $1::text, $2::text, $3::text,"        \
      " t.name FROM public.tiers t WHERE t.name = coalesce($4::text, 'free')"                      \
      " ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id, role, tier")           \
    X(KEY_INSERT, 6, SYSTEM,                                                                       \
      "INSERT INTO public.api_keys (id, user_id, name, prefix, hash, scopes)"                      \
      " VALUES ($1, $2, $3, $4, $5::bytea, $6)"                                                    \
      " ON CONFLICT (hash) DO UPDATE SET name = excluded.name RETURNING id")                       \
    /* $2 creates, $3 exec, $4 reads a minute; -1: the server's */                                 \
    X(KEY_RATES_SET, 4, SYSTEM,                                                                    \
      "UPDATE public.api_keys SET rate_creates = nullif($2::bigint, -1),"                          \
      " rate_exec = nullif($3::bigint, -1), rate_reads = nullif($4::bigint, -1) WHERE id = $1")    \
    X(KEY_BY_HASH, 1, SYSTEM,                                                                      \
      "SELECT k.id, k.user_id, u.role, k.scopes,"                                                  \
      " k.expires_at IS NOT NULL AND k.expires_at <= now(),"                                       \
      " k.revoked_at IS NOT NULL OR u.disabled_at IS NOT NULL, k.expires_at, NULL::timestamptz, "  \
      KEY_RATES ", " USER_IS_LIMITED                                                                                    \
      " FROM public.api_keys k JOIN public.users u ON u.id = k.user_id WHERE k.hash = $1::bytea")  \
                                                                                                   \
    /* $3 fingerprint, $4 worker, $5 resource, $6 rerun. A row that is not seen is just being      \
     * written. What may be run again is taken over with the id that it had. */                    \
    X(IDEMPOTENCY_CLAIM, 6, OWNER,                                                                 \
      "WITH c AS (INSERT INTO public.idempotency_keys AS i"                                        \
      " (owner, key, fingerprint, worker, resource, rerun)"                                        \
      " VALUES ($1, $2, $3::bytea, $4, $5, $6::bool)"                                              \
      " ON CONFLICT (owner, key) DO UPDATE SET fingerprint = excluded.fingerprint,"                \
      " worker = excluded.worker, begun = false, status = NULL, location = NULL, answer = NULL,"   \
      " rerun = excluded.rerun, taken = excluded.resource,"                                        \
      " resource = CASE WHEN " IDEMPOTENT_RERUN " THEN i.resource ELSE excluded.resource END,"     \
      " created_at = CASE WHEN " IDEMPOTENT_RERUN " THEN i.created_at ELSE now() END"              \
      " WHERE i.resource = excluded.resource OR i.created_at <= now() - interval '1 day'"          \
      " OR " IDEMPOTENT_RERUN                                                                      \
      " OR (i.fingerprint = excluded.fingerprint AND NOT i.rerun AND " IDEMPOTENT_FAILED ")"       \
      " RETURNING resource)"                                                                       \
      " SELECT CASE WHEN EXISTS (SELECT 1 FROM c) THEN 'claimed' WHEN i.owner IS NULL THEN 'wait'" \
      " WHEN i.fingerprint <> $3::bytea THEN 'other'"                                              \
      " WHEN i.status = 202 AND s.state = 'creating' AND " CLAIMER_IS_DEAD " THEN 'wait'"          \
      " WHEN i.status IS NOT NULL THEN 'first'"                                                    \
      " WHEN s.started_at IS NOT NULL AND " IDEMPOTENT_LEFT("s.started_at") " THEN 'made'"         \
      " ELSE 'wait' END, i.status, i.location, i.answer,"                                          \
      " coalesce((SELECT resource FROM c), i.resource)"                                            \
      " FROM (SELECT 1) AS one LEFT JOIN public.idempotency_keys i ON i.owner = $1 AND i.key = $2" \
      " LEFT JOIN public.sandboxes s ON s.id = i.resource")                                        \
    X(IDEMPOTENCY_BEGUN, 3, OWNER,                                                                 \
      "UPDATE public.idempotency_keys SET begun = true"                                            \
      " WHERE owner = $1 AND key = $2 AND resource = $3 AND status IS NULL RETURNING 1")           \
    X(IDEMPOTENCY_DONE, 6, OWNER,                                                                  \
      "UPDATE public.idempotency_keys SET status = $4::int, location = $5, answer = $6::bytea"     \
      " WHERE owner = $1 AND key = $2 AND resource = $3 AND status IS NULL")                       \
    X(IDEMPOTENCY_RELEASE, 3, OWNER,                                                               \
      "DELETE FROM public.idempotency_keys"                                                        \
      " WHERE owner = $1 AND key = $2 AND resource = $3 AND status IS NULL")                       \
    X(IDEMPOTENCY_LEAVE, 3, OWNER,                                                                 \
      "UPDATE public.idempotency_keys SET worker = ''"                                             \
      " WHERE owner = $1 AND key = $2 AND $3 IN (resource, taken) AND status IS NULL")             \
    X(IDEMPOTENCY_PURGE, 0, SYSTEM,                                                                \
      "DELETE FROM public.idempotency_keys WHERE created_at <= now() - interval '1 day'")          \
                                                                                                   \
    /* $1 hash, $2 key, $3 method, $4 path, $5 limit, $6 seconds, $7 end. No expiry: at the limit. */ \
    X(TICKET_INSERT, 7, SYSTEM,                                                                    \
      "WITH unused AS (SELECT count(*) AS n, min(expires_at) AS first FROM public.tickets"         \
      " WHERE key = $2::text AND used = '' AND expires_at > now()),"                               \
      " t AS (INSERT INTO public.tickets (hash, key, method, path, expires_at, ends_at)"           \
      " SELECT $1::bytea, $2::text, $3::text, $4::text, now() + make_interval(secs => $6::int),"   \
      " $7::timestamptz"                                                                           \
      " FROM unused WHERE n < $5::bigint"                                                          \
      " ON CONFLICT (hash) DO UPDATE SET path = excluded.path RETURNING expires_at)"               \
      " SELECT t.expires_at, ceil(extract(epoch FROM first - now()))::bigint"                      \
      " FROM unused LEFT JOIN t ON true")                                                          \
    /* $1 hash, $2 method, $3 path, $4 event stream?, $5 seconds, $6 number of this use */         \
    X(TICKET_USE, 6, SYSTEM,                                                                       \
      "UPDATE public.tickets t SET used = CASE WHEN $4::bool THEN 'stream' ELSE 'once' END,"       \
      " use = $6::bigint, expires_at = CASE WHEN $4::bool"                                         \
      " THEN now() + make_interval(secs => $5::int) ELSE t.expires_at END"                         \
      " FROM public.api_keys k JOIN public.users u ON u.id = k.user_id"                            \
      " WHERE t.hash = $1::bytea AND t.method = $2 AND t.path = $3 AND (t.use = $6::bigint"        \
      " OR (t.expires_at > now() AND (t.used = '' OR (t.used = 'stream' AND $4::bool))))"          \
      " AND (t.ends_at IS NULL OR t.ends_at > now()) AND k.id = t.key AND " KEY_IS_GOOD            \
      " RETURNING k.id, k.user_id, u.role, k.scopes, false, false, k.expires_at, t.ends_at, "      \
      KEY_RATES ", " USER_IS_LIMITED)                                                                                   \
    X(TICKET_RENEW, 2, SYSTEM,                                                                     \
      "UPDATE public.tickets SET expires_at = now() + make_interval(secs => $2::int)"              \
      " WHERE hash = ANY ($1::bytea[]) AND used = 'stream'")                                       \
    /* The tickets of open streams outlive an outage of the database: hence the hour. */           \
    X(TICKET_PURGE, 0, SYSTEM,                                                                     \
      "DELETE FROM public.tickets WHERE expires_at <= now() -"                                     \
      " CASE WHEN used = 'stream' THEN interval '1 hour' ELSE interval '0' END")                   \
    /* $1 the mark of the master key, if there is none yet; NULL: only look. */                      \
    X(SECRET_MARK, 1, SYSTEM,                                                                      \
      "WITH i AS (INSERT INTO public.meta (key, value) SELECT 'secret', $1::text"                  \
      " WHERE $1::text IS NOT NULL ON CONFLICT (key) DO NOTHING RETURNING value)"                  \
      " SELECT coalesce((SELECT value FROM i),"                                                    \
      " (SELECT value FROM public.meta WHERE key = 'secret'))")                                    \
    X(SECRET_SAMPLE, 0, SYSTEM,                                                                    \
      "SELECT id, env_sealed FROM public.sandboxes WHERE env_sealed IS NOT NULL"                   \
      " ORDER BY created_at DESC LIMIT 1")                                                         \
    /* $1 the mark that there is, $2 the one from now on. */                                       \
    X(SECRET_CHANGE, 2, SYSTEM,                                                                    \
      "WITH u AS (UPDATE public.meta SET value = $2 WHERE key = 'secret' AND value = $1"           \
      " RETURNING 1) INSERT INTO public.meta (key, value)"                                         \
      " SELECT 'secret_since', now()::text FROM u"                                                 \
      " ON CONFLICT (key) DO UPDATE SET value = excluded.value")                                   \
    X(SECRET_SEALED, 2, SYSTEM,                                                                    \
      "SELECT id, env_sealed FROM public.sandboxes WHERE env_sealed IS NOT NULL AND id > $1"       \
      " ORDER BY id LIMIT $2::bigint")                                                             \
    /* $2 what it was, $3 what it is to be: somebody may have written another env meanwhile. */    \
    X(SECRET_RESEAL, 3, SYSTEM,                                                                    \
      "UPDATE public.sandboxes SET env_sealed = $3::bytea"                                         \
      " WHERE id = $1 AND env_sealed = $2::bytea")                                                 \
    X(SECRET_LEFT, 0, SYSTEM,                                                                      \
      "WITH s AS (SELECT value::timestamptz AS since FROM public.meta WHERE key = 'secret_since')" \
      " SELECT (SELECT count(*) FROM public.api_keys k, s WHERE k.revoked_at IS NULL"              \
      " AND (k.expires_at IS NULL OR k.expires_at > now())"                                        \
      " AND greatest(k.created_at, k.rehashed_at) < since),"                                       \
      " (SELECT count(*) FROM public.idempotency_keys i, s WHERE i.status IS NOT NULL"             \
      " AND i.created_at < since AND i.created_at > now() - interval '1 day')")                    \
    /* $1 under the former master key, $2 under the present one. */                                \
    X(KEY_REHASH, 2, SYSTEM,                                                                       \
      "UPDATE public.api_keys SET hash = $2::bytea, rehashed_at = now() WHERE hash = $1::bytea")   \
    /* $1 acts; one of interest only with somebody else's object is left out otherwise. */          \
    X(AUDIT_INSERT, 1, SYSTEM,                                                                     \
      "INSERT INTO public.audit (id, at, request_id, actor, key_id, address, method, action,"    \
      " object, part, status, code, count)"                                                        \
      " SELECT r.id, now() - make_interval(secs => r.age_ms / 1000.0), r.request_id, r.actor,"   \
      " r.key_id, r.address, r.method, r.action, r.object, r.part, r.status, r.code, r.count"      \
      " FROM json_to_recordset($1::json) AS r (id text, age_ms bigint, request_id text,"           \
      " actor text, key_id text, address text, method text, action text, object text,"           \
      " part text, status integer, code text, count bigint, foreign_only boolean)"                 \
      " WHERE NOT r.foreign_only OR EXISTS (SELECT 1 FROM public.sandboxes s"                      \
      " WHERE s.id = r.object AND s.owner <> r.actor) OR EXISTS (SELECT 1 FROM public.groups g"  \
      " WHERE g.id = r.object AND g.owner <> r.actor) ON CONFLICT (id) DO NOTHING")              \
    /* $1 user, $2 key, $3 action, $4 object or part, $5 from and $6 before, $7 and $8 the lowest   \
     * and highest status or 0, $9 time and $10 id of the cursor, $11 limit. */                    \
    X(AUDIT_LIST, 11, SYSTEM,                                                                      \
      "SELECT a.id, a.at, a.request_id, a.actor, u.name, a.key_id, a.address, a.method,"         \
      " a.action, a.object, a.part, a.code, a.status, a.count"                                     \
      " FROM public.audit a LEFT JOIN public.users u ON u.id = a.actor"                          \
      " WHERE ($1::text IS NULL OR a.actor = $1) AND ($2::text IS NULL OR a.key_id = $2)"        \
      " AND ($3::text IS NULL OR a.action = $3)"                                                   \
      " AND ($4::text IS NULL OR a.object = $4 OR a.part = $4)"                                    \
      " AND ($5::timestamptz IS NULL OR a.at >= $5) AND ($6::timestamptz IS NULL OR a.at < $6)"    \
      " AND ($7::int = 0 OR a.status >= $7::int) AND ($8::int = 0 OR a.status <= $8::int)"         \
      " AND ($9::timestamptz IS NULL OR (a.at, a.id) < ($9, $10::text))"                           \
      " ORDER BY a.at DESC, a.id DESC LIMIT $11::bigint")                                          \
    /* $1 days, $2 limit. The table refuses the removal of anything else. */                       \
    X(AUDIT_PURGE, 2, SYSTEM,                                                                      \
      "WITH s AS MATERIALIZED (SELECT set_config('sandboxd.audit_days', ($1::int)::text, true)"    \
      " AS days), o AS (SELECT a.id FROM s, public.audit a"                                        \
      " WHERE a.at < now() - make_interval(days => s.days::int) ORDER BY a.at LIMIT $2::bigint),"  \
      " d AS (DELETE FROM public.audit a USING o WHERE a.id = o.id RETURNING 1)"                   \
      " SELECT count(*) FROM d")                                                                   \
                                                                                                   \
    /* $1 worker. What waits is counted for all workers, and its share told: how many are alive,    \
     * and how many of those come before this one. */                                              \
    X(POOL_LIST, 1, SYSTEM,                                                                        \
      "WITH w AS (SELECT id FROM public.workers),"                                                 \
      " s AS (SELECT substr(pool, 18) AS of_key, count(*) FILTER (WHERE state = 'running') AS ready,"  \
      " count(*) FILTER (WHERE state = 'creating') AS filling FROM public.sandboxes"               \
      " WHERE pool IS NOT NULL AND state NOT IN ('deleted', 'failed') GROUP BY 1)"                 \
      " SELECT key, template, size, network, min, max, hits, misses,"                              \
      " (1000 * recent * exp(- extract(epoch FROM now() - recent_at)::float8 / 60))::bigint,"      \
      " fill_ms, error, coalesce(ready, 0), coalesce(filling, 0),"                                 \
      " (SELECT count(*) FROM w WHERE id <> $1), (SELECT count(*) FROM w WHERE id < $1)"           \
      " FROM public.pools LEFT JOIN s ON of_key = key ORDER BY key")                                   \
    /* What waits and $1 holds; a row that came to some other state as well. */                    \
    X(POOL_SLOTS, 2, SYSTEM,                                                                       \
      "SELECT " SANDBOX_COLS " FROM public.sandboxes WHERE pool IS NOT NULL"                       \
      " AND state NOT IN ('deleted', 'failed') AND worker = $1"                                    \
      " ORDER BY created_at LIMIT $2::bigint")                                                     \
    /* $2 hits and $3 misses since the last time; $4 milliseconds that a start took, or 0; $5 is    \
     * there news of a start, $6 why it failed */                                                  \
    X(POOL_COUNT, 6, SYSTEM,                                                                       \
      "UPDATE public.pools SET hits = hits + $2::bigint, misses = misses + $3::bigint,"            \
      " recent = recent * exp(- extract(epoch FROM now() - recent_at)::float8 / 60)"               \
      " + $2::bigint + $3::bigint, recent_at = now(),"                                             \
      " fill_ms = CASE WHEN $4::bigint = 0 THEN fill_ms WHEN fill_ms = 0 THEN $4::bigint"          \
      " ELSE fill_ms + ($4::bigint - fill_ms) / 4 END,"                                            \
      " error = CASE WHEN $5::bool THEN $6::text ELSE error END WHERE key = $1")                   \
    /* As the option says, unless it says what it said before. $2 template, $3 size, $4 network,   \
     * $5 min, $6 max, $7 the option's text. */                                                    \
    X(POOL_OPTION, 7, SYSTEM,                                                                      \
      "INSERT INTO public.pools AS p (key, template, size, network, min, max, option)"             \
      " VALUES ($1, $2, $3, $4, $5::bigint, $6::bigint, $7)"                                       \
      " ON CONFLICT (key) DO UPDATE SET min = excluded.min, max = excluded.max,"                   \
      " option = excluded.option WHERE p.option IS DISTINCT FROM excluded.option")                 \
    X(POOL_OPTIONS_GONE, 1, SYSTEM,                                                                \
      "DELETE FROM public.pools WHERE option IS NOT NULL AND key <> ALL ($1::text[])")             \
    X(POOL_RESIZE, 6, SYSTEM,                                                                      \
      "INSERT INTO public.pools AS p (key, template, size, network, min, max)"                     \
      " VALUES ($1, $2, $3, $4, $5::bigint, $6::bigint)"                                           \
      " ON CONFLICT (key) DO UPDATE SET min = excluded.min, max = excluded.max")                   \
    /* $1 owner, $2 request, $3 set, $4 worker, $5 installer, $6 seconds. Decided by the request's  \
     * row alone, of which ON CONFLICT sees the newest version; other tables are seen as they were  \
     * before. */                                                                                   \
    X(PACKAGES_CLAIM, 6, OWNER,                                                                     \
      "WITH r AS (INSERT INTO public.package_requests AS s (owner, request, set_id, state, worker," \
      " until_at) VALUES ($1, $2::bytea, $3, 'installing', $4, now() + make_interval(secs => $6::int))" \
      " ON CONFLICT (owner, request) DO UPDATE SET set_id = excluded.set_id, state = 'installing'," \
      " worker = excluded.worker, until_at = excluded.until_at, code = NULL, error = NULL,"         \
      " output = NULL WHERE s.set_id = excluded.set_id OR s.until_at <= now()"                      \
      " OR (s.state = 'installing' AND " HOLDER_IS_DEAD ") RETURNING 1),"                           \
      " n AS (INSERT INTO public.package_sets (id, owner, installer, state, worker, deadline_at)"   \
      " SELECT $3, $1, $5, 'installing', $4, now() + make_interval(secs => $6::int) FROM r"         \
      " ON CONFLICT (id) DO NOTHING),"                                                              \
      " t AS (UPDATE public.package_sets p SET used_at = now() FROM public.package_requests q"      \
      " WHERE q.owner = $1 AND q.request = $2::bytea AND q.state = 'sealed' AND q.until_at > now()" \
      " AND p.id = q.set_id AND p.state = 'sealed' RETURNING p.id, p.installed)"                    \
      " SELECT CASE WHEN EXISTS (SELECT 1 FROM r) THEN 'mine' WHEN t.id IS NOT NULL THEN 'sealed'"  \
      " WHEN q.state = 'failed' THEN 'failed' ELSE 'wait' END, coalesce(t.id, q.set_id),"           \
      " t.installed::text, q.code, q.error, q.output FROM (SELECT 1) AS one"                        \
      " LEFT JOIN public.package_requests q ON q.owner = $1 AND q.request = $2::bytea"              \
      " LEFT JOIN t ON true")                                                                       \
    X(PACKAGES_STAGE, 3, SYSTEM,                                                                    \
      "UPDATE public.package_sets SET sandbox = $3"                                                 \
      " WHERE id = $1 AND worker = $2 AND state = 'installing' RETURNING 1")                        \
    /* $1 set, $2 worker, $3 key, $4 installed, $5 bytes, $6 seconds. */                            \
    X(PACKAGES_SEAL, 6, SYSTEM,                                                                     \
      "WITH m AS (SELECT id, owner FROM public.package_sets"                                        \
      " WHERE id = $1 AND worker = $2 AND state = 'installing' FOR UPDATE),"                        \
      " o AS (UPDATE public.package_sets p SET used_at = now() FROM m WHERE p.owner = m.owner"      \
      " AND p.key = $3::bytea AND p.state = 'sealed' RETURNING p.id),"                              \
      " u AS (UPDATE public.package_sets p SET key = $3::bytea, installed = $4::json,"              \
      " size_bytes = $5::bigint, used_at = now(), sandbox = NULL,"                                  \
      " state = CASE WHEN EXISTS (SELECT 1 FROM o) THEN 'removing' ELSE 'sealed' END"               \
      " FROM m WHERE p.id = m.id RETURNING p.id),"                                                  \
      " r AS (UPDATE public.package_requests SET state = 'sealed',"                                 \
      " set_id = coalesce((SELECT id FROM o), $1), until_at = now() + make_interval(secs => $6::int)" \
      " WHERE set_id = $1 AND state = 'installing' AND EXISTS (SELECT 1 FROM u))"                   \
      " SELECT coalesce((SELECT id FROM o), id) FROM u")                                            \
    X(PACKAGES_FAIL, 6, SYSTEM,                                                                     \
      "WITH u AS (UPDATE public.package_sets SET state = 'removing'"                                \
      " WHERE id = $1 AND worker = $2 AND state = 'installing')"                                    \
      " UPDATE public.package_requests SET state = 'failed', code = $3, error = $4, output = $5,"   \
      " until_at = now() + make_interval(secs => $6::int) WHERE set_id = $1 AND state = 'installing'") \
    X(PACKAGES_LOST, 1, SYSTEM,                                                                     \
      "WITH u AS (UPDATE public.package_sets SET state = 'removing', installed = NULL"              \
      " WHERE id = $1 AND state = 'sealed')"                                                        \
      " DELETE FROM public.package_requests WHERE set_id = $1 AND state = 'sealed'")                \
    X(PACKAGES_OVERDUE, 0, SYSTEM,                                                                  \
      "WITH u AS (UPDATE public.package_sets s SET state = 'removing' WHERE state = 'installing'"   \
      " AND (deadline_at <= now() OR " HOLDER_IS_DEAD ") RETURNING id)"                             \
      " DELETE FROM public.package_requests WHERE until_at <= now() - interval '1 day'"             \
      " OR (state = 'installing' AND set_id IN (SELECT id FROM u))")                                \
    X(PACKAGES_EVICT, 2, SYSTEM,                                                                    \
      "WITH a AS (SELECT id, sum(size_bytes) OVER (ORDER BY used_at DESC, id) AS total"             \
      " FROM public.package_sets WHERE state = 'sealed'),"                                          \
      " u AS (UPDATE public.package_sets p SET state = 'removing' FROM a WHERE p.id = a.id"         \
      " AND a.total > $1::bigint AND p.state = 'sealed'"                                            \
      " AND p.used_at <= now() - make_interval(secs => $2::int) RETURNING p.id),"                   \
      " d AS (DELETE FROM public.package_requests WHERE set_id IN (SELECT id FROM u))"              \
      " SELECT count(*) FROM u")                                                                    \
    X(PACKAGES_ALL, 0, SYSTEM,                                                                      \
      "SELECT id, owner, sandbox, state = 'removing', state <> 'installing' AND installed IS NOT NULL," \
      " CASE WHEN state = 'sealed' THEN size_bytes ELSE 0 END FROM public.package_sets")            \
    X(PACKAGES_REMOVED, 1, SYSTEM,                                                                  \
      "DELETE FROM public.package_sets WHERE id = $1 AND state = 'removing'")                       \
    X(PACKAGES_RESTORE, 1, SYSTEM,                                                                  \
      "UPDATE public.package_sets s SET state = 'sealed', used_at = now()"                          \
      " WHERE id = $1 AND state = 'removing' AND installed IS NOT NULL AND NOT EXISTS"              \
      " (SELECT 1 FROM public.package_sets o WHERE o.owner = s.owner AND o.key = s.key"             \
      " AND o.state = 'sealed')")                                                                   \
                                                                                                    \
    X(MIGRATE_LOCK, 1, SYSTEM, "SELECT pg_try_advisory_lock($1::bigint)")                          \
    X(MIGRATE_RECORD, 3, SYSTEM,                                                                   \
      "INSERT INTO public.schema_migrations (version, name, checksum) VALUES ($1::int, $2, $3)")

/* What makes the table of migrations itself; and the frame around one migration. */
#define SBX_SQL_MIGRATIONS_TABLE                                                                   \
    "CREATE TABLE IF NOT EXISTS public.schema_migrations (version integer PRIMARY KEY,"            \
    " name text NOT NULL, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
#define SBX_SQL_BEGIN  "BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '30s'"
#define SBX_SQL_COMMIT "COMMIT"
/* clang-format on */

#endif
