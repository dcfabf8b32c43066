/* Feeds bytes to the agent's frame assembler, cut at places that the input itself chooses.
 *
 * A zero byte of the first one says: put a greeting there, so that the fuzzer gets behind it. */
#include "input.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const unsigned char token[SBX_PROTO_TOKEN_BYTES] = "fuzz-token-1234";

static void drain(agent_input *in)
{
    agent_input_event event;
    sbx_frame f;
    unsigned sum = 0;

    while ((event = agent_input_next(in, &f)) != AGENT_IN_MORE) {
        if (event == AGENT_IN_BROKEN)
            continue;
        if (event == AGENT_IN_HELLO && f.type != SBX_F_HELLO)
            abort();
        for (uint32_t i = 0; i < f.len; i++)
            sum += f.payload[i];
    }
    if (sum == 0xfffffff0u)
        abort();
}

static void feed(agent_input *in, const uint8_t *data, size_t size)
{
    while (size > 0) {
        size_t cap = 0;
        unsigned char *to = agent_input_space(in, &cap);
        size_t len = size < cap ? size : cap;

        if (!to || cap == 0)
            abort();
        memcpy(to, data, len);
        agent_input_filled(in, len);
        drain(in);
        data += len;
        size -= len;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    agent_input *in = agent_input_new(token);

    if (!in)
        return 0;
    while (size > 1) {
        size_t len = (size_t)data[0] * 4;

        if (len == 0)
            feed(in, agent_input_marker(in), SBX_PROTO_MARKER_BYTES);
        data++;
        size--;
        if (len > size)
            len = size;
        feed(in, data, len);
        data += len;
        size -= len;
    }
    agent_input_free(in);
    return 0;
}
