/* Splitting a stream of JSON values: of the engine's event and pull streams (values behind each
 * other) and of its lists (an array's elements). No I/O; split anywhere; each value is bounded.
 *
 * A value that is too long is stepped over and counted, so that one container with absurd labels
 * cannot hide all others from the sweep. */
#ifndef SBX_ENGINE_LINES_H
#define SBX_ENGINE_LINES_H

#include "sbx/core/buf.h"

typedef struct docker_lines {
    sbx_buf value; /* the object that is open */
    int depth;
    bool in_string, escaped, skipping;
    size_t skipped; /* objects that were too long */
} docker_lines;

void docker_lines_init(docker_lines *l, size_t max_value_bytes);
void docker_lines_done(docker_lines *l);

/** Take bytes; fn gets each complete top-level object (in a list: each element), writable.
 * @return false if fn returned false. */
bool docker_lines_take(docker_lines *l, const char *data, size_t len,
                       bool (*fn)(void *arg, char *json, size_t json_len), void *arg);

#endif
