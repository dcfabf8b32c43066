/* One watch per sandbox that is waited for or followed; a probe is one run of its check.
 *
 * A probe outlives its watch until the agent has told how it ended, so that no callback finds
 * freed memory, and no second one starts meanwhile: a sandbox that does not answer collects no
 * commands. */
#include "sbx/sandbox/checks.h"

#include "sbx/core/clock.h"
#include "sbx/core/crypt.h"
#include "sbx/core/limits.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include <pthread.h>
#include <stdio.h>
#include <uthash.h>

#define FIRST_CHECK_MS 500 /* after the start; later ones are spread over the interval */

typedef struct watch watch;

typedef struct probe {
    watch *watch; /* NULL: nobody waits for it any more */
    char output[SBX_CHECK_OUTPUT_BYTES];
    size_t len;
} probe;

struct watch {
    sbx_checks *set;
    watch **table; /* the one it stands in */
    char id[SBX_ID_LEN + 1];
    sbx_check check;
    sbx_timer *timer; /* the next check, or the end of patience with this one; NULL: none */
    probe *probe;     /* under way */
    int64_t began_ms; /* the last probe, or the last turn that found the old one still there */
    sbx_health health;
    bool written;       /* health was handed over at told_ms */
    int64_t told_ms;    /* monotonic */
    int64_t tries_left; /* readiness */
    void (*done)(void *arg, const sbx_err *err);
    void *arg;
    UT_hash_handle hh;
};

typedef struct waiting_news {
    sbx_health_news n;
    UT_hash_handle hh;
} waiting_news;

struct sbx_checks {
    sbx_stream *stream;
    sbx_channels *channels;
    watch *awaited, *followed; /* STREAM; the number of `followed` also under mu */
    bool closed;               /* STREAM */
    pthread_mutex_t mu;
    waiting_news *news; /* guarded by mu, as all below */
    size_t followed_count;
};

/* --- news --- */

static void add_news(sbx_checks *c, const sbx_health_news *n, bool newer)
{
    waiting_news *w;

    pthread_mutex_lock(&c->mu);
    HASH_FIND_STR(c->news, n->sandbox, w);
    bool changed = n->changed || (w && w->n.changed);
    bool fresh = !w;
    if (fresh) {
        w = sbx_alloc(sizeof(*w));
        w->n = *n;
        HASH_ADD_STR(c->news, n.sandbox, w);
    }
    if (newer)
        w->n.health = n->health;
    w->n.changed = changed;
    pthread_mutex_unlock(&c->mu);
}

size_t sbx_checks_take(sbx_checks *c, sbx_health_news **ret)
{
    waiting_news *w, *next;
    size_t n = 0;

    *ret = NULL;
    pthread_mutex_lock(&c->mu);
    if (c->news)
        *ret = sbx_alloc(HASH_COUNT(c->news) * sizeof(**ret));
    HASH_ITER (hh, c->news, w, next) {
        (*ret)[n++] = w->n;
        HASH_DEL(c->news, w);
        free(w);
    }
    pthread_mutex_unlock(&c->mu);
    return n;
}

void sbx_checks_return(sbx_checks *c, const sbx_health_news *news)
{
    add_news(c, news, false);
}

static void tell(watch *w, bool changed)
{
    sbx_health_news n = {.health = w->health, .changed = changed};
    int64_t now = sbx_now_ms();

    if (!changed && w->written && now - w->told_ms < SBX_HEALTH_REFRESH_MS)
        return;
    memcpy(n.sandbox, w->id, sizeof(n.sandbox));
    add_news(w->set, &n, true);
    w->written = true;
    w->told_ms = now;
}

/* --- watches --- */

static watch *find(watch *table, const char *id)
{
    watch *w;

    SBX_ASSERT_THREAD(SBX_T_STREAM);
    HASH_FIND_STR(table, id, w);
    return w;
}

static void count(sbx_checks *c)
{
    pthread_mutex_lock(&c->mu);
    c->followed_count = HASH_COUNT(c->followed);
    pthread_mutex_unlock(&c->mu);
}

