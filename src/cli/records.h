/* Sandboxes as the API shows them, for people. */
#ifndef SBX_CLI_RECORDS_H
#define SBX_CLI_RECORDS_H

#include "cli/client.h"
#include "cli/text.h"

/* A member of an object as text: "" if it is absent or null. Borrowed. */
const char *cli_text_of(const sbx_json *obj, const char *name);

/** Parse an answer. @return NULL: it was told that it is no JSON. */
sbx_json *cli_answer_json(const cli *c, const cli_call *k);
/** Print an answer as it came, on one line. */
int cli_print_answer(const cli_call *k);

/** How long ago that was, or until then: "5m"; "" if it is no time. */
void cli_age_text(const char *time, bool until, char out[16]);

/** Add each member of an object on a line of its own. */
void cli_describe(const cli *c, const sbx_json *obj, sbx_buf *out);

/** Print a text, escaped, on a line. @return the exit status. */
int cli_print_line(const char *text);
/** Write the options --metadata into a body, or as filters into a query.
 * @return the exit status if they are wrong, else 0. */
int cli_write_metadata(cli *c, sbx_jw *w);
int cli_query_metadata(cli *c, cli_call *k);
/** Tell of a problem within an answer, of one of many. @return CLI_FAILED */
int cli_tell_problem(const cli *c, const char *which, const sbx_json *problem);

/* A list of the API. */
typedef struct cli_list {
    const char *path;
    const cli_column *columns;
    size_t column_count;
    void (*add_row)(cli_table *t, const sbx_json *item);
    int (*query)(cli *c, cli_call *k); /* adds filters: the exit status; NULL: there are none */
    const char *name;                  /* the member that -q prints */
    int64_t most;                      /* items; 0: all */
    bool whole;                        /* the API knows no pages of it */
} cli_list;
/** Print it: as a table, which has no heading if it is empty, or as -q and --json say. */
int cli_list_print(cli *c, const cli_list *l);

/** Is it an id of a context? It is told otherwise. */
bool cli_context_id(const cli *c, const char *context);

/** Write the options --env into a body. @return the exit status if they are wrong, else 0. */
int cli_write_env(cli *c, sbx_jw *w);
/** Write `command` from the arguments: one is a line for the shell, several are a program. */
int cli_write_command(cli *c, sbx_jw *w, int from);

#endif
