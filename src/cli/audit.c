/* audit: who did what, for administrators. */
#include "cli/records.h"

#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include <stdio.h>

#define MAX_LIMIT 10000

static const cli_column columns[] = {
    {"AT"},
    {"USER", .cut = true},
    {"ADDRESS", .give_up = 3},
    {"ACTION"},
    {"OBJECT"},
    {"PART", .give_up = 2},
    {"STATUS", .right = true},
    {"CODE", .give_up = 1},
    {"COUNT", .right = true, .give_up = 4},
};

static void add_row(cli_table *t, const sbx_json *e)
{
    int status = (int)sbx_json_int(sbx_json_get(e, "status"), 0);
    const char *user = cli_text_of(e, "userName");
    char text[16] = "", count[24];

    if (status)
        snprintf(text, sizeof(text), "%d", status);
    sbx_num_text(count, sbx_json_int(sbx_json_get(e, "count"), 1));
    cli_cell_add(t, cli_text_of(e, "at"), CLI_DIM);
    cli_cell_add(t, *user ? user : cli_text_of(e, "userId"), CLI_PLAIN);
    cli_cell_add(t, cli_text_of(e, "address"), CLI_PLAIN);
    cli_cell_add(t, cli_text_of(e, "action"), CLI_PLAIN);
    cli_cell_add(t, cli_text_of(e, "object"), CLI_PLAIN);
    cli_cell_add(t, cli_text_of(e, "part"), CLI_PLAIN);
    cli_cell_add(t, text, status >= 400 ? CLI_RED : CLI_PLAIN);
    cli_cell_add(t, cli_text_of(e, "code"), CLI_PLAIN);
    cli_cell_add(t, count, CLI_PLAIN);
}

/* A time, or how long ago. @return the exit status. */
static int query_time(cli *c, cli_call *k, const char *name)
{
    const char *given = cli_opt(c, name);
    char text[SBX_TIME_TEXT];
    int64_t ms;

    if (!given)
        return CLI_OK;
    if (cli_parse_duration(given, &ms))
        ms = sbx_wall_ms() - ms;
    else if (!sbx_time_parse(given, &ms))
        return cli_usage(c,
                         "--%s %.40s: not a time such as 2026-01-31T10:20:30Z, nor one such as 2h",
                         name, given);
    sbx_time_text(ms, text);
    cli_query(k, name, text);
    return CLI_OK;
}

static int filters(cli *c, cli_call *k)
{
    static const char *const same[] = {"user", "key", "action", "object", "result"};
    int status;

    for (size_t i = 0; i < ARRAY_LEN(same); i++)
        cli_query(k, same[i], cli_opt(c, same[i]));
    return (status = query_time(c, k, "since")) ? status : query_time(c, k, "until");
}

int cli_audit(cli *c)
{
    const char *limit = cli_opt(c, "limit");
    cli_list list = {.path = "/audit",
                     .columns = columns,
                     .column_count = ARRAY_LEN(columns),
                     .add_row = add_row,
                     .query = filters,
                     .name = "id",
                     .most = 50};

    if (limit && !sbx_parse_i64(limit, 1, MAX_LIMIT, &list.most))
        return cli_usage(c, "--limit %s: not a whole number from 1 to %d", limit, MAX_LIMIT);
    return cli_list_print(c, &list);
}
