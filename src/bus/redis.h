/* What the files of the Redis bus share: the address, and connections with time-outs.
 *
 * hiredis 0.14: a context whose call failed or timed out is not usable any more, so every failure
 * closes the connection. */
#ifndef SBX_BUS_REDIS_H
#define SBX_BUS_REDIS_H

#include "readers.h"
#include "sbx/bus/bus.h"
#include "sbx/core/limits.h"
#include <hiredis.h>
#include <pthread.h>
#include <stdatomic.h>

#define REDIS_TIMEOUT_MS     2000 /* to connect, and for a command */
#define REDIS_AVOID_MS       1000 /* queries fail at once for so long after a failed connect */
#define REDIS_BACKOFF_MS     100  /* first pause before a reconnect; doubles */
#define REDIS_BACKOFF_MAX_MS 3000

typedef struct redis_url {
    char *host; /* NULL: a unix socket */
    int port;
    char *path;
    char *user, *password; /* or NULL */
    int db;
} redis_url;

int redis_url_parse(const char *url, redis_url *ret, sbx_err *err) SBX_MUST_CHECK;
void redis_url_done(redis_url *u);

/* Connect, authenticate, select the database; blocks up to `timeout_ms` for each step. */
redisContext *redis_open(const redis_url *u, int64_t timeout_ms, sbx_err *err);

static inline void redis_close(redisContext *c)
{
    if (c)
        redisFree(c);
}

static inline void redis_reply_free(redisReply **r)
{
    if (*r)
        freeReplyObject(*r);
}

static inline int64_t redis_backoff_next(int64_t ms)
{
    return ms == 0 ? REDIS_BACKOFF_MS : SBX_MIN(ms * 2, (int64_t)REDIS_BACKOFF_MAX_MS);
}

/* A message on a channel: items one after the other, "SEQ LENGTH\n" and the data with a newline.
 * @return the number of items, -1 if the text is not of that form. Items point into it. */
long redis_frame_parse(const char *text, size_t len, sbx_bus_item **ret);
void redis_frame_add(sbx_buf *out, const sbx_bus_item *item);

/* --- publisher.c: its own thread and connection --- */

typedef struct redis_publisher redis_publisher;

redis_publisher *redis_publisher_new(const redis_url *u, sbx_err *err);
void redis_publisher_free(redis_publisher *p);
bool redis_publisher_put(redis_publisher *p, const char *topic, const sbx_bus_item *items,
                         size_t count, const sbx_bus_place *place);
void redis_publisher_watch(redis_publisher *p, const sbx_bus_watch *watch); /* or NULL */
void redis_publisher_forget(redis_publisher *p, const char *topic);
/* Wait until what was put before the call is in Redis. */
int redis_publisher_wait(redis_publisher *p, int64_t timeout_ms, sbx_err *err);
uint64_t redis_publisher_dropped(redis_publisher *p);

/* --- subscriber.c: the BUS thread and its connection --- */

typedef struct redis_subscriber redis_subscriber;

redis_subscriber *redis_subscriber_new(const redis_url *u, bus_readers *readers, sbx_err *err);
void redis_subscriber_free(redis_subscriber *s);
void redis_subscriber_add(redis_subscriber *s, const char *topic);
void redis_subscriber_remove(redis_subscriber *s, const char *topic);

#endif
