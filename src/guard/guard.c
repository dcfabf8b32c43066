/* The guard's thread, and what others ask of it.
 *
 * A round: network, helper and connection are made if they are not there, the helper is asked, and
 * given the rules if it has others. A round that finds its old connection dead starts over once; a
 * helper that is deaf for some rounds is made anew, its rules stay meanwhile.
 *
 * Threads: conn and what belongs to it are the guard thread's (or those of the one caller of
 * sbx_guard_check); the rest is under mu, never held across I/O. */
#include "sbx/guard/guard.h"

#include "exchange.h"
#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#define PERIOD_MS     3000  /* between two rounds without a reason */
#define RETRY_MS      250   /* after a failed one */
#define RETRY_IDLE_MS 3000  /* the same while nobody waits */
#define FRESH_MS      15000 /* a confirmation is good for so long */
#define WAIT_MS       10000 /* for a confirmation */
#define ROUND_MS      30000 /* all of one round */
#define NETWORK_MS    15000 /* between two looks at the network */
#define POLL_MS       100
#define MAX_FAILED    3 /* rounds that fail while somebody waits */
#define MAX_DEAF      2 /* rounds without an answer until the helper is made anew */
#define RULES_BYTES   (32 * KIB)

#define HELPER_MEMORY (64 * MIB)
#define HELPER_PIDS   16

struct sbx_guard {
    /* Immutable after new. */
    sbx_guard_config c;
    char network[64], bridge[16], table[64], container[64];
    guard_resolvers resolvers; /* of the option; count 0: those of the host */
    guard_allow allow[SBX_MAX_NETWORK_ALLOW];
    size_t allow_count;

    /* The guard thread's. */
    sbx_engine_conn *conn;
    sbx_network_info net;
    int64_t net_ms; /* when it was last looked at */
    int deaf;
    bool told; /* the failure is in the log already */
    guard_resolvers in_force;

    pthread_t thread;
    bool running; /* there is a thread to join */
    atomic_bool stopping;
    pthread_mutex_t mu;
    pthread_cond_t changed;    /* with mu */
    bool wanted, asked;        /* guarded by mu */
    int64_t confirmed_ms;      /* guarded by mu; when it was asked; 0: never */
    int64_t ended_ms;          /* guarded by mu; of the last round */
    uint64_t failed, restored; /* guarded by mu; counts */
    size_t waiting;            /* guarded by mu */
    bool ok;                   /* guarded by mu; the last round */
    sbx_err why;               /* guarded by mu; of the last failed round */
    sbx_network_access access; /* guarded by mu; valid once confirmed */
};

/* --- the helper --- */

static int explain_missing_image(const sbx_guard *g, sbx_err *err)
{
    return sbx_fail(err, SBX_E_NOT_FOUND,
                    "the image %.100s is not on the engine: run deploy/images/build, or set "
                    "--guard-image",
                    g->c.image);
}

static int helper_create(sbx_guard *g, char ret_id[65], sbx_err *err)
{
    const char *const entrypoint[] = {"/bin/busybox", "sh", "/guard", g->table, NULL};
    static const char *const caps[] = {"NET_ADMIN", NULL};
    char *names[] = {(char *)"sandboxd.cluster", (char *)"sandboxd.role"};
    char *values[] = {(char *)g->c.cluster, (char *)"guard"};
    sbx_pairs labels = {.names = names, .values = values, .count = 2};
    sbx_container_spec spec = {.name = g->container,
                               .image = g->c.image,
                               .entrypoint = entrypoint,
                               .labels = &labels,
                               .cpu_milli = 1000,
                               .memory_bytes = HELPER_MEMORY,
                               .pids = HELPER_PIDS,
                               .network = "host",
                               .cap_add = caps,
                               .helper = true};

    if (g->c.engine->ops->create(g->c.engine, &spec, ret_id, err) == 0)
        return 0;
    if (err->code == SBX_E_NOT_FOUND)
        return explain_missing_image(g, err);
    /* another server was quicker: the next round finds its helper */
    if (err->code == SBX_E_CONFLICT)
        err->code = SBX_E_ENGINE_UNAVAILABLE;
    return sbx_wrap(err, "making the guard");
}

