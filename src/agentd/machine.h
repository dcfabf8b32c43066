/* What tells this sandbox from others made from the same image. */
#ifndef SBX_AGENTD_MACHINE_H
#define SBX_AGENTD_MACHINE_H

/* Writes /etc/machine-id, if the image has an /etc, and takes it out of the environment. */
void agent_machine_id(void);

#endif
