/* Addresses, connections and the form of messages of the Redis bus. */
#include "redis.h"
#include "sbx/core/clock.h"
#include <errno.h>

#define DEFAULT_PORT 6379
#define MAX_DB       65535

/* --- the URL --- */

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 32);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Percent-decode; NULL if the text is malformed, empty or has a NUL. */
static char *decode(const char *s, size_t len)
{
    char *out = sbx_alloc(len + 1);
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        int c = (unsigned char)s[i];

        if (c == '%') {
            int hi = i + 2 < len ? hex(s[i + 1]) : -1, lo = i + 2 < len ? hex(s[i + 2]) : -1;

            if (hi < 0 || lo < 0 || (hi == 0 && lo == 0)) {
                free(out);
                return NULL;
            }
            c = hi * 16 + lo;
            i += 2;
        }
        out[n++] = (char)c;
    }
    if (n == 0) {
        free(out);
        return NULL;
    }
    return out;
}

/* Digits only, 1..max or 0..max. */
static bool number(const char *s, size_t len, int min, int max, int *ret)
{
    int n = 0;

    if (len == 0 || len > 5)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (s[i] < '0' || s[i] > '9')
            return false;
        n = n * 10 + (s[i] - '0');
    }
    if (n < min || n > max)
        return false;
    *ret = n;
    return true;
}

static int parse_credentials(const char *s, size_t len, redis_url *u, sbx_err *err)
{
    const char *colon = memchr(s, ':', len);

    if (!colon)
        return sbx_fail(err, SBX_E_INVALID, "Redis URL: what stands before @ needs a colon");
    if (colon > s && !(u->user = decode(s, (size_t)(colon - s))))
        return sbx_fail(err, SBX_E_INVALID, "Redis URL: the user is malformed");
    u->password = decode(colon + 1, len - (size_t)(colon + 1 - s));
    if (!u->password)
        return sbx_fail(err, SBX_E_INVALID, "Redis URL: the password is empty or malformed");
    return 0;
}

static bool host_ok(const char *s, size_t len, bool brackets)
{
    for (size_t i = 0; i < len; i++) {
        bool alnum = (s[i] >= '0' && s[i] <= '9') || ((s[i] | 32) >= 'a' && (s[i] | 32) <= 'z');

        if (!alnum && !strchr(brackets ? ":.%" : ".-_", s[i]))
            return false;
    }
    return len > 0 && len < 256;
}

/* host, host:port, [v6], [v6]:port */
static int parse_address(const char *s, size_t len, redis_url *u, sbx_err *err)
{
    bool brackets = len > 0 && s[0] == '[';
    const char *end = brackets ? memchr(s, ']', len) : memchr(s, ':', len);
    size_t host_len = end ? (size_t)(end - s) - brackets : len, rest;

    if (brackets && !end)
        return sbx_fail(err, SBX_E_INVALID, "Redis URL: ] is missing");
    if (!host_ok(s + brackets, host_len, brackets))
        return sbx_fail(err, SBX_E_INVALID, "Redis URL: the host is malformed");
    rest = host_len + 2 * (size_t)brackets;
    if (rest < len && (s[rest] != ':' || !number(s + rest + 1, len - rest - 1, 1, 65535, &u->port)))
        return sbx_fail(err, SBX_E_INVALID, "Redis URL: the port must be from 1 to 65535");
    u->host = sbx_strndup(s + brackets, host_len);
    return 0;
}

static int parse_tcp(const char *s, redis_url *u, sbx_err *err)
{
    size_t len = strcspn(s, "/");
    const char *slash = s + len, *at = memrchr(s, '@', len);

    if (strpbrk(s, "?#"))
        return sbx_fail(err, SBX_E_INVALID, "Redis URL: parameters are not known");
    if (*slash && slash[1] && !number(slash + 1, strlen(slash + 1), 0, MAX_DB, &u->db))
        return sbx_fail(err, SBX_E_INVALID, "Redis URL: the database must be from 0 to %d", MAX_DB);
    if (at) {
        if (parse_credentials(s, (size_t)(at - s), u, err) < 0)
            return -1;
        len -= (size_t)(at + 1 - s);
        s = at + 1;
    }
    return parse_address(s, len, u, err);
}

