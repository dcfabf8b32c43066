/* Lets two peers send any frames to an agent with commands that have no processes, while those
 * write, end and are dropped, and checks the frames that come back: chunks in order, gaps that join
 * them, nothing behind EXIT.
 *
 * Input: a byte that says what happens, a byte that says to whom, and what that takes. */
#include "agent.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PEERS 2
#define REQS  8 /* numbers of a peer that frames use */

typedef struct seen {
    uint64_t next; /* chunk expected; 0: any */
    bool over;
} seen;

typedef struct world {
    agent a;
    agent_peer peers[PEERS];
    seen seen[PEERS][REQS];
    uint64_t made;
} world;

static const unsigned char token[SBX_PROTO_TOKEN_BYTES];

static void must(bool ok)
{
    if (!ok)
        abort();
}

/* --- what comes back --- */

static uint64_t number_of(const sbx_frame *f, uint16_t tag)
{
    sbx_fields fields;
    sbx_field at;
    int more;

    sbx_fields_init(&fields, f->payload, f->len);
    while ((more = sbx_fields_next(&fields, &at)) > 0)
        if (at.tag == tag)
            return at.num;
    must(more == 0);
    return 0;
}

static uint64_t chunk_number(const sbx_frame *f)
{
    uint64_t n = 0;

    must(f->len > 9 && f->len <= 9 + SBX_CHUNK_BYTES);
    for (int i = 8; i >= 1; i--)
        n = n << 8 | f->payload[i];
    return n;
}

static void check(seen *s, const sbx_frame *f)
{
    switch (f->type) {
    case SBX_F_STARTED:
        *s = (seen){0};
        break;
    case SBX_F_OUTPUT:
        must(!s->over && (s->next == 0 || chunk_number(f) == s->next));
        s->next = chunk_number(f) + 1;
        break;
    case SBX_F_GAP:
        must(!s->over && number_of(f, SBX_T_TO_SEQ) >= number_of(f, SBX_T_SEQ));
        must(s->next == 0 || number_of(f, SBX_T_SEQ) == s->next);
        s->next = number_of(f, SBX_T_TO_SEQ) + 1;
        break;
    case SBX_F_EXIT:
        must(!s->over && s->next <= number_of(f, SBX_T_SEQ));
        s->over = true;
        break;
    default:
        break;
    }
}

/* Reads all frames in a peer's channel, as if they had been written. */
static void read_back(world *w, int p)
{
    agent_channel *ch = &w->peers[p].channel;
    sbx_frame f;
    long took;

    while ((took = sbx_frame_take(ch->buf + ch->start, ch->end - ch->start,
                                  SBX_PROTO_MAX_FROM_AGENT, &f)) > 0) {
        if (f.req > 0 && f.req < REQS)
            check(&w->seen[p][f.req], &f);
        ch->start += (size_t)took;
    }
    must(took == 0 && ch->start == ch->end);
    ch->start = ch->end = 0;
}

/* --- what happens --- */

static void make_command(world *w, uint8_t kind)
{
    agent_command *c;

    if (agent_registry_full(&w->a.commands))
        return;
    c = calloc(1, sizeof *c);
    must(c != NULL);
    c->shared = &w->a.shared;
    c->state = kind % 4 ? AGENT_RUNNING : AGENT_STARTING;
    c->flags = kind & 0x80 ? SBX_EXEC_CHECK : 0;
    c->exec_id[0] = (char)('a' + w->made++ % 6);
    c->exec_id_len = 1;
    c->slave = c->notes.fd = c->in.source.fd = c->out[0].source.fd = c->out[1].source.fd = -1;
    c->supervisor = -1;
    c->args = malloc(1);
    must(c->args != NULL);
    agent_kept_init(&c->kept);
    agent_list_init(&c->all);
    agent_list_init(&c->id);
    agent_list_init(&c->settled);
    agent_list_init(&c->news);
    agent_list_init(&c->followers);
    if (agent_registry_find(&w->a.commands, c->exec_id, 1))
        agent_command_free(c);
    else
        agent_registry_add(&w->a.commands, c);
}

static void write_output(agent_command *c, uint8_t how)
{
    static const unsigned char text[SBX_CHUNK_BYTES];
    static const size_t sizes[] = {1, 7, 100, 5000, SBX_CHUNK_BYTES};
    size_t len = sizes[how % 5];

    if (c->state >= AGENT_OVER || agent_command_is_check(c))
        return;
    agent_keep_add(c->shared->keep, &c->kept, how & 0x80 ? 2 : 1, text, len);
    agent_command_wake(c);
}

