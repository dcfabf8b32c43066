/* A small server over the http layer alone, for the black-box tests: routes that echo, park,
 * block, stream, flood and speak WebSocket, without a database or an engine.
 *
 * Usage: http_probe [--name=value ...]; prints "port N" when it serves; SIGTERM drains. Whatever
 * waits does so on the STREAM thread, as in the real program. */
#include "sbx/core/clock.h"
#include "sbx/core/json.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include "sbx/http/http.h"
#include "sbx/run/stream.h"

#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static struct probe {
    sbx_http *http;
    sbx_lanes *lanes;
    sbx_stream *stream;
    int64_t drain_wait_ms, drain_ms;
    bool quiet;
    atomic_long closed, ready, cancelled, parked, observed, last_status;
} probe;

static int64_t number(const char *text, int64_t otherwise)
{
    char *end;

    if (!text)
        return otherwise;
    long long n = strtoll(text, &end, 10);
    return *end ? otherwise : n;
}

static int64_t query_number(const sbx_request *r, const char *name, int64_t otherwise)
{
    return number(sbx_request_query(r, name), otherwise);
}

/* --- plain answers --- */

static int hello(void *app, const sbx_request *r, sbx_err *err)
{
    sbx_buf b = SBX_BUF_INIT(1024);

    (void)app;
    (void)err;
    sbx_buf_adds(&b, "{\"hello\":\"world\"}");
    sbx_reply_json(r->reply, 200, &b);
    sbx_buf_done(&b);
    return 0;
}

static int echo_get(void *app, const sbx_request *r, sbx_err *err)
{
    sbx_buf b = SBX_BUF_INIT(64 * KIB);
    sbx_jw w = SBX_JW(&b);

    (void)app;
    (void)err;
    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "target", r->target);
    sbx_jw_str(&w, "client", r->client);
    sbx_jw_str(&w, "name", sbx_request_path(r, "name"));
    sbx_jw_str(&w, "other", sbx_request_path(r, "other"));
    sbx_jw_int(&w, "accept", r->accept);
    sbx_jw_bool(&w, "forwarded", r->forwarded);
    sbx_jw_str(&w, "apiKey", r->api_key);
    sbx_jw_str(&w, "lastEventId", r->last_event_id);
    sbx_jw_obj(&w, "query");
    for (size_t i = 0; i < r->query_count; i++)
        sbx_jw_str(&w, r->query[i].name, r->query[i].value);
    sbx_jw_obj_end(&w);
    sbx_jw_obj_end(&w);
    sbx_reply_json(r->reply, 200, &b);
    sbx_buf_done(&b);
    return 0;
}

static int echo_post(void *app, const sbx_request *r, sbx_err *err)
{
    sbx_buf b = SBX_BUF_INIT(2 * MIB);
    sbx_header h = {"x-length", (char[24]){0}};

    (void)app;
    (void)err;
    sbx_num_text((char *)h.value, (int64_t)r->body_len);
    sbx_buf_add(&b, r->body, r->body_len);
    sbx_reply_send(r->reply, 200, "application/octet-stream", &h, 1, &b);
    sbx_buf_done(&b);
    return 0;
}

static int big(void *app, const sbx_request *r, sbx_err *err)
{
    sbx_buf b = SBX_BUF_INIT(SBX_MAX_RESPONSE_BYTES);
    int64_t n = query_number(r, "bytes", 1000);
    char *to = sbx_buf_reserve(&b, (size_t)n);

    (void)app;
    (void)err;
    if (to) {
        memset(to, 'x', (size_t)n);
        sbx_buf_commit(&b, (size_t)n);
    }
    sbx_reply_send(r->reply, 200, "text/plain", NULL, 0, &b);
    sbx_buf_done(&b);
    return 0;
}

/* A handler that knows better: its own tag, caching and policy. */
static int own_headers(void *app, const sbx_request *r, sbx_err *err)
{
    static const sbx_header headers[] = {{"etag", "\"mine\""},
                                         {"cache-control", "public, max-age=60"},
                                         {"content-security-policy", "default-src 'none'"},
                                         {"x-injected", "a\r\nx-evil: 1"}};
    sbx_buf b = SBX_BUF_INIT(8 * KIB);

    (void)app;
    (void)err;
    for (int i = 0; i < 4000; i++)
        sbx_buf_addc(&b, 'x');
    sbx_reply_send(r->reply, 200, "text/html; charset=utf-8", headers, ARRAY_LEN(headers), &b);
    sbx_buf_done(&b);
    return 0;
}

