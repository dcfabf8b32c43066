/* The protocol between a sandboxd worker (the owner) and sbx-agent (PID 1 of a sandbox).
 *
 * Transport: one byte stream each way (the container's stdin and stdout). Little endian.
 *
 * Frame: a 12-byte header, then `length` bytes of payload.
 *
 *     u32 length | u8 type | u8 zero | u16 epoch (low bits) | u32 req
 *
 * `req` names the command that a frame belongs to; 0 for the channel itself. The agent drops
 * frames whose epoch is not that of the last greeting, so that a stale owner is harmless.
 *
 * Payloads that are records are sequences of fields: u16 tag | u32 length | bytes; integers are
 * fields of exactly 8 bytes. Unknown tags are skipped, wrong lengths end the channel.
 *
 * Greeting and resynchronisation: either side may have left half a frame in the pipe. The owner
 * therefore begins with a marker (magic + the sandbox's secret token) and HELLO; the agent looks
 * for the marker in all it reads, forgets what stood before it, and answers with the marker, the
 * epoch as u64, and WELCOME. The agent sends nothing before the first greeting, and after a new
 * greeting nothing but what the new owner asks for, the log, and news of commands.
 *
 * A greeting with an epoch below the current one is ignored. A greeting unbinds every `req`.
 *
 * Peers: the owner has the container's stdin and stdout. Other workers reach the agent through
 * `sbx-agent connect`, which carries its own stdin and stdout to the agent's socket; they greet in
 * the same way, with an epoch of their own choice, and are bridges. Each peer has its own `req`s
 * and its own channel. A bridge gets no log and no news, and LOG_ACK, SYSLOG, STOP and an EXEC with
 * SBX_EXEC_MAIN end it. What a peer has begun goes on when the peer goes, but for SBX_EXEC_CHECK.
 * Who connects must be root and come from outside, as an exec of the engine does: what a command of
 * the sandbox starts is turned away, whoever it is. A greeting must come within two seconds, and
 * the SBX_MAX_BRIDGES + 1st is refused by closing the connection.
 *
 * Followers: a `req` is bound to a command by EXEC, which starts it, or by ATTACH. A command has
 * any number of followers, of any peers. A `req` is free again after FAIL, EXIT, LEAVE and a
 * greeting. KILL, SIGNAL, STDIN and RESIZE reach the command from any of its followers. After EXIT,
 * and until the `req` is used again, KILL and SIGNAL reach what the command left running.
 *
 * Output of a command is kept as numbered chunks: from 1, stdout and stderr in one row, in the
 * order in which they were read. Of all commands together SBX_KEEP_OUTPUT_BYTES are kept, with what
 * it takes to find them; the oldest chunks go first, also of commands that run; a follower that
 * wants one that is gone is told GAP. A chunk that was sent to anybody, or followed by another,
 * never changes: every follower, now or later, gets the same ones. A chunk ends within a UTF-8
 * character only if the bytes are not one or the stream ends with them. The last SBX_KEEP_COMMANDS
 * commands that are over and of which no process is left are kept.
 *
 * Flow control: OUTPUT is sent to a follower while its window, the sum of its WINDOWs less what it
 * was sent, is above zero; the last chunk may exceed it. A command with SBX_EXEC_PACED waits, with
 * its output in its pipes, while SBX_PACE_BYTES wait for the follower that began it, until that
 * follower goes or DETACHes. All others run at their own speed, whoever follows. LOG never has more
 * than SBX_LOG_UNACKED_BYTES unacknowledged; the journal behind it drops its oldest entries beyond
 * SBX_JOURNAL_MAX_BYTES.
 *
 * The agent holds at most SBX_STDIN_MAX_BYTES of STDIN per command and drops what exceeds it, or
 * comes when nobody reads any more. Of each follower's STDIN frames it tells by TAKEN, at the
 * latest for every SBX_STDIN_TAKEN_BYTES and whenever its buffer becomes empty, what left the
 * buffer and what was dropped; a follower keeps at most SBX_STDIN_TAKEN_BYTES outstanding.
 *
 * Versions: 2 does not look at LOG_FROM in LOG_ACK. 1 knows no bridges, no chunks (the number in
 * OUTPUT is the offset in its stream, only the follower that began a command gets it, and ATTACH
 * resumes from now on), no LEAVE, LIST, STATS, RESIZE, ENTRY, GAP, and ends the channel that sends
 * these; PTY, PACED and CPU_MS are ignored.
 *
 * Both programs compile this header and src/core/agent_proto.c, and nothing else of each other.
 */
