/* Classes of requests, each with a rate of its own, and how rates are written and told.
 *
 * A rate is a number of requests a minute: a bucket holds as many tokens, fills evenly within a
 * minute, and a request takes one. So a client that was quiet may send a minute's requests at once.
 */
#ifndef SBX_CORE_RATES_H
#define SBX_CORE_RATES_H

#include "sbx/core/error.h"
#include "sbx/core/json.h"

#define SBX_RATE_WINDOW_S 60
#define SBX_MAX_RATE      10000000 /* a minute */
#define SBX_RATE_DEFAULT  (-1)     /* of a key: as the server's options say */

typedef enum sbx_rate {
    SBX_RATE_CREATES, /* creates and runs */
    SBX_RATE_EXEC,    /* commands, and whatever else changes something */
    SBX_RATE_READS,   /* reads, and what ends something or feeds it */
    SBX_RATE_COUNT
} sbx_rate;

/* What an answer tells of a limit (RateLimit and RateLimit-Policy). All zero: no limit holds. */
typedef struct sbx_rate_note {
    const char *policy; /* a literal; NULL: no limit holds */
    uint32_t quota;     /* requests in SBX_RATE_WINDOW_S */
    uint32_t remaining;
    uint32_t reset_s; /* until all of the quota is there again; of a refusal: until enough is */
} sbx_rate_note;

const char *sbx_rate_name(sbx_rate class); /* "creates"; any thread */

/** Read the rates of a key: "none", "default", or "creates=N,exec=N,reads=N" with any of the three;
 * what is not named is the server's default. N is 0 (no limit) to SBX_MAX_RATE requests a minute.
 * @return 0, or -1 with INVALID and the field `rates`. */
int sbx_rates_parse(const char *text, int64_t ret[SBX_RATE_COUNT], sbx_err *err) SBX_MUST_CHECK;

/** Write them as an object, null for SBX_RATE_DEFAULT. Any thread. */
void sbx_rates_json(sbx_jw *w, const char *name, const int64_t rates[SBX_RATE_COUNT]);

#endif
