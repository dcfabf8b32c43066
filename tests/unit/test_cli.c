/* The command line without a server: reading arguments, text for people, tables, event streams. */
#include "cli/exec.h"
#include "cli/records.h"
#include "cli/sse.h"
#include "cli/text.h"
#include <criterion/criterion.h>
#include <locale.h>
#include <stdio.h>

/* --- arguments --- */

static int read_line(cli *c, char *words[], sbx_err *err)
{
    int count = 0;

    while (words[count])
        count++;
    *c = (cli){0};
    return cli_args_read(c, count, words, err);
}

#define READ(c, err, ...) read_line(&(c), (char *[]){__VA_ARGS__, NULL}, &(err))

Test(cli_args, options_are_taken_in_all_their_forms_and_the_last_one_counts)
{
    sbx_err err;
    cli c;
    size_t at = 0;

    cr_assert_eq(READ(c, err, "--json", "create", "--name", "a", "--name=b", "-eX=1", "-e", "Y=2",
                      "-t", "node", "--no-wait"),
                 0);
    cr_expect_str_eq(c.command->name, "create");
    cr_expect(c.json);
    cr_expect_str_eq(cli_opt(&c, "name"), "b");
    cr_expect_str_eq(cli_opt(&c, "template"), "node");
    cr_expect(cli_flag(&c, "no-wait"));
    cr_expect_null(cli_opt(&c, "size"));
    cr_expect_str_eq(cli_opt_each(&c, "env", &at), "X=1");
    cr_expect_str_eq(cli_opt_each(&c, "env", &at), "Y=2");
    cr_expect_null(cli_opt_each(&c, "env", &at));
    cli_args_done(&c);
}

Test(cli_args, nothing_behind_the_command_of_exec_is_an_option)
{
    sbx_err err;
    cli c;

    cr_assert_eq(READ(c, err, "exec", "box", "-i", "ls", "-l", "--", "--json"), 0);
    cr_expect(cli_flag(&c, "interactive"));
    cr_expect_not(c.json);
    cr_assert_eq(c.arg_count, 5);
    cr_expect_str_eq(c.args[2], "-l");
    cr_expect_str_eq(c.args[4], "--json");
    cli_args_done(&c);
    cr_assert_eq(READ(c, err, "exec", "box", "--", "-x"), 0);
    cr_expect_str_eq(c.args[1], "-x");
    cli_args_done(&c);
}

Test(cli_args, what_is_wrong_is_named_with_what_is_nearest)
{
    static const struct {
        char *words[5];
        const char *told;
    } cases[] = {
        {{"crate"}, "there is no command \"crate\"; did you mean create?"},
        {{"zzzzzz"}, "there is no command \"zzzzzz\""},
        {{"ls", "--josn"}, "unknown option --josn; did you mean --json?"},
        {{"ls", "--frobnicate"}, "unknown option --frobnicate"},
        {{"ls", "-z"}, "unknown option -z"},
        {{"ls", "--state"}, "--state needs a value: STATE"},
        {{"ls", "--state", "runing"}, "--state: \"runing\" is none of creating|running|pausing|"},
        {{"ls", "--json=yes"}, "--json takes no value"},
        {{"ls", "more"}, "\"more\" is one argument too many"},
        {{"start"}, "it needs ID..."},
        {{"create", "-t"}, "-t needs a value: NAME"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_err err = {0};
        cli c;

        cr_expect_eq(read_line(&c, (char **)cases[i].words, &err), -1, "%s", cases[i].told);
        cr_expect_eq(strncmp(err.msg, cases[i].told, strlen(cases[i].told)), 0, "%s", err.msg);
        cli_args_done(&c);
    }
}

Test(cli_args, help_is_found_wherever_it_is_asked_for)
{
    sbx_err err;
    cli c;

    cr_assert_eq(READ(c, err, "exec", "--help"), 0);
    cr_expect_str_eq(c.command->name, "help");
    cr_expect_str_eq(c.args[0], "exec");
    cli_args_done(&c);
    cr_assert_eq(READ(c, err, "-h"), 0);
    cr_expect_eq(c.arg_count, 0);
    cli_args_done(&c);
    cr_assert_eq(READ(c, err, "--version"), 0);
    cr_expect_str_eq(c.command->name, "version");
    cli_args_done(&c);
    cr_assert_eq(READ(c, err, "exec", "box", "ls", "--help"), 0);
    cr_expect_str_eq(c.command->name, "exec");
    cli_args_done(&c);
}

Test(cli_args, the_table_says_what_it_must)
{
    for (const cli_command *k = cli_commands; k->name; k++) {
        cr_expect(k->run && k->summary && k->options && k->args, "%s", k->name);
        for (const cli_option *o = k->options; o->name; o++) {
            cr_expect_not_null(o->doc, "%s --%s", k->name, o->name);
            for (const cli_option *g = cli_globals; g->name; g++) {
                cr_expect_str_neq(g->name, o->name, "%s", k->name);
                cr_expect(!o->letter || g->letter != o->letter, "%s -%c", k->name, o->letter);
            }
            for (const cli_option *p = k->options; p != o; p++)
                cr_expect(!o->letter || p->letter != o->letter, "%s -%c", k->name, o->letter);
        }
    }
}

Test(cli_args, times_and_sizes_are_read_with_their_units)
{
    static const struct {
        const char *text;
        int64_t ms; /* -1: refused */
    } times[] = {{"90", 90000},   {"90s", 90000},  {"500ms", 500},
                 {"1.5m", 90000}, {"2h", 7200000}, {"1d", 86400000},
                 {"", -1},        {"s", -1},       {"1y", -1},
                 {"-1", -1},      {"1..5", -1},    {"1.2345", -1},
                 {".5", -1},      {"1 s", -1},     {"9999999999999999999", -1}};
    static const struct {
        const char *text;
        int64_t mb;
    } sizes[] = {{"512", 512}, {"512M", 512}, {"1.5G", 1536}, {"2gb", 2048}, {"1T", -1}, {"x", -1}};

    for (size_t i = 0; i < ARRAY_LEN(times); i++) {
        int64_t ms = -1;

        cr_expect_eq(cli_parse_duration(times[i].text, &ms), times[i].ms >= 0, "%s", times[i].text);
        cr_expect_eq(ms, times[i].ms, "%s", times[i].text);
    }
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        int64_t mb = -1;

        cr_expect_eq(cli_parse_memory(sizes[i].text, &mb), sizes[i].mb >= 0, "%s", sizes[i].text);
        cr_expect_eq(mb, sizes[i].mb, "%s", sizes[i].text);
    }
}