static void watch_free(watch *w)
{
    sbx_checks *c = w->set;

    if (w->probe)
        w->probe->watch = NULL;
    sbx_timer_free(w->timer);
    HASH_DEL(*w->table, w);
    sbx_check_done(&w->check);
    free(w);
    count(c);
}

static void finish(watch *w, const sbx_err *err)
{
    void (*done)(void *, const sbx_err *) = w->done;
    void *arg = w->arg;

    watch_free(w);
    if (done)
        done(arg, err);
}

static void end_wait(sbx_checks *c, const char *sandbox, sbx_code code, const char *text)
{
    watch *w = find(c->awaited, sandbox);
    sbx_err err;

    if (!w)
        return;
    sbx_fail(&err, code, "%s", text);
    finish(w, &err);
}

static void turn(void *arg);

static void next_turn(watch *w, int64_t ms)
{
    sbx_timer_free(w->timer);
    w->timer = sbx_timer_new(w->set->stream, SBX_MAX(ms, 0), turn, w);
}

static void next_after_interval(watch *w)
{
    next_turn(w, w->began_ms + w->check.interval_ms - sbx_now_ms());
}

static void health_result(watch *w, bool ok, const char *message)
{
    sbx_health_status before = w->health.status;
    bool changed = sbx_health_step(&w->health, &w->check, ok, message, sbx_now_ms(), sbx_wall_ms());

    if (changed) {
        char line[SBX_CHECK_MESSAGE_BYTES + 80];

        snprintf(line, sizeof(line), "health: %s, was %s%s%s", sbx_health_wire(w->health.status),
                 sbx_health_wire(before), ok ? "" : ": ", ok ? "" : message);
        sbx_channels_note(w->set->channels, w->id, line);
    }
    tell(w, changed);
    next_after_interval(w);
}

/* A probe of the watch has a result; the watch may be gone afterwards. */
static void result(watch *w, bool ok, const char *message)
{
    sbx_err err;

    if (!w->done) {
        health_result(w, ok, message);
    } else if (ok) {
        finish(w, NULL);
    } else if (--w->tries_left <= 0) {
        sbx_fail(&err, SBX_E_NOT_READY, "the sandbox was not ready after %lld tries: %s",
                 (long long)w->check.retries, message);
        finish(w, &err);
    } else {
        next_after_interval(w);
    }
}

/* --- probes --- */

static void probe_started(void *arg, sbx_command *c, int64_t pid)
{
    (void)arg, (void)c, (void)pid;
}

static void probe_output(void *arg, sbx_command *c, bool is_stderr, const char *data, size_t len)
{
    probe *p = arg;
    size_t take = SBX_MIN(len, sizeof(p->output) - p->len);

    (void)c, (void)is_stderr;
    memcpy(p->output + p->len, data, take);
    p->len += take;
}

/* The watch that still wants to know, or NULL. Frees the probe. */
static watch *probe_over(probe *p)
{
    watch *w = p->watch;

    if (w)
        w->probe = NULL;
    free(p);
    return w;
}

static void exit_text(const watch *w, const sbx_command_exit *e, char *out, size_t cap)
{
    if (e->timed_out)
        snprintf(out, cap, "not done within %lld ms", (long long)w->check.timeout_ms);
    else if (e->signal)
        snprintf(out, cap, "ended by signal %d%s", e->signal,
                 e->oom_killed ? ": out of memory" : "");
    else
        snprintf(out, cap, "exit code %d", e->exit_code);
}

static void probe_exit(void *arg, const sbx_command_exit *e)
{
    probe *p = arg;
    watch *w = p->watch;
    char how[64] = "", said[SBX_CHECK_MESSAGE_BYTES + 1], text[sizeof(how) + sizeof(said) + 2];

    sbx_check_clean(said, p->output, p->len);
    if (w)
        exit_text(w, e, how, sizeof(how));
    snprintf(text, sizeof(text), "%s%s%s", how, *said ? ": " : "", said);
    sbx_check_clean(said, text, strlen(text));
    probe_over(p);
    if (w)
        result(w, !e->exit_code && !e->signal && !e->timed_out, said);
}

