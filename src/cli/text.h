/* Text for people: names of others made harmless, sizes, times, tables. */
#ifndef SBX_CLI_TEXT_H
#define SBX_CLI_TEXT_H

#include "cli/cli.h"

/** Add a text of others so that it can do nothing to a terminal: control characters, what is not
 * UTF-8, and marks that turn the direction of writing are written as escapes. */
void cli_escape(sbx_buf *out, const char *text, size_t len);

/** Columns that an escaped text takes on a terminal. */
size_t cli_width(const char *text);

/** Add at most `columns` columns of an escaped text; a cut one ends with an ellipsis. */
void cli_cut(sbx_buf *out, const char *text, size_t columns);

/* "1.5 GB" (powers of 1024) */
void cli_size_text(double bytes, char out[16]);
/* "45s", "12m", "3h", "5d" */
void cli_span_text(int64_t ms, char out[16]);
/** Milliseconds since 1970 of an RFC 3339 time in UTC. @return false if it is none. */
bool cli_time_read(const char *text, int64_t *ret_ms);

typedef enum cli_colour { CLI_PLAIN, CLI_BOLD, CLI_DIM, CLI_RED, CLI_GREEN, CLI_YELLOW } cli_colour;

/* The colour of a sandbox's state. */
cli_colour cli_state_colour(const char *state);
/* What turns a colour on, and off with CLI_PLAIN; "" where there are none. */
const char *cli_paint(const cli *c, cli_colour colour);

typedef struct cli_column {
    const char *title;
    bool right;  /* numbers */
    int give_up; /* 0: stays; else columns go in this order when there is no room */
    bool cut;    /* may be shortened */
} cli_column;

typedef struct cli_cell {
    char *text; /* escaped; owned */
    cli_colour colour;
} cli_cell;

typedef struct cli_table {
    const cli_column *columns;
    size_t column_count;
    cli_cell *cells; /* row by row */
    size_t count;
} cli_table;

/** Add the next cell. @param text  is escaped; NULL or "": a dash. */
void cli_cell_add(cli_table *t, const char *text, cli_colour colour);
/** Print with a head, made for the terminal's width, or as wide as it is where there is none. */
void cli_table_print(const cli *c, const cli_table *t, sbx_buf *out);
void cli_table_done(cli_table *t);

#endif
