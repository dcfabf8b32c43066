/* Commands over HTTP: start them, list them, follow their output, feed and end them; terminals.
 *
 * All but sbx_execs_new() and free() run on a WORKER and return at once; what waits lives on STREAM
 * (a parked request costs memory, not a thread), and finishes the reply from there. They take a
 * reference to the request's reply and answer every failure themselves, unless they return -1.
 *
 * The agent of a sandbox knows its commands; this layer knows only who follows. Events of a command
 * are numbered for everybody alike: 1 is its start, n + 1 its chunk n of output, and the one behind
 * the last chunk its exit. */
#ifndef SBX_EXEC_EXEC_H
#define SBX_EXEC_EXEC_H

#include "sbx/http/http.h"
#include "sbx/metrics/metrics.h"
#include "sbx/sandbox/channel.h"
#include "sbx/sandbox/ledger.h"
#include "sbx/sandbox/sandboxes.h"
#include "sbx/store/sandboxes.h"

typedef struct sbx_execs sbx_execs;

typedef struct sbx_execs_config {
    sbx_stream *stream;
    sbx_lanes *lanes;
    sbx_store *store;
    sbx_channels *channels;
    sbx_ledger *ledger;
    sbx_metrics *metrics;
    sbx_sandboxes *sandboxes;                       /* resumes what is paused */
    const char *(*runtime_of)(const char *command); /* as sbx_run_runtime_of(); any thread */
    int64_t terminal_idle_ms;                       /* without a viewer; then HUP, then KILL */
} sbx_execs_config;

sbx_execs *sbx_execs_new(const sbx_execs_config *c);
void sbx_execs_free(sbx_execs *e); /* after STREAM and the lanes have ended */

/** The `news` of the channels. STREAM. */
void sbx_execs_news(sbx_execs *e, const char *sandbox, const struct sbx_command_entry *entry);

/* Of a record that is being made. Any thread. */
void sbx_exec_record_exit(sbx_exec_record *r, const sbx_command_exit *e);
char *sbx_exec_command_json(const sbx_strs *argv); /* owned by the caller */

extern const sbx_json_field sbx_exec_fields[], sbx_signal_fields[]; /* also for the API document */

/* Which command of which sandbox. Borrowed during the call. */
typedef struct sbx_exec_ref {
    const char *owner, *sandbox, *id;
} sbx_exec_ref;

/** Parse the body, start the command, answer when it is over (or stream, or at once). A sandbox
 * that is being created is waited for, a paused one is resumed.
 * Failures: INVALID, NOT_FOUND, CONFLICT (its state), GONE, CAPACITY (another worker holds it),
 * STORE_UNAVAILABLE. */
int sbx_exec_start(sbx_execs *e, const char *owner, const char *sandbox, const sbx_request *r,
                   sbx_err *err) SBX_MUST_CHECK;

/** The same in many sandboxes at once, as sbx_exec_start() in each; the results come in their
 * order, those of a stream as they happen. Nobody is waited for longer than the command's time-out
 * and some seconds.
 * @param sandboxes  at most SBX_MAX_GROUP_MEMBERS; borrowed.
 * Failures: INVALID. What fails in one sandbox is told for that one. */
int sbx_exec_many(sbx_execs *e, const char *owner, char (*sandboxes)[SBX_ID_LEN + 1], size_t count,
                  const sbx_request *r, sbx_err *err) SBX_MUST_CHECK;

/** The commands of a sandbox, newest first: those that its agent knows, and the records. */
int sbx_exec_list(sbx_execs *e, const char *owner, const char *sandbox, const sbx_request *r,
                  sbx_err *err) SBX_MUST_CHECK;
/** One command. */
int sbx_exec_get(sbx_execs *e, const sbx_exec_ref *x, const sbx_request *r,
                 sbx_err *err) SBX_MUST_CHECK;
/** Its output: a page, or a stream that follows. CONFLICT while the sandbox is neither running nor
 * at its end. */
int sbx_exec_output(sbx_execs *e, const sbx_exec_ref *x, const sbx_request *r,
                    sbx_err *err) SBX_MUST_CHECK;

/** Give it the request's body as input; answered when the command's pipe has it. */
int sbx_exec_stdin(sbx_execs *e, const sbx_exec_ref *x, const sbx_request *r,
                   sbx_err *err) SBX_MUST_CHECK;
int sbx_exec_signal(sbx_execs *e, const sbx_exec_ref *x, const sbx_request *r,
                    sbx_err *err) SBX_MUST_CHECK;
/** Kill its whole tree; success also when it is over. */
int sbx_exec_kill(sbx_execs *e, const sbx_exec_ref *x, const sbx_request *r,
                  sbx_err *err) SBX_MUST_CHECK;

/** A terminal as a WebSocket: a new one, or `execId` again. */
int sbx_exec_terminal(sbx_execs *e, const char *owner, const char *sandbox, const sbx_request *r,
                      sbx_err *err) SBX_MUST_CHECK;

#endif
