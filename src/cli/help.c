/* What help and the manual say, out of the table of commands. */
#include "cli/cli.h"

#include <stdio.h>

#define HELP_MAX (256 * KIB)

/* What is said besides the table: help shows it at its end, the manual as sections. */
static const struct {
    const char *title, *text;
} more[] = {
    {"IDS", "Where an ID is asked for, the name of a sandbox does as well, if only one has it. A "
            "file in a sandbox is ID:PATH; PATH is absolute, or relative to the user's home."},
    {"CONFIGURATION",
     "SBX_URL is the server's address, SBX_KEY the API key, or SBX_KEY_FILE a file that holds it. "
     "What is not in the environment is looked for in $XDG_CONFIG_HOME/sbx/config (else "
     "~/.config/sbx/config), with lines url=, key= and keyFile=; nobody else may be able to read "
     "that file if it holds a key. NO_COLOR turns colours off."},
    {"EXIT STATUS",
     "exec and shell: that of the remote command. Otherwise 0; 2 when the call makes no sense; "
     "125 when sbx, the connection or the server failed."},
};

void cli_synopsis(const cli_command *k, sbx_buf *out)
{
    sbx_buf_addf(out, "sbx %s%s%s%s", k->name, k->options->name ? " [options]" : "",
                 *k->args ? " " : "", k->args);
}

void cli_option_head(const cli_option *o, sbx_buf *out)
{
    if (o->letter)
        sbx_buf_addf(out, "-%c, --%s", o->letter, o->name);
    else
        sbx_buf_addf(out, "    --%s", o->name);
    if (o->value)
        sbx_buf_addf(out, " %s", o->value);
}

/* --- help --- */

#define WIDTH 88

/* Text from `at` on, broken between words, each line behind `indent` blanks. */
static void wrapped(sbx_buf *out, const char *text, size_t indent)
{
    size_t column = 0;

    while (*text) {
        size_t word = strcspn(text, " \n");

        if (column && column + 1 + word > WIDTH - indent) {
            sbx_buf_addc(out, '\n');
            column = 0;
        }
        if (column)
            sbx_buf_addc(out, ' ');
        else
            sbx_buf_addf(out, "%*s", (int)indent, "");
        column += word + (column > 0);
        sbx_buf_add(out, text, word);
        text += word;
        if (*text == '\n') {
            sbx_buf_addc(out, '\n');
            column = 0;
        }
        text += *text != '\0';
    }
    sbx_buf_addc(out, '\n');
}

static void option_doc(const cli_option *o, sbx_buf *out)
{
    sbx_buf_adds(out, o->doc);
    if (o->choices) {
        sbx_buf_adds(out, ": ");
        for (const char *p = o->choices; *p; p++)
            sbx_buf_adds(out, *p == '|' ? ", " : (char[]){*p, '\0'});
    }
    if (o->repeated)
        sbx_buf_adds(out, " (may be repeated)");
}

static void help_options(const cli_option *o, sbx_buf *out)
{
    for (; o->name; o++) {
        SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf head = SBX_BUF_INIT(KIB);
        SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf doc = SBX_BUF_INIT(4 * KIB);
        SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf lines = SBX_BUF_INIT(4 * KIB);

        cli_option_head(o, &head);
        option_doc(o, &doc);
        wrapped(&lines, doc.data, 30);
        if (head.len + 4 <= 30)
            sbx_buf_addf(out, "  %-28s%s", head.data, lines.data + 30);
        else
            sbx_buf_addf(out, "  %s\n%s", head.data, lines.data);
    }
}

static void help_command(const cli_command *k, sbx_buf *out)
{
    sbx_buf_adds(out, "usage: ");
    cli_synopsis(k, out);
    sbx_buf_addf(out, "\n\n%s%s\n", k->summary, k->doc ? ".\n" : "");
    if (k->doc)
        wrapped(out, k->doc, 0);
    if (k->options->name) {
        sbx_buf_adds(out, "\nOptions:\n");
        help_options(k->options, out);
    }
    sbx_buf_adds(out, "\nFor every command:\n");
    help_options(cli_globals, out);
    if (k->example) {
        sbx_buf_adds(out, "\nExamples:\n");
        wrapped(out, k->example, 2);
    }
}

