/* Files in sandboxes over HTTP: from the request to the answer.
 *
 * The work is done inside the sandbox, as its user, by the program sbx-files (src/filetool), which
 * runs as a command of the channel; here bytes are carried between it and the client, with nothing
 * in memory but windows, whatever the size. begin() runs on a WORKER and returns at once; then all
 * lives on STREAM, and no worker is held while bytes flow. */
#ifndef SBX_FILES_FILES_H
#define SBX_FILES_FILES_H

#include "sbx/http/http.h"
#include "sbx/sandbox/channel.h"
#include "sbx/sandbox/ledger.h"
#include "sbx/sandbox/sandboxes.h"

typedef struct sbx_files sbx_files;

typedef struct sbx_files_config {
    sbx_stream *stream;
    sbx_lanes *lanes;
    sbx_store *store;
    sbx_channels *channels;
    sbx_ledger *ledger;
    sbx_sandboxes *sandboxes; /* resumes what is paused */
    int64_t stall_ms;         /* a tool that does nothing for so long is given up */
} sbx_files_config;

sbx_files *sbx_files_new(const sbx_files_config *c);
void sbx_files_free(sbx_files *f); /* after STREAM and the lanes have ended */

/* What a request wants; each is a route. */
typedef enum sbx_file_verb {
    SBX_FILE_READ,
    SBX_FILE_WRITE,
    SBX_FILE_REMOVE,
    SBX_FILE_STAT,
    SBX_FILE_LIST,
    SBX_FILE_MKDIR,
    SBX_FILE_MOVE,
    SBX_FILE_COPY,
    SBX_FILE_BATCH,
    SBX_FILE_PACK,
    SBX_FILE_UNPACK,
    SBX_FILE_WATCH,
} sbx_file_verb;

/* Fields of the bodies; also for the API document. */
extern const sbx_json_field sbx_mkdir_fields[], sbx_move_fields[], sbx_batch_fields[];

/** Check the request, wait until the sandbox can be used, do it, answer. Takes a reference of the
 * reply.
 * @return 0, or -1 with INVALID (names the parameter or field), PRECONDITION or CAPACITY. What
 *         comes later is answered: what sbx_use tells, what sbx-files says, TIMEOUT. */
int sbx_files_begin(sbx_files *f, sbx_file_verb verb, const char *owner, const char *sandbox,
                    const sbx_request *r, sbx_err *err) SBX_MUST_CHECK;

#endif
