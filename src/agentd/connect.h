/* `sbx-agent connect`: carries bytes between its standard input and output and the agent's socket,
 * and knows nothing of what they mean. */
#ifndef SBX_AGENTD_CONNECT_H
#define SBX_AGENTD_CONNECT_H

/** Carry until either side ends. @return the exit status: 0, or 1 if the agent is not there. */
int agent_connect(void);

#endif
