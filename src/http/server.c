/* The server: the libev loop, libwebsockets on it, accepting, ticks, drain.
 *
 * libwebsockets 4.1.6 carries the connections as raw sockets: it reads, tells when a socket can be
 * written, and closes. HTTP itself is parsed by this layer, because the library's own HTTP role
 * cannot do what is required here: it has no chunked request bodies, drops parked requests after
 * 5 s, spins when the client of one leaves, answers faults on its own (or not at all), and upgrades
 * to WebSocket only synchronously.
 *
 * Also on purpose: connections are accepted here and then adopted (the library busy-loops when
 * descriptors run out); no time-out of the library is used (its list is searched from the front at
 * each insertion); nothing is written through its queue (it stops reading while something is
 * queued, but keeps polling); `fd_limit_per_thread` stays unset (it makes each lookup a search);
 * from other threads comes nothing but ev_async_send(), which signal handlers may call too. */
#include "internal.h"

#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include <arpa/inet.h>
#include <errno.h>
#include <libwebsockets.h>
#include <linux/filter.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <utlist.h>

#define ACCEPT_BATCH   64
#define BACKLOG        1024
#define RESERVED_FDS   128   /* of the process, besides client connections */
#define MAX_FDS        65536 /* the library allocates two words for each possible descriptor */
#define DEFAULT_ACCEPT 12000
#define TCP_FLAGS_AT   13 /* in the header of TCP, with two of its bits */
#define TCP_SYN        0x02
#define TCP_ACK        0x10

void server_wake(void *http)
{
    sbx_http *h = http;

    ev_async_send(h->loop, &h->wake_watcher);
}

/* --- what libwebsockets tells --- */

static int on_lws(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                  size_t len)
{
    conn *c = wsi ? lws_get_opaque_user_data(wsi) : NULL;

    (void)user;
    if (!c)
        return 0;
    c->http->now_ms = sbx_now_ms();
    switch (reason) {
    case LWS_CALLBACK_RAW_ADOPT:
        c->wsi = wsi;
        break;
    case LWS_CALLBACK_RAW_RX:
        conn_input(c, in, len);
        sbx_wipe(in, SBX_MIN(len, (size_t)SBX_MAX_HEADER_BYTES)); /* the library's own buffer */
        break;
    case LWS_CALLBACK_RAW_WRITEABLE:
        c->blocked = false;
        conn_flush(c);
        break;
    case LWS_CALLBACK_RAW_CLOSE:
        lws_set_opaque_user_data(wsi, NULL);
        conn_closed(c);
        break;
    default:
        break;
    }
    return 0;
}

static const struct lws_protocols protocols[] = {{.name = "sandboxd", .callback = on_lws}, {0}};

static void on_lws_log(int level, const char *line)
{
    (void)level;
    sbx_log(SBX_DEBUG, "libwebsockets", "line", line, NULL);
}

/* --- accepting --- */

static void name_peer(conn *c, const struct sockaddr_storage *sa)
{
    const void *ip = sa->ss_family == AF_INET6
                         ? (const void *)&((const struct sockaddr_in6 *)sa)->sin6_addr
                         : (const void *)&((const struct sockaddr_in *)sa)->sin_addr;

    if (sa->ss_family != AF_INET && sa->ss_family != AF_INET6)
        return;
    if (sa->ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)ip))
        inet_ntop(AF_INET, (const char *)ip + 12, c->client, sizeof(c->client));
    else
        inet_ntop(sa->ss_family, ip, c->client, sizeof(c->client));
}

static void adopt(sbx_http *h, int fd, const struct sockaddr_storage *sa)
{
    if (!h->free_count) {
        close(fd);
        return;
    }
    bool over = atomic_load(&h->count) >= (size_t)h->config.max_connections;
    conn *c = conn_new(h, fd);
    name_peer(c, sa);
    lws_adopt_desc_t d = {.vh = h->vhost,
                          .type = LWS_ADOPT_SOCKET,
                          .fd.sockfd = fd,
                          .vh_prot_name = "sandboxd",
                          .opaque = c};
    uint64_t id = conn_id(c);
    if (!lws_adopt_descriptor_vhost_via_info(&d)) { /* it has closed the descriptor */
        if (conn_find(h, id))
            conn_closed(c);
        return;
    }
    if (over)
        conn_refuse(c);
}

