/* The options: precedence, ranges, and errors that say which option, from where, and its range. */
#include "sbx/core/options.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <unistd.h>

static void clear(void)
{
    unsetenv("SBX_QUEUE");
    unsetenv("SBX_LISTEN");
}

Test(options, flag_wins_over_environment_over_file_over_default, .init = clear)
{
    char path[] = "/tmp/sbx-options-XXXXXX";
    int fd = mkstemp(path);
    sbx_options o;
    sbx_err err;

    cr_assert(fd >= 0);
    dprintf(fd, "# a comment\n\nSBX_QUEUE=100\nSBX_LISTEN=1.2.3.4:5\n");
    close(fd);
    char *none[] = {NULL};
    cr_assert_eq(sbx_options_load(&o, 0, none, &err), 0, "%s", err.msg);
    cr_expect_eq(o.queue, 1024);
    sbx_options_done(&o);
    char *file[] = {(char *)"--config", path, NULL};
    cr_assert_eq(sbx_options_load(&o, 2, file, &err), 0, "%s", err.msg);
    cr_expect_eq(o.queue, 100);
    cr_expect_str_eq(o.listen, "1.2.3.4:5");
    sbx_options_done(&o);
    setenv("SBX_QUEUE", "200", 1);
    cr_assert_eq(sbx_options_load(&o, 2, file, &err), 0, "%s", err.msg);
    cr_expect_eq(o.queue, 200);
    sbx_options_done(&o);
    char *flag[] = {(char *)"--queue=300", (char *)"--config", path, NULL};
    cr_assert_eq(sbx_options_load(&o, 3, flag, &err), 0, "%s", err.msg);
    cr_expect_eq(o.queue, 300);
    sbx_options_done(&o);
    unlink(path);
}

Test(options, errors_say_which_option_and_what_it_may_be, .init = clear)
{
    static const struct {
        const char *arg, *in_message;
    } cases[] = {
        {"--queue=5", "--queue (SBX_QUEUE)"},
        {"--queue=5", "from 16 to 65536"},
        {"--queue=many", "\"many\""},
        {"--nothing=1", "--nothing"},
        {"--queue", "needs a value"},
        {"queue", "unexpected argument"},
        {"--config=/does/not/exist", "/does/not/exist"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *argv[] = {(char *)cases[i].arg, NULL};
        sbx_options o;
        sbx_err err = {0};

        cr_expect_eq(sbx_options_load(&o, 1, argv, &err), -1, "%s", cases[i].arg);
        cr_expect(strstr(err.msg, cases[i].in_message), "%s", err.msg);
        sbx_options_done(&o);
    }
}

Test(options, help_lists_every_option, .init = clear)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(64 * KIB);

    sbx_options_help(&b);
#define X(field, type, flag, env, dflt, min, max, secret, help)                                    \
    cr_expect(strstr(b.data, "--" flag) && strstr(b.data, env), "%s", flag);
    SBX_OPTIONS(X)
#undef X
}

Test(options, secret_values_are_taken_out_of_arguments_and_environment, .init = clear)
{
    char together[] = "--metrics-token=hunter2", flag[] = "--redis-url", value[] = "hunter3";
    char harmless[] = "--listen=1.2.3.4:5";
    char *argv[] = {together, flag, value, harmless, NULL};
    sbx_options o;
    sbx_err err;

    setenv("DATABASE_URL", "hunter4", 1);
    setenv("SBX_LISTEN", "5.6.7.8:9", 1);
    const char *set = getenv("DATABASE_URL");
    cr_assert_eq(sbx_options_load(&o, 4, argv, &err), 0, "%s", err.msg);
    sbx_options_hide(4, argv);
    cr_expect_str_eq(o.metrics_token, "hunter2");
    cr_expect_str_eq(o.redis_url, "hunter3");
    cr_expect_str_eq(o.database_url, "hunter4");
    cr_expect_str_eq(together, "--metrics-token=");
    cr_expect_str_eq(value, "");
    cr_expect_eq(set[3], '\0');
    cr_expect_str_eq(harmless, "--listen=1.2.3.4:5");
    cr_expect_str_eq(getenv("SBX_LISTEN"), "5.6.7.8:9");
    sbx_options_done(&o);
    unsetenv("DATABASE_URL");
}
