/* The answer to STATS. */
#ifndef SBX_AGENTD_STATS_H
#define SBX_AGENTD_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "sbx/core/agent_proto.h"

#define AGENT_SAMPLE_BYTES 256

typedef struct agent_stats_known {
    int64_t started_ms; /* the agent; wall clock */
    uint64_t own;       /* processes that are the agent's, not the sandbox's */
    uint64_t oom_kills;
    bool knows_oom;
} agent_stats_known;

/** Write the fields of SAMPLE. Reads a few small files; takes well under a millisecond.
 * @return bytes written. */
size_t agent_stats_write(unsigned char out[AGENT_SAMPLE_BYTES], const agent_stats_known *known);

/** Sum up the text of /proc/net/dev, but for the loopback. */
void agent_stats_parse_net(const char *text, uint64_t *ret_received, uint64_t *ret_sent);

#endif
