/* The program: reads the options, makes the parts, wires them, serves, and takes them down in the
 * opposite order. Siblings among the layers meet only here. */
#include "app.h"

#include "commands.h"
#include "sbx/api/api.h"
#include "sbx/core/log.h"
#include "sbx/sandbox/pool.h"
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

static sbx_http *volatile serving; /* for the signal handler only */
static int64_t drain_wait_ms, drain_ms;

static void on_signal(int sig)
{
    (void)sig;
    if (serving)
        sbx_http_drain(serving, drain_wait_ms, drain_ms);
}

/* --- what connects the parts --- */

static void on_log(void *arg, const char *sandbox, const sbx_log_entry *entries, size_t count)
{
    sbx_logs_append(((sbx_app *)arg)->logs, sandbox, entries, count);
}

static void on_lost(void *arg, const char *sandbox, bool broken)
{
    sbx_app *app = arg;

    sbx_logs_release(app->logs, sandbox);
    sbx_checks_lost(app->checks, sandbox);
    if (!broken) /* otherwise the adopt tick sets the pace */
        sbx_reaper_look_at(app->reaper, sandbox);
}

static void on_no_main(void *arg, const char *sandbox)
{
    sbx_reaper_start_main(((sbx_app *)arg)->reaper, sandbox);
}

static void on_busy(void *arg, const char *sandbox, int by)
{
    sbx_ledger *ledger = ((sbx_app *)arg)->ledger;

    if (by > 0)
        sbx_ledger_begin(ledger, sandbox);
    else
        sbx_ledger_end(ledger, sandbox);
}

static void on_news(void *arg, const char *sandbox, const sbx_command_entry *e)
{
    sbx_execs_news(((sbx_app *)arg)->execs, sandbox, e);
}

static void on_log_again(void *arg, const char *sandbox, uint64_t from)
{
    sbx_channels_log_again(((sbx_app *)arg)->channels, sandbox, from);
}

static void on_acked(void *arg, const char *sandbox, uint64_t seq)
{
    sbx_channels_log_ack(((sbx_app *)arg)->channels, sandbox, seq);
}

static void on_changed(void *arg, const sbx_sandbox_row *row, const char *json)
{
    sbx_app *app = arg;

    sbx_logs_state(app->logs, row->id, json);
    if (strcmp(row->state, "deleted") == 0)
        sbx_logs_close(app->logs, row->id);
    if (row->event_seq)
        sbx_events_written(app->events, row->owner, row->event_seq);
}

static int on_open_network(void *arg, int64_t since_ms, sbx_network_access *ret, sbx_err *err)
{
    return sbx_guard_confirm(((sbx_app *)arg)->guard, since_ms, ret, err);
}

static bool on_network_ready(void *arg)
{
    sbx_guard_status status;

    sbx_guard_status_get(((sbx_app *)arg)->guard, &status);
    return status.confirmed;
}

static void on_pool_kick(void *arg)
{
    sbx_keeper_kick(((sbx_app *)arg)->keeper, "pool");
}

static void on_keep_network(void *arg)
{
    sbx_guard_want(((sbx_app *)arg)->guard);
}

static void on_replaced(void *arg)
{
    sbx_log(SBX_ERROR, "another worker holds this one's place in the database: ending", NULL);
    sbx_http_drain(((sbx_app *)arg)->http, 0, drain_ms);
}

static void on_draining(void *arg)
{
    sbx_sandboxes_interrupt(((sbx_app *)arg)->sandboxes);
}

static void observe(void *arg, const sbx_route *route, sbx_method method, int status,
                    int64_t duration_us, size_t bytes_out, const char *request_id)
{
    static const char *const methods[] = {"GET",   "HEAD",   "POST",    "PUT",
                                          "PATCH", "DELETE", "OPTIONS", "other"};
    sbx_app *app = arg;
    const char *name = route ? route->name : "none";
    char label[96], status_text[12];

    snprintf(status_text, sizeof(status_text), "%d", status);
    snprintf(label, sizeof(label), "%s,%s,%s", name, methods[method], status_text);
    sbx_metrics_add(app->metrics, SBX_M_HTTP_REQUESTS, label, 1);
    sbx_metrics_observe_us(app->metrics, SBX_M_HTTP_SECONDS, name, duration_us);
    /* One line per change or failure; reads are counted, not logged */
    sbx_log_level level = status >= 500                             ? SBX_WARN
                          : method == SBX_GET || method == SBX_HEAD ? SBX_DEBUG
                                                                    : SBX_INFO;
    if (sbx_log_enabled(level))
        sbx_log(level, "request", "req_id", request_id, "route", name, "method", methods[method],
                "status", status_text, "duration_us", SBX_NUM(duration_us), "bytes",
                SBX_NUM(bytes_out), NULL);
}

