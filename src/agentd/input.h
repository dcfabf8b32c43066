/* What the owner writes, cut into frames.
 *
 * The input begins in the state "lost": everything is thrown away until the marker (magic and
 * token) has passed. The first frame behind a marker must be HELLO. A marker is looked for in
 * every byte, also inside frames, since an owner may have died in the middle of one; it makes all
 * that stood before it void. Bytes that cannot be a frame lead back to "lost".
 *
 * Pure: it reads no descriptor, so that it can be fuzzed. Threads: the agent's only one.
 */
#ifndef SBX_AGENTD_INPUT_H
#define SBX_AGENTD_INPUT_H

#include "sbx/core/agent_proto.h"

typedef struct agent_input agent_input;

typedef enum agent_input_event {
    AGENT_IN_MORE,   /* needs more bytes */
    AGENT_IN_HELLO,  /* the frame behind a marker, of type HELLO */
    AGENT_IN_FRAME,  /* any other */
    AGENT_IN_BROKEN, /* the bytes made no sense; now waiting for a marker */
} agent_input_event;

/** @return NULL if there is no memory. `token` is copied. */
agent_input *agent_input_new(const unsigned char token[SBX_PROTO_TOKEN_BYTES]);
void agent_input_free(agent_input *in);

/** Where to read to. @return at least one byte of space, or NULL if there is no memory. */
unsigned char *agent_input_space(agent_input *in, size_t *ret_cap);

/** Tell how many bytes were put into the space. */
void agent_input_filled(agent_input *in, size_t len);

/** The next frame. Its payload is borrowed until the next call of any function here. */
agent_input_event agent_input_next(agent_input *in, sbx_frame *ret);

/** Wait for a marker; drops what is buffered. */
void agent_input_lose(agent_input *in);

/** The marker that this input looks for, SBX_PROTO_MARKER_BYTES. */
const unsigned char *agent_input_marker(const agent_input *in);

#endif
