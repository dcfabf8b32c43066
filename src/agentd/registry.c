/* Finding, stepping and dropping commands. */
#include "registry.h"

#include <string.h>

void agent_registry_init(agent_registry *r)
{
    memset(r, 0, sizeof *r);
    agent_list_init(&r->all);
    agent_list_init(&r->settled);
    for (size_t i = 0; i < AGENT_ID_BUCKETS; i++)
        agent_list_init(&r->ids[i]);
}

bool agent_registry_full(const agent_registry *r)
{
    return r->nlive == AGENT_MAX_COMMANDS;
}

/* FNV-1a: names come from the server, so nobody chooses them to collide. */
static agent_link *bucket_of(const agent_registry *r, const char *id, size_t len)
{
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)id[i]) * 16777619u;
    return (agent_link *)&r->ids[h % AGENT_ID_BUCKETS];
}

void agent_registry_add(agent_registry *r, agent_command *c)
{
    c->serial = ++r->last;
    r->live[r->nlive++] = c;
    if (!agent_command_is_kept(c))
        return;
    agent_list_add_first(&r->all, &c->all);
    agent_list_add(bucket_of(r, c->exec_id, c->exec_id_len), &c->id);
}

agent_command *agent_registry_find(const agent_registry *r, const char *id, size_t len)
{
    agent_link *bucket = bucket_of(r, id, len);

    for (agent_link *at = bucket->next; at != bucket; at = at->next) {
        agent_command *c = AGENT_OF(at, agent_command, id);

        if (c->exec_id_len == len && memcmp(c->exec_id, id, len) == 0)
            return c;
    }
    return NULL;
}

agent_command *agent_registry_next(const agent_registry *r, uint64_t below)
{
    for (agent_link *at = r->all.next; at != &r->all; at = at->next) {
        agent_command *c = AGENT_OF(at, agent_command, all);

        if (c->serial < below && c->state != AGENT_STARTING && c->state != AGENT_FAILED)
            return c;
    }
    return NULL;
}

agent_command *agent_registry_of(const agent_registry *r, pid_t supervisor)
{
    for (size_t i = 0; i < r->nlive; i++)
        if (r->live[i]->supervisor == supervisor && !r->live[i]->reaped)
            return r->live[i];
    return NULL;
}

/* Has everybody been told of a command of which nothing is kept? */
static bool all_told(const agent_command *c)
{
    for (agent_link *at = c->followers.next; at != &c->followers; at = at->next)
        if (!AGENT_OF(at, agent_follower, of_command)->exit_told)
            return false;
    return true;
}

/* Followers that know of the end had their numbers for signals only. */
static void free_told(agent_command *c)
{
    for (agent_link *at = c->followers.next, *next; at != &c->followers; at = next) {
        agent_follower *f = AGENT_OF(at, agent_follower, of_command);

        next = at->next;
        if (f->exit_told)
            agent_follower_free(f);
    }
}

/* Drops the oldest beyond the limit. One that is still being read is spared. */
static void drop_oldest(agent_registry *r)
{
    for (agent_link *at = r->settled.next, *next;
         at != &r->settled && r->nsettled > SBX_KEEP_COMMANDS; at = next) {
        agent_command *c = AGENT_OF(at, agent_command, settled);

        next = at->next;
        if (!agent_list_empty(&c->followers))
            continue;
        agent_command_free(c);
        r->nsettled--;
    }
}

/* @return whether it is no longer among the living. */
static bool bury(agent_registry *r, agent_command *c)
{
    if (!c->done)
        return false;
    if (agent_command_is_kept(c)) {
        agent_command_settle(c);
        free_told(c);
        agent_list_add(&r->settled, &c->settled);
        r->nsettled++;
        drop_oldest(r);
        return true;
    }
    if (!all_told(c))
        return false;
    agent_command_free(c);
    return true;
}

bool agent_registry_step(agent_registry *r)
{
    size_t n = r->nlive;
    bool more = false;

    for (size_t i = 0; i < n; i++)
        more |= agent_command_step(r->live[(r->first + i) % n]);
    r->first = n ? (r->first + 1) % n : 0;
    for (size_t i = 0; i < r->nlive;) {
        if (bury(r, r->live[i]))
            r->live[i] = r->live[--r->nlive];
        else
            i++;
    }
    return more;
}