static void renew_tickets(void *arg)
{
    sbx_err err;

    if (sbx_tickets_renew(((sbx_app *)arg)->tickets, &err))
        sbx_log_err(SBX_WARN, "tickets of open streams were not renewed", &err, NULL);
}

static void write_key_uses(void *arg)
{
    sbx_err err;

    if (sbx_auth_write_uses(((sbx_app *)arg)->auth, &err))
        sbx_log_err(SBX_WARN, "when keys were used was not written yet", &err, NULL);
}

static void refresh_oidc(void *arg)
{
    sbx_err err;

    if (sbx_oidc_refresh(((sbx_app *)arg)->oidc, &err))
        sbx_log_err(SBX_WARN, "the keys of the OpenID provider were not fetched", &err, NULL);
}

/* --- parts, in the order in which they need each other --- */

static int open_oidc(sbx_app *app, sbx_err *err)
{
    const sbx_options *o = &app->options;
    sbx_oidc_config oidc = {.issuer = o->oidc_issuer,
                            .audience = o->oidc_audience,
                            .jwks_url = o->oidc_jwks_url,
                            .ca_path = o->oidc_ca,
                            .admin = o->oidc_admin};

    if (sbx_oidc_new(&oidc, &app->oidc, err))
        return -1;
    sbx_auth_set_oidc(app->auth, app->oidc);
    return 0;
}

static int open_database(sbx_app *app, sbx_err *err)
{
    const sbx_options *o = &app->options;

    if (command_open_store(o, &app->crypt, &app->store, err) ||
        sbx_store_cluster(app->store, &app->cluster, err))
        return -1;
    app->auth = sbx_auth_new(app->store, app->crypt);
    app->tickets = sbx_tickets_new(app->store, app->crypt);
    if (*o->oidc_issuer && open_oidc(app, err))
        return -1;
    return sbx_store_join(app->store, !*o->redis_url, &app->worker, err);
}

static int open_outside(sbx_app *app, sbx_err *err)
{
    const sbx_options *o = &app->options;
    sbx_docker_config docker = {.host = o->docker_host,
                                .tls = *o->docker_tls_verify,
                                .cert_path = o->docker_cert_path,
                                .timeout_ms = o->engine_timeout_s * 1000,
                                .pull_timeout_ms = o->pull_timeout_s * 1000};

    if (sbx_docker_new(&docker, &app->engine, err))
        return -1;
    if (*o->redis_url)
        return sbx_bus_redis_new(o->redis_url, &app->bus, err);
    app->bus = sbx_bus_memory_new();
    return 0;
}

static int open_guard(sbx_app *app, sbx_err *err)
{
    sbx_guard_config guard = command_guard(&app->options, app->engine, app->cluster.s);

    guard.metrics = app->metrics;
    if (strcmp(app->options.network, "open") != 0 && strcmp(app->options.network, "none") != 0)
        return sbx_fail(err, SBX_E_INVALID, "option --network: must be open or none");
    return sbx_guard_new(&guard, &app->guard, err);
}

