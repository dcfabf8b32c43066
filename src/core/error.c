/* The table of failures, and the setters that make a failure one statement. */
#include "sbx/core/error.h"

#include "sbx/core/json.h"
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

/* Texts quote what clients sent, and are cut: that must not leave half a character in an answer, in
 * the log or in the database, which would refuse it. */
static void keep_utf8(char *s)
{
    size_t len = strlen(s);

    if (sbx_utf8_valid(s, len))
        return;
    for (size_t i = 0; i < len;) {
        size_t n = 1;

        while (n < 4 && i + n < len && !sbx_utf8_valid(s + i, n))
            n++;
        if (sbx_utf8_valid(s + i, n)) {
            i += n;
        } else {
            s[i++] = '?';
        }
    }
}

void sbx_err_set(sbx_err *err, sbx_code code, const char *fmt, ...)
{
    va_list ap;

    if (!err)
        return;
    *err = (sbx_err){.code = code};
    va_start(ap, fmt);
    vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
    va_end(ap);
    keep_utf8(err->msg);
}

void sbx_err_set_field(sbx_err *err, const char *field, const char *fmt, ...)
{
    va_list ap;

    if (!err)
        return;
    *err = (sbx_err){.code = SBX_E_INVALID};
    sbx_copy(err->field, sizeof(err->field), field);
    keep_utf8(err->field);
    va_start(ap, fmt);
    vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
    va_end(ap);
    keep_utf8(err->msg);
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
    keep_utf8(err->msg);
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
