/* What channel.c (connection, greeting, frames), command.c (commands), question.c, listing.c
 * and sample.c (questions) and old_output.c (agents of version 1) share. */
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

/* Output of an agent of version 1, whose frames are not numbered, and end within characters. */
typedef struct old_output {
    char carry[2][4]; /* a character that is not complete yet */
    size_t carried[2];
} old_output;

struct sbx_command {
    channel *ch;
    uint32_t req;
    const sbx_command_events *events; /* NULL: nobody wants to know any more */
    void *arg;
    int64_t granted; /* bytes of output the agent may still send */
    uint64_t chunk;  /* the last one that was told of */
    uint32_t flags;  /* of EXEC */
    bool detached, started;
    bool busy;      /* the owner was told that it runs */
    uint64_t given; /* bytes of input that the agent has not told of */
    char *input;    /* that it begins with; owned; NULL: none, or all was given */
    size_t input_len, input_at;
    bool input_ends;
    old_output old;
    UT_hash_handle hh;
};

/* A command that runs and counts as activity, whoever began it. */
typedef struct alive {
    char id[SBX_ID_LEN + 1];
    UT_hash_handle hh;
} alive;
#define MAX_ALIVE 4096 /* of one sandbox; what an agent tells beyond is not counted */

/* A question to the agent, under way: for commands, or for what the sandbox uses. */
typedef struct question {
    struct question *next;
    channel *ch;
    uint32_t req;
    const sbx_list_events *list; /* one of the two; neither: commands, told as news */
    sbx_sample_fn sample;
    void *arg;
    sbx_timer *late;
} question;

/* Somebody on a WORKER waits for a PONG. Freed by whoever lets go last. */
typedef struct drain {
    struct drain *next;
    pthread_mutex_t mu;
    pthread_cond_t over;
    int refs;  /* guarded by mu */
    bool done; /* guarded by mu */
    uint32_t req;
} drain;

/* One sandbox's connection. Owned by STREAM; `id`, `ready`, `version` and `env_version` are read by
 * others under mu. */
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
    bool adopted, bridge;
    bool used;    /* a bridge: since the last look for idle ones */
    bool retired; /* a bridge whose place was taken: only what was begun on it goes on */
    channel *next_retired;
    drain *drains;
    question *questions;
    alive *alive;       /* hash by id */
    int64_t pids;       /* the sandbox's limit */
    int version;        /* of the agent, once `ready` */
    bool marked;        /* the answer's marker has come */
    bool ready;         /* the greeting was answered */
    bool frozen;        /* by a pause */
    uint32_t log_again; /* until the PONG with this number, lines of the log are out of date */
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
    channel *all;     /* hash by id; changed by STREAM under mu, read by others under mu */
    channel *retired; /* STREAM */
    char *scratch;    /* STREAM: one receive buffer for all channels */
    sbx_timer *ping, *idle;
    int64_t bridge_idle_ms; /* written before the first channel is opened */
    bool closed;            /* STREAM */
};

channel *channel_find(sbx_channels *c, const char *id); /* STREAM */
/* The answered one of its holder; NULL if there is none, or it is a bridge. */
channel *channel_owned(sbx_channels *c, const char *id);
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
/* Integer fields of a record, by tag. False: malformed. */
bool frame_nums(const sbx_frame *f, uint64_t *nums, size_t count);
/* Add fields to a record. */
void frame_add(sbx_buf *b, uint16_t tag, const void *data, size_t len);
void frame_add_num(sbx_buf *b, uint16_t tag, uint64_t value);
/* EXIT's fields. False: out of range. */
bool command_exit_read(const channel *ch, const uint64_t *nums, uint64_t flags,
                       sbx_command_exit *ret);
#define EXIT_NUMS (SBX_T_EXIT_FLAGS + 1) /* how many of frame_nums() that wants */

question *question_find(channel *ch, uint32_t req); /* NULL: nobody waits for it any more */
/* It is answered; `u` of one for a sample; or failed. */
void question_end(question *q, const sbx_usage *u, const sbx_err *err);
void questions_fail(channel *ch, sbx_code why, const char *text);
/* FAIL came for a question: the agent has too many. False: it is no question's. */
bool question_refused(channel *ch, uint32_t req);
/* Have the agent tell of all commands, as news. */
void question_news(channel *ch);

/* Frames of lists. False: a protocol violation. */
bool listing_frame(channel *ch, const sbx_frame *f);
void listing_no_activity(channel *ch);

/* Output of an agent of version 1, told in whole characters. */
void old_output_take(sbx_command *c, bool is_stderr, const char *data, size_t len);
void old_output_end(sbx_command *c);
/* SAMPLE. False: malformed. */
bool sample_frame(channel *ch, const sbx_frame *f);

/* Bind a command that an earlier owner started, so that its output goes on into the log. */
sbx_command *command_adopt(channel *ch, const char *exec_id, size_t len);
/* An adopted command counts as activity. */
void command_is_busy(sbx_command *c);
/* A number for a request that no command has. */
uint32_t command_free_req(channel *ch);
/* Tell every command of a channel that it failed. */
void commands_fail(channel *ch, sbx_code why, const char *text);

#endif