#ifndef SBX_CORE_AGENT_PROTO_H
#define SBX_CORE_AGENT_PROTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SBX_PROTO_VERSION        3
#define SBX_PROTO_HEADER_BYTES   12
#define SBX_PROTO_MAGIC          "\0SBXSYN\1"
#define SBX_PROTO_MAGIC_BYTES    8
#define SBX_PROTO_TOKEN_BYTES    16
#define SBX_PROTO_MARKER_BYTES   (SBX_PROTO_MAGIC_BYTES + SBX_PROTO_TOKEN_BYTES)
#define SBX_PROTO_TOKEN_ENV      "SBX_AGENT_TOKEN" /* 32 hex digits, removed from every command */
#define SBX_PROTO_MACHINE_ENV    "SBX_AGENT_MACHINE_ID" /* the same: for /etc/machine-id */
#define SBX_PROTO_MAX_TO_AGENT   (1024 * 1024)          /* payload bytes, owner to agent */
#define SBX_PROTO_MAX_FROM_AGENT (64 * 1024)            /* payload bytes, agent to owner */
#define SBX_LOG_UNACKED_BYTES    (256 * 1024)
#define SBX_JOURNAL_MAX_BYTES    (8 * 1024 * 1024) /* unread entries */
#define SBX_JOURNAL_KEEP_BYTES   (1024 * 1024)     /* acknowledged entries kept for a new owner */
#define SBX_JOURNAL_KEEP_LINES   1000
#define SBX_LOG_LINE_BYTES       (16 * 1024) /* longer lines are split */
#define SBX_STDIN_MAX_BYTES      (1024 * 1024)
#define SBX_STDIN_TAKEN_BYTES    (256 * 1024)
#define SBX_LOG_ID_BYTES         32          /* longest exec id */
#define SBX_PROTO_SOCKET         "sbx-agent" /* abstract name, without the zero byte before it */
#define SBX_MAX_BRIDGES          8
#define SBX_MAX_FOLLOWERS        1024 /* of one peer */
#define SBX_CHUNK_BYTES          (32 * 1024)
#define SBX_PACE_BYTES           (64 * 1024)
#define SBX_KEEP_OUTPUT_BYTES    (16 * 1024 * 1024)
#define SBX_KEEP_COMMANDS        1000
#define SBX_ENTRY_ARG_BYTES      4096 /* of a command's arguments in ENTRY */

