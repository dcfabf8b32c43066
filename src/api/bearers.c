/* The end of rights: of keys that are revoked, of users who are disabled, and of what both opened.
 *
 * The worker that ends a right tells the others over the bus, in milliseconds; in each the memory
 * of the key goes and its requests end. What no message tells (a right that ended by its time, a
 * bus that is down, a message that was lost) is found by asking the database for what is in work.
 */
#include "handlers.h"

#include "sbx/core/clock.h"
#include "sbx/core/json.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include "sbx/store/identity.h"
#include <stdio.h>

#define ENDED_MS 2000 /* for asking which keys are good: the sign of life waits behind it */

/* --- what workers tell each other --- */

#define TOPIC_PREFIX "rights:" /* and the id of the cluster: a Redis may serve several */

typedef struct news {
    char *id, *worker;
    bool ended;
} news;

#define AT(member) offsetof(news, member)

static const sbx_json_field news_fields[] = {
    {"id", SBX_JF_STR, AT(id), .required = true, .max = SBX_ID_LEN},
    {"worker", SBX_JF_STR, AT(worker), .required = true, .max = SBX_ID_LEN},
    {"ended", SBX_JF_BOOL, AT(ended)},
    {.name = NULL},
};

static void topic_of(const sbx_app *app, char out[SBX_BUS_TOPIC_BYTES])
{
    snprintf(out, SBX_BUS_TOPIC_BYTES, TOPIC_PREFIX "%s", app->cluster.s);
}

void api_bearer_forget(sbx_app *app, const char *id, bool ended)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf text = SBX_BUF_INIT(KIB);
    char topic[SBX_BUS_TOPIC_BYTES];
    sbx_jw w = SBX_JW(&text);

    sbx_auth_forget(app->auth, id);
    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "id", id);
    sbx_jw_str(&w, "worker", app->worker.s);
    sbx_jw_bool(&w, "ended", ended);
    sbx_jw_obj_end(&w);
    topic_of(app, topic);
    sbx_bus_item item = {.seq = 0, .data = text.data, .len = text.len};
    /* Not heard: then the others find it by themselves. */
    (void)app->bus->ops->publish(app->bus, topic, &item, 1);
}

static void hear(sbx_app *app, const sbx_bus_item *item)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    news n = {0};
    sbx_err err;

    if (sbx_json_parse(item->data, item->len, &root, &err) ||
        sbx_json_decode(root, news_fields, &n, &err)) {
        sbx_log_err(SBX_WARN, "what a worker told of an ended right is not understood", &err, NULL);
    } else if (strcmp(n.worker, app->worker.s) != 0) {
        sbx_auth_forget(app->auth, n.id);
        if (n.ended)
            sbx_http_end_bearer(app->http, n.id);
    }
    sbx_json_struct_done(news_fields, &n);
}

static void on_bus(void *arg, const char *topic, const sbx_bus_item *items, size_t count,
                   bool reset)
{
    sbx_app *app = arg;
    char own[SBX_BUS_TOPIC_BYTES];

    topic_of(app, own);
    if (strcmp(topic, own) != 0)
        return;
    if (reset) /* something may not have been heard */
        sbx_auth_forget(app->auth, NULL);
    for (size_t i = 0; i < count; i++)
        hear(app, &items[i]);
}

void sbx_api_rights_listen(sbx_app *app)
{
    char topic[SBX_BUS_TOPIC_BYTES];

    topic_of(app, topic);
    app->bus->ops->set_reader(app->bus, TOPIC_PREFIX, on_bus, app);
    app->bus->ops->subscribe(app->bus, topic);
}

void sbx_api_rights_deafen(sbx_app *app)
{
    app->bus->ops->set_reader(app->bus, TOPIC_PREFIX, NULL, NULL);
}

/* --- asking for what is in work --- */

typedef struct bearers {
    sbx_app *app;
    sbx_bearer *ids;
    size_t count;
} bearers;

static void bearers_done(bearers *b)
{
    atomic_store(&b->app->checking_bearers, false);
    free(b->ids);
    free(b);
}

static int compare(const void *a, const void *b)
{
    return strcmp(((const sbx_bearer *)a)->id, ((const sbx_bearer *)b)->id);
}

static void on_ended(void *arg, const char *id)
{
    sbx_http_end_bearer(((bearers *)arg)->app->http, id);
}

/* Without an answer of the database nothing is ended: the next look does it. */
static void look(void *arg)
{
    bearers *b = arg;
    const char **ids = sbx_alloc(b->count * sizeof(*ids));
    size_t count = 0;
    sbx_err err;

    sbx_job_scope(sbx_now_ms() + ENDED_MS, NULL);
    qsort(b->ids, b->count, sizeof(*b->ids), compare);
    for (size_t i = 0; i < b->count; i++)
        if (i == 0 || strcmp(b->ids[i].id, b->ids[i - 1].id) != 0)
            ids[count++] = b->ids[i].id;
    if (sbx_store_keys_ended(b->app->store, ids, count, on_ended, b, &err))
        sbx_log_err(SBX_DEBUG, "the keys of open streams were not looked at", &err, NULL);
    free(ids);
    bearers_done(b);
}

void sbx_api_bearers(void *arg, sbx_bearer *ids, size_t count)
{
    sbx_app *app = arg;
    bearers *b = sbx_alloc(sizeof(*b));
    sbx_job job = {.run = look, .arg = b};
    sbx_err err;

    *b = (bearers){app, ids, count};
    if (atomic_exchange(&app->checking_bearers, true)) {
        free(ids);
        free(b);
    } else if (sbx_lanes_submit(app->lanes, SBX_LANE_PULSE, &job, &err)) {
        bearers_done(b);
    }
}
