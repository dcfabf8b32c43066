/* See sbx/engine/frames.h. The header is kept until it is whole, then checked once: a stream that
 * does not begin with a valid header is not a multiplexed one, and guessing on would hand bytes of
 * a container out as something they are not. */
#include "sbx/engine/frames.h"
#include "sbx/core/limits.h"

ssize_t sbx_frames_header(sbx_frames *f, const void *data, size_t len, sbx_err *err)
{
    if (f->left > 0)
        return 0;

    size_t take = SBX_MIN(len, SBX_FRAME_HEAD_BYTES - f->have);
    if (take > 0)
        memcpy(f->head + f->have, data, take);
    f->have += take;
    if (f->have < SBX_FRAME_HEAD_BYTES)
        return (ssize_t)take;

    const uint8_t *h = f->head;
    /* The engine writes 0 (stdin, echoed) nowhere, but defines it as standard output. */
    if (h[0] > 2 || h[1] != 0 || h[2] != 0 || h[3] != 0)
        return sbx_fail(err, SBX_E_ENGINE_UNAVAILABLE,
                        "the container's stream has a malformed frame (%02x%02x%02x%02x)", h[0],
                        h[1], h[2], h[3]);
    size_t bytes = (size_t)h[4] << 24 | (size_t)h[5] << 16 | (size_t)h[6] << 8 | h[7];
    if (bytes > SBX_MAX_ENGINE_FRAME_BYTES)
        return sbx_fail(err, SBX_E_ENGINE_UNAVAILABLE,
                        "the container's stream has a frame of %zu bytes; at most %u are taken",
                        bytes, SBX_MAX_ENGINE_FRAME_BYTES);
    f->stream = h[0] == 2 ? 2 : 1;
    f->left = bytes;
    f->have = 0;
    return (ssize_t)take;
}

void sbx_frames_payload(sbx_frames *f, size_t len)
{
    f->left -= SBX_MIN(len, f->left);
}
