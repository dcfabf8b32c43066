/* Percent-decoding and query strings, strict: what cannot be decoded is refused, not guessed. */
#include "sbx/core/json.h"
#include "sbx/http/head.h"

int sbx_percent_decode(char *text, bool plus, sbx_err *err)
{
    char *out = text;

    for (const char *p = text; *p; p++) {
        if (*p == '+' && plus) {
            *out++ = ' ';
        } else if (*p != '%') {
            *out++ = *p;
        } else {
            int hi = sbx_hex_digit(p[1]), lo = hi < 0 ? -1 : sbx_hex_digit(p[2]);

            if (lo < 0)
                return sbx_fail(err, SBX_E_INVALID, "the request target has a bad escape");
            if (hi == 0 && lo == 0)
                return sbx_fail(err, SBX_E_INVALID, "the request target has a NUL");
            *out++ = (char)(hi << 4 | lo);
            p += 2;
        }
    }
    *out = '\0';
    if (!sbx_utf8_valid(text, (size_t)(out - text)))
        return sbx_fail(err, SBX_E_INVALID, "the request target is not UTF-8");
    return 0;
}

static int add_param(sbx_param *ret, size_t *count, char *pair, sbx_err *err)
{
    char *value = strchr(pair, '=');

    if (value)
        *value++ = '\0';
    else
        value = pair + strlen(pair);
    if (sbx_percent_decode(pair, true, err) || sbx_percent_decode(value, true, err))
        return -1;
    if (!*pair)
        return sbx_fail(err, SBX_E_INVALID, "a query parameter has no name");
    if (*count == SBX_MAX_QUERY_PARAMS)
        return sbx_fail(err, SBX_E_INVALID, "more than %d query parameters are given",
                        SBX_MAX_QUERY_PARAMS);
    for (size_t i = 0; i < *count; i++)
        if (strcmp(ret[i].name, pair) == 0)
            return sbx_fail_field(err, pair, "the query parameter is given twice");
    ret[*count] = (sbx_param){.name = pair, .value = value};
    ++*count;
    return 0;
}

static bool is_known(const char *known, const char *name)
{
    size_t len = strlen(name);

    while (known && *known) {
        size_t n = strcspn(known, ",");

        if (known[n - 1] == '*' ? len >= n && memcmp(known, name, n - 1) == 0
                                : len == n && memcmp(known, name, n) == 0)
            return true;
        known += n + (known[n] == ',');
    }
    return false;
}

int sbx_query_check(const char *known, const sbx_param *params, size_t count, sbx_err *err)
{
    for (size_t i = 0; i < count; i++)
        if (!is_known(known, params[i].name))
            return sbx_fail_field(err, params[i].name, "%s: unknown query parameter%s%s",
                                  params[i].name, known ? "; known are " : "", known ? known : "");
    return 0;
}

int sbx_query_parse(char *query, sbx_param *ret, size_t *count, sbx_err *err)
{
    *count = 0;
    while (query) {
        char *pair = query;

        query = strchr(pair, '&');
        if (query)
            *query++ = '\0';
        if (*pair && add_param(ret, count, pair, err))
            return -1;
    }
    return 0;
}
