/* The codec of the agent protocol: what goes in comes out, and nothing malformed passes. */
#include "sbx/core/agent_proto.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

Test(agent_proto, a_frame_is_taken_as_it_was_put)
{
    unsigned char buf[SBX_PROTO_HEADER_BYTES + 3] = {0};
    sbx_frame f = {0};

    sbx_frame_put_header(buf, 3, SBX_F_STDIN, 0xabcd, 0xdeadbeef);
    memcpy(buf + SBX_PROTO_HEADER_BYTES, "xyz", 3);
    cr_assert_eq(sbx_frame_take(buf, sizeof buf, SBX_PROTO_MAX_TO_AGENT, &f), (long)sizeof buf);
    cr_expect_eq(f.len, 3);
    cr_expect_eq(f.type, SBX_F_STDIN);
    cr_expect_eq(f.epoch, 0xabcd);
    cr_expect_eq(f.req, 0xdeadbeef);
    cr_expect_eq(memcmp(f.payload, "xyz", 3), 0);
}

Test(agent_proto, the_bytes_of_a_header_are_little_endian)
{
    static const unsigned char want[] = {4, 3, 2, 0, 7, 0, 0x22, 0x11, 0x66, 0x55, 0x44, 0x33};
    unsigned char buf[SBX_PROTO_HEADER_BYTES];

    sbx_frame_put_header(buf, 0x020304, 7, 0x1122, 0x33445566);
    cr_expect_eq(memcmp(buf, want, sizeof want), 0);
}

Test(agent_proto, a_frame_cut_anywhere_is_incomplete)
{
    unsigned char buf[SBX_PROTO_HEADER_BYTES + 5] = {0};

    sbx_frame_put_header(buf, 5, SBX_F_PING, 1, 0);
    for (size_t len = 0; len < sizeof buf; len++) {
        sbx_frame f = {.len = 99};
        unsigned char *exact = malloc(len + 1); /* an exact size, for the sanitizer */

        memcpy(exact, buf, len);
        exact = realloc(exact, len ? len : 1);
        cr_expect_eq(sbx_frame_take(exact, len, 5, &f), 0, "%zu bytes", len);
        cr_expect_eq(f.len, 99, "touched at %zu bytes", len);
        free(exact);
    }
}

Test(agent_proto, bytes_that_cannot_be_a_frame_are_refused)
{
    unsigned char buf[SBX_PROTO_HEADER_BYTES] = {0};
    sbx_frame f;

    sbx_frame_put_header(buf, SBX_PROTO_MAX_FROM_AGENT + 1, SBX_F_OUTPUT, 1, 1);
    cr_expect_eq(sbx_frame_take(buf, sizeof buf, SBX_PROTO_MAX_FROM_AGENT, &f), -1);
    cr_expect_eq(sbx_frame_take(buf, sizeof buf, SBX_PROTO_MAX_TO_AGENT, &f), 0);
    sbx_frame_put_header(buf, UINT32_MAX, SBX_F_OUTPUT, 1, 1);
    cr_expect_eq(sbx_frame_take(buf, sizeof buf, SBX_PROTO_MAX_TO_AGENT, &f), -1);
    sbx_frame_put_header(buf, 0, SBX_F_OUTPUT, 1, 1);
    buf[5] = 1;
    cr_expect_eq(sbx_frame_take(buf, sizeof buf, SBX_PROTO_MAX_TO_AGENT, &f), -1);
}

Test(agent_proto, fields_are_read_in_order)
{
    unsigned char buf[128];
    size_t len = 0;
    sbx_fields f;
    sbx_field at;

    len += sbx_field_put(buf + len, sizeof buf - len, SBX_T_ARG, "ls", 2);
    len += sbx_field_put(buf + len, sizeof buf - len, SBX_T_ARG, NULL, 0);
    len += sbx_field_put_num(buf + len, sizeof buf - len, SBX_T_WINDOW, 0x0102030405060708);
    sbx_fields_init(&f, buf, len);
    cr_assert_eq(sbx_fields_next(&f, &at), 1);
    cr_expect(at.tag == SBX_T_ARG && at.len == 2 && memcmp(at.data, "ls", 2) == 0 && at.num == 0);
    cr_assert_eq(sbx_fields_next(&f, &at), 1);
    cr_expect(at.tag == SBX_T_ARG && at.len == 0 && at.num == 0);
    cr_assert_eq(sbx_fields_next(&f, &at), 1);
    cr_expect(at.tag == SBX_T_WINDOW && at.len == 8 && at.num == 0x0102030405060708);
    cr_expect_eq(sbx_fields_next(&f, &at), 0);
    cr_expect_eq(sbx_fields_next(&f, &at), 0);
}

