/* run: a program in a sandbox of its own, as if it ran here.
 *
 * The request is the run: when sbx ends, by whatever, the connection does, and with it the run. So
 * there is nothing to do about signals, and output is written before more of it is taken. */
#include "cli/records.h"
#include "cli/sse.h"

#include "sbx/core/limits.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

typedef struct code_run {
    cli *c;
    cli_sse sse;
    bool over, out_gone, told;
    int status;
} code_run;

/* --- what is sent --- */

/* By extension: what runs it. */
static const struct {
    const char *extension, *runtime;
} kinds[] = {{".js", "node"}, {".mjs", "node"}, {".cjs", "node"}, {".ts", "typescript"}};

static int read_all(cli *c, const char *path, sbx_buf *out)
{
    int fd = strcmp(path, "-") == 0 ? 0 : open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : 1;

    sbx_buf_adds(out, "");
    while (n > 0) {
        char *to = sbx_buf_reserve(out, CLI_CHUNK);

        if (!to)
            break;
        n = read(fd, to, CLI_CHUNK);
        if (n > 0)
            sbx_buf_commit(out, (size_t)n);
        if (n < 0 && errno == EINTR)
            n = 1;
    }
    int why = errno;
    if (fd > 0)
        close(fd);
    if (n < 0)
        return cli_fail(c, "%s: %s", path, strerror(why));
    return sbx_buf_failed(out) ? cli_fail(c, "%s: it is larger than a run takes", path) : CLI_OK;
}

static int write_text(cli *c, sbx_jw *w, const char *member, const char *path)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf text = SBX_BUF_INIT(SBX_MAX_BODY_RUN);
    int status = read_all(c, path, &text);

    if (status)
        return status;
    if (!sbx_utf8_valid(text.data, text.len) || memchr(text.data, 0, text.len))
        return cli_fail(c, "%s: it is no text in UTF-8", path);
    sbx_jw_strn(w, member, text.data, text.len);
    return CLI_OK;
}

static int write_files(cli *c, sbx_jw *w)
{
    const char *given;
    size_t at = 0;

    if (!cli_flag(c, "file"))
        return CLI_OK;
    sbx_jw_obj(w, "files");
    while ((given = cli_opt_each(c, "file", &at))) {
        SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf content = SBX_BUF_INIT(SBX_MAX_BODY_RUN);
        const char *eq = strchr(given, '='), *slash = strrchr(given, '/');
        const char *path = eq ? eq + 1 : given;
        SBX_CLEANUP(sbx_free_str)
        char *name =
            eq ? sbx_strndup(given, (size_t)(eq - given)) : sbx_strdup(slash ? slash + 1 : given);
        int status = read_all(c, path, &content);

        if (status)
            return status;
        sbx_jw_obj(w, name);
        sbx_jw_bytes(w, "content", content.data, content.len, true);
        sbx_jw_str(w, "encoding", "base64");
        if (access(path, X_OK) == 0)
            sbx_jw_str(w, "mode", "755");
        sbx_jw_obj_end(w);
    }
    sbx_jw_obj_end(w);
    return CLI_OK;
}

static void write_packages(cli *c, sbx_jw *w)
{
    const char *given;
    size_t at = 0;

    if (!cli_flag(c, "package"))
        return;
    sbx_jw_arr(w, "packages");
    while ((given = cli_opt_each(c, "package", &at)))
        sbx_jw_str(w, NULL, given);
    sbx_jw_arr_end(w);
}

static void write_runtime(cli *c, sbx_jw *w, const char *file)
{
    const char *runtime = cli_opt(c, "runtime"), *dot = file ? strrchr(file, '.') : NULL;

    for (size_t i = 0; !runtime && dot && i < ARRAY_LEN(kinds); i++)
        if (strcmp(dot, kinds[i].extension) == 0)
            runtime = kinds[i].runtime;
    sbx_jw_str(w, "runtime", runtime ? runtime : "python");
}

static int write_limits(cli *c, sbx_jw *w)
{
    const char *cpus = cli_opt(c, "cpus"), *memory = cli_opt(c, "memory");
    const char *timeout = cli_opt(c, "timeout");
    int64_t n;

    if (cpus) {
        if (!cli_parse_milli(cpus, &n))
            return cli_usage(c, "--cpus %s: not a number such as 0.5", cpus);
        sbx_jw_milli(w, "vcpus", n);
    }
    if (memory) {
        if (!cli_parse_memory(memory, &n))
            return cli_usage(c, "--memory %s: not a size such as 512M or 2G", memory);
        sbx_jw_int(w, "memoryMb", n);
    }
    if (timeout) {
        if (!cli_parse_duration(timeout, &n) || !n)
            return cli_usage(c, "--timeout %s: not a time such as 90s, 500ms or 10m", timeout);
        sbx_jw_int(w, "timeout", n);
    }
    return CLI_OK;
}

static int write_request(cli *c, sbx_jw *w)
{
    const char *code = cli_opt(c, "eval"), *file = c->arg_count ? c->args[0] : NULL;
    const char *input = cli_opt(c, "stdin"), *context = cli_opt(c, "context");
    int status;

    if (!code == !file)
        return cli_usage(c, "it needs the code: FILE, - for standard input, or -e CODE");
    if (input && file && strcmp(input, "-") == 0 && strcmp(file, "-") == 0)
        return cli_usage(c, "standard input cannot be both the code and its input");
    if (cli_flag(c, "sandbox") && (cli_flag(c, "cpus") || cli_flag(c, "memory")))
        return cli_usage(c, "--cpus and --memory are for a sandbox of its own");
    if (context && !cli_flag(c, "sandbox"))
        return cli_usage(c, "--context needs --sandbox, in which it is");
    if (context && !cli_context_id(c, context))
        return CLI_USAGE;
    if (code && !sbx_utf8_valid(code, strlen(code)))
        return cli_usage(c, "the code is not UTF-8");
    sbx_jw_obj(w, NULL);
    write_runtime(c, w, file);
    write_packages(c, w);
    if (context)
        sbx_jw_str(w, "contextId", context);
    if (code)
        sbx_jw_str(w, "code", code);
    if ((file && (status = write_text(c, w, "code", file))) ||
        (input && (status = write_text(c, w, "stdin", input))) || (status = write_files(c, w)) ||
        (status = cli_write_env(c, w)) || (status = write_limits(c, w)))
        return status;
    sbx_jw_obj_end(w);
    return CLI_OK;
}

