/* Lists that run through the objects themselves: an object has a link for every list that it may
 * be in. A link that is in no list points to itself. */
#ifndef SBX_AGENTD_LIST_H
#define SBX_AGENTD_LIST_H

#include <stdbool.h>
#include <stddef.h>

typedef struct agent_link {
    struct agent_link *next, *prev;
} agent_link;

#define AGENT_OF(link, type, member) ((type *)(void *)((char *)(link)-offsetof(type, member)))

static inline void agent_list_init(agent_link *l)
{
    l->next = l->prev = l;
}

static inline bool agent_list_empty(const agent_link *l)
{
    return l->next == l;
}

static inline void agent_list_put(agent_link *before, agent_link *at)
{
    at->next = before;
    at->prev = before->prev;
    before->prev->next = at;
    before->prev = at;
}

/** Add at the end, or at the beginning. */
static inline void agent_list_add(agent_link *list, agent_link *at)
{
    agent_list_put(list, at);
}

static inline void agent_list_add_first(agent_link *list, agent_link *at)
{
    agent_list_put(list->next, at);
}

/** Take out of whatever list it is in; may be called again. */
static inline void agent_list_remove(agent_link *at)
{
    at->next->prev = at->prev;
    at->prev->next = at->next;
    agent_list_init(at);
}

#endif
