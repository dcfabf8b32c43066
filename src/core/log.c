/* The logger: builds a line in a bounded buffer and writes it at once. */
#include "sbx/core/log.h"

#include "sbx/core/clock.h"
#include "sbx/core/json.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#define MAX_VALUE 1024       /* bytes of one value; the rest is cut */
#define MAX_LINE  (64 * KIB) /* ten values of nothing but escapes */

static _Atomic int min_level = SBX_INFO;

void sbx_log_set_level(sbx_log_level level)
{
    min_level = (int)level;
}

bool sbx_log_enabled(sbx_log_level level)
{
    return (int)level >= min_level;
}

char *sbx_num_text(char *out24, int64_t n)
{
    snprintf(out24, 24, "%lld", (long long)n);
    return out24;
}

static void emit(sbx_log_level level, const char *msg, const sbx_err *err, va_list ap)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(MAX_LINE);
    sbx_jw w = SBX_JW(&b);
    const char *name;

    sbx_jw_obj(&w, NULL);
    sbx_jw_time(&w, "ts", sbx_wall_ms());
    sbx_jw_str(&w, "level", names[level]);
    sbx_jw_str(&w, "msg", msg);
    while ((name = va_arg(ap, const char *))) {
        const char *value = va_arg(ap, const char *);

        if (value)
            sbx_jw_strn(&w, name, value, strnlen(value, MAX_VALUE));
    }
    if (err) {
        sbx_jw_str(&w, "code", sbx_code_wire(err->code));
        sbx_jw_str(&w, "err", err->msg);
    }
    sbx_jw_obj_end(&w);
    sbx_buf_addc(&b, '\n');
    if (!sbx_buf_failed(&b)) {
        ssize_t n = write(STDERR_FILENO, b.data, b.len);
        (void)n; /* nobody is left to be told */
    }
}

void sbx_log(sbx_log_level level, const char *msg, ...)
{
    va_list ap;

    if (!sbx_log_enabled(level))
        return;
    va_start(ap, msg);
    emit(level, msg, NULL, ap);
    va_end(ap);
}

void sbx_log_err(sbx_log_level level, const char *msg, const sbx_err *err, ...)
{
    va_list ap;

    if (!sbx_log_enabled(level))
        return;
    va_start(ap, err);
    emit(level, msg, err, ap);
    va_end(ap);
}
