/* By whose right requests are in work: asked for now and then, and ended with it.
 *
 * The connections are the only list of them. Whoever looks them up elsewhere (a database) is told
 * on LOOP and answers, on any thread, by a message back. What is younger than the pause between two
 * looks and no stream is not told: its right has just been checked, and most are over by then. */
#include "internal.h"

#include "sbx/core/clock.h"
#include "sbx/core/thread.h"

typedef struct ended {
    sbx_http *http;
    sbx_bearer bearer;
} ended;

static bool lasts(const conn *c, int64_t now_us)
{
    return c->state == C_STREAM || c->state == C_WS ||
           (c->start_us && now_us - c->start_us >= SBX_KEYS_CHECK_MS * 1000);
}

void bearers_tick(sbx_http *h)
{
    int64_t now_us = sbx_now_us();
    sbx_bearer *ids = NULL, bearer;
    size_t count = 0;
    bool expired;

    SBX_ASSERT_THREAD(SBX_T_LOOP);
    if (!h->config.bearers || h->now_ms - h->bearers_ms < SBX_KEYS_CHECK_MS)
        return;
    h->bearers_ms = h->now_ms;
    for (size_t i = 0; i < h->slot_count; i++) {
        conn *c = h->slots[i];

        if (!c || !c->reply || !lasts(c, now_us))
            continue;
        if (reply_bearer(c->reply, &bearer, &expired)) {
            if (!ids)
                ids = sbx_alloc((h->slot_count - i) * sizeof(*ids));
            ids[count++] = bearer;
        } else if (expired) {
            reply_revoke(c->reply);
        }
    }
    if (count)
        h->config.bearers(h->config.app, ids, count);
}

static void end_on_loop(void *arg)
{
    ended *e = arg;

    for (size_t i = 0; i < e->http->slot_count; i++) {
        conn *c = e->http->slots[i];

        if (c && c->reply && reply_is_by(c->reply, e->bearer.id))
            reply_revoke(c->reply);
    }
    free(e);
}

void sbx_http_end_bearer(sbx_http *h, const char *id)
{
    ended *e = sbx_alloc(sizeof(*e));

    e->http = h;
    sbx_copy(e->bearer.id, sizeof(e->bearer.id), id);
    sbx_mailbox_post(h->mailbox, end_on_loop, e);
}
