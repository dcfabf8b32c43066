/* Reads a command line by the table of commands. */
#include "cli/cli.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

/* --- what is nearest to a word --- */

#define MAX_WORD 32

/* Insertions, deletions, replacements and exchanges of neighbours between two words. */
static size_t distance(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b), d[MAX_WORD + 1][MAX_WORD + 1];

    if (n > MAX_WORD || m > MAX_WORD)
        return MAX_WORD;
    for (size_t i = 0; i <= n; i++)
        d[i][0] = i;
    for (size_t j = 0; j <= m; j++)
        d[0][j] = j;
    for (size_t i = 1; i <= n; i++)
        for (size_t j = 1; j <= m; j++) {
            size_t best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);

            best = SBX_MIN(best, d[i - 1][j] + 1);
            best = SBX_MIN(best, d[i][j - 1] + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = SBX_MIN(best, d[i - 2][j - 2] + 1);
            d[i][j] = best;
        }
    return d[n][m];
}

const char *cli_nearest(const char *word, const char *(*next)(void *arg), void *arg)
{
    size_t len = strlen(word), least = SBX_MAX(len / 2, (size_t)1) + 1;
    const char *name, *best = NULL;

    while ((name = next(arg))) {
        size_t far = distance(word, name);

        /* what was only begun */
        if (len >= 3 && strncmp(word, name, len) == 0)
            far = SBX_MIN(far, (size_t)1);
        if (far < least) {
            least = far;
            best = name;
        }
    }
    return best;
}

static const char *next_command(void *arg)
{
    const cli_command **at = arg;

    return (*at)->name ? (*at)++->name : NULL;
}

typedef struct option_walk {
    const cli_option *own, *global;
} option_walk;

static const char *next_option(void *arg)
{
    option_walk *w = arg;

    if (w->own && w->own->name)
        return w->own++->name;
    return w->global->name ? w->global++->name : NULL;
}

const cli_command *cli_command_find(const char *name)
{
    for (const cli_command *k = cli_commands; k->name; k++)
        if (strcmp(k->name, name) == 0)
            return k;
    return NULL;
}

/* --- the words --- */

typedef struct words {
    cli *c;
    int argc, at;
    char **argv;
    bool no_more_options;
} words;

static const cli_option *find_option(const cli *c, const char *name, size_t len, char letter)
{
    const cli_option *tables[] = {c->command ? c->command->options : NULL, cli_globals};

    for (size_t t = 0; t < ARRAY_LEN(tables); t++)
        for (const cli_option *o = tables[t]; o && o->name; o++)
            if (letter ? o->letter == letter
                       : strlen(o->name) == len && memcmp(o->name, name, len) == 0)
                return o;
    return NULL;
}

static bool is_choice(const char *choices, const char *value)
{
    size_t len = strlen(value);

    for (const char *p = choices; *p; p += strcspn(p, "|"), p += *p == '|')
        if (strcspn(p, "|") == len && memcmp(p, value, len) == 0)
            return true;
    return false;
}

static int give(cli *c, const cli_option *o, const char *value, sbx_err *err)
{
    if (value && o->choices && !is_choice(o->choices, value))
        return sbx_fail(err, SBX_E_INVALID, "--%s: \"%.80s\" is none of %s", o->name, value,
                        o->choices);
    if (!(c->given_count & (c->given_count - 1)))
        c->given = sbx_realloc(c->given, SBX_MAX(c->given_count * 2, 1u) * sizeof(*c->given));
    c->given[c->given_count++] = (cli_given){o, value};
    return 0;
}

static int unknown_option(const cli *c, const char *word, size_t len, sbx_err *err)
{
    SBX_CLEANUP(sbx_free_str) char *name = sbx_strndup(word, len);
    option_walk walk = {c->command ? c->command->options : NULL, cli_globals};
    const char *near = cli_nearest(name, next_option, &walk);

    if (near)
        return sbx_fail(err, SBX_E_INVALID, "unknown option --%.80s; did you mean --%s?", name,
                        near);
    return sbx_fail(err, SBX_E_INVALID, "unknown option --%.80s", name);
}

