/* One look at a Redis server, without the threads of the bus. */
#include "redis.h"

static void take_version(const char *info, char version[32])
{
    static const char name[] = "redis_version:";
    const char *at = strstr(info, name);

    sbx_copy(version, 32, "");
    if (!at)
        return;
    at += sizeof(name) - 1;
    for (size_t i = 0; i < 31 && ((at[i] >= '0' && at[i] <= '9') || at[i] == '.'); i++) {
        version[i] = at[i];
        version[i + 1] = '\0';
    }
}

int sbx_bus_redis_probe(const char *url, char version[32], sbx_err *err)
{
    redis_url u = {0};
    redisContext *c = NULL;
    int rc = redis_url_parse(url, &u, err);

    if (!rc)
        c = redis_open(&u, REDIS_TIMEOUT_MS, err);
    if (c) {
        redisReply *r = redisCommand(c, "INFO server");

        if (r && r->type == REDIS_REPLY_STRING)
            take_version(r->str, version);
        else
            rc = sbx_fail(err, SBX_E_STORE_UNAVAILABLE, "Redis refused INFO: %s",
                          r && r->str ? r->str : c->errstr);
        redis_reply_free(&r);
        redis_close(c);
    } else {
        rc = -1;
    }
    redis_url_done(&u);
    return rc;
}