Test(cli_args, places_are_told_from_paths_here)
{
    static const struct {
        const char *word, *id, *path;
    } cases[] = {{"box:a/b", "box", "a/b"}, {"box:/x:y", "box", "/x:y"}, {"box:", "box", ""},
                 {"./a:b", NULL, NULL},     {"/a:b", NULL, NULL},        {":x", NULL, NULL},
                 {"file", NULL, NULL}};

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        SBX_CLEANUP(sbx_free_str) char *id = NULL;
        const char *path;

        cr_expect_eq(cli_place(cases[i].word, &id, &path), cases[i].id != NULL, "%s",
                     cases[i].word);
        if (!cases[i].id || !id)
            continue;
        cr_expect_str_eq(id, cases[i].id);
        cr_expect_str_eq(path, cases[i].path);
    }
}

/* --- text --- */

static char *escaped(const char *text, size_t len)
{
    sbx_buf b = SBX_BUF_INIT(KIB);

    sbx_buf_adds(&b, "");
    cli_escape(&b, text, len);
    return sbx_buf_steal(&b);
}

Test(cli_text, nothing_of_others_reaches_the_terminal_as_a_control)
{
    static const struct {
        const char *text;
        size_t len;
        const char *shown;
    } cases[] = {
        {"plain ✓ 日本", 16, "plain ✓ 日本"},
        {"\033[31mred", 8, "\\x1b[31mred"},
        {"a\r\n\tb\a", 6, "a\\r\\n\\tb\\a"},
        {"\x7f", 1, "\\x7f"},
        {"\xc2\x9b", 2, "\\u009b"},
        {"\xe2\x80\xae", 3, "\\u202e"},
        {"\xff\xfe", 2, "\\xff\\xfe"},
        {"a\0b", 3, "a\\x00b"},
        {"\xf0\x9f\x98\x80", 4, "\xf0\x9f\x98\x80"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        SBX_CLEANUP(sbx_free_str) char *got = escaped(cases[i].text, cases[i].len);

        cr_expect_str_eq(got, cases[i].shown);
    }
}

Test(cli_text, widths_are_those_of_a_terminal)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(KIB);

    setlocale(LC_CTYPE, "C.UTF-8");
    cr_expect_eq(cli_width("abc"), 3);
    cr_expect_eq(cli_width("日本"), 4);
    cli_cut(&b, "日本語", 5);
    cr_expect_str_eq(b.data, "日本…");
    sbx_buf_reset(&b);
    cli_cut(&b, "abcdef", 6);
    cr_expect_str_eq(b.data, "abcdef");
    sbx_buf_reset(&b);
    cli_cut(&b, "abcdef", 3);
    cr_expect_str_eq(b.data, "ab…");
}