static void pause_accept(sbx_http *h)
{
    ev_io_stop(h->loop, &h->accept_watcher);
    h->accept_paused = true; /* the next tick tries again */
}

/* @return whether there may be more. */
static bool accept_some(sbx_http *h)
{
    for (int i = 0; i < ACCEPT_BATCH; i++) {
        struct sockaddr_storage sa = {0};
        socklen_t len = sizeof(sa);
        int fd = accept4(h->listen_fd, (struct sockaddr *)&sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0) {
            h->starved = false;
            adopt(h, fd, &sa);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            if (!h->starved)
                sbx_log(SBX_WARN, "cannot accept connections", "errno", SBX_NUM(errno), NULL);
            h->starved = true;
            pause_accept(h);
            return false;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            return false;
        }
    }
    return true;
}

static void on_accept(struct ev_loop *loop, ev_io *w, int events)
{
    sbx_http *h = w->data;

    (void)loop;
    (void)events;
    h->now_ms = sbx_now_ms();
    accept_some(h);
}

/* --- time --- */

static void refresh_date(sbx_http *h)
{
    time_t now = (time_t)(sbx_wall_ms() / 1000);
    struct tm tm;

    if (now == h->date_s)
        return;
    h->date_s = now;
    gmtime_r(&now, &tm);
    strftime(h->date, sizeof(h->date), "date: %a, %d %b %Y %H:%M:%S GMT\r\n", &tm);
}

static void expire(sbx_http *h)
{
    for (int t = T_NONE + 1; t < T_MUTED; t++) {
        conn *c;

        while ((c = h->lists[t]) && h->now_ms - c->since_ms >= h->timeouts_ms[t])
            conn_expired(c);
    }
    conn *c, *next;
    DL_FOREACH_SAFE (h->lists[T_MUTED], c, next)
        conn_check_muted(c);
}

static void begin_drain(sbx_http *h)
{
    int64_t wait_ms = atomic_load(&h->drain_wait_ms);

    h->draining_on_loop = true;
    h->leave_at_ms = h->now_ms + wait_ms;
    h->drain_until_ms = h->leave_at_ms + atomic_load(&h->drain_wish_ms);
    h->timeouts_ms[T_IDLE] = SBX_MIN(h->timeouts_ms[T_IDLE], wait_ms);
}

/* A listener that closes resets the connections that it has made and nobody has accepted, with the
 * requests that were sent on them. So the kernel first begins no more of them (it drops the packet
 * that asks, which is sent again after a second, and refused then), and those under way are taken.
 * @return false if that cannot be. */
static bool hold_listener(sbx_http *h)
{
    static struct sock_filter no_syn[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, TCP_FLAGS_AT),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, TCP_SYN | TCP_ACK),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, TCP_SYN, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
    };
    struct sock_fprog program = {ARRAY_LEN(no_syn), no_syn};

    h->holding = true;
    h->leave_at_ms = h->now_ms + HOLD_MS;
    return !setsockopt(h->listen_fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program));
}

static void leave(sbx_http *h)
{
    h->leaving = true;
    while (accept_some(h))
        ;
    ev_io_stop(h->loop, &h->accept_watcher);
    close(h->listen_fd);
    h->listen_fd = -1;
    if (h->config.draining)
        h->config.draining(h->config.app);
    for (size_t i = 0; i < h->slot_count; i++)
        if (h->slots[i])
            conn_end_for_drain(h->slots[i]);
    expire(h);
}

static bool may_leave(sbx_http *h)
{
    if (h->now_ms < h->leave_at_ms)
        return false;
    return h->holding || !atomic_load(&h->drain_wait_ms) || !hold_listener(h);
}

