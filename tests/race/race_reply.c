/* Replies hammered from several threads while clients come and go, for the thread sanitizer.
 *
 * Each request is answered by several threads at once, which write, end, answer, watch and drop in
 * an arbitrary order; the clients read a little, or nothing, and close. At the end the server is
 * drained and every reply must have been told so exactly once. */
#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include "sbx/http/http.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HELPERS 3
#define CLIENTS 6
#define RUN_MS  4000

static sbx_http *http;
static sbx_lanes *lanes;
static atomic_bool stop;
static atomic_long opened, closed, served, finished_jobs, submitted;

typedef struct share {
    sbx_reply *reply;
    unsigned seed;
} share;

static void on_closed(void *arg)
{
    (void)arg;
    atomic_fetch_add(&closed, 1);
}

static void on_ready(void *arg)
{
    (void)arg;
}

static void on_message(void *arg, const char *data, size_t len, bool binary)
{
    (void)arg;
    (void)data;
    (void)len;
    (void)binary;
}

static void hammer(void *arg)
{
    share *s = arg;
    unsigned x = s->seed;
    char block[3000];
    sbx_buf b = SBX_BUF_INIT(4096);

    memset(block, 'x', sizeof(block));
    for (int i = 0; i < 20; i++) {
        x = x * 1103515245u + 12345u;
        switch (x >> 16 & 7) {
        case 0:
            sbx_reply_end(s->reply);
            break;
        case 1:
            if (sbx_reply_gone(s->reply))
                i = 20;
            break;
        case 2:
            sbx_buf_adds(&b, "{}");
            sbx_reply_json(s->reply, 200, &b);
            break;
        case 3:
            sbx_reply_begin(s->reply, 200, "text/event-stream");
            break;
        default:
            sbx_reply_write(s->reply, block, x % sizeof(block));
            break;
        }
    }
    sbx_buf_done(&b);
    sbx_reply_unref(s->reply);
    free(s);
    atomic_fetch_add(&finished_jobs, 1);
}

static int handle(void *app, const sbx_request *r, sbx_err *err)
{
    static atomic_uint seeds;

    (void)app;
    atomic_fetch_add(&opened, 1);
    sbx_reply_watch(r->reply, &(sbx_reply_events){
                                  .ready = on_ready, .message = on_message, .closed = on_closed});
    for (int i = 0; i < HELPERS; i++) {
        share *s = sbx_alloc(sizeof(*s));

        s->reply = sbx_reply_ref(r->reply);
        s->seed = atomic_fetch_add(&seeds, 7919);
        atomic_fetch_add(&submitted, 1);
        if (sbx_lanes_submit(lanes, SBX_LANE_SLOW, &(sbx_job){.run = hammer, .arg = s}, err)) {
            atomic_fetch_sub(&submitted, 1);
            sbx_reply_unref(s->reply);
            free(s);
        }
    }
    sbx_buf b = SBX_BUF_INIT(64); /* so that no request stays open whatever the helpers drew */
    sbx_buf_adds(&b, "{}");
    if (atomic_load(&seeds) & 1)
        sbx_reply_json(r->reply, 200, &b);
    else
        sbx_reply_begin(r->reply, 200, "text/plain"), sbx_reply_end(r->reply);
    sbx_buf_done(&b);
    return 0;
}

static const sbx_route routes[] = {
    {"GET", "/x", .accepts = SBX_CAN_ANY | SBX_CAN_SSE | SBX_CAN_WS, .lane = SBX_LANE_FAST,
     .handler = handle, .name = "x"},
};

static void talk(int fd, unsigned x)
{
    static const char plain[] = "GET /x HTTP/1.1\r\nHost: x\r\n\r\n";
    static const char ws[] = "GET /x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
                             "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                             "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    char in[4096];
    int rounds = (int)(x >> 8 & 3) + 1;

    for (int i = 0; i < rounds; i++) {
        const char *text = x & 1 ? plain : ws;

        if (send(fd, text, strlen(text), MSG_NOSIGNAL) < 0)
            return;
        if (x & 6 && recv(fd, in, sizeof(in), 0) <= 0)
            return;
    }
}

static void *client(void *arg)
{
    unsigned x = (unsigned)(uintptr_t)arg;

    while (!atomic_load(&stop)) {
        struct sockaddr_in to = {.sin_family = AF_INET,
                                 .sin_port = htons((uint16_t)sbx_http_port(http)),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        x = x * 1103515245u + 12345u;
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = 1},
                   sizeof(struct timeval));
        if (!connect(fd, (struct sockaddr *)&to, sizeof(to))) {
            talk(fd, x >> 16);
            atomic_fetch_add(&served, 1);
        }
        close(fd);
    }
    return NULL;
}

static void *loop(void *arg)
{
    (void)arg;
    sbx_http_run(http);
    return NULL;
}

int main(void)
{
    sbx_lanes_config lc = {.threads = {2, 4, 1}, .queue = 256};
    sbx_err err;
    pthread_t loop_thread, clients[CLIENTS];

    lanes = sbx_lanes_new(&lc);
    sbx_http_config c = {
        .listen = "127.0.0.1:0", .routes = routes, .route_count = 1, .lanes = lanes, .ping_ms = 50};
    if (sbx_http_new(&c, &http, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    pthread_create(&loop_thread, NULL, loop, NULL);
    for (uintptr_t i = 0; i < CLIENTS; i++)
        pthread_create(&clients[i], NULL, client, (void *)(i * 7 + 1));
    int64_t until = sbx_now_ms() + RUN_MS;
    while (sbx_now_ms() < until)
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    atomic_store(&stop, true);
    for (int i = 0; i < CLIENTS; i++)
        pthread_join(clients[i], NULL);
    sbx_http_drain(http, 0, 2000);
    pthread_join(loop_thread, NULL);
    sbx_lanes_free(lanes);
    sbx_http_free(http);
    printf("%ld connections, %ld requests, %ld told of their end, %ld jobs of %ld\n", served,
           opened, closed, finished_jobs, submitted);
    return opened > 100 && opened == closed && finished_jobs == submitted ? 0 : 1;
}
