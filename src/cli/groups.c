/* group create, ls, get, exec, rm. */
#include "cli/records.h"

#include "sbx/core/id.h"
#include <stdio.h>

static int group_create(cli *c)
{
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;
    SBX_CLEANUP(sbx_json_free) sbx_json *made = NULL;
    char id[24];

    cli_call_init(&k, "POST", "/groups");
    if (c->arg_count < 2)
        return cli_usage(c, "group create: it needs a NAME");
    sbx_jw w = cli_body(&k);
    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "name", c->args[1]);
    sbx_jw_arr(&w, "sandboxes");
    for (int i = 2; i < c->arg_count; i++) {
        if (!cli_resolve(c, c->args[i], id))
            return CLI_FAILED;
        sbx_jw_str(&w, NULL, id);
    }
    sbx_jw_arr_end(&w);
    int status = cli_write_metadata(c, &w);
    if (status)
        return status;
    sbx_jw_obj_end(&w);
    sbx_buf_addf(&k.headers, "Idempotency-Key: sbx-%s%s", sbx_id_new().s, sbx_id_new().s);
    k.repeatable = true; /* by its key */
    if (!cli_request(c, &k) || !(made = cli_answer_json(c, &k)))
        return CLI_FAILED;
    return c->json ? cli_print_answer(&k) : cli_print_line(cli_text_of(made, "id"));
}

/* --- ls --- */

static const cli_column columns[] = {
    {"ID"},
    {"NAME", .cut = true, .give_up = 2},
    {"SANDBOXES", .right = true},
    {"AGE", .right = true, .give_up = 1},
};

static int count_of(const sbx_json *list)
{
    int n = 0;

    for (const sbx_json *i = sbx_json_first(list); i; i = sbx_json_next(i))
        n++;
    return n;
}

static void add_row(cli_table *t, const sbx_json *g)
{
    char size[16], age[16];

    snprintf(size, sizeof(size), "%d", count_of(sbx_json_get(g, "sandboxes")));
    cli_age_text(cli_text_of(g, "createdAt"), false, age);
    cli_cell_add(t, cli_text_of(g, "id"), CLI_PLAIN);
    cli_cell_add(t, cli_text_of(g, "name"), CLI_PLAIN);
    cli_cell_add(t, size, CLI_PLAIN);
    cli_cell_add(t, age, CLI_PLAIN);
}

static int group_ls(cli *c)
{
    static const cli_list list = {.path = "/groups",
                                  .columns = columns,
                                  .column_count = ARRAY_LEN(columns),
                                  .add_row = add_row,
                                  .query = cli_query_metadata,
                                  .name = "id"};

    return cli_list_print(c, &list);
}

/* --- get, rm --- */

static int group_get(cli *c, const char *id)
{
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf out = SBX_BUF_INIT(MIB);
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;

    cli_call_init(&k, "GET", "/groups/%s", id);
    if (!cli_request(c, &k) || !(root = cli_answer_json(c, &k)))
        return CLI_FAILED;
    if (c->json)
        return cli_print_answer(&k);
    if (c->quiet)
        return cli_print_line(id);
    cli_describe(c, root, &out);
    return cli_write(1, out.data, out.len) ? CLI_OK : CLI_FAILED;
}

static int group_rm(cli *c, const char *id)
{
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    int status = CLI_OK;

    cli_call_init(&k, "DELETE", "/groups/%s", id);
    cli_query(&k, "sandboxes", cli_flag(c, "sandboxes") ? "true" : NULL);
    if (!cli_request(c, &k))
        return CLI_FAILED;
    if (k.answer.len && !(root = cli_answer_json(c, &k)))
        return CLI_FAILED;
    for (const sbx_json *i = sbx_json_first(sbx_json_get(root, "failed")); i; i = sbx_json_next(i))
        status = cli_tell_problem(c, cli_text_of(i, "id"), sbx_json_get(i, "problem"));
    if (c->json && k.answer.len)
        return cli_print_answer(&k) ? CLI_FAILED : status;
    return status || c->json ? status : cli_print_line(id);
}

/* --- exec --- */

