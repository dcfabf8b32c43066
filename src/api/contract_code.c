/* The tables of what is answered about code. */
#include "contract.h"

#define EXIT_FIELDS                                                                                \
    {"exitCode", T_INT, NULLABLE, NULL, "128 + n for signal n; null: the code did not end.",       \
     0,          255},                                                                             \
    {                                                                                              \
        "signal", T_STR, NULLABLE, NULL, "That ended it, without SIG.", .example = "\"KILL\""      \
    }

#define END_FIELDS                                                                                 \
    EXIT_FIELDS, {"duration", T_INT, 0, NULL, "Milliseconds from the code's start to its end."},   \
        {"truncated", T_BOOL, 0, NULL, "Output beyond maxOutputBytes was dropped."},               \
        {"error", T_REF, OPTIONAL, "RunFailure", "What is not the code's doing."},                 \
        {"sandboxId", T_ID, NULLABLE, NULL, "Where it ran; null: its packages failed before."},    \
        {"execId", T_ID, 0, NULL, "Of its record, among the sandbox's commands."},                 \
        {"stateLost", T_BOOL, OPTIONAL, NULL, "In a context: its state is gone."},                 \
    {                                                                                              \
        "packagesInstalled", T_STRS, 0, NULL, "Name and version of each."                          \
    }

#define ENCODING                                                                                   \
    {                                                                                              \
        "encoding", T_CONST, OPTIONAL, "base64", "Present when the bytes are not UTF-8."           \
    }

#define ERROR_FIELDS                                                                               \
    {"code",                                                                                       \
     T_STR,                                                                                        \
     0,                                                                                            \
     NULL,                                                                                         \
     "For programs: timeout, oom (out of memory), context_lost (the context's interpreter ended "  \
     "while the code ran), or the code of a problem, such as package_failed or engine_error.",     \
     .example = "\"timeout\""},                                                                    \
    {                                                                                              \
        "message", T_STR, 0, NULL, "For people."                                                   \
    }

#define OUTPUT_FIELD                                                                               \
    {                                                                                              \
        "output", T_STR, OPTIONAL, NULL, "Of package_failed: the installer's last lines."          \
    }

const api_field api_run_failure[] = {
    ERROR_FIELDS,
    OUTPUT_FIELD,
    {0},
};

const api_field api_run_result[] = {
    {"stdout", T_STR, 0, NULL, "What it wrote."},
    {"stderr", T_STR, 0, NULL, "What it wrote there."},
    ENCODING,
    END_FIELDS,
    {0},
};

const api_field api_run_start[] = {
    {"type", T_CONST, 0, "start", "The code runs."},
    {"sandboxId", T_ID, 0, NULL, "Where."},
    {"execId", T_ID, 0, NULL, "Of its record."},
    {0},
};

const api_field api_run_install[] = {
    {"type", T_CONST, 0, "install", "Packages are being installed, before the code."},
    {"data", T_STR, 0, NULL, "A line of the installer."},
    {0},
};

const api_field api_run_output[] = {
    {"type", T_ENUM, 0, "stdout,stderr", "Where it was written."},
    {"data", T_STR, 0, NULL, "What was written; pieces end anywhere but within a character."},
    ENCODING,
    {0},
};

const api_field api_run_error[] = {
    {"type", T_CONST, 0, "error", "Something that is not the code's doing."},
    ERROR_FIELDS,
    OUTPUT_FIELD,
    {0},
};

const api_field api_run_end[] = {
    {"type", T_CONST, 0, "result", "What is known at the end."},
    END_FIELDS,
    {0},
};

const api_field api_run_exit[] = {
    {"type", T_CONST, 0, "exit", "The stream ends with it."},
    EXIT_FIELDS,
    {0},
};

const api_field api_context[] = {
    {"id", T_ID, 0, NULL,
     "For `contextId` of runs. It is the id of a command of the sandbox, too."},
    {"runtime", T_ENUM, 0, "python,node,typescript", "What runs the code."},
    {"cwd", T_STR, NULLABLE, NULL, "Working directory; null: the user's home."},
    {"state", T_ENUM, 0, "idle,busy", "`busy`: code runs in it."},
    {"createdAt", T_TIME, 0, NULL, "When it was made."},
    {"lastUsedAt", T_TIME, 0, NULL, "When its last run began or ended, as far as it is known."},
    {0},
};

const api_field api_context_list_view[] = {
    {"items", T_LIST, 0, "Context", "All of them."},
    {"nextCursor", T_STR, NULLABLE, NULL, "Always null."},
    {0},
};
