/* The Docker Engine client: the object, its table of operations, the API version.
 *
 * The version is asked once and kept: the smaller of the engine's newest and ours. A broken
 * connection forgets it, because what answers next may be another engine (an upgrade).
 *
 * Threads: any; see docker_http.c. Lock order: only mu, never held across I/O. */
#include "docker.h"
#include <stdio.h>
#include <unistd.h>

/* --- the version --- */

/* "1.41" -> 41; -1 for anything else. */
static int api_minor(const char *s)
{
    int major = 0, minor = 0, used = 0;

    if (!s || sscanf(s, "%2d.%4d%n", &major, &minor, &used) != 2 || s[used] || major != 1)
        return -1;
    return minor;
}

static void version_line(sbx_buf *out, const char *version, int minor)
{
    sbx_buf_addf(out, "Docker Engine %s, API 1.%d", version, minor);
}

/* Ask the engine. @param ret_text  a line for people, or NULL. */
static int ask_version(sbx_docker *d, bool regardless, int *ret_minor, sbx_buf *ret_text,
                       sbx_err *err)
{
    SBX_CLEANUP_VAL(docker_res_done) docker_res res;
    SBX_CLEANUP(sbx_json_free) sbx_json *json = NULL;
    docker_req q = {
        .method = "GET", .path = "/version", .max_bytes = MIB, .regardless = regardless};
    char name[64];

    if (docker_call_raw(d, &q, "asking the engine's version", &res, err) ||
        docker_parse(res.body.data, res.body.len, &json, err))
        return -1;
    int newest = api_minor(sbx_json_str(sbx_json_get(json, "ApiVersion")));
    int oldest = api_minor(sbx_json_str(sbx_json_get(json, "MinAPIVersion")));

    if (newest < 0)
        return sbx_fail(err, SBX_E_ENGINE, "%s does not answer like a Docker Engine", d->shown);
    if (newest < DOCKER_API_MIN)
        return sbx_fail(err, SBX_E_ENGINE,
                        "the engine at %s is too old: API 1.%d; 1.%d (Docker 20.10) or newer is "
                        "needed",
                        d->shown, newest, DOCKER_API_MIN);
    if (oldest > DOCKER_API_MAX)
        return sbx_fail(err, SBX_E_ENGINE,
                        "the engine at %s is too new: it needs API 1.%d; up to 1.%d is spoken",
                        d->shown, oldest, DOCKER_API_MAX);
    *ret_minor = SBX_MIN(newest, DOCKER_API_MAX);
    const char *v = docker_str(sbx_json_get(json, "Version"));

    docker_clean(name, sizeof(name), v, strlen(v));
    if (ret_text)
        version_line(ret_text, name, *ret_minor);
    pthread_mutex_lock(&d->mu);
    d->api_minor = *ret_minor;
    d->newest = newest;
    sbx_copy(d->version, sizeof(d->version), name);
    pthread_mutex_unlock(&d->mu);
    return 0;
}

int docker_version(sbx_docker *d, bool regardless, int *ret_minor, sbx_err *err)
{
    pthread_mutex_lock(&d->mu);
    *ret_minor = d->api_minor;
    pthread_mutex_unlock(&d->mu);
    return *ret_minor ? 0 : ask_version(d, regardless, ret_minor, NULL, err);
}

void docker_version_forget(sbx_docker *d)
{
    pthread_mutex_lock(&d->mu);
    d->api_minor = 0;
    pthread_mutex_unlock(&d->mu);
}

/* The engine's own ping takes a twentieth of the time of its version call, and tells by a header if
 * it is still the engine whose version is known. */
static int docker_ping(sbx_engine *e, sbx_buf *ret_version, sbx_err *err)
{
    SBX_CLEANUP_VAL(docker_res_done) docker_res res = {0};
    sbx_docker *d = (sbx_docker *)e;
    docker_req q = {.method = "GET", .path = "/_ping", .max_bytes = MIB, .header = "API-Version"};
    char version[sizeof(d->version)];
    int minor, newest;

    pthread_mutex_lock(&d->mu);
    minor = d->api_minor;
    newest = d->newest;
    sbx_copy(version, sizeof(version), d->version);
    pthread_mutex_unlock(&d->mu);
    if (minor) {
        if (docker_call_raw(d, &q, "pinging the engine", &res, err))
            return -1;
        if (api_minor(res.header) == newest) {
            if (ret_version)
                version_line(ret_version, version, minor);
            return 0;
        }
    }
    return ask_version(d, false, &minor, ret_version, err);
}

/* --- the object --- */

