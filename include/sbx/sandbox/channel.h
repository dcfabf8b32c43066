/* Channels to the agents: one per sandbox whose lease this worker holds.
 *
 * A channel speaks core/agent_proto.h over the container's attached stdin and stdout. All of it
 * lives on STREAM; the functions marked "any thread" post there. What comes out of a sandbox is
 * hostile: frames are bounded and parsed strictly, and a violation ends the channel alone. */
#ifndef SBX_SANDBOX_CHANNEL_H
#define SBX_SANDBOX_CHANNEL_H

#include "sbx/core/agent_proto.h"
#include "sbx/core/error.h"
#include "sbx/core/id.h"
#include "sbx/core/json.h"
#include "sbx/engine/engine.h"
#include "sbx/run/stream.h"

/* Where the agent is in every sandbox; read-only. */
#define SBX_AGENT_DIR     "/.sbx"
#define SBX_AGENT_PROGRAM SBX_AGENT_DIR "/sbx-agent"

/* Why an agent of version 1 cannot do what was asked. */
#define SBX_OLD_AGENT                                                                              \
    "this sandbox was made by an older version: make a new one, or reset it hard (its files go)"

typedef struct sbx_channels sbx_channels;
typedef struct sbx_command sbx_command; /* one follower of a command on a channel; STREAM */
struct sbx_command_entry;

/* Callbacks of the whole set, on STREAM. */
typedef struct sbx_channel_events {
    void (*log)(void *arg, const char *sandbox, const sbx_log_entry *entries, size_t count);
    /* An answered channel ended without sbx_channels_close(). `broken`: the agent broke the
     * protocol, and would again, so there is no hurry to come back. */
    void (*lost)(void *arg, const char *sandbox, bool broken);
    /* The agent of an adopted sandbox answered, and has started no main process. */
    void (*no_main)(void *arg, const char *sandbox);
    /* A command other than the main process is known to run (+1), or no more (-1); of agents of
     * version 1 only those that an earlier owner started. */
    void (*busy)(void *arg, const char *sandbox, int by);
    /* A command has started or is over, whoever began it; when a channel is answered, also of each
     * that runs or was kept. The same news may come twice. */
    void (*news)(void *arg, const char *sandbox, const struct sbx_command_entry *e);
    void *arg;
} sbx_channel_events;

sbx_channels *sbx_channels_new(sbx_stream *stream);
/** End bridges that were not used for so long, or up to twice that; never without this call. Before
 * the first channel is opened. */
void sbx_channels_bridge_idle(sbx_channels *c, int64_t ms);
/** Before the first channel is opened. */
void sbx_channels_watch(sbx_channels *c, const sbx_channel_events *events);
/** Close all; the agents and their commands live on. After this STREAM may be freed. */
void sbx_channels_shutdown(sbx_channels *c);
void sbx_channels_free(sbx_channels *c); /* after STREAM has ended */

#define SBX_GREETING_MS 10000 /* for the agent's answer; then the channel ends */

typedef struct sbx_channel_hello {
    char sandbox[SBX_ID_LEN + 1];
    unsigned char token[SBX_PROTO_TOKEN_BYTES];
    uint64_t epoch;
    const char *image_user; /* borrowed during the call */
    uint64_t env_version;   /* of `env` */
    bool adopted;           /* the container runs already: see no_main */
    bool bridge;            /* another worker holds the sandbox; the connection leads to a bridge */
    int64_t lifetime_s, pids;
    uint64_t log_from; /* 0: all that the agent has */
} sbx_channel_hello;

typedef struct sbx_greeting sbx_greeting;

/** Begin a channel: takes the connection, sends the greeting. Any thread.
 * @param env  the sandbox's own variables for its commands; copied. */
sbx_greeting *sbx_channels_open(sbx_channels *c, const sbx_channel_hello *hello,
                                const sbx_pairs *env, sbx_engine_conn *conn);
/** Wait (WORKER) for the agent's answer, up to `ms`, and release the greeting. On failure the
 * channel is closed. @return 0, or -1 with ENGINE or TIMEOUT. */
int sbx_greeting_wait(sbx_greeting *g, int64_t ms, sbx_err *err) SBX_MUST_CHECK;
/** Release the greeting without waiting: the channel is there once the agent has answered, and ends
 * by itself if that takes longer than SBX_GREETING_MS. Any thread. */
void sbx_greeting_forget(sbx_greeting *g);

/** End a channel; its commands are told `why`. Any thread. */
void sbx_channels_close(sbx_channels *c, const char *sandbox, sbx_code why);

