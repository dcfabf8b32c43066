/* Who asks for what. A request for packages is a hash; the store says which set answers it, or that
 * one has to be installed, by us or by another worker that is at it. Here are those who wait: with
 * an installation of this worker, or with a timer until they ask again. */
#include "packages_priv.h"

#include "sbx/core/clock.h"
#include "sbx/core/id.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include <errno.h>
#include <stdio.h>

#define MAX_CA_BYTES (512 * KIB)
#define ASK_MS       50 /* at first; then an eighth of what was waited already */
#define MAX_ASK_MS   1000
#define LOST_TRIES   3
#define MORE_S       180 /* beyond the installer's time: for two sandboxes, and the look */

/* --- places --- */

int packages_enter(sbx_packages *p, const char *owner, sbx_err *err)
{
    size_t own = 0, place = SBX_MAX_INSTALLS;

    pthread_mutex_lock(&p->mu);
    for (size_t i = 0; i < SBX_MAX_INSTALLS; i++) {
        own += strcmp(p->owners[i], owner) == 0;
        if (!p->owners[i][0])
            place = i;
    }
    bool room = place < SBX_MAX_INSTALLS && own < SBX_MAX_OWNER_INSTALLS;

    if (room)
        sbx_copy(p->owners[place], sizeof(p->owners[place]), owner);
    pthread_mutex_unlock(&p->mu);
    if (room)
        return 0;
    return sbx_fail(err, SBX_E_CAPACITY,
                    own < SBX_MAX_OWNER_INSTALLS
                        ? "too many packages are being installed; try again shortly"
                        : "%d installations of packages of yours are under way; try again when one "
                          "has ended",
                    SBX_MAX_OWNER_INSTALLS);
}

void packages_leave_place(sbx_packages *p, const char *owner)
{
    pthread_mutex_lock(&p->mu);
    for (size_t i = 0; i < SBX_MAX_INSTALLS; i++) {
        if (strcmp(p->owners[i], owner) == 0) {
            p->owners[i][0] = '\0';
            break;
        }
    }
    pthread_mutex_unlock(&p->mu);
}

/* --- answers --- */

void packages_set_volume(char out[96], const char *set_id)
{
    snprintf(out, 96, "sandboxd-packages-%s", set_id);
}

void sbx_package_set_done(sbx_package_set *s)
{
    sbx_pairs_done(&s->env);
    free(s->installed);
    *s = (sbx_package_set){0};
}

void packages_fill_set(const sbx_package_want *w, const char *set_id, const char *installed,
                       bool hit, sbx_package_set *ret)
{
    const package_installer *with = installer_of(sbx_packages_kind(w->runtime));
    SBX_CLEANUP(sbx_free_str) char *path = sbx_asprintf("%s:%s", with->bin, w->image_path);

    *ret = (sbx_package_set){.installed = sbx_strdup(installed), .hit = hit};
    packages_set_volume(ret->mount.volume, set_id);
    sbx_copy(ret->mount.path, sizeof(ret->mount.path), with->path);
    sbx_pairs_add(&ret->env, "PATH", path);
    if (with->env)
        sbx_pairs_add(&ret->env, with->env, with->path);
}

static void count(const sbx_package_want *w, const char *result)
{
    char label[32];

    snprintf(label, sizeof(label), "%s,%s", installer_of(sbx_packages_kind(w->runtime))->name,
             result);
    sbx_metrics_add(w->packages->c.metrics, SBX_M_PACKAGES, label, 1);
}

void packages_tell(sbx_package_want *w, package_answer *a)
{
    bool ok = a->state == SBX_PACKAGES_SEALED;

    atomic_fetch_sub(&w->packages->waits, 1);
    count(w, !ok ? sbx_code_wire(a->err.code) : a->set.hit ? "hit" : "installed");
    free(w->image_path);
    free(w->image_id);
    w->image_path = w->image_id = NULL;
    w->done(w->arg, ok ? &a->set : NULL, ok ? NULL : &a->err, a->output ? a->output : "");
    free(a->output);
    a->output = NULL;
}

static void tell_failure(sbx_package_want *w, const sbx_err *err)
{
    package_answer a = {.state = SBX_PACKAGES_FAILED, .err = *err};

    packages_tell(w, &a);
}

static void tell_stopping(sbx_package_want *w)
{
    sbx_err err;

    sbx_err_set(&err, SBX_E_CAPACITY, "the server is stopping; try again shortly");
    tell_failure(w, &err);
}

