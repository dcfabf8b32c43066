/* Reads the options table: file, then environment, then flags; the later source wins. */
#include "sbx/core/options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

typedef enum option_type { STR, INT } option_type;

typedef struct option_row {
    size_t offset;
    option_type type;
    const char *flag, *env, *dflt;
    int64_t min, max;
    bool secret;
    const char *help;
} option_row;

static const option_row rows[] = {
#define X(field, type, flag, env, dflt, min, max, secret, help)                                    \
    {offsetof(sbx_options, field), type, flag, env, dflt, min, max, secret, help},
    SBX_OPTIONS(X)
#undef X
};

#define MAX_FILE_LINE 4096

static int set(sbx_options *o, const option_row *r, const char *value, const char *source,
               sbx_err *err)
{
    void *at = (char *)o + r->offset;

    if (r->type == STR) {
        free(*(char **)at);
        *(char **)at = sbx_strdup(value);
        return 0;
    }
    if (!sbx_parse_i64(value, r->min, r->max, at))
        return sbx_fail(err, SBX_E_INVALID,
                        "option --%s (%s), from %s: \"%s\" is not a whole number from %" PRId64
                        " to %" PRId64,
                        r->flag, r->env, source, r->secret ? "***" : value, r->min, r->max);
    return 0;
}

static const option_row *find(const char *name, size_t len, bool flag)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const char *have = flag ? rows[i].flag : rows[i].env;

        if (strlen(have) == len && memcmp(have, name, len) == 0)
            return &rows[i];
    }
    return NULL;
}

static int read_line(sbx_options *o, const char *path, int number, char *line, sbx_err *err)
{
    line[strcspn(line, "\r\n")] = '\0';
    line += strspn(line, " \t");
    if (!*line || *line == '#')
        return 0;
    char *eq = strchr(line, '=');
    const option_row *r = eq ? find(line, (size_t)(eq - line), false) : NULL;
    if (!r)
        return sbx_fail(err, SBX_E_INVALID,
                        "%s, line %d: not NAME=VALUE with a name that `sandboxd --help` lists",
                        path, number);
    return set(o, r, eq + 1, path, err);
}

static int read_file(sbx_options *o, const char *path, sbx_err *err)
{
    char line[MAX_FILE_LINE];
    int rc = 0;
    FILE *f = fopen(path, "re");

    if (!f)
        return sbx_fail(err, SBX_E_INVALID, "configuration file %s: %s", path, strerror(errno));
    for (int number = 1; !rc && fgets(line, sizeof(line), f); number++)
        rc = read_line(o, path, number, line, err);
    fclose(f);
    return rc;
}

/* Splits "--flag=value" or "--flag value". Moves *i to the last argument used. */
static int split_flag(int argc, char **argv, int *i, const char **ret_name, size_t *ret_len,
                      const char **ret_value, sbx_err *err)
{
    const char *a = argv[*i];

    if (strncmp(a, "--", 2) != 0)
        return sbx_fail(err, SBX_E_INVALID, "unexpected argument \"%s\"; see sandboxd --help", a);
    a += 2;
    const char *eq = strchr(a, '=');
    *ret_name = a;
    *ret_len = eq ? (size_t)(eq - a) : strlen(a);
    if (!eq && *i + 1 >= argc)
        return sbx_fail(err, SBX_E_INVALID, "option --%s needs a value", a);
    *ret_value = eq ? eq + 1 : argv[++*i];
    return 0;
}

static int walk_flags(sbx_options *o, int argc, char **argv, bool file_only, sbx_err *err)
{
    for (int i = 0; i < argc; i++) {
        const char *name = NULL, *value = NULL;
        size_t len = 0;

        if (split_flag(argc, argv, &i, &name, &len, &value, err))
            return -1;
        bool is_file = len == 6 && memcmp(name, "config", 6) == 0;
        const option_row *r = find(name, len, true);
        if (!is_file && !r)
            return sbx_fail(err, SBX_E_INVALID, "unknown option --%.*s; see sandboxd --help",
                            (int)len, name);
        if (file_only ? is_file && read_file(o, value, err)
                      : !is_file && set(o, r, value, "the command line", err))
            return -1;
    }
    return 0;
}

int sbx_options_load(sbx_options *o, int argc, char **argv, sbx_err *err)
{
    *o = (sbx_options){0};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (set(o, &rows[i], rows[i].dflt, "the default", err))
            return -1;
    if (walk_flags(o, argc, argv, true, err))
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const char *value = getenv(rows[i].env);

        if (value && set(o, &rows[i], value, "the environment", err))
            return -1;
    }
    return walk_flags(o, argc, argv, false, err);
}

void sbx_options_hide(int argc, char **argv)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char *value = rows[i].secret ? getenv(rows[i].env) : NULL;

        if (value)
            sbx_wipe(value, strlen(value));
    }
    for (int i = 0; i < argc; i++) {
        const char *name, *value;
        sbx_err ignored;
        size_t len;

        if (split_flag(argc, argv, &i, &name, &len, &value, &ignored))
            return;
        const option_row *r = find(name, len, true);
        if (r && r->secret)
            sbx_wipe((char *)(uintptr_t)value, strlen(value));
    }
}

void sbx_options_done(sbx_options *o)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].type == STR) {
            char **at = (char **)(void *)((char *)o + rows[i].offset);

            if (*at && rows[i].secret)
                sbx_wipe(*at, strlen(*at));
            free(*at);
        }
    *o = (sbx_options){0};
}

void sbx_options_help(sbx_buf *out)
{
    sbx_buf_addf(out, "  %-23s %-23s %s\n", "--config FILE", "",
                 "lines NAME=VALUE, names as in the second column");
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const option_row *r = &rows[i];

        sbx_buf_addf(out, "  --%-21s %-23s %s", r->flag, r->env, r->help);
        if (r->type == INT)
            sbx_buf_addf(out, " (%" PRId64 "-%" PRId64 ", default %s)\n", r->min, r->max, r->dflt);
        else
            sbx_buf_addf(out, "%s%s%s\n", *r->dflt ? " (default " : "", r->dflt,
                         *r->dflt ? ")" : "");
    }
}