typedef enum sbx_frame_type {
    /* owner to agent */
    SBX_F_HELLO = 1, /* fields EPOCH, LOG_FROM, USER (the image's), LIFETIME_S, PIDS */
    SBX_F_EXEC,   /* fields EXEC_ID, ARG+, ENV*, CWD, USER, TIMEOUT_MS, MAX_OUTPUT, WINDOW, FLAGS */
    SBX_F_STDIN,  /* raw bytes; an empty payload closes the command's stdin (PTY: end of file) */
    SBX_F_WINDOW, /* field WINDOW: so many more bytes of OUTPUT may be sent */
    SBX_F_SIGNAL, /* fields SIGNAL, FLAGS (SBX_SIG_TREE) */
    SBX_F_KILL,   /* kill the whole process tree of the command */
    SBX_F_DETACH, /* no more OUTPUT to this follower; EXIT still comes */
    SBX_F_LOG_ACK, /* fields SEQ: everything up to SEQ is safe with the owner; LOG_FROM: send again
                      from there, as far as the journal has it */
    SBX_F_PING,    /* any payload up to 64 bytes; returned in PONG */
    SBX_F_SYSLOG,  /* raw bytes: the agent numbers and journals a line of source "system"; with a
                      `req`: PONG with it follows when the log up to that line was sent */
    SBX_F_ATTACH,  /* fields EXEC_ID, SEQ (first chunk wanted; 0: 1), WINDOW, FLAGS (DETACHED):
                      follow  a command; answered by STARTED, then chunks and EXIT, or by FAIL */
    SBX_F_STOP,    /* field TIMEOUT_MS: SIGTERM to every process, SIGKILL to those left after so
                      long; when all exits and the log are with the owner, the agent ends */
    SBX_F_LEAVE,   /* forget this `req`; what was sent before may still come */
    SBX_F_LIST,   /* fields COUNT, EXEC_ID (only that one): ENTRY for each of at most COUNT commands
                     (0: all), running and kept, the last started first; then LISTED */
    SBX_F_STATS,  /* answered by SAMPLE */
    SBX_F_RESIZE, /* fields COLS, ROWS: of a terminal */
    /* agent to owner */
    SBX_F_WELCOME = 64, /* fields VERSION, EPOCH, NEXT_SEQ, OLDEST_SEQ, MAIN, EXEC_ID* (those
                           running; behind that of the main process stands FLAGS) */
    SBX_F_STARTED,      /* fields PID, FLAGS (those of EXEC) */
    SBX_F_OUTPUT,       /* u8 stream (1 stdout, 2 stderr) | u64 number of the chunk | bytes; with
                           SBX_EXEC_CHECK the number is the offset in the stream */
    SBX_F_EXIT, /* fields EXIT_CODE, SIGNAL (0: none), FLAGS, DURATION_MS, CPU_MS, PEAK_KB, SEQ (the
                   number after the last chunk) */
    SBX_F_FAIL, /* fields CODE (sbx_agent_fail), MESSAGE: the command did not start */
    SBX_F_LOG,  /* entries, see sbx_log_entry */
    SBX_F_PONG,
    SBX_F_TAKEN,  /* fields WINDOW (bytes of STDIN that left the agent's buffer since the last
                     TAKEN), DROPPED (bytes of STDIN thrown away) */
    SBX_F_GAP,    /* fields SEQ, TO_SEQ: these chunks are gone */
    SBX_F_ENTRY,  /* a command: fields EXEC_ID, ARG* (cut at SBX_ENTRY_ARG_BYTES), STARTED_MS, PID,
                     FLAGS (those of EXEC), OLDEST_SEQ (chunk kept), NEXT_SEQ, COUNT (followers that
                     get output); when it is over those of EXIT, its FLAGS as EXIT_FLAGS. With `req`
                     0, to the owner alone: news, when a command has started and when it is over
                     (not of SBX_EXEC_CHECK) */
    SBX_F_LISTED, /* the end of a LIST */
    SBX_F_SAMPLE, /* fields CPU_US, MEMORY, MEMORY_PEAK, MEMORY_LIMIT, PROCESSES, OOM_KILLS, DISK,
                     DISK_FREE, NET_RX, NET_TX, and STARTED_MS of the agent; what cannot be known is
                     left out */
} sbx_frame_type;