static void advance(agent_command *c, uint8_t how)
{
    if (c->state == AGENT_STARTING && how % 3 == 0) {
        c->state = AGENT_FAILED;
        agent_command_wake(c);
    } else if (c->state == AGENT_STARTING) {
        c->state = AGENT_RUNNING;
        agent_command_wake(c);
    } else if (c->state == AGENT_RUNNING) {
        c->state = AGENT_ENDED;
    } else {
        c->gone = c->reaped = true;
    }
}

static void serve(world *w)
{
    (void)agent_registry_step(&w->a.commands);
    for (int p = 0; p < PEERS; p++) {
        (void)agent_peer_serve(&w->peers[p], &w->a.commands);
        read_back(w, p);
    }
}

/* A frame of a peer. Those that start processes or write files are left out. */
static void obey(world *w, int p, uint8_t type, uint8_t req, const uint8_t *data, size_t len)
{
    sbx_frame f = {.len = (uint32_t)len, .type = type, .req = req % REQS, .payload = data};

    if (type == SBX_F_EXEC || type == SBX_F_HELLO || type == SBX_F_STOP)
        return;
    if (!agent_obey(&w->a, &w->peers[p], &f))
        agent_peer_unbind(&w->peers[p]);
    if (type == SBX_F_LEAVE)
        serve(w);
}

static void attach(world *w, int p, uint8_t req, uint8_t how)
{
    unsigned char data[128];
    char name = (char)('a' + how % 6);
    size_t len = sbx_field_put(data, sizeof data, SBX_T_EXEC_ID, &name, 1);

    len += sbx_field_put_num(data + len, sizeof data - len, SBX_T_SEQ, how / 6 % 8);
    len += sbx_field_put_num(data + len, sizeof data - len, SBX_T_WINDOW, (uint64_t)how << 8);
    obey(w, p, SBX_F_ATTACH, req, data, len);
}

static agent_command *pick(world *w, uint8_t which)
{
    return w->a.commands.nlive ? w->a.commands.live[which % w->a.commands.nlive] : NULL;
}

/* @return how many bytes of the input it took */
static size_t happen(world *w, const uint8_t *data, size_t size)
{
    uint8_t what = data[0], who = data[1], how = data[2];
    agent_command *c = pick(w, who);
    size_t len = size - 4 < data[3] ? size - 4 : data[3];

    switch (what % 8) {
    case 0:
        make_command(w, how);
        break;
    case 1:
        if (c)
            write_output(c, how);
        break;
    case 2:
        if (c)
            advance(c, how);
        break;
    case 3:
        attach(w, who % PEERS, (uint8_t)(1 + who / PEERS % (REQS - 1)), how);
        break;
    case 4:
        serve(w);
        break;
    case 5:
        agent_peer_unbind(&w->peers[who % PEERS]);
        memset(w->seen[who % PEERS], 0, sizeof w->seen[0]);
        break;
    default:
        obey(w, who % PEERS, how % 20, who / PEERS, data + 4, len);
        return 4 + len;
    }
    return 4;
}

static void end_peer(agent_peer *p)
{
    agent_peer_unbind(p);
    agent_channel_done(&p->channel);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static world w;

    memset(&w, 0, sizeof w);
    must(agent_loop_init(&w.a.shared.loop) == 0);
    w.a.shared.journal = agent_journal_new();
    w.a.shared.keep = agent_keep_new();
    w.a.shared.oom.fd = -1;
    agent_list_init(&w.a.shared.news);
    agent_registry_init(&w.a.commands);
    for (int p = 0; p < PEERS; p++) {
        int in = open("/dev/null", O_RDONLY), out = open("/dev/null", O_WRONLY);

        must(agent_peer_init(&w.peers[p], &w.a.shared.loop, in, out, token, p == 0) == 0);
        agent_channel_greet(&w.peers[p].channel, 1);
        w.peers[p].channel.start = w.peers[p].channel.end = 0;
    }
    while (size >= 4) {
        size_t took = happen(&w, data, size);

        data += took;
        size -= took;
    }
    serve(&w);
    for (int p = 0; p < PEERS; p++)
        end_peer(&w.peers[p]);
    while (w.a.commands.nlive > 0)
        agent_command_free(w.a.commands.live[--w.a.commands.nlive]);
    while (!agent_list_empty(&w.a.commands.settled))
        agent_command_free(AGENT_OF(w.a.commands.settled.next, agent_command, settled));
    agent_keep_free(w.a.shared.keep);
    agent_journal_free(w.a.shared.journal);
    close(w.a.shared.loop.epoll);
    return 0;
}
