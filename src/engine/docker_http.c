/* Calls to the engine: pooled connections, time-outs, cancellation, classified failures.
 *
 * A handle is a libcurl easy handle in a multi handle of its own, so that the calling thread can
 * look at its job's cancellation and deadline while it waits; the multi keeps the connection
 * between calls. Idle handles lie on a stack: the warmest is taken first, and a connection the
 * engine has closed meanwhile is noticed by libcurl, which repeats the request on a new one as long
 * as no byte of an answer has come.
 *
 * Threads: any; a handle belongs to one thread while it is out. The client's mutex guards the stack
 * and is never held across I/O. */
#include "docker.h"
#include "sbx/core/clock.h"
#include "sbx/core/thread.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <strings.h>
#include <unistd.h>

struct docker_handle {
    CURLM *multi;
    CURL *easy;
};

static int global_result;

static void global_init(void)
{
    global_result = curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK;
}

int docker_handles_global(sbx_err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, global_init);
    return global_result ? sbx_fail(err, SBX_E_INTERNAL, "libcurl cannot be initialised") : 0;
}

/* --- the pool --- */

void docker_handle_free(docker_handle *h)
{
    if (!h)
        return;
    if (h->multi && h->easy)
        curl_multi_remove_handle(h->multi, h->easy);
    if (h->easy)
        curl_easy_cleanup(h->easy);
    if (h->multi)
        curl_multi_cleanup(h->multi);
    free(h);
}

static docker_handle *handle_new(sbx_err *err)
{
    docker_handle *h = sbx_alloc(sizeof(*h));

    h->multi = curl_multi_init();
    h->easy = curl_easy_init();
    if (!h->multi || !h->easy) {
        docker_handle_free(h);
        sbx_fail(err, SBX_E_INTERNAL, "libcurl gave no handle");
        return NULL;
    }
    curl_multi_setopt(h->multi, CURLMOPT_MAXCONNECTS, 1L);
    return h;
}

static docker_handle *handle_lease(sbx_docker *d, sbx_err *err)
{
    docker_handle *h = NULL;

    SBX_ASSERT_THREAD(SBX_T_WORKER);
    pthread_mutex_lock(&d->mu);
    if (d->idle_count > 0)
        h = d->idle[--d->idle_count];
    pthread_mutex_unlock(&d->mu);
    return h ? h : handle_new(err);
}

static void handle_return(sbx_docker *d, docker_handle *h)
{
    curl_easy_reset(h->easy);
    pthread_mutex_lock(&d->mu);
    if (d->idle_count < DOCKER_POOL)
        d->idle[d->idle_count++] = sbx_steal(h);
    pthread_mutex_unlock(&d->mu);
    docker_handle_free(h);
}

/* --- options --- */

static void set_common(sbx_docker *d, CURL *easy)
{
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(easy, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)DOCKER_CONNECT_MS);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPIDLE, 30L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPINTVL, 10L);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
#else
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS, CURLPROTO_HTTP | CURLPROTO_HTTPS);
#endif
    if (d->unix_path)
        curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, d->unix_path);
    if (d->tls) {
        curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
        curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
        curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
        curl_easy_setopt(easy, CURLOPT_CAINFO, d->ca);
        curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
        curl_easy_setopt(easy, CURLOPT_SSLCERT, d->cert);
        curl_easy_setopt(easy, CURLOPT_SSLKEY, d->key);
    }
}

static size_t on_header(char *data, size_t size, size_t count, void *arg)
{
    docker_transfer *t = arg;
    size_t len = size * count, name = t->header_name_len;

    t->header_bytes += len;
    if (t->header_bytes > DOCKER_HEADERS_BYTES) {
        t->too_large = true;
        return 0;
    }
    if (name > 0 && len > name && data[name] == ':' &&
        strncasecmp(data, t->req->header, name) == 0) {
        const char *v = data + name + 1, *end = data + len;

        while (v < end && (*v == ' ' || *v == '\t'))
            v++;
        while (end > v && (end[-1] == '\r' || end[-1] == '\n' || end[-1] == ' '))
            end--;
        docker_clean(t->res->header, sizeof(t->res->header), v, (size_t)(end - v));
    }
    return len;
}

