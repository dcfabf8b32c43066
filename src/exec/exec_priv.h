/* What the files of this layer share. */
#ifndef SBX_EXEC_EXEC_PRIV_H
#define SBX_EXEC_EXEC_PRIV_H

#include "sbx/core/clock.h"
#include "sbx/core/limits.h"
#include "sbx/core/thread.h"
#include "sbx/exec/exec.h"
#include "sbx/http/feed.h"
#include "sbx/sandbox/use.h"

struct idle_terminal;

struct sbx_execs {
    sbx_execs_config c; /* immutable, as the parts */
    sbx_use_parts parts;
    struct idle_terminal *terminals; /* STREAM: hash by id */
};

/* --- news.c: records --- */

const char *exec_outcome(const sbx_command_exit *e);
/* How it ended, in words; NULL: as commands do. */
const char *exec_message(const sbx_command_exit *e);
void exec_record_entry(const sbx_execs *x, sbx_exec_record *r, const char *sandbox,
                       const sbx_command_entry *e);

/* --- view.c: a command as the API shows it --- */

typedef struct exec_view {
    sbx_exec_record r;
    bool running;
    bool recorded; /* else its agent told of it */
    int64_t pid;   /* 0: not known */
} exec_view;
void exec_view_record(exec_view *v, const sbx_exec_record *r); /* takes its content */
void exec_view_lost(exec_view *v);
void exec_view_entry(const sbx_execs *x, exec_view *v, const char *sandbox,
                     const sbx_command_entry *e);
void exec_view_json(sbx_buf *out, const exec_view *v);
/* exitCode, signal; and durationMs, timedOut, oomKilled, truncated, and what is worth words. */
void exec_exit_fields(sbx_jw *w, int exit_code, int signal);
void exec_result_fields(sbx_jw *w, const sbx_command_exit *e, bool truncated);

/* --- follow.c: the events of a command on their way to one client. STREAM. --- */

/* MANY: server-sent events among those of other commands, each with its sandbox. */
typedef enum follow_form { FOLLOW_SSE, FOLLOW_WS, FOLLOW_PAGE, FOLLOW_MANY } follow_form;

typedef struct follow {
    sbx_reply *reply; /* borrowed */
    follow_form form;
    const char *sandbox; /* MANY; borrowed */
    uint64_t since;      /* only events above this number */
    uint64_t last;       /* the number of the last event, sent or not wanted */
    bool begun;          /* the reply is a stream */
    bool ended;          /* the last event was written */
    sbx_feed_queue queue;
    sbx_buf page; /* of a page */
    size_t items;
    int64_t to_grant; /* output that came and was not granted again */
} follow;

void follow_init(follow *f, sbx_reply *reply, follow_form form, uint64_t since);
void follow_done(follow *f);
void follow_start(follow *f, const char *exec_id, int64_t pid);
void follow_output(follow *f, uint64_t chunk, bool is_stderr, const char *data, size_t len);
void follow_gap(follow *f, uint64_t from_chunk, uint64_t to_chunk);
void follow_exit(follow *f, const sbx_command_exit *e);
void follow_error(follow *f, const sbx_err *err);
/* Hand on what the client takes; ends the reply behind the last event, unless it is one of many.
 * @return bytes that the agent
 * may be granted now. */
int64_t follow_flush(follow *f);
/* The first chunk that is wanted next. */
uint64_t follow_next_chunk(const follow *f);
/* Answer a page. `more`: there are events behind the last one, or will be. */
void follow_page(follow *f, bool more);

/* --- exec.c: a request that follows one command --- */

typedef enum exec_kind {
    EXEC_WAIT,       /* start it, and answer when it is over */
    EXEC_STREAM,     /* start it, and stream its events */
    EXEC_BACKGROUND, /* start it, and answer when it has started */
    EXEC_OUTPUT,     /* stream the events of one that was started */
    EXEC_PAGE,       /* a page of them */
} exec_kind;

struct many;

