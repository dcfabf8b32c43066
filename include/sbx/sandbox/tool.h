/* The program sbx-files in a sandbox, for whoever needs it: what it is given, what it says of a
 * failure, and a run of it that nobody streams. src/filetool/filetool.h is the contract of the
 * program; requests about files (src/files) run it themselves, as their bytes flow. */
#ifndef SBX_SANDBOX_TOOL_H
#define SBX_SANDBOX_TOOL_H

#include "sbx/core/json.h"
#include "sbx/sandbox/channel.h"

#define SBX_FILES_PROGRAM SBX_AGENT_DIR "/sbx-files"

/* --- batches: small files, all or nothing --- */

#define SBX_NO_MODE UINT32_MAX

extern const char sbx_batch_schema[]; /* of the JSON form, for the API document */

bool sbx_file_mode_valid(const char *mode); /* 1 to 4 octal digits */

/** Add a file to what `sbx-files batch` reads. @param b  empty for the first one.
 * @param mode  or SBX_NO_MODE. */
void sbx_batch_add(sbx_buf *b, const char *path, uint32_t mode, const void *data, size_t len);

/** Add the files of an object: contents by path, text or {content, encoding, mode}.
 * @param inside  refuse relative paths that lead out of where they begin.
 * @return 0, or -1 with INVALID or TOO_LARGE for the field `files`, naming the path. */
int sbx_batch_add_json(sbx_buf *b, const sbx_json *files, bool inside, sbx_err *err) SBX_MUST_CHECK;

/** The error behind what the program wrote to its stderr: its code and words. @return false, and
 * ENGINE, if that is no answer of the program.
 * @param path  receives the path it is about, owned by the caller, or NULL; may be NULL.
 * @param size  receives the size behind a code RANGE, else -1; may be NULL. */
bool sbx_tool_error(const char *line, size_t len, char **path, int64_t *size, sbx_err *ret);
/** The same for one that did not end by itself, or could not be started: by its exit. @return
 * whether that explains it; otherwise its words do. */
bool sbx_tool_explain(const sbx_command_exit *e, sbx_err *ret);

/* --- one run --- */

typedef struct sbx_tool sbx_tool; /* STREAM */

/** Begin. STREAM.
 * @param argv  the operation and its arguments, NULL-terminated; copied.
 * @param input  its content is taken over.
 * @param over  called once, on STREAM, and not before this returns: err is NULL, or what the
 *        program said, ENGINE, CAPACITY, GONE, TIMEOUT (nothing happened for a minute),
 *        CANCELLED. The sbx_tool is gone then. */
sbx_tool *sbx_tool_run(sbx_stream *stream, sbx_channels *channels, const char *sandbox,
                       const char *const *argv, sbx_buf *input,
                       void (*over)(void *arg, const sbx_err *err), void *arg);
/** End it: it takes away what is half done. `over` follows. */
void sbx_tool_give_up(sbx_tool *t);

#endif