static int start_threads(sbx_app *app, sbx_err *err)
{
    const sbx_options *o = &app->options;
    sbx_lanes_config lanes = {
        .threads = {(size_t)o->fast_workers, (size_t)o->slow_workers, (size_t)o->reap_workers},
        .queue = (size_t)o->queue,
        .wait_ms = {o->fast_wait_s * 1000, o->slow_wait_s * 1000, 0}};

    app->metrics = sbx_metrics_new();
    app->stream = sbx_stream_new(err);
    if (!app->stream)
        return -1;
    app->lanes = sbx_lanes_new(&lanes);
    app->keeper = sbx_keeper_new(app->lanes);
    if (app->oidc)
        sbx_keeper_every(app->keeper, "oidc", SBX_OIDC_TICK_MS, SBX_LANE_REAP, refresh_oidc, app);
    sbx_keeper_every(app->keeper, "key uses", SBX_KEY_USES_MS, SBX_LANE_REAP, write_key_uses, app);
    app->audit = sbx_audit_new(app->store, app->metrics, o->audit_days);
    sbx_keeper_every(app->keeper, "audit", SBX_AUDIT_MS, SBX_LANE_REAP, sbx_audit_tick, app->audit);
    sbx_keeper_every(app->keeper, "tickets", SBX_TICKET_RENEW_MS, SBX_LANE_FAST, renew_tickets,
                     app);
    return 0;
}

static void make_rates(sbx_app *app)
{
    const sbx_options *o = &app->options;

    app->rates =
        sbx_rates_new(&(sbx_rates_config){.per_minute = {[SBX_RATE_CREATES] = o->rate_creates,
                                                         [SBX_RATE_EXEC] = o->rate_exec,
                                                         [SBX_RATE_READS] = o->rate_reads},
                                          .failures = o->rate_failures,
                                          .bus = app->bus,
                                          .metrics = app->metrics});
}

static void make_hubs(sbx_app *app)
{
    sbx_logs_config logs = {.stream = app->stream,
                            .lanes = app->lanes,
                            .bus = app->bus,
                            .metrics = app->metrics,
                            .acked = on_acked,
                            .again = on_log_again,
                            .arg = app};
    sbx_events_config events = {.stream = app->stream,
                                .lanes = app->lanes,
                                .store = app->store,
                                .bus = app->bus,
                                .metrics = app->metrics};

    app->logs = sbx_logs_new(&logs);
    app->events = sbx_events_new(&events);
}

static void make_reaper(sbx_app *app)
{
    const sbx_options *o = &app->options;
    sbx_reaper_config reaper = {.store = app->store,
                                .engine = app->engine,
                                .sandboxes = app->sandboxes,
                                .channels = app->channels,
                                .ledger = app->ledger,
                                .metrics = app->metrics,
                                .lanes = app->lanes,
                                .cluster = app->cluster.s,
                                .worker = app->worker.s,
                                .sweep_s = o->sweep_s,
                                .orphan_grace_s = o->orphan_grace_s,
                                .replaced = on_replaced,
                                .arg = app};
    app->reaper = sbx_reaper_new(&reaper, app->keeper);
    sbx_keeper_every(app->keeper, "pool", SBX_POOL_TICK_MS, SBX_LANE_REAP, sbx_pool_tick,
                     app->sandboxes);
}

static int make_packages(sbx_app *app, sbx_err *err)
{
    const sbx_options *o = &app->options;
    sbx_packages_config packages = {.stream = app->stream,
                                    .lanes = app->lanes,
                                    .store = app->store,
                                    .engine = app->engine,
                                    .channels = app->channels,
                                    .sandboxes = app->sandboxes,
                                    .metrics = app->metrics,
                                    .crypt = app->crypt,
                                    .cluster = app->cluster.s,
                                    .worker = app->worker.s,
                                    .pip_index_url = o->pip_index_url,
                                    .npm_registry = o->npm_registry,
                                    .ca_path = o->packages_ca,
                                    .timeout_s = o->packages_timeout_s,
                                    .ttl_s = o->packages_ttl_s,
                                    .max_mb = o->packages_mb,
                                    .max_set_mb = o->packages_set_mb,
                                    .orphan_grace_s = o->orphan_grace_s,
                                    .tidy_s = o->sweep_s};

    return sbx_packages_new(&packages, app->keeper, &app->packages, err);
}

static void make_runs(sbx_app *app)
{
    app->runs = sbx_runs_new(&(sbx_runs_config){.stream = app->stream,
                                                .lanes = app->lanes,
                                                .store = app->store,
                                                .channels = app->channels,
                                                .ledger = app->ledger,
                                                .metrics = app->metrics,
                                                .sandboxes = app->sandboxes,
                                                .packages = app->packages,
                                                .worker = app->worker.s});
    sbx_keeper_every(app->keeper, "runs", SBX_RUN_TICK_MS, SBX_LANE_REAP, sbx_runs_tick, app->runs);
}

