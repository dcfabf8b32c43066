/* Requests that end with the right by which they are served, for the thread sanitizer.
 *
 * Streams that nobody ends by himself, and requests that are kept and run again, by a few keys of a
 * few holders; threads end the rights of both, as does whoever LOOP asks. Each request must end
 * by that, and each watcher be told once. */
#include "sbx/core/clock.h"
#include "sbx/core/thread.h"
#include "sbx/http/http.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CLIENTS  8
#define REVOKERS 2
#define KEYS     6
#define RUN_MS   4000

static sbx_http *http;
static sbx_lanes *lanes;
static atomic_bool stop;
static atomic_long opened, closed, again, ended, looks;

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

static void on_closed(void *arg)
{
    (void)arg;
    closed++;
}

static void write_until_gone(void *arg)
{
    sbx_reply *r = arg;

    while (sbx_reply_write(r, ": x\n\n", 5) != SBX_PUSH_GONE)
        pause_ms(1);
    sbx_reply_unref(r);
}

static void run_again(void *arg)
{
    pause_ms(1);
    again++;
    sbx_request_again(arg);
}

/* A full lane is no failure here: the request is simply answered. */
static bool submitted(void (*fn)(void *), void *arg)
{
    sbx_err err;

    return sbx_lanes_submit(lanes, SBX_LANE_SLOW, &(sbx_job){.run = fn, .arg = arg}, &err) == 0;
}

static void bear(const sbx_request *r)
{
    static atomic_uint count;
    unsigned n = atomic_fetch_add(&count, 1) % KEYS;
    char key[8], holder[8];

    snprintf(key, sizeof(key), "key%u", n);
    snprintf(holder, sizeof(holder), "user%u", n / 2);
    sbx_reply_set_bearer(r->reply, key, holder, n ? 0 : sbx_wall_ms() + 100);
}

static int handle_stream(void *app, const sbx_request *r, sbx_err *err)
{
    (void)app;
    (void)err;
    bear(r);
    opened++;
    sbx_reply_watch(r->reply, &(sbx_reply_events){.closed = on_closed});
    sbx_reply_begin(r->reply, 200, "text/event-stream");
    sbx_reply *mine = sbx_reply_ref(r->reply);
    if (!submitted(write_until_gone, mine)) {
        sbx_reply_end(mine);
        sbx_reply_unref(mine);
    }
    return 0;
}

static int handle_kept(void *app, const sbx_request *r, sbx_err *err)
{
    (void)app;
    bear(r);
    if (submitted(run_again, (void *)r))
        return SBX_KEPT;
    return sbx_fail(err, SBX_E_CAPACITY, "full");
}

static const sbx_route routes[] = {
    {"GET", "/kept", .scope = "", .lane = SBX_LANE_FAST, .handler = handle_kept, .name = "kept"},
    {"GET", "/stream", .scope = "", .accepts = SBX_CAN_SSE, .lane = SBX_LANE_FAST,
     .handler = handle_stream, .name = "stream"},
};

/* As if the database had said that every second one is not good any more. */
static void look(void *app, sbx_bearer *ids, size_t count)
{
    (void)app;
    looks++;
    for (size_t i = 0; i < count; i += 2)
        sbx_http_end_bearer(http, ids[i].id);
    free(ids);
}

/* One request to its end. */
static void ask(int fd, const char *path)
{
    char text[160], in[4096];
    int n = snprintf(text, sizeof(text),
                     "GET %s HTTP/1.1\r\nHost: x\r\nAccept: application/json, text/event-stream\r\n"
                     "Connection: close\r\n\r\n",
                     path);

    if (send(fd, text, (size_t)n, MSG_NOSIGNAL) != n)
        return;
    while (recv(fd, in, sizeof(in), 0) > 0)
        continue;
    ended++;
}

static void *client(void *arg)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)sbx_http_port(http)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    while (!stop) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (!connect(fd, (struct sockaddr *)&to, sizeof(to)))
            ask(fd, (uintptr_t)arg % 2 ? "/stream" : "/kept");
        close(fd);
    }
    return NULL;
}

static void *end_rights(void *arg)
{
    for (unsigned i = (unsigned)(uintptr_t)arg; !stop || opened != closed || ended < opened; i++) {
        char id[16];

        snprintf(id, sizeof(id), i % 3 ? "key%u" : "user%u", i % KEYS);
        sbx_http_end_bearer(http, id);
        pause_ms(1);
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
    sbx_lanes_config lc = {.threads = {2, 2 * CLIENTS, 1}, .queue = 256};
    sbx_http_config c = {.listen = "127.0.0.1:0",
                         .routes = routes,
                         .route_count = ARRAY_LEN(routes),
                         .bearers = look};
    pthread_t loop_thread, clients[CLIENTS], revokers[REVOKERS];
    sbx_err err;

    c.lanes = lanes = sbx_lanes_new(&lc);
    if (sbx_http_new(&c, &http, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    pthread_create(&loop_thread, NULL, loop, NULL);
    for (uintptr_t i = 0; i < CLIENTS; i++)
        pthread_create(&clients[i], NULL, client, (void *)i);
    for (uintptr_t i = 0; i < REVOKERS; i++)
        pthread_create(&revokers[i], NULL, end_rights, (void *)(i * 7));
    for (int64_t until = sbx_now_ms() + RUN_MS; sbx_now_ms() < until;)
        pause_ms(20);
    stop = true;
    for (int i = 0; i < CLIENTS; i++)
        pthread_join(clients[i], NULL); /* hangs if a right ended and its request did not */
    for (int i = 0; i < REVOKERS; i++)
        pthread_join(revokers[i], NULL);
    sbx_http_drain(http, 0, 2000);
    pthread_join(loop_thread, NULL);
    sbx_lanes_free(lanes);
    sbx_http_free(http);
    printf("%ld requests ended, %ld streams, %ld told, %ld run again, %ld looks\n", ended, opened,
           closed, again, looks);
    return opened > 20 && opened == closed && ended > opened && again > 20 && looks ? 0 : 1;
}
