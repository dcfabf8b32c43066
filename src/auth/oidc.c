/* An OpenID provider: see oidc.h. Fetches are bounded in size and time, follow no redirection, and
 * go over TLS unless the host is this machine.
 *
 * Threads: `mu` guards the set and what is known of fetches, never across one. Sets are counted, so
 * a token that is being checked keeps the one that it began with. */
#include "sbx/auth/oidc.h"

#include "sbx/core/clock.h"
#include "sbx/core/crypt.h"
#include "sbx/core/json.h"
#include <curl/curl.h>
#include <pthread.h>
#include <stdatomic.h>

#define FETCH_MS         5000
#define MAX_URL_BYTES    1024
#define UNKNOWN_KIDS     64
#define MIN_LOOK_PAUSE_S 1

typedef struct key_set {
    atomic_int refs;
    sbx_jwks *keys;
    int64_t fetched_ms;
} key_set;

struct sbx_oidc {
    char *issuer, *audience, *jwks_url, *ca_path, *admin_claim, *admin_value; /* immutable */
    pthread_mutex_t mu;
    key_set *set; /* NULL: never fetched; guarded by mu, as all below */
    bool fetching;
    int64_t tried_ms;                                    /* monotonic; 0: never */
    unsigned char unknown[UNKNOWN_KIDS][SBX_HASH_BYTES]; /* a ring of those that were asked for */
    size_t unknown_count;
};

/* --- construction --- */

static bool of_this_machine(const char *url)
{
    static const char *const places[] = {"http://127.0.0.1", "http://localhost", "http://[::1]"};

    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        size_t len = strlen(places[i]);

        if (strncmp(url, places[i], len) == 0 && strchr(":/", url[len]))
            return true;
    }
    return false;
}

static bool url_form(const char *url)
{
    return strlen(url) <= MAX_URL_BYTES &&
           (strncmp(url, "https://", 8) == 0 || of_this_machine(url));
}

int sbx_oidc_new(const sbx_oidc_config *c, sbx_oidc **ret, sbx_err *err)
{
    const char *eq = strchr(c->admin, '=');

    if (!*c->audience)
        return sbx_fail(err, SBX_E_INVALID, "option --oidc-audience: --oidc-issuer needs it");
    if (!url_form(c->issuer))
        return sbx_fail(err, SBX_E_INVALID, "option --oidc-issuer: must be an https:// address");
    if (*c->jwks_url && !url_form(c->jwks_url))
        return sbx_fail(err, SBX_E_INVALID, "option --oidc-jwks-url: must be an https:// address");
    if (*c->admin && (!eq || eq == c->admin || !eq[1]))
        return sbx_fail(err, SBX_E_INVALID,
                        "option --oidc-admin: must be CLAIM=VALUE, such as groups=operators");
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return sbx_fail(err, SBX_E_INTERNAL, "libcurl cannot be used");
    sbx_oidc *o = sbx_alloc(sizeof *o);
    o->issuer = sbx_strdup(c->issuer);
    o->audience = sbx_strdup(c->audience);
    o->jwks_url = sbx_strdup(c->jwks_url);
    o->ca_path = sbx_strdup(c->ca_path);
    o->admin_claim = eq ? sbx_strndup(c->admin, (size_t)(eq - c->admin)) : NULL;
    o->admin_value = eq ? sbx_strdup(eq + 1) : NULL;
    pthread_mutex_init(&o->mu, NULL);
    *ret = o;
    return 0;
}

static void set_drop(key_set *s)
{
    if (!s || atomic_fetch_sub(&s->refs, 1) != 1)
        return;
    sbx_jwks_free(s->keys);
    free(s);
}
SBX_DEFINE_CLEANUP(key_set, set_drop)

