/* Resolving is of text alone; following asks the kernel. */
#include "path.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "owners.h"

/* Appends the names of `text`, each behind a slash. */
static int append(char out[FT_PATH_BYTES], size_t *len, const char *text, ft_err *err)
{
    while (*text) {
        size_t n = strcspn(text, "/");

        if (n > 0 && !(n == 1 && text[0] == '.')) {
            if (*len + n + 2 > FT_PATH_BYTES)
                return ft_fail(err, FT_E_INVALID, NULL, "the path is longer than %d bytes",
                               FT_PATH_BYTES - 1);
            out[(*len)++] = '/';
            memcpy(out + *len, text, n);
            *len += n;
        }
        text += n;
        text += strspn(text, "/");
    }
    out[*len] = '\0';
    return 0;
}

int ft_path_resolve(const char *arg, char ret[FT_PATH_BYTES], ft_err *err)
{
    char found[FT_PATH_BYTES];
    const char *home = getenv("HOME");
    size_t len = 0;

    if (!arg[0])
        return ft_fail(err, FT_E_INVALID, NULL, "the path is empty");
    if (arg[0] != '/') {
        if (!home || home[0] != '/')
            home = ft_owner_home(geteuid(), found, sizeof(found)) ? found : NULL;
        if (!home)
            return ft_fail(err, FT_E_INVALID, arg,
                           "the path is relative, and the user has no home: give it from /");
        if (append(ret, &len, home, err) < 0)
            return -1;
    }
    if (append(ret, &len, arg, err) < 0)
        return -1;
    if (len == 0)
        memcpy(ret, "/", 2);
    return 0;
}

int ft_path_follow(char path[FT_PATH_BYTES], ft_err *err)
{
    char target[FT_PATH_BYTES], from[FT_PATH_BYTES];

    for (int links = 0; links < 40; links++) {
        ssize_t n = readlink(path, target, sizeof(target) - 1);
        size_t len = 0;

        if (n < 0)
            return 0; /* no link, or the next call tells what is wrong */
        target[n] = '\0';
        (void)sbx_copy(from, sizeof(from), path);
        if (target[0] != '/') {
            from[ft_path_name(from) - from] = '\0';
            if (append(path, &len, from, err) < 0)
                return -1;
        }
        if (append(path, &len, target, err) < 0)
            return -1;
        if (len == 0)
            memcpy(path, "/", 2);
    }
    return ft_fail(err, FT_E_INVALID, path, "too many links lead to each other");
}

const char *ft_path_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash && slash[1] ? slash + 1 : path;
}

void ft_made_done(ft_made *made)
{
    for (size_t i = 0; i < made->n; i++)
        free(made->paths[i]);
    free(made->paths);
    *made = (ft_made){0};
}

void ft_made_undo(ft_made *made)
{
    for (size_t i = made->n; i > 0; i--)
        (void)rmdir(made->paths[i - 1]);
    ft_made_done(made);
}

static void made_add(ft_made *made, const char *path)
{
    if ((made->n & (made->n - 1)) == 0)
        made->paths = sbx_realloc(made->paths, SBX_MAX(made->n * 2, 1u) * sizeof(char *));
    made->paths[made->n++] = sbx_strdup(path);
}

int ft_path_make_parents(const char *path, ft_made *made, ft_err *err)
{
    char part[FT_PATH_BYTES];
    size_t end = (size_t)(ft_path_name(path) - path);
    struct stat st;

    (void)sbx_copy(part, sizeof(part), path);
    if (end > 1) {
        part[end - 1] = '\0';
        if (stat(part, &st) == 0)
            return S_ISDIR(st.st_mode)
                       ? 0
                       : ft_fail(err, FT_E_NOT_DIRECTORY, part, "it is not a directory");
        part[end - 1] = '/';
    }
    for (size_t i = 1; i < end; i++) {
        if (part[i] != '/')
            continue;
        part[i] = '\0';
        int errnum = mkdir(part, 0777) == 0 ? 0 : errno;

        if (errnum == 0) {
            made_add(made, part);
        } else if (errnum != EEXIST && (stat(part, &st) < 0 || !S_ISDIR(st.st_mode))) {
            errno = errnum;
            return ft_fail_errno(err, part, "cannot make the directory");
        }
        part[i] = '/';
    }
    return 0;
}

int ft_path_open_parent(const char *path, const char **ret_name, ft_err *err)
{
    char parent[FT_PATH_BYTES];
    const char *name = ft_path_name(path);
    size_t end = (size_t)(name - path);
    int fd;

    if (end == 0 || strcmp(name, "..") == 0)
        return ft_fail(err, FT_E_INVALID, path, "the path does not end with a name");
    if (strlen(name) > NAME_MAX)
        return ft_fail(err, FT_E_INVALID, path, "its last name is longer than %d bytes", NAME_MAX);
    memcpy(parent, path, end);
    parent[end > 1 ? end - 1 : end] = '\0';
    fd = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return ft_fail_errno(err, parent, "cannot open the directory");
    *ret_name = name;
    return fd;
}

int ft_arg_flag(const char *arg, const char *what, bool *ret, ft_err *err)
{
    if (strcmp(arg, "0") != 0 && strcmp(arg, "1") != 0)
        return ft_fail(err, FT_E_INVALID, NULL, "%s must be 0 or 1", what);
    *ret = arg[0] == '1';
    return 0;
}

int ft_arg_mode(const char *arg, int *ret, ft_err *err)
{
    int mode = 0;

    if (strcmp(arg, "-") == 0) {
        *ret = -1;
        return 0;
    }
    for (const char *c = arg; *c; c++) {
        if (*c < '0' || *c > '7' || (mode = mode * 8 + (*c - '0')) > 07777)
            return ft_fail(err, FT_E_INVALID, NULL, "the mode must be octal, 0 to 7777");
    }
    if (!arg[0])
        return ft_fail(err, FT_E_INVALID, NULL, "the mode is empty");
    *ret = mode;
    return 0;
}

int ft_arg_number(const char *arg, const char *what, int64_t min, int64_t max, int64_t *ret,
                  ft_err *err)
{
    if (!sbx_parse_i64(arg, min, max, ret))
        return ft_fail(err, FT_E_INVALID, NULL, "%s must be a number from %lld to %lld", what,
                       (long long)min, (long long)max);
    return 0;
}
