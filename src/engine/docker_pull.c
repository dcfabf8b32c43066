/* Fetching an image from a registry, driven by whoever owns it, without blocking.
 *
 * The transfer's sockets and its timer are gathered in an epoll descriptor of its own, so that the
 * owner watches one descriptor and calls step() when it is readable. A pull answers 200 at once and
 * reports its failures inside the stream; closing the connection makes the engine give up.
 *
 * Threads: one at a time. */
#include "docker.h"
#include "lines.h"
#include "sbx/core/clock.h"
#include <errno.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define BATCH      8
#define MAX_LAYERS 128 /* that progress is told of; an image may have as many */

typedef struct pull_layer {
    char id[16];
    int64_t bytes, total_bytes;
    bool done;
} pull_layer;

struct sbx_engine_pull {
    sbx_docker *d;
    CURLM *multi;
    CURL *easy;
    int epoll_fd, timer_fd;
    int64_t from_ms, end_ms;
    docker_req req;
    docker_res res;
    docker_transfer transfer;
    docker_lines lines;
    char *url;
    pull_layer layers[MAX_LAYERS];
    int layer_count;
    bool failed;
    char message[300]; /* what the stream said, if failed */
    char shown[SBX_ENGINE_IMAGE_BYTES];
};

/* --- the stream of progress --- */

static pull_layer *layer_of(sbx_engine_pull *p, const char *id)
{
    char key[sizeof(p->layers[0].id)];

    sbx_copy(key, sizeof(key), id);
    for (int i = 0; i < p->layer_count; i++)
        if (strcmp(p->layers[i].id, key) == 0)
            return &p->layers[i];
    if (p->layer_count == MAX_LAYERS)
        return NULL;
    memcpy(p->layers[p->layer_count].id, key, sizeof(key));
    return &p->layers[p->layer_count++];
}

/* "Pulling fs layer", "Downloading" with numbers, "Download complete", "Pull complete", ... */
static void take_progress(sbx_engine_pull *p, const sbx_json *json)
{
    const char *id = sbx_json_str(sbx_json_get(json, "id"));
    const char *status = sbx_json_str(sbx_json_get(json, "status"));
    int64_t total = sbx_json_int(docker_get2(json, "progressDetail", "total"), 0);
    int64_t now = sbx_json_int(docker_get2(json, "progressDetail", "current"), 0);

    if (!id || !status || strncmp(status, "Pulling from", 12) == 0)
        return;
    pull_layer *l = layer_of(p, id);
    if (!l)
        return;
    if (strcmp(status, "Downloading") == 0 && total > 0 && now >= 0 && now <= total) {
        l->bytes = now;
        l->total_bytes = total;
    } else if (strcmp(status, "Download complete") == 0) {
        l->bytes = l->total_bytes;
    } else if (strcmp(status, "Pull complete") == 0 || strcmp(status, "Already exists") == 0) {
        l->bytes = l->total_bytes;
        l->done = true;
    }
}

void sbx_engine_pull_progress(const sbx_engine_pull *p, sbx_pull_progress *ret)
{
    *ret = (sbx_pull_progress){.layers = p->layer_count};
    for (int i = 0; i < p->layer_count; i++) {
        ret->layers_done += p->layers[i].done;
        ret->bytes += p->layers[i].bytes;
        ret->total_bytes += p->layers[i].total_bytes;
    }
}

static bool on_value(void *arg, char *text, size_t len)
{
    sbx_engine_pull *p = arg;
    SBX_CLEANUP(sbx_json_free) sbx_json *json = NULL;

    if (p->failed || docker_parse(text, len, &json, NULL))
        return true; /* progress is decoration: what cannot be read is left out */
    const char *error = sbx_json_str(docker_get2(json, "errorDetail", "message"));

    error = error ? error : sbx_json_str(sbx_json_get(json, "error"));
    if (error) {
        p->failed = true;
        docker_clean(p->message, sizeof(p->message), error, strlen(error));
    } else {
        take_progress(p, json);
    }
    return true;
}

static bool on_piece(void *arg, const char *data, size_t len)
{
    sbx_engine_pull *p = arg;

    return docker_lines_take(&p->lines, data, len, on_value, p);
}

