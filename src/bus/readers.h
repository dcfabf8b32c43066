/* The readers of a bus, by prefix of the topic; shared by both implementations.
 *
 * Threads: any. The lock is held while a reader runs: whoever takes a reader away waits for the
 * end of its call. */
#ifndef SBX_BUS_READERS_H
#define SBX_BUS_READERS_H

#include "sbx/bus/bus.h"
#include <pthread.h>

typedef struct bus_readers {
    pthread_mutex_t mu;
    struct {
        const char *prefix; /* NULL: free slot */
        sbx_bus_fn fn;
        void *arg;
    } slot[SBX_BUS_READERS]; /* guarded by mu */
} bus_readers;

void bus_readers_init(bus_readers *r);
void bus_readers_done(bus_readers *r);
void bus_readers_set(bus_readers *r, const char *prefix, sbx_bus_fn fn, void *arg);
void bus_readers_call(bus_readers *r, const char *topic, const sbx_bus_item *items, size_t count,
                      bool reset);

#endif
