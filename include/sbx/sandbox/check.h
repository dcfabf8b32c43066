/* Readiness and health of a sandbox: what may be asked for, and how results become a status.
 *
 * Pure: no clock, no thread, no input or output. Who runs the checks is sandbox/checks.h. */
#ifndef SBX_SANDBOX_CHECK_H
#define SBX_SANDBOX_CHECK_H

#include "sbx/core/json.h"

/* The field tables of the requests; also for the API document and for reading the record. */
extern const sbx_json_field sbx_readiness_fields[];
extern const sbx_json_field sbx_health_fields[];

typedef struct sbx_check {
    sbx_strs command; /* exactly one of the three is set */
    char *file;
    int64_t port;
    int64_t interval_ms, timeout_ms, retries; /* interval_ms: readiness */
    int64_t interval_s, start_period_s;       /* health; seconds */
} sbx_check;
void sbx_check_done(sbx_check *c);

/** Is what was decoded (one kind, by the table) usable? INVALID names `field`. */
int sbx_check_verify(const char *field, const sbx_check *c, sbx_err *err) SBX_MUST_CHECK;

/** As a JSON object, the way it was asked for. */
void sbx_check_json(const sbx_check *c, bool health, sbx_buf *out);
/** Read what sbx_check_json() wrote. @param ret  sbx_check_done() also after a failure. */
int sbx_check_load(const char *json, bool health, sbx_check *ret, sbx_err *err) SBX_MUST_CHECK;

/** The longest that readiness may take, in milliseconds: all retries, each to its time-out. */
int64_t sbx_check_budget_ms(const sbx_check *c);

/* --- results --- */

#define SBX_CHECK_MESSAGE_BYTES 200

typedef enum sbx_health_status { SBX_H_STARTING, SBX_H_HEALTHY, SBX_H_UNHEALTHY } sbx_health_status;
const char *sbx_health_wire(sbx_health_status s);

typedef struct sbx_health {
    sbx_health_status status;
    int64_t failures;   /* in a row; those of the start period do not count */
    int64_t began_ms;   /* monotonic: begins the start period */
    int64_t checked_ms; /* wall clock; 0: never */
    char message[SBX_CHECK_MESSAGE_BYTES + 1]; /* why the last one failed, or "" */
} sbx_health;

/** Take a result in. @param message  of a failure. @param now_ms  monotonic. @param wall_ms  for
 * people. @return whether the status changed. */
bool sbx_health_step(sbx_health *h, const sbx_check *c, bool ok, const char *message,
                     int64_t now_ms, int64_t wall_ms);

/** What the record says of health: a JSON object. */
void sbx_health_json(const sbx_health *h, sbx_buf *out);
/** The status in what sbx_health_json() wrote; STARTING for NULL. */
sbx_health_status sbx_health_read(const char *json);

/** Output of a program as one line for people: valid UTF-8, no control characters, cut to fit. */
void sbx_check_clean(char out[SBX_CHECK_MESSAGE_BYTES + 1], const char *data, size_t len);

#endif