/* What requests are served by, each for itself. */
static void make_requests(sbx_app *app)
{
    const sbx_options *o = &app->options;
    sbx_execs_config execs = {.stream = app->stream,
                              .lanes = app->lanes,
                              .store = app->store,
                              .channels = app->channels,
                              .ledger = app->ledger,
                              .metrics = app->metrics,
                              .sandboxes = app->sandboxes,
                              .runtime_of = sbx_run_runtime_of,
                              .terminal_idle_ms = o->terminal_idle_s * 1000};
    app->moves = sbx_moves_new(&(sbx_moves_config){app->stream, app->lanes, app->sandboxes});
    app->execs = sbx_execs_new(&execs);
    app->batches = sbx_batches_new(
        &(sbx_batches_config){app->stream, app->lanes, app->store, app->sandboxes, app->worker.s});
    app->stats = sbx_stats_new(&(sbx_stats_config){app->stream, app->lanes, app->store, app->engine,
                                                   app->channels, app->sandboxes, app->worker.s});
    app->files = sbx_files_new(&(sbx_files_config){.stream = app->stream,
                                                   .lanes = app->lanes,
                                                   .store = app->store,
                                                   .channels = app->channels,
                                                   .ledger = app->ledger,
                                                   .sandboxes = app->sandboxes,
                                                   .stall_ms = o->files_stall_s * 1000});
    make_runs(app);
}

static int make_services(sbx_app *app, sbx_err *err)
{
    const sbx_options *o = &app->options;
    SBX_CLEANUP(sbx_free_str) char *agent = command_agent_path(o);
    SBX_CLEANUP(sbx_free_str) char *files = command_files_path(o);
    sbx_channel_events told = {.log = on_log,
                               .lost = on_lost,
                               .no_main = on_no_main,
                               .busy = on_busy,
                               .news = on_news,
                               .arg = app};
    sbx_sandboxes_config sandboxes = {.stream = app->stream,
                                      .lanes = app->lanes,
                                      .store = app->store,
                                      .engine = app->engine,
                                      .bus = app->bus,
                                      .metrics = app->metrics,
                                      .cluster = app->cluster.s,
                                      .worker = app->worker.s,
                                      .templates = o->templates,
                                      .runtime = o->runtime,
                                      .agent_path = agent,
                                      .files_path = files,
                                      .pull_timeout_s = o->pull_timeout_s,
                                      .pause_retry_s = o->pause_retry_s,
                                      .network = o->network,
                                      .open_network = on_open_network,
                                      .keep_network = on_keep_network,
                                      .network_ready = on_network_ready,
                                      .pool = o->pool,
                                      .registries = o->registries,
                                      .pool_kick = on_pool_kick,
                                      .changed = on_changed,
                                      .arg = app};

    app->channels = sbx_channels_new(app->stream);
    sbx_channels_bridge_idle(app->channels, o->bridge_idle_s * 1000);
    app->checks = sbx_checks_new(app->stream, app->channels);
    make_rates(app);
    make_hubs(app);
    app->ledger = sbx_ledger_new(app->store);
    sandboxes.channels = app->channels;
    sandboxes.checks = app->checks;
    sandboxes.ledger = app->ledger;
    if (sbx_sandboxes_new(&sandboxes, &app->sandboxes, err))
        return -1;
    sbx_channels_watch(app->channels, &told);
    if (make_packages(app, err))
        return -1;
    make_requests(app);
    make_reaper(app);
    return 0;
}

static char *rendered(void (*render)(sbx_buf *out))
{
    sbx_buf b = SBX_BUF_INIT(MIB);

    render(&b);
    return sbx_buf_steal(&b);
}

static int open_http(sbx_app *app, sbx_err *err)
{
    const sbx_options *o = &app->options;

    app->routes = sbx_api_http_routes();
    app->openapi = rendered(sbx_api_openapi);
    app->docs = rendered(sbx_api_docs);
    app->docs_policy = rendered(sbx_api_docs_policy);
    sbx_http_config config = {.listen = o->listen,
                              .routes = app->routes,
                              .route_count = sbx_api_route_count,
                              .lanes = app->lanes,
                              .app = app,
                              .observe = observe,
                              .draining = on_draining,
                              .bearers = sbx_api_bearers,
                              .header_timeout_s = o->header_timeout_s,
                              .body_timeout_s = o->body_timeout_s,
                              .keepalive_s = o->keepalive_s,
                              .max_connections = o->max_connections,
                              .trusted_proxies = o->trusted_proxies,
                              .cors_origins = o->cors_origins};
    if (sbx_http_new(&config, &app->http, err))
        return -1;
    sbx_api_rights_listen(app);
    return 0;
}