/** Is there an answered channel, or a bridge? Any thread. */
bool sbx_channels_has(sbx_channels *c, const char *sandbox);
/** The same without bridges. Any thread. */
bool sbx_channels_owns(sbx_channels *c, const char *sandbox);
/** Is there a channel, answered or not yet, that is no bridge? Any thread. */
bool sbx_channels_holds(sbx_channels *c, const char *sandbox);
size_t sbx_channels_count(sbx_channels *c); /* bridges count */
/** The version of the agent behind an answered channel; 0: there is none. Any thread. */
int sbx_channels_version(sbx_channels *c, const char *sandbox);

/** Have the agent number and journal a line of source "system". Any thread. */
void sbx_channels_note(sbx_channels *c, const char *sandbox, const char *text);

/** The same, and wait (WORKER) up to `ms` until the log up to that line was sent. Returns early
 * without a channel, or when it ends. */
void sbx_channels_note_wait(sbx_channels *c, const char *sandbox, const char *text, int64_t ms);

/** Have the agent end all processes (SIGTERM, after `grace_ms` SIGKILL) and then itself; the
 * channel then reads as lost. Any thread. */
void sbx_channels_stop(sbx_channels *c, const char *sandbox, int64_t grace_ms);

/** Which env do new commands get? False without an answered channel. Any thread. */
bool sbx_channels_env_version(sbx_channels *c, const char *sandbox, uint64_t *ret);
/** Give commands that start from now on another env. Takes the content of `env`. Any thread. */
void sbx_channels_env(sbx_channels *c, const char *sandbox, uint64_t version, sbx_pairs *env);

/** The sandbox is paused: its agent is asked nothing by itself, since what it does not read stays
 * in its pipe. Any thread. */
void sbx_channels_freeze(sbx_channels *c, const char *sandbox, bool frozen);

/** Everything up to `seq` is safe: the agent may forget it. STREAM. */
void sbx_channels_log_ack(sbx_channels *c, const char *sandbox, uint64_t seq);
/** Have the log sent again from number `from` on, as far as the agent has it; what comes before
 * that is dropped. Agents of older versions cannot. STREAM.
 * @param sandbox  NULL: all of this worker. */
void sbx_channels_log_again(sbx_channels *c, const char *sandbox, uint64_t from);

/* --- use --- */

#define SBX_SAMPLE_MS 1000 /* for the agent's answer */

/* On STREAM: what the sandbox uses, or NULL and why not: CONFLICT (no channel here, or an agent too
 * old), TIMEOUT, ENGINE (channel lost), GONE. */
typedef void (*sbx_sample_fn)(void *arg, const sbx_usage *u, const sbx_err *err);

/** Ask the agent what its sandbox uses; fn is called once. Any thread. */
void sbx_channels_sample(sbx_channels *c, const char *sandbox, sbx_sample_fn fn, void *arg);
/** Call fn for every sandbox that is held here and whose agent can be asked now, with its limit of
 * processes, and whether a command runs in it. STREAM. */
void sbx_channels_each(sbx_channels *c,
                       void (*fn)(void *arg, const char *sandbox, int64_t pids, bool busy),
                       void *arg);
/** The limit of processes was changed. Any thread. */
void sbx_channels_pids(sbx_channels *c, const char *sandbox, int64_t pids);

/* --- commands --- */

typedef struct sbx_command_exit {
    int exit_code, signal;
    bool timed_out, oom_killed, truncated, cpu_limit;
    bool told; /* its agent tells of it as news, too */
    int64_t duration_ms, cpu_ms;
    uint64_t peak_kb;
    uint64_t chunks; /* the number of its last chunk; 0: it had none */
} sbx_command_exit;

/* On STREAM. After `exit`, `failed` or `lost` no more calls come and the sbx_command is gone. */
typedef struct sbx_command_events {
    void (*started)(void *arg, sbx_command *c, int64_t pid);
    void (*output)(void *arg, sbx_command *c, bool is_stderr, const char *data, size_t len);
    void (*exit)(void *arg, const sbx_command_exit *e);
    /* INVALID (field set: cwd, user), CAPACITY, ENGINE (channel lost), GONE (sandbox deleted),
     * NOT_FOUND (attach: no such command), CONFLICT (no channel here) */
    void (*failed)(void *arg, const sbx_err *err);
    /* The rest may be NULL. */
    /* Of what was sent by sbx_command_stdin(), so much has left the agent's buffer, and so much was
     * thrown away, because nobody reads it any more. */
    void (*taken)(void *arg, sbx_command *c, uint64_t bytes, uint64_t dropped);
    /* These chunks of output are gone for good. */
    void (*gap)(void *arg, sbx_command *c, uint64_t from, uint64_t to);
    /* In place of `failed`: the channel ended, and the command may be attached to once there is
     * another. */
    void (*lost)(void *arg);
} sbx_command_events;

