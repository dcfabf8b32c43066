/* Structured log: one JSON object a line on stderr: ts, level, msg and fields.
 *
 * `msg` is constant text; what varies goes into fields. The logger is the one mutable global of
 * the program. Any thread; a line is one write(2). */
#ifndef SBX_CORE_LOG_H
#define SBX_CORE_LOG_H

#include "sbx/core/error.h"

typedef enum sbx_log_level { SBX_DEBUG, SBX_INFO, SBX_WARN, SBX_ERROR } sbx_log_level;

void sbx_log_set_level(sbx_log_level level);
bool sbx_log_enabled(sbx_log_level level);

/** Log constant text with fields: pairs of name and value, ended by NULL. Values are strings;
 * a NULL value is left out. */
void sbx_log(sbx_log_level level, const char *msg, ...) __attribute__((sentinel));

/** The same with an error's code and message as fields. */
void sbx_log_err(sbx_log_level level, const char *msg, const sbx_err *err, ...)
    __attribute__((sentinel));

/* A number as a field's value; lives until the end of the statement. */
#define SBX_NUM(n) sbx_num_text((char[24]){0}, (int64_t)(n))
char *sbx_num_text(char *out24, int64_t n);

#endif