void sbx_oidc_free(sbx_oidc *o)
{
    if (!o)
        return;
    set_drop(o->set);
    pthread_mutex_destroy(&o->mu);
    free(o->issuer);
    free(o->audience);
    free(o->jwks_url);
    free(o->ca_path);
    free(o->admin_claim);
    free(o->admin_value);
    free(o);
}

const char *sbx_oidc_issuer(const sbx_oidc *o)
{
    return o->issuer;
}

bool sbx_oidc_names_admins(const sbx_oidc *o)
{
    return o->admin_claim != NULL;
}

/* --- fetching --- */

static size_t on_body(char *data, size_t size, size_t count, void *arg)
{
    sbx_buf *b = arg;

    sbx_buf_add(b, data, size * count);
    return sbx_buf_failed(b) ? 0 : size * count;
}

static void set_options(const sbx_oidc *o, CURL *easy, const char *url, sbx_buf *body)
{
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)FETCH_MS);
    curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
#else
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS, CURLPROTO_HTTP | CURLPROTO_HTTPS);
#endif
    if (*o->ca_path) {
        curl_easy_setopt(easy, CURLOPT_CAINFO, o->ca_path);
        curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
    }
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, body);
}

static int fetch(const sbx_oidc *o, const char *url, sbx_buf *body, sbx_err *err)
{
    char why[CURL_ERROR_SIZE] = "";
    CURL *easy = curl_easy_init();
    long status = 0;

    if (!easy)
        return sbx_fail(err, SBX_E_INTERNAL, "libcurl has no memory");
    set_options(o, easy, url, body);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, why);
    CURLcode rc = curl_easy_perform(easy);
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(easy);
    if (rc != CURLE_OK)
        return sbx_fail(err, SBX_E_CAPACITY, "%.200s cannot be fetched: %s", url,
                        *why ? why : curl_easy_strerror(rc));
    if (status != 200)
        return sbx_fail(err, SBX_E_CAPACITY, "%.200s answers %ld", url, status);
    return 0;
}

/* The address of the keys; owned. */
static int discover(const sbx_oidc *o, char **ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf body = SBX_BUF_INIT(SBX_MAX_JWKS_BYTES);
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    size_t len = strlen(o->issuer);
    SBX_CLEANUP(sbx_free_str)
    char *url = sbx_asprintf("%s%s.well-known/openid-configuration", o->issuer,
                             o->issuer[len - 1] == '/' ? "" : "/");

    if (fetch(o, url, &body, err) != 0)
        return -1;
    if (sbx_json_parse(body.len ? body.data : "", body.len, &root, err) != 0)
        return sbx_wrap(err, "the discovery document of the issuer");
    const char *issuer = sbx_json_str(sbx_json_get(root, "issuer"));
    const char *keys = sbx_json_str(sbx_json_get(root, "jwks_uri"));
    if (!sbx_streq(issuer, o->issuer))
        return sbx_fail(err, SBX_E_INVALID, "the discovery document is of another issuer");
    if (!keys || !url_form(keys))
        return sbx_fail(err, SBX_E_INVALID, "the discovery document has no jwks_uri over https");
    *ret = sbx_strdup(keys);
    return 0;
}

static int fetch_set(const sbx_oidc *o, key_set **ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf body = SBX_BUF_INIT(SBX_MAX_JWKS_BYTES);
    SBX_CLEANUP(sbx_free_str) char *found = NULL;
    sbx_jwks *keys;

    if (!*o->jwks_url && discover(o, &found, err) != 0)
        return -1;
    if (fetch(o, found ? found : o->jwks_url, &body, err) != 0)
        return -1;
    if (sbx_jwks_parse(body.len ? body.data : "", body.len, &keys, err) != 0)
        return sbx_wrap(err, "the keys of the issuer");
    *ret = sbx_alloc(sizeof **ret);
    atomic_init(&(*ret)->refs, 1);
    (*ret)->keys = keys;
    (*ret)->fetched_ms = sbx_now_ms();
    return 0;
}