static void help_all(sbx_buf *out)
{
    sbx_buf_adds(out, "usage: sbx [options] COMMAND ...\n\nSandboxes from the command line.\n\n");
    for (const cli_command *k = cli_commands; k->name; k++)
        sbx_buf_addf(out, "  %-12s%s\n", k->name, k->summary);
    sbx_buf_adds(out, "\nFor every command:\n");
    help_options(cli_globals, out);
    for (size_t i = 0; i < ARRAY_LEN(more); i++) {
        sbx_buf_addf(out, "\n%s\n", more[i].title);
        wrapped(out, more[i].text, 2);
    }
    sbx_buf_adds(out, "\nsbx help COMMAND explains one of them.\n");
}

static int print(const sbx_buf *b)
{
    return cli_write(1, b->data, b->len) ? CLI_OK : CLI_FAILED;
}

int cli_help(cli *c)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf out = SBX_BUF_INIT(HELP_MAX);
    const cli_command *k = c->arg_count ? cli_command_find(c->args[0]) : NULL;

    if (c->arg_count && !k)
        return cli_usage(c, "there is no command \"%.80s\"", c->args[0]);
    if (k)
        help_command(k, &out);
    else
        help_all(&out);
    return print(&out);
}

int cli_version(cli *c)
{
    (void)c;
    return cli_write(1, "sbx " SBX_VERSION "\n", strlen("sbx " SBX_VERSION "\n")) ? CLI_OK
                                                                                  : CLI_FAILED;
}

/* --- the manual --- */

/* A dash and a backslash mean something to roff, and so does a dot or a quote that begins a line.
 */
static void roff(sbx_buf *out, const char *text)
{
    bool begins = true;

    for (; *text; text++) {
        if (begins && (*text == '.' || *text == '\''))
            sbx_buf_adds(out, "\\&");
        if (*text == '\\')
            sbx_buf_adds(out, "\\e");
        else if (*text == '-')
            sbx_buf_adds(out, "\\-");
        else if (*text == '\'')
            sbx_buf_adds(out, "\\(aq");
        else if (*text == '`')
            sbx_buf_adds(out, "\\(ga");
        else if (*text == '~')
            sbx_buf_adds(out, "\\(ti");
        else if (*text == '^')
            sbx_buf_adds(out, "\\(ha");
        else
            sbx_buf_addc(out, *text);
        begins = *text == '\n';
    }
}

static void roff_options(sbx_buf *out, const cli_option *o)
{
    for (; o->name; o++) {
        SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf head = SBX_BUF_INIT(KIB);
        SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf doc = SBX_BUF_INIT(4 * KIB);

        cli_option_head(o, &head);
        option_doc(o, &doc);
        sbx_buf_adds(out, ".TP\n.B ");
        roff(out, head.data + strspn(head.data, " "));
        sbx_buf_addc(out, '\n');
        roff(out, doc.data);
        sbx_buf_addc(out, '\n');
    }
}

static void roff_command(sbx_buf *out, const cli_command *k)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf synopsis = SBX_BUF_INIT(KIB);

    cli_synopsis(k, &synopsis);
    sbx_buf_adds(out, ".SS ");
    roff(out, synopsis.data);
    sbx_buf_addc(out, '\n');
    roff(out, k->summary);
    sbx_buf_adds(out, ".\n");
    if (k->doc) {
        sbx_buf_adds(out, ".PP\n");
        roff(out, k->doc);
        sbx_buf_addc(out, '\n');
    }
    roff_options(out, k->options);
    if (k->example) {
        sbx_buf_adds(out, ".PP\n.nf\n.RS\n");
        roff(out, k->example);
        sbx_buf_adds(out, "\n.RE\n.fi\n");
    }
}

int cli_manual(cli *c)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf out = SBX_BUF_INIT(HELP_MAX);

    (void)c;
    sbx_buf_adds(&out, ".TH SBX 1 \"\" \"sbx " SBX_VERSION "\" \"User Commands\"\n"
                       ".SH NAME\nsbx \\- sandboxes from the command line\n"
                       ".SH SYNOPSIS\n.B sbx\n[\\fIoptions\\fR] \\fICOMMAND\\fR ...\n"
                       ".SH DESCRIPTION\n"
                       "Makes sandboxes on a sandboxd server, runs commands and terminals in "
                       "them, copies files and shows logs, events and statistics.\n"
                       ".SH OPTIONS\nFor every command:\n");
    roff_options(&out, cli_globals);
    sbx_buf_adds(&out, ".SH COMMANDS\n");
    for (const cli_command *k = cli_commands; k->name; k++)
        roff_command(&out, k);
    for (size_t i = 0; i < ARRAY_LEN(more); i++) {
        sbx_buf_addf(&out, ".SH %s\n", more[i].title);
        roff(&out, more[i].text);
        sbx_buf_addc(&out, '\n');
    }
    return print(&out);
}