static bool says(const char *message, const char *const *words)
{
    for (; *words; words++)
        if (strcasestr(message, *words))
            return true;
    return false;
}

static int pull_fail(const sbx_engine_pull *p, const char *message, sbx_code code, sbx_err *err)
{
    /* The registries' words for an image that is not there or not for us; and the resolver's for a
     * registry that does not exist. */
    static const char *const unknown[] = {"not found",     "manifest unknown", "does not exist",
                                          "access denied", "name unknown",     "denied:",
                                          "unauthorized",  "no such host",     NULL};
    static const char *const full[] = {"no space left", "disk quota exceeded", NULL};

    if (code == SBX_E_ENGINE && says(message, full))
        return sbx_fail(err, SBX_E_ENGINE,
                        "image %s cannot be pulled: the disk of the engine's host is full: %s",
                        p->shown, message);
    if (code == SBX_E_ENGINE && says(message, unknown))
        code = SBX_E_NOT_FOUND;
    return sbx_fail(err, code, "image %s cannot be pulled: %s", p->shown, message);
}

/* --- libcurl's events --- */

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *of_socket)
{
    const sbx_engine_pull *p = arg;
    struct epoll_event ev = {.data.fd = fd};

    (void)easy, (void)of_socket;
    if (what == CURL_POLL_REMOVE) {
        epoll_ctl(p->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
        return 0;
    }
    ev.events = (what & CURL_POLL_IN ? EPOLLIN : 0u) | (what & CURL_POLL_OUT ? EPOLLOUT : 0u);
    if (epoll_ctl(p->epoll_fd, EPOLL_CTL_MOD, fd, &ev) && errno == ENOENT)
        return epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, fd, &ev) ? -1 : 0;
    return 0;
}

static int on_timer(CURLM *multi, long ms, void *arg)
{
    const sbx_engine_pull *p = arg;
    struct itimerspec at = {0};

    (void)multi;
    if (ms > 0) {
        at.it_value.tv_sec = ms / 1000;
        at.it_value.tv_nsec = ms % 1000 * 1000000;
    } else if (ms == 0) {
        at.it_value.tv_nsec = 1;
    }
    return timerfd_settime(p->timer_fd, 0, &at, NULL);
}

static void act(sbx_engine_pull *p, const struct epoll_event *ev)
{
    uint64_t expired;
    int running, mask = 0;

    if (ev->data.fd == p->timer_fd) {
        (void)!read(p->timer_fd, &expired, sizeof(expired));
        curl_multi_socket_action(p->multi, CURL_SOCKET_TIMEOUT, 0, &running);
        return;
    }
    if (ev->events & (EPOLLIN | EPOLLHUP))
        mask |= CURL_CSELECT_IN;
    if (ev->events & EPOLLOUT)
        mask |= CURL_CSELECT_OUT;
    if (ev->events & EPOLLERR)
        mask |= CURL_CSELECT_ERR;
    curl_multi_socket_action(p->multi, ev->data.fd, mask, &running);
}

static int over(sbx_engine_pull *p, CURLcode rc, sbx_err *err)
{
    sbx_err got = {0};

    if (rc == CURLE_OPERATION_TIMEDOUT && sbx_now_ms() >= p->end_ms)
        return sbx_fail(err, SBX_E_TIMEOUT,
                        "image %s was not pulled within %lld s (option --pull-timeout)", p->shown,
                        (long long)p->d->pull_timeout_ms / 1000);
    int ended = docker_transfer_end(&p->transfer, p->d, rc, "the registry", &got);

    if (!ended || p->res.status != 200) /* a stream that broke says nothing of the next call */
        sbx_breaker_report(&p->d->breaker, p->from_ms, sbx_now_ms(), ended ? &got : NULL);
    if (ended)
        return pull_fail(p, got.msg, got.code, err);
    return p->failed ? pull_fail(p, p->message, SBX_E_ENGINE, err) : 1;
}

int sbx_engine_pull_step(sbx_engine_pull *p, sbx_err *err)
{
    struct epoll_event events[BATCH];
    int queued, n = epoll_wait(p->epoll_fd, events, BATCH, 0);

    for (int i = 0; i < n; i++)
        act(p, &events[i]);
    for (CURLMsg *m; (m = curl_multi_info_read(p->multi, &queued));)
        if (m->msg == CURLMSG_DONE)
            return over(p, m->data.result, err);
    return 0;
}

