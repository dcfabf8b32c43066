/* What channel.c (connection, greeting, frames) and command.c (commands) share. */
#ifndef SBX_SANDBOX_CHANNEL_PRIV_H
#define SBX_SANDBOX_CHANNEL_PRIV_H

#include "sbx/core/buf.h"
#include "sbx/core/limits.h"
#include "sbx/sandbox/channel.h"
#include <pthread.h>
#include <time.h>
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
    bool busy; /* the owner was told that it runs */
    UT_hash_handle hh;
};

/* Somebody on a WORKER waits for a PONG. Freed by whoever lets go last. */
typedef struct drain {
    struct drain *next;
    pthread_mutex_t mu;
    pthread_cond_t over;
    int refs;  /* guarded by mu */
    bool done; /* guarded by mu */
    uint32_t req;
} drain;

/* One sandbox's connection. Owned by STREAM; `id`, `ready` and `env_version` are read by others
 * under mu. */
struct channel {
    char id[SBX_ID_LEN + 1];
    sbx_channels *set;
    sbx_engine_conn *conn;
    sbx_watch *watch;
    bool want_write;
    uint64_t epoch;
    unsigned char token[SBX_PROTO_TOKEN_BYTES];
    sbx_pairs env;
    uint64_t env_version;
    bool adopted;
    drain *drains;
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
/* For waits of a WORKER: a time on the monotonic clock. */
struct timespec channel_in_ms(int64_t ms);
/* The PONG with `req` came; 0: none will come any more. */
void channel_drains_over(channel *ch, uint32_t req);

/* Frames that belong to a command. False: a protocol violation. */
bool command_frame(channel *ch, const sbx_frame *f);
/* Bind a command that an earlier owner started, so that its output goes on into the log. */
sbx_command *command_adopt(channel *ch, const char *exec_id, size_t len);
/* An adopted command counts as activity. */
void command_is_busy(sbx_command *c);
/* A number for a request that no command has. */
uint32_t command_free_req(channel *ch);
/* Tell every command of a channel that it failed. */
void commands_fail(channel *ch, sbx_code why, const char *text);

#endif
