/* Channels from several threads: workers that open, run commands, note, close and ask, agents that
 * answer, break off and break the protocol. For the thread sanitizer; the numbers at the end prove
 * that no command and no greeting was left without an answer, or got two. */
#include "../unit/channel_fixture.h"

#include "sbx/core/id.h"

#define WORKERS 4
#define ROUNDS  60
#define BOXES   3 /* fewer than workers: they replace each other's channels */

static sbx_channels *set;
static atomic_int begun, ended, opened, answered, lost, asked, listed;

static void on_log(void *arg, const char *id, const sbx_log_entry *entries, size_t count)
{
    (void)arg;
    sbx_channels_log_ack(set, id, entries[count - 1].seq);
}

static void on_lost(void *arg, const char *id, bool broken)
{
    (void)arg, (void)id, (void)broken;
    lost++;
}

static void on_started(void *arg, sbx_command *c, int64_t pid)
{
    (void)pid;
    if ((intptr_t)arg & 1)
        sbx_command_kill(c);
    else
        sbx_command_detach(c);
}

static void on_output(void *arg, sbx_command *c, bool is_stderr, const char *data, size_t len)
{
    (void)arg, (void)is_stderr, (void)data;
    sbx_command_grant(c, (int64_t)len);
}

static void on_exit_told(void *arg, const sbx_command_exit *e)
{
    (void)arg, (void)e;
    ended++;
}

static void on_failed(void *arg, const sbx_err *err)
{
    (void)arg, (void)err;
    ended++;
}

static const sbx_command_events events = {on_started, on_output, on_exit_told, on_failed};

static void on_entry(void *arg, const sbx_command_entry *e)
{
    (void)arg, (void)e;
}

static void on_listed(void *arg, const sbx_err *err)
{
    (void)arg, (void)err;
    listed++;
}

static const sbx_list_events list_events = {on_entry, on_listed};

static void on_news(void *arg, const char *id, const sbx_command_entry *e)
{
    (void)arg, (void)id, (void)e;
}

static void tell_entry(agent *a, const char *id)
{
    fields f = {.len = 0};

    add_text(&f, SBX_T_EXEC_ID, id);
    add_text(&f, SBX_T_ARG, "true");
    agent_frame(a, SBX_F_ENTRY, 0, f.data, f.len);
}

/* An agent as a thread: answers the greeting and some commands, then goes in one way or another. */
typedef struct actor {
    agent a;
    uint64_t epoch;
    int way;
} actor;

static void *act(void *arg)
{
    actor *x = arg;
    unsigned char log[64];
    sbx_log_entry e = {.seq = 1, .len = 2, .data = "hi"};

    if (agent_hello(&x->a) && x->way != 3) {
        bool newer = x->epoch % 2;

        if (newer)
            agent_welcome_2(&x->a, x->epoch);
        else
            agent_welcome(&x->a, x->epoch);
        agent_frame(&x->a, SBX_F_LOG, 0, log, sbx_log_entry_put(log, sizeof(log), &e));
        for (int i = 0; i < 4 && agent_read_until(&x->a, SBX_F_EXEC); i++) {
            uint32_t req = x->a.frame.req;

            agent_num(&x->a, SBX_F_STARTED, req, SBX_T_PID, 7);
            if (newer) {
                agent_chunk(&x->a, req, 1, "out", 3);
                tell_entry(&x->a, "bbbbbbbbbbbbbbbbbbbb");
            } else {
                agent_output(&x->a, req, "out", 3);
            }
            if (x->way != 1)
                agent_num(&x->a, SBX_F_EXIT, req, SBX_T_EXIT_CODE, 0);
        }
        if (x->way == 2)
            agent_frame(&x->a, SBX_F_WELCOME, 0, NULL, 0);
    }
    close(x->a.fd);
    free(x);
    return NULL;
}

static void run_command(const char *id, intptr_t n)
{
    sbx_command_spec spec = {.window = 100};

    sbx_copy(spec.exec_id, sizeof(spec.exec_id), sbx_id_new().s);
    spec.argv.items = sbx_alloc(2 * sizeof(char *));
    spec.argv.items[spec.argv.count++] = sbx_strdup("true");
    begun++;
    sbx_channels_exec(set, id, &spec, &events, (void *)n);
}

static void round_of(int worker, int n)
{
    static atomic_uint_fast64_t epochs;
    actor *x = sbx_alloc(sizeof(*x));
    char id[SBX_ID_LEN + 1];
    pthread_t agent_thread;
    sbx_err err;

    memset(id, 'a' + (worker + n) % BOXES, SBX_ID_LEN);
    id[SBX_ID_LEN] = '\0';
    x->epoch = ++epochs;
    x->way = n % 5;
    sbx_greeting *g = channel_open(set, id, x->epoch, &x->a);
    opened++;
    if (pthread_create(&agent_thread, NULL, act, x))
        abort();
    if (n % 7 == 6) {
        sbx_greeting_forget(g);
        answered++;
    } else {
        (void)!sbx_greeting_wait(g, n % 11 == 10 ? 1 : WAIT_MS, &err);
        answered++;
    }
    for (int i = 0; i < 5; i++)
        run_command(id, i);
    for (int i = 0; i < 2; i++) {
        asked++;
        sbx_channels_list(set, id, NULL, &list_events, NULL);
        begun++;
        sbx_channels_attach(set, id, "bbbbbbbbbbbbbbbbbbbb", 1, 100, i, &events, (void *)2);
    }
    (void)sbx_channels_version(set, id);
    sbx_channels_note(set, id, "a note");
    (void)sbx_channels_has(set, id);
    (void)sbx_channels_holds(set, id);
    (void)sbx_channels_count(set);
    if (n % 3 == 0) /* otherwise the agent ends it, or another worker */
        sbx_channels_close(set, id, n % 2 ? SBX_E_GONE : SBX_E_ENGINE);
    pthread_join(agent_thread, NULL);
}

static void *work(void *arg)
{
    for (int n = 0; n < ROUNDS; n++)
        round_of((int)(intptr_t)arg, n);
    return NULL;
}

int main(void)
{
    static const sbx_channel_events watch = {.log = on_log, .lost = on_lost, .news = on_news};
    pthread_t threads[WORKERS];
    sbx_err err = {0};
    sbx_stream *stream = sbx_stream_new(&err);

    if (!stream)
        return 1;
    set = sbx_channels_new(stream);
    sbx_channels_watch(set, &watch);
    for (intptr_t i = 0; i < WORKERS; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)i))
            abort();
    for (int i = 0; i < WORKERS; i++)
        pthread_join(threads[i], NULL);
    sbx_channels_shutdown(set);
    sbx_stream_free(stream);
    sbx_channels_free(set);
    printf("race_channel: %d channels, %d answered, %d commands, %d ended, %d lost, %d open\n",
           opened, answered, begun, ended, lost, conns_open);
    return opened == answered && begun == ended && asked == listed && conns_open == 0 ? 0 : 1;
}