static void check_drain(sbx_http *h)
{
    int wishes = atomic_load(&h->drains);

    if (!wishes)
        return;
    if (!h->draining_on_loop)
        begin_drain(h);
    bool over = wishes > 1 || h->now_ms >= h->drain_until_ms;
    if (!h->leaving && (over || may_leave(h)))
        leave(h);
    if (over)
        for (size_t i = 0; i < h->slot_count; i++)
            if (h->slots[i])
                conn_doom(h->slots[i]);
    if (h->leaving && !atomic_load(&h->count))
        ev_break(h->loop, EVBREAK_ALL);
}

void server_left(sbx_http *h)
{
    if (h->leaving && !atomic_load(&h->count))
        ev_break(h->loop, EVBREAK_ALL);
}

static void on_tick(struct ev_loop *loop, ev_timer *w, int events)
{
    sbx_http *h = w->data;

    (void)events;
    h->now_ms = sbx_now_ms();
    refresh_date(h);
    expire(h);
    bearers_tick(h);
    sbx_lanes_shed(h->config.lanes);
    if (h->accept_paused && !h->leaving) {
        h->accept_paused = false;
        ev_io_start(loop, &h->accept_watcher);
    }
    check_drain(h);
}

static void on_wake(struct ev_loop *loop, ev_async *w, int events)
{
    sbx_http *h = w->data;

    (void)loop;
    (void)events;
    h->now_ms = sbx_now_ms();
    sbx_mailbox_drain(h->mailbox);
    check_drain(h);
}

/* Right before the loop waits: nobody holds a connection now, so the doomed ones can go. */
static void on_prepare(struct ev_loop *loop, ev_prepare *w, int events)
{
    sbx_http *h = w->data;

    (void)loop;
    (void)events;
    while (h->doomed)
        lws_set_timeout(h->doomed->wsi, PENDING_TIMEOUT_USER_OK, LWS_TO_KILL_SYNC);
}

/* --- construction --- */

static int split_listen(const char *text, char host[64], char port[8], sbx_err *err)
{
    const char *colon = strrchr(text, ':');
    size_t n = colon ? (size_t)(colon - text) : 0;
    int64_t number;

    /* getaddrinfo() takes 99999 as well, and means 34463 */
    if (!colon || n >= 64 || strlen(colon + 1) > 5 ||
        !sbx_parse_i64(colon + 1, 0, UINT16_MAX, &number))
        return sbx_fail(err, SBX_E_INVALID, "listen address %s is not ADDRESS:PORT", text);
    if (n >= 2 && text[0] == '[' && text[n - 1] == ']') {
        text++;
        n -= 2;
    }
    memcpy(host, text, n);
    host[n] = '\0';
    sbx_copy(port, 8, colon + 1);
    return 0;
}

/* What each accepted socket inherits. A peer that vanished without a word is found in a minute,
 * also behind a parked request, on which nothing is sent. */
static bool set_options(int fd)
{
    static const struct {
        int level, name, value;
    } options[] = {
        {SOL_SOCKET, SO_REUSEADDR, 1},    {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_NODELAY, 1},    {IPPROTO_TCP, TCP_KEEPIDLE, 30},
        {IPPROTO_TCP, TCP_KEEPINTVL, 10}, {IPPROTO_TCP, TCP_KEEPCNT, 3},
    };

    for (size_t i = 0; i < ARRAY_LEN(options); i++)
        if (setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(int)))
            return false;
    return true;
}

static int open_listener(const char *listen_text, int *ret_fd, int *ret_port, sbx_err *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *list;
    struct sockaddr_storage bound;
    socklen_t len = sizeof(bound);
    char host[64], port[8];

    if (split_listen(listen_text, host, port, err))
        return -1;
    int rc = getaddrinfo(host[0] ? host : NULL, port, &hints, &list);
    if (rc)
        return sbx_fail(err, SBX_E_INVALID, "listen address %s: %s", listen_text, gai_strerror(rc));
    int fd = socket(list->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    bool ok = fd >= 0 && set_options(fd) && !bind(fd, list->ai_addr, list->ai_addrlen) &&
              !listen(fd, BACKLOG) && !getsockname(fd, (struct sockaddr *)&bound, &len);
    int saved = errno;
    freeaddrinfo(list);
    if (!ok) {
        if (fd >= 0)
            close(fd);
        return sbx_fail(err, SBX_E_CAPACITY, "cannot listen on %s: %s", listen_text,
                        strerror(saved));
    }
    *ret_fd = fd;
    *ret_port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                                  : ((struct sockaddr_in *)&bound)->sin_port);
    return 0;
}

