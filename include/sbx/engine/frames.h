/* The engine's multiplexed output: frames of an 8-byte header (stream, 3 zero bytes, length as a
 * big-endian 32-bit number) and a payload. Source: Docker Engine API v1.41, "Stream format".
 *
 * A parser without I/O and without a buffer of its own: it sees only the headers, the payload goes
 * straight to its reader. The bytes may be split anywhere.
 *
 * Threads: one at a time. */
#ifndef SBX_ENGINE_FRAMES_H
#define SBX_ENGINE_FRAMES_H

#include "sbx/core/error.h"
#include <sys/types.h>

#define SBX_FRAME_HEAD_BYTES 8

typedef struct sbx_frames {
    uint8_t head[SBX_FRAME_HEAD_BYTES];
    size_t have; /* bytes of the next header that are there */
    int stream;  /* 1 stdout, 2 stderr: of the payload that is open */
    size_t left; /* bytes of payload to come; 0: a header comes next */
} sbx_frames;

/** Take bytes of a header; only when `left` is 0. Headers of empty frames are stepped over.
 *
 * @param len  may be anything; at most what completes a header is taken at a time.
 * @return bytes taken, at most what the header lacked (0 when a payload is open); -1 with
 *         ENGINE_UNAVAILABLE if the header is malformed: unknown stream, non-zero padding, or over
 *         SBX_MAX_ENGINE_FRAME_BYTES. */
ssize_t sbx_frames_header(sbx_frames *f, const void *data, size_t len, sbx_err *err);

/** Payload was read. @param len  at most `left`. */
void sbx_frames_payload(sbx_frames *f, size_t len);

#endif
