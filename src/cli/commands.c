/* The table of commands: what there is, how it is called, and what help, completion and the manual
 * say about it. */
#include "cli/cli.h"

#define END                                                                                        \
    {                                                                                              \
        .name = NULL                                                                               \
    }

#define ENDS "delete|pause|stop"
#define STATES                                                                                     \
    "creating|running|pausing|paused|resuming|stopping|stopped|starting|deleting|deleted|failed"

const cli_option cli_globals[] = {
    {"url", 0, "URL", .doc = "the server's address; otherwise SBX_URL or the configuration file"},
    {"key-file", 0, "FILE",
     .doc = "file of the API key; otherwise SBX_KEY, SBX_KEY_FILE or the configuration file"},
    {"json", 0, .doc = "print what the API answered: one document, or one per line for streams"},
    {"quiet", 'q', .doc = "print only ids"},
    {"verbose", 'v', .doc = "tell of retries and reconnects"},
    {"no-color", 0, .doc = "no colours; the same as setting NO_COLOR"},
    {"help", 'h', .doc = "explain the command"},
    {"version", 'V', .doc = "print the version"},
    END,
};

static const cli_option none[] = {END};

static const cli_option create_options[] = {
    {"template", 't', "NAME", .doc = "what it is made from (default python)"},
    {"image", 0, "IMAGE", .doc = "an image instead of a template"},
    {"name", 'n', "NAME", .doc = "for people; other commands take it instead of the id"},
    {"size", 's', "SIZE", "nano|small|medium|large|xlarge",
     .doc = "processors and memory by one name"},
    {"cpus", 0, "N", .doc = "processors, such as 0.5"},
    {"memory", 0, "SIZE", .doc = "memory, such as 512M or 1.5G"},
    {"pids", 0, "N", .doc = "processes and threads at once"},
    {"env", 'e', "NAME=VALUE", .repeated = true,
     .doc = "environment of every command; NAME alone takes it from here"},
    {"metadata", 'm', "KEY=VALUE", .repeated = true, .doc = "a label"},
    {"network", 0, "MODE", "open|none", .doc = "what it may reach"},
    {"timeout", 0, "TIME", .doc = "lifetime, such as 90s, 30m or 2h"},
    {"idle", 0, "TIME", .doc = "time without a command until --on-idle"},
    {"on-timeout", 0, "WHAT", ENDS, .doc = "what the lifetime's end does"},
    {"on-idle", 0, "WHAT", ENDS, .doc = "what idleness does"},
    {"count", 0, "N", .doc = "make so many of them, at most 100, and print their ids"},
    {"no-wait", 0, .doc = "return at once, before it can run commands"},
    {"idempotency-key", 0, "KEY",
     .doc = "repeat a create safely: the same key makes the same sandbox for a day"},
    END,
};

static const cli_option ls_options[] = {
    {"state", 's', "STATE", STATES, .doc = "only those in this state"},
    {"template", 't', "NAME", .doc = "only those of this template"},
    {"name", 'n', "NAME", .doc = "only those with this name"},
    {"metadata", 'm', "KEY=VALUE", .repeated = true, .doc = "only those with this label"},
    {"limit", 0, "N", .doc = "at most so many, the newest (default: all)"},
    END,
};

static const cli_option rm_options[] = {
    {"force", 'f', .doc = "what does not exist is no failure"},
    {"metadata", 'm', "KEY=VALUE", .repeated = true, .doc = "all that have this label"},
    END,
};

static const cli_option group_options[] = {
    {"metadata", 'm', "KEY=VALUE", .repeated = true,
     .doc = "create: a label; ls: only those with this label"},
    {"env", 'e', "NAME=VALUE", .repeated = true, .doc = "exec: add to the environment"},
    {"workdir", 'w', "DIR", .doc = "exec: working directory"},
    {"user", 'u', "USER", .doc = "exec: name, uid, name:group or uid:gid"},
    {"timeout", 0, "TIME", .doc = "exec: kill it after so long (default 5m)"},
    {"detach", 'd', .doc = "exec: leave it running in the background, print the commands' ids"},
    {"sandboxes", 0, .doc = "rm: delete the members as well"},
    END,
};

static const cli_option keys_options[] = {
    {"scope", 0, "SCOPE", .repeated = true,
     .doc = "create: what it allows, such as sandbox:read (default: what your own allows)"},
    {"expires", 0, "TIME", .doc = "create: it ends after so long, such as 12h or 30d"},
    {"user", 'u', "USER", .doc = "create, ls: whose, for administrators: an id; ls: or a name"},
    {"rates", 0, "RATES",
     .doc = "create: requests a minute, for administrators: none, default or "
            "such as creates=100,exec=600,reads=3000"},
    {"overlap", 0, "TIME", .doc = "rotate: the old key stays good for so long (default 0)"},
    END,
};

