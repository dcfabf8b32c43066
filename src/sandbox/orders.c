/* What the server tells an agent beside commands: lines for its log, the end, another env. Each is
 * a message to STREAM, and is dropped if there is no answered channel. */
#include "channel_priv.h"

#include "sbx/core/thread.h"

typedef struct order {
    sbx_channels *set;
    char sandbox[SBX_ID_LEN + 1];
    char *text;
    uint64_t number;
    sbx_pairs env;
    drain *d; /* STREAM's reference */
} order;

static order *order_new(sbx_channels *c, const char *sandbox)
{
    order *o = sbx_alloc(sizeof(*o));

    o->set = c;
    sbx_copy(o->sandbox, sizeof(o->sandbox), sandbox);
    return o;
}

static void drain_unref(drain *d)
{
    pthread_mutex_lock(&d->mu);
    int left = --d->refs;
    pthread_mutex_unlock(&d->mu);
    if (left)
        return;
    pthread_cond_destroy(&d->over);
    pthread_mutex_destroy(&d->mu);
    free(d);
}

static void drain_over(drain *d)
{
    pthread_mutex_lock(&d->mu);
    d->done = true;
    pthread_cond_signal(&d->over);
    pthread_mutex_unlock(&d->mu);
    drain_unref(d);
}

void channel_drains_over(channel *ch, uint32_t req)
{
    for (drain **at = &ch->drains; *at;) {
        drain *d = *at;

        if (req && d->req != req) {
            at = &d->next;
            continue;
        }
        *at = d->next;
        drain_over(d);
    }
}

static void note_on_stream(void *arg)
{
    order *o = arg;
    channel *ch = channel_owned(o->set, o->sandbox);

    if (ch) {
        channel_send(ch, SBX_F_SYSLOG, 0, o->text, SBX_MIN(strlen(o->text), (size_t)KIB));
        channel_flush(ch);
    }
    free(o->text);
    free(o);
}

void sbx_channels_note(sbx_channels *c, const char *sandbox, const char *text)
{
    order *o = order_new(c, sandbox);

    o->text = sbx_strdup(text);
    sbx_stream_post(c->stream, note_on_stream, o);
}

static void drain_on_stream(void *arg)
{
    order *o = arg;
    channel *ch = channel_owned(o->set, o->sandbox);

    if (ch) {
        o->d->req = command_free_req(ch);
        o->d->next = ch->drains;
        ch->drains = o->d;
        channel_send(ch, SBX_F_SYSLOG, o->d->req, o->text, SBX_MIN(strlen(o->text), (size_t)KIB));
        channel_flush(ch);
    } else {
        drain_over(o->d);
    }
    free(o->text);
    free(o);
}

void sbx_channels_note_wait(sbx_channels *c, const char *sandbox, const char *text, int64_t ms)
{
    order *o = order_new(c, sandbox);
    drain *d = sbx_alloc(sizeof(*d));
    struct timespec at = channel_in_ms(ms);
    int rc = 0;

    pthread_mutex_init(&d->mu, NULL);
    pthread_cond_init(&d->over, NULL);
    d->refs = 2;
    o->text = sbx_strdup(text);
    o->d = d;
    sbx_stream_post(c->stream, drain_on_stream, o);
    pthread_mutex_lock(&d->mu);
    while (!d->done && !rc)
        rc = pthread_cond_clockwait(&d->over, &d->mu, CLOCK_MONOTONIC, &at);
    pthread_mutex_unlock(&d->mu);
    drain_unref(d);
}

static void stop_on_stream(void *arg)
{
    order *o = arg;
    channel *ch = channel_owned(o->set, o->sandbox);

    if (ch)
        channel_send_num(ch, SBX_F_STOP, 0, SBX_T_TIMEOUT_MS, o->number);
    free(o);
}

void sbx_channels_stop(sbx_channels *c, const char *sandbox, int64_t grace_ms)
{
    order *o = order_new(c, sandbox);

    o->number = (uint64_t)grace_ms;
    sbx_stream_post(c->stream, stop_on_stream, o);
}

bool sbx_channels_env_version(sbx_channels *c, const char *sandbox, uint64_t *ret)
{
    channel *ch;

    pthread_mutex_lock(&c->mu);
    HASH_FIND_STR(c->all, sandbox, ch);
    bool ready = ch && ch->ready;
    if (ready)
        *ret = ch->env_version;
    pthread_mutex_unlock(&c->mu);
    return ready;
}

static void env_on_stream(void *arg)
{
    order *o = arg;
    channel *ch = channel_find(o->set, o->sandbox);

    /* workers that read different versions may come in any order */
    if (ch && o->number > ch->env_version) {
        sbx_pairs old = ch->env;

        pthread_mutex_lock(&o->set->mu);
        ch->env_version = o->number;
        pthread_mutex_unlock(&o->set->mu);
        ch->env = o->env;
        o->env = old;
    }
    sbx_pairs_done(&o->env);
    free(o);
}

void sbx_channels_env(sbx_channels *c, const char *sandbox, uint64_t version, sbx_pairs *env)
{
    order *o = order_new(c, sandbox);

    o->number = version;
    o->env = *env;
    *env = (sbx_pairs){0};
    sbx_stream_post(c->stream, env_on_stream, o);
}

/* --- the log --- */

void sbx_channels_log_ack(sbx_channels *c, const char *sandbox, uint64_t seq)
{
    channel *ch = channel_owned(c, sandbox);

    if (ch)
        channel_send_num(ch, SBX_F_LOG_ACK, 0, SBX_T_SEQ, seq);
}

static void log_again(channel *ch, uint64_t from)
{
    unsigned char payload[2 * 16];
    size_t n = 0;

    if (!ch->ready || ch->bridge || ch->version < 3)
        return;
    n += sbx_field_put_num(payload + n, sizeof(payload) - n, SBX_T_SEQ, 0);
    n += sbx_field_put_num(payload + n, sizeof(payload) - n, SBX_T_LOG_FROM, from);
    /* What is on its way already comes before the answer to the ping. */
    ch->log_again = command_free_req(ch);
    channel_send(ch, SBX_F_LOG_ACK, 0, payload, n);
    channel_send(ch, SBX_F_PING, ch->log_again, NULL, 0);
    channel_flush(ch);
}

void sbx_channels_log_again(sbx_channels *c, const char *sandbox, uint64_t from)
{
    SBX_ASSERT_THREAD(SBX_T_STREAM);
    channel *ch = sandbox ? channel_find(c, sandbox) : c->all;

    for (; ch; ch = sandbox ? NULL : ch->hh.next)
        log_again(ch, from);
}
