/* Contexts. */
#include "sbx/runs/contexts.h"
#include "handlers.h"

static sbx_context_ref context_of(const sbx_principal *who, const sbx_request *r)
{
    return (sbx_context_ref){who->owner, sbx_request_path(r, "id"),
                             sbx_request_path(r, "contextId")};
}

HANDLER(api_context_create)
{
    sbx_context_ref ref = context_of(who, r);

    ref.id = api_claimed_id(r);
    return sbx_context_make(app->runs, &ref, api_claim_resumed(r), r, err);
}

HANDLER(api_context_list)
{
    sbx_context_ref ref = context_of(who, r);

    return sbx_context_list(app->runs, &ref, r, err);
}

HANDLER(api_context_get)
{
    sbx_context_ref ref = context_of(who, r);

    return sbx_context_get(app->runs, &ref, r, err);
}

HANDLER(api_context_delete)
{
    sbx_context_ref ref = context_of(who, r);

    return sbx_context_remove(app->runs, &ref, r, err);
}

HANDLER(api_context_restart)
{
    sbx_context_ref ref = context_of(who, r);

    return sbx_context_restart(app->runs, &ref, r, err);
}