static int fail_with(void *app, const sbx_request *r, sbx_err *err)
{
    (void)app;
    int code = (int)query_number(r, "code", SBX_E_INTERNAL);

    sbx_fail(err, (sbx_code)code, "as you wished");
    if (sbx_request_query(r, "field"))
        sbx_copy(err->field, sizeof(err->field), sbx_request_query(r, "field"));
    if (sbx_request_query(r, "sandbox"))
        sbx_copy(err->sandbox_id, sizeof(err->sandbox_id), sbx_request_query(r, "sandbox"));
    err->retry_after_s = (int)query_number(r, "after", 0);
    return -1;
}

static int forget(void *app, const sbx_request *r, sbx_err *err)
{
    (void)app;
    (void)r;
    (void)err;
    return 0;
}

static int block(void *app, const sbx_request *r, sbx_err *err)
{
    int64_t until = sbx_now_ms() + query_number(r, "ms", 100);

    while (sbx_now_ms() < until) {
        struct timespec ts = {.tv_nsec = 1000000};

        if (sbx_job_cancelled()) {
            atomic_fetch_add(&probe.cancelled, 1);
            return sbx_fail(err, SBX_E_CANCELLED, "the client went away");
        }
        nanosleep(&ts, NULL);
    }
    return hello(app, r, err);
}

static int stats(void *app, const sbx_request *r, sbx_err *err)
{
    sbx_buf b = SBX_BUF_INIT(1024);
    sbx_jw w = SBX_JW(&b);
    struct timespec cpu;

    (void)app;
    (void)err;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    sbx_jw_obj(&w, NULL);
    sbx_jw_int(&w, "connections", (int64_t)sbx_http_connections(probe.http));
    sbx_jw_int(&w, "closed", probe.closed);
    sbx_jw_int(&w, "ready", probe.ready);
    sbx_jw_int(&w, "cancelled", probe.cancelled);
    sbx_jw_int(&w, "parked", probe.parked);
    sbx_jw_int(&w, "observed", probe.observed);
    sbx_jw_int(&w, "lastStatus", probe.last_status);
    sbx_jw_int(&w, "cpuMs", cpu.tv_sec * 1000 + cpu.tv_nsec / 1000000);
    sbx_jw_obj_end(&w);
    sbx_reply_json(r->reply, 200, &b);
    sbx_buf_done(&b);
    return 0;
}

/* --- parked: answered later from STREAM --- */

typedef struct task {
    sbx_reply *reply;
    sbx_timer *timer; /* NULL once it fired */
    int64_t ms, left, sent, bytes;
    bool stopped;    /* STREAM: the reply was let go */
    atomic_int refs; /* the watcher's callbacks, STREAM's own, and messages on their way */
} task;

static void task_drop(task *t)
{
    if (atomic_fetch_sub(&t->refs, 1) == 1)
        free(t);
}

static void task_post(task *t, sbx_msg_fn fn)
{
    atomic_fetch_add(&t->refs, 1);
    sbx_stream_post(probe.stream, fn, t);
}

/* On STREAM: no more is done for this reply. */
static void task_stop(task *t)
{
    if (t->stopped)
        return;
    t->stopped = true;
    if (t->timer)
        sbx_timer_free(t->timer);
    sbx_reply_unref(t->reply);
    task_drop(t);
}

static void park_done(void *arg)
{
    task *t = arg;
    sbx_buf b = SBX_BUF_INIT(2 * MIB);

    t->timer = NULL;
    sbx_buf_adds(&b, "{\"parked\":true");
    if (t->bytes) {
        sbx_buf_adds(&b, ",\"filler\":\"");
        for (int64_t i = 0; i < t->bytes; i++)
            sbx_buf_addc(&b, (char)('a' + i % 26));
        sbx_buf_adds(&b, "\"");
    }
    sbx_buf_adds(&b, "}");
    sbx_reply_json(t->reply, 200, &b);
    sbx_buf_done(&b);
    task_stop(t);
}