/* An error's body is cut, not refused: its beginning is all that is shown. */
static size_t on_body(char *data, size_t size, size_t count, void *arg)
{
    docker_transfer *t = arg;
    size_t len = size * count;
    long status = 0;

    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status < 200 || status > 299) {
        size_t room =
            t->res->body.len < DOCKER_ERROR_BYTES ? DOCKER_ERROR_BYTES - t->res->body.len : 0;

        sbx_buf_add(&t->res->body, data, SBX_MIN(len, room));
        return len;
    }
    if (t->req->piece) {
        if (t->req->piece(t->req->arg, data, len))
            return len;
        t->res->gave_up = true;
        return 0;
    }
    sbx_buf_add(&t->res->body, data, len);
    if (!sbx_buf_failed(&t->res->body))
        return len;
    t->too_large = true;
    return 0;
}

static void set_request(docker_transfer *t, const char *url)
{
    struct curl_slist **headers = &t->headers;
    const docker_req *q = t->req;
    CURL *easy = t->easy;

    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, t);
    if (strcmp(q->method, "HEAD") == 0) {
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    } else if (strcmp(q->method, "GET") != 0) {
        char type[128];

        /* A body, possibly empty, so that the length is always told. */
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, q->body ? q->body : "");
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)q->body_len);
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, q->method);
        snprintf(type, sizeof(type), "Content-Type: %s", q->type ? q->type : "application/json");
        *headers = curl_slist_append(*headers, type);
        *headers = curl_slist_append(*headers, "Expect:");
    }
    *headers = curl_slist_append(*headers, "User-Agent: sandboxd/" SBX_VERSION);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, *headers);
}

void docker_transfer_begin(docker_transfer *t, sbx_docker *d, CURL *easy, const docker_req *q,
                           const char *url, docker_res *res)
{
    *t = (docker_transfer){.req = q, .res = res, .easy = easy};
    t->header_name_len = q->header ? strlen(q->header) : 0;
    set_common(d, easy);
    set_request(t, url);
}

void docker_transfer_done(docker_transfer *t)
{
    curl_slist_free_all(t->headers);
    t->headers = NULL;
}

/* --- failures --- */

int docker_status_fail(long status, const char *body, size_t len, const char *what, sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *json = NULL;
    SBX_CLEANUP(sbx_free_str) char *copy = sbx_strndup(body ? body : "", body ? len : 0);
    char said[300];
    const char *message = NULL;
    sbx_code code = SBX_E_ENGINE;

    if (docker_parse(copy, strlen(copy), &json, NULL) == 0)
        message = sbx_json_str(sbx_json_get(json, "message"));
    if (message)
        docker_clean(said, sizeof(said), message, strlen(message));
    else
        docker_clean(said, sizeof(said), copy, strlen(copy));
    if (status == 400)
        code = SBX_E_INVALID;
    else if (status == 404)
        code = SBX_E_NOT_FOUND;
    else if (status == 409)
        code = SBX_E_CONFLICT;
    else if (status == 502 || status == 503 || status == 504)
        code = SBX_E_ENGINE_UNAVAILABLE;
    return sbx_fail(err, code, "%s: %s%s(engine status %ld)", what, said, said[0] ? " " : "",
                    status);
}

static int connect_fail(sbx_docker *d, int os_errno, sbx_err *err)
{
    const char *hint = "check that the Docker Engine runs and DOCKER_HOST is right";

    if (os_errno == EACCES || os_errno == EPERM)
        hint = "permission denied; the server's user must be in the group that owns the socket "
               "(usually docker)";
    else if (os_errno == ENOENT)
        hint = "the socket does not exist; check that the Docker Engine runs and DOCKER_HOST is "
               "right";
    else if (os_errno == ECONNREFUSED)
        hint = "nobody listens there; check that the Docker Engine runs and DOCKER_HOST is right";
    return sbx_fail(err, SBX_E_ENGINE_UNAVAILABLE, "cannot connect to the engine at %s: %s",
                    d->shown, hint);
}