/* Room for the connections; but not for a billion descriptors, as some container engines allow,
 * because the library allocates by the limit. */
static void set_descriptor_limit(size_t connections)
{
    struct rlimit rl;
    rlim_t want = connections + SPARE_CONNECTIONS + RESERVED_FDS;

    if (getrlimit(RLIMIT_NOFILE, &rl))
        return;
    rlim_t now = rl.rlim_cur;
    if (now < want)
        rl.rlim_cur = SBX_MIN(want, rl.rlim_max);
    else if (now > SBX_MAX(want, (rlim_t)MAX_FDS))
        rl.rlim_cur = SBX_MAX(want, (rlim_t)MAX_FDS);
    if (rl.rlim_cur != now)
        (void)!setrlimit(RLIMIT_NOFILE, &rl);
    if (rl.rlim_cur < want)
        sbx_log(SBX_WARN, "the limit of open files is below the maximum of connections", "limit",
                SBX_NUM(rl.rlim_cur), NULL);
}

static int start_lws(sbx_http *h, sbx_err *err)
{
    static const lws_retry_bo_t no_validity = {0};
    void *loops[1] = {h->loop};
    struct lws_context_creation_info info = {
        .port = CONTEXT_PORT_NO_LISTEN,
        .protocols = protocols,
        .options = LWS_SERVER_OPTION_LIBEV | LWS_SERVER_OPTION_EXPLICIT_VHOSTS,
        .foreign_loops = loops,
        .pt_serv_buf_size = RX_BYTES,
        .retry_and_idle_policy = &no_validity,
        .gid = (gid_t)-1,
        .uid = (uid_t)-1,
    };

    lws_set_log_level(LLL_ERR | LLL_WARN, on_lws_log);
    h->lws = lws_create_context(&info);
    if (!h->lws)
        return sbx_fail(err, SBX_E_CAPACITY,
                        "libwebsockets cannot start (is libwebsockets-evlib-ev installed?)");
    h->vhost = lws_create_vhost(h->lws, &info);
    if (!h->vhost)
        return sbx_fail(err, SBX_E_CAPACITY, "libwebsockets cannot make its host");
    return 0;
}

static void start_watchers(sbx_http *h)
{
    ev_io_init(&h->accept_watcher, on_accept, h->listen_fd, EV_READ);
    ev_async_init(&h->wake_watcher, on_wake);
    ev_timer_init(&h->tick_watcher, on_tick, TICK_S, TICK_S);
    ev_prepare_init(&h->prepare_watcher, on_prepare);
    h->accept_watcher.data = h->wake_watcher.data = h->tick_watcher.data = h->prepare_watcher.data =
        h;
    ev_io_start(h->loop, &h->accept_watcher);
    ev_async_start(h->loop, &h->wake_watcher);
    ev_timer_start(h->loop, &h->tick_watcher);
    ev_prepare_start(h->loop, &h->prepare_watcher);
}

static void fill(sbx_http *h, const sbx_http_config *c)
{
    h->config = *c;
    h->config.routes = NULL; /* the router has them */
    h->config.cors_origins = NULL;
    h->config.trusted_proxies = NULL;
    if (h->config.max_connections <= 0)
        h->config.max_connections = DEFAULT_ACCEPT;
    h->listen = sbx_strdup(c->listen);
    h->config.listen = h->listen;
    h->listen_fd = -1;
    h->timeouts_ms[T_HEAD] = (c->header_timeout_s > 0 ? c->header_timeout_s : 10) * 1000;
    h->timeouts_ms[T_BODY] = (c->body_timeout_s > 0 ? c->body_timeout_s : 30) * 1000;
    h->timeouts_ms[T_IDLE] = (c->keepalive_s > 0 ? c->keepalive_s : 75) * 1000;
    h->timeouts_ms[T_STALL] = c->stall_ms > 0 ? c->stall_ms : STALL_MS;
    h->timeouts_ms[T_LINGER] = LINGER_MS;
    h->timeouts_ms[T_PING] = c->ping_ms > 0 ? c->ping_ms : PING_MS;
    h->timeouts_ms[T_WS_CLOSE] = WS_CLOSE_MS;
    h->slot_count = (size_t)h->config.max_connections + SPARE_CONNECTIONS;
    h->slots = sbx_alloc(h->slot_count * sizeof(conn *));
    h->generations = sbx_alloc(h->slot_count * sizeof(uint32_t));
    h->free_slots = sbx_alloc(h->slot_count * sizeof(uint32_t));
    while (h->free_count < h->slot_count) {
        h->free_slots[h->free_count] = (uint32_t)(h->slot_count - 1 - h->free_count);
        h->free_count++;
    }
}

