/* Runs readiness and health checks in the sandboxes whose channel this worker holds.
 *
 * A check is a command on the channel (SBX_EXEC_CHECK): no activity, no record, no line in the
 * log. One at a time per sandbox. All of it lives on STREAM; what it finds out about health waits
 * here until a worker writes it (sbx_checks_take). */
#ifndef SBX_SANDBOX_CHECKS_H
#define SBX_SANDBOX_CHECKS_H

#include "sbx/sandbox/channel.h"
#include "sbx/sandbox/check.h"

typedef struct sbx_checks sbx_checks;

sbx_checks *sbx_checks_new(sbx_stream *stream, sbx_channels *channels);
/** End all: who waits for readiness hears CAPACITY. Later calls do nothing, or tell the same. */
void sbx_checks_shutdown(sbx_checks *c);
void sbx_checks_free(sbx_checks *c); /* after STREAM has ended */

/** Try until the sandbox is ready. STREAM.
 * @param readiness  what sbx_check_json() wrote; copied.
 * @param done  once, on STREAM, also within this call: NULL, or why not. NOT_READY (all tries used
 *              up), ENGINE (the sandbox ended), GONE, CONFLICT (it was deleted or settled),
 *              CANCELLED (given up), CAPACITY (the server stops), INTERNAL. */
void sbx_checks_await(sbx_checks *c, const char *sandbox, const char *readiness,
                      void (*done)(void *arg, const sbx_err *err), void *arg);
/** Who awaited it has left: done with CANCELLED, if it still lasts. STREAM. */
void sbx_checks_give_up(sbx_checks *c, const char *sandbox);
/** Its channel was lost: whoever awaits it need not wait for the next try. STREAM. */
void sbx_checks_lost(sbx_checks *c, const char *sandbox);

/** Check the health from now on; nothing if that is done already. Any thread.
 * @param health  what sbx_check_json() wrote; copied. @param known  of the record, or NULL. */
void sbx_checks_follow(sbx_checks *c, const char *sandbox, const char *health, const char *known);
/** No more of either: the sandbox left the state. Any thread. */
void sbx_checks_leave(sbx_checks *c, const char *sandbox);

/** How many sandboxes are followed. Any thread. */
size_t sbx_checks_count(sbx_checks *c);

/* What is to be written of one sandbox. */
typedef struct sbx_health_news {
    char sandbox[SBX_ID_LEN + 1];
    sbx_health health;
    bool changed; /* the status, since it was last taken; otherwise only the rest */
} sbx_health_news;

/** Take what waits. Any thread. @param ret  owned by the caller, NULL if none. */
size_t sbx_checks_take(sbx_checks *c, sbx_health_news **ret);
/** Give back what could not be written; what is newer stays. Any thread. */
void sbx_checks_return(sbx_checks *c, const sbx_health_news *news);

#endif
