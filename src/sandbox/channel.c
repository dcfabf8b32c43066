/* The connections to the agents: greeting, frames in and out, loss. See channel.h.
 *
 * A greeting is shared by the worker that waits for it and by STREAM that answers it; whichever
 * lets go last frees it. */
#include "channel_priv.h"

#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include <stdatomic.h>
#include <sys/epoll.h>
#include <time.h>
#include <utlist.h>

#define RECV_BYTES   (256 * KIB)
#define RECV_ROUNDS  4 /* per wake-up, so that one loud sandbox does not starve the others */
#define PING_MS      60000
#define MAX_ENTRIES  512 /* log entries handed on at once */
#define MARKER_BYTES (SBX_PROTO_MARKER_BYTES + 8)
#define MAX_IN_BYTES (RECV_BYTES + 2 * SBX_PROTO_MAX_FROM_AGENT)

struct sbx_greeting {
    pthread_mutex_t mu;
    pthread_cond_t answered;
    int refs; /* guarded by mu, as all below */
    bool done, ok;
    char why[200];
    sbx_channels *set;
    char sandbox[SBX_ID_LEN + 1];
};

static void greeting_unref(sbx_greeting *g)
{
    pthread_mutex_lock(&g->mu);
    int left = --g->refs;
    pthread_mutex_unlock(&g->mu);
    if (left)
        return;
    pthread_cond_destroy(&g->answered);
    pthread_mutex_destroy(&g->mu);
    free(g);
}

static void greeting_answer(channel *ch, bool ok, const char *why)
{
    sbx_greeting *g = sbx_steal(ch->greeting);

    if (!g)
        return;
    pthread_mutex_lock(&g->mu);
    g->done = true;
    g->ok = ok;
    if (!*g->why) /* the agent's own last words say more */
        sbx_copy(g->why, sizeof(g->why), why);
    pthread_cond_signal(&g->answered);
    pthread_mutex_unlock(&g->mu);
    greeting_unref(g);
}

/* --- ending a channel --- */

channel *channel_find(sbx_channels *c, const char *id)
{
    channel *ch;

    SBX_ASSERT_THREAD(SBX_T_STREAM);
    HASH_FIND_STR(c->all, id, ch);
    return ch;
}

channel *channel_owned(sbx_channels *c, const char *id)
{
    channel *ch = channel_find(c, id);

    return ch && ch->ready && !ch->bridge ? ch : NULL;
}

typedef enum told { TELL_NOBODY, TELL_LOST, TELL_BROKEN } told;

static void take_out(channel *ch)
{
    sbx_channels *c = ch->set;

    if (ch->retired) {
        LL_DELETE2(c->retired, ch, next_retired);
        return;
    }
    pthread_mutex_lock(&c->mu);
    HASH_DEL(c->all, ch);
    pthread_mutex_unlock(&c->mu);
}

static void channel_end(channel *ch, sbx_code why, const char *text, told tell)
{
    sbx_channels *c = ch->set;

    take_out(ch);
    bool was_ready = ch->ready;
    ch->ready = false;
    greeting_answer(ch, false, text);
    commands_fail(ch, why, text);
    questions_fail(ch, why, text);
    listing_no_activity(ch);
    channel_drains_over(ch, 0);
    sbx_timer_free(ch->late);
    sbx_timer_free(ch->again);
    sbx_watch_free(ch->watch);
    sbx_engine_conn_close(ch->conn);
    if (tell != TELL_NOBODY && was_ready && !ch->bridge && c->events.lost)
        c->events.lost(c->events.arg, ch->id, tell == TELL_BROKEN);
    sbx_pairs_done(&ch->env);
    sbx_buf_done(&ch->in);
    sbx_buf_done(&ch->out);
    free(ch);
}

static void channel_lost(channel *ch, const char *text)
{
    sbx_log(SBX_DEBUG, "channel ended", "sandbox", ch->id, "why", text, NULL);
    channel_end(ch, SBX_E_ENGINE, text, TELL_LOST);
}

static void channel_broken(channel *ch, const char *text)
{
    sbx_log(SBX_WARN, "channel ended", "sandbox", ch->id, "why", text, NULL);
    channel_end(ch, SBX_E_ENGINE, text, TELL_BROKEN);
}

/* --- sending --- */

