/* The configuration: see config.h. A file that holds a key must belong to the caller and be closed
 * to everybody else, for the key is as good as a password. */
#include "cli/config.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_LINE 4096
#define MAX_KEY  512

typedef struct found {
    char *url, *key, *key_file;
} found;

static void found_done(found *f)
{
    free(f->url);
    if (f->key)
        sbx_wipe(f->key, strlen(f->key));
    free(f->key);
    free(f->key_file);
}

static void keep(char **to, const char *value)
{
    if (!*to && value && *value)
        *to = sbx_strdup(value);
}

static char *default_path(void)
{
    const char *base = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");

    if (base && *base == '/')
        return sbx_asprintf("%s/sbx/config", base);
    return home && *home ? sbx_asprintf("%s/.config/sbx/config", home) : NULL;
}

/* A line of the file: NAME=VALUE. */
static int read_line(found *f, const char *path, int number, char *line, sbx_err *err)
{
    char *eq;

    line[strcspn(line, "\r\n")] = '\0';
    line += strspn(line, " \t");
    if (!*line || *line == '#')
        return 0;
    eq = strchr(line, '=');
    if (eq) {
        const char *value = eq + 1 + strspn(eq + 1, " \t");

        while (eq > line && (eq[-1] == ' ' || eq[-1] == '\t'))
            eq--;
        *eq = '\0';
        char **to = strcmp(line, "url") == 0       ? &f->url
                    : strcmp(line, "key") == 0     ? &f->key
                    : strcmp(line, "keyFile") == 0 ? &f->key_file
                                                   : NULL;
        if (to) {
            keep(to, value);
            return 0;
        }
    }
    return sbx_fail(err, SBX_E_INVALID, "%s, line %d: not url=, key= or keyFile=", path, number);
}

static int must_be_private(FILE *file, const char *path, sbx_err *err)
{
    struct stat st;

    if (fstat(fileno(file), &st))
        return sbx_fail(err, SBX_E_INVALID, "%s: %s", path, strerror(errno));
    if (st.st_uid != geteuid() && st.st_uid != 0)
        return sbx_fail(err, SBX_E_INVALID, "%s holds a key and belongs to another user", path);
    if (st.st_mode & 077)
        return sbx_fail(err, SBX_E_INVALID,
                        "%s holds a key and others can read it; do: chmod 600 %s", path, path);
    return 0;
}

static int read_file(found *f, const char *path, sbx_err *err)
{
    char line[MAX_LINE];
    bool had_key = f->key != NULL;
    int rc = 0;
    FILE *file = fopen(path, "re");

    if (!file)
        return errno == ENOENT || errno == ENOTDIR
                   ? 0
                   : sbx_fail(err, SBX_E_INVALID, "%s: %s", path, strerror(errno));
    for (int number = 1; !rc && fgets(line, sizeof(line), file); number++)
        rc = read_line(f, path, number, line, err);
    if (!rc && f->key && !had_key)
        rc = must_be_private(file, path, err);
    fclose(file);
    sbx_wipe(line, sizeof(line));
    return rc;
}

static int read_key_file(const char *path, char **ret, sbx_err *err)
{
    char line[MAX_KEY + 2] = "";
    FILE *file = fopen(path, "re");

    if (!file)
        return sbx_fail(err, SBX_E_INVALID, "the key file %s: %s", path, strerror(errno));
    bool any = fgets(line, sizeof(line), file) != NULL;
    fclose(file);
    line[strcspn(line, "\r\n")] = '\0';
    if (any && *line)
        *ret = sbx_strdup(line);
    sbx_wipe(line, sizeof(line));
    return *ret ? 0 : sbx_fail(err, SBX_E_INVALID, "the key file %s holds no key", path);
}

static int check_key(const char *key, sbx_err *err)
{
    for (const char *p = key; *p; p++)
        if (*p <= ' ' || *p >= 0x7f)
            return sbx_fail(err, SBX_E_INVALID, "the API key holds a character that no key has");
    return strlen(key) <= MAX_KEY ? 0 : sbx_fail(err, SBX_E_INVALID, "the API key is too long");
}

static int check_url(char *url, sbx_err *err)
{
    size_t scheme = strncmp(url, "http://", 7) == 0 ? 7 : strncmp(url, "https://", 8) == 0 ? 8 : 0;
    size_t len = strlen(url);

    for (const char *p = url; *p; p++)
        if (*p <= ' ' || *p >= 0x7f || strchr("?#@\"<>\\", *p))
            return sbx_fail(err, SBX_E_INVALID, "the server's address holds \"%c\"",
                            *p > ' ' && *p < 0x7f ? *p : '?');
    if (!scheme || !url[scheme] || url[scheme] == '/')
        return sbx_fail(err, SBX_E_INVALID,
                        "the server's address \"%.100s\" is not like http://host:port", url);
    while (len > scheme && url[len - 1] == '/')
        url[--len] = '\0';
    return 0;
}

/* The options first, then the environment; a key that stands in it wins over a file of one. */
static int take_all(const cli *c, found *f, sbx_err *err)
{
    const char *key_file = cli_opt(c, "key-file");
    SBX_CLEANUP(sbx_free_str) char *path = default_path();

    keep(&f->url, cli_opt(c, "url"));
    keep(&f->url, getenv("SBX_URL"));
    keep(&f->key_file, key_file);
    if (!key_file) {
        keep(&f->key, getenv("SBX_KEY"));
        keep(&f->key_file, getenv("SBX_KEY_FILE"));
    }
    if (f->url && (f->key || f->key_file))
        return 0;
    return path ? read_file(f, path, err) : 0;
}

int cli_config_read(const cli *c, cli_config *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(found_done) found f = {0};

    if (take_all(c, &f, err))
        return -1;
    if (!f.url)
        return sbx_fail(err, SBX_E_INVALID,
                        "no server: set SBX_URL, for example to http://127.0.0.1:7070");
    if (cli_flag(c, "key-file") && f.key) {
        sbx_wipe(f.key, strlen(f.key));
        free(sbx_steal(f.key));
    }
    if (!f.key && !f.key_file)
        return sbx_fail(err, SBX_E_INVALID,
                        "no API key: set SBX_KEY_FILE to the file that holds it, or SBX_KEY");
    if (!f.key && read_key_file(f.key_file, &f.key, err))
        return -1;
    if (check_url(f.url, err) || check_key(f.key, err))
        return -1;
    *ret = (cli_config){sbx_steal(f.url), sbx_steal(f.key)};
    return 0;
}

void cli_config_done(cli_config *config)
{
    if (config->key)
        sbx_wipe(config->key, strlen(config->key));
    free(config->key);
    free(config->url);
    *config = (cli_config){0};
}