/* Whoever set `fetching` does it. */
static int fetch_now(sbx_oidc *o, sbx_err *err)
{
    key_set *s = NULL, *old = NULL;
    int rc = fetch_set(o, &s, err);

    pthread_mutex_lock(&o->mu);
    o->fetching = false;
    o->tried_ms = sbx_now_ms();
    if (rc == 0) {
        old = o->set;
        o->set = s;
    }
    pthread_mutex_unlock(&o->mu);
    set_drop(old);
    return rc;
}

/* @return whether the caller is to fetch. */
static bool may_fetch_locked(sbx_oidc *o, int64_t pause_ms)
{
    if (o->fetching || (o->tried_ms && sbx_now_ms() - o->tried_ms < pause_ms))
        return false;
    o->fetching = true;
    return true;
}

int sbx_oidc_refresh(sbx_oidc *o, sbx_err *err)
{
    pthread_mutex_lock(&o->mu);
    bool fresh = o->set && sbx_now_ms() - o->set->fetched_ms < SBX_OIDC_REFRESH_MS;
    bool mine = !fresh && may_fetch_locked(o, SBX_OIDC_AGAIN_MS);
    pthread_mutex_unlock(&o->mu);
    return mine ? fetch_now(o, err) : 0;
}

/* --- tokens --- */

/* The set, or NULL if there is none that is young enough. */
static key_set *current(sbx_oidc *o)
{
    key_set *s = NULL;

    pthread_mutex_lock(&o->mu);
    if (o->set && sbx_now_ms() - o->set->fetched_ms < SBX_OIDC_KEEP_MS) {
        s = o->set;
        atomic_fetch_add(&s->refs, 1);
    }
    pthread_mutex_unlock(&o->mu);
    return s;
}

/* Was this name asked for before? If not, it is from now on: a token costs one fetch at most. */
static bool asked_before_locked(sbx_oidc *o, const sbx_jwt *t)
{
    unsigned char hash[SBX_HASH_BYTES];

    sbx_sha256(t->kid, strlen(t->kid), hash);
    for (size_t i = 0; i < SBX_MIN(o->unknown_count, UNKNOWN_KIDS); i++)
        if (memcmp(o->unknown[i], hash, sizeof hash) == 0)
            return true;
    memcpy(o->unknown[o->unknown_count++ % UNKNOWN_KIDS], hash, sizeof hash);
    return false;
}

/* Has the keys fetched if the token names one that is not there, and that is worth it. */
static void look_again(sbx_oidc *o, const sbx_jwt *t, bool none)
{
    sbx_err ignored;

    pthread_mutex_lock(&o->mu);
    bool mine = may_fetch_locked(o, none ? MIN_LOOK_PAUSE_S * 1000 : SBX_OIDC_AGAIN_MS);
    if (mine && !none && asked_before_locked(o, t))
        mine = o->fetching = false;
    pthread_mutex_unlock(&o->mu);
    if (mine)
        (void)!fetch_now(o, &ignored); /* the tick tells of failures */
}

int sbx_oidc_check(sbx_oidc *o, const char *token, sbx_jwt *ret, sbx_err *err)
{
    sbx_jwt_rules rules = {o->issuer, o->audience, o->admin_claim, o->admin_value};
    SBX_CLEANUP(set_drop) key_set *s = NULL;
    sbx_jwt t;

    if (sbx_jwt_read(token, &rules, sbx_wall_ms(), &t, err) != 0)
        return -1;
    s = current(o);
    if (!s || !sbx_jwt_has_key(&t, s->keys)) {
        look_again(o, &t, !s);
        set_drop(s);
        s = current(o);
    }
    if (!s || sbx_jwt_verify(&t, s->keys, err) != 0) {
        sbx_jwt_done(&t);
        return s ? -1
                 : sbx_fail(err, SBX_E_CAPACITY,
                            "the keys of the OpenID provider cannot be fetched; try again later");
    }
    *ret = t;
    return 0;
}