int sbx_engine_pull_fd(const sbx_engine_pull *p)
{
    return p->epoll_fd;
}

/* --- life --- */

void sbx_engine_pull_close(sbx_engine_pull *p)
{
    if (!p)
        return;
    if (p->multi && p->easy)
        curl_multi_remove_handle(p->multi, p->easy);
    if (p->easy)
        curl_easy_cleanup(p->easy);
    if (p->multi)
        curl_multi_cleanup(p->multi);
    docker_transfer_done(&p->transfer);
    docker_res_done(&p->res);
    docker_lines_done(&p->lines);
    if (p->epoll_fd >= 0)
        close(p->epoll_fd);
    if (p->timer_fd >= 0)
        close(p->timer_fd);
    free(p->url);
    free(p);
}

/* Without a tag the engine would fetch every tag there is. */
static bool has_version(const char *image)
{
    const char *slash = strrchr(image, '/');

    return strchr(image, '@') || strchr(slash ? slash : image, ':');
}

static int make_url(sbx_engine_pull *p, const char *image, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf url = SBX_BUF_INIT(DOCKER_PATH_BYTES);
    sbx_docker *d = p->d;

    pthread_mutex_lock(&d->mu);
    int minor = d->api_minor;
    pthread_mutex_unlock(&d->mu);
    if (!minor || sbx_breaker_is_open(&d->breaker))
        return sbx_fail(err, SBX_E_ENGINE_UNAVAILABLE,
                        "image %s cannot be pulled: the engine at %s is not reached at the moment",
                        p->shown, d->shown);
    sbx_buf_addf(&url, "%s/v1.%d/images/create?fromImage=", d->base_url, minor);
    docker_escape(&url, image);
    if (!has_version(image))
        sbx_buf_adds(&url, "&tag=latest");
    if (!image[0] || sbx_buf_failed(&url))
        return sbx_fail(err, SBX_E_INVALID, "the image's name is not valid");
    p->url = sbx_buf_steal(&url);
    return 0;
}

static int set_up(sbx_engine_pull *p, sbx_err *err)
{
    struct epoll_event ev = {.events = EPOLLIN};

    p->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    p->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    ev.data.fd = p->timer_fd;
    if (p->epoll_fd < 0 || p->timer_fd < 0 ||
        epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, p->timer_fd, &ev))
        return sbx_fail(err, SBX_E_INTERNAL, "no descriptor for a pull: %s",
                        strerrordesc_np(errno));
    p->multi = curl_multi_init();
    p->easy = curl_easy_init();
    if (!p->multi || !p->easy)
        return sbx_fail(err, SBX_E_INTERNAL, "libcurl gave no handle");
    curl_multi_setopt(p->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(p->multi, CURLMOPT_SOCKETDATA, p);
    curl_multi_setopt(p->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(p->multi, CURLMOPT_TIMERDATA, p);
    docker_transfer_begin(&p->transfer, p->d, p->easy, &p->req, p->url, &p->res);
    curl_easy_setopt(p->easy, CURLOPT_TIMEOUT_MS, (long)p->d->pull_timeout_ms);
    if (curl_multi_add_handle(p->multi, p->easy) != CURLM_OK)
        return sbx_fail(err, SBX_E_INTERNAL, "libcurl refused the pull");
    return 0;
}

int docker_pull(sbx_engine *e, const char *image, sbx_engine_pull **ret, sbx_err *err)
{
    SBX_CLEANUP(sbx_engine_pull_close) sbx_engine_pull *p = sbx_alloc(sizeof(*p));

    p->d = (sbx_docker *)e;
    p->epoll_fd = p->timer_fd = -1;
    p->from_ms = sbx_now_ms();
    p->end_ms = p->from_ms + p->d->pull_timeout_ms;
    p->req = (docker_req){.method = "POST", .piece = on_piece, .arg = p};
    docker_res_init(&p->res, &p->req);
    docker_lines_init(&p->lines, DOCKER_LINE_BYTES);
    docker_clean(p->shown, sizeof(p->shown), image, strlen(image));
    if (make_url(p, image, err) || set_up(p, err))
        return -1;
    *ret = sbx_steal(p);
    return 0;
}