typedef enum sbx_field_tag {
    SBX_T_EPOCH = 1,
    SBX_T_LOG_FROM,   /* first sequence number wanted; 0: all that the journal has */
    SBX_T_USER,       /* "name", "uid", "name:group", "uid:gid"; empty: the default */
    SBX_T_LIFETIME_S, /* no greeting for so long: kill everything and exit; 0: never */
    SBX_T_PIDS,       /* the sandbox's own limit, without the engine's reserve; 0: none */
    SBX_T_EXEC_ID,
    SBX_T_ARG,
    SBX_T_ENV, /* NAME=VALUE; overrides the image's environment */
    SBX_T_CWD,
    SBX_T_TIMEOUT_MS, /* 0: none */
    SBX_T_MAX_OUTPUT, /* stdout and stderr together; more is dropped, the command goes on; 0: no
                         limit */
    SBX_T_WINDOW,
    SBX_T_FLAGS,
    SBX_T_SIGNAL,
    SBX_T_SEQ,
    SBX_T_VERSION,
    SBX_T_NEXT_SEQ,
    SBX_T_OLDEST_SEQ,
    SBX_T_PID,
    SBX_T_EXIT_CODE,
    SBX_T_DURATION_MS,
    SBX_T_CPU_MS,
    SBX_T_PEAK_KB,
    SBX_T_CODE,
    SBX_T_MESSAGE,
    SBX_T_DROPPED,
    SBX_T_MAIN, /* 1: this agent has started a main process */
    SBX_T_COUNT,
    SBX_T_TO_SEQ,
    SBX_T_COLS,       /* 1..1000 */
    SBX_T_ROWS,       /* 1..1000 */
    SBX_T_STARTED_MS, /* wall clock, milliseconds since 1970 */
    SBX_T_EXIT_FLAGS,
    SBX_T_CPU_US, /* since the agent's start, of the whole sandbox */
    SBX_T_MEMORY, /* bytes, without the page cache that can be given back */
    SBX_T_MEMORY_PEAK,
    SBX_T_MEMORY_LIMIT,
    SBX_T_PROCESSES, /* threads count, as for the limit; without the agent's own */
    SBX_T_OOM_KILLS,
    SBX_T_DISK, /* bytes of files that the sandbox has written */
    SBX_T_DISK_FREE,
    SBX_T_NET_RX,
    SBX_T_NET_TX,
} sbx_field_tag;

/* FLAGS of EXEC. CPU_MS, if not 0, is the CPU time after which the whole tree is killed. */
#define SBX_EXEC_STDIN    1u /* STDIN frames follow; without it stdin is /dev/null */
#define SBX_EXEC_DETACHED 2u /* no OUTPUT to the follower that begins it; EXIT comes */
/* the sandbox's main process, at most one in the life of an agent: logged with source "main" */
#define SBX_EXEC_MAIN 4u
/* Work of the server, not of the user: not journalled, not kept, not listed; read only as fast as
 * its one follower takes it; its tree ends with it, with its follower, and with a new greeting. */
#define SBX_EXEC_CHECK 8u
#define SBX_EXEC_PTY   16u /* on a terminal of COLS and ROWS; output is stdout, not journalled */
#define SBX_EXEC_PACED 32u
/* Its first follower waits for the end: STARTED and the news of the start may come with what is
 * told next, some milliseconds later. */
#define SBX_EXEC_PATIENT 64u
#define SBX_EXEC_RUN     128u /* code of a run: logged with source "run" */
/* The keeper of a context (src/agentd/context.h), of which SBX_MAX_CONTEXTS run at once: it waits
 * for code, which is no activity of the sandbox. */
#define SBX_EXEC_CONTEXT 256u
/* FLAGS of SIGNAL */
#define SBX_SIG_TREE 1u
/* FLAGS of EXIT */
#define SBX_EXIT_TIMED_OUT 1u
#define SBX_EXIT_OOM       2u
#define SBX_EXIT_TRUNCATED 4u
#define SBX_EXIT_CPU       8u /* killed at the end of its CPU time */

/* Contexts. A run in one is the command `sbx-agent cell ID run FILE MS`, which ends with the exit
 * code of the code. Where that has none it dies of a signal, which no code can make it do by what
 * it writes or returns. */
#define SBX_MAX_CONTEXTS        20
#define SBX_CONTEXT_START_MS    20000 /* for the interpreter to be ready */
#define SBX_CONTEXT_GRACE_MS    3000  /* from the interrupt of a cell to the interpreter's end */
#define SBX_CELL_GONE           1     /* HUP: there is no such context, or it ended meanwhile */
#define SBX_CELL_BUSY           10    /* USR1: others were before it until its time was over */
#define SBX_CELL_LOST           12    /* USR2: the interpreter ended, and with it the state */
#define SBX_CELL_TIMED_OUT      14    /* ALRM: interrupted, the state is kept */
#define SBX_CELL_TIMED_OUT_LOST 26    /* VTALRM: killed */
/* Exit codes of `sbx-agent cell ID wait` and `restart`, which end when the interpreter is ready. */
#define SBX_CELL_NO_CONTEXT 3
#define SBX_CELL_UNUSABLE   4   /* the interpreter ended at once */
#define SBX_CELL_NO_TYPES   65  /* it cannot run TypeScript */
#define SBX_CELL_NO_PROGRAM 127 /* there is none */

