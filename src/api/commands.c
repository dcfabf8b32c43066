/* Commands and logs of a sandbox. */
#include "handlers.h"

HANDLER(api_exec)
{
    return sbx_exec_start(app->execs, who->owner, sbx_request_path(r, "id"), r, err);
}

HANDLER(api_exec_list)
{
    return sbx_exec_list(app->execs, who->owner, sbx_request_path(r, "id"), r, err);
}

HANDLER(api_terminal)
{
    return sbx_exec_terminal(app->execs, who->owner, sbx_request_path(r, "id"), r, err);
}

#define OF_ONE(name, service)                                                                      \
    HANDLER(name)                                                                                  \
    {                                                                                              \
        sbx_exec_ref x = {who->owner, sbx_request_path(r, "id"), sbx_request_path(r, "execId")};   \
                                                                                                   \
        return service(app->execs, &x, r, err);                                                    \
    }

OF_ONE(api_exec_get, sbx_exec_get)
OF_ONE(api_exec_kill, sbx_exec_kill)
OF_ONE(api_exec_output, sbx_exec_output)
OF_ONE(api_exec_signal, sbx_exec_signal)
OF_ONE(api_exec_stdin, sbx_exec_stdin)

HANDLER(api_stats)
{
    return sbx_stats_start(app->stats, who->owner, sbx_request_path(r, "id"), r, err);
}

HANDLER(api_logs)
{
    const char *id = sbx_request_path(r, "id");
    sbx_sandbox_row row = {0};
    sbx_logs_query q;

    if (sbx_logs_query_read(r, &q, err) ||
        sbx_store_sandbox_get(app->store, who->owner, id, &row, err))
        return -1;
    bool deleted = strcmp(row.state, "deleted") == 0;
    sbx_sandbox_row_done(&row);
    if (deleted)
        return sbx_fail(err, SBX_E_GONE, "the sandbox was deleted");
    if (r->accept != SBX_ACCEPT_JSON) {
        sbx_logs_view(app->logs, id, &q, r->reply, r->accept == SBX_ACCEPT_WS);
        return 0;
    }
    sbx_buf b = SBX_BUF_INIT(SBX_MAX_RESPONSE_BYTES);
    int rc = sbx_logs_page(app->logs, id, &q, &b, err);
    if (!rc)
        sbx_reply_json(r->reply, 200, &b);
    sbx_buf_done(&b);
    return rc;
}
