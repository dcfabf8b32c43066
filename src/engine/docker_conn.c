/* Hijacked streams: a request whose connection becomes a byte stream both ways.
 *
 * Over a plain socket the payload of a frame is received straight into the caller's buffer,
 * together with the header of the next frame in the same system call, so a busy stream costs one
 * call a frame. Over TLS the bytes come through libcurl.
 *
 * Threads: attach on any; then one at a time. The descriptor is non-blocking. */
#include "docker.h"
#include "head.h"
#include "sbx/core/clock.h"
#include "sbx/core/thread.h"
#include "sbx/engine/frames.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define TLS_CHUNK (16 * KIB)

struct sbx_engine_conn {
    int fd;
    docker_handle *tls; /* NULL: fd is a plain socket and ours */
    char *early;        /* bytes that came behind the response's head; NULL once taken */
    size_t early_at, early_len;
    sbx_frames frames;
    bool ended;
    sbx_err end; /* why, if ended */
    /* What TLS has been given and not taken: it must be offered again unchanged. */
    char *out;
    size_t out_len;
};

void sbx_engine_conn_close(sbx_engine_conn *c)
{
    if (!c)
        return;
    if (c->tls)
        docker_handle_free(c->tls);
    else if (c->fd >= 0)
        close(c->fd);
    free(c->early);
    free(c->out);
    free(c);
}

int sbx_engine_conn_fd(const sbx_engine_conn *c)
{
    return c->fd;
}

/* --- bytes --- */

static int stream_end(sbx_engine_conn *c, const char *why)
{
    c->ended = true;
    return sbx_fail(&c->end, SBX_E_ENGINE_UNAVAILABLE, "the container's stream %s", why);
}

/* @return bytes, 0 nothing now, -1 ended. The second part may be empty. */
static ssize_t raw_recv(sbx_engine_conn *c, struct iovec part[2])
{
    ssize_t n;

    if (c->early) {
        n = (ssize_t)SBX_MIN(part[0].iov_len, c->early_len - c->early_at);
        memcpy(part[0].iov_base, c->early + c->early_at, (size_t)n);
        c->early_at += (size_t)n;
        if (c->early_at == c->early_len) {
            free(c->early);
            c->early = NULL;
        }
        return n;
    }
    if (c->tls) {
        n = docker_tls_recv(c->tls, part[0].iov_base, part[0].iov_len);
        return n < 0 ? stream_end(c, "ended") : n;
    }
    do
        n = readv(c->fd, part, part[1].iov_len ? 2 : 1);
    while (n < 0 && errno == EINTR);
    if (n > 0)
        return n;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return 0;
    return stream_end(c, n == 0 ? "ended" : "broke");
}

/* Step to a frame that has payload. @return 1, 0 nothing now, -1 ended. */
static int next_frame(sbx_engine_conn *c)
{
    while (c->frames.left == 0) {
        uint8_t bytes[SBX_FRAME_HEAD_BYTES];
        struct iovec part[2] = {{bytes, SBX_FRAME_HEAD_BYTES - c->frames.have}, {NULL, 0}};
        ssize_t n = raw_recv(c, part);

        if (n <= 0)
            return (int)n;
        if (sbx_frames_header(&c->frames, bytes, (size_t)n, &c->end) < 0) {
            c->ended = true;
            return -1;
        }
    }
    return 1;
}

/* Receive payload of the open frame and, if it may end, the header behind it.
 * @param ret_more  if all that was asked for came, so that more may be there. */
static ssize_t recv_payload(sbx_engine_conn *c, void *data, size_t cap, bool *ret_more)
{
    uint8_t head[SBX_FRAME_HEAD_BYTES];
    size_t want = SBX_MIN(cap, c->frames.left);
    struct iovec part[2] = {{data, want}, {head, want == c->frames.left ? sizeof(head) : 0}};
    ssize_t n = raw_recv(c, part);

    *ret_more = false;
    if (n <= 0)
        return n;
    size_t payload = SBX_MIN((size_t)n, want), rest = (size_t)n - payload;

    *ret_more = payload == want;
    sbx_frames_payload(&c->frames, payload);
    if (rest > 0) {
        *ret_more = rest == sizeof(head);
        if (sbx_frames_header(&c->frames, head, rest, &c->end) < 0) {
            c->ended = true;
            *ret_more = false;
        }
    }
    return (ssize_t)payload;
}

ssize_t sbx_engine_conn_recv(sbx_engine_conn *c, int *ret_stream, void *data, size_t cap,
                             sbx_err *err)
{
    size_t got = 0;
    bool more = true;
    int at = 0;

    while (more && got < cap && !c->ended) {
        if (c->frames.left == 0 && next_frame(c) <= 0)
            break;
        if (got > 0 && c->frames.stream != at)
            break;
        at = c->frames.stream;
        ssize_t n = recv_payload(c, (char *)data + got, cap - got, &more);

        if (n <= 0)
            break;
        got += (size_t)n;
    }
    if (got > 0) {
        *ret_stream = at;
        return (ssize_t)got;
    }
    if (!c->ended)
        return 0;
    if (err)
        *err = c->end;
    return -1;
}