typedef enum sbx_agent_fail {
    SBX_AF_BAD_CWD = 1, /* the working directory does not exist or is not one */
    SBX_AF_BAD_USER,    /* no such user or group */
    SBX_AF_BAD_REQUEST, /* no argv, duplicate req, malformed fields */
    SBX_AF_BUSY,        /* the agent's own limit of commands at once */
    SBX_AF_SPAWN,       /* fork or the pipes failed; MESSAGE has errno's text */
    SBX_AF_NOT_FOUND,   /* ATTACH: no such command */
    SBX_AF_CONTEXTS,    /* SBX_MAX_CONTEXTS run */
} sbx_agent_fail;

typedef enum sbx_log_stream { SBX_LOG_STDOUT, SBX_LOG_STDERR, SBX_LOG_SYSTEM } sbx_log_stream;
typedef enum sbx_log_source {
    SBX_SRC_MAIN,
    SBX_SRC_EXEC,
    SBX_SRC_RUN,
    SBX_SRC_SYSTEM
} sbx_log_source;

/* One journal line. On the wire:
 * u64 seq | i64 ts_ms | u8 stream | u8 source | u8 id_len | id | u32 len | data */
typedef struct sbx_log_entry {
    uint64_t seq;  /* from 1, without gaps unless the journal overflowed */
    int64_t ts_ms; /* wall clock, milliseconds since 1970 */
    uint8_t stream, source;
    uint8_t exec_id_len; /* 0..SBX_LOG_ID_BYTES */
    const char *exec_id; /* borrowed from the frame, not terminated */
    uint32_t len;        /* 0..SBX_LOG_LINE_BYTES; without the newline */
    const char *data;    /* borrowed from the frame, not terminated */
} sbx_log_entry;

typedef struct sbx_frame {
    uint32_t len;
    uint8_t type;
    uint16_t epoch;
    uint32_t req;
    const unsigned char *payload; /* borrowed from the buffer that was parsed */
} sbx_frame;

/** Write a header of SBX_PROTO_HEADER_BYTES to `out`. */
void sbx_frame_put_header(unsigned char *out, uint32_t len, uint8_t type, uint16_t epoch,
                          uint32_t req);

/** Take one frame from the front of a buffer.
 *
 * @param max  the largest payload that this direction allows.
 * @return bytes taken (header and payload), 0 if the frame is not complete yet, -1 if the bytes
 *         cannot be a frame (payload over `max`, reserved byte set): the channel must end.
 */
long sbx_frame_take(const unsigned char *data, size_t len, uint32_t max, sbx_frame *ret);

/* Walks the fields of a record. */
typedef struct sbx_fields {
    const unsigned char *at;
    size_t left;
} sbx_fields;

typedef struct sbx_field {
    uint16_t tag;
    uint32_t len;
    const char *data; /* borrowed, not terminated */
    uint64_t num;     /* the integer if len is 8, else 0 */
} sbx_field;

void sbx_fields_init(sbx_fields *f, const void *payload, size_t len);

/** @return 1 and the next field, 0 at the end, -1 if the record is malformed. */
int sbx_fields_next(sbx_fields *f, sbx_field *ret);

/** Append a field. @return bytes written, 0 if it does not fit in `cap`. */
size_t sbx_field_put(unsigned char *out, size_t cap, uint16_t tag, const void *data, uint32_t len);
size_t sbx_field_put_num(unsigned char *out, size_t cap, uint16_t tag, uint64_t value);

/** Take one log entry. @return 1 and the entry, 0 at the end, -1 if malformed. */
int sbx_log_entry_take(sbx_fields *f, sbx_log_entry *ret);

/** Bytes that an entry takes on the wire. */
size_t sbx_log_entry_size(const sbx_log_entry *e);

/** Append an entry. @return bytes written, 0 if it does not fit in `cap`. */
size_t sbx_log_entry_put(unsigned char *out, size_t cap, const sbx_log_entry *e);

#endif