static int curl_fail(sbx_docker *d, CURL *easy, CURLcode rc, const char *what, sbx_err *err)
{
    long os_errno = 0;

    docker_version_forget(d);
    curl_easy_getinfo(easy, CURLINFO_OS_ERRNO, &os_errno);
    switch (rc) {
    case CURLE_COULDNT_CONNECT:
        return connect_fail(d, (int)os_errno, err);
    case CURLE_OPERATION_TIMEDOUT: /* only connecting has a time-out of libcurl */
        return sbx_fail(err, SBX_E_ENGINE_UNAVAILABLE,
                        "no connection to the engine at %s within %d ms", d->shown,
                        DOCKER_CONNECT_MS);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CACERT_BADFILE:
        return sbx_fail(err, SBX_E_ENGINE_UNAVAILABLE,
                        "TLS with the engine at %s failed: %s; check ca.pem, cert.pem and key.pem",
                        d->shown, curl_easy_strerror(rc));
    case CURLE_OUT_OF_MEMORY:
        return sbx_fail(err, SBX_E_INTERNAL, "%s: out of memory", what);
    default:
        return sbx_fail(err, SBX_E_ENGINE_UNAVAILABLE, "%s: the engine at %s: %s", what, d->shown,
                        curl_easy_strerror(rc));
    }
}

/* --- running --- */

/* Run until done. 0 with the transfer's result, or -1 when the job or the time ended it. */
static int drive(sbx_docker *d, docker_handle *h, const docker_req *q, docker_res *res,
                 int64_t timeout_ms, const char *what, CURLcode *ret_rc, sbx_err *err)
{
    int64_t from = sbx_now_ms(), end = timeout_ms < 0 ? INT64_MAX : from + timeout_ms;
    bool regardless = q && q->regardless, finish = q && q->finish;
    int running = 1, queued = 0;

    for (;;) {
        CURLMcode rc = curl_multi_perform(h->multi, &running);

        if (rc != CURLM_OK)
            return sbx_fail(err, SBX_E_INTERNAL, "%s: %s", what, curl_multi_strerror(rc));
        if (!running)
            break;
        if (!regardless && !finish && sbx_job_cancelled())
            return sbx_fail(err, SBX_E_CANCELLED, "%s: cancelled", what);
        if (q && q->tick && !q->tick(q->arg)) {
            res->gave_up = true;
            return 0;
        }
        int64_t left = end == INT64_MAX ? INT64_MAX : end - sbx_now_ms();

        if (!regardless && !finish)
            left = SBX_MIN(left, sbx_job_left_ms(INT64_MAX));
        if (left <= 0)
            return sbx_fail(err, SBX_E_TIMEOUT, "%s: the engine did not answer in time", what);
        if (!regardless && timeout_ms > 0 && sbx_now_ms() - from > SBX_BREAKER_SLOW_MS &&
            sbx_breaker_is_open(&d->breaker))
            return sbx_fail(err, SBX_E_ENGINE_UNAVAILABLE,
                            "%s: the engine does not answer, nor others", what);
        curl_multi_poll(h->multi, NULL, 0, (int)SBX_MIN(left, DOCKER_POLL_MS), NULL);
    }
    CURLMsg *m = curl_multi_info_read(h->multi, &queued);

    *ret_rc = m && m->msg == CURLMSG_DONE ? m->data.result : CURLE_RECV_ERROR;
    return 0;
}

int docker_transfer_end(docker_transfer *t, sbx_docker *d, CURLcode rc, const char *what,
                        sbx_err *err)
{
    docker_res *res = t->res;

    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &res->status);
    if (t->too_large)
        return sbx_fail(err, SBX_E_ENGINE, "%s: the engine's answer is too large", what);
    if (res->gave_up)
        return 0;
    if (rc != CURLE_OK)
        return curl_fail(d, t->easy, rc, what, err);
    if ((res->status < 200 || res->status > 299) && res->status != 304)
        return docker_status_fail(res->status, res->body.data, res->body.len, what, err);
    return 0;
}

static int perform(sbx_docker *d, docker_handle *h, docker_transfer *t, const char *what,
                   sbx_err *err)
{
    const docker_req *q = t->req;
    int64_t timeout = q->timeout_ms ? q->timeout_ms : d->timeout_ms;
    CURLcode rc = CURLE_OK;

    if (curl_multi_add_handle(h->multi, h->easy) != CURLM_OK)
        return sbx_fail(err, SBX_E_INTERNAL, "%s: libcurl refused the call", what);
    int result = drive(d, h, q, t->res, timeout, what, &rc, err);

    curl_multi_remove_handle(h->multi, h->easy);
    return result ? -1 : docker_transfer_end(t, d, rc, what, err);
}