/* The helper of an image that was replaced has old lines: it goes, its rules stay. */
static int helper_find(sbx_guard *g, sbx_container_info *ret, sbx_err *err)
{
    const sbx_engine_ops *ops = g->c.engine->ops;
    sbx_image_info image = {0};

    if (ops->inspect(g->c.engine, g->container, ret, err))
        return -1;
    if (ops->image_inspect(g->c.engine, g->c.image, &image, err) && err->code != SBX_E_NOT_FOUND)
        return -1;
    bool same = !image.id[0] || strcmp(image.id, ret->image_id) == 0;

    sbx_image_info_done(&image);
    if (same && g->deaf < MAX_DEAF)
        return 0;
    g->deaf = 0;
    if (ops->remove(g->c.engine, ret->id, err))
        return sbx_wrap(err, "removing the old guard");
    return sbx_fail(err, SBX_E_NOT_FOUND, "no guard");
}

static int helper_ensure(sbx_guard *g, char ret_id[65], sbx_err *err)
{
    const sbx_engine_ops *ops = g->c.engine->ops;
    sbx_container_info info = {.state = "created"};

    if (helper_find(g, &info, err) == 0)
        sbx_copy(ret_id, 65, info.id);
    else if (err->code != SBX_E_NOT_FOUND || helper_create(g, ret_id, err))
        return -1;
    if (strcmp(info.state, "running") == 0)
        return 0;
    int rc = strcmp(info.state, "paused") == 0 ? ops->unpause(g->c.engine, ret_id, err)
                                               : ops->start(g->c.engine, ret_id, err);

    return rc ? sbx_wrap(err, "starting the guard") : 0;
}

/* --- a round --- */

static void hang_up(sbx_guard *g)
{
    sbx_engine_conn_close(g->conn);
    g->conn = NULL;
}

static int look_at_network(sbx_guard *g, sbx_err *err)
{
    sbx_network_info net;

    if (g->net.id[0] && sbx_now_ms() - g->net_ms < NETWORK_MS)
        return 0;
    if (g->c.engine->ops->network_ensure(g->c.engine, g->network, g->bridge, g->c.cluster, &net,
                                         err))
        return -1;
    if (!guard_is_subnet(net.subnet))
        return sbx_fail(err, SBX_E_ENGINE, "the network %s has no IPv4 subnet", g->network);
    g->net = net;
    g->net_ms = sbx_now_ms();
    return 0;
}

static int ensure_connected(sbx_guard *g, sbx_err *err)
{
    char id[65];

    if (look_at_network(g, err))
        return -1;
    if (g->conn)
        return 0;
    return helper_ensure(g, id, err) || g->c.engine->ops->attach(g->c.engine, id, &g->conn, err)
               ? -1
               : 0;
}

/* @param host  the resolvers that the helper has found. */
static int make_rules(sbx_guard *g, const guard_resolvers *host, sbx_buf *out, sbx_err *err)
{
    guard_rules rules = {.table = g->table,
                         .bridge = g->bridge,
                         .subnet = g->net.subnet,
                         .resolvers = g->resolvers.count ? &g->resolvers : host,
                         .allow = g->allow,
                         .allow_count = g->allow_count};

    if (!rules.resolvers->count)
        return sbx_fail(err, SBX_E_INVALID,
                        "/etc/resolv.conf of the engine's host names no resolver that sandboxes "
                        "could reach (127.0.0.0/8 is the host itself): set --network-resolvers");
    guard_rules_text(&rules, out);
    g->in_force = *rules.resolvers;
    return sbx_buf_failed(out) ? sbx_fail(err, SBX_E_INTERNAL, "the rules are too long") : 0;
}

static void note_restored(sbx_guard *g)
{
    sbx_log(SBX_WARN, "the firewall's rules had been changed by somebody else and were set again",
            "table", g->table, NULL);
    sbx_metrics_add(g->c.metrics, SBX_M_GUARD_RESTORED, NULL, 1);
    pthread_mutex_lock(&g->mu);
    g->restored++;
    pthread_mutex_unlock(&g->mu);
}

/* @param ret_ms  when the question was put whose answer confirms. */
static int ask(sbx_guard *g, int64_t *ret_ms, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf rules = SBX_BUF_INIT(RULES_BYTES);
    char hash[GUARD_HASH_BYTES];
    guard_answer a;

    *ret_ms = sbx_now_ms();
    if (guard_exchange(g->conn, NULL, &a, err) || make_rules(g, &a.resolvers, &rules, err))
        return -1;
    guard_rules_hash(&rules, hash);
    if (a.restored)
        note_restored(g);
    if (strcmp(a.hash, hash) == 0)
        return 0;
    *ret_ms = sbx_now_ms();
    if (guard_exchange(g->conn, &rules, &a, err))
        return -1;
    if (strcmp(a.hash, hash) != 0)
        return sbx_fail(err, SBX_E_ENGINE,
                        "another server of this installation has set other "
                        "rules: give all the same --network options");
    sbx_log(SBX_INFO, "the firewall of the sandboxes is set", "network", g->network, "subnet",
            g->net.subnet, NULL);
    return 0;
}

