/* Frames of WebSocket (RFC 6455) without extensions, for either end: what the server reads and
 * writes, and what the command line does. */
#ifndef SBX_CORE_WS_H
#define SBX_CORE_WS_H

#include "sbx/core/buf.h"

#define SBX_WS_CONT  0u
#define SBX_WS_TEXT  1u
#define SBX_WS_BIN   2u
#define SBX_WS_CLOSE 8u
#define SBX_WS_PING  9u
#define SBX_WS_PONG  10u

#define SBX_WS_MAX_HEAD 14 /* bytes before a payload: 2, a length of 8, a mask of 4 */

typedef struct sbx_ws_head {
    bool fin, masked;
    unsigned opcode;
    uint64_t len;
    unsigned char mask[4]; /* if masked */
} sbx_ws_head;

/** How many bytes the head has that begins with these two: 2..SBX_WS_MAX_HEAD. */
size_t sbx_ws_head_size(const unsigned char first[2]);

/** Read a whole head.
 * @return false if no peer may send it (close code 1002): reserved bits or opcodes, a length that
 *         is not written in the shortest way, a control frame that is long or in pieces. */
bool sbx_ws_head_read(const unsigned char *head, sbx_ws_head *ret) SBX_MUST_CHECK;

/** Add a whole frame, not in pieces.
 * @param mask  NULL for a server; a client must give 4 bytes that nobody can guess. */
void sbx_ws_frame(sbx_buf *out, unsigned opcode, const unsigned char *mask, const void *data,
                  size_t len);

/** What answers a Sec-WebSocket-Key: 28 characters and a NUL.
 * @return 0, or -1 if the key is not the base64 of 16 bytes. */
int sbx_ws_accept(const char *key, char out[29]) SBX_MUST_CHECK;

#endif
