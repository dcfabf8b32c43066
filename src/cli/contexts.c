/* contexts ls, new, rm, restart. */
#include "cli/exec.h"
#include "cli/records.h"

#include "sbx/core/id.h"

static const cli_column columns[] = {
    {"CONTEXT"},
    {"RUNTIME"},
    {"STATE"},
    {"AGE", .right = true, .give_up = 2},
    {"USED", .right = true, .give_up = 1},
    {"DIRECTORY", .cut = true},
};

static void add_row(cli_table *t, const sbx_json *one)
{
    const char *state = cli_text_of(one, "state");
    char age[16], used[16];

    cli_age_text(cli_text_of(one, "createdAt"), false, age);
    cli_age_text(cli_text_of(one, "lastUsedAt"), false, used);
    cli_cell_add(t, cli_text_of(one, "id"), CLI_PLAIN);
    cli_cell_add(t, cli_text_of(one, "runtime"), CLI_PLAIN);
    cli_cell_add(t, state, cli_state_colour(state));
    cli_cell_add(t, age, CLI_PLAIN);
    cli_cell_add(t, used, CLI_PLAIN);
    cli_cell_add(t, cli_text_of(one, "cwd"), CLI_PLAIN);
}

static int contexts_ls(cli *c, const char *sandbox)
{
    SBX_CLEANUP(sbx_free_str) char *path = sbx_asprintf("/sandboxes/%s/contexts", sandbox);
    cli_list list = {.path = path,
                     .columns = columns,
                     .column_count = ARRAY_LEN(columns),
                     .add_row = add_row,
                     .name = "id",
                     .whole = true};

    return cli_list_print(c, &list);
}

static int contexts_new(cli *c, const char *sandbox)
{
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;
    SBX_CLEANUP(sbx_json_free) sbx_json *made = NULL;
    const char *runtime = cli_opt(c, "runtime"), *dir = cli_opt(c, "workdir");

    cli_call_init(&k, "POST", "/sandboxes/%s/contexts", sandbox);
    sbx_jw w = cli_body(&k);
    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "runtime", runtime ? runtime : "python");
    if (dir)
        sbx_jw_str(&w, "cwd", dir);
    int status = cli_write_env(c, &w);
    if (status)
        return status;
    sbx_jw_obj_end(&w);
    sbx_buf_addf(&k.headers, "Idempotency-Key: sbx-%s%s", sbx_id_new().s, sbx_id_new().s);
    k.repeatable = true; /* by its key */
    if (!cli_request(c, &k) || !(made = cli_answer_json(c, &k)))
        return CLI_FAILED;
    return c->json ? cli_print_answer(&k) : cli_print_line(cli_text_of(made, "id"));
}

bool cli_context_id(const cli *c, const char *context)
{
    if (sbx_id_valid(context))
        return true;
    cli_usage(c, "\"%.60s\" is no id of a context; `sbx contexts ls` shows them", context);
    return false;
}

/* Each of the rest of the arguments. */
static int contexts_each(cli *c, const char *sandbox, bool restart)
{
    int status = CLI_OK;

    for (int i = 2; i < c->arg_count; i++) {
        SBX_CLEANUP_VAL(cli_call_done) cli_call k;

        cli_call_init(&k, restart ? "POST" : "DELETE", "/sandboxes/%s/contexts/%s%s", sandbox,
                      c->args[i], restart ? "/restart" : "");
        if (!cli_context_id(c, c->args[i]))
            return CLI_USAGE;
        if (!cli_request(c, &k))
            status = CLI_FAILED;
        else if (restart && c->json)
            status = cli_print_answer(&k);
    }
    return status;
}

int cli_contexts(cli *c)
{
    const char *verb = c->args[0];
    char sandbox[24];
    bool ls = strcmp(verb, "ls") == 0, new = strcmp(verb, "new") == 0;
    bool rm = strcmp(verb, "rm") == 0, restart = strcmp(verb, "restart") == 0;

    if (!ls && !new && !rm && !restart)
        return cli_usage(c, "contexts: \"%.40s\" is none of ls, new, rm, restart", verb);
    if ((ls || new) && c->arg_count > 2)
        return cli_usage(c, "contexts %s: it takes one ID", verb);
    if ((rm || restart) && c->arg_count < 3)
        return cli_usage(c, "contexts %s: it needs an ID and a CONTEXT", verb);
    if (!cli_connect(c) || !cli_resolve(c, c->args[1], sandbox))
        return CLI_FAILED;
    return ls    ? contexts_ls(c, sandbox)
           : new ? contexts_new(c, sandbox)
                 : contexts_each(c, sandbox, restart);
}
