/* Events: what happened to the caller's sandboxes. */
#include "handlers.h"

HANDLER(api_events)
{
    sbx_events_query q;

    if (sbx_events_query_read(r, &q, err))
        return -1;
    if (r->accept != SBX_ACCEPT_JSON)
        return sbx_events_view(app->events, who->owner, &q, r->reply, r->accept == SBX_ACCEPT_WS,
                               err);
    sbx_buf b = SBX_BUF_INIT(SBX_MAX_RESPONSE_BYTES);
    int rc = sbx_events_page(app->events, who->owner, &q, &b, err);
    if (!rc)
        sbx_reply_json(r->reply, 200, &b);
    sbx_buf_done(&b);
    return rc;
}
