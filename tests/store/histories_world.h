/* The world of the histories: two servers, one sandbox, a container engine and an agent that are
 * plain variables, and a scheduler that lets exactly one thread run at a time.
 *
 * Each call of the service to the store, the engine or the agent is a step: the thread gives the
 * baton back first, so that other threads run between any two steps. There the scheduler may also
 * have the server crash (its threads do nothing any more) or have the step fail, before or after it
 * took effect. The store's functions are wrapped by the linker (tests/CMakeLists.txt), the channels
 * are replaced by those of this file. */
#ifndef TESTS_STORE_HISTORIES_WORLD_H
#define TESTS_STORE_HISTORIES_WORLD_H

#include "fixture.h"

#include "reaper/reaper_priv.h"
#include "sbx/core/log.h"
#include "sbx/engine/engine.h"
#include "sbx/metrics/metrics.h"
#include "sbx/run/stream.h"
#include "sbx/sandbox/sandboxes.h"
#include <semaphore.h>

#define SERVERS       2
#define ACTORS        4 /* actor i belongs to server i % SERVERS */
#define LATER_MAX     16
#define FORGOTTEN_MAX 65536

typedef enum box_state { BOX_NONE, BOX_CREATED, BOX_RUNNING, BOX_PAUSED, BOX_EXITED } box_state;

typedef struct server {
    sbx_engine engine;
    sbx_sandboxes *service;
    sbx_reaper reaper;
    char worker[SBX_ID_LEN + 1];
    bool alive, listed;     /* listed: its heartbeat counts as fresh */
    bool holding, answered; /* its channel */
    unsigned holding_of;    /* which container */
    int looks;              /* it was told to look after the sandbox */
    struct {
        void (*fn)(void *arg);
        void *arg;
    } later[LATER_MAX]; /* posted to STREAM, to a lane, or with a timer */
    int later_count;
} server;

typedef struct actor {
    pthread_t thread;
    sem_t go;
    int index;
    server *at;
    bool busy, dead;
    void (*op)(struct actor *a);
    unsigned arg;
} actor;

static struct {
    box_state box;
    unsigned box_number; /* a new one for each container */
    uint64_t agent_epoch;
    char id[SBX_ID_LEN + 1], name[SBX_ID_LEN + 8];
    bool expired, deleted; /* as the database must see it */
    bool faults;
    uint64_t rng;
    char trace[16384];
    size_t trace_len;
    char wrong[512]; /* the first violation */
} w;

static PGconn *outside; /* of the scheduler: time, heartbeats, and what is checked */
static server servers[SERVERS];
static actor actors[ACTORS];
static sem_t back; /* to the scheduler */
static _Thread_local actor *me;
static server *ticking;                /* whose cleanup the scheduler runs itself */
static void *forgotten[FORGOTTEN_MAX]; /* memory that went with a crash; no leak */
static size_t forgotten_count;
static bool ending;

static inline unsigned dice(unsigned sides)
{
    w.rng ^= w.rng << 13;
    w.rng ^= w.rng >> 7;
    w.rng ^= w.rng << 17;
    return (unsigned)((w.rng >> 11) % sides);
}

static inline void trace(const char *fmt, ...) SBX_PRINTF(1, 2);
static inline void trace(const char *fmt, ...)
{
    va_list ap;
    size_t room = sizeof w.trace - w.trace_len;

    va_start(ap, fmt);
    int n = vsnprintf(w.trace + w.trace_len, room, fmt, ap);
    va_end(ap);
    w.trace_len += SBX_MIN((size_t)n, room - 1);
}

static inline void violated(const char *fmt, ...) SBX_PRINTF(1, 2);
static inline void violated(const char *fmt, ...)
{
    va_list ap;

    if (*w.wrong)
        return;
    va_start(ap, fmt);
    vsnprintf(w.wrong, sizeof w.wrong, fmt, ap);
    va_end(ap);
    trace("\n!! %s", w.wrong);
}

/* --- steps --- */

typedef enum fault { GOES_WELL, FAILS_BEFORE, FAILS_AFTER } fault;

/* Every call that leaves the server begins here. */
static inline fault step(const char *what)
{
    fault f = GOES_WELL;

    if (!me) { /* the scheduler itself */
        trace(" %s", what);
        return f;
    }
    if (!me->dead) {
        sem_post(&back);
        sem_wait(&me->go);
    }
    if (me->dead)
        return FAILS_BEFORE;
    if (w.faults && dice(40) == 0)
        f = dice(2) ? FAILS_BEFORE : FAILS_AFTER;
    trace(" %d:%s%s", me->index, what,
          f == FAILS_BEFORE  ? "(fails)"
          : f == FAILS_AFTER ? "(unheard)"
                             : "");
    return f;
}