static void probe_failed(void *arg, const sbx_err *err)
{
    watch *w = probe_over(arg);
    char text[SBX_CHECK_MESSAGE_BYTES + 1];

    if (!w)
        return;
    bool here = err->code == SBX_E_INVALID || err->code == SBX_E_CAPACITY ||
                sbx_channels_has(w->set->channels, w->id);
    sbx_check_clean(text, err->msg, strlen(err->msg));
    if (here)
        result(w, false, text);
    else if (w->done)
        end_wait(w->set, w->id, err->code == SBX_E_CONFLICT ? SBX_E_ENGINE : err->code, err->msg);
    else if (sbx_channels_holds(w->set->channels, w->id))
        next_after_interval(w); /* greeted anew; that says nothing about its health */
    else
        watch_free(w); /* whoever adopts the sandbox goes on */
}

static const sbx_command_events probe_events = {probe_started, probe_output, probe_exit,
                                                probe_failed};

static void add_arg(sbx_strs *argv, const char *text)
{
    argv->items[argv->count++] = sbx_strdup(text);
}

static void probe_argv(const sbx_check *c, sbx_strs *argv)
{
    char port[8];

    argv->items = sbx_alloc((SBX_MAX(c->command.count, (size_t)4) + 1) * sizeof(char *));
    for (size_t i = 0; i < c->command.count; i++)
        add_arg(argv, c->command.items[i]);
    if (c->command.count)
        return;
    snprintf(port, sizeof(port), "%d", (int)c->port);
    add_arg(argv, SBX_AGENT_PROGRAM);
    add_arg(argv, "probe");
    add_arg(argv, c->file ? "file" : "port");
    add_arg(argv, c->file ? c->file : port);
}

static void probe_begin(watch *w)
{
    sbx_command_spec spec = {.timeout_ms = w->check.timeout_ms,
                             .max_output = SBX_CHECK_OUTPUT_BYTES,
                             .window = SBX_CHECK_OUTPUT_BYTES,
                             .flags = SBX_EXEC_CHECK};

    probe_argv(&w->check, &spec.argv);
    w->probe = sbx_alloc(sizeof(*w->probe));
    w->probe->watch = w;
    sbx_channels_exec(w->set->channels, w->id, &spec, &probe_events, w->probe);
    next_turn(w, w->check.timeout_ms + SBX_CHECK_SILENCE_MS);
}

/* Time for the next probe; or the last one has not come back in all its time. */
static void turn(void *arg)
{
    watch *w = arg;

    w->timer = NULL;
    w->began_ms = sbx_now_ms();
    if (w->probe)
        result(w, false, "the sandbox's agent does not answer");
    else
        probe_begin(w);
}

/* --- from other threads --- */

typedef struct message {
    sbx_checks *set;
    char id[SBX_ID_LEN + 1];
    sbx_check check;
    sbx_health_status known;
    void (*done)(void *arg, const sbx_err *err); /* readiness */
    void *arg;
} message;

static message *message_new(sbx_checks *c, const char *id)
{
    message *m = sbx_alloc(sizeof(*m));

    m->set = c;
    sbx_copy(m->id, sizeof(m->id), id);
    return m;
}

/* Takes the message's check. */
static watch *watch_new(message *m, watch **table)
{
    watch *w = sbx_alloc(sizeof(*w));

    w->set = m->set;
    w->table = table;
    memcpy(w->id, m->id, sizeof(w->id));
    w->check = m->check;
    m->check = (sbx_check){0};
    w->tries_left = w->check.retries;
    w->done = m->done;
    w->arg = m->arg;
    w->health.status = m->known;
    w->health.began_ms = sbx_now_ms();
    HASH_ADD_STR(*table, id, w);
    count(m->set);
    return w;
}

