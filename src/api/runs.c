/* Code. */
#include "handlers.h"

HANDLER(api_run)
{
    return sbx_principal_require(who, "exec:write", err) ||
                   sbx_run_start(app->runs, who->owner, NULL, false, r, err)
               ? -1
               : 0;
}

HANDLER(api_sandbox_run)
{
    bool limited = who->limited || strcmp(who->owner, who->user) != 0;

    return sbx_run_start(app->runs, who->owner, sbx_request_path(r, "id"), limited, r, err);
}