Test(agent_proto, a_record_cut_anywhere_is_malformed)
{
    unsigned char buf[32];
    size_t len = sbx_field_put_num(buf, sizeof buf, SBX_T_SEQ, 7);

    for (size_t cut = 1; cut < len; cut++) {
        sbx_fields f;
        sbx_field at;

        sbx_fields_init(&f, buf, cut);
        cr_expect_eq(sbx_fields_next(&f, &at), -1, "%zu bytes", cut);
    }
}

Test(agent_proto, a_field_that_does_not_fit_is_not_put)
{
    unsigned char buf[16];

    cr_expect_eq(sbx_field_put(buf, 5, SBX_T_ARG, "", 0), 0);
    cr_expect_eq(sbx_field_put(buf, 7, SBX_T_ARG, "ab", 2), 0);
    cr_expect_eq(sbx_field_put(buf, 8, SBX_T_ARG, "ab", 2), 8);
    cr_expect_eq(sbx_field_put_num(buf, 13, SBX_T_SEQ, 1), 0);
    cr_expect_eq(sbx_field_put_num(buf, 14, SBX_T_SEQ, 1), 14);
}

static sbx_log_entry entry(const char *id, const char *data, uint32_t len)
{
    return (sbx_log_entry){.seq = 1ull << 40,
                           .ts_ms = -5,
                           .stream = SBX_LOG_STDERR,
                           .source = SBX_SRC_RUN,
                           .exec_id_len = (uint8_t)strlen(id),
                           .exec_id = id,
                           .len = len,
                           .data = data};
}

Test(agent_proto, log_entries_are_taken_as_they_were_put)
{
    unsigned char buf[256];
    sbx_log_entry one = entry("abc", "line", 4), two = entry("", "", 0), got;
    size_t len = sbx_log_entry_put(buf, sizeof buf, &one);
    sbx_fields f;

    cr_assert_eq(len, sbx_log_entry_size(&one));
    len += sbx_log_entry_put(buf + len, sizeof buf - len, &two);
    sbx_fields_init(&f, buf, len);
    cr_assert_eq(sbx_log_entry_take(&f, &got), 1);
    cr_expect(got.seq == one.seq && got.ts_ms == -5 && got.stream == SBX_LOG_STDERR &&
              got.source == SBX_SRC_RUN);
    cr_expect(got.exec_id_len == 3 && memcmp(got.exec_id, "abc", 3) == 0);
    cr_expect(got.len == 4 && memcmp(got.data, "line", 4) == 0);
    cr_assert_eq(sbx_log_entry_take(&f, &got), 1);
    cr_expect(got.exec_id_len == 0 && got.len == 0);
    cr_expect_eq(sbx_log_entry_take(&f, &got), 0);
}

Test(agent_proto, malformed_log_entries_are_refused)
{
    static const struct {
        const char *name;
        size_t at;
        unsigned char value;
    } cases[] = {
        {"stream", 16, SBX_LOG_SYSTEM + 1},
        {"source", 17, SBX_SRC_SYSTEM + 1},
        {"id over its maximum", 18, SBX_LOG_ID_BYTES + 1},
        {"id over the frame", 18, 30},
        {"line over the frame", 22, 5},
        {"line over its maximum", 25, 1},
    };
    unsigned char good[64];
    sbx_log_entry e = entry("abc", "line", 4);
    size_t len = sbx_log_entry_put(good, sizeof good, &e);

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned char bad[64];
        sbx_fields f;
        sbx_log_entry got;

        memcpy(bad, good, sizeof bad);
        bad[cases[i].at] = cases[i].value;
        sbx_fields_init(&f, bad, len);
        cr_expect_eq(sbx_log_entry_take(&f, &got), -1, "%s", cases[i].name);
    }
    for (size_t cut = 1; cut < len; cut++) {
        sbx_fields f;
        sbx_log_entry got;

        sbx_fields_init(&f, good, cut);
        cr_expect_eq(sbx_log_entry_take(&f, &got), -1, "%zu bytes", cut);
    }
}

Test(agent_proto, an_entry_that_breaks_a_limit_is_not_put)
{
    static unsigned char buf[2 * SBX_LOG_LINE_BYTES];
    static char line[SBX_LOG_LINE_BYTES + 1];
    sbx_log_entry e = entry("abc", line, SBX_LOG_LINE_BYTES);
    size_t size = sbx_log_entry_size(&e);

    cr_expect_eq(sbx_log_entry_put(buf, size - 1, &e), 0);
    cr_expect_eq(sbx_log_entry_put(buf, size, &e), size);
    e.len++;
    cr_expect_eq(sbx_log_entry_put(buf, sizeof buf, &e), 0);
    e = entry("abc", line, 1);
    e.exec_id_len = SBX_LOG_ID_BYTES + 1;
    cr_expect_eq(sbx_log_entry_put(buf, sizeof buf, &e), 0);
}
