/* The sandbox's log: numbered lines, kept until the owner has them, and a little longer.
 *
 * Entries lie in chunks in the form in which they travel, so a LOG frame is a few copies. Three
 * places move through them: the oldest entry that is kept, the first that is not acknowledged and
 * the first that is not sent. Beyond SBX_JOURNAL_MAX_BYTES of unacknowledged entries the oldest
 * are dropped, as are acknowledged ones beyond SBX_JOURNAL_KEEP_BYTES or SBX_JOURNAL_KEEP_LINES.
 */
#ifndef SBX_AGENTD_JOURNAL_H
#define SBX_AGENTD_JOURNAL_H

#include <stdbool.h>

#include "sbx/core/agent_proto.h"

typedef struct agent_journal agent_journal;

/** @return NULL if there is no memory. */
agent_journal *agent_journal_new(void);
void agent_journal_free(agent_journal *j);

/** Append a line; its `seq` is set here. Without memory the line is lost, and its number used. */
void agent_journal_add(agent_journal *j, sbx_log_entry *e);

/** Append a line of the agent's own, of source "system"; what is longer than an entry is cut. */
void agent_journal_system(agent_journal *j, const void *text, size_t len);

/** A new owner wants entries from `from` on (0: all there are); those before it are safe with it.
 * If `from` is beyond the next number, numbering goes on there. */
void agent_journal_resume(agent_journal *j, uint64_t from);

/** Everything up to `seq` is safe; what was not sent yet is not affected. */
void agent_journal_ack(agent_journal *j, uint64_t seq);

/** Is there an entry to send, and may it be sent now? */
bool agent_journal_pending(const agent_journal *j);

/** Drop the oldest entries, until no more than `bytes` are to be sent: there is no time for all. */
void agent_journal_cut(agent_journal *j, uint64_t bytes);

/** Is everything sent and acknowledged? */
bool agent_journal_settled(const agent_journal *j);

/** Write entries to send, as many as fit and as the limit of unacknowledged bytes allows.
 * @return bytes written. */
size_t agent_journal_fill(agent_journal *j, unsigned char *out, size_t cap);

uint64_t agent_journal_next_seq(const agent_journal *j);
uint64_t agent_journal_oldest_seq(const agent_journal *j); /* the next one if it is empty */

#endif
