/* Health, readiness, metrics, the API document. */
#include "handlers.h"

#include "sbx/core/clock.h"
#include "sbx/core/thread.h"
#include "sbx/sandbox/state.h"
#include "sbx/store/sandboxes.h"

#define READY_FRESH_MS 1000
#define READY_BOUND_MS 2000 /* of one dependency */

HANDLER(api_health)
{
    sbx_buf b = SBX_BUF_INIT(KIB);
    sbx_jw w = SBX_JW(&b);

    (void)app, (void)who, (void)err;
    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "status", "ok");
    sbx_jw_str(&w, "version", SBX_VERSION);
    sbx_jw_obj_end(&w);
    sbx_reply_json(r->reply, 200, &b);
    sbx_buf_done(&b);
    return 0;
}

static int ping_store(sbx_app *app, sbx_err *err)
{
    return sbx_store_ping(app->store, err);
}

static int ping_bus(sbx_app *app, sbx_err *err)
{
    return app->bus->ops->ping(app->bus, err);
}

static int ping_engine(sbx_app *app, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf version = SBX_BUF_INIT(KIB);

    return app->engine->ops->ping(app->engine, &version, err);
}

/* Looks, unless somebody did so a moment ago or is at it. Load balancers ask often and from many
 * places, and the answer may take a while when something hangs. */
static struct sbx_ready_part look_at(sbx_app *app, struct sbx_ready_part *part,
                                     int (*ping)(sbx_app *app, sbx_err *err))
{
    struct sbx_ready_part found;
    int64_t from_us = sbx_now_us();
    sbx_err why = {0};

    pthread_mutex_lock(&app->ready.mu);
    found = *part;
    bool mine = !part->checking && sbx_now_ms() - part->at_ms >= READY_FRESH_MS;
    if (mine)
        part->checking = true;
    pthread_mutex_unlock(&app->ready.mu);
    if (!mine && found.at_ms)
        return found;
    sbx_job_scope(sbx_now_ms() + READY_BOUND_MS, NULL); /* shared: not cut by one who leaves */
    found.code = ping(app, &why) ? why.code : SBX_OK;
    found.latency_us = sbx_now_us() - from_us;
    found.at_ms = sbx_now_ms();
    found.checking = false;
    if (!mine)
        return found;
    pthread_mutex_lock(&app->ready.mu);
    *part = found;
    pthread_mutex_unlock(&app->ready.mu);
    return found;
}

/* Not a condition: sandboxes without a network do without it. */
static void add_guard(sbx_app *app, sbx_jw *w)
{
    sbx_guard_status s;

    sbx_guard_status_get(app->guard, &s);
    sbx_jw_obj(w, "network");
    sbx_jw_str(w, "status", s.confirmed ? "ok" : s.wanted ? "unavailable" : "unused");
    if (s.wanted && !s.confirmed)
        sbx_jw_str(w, "code", sbx_code_wire(s.why.code));
    sbx_jw_obj_end(w);
}

HANDLER(api_ready)
{
    const struct {
        const char *name;
        int (*ping)(sbx_app *app, sbx_err *err);
        sbx_breaker *breaker;
    } parts[] = {{"store", ping_store, sbx_store_breaker(app->store)},
                 {"bus", ping_bus, NULL},
                 {"engine", ping_engine, app->engine->breaker}};
    static const sbx_header again = {"retry-after", "1"};
    sbx_buf b = SBX_BUF_INIT(8 * KIB);
    sbx_jw w = SBX_JW(&b);
    bool ready = true;

    (void)who, (void)err;
    sbx_jw_obj(&w, NULL);
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        struct sbx_ready_part found = look_at(app, &app->ready.parts[i], parts[i].ping);
        bool open = parts[i].breaker && sbx_breaker_is_open(parts[i].breaker);

        if (open && !found.code) /* it was well when somebody last looked */
            found.code = parts[i].breaker->code;
        ready = ready && !found.code;
        sbx_jw_obj(&w, parts[i].name);
        sbx_jw_str(&w, "status", found.code ? "unavailable" : "ok");
        sbx_jw_milli(&w, "latencyMs", found.latency_us);
        if (found.code)
            sbx_jw_str(&w, "code", sbx_code_wire(found.code));
        if (parts[i].breaker)
            sbx_jw_str(&w, "breaker", open ? "open" : "closed");
        sbx_jw_obj_end(&w);
    }
    add_guard(app, &w);
    bool draining = sbx_http_draining(app->http);
    sbx_jw_str(&w, "status", draining ? "draining" : ready ? "ready" : "unavailable");
    ready = ready && !draining;
    sbx_jw_obj_end(&w);
    sbx_reply_send(r->reply, ready ? 200 : 503, "application/json", &again, ready ? 0 : 1, &b);
    sbx_buf_done(&b);
    return 0;
}