static inline int lost(sbx_code code, sbx_err *e)
{
    return sbx_fail(e, code, "the answer was lost");
}

/* --- the container and its agent --- */

/* What ran in it is gone, and with it the channels. */
static inline void box_ends(box_state to)
{
    bool ran = w.box == BOX_RUNNING || w.box == BOX_PAUSED;

    w.box = to;
    w.agent_epoch = 0;
    for (int i = 0; i < SERVERS; i++) {
        server *s = &servers[i];

        if (ran && s->alive && (s->answered || dice(3)))
            s->looks++;
        s->holding = s->answered = false;
    }
}

static inline bool is_box(const char *id_or_name)
{
    char id[24];

    snprintf(id, sizeof id, "box%u", w.box_number);
    return w.box != BOX_NONE && (strcmp(id_or_name, w.name) == 0 || strcmp(id_or_name, id) == 0);
}

static inline int no_box(sbx_err *e)
{
    return sbx_fail(e, SBX_E_NOT_FOUND, "No such container");
}

#define ENGINE_STEP(name)                                                                          \
    fault f = step(name);                                                                          \
    (void)e;                                                                                       \
    if (f == FAILS_BEFORE)                                                                         \
    return lost(SBX_E_ENGINE_UNAVAILABLE, er)
#define ENGINE_DONE return f == FAILS_AFTER ? lost(SBX_E_TIMEOUT, er) : 0

static int e_create(sbx_engine *e, const sbx_container_spec *spec, char ret_id[65], sbx_err *er)
{
    ENGINE_STEP("create");
    if (strcmp(spec->name, w.name) != 0)
        violated("a container is called %s", spec->name);
    if (w.box != BOX_NONE)
        return sbx_fail(er, SBX_E_CONFLICT, "name in use");
    w.box = BOX_CREATED;
    w.box_number++;
    snprintf(ret_id, 65, "box%u", w.box_number);
    ENGINE_DONE;
}

static int e_attach(sbx_engine *e, const char *id, sbx_engine_conn **ret, sbx_err *er)
{
    ENGINE_STEP("attach");
    if (!is_box(id))
        return no_box(er);
    if (f == FAILS_AFTER)
        return lost(SBX_E_ENGINE_UNAVAILABLE, er);
    *ret = (sbx_engine_conn *)&w;
    return 0;
}

static int e_start(sbx_engine *e, const char *id, sbx_err *er)
{
    ENGINE_STEP("start");
    if (!is_box(id))
        return no_box(er);
    if (w.box == BOX_PAUSED)
        return sbx_fail(er, SBX_E_CONFLICT, "cannot start a paused container");
    w.box = BOX_RUNNING;
    ENGINE_DONE;
}

/* Nobody may end what the database says is in use. */
static inline void must_not_be_in_use(const char *what)
{
    PGresult *r = PQexec(outside, "SELECT state FROM sandboxes");

    if (PQntuples(r) == 1 && (w.box == BOX_RUNNING || w.box == BOX_PAUSED) &&
        (strcmp(PQgetvalue(r, 0, 0), "running") == 0 || strcmp(PQgetvalue(r, 0, 0), "paused") == 0))
        violated("the container of a sandbox that is %s was %s", PQgetvalue(r, 0, 0), what);
    PQclear(r);
}

static int e_stop(sbx_engine *e, const char *id, int grace_s, sbx_err *er)
{
    (void)grace_s;
    ENGINE_STEP("stop");
    if (!is_box(id))
        return no_box(er);
    must_not_be_in_use("stopped");
    if (w.box == BOX_RUNNING || w.box == BOX_PAUSED)
        box_ends(BOX_EXITED);
    ENGINE_DONE;
}

static int e_pause(sbx_engine *e, const char *id, sbx_err *er)
{
    ENGINE_STEP("pause");
    if (!is_box(id))
        return no_box(er);
    if (w.box != BOX_RUNNING)
        return sbx_fail(er, SBX_E_CONFLICT, "container is not running or paused already");
    w.box = BOX_PAUSED;
    ENGINE_DONE;
}

static int e_unpause(sbx_engine *e, const char *id, sbx_err *er)
{
    ENGINE_STEP("unpause");
    if (!is_box(id))
        return no_box(er);
    if (w.box != BOX_PAUSED)
        return sbx_fail(er, SBX_E_CONFLICT, "container is not paused");
    w.box = BOX_RUNNING;
    ENGINE_DONE;
}

