/* Frames of WebSocket: see ws.h. */
#include "sbx/core/ws.h"

#include "sbx/core/json.h"
#include <openssl/evp.h>

size_t sbx_ws_head_size(const unsigned char first[2])
{
    unsigned len = first[1] & 0x7f;

    return 2u + (first[1] & 0x80 ? 4 : 0) + (len == 126 ? 2 : len == 127 ? 8 : 0);
}

bool sbx_ws_head_read(const unsigned char *h, sbx_ws_head *ret)
{
    sbx_ws_head head = {.fin = h[0] & 0x80, .masked = h[1] & 0x80, .opcode = h[0] & 0x0f};
    unsigned len = h[1] & 0x7f;
    size_t at = 2;

    head.len = len;
    if (len >= 126) {
        head.len = 0;
        for (size_t end = at + (len == 126 ? 2 : 8); at < end; at++)
            head.len = head.len << 8 | h[at];
    }
    if ((len == 126 && head.len < 126) || (len == 127 && head.len <= UINT16_MAX))
        return false; /* a length has one way to be written */
    if ((h[0] & 0x70) || (head.opcode > SBX_WS_BIN && head.opcode < SBX_WS_CLOSE) ||
        head.opcode > SBX_WS_PONG)
        return false;
    if (head.opcode >= SBX_WS_CLOSE && (!head.fin || len > 125))
        return false;
    if (head.masked)
        memcpy(head.mask, h + at, 4);
    *ret = head;
    return true;
}

void sbx_ws_frame(sbx_buf *out, unsigned opcode, const unsigned char *mask, const void *data,
                  size_t len)
{
    unsigned char head[SBX_WS_MAX_HEAD] = {(unsigned char)(0x80 | opcode)};
    size_t n = 2;

    if (len < 126) {
        head[1] = (unsigned char)len;
    } else if (len < 65536) {
        head[1] = 126;
        head[2] = (unsigned char)(len >> 8);
        head[3] = (unsigned char)len;
        n = 4;
    } else {
        head[1] = 127;
        for (int i = 0; i < 8; i++)
            head[2 + i] = (unsigned char)((uint64_t)len >> (56 - 8 * i));
        n = 10;
    }
    if (mask) {
        head[1] |= 0x80;
        memcpy(head + n, mask, 4);
        n += 4;
    }
    sbx_buf_add(out, head, n);
    char *to = mask ? sbx_buf_reserve(out, len) : NULL;
    if (to) {
        for (size_t i = 0; i < len; i++)
            to[i] = (char)(((const unsigned char *)data)[i] ^ mask[i & 3]);
        sbx_buf_commit(out, len);
    } else {
        sbx_buf_add(out, data, len);
    }
}

int sbx_ws_accept(const char *key, char out[29])
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    unsigned char text[24 + sizeof(guid)], hash[20];
    sbx_buf b = SBX_BUF_INIT(28);

    if (strlen(key) != 24 || key[22] != '=' || key[23] != '=')
        return -1;
    for (int i = 0; i < 22; i++)
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", key[i]))
            return -1;
    memcpy(text, key, 24);
    memcpy(text + 24, guid, sizeof(guid) - 1);
    if (EVP_Digest(text, 24 + sizeof(guid) - 1, hash, NULL, EVP_sha1(), NULL) != 1)
        return -1;
    sbx_base64_add(&b, hash, sizeof(hash));
    memcpy(out, b.data, 29);
    sbx_buf_done(&b);
    return 0;
}
