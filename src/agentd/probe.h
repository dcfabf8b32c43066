/* What a check asks of a sandbox that brings no tools: `sbx-agent probe port 8080`, `... file /x`.
 * Runs as a command of its own, with that command's rights. */
#ifndef SBX_AGENTD_PROBE_H
#define SBX_AGENTD_PROBE_H

/** @param kind  "port": somebody listens there on the loopback, IPv4 or IPv6; "file": the path is
 *               there.
 * @return the exit status: 0 yes, 1 no (standard output says why), 2 wrong usage. */
int agent_probe(const char *kind, const char *what);

#endif
