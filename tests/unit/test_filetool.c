/* The parts of sbx-files that are text in, text out. What touches files: tests/system/filetool_*.
 */
#include "changes.h"
#include "entry.h"
#include "extract.h"
#include "path.h"
#include "range.h"
#include "records.h"
#include "seen.h"
#include "temp.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

Test(filetool_range, ranges_as_rfc_9110_has_them)
{
    static const struct {
        const char *text;
        int64_t size;
        int rc;
        ft_code code;
        int64_t from, to;
    } cases[] = {
        {"-", 10, 0, 0, 0, 10},
        {"-", 0, 0, 0, 0, 0},
        {"0-0", 10, 0, 0, 0, 1},
        {"2-5", 10, 0, 0, 2, 6},
        {"2-", 10, 0, 0, 2, 10},
        {"2-99", 10, 0, 0, 2, 10},
        {"9-9223372036854775807", 10, 0, 0, 9, 10},
        {"-4", 10, 0, 0, 6, 10},
        {"-99", 10, 0, 0, 0, 10},
        {"-1", 0, 0, 0, 0, 0},
        {"10-", 10, -1, FT_E_RANGE, 0, 0},
        {"0-0", 0, -1, FT_E_RANGE, 0, 0},
        {"-0", 10, -1, FT_E_RANGE, 0, 0},
        {"5-4", 10, -1, FT_E_INVALID, 0, 0},
        {"", 10, -1, FT_E_INVALID, 0, 0},
        {"5", 10, -1, FT_E_INVALID, 0, 0},
        {"--5", 10, -1, FT_E_INVALID, 0, 0},
        {"0x1-2", 10, -1, FT_E_INVALID, 0, 0},
        {"9223372036854775808-", 10, -1, FT_E_INVALID, 0, 0},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int64_t from = 0, to = 0;
        ft_err err = {0};
        int rc = ft_range_parse(cases[i].text, cases[i].size, &from, &to, &err);

        cr_expect_eq(rc, cases[i].rc, "%s", cases[i].text);
        cr_expect_eq(err.code, cases[i].code, "%s", cases[i].text);
        cr_expect_eq(from, cases[i].from, "%s", cases[i].text);
        cr_expect_eq(to, cases[i].to, "%s", cases[i].text);
    }
}

Test(filetool_path, paths_are_joined_and_squeezed_but_not_climbed)
{
    static const struct {
        const char *asked, *found;
    } cases[] = {
        {"x", "/home/user/x"},
        {"./x/", "/home/user/x"},
        {".", "/home/user"},
        {"/", "/"},
        {"//a///b/./c/.", "/a/b/c"},
        {"a/../b", "/home/user/a/../b"},
        {"/..", "/.."},
        {".hidden", "/home/user/.hidden"},
        {"...", "/home/user/..."},
        {"/a b\n\xff", "/a b\n\xff"},
    };
    char path[FT_PATH_BYTES];
    ft_err err = {0};

    setenv("HOME", "/home/user/", 1);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        cr_expect_eq(ft_path_resolve(cases[i].asked, path, &err), 0);
        cr_expect_str_eq(path, cases[i].found);
    }
    cr_expect_eq(ft_path_resolve("", path, &err), -1);
    cr_expect_eq(err.code, FT_E_INVALID);
}

Test(filetool_path, the_longest_path_that_fits_is_one_below_its_buffer)
{
    char asked[FT_PATH_BYTES + 2], path[FT_PATH_BYTES];
    ft_err err = {0};

    memset(asked, 'x', sizeof(asked));
    asked[0] = '/';
    asked[FT_PATH_BYTES - 1] = '\0';
    cr_expect_eq(ft_path_resolve(asked, path, &err), 0);
    cr_expect_eq(strlen(path), FT_PATH_BYTES - 1);
    asked[FT_PATH_BYTES - 1] = 'x';
    asked[FT_PATH_BYTES] = '\0';
    cr_expect_eq(ft_path_resolve(asked, path, &err), -1);
    cr_expect_str_eq(err.path, "");
}