static int e_remove(sbx_engine *e, const char *id, sbx_err *er)
{
    ENGINE_STEP("remove");
    if (is_box(id)) {
        must_not_be_in_use("removed");
        box_ends(BOX_NONE);
    }
    ENGINE_DONE;
}

static void box_info(sbx_container_info *ret)
{
    static const char *const names[] = {"", "created", "running", "paused", "exited"};

    *ret = (sbx_container_info){.exit_code = w.box == BOX_EXITED ? 137 : 0};
    snprintf(ret->id, sizeof ret->id, "box%u", w.box_number);
    sbx_copy(ret->name, sizeof ret->name, w.name);
    sbx_copy(ret->sandbox_id, sizeof ret->sandbox_id, w.id);
    sbx_copy(ret->state, sizeof ret->state, names[w.box]);
}

static int e_inspect(sbx_engine *e, const char *id, sbx_container_info *ret, sbx_err *er)
{
    ENGINE_STEP("inspect");
    if (f == FAILS_AFTER)
        return lost(SBX_E_TIMEOUT, er);
    if (!is_box(id))
        return no_box(er);
    box_info(ret);
    return 0;
}

static int e_list(sbx_engine *e, const char *cluster, sbx_container_info **ret, size_t *ret_count,
                  sbx_err *er)
{
    (void)cluster;
    ENGINE_STEP("list");
    if (f == FAILS_AFTER)
        return lost(SBX_E_TIMEOUT, er);
    *ret_count = w.box != BOX_NONE;
    *ret = sbx_alloc(sizeof **ret);
    if (*ret_count)
        box_info(*ret);
    return 0;
}

static int e_image(sbx_engine *e, const char *image, sbx_image_info *ret, sbx_err *er)
{
    (void)image;
    ENGINE_STEP("image");
    if (f == FAILS_AFTER)
        return lost(SBX_E_TIMEOUT, er);
    *ret = (sbx_image_info){.user = sbx_strdup("")};
    return 0;
}

static int e_volume(sbx_engine *e, const char *volume, const char *cluster,
                    const sbx_volume_file *files, size_t count, sbx_err *er)
{
    (void)e, (void)volume, (void)cluster, (void)files, (void)count, (void)er;
    return 0;
}

static void e_forget(sbx_engine *e, const char *volume)
{
    (void)e, (void)volume;
}

/* --- channels: what the service sees of the agent --- */

struct sbx_greeting {
    server *s;
    uint64_t epoch;
    unsigned box;
};

static inline server *server_of(sbx_channels *c)
{
    return (server *)c;
}

sbx_greeting *sbx_channels_open(sbx_channels *c, const sbx_channel_hello *hello,
                                const sbx_pairs *env, sbx_engine_conn *conn)
{
    sbx_greeting *g = sbx_alloc(sizeof *g);

    (void)env, (void)conn;
    *g = (sbx_greeting){server_of(c), hello->epoch, w.box_number};
    if (!me || !me->dead) {
        g->s->holding = true;
        g->s->answered = false;
        g->s->holding_of = w.box_number;
    }
    return g;
}

/* The agent of a running container answers the highest epoch. */
static inline bool greet(const sbx_greeting *g)
{
    bool ok = w.box == BOX_RUNNING && g->box == w.box_number && g->s->holding &&
              g->epoch >= w.agent_epoch;

    if (!ok) {
        g->s->holding = g->s->answered = false;
        return false;
    }
    for (int i = 0; i < SERVERS; i++)
        if (&servers[i] != g->s)
            servers[i].holding = servers[i].answered = false;
    w.agent_epoch = g->epoch;
    g->s->answered = true;
    return true;
}

int sbx_greeting_wait(sbx_greeting *g, int64_t ms, sbx_err *er)
{
    (void)ms;
    fault f = step("greet");
    bool ok = f == GOES_WELL && greet(g);

    if (!ok && (!me || !me->dead))
        g->s->holding = g->s->answered = false;
    free(g);
    return ok ? 0 : sbx_fail(er, SBX_E_TIMEOUT, "no answer");
}

void sbx_greeting_forget(sbx_greeting *g)
{
    if (!me || !me->dead)
        (void)greet(g);
    free(g);
}

void sbx_channels_close(sbx_channels *c, const char *sandbox, sbx_code why)
{
    (void)sandbox, (void)why;
    if (!me || !me->dead)
        server_of(c)->holding = server_of(c)->answered = false;
}

bool sbx_channels_has(sbx_channels *c, const char *sandbox)
{
    (void)sandbox;
    return server_of(c)->answered;
}