typedef struct exec {
    sbx_execs *e;
    exec_kind kind;
    struct many *many;     /* the request that it is a part of; NULL: it is alone */
    size_t place;          /* in it */
    int refs;              /* STREAM: the command or the wait for it, and the watch of the reply */
    sbx_command_spec spec; /* until the command has started */
    int64_t begun_in_ms;   /* since when the sandbox ran to which it was sent, wall clock */
    sbx_use use;
    sbx_reply *reply;
    char owner[SBX_ID_LEN + 1], sandbox[SBX_ID_LEN + 1], id[SBX_ID_LEN + 1];
    bool kill_on_disconnect;
    bool old;     /* the agent has version 1 */
    bool posted;  /* the channel, and STREAM, have it */
    bool counted; /* the request counts as activity */
    bool started, left;
    bool asked;           /* once more how its sandbox is, which ended while this waited for it */
    bool looked;          /* for the record, as the agent does not know it any more */
    sbx_command *command; /* while it is followed */
    sbx_exec_record record;
    int64_t pid; /* EXEC_BACKGROUND, when it has started */
    int64_t from_us;
    sbx_buf output[2]; /* EXEC_WAIT: stdout, stderr */
    bool truncated;
    follow f;
    size_t limit;  /* EXEC_PAGE: items */
    uint64_t upto; /* EXEC_PAGE: chunks that there were when it began */
    bool is_over;  /* EXEC_PAGE: it was over then */
} exec;

exec *exec_new(sbx_execs *e, exec_kind kind, const char *owner, const char *sandbox, const char *id,
               sbx_reply *reply);
/* Wait until the sandbox can be used, then start, or follow. WORKER, which owns `x` before. */
void exec_use(exec *x);
/* A job: begin to read output, of a sandbox that may have ended. */
void exec_output_again(void *arg);
/* Follow one that was started, on this worker's channel; the sandbox runs. WORKER, likewise. */
void exec_follow(exec *x);
/* Tell what is known of a command that its agent does not know any more. WORKER. */
void exec_tell_record(exec *x, const sbx_exec_record *r);
void exec_fail(exec *x, const sbx_err *err); /* nobody else has `x` */
/* STREAM. Hand on what the client takes. */
void exec_flush(exec *x);
/* STREAM. The client of a request that was posted has gone away; drops its reference of `x`. */
void exec_left(exec *x);
void exec_free(exec *x);

/* --- start.c --- */

/* The body of a request for a command. */
typedef struct exec_body {
    sbx_strs command;
    sbx_pairs env;
    char *cwd, *user, *stdin_text;
    int64_t timeout_ms, max_output, cpu_ms;
    bool timeout_given, max_output_given, kill_on_disconnect, background, stdin_open;
} exec_body;
/* Decode and check; on failure there is nothing to free. */
int exec_body_read(const sbx_request *r, const sbx_json *root, exec_body *ret,
                   sbx_err *err) SBX_MUST_CHECK;
void exec_body_done(exec_body *b);
/* What is to be run; takes the content of `b`. */
exec *exec_of_body(sbx_execs *e, const char *owner, const char *sandbox, const sbx_request *r,
                   exec_body *b);

/* --- many.c: one command in many sandboxes, whose parts tell it how they fare --- */

/* WORKER, before the command is posted to the channel: now it belongs to STREAM. */
void many_joins(exec *x);
const atomic_bool *many_cancel_flag(const exec *x);
/* Instead of an answer. STREAM. @param body  a JSON object; its content is taken. */
void many_result(exec *x, sbx_buf *body);
void many_problem(exec *x, const sbx_err *err);
/* The command has let go; after the result. STREAM. */
void many_over(exec *x);
/* It never came so far that STREAM had it. Any thread; `x` is gone. */
void many_refused(exec *x, const sbx_err *err);

/* --- terminal.c --- */

/* A terminal was heard of: it ends when nobody views it for long. STREAM. */
void terminal_news(sbx_execs *e, const char *sandbox, const sbx_command_entry *entry);
void terminals_free(sbx_execs *e);

/* The state of a sandbox, as a question about its commands sees it. WORKER.
 * @return 1: it runs, ask its agent; 0: only the records are there; -1 with NOT_FOUND, GONE. */
int exec_look(sbx_execs *e, const char *owner, const char *sandbox, char state[16],
              sbx_err *err) SBX_MUST_CHECK;

#endif