Test(filetool_path, the_last_name)
{
    cr_expect_str_eq(ft_path_name("/a/b"), "b");
    cr_expect_str_eq(ft_path_name("/a"), "a");
    cr_expect_str_eq(ft_path_name("/"), "/");
}

Test(filetool_path, modes_are_octal)
{
    static const struct {
        const char *text;
        int rc, mode;
    } cases[] = {{"-", 0, -1},
                 {"0", 0, 0},
                 {"0644", 0, 0644},
                 {"7777", 0, 07777},
                 {"0000000", 0, 0},
                 {"10000", -1, 0},
                 {"8", -1, 0},
                 {"", -1, 0},
                 {"-1", -1, 0},
                 {" 7", -1, 0},
                 {"77777777777777777777", -1, 0}};

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        ft_err err = {0};
        int mode = 0;

        cr_expect_eq(ft_arg_mode(cases[i].text, &mode, &err), cases[i].rc, "%s", cases[i].text);
        if (cases[i].rc == 0)
            cr_expect_eq(mode, cases[i].mode, "%s", cases[i].text);
    }
}

static void expect_line(const ft_err *err, const char *want)
{
    sbx_buf line = SBX_BUF_INIT(32 * KIB);

    ft_err_line(err, &line);
    cr_expect_str_eq(line.data, want);
    cr_expect(line.len <= FT_MAX_ERROR_BYTES);
    sbx_buf_done(&line);
}

Test(filetool_fail, the_line_of_an_error)
{
    ft_err err;

    cr_expect_eq(ft_fail(&err, FT_E_EXISTS, "/a\"b", "it is %s", "there"), -1);
    expect_line(&err, "{\"code\":\"exists\",\"message\":\"it is there\",\"path\":\"/a\\\"b\"}\n");
    (void)ft_fail(&err, FT_E_IO, "/\xff", "x");
    expect_line(&err, "{\"code\":\"io_error\",\"message\":\"x\",\"path\":\"L/8=\","
                      "\"encoding\":\"base64\"}\n");
    (void)ft_fail(&err, FT_E_IO, NULL, "from a library: \xff\n\"q\"");
    expect_line(&err, "{\"code\":\"io_error\",\"message\":\"from a library: ??\\\"q\\\"\"}\n");
    (void)ft_fail(&err, FT_E_RANGE, NULL, "none");
    err.size_bytes = 7;
    expect_line(&err, "{\"code\":\"range\",\"message\":\"none\",\"sizeBytes\":7}\n");
}

Test(filetool_fail, a_path_too_long_for_the_line_is_left_out)
{
    char path[FT_PATH_BYTES];
    ft_err err;

    memset(path, 'x', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    (void)ft_fail(&err, FT_E_INVALID, path, "x");
    expect_line(&err, "{\"code\":\"invalid\",\"message\":\"x\"}\n");
    for (size_t len = 900; len < 1000; len++) {
        sbx_buf line = SBX_BUF_INIT(32 * KIB);

        path[len] = '\0';
        (void)ft_fail(&err, FT_E_INVALID, path, "x");
        ft_err_line(&err, &line);
        cr_expect(line.len <= FT_MAX_ERROR_BYTES);
        sbx_buf_done(&line);
        path[len] = 'x';
    }
}

Test(filetool_extract, names_in_normal_form)
{
    static const struct {
        const char *name;
        int rc;
        const char *found;
    } cases[] = {
        {"a/b", 0, "a/b"}, {"./a//b/", 0, "a/b"}, {".", 0, ""},         {"./", 0, ""},
        {"..a", 0, "..a"}, {"a/...", 0, "a/..."}, {"..", -1, NULL},     {"a/..", -1, NULL},
        {"/a", -1, NULL},  {"//", -1, NULL},      {"a/../b", -1, NULL}, {"../a", -1, NULL},
    };
    char found[FT_PATH_BYTES], longest[FT_PATH_BYTES + 8];
    ft_err err = {0};

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        cr_expect_eq(ft_extract_normal(cases[i].name, found, &err), cases[i].rc, "%s",
                     cases[i].name);
        if (cases[i].rc == 0)
            cr_expect_str_eq(found, cases[i].found);
    }
    memset(longest, 'x', sizeof(longest));
    longest[256] = '\0';
    cr_expect_eq(ft_extract_normal(longest, found, &err), -1);
    for (size_t i = 0; i < sizeof(longest); i++)
        longest[i] = i % 2 ? '/' : 'x';
    longest[sizeof(longest) - 1] = '\0';
    cr_expect_eq(ft_extract_normal(longest, found, &err), -1);
    longest[FT_PATH_BYTES - 3] = '\0';
    cr_expect_eq(ft_extract_normal(longest, found, &err), 0);
}

