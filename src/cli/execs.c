/* exec --list, --kill and --tty. */
#include "cli/exec.h"

#include "sbx/core/id.h"
#include <stdio.h>

bool cli_exec_id(const cli *c, const char *exec)
{
    if (strlen(exec) == SBX_ID_LEN &&
        strspn(exec, "abcdefghijklmnopqrstuvwxyz0123456789") == SBX_ID_LEN)
        return true;
    cli_usage(c, "\"%.60s\" is no id of a command; `sbx exec --list` shows them", exec);
    return false;
}

/* --- the list --- */

static const cli_column columns[] = {
    {"EXEC"},
    {"STATE"},
    {"EXIT", .right = true},
    {"AGE", .right = true, .give_up = 3},
    {"TOOK", .right = true, .give_up = 2},
    {"CPU", .right = true, .give_up = 1},
    {"COMMAND", .cut = true},
};

static void command_text(const sbx_json *command, sbx_buf *out)
{
    sbx_buf_adds(out, "");
    if (sbx_json_str(command))
        sbx_buf_adds(out, sbx_json_str(command));
    for (const sbx_json *a = sbx_json_first(command); a; a = sbx_json_next(a)) {
        const char *text = sbx_json_str(a);

        sbx_buf_adds(out, out->len ? " " : "");
        if (text && (!*text || strpbrk(text, " \t\n'\"\\$`|&;<>()*?[]{}!#~")))
            cli_quote(out, text);
        else
            sbx_buf_adds(out, text ? text : "?");
        if (out->len > 4 * KIB)
            return;
    }
}

static void span_of(const sbx_json *e, const char *name, char out[24])
{
    double ms = sbx_json_num(sbx_json_get(e, name), -1);

    out[0] = '\0';
    if (ms >= 0 && ms < 60000)
        snprintf(out, 24, "%.2fs", ms / 1000);
    else if (ms >= 0)
        cli_span_text((int64_t)ms, out);
}

static void add_row(cli_table *t, const sbx_json *e)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf command = SBX_BUF_INIT(512 * KIB);
    const char *state = cli_text_of(e, "state"), *signal = cli_text_of(e, "signal");
    char age[16], took[24], cpu[24], code[32] = "";
    const sbx_json *status = sbx_json_get(e, "exitCode");

    if (sbx_json_kind(status ? status : e) == SBX_J_NUM)
        snprintf(code, sizeof(code), "%d%s%.8s", (int)sbx_json_int(status, 0), *signal ? " " : "",
                 signal);
    cli_age_text(cli_text_of(e, "startedAt"), false, age);
    span_of(e, "durationMs", took);
    span_of(e, "cpuTimeMs", cpu);
    command_text(sbx_json_get(e, "command"), &command);
    cli_cell_add(t, cli_text_of(e, "execId"), CLI_PLAIN);
    cli_cell_add(t, state, cli_state_colour(state));
    cli_cell_add(t, code, CLI_PLAIN);
    cli_cell_add(t, age, CLI_PLAIN);
    cli_cell_add(t, took, CLI_PLAIN);
    cli_cell_add(t, cpu, CLI_PLAIN);
    cli_cell_add(t, command.data, CLI_PLAIN);
}

static int print_execs(cli *c, const sbx_json *root)
{
    cli_table t = {.columns = columns, .column_count = ARRAY_LEN(columns)};
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf out = SBX_BUF_INIT(CLI_MAX_ANSWER);
    const sbx_json *e = sbx_json_first(sbx_json_get(root, "items"));

    for (; e; e = sbx_json_next(e)) {
        add_row(&t, e);
        if (!c->quiet)
            continue;
        cli_escape(&out, cli_text_of(e, "execId"), strnlen(cli_text_of(e, "execId"), 100));
        sbx_buf_addc(&out, '\n');
    }
    if (!c->quiet && t.count)
        cli_table_print(c, &t, &out);
    if (sbx_json_str(sbx_json_get(root, "nextCursor")) && !c->quiet)
        cli_warn(c, "there are older ones");
    cli_table_done(&t);
    return !out.len || cli_write(1, out.data, out.len) ? CLI_OK : CLI_FAILED;
}

int cli_exec_list(cli *c, const char *sandbox)
{
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;

    cli_call_init(&k, "GET", "/sandboxes/%s/execs?limit=200", sandbox);
    if (!cli_request(c, &k))
        return CLI_FAILED;
    if (c->json)
        return cli_print_answer(&k);
    if (!(root = cli_answer_json(c, &k)))
        return CLI_FAILED;
    return print_execs(c, root);
}

int cli_exec_kill(cli *c, const char *sandbox, const char *exec)
{
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;

    cli_call_init(&k, "DELETE", "/sandboxes/%s/execs/%s", sandbox, exec);
    if (!cli_exec_id(c, exec))
        return CLI_USAGE;
    return cli_request(c, &k) ? CLI_OK : CLI_FAILED;
}

/* --- in a terminal --- */

void cli_quote(sbx_buf *out, const char *text)
{
    sbx_buf_addc(out, '\'');
    for (; *text; text++)
        if (*text == '\'')
            sbx_buf_adds(out, "'\\''");
        else
            sbx_buf_addc(out, *text);
    sbx_buf_addc(out, '\'');
}

static bool is_name(const char *text, size_t len)
{
    static const char first[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_";

    return len && strchr(first, text[0]) && strspn(text, first) <= len &&
           strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789") >= len;
}

/* The terminal takes a line for the shell and nothing else: directory and environment go into it.
 */
static int write_line(cli *c, sbx_buf *line)
{
    const char *dir = cli_opt(c, "workdir"), *pair;
    size_t at = 0;

    if (dir) {
        sbx_buf_adds(line, "cd -- ");
        cli_quote(line, dir);
        sbx_buf_adds(line, " || exit; ");
    }
    while ((pair = cli_opt_each(c, "env", &at))) {
        size_t name = strcspn(pair, "=");
        const char *value = pair[name] ? pair + name + 1 : getenv(pair);

        if (!value || !is_name(pair, name))
            return cli_usage(
                c, "--env %.80s: it is not NAME=VALUE, nor a variable that is set here", pair);
        sbx_buf_addf(line, "export %.*s=", (int)name, pair);
        cli_quote(line, value);
        sbx_buf_adds(line, "; ");
    }
    if (c->arg_count == 2) {
        sbx_buf_adds(line, c->args[1]);
        return CLI_OK;
    }
    sbx_buf_adds(line, "exec");
    for (int i = 1; i < c->arg_count; i++) {
        sbx_buf_addc(line, ' ');
        cli_quote(line, c->args[i]);
    }
    return CLI_OK;
}

int cli_exec_terminal(cli *c, const char *sandbox, const char *attach)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf line = SBX_BUF_INIT(32 * KIB);
    int status;

    if (cli_flag(c, "user") || cli_flag(c, "timeout") || cli_flag(c, "detach"))
        return cli_usage(c, "--tty goes with neither --user, --timeout nor --detach");
    if (attach)
        return cli_exec_id(c, attach) ? cli_terminal(c, sandbox, NULL, attach) : CLI_USAGE;
    if ((status = write_line(c, &line)))
        return status;
    if (sbx_buf_failed(&line) || !sbx_utf8_valid(line.data, line.len))
        return cli_usage(c, "with --tty the command has to be UTF-8 and shorter");
    return cli_terminal(c, sandbox, line.data, NULL);
}
