/* What can run code: one row for each language of a runtime.
 *
 * Python is told not to keep output back (-u), so that a stream shows it at once and what a run
 * wrote before it was killed is not lost. Node.js finds out by itself whether a .js file is
 * CommonJS or an ES module; of a .ts file it drops the types, and enums and the like are
 * transformed. */
#include "runs_priv.h"

#define PYTHON                                                                                     \
    {                                                                                              \
        "python3", "-u", NULL                                                                      \
    }

static const runner runners[] = {
    {"python", "python", ".py", PYTHON},
    {"node", "javascript", ".js", {"node", NULL}},
    {"node",
     "typescript",
     ".ts",
     {"node", "--experimental-transform-types", "--disable-warning=ExperimentalWarning", NULL}},
    {"node", "commonjs", ".cjs", {"node", NULL}},
    {"node", "module", ".mjs", {"node", NULL}},
};

const char *const run_runtimes[] = {"python", "node", NULL};
const char *const run_languages[] = {"python",   "javascript", "typescript",
                                     "commonjs", "module",     NULL};

const runner *runner_find(const char *runtime, const char *language, sbx_err *err)
{
    for (size_t i = 0; i < ARRAY_LEN(runners); i++)
        if (strcmp(runners[i].runtime, runtime) == 0 &&
            (!language || strcmp(runners[i].language, language) == 0))
            return &runners[i];
    sbx_err_set_field(err, "language", "language: the runtime %s does not run %s", runtime,
                      language);
    return NULL;
}