static const cli_option stop_options[] = {
    {"grace", 0, "TIME", .doc = "until processes are killed (default 10s)"},
    END,
};

static const cli_option exec_options[] = {
    {"env", 'e', "NAME=VALUE", .repeated = true,
     .doc = "add to the environment; NAME alone takes it from here"},
    {"workdir", 'w', "DIR", .doc = "working directory (default: the user's home)"},
    {"user", 'u', "USER", .doc = "name, uid, name:group or uid:gid"},
    {"timeout", 0, "TIME", .doc = "kill it after so long (default: never)"},
    {"interactive", 'i', .doc = "send standard input also from a terminal"},
    {"no-stdin", 'n', .doc = "do not read standard input"},
    {"tty", 't', .doc = "in a terminal, as `sbx shell --command` does"},
    {"detach", 'd', .doc = "leave it running in the background and print its id"},
    {"attach", 'a', "EXEC", .doc = "follow a command that was started before, from its start"},
    {"list", 'l', .doc = "list the commands of the sandbox"},
    {"kill", 'k', "EXEC", .doc = "kill a command and everything that it started"},
    END,
};

static const cli_option run_options[] = {
    {"eval", 'e', "CODE", .doc = "run this code instead of a file"},
    {"runtime", 'r', "NAME", "python|node|typescript",
     .doc = "what runs it (default: by the file's extension, else python)"},
    {"file", 'f', "NAME[=PATH]", .repeated = true,
     .doc = "put a file from here beside the code, PATH under NAME"},
    {"package", 'p', "NAME", .repeated = true,
     .doc = "install this before, such as requests==2.31.0 or lodash@^4"},
    {"env", 0, "NAME=VALUE", .repeated = true,
     .doc = "environment of the code; NAME alone takes it from here"},
    {"stdin", 'i', "FILE", .doc = "standard input of the code; - is that of sbx"},
    {"timeout", 0, "TIME", .doc = "kill it after so long (default: the server's, 5m)"},
    {"cpus", 0, "N", .doc = "processors, such as 0.5"},
    {"memory", 0, "SIZE", .doc = "memory, such as 512M or 1.5G"},
    {"sandbox", 's', "ID", .doc = "run it in this sandbox, which stays"},
    {"context", 'c', "CONTEXT", .doc = "with --sandbox: in this context, which keeps the state"},
    END,
};

static const cli_option contexts_options[] = {
    {"runtime", 'r', "NAME", "python|node|typescript", .doc = "new: what runs the code (python)"},
    {"workdir", 'w', "DIR", .doc = "new: working directory (default: the user's home)"},
    {"env", 'e', "NAME=VALUE", .repeated = true,
     .doc = "new: add to the environment; NAME alone takes it from here"},
    END,
};

static const cli_option shell_options[] = {
    {"command", 'c', "COMMAND", .doc = "run this instead of the user's shell"},
    {"attach", 'a', "EXEC", .doc = "rejoin a terminal that is still there"},
    END,
};

static const cli_option logs_options[] = {
    {"follow", 'f', .doc = "go on with what comes, also after a lost connection"},
    {"tail", 0, "N", .doc = "begin with the last N lines"},
    {"since", 0, "SEQ", .doc = "begin behind the line of this number"},
    {"source", 0, "SOURCE", "main|exec|run|system", .doc = "only lines of this kind of process"},
    {"timestamps", 't', .doc = "put time, number and source before each line"},
    END,
};

static const cli_option events_options[] = {
    {"follow", 'f', .doc = "go on with what comes, also after a lost connection"},
    {"sandbox", 0, "ID", .doc = "only those of this sandbox, which may be deleted"},
    {"type", 0, "TYPE", .doc = "only those of this type, such as sandbox.failed"},
    {"tail", 0, "N", .doc = "begin with the newest N"},
    {"since", 0, "SEQ", .doc = "begin behind the event of this number"},
    END,
};

