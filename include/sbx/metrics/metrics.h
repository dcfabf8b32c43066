/* Metrics: one table, cells per thread without locks, Prometheus text on demand. */
#ifndef SBX_METRICS_METRICS_H
#define SBX_METRICS_METRICS_H

#include "sbx/core/buf.h"

typedef struct sbx_metrics sbx_metrics;

/*  name, type, exposed name, label name (or NULL: one series), help */
#define SBX_METRICS(X)                                                                             \
    X(HTTP_REQUESTS, COUNTER2, "http_requests_total", "route,status", "Requests answered")          \
    X(HTTP_SECONDS, HISTOGRAM, "http_request_duration_seconds", "route", "Time to answer")          \
    X(HTTP_CONNECTIONS, GAUGE, "http_connections", NULL, "Open client connections")                 \
    X(SANDBOXES, GAUGE, "sandboxd_sandboxes", "state", "Sandboxes by state")                        \
    X(CREATE_SECONDS, HISTOGRAM, "sandboxd_create_duration_seconds", "template", "Create until ready") \
    X(EXEC_SECONDS, HISTOGRAM, "sandboxd_exec_duration_seconds", NULL, "Commands, from request to exit") \
    X(EXECS, COUNTER, "sandboxd_execs_total", "outcome", "Commands by outcome")                     \
    X(REAPED, COUNTER, "sandboxd_reaped_total", "reason", "Sandboxes and containers cleaned up")    \
    X(LANE_WAITING, GAUGE, "sandboxd_lane_waiting", "lane", "Jobs waiting for a worker")            \
    X(LOG_LINES, COUNTER, "sandboxd_log_lines_total", NULL, "Log lines received")                   \
    X(LOG_VIEWERS, GAUGE, "sandboxd_log_viewers", NULL, "Open log streams")

typedef enum sbx_metric {
#define X(name, type, text, label, help) SBX_M_##name,
    SBX_METRICS(X)
#undef X
        SBX_M_COUNT
} sbx_metric;

sbx_metrics *sbx_metrics_new(void);
void         sbx_metrics_free(sbx_metrics *m);

/* Any thread. `label` is a string that lives as long as the metrics or is one of a bounded set
 * (it is copied at its first use); at most 256 series per metric, more share the label "other".
 * For COUNTER2 the label is "route,status" joined by a comma. */
void sbx_metrics_add(sbx_metrics *m, sbx_metric id, const char *label, uint64_t n);
void sbx_metrics_observe_us(sbx_metrics *m, sbx_metric id, const char *label, int64_t us);
void sbx_metrics_set(sbx_metrics *m, sbx_metric id, const char *label, double value);

/** The whole page, Prometheus text format 0.0.4, with process_* of this process. */
void sbx_metrics_text(sbx_metrics *m, sbx_buf *out);

#endif
