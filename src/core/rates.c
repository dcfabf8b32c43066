/* Names of the classes, and the text form of the rates of a key. */
#include "sbx/core/rates.h"

static const char *const names[SBX_RATE_COUNT] = {"creates", "exec", "reads"};

const char *sbx_rate_name(sbx_rate class)
{
    return names[class];
}

static int malformed(sbx_err *err)
{
    return sbx_fail_field(err, "rates",
                          "rates: must be none, default or such as creates=100,exec=600,reads=3000 "
                          "(requests a minute, 0 to %d, 0 is no limit)",
                          SBX_MAX_RATE);
}

/* One "class=N". */
static bool read_rate(const char *item, size_t len, int64_t ret[SBX_RATE_COUNT])
{
    char number[16];

    for (size_t i = 0; i < SBX_RATE_COUNT; i++) {
        size_t name = strlen(names[i]);

        if (len <= name + 1 || len - name - 1 >= sizeof(number) ||
            memcmp(item, names[i], name) != 0 || item[name] != '=')
            continue;
        memcpy(number, item + name + 1, len - name - 1);
        number[len - name - 1] = '\0';
        return ret[i] == SBX_RATE_DEFAULT && sbx_parse_i64(number, 0, SBX_MAX_RATE, &ret[i]);
    }
    return false;
}

int sbx_rates_parse(const char *text, int64_t ret[SBX_RATE_COUNT], sbx_err *err)
{
    int64_t rates[SBX_RATE_COUNT];
    bool none = strcmp(text, "none") == 0;

    for (size_t i = 0; i < SBX_RATE_COUNT; i++)
        rates[i] = none ? 0 : SBX_RATE_DEFAULT;
    for (const char *p = text; !none && strcmp(text, "default") != 0;) {
        size_t len = strcspn(p, ",");

        if (!read_rate(p, len, rates))
            return malformed(err);
        if (!p[len])
            break;
        p += len + 1;
    }
    memcpy(ret, rates, sizeof(rates));
    return 0;
}

void sbx_rates_json(sbx_jw *w, const char *name, const int64_t rates[SBX_RATE_COUNT])
{
    sbx_jw_obj(w, name);
    for (size_t i = 0; i < SBX_RATE_COUNT; i++) {
        if (rates[i] == SBX_RATE_DEFAULT)
            sbx_jw_null(w, names[i]);
        else
            sbx_jw_int(w, names[i], rates[i]);
    }
    sbx_jw_obj_end(w);
}