static ssize_t tls_send(sbx_engine_conn *c, const void *data, size_t len)
{
    if (!c->out)
        c->out = sbx_alloc(TLS_CHUNK);
    if (c->out_len == 0) {
        c->out_len = SBX_MIN(len, TLS_CHUNK);
        memcpy(c->out, data, c->out_len);
    }
    ssize_t n = docker_tls_send(c->tls, c->out, c->out_len);

    if (n != 0)
        c->out_len = 0;
    return n;
}

ssize_t sbx_engine_conn_send(sbx_engine_conn *c, const void *data, size_t len, sbx_err *err)
{
    ssize_t n;

    if (len == 0)
        return 0;
    if (c->tls) {
        n = tls_send(c, data, len);
    } else {
        do
            n = send(c->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            n = 0;
    }
    return n >= 0 ? n : sbx_fail(err, SBX_E_ENGINE_UNAVAILABLE, "the container's stream broke");
}

/* --- opening --- */

static int wait_for(sbx_engine_conn *c, short events, int64_t end_ms, sbx_err *err)
{
    struct pollfd p = {.fd = c->fd, .events = events};

    for (;;) {
        int64_t left = SBX_MIN(end_ms - sbx_now_ms(), sbx_job_left_ms(INT64_MAX));

        if (sbx_job_cancelled())
            return sbx_fail(err, SBX_E_CANCELLED, "opening a stream: cancelled");
        if (left <= 0)
            return sbx_fail(err, SBX_E_TIMEOUT, "opening a stream: the engine did not answer");
        int n = poll(&p, 1, (int)SBX_MIN(left, DOCKER_POLL_MS));

        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return sbx_fail(err, SBX_E_INTERNAL, "opening a stream: poll failed");
    }
}

static int send_all(sbx_engine_conn *c, const char *data, size_t len, int64_t end_ms, sbx_err *err)
{
    while (len > 0) {
        ssize_t n = sbx_engine_conn_send(c, data, len, err);

        if (n < 0 || (n == 0 && wait_for(c, POLLOUT, end_ms, err)))
            return -1;
        data += n;
        len -= (size_t)n;
    }
    return 0;
}

/* Add what has come. @return 0, -1 at the end of the stream. */
static int recv_some(sbx_engine_conn *c, sbx_buf *in, int64_t end_ms, sbx_err *err)
{
    for (;;) {
        struct iovec part[2] = {{NULL, 4096}, {NULL, 0}};
        ssize_t n;

        part[0].iov_base = sbx_buf_reserve(in, part[0].iov_len);
        if (!part[0].iov_base)
            return sbx_fail(err, SBX_E_ENGINE, "opening a stream: the answer is too long");
        n = raw_recv(c, part);
        if (n < 0) {
            if (err)
                *err = c->end;
            return -1;
        }
        if (n > 0) {
            sbx_buf_commit(in, (size_t)n);
            return 0;
        }
        if (wait_for(c, POLLIN, end_ms, err))
            return -1;
    }
}

/* The engine refused: its words are in the body, as far as it comes. */
static int refused(sbx_docker *d, sbx_engine_conn *c, sbx_buf *in, size_t head_len,
                   const docker_head *h, const char *what, int64_t end_ms, sbx_err *err)
{
    while (h->length >= 0 && in->len - head_len < (size_t)h->length && in->len < DOCKER_HEAD_BYTES)
        if (recv_some(c, in, end_ms, NULL))
            break;
    /* A version that was refused is asked for anew: nothing else can be wrong with this request. */
    if (h->status == 400)
        docker_version_forget(d);
    return docker_status_fail(h->status, in->data + head_len, in->len - head_len, what, err);
}

static int read_answer(sbx_docker *d, sbx_engine_conn *c, const char *what, int64_t end_ms,
                       sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf in = SBX_BUF_INIT(2 * DOCKER_HEAD_BYTES);
    docker_head h = {0};
    ssize_t head_len = 0;

    while (head_len == 0) {
        if (recv_some(c, &in, end_ms, err))
            return -1;
        head_len = docker_head_read(in.data, in.len, &h);
    }
    if (head_len < 0)
        return sbx_fail(err, SBX_E_ENGINE, "%s: the engine's answer is not HTTP", what);
    if (h.status != 101 && h.status != 200)
        return refused(d, c, &in, (size_t)head_len, &h, what, end_ms, err);
    if (h.chunked || h.length > 0)
        return sbx_fail(err, SBX_E_ENGINE, "%s: the engine did not hand the connection over", what);
    if (in.len > (size_t)head_len) {
        c->early_len = in.len - (size_t)head_len;
        c->early = sbx_alloc(c->early_len);
        memcpy(c->early, in.data + head_len, c->early_len);
    }
    return 0;
}

/* POST a body to a path whose connection becomes the stream. */
static int hijack(sbx_docker *d, const char *path, const char *body, const char *what,
                  sbx_engine_conn **ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf out = SBX_BUF_INIT(DOCKER_PATH_BYTES);
    SBX_CLEANUP(sbx_engine_conn_close) sbx_engine_conn *c = NULL;
    int64_t end_ms = sbx_now_ms() + d->timeout_ms;
    int minor = 0;

    if (docker_version(d, false, &minor, err))
        return sbx_wrap(err, "%s", what);
    sbx_buf_addf(&out,
                 "POST /v1.%d%s HTTP/1.1\r\n"
                 "Host: %s\r\nUser-Agent: sandboxd/" SBX_VERSION "\r\n"
                 "Connection: Upgrade\r\nUpgrade: tcp\r\n%sContent-Length: %zu\r\n\r\n%s",
                 minor, path, strstr(d->base_url, "//") + 2,
                 *body ? "Content-Type: application/json\r\n" : "", strlen(body), body);
    if (sbx_buf_failed(&out))
        return sbx_fail(err, SBX_E_INVALID, "%s: the name is too long", what);
    c = sbx_alloc(sizeof(*c));
    c->fd = -1;
    if (docker_connect(d, &c->tls, &c->fd, err))
        return -1;
    fcntl(c->fd, F_SETFL, fcntl(c->fd, F_GETFL) | O_NONBLOCK);
    if (send_all(c, out.data, out.len, end_ms, err) || read_answer(d, c, what, end_ms, err))
        return sbx_wrap(err, "%s", what);
    *ret = sbx_steal(c);
    return 0;
}

/* The same, behind the breaker. */
static int guarded(sbx_docker *d, const char *path, const char *body, const char *what,
                   sbx_engine_conn **ret, sbx_err *err)
{
    int64_t from_ms = sbx_now_ms();
    sbx_err got = {0};

    if (docker_gate(d, err))
        return -1;
    int rc = hijack(d, path, body, what, ret, &got);

    sbx_breaker_report(&d->breaker, from_ms, sbx_now_ms(), rc ? &got : NULL);
    if (rc && err)
        *err = got;
    return rc;
}

int docker_attach(sbx_engine *e, const char *id, sbx_engine_conn **ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf path = SBX_BUF_INIT(1024);
    char what[160];

    if (docker_container_path(&path, id, "/attach?stream=1&stdin=1&stdout=1&stderr=1", err))
        return sbx_wrap(err, "attaching");
    docker_what(what, sizeof(what), "attaching to container", id);
    return guarded((sbx_docker *)e, path.data, "", what, ret, err);
}

static int exec_create(sbx_docker *d, const char *id, const char *const *argv, const char *what,
                       char ret_id[80], sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf path = SBX_BUF_INIT(1024);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf body = SBX_BUF_INIT(64 * KIB);
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    sbx_jw w = SBX_JW(&body);

    if (docker_container_path(&path, id, "/exec", err))
        return sbx_wrap(err, "%s", what);
    sbx_jw_obj(&w, NULL);
    sbx_jw_arr(&w, "Cmd");
    for (; *argv; argv++)
        sbx_jw_str(&w, NULL, *argv);
    sbx_jw_arr_end(&w);
    sbx_jw_str(&w, "User", "0");
    sbx_jw_bool(&w, "AttachStdin", true);
    sbx_jw_bool(&w, "AttachStdout", true);
    sbx_jw_bool(&w, "AttachStderr", true);
    sbx_jw_obj_end(&w);
    docker_req q = {.method = "POST",
                    .path = path.data,
                    .type = "application/json",
                    .body = body.data,
                    .body_len = body.len,
                    .max_bytes = MIB};

    if (docker_call(d, &q, what, &res, err) ||
        docker_parse(res.body.data, res.body.len, &root, err))
        return -1;
    const char *made = docker_str(sbx_json_get(root, "Id"));

    if (strspn(made, "0123456789abcdef") != strlen(made) || !*made || !sbx_copy(ret_id, 80, made))
        return sbx_fail(err, SBX_E_ENGINE, "%s: the engine gave no id", what);
    return 0;
}

int docker_exec_attach(sbx_engine *e, const char *id, const char *const *argv,
                       sbx_engine_conn **ret, sbx_err *err)
{
    char what[160], exec_id[80], path[128];

    docker_what(what, sizeof(what), "running a program in container", id);
    if (exec_create((sbx_docker *)e, id, argv, what, exec_id, err))
        return -1;
    snprintf(path, sizeof(path), "/exec/%s/start", exec_id);
    return guarded((sbx_docker *)e, path, "{\"Detach\":false,\"Tty\":false}", what, ret, err);
}
