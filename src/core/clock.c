/* Clocks. */
#include "sbx/core/clock.h"

#include <stdio.h>
#include <time.h>

static int64_t read_us(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int64_t sbx_now_us(void)
{
    return read_us(CLOCK_MONOTONIC);
}

int64_t sbx_now_ms(void)
{
    return read_us(CLOCK_MONOTONIC) / 1000;
}

int64_t sbx_wall_ms(void)
{
    return read_us(CLOCK_REALTIME) / 1000;
}

void sbx_time_text(int64_t wall_ms, char out[SBX_TIME_TEXT])
{
    time_t seconds = (time_t)(wall_ms / 1000);
    int ms = (int)(wall_ms % 1000);
    struct tm tm;

    if (ms < 0) {
        ms += 1000;
        seconds--;
    }
    gmtime_r(&seconds, &tm);
    size_t n = strftime(out, SBX_TIME_TEXT, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, SBX_TIME_TEXT - n, ".%03dZ", (int)((unsigned)ms % 1000));
}

/* Exactly `digits` of them. @return false, or the number and what comes behind it. */
static bool number(const char **text, int digits, int min, int max, int *ret)
{
    int n = 0;

    for (int i = 0; i < digits; i++, (*text)++) {
        if (**text < '0' || **text > '9')
            return false;
        n = 10 * n + (**text - '0');
    }
    *ret = n;
    return n >= min && n <= max;
}

static bool literal(const char **text, char c)
{
    bool is = **text == c;

    *text += is;
    return is;
}

/* ".123" as milliseconds. */
static bool fraction(const char **text, int *ret_ms)
{
    int factor = 100;

    *ret_ms = 0;
    if (!literal(text, '.'))
        return true;
    if (**text < '0' || **text > '9')
        return false;
    for (; **text >= '0' && **text <= '9'; (*text)++, factor /= 10)
        *ret_ms += (**text - '0') * factor;
    return true;
}

/* "Z", or "+01:30". */
static bool offset(const char **text, int *ret_minutes)
{
    bool west = **text == '-';
    int hours, minutes;

    *ret_minutes = 0;
    if (literal(text, 'Z'))
        return true;
    if (!west && **text != '+')
        return false;
    (*text)++;
    if (!number(text, 2, 0, 23, &hours) || !literal(text, ':') || !number(text, 2, 0, 59, &minutes))
        return false;
    *ret_minutes = (west ? -1 : 1) * (60 * hours + minutes);
    return true;
}

bool sbx_time_parse(const char *text, int64_t *ret)
{
    struct tm tm = {0}, same;
    int year, month, ms, east;

    if (!number(&text, 4, 1970, 9999, &year) || !literal(&text, '-') ||
        !number(&text, 2, 1, 12, &month) || !literal(&text, '-') ||
        !number(&text, 2, 1, 31, &tm.tm_mday) || !literal(&text, 'T') ||
        !number(&text, 2, 0, 23, &tm.tm_hour) || !literal(&text, ':') ||
        !number(&text, 2, 0, 59, &tm.tm_min) || !literal(&text, ':') ||
        !number(&text, 2, 0, 59, &tm.tm_sec) || !fraction(&text, &ms) || !offset(&text, &east) ||
        *text)
        return false;
    tm.tm_year = year - 1900;
    tm.tm_mon = month - 1;
    same = tm;
    time_t seconds = timegm(&same);
    if (same.tm_mday != tm.tm_mday) /* the 31st of a month that has none */
        return false;
    *ret = ((int64_t)seconds - (int64_t)east * 60) * 1000 + ms;
    return true;
}
