/* Reading the engine's answers. The engine is trusted, but it repeats what images say of
 * themselves, so texts are cleaned before they are shown, and labels must not break the parse. */
#include "docker.h"
#include <stdio.h>
#include <time.h>

int docker_parse(char *text, size_t len, sbx_json **ret, sbx_err *err)
{
    if (!text)
        return sbx_fail(err, SBX_E_ENGINE, "the engine's answer is empty");
    for (size_t i = 0; i + 1 < len; i++) {
        if (text[i] != '\\')
            continue;
        if (i + 6 <= len && memcmp(text + i, "\\u0000", 6) == 0)
            memcpy(text + i, "\\u003f", 6);
        i++; /* whatever is escaped is not a beginning */
    }
    if (sbx_json_parse(text, len, ret, err) == 0)
        return 0;
    if (err)
        err->code = SBX_E_ENGINE;
    return sbx_wrap(err, "the engine's answer");
}

/* "2026-01-31T10:20:30.123456789Z" or with an offset "+01:00". */
int64_t docker_time_ms(const char *s)
{
    struct tm tm = {0};
    int used = 0, zone_h = 0, zone_m = 0;
    int64_t ms = 0, scale = 100;
    char sign = 0;

    if (!s || sscanf(s, "%4d-%2d-%2dT%2d:%2d:%2d%n", &tm.tm_year, &tm.tm_mon, &tm.tm_mday,
                     &tm.tm_hour, &tm.tm_min, &tm.tm_sec, &used) != 6)
        return 0;
    if (tm.tm_year < 1970 || tm.tm_year > 9999 || tm.tm_mon < 1 || tm.tm_mon > 12)
        return 0;
    s += used;
    if (*s == '.')
        for (s++; *s >= '0' && *s <= '9'; s++, scale /= 10)
            ms += (*s - '0') * scale;
    if (*s != 'Z' &&
        (sscanf(s, "%c%2d:%2d", &sign, &zone_h, &zone_m) != 3 || (sign != '+' && sign != '-')))
        return 0;
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    int64_t zone = (zone_h * 60 + zone_m) * 60;

    return ((int64_t)timegm(&tm) - (sign == '-' ? -zone : zone)) * 1000 + ms;
}

void docker_clean(char *out, size_t cap, const char *s, size_t len)
{
    size_t n = 0;

    for (size_t i = 0; i < len && n + 1 < cap; i++) {
        unsigned char c = (unsigned char)s[i];

        if (c >= 0x20 && c < 0x7f)
            out[n++] = (char)c;
        else if (c >= 0x80)
            out[n++] = '?';
        else if (n > 0 && out[n - 1] != ' ')
            out[n++] = ' ';
    }
    while (n > 0 && out[n - 1] == ' ')
        n--;
    out[n] = 0;
}

const sbx_json *docker_get2(const sbx_json *v, const char *a, const char *b)
{
    return sbx_json_get(sbx_json_get(v, a), b);
}

const char *docker_str(const sbx_json *v)
{
    const char *s = sbx_json_str(v);

    return s ? s : "";
}