static const cli_option audit_options[] = {
    {"user", 'u', "ID", .doc = "only what this user did"},
    {"key", 'k', "ID", .doc = "only what was done with this key"},
    {"action", 'a', "NAME", .doc = "only requests of this kind, such as sandbox_create"},
    {"object", 'o', "ID", .doc = "only what was done to this, also a command's id"},
    {"result", 'r', "RESULT", "success|refused|failed", .doc = "only such"},
    {"since", 0, "TIME", .doc = "from this time on, such as 2h (ago) or 2026-01-31T10:20:30Z"},
    {"until", 0, "TIME", .doc = "before this time"},
    {"limit", 0, "N", .doc = "at most so many, the newest (default 50)"},
    END,
};

static const cli_option stats_options[] = {
    {"follow", 'f', .doc = "a line for each sample, until interrupted"},
    {"interval", 0, "TIME", .doc = "between two samples (default 2s)"},
    END,
};

static const cli_option usage_options[] = {
    {"from", 0, "DAY", .doc = "the first day, as 2026-01-31 (default: of this month)"},
    {"to", 0, "DAY", .doc = "the last day (default: today)"},
    {"sandbox", 0, "ID", .doc = "only of this sandbox, which may be deleted"},
    {"by", 0, "WHAT", .doc = "day, month, sandbox, template, runtime or package (default day)"},
    END,
};

static const cli_option watch_options[] = {
    {"recursive", 'r', .doc = "folders inside, too"},
    END,
};

static const cli_option cp_options[] = {
    {"recursive", 'r', .doc = "copy a folder with what is in it"},
    {"user", 'u', "USER", .doc = "as this user of the sandbox"},
    END,
};

static const cli_option put_options[] = {
    {"mode", 0, "MODE", .doc = "permissions, such as 755"},
    {"user", 'u', "USER", .doc = "as this user of the sandbox"},
    END,
};

static const cli_option get_options[] = {
    {"user", 'u', "USER", .doc = "read a file as this user of the sandbox"},
    END,
};

#define ONE_OR_MORE "ID...", 1, -1, -1

