/* Code. */
#include "handlers.h"

HANDLER(api_run)
{
    return sbx_principal_require(who, "exec:write", err) ||
                   sbx_run_start(app->runs, who->owner, NULL, r, err)
               ? -1
               : 0;
}

HANDLER(api_sandbox_run)
{
    return sbx_run_start(app->runs, who->owner, sbx_request_path(r, "id"), r, err);
}