/* --- asking --- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* What was asked for, in whatever order. */
static void hash_request(sbx_package_want *w)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(MIB);
    const sbx_strs *specs = w->specs;
    char **sorted = sbx_alloc((specs->count + 1) * sizeof(char *));

    memcpy(sorted, specs->items, specs->count * sizeof(char *));
    qsort(sorted, specs->count, sizeof(char *), by_text);
    sbx_buf_addf(&b, "%s\n%s\n%s\n", w->owner, w->runtime, w->image_id);
    sbx_buf_add(&b, w->packages->config_hash, SBX_HASH_BYTES);
    for (size_t i = 0; i < specs->count; i++)
        sbx_buf_addf(&b, "\n%s", sorted[i]);
    free(sorted);
    sbx_sha256(b.data, b.len, w->request);
}

static void take_path(const sbx_strs *env, char **ret)
{
    for (size_t i = 0; i < env->count; i++)
        if (strncmp(env->items[i], "PATH=", 5) == 0 && env->items[i][5])
            *ret = sbx_strdup(env->items[i] + 5);
    if (!*ret)
        *ret = sbx_strdup("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
}

/* @return 0, 1 if the engine does not have it, or -1. */
static int look_at_image(sbx_package_want *w, sbx_err *err)
{
    sbx_engine *e = w->packages->c.engine;
    sbx_image_info info = {0};

    if (e->ops->image_inspect(e, w->image, &info, err))
        return err->code == SBX_E_NOT_FOUND ? 1 : -1;
    w->image_id = sbx_strdup(info.id);
    take_path(&info.env, &w->image_path);
    sbx_image_info_done(&info);
    hash_request(w);
    return 0;
}

/* Is the volume of a sealed set there? @return 0, 1 if not, or -1. */
static int look_at_volume(const sbx_package_want *w, const char *set_id, sbx_err *err)
{
    sbx_packages *p = w->packages;
    char volume[96];

    packages_set_volume(volume, set_id);
    if (p->c.engine->ops->volume_look(p->c.engine, volume, err) == 0)
        return 0;
    if (err->code != SBX_E_NOT_FOUND)
        return -1;
    sbx_log(SBX_WARN, "somebody removed the volume of a set of packages", "volume", volume, NULL);
    return sbx_store_packages_lost(p->c.store, set_id, err) ? -1 : 1;
}

/* It is ours to install. */
static int take_install(sbx_package_want *w, const char *set_id, package_answer *ret, sbx_err *err)
{
    sbx_packages *p = w->packages;
    sbx_err later;

    if (packages_enter(p, w->owner, err) == 0) {
        sbx_copy(w->set_id, sizeof(w->set_id), set_id);
        ret->made = install_new(p, w, w->image_id);
        return 0;
    }
    if (sbx_store_packages_fail(p->c.store, set_id, p->c.worker, err, "", 0, &later))
        sbx_log_err(SBX_WARN, "a request for packages stays until its deadline", &later, NULL);
    return -1;
}

static int claim(sbx_package_want *w, package_answer *ret, sbx_err *err)
{
    sbx_packages *p = w->packages;

    for (int tries = 0; tries < LOST_TRIES; tries++) {
        sbx_package_found found = {0};
        sbx_id id = sbx_id_new();
        sbx_package_request q = {.owner = w->owner,
                                 .worker = p->c.worker,
                                 .installer = installer_of(sbx_packages_kind(w->runtime))->name,
                                 .set_id = id.s,
                                 .deadline_s = (int)p->c.timeout_s + MORE_S};

        memcpy(q.request, w->request, sizeof(q.request));
        if (sbx_store_packages_claim(p->c.store, &q, &found, err))
            return -1;
        int rc = 0;

        ret->state = found.state;
        if (found.state == SBX_PACKAGES_MINE)
            rc = take_install(w, id.s, ret, err);
        else if (found.state == SBX_PACKAGES_SEALED)
            rc = look_at_volume(w, found.id, err);
        if (rc == 0 && found.state == SBX_PACKAGES_SEALED)
            packages_fill_set(w, found.id, found.installed, true, &ret->set);
        if (found.state == SBX_PACKAGES_FAILED) {
            ret->err = found.failure;
            ret->output = found.output;
            found.output = NULL;
        }
        sbx_package_found_done(&found);
        if (rc <= 0)
            return rc;
    }
    return sbx_fail(err, SBX_E_CAPACITY, "volumes of packages vanish; try again shortly");
}

/* The image is there by now, unless somebody has just removed it again. */
static int prepare(sbx_package_want *w, sbx_err *err)
{
    int rc = w->image_id ? 0 : look_at_image(w, err);

    if (rc > 0)
        return sbx_fail(err, SBX_E_ENGINE,
                        "image %s is not on the engine though it was just pulled", w->image);
    return rc;
}

static package_answer ask(sbx_package_want *w)
{
    package_answer a = {0};
    sbx_err err = {0};

    if (prepare(w, &err) || claim(w, &a, &err)) {
        a.state = SBX_PACKAGES_FAILED;
        a.err = err;
    }
    return a;
}

/* --- waiting --- */

typedef struct heard {
    sbx_package_want *w;
    package_answer a;
} heard;

static void ask_again(void *arg);

static void unlink_asking(sbx_package_want *w)
{
    sbx_package_want **at = &w->packages->asking;

    while (*at && *at != w)
        at = &(*at)->next;
    if (*at)
        *at = w->next;
    w->next = NULL;
}

static install *find_install(const sbx_package_want *w)
{
    for (install *i = w->packages->installs; i; i = i->next)
        if (memcmp(i->request, w->request, sizeof(i->request)) == 0 && !atomic_load(&i->given_up))
            return i;
    return NULL;
}

static void wait_on_stream(sbx_package_want *w)
{
    sbx_packages *p = w->packages;
    install *i = find_install(w);
    int64_t waited_ms = sbx_now_ms() - w->from_ms;

    if (i) {
        install_join(i, w);
        return;
    }
    w->next = p->asking;
    p->asking = w;
    w->timer = sbx_timer_new(p->c.stream, SBX_MIN(SBX_MAX(waited_ms / 8, ASK_MS), MAX_ASK_MS),
                             ask_again, w);
}

static void tell_left(sbx_package_want *w)
{
    sbx_err err;

    sbx_err_set(&err, SBX_E_CANCELLED, "the client left while packages were installed");
    tell_failure(w, &err);
}

static void answer_on_stream(void *arg)
{
    heard *h = arg;
    sbx_package_want *w = h->w;
    package_answer a = h->a;

    free(h);
    if (a.state == SBX_PACKAGES_MINE)
        install_begin(a.made, w);
    else if (a.state == SBX_PACKAGES_WAIT && !w->left && !atomic_load(&w->packages->stopped))
        wait_on_stream(w);
    else if (a.state == SBX_PACKAGES_WAIT)
        w->left ? tell_left(w) : tell_stopping(w);
    else
        packages_tell(w, &a);
    if (a.state == SBX_PACKAGES_MINE && w->left)
        install_leave(a.made, w);
}

static void post_answer(sbx_package_want *w, const package_answer *a)
{
    heard *h = sbx_alloc(sizeof(*h));

    h->w = w;
    h->a = *a;
    sbx_stream_post(w->packages->c.stream, answer_on_stream, h);
}

static void ask_job(void *arg)
{
    sbx_package_want *w = arg;
    package_answer a = ask(w);

    post_answer(w, &a);
}

static void ask_again(void *arg)
{
    sbx_package_want *w = arg;
    sbx_job job = {.run = ask_job, .arg = w};
    sbx_err err;

    w->timer = NULL;
    unlink_asking(w);
    if (atomic_load(&w->packages->stopped))
        tell_stopping(w);
    else if (sbx_lanes_submit(w->packages->c.lanes, SBX_LANE_FAST, &job, &err))
        wait_on_stream(w);
}

/* --- the image --- */

static void pull_progress(sbx_image_wait *pull, const char *text)
{
    sbx_package_want *w = sbx_container_of(pull, sbx_package_want, pull);

    if (w->progress)
        w->progress(w->arg, text, strlen(text));
}

/* What a registry does not have is no fault of the request. */
static void pulled(sbx_image_wait *pull, const sbx_err *why)
{
    sbx_package_want *w = sbx_container_of(pull, sbx_package_want, pull);
    sbx_err err;

    if (!why) {
        ask_again(w);
        return;
    }
    err = *why;
    if (err.code == SBX_E_NOT_FOUND || err.code == SBX_E_INVALID)
        sbx_err_set(&err, SBX_E_ENGINE, "the image of the template is not to be had: %s", why->msg);
    tell_failure(w, &err);
}

static void pull_on_stream(void *arg)
{
    sbx_package_want *w = arg;

    w->pull = (sbx_image_wait){
        .image = w->image, .sandbox = "", .progress = pull_progress, .done = pulled};
    if (w->left)
        tell_left(w);
    else
        sbx_images_want(sbx_sandboxes_images(w->packages->c.sandboxes), &w->pull);
    /* it may be told, and gone, from here on */
}

void sbx_packages_want(sbx_packages *p, sbx_package_want *w)
{
    package_answer a;
    sbx_err err = {0};

    SBX_ASSERT_THREAD(SBX_T_WORKER);
    w->packages = p;
    w->next = NULL;
    w->install = NULL;
    w->timer = NULL;
    w->image_path = w->image_id = NULL;
    w->pull = (sbx_image_wait){0};
    w->left = false;
    w->from_ms = sbx_now_ms();
    if (atomic_fetch_add(&p->waits, 1) >= SBX_MAX_PACKAGE_WAITS || atomic_load(&p->stopped)) {
        sbx_err_set(&err, SBX_E_CAPACITY,
                    "too many runs wait for their packages; try again "
                    "shortly");
        tell_failure(w, &err);
        return;
    }
    int rc = look_at_image(w, &err);

    if (rc < 0)
        tell_failure(w, &err);
    else if (rc > 0)
        sbx_stream_post(p->c.stream, pull_on_stream, w);
    if (rc)
        return;
    a = ask(w);
    if (a.state == SBX_PACKAGES_MINE || a.state == SBX_PACKAGES_WAIT)
        post_answer(w, &a);
    else
        packages_tell(w, &a);
}

void sbx_packages_leave(sbx_package_want *w)
{
    SBX_ASSERT_THREAD(SBX_T_STREAM);
    w->left = true;
    if (w->install) {
        install_leave(w->install, w);
    } else if (w->timer) {
        sbx_timer_free(w->timer);
        w->timer = NULL;
        unlink_asking(w);
        tell_left(w);
    } else {
        sbx_images_leave(&w->pull);
    }
}

/* --- life --- */

static int read_ca(const char *path, char **ret, sbx_err *err)
{
    char *text = sbx_alloc(MAX_CA_BYTES + 1);
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(text, 1, MAX_CA_BYTES, f) : 0;
    int rc = 0;

    if (!f)
        rc = sbx_fail(err, SBX_E_INVALID, "option --packages-ca: %s: %s", path, strerror(errno));
    else if (n == MAX_CA_BYTES || !strstr(text, "-----BEGIN "))
        rc = sbx_fail(err, SBX_E_INVALID,
                      "option --packages-ca: %s holds no certificates in PEM form, or over %u KiB",
                      path, MAX_CA_BYTES / KIB);
    if (f)
        fclose(f);
    *ret = rc ? NULL : sbx_strdup(text);
    free(text);
    return rc;
}

/* Keyed, since a hash of the address of an index is stored with each set, and it may hold a
 * password.
 */
static void hash_config(sbx_packages *p)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(MIB);

    sbx_buf_addf(&b, "1\n%s\n%s\n%s", p->c.pip_index_url, p->c.npm_registry,
                 p->ca_text ? p->ca_text : "");
    sbx_crypt_fingerprint(p->c.crypt, b.data, b.len, p->config_hash);
    sbx_wipe(b.data, b.len);
}

