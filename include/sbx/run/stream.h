/* The STREAM thread: an epoll loop that owns every long wait (engine streams, agent channels).
 *
 * Threads: post() from any thread, all else on STREAM. Callbacks run on STREAM and never block. */
#ifndef SBX_RUN_STREAM_H
#define SBX_RUN_STREAM_H

#include "sbx/core/error.h"
#include "sbx/run/mailbox.h"

typedef struct sbx_stream sbx_stream;
typedef struct sbx_watch sbx_watch;
typedef struct sbx_timer sbx_timer;

sbx_stream *sbx_stream_new(sbx_err *err); /* starts the thread; NULL on failure */
/** Runs what was posted, fires the timers that are left (a new one that these make does not fire),
 * stops, joins. */
void sbx_stream_free(sbx_stream *s);

void sbx_stream_post(sbx_stream *s, sbx_msg_fn fn, void *arg);

/** Wait until all that was posted before has run. Not on STREAM. */
void sbx_stream_sync(sbx_stream *s);

/** Watch a descriptor. @param events  EPOLLIN, EPOLLOUT (level-triggered). The descriptor stays
 * the caller's and must be unwatched before it is closed. */
sbx_watch *sbx_stream_watch(sbx_stream *s, int fd, uint32_t events,
                            void (*fn)(void *arg, uint32_t events), void *arg);
void sbx_watch_events(sbx_watch *w, uint32_t events);
void sbx_watch_free(sbx_watch *w); /* also from within its own callback */

/** Call fn(arg) once, after `ms`. */
sbx_timer *sbx_timer_new(sbx_stream *s, int64_t ms, void (*fn)(void *arg), void *arg);
void sbx_timer_free(sbx_timer *t); /* only before it fires */

#endif