Test(filetool_extract, links_that_stay_and_links_that_lead_out)
{
    static const struct {
        const char *target;
        int depth;
        bool stays;
    } cases[] = {
        {"x", 0, true},          {"x/y", 0, true},    {"../x", 1, true},
        {"../../x", 2, true},    {"./../x", 1, true}, {"..", 1, true},
        {".", 0, true},          {"...", 0, true},    {"..", 0, false},
        {"../..", 1, false},     {"x/..", 5, false},  {"/x", 5, false},
        {"../x/../y", 5, false}, {"", 0, false},      {"../../x", 1, false},
        {".//..//..", 1, false},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        cr_expect_eq(ft_extract_stays(cases[i].target, cases[i].depth), cases[i].stays, "%s at %d",
                     cases[i].target, cases[i].depth);
}

Test(filetool_seen, siphash_gives_the_answers_of_its_paper)
{
    uint64_t key[2] = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
    unsigned char data[15];

    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (unsigned char)i;
    cr_expect_eq(ft_siphash(key, data, 15), 0xa129ca6149be45e5);
    cr_expect_eq(ft_siphash(key, data, 0), 0x726fdb47dd0e0e31);
    cr_expect_eq(ft_siphash(key, data, 8), 0x93f5f5799a932462);
}

Test(filetool_seen, a_set_of_many_names)
{
    ft_seen s;
    char name[32];

    ft_seen_init(&s);
    cr_expect_not(ft_seen_has(&s, "0"));
    for (int i = 0; i < 20000; i += 2) {
        (void)snprintf(name, sizeof(name), "%d", i);
        ft_seen_add(&s, name);
        ft_seen_add(&s, name);
    }
    cr_expect_eq(s.n, 10000);
    for (int i = 0; i < 20000; i++) {
        (void)snprintf(name, sizeof(name), "%d", i);
        cr_assert_eq(ft_seen_has(&s, name), i % 2 == 0);
    }
    ft_seen_done(&s);
}

Test(filetool_temp, hidden_names)
{
    char a[FT_HIDDEN_BYTES], b[FT_HIDDEN_BYTES];

    ft_hidden_name(a);
    ft_hidden_name(b);
    cr_expect(ft_hidden(a));
    cr_expect_str_neq(a, b);
    cr_expect_not(ft_hidden(".sbx-"));
    cr_expect_not(ft_hidden(".sbx-0123456789abcdeX"));
    cr_expect_not(ft_hidden(".sbx-0123456789abcdef0"));
    cr_expect_not(ft_hidden("x.sbx-0123456789abcde"));
}

Test(filetool_entry, etags_differ_by_every_part)
{
    struct stat st = {.st_dev = 1, .st_ino = 2, .st_size = 3};
    char first[FT_ETAG_BYTES], next[FT_ETAG_BYTES];

    ft_etag(&st, first);
#define DIFFERS(member)                                                                            \
    do {                                                                                           \
        struct stat other = st;                                                                    \
        other.member++;                                                                            \
        ft_etag(&other, next);                                                                     \
        cr_expect_str_neq(first, next, #member);                                                   \
    } while (0)
    DIFFERS(st_dev);
    DIFFERS(st_ino);
    DIFFERS(st_size);
    DIFFERS(st_mtim.tv_sec);
    DIFFERS(st_mtim.tv_nsec);
    DIFFERS(st_ctim.tv_sec);
    DIFFERS(st_ctim.tv_nsec);
    memset(&st, 0xff, sizeof(st));
    st.st_mtim.tv_nsec = st.st_ctim.tv_nsec = 999999999;
    ft_etag(&st, next);
    cr_expect(strlen(next) <= 90, "%s", next);
}

static void expect_changes(const ft_changes *c, const char *want)
{
    static const char letters[] = "cwrmao"; /* in the order of ft_kind */
    char found[256] = "";
    size_t n = 0;

    for (size_t i = 0; i < c->n; i++)
        n += (size_t)snprintf(found + n, sizeof(found) - n, "%c%s%s%s ", letters[c->list[i].kind],
                              c->list[i].path ? c->list[i].path : "", c->list[i].to ? ">" : "",
                              c->list[i].to ? c->list[i].to : "");
    cr_expect_str_eq(found, want);
}

Test(filetool_changes, what_goes_without_saying_is_merged)
{
    ft_changes c = {0};

    (void)ft_changes_add(&c, FT_CREATE, "a");
    cr_expect_eq(ft_changes_add(&c, FT_WRITE, "a"), SIZE_MAX);
    cr_expect_eq(ft_changes_add(&c, FT_CHMOD, "a"), SIZE_MAX);
    (void)ft_changes_add(&c, FT_WRITE, "b");
    (void)ft_changes_add(&c, FT_CHMOD, "b");
    (void)ft_changes_add(&c, FT_WRITE, "b");
    (void)ft_changes_add(&c, FT_REMOVE, "a");
    (void)ft_changes_add(&c, FT_CREATE, "a");
    (void)ft_changes_add(&c, FT_WRITE, "a");
    (void)ft_changes_add(&c, FT_OVERFLOW, NULL);
    expect_changes(&c, "ca wb ab ra ca o ");
    ft_changes_done(&c);
}

Test(filetool_changes, a_removal_that_was_a_move)
{
    ft_changes c = {0};
    size_t number;

    (void)ft_changes_add(&c, FT_WRITE, "b");
    number = ft_changes_add(&c, FT_REMOVE, "a");
    ft_changes_renamed(&c, number, "b");
    (void)ft_changes_add(&c, FT_WRITE, "b");
    expect_changes(&c, "wb ma>b wb ");
    ft_changes_done(&c);
}

typedef struct source {
    const char *data;
    size_t size, at, piece;
} source;

static ssize_t from_memory(void *ctx, void *data, size_t len, ft_err *err)
{
    source *s = ctx;

    (void)err;
    len = SBX_MIN(SBX_MIN(len, s->piece), s->size - s->at);
    memcpy(data, s->data + s->at, len);
    s->at += len;
    return (ssize_t)len;
}

Test(filetool_records, a_record_in_pieces_of_any_size)
{
    static const char data[] = "\x01\0\0\0"
                               "\x03\0\0\0\xa4\x01\0\0\x05\0\0\0\0\0\0\0a/bhello";

    for (size_t piece = 1; piece < sizeof(data); piece++) {
        source s = {.data = data, .size = sizeof(data) - 1, .piece = piece};
        ft_record r;
        ft_err err;
        uint32_t count = 0;

        cr_assert_eq(ft_records_count(from_memory, &s, &count, &err), 0);
        cr_expect_eq(count, 1);
        cr_assert_eq(ft_records_next(from_memory, &s, &r, &err), 0);
        cr_expect_str_eq(r.path, "a/b");
        cr_expect_eq(r.mode, 0644);
        cr_expect_eq(r.size, 5);
        cr_expect_eq(s.size - s.at, 5);
    }
}
