/* Whose objects a request is about, and whether it may go on: the one place that knows what an
 * administrator reaches. Handlers only ever ask for what `who->owner` has. */
#include "handlers.h"

#include "sbx/store/identity.h"

static struct sbx_reach_place *place_of(sbx_reach *m, const char *id)
{
    uint32_t hash = 2166136261u;

    for (; *id; id++)
        hash = (hash ^ (unsigned char)*id) * 16777619u;
    return &m->places[hash % SBX_REACH_PLACES];
}

static int owner_of(sbx_app *app, const char *id, sbx_id *ret, sbx_err *err)
{
    sbx_reach *m = &app->reach;
    struct sbx_reach_place *p = place_of(m, id);

    pthread_mutex_lock(&m->mu);
    bool known = strcmp(p->object.s, id) == 0;
    if (known)
        *ret = p->owner;
    pthread_mutex_unlock(&m->mu);
    if (known)
        return 0;
    if (sbx_store_owner_of(app->store, id, ret, err))
        return -1;
    pthread_mutex_lock(&m->mu);
    sbx_copy(p->object.s, sizeof(p->object.s), id);
    p->owner = *ret;
    pthread_mutex_unlock(&m->mu);
    return 0;
}

/* What nobody has is asked for as the administrator's own: the handler says that there is none. */
static int reach_object(sbx_app *app, const char *id, sbx_principal *who, sbx_err *err)
{
    sbx_id owner;

    if (owner_of(app, id, &owner, err) == 0)
        sbx_copy(who->owner, sizeof(who->owner), owner.s);
    else if (err->code != SBX_E_NOT_FOUND)
        return -1;
    return 0;
}

static int reach_list(sbx_app *app, const char *word, sbx_principal *who, sbx_err *err)
{
    sbx_id owner;

    if (!who->admin)
        return sbx_fail(err, SBX_E_FORBIDDEN,
                        "owner: the lists of others are for administrators; leave it out");
    if (sbx_store_user_find(app->store, word, &owner, err))
        return err->code == SBX_E_NOT_FOUND
                   ? sbx_fail_field(err, "owner", "owner: there is no user with that id or name")
                   : -1;
    sbx_copy(who->owner, sizeof(who->owner), owner.s);
    return 0;
}

int api_reach(sbx_app *app, const sbx_request *r, sbx_principal *who, sbx_err *err)
{
    const char *owner = sbx_request_query(r, "owner"), *id = sbx_request_path(r, "id");

    if (owner)
        return reach_list(app, owner, who, err);
    if (who->admin && id && sbx_id_valid(id))
        return reach_object(app, id, who, err);
    return 0;
}