typedef struct sbx_command_spec {
    char exec_id[SBX_ID_LEN + 1];
    sbx_strs argv;                 /* moved */
    sbx_pairs env;                 /* moved; overrides the sandbox's */
    char *cwd, *user, *stdin_text; /* moved; may be NULL */
    size_t stdin_len;
    int64_t timeout_ms, max_output; /* 0: none */
    int64_t cpu_ms;                 /* of CPU time; 0: no limit */
    int64_t window;                 /* bytes granted at the start */
    unsigned cols, rows;            /* with SBX_EXEC_PTY */
    uint32_t flags; /* SBX_EXEC_*; with STDIN it stays open behind stdin_text, else that ends it */
} sbx_command_spec;
void sbx_command_spec_done(sbx_command_spec *s);
/** @param ret  written, all of it; owned by the caller: sbx_command_spec_done() it. */
void sbx_command_spec_copy(const sbx_command_spec *s, sbx_command_spec *ret);

/** Start a command. Any thread; takes the content of `spec`. `events` must outlive the program. */
void sbx_channels_exec(sbx_channels *c, const char *sandbox, sbx_command_spec *spec,
                       const sbx_command_events *events, void *arg);

/** Follow a command that was started by whomever. Any thread. The agent must have version 2.
 * @param from  the first chunk wanted; 0: the first one. @param window  bytes granted at the start.
 * @param detached  no output; `exit` still comes. */
void sbx_channels_attach(sbx_channels *c, const char *sandbox, const char *exec_id, uint64_t from,
                         int64_t window, bool detached, const sbx_command_events *events,
                         void *arg);

/* STREAM, between the start and exit, failed or lost. */
void sbx_command_grant(sbx_command *c, int64_t bytes); /* flow control: so many more */
void sbx_command_kill(sbx_command *c);                 /* the whole tree */
void sbx_command_detach(sbx_command *c);               /* no more output events */
void sbx_command_signal(sbx_command *c, int signal, bool tree);
void sbx_command_resize(sbx_command *c, unsigned cols, unsigned rows);
/** No more events; the sbx_command is gone. What it began goes on. */
void sbx_command_leave(sbx_command *c);
/** The number of the chunk that `output` is being told of. */
uint64_t sbx_command_chunk(const sbx_command *c);
/** SBX_EXEC_* that it was begun with, once it has started. */
uint32_t sbx_command_flags(const sbx_command *c);

/** How much input may be given now; `taken` tells of more. */
size_t sbx_command_stdin_room(const sbx_command *c);
/** Give it input, at most so much, and more than nothing. */
void sbx_command_stdin(sbx_command *c, const void *data, size_t len);
/** End of the input, behind what was given. */
void sbx_command_stdin_end(sbx_command *c);

/* --- lists --- */

/* A command as its agent tells of it. Borrowed during the call. */
typedef struct sbx_command_entry {
    char exec_id[SBX_ID_LEN + 1];
    const char *command; /* JSON array text, at most SBX_MAX_COMMAND_TEXT bytes; cut where long */
    int64_t started_ms;  /* wall clock */
    int64_t pid;
    uint32_t flags;                /* SBX_EXEC_* */
    uint64_t oldest_seq, next_seq; /* chunks that are kept, and the one to come */
    uint64_t followers;            /* that get output, if `followers_known` */
    bool followers_known;
    bool fresh; /* news: it has just happened */
    bool over;
    sbx_command_exit exit; /* if over */
} sbx_command_entry;

typedef struct sbx_list_events { /* on STREAM */
    void (*entry)(void *arg, const sbx_command_entry *e);
    /* Once, the last call. `err` NULL: the list is complete; CONFLICT (no channel here, or an agent
     * of version 1), ENGINE (channel lost), GONE, TIMEOUT. */
    void (*over)(void *arg, const sbx_err *err);
} sbx_list_events;

/** Ask for the commands that run or are kept, the last started first. Any thread.
 * @param exec_id  only that one; NULL: all. */
void sbx_channels_list(sbx_channels *c, const char *sandbox, const char *exec_id,
                       const sbx_list_events *events, void *arg);

#endif