static void docker_free(sbx_engine *e)
{
    sbx_docker *d = (sbx_docker *)e;

    if (!d)
        return;
    for (size_t i = 0; i < d->idle_count; i++)
        docker_handle_free(d->idle[i]);
    for (size_t i = 0; i < DOCKER_VOLUMES; i++)
        free(d->volumes[i]);
    pthread_mutex_destroy(&d->mu);
    pthread_cond_destroy(&d->seeded);
    sbx_breaker_done(&d->breaker);
    free(d->unix_path);
    free(d->base_url);
    free(d->shown);
    free(d->ca);
    free(d->cert);
    free(d->key);
    free(d);
}

static const sbx_engine_ops docker_ops = {
    .ping = docker_ping,
    .facts = docker_facts,
    .create = docker_create,
    .attach = docker_attach,
    .exec_attach = docker_exec_attach,
    .start = docker_start,
    .inspect = docker_inspect,
    .list = docker_list,
    .remove = docker_remove,
    .stop = docker_stop,
    .pause = docker_freeze,
    .unpause = docker_thaw,
    .update = docker_update,
    .usage = docker_usage,
    .disk = docker_disk,
    .image_inspect = docker_image_inspect,
    .pull = docker_pull,
    .volume_ensure = docker_volume_ensure,
    .volume_forget = docker_volume_forget,
    .volume_make = docker_volume_make,
    .volume_look = docker_volume_look,
    .volume_remove = docker_volume_remove,
    .volume_list = docker_volume_list,
    .network_ensure = docker_network_ensure,
    .events = docker_events,
    .free = docker_free,
};

static int take_pem(const char *folder, const char *file, char **ret, sbx_err *err)
{
    char *path = sbx_asprintf("%s/%s", folder, file);

    if (access(path, R_OK) != 0) {
        sbx_fail(err, SBX_E_INVALID, "DOCKER_CERT_PATH: %.200s cannot be read", path);
        free(path);
        return -1;
    }
    *ret = path;
    return 0;
}

/* host:port, both there, without characters that mean something in a URL. */
static bool address_valid(const char *s)
{
    const char *colon = strrchr(s, ':');
    int port = 0, used = 0;

    if (strlen(s) > 255 || !colon || colon == s || strpbrk(s, "/?#@ \t\r\n%\\"))
        return false;
    return sscanf(colon + 1, "%5d%n", &port, &used) == 1 && colon[1 + used] == 0 && port > 0 &&
           port < 65536;
}

static int take_host(sbx_docker *d, const sbx_docker_config *c, sbx_err *err)
{
    static const char unix_scheme[] = "unix://", tcp_scheme[] = "tcp://";
    const char *h = c->host ? c->host : "";

    if (strncmp(h, unix_scheme, sizeof(unix_scheme) - 1) == 0) {
        h += sizeof(unix_scheme) - 1;
        if (h[0] != '/' || strlen(h) > 107)
            return sbx_fail(err, SBX_E_INVALID,
                            "DOCKER_HOST: a unix:// address needs an absolute path of at most 107 "
                            "bytes");
        if (c->tls)
            return sbx_fail(err, SBX_E_INVALID,
                            "DOCKER_HOST: TLS is for tcp:// addresses; unset DOCKER_TLS_VERIFY");
        d->unix_path = sbx_strdup(h);
        d->base_url = sbx_strdup("http://localhost");
    } else if (strncmp(h, tcp_scheme, sizeof(tcp_scheme) - 1) == 0) {
        h += sizeof(tcp_scheme) - 1;
        if (!address_valid(h))
            return sbx_fail(err, SBX_E_INVALID, "DOCKER_HOST: tcp:// needs host:port");
        d->base_url = sbx_asprintf("%s://%s", c->tls ? "https" : "http", h);
    } else {
        return sbx_fail(err, SBX_E_INVALID, "DOCKER_HOST must be unix:///path or tcp://host:port");
    }
    d->shown = sbx_strdup(c->host);
    return 0;
}

int sbx_docker_new(const sbx_docker_config *c, sbx_engine **ret, sbx_err *err)
{
    sbx_docker *d = sbx_alloc(sizeof(*d));

    d->base.ops = &docker_ops;
    d->base.breaker = &d->breaker;
    sbx_breaker_init(&d->breaker, "engine", SBX_E_ENGINE_UNAVAILABLE);
    d->tls = c->tls;
    d->timeout_ms = c->timeout_ms > 0 ? c->timeout_ms : 60000;
    d->pull_timeout_ms = c->pull_timeout_ms > 0 ? c->pull_timeout_ms : 600000;
    pthread_mutex_init(&d->mu, NULL);
    pthread_cond_init(&d->seeded, NULL);
    const char *pems = c->cert_path ? c->cert_path : "";

    if (docker_handles_global(err) || take_host(d, c, err) ||
        (c->tls &&
         (take_pem(pems, "ca.pem", &d->ca, err) || take_pem(pems, "cert.pem", &d->cert, err) ||
          take_pem(pems, "key.pem", &d->key, err)))) {
        docker_free(&d->base);
        return -1;
    }
    *ret = &d->base;
    return 0;
}
