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