static void park_begin(void *arg)
{
    task *t = arg;

    if (!t->stopped)
        t->timer = sbx_timer_new(probe.stream, t->ms, park_done, t);
    task_drop(t);
}

static void task_cancel(void *arg)
{
    task_stop(arg);
    task_drop(arg);
}

static void task_closed(void *arg)
{
    atomic_fetch_add(&probe.closed, 1);
    sbx_stream_post(probe.stream, task_cancel, arg);
}

static task *task_new(const sbx_request *r, sbx_reply_events events)
{
    task *t = sbx_alloc(sizeof(*t));

    t->reply = sbx_reply_ref(r->reply);
    t->ms = query_number(r, "ms", 100);
    atomic_init(&t->refs, 3); /* the handler's too: `closed` may come at any moment */
    events.closed = task_closed;
    events.arg = t;
    sbx_reply_watch(r->reply, &events);
    return t;
}

static int park(void *app, const sbx_request *r, sbx_err *err)
{
    (void)app;
    (void)err;
    task *t = task_new(r, (sbx_reply_events){0});
    atomic_fetch_add(&probe.parked, 1);
    t->bytes = query_number(r, "bytes", 0);
    task_post(t, park_begin);
    task_drop(t);
    return 0;
}

/* --- streams --- */

static void stream_end(task *t)
{
    sbx_reply_end(t->reply);
    task_stop(t);
}

static void flood_more(void *arg)
{
    static const char block_of[16 * KIB] = {0};
    task *t = arg;

    while (!t->stopped && t->left > 0) {
        size_t n = (size_t)SBX_MIN(t->left, (int64_t)sizeof(block_of));
        sbx_push p = sbx_reply_write(t->reply, block_of, n);

        if (p == SBX_PUSH_FULL)
            break;
        if (p == SBX_PUSH_GONE)
            t->left = 0;
        else
            t->left -= (int64_t)n;
    }
    if (!t->stopped && t->left <= 0)
        stream_end(t);
    task_drop(t);
}

static void flood_ready(void *arg)
{
    task *t = arg;

    atomic_fetch_add(&probe.ready, 1);
    task_post(t, flood_more);
}

static int flood(void *app, const sbx_request *r, sbx_err *err)
{
    task *t = task_new(r, (sbx_reply_events){.ready = flood_ready});

    (void)app;
    (void)err;
    t->left = query_number(r, "bytes", MIB);
    sbx_reply_begin(r->reply, 200, "application/octet-stream");
    task_post(t, flood_more);
    task_drop(t);
    return 0;
}

static void event_tick(void *arg)
{
    task *t = arg;
    char text[64];
    sbx_push p = SBX_PUSH_OK;

    t->timer = NULL;
    if (t->left-- > 0) {
        int n = snprintf(text, sizeof(text), "id: %lld\ndata: {\"n\":%lld}\n\n",
                         (long long)(t->sent + 1), (long long)(t->sent + 1));
        t->sent++;
        p = sbx_reply_write(t->reply, text, (size_t)n);
    }
    if (p == SBX_PUSH_GONE || t->left <= 0)
        stream_end(t);
    else
        t->timer = sbx_timer_new(probe.stream, t->ms, event_tick, t);
}

static void event_begin(void *arg)
{
    task *t = arg;

    if (!t->stopped)
        event_tick(t);
    task_drop(t);
}

static int events(void *app, const sbx_request *r, sbx_err *err)
{
    if (r->accept != SBX_ACCEPT_SSE)
        return hello(app, r, err);
    task *t = task_new(r, (sbx_reply_events){0});
    t->left = query_number(r, "count", 3);
    sbx_reply_begin(r->reply, 200, "text/event-stream");
    task_post(t, event_begin);
    task_drop(t);
    return 0;
}

/* As many bytes as are announced, or fewer, or more. */
static int counted(void *app, const sbx_request *r, sbx_err *err)
{
    static const sbx_header headers[] = {{"etag", "\"counted\""}, {"accept-ranges", "bytes"}};
    task *t = task_new(r, (sbx_reply_events){.ready = flood_ready});

    (void)app;
    (void)err;
    t->left = query_number(r, "bytes", MIB);
    if (sbx_reply_has_tag(r->reply, "\"counted\""))
        sbx_reply_send(r->reply, 304, NULL, headers, 1, NULL);
    else
        sbx_reply_begin_with(r->reply, 206, "application/octet-stream", headers, 2,
                             query_number(r, "say", t->left));
    task_post(t, flood_more);
    task_drop(t);
    return 0;
}