/* --name, --name=value, --name value */
static int read_long(words *w, const char *word, sbx_err *err)
{
    size_t len = strcspn(word, "=");
    const cli_option *o = find_option(w->c, word, len, 0);
    const char *value = word[len] ? word + len + 1 : NULL;

    if (!o)
        return unknown_option(w->c, word, len, err);
    if (!o->value && value)
        return sbx_fail(err, SBX_E_INVALID, "--%s takes no value", o->name);
    if (o->value && !value) {
        if (w->at == w->argc)
            return sbx_fail(err, SBX_E_INVALID, "--%s needs a value: %s", o->name, o->value);
        value = w->argv[w->at++];
    }
    return give(w->c, o, value, err);
}

/* -x, -xvalue, -x value, -xyz */
static int read_short(words *w, const char *word, sbx_err *err)
{
    for (; *word; word++) {
        const cli_option *o = find_option(w->c, NULL, 0, *word);
        const char *value = NULL;

        if (!o)
            return sbx_fail(err, SBX_E_INVALID, "unknown option -%c", *word);
        if (o->value) {
            value = word[1] ? word + 1 : w->at < w->argc ? w->argv[w->at++] : NULL;
            if (!value)
                return sbx_fail(err, SBX_E_INVALID, "-%c needs a value: %s", *word, o->value);
        }
        if (give(w->c, o, value, err))
            return -1;
        if (value)
            break;
    }
    return 0;
}

static int take_argument(cli *c, char *word, sbx_err *err)
{
    const cli_command **at = &(const cli_command *){cli_commands};

    if (c->command) {
        c->args[c->arg_count++] = word;
        return 0;
    }
    c->command = cli_command_find(word);
    if (c->command)
        return 0;
    const char *near = cli_nearest(word, next_command, (void *)at);
    if (near)
        return sbx_fail(err, SBX_E_INVALID, "there is no command \"%.80s\"; did you mean %s?", word,
                        near);
    return sbx_fail(err, SBX_E_INVALID, "there is no command \"%.80s\"", word);
}

static int read_word(words *w, sbx_err *err)
{
    cli *c = w->c;
    char *word = w->argv[w->at++];

    if (w->no_more_options || word[0] != '-' || !word[1]) {
        if (take_argument(c, word, err))
            return -1;
        if (c->command->command_at >= 0 && c->arg_count > c->command->command_at)
            w->no_more_options = true;
        return 0;
    }
    if (strcmp(word, "--") == 0) {
        w->no_more_options = true;
        return 0;
    }
    return word[1] == '-' ? read_long(w, word + 2, err) : read_short(w, word + 1, err);
}

static int check_count(const cli *c, sbx_err *err)
{
    const cli_command *k = c->command;

    if (c->arg_count < k->min)
        return sbx_fail(err, SBX_E_INVALID, "it needs %s", k->args);
    if (k->max >= 0 && c->arg_count > k->max)
        return sbx_fail(err, SBX_E_INVALID, "\"%.80s\" is one argument too many", c->args[k->max]);
    return 0;
}

static bool asks_for(const cli *c, const char *name)
{
    for (size_t i = 0; i < c->given_count; i++)
        if (strcmp(c->given[i].option->name, name) == 0)
            return true;
    return false;
}

int cli_args_read(cli *c, int argc, char **argv, sbx_err *err)
{
    words w = {.c = c, .argc = argc, .argv = argv};
    int rc = 0;

    c->args = sbx_alloc(((size_t)argc + 1) * sizeof(*c->args));
    while (w.at < argc && !rc)
        rc = read_word(&w, err);
    c->json = asks_for(c, "json");
    c->quiet = asks_for(c, "quiet");
    c->verbose = asks_for(c, "verbose");
    if (asks_for(c, "help") || (!c->command && !rc)) {
        bool version = !c->command && asks_for(c, "version");

        c->args[0] = c->command ? (char *)c->command->name : NULL;
        c->arg_count = c->command != NULL;
        c->command = cli_command_find(version ? "version" : "help");
        return 0;
    }
    return rc ? -1 : check_count(c, err);
}

void cli_args_done(cli *c)
{
    free(c->args);
    free(c->given);
}

