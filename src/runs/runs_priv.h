/* What the files of this layer share: a run, and the table of what can run code. */
#ifndef SBX_RUNS_RUNS_PRIV_H
#define SBX_RUNS_RUNS_PRIV_H

#include "sbx/core/clock.h"
#include "sbx/core/limits.h"
#include "sbx/core/thread.h"
#include "sbx/exec/exec.h"
#include "sbx/http/feed.h"
#include "sbx/runs/contexts.h"
#include "sbx/sandbox/tool.h"
#include <pthread.h>

/* --- runners.c --- */

#define MAX_RUNNER_ARGS 6

typedef struct runner {
    const char *runtime; /* as the request names it */
    const char *template_name;
    const char *extension;
    const char *argv[MAX_RUNNER_ARGS]; /* before the file */
} runner;

extern const char *const run_runtimes[]; /* all of them; ends with NULL */
const runner *runner_find(const char *runtime);

/* --- runs.c: the service --- */

typedef struct leaving leaving;

struct sbx_runs {
    sbx_runs_config c; /* immutable, as the parts */
    sbx_use_parts parts;
    atomic_size_t bytes; /* of code and files in memory */
    pthread_mutex_t mu;
    leaving *left;      /* guarded by mu: sandboxes that are to be deleted */
    int64_t orphans_ms; /* the tick's: when it last looked for runs of dead workers */
};

/** Delete the sandbox of a run that is over; tried until it is done. It is `deleting` at once. Any
 * thread. */
void runs_delete_later(sbx_runs *r, const char *owner, const char *sandbox);

/* --- run.c --- */

typedef struct run {
    sbx_runs *r;
    int refs; /* STREAM: the work, and the watch of the reply */
    sbx_reply *reply;
    char owner[SBX_ID_LEN + 1], sandbox[SBX_ID_LEN + 1], id[SBX_ID_LEN + 1];
    bool one_shot, streams;
    const runner *how;
    char context[SBX_ID_LEN + 1]; /* that it runs in; "": none */
    bool there;                   /* the context; while it is asked for */
    bool lost;                    /* the context's state */
    bool kept;                  /* the answer is for repetitions, whether the client stays or not */
    char file[SBX_ID_LEN + 32]; /* of the code, in the working directory */
    sbx_buf batch;              /* code and files, until they are written */
    size_t counted;             /* of r->bytes */
    sbx_command_spec spec;      /* until it was posted to the channel */

    sbx_strs packages;           /* that were asked for */
    char *installed, *complaint; /* what there is of them as JSON, or the installer's last lines */
    sbx_spec own;                /* one shot, until the create has begun */
    sbx_package_want want;       /* one shot with packages */
    bool wanting, wanted;        /* it is waited for; it was answered */
    size_t progressed;           /* bytes of its progress that were told */
    struct installer *installer; /* in a sandbox that is there, while it runs */

    sbx_create *create; /* one shot */
    sbx_use use;
    int64_t deadline_ms; /* of the request, for its wait for a worker */
    bool creating;       /* the create is under way */
    bool made;           /* x->create is there for STREAM */
    bool reserved;       /* it counts for its user; the record gives that back if nothing ran */
    bool unmade;         /* it came to nothing; the record says why */
    bool removing;       /* the tool removes the code's file */
    sbx_tool *tool;
    sbx_command *command;
    bool left;    /* the client went away */
    bool busy;    /* counts as activity */
    bool written; /* the code's file is there */
    bool started;
    int64_t from_us;

    sbx_err failure; /* what is not the code's doing; code SBX_OK: nothing */
    sbx_command_exit exit;
    bool exited;
    sbx_exec_record record;

    sbx_buf output[2]; /* stdout, stderr; unless it streams */
    bool truncated;
    uint64_t chunk; /* the last one that came */
    sbx_feed_queue queue;
    sbx_buf copy;      /* kept, and a stream: what it told */
    size_t copied;     /* of r->bytes, for it */
    uint64_t events;   /* that were made */
    bool begun, ended; /* the stream */
    bool handed;       /* its copy, with its end, to whoever keeps it */
    int64_t to_grant;
} run;

run *run_new(sbx_runs *r, const char *owner, const char *sandbox, sbx_reply *reply);
/** All is ready, and of a one-shot run the create has begun. WORKER, which owned `x` before. */
void run_begin(run *x);
void run_free(run *x); /* nobody else has it */

/** Write the intent of a one-shot sandbox. WORKER. */
int run_make(run *x, sbx_err *err);
/** Write code and files. STREAM. */
void run_put_files(run *x);
void run_start_code(run *x);
void run_fail(run *x, const sbx_err *err);
/** It has no sandbox, or not more than one that failed. STREAM. */
void run_failed(void *x, const sbx_err *err);
/** Make the sandbox of a one-shot run that no pool serves, as a job of its own. Any thread. */
void run_make_later(run *x);
/** From any thread: fn(x, err) on STREAM. */
void run_pass_on(run *x, const sbx_err *err, void (*fn)(void *arg, const sbx_err *err));
void run_unref(run *x);
/** Hand on what the client takes. STREAM. */
void run_flush(run *x);

/* --- contexts.c --- */

/** Is this the keeper of a context? @param ret_cwd  as it was given, owned by the caller, NULL:
 * not; may be NULL. */
bool context_of_entry(const sbx_command_entry *e, char *runtime, size_t cap, char **ret_cwd);

/* --- cells.c: a run in a context. STREAM. --- */

/** Look whether the context is there and fits; then run_put_files(), or the run fails. */
void cell_look(run *x);
/** The command, out of what a run without a context would be. */
void cell_spec(run *x);
/** What the command's end says of the code. @return false: nothing has run, x->failure says why. */
bool cell_exit(run *x);

/* --- packages.c: what a run needs before its code --- */

/** Of a one-shot run: get them, then make the sandbox. WORKER. */
void packages_get(run *x);
/** Of a run in a sandbox that is there: install them, then start the code. STREAM. */
void packages_install(run *x);
/** The client has left. STREAM. */
void packages_give_up(run *x);
/** What has to be written for that beside the files. */
void packages_add_files(run *x);

/* --- answer.c: what the client gets. STREAM. --- */

/** A line of an installer. */
void answer_progress(run *x, const char *line, size_t len);
/** The code has started. */
void answer_started(run *x);
void answer_output(run *x, bool is_stderr, const char *data, size_t len);
/** All is known: x->failure, x->exit. */
void answer_end(run *x);
/** The copy of a stream's events, which is not needed any more. */
void answer_forget_copy(run *x);
/** Hand on what the client takes. @return bytes that the agent may be granted now. */
int64_t answer_flush(run *x);
/** What is not the code's doing: a code for programs, words; NULL: nothing. */
const char *answer_error(const run *x, const char **ret_message);

#endif
