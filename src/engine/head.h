/* The head of an HTTP/1.x response, for connections that are about to stop speaking HTTP. No I/O.
 */
#ifndef SBX_ENGINE_HEAD_H
#define SBX_ENGINE_HEAD_H

#include "sbx/core/base.h"
#include <sys/types.h>

#define DOCKER_HEAD_BYTES (16 * KIB)

typedef struct docker_head {
    int status;
    int64_t length; /* Content-Length, or -1 */
    bool chunked;
} docker_head;

/** Read a head at the beginning of what has come so far.
 * @return its bytes with the empty line; 0 if it is not whole yet; -1 if it is not one, or can
 *         no longer become one within DOCKER_HEAD_BYTES. */
ssize_t docker_head_read(const char *data, size_t len, docker_head *ret);

#endif
