/* What channel.c (connection, greeting, frames) and command.c (commands) share. */
#ifndef SBX_SANDBOX_CHANNEL_PRIV_H
#define SBX_SANDBOX_CHANNEL_PRIV_H

#include "sbx/core/buf.h"
#include "sbx/core/limits.h"
#include "sbx/sandbox/channel.h"
#include <pthread.h>
#include <uthash.h>

#define MAX_OUT_BYTES (8 * MIB) /* unsent frames of one channel */

typedef struct channel channel;

struct sbx_command {
    channel *ch;
    uint32_t req;
    const sbx_command_events *events; /* NULL: a command of an earlier owner, only logged */
    void *arg;
    int64_t granted; /* bytes of output the agent may still send */
    bool detached, started;
    UT_hash_handle hh;
};

/* One sandbox's connection. Owned by STREAM; `id` and `ready` are read by others under mu. */
struct channel {
    char id[SBX_ID_LEN + 1];
    sbx_channels *set;
    sbx_engine_conn *conn;
    sbx_watch *watch;
    bool want_write;
    uint64_t epoch;
    unsigned char token[SBX_PROTO_TOKEN_BYTES];
    sbx_pairs env;
    bool marked; /* the answer's marker has come */
    bool ready;  /* the greeting was answered */
    sbx_buf in, out;
    sbx_greeting *greeting; /* until answered */
    sbx_timer *late;        /* until answered: ends a channel whose agent is silent */
    sbx_timer *again;       /* more may be there that the socket does not tell of */
    sbx_command *commands;  /* hash by req */
    uint32_t next_req;
    UT_hash_handle hh;
};

struct sbx_channels {
    sbx_stream *stream;
    sbx_channel_events events;
    pthread_mutex_t mu;
    channel *all;  /* hash by id; changed by STREAM under mu, read by others under mu */
    char *scratch; /* STREAM: one receive buffer for all channels */
    sbx_timer *ping;
    bool closed; /* STREAM */
};

channel *channel_find(sbx_channels *c, const char *id); /* STREAM */
/* Queue a frame. False if the channel's unsent bytes are at their limit. */
bool channel_send(channel *ch, uint8_t type, uint32_t req, const void *payload, size_t len);
void channel_send_num(channel *ch, uint8_t type, uint32_t req, uint16_t tag, uint64_t value);
void channel_flush(channel *ch);

/* Frames that belong to a command. False: a protocol violation. */
bool command_frame(channel *ch, const sbx_frame *f);
/* Bind a command that an earlier owner started, so that its output goes on into the log. */
void command_adopt(channel *ch, const char *exec_id, size_t len);
/* Tell every command of a channel that it failed. */
void commands_fail(channel *ch, sbx_code why, const char *text);

#endif
