/* Serving followers and LISTs. */
#include "peer.h"

#include <stdlib.h>
#include <string.h>

#include "registry.h"
#include "tell.h"

/* A LIST that is being answered. */
typedef struct listing {
    agent_link link;
    uint32_t req;
    uint64_t below; /* all commands from this number on have been told */
    uint64_t left;  /* how many more are wanted */
} listing;

int agent_peer_init(agent_peer *p, agent_loop *l, int in_fd, int out_fd,
                    const unsigned char token[SBX_PROTO_TOKEN_BYTES], bool owner)
{
    memset(p, 0, sizeof *p);
    p->owner = owner;
    for (size_t i = 0; i < AGENT_REQ_BUCKETS; i++)
        agent_list_init(&p->reqs[i]);
    agent_list_init(&p->ready);
    agent_list_init(&p->listings);
    return agent_channel_init(&p->channel, l, in_fd, out_fd, token, owner);
}

static void end_listing(agent_peer *p, listing *l)
{
    agent_list_remove(&l->link);
    p->nlistings--;
    free(l);
}

void agent_peer_unbind(agent_peer *p)
{
    for (size_t i = 0; i < AGENT_REQ_BUCKETS; i++)
        while (!agent_list_empty(&p->reqs[i]))
            agent_follower_free(AGENT_OF(p->reqs[i].next, agent_follower, of_req));
    while (!agent_list_empty(&p->listings))
        end_listing(p, AGENT_OF(p->listings.next, listing, link));
}

void agent_peer_done(agent_peer *p)
{
    agent_peer_unbind(p);
    agent_channel_done(&p->channel);
}

bool agent_peer_is_told(const agent_peer *p)
{
    for (size_t i = 0; i < AGENT_REQ_BUCKETS; i++)
        for (agent_link *at = p->reqs[i].next; at != &p->reqs[i]; at = at->next)
            if (!AGENT_OF(at, agent_follower, of_req)->exit_told)
                return false;
    return true;
}

bool agent_peer_list(agent_peer *p, uint32_t req, uint64_t count)
{
    listing *l = p->nlistings < AGENT_MAX_LISTINGS ? calloc(1, sizeof *l) : NULL;

    if (!l)
        return false;
    l->req = req;
    l->below = UINT64_MAX;
    l->left = count ? count : UINT64_MAX;
    agent_list_add(&p->listings, &l->link);
    p->nlistings++;
    return true;
}

static void serve_listings(agent_peer *p, const agent_registry *commands)
{
    while (!agent_list_empty(&p->listings) && agent_channel_room(&p->channel, AGENT_ENTRY_BYTES)) {
        listing *l = AGENT_OF(p->listings.next, listing, link);
        const agent_command *c = l->left > 0 ? agent_registry_next(commands, l->below) : NULL;

        if (!c) {
            agent_channel_send(&p->channel, SBX_F_LISTED, l->req, NULL, 0);
            end_listing(p, l);
            continue;
        }
        agent_tell_entry(p, l->req, c);
        l->below = c->serial;
        l->left--;
    }
}

bool agent_peer_serve(agent_peer *p, const agent_registry *commands)
{
    bool more = false;

    while (!agent_list_empty(&p->ready)) {
        agent_follower *f = AGENT_OF(p->ready.next, agent_follower, ready);
        const agent_command *c = f->command;
        agent_served served;

        agent_list_remove(&f->ready);
        served = agent_follower_serve(f);
        more |= c->held;
        if (served == AGENT_SERVED_STARVED) {
            agent_list_add_first(&p->ready, &f->ready);
            break;
        }
        if (served == AGENT_SERVED_PART)
            agent_list_add(&p->ready, &f->ready);
    }
    serve_listings(p, commands);
    return more;
}