bool sbx_channels_owns(sbx_channels *c, const char *id)
{
    return sbx_channels_has(c, id);
}

bool sbx_channels_holds(sbx_channels *c, const char *sandbox)
{
    (void)sandbox;
    return server_of(c)->holding;
}

void sbx_channels_note(sbx_channels *c, const char *sandbox, const char *text)
{
    (void)c, (void)sandbox, (void)text;
}

void sbx_channels_note_wait(sbx_channels *c, const char *sandbox, const char *text, int64_t ms)
{
    (void)c, (void)sandbox, (void)text, (void)ms;
    (void)step("note");
}

void sbx_channels_stop(sbx_channels *c, const char *sandbox, int64_t grace_ms)
{
    (void)sandbox, (void)grace_ms;
    if (step("ask-to-stop") != FAILS_BEFORE && server_of(c)->answered && w.box == BOX_RUNNING)
        box_ends(BOX_EXITED);
}

bool sbx_channels_env_version(sbx_channels *c, const char *sandbox, uint64_t *ret)
{
    (void)sandbox;
    *ret = 0;
    return server_of(c)->answered;
}

void sbx_channels_pids(sbx_channels *c, const char *sandbox, int64_t pids)
{
    (void)c, (void)sandbox, (void)pids;
}

void sbx_channels_freeze(sbx_channels *c, const char *sandbox, bool frozen)
{
    (void)c, (void)sandbox, (void)frozen;
}

void sbx_channels_env(sbx_channels *c, const char *sandbox, uint64_t version, sbx_pairs *env)
{
    (void)c, (void)sandbox, (void)version;
    sbx_pairs_done(env);
}

/* No history has a main process. */
void sbx_channels_exec(sbx_channels *c, const char *sandbox, sbx_command_spec *spec,
                       const sbx_command_events *events, void *arg)
{
    (void)c, (void)sandbox, (void)spec, (void)events, (void)arg;
    abort();
}

/* --- what a server does later --- */

static inline void forget(void *arg)
{
    if (forgotten_count < FORGOTTEN_MAX)
        forgotten[forgotten_count++] = arg;
}

static inline void do_later(void (*fn)(void *arg), void *arg)
{
    server *s = me ? me->at : ticking;

    if ((me && me->dead) || s->later_count == LATER_MAX) {
        forget(arg);
        return;
    }
    s->later[s->later_count].fn = fn;
    s->later[s->later_count++].arg = arg;
}

void __wrap_sbx_stream_post(sbx_stream *s, sbx_msg_fn fn, void *arg);
void __wrap_sbx_stream_post(sbx_stream *s, sbx_msg_fn fn, void *arg)
{
    (void)s;
    do_later(fn, arg);
}

sbx_timer *__wrap_sbx_timer_new(sbx_stream *s, int64_t ms, void (*fn)(void *arg), void *arg);
sbx_timer *__wrap_sbx_timer_new(sbx_stream *s, int64_t ms, void (*fn)(void *arg), void *arg)
{
    (void)s, (void)ms;
    do_later(fn, arg);
    return NULL;
}

int __wrap_sbx_lanes_submit(sbx_lanes *l, sbx_lane lane, const sbx_job *job, sbx_err *er);
int __wrap_sbx_lanes_submit(sbx_lanes *l, sbx_lane lane, const sbx_job *job, sbx_err *er)
{
    (void)l, (void)lane, (void)er;
    do_later(job->run, job->arg);
    return 0;
}

/* The oldest thing that waits. */
static inline bool next_later(server *s)
{
    if (!s->later_count)
        return false;
    void (*fn)(void *arg) = s->later[0].fn;
    void *arg = s->later[0].arg;
    memmove(&s->later[0], &s->later[1], (size_t)--s->later_count * sizeof s->later[0]);
    fn(arg);
    return true;
}

/* --- the threads --- */

static void *actor_life(void *arg)
{
    me = arg;
    for (;;) {
        sem_wait(&me->go);
        if (ending)
            return NULL;
        me->op(me);
        me->busy = false;
        sem_post(&back);
    }
}

/* Let an actor run up to its next step, or to the end of what it does. */
static inline void run_actor(actor *a)
{
    sem_post(&a->go);
    sem_wait(&back);
}

static inline void assign(actor *a, void (*op)(actor *), unsigned arg, const char *what)
{
    trace("\n%d %s:", a->index, what);
    a->op = op;
    a->arg = arg;
    a->busy = true;
    a->dead = false;
    run_actor(a);
}

#endif