static bool is_lost(const sbx_err *err)
{
    return err->code == SBX_E_ENGINE_UNAVAILABLE || err->code == SBX_E_TIMEOUT;
}

static int run_round(sbx_guard *g, int64_t *ret_ms, sbx_err *err)
{
    for (bool old = g->conn != NULL;; old = false) {
        if (ensure_connected(g, err)) {
            hang_up(g);
            g->net_ms = 0;
            return -1;
        }
        if (ask(g, ret_ms, err) == 0) {
            g->deaf = 0;
            return 0;
        }
        hang_up(g);
        g->deaf += err->code == SBX_E_TIMEOUT;
        if (!old || !is_lost(err))
            return -1;
    }
}

static void tell(sbx_guard *g, int rc, const sbx_err *err)
{
    if (rc && err->code != SBX_E_CANCELLED && !g->told)
        sbx_log_err(SBX_WARN,
                    "the firewall of the sandboxes is not confirmed: no sandbox with a network "
                    "starts; trying again",
                    err, NULL);
    else if (!rc && g->told)
        sbx_log(SBX_INFO, "the firewall of the sandboxes is confirmed again", NULL);
    g->told = rc != 0;
}

static int one_round(sbx_guard *g, sbx_err *err)
{
    int64_t at_ms = 0;
    int rc = run_round(g, &at_ms, err);

    pthread_mutex_lock(&g->mu);
    g->ok = rc == 0;
    g->ended_ms = sbx_now_ms();
    if (rc) {
        g->failed++;
        g->why = *err;
        if (!is_lost(err)) /* the helper itself says no: what it said before is void */
            g->confirmed_ms = 0;
    } else {
        g->confirmed_ms = at_ms;
        sbx_copy(g->access.network, sizeof(g->access.network), g->network);
        memcpy(g->access.dns, g->in_force.ip, sizeof(g->access.dns));
        g->access.dns_count = g->in_force.count;
    }
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->mu);
    return rc;
}

/* --- the thread --- */

static void wait_locked(sbx_guard *g, int64_t ms)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += ms / 1000;
    at.tv_nsec += ms % 1000 * 1000000;
    at.tv_sec += at.tv_nsec / 1000000000;
    at.tv_nsec %= 1000000000;
    pthread_cond_clockwait(&g->changed, &g->mu, CLOCK_MONOTONIC, &at);
}

/* Milliseconds until the next round is due; over 0: not yet. */
static int64_t due_ms_locked(const sbx_guard *g)
{
    int64_t pause = g->ok ? (g->asked ? 0 : PERIOD_MS) : (g->waiting ? RETRY_MS : RETRY_IDLE_MS);

    if (!g->wanted)
        return INT64_MAX;
    return g->ended_ms ? g->ended_ms + pause - sbx_now_ms() : 0;
}

static bool await_round(sbx_guard *g)
{
    pthread_mutex_lock(&g->mu);
    while (!atomic_load(&g->stopping)) {
        int64_t due = due_ms_locked(g);

        if (due <= 0)
            break;
        wait_locked(g, SBX_MIN(due, PERIOD_MS));
    }
    g->asked = false;
    pthread_mutex_unlock(&g->mu);
    return !atomic_load(&g->stopping);
}

static void *guard_loop(void *arg)
{
    sbx_guard *g = arg;
    sbx_err err;

    sbx_thread_set_role(SBX_T_WORKER, "sbx-guard");
    while (await_round(g)) {
        sbx_job_scope(sbx_now_ms() + ROUND_MS, &g->stopping);
        tell(g, one_round(g, &err), &err);
    }
    hang_up(g);
    return NULL;
}

int sbx_guard_start(sbx_guard *g, sbx_err *err)
{
    int rc = pthread_create(&g->thread, NULL, guard_loop, g);

    if (rc)
        return sbx_fail(err, SBX_E_INTERNAL, "starting the guard's thread: %s", strerror(rc));
    g->running = true;
    return 0;
}

void sbx_guard_stop(sbx_guard *g)
{
    pthread_mutex_lock(&g->mu);
    atomic_store(&g->stopping, true);
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->mu);
    if (g->running)
        pthread_join(g->thread, NULL);
    g->running = false;
}

/* --- what others ask --- */

