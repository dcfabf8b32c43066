/* Binding numbers to commands, and telling what is due. */
#include "follower.h"

#include <stdlib.h>

#include "tell.h"

static agent_link *bucket_of(const agent_peer *p, uint32_t req)
{
    return (agent_link *)&p->reqs[req % AGENT_REQ_BUCKETS];
}

agent_follower *agent_follower_find(const agent_peer *p, uint32_t req)
{
    agent_link *bucket = bucket_of(p, req);

    for (agent_link *at = bucket->next; at != bucket; at = at->next) {
        agent_follower *f = AGENT_OF(at, agent_follower, of_req);

        if (f->req == req)
            return f;
    }
    return NULL;
}

/* Forgets a number that is free but was still good for signals. @return whether there was one. */
static bool forget_one(agent_peer *p)
{
    for (size_t i = 0; i < AGENT_REQ_BUCKETS; i++) {
        agent_link *bucket = &p->reqs[i];

        for (agent_link *at = bucket->next; at != bucket; at = at->next) {
            agent_follower *f = AGENT_OF(at, agent_follower, of_req);

            if (f->exit_told) {
                agent_follower_free(f);
                return true;
            }
        }
    }
    return false;
}

agent_follower *agent_follower_new(agent_peer *p, agent_command *c, uint32_t req, uint64_t from,
                                   bool detached)
{
    agent_follower *f;

    if (p->nfollowers >= SBX_MAX_FOLLOWERS && !forget_one(p))
        return NULL;
    f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    f->peer = p;
    f->command = c;
    f->req = req;
    f->detached = detached;
    agent_keep_begin(c->shared->keep, &c->kept, &f->place, from);
    agent_list_add(&c->followers, &f->of_command);
    agent_list_add(bucket_of(p, req), &f->of_req);
    agent_list_init(&f->ready);
    p->nfollowers++;
    agent_follower_wake(f);
    return f;
}

void agent_follower_free(agent_follower *f)
{
    agent_list_remove(&f->of_command);
    agent_list_remove(&f->of_req);
    agent_list_remove(&f->ready);
    f->peer->nfollowers--;
    agent_command_left_by(f->command, f);
    free(f);
}

void agent_follower_wake(agent_follower *f)
{
    if (agent_list_empty(&f->ready))
        agent_list_add(&f->peer->ready, &f->ready);
}

void agent_follower_grant(agent_follower *f, uint64_t window)
{
    if (window > (uint64_t)AGENT_MAX_WINDOW)
        window = (uint64_t)AGENT_MAX_WINDOW;
    f->window += (int64_t)window;
    if (f->window > AGENT_MAX_WINDOW)
        f->window = AGENT_MAX_WINDOW;
    agent_follower_wake(f);
}

/* Does it have to be told of no more output? */
static bool has_all(const agent_follower *f)
{
    const agent_command *c = f->command;

    return f->detached || agent_command_is_check(c) || f->place.next >= c->kept.next;
}

static agent_served serve_output(agent_follower *f)
{
    agent_command *c = f->command;
    agent_chunk chunk;

    switch (agent_keep_look(c->shared->keep, &c->kept, &f->place, &chunk)) {
    case AGENT_LOOK_GAP:
        if (f->window <= 0 && (c->state != AGENT_OVER || c->kept.first < c->kept.next))
            return AGENT_SERVED_ALL;
        agent_tell_gap(f);
        agent_keep_skip(&c->kept, &f->place);
        return AGENT_SERVED_PART;
    case AGENT_LOOK_CHUNK:
        if (f->window <= 0)
            return AGENT_SERVED_ALL;
        if (!agent_channel_room(&f->peer->channel, AGENT_OUTPUT_HEAD + chunk.len))
            return AGENT_SERVED_STARVED;
        agent_tell_chunk(f, &chunk);
        f->window -= chunk.len;
        agent_keep_pass(c->shared->keep, &c->kept, &f->place);
        return AGENT_SERVED_PART;
    case AGENT_LOOK_NONE:
        break;
    }
    return AGENT_SERVED_ALL;
}

static void tell_small(agent_follower *f)
{
    if (!f->started_told) {
        agent_tell_started(f);
        f->started_told = true;
    }
    if (f->taken || f->dropped) {
        agent_tell_taken(f);
        f->taken = f->dropped = 0;
    }
}

agent_served agent_follower_serve(agent_follower *f)
{
    agent_command *c = f->command;

    if (!agent_channel_room(&f->peer->channel, 0))
        return AGENT_SERVED_STARVED;
    if (c->state == AGENT_FAILED) {
        agent_tell_failed(f);
        agent_follower_free(f);
        return AGENT_SERVED_ALL;
    }
    if (c->state == AGENT_STARTING || f->exit_told)
        return AGENT_SERVED_ALL;
    tell_small(f);
    if (!has_all(f)) {
        agent_served served = serve_output(f);

        if (served != AGENT_SERVED_ALL || !has_all(f))
            return served;
    }
    if (c->state == AGENT_OVER) {
        agent_tell_exit(f);
        f->exit_told = true;
        if (c->is_settled)
            agent_follower_free(f);
    }
    return AGENT_SERVED_ALL;
}