/* --- bodies that are streamed ---
 *
 * "stop" answers when so many bytes have come, "pause" waits before each take, "wait" before the
 * first. The answer has the number of bytes, and their sum, which tells if one was lost or moved.
 */
typedef struct upload {
    task t; /* first: its callbacks are the task's */
    sbx_buf in;
    int64_t bytes, stop, pause;
    uint64_t sum;
} upload;

static void upload_answer(upload *u)
{
    sbx_buf b = SBX_BUF_INIT(1024);

    sbx_buf_addf(&b, "{\"bytes\":%lld,\"sum\":%llu}", (long long)u->bytes,
                 (unsigned long long)u->sum);
    sbx_reply_json(u->t.reply, 200, &b);
    sbx_buf_done(&b);
}

static void upload_over(upload *u)
{
    sbx_buf_done(&u->in);
    task_stop(&u->t);
}

static void upload_take(void *arg)
{
    upload *u = arg;
    sbx_err err;
    int rc;

    u->t.timer = NULL;
    do {
        rc = sbx_reply_body(u->t.reply, &u->in, &err);
        for (size_t i = 0; rc > 0 && i < u->in.len; i++)
            u->sum = u->sum * 31 + (unsigned char)u->in.data[i];
        u->bytes += rc > 0 ? (int64_t)u->in.len : 0;
        if (rc > 0 && u->in.len && u->pause) {
            u->t.timer = sbx_timer_new(probe.stream, u->pause, upload_take, u);
            return;
        }
    } while (rc > 0 && u->in.len && u->bytes < u->stop);
    if (rc > 0 && u->bytes < u->stop)
        return;
    if (rc < 0)
        sbx_reply_problem(u->t.reply, &err);
    else
        upload_answer(u);
    upload_over(u);
}

static void upload_begin(void *arg)
{
    upload *u = arg;

    if (!u->t.stopped && u->t.ms)
        u->t.timer = sbx_timer_new(probe.stream, u->t.ms, upload_take, u);
    else if (!u->t.stopped)
        upload_take(u);
    task_drop(&u->t);
}

static void upload_more(void *arg)
{
    upload *u = arg;

    if (!u->t.stopped && !u->t.timer)
        upload_take(u);
    task_drop(&u->t);
}

static void upload_body(void *arg)
{
    task_post(arg, upload_more);
}

static void upload_cancel(void *arg)
{
    upload *u = arg;

    sbx_buf_done(&u->in);
    task_cancel(&u->t);
}

static void upload_closed(void *arg)
{
    atomic_fetch_add(&probe.closed, 1);
    sbx_stream_post(probe.stream, upload_cancel, arg);
}

static int upload_new(void *app, const sbx_request *r, sbx_err *err)
{
    upload *u = sbx_alloc(sizeof(*u));

    (void)app;
    if (sbx_request_query(r, "refuse")) {
        free(u);
        return sbx_fail(err, SBX_E_FORBIDDEN, "refused before the body");
    }
    u->t.reply = sbx_reply_ref(r->reply);
    u->t.ms = query_number(r, "wait", 0);
    u->stop = query_number(r, "stop", INT64_MAX);
    u->pause = query_number(r, "pause", 0);
    sbx_buf_init(&u->in, MIB);
    atomic_init(&u->t.refs, 3);
    atomic_fetch_add(&probe.parked, 1);
    sbx_reply_watch(r->reply,
                    &(sbx_reply_events){.closed = upload_closed, .body = upload_body, .arg = u});
    task_post(&u->t, upload_begin);
    task_drop(&u->t);
    return 0;
}

static int cut(void *app, const sbx_request *r, sbx_err *err)
{
    (void)app;
    (void)err;
    sbx_reply_begin(r->reply, 200, "text/plain");
    sbx_reply_write(r->reply, "half", 4);
    return 0; /* never ended: the client must see that */
}

/* --- WebSocket: echoes; "end" ends, "flood N" sends N messages of 1 KiB --- */

