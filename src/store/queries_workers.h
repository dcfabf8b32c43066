/* The statements of presence: which workers there are, and which of them live. */
#ifndef SBX_STORE_QUERIES_WORKERS_H
#define SBX_STORE_QUERIES_WORKERS_H

/* clang-format off */
/* A worker is alive while it has a row; WORKER_BEAT alone decides who is dead. NULL, which is nobody,
 * counts as dead. */
#define IS_DEAD(worker) "NOT EXISTS (SELECT 1 FROM public.workers w WHERE w.id = " worker ")"

/* The number of the lock that a worker holds while it lives. */
#define WORKER_LOCK(id) "hashtextextended(" id ", 1935833091)"

/* More than so many seconds from now, either way: clocks are set, too. */
#define OFF(time, s)                                                                               \
    time " NOT BETWEEN now() - interval '" s " seconds' AND now() + interval '" s " seconds'"

#define SBX_QUERIES_WORKERS(X)                                                                     \
    /* A lock of the session: alone (exclusive) or with others (shared). */                        \
    X(PRESENCE_ALONE, 1, SYSTEM, "SELECT pg_try_advisory_lock($1::bigint)")                        \
    X(PRESENCE_SHARED, 1, SYSTEM, "SELECT pg_try_advisory_lock_shared($1::bigint)")                \
    /* A former session of the same worker that the server has not given up yet. */                \
    X(PRESENCE_END_STALE, 2, SYSTEM,                                                               \
      "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"                              \
      " WHERE application_name = $1 AND pid <> $2::int AND datname = current_database()")          \
    /* That of one worker, shared, so that two whose hashes agree do not keep each other out. It   \
     * is waited for: others have it for the time of one statement. */                             \
    X(PRESENCE_OWN, 1, SYSTEM, "SELECT pg_advisory_lock_shared(" WORKER_LOCK("$1") ")")            \
    /* $1 worker, $2 it is alone: it holds the exclusive lock, so nobody else is alive. A sign of  \
     * life, and a look at the others: whose sign is late and whose lock is free is dead; so is    \
     * whose sign is that late that the lock, which a process that stands still keeps, tells       \
     * nothing. Nobody judges who was not here all the time himself: after an outage of the        \
     * database all are late, and one of them is the first to be back. */                          \
    X(WORKER_BEAT, 2, SYSTEM,                                                                      \
      "WITH alone AS (DELETE FROM public.workers WHERE $2::bool AND id <> $1),"                    \
      " me AS (INSERT INTO public.workers AS w (id, alone, steady_since)"                          \
      " VALUES ($1, $2::bool, now()) ON CONFLICT (id) DO UPDATE SET heartbeat_at = now(),"         \
      " steady_since = CASE WHEN " OFF("w.heartbeat_at", "2") " THEN now() ELSE w.steady_since END" \
      " RETURNING steady_since),"                                                                  \
      " late AS (SELECT o.id, " OFF("o.heartbeat_at", "5") " OR (o.steady_since IS NOT NULL"       \
      " AND pg_try_advisory_xact_lock(" WORKER_LOCK("o.id") ")) AS dead FROM public.workers o, me" \
      " WHERE o.id <> $1 AND " OFF("o.heartbeat_at", "2.5")                                        \
      " AND me.steady_since <= now() - interval '3 seconds' FOR UPDATE OF o SKIP LOCKED),"         \
      " gone AS (DELETE FROM public.workers w USING late WHERE w.id = late.id AND late.dead"       \
      " RETURNING w.id)"                                                                           \
      " SELECT steady_since = now(), (SELECT string_agg(id, ' ') FROM gone),"                      \
      " (SELECT count(*) FROM public.workers WHERE id <> $1),"                                     \
      " NOT EXISTS (SELECT 1 FROM public.workers WHERE id < $1) FROM me")                             \
    X(WORKER_DELETE, 1, SYSTEM, "DELETE FROM public.workers WHERE id = $1")
/* clang-format on */

#endif
