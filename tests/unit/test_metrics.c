/* The metrics page: a small validator of the text format, sums over threads, bounds. */
#include "sbx/metrics/metrics.h"
#include <criterion/criterion.h>
#include <ctype.h>
#include <pthread.h>
#include <stdio.h>

static char *page(sbx_metrics *m)
{
    sbx_buf b = SBX_BUF_INIT(SBX_METRICS_PAGE_BYTES);

    sbx_metrics_text(m, &b);
    cr_assert_not(sbx_buf_failed(&b));
    return sbx_buf_steal(&b);
}

/* The value of the sample that begins with exactly this text, or -1. */
static double value(const char *text, const char *sample)
{
    size_t len = strlen(sample);

    for (const char *p = text; p; p = strchr(p, '\n')) {
        p += *p == '\n';
        if (strncmp(p, sample, len) == 0 && p[len] == ' ')
            return strtod(p + len, NULL);
    }
    return -1;
}

static const char *name_end(const char *p)
{
    if (!isalpha((unsigned char)*p) && *p != '_')
        return NULL;
    while (isalnum((unsigned char)*p) || *p == '_' || *p == ':')
        p++;
    return p;
}

static const char *labels_end(const char *p)
{
    while (*p != '}') {
        p = name_end(p);
        if (!p || p[0] != '=' || p[1] != '"')
            return NULL;
        for (p += 2; *p != '"'; p++) {
            if (*p == '\n' || *p == '\0')
                return NULL;
            if (*p == '\\' && !strchr("\\\"n", *++p))
                return NULL;
        }
        p++;
        if (*p == ',')
            p++;
        else if (*p != '}')
            return NULL;
    }
    return p + 1;
}

/* One line: a comment or `name{labels} value`. */
static bool line_ok(const char *p)
{
    char *end;

    if (strncmp(p, "# HELP ", 7) == 0 || strncmp(p, "# TYPE ", 7) == 0)
        return name_end(p + 7) != NULL;
    p = name_end(p);
    if (p && *p == '{')
        p = labels_end(p + 1);
    if (!p || *p != ' ')
        return false;
    (void)strtod(p + 1, &end);
    return end > p + 1 && *end == '\n';
}

static bool page_ok(const char *text)
{
    while (*text) {
        if (!line_ok(text))
            return false;
        text = strchr(text, '\n');
        if (!text)
            return false;
        text++;
    }
    return true;
}

Test(metrics, an_empty_page_is_valid_and_has_the_process)
{
    sbx_metrics *m = sbx_metrics_new();
    char *text = page(m);

    cr_expect(page_ok(text));
    cr_expect_gt(value(text, "process_resident_memory_bytes"), 100000);
    cr_expect_gt(value(text, "process_virtual_memory_bytes"), 100000);
    cr_expect_gt(value(text, "process_start_time_seconds"), 1.6e9);
    cr_expect_geq(value(text, "process_open_fds"), 3);
    cr_expect_neq(value(text, "process_max_fds"), 0);
    cr_expect_geq(value(text, "process_threads"), 1);
    cr_expect_geq(value(text, "process_heap_bytes"), 0);
    cr_expect_geq(value(text, "process_cpu_seconds_total"), 0);
    cr_expect_eq(value(text, "sandboxd_log_lines_total"), 0, "a series without labels is there");
    cr_expect_not_null(strstr(text, "# TYPE http_requests_total counter\n"));
    free(text);
    sbx_metrics_free(m);
}

Test(metrics, labels_are_split_and_escaped)
{
    sbx_metrics *m = sbx_metrics_new();
    char *text;

    sbx_metrics_add(m, SBX_M_HTTP_REQUESTS, "sandbox_get,GET,200", 3);
    sbx_metrics_add(m, SBX_M_HTTP_REQUESTS, "a\"b\\c\nd,GET,1,2", 1);
    sbx_metrics_add(m, SBX_M_HTTP_REQUESTS, "short", 1);
    sbx_metrics_add(m, SBX_M_HTTP_REQUESTS, NULL, 1);
    sbx_metrics_set(m, SBX_M_SANDBOXES, "running", 12.5);
    sbx_metrics_set(m, SBX_M_SANDBOXES, "running", 4);
    sbx_metrics_set(m, SBX_M_LOG_VIEWERS, NULL, 7);
    text = page(m);
    cr_expect(page_ok(text), "%s", text);
    cr_expect_eq(
        value(text, "http_requests_total{route=\"sandbox_get\",method=\"GET\",status=\"200\"}"), 3);
    cr_expect_eq(
        value(text, "http_requests_total{route=\"a\\\"b\\\\c\\nd\",method=\"GET\",status=\"1,2\"}"),
        1);
    cr_expect_eq(value(text, "http_requests_total{route=\"short\",method=\"\",status=\"\"}"), 1);
    cr_expect_eq(value(text, "http_requests_total{route=\"\",method=\"\",status=\"\"}"), 1);
    cr_expect_eq(value(text, "sandboxd_sandboxes{state=\"running\"}"), 4);
    cr_expect_eq(value(text, "sandboxd_log_viewers"), 7);
    free(text);
    sbx_metrics_free(m);
}

