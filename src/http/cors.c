/* Origins whose pages may read answers (CORS, as the Fetch standard has it).
 *
 * Nothing here authenticates: no cookie exists, and a page of another origin has no key that it was
 * not given. For the same reason WebSocket upgrades are not judged by their origin. */
#include "internal.h"

#define MAX_ORIGINS      64
#define MAX_ORIGIN_BYTES 255

static const char allowed_headers[] = "Authorization, X-API-Key, Content-Type, Idempotency-Key, "
                                      "If-None-Match, Last-Event-ID, X-Request-Id";

/* As browsers write it: scheme://host[:port], lower case, no path. */
static bool is_origin(const char *s)
{
    const char *host = strstr(s, "://");

    if (!host || host == s || !host[3] || strlen(s) > MAX_ORIGIN_BYTES)
        return false;
    for (const char *p = s; *p; p++)
        if (*p <= ' ' || *p >= 0x7f || (*p >= 'A' && *p <= 'Z') || (*p == '/' && p >= host + 3) ||
            strchr("*,?#@\"\\", *p))
            return false;
    return true;
}

int cors_new(const char *list, cors *ret, sbx_err *err)
{
    while (list && *list) {
        size_t n = strcspn(list, ",");
        const char *from = list + strspn(list, " "), *end = list + n;

        while (end > from && end[-1] == ' ')
            end--;
        list += n + (list[n] == ',');
        if (end <= from)
            continue;
        if (ret->count == MAX_ORIGINS)
            return sbx_fail(err, SBX_E_INVALID, "cors-origins: more than %d are given",
                            MAX_ORIGINS);
        char *origin = sbx_strndup(from, (size_t)(end - from));
        ret->origins = sbx_realloc(ret->origins, (ret->count + 1) * sizeof(char *));
        ret->origins[ret->count++] = origin;
        ret->any |= strcmp(origin, "*") == 0;
        if (strcmp(origin, "*") != 0 && !is_origin(origin))
            return sbx_fail(err, SBX_E_INVALID,
                            "cors-origins: %s must be *, or like https://app.example:8443 (lower "
                            "case, no path, no slash at the end)",
                            origin);
    }
    return 0;
}

void cors_done(cors *c)
{
    for (size_t i = 0; i < c->count; i++)
        free(c->origins[i]);
    free(c->origins);
    *c = (cors){0};
}

const char *cors_match(const cors *c, const char *origin)
{
    if (!origin)
        return NULL;
    if (c->any)
        return "*";
    for (size_t i = 0; i < c->count; i++)
        if (strcmp(c->origins[i], origin) == 0)
            return c->origins[i];
    return NULL;
}

size_t cors_preflight(const char *allow, sbx_header out[4])
{
    out[0] = (sbx_header){"access-control-allow-methods", allow};
    out[1] = (sbx_header){"access-control-allow-headers", allowed_headers};
    out[2] = (sbx_header){"access-control-max-age", "7200"};
    return 3;
}