int sbx_http_new(const sbx_http_config *c, sbx_http **ret, sbx_err *err)
{
    SBX_CLEANUP(sbx_http_free) sbx_http *h = sbx_alloc(sizeof(*h));

    fill(h, c);
    h->mailbox = sbx_mailbox_new(server_wake, h);
    if (sbx_router_new(c->routes, c->route_count, &h->router, err) ||
        cors_new(c->cors_origins, &h->cors, err) ||
        sbx_proxies_new(c->trusted_proxies, &h->proxies, err) ||
        open_listener(h->listen, &h->listen_fd, &h->port, err))
        return -1;
    set_descriptor_limit((size_t)h->config.max_connections);
    h->now_ms = sbx_now_ms();
    refresh_date(h);
    h->loop = ev_loop_new(EVFLAG_NOENV | EVBACKEND_EPOLL);
    if (!h->loop)
        return sbx_fail(err, SBX_E_CAPACITY, "cannot make an event loop");
    start_watchers(h);
    if (start_lws(h, err))
        return -1;
    *ret = sbx_steal(h);
    return 0;
}

int sbx_http_port(const sbx_http *h)
{
    return h->port;
}

void sbx_http_run(sbx_http *h)
{
    sbx_thread_set_role(SBX_T_LOOP, "sbx-loop");
    ev_run(h->loop, 0);
    sbx_thread_set_role(SBX_T_NONE, "sbx-main");
}

void sbx_http_drain(sbx_http *h, int64_t wait_ms, int64_t ms)
{
    if (!atomic_load(&h->drains)) {
        atomic_store(&h->drain_wait_ms, wait_ms);
        atomic_store(&h->drain_wish_ms, ms);
    }
    atomic_fetch_add(&h->drains, 1);
    server_wake(h);
}

bool sbx_http_draining(const sbx_http *h)
{
    return atomic_load(&h->drains) > 0;
}

size_t sbx_http_connections(const sbx_http *h)
{
    return atomic_load(&h->count);
}

void sbx_http_settle(sbx_http *h)
{
    while (sbx_mailbox_drain(h->mailbox))
        ;
}

static void stop_loop(sbx_http *h)
{
    for (size_t i = 0; i < h->slot_count; i++)
        if (h->slots[i])
            conn_doom(h->slots[i]);
    on_prepare(h->loop, &h->prepare_watcher, 0);
    ev_io_stop(h->loop, &h->accept_watcher);
    ev_async_stop(h->loop, &h->wake_watcher);
    ev_timer_stop(h->loop, &h->tick_watcher);
    ev_prepare_stop(h->loop, &h->prepare_watcher);
}

void sbx_http_free(sbx_http *h)
{
    if (!h)
        return;
    if (h->loop)
        stop_loop(h);
    if (h->lws)
        lws_context_destroy(h->lws);
    sbx_mailbox_free(h->mailbox);
    if (h->loop)
        ev_loop_destroy(h->loop);
    if (h->listen_fd >= 0)
        close(h->listen_fd);
    sbx_router_free(h->router);
    cors_done(&h->cors);
    sbx_proxies_free(h->proxies);
    free(h->slots);
    free(h->generations);
    free(h->free_slots);
    free(h->listen);
    free(h);
}
