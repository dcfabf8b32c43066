/* What the agents tell of commands, whoever began them: the records of their starts and ends. */
#include "exec_priv.h"

#include <stdio.h>

const char *exec_outcome(const sbx_command_exit *e)
{
    return e->oom_killed                  ? "oom"
           : e->timed_out || e->cpu_limit ? "timeout"
           : e->signal                    ? "signal"
           : e->exit_code                 ? "nonzero"
                                          : "ok";
}

const char *exec_message(const sbx_command_exit *e)
{
    if (e->oom_killed)
        return "out of memory: the sandbox's limit was reached and a process of the command was "
               "killed; give the sandbox more (limits.memoryMb)";
    if (e->timed_out)
        return "killed: its time was over (timeoutMs)";
    if (e->cpu_limit)
        return "killed: its CPU time was used up (cpuTimeMs)";
    return e->truncated ? "output beyond the limit was dropped (maxOutputBytes)" : NULL;
}

void sbx_exec_record_exit(sbx_exec_record *r, const sbx_command_exit *e)
{
    r->duration_ms = e->duration_ms;
    r->exit_code = e->exit_code;
    r->signal = e->signal;
    r->timed_out = e->timed_out;
    r->oom_killed = e->oom_killed;
    r->truncated |= e->truncated;
    r->cpu_limit = e->cpu_limit;
    r->measured = e->told;
    if (!e->told)
        return;
    r->cpu_ms = e->cpu_ms;
    r->peak_kb = (int64_t)e->peak_kb;
    r->chunks = (int64_t)e->chunks;
}

void exec_record_entry(const sbx_execs *x, sbx_exec_record *r, const char *sandbox,
                       const sbx_command_entry *e)
{
    *r = (sbx_exec_record){.started_ms = e->started_ms,
                           .exit_code = -1,
                           .background = e->flags & SBX_EXEC_DETACHED,
                           .terminal = e->flags & SBX_EXEC_PTY};
    memcpy(r->id, e->exec_id, sizeof(r->id));
    sbx_copy(r->sandbox, sizeof(r->sandbox), sandbox);
    sbx_copy(r->kind, sizeof(r->kind),
             e->flags & SBX_EXEC_MAIN  ? "main"
             : e->flags & SBX_EXEC_RUN ? "run"
                                       : "exec");
    r->command = sbx_strdup(e->command);
    if (e->flags & SBX_EXEC_RUN)
        sbx_copy(r->runtime, sizeof(r->runtime), x->c.runtime_of(e->command));
    r->running = !e->over;
    if (e->over)
        sbx_exec_record_exit(r, &e->exit);
}

char *sbx_exec_command_json(const sbx_strs *argv)
{
    sbx_buf b = SBX_BUF_INIT(SBX_MAX_COMMAND_TEXT);
    sbx_jw w = SBX_JW(&b);

    sbx_jw_arr(&w, NULL);
    for (size_t i = 0; i < argv->count; i++)
        sbx_jw_str(&w, NULL, argv->items[i]);
    sbx_jw_arr_end(&w);
    char *text = sbx_buf_steal(&b);
    sbx_buf_done(&b);
    return text ? text : sbx_strdup("[]"); /* too long to be kept */
}

void sbx_execs_news(sbx_execs *e, const char *sandbox, const sbx_command_entry *entry)
{
    sbx_exec_record r;

    SBX_ASSERT_THREAD(SBX_T_STREAM);
    if (entry->flags & SBX_EXEC_PTY)
        terminal_news(e, sandbox, entry);
    exec_record_entry(e, &r, sandbox, entry);
    if (!entry->over) {
        sbx_ledger_record_start(e->c.ledger, &r);
        return;
    }
    sbx_ledger_record(e->c.ledger, &r);
    if (entry->fresh && !(entry->flags & (SBX_EXEC_MAIN | SBX_EXEC_RUN)))
        sbx_metrics_add(e->c.metrics, SBX_M_EXECS, exec_outcome(&entry->exit), 1);
}

/* --- the service --- */

sbx_execs *sbx_execs_new(const sbx_execs_config *c)
{
    sbx_execs *e = sbx_alloc(sizeof(*e));

    e->c = *c;
    e->parts = (sbx_use_parts){c->stream, c->lanes, c->store, c->channels, c->sandboxes};
    return e;
}

void sbx_execs_free(sbx_execs *e)
{
    if (e)
        terminals_free(e);
    free(e);
}
