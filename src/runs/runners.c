/* What can run code: one row for each runtime.
 *
 * Python is told not to keep output back (-u), so that a stream shows it at once and what a run
 * wrote before it was killed is not lost. Node.js finds out by itself whether a .js file is
 * CommonJS or an ES module; of a .ts file it drops the types, and enums and the like are
 * transformed. */
#include "runs_priv.h"

/* It tells the user otherwise to write a package.json, of which a run has none. */
#define FOUND_OUT "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON"

static const runner runners[] = {
    {"python", "python", ".py", {"python3", "-u", NULL}},
    {"node", "node", ".js", {"node", FOUND_OUT, NULL}},
    {"typescript",
     "node",
     ".ts",
     {"node", FOUND_OUT, "--disable-warning=ExperimentalWarning", "--experimental-transform-types",
      NULL}},
};

const char *const run_runtimes[] = {"python", "node", "typescript", NULL};

const runner *runner_find(const char *runtime)
{
    for (size_t i = 0; i < ARRAY_LEN(runners); i++)
        if (strcmp(runners[i].runtime, runtime) == 0)
            return &runners[i];
    return NULL;
}

static const char *runtime_of_file(const char *file)
{
    size_t len = file ? strlen(file) : 0;

    for (size_t i = 0; i < ARRAY_LEN(runners); i++) {
        size_t n = strlen(runners[i].extension);

        if (len > n && strcmp(file + len - n, runners[i].extension) == 0)
            return runners[i].runtime;
    }
    return "";
}

/* Nothing else that is said to an interpreter, or to the keeper of a context, ends like a file. */
const char *sbx_run_runtime_of(const char *command)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *argv = NULL;
    const char *found = "";
    sbx_err err;

    if (sbx_json_parse(command, strlen(command), &argv, &err))
        return "";
    for (const sbx_json *arg = sbx_json_first(argv); arg && !*found; arg = sbx_json_next(arg))
        found = runtime_of_file(sbx_json_str(arg));
    return found;
}
