/* Pools: how many sandboxes wait for creates. For administrators. */
#include "sbx/sandbox/pool.h"
#include "handlers.h"

static int require_admin(const sbx_principal *who, sbx_err *err)
{
    if (who->admin)
        return 0;
    return sbx_fail(err, SBX_E_FORBIDDEN,
                    "pools are for administrators: use a key of a user with the role admin");
}

HANDLER(api_pool_get)
{
    sbx_buf b = SBX_BUF_INIT(MIB);
    int rc = require_admin(who, err) || sbx_pool_json(app->sandboxes, &b, err) ? -1 : 0;

    if (!rc)
        sbx_reply_json(r->reply, 200, &b);
    sbx_buf_done(&b);
    return rc;
}

HANDLER(api_pool_set)
{
    sbx_buf b = SBX_BUF_INIT(64 * KIB);
    int rc = require_admin(who, err) || sbx_pool_set(app->sandboxes, r->body, r->body_len, &b, err)
                 ? -1
                 : 0;

    if (!rc)
        sbx_reply_json(r->reply, 200, &b);
    sbx_buf_done(&b);
    return rc;
}
