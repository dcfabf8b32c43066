/* A mutex-guarded list of messages; the owner takes the whole list at once. */
#include "sbx/run/mailbox.h"

#include <pthread.h>

typedef struct msg {
    struct msg *next;
    sbx_msg_fn fn;
    void *arg;
} msg;

struct sbx_mailbox {
    void (*wake)(void *arg); /* immutable */
    void *wake_arg;
    pthread_mutex_t mu;
    msg *first, **last; /* guarded by mu */
};

sbx_mailbox *sbx_mailbox_new(void (*wake)(void *arg), void *arg)
{
    sbx_mailbox *m = sbx_alloc(sizeof(*m));

    m->wake = wake;
    m->wake_arg = arg;
    m->last = &m->first;
    pthread_mutex_init(&m->mu, NULL);
    return m;
}

void sbx_mailbox_post(sbx_mailbox *m, sbx_msg_fn fn, void *arg)
{
    msg *n = sbx_alloc(sizeof(*n));

    n->fn = fn;
    n->arg = arg;
    pthread_mutex_lock(&m->mu);
    bool was_empty = !m->first;
    *m->last = n;
    m->last = &n->next;
    pthread_mutex_unlock(&m->mu);
    if (was_empty)
        m->wake(m->wake_arg);
}

size_t sbx_mailbox_drain(sbx_mailbox *m)
{
    size_t count = 0;

    pthread_mutex_lock(&m->mu);
    msg *list = m->first;
    m->first = NULL;
    m->last = &m->first;
    pthread_mutex_unlock(&m->mu);
    while (list) {
        msg *n = list;

        list = n->next;
        n->fn(n->arg);
        free(n);
        count++;
    }
    return count;
}

void sbx_mailbox_free(sbx_mailbox *m)
{
    if (!m)
        return;
    while (sbx_mailbox_drain(m))
        ;
    pthread_mutex_destroy(&m->mu);
    free(m);
}
