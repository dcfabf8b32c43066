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

/* One page into the table, or printed. @return the exit status; *cursor is emptied at the end. */
static int usage_page(cli *c, cli_table *t, sbx_buf *cursor)
{
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;

    cli_call_init(&k, "GET", "/usage");
    cli_query_int(&k, "limit", 200);
    cli_query(&k, "from", cli_opt(c, "from"));
    cli_query(&k, "to", cli_opt(c, "to"));
    cli_query(&k, "by", cli_opt(c, "by"));
    cli_query(&k, "cursor", cursor->len ? cursor->data : NULL);
    if (!cli_request(c, &k) || !(root = cli_answer_json(c, &k)))
        return CLI_FAILED;
    int status = c->json ? cli_print_answer(&k) : CLI_OK;

    for (const sbx_json *u = sbx_json_first(sbx_json_get(root, "items")); u && !c->json;
         u = sbx_json_next(u)) {
        cli_cell_add(t, cli_text_of(u, "key"), CLI_PLAIN);
        add_number(t, sbx_json_get(u, "executions"), false, false);
        add_number(t, sbx_json_get(u, "computeSeconds"), true, false);
        add_number(t, sbx_json_get(u, "pausedSeconds"), true, false);
        add_number(t, sbx_json_get(u, "costMicros"), false, true);
    }
    sbx_buf_reset(cursor);
    sbx_buf_adds(cursor, cli_text_of(root, "nextCursor"));
    return status;
}

int cli_usage_of(cli *c)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf cursor = SBX_BUF_INIT(8 * KIB);
    cli_table t = {.columns = usage_columns, .column_count = ARRAY_LEN(usage_columns)};
    int status;

    do
        status = usage_page(c, &t, &cursor);
    while (!status && cursor.len);
    if (!status && !c->json)
        return print_table(c, &t);
    cli_table_done(&t);
    return status;
}
