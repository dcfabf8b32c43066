/* Completion for bash and zsh, out of the table of commands. Both scripts are data: the words of
 * each command and of each option with choices; ids are asked for when they are needed. */
#include "cli/cli.h"

#include <stdio.h>

static void add_words(sbx_buf *out, const char *choices)
{
    for (const char *p = choices; *p; p++)
        sbx_buf_addc(out, *p == '|' ? ' ' : *p);
}

/* The options that a command takes, as words. */
static void add_options(sbx_buf *out, const cli_option *o)
{
    for (; o->name; o++) {
        if (o->letter)
            sbx_buf_addf(out, "-%c ", o->letter);
        sbx_buf_addf(out, "--%s ", o->name);
    }
}

/* case lines: "COMMAND --option) words='…' ;;" for the values of options. */
static void value_cases(sbx_buf *out, const char *command, const cli_option *o)
{
    for (; o->name; o++) {
        if (!o->value)
            continue;
        sbx_buf_addf(out, "    '%s --%s'", command, o->name);
        if (o->letter)
            sbx_buf_addf(out, "|'%s -%c'", command, o->letter);
        sbx_buf_adds(out, ") list='");
        if (o->choices)
            add_words(out, o->choices);
        sbx_buf_addf(out, "' kind=%s; return ;;\n",
                     o->choices                      ? "words"
                     : strcmp(o->value, "FILE") == 0 ? "files"
                     : strcmp(o->value, "ID") == 0   ? "ids"
                                                     : "nothing");
    }
}

static const char *kind_of(const cli_command *k)
{
    if (strcmp(k->name, "help") == 0)
        return "commands";
    if (strcmp(k->name, "completion") == 0)
        return "shells";
    if (strcmp(k->name, "cp") == 0 || strcmp(k->name, "put") == 0)
        return "places";
    return strstr(k->args, "ID") ? "ids" : "nothing";
}

/* _sbx_words: by the words before the cursor, what may come: list, and of which kind. */
static void add_table(sbx_buf *out)
{
    sbx_buf_adds(out, "_sbx_commands='");
    for (const cli_command *k = cli_commands; k->name; k++)
        sbx_buf_addf(out, "%s%s", k == cli_commands ? "" : " ", k->name);
    sbx_buf_adds(out, "'\n_sbx_words() { # COMMAND PREVIOUS-WORD CURRENT-WORD\n"
                      "    list='' kind=nothing\n    case \"$1 $2\" in\n");
    for (const cli_command *k = cli_commands; k->name; k++) {
        value_cases(out, k->name, k->options);
        value_cases(out, k->name, cli_globals);
    }
    value_cases(out, "", cli_globals);
    sbx_buf_adds(out, "    esac\n    case \"$1\" in\n");
    for (const cli_command *k = cli_commands; k->name; k++) {
        sbx_buf_addf(out, "    %s) kind=%s list='", k->name, kind_of(k));
        add_options(out, k->options);
        add_options(out, cli_globals);
        sbx_buf_adds(out, "' ;;\n");
    }
    sbx_buf_adds(out, "    *) kind=commands list='");
    add_options(out, cli_globals);
    sbx_buf_adds(out, "' ;;\n    esac\n"
                      "    case \"$3\" in -*) kind=words; return ;; esac\n"
                      "    case $kind in\n"
                      "    commands) list=$_sbx_commands kind=words ;;\n"
                      "    shells) list='bash zsh' kind=words ;;\n"
                      "    esac\n"
                      "}\n"
                      "_sbx_ids() { # what is asked for must not disturb the prompt\n"
                      "    sbx ls --quiet 2>/dev/null </dev/null\n"
                      "}\n");
}

static const char bash_end[] =
    "_sbx() {\n"
    "    local cur=${COMP_WORDS[COMP_CWORD]} prev='' command='' word list kind i\n"
    "    [ \"$COMP_CWORD\" -eq 0 ] || prev=${COMP_WORDS[COMP_CWORD-1]}\n"
    "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
    "        word=${COMP_WORDS[i]}\n"
    "        case \" $_sbx_commands \" in *\" $word \"*) command=$word; break ;; esac\n"
    "    done\n"
    "    _sbx_words \"$command\" \"$prev\" \"$cur\"\n"
    "    case $kind in\n"
    "    ids) list=$(_sbx_ids) ;;\n"
    "    places) list=$(_sbx_ids | sed 's/$/:/'); compopt -o default -o nospace 2>/dev/null ;;\n"
    "    files) compopt -o default 2>/dev/null; list='' ;;\n"
    "    esac\n"
    "    mapfile -t COMPREPLY < <(compgen -W \"$list\" -- \"$cur\")\n"
    "}\n"
    "complete -F _sbx sbx\n";

static const char zsh_end[] =
    "_sbx() {\n"
    "    local cur=${words[CURRENT]} prev=${words[CURRENT-1]} command='' word i\n"
    "    for ((i = 2; i < CURRENT; i++)); do\n"
    "        word=${words[i]}\n"
    "        case \" $_sbx_commands \" in *\" $word \"*) command=$word; break ;; esac\n"
    "    done\n"
    "    local list kind\n"
    "    _sbx_words \"$command\" \"$prev\" \"$cur\"\n"
    "    case $kind in\n"
    "    ids) list=$(_sbx_ids) ;;\n"
    "    places) compadd -S '' -- ${(f)\"$(_sbx_ids | sed 's/$/:/')\"}; _files; return ;;\n"
    "    files) _files; return ;;\n"
    "    esac\n"
    "    compadd -- ${=list}\n"
    "}\n"
    "compdef _sbx sbx\n";

int cli_completion(cli *c)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf out = SBX_BUF_INIT(256 * KIB);
    bool bash = strcmp(c->args[0], "bash") == 0;

    if (!bash && strcmp(c->args[0], "zsh") != 0)
        return cli_usage(c, "there is completion for bash and for zsh, not for \"%.40s\"",
                         c->args[0]);
    sbx_buf_addf(&out, "%s# Completion of sbx. In ~/.%src: source <(sbx completion %s)\n",
                 bash ? "" : "#compdef sbx\n", c->args[0], c->args[0]);
    add_table(&out);
    sbx_buf_adds(&out, bash ? bash_end : zsh_end);
    return cli_write(1, out.data, out.len) ? CLI_OK : CLI_FAILED;
}