static void watch_for(channel *ch, bool want_write)
{
    if (ch->want_write == want_write)
        return;
    ch->want_write = want_write;
    sbx_watch_events(ch->watch, want_write ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

/* A broken connection is noticed by the reader, who alone ends the channel: nobody who sends may
 * find it freed under his hands. */
void channel_flush(channel *ch)
{
    sbx_err err;
    size_t sent = 0;

    while (sent < ch->out.len) {
        ssize_t n = sbx_engine_conn_send(ch->conn, ch->out.data + sent, ch->out.len - sent, &err);

        if (n < 0) {
            sbx_buf_reset(&ch->out);
            watch_for(ch, false);
            return;
        }
        if (n == 0)
            break;
        sent += (size_t)n;
    }
    if (sent == ch->out.len)
        sbx_buf_done(&ch->out);
    else
        sbx_buf_consume(&ch->out, sent);
    watch_for(ch, ch->out.len > 0);
}

bool channel_send(channel *ch, uint8_t type, uint32_t req, const void *payload, size_t len)
{
    unsigned char head[SBX_PROTO_HEADER_BYTES];

    if (ch->out.len + len + sizeof(head) > MAX_OUT_BYTES)
        return false;
    sbx_frame_put_header(head, (uint32_t)len, type, (uint16_t)ch->epoch, req);
    sbx_buf_add(&ch->out, head, sizeof(head));
    sbx_buf_add(&ch->out, payload, len);
    return true;
}

void channel_send_num(channel *ch, uint8_t type, uint32_t req, uint16_t tag, uint64_t value)
{
    unsigned char payload[32];
    size_t n = sbx_field_put_num(payload, sizeof(payload), tag, value);

    channel_send(ch, type, req, payload, n);
    channel_flush(ch);
}

static void send_hello(channel *ch, const sbx_channel_hello *h)
{
    unsigned char payload[1024];
    size_t n = 0;

    sbx_buf_add(&ch->out, SBX_PROTO_MAGIC, SBX_PROTO_MAGIC_BYTES);
    sbx_buf_add(&ch->out, ch->token, sizeof(ch->token));
    n += sbx_field_put_num(payload + n, sizeof(payload) - n, SBX_T_EPOCH, ch->epoch);
    n += sbx_field_put_num(payload + n, sizeof(payload) - n, SBX_T_LOG_FROM, h->log_from);
    n += sbx_field_put_num(payload + n, sizeof(payload) - n, SBX_T_LIFETIME_S,
                           (uint64_t)h->lifetime_s);
    n += sbx_field_put_num(payload + n, sizeof(payload) - n, SBX_T_PIDS, (uint64_t)h->pids);
    n += sbx_field_put(payload + n, sizeof(payload) - n, SBX_T_USER, h->image_user,
                       (uint32_t)strnlen(h->image_user, 512));
    channel_send(ch, SBX_F_HELLO, 0, payload, n);
}

/* --- receiving --- */

/* The main process is no activity: it may run for ever. */
static bool adopt_commands(channel *ch, const sbx_frame *f)
{
    sbx_command *last = NULL;
    sbx_fields fields;
    sbx_field field;
    int more;

    sbx_fields_init(&fields, f->payload, f->len);
    while ((more = sbx_fields_next(&fields, &field)) == 1) {
        if (last && !(field.tag == SBX_T_FLAGS && (field.num & SBX_EXEC_MAIN)))
            command_is_busy(last);
        last = field.tag == SBX_T_EXEC_ID && field.len <= SBX_ID_LEN
                   ? command_adopt(ch, field.data, field.len)
                   : NULL;
    }
    if (last)
        command_is_busy(last);
    return more == 0;
}

static bool take_welcome(channel *ch, const sbx_frame *f)
{
    uint64_t n[SBX_T_MAIN + 1] = {0};

    if (ch->ready || !frame_nums(f, n, ARRAY_LEN(n)))
        return false;
    ch->version = (int)SBX_MAX(SBX_MIN(n[SBX_T_VERSION], (uint64_t)SBX_PROTO_VERSION), 1u);
    pthread_mutex_lock(&ch->set->mu);
    ch->ready = true;
    pthread_mutex_unlock(&ch->set->mu);
    sbx_timer_free(sbx_steal(ch->late));
    if (!ch->bridge && ch->version >= 2)
        question_news(ch);
    else if (!ch->bridge && !adopt_commands(ch, f))
        return false;
    greeting_answer(ch, true, "");
    if (ch->bridge)
        return true;
    if (ch->adopted && !n[SBX_T_MAIN] && ch->set->events.no_main)
        ch->set->events.no_main(ch->set->events.arg, ch->id);
    return true;
}

static bool take_log(channel *ch, const sbx_frame *f)
{
    sbx_log_entry entries[MAX_ENTRIES];
    sbx_fields fields;
    size_t n = 0;
    int more;

    sbx_fields_init(&fields, f->payload, f->len);
    while ((more = sbx_log_entry_take(&fields, &entries[n])) == 1) {
        if (++n < MAX_ENTRIES)
            continue;
        ch->set->events.log(ch->set->events.arg, ch->id, entries, n);
        n = 0;
    }
    if (n)
        ch->set->events.log(ch->set->events.arg, ch->id, entries, n);
    return more == 0;
}

static bool take_frame(channel *ch, const sbx_frame *f)
{
    if (!ch->ready && f->type != SBX_F_WELCOME)
        return false;
    switch (f->type) {
    case SBX_F_WELCOME:
        return take_welcome(ch, f);
    case SBX_F_LOG:
        return !ch->bridge && (ch->log_again || take_log(ch, f));
    case SBX_F_PONG:
        if (f->req && f->req == ch->log_again)
            ch->log_again = 0;
        else if (f->req)
            channel_drains_over(ch, f->req);
        return true;
    case SBX_F_ENTRY:
    case SBX_F_LISTED:
        return ch->version >= 2 && listing_frame(ch, f);
    case SBX_F_FAIL:
        return question_refused(ch, f->req) || command_frame(ch, f);
    case SBX_F_SAMPLE:
        return ch->version >= 2 && sample_frame(ch, f);
    default:
        return command_frame(ch, f);
    }
}

/* Before the answer to our greeting there may be the rest of what an earlier owner was sent.
 * @return false while the marker has not come. */
static bool skip_to_marker(channel *ch)
{
    unsigned char marker[MARKER_BYTES];

    memcpy(marker, SBX_PROTO_MAGIC, SBX_PROTO_MAGIC_BYTES);
    memcpy(marker + SBX_PROTO_MAGIC_BYTES, ch->token, sizeof(ch->token));
    for (int i = 0; i < 8; i++)
        marker[SBX_PROTO_MARKER_BYTES + i] = (unsigned char)(ch->epoch >> 8 * i);
    const char *at = ch->in.len ? memmem(ch->in.data, ch->in.len, marker, sizeof(marker)) : NULL;
    if (at) {
        sbx_buf_consume(&ch->in, (size_t)(at - ch->in.data) + sizeof(marker));
        return true;
    }
    if (ch->in.len > MARKER_BYTES)
        sbx_buf_consume(&ch->in, ch->in.len - MARKER_BYTES + 1);
    return false;
}

/* Take all whole frames out of the buffer. @return what is wrong with them, or NULL. */
static const char *take_frames(channel *ch)
{
    size_t at = 0;

    if (!ch->marked && !skip_to_marker(ch))
        return NULL;
    ch->marked = true;
    for (;;) {
        sbx_frame f;
        long n = sbx_frame_take((unsigned char *)ch->in.data + at, ch->in.len - at,
                                SBX_PROTO_MAX_FROM_AGENT, &f);

        if (n < 0)
            return "the agent sent a malformed frame";
        if (n == 0)
            break;
        if (!take_frame(ch, &f))
            return "the agent broke the protocol";
        at += (size_t)n;
    }
    if (at == ch->in.len)
        sbx_buf_done(&ch->in);
    else
        sbx_buf_consume(&ch->in, at);
    return NULL;
}

static void log_agent_stderr(channel *ch, const char *data, ssize_t n)
{
    char line[256];

    sbx_copy(line, sizeof(line), "");
    memcpy(line, data, SBX_MIN((size_t)n, sizeof(line) - 1));
    line[SBX_MIN((size_t)n, sizeof(line) - 1)] = '\0';
    sbx_log(SBX_DEBUG, "agent's stderr", "sandbox", ch->id, "text", line, NULL);
    if (ch->greeting) {
        pthread_mutex_lock(&ch->greeting->mu);
        sbx_copy(ch->greeting->why, sizeof(ch->greeting->why), line);
        pthread_mutex_unlock(&ch->greeting->mu);
    }
}

static void on_socket(void *arg, uint32_t events);

static void on_again(void *arg)
{
    channel *ch = arg;

    ch->again = NULL;
    on_socket(ch, EPOLLIN);
}

static void on_socket(void *arg, uint32_t events)
{
    channel *ch = arg;
    sbx_err err;

    if (events & EPOLLOUT)
        channel_flush(ch);
    for (int round = 0; round < RECV_ROUNDS; round++) {
        int stream = 1;
        ssize_t n = sbx_engine_conn_recv(ch->conn, &stream, ch->set->scratch, RECV_BYTES, &err);

        if (n < 0) {
            channel_lost(ch, "the container ended or the engine closed the connection");
            return;
        }
        if (n == 0)
            return;
        if (stream != 1) {
            log_agent_stderr(ch, ch->set->scratch, n);
            continue;
        }
        sbx_buf_add(&ch->in, ch->set->scratch, (size_t)n);
        const char *wrong = sbx_buf_failed(&ch->in) ? "too many bytes" : take_frames(ch);
        if (wrong) {
            channel_broken(ch, wrong);
            return;
        }
    }
    /* With TLS what is left may stand in the library's buffer, of which no event tells. */
    if (!ch->again)
        ch->again = sbx_timer_new(ch->set->stream, 0, on_again, ch);
}

/* --- opening --- */

static void on_late(void *arg)
{
    channel *ch = arg;

    ch->late = NULL;
    channel_lost(ch, "the sandbox's agent did not answer");
}

typedef struct opening {
    sbx_channels *set;
    channel *ch;
    sbx_channel_hello hello;
    char *image_user;
} opening;

static void drop_unopened(opening *o)
{
    channel *ch = o->ch;

    greeting_answer(ch, false, "there is a channel already");
    sbx_engine_conn_close(ch->conn);
    sbx_pairs_done(&ch->env);
    free(ch);
    free(o->image_user);
    free(o);
}

static bool bridge_is_used(const channel *ch)
{
    return ch->commands || ch->questions;
}

/* This worker has become the holder. An upload, for one, cannot be gone on with on another channel.
 */
static void retire(channel *bridge)
{
    take_out(bridge);
    bridge->retired = true;
    LL_PREPEND2(bridge->set->retired, bridge, next_retired);
}

static void open_on_stream(void *arg)
{
    opening *o = arg;
    channel *ch = o->ch, *old = channel_find(o->set, ch->id);
    sbx_channels *c = o->set;

    if (old && ch->bridge) { /* whoever else wanted one was faster */
        drop_unopened(o);
        return;
    }
    if (old && old->bridge && bridge_is_used(old))
        retire(old);
    else if (old)
        channel_end(old, SBX_E_ENGINE, "the channel was opened anew", TELL_NOBODY);
    pthread_mutex_lock(&c->mu);
    HASH_ADD_STR(c->all, id, ch);
    pthread_mutex_unlock(&c->mu);
    ch->watch = sbx_stream_watch(c->stream, sbx_engine_conn_fd(ch->conn), EPOLLIN, on_socket, ch);
    o->hello.image_user = o->image_user;
    send_hello(ch, &o->hello);
    channel_flush(ch);
    if (c->closed)
        channel_end(ch, SBX_E_CAPACITY, "the server is stopping", TELL_NOBODY);
    free(o->image_user);
    free(o);
}

sbx_greeting *sbx_channels_open(sbx_channels *c, const sbx_channel_hello *hello,
                                const sbx_pairs *env, sbx_engine_conn *conn)
{
    channel *ch = sbx_alloc(sizeof(*ch));
    sbx_greeting *g = sbx_alloc(sizeof(*g));
    opening *o = sbx_alloc(sizeof(*o));

    pthread_mutex_init(&g->mu, NULL);
    pthread_cond_init(&g->answered, NULL);
    g->refs = 2;
    g->set = c;
    memcpy(g->sandbox, hello->sandbox, sizeof(g->sandbox));
    memcpy(ch->id, hello->sandbox, sizeof(ch->id));
    memcpy(ch->token, hello->token, sizeof(ch->token));
    ch->set = c;
    ch->conn = conn;
    ch->epoch = hello->epoch;
    ch->greeting = g;
    sbx_buf_init(&ch->in, MAX_IN_BYTES);
    sbx_buf_init(&ch->out, MAX_OUT_BYTES + KIB);
    ch->env_version = hello->env_version;
    ch->adopted = hello->adopted;
    ch->bridge = ch->used = hello->bridge;
    ch->pids = hello->pids;
    ch->env.names = sbx_alloc((env->count + 1) * sizeof(char *));
    ch->env.values = sbx_alloc((env->count + 1) * sizeof(char *));
    for (; ch->env.count < env->count; ch->env.count++) {
        ch->env.names[ch->env.count] = sbx_strdup(env->names[ch->env.count]);
        ch->env.values[ch->env.count] = sbx_strdup(env->values[ch->env.count]);
    }
    *o =
        (opening){.set = c, .ch = ch, .hello = *hello, .image_user = sbx_strdup(hello->image_user)};
    sbx_stream_post(c->stream, open_on_stream, o);
    return g;
}

struct timespec channel_in_ms(int64_t ms)
{
    int64_t at = sbx_now_ms() + ms;

    return (struct timespec){.tv_sec = (time_t)(at / 1000), .tv_nsec = (long)(at % 1000) * 1000000};
}

int sbx_greeting_wait(sbx_greeting *g, int64_t ms, sbx_err *err)
{
    struct timespec at = channel_in_ms(ms);
    int rc = 0;

    pthread_mutex_lock(&g->mu);
    while (!g->done && !rc)
        rc = pthread_cond_clockwait(&g->answered, &g->mu, CLOCK_MONOTONIC, &at);
    bool done = g->done, ok = g->ok;
    if (!done)
        sbx_fail(err, SBX_E_TIMEOUT, "the sandbox's agent did not answer within %lld ms",
                 (long long)ms);
    else if (!ok)
        sbx_fail(err, SBX_E_ENGINE, "the sandbox's agent could not start: %s", g->why);
    pthread_mutex_unlock(&g->mu);
    if (!done)
        sbx_channels_close(g->set, g->sandbox, SBX_E_TIMEOUT);
    greeting_unref(g);
    return ok ? 0 : -1;
}

/* --- messages to STREAM --- */

typedef struct message {
    sbx_channels *set;
    char sandbox[SBX_ID_LEN + 1];
    sbx_code why;
} message;

static void post(sbx_channels *c, const char *sandbox, sbx_code why, sbx_msg_fn fn)
{
    message *m = sbx_alloc(sizeof(*m));

    *m = (message){.set = c, .why = why};
    sbx_copy(m->sandbox, sizeof(m->sandbox), sandbox);
    sbx_stream_post(c->stream, fn, m);
}

static void close_on_stream(void *arg)
{
    message *m = arg;
    channel *ch = channel_find(m->set, m->sandbox);

    if (ch)
        channel_end(ch, m->why,
                    m->why == SBX_E_GONE ? "the sandbox was deleted" : "the channel was closed",
                    TELL_NOBODY);
    free(m);
}

void sbx_channels_close(sbx_channels *c, const char *sandbox, sbx_code why)
{
    post(c, sandbox, why, close_on_stream);
}

static void expect_on_stream(void *arg)
{
    message *m = arg;
    channel *ch = channel_find(m->set, m->sandbox);

    if (ch && !ch->ready && !ch->late)
        ch->late = sbx_timer_new(m->set->stream, SBX_GREETING_MS, on_late, ch);
    free(m);
}

/* Who waits has a time-out of its own, which begins after the container was started. */
void sbx_greeting_forget(sbx_greeting *g)
{
    post(g->set, g->sandbox, SBX_OK, expect_on_stream);
    greeting_unref(g);
}

bool sbx_channels_has(sbx_channels *c, const char *sandbox)
{
    channel *ch;

    pthread_mutex_lock(&c->mu);
    HASH_FIND_STR(c->all, sandbox, ch);
    bool ready = ch && ch->ready;
    pthread_mutex_unlock(&c->mu);
    return ready;
}

bool sbx_channels_owns(sbx_channels *c, const char *sandbox)
{
    channel *ch;

    pthread_mutex_lock(&c->mu);
    HASH_FIND_STR(c->all, sandbox, ch);
    bool owned = ch && ch->ready && !ch->bridge;
    pthread_mutex_unlock(&c->mu);
    return owned;
}

int sbx_channels_version(sbx_channels *c, const char *sandbox)
{
    channel *ch;

    pthread_mutex_lock(&c->mu);
    HASH_FIND_STR(c->all, sandbox, ch);
    int version = ch && ch->ready ? ch->version : 0;
    pthread_mutex_unlock(&c->mu);
    return version;
}

bool sbx_channels_holds(sbx_channels *c, const char *sandbox)
{
    channel *ch;

    pthread_mutex_lock(&c->mu);
    HASH_FIND_STR(c->all, sandbox, ch);
    bool held = ch && !ch->bridge;
    pthread_mutex_unlock(&c->mu);
    return held;
}

size_t sbx_channels_count(sbx_channels *c)
{
    pthread_mutex_lock(&c->mu);
    size_t n = HASH_COUNT(c->all);
    pthread_mutex_unlock(&c->mu);
    return n;
}

typedef struct setting {
    sbx_channels *set;
    char sandbox[SBX_ID_LEN + 1];
    void (*fn)(channel *ch, int64_t value);
    int64_t value;
} setting;

static void set_on_stream(void *arg)
{
    setting *s = arg;
    channel *ch = channel_find(s->set, s->sandbox);

    if (ch)
        s->fn(ch, s->value);
    free(s);
}

static void set_later(sbx_channels *c, const char *sandbox, void (*fn)(channel *ch, int64_t value),
                      int64_t value)
{
    setting *s = sbx_alloc(sizeof(*s));

    *s = (setting){.set = c, .fn = fn, .value = value};
    sbx_copy(s->sandbox, sizeof(s->sandbox), sandbox);
    sbx_stream_post(c->stream, set_on_stream, s);
}

static void set_frozen(channel *ch, int64_t frozen)
{
    ch->frozen = frozen != 0;
}

static void set_pids(channel *ch, int64_t pids)
{
    ch->pids = pids;
}

void sbx_channels_freeze(sbx_channels *c, const char *sandbox, bool frozen)
{
    set_later(c, sandbox, set_frozen, frozen);
}

void sbx_channels_pids(sbx_channels *c, const char *sandbox, int64_t pids)
{
    set_later(c, sandbox, set_pids, pids);
}

/* --- the set --- */

/* The agent's dead-man's switch counts from the last frame of its owner. */
static void ping_all(void *arg)
{
    sbx_channels *c = arg;

    for (channel *ch = c->all; ch; ch = ch->hh.next) {
        if (!ch->ready || ch->frozen)
            continue;
        channel_send(ch, SBX_F_PING, 0, NULL, 0);
        channel_flush(ch);
    }
    c->ping = sbx_timer_new(c->stream, PING_MS, ping_all, c);
}

static void end_idle_bridges(void *arg)
{
    sbx_channels *c = arg;

    for (channel *ch = c->all, *next; ch; ch = next) {
        next = ch->hh.next;
        if (ch->bridge && !ch->used && !bridge_is_used(ch))
            channel_end(ch, SBX_E_ENGINE, "nobody uses the bridge", TELL_NOBODY);
        else
            ch->used = bridge_is_used(ch); /* from their end on it is idle */
    }
    for (channel *ch = c->retired, *next; ch; ch = next) {
        next = ch->next_retired;
        if (!bridge_is_used(ch))
            channel_end(ch, SBX_E_ENGINE, "nobody uses the bridge", TELL_NOBODY);
    }
    c->idle = sbx_timer_new(c->stream, c->bridge_idle_ms, end_idle_bridges, c);
}

static void idle_on_stream(void *arg)
{
    sbx_channels *c = arg;

    c->idle = sbx_timer_new(c->stream, c->bridge_idle_ms, end_idle_bridges, c);
}

void sbx_channels_bridge_idle(sbx_channels *c, int64_t ms)
{
    c->bridge_idle_ms = ms;
    sbx_stream_post(c->stream, idle_on_stream, c);
}

static void start_on_stream(void *arg)
{
    sbx_channels *c = arg;

    c->ping = sbx_timer_new(c->stream, PING_MS, ping_all, c);
}

sbx_channels *sbx_channels_new(sbx_stream *stream)
{
    sbx_channels *c = sbx_alloc(sizeof(*c));

    c->stream = stream;
    c->scratch = sbx_alloc(RECV_BYTES);
    pthread_mutex_init(&c->mu, NULL);
    sbx_stream_post(stream, start_on_stream, c);
    return c;
}

void sbx_channels_watch(sbx_channels *c, const sbx_channel_events *events)
{
    c->events = *events;
}

static void shutdown_on_stream(void *arg)
{
    sbx_channels *c = arg;

    c->closed = true;
    while (c->all)
        channel_end(c->all, SBX_E_CAPACITY, "the server is stopping", TELL_NOBODY);
    while (c->retired)
        channel_end(c->retired, SBX_E_CAPACITY, "the server is stopping", TELL_NOBODY);
    sbx_timer_free(sbx_steal(c->ping));
    sbx_timer_free(sbx_steal(c->idle));
}

void sbx_channels_shutdown(sbx_channels *c)
{
    sbx_stream_post(c->stream, shutdown_on_stream, c);
}

void sbx_channels_free(sbx_channels *c)
{
    if (!c)
        return;
    pthread_mutex_destroy(&c->mu);
    free(c->scratch);
    free(c);
}