/* --- what was given --- */

const char *cli_opt_each(const cli *c, const char *name, size_t *at)
{
    if (!find_option(c, name, strlen(name), 0))
        abort(); /* the table does not have it */
    while (*at < c->given_count) {
        const cli_given *g = &c->given[(*at)++];

        if (strcmp(g->option->name, name) == 0)
            return g->value ? g->value : "";
    }
    return NULL;
}

const char *cli_opt(const cli *c, const char *name)
{
    const char *value, *last = NULL;
    size_t at = 0;

    while ((value = cli_opt_each(c, name, &at)))
        last = value;
    return last;
}

bool cli_flag(const cli *c, const char *name)
{
    return cli_opt(c, name) != NULL;
}

/* --- values --- */

bool cli_parse_milli(const char *text, int64_t *ret)
{
    size_t whole = strcspn(text, "."), part = text[whole] ? strlen(text + whole + 1) : 0;
    char digits[24];

    if (!whole || whole > 12 || part > 3 || (text[whole] && !part))
        return false;
    snprintf(digits, sizeof(digits), "%.*s%s%.*s", (int)whole, text, part ? text + whole + 1 : "",
             (int)(3 - part), "000");
    return sbx_parse_i64(digits, 0, INT64_MAX, ret) && digits[0] != '-';
}

/* A number and its unit. @return false unless it is a number of thousandths and a known unit. */
static bool with_unit(const char *text, const char *const *units, const int64_t *factors,
                      int64_t *ret)
{
    size_t len = strspn(text, "0123456789.");
    char number[24];
    int64_t milli;

    if (len >= sizeof(number))
        return false;
    snprintf(number, sizeof(number), "%.*s", (int)len, text);
    if (!cli_parse_milli(number, &milli))
        return false;
    for (size_t i = 0; units[i]; i++) {
        int64_t product;

        if (strcasecmp(units[i], text + len) != 0)
            continue;
        if (__builtin_mul_overflow(milli, factors[i], &product))
            return false;
        *ret = product / 1000;
        return true;
    }
    return false;
}

bool cli_parse_duration(const char *text, int64_t *ret_ms)
{
    static const char *const units[] = {"", "ms", "s", "m", "h", "d", NULL};
    static const int64_t factors[] = {1000, 1, 1000, 60000, 3600000, 86400000};

    return with_unit(text, units, factors, ret_ms);
}

bool cli_parse_memory(const char *text, int64_t *ret_mb)
{
    static const char *const units[] = {"", "M", "MB", "MiB", "G", "GB", "GiB", NULL};
    static const int64_t factors[] = {1, 1, 1, 1, 1024, 1024, 1024};

    return with_unit(text, units, factors, ret_mb);
}

/* --- telling --- */

static void SBX_PRINTF(2, 0) tell(const cli *c, const char *fmt, va_list ap)
{
    fprintf(stderr, "sbx%s%s: ", c->command ? " " : "", c->command ? c->command->name : "");
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
}

int cli_usage(const cli *c, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    tell(c, fmt, ap);
    va_end(ap);
    fprintf(stderr, "See: sbx help%s%s\n", c->command ? " " : "",
            c->command ? c->command->name : "");
    return CLI_USAGE;
}

int cli_fail(const cli *c, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    tell(c, fmt, ap);
    va_end(ap);
    return CLI_FAILED;
}

void cli_warn(const cli *c, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    tell(c, fmt, ap);
    va_end(ap);
}

void cli_note(const cli *c, const char *fmt, ...)
{
    va_list ap;

    if (!c->verbose)
        return;
    va_start(ap, fmt);
    tell(c, fmt, ap);
    va_end(ap);
}

bool cli_write(int fd, const void *data, size_t len)
{
    const char *p = data;

    while (len) {
        ssize_t n = write(fd, p, len);
        struct pollfd wait = {.fd = fd, .events = POLLOUT};

        if (n < 0 && errno == EAGAIN)
            poll(&wait, 1, -1); /* who started sbx has made it so */
        else if (n < 0 && errno != EINTR)
            return false;
        if (n > 0) {
            p += n;
            len -= (size_t)n;
        }
    }
    return true;
}
