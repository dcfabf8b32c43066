/* The forms of the Redis bus that need no Redis: its URL and its messages. */
#include "bus/redis.h"
#include <criterion/criterion.h>

Test(bus_redis_url, good_ones_are_taken_apart)
{
    static const struct {
        const char *url, *host, *path, *user, *password;
        int port, db;
    } cases[] = {
        {"redis://localhost", "localhost", NULL, NULL, NULL, 6379, 0},
        {"redis://localhost/", "localhost", NULL, NULL, NULL, 6379, 0},
        {"redis://10.0.0.1:1234/15", "10.0.0.1", NULL, NULL, NULL, 1234, 15},
        {"redis://:secret@h", "h", NULL, NULL, "secret", 6379, 0},
        {"redis://me:s%40%3a%2F@h:1", "h", NULL, "me", "s@:/", 1, 0},
        {"redis://[::1]:7000/2", "::1", NULL, NULL, NULL, 7000, 2},
        {"redis://[fe80::1]", "fe80::1", NULL, NULL, NULL, 6379, 0},
        {"unix:///run/redis.sock", NULL, "/run/redis.sock", NULL, NULL, 6379, 0},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        redis_url u = {0};
        sbx_err err = {0};

        cr_expect_eq(redis_url_parse(cases[i].url, &u, &err), 0, "%s: %s", cases[i].url, err.msg);
#define SAME(field)                                                                                \
    cr_expect(cases[i].field ? sbx_streq(u.field, cases[i].field) : !u.field, "%s", cases[i].url)
        SAME(host);
        SAME(path);
        SAME(user);
        SAME(password);
        cr_expect_eq(u.port, cases[i].port, "%s", cases[i].url);
        cr_expect_eq(u.db, cases[i].db, "%s", cases[i].url);
        redis_url_done(&u);
    }
}

Test(bus_redis_url, bad_ones_are_refused_without_showing_the_password)
{
    static const char *const urls[] = {
        "",
        "redis://",
        "redis:///0",
        "rediss://h",
        "http://h",
        "localhost:6379",
        "redis://h:",
        "redis://h:0",
        "redis://h:65536",
        "redis://h:12a",
        "redis://h:1:2",
        "redis://h/x",
        "redis://h/65536",
        "redis://h/1/2",
        "redis://h/1?x=y",
        "redis://h#f",
        "redis://sesame@h",
        "redis://:@h",
        "redis://:sesame%4@h",
        "redis://:sesame%zz@h",
        "redis://:sesame%00@h",
        "redis://:ses ame@h",
        "redis://:sesame@",
        "redis://[::1",
        "redis://[]",
        "redis://[::1]x",
        "redis://a b",
        "redis://h\n",
        "redis://h\xc3\xa9",
        "unix://",
        "unix:///",
        "unix://relative",
        "unix:///aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    };

    for (size_t i = 0; i < ARRAY_LEN(urls); i++) {
        sbx_bus *b = NULL;
        sbx_err err = {0};

        cr_expect_eq(sbx_bus_redis_new(urls[i], &b, &err), -1, "%s", urls[i]);
        cr_expect_eq(err.code, SBX_E_INVALID);
        cr_expect_null(strstr(err.msg, "sesame"));
        cr_expect_null(b);
    }
}

Test(bus_redis_frames, what_is_written_is_read)
{
    static const sbx_bus_item items[] = {
        {.seq = 1, .data = "{}", .len = 2},
        {.seq = UINT64_MAX, .data = "a\nb 1 2\n", .len = 8},
        {.seq = 0, .data = "", .len = 0},
    };
    sbx_buf b = SBX_BUF_INIT(MIB);
    sbx_bus_item *have = NULL;

    for (size_t i = 0; i < ARRAY_LEN(items); i++)
        redis_frame_add(&b, &items[i]);
    cr_assert_eq(redis_frame_parse(b.data, b.len, &have), 3);
    for (size_t i = 0; i < ARRAY_LEN(items); i++) {
        cr_expect_eq(have[i].seq, items[i].seq);
        cr_assert_eq(have[i].len, items[i].len);
        cr_expect(memcmp(have[i].data, items[i].data, items[i].len) == 0);
    }
    free(have);
    for (size_t len = 0; len < b.len; len++) { /* every cut is refused or a whole item less */
        have = NULL;
        cr_expect_lt(redis_frame_parse(b.data, len, &have), 3, "%zu", len);
        free(have);
    }
    sbx_buf_done(&b);
}
