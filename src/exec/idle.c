/* The end of terminals that nobody views: the worker that holds the channel asks the agent, which
 * knows the viewers of all workers. */
#include "exec_priv.h"

#include <signal.h>
#include <uthash.h>

#define LOOKS 10 /* within the time that a terminal may be alone */

typedef struct idle_terminal {
    sbx_execs *e;
    char id[SBX_ID_LEN + 1], sandbox[SBX_ID_LEN + 1];
    int64_t alone_since_ms; /* monotonic */
    bool hung_up;
    bool there, viewed; /* by the list under way */
    UT_hash_handle hh;
} idle_terminal;

static void drop(idle_terminal *t)
{
    HASH_DEL(t->e->terminals, t);
    free(t);
}

/* --- telling it --- */

static void on_started(void *arg, sbx_command *c, int64_t pid)
{
    (void)pid;
    if (arg)
        sbx_command_kill(c);
    else
        sbx_command_signal(c, SIGHUP, true);
    sbx_command_leave(c);
}

static void on_output(void *arg, sbx_command *c, bool is_stderr, const char *data, size_t len)
{
    (void)arg, (void)c, (void)is_stderr, (void)data, (void)len;
}

static void on_exit_told(void *arg, const sbx_command_exit *e)
{
    (void)arg, (void)e;
}

static void on_failed(void *arg, const sbx_err *err)
{
    (void)arg, (void)err;
}

static const sbx_command_events events = {
    .started = on_started, .output = on_output, .exit = on_exit_told, .failed = on_failed};

/* --- looking --- */

static void look(void *arg);

static void look_later(idle_terminal *t)
{
    const sbx_execs_config *c = &t->e->c;

    (void)sbx_timer_new(c->stream,
                        t->hung_up ? SBX_TERMINAL_GRACE_MS
                                   : SBX_MAX(c->terminal_idle_ms / LOOKS, (int64_t)1),
                        look, t);
}

static void on_entry(void *arg, const sbx_command_entry *e)
{
    idle_terminal *t = arg;

    t->there = !e->over;
    t->viewed = e->followers || !e->followers_known;
}

static void on_listed(void *arg, const sbx_err *err)
{
    idle_terminal *t = arg;
    const sbx_execs_config *c = &t->e->c;

    if (!err && !t->there) {
        drop(t);
        return;
    }
    if (err) { /* it may be paused: what nobody knows does not count */
        t->alone_since_ms = sbx_now_ms();
    } else if (t->viewed) {
        t->alone_since_ms = sbx_now_ms();
        t->hung_up = false;
    } else if (t->hung_up || sbx_now_ms() - t->alone_since_ms >= c->terminal_idle_ms) {
        sbx_channels_attach(c->channels, t->sandbox, t->id, 0, 0, true, &events,
                            t->hung_up ? (void *)&events : NULL); /* kill, or hang up */
        t->hung_up = true;
    }
    look_later(t);
}

static const sbx_list_events list_events = {on_entry, on_listed};

static void look(void *arg)
{
    idle_terminal *t = arg;

    t->there = t->viewed = false;
    if (sbx_channels_has(t->e->c.channels, t->sandbox))
        sbx_channels_list(t->e->c.channels, t->sandbox, t->id, &list_events, t);
    else
        drop(t); /* whoever holds it next hears of it again */
}

void terminal_news(sbx_execs *e, const char *sandbox, const sbx_command_entry *entry)
{
    idle_terminal *t;

    HASH_FIND_STR(e->terminals, entry->exec_id, t);
    if (t || entry->over || HASH_COUNT(e->terminals) >= SBX_MAX_TERMINALS)
        return;
    t = sbx_alloc(sizeof(*t));
    t->e = e;
    t->alone_since_ms = sbx_now_ms();
    memcpy(t->id, entry->exec_id, sizeof(t->id));
    sbx_copy(t->sandbox, sizeof(t->sandbox), sandbox);
    HASH_ADD_STR(e->terminals, id, t);
    look_later(t);
}

void terminals_free(sbx_execs *e)
{
    while (e->terminals)
        drop(e->terminals);
}