const cli_command cli_commands[] = {
    {"create", "[-- COMMAND...]", 0, -1, 0, "make a sandbox and print its id",
     "Returns when the sandbox can run commands. COMMAND becomes its main process, whose output is "
     "in the log.",
     "sbx create -t python -n demo --timeout 1h -e GREETING=hello", create_options, cli_create},
    {"ls", "", 0, 0, -1, "list sandboxes, newest first", NULL, "sbx ls --state running", ls_options,
     cli_ls},
    {"get", "ID... | ID:PATH", 1, -1, -1, "show sandboxes, or write a file to standard output",
     "With ID:PATH the bytes of a file are written to standard output; PATH is absolute or "
     "relative to the user's home.",
     "sbx get demo\nsbx get demo:results.csv | head", get_options, cli_get},
    {"rm", "ID...", 0, -1, -1, "delete sandboxes", NULL,
     "sbx rm $(sbx ls -q --state stopped)\nsbx rm --metadata job=7", rm_options, cli_rm},
    {"start", ONE_OR_MORE, "start stopped sandboxes", NULL, NULL, none, cli_move},
    {"stop", ONE_OR_MORE, "end all processes, keep the files", NULL, NULL, stop_options, cli_move},
    {"pause", ONE_OR_MORE, "freeze all processes, keep their memory", NULL, NULL, none, cli_move},
    {"resume", ONE_OR_MORE, "let paused sandboxes go on", NULL, NULL, none, cli_move},
    {"restart", ONE_OR_MORE, "stop and start", NULL, NULL, none, cli_move},
    {"exec", "ID COMMAND [ARGUMENT...]", 1, -1, 1, "run a command in a sandbox",
     "A COMMAND alone is a line for the shell; with arguments it is a program. Output goes to "
     "standard output and standard error as it comes, byte for byte, and the exit status is that "
     "of the command. Standard input is sent unless it is a terminal (-i sends it then, too; -n "
     "never). Ctrl-C goes to the command: the first time as INT, the second time it is killed "
     "with everything that it started, the third time sbx leaves. After a lost connection sbx "
     "joins the command again, and no output is lost.",
     "sbx exec demo 'echo $GREETING | tr a-z A-Z'\nsbx exec -e N=3 demo python3 -c 'print(6*7)'\n"
     "tar c src | sbx exec demo tar x\nid=$(sbx exec -d demo sleep 60); sbx exec --kill $id demo",
     exec_options, cli_exec},
    {"run", "[FILE]", 0, 1, -1, "run code in a sandbox of its own",
     "FILE is the program, - reads it from standard input. Output comes as it is written, the exit "
     "status is that of the code. The sandbox is deleted behind the run; whatever ends sbx, such "
     "as Ctrl-C, ends the run, too. With --json the answer is one document.",
     "sbx run report.py -f data.csv -p pandas\nsbx run -r node -e 'console.log(await "
     "Promise.resolve(1))'\n"
     "echo 'print(6*7)' | sbx run --timeout 10s -",
     run_options, cli_run},
    {"contexts", "ls|new|rm|restart ID [CONTEXT...]", 2, -1, -1,
     "interpreters that keep their state between runs",
     "`new ID` makes one in the sandbox and prints its id, for `sbx run --context`; `ls ID` shows "
     "all, `rm ID CONTEXT...` ends them, `restart ID CONTEXT...` gives them an empty state.",
     "c=$(sbx contexts new demo)\nsbx run -s demo -c $c -e 'x = 6'\n"
     "sbx run -s demo -c $c -e 'x * 7'",
     contexts_options, cli_contexts},
    {"group", "create|ls|get|exec|rm [GROUP] [...]", 1, -1, 2, "named sets of sandboxes",
     "`create NAME ID...` makes one and prints its id, `ls` lists them, `get GROUP` shows one, "
     "`rm GROUP` deletes it. `exec GROUP COMMAND [ARGUMENT...]` runs a command in all members at "
     "once: each line of output stands behind the id of its sandbox, and the exit status is the "
     "first one that is not 0. GROUP is an id, or a name. Options stand before the first member, "
     "or "
     "the COMMAND.",
     "sbx group create workers $(sbx create --count 3)\nsbx group exec workers hostname\n"
     "sbx group rm --sandboxes workers",
     group_options, cli_group},
    {"keys", "ls|create|rm|rotate [NAME|ID...]", 1, -1, -1, "API keys",
     "`create NAME` makes a key and prints it, once; `rotate ID` does so for one that it replaces; "
     "`rm ID...` revokes keys, which ends all that they opened; `ls` lists them, by their ids and "
     "what they begin with.",
     "sbx keys create --scope sandbox:read --expires 30d ci > key\nsbx keys rm $(sbx keys ls -q)",
     keys_options, cli_keys},
    {"logs", "ID", 1, 1, -1, "show the log", NULL, "sbx logs -f --tail 20 demo", logs_options,
     cli_logs},
    {"shell", "ID", 1, 1, -1, "open a terminal in a sandbox",
     "After a lost connection the terminal is joined again. At the beginning of a line, ~. leaves "
     "(the shell stays for ten minutes: --attach), ~~ sends a ~. The exit status is that of the "
     "shell.",
     "sbx shell demo\nsbx shell -c top demo", shell_options, cli_shell},
    {"cp", "FROM TO", 2, 2, -1, "copy files into and out of a sandbox",
     "One of FROM and TO is ID:PATH, the other a path here. A file appears under its name only "
     "when it is complete.",
     "sbx cp model.bin demo:data/\nsbx cp -r demo:out ./out", cp_options, cli_cp},
    {"put", "ID:PATH [FILE]", 1, 2, -1, "write standard input, or FILE, to a file in a sandbox",
     NULL, "echo hello | sbx put demo:greeting.txt", put_options, cli_put},
    {"watch", "ID:PATH", 1, 1, -1, "tell what changes in a folder", NULL, "sbx watch -r demo:src",
     watch_options, cli_watch},
    {"stats", "ID", 1, 1, -1, "show what a sandbox uses", NULL, "sbx stats -f demo", stats_options,
     cli_stats},
    {"events", "", 0, 0, -1, "show what happened to sandboxes", NULL,
     "sbx events -f\nsbx events --sandbox demo", events_options, cli_events},
    {"audit", "", 0, 0, -1, "show who did what, newest first",
     "For administrators. Who is empty where a key was refused.",
     "sbx audit --since 2h --result refused", audit_options, cli_audit},
    {"quotas", "", 0, 0, -1, "show what you may use, and use", NULL, NULL, none, cli_quotas},
    {"usage", "", 0, 0, -1, "show what you have used, and what it cost", NULL,
     "sbx usage --by sandbox", usage_options, cli_usage_of},
    {"completion", "SHELL", 1, 1, -1, "print the completion for bash or zsh", NULL,
     "source <(sbx completion bash)", none, cli_completion},
    {"man", "", 0, 0, -1, "print the manual, for man -l -", NULL, "sbx man | man -l -", none,
     cli_manual},
    {"help", "[COMMAND]", 0, 1, -1, "explain sbx or a command", NULL, NULL, none, cli_help},
    {"version", "", 0, 0, -1, "print the version", NULL, NULL, none, cli_version},
    END,
};