/* --- metrics --- */

static bool loopback_only(const char *listen)
{
    return strncmp(listen, "127.", 4) == 0 || strncmp(listen, "[::1]", 5) == 0 ||
           strncmp(listen, "localhost:", 10) == 0;
}

static bool token_ok(const sbx_app *app, const sbx_request *r)
{
    const char *want = app->options.metrics_token;
    const char *have = r->authorization;

    if (!*want)
        return loopback_only(app->options.listen) && !r->forwarded;
    return have && strncasecmp(have, "Bearer ", 7) == 0 && strlen(have + 7) == strlen(want) &&
           sbx_equal_ct(have + 7, want, strlen(want));
}

static void refresh_gauges(sbx_app *app)
{
    const char *names[SBX_S_COUNT];
    int64_t counts[SBX_S_COUNT];
    sbx_err err;

    for (int i = 0; i < SBX_S_COUNT; i++)
        names[i] = sbx_state_wire((sbx_state)i);
    if (sbx_store_sandbox_counts(app->store, names, SBX_S_COUNT, counts, &err) == 0)
        for (int i = 0; i < SBX_S_COUNT; i++)
            sbx_metrics_set(app->metrics, SBX_M_SANDBOXES, names[i], (double)counts[i]);
    sbx_metrics_set(app->metrics, SBX_M_BREAKER_OPEN, "store",
                    sbx_breaker_is_open(sbx_store_breaker(app->store)));
    sbx_metrics_set(app->metrics, SBX_M_BREAKER_OPEN, "engine",
                    sbx_breaker_is_open(app->engine->breaker));
    for (int i = 0; i < SBX_LANE_COUNT; i++)
        sbx_metrics_set(app->metrics, SBX_M_LANE_WAITING, sbx_lane_name((sbx_lane)i),
                        (double)sbx_lanes_waiting(app->lanes, (sbx_lane)i));
    sbx_guard_status guard;

    sbx_guard_status_get(app->guard, &guard);
    sbx_metrics_set(app->metrics, SBX_M_GUARD_CONFIRMED, NULL, guard.confirmed);
    sbx_metrics_set(app->metrics, SBX_M_HTTP_CONNECTIONS, NULL,
                    (double)sbx_http_connections(app->http));
}

HANDLER(api_metrics)
{
    sbx_buf b = SBX_BUF_INIT(SBX_METRICS_PAGE_BYTES);

    (void)who;
    if (!token_ok(app, r))
        return sbx_fail(err, SBX_E_FORBIDDEN, "%s",
                        *app->options.metrics_token
                            ? "send Authorization: Bearer with the metrics token"
                            : "without a metrics token (option --metrics-token) metrics are "
                              "served on loopback only, and not to forwarded requests");
    refresh_gauges(app);
    sbx_metrics_text(app->metrics, &b);
    sbx_reply_send(r->reply, 200, "text/plain; version=0.0.4; charset=utf-8", NULL, 0, &b);
    sbx_buf_done(&b);
    return 0;
}

HANDLER(api_openapi)
{
    sbx_buf b = SBX_BUF_INIT(MIB);

    (void)who, (void)err;
    sbx_buf_adds(&b, app->openapi);
    sbx_reply_json(r->reply, 200, &b);
    sbx_buf_done(&b);
    return 0;
}

HANDLER(api_docs)
{
    sbx_header policy = {"content-security-policy", app->docs_policy};
    sbx_buf b = SBX_BUF_INIT(MIB);

    (void)who, (void)err;
    sbx_buf_adds(&b, app->docs);
    sbx_reply_send(r->reply, 200, "text/html; charset=utf-8", &policy, 1, &b);
    sbx_buf_done(&b);
    return 0;
}