Test(cli_text, sizes_and_times_are_for_people)
{
    static const struct {
        double bytes;
        const char *text;
    } sizes[] = {{0, "0 B"},         {999, "999 B"},  {1024, "1.0 KB"}, {536870912, "512 MB"},
                 {1536e3, "1.5 MB"}, {1e12, "931 GB"}};
    static const struct {
        int64_t ms;
        const char *text;
    } spans[] = {{-5, "0s"},        {45000, "45s"},     {119999, "119s"},
                 {7199000, "119m"}, {172799000, "47h"}, {864000000, "10d"}};
    char out[16];
    int64_t ms;

    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        cli_size_text(sizes[i].bytes, out);
        cr_expect_str_eq(out, sizes[i].text);
    }
    for (size_t i = 0; i < ARRAY_LEN(spans); i++) {
        cli_span_text(spans[i].ms, out);
        cr_expect_str_eq(out, spans[i].text);
    }
    cr_expect(cli_time_read("2026-01-31T10:20:30.123Z", &ms));
    cr_expect_eq(ms, 1769854830123);
    cr_expect_not(cli_time_read("2026-01-31", &ms));
    cr_expect_not(cli_time_read(NULL, &ms));
}

static const cli_column three[] = {
    {"ID"}, {"NAME", .cut = true}, {"N", .right = true, .give_up = 1}};

static char *table(int columns, bool colour)
{
    cli_table t = {.columns = three, .column_count = 3};
    cli c = {.columns = columns, .colour = colour};
    sbx_buf out = SBX_BUF_INIT(8 * KIB);

    cli_cell_add(&t, "a1", CLI_PLAIN);
    cli_cell_add(&t, "a name\nthat is long", CLI_PLAIN);
    cli_cell_add(&t, "7", CLI_RED);
    cli_cell_add(&t, "b", CLI_PLAIN);
    cli_cell_add(&t, NULL, CLI_PLAIN);
    cli_cell_add(&t, "123", CLI_PLAIN);
    cli_table_print(&c, &t, &out);
    cli_table_done(&t);
    return sbx_buf_steal(&out);
}

Test(cli_table, columns_are_as_wide_as_they_need_and_shrink_for_a_terminal)
{
    SBX_CLEANUP(sbx_free_str) char *wide = table(0, false), *narrow = table(20, false);
    SBX_CLEANUP(sbx_free_str) char *tiny = table(12, false), *painted = table(0, true);

    cr_expect_str_eq(wide, "ID  NAME                    N\n"
                           "a1  a name\\nthat is long    7\n"
                           "b   -                     123\n");
    cr_expect_str_eq(narrow, "ID  NAME           N\n"
                             "a1  a name\\nth…    7\n"
                             "b   -            123\n");
    cr_expect_str_eq(tiny, "ID  NAME\n"
                           "a1  a name\\…\n"
                           "b   -\n");
    cr_expect(strstr(painted, "\033[31m7\033[0m"));
    cr_expect(strstr(painted, "\033[1mID\033[0m"));
}

Test(cli_quote, a_shell_reads_it_as_one_word)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(KIB);

    cli_quote(&b, "it's $HOME");
    cr_expect_str_eq(b.data, "'it'\\''s $HOME'");
}

/* --- event streams --- */

typedef struct heard {
    sbx_buf text;
    int stop_after;
} heard;

static bool hear(void *arg, const cli_event *e)
{
    heard *h = arg;

    sbx_buf_addf(&h->text, "[%s|%s|%.*s]", e->type, e->id, (int)e->len, e->data);
    return !h->stop_after || --h->stop_after > 0;
}

static void feed_in_pieces(const char *text, size_t piece, heard *h)
{
    cli_sse s;
    size_t len = strlen(text);

    cli_sse_init(&s, hear, h);
    for (size_t at = 0; at < len; at += piece)
        if (!cli_sse_feed(&s, text + at, SBX_MIN(piece, len - at)))
            break;
    cli_sse_done(&s);
}

Test(cli_sse, events_are_the_same_however_they_arrive)
{
    static const char text[] = ": ping\n\nid: 1\ndata: one\n\nevent: gap\r\nid: 2\r\ndata: a\r\n"
                               "data:b\r\n\r\ndata\n\nid: 3\n\nunknown: x\ndata:  two\n\ndata: cut";

    for (size_t piece = 1; piece < sizeof(text); piece++) {
        heard h = {.text = SBX_BUF_INIT(8 * KIB)};

        feed_in_pieces(text, piece, &h);
        cr_expect_str_eq(h.text.data, "[message|1|one][gap|2|a\nb][message|2|][message|3| two]",
                         "in pieces of %zu: %s", piece, h.text.data);
        sbx_buf_done(&h.text);
    }
}

Test(cli_sse, a_receiver_that_has_enough_gets_no_more)
{
    heard h = {.text = SBX_BUF_INIT(8 * KIB), .stop_after = 1};

    feed_in_pieces("data: a\n\ndata: b\n\n", 100, &h);
    cr_expect_str_eq(h.text.data, "[message||a]");
    sbx_buf_done(&h.text);
}