static void ws_message(void *arg, const char *data, size_t len, bool binary)
{
    task *t = arg;
    char block_of[1024];

    if (!binary && len == 3 && memcmp(data, "end", 3) == 0) {
        sbx_reply_end(t->reply);
    } else if (!binary && len > 6 && len < 20 && memcmp(data, "flood ", 6) == 0) {
        char n[20] = {0};

        memcpy(n, data + 6, len - 6);
        memset(block_of, 'f', sizeof(block_of));
        for (int64_t i = number(n, 0); i > 0; i--)
            if (sbx_reply_write(t->reply, block_of, sizeof(block_of)) != SBX_PUSH_OK)
                break;
    } else if (binary) {
        sbx_reply_write_binary(t->reply, data, len);
    } else {
        sbx_reply_write(t->reply, data, len);
    }
}

static int ws_open(void *app, const sbx_request *r, sbx_err *err)
{
    if (r->accept != SBX_ACCEPT_WS)
        return hello(app, r, err);
    if (sbx_request_query(r, "refuse"))
        return sbx_fail(err, SBX_E_NOT_FOUND, "refused before the upgrade");
    task_drop(task_new(r, (sbx_reply_events){.message = ws_message}));
    sbx_reply_begin(r->reply, 200, NULL);
    return 0;
}

/* --- the program --- */

static int authenticate(void *app, const sbx_request *r, sbx_err *err)
{
    (void)app;
    if (sbx_streq(r->api_key, "good") || sbx_streq(r->authorization, "Bearer good"))
        return 0;
    return sbx_fail(err, SBX_E_UNAUTHORIZED, "no key, or a wrong one");
}

static void observe(void *app, const sbx_route *route, sbx_method method, int status,
                    int64_t duration_us, size_t bytes_out, const char *request_id)
{
    (void)app;
    (void)method;
    atomic_fetch_add(&probe.observed, 1);
    atomic_store(&probe.last_status, status);
    if (!probe.quiet)
        sbx_log(SBX_INFO, "request", "route", route ? route->name : NULL, "status", SBX_NUM(status),
                "us", SBX_NUM(duration_us), "bytes", SBX_NUM(bytes_out), "requestId", request_id,
                NULL);
}

#define FAST .lane = SBX_LANE_FAST, .deadline_ms = 60000
#define SLOW .lane = SBX_LANE_SLOW, .deadline_ms = 60000
static const sbx_route routes[] = {
    {"GET", "/any", .accepts = SBX_CAN_ANY, FAST, .handler = big, .name = "any", .query = "bytes"},
    {"GET", "/big", .accepts = SBX_CAN_ANY, FAST, .handler = big, .name = "big", .query = "bytes"},
    {"GET", "/block", SLOW, .handler = block, .name = "block", .query = "ms"},
    {"GET", "/counted", .accepts = SBX_CAN_ANY, FAST, .handler = counted, .name = "counted",
     .query = "bytes,say"},
    {"GET", "/cut", FAST, .handler = cut, .name = "cut"},
    {"POST", "/echo", FAST, .max_body = 64 * KIB, .handler = echo_post, .name = "echo_post"},
    {"GET", "/echo/{name}", FAST, .handler = echo_get, .name = "echo_get", .query = "*"},
    {"GET", "/echo/{name}/{other}", FAST, .handler = echo_get, .name = "echo_get2", .query = "*"},
    {"GET", "/events", .accepts = SBX_CAN_SSE, FAST, .handler = events, .name = "events",
     .query = "count,ms"},
    {"POST", "/events", .accepts = SBX_CAN_SSE, FAST, .handler = events, .name = "events_post",
     .query = "count,ms"},
    {"GET", "/fail", FAST, .handler = fail_with, .name = "fail",
     .query = "code,field,sandbox,after"},
    {"GET", "/flood", .accepts = SBX_CAN_ANY, FAST, .handler = flood, .name = "flood",
     .query = "bytes"},
    {"GET", "/forget", FAST, .handler = forget, .name = "forget"},
    {"GET", "/hello", FAST, .handler = hello, .name = "hello"},
    {"GET", "/hold", FAST, .handler = block, .name = "hold", .query = "ms"},
    {"GET", "/hurry", .lane = SBX_LANE_SLOW, .deadline_ms = 300, .handler = block, .name = "hurry",
     .query = "ms"},
    {"GET", "/own", .produces = "text/html", FAST, .handler = own_headers, .name = "own"},
    {"GET", "/park", FAST, .handler = park, .name = "park", .query = "ms,bytes"},
    {"POST", "/raw", .accepts = SBX_BODY_RAW, FAST, .max_body = MIB, .handler = echo_post,
     .name = "raw"},
    {"GET", "/secret", "any", FAST, .handler = echo_get, .name = "secret", .query = "*"},
    {"GET", "/stats", FAST, .handler = stats, .name = "stats"},
    {"PUT", "/upload", .accepts = SBX_BODY_STREAM, FAST, .max_body = (size_t)2048 * MIB,
     .handler = upload_new, .name = "upload", .query = "stop,pause,wait,refuse"},
    {"PUT", "/upload/small", .accepts = SBX_BODY_STREAM, FAST, .max_body = 300 * KIB,
     .handler = upload_new, .name = "upload_small", .query = "stop,pause,wait,refuse"},
    {"GET", "/ws", "any", .accepts = SBX_CAN_WS, FAST, .handler = ws_open, .name = "ws",
     .query = "refuse"},
    {"GET", "/wsopen", .accepts = SBX_CAN_WS, FAST, .handler = ws_open, .name = "wsopen",
     .query = "refuse"},
};

