/* quotas, usage: what the user may use, has used, and what it cost. */
#include "cli/records.h"

#include <stdio.h>

/* Millionths as a decimal number. */
static void money_text(int64_t micros, char out[32])
{
    snprintf(out, 32, "%lld.%06lld", (long long)(micros / 1000000), (long long)(micros % 1000000));
}

static void add_number(cli_table *t, const sbx_json *v, bool span, bool money)
{
    int64_t n = sbx_json_int(v, 0);
    char text[32];

    if (!v || sbx_json_kind(v) != SBX_J_NUM)
        text[0] = '\0';
    else if (money)
        money_text(n, text);
    else if (span && n)
        cli_span_text(n * 1000, text);
    else
        snprintf(text, sizeof(text), "%lld", (long long)n);
    cli_cell_add(t, text, CLI_PLAIN);
}

static int print_table(const cli *c, cli_table *t)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf out = SBX_BUF_INIT(CLI_MAX_ANSWER);

    cli_table_print(c, t, &out);
    cli_table_done(t);
    return cli_write(1, out.data, out.len) ? CLI_OK : CLI_FAILED;
}

/* --- quotas --- */

static const cli_column quota_columns[] = {
    {"WHAT"},
    {"USED", .right = true},
    {"RESERVED", .right = true, .give_up = 1},
    {"LIMIT", .right = true},
};

static const struct {
    const char *name, *title;
    bool span, money;
} quotas[] = {
    {"executions", "runs, this month", false, false},
    {"computeSeconds", "compute time, this month", true, false},
    {"spendingMicros", "cost, this month", false, true},
    {"concurrentSandboxes", "sandboxes", false, false},
};

int cli_quotas(cli *c)
{
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    cli_table t = {.columns = quota_columns, .column_count = ARRAY_LEN(quota_columns)};

    cli_call_init(&k, "GET", "/quotas");
    if (!cli_request(c, &k) || !(root = cli_answer_json(c, &k)))
        return CLI_FAILED;
    if (c->json)
        return cli_print_answer(&k);
    for (size_t i = 0; i < ARRAY_LEN(quotas); i++) {
        const sbx_json *q = sbx_json_get(root, quotas[i].name);

        cli_cell_add(&t, quotas[i].title, CLI_PLAIN);
        add_number(&t, sbx_json_get(q, "used"), quotas[i].span, quotas[i].money);
        add_number(&t, sbx_json_get(q, "reserved"), quotas[i].span, quotas[i].money);
        add_number(&t, sbx_json_get(q, "limit"), quotas[i].span, quotas[i].money);
    }
    return print_table(c, &t);
}

/* --- usage --- */

static const cli_column usage_columns[] = {
    {"OF", .cut = true},        {"RUNS", .right = true},
    {"COMPUTE", .right = true}, {"PAUSED", .right = true, .give_up = 1},
    {"COST", .right = true},
};

static void add_usage(cli_table *t, const sbx_json *u)
{
    cli_cell_add(t, cli_text_of(u, "key"), CLI_PLAIN);
    add_number(t, sbx_json_get(u, "executions"), false, false);
    add_number(t, sbx_json_get(u, "computeSeconds"), true, false);
    add_number(t, sbx_json_get(u, "pausedSeconds"), true, false);
    add_number(t, sbx_json_get(u, "costMicros"), false, true);
}

static int days(cli *c, cli_call *k)
{
    static const char *const same[] = {"from", "to", "by"};

    for (size_t i = 0; i < ARRAY_LEN(same); i++)
        cli_query(k, same[i], cli_opt(c, same[i]));
    cli_query(k, "sandboxId", cli_opt(c, "sandbox"));
    return CLI_OK;
}

int cli_usage_of(cli *c)
{
    static const cli_list list = {.path = "/usage",
                                  .columns = usage_columns,
                                  .column_count = ARRAY_LEN(usage_columns),
                                  .add_row = add_usage,
                                  .query = days,
                                  .name = "key"};

    return cli_list_print(c, &list);
}