/* The volume with the agent is made, and images are fetched, now rather than by the first create;
 * if the engine is down the server starts all the same, and /ready tells. */
static void prepare_engine(void *arg)
{
    sbx_err err;

    if (sbx_sandboxes_prepare(((sbx_app *)arg)->sandboxes, &err) ||
        sbx_sandboxes_prefetch(((sbx_app *)arg)->sandboxes, &err))
        sbx_log_err(SBX_WARN, "the engine is not ready yet", &err, NULL);
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int serve_until_signal(sbx_app *app, sbx_err *err)
{
    struct sigaction act = {.sa_handler = on_signal};
    sbx_job warm = {.run = prepare_engine, .arg = app};

    if (sbx_guard_start(app->guard, err) || sbx_keeper_start(app->keeper, err) ||
        sbx_reaper_start(app->reaper, err) ||
        sbx_lanes_submit(app->lanes, SBX_LANE_SLOW, &warm, err))
        return -1;
    drain_wait_ms = app->options.drain_wait_s * 1000;
    drain_ms = app->options.drain_s * 1000;
    serving = app->http;
    sigaction(SIGTERM, &act, NULL);
    sigaction(SIGINT, &act, NULL);
    sbx_log(SBX_INFO, "serving", "listen", app->options.listen, "port",
            SBX_NUM(sbx_http_port(app->http)), "version", SBX_VERSION, "worker", app->worker.s,
            "cluster", app->cluster.s, "bus", app->bus->ops->name, NULL);
    sbx_http_run(app->http);
    sbx_log(SBX_INFO, "stopping", NULL);
    return 0;
}

/* Nothing new begins, and what runs comes to its end. */
static void stop_all(sbx_app *app)
{
    sbx_sandbox_refs frozen = {0};
    sbx_err err;

    serving = NULL;
    if (app->http)
        sbx_api_rights_deafen(app);
    if (app->keeper)
        sbx_keeper_stop(app->keeper);
    if (app->reaper)
        sbx_reaper_stop(app->reaper);
    if (app->packages)
        sbx_packages_stop(app->packages);
    if (app->sandboxes) {
        sbx_sandboxes_interrupt(app->sandboxes);
        sbx_stream_sync(app->stream); /* what that leads to is with the lanes now */
    }
    if (app->lanes)
        sbx_lanes_stop(app->lanes);
    if (app->guard) /* after the last that may wait for it */
        sbx_guard_stop(app->guard);
    if (app->http)
        sbx_http_settle(app->http); /* the last that it tells STREAM */
    if (app->audit)
        sbx_audit_tick(app->audit); /* what the last answers left */
    if (app->tickets)
        renew_tickets(app); /* for the streams that go on elsewhere */
    if (app->auth)
        write_key_uses(app);
    if (app->channels) {
        sbx_checks_shutdown(app->checks);
        if (app->stats)
            sbx_stats_shutdown(app->stats);
        sbx_channels_shutdown(app->channels);
        sbx_stream_sync(app->stream);
    }
    if (app->ledger && sbx_ledger_flush(app->ledger, &frozen, &err))
        sbx_log_err(SBX_WARN, "the last records were lost", &err, NULL);
    sbx_sandbox_refs_done(&frozen); /* nobody waits any more */
    if (app->logs) {
        sbx_logs_stop(app->logs);
        sbx_logs_free(app->logs);
    }
    if (app->events) {
        sbx_events_stop(app->events);
        sbx_events_free(app->events);
    }
}

static void close_all(sbx_app *app)
{
    stop_all(app);
    sbx_stream_free(app->stream);
    sbx_http_free(app->http); /* after all who hold replies */
    sbx_lanes_free(app->lanes);
    sbx_keeper_free(app->keeper);
    sbx_reaper_free(app->reaper);
    sbx_moves_free(app->moves);
    sbx_execs_free(app->execs);
    sbx_batches_free(app->batches);
    sbx_stats_free(app->stats);
    sbx_runs_free(app->runs);
    sbx_files_free(app->files);
    sbx_packages_free(app->packages);
    sbx_sandboxes_free(app->sandboxes);
    sbx_checks_free(app->checks);
    sbx_channels_free(app->channels);
    sbx_ledger_free(app->ledger);
    sbx_guard_free(app->guard);
    sbx_rates_free(app->rates);
    if (app->bus)
        app->bus->ops->free(app->bus);
    if (app->engine)
        app->engine->ops->free(app->engine);
    sbx_audit_free(app->audit);
    sbx_metrics_free(app->metrics);
    sbx_tickets_free(app->tickets);
    sbx_auth_free(app->auth);
    sbx_oidc_free(app->oidc);
    if (app->store && *app->worker.s)
        sbx_store_leave(app->store, app->worker.s);
    sbx_store_free(app->store);
    sbx_crypt_free(app->crypt);
    free(app->routes);
    free(app->openapi);
    free(app->docs);
    free(app->docs_policy);
}

static int serve(sbx_options *options, sbx_err *err)
{
    sbx_app app = {.options = *options,
                   .ready = {.mu = PTHREAD_MUTEX_INITIALIZER},
                   .reach = {.mu = PTHREAD_MUTEX_INITIALIZER}};

    signal(SIGPIPE, SIG_IGN);
    if (!options->core_dumps)
        prctl(PR_SET_DUMPABLE, 0);
    mallopt(M_ARENA_MAX, 2); /* many threads, little heap: keeps the resident size small */
    raise_descriptor_limit();
    int rc = open_database(&app, err) || open_outside(&app, err) || start_threads(&app, err) ||
                     open_guard(&app, err) || make_services(&app, err) || open_http(&app, err) ||
                     serve_until_signal(&app, err)
                 ? -1
                 : 0;
    close_all(&app);
    return rc;
}

static int set_log_level(const char *name, sbx_err *err)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(names[i], name) == 0) {
            sbx_log_set_level((sbx_log_level)i);
            return 0;
        }
    return sbx_fail(err, SBX_E_INVALID, "option --log-level: must be debug, info, warn or error");
}

