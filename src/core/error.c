/* The table of failures, and the setters that make a failure one statement. */
#include "sbx/core/error.h"

#include <stdarg.h>
#include <stdio.h>

static const struct {
    int status;
    const char *wire, *title;
} codes[SBX_E_COUNT] = {[SBX_OK] = {200, "ok", "OK"},
#define X(name, status, wire, title) [SBX_E_##name] = {status, wire, title},
                        SBX_ERRORS(X)
#undef X
};

void sbx_err_set(sbx_err *err, sbx_code code, const char *fmt, ...)
{
    va_list ap;

    if (!err)
        return;
    *err = (sbx_err){.code = code};
    va_start(ap, fmt);
    vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
    va_end(ap);
}

void sbx_err_set_field(sbx_err *err, const char *field, const char *fmt, ...)
{
    va_list ap;

    if (!err)
        return;
    *err = (sbx_err){.code = SBX_E_INVALID};
    sbx_copy(err->field, sizeof(err->field), field);
    va_start(ap, fmt);
    vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
    va_end(ap);
}

void sbx_err_wrap(sbx_err *err, const char *fmt, ...)
{
    char text[sizeof(err->msg)];
    va_list ap;

    if (!err)
        return;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof(text))
        snprintf(text + n, sizeof(text) - (size_t)n, ": %s", err->msg);
    sbx_copy(err->msg, sizeof(err->msg), text);
}

int sbx_code_status(sbx_code code)
{
    return codes[code].status;
}

const char *sbx_code_wire(sbx_code code)
{
    return codes[code].wire;
}

const char *sbx_code_title(sbx_code code)
{
    return codes[code].title;
}