/* Each line behind the id of its sandbox. */
static int print_output(const char *id, int fd, const char *text)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(CLI_MAX_ANSWER);

    for (size_t len; *text; text += len + (text[len] == '\n')) {
        len = strcspn(text, "\n");
        sbx_buf_addf(&b, "%s: ", id);
        sbx_buf_add(&b, text, len);
        sbx_buf_addc(&b, '\n');
    }
    return !b.len || cli_write(fd, b.data, b.len) ? CLI_OK : CLI_FAILED;
}

static const char *text_of(const sbx_json *r, const char *name, sbx_buf *bytes)
{
    const char *text = cli_text_of(r, name);

    sbx_buf_reset(bytes);
    if (!*cli_text_of(r, "encoding"))
        return text;
    if (!sbx_base64_decode(bytes, text, strlen(text)))
        return "";
    sbx_buf_addc(bytes, '\0');
    return bytes->data ? bytes->data : "";
}

static int print_result(cli *c, const sbx_json *r)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf bytes = SBX_BUF_INIT(CLI_MAX_ANSWER);
    const char *id = cli_text_of(r, "sandboxId");
    const sbx_json *problem = sbx_json_get(r, "problem");
    char line[64];

    if (problem)
        return cli_tell_problem(c, id, problem);
    if (cli_flag(c, "detach")) {
        snprintf(line, sizeof(line), "%.20s %.20s", id, cli_text_of(r, "execId"));
        return cli_print_line(line);
    }
    if (print_output(id, 1, text_of(r, "stdout", &bytes)) ||
        print_output(id, 2, text_of(r, "stderr", &bytes)))
        return CLI_FAILED;
    if (*cli_text_of(r, "message"))
        cli_warn(c, "%s: %s", id, cli_text_of(r, "message"));
    return (int)sbx_json_int(sbx_json_get(r, "exitCode"), CLI_FAILED) & 0xff;
}

static int write_exec(cli *c, sbx_jw *w)
{
    const char *timeout = cli_opt(c, "timeout");
    int64_t ms;
    int status;

    sbx_jw_obj(w, NULL);
    if (cli_opt(c, "workdir"))
        sbx_jw_str(w, "cwd", cli_opt(c, "workdir"));
    if (cli_opt(c, "user"))
        sbx_jw_str(w, "user", cli_opt(c, "user"));
    if (timeout && !cli_parse_duration(timeout, &ms))
        return cli_usage(c, "--timeout %s: not a time such as 90s or 5m", timeout);
    if (timeout)
        sbx_jw_int(w, "timeoutMs", ms);
    if (cli_flag(c, "detach"))
        sbx_jw_bool(w, "background", true);
    if ((status = cli_write_env(c, w)) || (status = cli_write_command(c, w, 2)))
        return status;
    sbx_jw_obj_end(w);
    return CLI_OK;
}

static int group_exec(cli *c, const char *id)
{
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    int status;

    cli_call_init(&k, "POST", "/groups/%s/exec", id);
    if (c->arg_count < 3)
        return cli_usage(c, "group exec: it needs a COMMAND");
    sbx_jw w = cli_body(&k);
    if ((status = write_exec(c, &w)))
        return status;
    if (!cli_request(c, &k) || !(root = cli_answer_json(c, &k)))
        return CLI_FAILED;
    if (c->json)
        return cli_print_answer(&k);
    for (const sbx_json *r = sbx_json_first(sbx_json_get(root, "results")); r;
         r = sbx_json_next(r)) {
        int one = print_result(c, r);

        status = status ? status : one;
    }
    return status;
}

int cli_group(cli *c)
{
    static const struct {
        const char *name;
        int (*run)(cli *c, const char *id);
    } verbs[] = {{"get", group_get}, {"exec", group_exec}, {"rm", group_rm}};
    const char *verb = c->args[0];
    char id[24];

    if (strcmp(verb, "create") == 0)
        return group_create(c);
    if (strcmp(verb, "ls") == 0)
        return c->arg_count > 1 ? cli_usage(c, "group ls: it takes no argument") : group_ls(c);
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
        if (strcmp(verb, verbs[i].name) != 0)
            continue;
        if (c->arg_count < 2)
            return cli_usage(c, "group %s: it needs a GROUP", verb);
        return cli_resolve_group(c, c->args[1], id) ? verbs[i].run(c, id) : CLI_FAILED;
    }
    return cli_usage(c, "group: \"%.40s\" is none of create, ls, get, exec, rm", verb);
}
