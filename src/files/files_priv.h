/* What the files of this layer share: a transfer, and the forms of its answer.
 *
 * A transfer is one request and one run of sbx-files. It is made on a WORKER and belongs to STREAM
 * from its `ready` on. It lives until the command is over and the reply is closed, whichever is
 * later: a tool that was given up still counts as one of its sandbox's until it has ended. */
#ifndef SBX_FILES_FILES_PRIV_H
#define SBX_FILES_FILES_PRIV_H

#include "sbx/core/limits.h"
#include "sbx/files/files.h"
#include "sbx/sandbox/tool.h"
#include "sbx/sandbox/use.h"
#include <pthread.h>
#include <uthash.h>

#define MAX_TOOL_ARGS 8
#define HEAD_BYTES    (128 * KIB) /* the longest line of the tool: an entry with three long names */
#define ERROR_BYTES   1024        /* its line about a failure */

typedef struct transfer transfer;

/* What becomes of the output of a tool that succeeds. Called on STREAM. */
typedef struct file_form {
    /* Bytes of its output; never after the transfer was answered and done. */
    void (*output)(transfer *x, const char *data, size_t len);
    /* It is over, and has succeeded. */
    void (*done)(transfer *x);
    /* The client takes more of an answer that has begun. */
    void (*ready)(transfer *x);
    /* It failed after the answer had begun; NULL: the answer is cut. */
    void (*fail)(transfer *x, const sbx_err *err);
} file_form;

typedef struct file_op {
    const char *name; /* first argument of the tool */
    const file_form *form;
    int quiet;    /* how often `stall_ms` it may do nothing that can be seen; 0: for ever */
    bool input;   /* it reads: what `in` holds, or: */
    bool body;    /* the request's body */
    bool passive; /* counts as use when it begins, and not while it runs */
    /* The arguments behind the name, and what else the request says. On a WORKER. */
    int (*read)(transfer *x, const sbx_request *r, sbx_err *err);
} file_op;
extern const file_op file_ops[];

/* Tools of one sandbox. */
typedef struct file_crowd {
    char sandbox[SBX_ID_LEN + 1];
    int count;
    UT_hash_handle hh;
} file_crowd;

struct sbx_files {
    sbx_files_config c; /* immutable, as `parts` */
    sbx_use_parts parts;
    pthread_mutex_t mu;
    file_crowd *crowds;  /* guarded by mu */
    atomic_size_t bytes; /* of lists and batches in memory */
};

struct transfer {
    sbx_files *f;
    const file_op *op;
    int refs; /* STREAM: the command, and the watch of the reply */
    sbx_use use;
    sbx_reply *reply;
    char owner[SBX_ID_LEN + 1], sandbox[SBX_ID_LEN + 1];
    char *args[MAX_TOOL_ARGS]; /* owned; behind the operation's name */
    size_t arg_count;
    char *user;       /* owned, or NULL */
    const char *lead; /* name of the parameter or field that failures are about */
    sbx_command *command;
    sbx_timer *timer;
    int64_t moved_ms; /* when something was last seen to happen */
    bool entered;     /* counted in its crowd */
    bool gone;        /* the client has left */
    bool answered;    /* nothing more is for the client */
    bool given_up;    /* the tool was told to end */
    bool over;        /* the tool has succeeded, and unsent output is left */

    /* input: the body as it comes, or what is in `in` */
    sbx_buf in;
    size_t in_at;
    bool in_ended;

    /* output: what is collected, or has not been sent yet */
    sbx_buf out, error;
    size_t counted; /* of f->bytes */
    int64_t to_grant;
    bool begun, websocket;
    uint64_t next_event;
    bool tagged; /* the answer has the file's tag, not its own */

    /* read */
    char *if_match, *if_range; /* owned, or NULL */
    bool ranged;
    bool again; /* from the beginning, without a range */
};

/* transfer.c */
/** Answer a failure, if there is still somebody to be told, and end the tool. */
void transfer_fail(transfer *x, const sbx_err *err, const sbx_header *more);
/** What was asked for is known: end the tool, nothing more is for the client. */
void transfer_settle(transfer *x);
/** Let the tool write so much more. */
void transfer_grant(transfer *x, int64_t bytes);
/** Give bytes to the client, in order, or keep them until it takes more. */
void transfer_push(transfer *x, const char *data, size_t len);
/** Go on with what was kept, and end the answer behind it if the tool is over. */
void transfer_flush(transfer *x);
/** Count bytes that are kept for this request. @return 0, or -1 with CAPACITY. */
int transfer_keep(transfer *x, size_t bytes, sbx_err *err) SBX_MUST_CHECK;

/* forms.c */
extern const file_form form_entry, form_nothing, form_list, form_entries, form_counts, form_file,
    form_archive, form_watch;

/* args.c */
const char *file_media_type(const char *name);

/* batch.c */
int file_read_batch(transfer *x, const sbx_request *r, sbx_err *err) SBX_MUST_CHECK;

/* entry.c */
/** Read a line of the tool about an entry, and write it as the API shows it.
 * @param out  may be NULL. @param etag  receives the tag with its quotes, or "".
 * @return the parsed line, to be freed; NULL with ENGINE if it is none. */
sbx_json *entry_read(const char *line, size_t len, sbx_buf *out, char etag[96], sbx_err *err);
/** The error behind the tool's words. @param range  receives the size for a RANGE, else -1. */
void entry_error(const transfer *x, const char *line, size_t len, sbx_err *ret, int64_t *range);
/** A change that a watch tells of, rewritten. @return false if the line is none. */
bool entry_change(const char *line, size_t len, sbx_buf *out);
int entry_nonsense(sbx_err *err);

#endif