/* --- what comes back --- */

/* In place, as output may hold zero bytes. */
static int status_of(sbx_json_span end)
{
    char digits[16];
    sbx_json_span v;
    int64_t code;

    if (!sbx_json_span_get(end, "exitCode", &v) || v.len >= sizeof(digits))
        return CLI_FAILED;
    memcpy(digits, v.at, v.len);
    digits[v.len] = '\0';
    return sbx_parse_i64(digits, 0, 255, &code) ? (int)code : CLI_FAILED;
}

static bool fail(code_run *x, const char *what)
{
    x->status = cli_fail(x->c, "%s", what);
    x->told = x->over = true;
    return false;
}

static bool take_output(code_run *x, sbx_json_span event, int fd)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf out = SBX_BUF_INIT(CLI_MAX_EVENT);

    if (!cli_event_output(event, &out))
        return fail(x, "the server sent output that is no base64");
    x->out_gone = !cli_write(fd, out.data ? out.data : "", out.len);
    return !x->out_gone;
}

/* What installers say, line by line. */
static void show_lines(const char *text)
{
    while (*text) {
        SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf shown = SBX_BUF_INIT(64 * KIB);
        size_t len = strcspn(text, "\n");

        cli_escape(&shown, text, len);
        sbx_buf_addc(&shown, '\n');
        (void)cli_write(2, shown.data, shown.len);
        text += len + (text[len] == '\n');
    }
}

static void warn_of(code_run *x, const sbx_json *error)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf shown = SBX_BUF_INIT(8 * KIB);
    const char *message = cli_text_of(error, "message");

    sbx_buf_adds(&shown, "");
    cli_escape(&shown, message, strnlen(message, 2000));
    const char *output = sbx_json_str(sbx_json_get(error, "output"));

    if (output)
        show_lines(output);
    cli_warn(x->c, "%s", shown.data);
}

static bool take_event(void *arg, const cli_event *e)
{
    code_run *x = arg;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf type = SBX_BUF_INIT(256);
    SBX_CLEANUP(sbx_json_free) sbx_json *doc = NULL;
    sbx_json_span event;
    sbx_err err;

    if (sbx_json_span_of(e->data, e->len, &event, &err) || !cli_event_text(event, "type", &type))
        return fail(x, "the server sent a malformed event");
    if (strcmp(type.data, "stdout") == 0 || strcmp(type.data, "stderr") == 0)
        return take_output(x, event, strcmp(type.data, "stdout") == 0 ? 1 : 2);
    if (sbx_json_parse(e->data, e->len, &doc, &err))
        return fail(x, "the server sent a malformed event");
    if (strcmp(type.data, "install") == 0 && isatty(2) && !x->c->quiet)
        show_lines(cli_text_of(doc, "data"));
    if (strcmp(type.data, "error") == 0)
        warn_of(x, doc);
    if (strcmp(type.data, "result") == 0 && sbx_json_bool(sbx_json_get(doc, "truncated"), false))
        cli_warn(x->c, "a part of the output is gone for good");
    if (strcmp(type.data, "exit") != 0)
        return true;
    x->status = status_of(event);
    x->over = true;
    return false;
}

static bool take_data(void *arg, const char *data, size_t len)
{
    return cli_sse_feed(&((code_run *)arg)->sse, data, len);
}

static int stream(cli *c, cli_call *k)
{
    code_run x = {.c = c};

    k->accept = "text/event-stream";
    k->on_data = take_data;
    k->arg = &x;
    cli_sse_init(&x.sse, take_event, &x);
    bool ok = cli_try(c, k);
    cli_sse_done(&x.sse);
    if (x.out_gone)
        return 128 + SIGPIPE;
    if (x.over)
        return x.status;
    return ok ? cli_fail(c, "the connection was lost, and with it the run") : cli_complain(c, k);
}

static int one_document(cli *c, cli_call *k)
{
    sbx_json_span result;
    sbx_err err;

    if (!cli_request(c, k))
        return CLI_FAILED;
    if (sbx_json_span_of(k->answer.data, k->answer.len, &result, &err))
        return cli_fail(c, "the server sent a malformed answer: %s", err.msg);
    int status = cli_print_answer(k);
    return status ? status : status_of(result);
}

int cli_run(cli *c)
{
    char sandbox[24] = "";
    cli_call k;

    cli_call_init(&k, "POST", "/run");
    sbx_jw w = cli_body(&k);
    int status = write_request(c, &w);
    if (!status && sbx_buf_failed(&k.body))
        status = cli_fail(c, "code and files together are larger than a run takes");
    if (!status && (!cli_connect(c) ||
                    (cli_opt(c, "sandbox") && !cli_resolve(c, cli_opt(c, "sandbox"), sandbox))))
        status = CLI_FAILED;
    if (!status && *sandbox) {
        sbx_buf_reset(&k.path);
        sbx_buf_addf(&k.path, "/sandboxes/%s/run", sandbox);
    }
    if (!status)
        status = c->json ? one_document(c, &k) : stream(c, &k);
    cli_call_done(&k);
    return status;
}