void docker_res_init(docker_res *r, const docker_req *q)
{
    memset(r, 0, sizeof(*r));
    sbx_buf_init(&r->body, q->max_bytes ? q->max_bytes : SBX_MAX_ENGINE_JSON_BYTES);
    if (r->body.max < DOCKER_ERROR_BYTES)
        r->body.max = DOCKER_ERROR_BYTES;
}

void docker_res_done(docker_res *r)
{
    sbx_buf_done(&r->body);
}

static int call_once(sbx_docker *d, const docker_req *q, const char *url, const char *what,
                     docker_res *ret, sbx_err *err)
{
    docker_transfer t;

    if (q->finish && sbx_job_cancelled())
        return sbx_fail(err, SBX_E_CANCELLED, "%s: cancelled", what);
    if (q->finish && sbx_job_left_ms(1) <= 0)
        return sbx_fail(err, SBX_E_TIMEOUT, "%s: no time is left for it", what);
    docker_handle *h = handle_lease(d, err);

    if (!h)
        return -1;
    docker_transfer_begin(&t, d, h->easy, q, url, ret);
    int rc = perform(d, h, &t, what, err);

    handle_return(d, h);
    docker_transfer_done(&t);
    return rc;
}

static int probe(sbx_docker *d, sbx_err *err)
{
    SBX_CLEANUP_VAL(docker_res_done) docker_res res;
    SBX_CLEANUP(sbx_free_str) char *url = sbx_asprintf("%s/_ping", d->base_url);
    docker_req q = {.method = "GET",
                    .path = "/_ping",
                    .max_bytes = MIB,
                    .timeout_ms = SBX_BREAKER_PROBE_MS,
                    .regardless = true};
    sbx_err got = {0};

    docker_res_init(&res, &q);
    int rc = call_once(d, &q, url, "asking whether the engine is back", &res, &got);
    /* what it answers, whatever it is, it answers */
    bool back = !rc || (got.code != SBX_E_ENGINE_UNAVAILABLE && got.code != SBX_E_TIMEOUT);

    sbx_breaker_probed(&d->breaker, sbx_now_ms(), back ? NULL : &got);
    return back ? 0 : sbx_fail(err, SBX_E_ENGINE_UNAVAILABLE, "%s", got.msg);
}

int docker_gate(sbx_docker *d, sbx_err *err)
{
    switch (sbx_breaker_ask(&d->breaker, sbx_now_ms(), err)) {
    case SBX_BREAKER_CALL:
        return 0;
    case SBX_BREAKER_PROBE:
        return probe(d, err);
    case SBX_BREAKER_STOP:
        break;
    }
    return -1;
}

static int call_url(sbx_docker *d, const docker_req *q, const char *url, const char *what,
                    docker_res *ret, sbx_err *err)
{
    int64_t from_ms = sbx_now_ms();
    sbx_err got = {0};

    if (docker_gate(d, err))
        return -1;
    int rc = call_once(d, q, url, what, ret, &got);

    /* A stream that ended after it began says nothing of the next call. */
    if (!rc || !q->piece || ret->status != 200)
        sbx_breaker_report(&d->breaker, from_ms, sbx_now_ms(), rc ? &got : NULL);
    if (rc && err)
        *err = got;
    return rc;
}

int docker_call_raw(sbx_docker *d, const docker_req *q, const char *what, docker_res *ret,
                    sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf url = SBX_BUF_INIT(DOCKER_PATH_BYTES);

    docker_res_init(ret, q);
    sbx_buf_addf(&url, "%s%s", d->base_url, q->path);
    if (sbx_buf_failed(&url))
        return sbx_fail(err, SBX_E_INVALID, "%s: the name is too long", what);
    return call_url(d, q, url.data, what, ret, err);
}

/* The engine was replaced behind a kept connection, and its successor refuses our version. */
static bool refuses_version(const docker_res *r)
{
    return r->status == 400 && r->body.data && strstr(r->body.data, "client version");
}

