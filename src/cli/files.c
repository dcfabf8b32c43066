/* get ID:PATH, put, cp: files in and out, streamed.
 *
 * What is read is written beside its place, without a name where the file system can do that, and
 * takes its place when it is complete. A read that is cut goes on where it was, if the file is
 * still the same. */
#include "cli/files.h"

#include "cli/records.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define BINARY "application/octet-stream"

/* --- names --- */

char *cli_base_name(const char *path)
{
    size_t len = strlen(path), at;

    while (len && path[len - 1] == '/')
        len--;
    for (at = len; at && path[at - 1] != '/';)
        at--;
    return sbx_strndup(path + at, len - at);
}

char *cli_join_path(const char *folder, const char *name)
{
    size_t len = strlen(folder);

    return sbx_asprintf("%s%s%s", folder, len && folder[len - 1] == '/' ? "" : "/", name);
}

/* @return the exit status if it is none. */
static int read_place(cli *c, const char *word, cli_remote *ret)
{
    SBX_CLEANUP(sbx_free_str) char *id = NULL;

    if (!cli_place(word, &id, &ret->path))
        return cli_usage(c, "\"%.80s\" is not ID:PATH", word);
    if (!*ret->path)
        ret->path = "."; /* the home */
    return cli_resolve(c, id, ret->id) ? CLI_OK : CLI_FAILED;
}

int cli_remote_is_folder(cli *c, const cli_remote *r, const char *path)
{
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;
    SBX_CLEANUP(sbx_json_free) sbx_json *entry = NULL;

    cli_call_init(&k, "GET", "/sandboxes/%s/files/stat", r->id);
    cli_query(&k, "path", path);
    cli_query(&k, "user", cli_opt(c, "user"));
    if (!cli_try(c, &k)) {
        char code[64];

        cli_problem_code(&k, code);
        if (k.status != 404 || strcmp(code, "not_found") != 0)
            return cli_complain(c, &k), -1;
        return 0; /* what else is missing is told by what comes next */
    }
    if (!(entry = cli_answer_json(c, &k)))
        return -1;
    return strcmp(cli_text_of(entry, "type"), "directory") == 0;
}

/* --- in --- */

typedef struct source {
    int fd;
    bool failed;
    cli_progress progress;
} source;

static size_t read_source(void *arg, char *to, size_t cap)
{
    source *s = arg;
    ssize_t n;

    do
        n = read(s->fd, to, cap);
    while (n < 0 && errno == EINTR);
    if (n < 0) {
        s->failed = true;
        return SIZE_MAX;
    }
    cli_progress_add(&s->progress, (size_t)n);
    return (size_t)n;
}

static bool rewind_source(void *arg)
{
    source *s = arg;

    s->progress.done = 0;
    return lseek(s->fd, 0, SEEK_SET) == 0;
}

static int upload(cli *c, int fd, const char *name, const cli_remote *to, const char *path,
                  const char *mode)
{
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;
    source s = {.fd = fd};
    struct stat st;

    cli_call_init(&k, "PUT", "/sandboxes/%s/files", to->id);
    cli_query(&k, "path", path);
    cli_query(&k, "mkdirs", "true");
    cli_query(&k, "mode", mode);
    cli_query(&k, "user", cli_opt(c, "user"));
    k.type = BINARY;
    k.on_send = read_source;
    k.arg = &s;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && lseek(fd, 0, SEEK_CUR) == 0) {
        k.send_size = st.st_size;
        k.on_rewind = rewind_source;
    }
    cli_progress_begin(&s.progress, c, name, k.send_size);
    bool ok = cli_try(c, &k);
    cli_progress_end(&s.progress);
    if (s.failed)
        return cli_fail(c, "%s cannot be read: %s", name, strerror(errno));
    if (!ok)
        return cli_complain(c, &k);
    return c->json ? cli_print_answer(&k) : CLI_OK;
}

static bool is_mode(const char *mode)
{
    return !mode ||
           (strlen(mode) >= 3 && strlen(mode) <= 4 && strspn(mode, "01234567") == strlen(mode));
}

