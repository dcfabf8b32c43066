/* One question to the helper and its answer: a line each way over its attached stdin and stdout.
 * The lines are described in deploy/images/guard.
 *
 * Threads: one at a time; blocks up to its time-out, the job's deadline and cancellation. */
#ifndef SBX_GUARD_EXCHANGE_H
#define SBX_GUARD_EXCHANGE_H

#include "rules.h"
#include "sbx/engine/engine.h"

#define GUARD_VERSION    "1" /* of the lines */
#define GUARD_HASH_BYTES 65  /* as text */

typedef struct guard_answer {
    char hash[GUARD_HASH_BYTES]; /* of the rules in force; "-": none were set */
    guard_resolvers resolvers;   /* of the engine's host */
    bool restored;               /* they were not as they had been set, and were set again */
} guard_answer;

/** Take one answering line apart.
 * @return 1 it answers this nonce, 0 it answers somebody else, -1 ENGINE: the helper refused or
 *         does not speak as it should. */
int guard_answer_parse(const char *line, const char *nonce, guard_answer *ret,
                       sbx_err *err) SBX_MUST_CHECK;

/** Ask. @param rules  to set, or NULL for a ping.
 * @return 0; -1 with ENGINE (the helper refused: its words), ENGINE_UNAVAILABLE or TIMEOUT (it does
 *         not answer), CANCELLED. */
int guard_exchange(sbx_engine_conn *conn, const sbx_buf *rules, guard_answer *ret,
                   sbx_err *err) SBX_MUST_CHECK;

/** The hash by which the helper names these rules. */
void guard_rules_hash(const sbx_buf *rules, char out[GUARD_HASH_BYTES]);

#endif
