/* Moves that this process began or claimed and could not bring to their end, since the database or
 * the engine failed it. Their rows carry a deadline that lies far ahead, for a move that is merely
 * slow; but nobody is at them, so as soon as the database answers the deadline is now, and the
 * cleanup claims them. What is known here is lost with the process, whose death says the same. */
#include "sandboxes_priv.h"

#include <pthread.h>

#define MAX_UNFINISHED 4096 /* beyond them the deadlines count */

struct sandbox_unfinished {
    pthread_mutex_t mu;
    size_t count; /* guarded by mu, as the ids */
    char ids[MAX_UNFINISHED][SBX_ID_LEN + 1];
};

sandbox_unfinished *sandbox_unfinished_new(void)
{
    sandbox_unfinished *u = sbx_alloc(sizeof(*u));

    pthread_mutex_init(&u->mu, NULL);
    return u;
}

void sandbox_unfinished_free(sandbox_unfinished *u)
{
    if (!u)
        return;
    pthread_mutex_destroy(&u->mu);
    free(u);
}

void sbx_sandbox_leave(sbx_sandboxes *s, const char *id, const sbx_err *why)
{
    sandbox_unfinished *u = s->unfinished;
    bool known = false;

    if (why->code == SBX_E_CONFLICT || why->code == SBX_E_GONE || why->code == SBX_E_NOT_FOUND)
        return; /* it is not ours any more */
    pthread_mutex_lock(&u->mu);
    for (size_t i = 0; i < u->count && !known; i++)
        known = strcmp(u->ids[i], id) == 0;
    if (!known && u->count < MAX_UNFINISHED)
        sbx_copy(u->ids[u->count++], sizeof(u->ids[0]), id);
    pthread_mutex_unlock(&u->mu);
}

/* Those that came while the statement ran are behind these, and stay. */
static void forget(sandbox_unfinished *u, size_t count)
{
    pthread_mutex_lock(&u->mu);
    u->count -= count;
    memmove(u->ids, u->ids + count, u->count * sizeof(u->ids[0]));
    pthread_mutex_unlock(&u->mu);
}

int sbx_sandboxes_release(sbx_sandboxes *s, sbx_err *err)
{
    sandbox_unfinished *u = s->unfinished;

    pthread_mutex_lock(&u->mu);
    size_t count = u->count;
    char(*ids)[SBX_ID_LEN + 1] = sbx_alloc((count + 1) * sizeof(*ids));
    const char **pointers = sbx_alloc((count + 1) * sizeof(*pointers));
    memcpy(ids, u->ids, count * sizeof(*ids));
    pthread_mutex_unlock(&u->mu);
    for (size_t i = 0; i < count; i++)
        pointers[i] = ids[i];
    int rc = count ? sbx_store_sandbox_release(s->c.store, s->c.worker, pointers, count, err) : 0;
    if (!rc && count)
        forget(u, count);
    free(pointers);
    free(ids);
    return rc;
}