int cli_put(cli *c)
{
    const char *file = c->arg_count > 1 ? c->args[1] : "-", *mode = cli_opt(c, "mode");
    cli_remote to;

    if (!is_mode(mode))
        return cli_usage(c, "--mode %.20s: not permissions such as 644", mode);
    int fd = strcmp(file, "-") == 0 ? 0 : open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return cli_fail(c, "%s: %s", file, strerror(errno));
    int status = read_place(c, c->args[0], &to);
    if (!status)
        status = upload(c, fd, fd ? file : to.path, &to, to.path, mode);
    if (fd)
        close(fd);
    return status;
}

static int copy_in(cli *c, const char *from, const cli_remote *to)
{
    SBX_CLEANUP(sbx_free_str) char *base = cli_base_name(from), *inside = NULL;
    bool input = strcmp(from, "-") == 0;
    char mode[8] = "";
    struct stat st;
    size_t len = strlen(to->path);
    int fd = input ? 0 : open(from, O_RDONLY | O_CLOEXEC), folder;

    if (fd < 0 || fstat(fd, &st))
        return cli_fail(c, "%s: %s", from, strerror(errno));
    if (S_ISDIR(st.st_mode)) {
        close(fd);
        if (!cli_flag(c, "recursive"))
            return cli_usage(c, "%s is a folder: use -r", from);
        return cli_tree_in(c, from, to);
    }
    folder = to->path[len - 1] == '/' ? 1 : input ? 0 : cli_remote_is_folder(c, to, to->path);
    if (folder > 0)
        inside = cli_join_path(to->path, base);
    if (S_ISREG(st.st_mode))
        snprintf(mode, sizeof(mode), "%03o", (unsigned)st.st_mode & 0777);
    int status = folder < 0
                     ? CLI_FAILED
                     : upload(c, fd, from, to, inside ? inside : to->path, *mode ? mode : NULL);
    if (!input)
        close(fd);
    return status;
}

/* --- out --- */

typedef struct sink {
    int fd;
    int64_t done;
    cli_call *call;
    bool failed;
    bool begun; /* something has come of this call */
    cli_progress progress;
} sink;

static bool write_sink(void *arg, const char *data, size_t len)
{
    sink *s = arg;

    if (!s->begun) {
        s->begun = true;
        if (s->done && s->call->status != 206) { /* it does not go on where it was cut */
            if (lseek(s->fd, 0, SEEK_SET) || ftruncate(s->fd, 0))
                return false;
            s->done = s->progress.done = 0;
        }
        if (s->call->length >= 0)
            s->progress.total = s->done + s->call->length;
    }
    s->failed = !cli_write(s->fd, data, len);
    s->done += (int64_t)len;
    cli_progress_add(&s->progress, len);
    return !s->failed;
}

/* One request for what is missing. `etag` is that of the first answer. */
static bool download_rest(cli *c, const cli_remote *from, sink *s, char etag[80], int tries,
                          int *status)
{
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;
    int64_t after_ms, before = s->done;

    cli_call_init(&k, "GET", "/sandboxes/%s/files", from->id);
    cli_query(&k, "path", from->path);
    cli_query(&k, "user", cli_opt(c, "user"));
    k.accept = "*/*";
    k.impatient = true;
    k.on_data = write_sink;
    k.arg = s;
    k.once = s->done > 0;
    s->call = &k;
    s->begun = false;
    if (s->done)
        sbx_buf_addf(&k.headers, "Range: bytes=%lld-\nIf-Match: %s", (long long)s->done, etag);
    if (cli_try(c, &k)) {
        *status = CLI_OK;
        return true;
    }
    if (!*etag)
        memcpy(etag, k.etag, 80);
    k.once = false;
    if (s->done > before)
        tries = 1;
    if (!s->failed && s->done && *etag && cli_worth_a_retry(&k, tries, &after_ms)) {
        cli_note(c, "the connection was lost after %lld bytes; going on", (long long)s->done);
        poll(NULL, 0, (int)after_ms);
        return false;
    }
    cli_progress_end(&s->progress);
    *status =
        s->failed ? cli_fail(c, "it cannot be written: %s", strerror(errno)) : cli_complain(c, &k);
    return true;
}

static int download(cli *c, const cli_remote *from, int fd, const char *name)
{
    sink s = {.fd = fd};
    char etag[80] = "";
    int status = CLI_OK;

    cli_progress_begin(&s.progress, c, name, -1);
    for (int tries = 1; !download_rest(c, from, &s, etag, tries, &status); tries++)
        ;
    cli_progress_end(&s.progress);
    return status;
}