void sbx_guard_want(sbx_guard *g)
{
    pthread_mutex_lock(&g->mu);
    if (!g->wanted) {
        g->wanted = true;
        pthread_cond_broadcast(&g->changed);
    }
    pthread_mutex_unlock(&g->mu);
}

static bool confirmed_locked(const sbx_guard *g, int64_t since_ms)
{
    return g->confirmed_ms && g->confirmed_ms >= since_ms &&
           sbx_now_ms() - g->confirmed_ms < FRESH_MS;
}

static int unconfirmed_locked(const sbx_guard *g, sbx_err *err)
{
    return sbx_fail(err, SBX_E_ENGINE_UNAVAILABLE,
                    "the firewall that a sandbox with a network needs is not confirmed: %.240s; "
                    "`sandboxd doctor` tells more, and network mode none works meanwhile",
                    g->ok || !g->failed ? "it does not answer" : g->why.msg);
}

static int wait_confirmed_locked(sbx_guard *g, int64_t since_ms, sbx_err *err)
{
    int64_t end_ms = sbx_now_ms() + WAIT_MS;
    uint64_t failed = g->failed;

    while (!confirmed_locked(g, since_ms)) {
        if (sbx_job_cancelled() || atomic_load(&g->stopping))
            return sbx_fail(err, SBX_E_CANCELLED, "waiting for the guard: cancelled");
        if (sbx_job_left_ms(1) <= 0)
            return sbx_fail(err, SBX_E_TIMEOUT, "waiting for the guard: the time is over");
        if (g->failed - failed >= MAX_FAILED || sbx_now_ms() >= end_ms)
            return unconfirmed_locked(g, err);
        wait_locked(g, POLL_MS);
    }
    return 0;
}

int sbx_guard_confirm(sbx_guard *g, int64_t since_ms, sbx_network_access *ret, sbx_err *err)
{
    pthread_mutex_lock(&g->mu);
    if (!confirmed_locked(g, since_ms) || since_ms == 0) {
        g->wanted = g->asked = true;
        pthread_cond_broadcast(&g->changed);
    }
    g->waiting++;
    int rc = wait_confirmed_locked(g, since_ms, err);

    g->waiting--;
    if (!rc && ret)
        *ret = g->access;
    pthread_mutex_unlock(&g->mu);
    return rc;
}

int sbx_guard_check(sbx_guard *g, sbx_err *err)
{
    int rc = -1;

    for (int i = 0; rc && i < MAX_FAILED; i++)
        rc = one_round(g, err);
    hang_up(g);
    return rc;
}

void sbx_guard_status_get(sbx_guard *g, sbx_guard_status *ret)
{
    pthread_mutex_lock(&g->mu);
    *ret = (sbx_guard_status){.wanted = g->wanted,
                              .confirmed = g->ok && confirmed_locked(g, 0),
                              .age_ms = g->confirmed_ms ? sbx_now_ms() - g->confirmed_ms : -1,
                              .restored = g->restored};
    if (!ret->confirmed) {
        ret->why = g->why;
        if (!g->failed)
            sbx_err_set(&ret->why, SBX_E_ENGINE_UNAVAILABLE, "not asked yet");
    }
    pthread_mutex_unlock(&g->mu);
}

/* --- the object --- */

int sbx_guard_new(const sbx_guard_config *c, sbx_guard **ret, sbx_err *err)
{
    SBX_CLEANUP(sbx_guard_free) sbx_guard *g = sbx_alloc(sizeof(*g));

    g->c = *c;
    g->wanted = c->wanted;
    pthread_mutex_init(&g->mu, NULL);
    pthread_cond_init(&g->changed, NULL);
    snprintf(g->network, sizeof(g->network), "sandboxd-%s", c->cluster);
    snprintf(g->bridge, sizeof(g->bridge), "sbx%.12s", c->cluster);
    snprintf(g->table, sizeof(g->table), "sandboxd_%s", c->cluster);
    snprintf(g->container, sizeof(g->container), "sandboxd-guard-%s", c->cluster);
    if (!*c->image)
        return sbx_fail(err, SBX_E_INVALID, "option --guard-image: must name an image");
    if (guard_resolvers_parse(c->resolvers, "option --network-resolvers", &g->resolvers, err) ||
        guard_allow_parse(c->allow, g->allow, &g->allow_count, err))
        return -1;
    *ret = sbx_steal(g);
    return 0;
}

void sbx_guard_free(sbx_guard *g)
{
    if (!g)
        return;
    sbx_guard_stop(g);
    hang_up(g);
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->mu);
    free(g);
}
