/* Frames of WebSocket, both ends. */
#include "sbx/core/ws.h"
#include <criterion/criterion.h>

Test(ws, a_head_is_read_as_it_was_written)
{
    static const size_t sizes[] = {0, 1, 125, 126, 65535, 65536, 200000};
    static const unsigned char mask[4] = {1, 2, 3, 250};

    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        for (int masked = 0; masked < 2; masked++) {
            SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(MIB);
            SBX_CLEANUP(sbx_free_str) char *data = sbx_alloc(sizes[i] + 1);
            sbx_ws_head h;

            memset(data, 'x', sizes[i]);
            sbx_ws_frame(&b, SBX_WS_BIN, masked ? mask : NULL, data, sizes[i]);
            const unsigned char *p = (const unsigned char *)b.data;
            size_t head = sbx_ws_head_size(p);
            cr_assert(sbx_ws_head_read(p, &h));
            cr_expect_eq(h.len, sizes[i]);
            cr_expect_eq(head + sizes[i], b.len);
            cr_expect_eq(h.masked, masked);
            cr_expect(h.fin && h.opcode == SBX_WS_BIN);
            for (size_t n = 0; n < sizes[i]; n++)
                if ((p[head + n] ^ (masked ? h.mask[n & 3] : 0)) != 'x')
                    cr_assert_fail("byte %zu of %zu", n, sizes[i]);
        }
}

Test(ws, what_no_peer_may_send_is_refused)
{
    static const struct {
        unsigned char head[SBX_WS_MAX_HEAD];
        const char *why;
    } cases[] = {
        {{0xC1, 0}, "a reserved bit"},
        {{0x83, 0}, "a reserved opcode"},
        {{0x8B, 0}, "a reserved control opcode"},
        {{0x09, 0}, "a ping in pieces"},
        {{0x89, 126, 0, 126}, "a long ping"},
        {{0x81, 126, 0, 125}, "a length that has a shorter form"},
        {{0x81, 127, 0, 0, 0, 0, 0, 0, 255, 255}, "the same in eight bytes"},
    };
    sbx_ws_head h;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        cr_expect_not(sbx_ws_head_read(cases[i].head, &h), "%s", cases[i].why);
}

Test(ws, a_key_is_answered_as_the_standard_shows)
{
    char out[29];

    cr_assert_eq(sbx_ws_accept("dGhlIHNhbXBsZSBub25jZQ==", out), 0);
    cr_expect_str_eq(out, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    cr_expect_eq(sbx_ws_accept("dGhlIHNhbXBsZSBub25jZQ=", out), -1);
    cr_expect_eq(sbx_ws_accept("dGhlIHNhbXBsZSBub25j!Q==", out), -1);
}