static void on_signal(int sig)
{
    (void)sig;
    sbx_http_drain(probe.http, probe.drain_wait_ms, probe.drain_ms);
}

static int64_t flag(int argc, char **argv, const char *name, int64_t otherwise)
{
    size_t n = strlen(name);

    for (int i = 1; i < argc; i++)
        if (strncmp(argv[i], "--", 2) == 0 && strncmp(argv[i] + 2, name, n) == 0 &&
            argv[i][2 + n] == '=')
            return number(argv[i] + 3 + n, otherwise);
    return otherwise;
}

static const char *text_flag(int argc, char **argv, const char *name)
{
    size_t n = strlen(name);

    for (int i = 1; i < argc; i++)
        if (strncmp(argv[i], name, n) == 0 && argv[i][n] == '=')
            return argv[i] + n + 1;
    return NULL;
}

int main(int argc, char **argv)
{
    sbx_lanes_config lc = {.threads = {[SBX_LANE_FAST] = (size_t)flag(argc, argv, "fast", 4),
                                       [SBX_LANE_SLOW] = (size_t)flag(argc, argv, "slow", 8),
                                       [SBX_LANE_REAP] = 1},
                           .queue = (size_t)flag(argc, argv, "queue", 1024),
                           .wait_ms = {[SBX_LANE_SLOW] = flag(argc, argv, "slow-wait", 0)}};
    sbx_http_config c = {.listen = "127.0.0.1:0",
                         .routes = routes,
                         .route_count = ARRAY_LEN(routes),
                         .app = &probe,
                         .authenticate = authenticate,
                         .observe = observe,
                         .header_timeout_s = flag(argc, argv, "header", 10),
                         .body_timeout_s = flag(argc, argv, "body", 30),
                         .keepalive_s = flag(argc, argv, "keepalive", 75),
                         .max_connections = flag(argc, argv, "connections", 12000),
                         .cors_origins = text_flag(argc, argv, "--cors"),
                         .stall_ms = flag(argc, argv, "stall", 0),
                         .ping_ms = flag(argc, argv, "ping", 0)};
    sbx_err err;

    probe.quiet = flag(argc, argv, "quiet", 0);
    probe.drain_wait_ms = flag(argc, argv, "drain_wait", 0);
    probe.drain_ms = flag(argc, argv, "drain", 5000);
    if (flag(argc, argv, "debug", 0))
        sbx_log_set_level(SBX_DEBUG);
    probe.lanes = c.lanes = sbx_lanes_new(&lc);
    probe.stream = sbx_stream_new(&err);
    if (!probe.stream || sbx_http_new(&c, &probe.http, &err)) {
        sbx_log_err(SBX_ERROR, "cannot start", &err, NULL);
        return 1;
    }
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = on_signal}, NULL);
    printf("port %d\n", sbx_http_port(probe.http));
    fflush(stdout);
    sbx_http_run(probe.http);
    sbx_lanes_free(probe.lanes);
    sbx_stream_free(probe.stream);
    sbx_http_free(probe.http);
    printf("drained\n");
    return 0;
}
