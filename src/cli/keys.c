/* keys ls, create, rm, rotate. */
#include "cli/records.h"

#include "sbx/core/clock.h"
#include "sbx/core/id.h"
#include "sbx/core/rates.h"
#include <stdio.h>

/* The text of a key is printed by itself, so that it can be put into a file. */
static int print_key(cli *c, cli_call *k)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *made = cli_answer_json(c, k);

    if (!made)
        return CLI_FAILED;
    if (c->json)
        return cli_print_answer(k);
    if (c->quiet)
        return cli_print_line(cli_text_of(made, "id"));
    if (!*cli_text_of(made, "key"))
        return cli_fail(c, "the key %s was made, but the answer with its text was lost: rotate it",
                        cli_text_of(made, "id"));
    cli_note(c, "id %s", cli_text_of(made, "id"));
    return cli_print_line(cli_text_of(made, "key"));
}

static void safe_to_repeat(cli_call *k)
{
    sbx_buf_addf(&k->headers, "Idempotency-Key: sbx-%s%s", sbx_id_new().s, sbx_id_new().s);
    k->repeatable = true;
}

/* --- create, rotate --- */

static int write_create(cli *c, sbx_jw *w)
{
    const char *expires = cli_opt(c, "expires"), *rates = cli_opt(c, "rates"), *scope;
    int64_t numbers[SBX_RATE_COUNT];
    sbx_err err;
    char text[SBX_TIME_TEXT];
    int64_t ms;
    size_t at = 0;

    if (expires && !cli_parse_duration(expires, &ms))
        return cli_usage(c, "--expires %s: not a time such as 12h or 30d", expires);
    if (rates && sbx_rates_parse(rates, numbers, &err))
        return cli_usage(c, "--%s", err.msg);
    sbx_jw_obj(w, NULL);
    sbx_jw_str(w, "name", c->args[1]);
    if (cli_opt(c, "user"))
        sbx_jw_str(w, "userId", cli_opt(c, "user"));
    if (expires) {
        sbx_time_text(sbx_wall_ms() + ms, text);
        sbx_jw_str(w, "expiresAt", text);
    }
    if (rates)
        sbx_rates_json(w, "rates", numbers);
    if (cli_opt(c, "scope")) {
        sbx_jw_arr(w, "scopes");
        while ((scope = cli_opt_each(c, "scope", &at)))
            sbx_jw_str(w, NULL, scope);
        sbx_jw_arr_end(w);
    }
    sbx_jw_obj_end(w);
    return CLI_OK;
}

static int keys_create(cli *c)
{
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;

    cli_call_init(&k, "POST", "/keys");
    if (c->arg_count != 2)
        return cli_usage(c, "keys create: it needs one NAME");
    sbx_jw w = cli_body(&k);
    int status = write_create(c, &w);
    if (status)
        return status;
    safe_to_repeat(&k);
    return cli_request(c, &k) ? print_key(c, &k) : CLI_FAILED;
}

static int keys_rotate(cli *c)
{
    SBX_CLEANUP_VAL(cli_call_done) cli_call k = {0};
    const char *overlap = cli_opt(c, "overlap");
    int64_t ms = 0;

    if (c->arg_count != 2 || !sbx_id_valid(c->args[1]))
        return cli_usage(c, "keys rotate: it needs the ID of one key; see sbx keys ls");
    if (overlap && !cli_parse_duration(overlap, &ms))
        return cli_usage(c, "--overlap %s: not a time such as 90s or 5m", overlap);
    cli_call_init(&k, "POST", "/keys/%s/rotate", c->args[1]);
    sbx_jw w = cli_body(&k);
    sbx_jw_obj(&w, NULL);
    sbx_jw_int(&w, "overlapSeconds", ms / 1000);
    sbx_jw_obj_end(&w);
    safe_to_repeat(&k);
    return cli_request(c, &k) ? print_key(c, &k) : CLI_FAILED;
}

/* --- ls --- */

static const cli_column columns[] = {
    {"ID"},
    {"NAME", .cut = true, .give_up = 3},
    {"PREFIX"},
    {"SCOPES", .cut = true, .give_up = 2},
    {"USED", .right = true, .give_up = 1},
    {"LEFT", .right = true},
};

static void add_row(cli_table *t, const sbx_json *key)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf scopes = SBX_BUF_INIT(8 * KIB);
    char used[16], left[16];

    for (const sbx_json *s = sbx_json_first(sbx_json_get(key, "scopes")); s; s = sbx_json_next(s))
        sbx_buf_addf(&scopes, "%s%s", scopes.len ? " " : "", sbx_json_str(s));
    cli_age_text(cli_text_of(key, "lastUsedAt"), false, used);
    cli_age_text(cli_text_of(key, "expiresAt"), true, left);
    cli_cell_add(t, cli_text_of(key, "id"), CLI_PLAIN);
    cli_cell_add(t, cli_text_of(key, "name"), CLI_PLAIN);
    cli_cell_add(t, cli_text_of(key, "prefix"), CLI_PLAIN);
    cli_cell_add(t, scopes.data, CLI_PLAIN);
    cli_cell_add(t, used, CLI_PLAIN);
    cli_cell_add(t, left, CLI_PLAIN);
}

static int whose(cli *c, cli_call *k)
{
    cli_query(k, "owner", cli_opt(c, "user"));
    return CLI_OK;
}

static int keys_ls(cli *c)
{
    static const cli_list list = {.path = "/keys",
                                  .columns = columns,
                                  .column_count = ARRAY_LEN(columns),
                                  .add_row = add_row,
                                  .query = whose,
                                  .name = "id"};

    return c->arg_count > 1 ? cli_usage(c, "keys ls: it takes no argument")
                            : cli_list_print(c, &list);
}

/* --- rm --- */

static int keys_rm(cli *c)
{
    int status = CLI_OK;

    if (c->arg_count < 2)
        return cli_usage(c, "keys rm: it needs the ID of a key; see sbx keys ls");
    for (int i = 1; i < c->arg_count; i++) {
        SBX_CLEANUP_VAL(cli_call_done) cli_call k = {0};

        if (!sbx_id_valid(c->args[i]))
            return cli_usage(c, "keys rm: \"%.40s\" is no id of a key; see sbx keys ls",
                             c->args[i]);
        cli_call_init(&k, "DELETE", "/keys/%s", c->args[i]);
        k.repeatable = true;
        if (!cli_request(c, &k) || cli_print_line(c->args[i]))
            status = CLI_FAILED;
    }
    return status;
}

int cli_keys(cli *c)
{
    static const struct {
        const char *name;
        int (*run)(cli *c);
    } verbs[] = {
        {"ls", keys_ls}, {"create", keys_create}, {"rm", keys_rm}, {"rotate", keys_rotate}};

    for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
        if (strcmp(c->args[0], verbs[i].name) == 0)
            return verbs[i].run(c);
    return cli_usage(c, "keys: \"%.40s\" is none of ls, create, rm, rotate", c->args[0]);
}