int sbx_packages_new(const sbx_packages_config *c, sbx_keeper *keeper, sbx_packages **ret,
                     sbx_err *err)
{
    sbx_packages *p = sbx_alloc(sizeof(*p));

    p->c = *c;
    p->keeper = keeper;
    pthread_mutex_init(&p->mu, NULL);
    if (package_index_parse("pip-index-url", c->pip_index_url, &p->pip, err) ||
        package_index_parse("npm-registry", c->npm_registry, &p->npm, err) ||
        (*c->ca_path && read_ca(c->ca_path, &p->ca_text, err))) {
        sbx_packages_free(p);
        return -1;
    }
    hash_config(p);
    sbx_keeper_every(keeper, "packages", c->tidy_s * 1000, SBX_LANE_REAP, packages_tidy, p);
    *ret = p;
    return 0;
}

static void stop_on_stream(void *arg)
{
    sbx_packages *p = arg;

    while (p->asking) {
        sbx_package_want *w = p->asking;

        sbx_timer_free(w->timer);
        w->timer = NULL;
        unlink_asking(w);
        tell_stopping(w);
    }
    for (install *i = p->installs; i; i = i->next) {
        while (i->wants) {
            sbx_package_want *w = i->wants;

            i->wants = w->next;
            tell_stopping(w);
        }
        install_give_up(i);
    }
}

void sbx_packages_stop(sbx_packages *p)
{
    atomic_store(&p->stopped, true);
    sbx_stream_post(p->c.stream, stop_on_stream, p);
}

void sbx_packages_free(sbx_packages *p)
{
    if (!p)
        return;
    while (p->installs) {
        install *i = p->installs;

        p->installs = i->next;
        install_free(i);
    }
    pthread_mutex_destroy(&p->mu);
    package_index_done(&p->pip);
    package_index_done(&p->npm);
    free(p->ca_text);
    free(p);
}
