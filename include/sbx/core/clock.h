/* Time: the monotonic clock for deadlines, the wall clock for records. */
#ifndef SBX_CORE_CLOCK_H
#define SBX_CORE_CLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int64_t sbx_now_ms(void);  /* monotonic */
int64_t sbx_now_us(void);  /* monotonic */
int64_t sbx_wall_ms(void); /* since 1970, UTC */

#define SBX_TIME_TEXT 25 /* bytes that sbx_time_text() writes, with the NUL */

/** RFC 3339 UTC with milliseconds: 2026-01-31T10:20:30.123Z */
void sbx_time_text(int64_t wall_ms, char out[SBX_TIME_TEXT]);

/** Read such a time, with any offset from UTC, with or without a fraction (RFC 3339).
 * @param ret  milliseconds since 1970; finer digits are cut. @return false if it is none. */
bool sbx_time_parse(const char *text, int64_t *ret);

#endif
