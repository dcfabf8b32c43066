/* The readers of a bus: see readers.h. */
#include "readers.h"

void bus_readers_init(bus_readers *r)
{
    pthread_mutex_init(&r->mu, NULL);
}

void bus_readers_done(bus_readers *r)
{
    pthread_mutex_destroy(&r->mu);
}

void bus_readers_set(bus_readers *r, const char *prefix, sbx_bus_fn fn, void *arg)
{
    int slot = -1;

    pthread_mutex_lock(&r->mu);
    for (int i = SBX_BUS_READERS - 1; i >= 0; i--)
        if (!r->slot[i].prefix)
            slot = i;
    for (int i = 0; i < SBX_BUS_READERS; i++)
        if (sbx_streq(r->slot[i].prefix, prefix))
            slot = i;
    if (slot >= 0) {
        r->slot[slot].prefix = fn ? prefix : NULL;
        r->slot[slot].fn = fn;
        r->slot[slot].arg = arg;
    }
    pthread_mutex_unlock(&r->mu);
    /* More prefixes than slots is a mistake in the wiring that no caller could handle. */
    if (slot < 0)
        abort();
}

void bus_readers_call(bus_readers *r, const char *topic, const sbx_bus_item *items, size_t count,
                      bool reset)
{
    pthread_mutex_lock(&r->mu);
    for (int i = 0; i < SBX_BUS_READERS; i++) {
        if (r->slot[i].prefix &&
            strncmp(topic, r->slot[i].prefix, strlen(r->slot[i].prefix)) == 0) {
            r->slot[i].fn(r->slot[i].arg, topic, items, count, reset);
            break;
        }
    }
    pthread_mutex_unlock(&r->mu);
}