int cli_file_out(cli *c)
{
    cli_remote from;

    int status = read_place(c, c->args[0], &from);

    return status ? status : download(c, &from, 1, from.path);
}

/* A file without a name, or with a hidden one where that cannot be. */
static int open_beside(const char *path, char **ret_temporary)
{
    const char *slash = strrchr(path, '/');
    SBX_CLEANUP(sbx_free_str)
    char *folder = !slash          ? sbx_strdup(".")
                   : slash == path ? sbx_strdup("/")
                                   : sbx_strndup(path, (size_t)(slash - path));
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);

    *ret_temporary = sbx_asprintf("%s/.sbx-%d-XXXXXX", folder, (int)getpid());
    if (fd >= 0)
        return fd;
    fd = mkostemp(*ret_temporary, O_CLOEXEC);
    if (fd >= 0) {
        mode_t mask = umask(0);

        umask(mask);
        (void)!fchmod(fd, 0666 & ~mask);
    }
    return fd;
}

/* A file without a name gets a hidden one first, since a link replaces nothing. */
static bool put_in_place(int fd, char *temporary, const char *path)
{
    char self[40];
    struct stat st;

    if (fstat(fd, &st))
        return false;
    snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
    for (int i = 0; !st.st_nlink && i < 100; i++) {
        snprintf(temporary + strlen(temporary) - 6, 7, "%06d", i);
        if (linkat(AT_FDCWD, self, AT_FDCWD, temporary, AT_SYMLINK_FOLLOW) == 0)
            st.st_nlink = 1;
        else if (errno != EEXIST)
            return false;
    }
    return st.st_nlink && rename(temporary, path) == 0;
}

static int download_to(cli *c, const cli_remote *from, const char *path)
{
    SBX_CLEANUP(sbx_free_str) char *temporary = NULL;
    struct stat st;

    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) { /* a device or a pipe */
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        int status = fd < 0 ? cli_fail(c, "%s: %s", path, strerror(errno))
                            : download(c, from, fd, from->path);
        if (fd >= 0)
            close(fd);
        return status;
    }
    int fd = open_beside(path, &temporary);
    if (fd < 0)
        return cli_fail(c, "%s: %s", path, strerror(errno));
    int status = download(c, from, fd, from->path);
    if (!status && !put_in_place(fd, temporary, path))
        status = cli_fail(c, "%s: %s", path, strerror(errno));
    if (status)
        unlink(temporary);
    close(fd);
    return status;
}

static int copy_out(cli *c, const cli_remote *from, const char *to)
{
    SBX_CLEANUP(sbx_free_str) char *base = cli_base_name(from->path), *inside = NULL;
    size_t len = strlen(to);
    struct stat st;

    if (cli_flag(c, "recursive")) {
        int folder = cli_remote_is_folder(c, from, from->path);

        if (folder)
            return folder < 0 ? CLI_FAILED : cli_tree_out(c, from, to);
    }
    if (strcmp(to, "-") == 0)
        return download(c, from, 1, from->path);
    if ((stat(to, &st) == 0 && S_ISDIR(st.st_mode)) || (len && to[len - 1] == '/')) {
        if (!*base || strcmp(base, ".") == 0 || strcmp(base, "..") == 0)
            return cli_usage(c, "%s names no file", c->args[0]);
        inside = cli_join_path(to, base);
    }
    return download_to(c, from, inside ? inside : to);
}

int cli_cp(cli *c)
{
    SBX_CLEANUP(sbx_free_str) char *one = NULL, *two = NULL;
    const char *path;
    bool out = cli_place(c->args[0], &one, &path), in = cli_place(c->args[1], &two, &path);
    cli_remote remote;

    if (out == in)
        return cli_usage(c, "one of FROM and TO must be ID:PATH, the other a path here%s",
                         out ? "" : " (./NAME if it holds a colon)");
    int status = read_place(c, c->args[out ? 0 : 1], &remote);
    if (status)
        return status;
    return out ? copy_out(c, &remote, c->args[1]) : copy_in(c, c->args[0], &remote);
}
