/* Pools: how many sandboxes wait for creates. For administrators. */
#include "sbx/sandbox/pool.h"
#include "handlers.h"

HANDLER(api_pool_get)
{
    sbx_buf b = SBX_BUF_INIT(MIB);
    int rc = sbx_pool_json(app->sandboxes, &b, err);

    (void)who;
    if (!rc)
        sbx_reply_json(r->reply, 200, &b);
    sbx_buf_done(&b);
    return rc;
}

HANDLER(api_pool_set)
{
    sbx_buf b = SBX_BUF_INIT(64 * KIB);
    int rc = sbx_pool_set(app->sandboxes, r->body, r->body_len, &b, err);

    (void)who;
    if (!rc)
        sbx_reply_json(r->reply, 200, &b);
    sbx_buf_done(&b);
    return rc;
}
