/* Closing what a forked process must not keep. */
#ifndef SBX_AGENTD_DESCRIPTORS_H
#define SBX_AGENTD_DESCRIPTORS_H

#include <stddef.h>

/** Close every descriptor from `first` on. */
void agent_descriptors_close_from(int first);

/** Close all descriptors but stderr and the `count` listed ones. Sorts the list. */
void agent_descriptors_keep(int *fds, size_t count);

#endif
