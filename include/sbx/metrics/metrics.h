/* Metrics: one table, cells per thread without locks, Prometheus text on demand.
 *
 * COUNTER only grows, GAUGE is set, HISTOGRAM takes durations (buckets from 0.5 ms to 60 s). */
#ifndef SBX_METRICS_METRICS_H
#define SBX_METRICS_METRICS_H

#include "sbx/core/buf.h"

typedef struct sbx_metrics sbx_metrics;

/*  name, type, exposed name, label names joined by commas (or NULL: one series), help */
#define SBX_METRICS(X)                                                                             \
    X(HTTP_REQUESTS, COUNTER, "http_requests_total", "route,method,status", "Requests answered")   \
    X(HTTP_SECONDS, HISTOGRAM, "http_request_duration_seconds", "route", "Time to answer")         \
    X(HTTP_CONNECTIONS, GAUGE, "http_connections", NULL, "Open client connections")                \
    X(SANDBOXES, GAUGE, "sandboxd_sandboxes", "state", "Sandboxes by state")                       \
    X(CREATE_SECONDS, HISTOGRAM, "sandboxd_create_duration_seconds", "template",                   \
      "Create until ready")                                                                        \
    X(POOL_READY, GAUGE, "sandboxd_pool_ready", "pool", "Started sandboxes that wait here")        \
    X(POOL_TARGET, GAUGE, "sandboxd_pool_target", "pool", "How many are to wait here")             \
    X(POOL_CREATES, COUNTER, "sandboxd_pool_creates_total", "pool,result",                         \
      "Creates that a pool is for: hit, or miss because none was ready")                           \
    X(POOL_FILL_SECONDS, HISTOGRAM, "sandboxd_pool_fill_duration_seconds", "pool",                 \
      "Starting a sandbox for a pool")                                                             \
    X(POOL_FAILURES, COUNTER, "sandboxd_pool_failures_total", "pool",                              \
      "Sandboxes for a pool that did not start")                                                   \
    X(PULLS, COUNTER, "sandboxd_pulls_total", "result", "Images fetched by the engine")            \
    X(PULL_WAITING, GAUGE, "sandboxd_pull_waiting", NULL, "Creates that wait for an image")        \
    X(EXEC_SECONDS, HISTOGRAM, "sandboxd_exec_duration_seconds", NULL,                             \
      "Commands, from request to exit")                                                            \
    X(EXECS, COUNTER, "sandboxd_execs_total", "outcome", "Commands by outcome")                    \
    X(RUNS, COUNTER, "sandboxd_runs_total", "outcome", "Runs of code by outcome")                  \
    X(RUN_SECONDS, HISTOGRAM, "sandboxd_run_duration_seconds", "runtime",                          \
      "Runs of code, from request to answer")                                                      \
    X(QUOTA_REFUSALS, COUNTER, "sandboxd_quota_refusals_total", "limit",                           \
      "Sandboxes and runs that were refused by a limit of their user")                             \
    X(QUOTA_STOPS, COUNTER, "sandboxd_quota_stops_total", "limit",                                 \
      "Sandboxes that were stopped by a limit of their user")                                      \
    X(REAPED, COUNTER, "sandboxd_reaped_total", "reason", "Sandboxes and containers cleaned up")   \
    X(HIBERNATION, COUNTER, "sandboxd_hibernation_total", "move,outcome",                          \
      "Pauses of idle sandboxes, and resumes")                                                     \
    X(BREAKER_OPEN, GAUGE, "sandboxd_breaker_open", "dependency",                                  \
      "1 while calls of it are refused because it is not reached")                                 \
    X(LANE_WAITING, GAUGE, "sandboxd_lane_waiting", "lane", "Jobs waiting for a worker")           \
    X(GUARD_CONFIRMED, GAUGE, "sandboxd_guard_confirmed", NULL,                                    \
      "1 while open sandboxes may start: the firewall's rules are in force")                       \
    X(GUARD_RESTORED, COUNTER, "sandboxd_guard_restored_total", NULL,                              \
      "How often the firewall's rules were found changed and set again")                           \
    X(PACKAGES, COUNTER, "sandboxd_packages_total", "installer,result",                            \
      "Package sets that were asked for or removed, by what came of it")                           \
    X(PACKAGE_SECONDS, HISTOGRAM, "sandboxd_packages_install_duration_seconds", "installer",       \
      "Installing a set of packages")                                                              \
    X(PACKAGE_BYTES, GAUGE, "sandboxd_packages_bytes", NULL, "Installed packages that are kept")   \
    X(RATE_LIMITED, COUNTER, "sandboxd_rate_limited_total", "class",                               \
      "Requests refused with 429 rate_limited: by the class of the key's rate, or failures")       \
    X(RATES_ALONE, GAUGE, "sandboxd_rates_alone", NULL,                                            \
      "1 while Redis does not answer, and this worker counts rates by itself")                     \
    X(LOG_LINES, COUNTER, "sandboxd_log_lines_total", NULL, "Log lines received")                  \
    X(LOG_VIEWERS, GAUGE, "sandboxd_log_viewers", NULL, "Open log streams")                        \
    X(AUDIT, COUNTER, "sandboxd_audit_acts_total", "result",                                       \
      "Acts for the audit log: written, or lost")                                                  \
    X(AUDIT_WAITING, GAUGE, "sandboxd_audit_waiting", NULL, "Acts that are not written yet")       \
    X(EVENT_VIEWERS, GAUGE, "sandboxd_event_viewers", NULL, "Open event streams")

typedef enum sbx_metric {
#define X(name, type, text, label, help) SBX_M_##name,
    SBX_METRICS(X)
#undef X
        SBX_M_COUNT
} sbx_metric;

#define SBX_METRICS_SERIES      256 /* per metric; more share the label "other" */
#define SBX_METRICS_LABEL_BYTES 160 /* longer labels become "other" */
#define SBX_METRICS_PAGE_BYTES  (8 * MIB)

sbx_metrics *sbx_metrics_new(void);

/** After all threads that count have ended. */
void sbx_metrics_free(sbx_metrics *m);
SBX_DEFINE_CLEANUP(sbx_metrics, sbx_metrics_free)

/** Count. Any thread; a relaxed addition in a cell of the calling thread.
 *
 * @param m      may be NULL: nothing happens.
 * @param id     a COUNTER; a metric of another type is left alone.
 * @param label  the values of the metric's labels, as many as it has names, joined by commas
 *               ("sandbox_get,GET,200"): only the last may contain a comma, missing ones are
 *               empty. One of a bounded set (never what a client wrote); copied at its first use.
 *               NULL for a metric without labels. */
void sbx_metrics_add(sbx_metrics *m, sbx_metric id, const char *label, uint64_t n);

/** Put a duration into a HISTOGRAM. @param us  microseconds; negative ones count as 0. */
void sbx_metrics_observe_us(sbx_metrics *m, sbx_metric id, const char *label, int64_t us);

/** Set a GAUGE. Any thread; the last one wins. */
void sbx_metrics_set(sbx_metrics *m, sbx_metric id, const char *label, double value);

/** Append the whole page, Prometheus text format 0.0.4, with process_* of this process. Any
 * thread. @param out  ceiling SBX_METRICS_PAGE_BYTES or so; failed if the page does not fit. */
void sbx_metrics_text(sbx_metrics *m, sbx_buf *out);

#endif
