/* A list of the API: as a table, as the ids of its items, or as the pages came. */
#include "cli/records.h"

#define PAGE 200

/* One page into the table, or printed. @return the exit status; *cursor is emptied at the end. */
static int list_page(cli *c, const cli_list *l, cli_table *t, int64_t *left, sbx_buf *cursor)
{
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    int status;

    cli_call_init(&k, "GET", "%s", l->path);
    if (!l->whole) {
        cli_query_int(&k, "limit", SBX_MIN(*left, PAGE));
        cli_query(&k, "cursor", cursor->len ? cursor->data : NULL);
    }
    if (l->query && (status = l->query(c, &k)))
        return status;
    if (!cli_request(c, &k) || !(root = cli_answer_json(c, &k)))
        return CLI_FAILED;
    if (c->json && (status = cli_print_answer(&k)))
        return status;
    for (const sbx_json *item = sbx_json_first(sbx_json_get(root, "items")); item;
         item = sbx_json_next(item)) {
        --*left;
        if (c->quiet && !c->json && (status = cli_print_line(cli_text_of(item, l->name))))
            return status;
        if (!c->quiet && !c->json)
            l->add_row(t, item);
    }
    sbx_buf_reset(cursor);
    sbx_buf_adds(cursor, cli_text_of(root, "nextCursor"));
    return CLI_OK;
}

int cli_list_print(cli *c, const cli_list *l)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf cursor = SBX_BUF_INIT(8 * KIB);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf out = SBX_BUF_INIT(CLI_MAX_ANSWER);
    cli_table t = {.columns = l->columns, .column_count = l->column_count};
    int64_t left = l->most ? l->most : INT64_MAX;
    int status;

    do
        status = list_page(c, l, &t, &left, &cursor);
    while (!status && cursor.len && left > 0);
    if (!status && t.count)
        cli_table_print(c, &t, &out);
    cli_table_done(&t);
    if (!status && out.len && !cli_write(1, out.data, out.len))
        status = CLI_FAILED;
    return status;
}