Test(metrics, histograms_are_cumulative)
{
    sbx_metrics *m = sbx_metrics_new();
    char *text;

    sbx_metrics_observe_us(m, SBX_M_EXEC_SECONDS, NULL, -5);
    sbx_metrics_observe_us(m, SBX_M_EXEC_SECONDS, NULL, 500);
    sbx_metrics_observe_us(m, SBX_M_EXEC_SECONDS, NULL, 501);
    sbx_metrics_observe_us(m, SBX_M_EXEC_SECONDS, NULL, 100000000);
    sbx_metrics_observe_us(m, SBX_M_HTTP_SECONDS, "exec", 20000);
    text = page(m);
    cr_expect(page_ok(text));
    cr_expect_eq(value(text, "sandboxd_exec_duration_seconds_bucket{le=\"0.0005\"}"), 2);
    cr_expect_eq(value(text, "sandboxd_exec_duration_seconds_bucket{le=\"0.001\"}"), 3);
    cr_expect_eq(value(text, "sandboxd_exec_duration_seconds_bucket{le=\"60\"}"), 3);
    cr_expect_eq(value(text, "sandboxd_exec_duration_seconds_bucket{le=\"+Inf\"}"), 4);
    cr_expect_eq(value(text, "sandboxd_exec_duration_seconds_count"), 4);
    cr_expect_float_eq(value(text, "sandboxd_exec_duration_seconds_sum"), 100.001001, 1e-9);
    cr_expect_eq(value(text, "http_request_duration_seconds_bucket{route=\"exec\",le=\"0.025\"}"),
                 1);
    free(text);
    sbx_metrics_free(m);
}

#define THREADS 8
#define ROUNDS  20000

static void *count(void *arg)
{
    static const char *const labels[] = {"a,GET,200", "b,GET,200", "c,PUT,500"};

    for (int i = 0; i < ROUNDS; i++) {
        sbx_metrics_add(arg, SBX_M_HTTP_REQUESTS, labels[i % 3], 1);
        sbx_metrics_add(arg, SBX_M_LOG_LINES, NULL, 2);
        sbx_metrics_observe_us(arg, SBX_M_HTTP_SECONDS, "a", i);
    }
    return NULL;
}

Test(metrics, sums_over_threads_that_have_ended_are_exact)
{
    sbx_metrics *m = sbx_metrics_new();
    pthread_t t[THREADS];
    char *text;
    double sum;

    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < THREADS; i++)
            cr_assert_eq(pthread_create(&t[i], NULL, count, m), 0);
        for (int i = 0; i < THREADS; i++)
            pthread_join(t[i], NULL);
    }
    text = page(m);
    sum = value(text, "http_requests_total{route=\"a\",method=\"GET\",status=\"200\"}") +
          value(text, "http_requests_total{route=\"b\",method=\"GET\",status=\"200\"}") +
          value(text, "http_requests_total{route=\"c\",method=\"PUT\",status=\"500\"}");
    cr_expect_eq(sum, 2.0 * THREADS * ROUNDS);
    cr_expect_eq(value(text, "sandboxd_log_lines_total"), 4.0 * THREADS * ROUNDS);
    cr_expect_eq(value(text, "http_request_duration_seconds_count{route=\"a\"}"),
                 2.0 * THREADS * ROUNDS);
    free(text);
    sbx_metrics_free(m);
}

Test(metrics, series_are_bounded)
{
    sbx_metrics *m = sbx_metrics_new();
    char label[400], *text;
    size_t lines = 0;

    for (int i = 0; i < 1000; i++) {
        snprintf(label, sizeof label, "o%d", i);
        sbx_metrics_add(m, SBX_M_EXECS, label, 1);
        sbx_metrics_set(m, SBX_M_SANDBOXES, label, i);
    }
    memset(label, 'x', sizeof label - 1);
    label[sizeof label - 1] = '\0';
    sbx_metrics_add(m, SBX_M_EXECS, label, 1);
    text = page(m);
    cr_expect(page_ok(text));
    for (const char *p = text; (p = strstr(p, "sandboxd_execs_total{")); p++)
        lines++;
    cr_expect_eq(lines, SBX_METRICS_SERIES + 1);
    cr_expect_eq(value(text, "sandboxd_execs_total{outcome=\"other\"}"),
                 1000 - SBX_METRICS_SERIES + 1);
    cr_expect_eq(value(text, "sandboxd_execs_total{outcome=\"o255\"}"), 1);
    free(text);
    sbx_metrics_free(m);
}

Test(metrics, the_wrong_type_is_left_alone)
{
    sbx_metrics *m = sbx_metrics_new();
    char *text;

    sbx_metrics_add(m, SBX_M_SANDBOXES, "running", 1);
    sbx_metrics_add(m, SBX_M_HTTP_SECONDS, "a", 1);
    sbx_metrics_set(m, SBX_M_EXECS, "a", 1);
    sbx_metrics_observe_us(m, SBX_M_EXECS, "a", 1);
    sbx_metrics_add(NULL, SBX_M_EXECS, "a", 1);
    text = page(m);
    cr_expect_null(strstr(text, "sandboxd_sandboxes{"));
    cr_expect_null(strstr(text, "sandboxd_execs_total{"));
    free(text);
    sbx_metrics_free(m);
}
