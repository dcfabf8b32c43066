/* Building frames. */
#include "tell.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

typedef struct record {
    unsigned char *data;
    size_t cap, len;
} record;

#define RECORD(size)                                                                               \
    (record)                                                                                       \
    {                                                                                              \
        .data = (unsigned char[size]){0}, .cap = (size)                                            \
    }

static void add_num(record *r, uint16_t tag, uint64_t value)
{
    r->len += sbx_field_put_num(r->data + r->len, r->cap - r->len, tag, value);
}

static void add_bytes(record *r, uint16_t tag, const void *data, size_t len)
{
    r->len += sbx_field_put(r->data + r->len, r->cap - r->len, tag, data, (uint32_t)len);
}

static void tell(const agent_follower *f, uint8_t type, const record *r)
{
    agent_channel_send(&f->peer->channel, type, f->req, r->data, r->len);
}

void agent_tell_started(const agent_follower *f)
{
    record r = RECORD(64);

    add_num(&r, SBX_T_PID, (uint64_t)f->command->pid);
    add_num(&r, SBX_T_FLAGS, f->command->flags);
    tell(f, SBX_F_STARTED, &r);
}

/* What has become of a command that is over. */
static void add_exit(record *r, const agent_command *c, uint16_t flags_tag)
{
    int status = c->end.status;
    uint64_t sig = WIFSIGNALED(status) ? (uint64_t)WTERMSIG(status) : 0;

    add_num(r, SBX_T_EXIT_CODE, sig ? 128 + sig : (uint64_t)WEXITSTATUS(status));
    add_num(r, SBX_T_SIGNAL, sig);
    add_num(r, flags_tag,
            (c->timed_out ? SBX_EXIT_TIMED_OUT : 0) | (c->oom ? SBX_EXIT_OOM : 0) |
                (c->truncated ? SBX_EXIT_TRUNCATED : 0) | (c->cpu_over ? SBX_EXIT_CPU : 0));
    add_num(r, SBX_T_DURATION_MS, c->ended_ms - c->started_ms);
    add_num(r, SBX_T_CPU_MS, c->end.cpu_ms);
    add_num(r, SBX_T_PEAK_KB, c->end.peak_kb);
    add_num(r, SBX_T_SEQ, c->kept.next);
}

void agent_tell_exit(const agent_follower *f)
{
    record r = RECORD(256);

    add_exit(&r, f->command, SBX_T_FLAGS);
    tell(f, SBX_F_EXIT, &r);
}

void agent_tell_taken(const agent_follower *f)
{
    record r = RECORD(64);

    add_num(&r, SBX_T_WINDOW, f->taken);
    add_num(&r, SBX_T_DROPPED, f->dropped);
    tell(f, SBX_F_TAKEN, &r);
}

void agent_tell_gap(const agent_follower *f)
{
    record r = RECORD(64);

    add_num(&r, SBX_T_SEQ, f->place.next);
    add_num(&r, SBX_T_TO_SEQ, f->command->kept.first - 1);
    tell(f, SBX_F_GAP, &r);
}

void agent_tell_chunk(const agent_follower *f, const agent_chunk *chunk)
{
    agent_channel *ch = &f->peer->channel;
    unsigned char *to = agent_channel_reserve(ch, AGENT_OUTPUT_HEAD + chunk->len);

    if (!to)
        return;
    to[0] = chunk->stream;
    for (int i = 0; i < 8; i++)
        to[1 + i] = (unsigned char)(chunk->number >> (8 * i));
    memcpy(to + AGENT_OUTPUT_HEAD, chunk->data, chunk->len);
    agent_channel_commit(ch, SBX_F_OUTPUT, f->req, AGENT_OUTPUT_HEAD + chunk->len);
}

void agent_tell_fail(agent_peer *p, uint32_t req, sbx_agent_fail code, const char *message)
{
    record r = RECORD(512);

    add_num(&r, SBX_T_CODE, (uint64_t)code);
    add_bytes(&r, SBX_T_MESSAGE, message, strlen(message));
    agent_channel_send(&p->channel, SBX_F_FAIL, req, r.data, r.len);
}

void agent_tell_failed(const agent_follower *f)
{
    const agent_note *why = &f->command->end;
    char message[160];

    (void)snprintf(message, sizeof message, "%s: %s",
                   why->code == SBX_AF_BAD_CWD ? "cannot enter the working directory"
                                               : "cannot start the command",
                   why->error ? strerror(why->error)
                              : "the process was lost before it became the command");
    agent_tell_fail(f->peer, f->req, (sbx_agent_fail)why->code, message);
}

/* Followers that get its output. */
static uint64_t count_readers(const agent_command *c)
{
    uint64_t n = 0;

    for (const agent_link *at = c->followers.next; at != &c->followers; at = at->next) {
        const agent_follower *f = AGENT_OF(at, agent_follower, of_command);

        n += !f->detached && !f->exit_told;
    }
    return n;
}

void agent_tell_entry(agent_peer *p, uint32_t req, const agent_command *c)
{
    record r = {.data = agent_channel_reserve(&p->channel, AGENT_ENTRY_BYTES),
                .cap = AGENT_ENTRY_BYTES};

    if (!r.data)
        return;
    add_bytes(&r, SBX_T_EXEC_ID, c->exec_id, c->exec_id_len);
    memcpy(r.data + r.len, c->args, c->args_len);
    r.len += c->args_len;
    add_num(&r, SBX_T_STARTED_MS, (uint64_t)c->started_wall_ms);
    add_num(&r, SBX_T_PID, (uint64_t)c->pid);
    add_num(&r, SBX_T_FLAGS, c->flags);
    add_num(&r, SBX_T_OLDEST_SEQ, c->kept.first);
    add_num(&r, SBX_T_NEXT_SEQ, c->kept.next);
    add_num(&r, SBX_T_COUNT, count_readers(c));
    if (c->state == AGENT_OVER)
        add_exit(&r, c, SBX_T_EXIT_FLAGS);
    agent_channel_commit(&p->channel, SBX_F_ENTRY, req, r.len);
}
