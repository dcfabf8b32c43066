/* Decoder of chunked request bodies (RFC 9112, section 7.1), strict and incremental.
 *
 * Any thread; one decoder per body. Nothing is kept of the input but counters. */
#ifndef SBX_HTTP_CHUNK_H
#define SBX_HTTP_CHUNK_H

#include "sbx/core/buf.h"
#include "sbx/core/error.h"

#define SBX_MAX_CHUNK_DIGITS  8    /* of one chunk's size */
#define SBX_MAX_TRAILER_BYTES 4096 /* of all trailers of a body, which are dropped */

typedef struct sbx_chunk {
    unsigned char state;
    unsigned char digits;
    bool line_empty;
    uint32_t left;     /* bytes of the current chunk */
    uint32_t trailers; /* bytes of trailers so far */
} sbx_chunk;

void sbx_chunk_init(sbx_chunk *c);

/** Decode what has arrived.
 * @param used  how many bytes of `data` belong to the body; all of them unless done.
 * @param out   receives the content; its ceiling is the limit of the body.
 * @param done  set when the body is complete.
 * @return 0, or -1 with INVALID (not the grammar: also extensions, leading zeros, bare line
 *         feeds) or TOO_LARGE (the content, a chunk's announced size, or the trailers). After a
 *         failure the decoder must not be used. */
int sbx_chunk_feed(sbx_chunk *c, const char *data, size_t len, size_t *used, sbx_buf *out,
                   bool *done, sbx_err *err) SBX_MUST_CHECK;

#endif