int main(int argc, char **argv)
{
    sbx_options options = {0};
    sbx_err err = {0};
    const char *name = argc > 1 ? argv[1] : "--help";
    int used = 2;

    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0)
        return command_help();
    if (strcmp(name, "version") == 0 || strcmp(name, "--version") == 0)
        return command_version();
    key_request key = {0};
    bool dry_run = strcmp(name, "migrate") == 0 && command_flag(&argc, argv, "--dry-run");
    bool json = strcmp(name, "doctor") == 0 && command_flag(&argc, argv, "--json");
    bool confirmed = strcmp(name, "sweep") == 0 && command_flag(&argc, argv, "--confirm");
    int rc = strcmp(name, "key") == 0 ? key_request_read(&argc, argv, &key, &err) : 0;
    if (!rc)
        rc = sbx_options_load(&options, argc - used, argv + used, &err) ||
                     set_log_level(options.log_level, &err)
                 ? -1
                 : 0;
    sbx_options_hide(argc - used, argv + used);
    if (!rc) {
        if (strcmp(name, "serve") == 0)
            rc = serve(&options, &err);
        else if (strcmp(name, "migrate") == 0)
            rc = command_migrate(&options, dry_run, &err);
        else if (strcmp(name, "key") == 0)
            rc = command_key(&options, &key, &err);
        else if (strcmp(name, "reseal") == 0)
            rc = command_reseal(&options, &err);
        else if (strcmp(name, "sweep") == 0)
            rc = command_sweep(&options, confirmed, &err);
        else if (strcmp(name, "doctor") == 0)
            rc = command_doctor(&options, json);
        else
            rc = sbx_fail(&err, SBX_E_INVALID, "unknown command \"%s\"; see sandboxd --help", name);
    }
    sbx_options_done(&options);
    if (rc < 0)
        fprintf(stderr, "sandboxd %s: %s\n", name, err.msg);
    return rc < 0 ? 1 : rc;
}
