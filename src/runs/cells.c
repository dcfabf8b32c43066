/* A run in a context. Its command passes its streams and the code's file to the context's keeper
 * and ends as the code does (src/agentd/context.h); so all but the beginning and the meaning of the
 * end is that of any run. Nothing of a context is remembered here: whoever dies at whatever line
 * leaves a command that ends by itself. */
#include "runs_priv.h"

#include <signal.h>
#include <stdio.h>

#define BACKSTOP_MS 10000 /* behind the keeper's own time-out */

/* --- before --- */

static void on_entry(void *arg, const sbx_command_entry *e)
{
    run *x = arg;
    char runtime[16];

    if (e->over || strcmp(e->exec_id, x->context) != 0 ||
        !context_of_entry(e, runtime, sizeof(runtime), NULL))
        return;
    x->there = true;
    if (!sbx_streq(runtime, x->how->runtime))
        sbx_fail_field(&x->failure, "runtime", "runtime: the context runs %s", runtime);
}

static void on_listed(void *arg, const sbx_err *err)
{
    run *x = arg;

    if (err)
        x->failure = *err;
    else if (!x->there)
        sbx_fail(&x->failure, SBX_E_NOT_FOUND, "the sandbox has no context %s", x->context);
    if (x->failure.code || x->left)
        run_fail(x, &x->failure);
    else
        run_put_files(x);
}

static const sbx_list_events look_events = {on_entry, on_listed};

void cell_look(run *x)
{
    sbx_channels_list(x->r->c.channels, x->sandbox, x->context, &look_events, x);
}

void cell_spec(run *x)
{
    sbx_strs *argv = &x->spec.argv;
    char ms[24];

    snprintf(ms, sizeof(ms), "%lld", (long long)x->spec.timeout_ms);
    sbx_strs_done(argv);
    sbx_strs_add(argv, SBX_AGENT_PROGRAM);
    sbx_strs_add(argv, "cell");
    sbx_strs_add(argv, x->context);
    sbx_strs_add(argv, "run");
    sbx_strs_add(argv, x->file);
    sbx_strs_add(argv, ms);
    x->spec.timeout_ms += SBX_CONTEXT_GRACE_MS + BACKSTOP_MS;
}

/* --- behind --- */

static bool out_of_time(run *x, int sig)
{
    x->exit.signal = sig;
    x->exit.exit_code = 128 + sig;
    x->exit.timed_out = true;
    return true;
}

static bool has_output(const run *x)
{
    return x->chunk != 0;
}

bool cell_exit(run *x)
{
    x->written = false; /* the file is gone since it was opened */
    switch (x->exit.signal) {
    case SBX_CELL_TIMED_OUT:
        return out_of_time(x, SIGINT);
    case SBX_CELL_TIMED_OUT_LOST:
        x->lost = true;
        return out_of_time(x, SIGKILL);
    case SBX_CELL_LOST:
        x->lost = true;
        x->exit.signal = 0;
        x->exit.exit_code = -1; /* its code had none */
        return true;
    case SBX_CELL_BUSY:
        sbx_fail(&x->failure, SBX_E_CONFLICT,
                 "the context was busy: other code ran in it until the time of this one was over "
                 "(timeout)");
        break;
    case SBX_CELL_GONE:
        x->lost = true;
        sbx_fail(&x->failure, SBX_E_NOT_FOUND, "the context %s has ended", x->context);
        break;
    default:
        return true;
    }
    x->exited = false;
    x->started = has_output(x); /* else a plain answer tells more */
    return false;
}
