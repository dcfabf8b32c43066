/* A command as the API shows it, from what its agent tells, or from its record. */
#include "exec_priv.h"

void exec_view_entry(const sbx_execs *x, exec_view *v, const char *sandbox,
                     const sbx_command_entry *e)
{
    *v = (exec_view){.running = !e->over, .pid = e->over ? 0 : e->pid};
    exec_record_entry(x, &v->r, sandbox, e);
}

void exec_view_record(exec_view *v, const sbx_exec_record *r)
{
    *v = (exec_view){.r = *r, .running = r->running, .recorded = true};
}

void exec_view_lost(exec_view *v)
{
    v->running = false;
    v->r.duration_ms = -1;
    sbx_copy(v->r.error, sizeof(v->r.error), SBX_EXEC_LOST);
}

static void number_or_null(sbx_jw *w, const char *name, bool known, int64_t n)
{
    if (known)
        sbx_jw_int(w, name, n);
    else
        sbx_jw_null(w, name);
}

void exec_exit_fields(sbx_jw *w, int exit_code, int signal)
{
    number_or_null(w, "exitCode", exit_code >= 0, exit_code);
    sbx_jw_signal(w, "signal", signal);
}

void exec_result_fields(sbx_jw *w, const sbx_command_exit *e, bool truncated)
{
    const char *words = exec_message(e);

    sbx_jw_int(w, "durationMs", e->duration_ms);
    sbx_jw_bool(w, "timedOut", e->timed_out);
    sbx_jw_bool(w, "oomKilled", e->oom_killed);
    sbx_jw_bool(w, "truncated", truncated);
    if (e->cpu_limit)
        sbx_jw_bool(w, "cpuLimitExceeded", true);
    if (words)
        sbx_jw_str(w, "message", words);
}

void exec_view_json(sbx_buf *out, const exec_view *v)
{
    const sbx_exec_record *r = &v->r;
    bool over = !v->running, timed = over && r->duration_ms >= 0;
    sbx_jw w = SBX_JW(out);

    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "execId", r->id);
    sbx_jw_str(&w, "kind", r->kind);
    sbx_jw_str(&w, "state",
               v->running                      ? "running"
               : *r->error && r->exit_code < 0 ? "failed"
                                               : "finished");
    sbx_jw_raw(&w, "command", r->command);
    sbx_jw_bool(&w, "background", r->background);
    sbx_jw_bool(&w, "terminal", r->terminal);
    number_or_null(&w, "pid", v->pid > 0, v->pid);
    sbx_jw_time(&w, "startedAt", r->started_ms);
    sbx_jw_time(&w, "finishedAt", timed ? r->started_ms + r->duration_ms : 0);
    number_or_null(&w, "durationMs", timed, r->duration_ms);
    exec_exit_fields(&w, over ? r->exit_code : -1, over ? r->signal : 0);
    sbx_jw_bool(&w, "timedOut", r->timed_out);
    sbx_jw_bool(&w, "oomKilled", r->oom_killed);
    sbx_jw_bool(&w, "cpuLimitExceeded", r->cpu_limit);
    sbx_jw_bool(&w, "truncated", r->truncated);
    number_or_null(&w, "cpuTimeMs", r->measured, r->cpu_ms);
    number_or_null(&w, "peakMemoryBytes", r->measured && r->peak_kb > 0, r->peak_kb * 1024);
    sbx_jw_str(&w, "error", *r->error ? r->error : NULL);
    if (*r->runtime)
        sbx_jw_str(&w, "runtime", r->runtime);
    if (r->packages)
        sbx_jw_raw(&w, "packages", r->packages);
    sbx_jw_obj_end(&w);
}
