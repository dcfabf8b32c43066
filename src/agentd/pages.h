/* Memory for buffers, outside the heap.
 *
 * Buffers come straight from the kernel for two reasons: they are given back the moment they are
 * released, and they are marked so that a fork does not inherit them. A supervisor lives as long
 * as its command; it must not keep a copy of a journal that the agent has long dropped, and it
 * need not hold anything that another command has written.
 */
#ifndef SBX_AGENTD_PAGES_H
#define SBX_AGENTD_PAGES_H

#include <stddef.h>

/** Map `size` zeroed bytes; untouched ones cost nothing. @return NULL if there is no memory. */
void *agent_pages_map(size_t size);

/** Give a mapping back; `at` may be NULL. `size` is what was asked for. */
void agent_pages_unmap(void *at, size_t size);

/** Give the memory back and keep the addresses, whose content becomes zero. */
void agent_pages_forget(void *at, size_t size);

#endif