int docker_call(sbx_docker *d, const docker_req *q, const char *what, docker_res *ret, sbx_err *err)
{
    docker_res_init(ret, q);
    for (bool again = false;; again = true) {
        SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf url = SBX_BUF_INIT(DOCKER_PATH_BYTES);
        int minor = 0;

        if (docker_version(d, q->regardless, &minor, err))
            return -1;
        sbx_buf_addf(&url, "%s/v1.%d%s", d->base_url, minor, q->path);
        if (sbx_buf_failed(&url))
            return sbx_fail(err, SBX_E_INVALID, "%s: the name is too long", what);
        int rc = call_url(d, q, url.data, what, ret, err);

        if (rc == 0 || again || !refuses_version(ret))
            return rc;
        docker_version_forget(d);
        docker_res_done(ret);
        docker_res_init(ret, q);
    }
}

/* --- a connection of one's own --- */

int docker_connect(sbx_docker *d, docker_handle **ret, int *ret_fd, sbx_err *err)
{
    docker_handle *h = handle_new(err);
    CURLcode rc = CURLE_OK;
    curl_socket_t fd = CURL_SOCKET_BAD;
    int result = -1;

    SBX_ASSERT_THREAD(SBX_T_WORKER);
    if (!h)
        return -1;
    set_common(d, h->easy);
    curl_easy_setopt(h->easy, CURLOPT_URL, d->base_url);
    curl_easy_setopt(h->easy, CURLOPT_CONNECT_ONLY, 1L);
    if (curl_multi_add_handle(h->multi, h->easy) != CURLM_OK)
        sbx_fail(err, SBX_E_INTERNAL, "libcurl refused to connect");
    else if (drive(d, h, NULL, NULL, d->timeout_ms, "connecting to the engine", &rc, err))
        result = -1;
    else if (rc != CURLE_OK)
        result = curl_fail(d, h->easy, rc, "connecting to the engine", err);
    else if (curl_easy_getinfo(h->easy, CURLINFO_ACTIVESOCKET, &fd) != CURLE_OK || fd < 0)
        sbx_fail(err, SBX_E_ENGINE_UNAVAILABLE, "the engine at %s closed the connection", d->shown);
    else
        result = 0;
    if (result == 0 && d->tls) {
        *ret_fd = fd;
        *ret = h;
        return 0;
    }
    if (result == 0) {
        /* A plain socket needs no library: thousands of these streams stay open for hours. */
        *ret_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        *ret = NULL;
        if (*ret_fd < 0)
            result = sbx_fail(err, SBX_E_INTERNAL, "no descriptor for a stream: %s",
                              strerrordesc_np(errno));
    }
    docker_handle_free(h);
    return result;
}

ssize_t docker_tls_recv(docker_handle *h, void *data, size_t cap)
{
    size_t got = 0;
    CURLcode rc = curl_easy_recv(h->easy, data, cap, &got);

    if (rc == CURLE_AGAIN)
        return 0;
    return rc == CURLE_OK && got > 0 ? (ssize_t)got : -1;
}

ssize_t docker_tls_send(docker_handle *h, const void *data, size_t len)
{
    size_t sent = 0;
    CURLcode rc = curl_easy_send(h->easy, data, len, &sent);

    if (rc == CURLE_AGAIN)
        return 0;
    return rc == CURLE_OK ? (ssize_t)sent : -1;
}

/* --- small helpers --- */

int docker_nap(int64_t ms, const char *what, sbx_err *err)
{
    int64_t end = sbx_now_ms() + ms;

    for (;;) {
        int64_t left = SBX_MIN(end - sbx_now_ms(), (int64_t)DOCKER_POLL_MS);

        if (sbx_job_cancelled())
            return sbx_fail(err, SBX_E_CANCELLED, "%s: cancelled", what);
        if (sbx_job_left_ms(1) <= 0)
            return sbx_fail(err, SBX_E_TIMEOUT, "%s: the time limit was reached", what);
        if (left <= 0)
            return 0;
        poll(NULL, 0, (int)left);
    }
}

void docker_escape(sbx_buf *b, const char *s)
{
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;

        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
            c == '-' || c == '_' || c == '.' || c == '~')
            sbx_buf_addc(b, (char)c);
        else
            sbx_buf_addf(b, "%%%02X", c);
    }
}