void sbx_checks_await(sbx_checks *c, const char *sandbox, const char *readiness,
                      void (*done)(void *arg, const sbx_err *err), void *arg)
{
    message m = {.set = c, .done = done, .arg = arg};
    sbx_err err = {0};

    sbx_copy(m.id, sizeof(m.id), sandbox);
    if (c->closed)
        sbx_fail(&err, SBX_E_CAPACITY, "the server is stopping");
    else if (find(c->awaited, sandbox))
        sbx_fail(&err, SBX_E_CONFLICT, "the sandbox is waited for already");
    else if (sbx_check_load(readiness, false, &m.check, &err))
        sbx_err_wrap(&err, "the readiness check in the database cannot be read");
    if (err.code) {
        err.code = err.code == SBX_E_INVALID ? SBX_E_INTERNAL : err.code;
        sbx_check_done(&m.check);
        done(arg, &err);
    } else {
        next_turn(watch_new(&m, &c->awaited), 0);
    }
}

void sbx_checks_give_up(sbx_checks *c, const char *sandbox)
{
    end_wait(c, sandbox, SBX_E_CANCELLED, "the client left before the sandbox was ready");
}

void sbx_checks_lost(sbx_checks *c, const char *sandbox)
{
    end_wait(c, sandbox, SBX_E_ENGINE, "the sandbox ended before it was ready");
}

static void follow_on_stream(void *arg)
{
    message *m = arg;
    sbx_checks *c = m->set;

    if (!c->closed && !find(c->followed, m->id)) {
        watch *w = watch_new(m, &c->followed);
        uint32_t spread;

        /* after a restart all are adopted at once, and must not all be checked at once */
        sbx_random(&spread, sizeof(spread));
        next_turn(w, m->known == SBX_H_STARTING ? FIRST_CHECK_MS : spread % w->check.interval_ms);
    }
    sbx_check_done(&m->check);
    free(m);
}

void sbx_checks_follow(sbx_checks *c, const char *sandbox, const char *health, const char *known)
{
    message *m = message_new(c, sandbox);
    sbx_err err;

    if (sbx_check_load(health, true, &m->check, &err)) {
        sbx_log_err(SBX_ERROR, "a health check in the database cannot be read", &err, "sandbox",
                    sandbox, NULL);
        sbx_check_done(&m->check);
        free(m);
        return;
    }
    m->known = sbx_health_read(known);
    sbx_stream_post(c->stream, follow_on_stream, m);
}

static void leave_on_stream(void *arg)
{
    message *m = arg;
    watch *w = find(m->set->followed, m->id);

    if (w)
        watch_free(w);
    end_wait(m->set, m->id, SBX_E_CONFLICT, "the sandbox was deleted before it was ready");
    free(m);
}

void sbx_checks_leave(sbx_checks *c, const char *sandbox)
{
    sbx_stream_post(c->stream, leave_on_stream, message_new(c, sandbox));
}

size_t sbx_checks_count(sbx_checks *c)
{
    pthread_mutex_lock(&c->mu);
    size_t n = c->followed_count;
    pthread_mutex_unlock(&c->mu);
    return n;
}

/* --- the set --- */

sbx_checks *sbx_checks_new(sbx_stream *stream, sbx_channels *channels)
{
    sbx_checks *c = sbx_alloc(sizeof(*c));

    c->stream = stream;
    c->channels = channels;
    pthread_mutex_init(&c->mu, NULL);
    return c;
}

static void shutdown_on_stream(void *arg)
{
    sbx_checks *c = arg;
    sbx_err err;

    c->closed = true;
    sbx_fail(&err, SBX_E_CAPACITY, "the server is stopping");
    while (c->followed)
        watch_free(c->followed);
    while (c->awaited)
        finish(c->awaited, &err);
}

void sbx_checks_shutdown(sbx_checks *c)
{
    sbx_stream_post(c->stream, shutdown_on_stream, c);
}

void sbx_checks_free(sbx_checks *c)
{
    sbx_health_news *left;

    if (!c)
        return;
    sbx_checks_take(c, &left);
    free(left);
    pthread_mutex_destroy(&c->mu);
    free(c);
}