int redis_url_parse(const char *url, redis_url *ret, sbx_err *err)
{
    redis_url u = {.port = DEFAULT_PORT};
    int rc = 0;

    for (const char *p = url; *p; p++)
        if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 127)
            return sbx_fail(err, SBX_E_INVALID, "Redis URL: a byte that must be encoded");
    if (strncmp(url, "redis://", 8) == 0)
        rc = parse_tcp(url + 8, &u, err);
    else if (strncmp(url, "unix:///", 8) == 0 && url[8] && strlen(url + 7) < 108)
        u.path = sbx_strdup(url + 7);
    else
        rc = sbx_fail(err, SBX_E_INVALID,
                      "Redis URL: must be redis://[[user]:password@]host[:port][/db] or "
                      "unix:///path (TLS is not supported)");
    if (rc < 0) {
        redis_url_done(&u);
        return -1;
    }
    *ret = u;
    return 0;
}

void redis_url_done(redis_url *u)
{
    free(u->host);
    free(u->path);
    free(u->user);
    if (u->password)
        sbx_wipe(u->password, strlen(u->password));
    free(u->password);
    *u = (redis_url){0};
}

/* --- connections --- */

static int step(redisReply *given, const redisContext *c, const char *what, sbx_err *err)
{
    SBX_CLEANUP_VAL(redis_reply_free) redisReply *r = given;

    if (!r)
        return sbx_fail(err, SBX_E_STORE_UNAVAILABLE, "Redis, %s: %s", what, c->errstr);
    if (r->type == REDIS_REPLY_ERROR)
        return sbx_fail(err, SBX_E_STORE_UNAVAILABLE, "Redis, %s: %.200s", what, r->str);
    return 0;
}

redisContext *redis_open(const redis_url *u, int64_t timeout_ms, sbx_err *err)
{
    struct timeval t;
    redisContext *c;
    int rc = 0;

    timeout_ms = SBX_MAX(timeout_ms, 1);
    t = (struct timeval){.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000};
    c = u->path ? redisConnectUnixWithTimeout(u->path, t)
                : redisConnectWithTimeout(u->host, u->port, t);
    if (!c || c->err) {
        sbx_fail(err, SBX_E_STORE_UNAVAILABLE, "Redis cannot be reached: %s",
                 c ? c->errstr : "no memory");
        redis_close(c);
        return NULL;
    }
    redisSetTimeout(c, t);
    if (!u->path)
        redisEnableKeepAlive(c);
    if (u->user)
        rc = step(redisCommand(c, "AUTH %s %s", u->user, u->password), c, "authenticating", err);
    else if (u->password)
        rc = step(redisCommand(c, "AUTH %s", u->password), c, "authenticating", err);
    if (rc == 0 && u->db > 0)
        rc = step(redisCommand(c, "SELECT %d", u->db), c, "selecting the database", err);
    if (rc < 0) {
        redis_close(c);
        return NULL;
    }
    return c;
}

/* --- messages --- */

void redis_frame_add(sbx_buf *out, const sbx_bus_item *item)
{
    sbx_buf_addf(out, "%llu %zu\n", (unsigned long long)item->seq, item->len);
    sbx_buf_add(out, item->data, item->len);
    sbx_buf_addc(out, '\n');
}

/* Digits up to `stop`. Moves *at behind it. */
static bool take_number(const char **at, const char *end, char stop, uint64_t *ret)
{
    uint64_t n = 0;
    const char *p = *at;

    for (; p < end && *p != stop; p++) {
        unsigned digit = (unsigned)(unsigned char)*p - '0';

        if (digit > 9 || n > (UINT64_MAX - digit) / 10)
            return false;
        n = n * 10 + digit;
    }
    if (p == end || p == *at)
        return false;
    *at = p + 1;
    *ret = n;
    return true;
}

static long frame_walk(const char *text, size_t len, sbx_bus_item *items)
{
    const char *at = text, *end = text + len;
    long count = 0;

    while (at < end) {
        uint64_t seq, bytes;

        if (!take_number(&at, end, ' ', &seq) || !take_number(&at, end, '\n', &bytes))
            return -1;
        if (bytes >= (size_t)(end - at) || at[bytes] != '\n')
            return -1;
        if (items)
            items[count] = (sbx_bus_item){.seq = seq, .data = at, .len = (size_t)bytes};
        count++;
        at += bytes + 1;
    }
    return count;
}

long redis_frame_parse(const char *text, size_t len, sbx_bus_item **ret)
{
    long count = frame_walk(text, len, NULL);

    if (count <= 0)
        return count;
    *ret = sbx_alloc((size_t)count * sizeof(sbx_bus_item));
    return frame_walk(text, len, *ret);
}
