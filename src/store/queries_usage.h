/* The statements about tiers, quotas, usage and cost: a part of queries.h, of the same form. */
#ifndef SBX_STORE_QUERIES_USAGE_H
#define SBX_STORE_QUERIES_USAGE_H

/* clang-format off */
#define SBX_QUERIES_USAGE(X)                                                                       \
    X(TIER_LIST, 0, SYSTEM,                                                                        \
      "SELECT name, executions, compute_s, longest_s, concurrent FROM public.tiers"                \
      " ORDER BY position, name")                                                                  \
    /* $1 name; then of each limit whether it is given, and what it is to be. */                   \
    X(TIER_CHANGE, 9, SYSTEM,                                                                      \
      "UPDATE public.tiers SET executions = CASE WHEN $2::bool THEN $3::bigint ELSE executions END,"\
      " compute_s = CASE WHEN $4::bool THEN $5::bigint ELSE compute_s END,"                        \
      " longest_s = CASE WHEN $6::bool THEN $7::bigint ELSE longest_s END,"                        \
      " concurrent = CASE WHEN $8::bool THEN $9::bigint ELSE concurrent END"                       \
      " WHERE name = $1 RETURNING name, executions, compute_s, longest_s, concurrent")             \
    X(PRICE_LIST, 0, SYSTEM,                                                                       \
      "SELECT size, cpu_milli, memory_mb, micros, paused_micros FROM public.prices"                \
      " ORDER BY cpu_milli, memory_mb")                                                            \
    X(PRICE_CHANGE, 3, SYSTEM,                                                                     \
      "UPDATE public.prices SET micros = CASE WHEN $2::bigint < 0 THEN micros ELSE $2 END,"        \
      " paused_micros = CASE WHEN $3::bigint < 0 THEN paused_micros ELSE $3 END WHERE size = $1"   \
      " RETURNING size, cpu_milli, memory_mb, micros, paused_micros")                              \
    /* $1 execution, $2 owner, $3 sandbox, $4 runtime, $5 worker */                               \
    X(RUN_RESERVE, 5, OWNER,                                                                       \
      "SELECT public.quota_run($1, s.owner, s.id, s.template, $4, $5) FROM public.sandboxes s"     \
      " WHERE s.id = $3 AND s.owner = $2")                                                         \
    /* Reserved, and it did not come to a run: the sandbox is over, or the worker is dead and the  \
     * sandbox knows nothing of it. */                                                             \
    X(RUN_RELEASE, 0, SYSTEM,                                                                      \
      "DELETE FROM public.usage_runs r WHERE NOT r.done"                                           \
      " AND NOT EXISTS (SELECT 1 FROM public.sandbox_executions x WHERE x.id = r.id)"              \
      " AND ((r.at <= now() - interval '60 seconds'"                                               \
      " AND NOT EXISTS (SELECT 1 FROM public.sandboxes s WHERE s.id = r.sandbox"                   \
      " AND s.state NOT IN ('deleting', 'deleted', 'failed', 'stopped')))"                         \
      " OR " IS_DEAD("r.worker") ")")                                                              \
    X(QUOTAS_GET, 1, OWNER,                                                                        \
      "SELECT t.name, t.executions, t.compute_s, t.longest_s, t.concurrent, u.spending_limit,"     \
      " u.hard_stop, r.runs, r.open, n.running_ms, n.paused_ms,"                                   \
      " floor(n.cost / 3600000)::bigint, s.there, s.coming, public.usage_reset()"                  \
      " FROM (SELECT $1::text AS owner) o JOIN public.users u ON u.id = o.owner AND o.owner = $1"  \
      " JOIN public.tiers t ON t.name = u.tier,"                                                   \
      " LATERAL public.usage_now(o.owner) n,"                                                      \
      " LATERAL (SELECT count(*) FILTER (WHERE done) AS runs, count(*) FILTER (WHERE NOT done)"    \
      " AS open FROM public.usage_runs r WHERE r.owner = o.owner AND day >= public.usage_month())" \
      " r, LATERAL public.sandboxes_held(o.owner) s")                                              \
    /* $2 first day, $3 last day, $4 by what, $5 behind which key, $6 limit, $7 sandbox */         \
    X(USAGE_LIST, 7, OWNER,                                                                        \
      "WITH m AS (SELECT day, sandbox, template, 0 AS runs, running_ms, paused_ms, cost"           \
      " FROM public.usage_all($1::text) UNION ALL"                                                 \
      " SELECT day, sandbox, template, 1, 0, 0, 0 FROM public.usage_runs"                          \
      " WHERE owner = $1 AND done),"                                                               \
      " k AS (SELECT CASE $4::text WHEN 'day' THEN day::text WHEN 'month' THEN"                    \
      " to_char(day, 'YYYY-MM') WHEN 'sandbox' THEN sandbox ELSE coalesce(template, 'image') END"  \
      " COLLATE \"C\" AS key, * FROM m WHERE day BETWEEN coalesce($2::date, public.usage_month())" \
      " AND coalesce($3::date, (now() AT TIME ZONE 'UTC')::date)"                                  \
      " AND ($7::text IS NULL OR sandbox = $7))"                                                   \
      " SELECT key, sum(runs)::bigint, sum(running_ms)::bigint, sum(paused_ms)::bigint,"           \
      " floor(sum(cost::numeric) / 3600000)::bigint FROM k"                                        \
      " WHERE $5::text IS NULL OR key > $5 GROUP BY key ORDER BY key LIMIT $6::bigint")            \
    X(USAGE_OF_RUNS, 7, OWNER,                                                                     \
      "WITH k AS (SELECT CASE $4::text WHEN 'runtime' THEN coalesce(runtime, template, 'image')"   \
      " ELSE left(substring(p.spec FROM '^@?[^@=<>~! ;\\[]+'), 255) END COLLATE \"C\" AS key,"     \
      " duration_ms FROM public.usage_runs r LEFT JOIN LATERAL"                                    \
      " (SELECT CASE json_typeof(e) WHEN 'string' THEN e #>> '{}' ELSE e ->> 'name' END AS spec"   \
      " FROM json_array_elements(CASE WHEN $4::text = 'package' THEN r.packages END) e) p ON true" \
      " WHERE r.owner = $1 AND r.done AND day BETWEEN coalesce($2::date, public.usage_month())"    \
      " AND coalesce($3::date, (now() AT TIME ZONE 'UTC')::date)"                                  \
      " AND ($7::text IS NULL OR r.sandbox = $7))"                                                 \
      " SELECT key, count(*), sum(duration_ms)::bigint, 0::bigint, 0::bigint FROM k"               \
      " WHERE key IS NOT NULL AND ($5::text IS NULL OR key > $5)"                                  \
      " GROUP BY key ORDER BY key LIMIT $6::bigint")                                               \
    X(SPENDING_SET, 3, SYSTEM,                                                                     \
      "UPDATE public.users SET spending_limit = $2::bigint, hard_stop = $3::bool WHERE id = $1"    \
      " RETURNING id")                                                                             \
    /* The trigger writes what was used, and until when; who is at a row meters it himself. */     \
    X(USAGE_METER, 2, SYSTEM,                                                                      \
      "WITH due AS (SELECT id AS due_id FROM public.sandboxes WHERE pool IS NULL AND state IN"     \
      " ('running', 'pausing', 'paused', 'resuming', 'stopping')"                                  \
      " AND metered_at <= now() - make_interval(secs => $1::int)"                                  \
      " ORDER BY id LIMIT $2::bigint FOR UPDATE SKIP LOCKED),"                                     \
      " u AS (UPDATE public.sandboxes SET metered_at = now() FROM due WHERE id = due_id"           \
      " RETURNING id) SELECT count(*) FROM u")                                                     \
    X(QUOTA_OVER, 2, SYSTEM,                                                                       \
      "WITH o AS (SELECT u.id AS of_owner, n.running_ms >= t.compute_s * 1000 AS compute,"         \
      " u.hard_stop AND n.cost >= u.spending_limit::numeric * 3600000 AS spending"                 \
      " FROM (SELECT DISTINCT owner FROM public.sandboxes WHERE pool IS NULL"                      \
      " AND state IN ('running', 'paused')) a JOIN public.users u ON u.id = a.owner"               \
      " JOIN public.tiers t ON t.name = u.tier, LATERAL public.usage_now(u.id) n"                  \
      " WHERE t.compute_s IS NOT NULL OR (u.hard_stop AND u.spending_limit IS NOT NULL))"          \
      " SELECT id, owner, CASE WHEN compute THEN 'compute' ELSE 'spending' END"                    \
      " FROM public.sandboxes s JOIN o ON owner = of_owner WHERE pool IS NULL"                     \
      " AND (state = 'running' AND (compute OR spending) OR state = 'paused' AND spending)"        \
      " AND (s.worker = $1::text OR " HOLDER_IS_DEAD ") LIMIT $2::bigint")                         \
    X(SPENDING_ALERTS, 0, SYSTEM,                                                                  \
      "WITH a AS (INSERT INTO public.spending_alerts AS x (owner, month, percent)"                 \
      " SELECT u.id, public.usage_month(), p.percent FROM public.users u,"                         \
      " LATERAL public.usage_now(u.id) n, (VALUES (80), (100)) p (percent)"                        \
      " WHERE u.spending_limit IS NOT NULL"                                                        \
      " AND n.cost * 100 >= u.spending_limit::numeric * 3600000 * p.percent ORDER BY 1, 3"         \
      " ON CONFLICT DO NOTHING RETURNING owner, percent),"                                         \
      " n AS (INSERT INTO public.event_counters AS c (owner, last)"                                \
      " SELECT owner, count(*) FROM a GROUP BY owner ORDER BY owner"                               \
      " ON CONFLICT (owner) DO UPDATE SET last = c.last + excluded.last"                           \
      " RETURNING c.owner AS of_owner, c.last),"                                                   \
      " e AS (INSERT INTO public.events (owner, seq, sandbox, type, data)"                         \
      " SELECT owner, last + 1 - row_number() OVER (PARTITION BY owner ORDER BY percent DESC),"    \
      " NULL, 'spending.alert', json_build_object('from', NULL::json, 'to', percent::text,"        \
      " 'reason', json_build_object('code', 'spending_' || percent, 'message',"                    \
      " format('%s %% of the spending limit of this month are used', percent)))"                   \
      " FROM a JOIN n ON of_owner = owner RETURNING 1) SELECT count(*) FROM e")                    \
    X(USAGE_PURGE, 2, SYSTEM,                                                                      \
      "WITH u AS (DELETE FROM public.usage WHERE (sandbox, day) IN (SELECT sandbox, day"           \
      " FROM public.usage WHERE day < (now() - make_interval(days => $1::int))::date"              \
      " LIMIT $2::bigint)), r AS (DELETE FROM public.usage_runs WHERE id IN (SELECT id"            \
      " FROM public.usage_runs WHERE day < (now() - make_interval(days => $1::int))::date"         \
      " LIMIT $2::bigint)) DELETE FROM public.spending_alerts"                                     \
      " WHERE month < (now() - make_interval(days => $1::int))::date")
/* clang-format on */

#endif
