/* sbx, the command line: what its files share.
 *
 * One thread. A command is a row of a table (commands.c) from which parsing, help, completion and
 * the manual are made; its function gets the context below and returns the exit status. What goes
 * wrong is told on standard error where it is met.
 *
 * Exit status: that of the remote command for exec and shell; else 0, CLI_USAGE for a call that
 * makes no sense, CLI_FAILED if sbx, the connection or the server failed. */
#ifndef SBX_CLI_CLI_H
#define SBX_CLI_CLI_H

#include "sbx/core/buf.h"
#include "sbx/core/error.h"
#include "sbx/core/json.h"

enum { CLI_OK = 0, CLI_USAGE = 2, CLI_FAILED = 125 };

/* A size of a pipe's read, and of what is sent at once */
#define CLI_CHUNK (64 * KIB)
/* An answer that is held in memory */
#define CLI_MAX_ANSWER (64 * MIB)

typedef struct cli cli;
typedef struct cli_client cli_client;

typedef struct cli_option {
    const char *name;    /* "timeout" is given as --timeout */
    char letter;         /* 0: none */
    const char *value;   /* what help calls its value; NULL: it takes none */
    const char *choices; /* "a|b": the only values; NULL: any */
    bool repeated;
    const char *doc;
} cli_option;

typedef struct cli_command {
    const char *name;
    const char *args; /* as help shows them: "ID..." */
    int min, max;     /* how many there may be; max -1: any number */
    int command_at;   /* the argument from which on nothing is an option; -1: none */
    const char *summary;
    const char *doc, *example;
    const cli_option *options; /* ends with a row whose name is NULL */
    int (*run)(cli *c);
} cli_command;

typedef struct cli_given {
    const cli_option *option;
    const char *value; /* borrowed from argv; NULL for a flag */
} cli_given;

struct cli {
    const cli_command *command;
    char **args; /* borrowed from argv */
    int arg_count;
    cli_given *given;
    size_t given_count;
    bool json, quiet, verbose;
    bool colour;        /* of standard output */
    int columns;        /* of the terminal; 0: standard output is none */
    cli_client *client; /* made by the first request */
};

/* --- commands.c, args.c --- */

extern const cli_command cli_commands[]; /* ends with a row whose name is NULL */
extern const cli_option cli_globals[];

const cli_command *cli_command_find(const char *name);
/** The name in the list that is nearest to `word`; NULL if none is near.
 * @param next  gives the names one by one, NULL at the end. */
const char *cli_nearest(const char *word, const char *(*next)(void *arg), void *arg);

/** Read the command line. @param argv  without the program's name.
 * @return 0, or -1 with INVALID. Help that is asked for makes the command `help`. */
int cli_args_read(cli *c, int argc, char **argv, sbx_err *err) SBX_MUST_CHECK;
void cli_args_done(cli *c);

/** The last value of an option of the command; NULL if it was not given. */
const char *cli_opt(const cli *c, const char *name);
bool cli_flag(const cli *c, const char *name);
/** The values one by one: begin with *at of 0. */
const char *cli_opt_each(const cli *c, const char *name, size_t *at);

/** "90", "90s", "5m", "2h", "1d", "500ms" in milliseconds. */
bool cli_parse_duration(const char *text, int64_t *ret_ms);
/** "512", "512M", "1.5G" in MiB. */
bool cli_parse_memory(const char *text, int64_t *ret_mb);
/** "1.5" in thousandths. */
bool cli_parse_milli(const char *text, int64_t *ret);

/* Options that are missing or wrong: tell, and the exit status. */
int cli_usage(const cli *c, const char *fmt, ...) SBX_PRINTF(2, 3);
/* Something failed: tell, and the exit status. */
int cli_fail(const cli *c, const char *fmt, ...) SBX_PRINTF(2, 3);
/* A remark for --verbose, and one for everybody. */
void cli_note(const cli *c, const char *fmt, ...) SBX_PRINTF(2, 3);
void cli_warn(const cli *c, const char *fmt, ...) SBX_PRINTF(2, 3);

/* --- help.c, complete.c --- */

int cli_help(cli *c);
int cli_version(cli *c);
int cli_completion(cli *c);
int cli_manual(cli *c);
/* How a command is called: "sbx exec [options] ID COMMAND...". */
void cli_synopsis(const cli_command *command, sbx_buf *out);
/* "-f, --follow", "    --tail N" */
void cli_option_head(const cli_option *o, sbx_buf *out);

/* --- the commands --- */

int cli_create(cli *c);
int cli_ls(cli *c);
int cli_get(cli *c);
int cli_rm(cli *c);
int cli_move(cli *c); /* start, stop, pause, resume, restart */
int cli_exec(cli *c);
int cli_run(cli *c);
int cli_shell(cli *c);
int cli_logs(cli *c);
int cli_events(cli *c);
int cli_stats(cli *c);
int cli_contexts(cli *c);
int cli_group(cli *c);
int cli_keys(cli *c);
int cli_audit(cli *c);
int cli_quotas(cli *c);
int cli_usage_of(cli *c); /* `usage` */
int cli_watch(cli *c);
int cli_cp(cli *c);
int cli_put(cli *c);

/** Write all of it, whatever it takes. @return false: nobody reads it any more. */
bool cli_write(int fd, const void *data, size_t len);

#endif
