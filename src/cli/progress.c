/* Progress of a transfer: see progress.h. */
#include "cli/progress.h"

#include "cli/text.h"
#include "sbx/core/clock.h"
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define FIRST_MS 300 /* what is over sooner shows nothing */
#define EACH_MS  100

void cli_progress_begin(cli_progress *p, const cli *c, const char *name, int64_t total)
{
    *p = (cli_progress){.shown = isatty(2) && !c->quiet, .name = name, .total = total};
    p->began_ms = sbx_now_ms();
    p->printed_ms = p->began_ms + FIRST_MS - EACH_MS;
}

static void add_bar(sbx_buf *line, const cli_progress *p, size_t width)
{
    size_t full = (size_t)((double)width * (double)p->done / (double)p->total);

    sbx_buf_addc(line, '[');
    for (size_t i = 0; i < width; i++)
        sbx_buf_addc(line, i < full ? '#' : ' ');
    sbx_buf_addf(line, "] %3d%%", (int)(100 * (double)p->done / (double)p->total));
}

static void print(const cli_progress *p, int64_t now)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf name = SBX_BUF_INIT(16 * KIB);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf cut = SBX_BUF_INIT(16 * KIB);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf line = SBX_BUF_INIT(16 * KIB);
    struct winsize size = {0};
    char done[16], rate[16], left[16] = "";
    double seconds = (double)(now - p->began_ms) / 1000;
    double speed = seconds > 0 ? (double)p->done / seconds : 0;
    size_t columns = ioctl(2, TIOCGWINSZ, &size) == 0 && size.ws_col ? size.ws_col : 80;

    sbx_buf_adds(&name, "");
    sbx_buf_adds(&cut, "");
    cli_escape(&name, p->name, strnlen(p->name, 4096));
    cli_cut(&cut, name.data, columns > 70 ? columns / 3 : 12);
    cli_size_text((double)p->done, done);
    cli_size_text(speed, rate);
    if (p->total > 0 && speed > 0)
        cli_span_text((int64_t)((double)(p->total - p->done) / speed * 1000), left);
    sbx_buf_addf(&line, "\r%s  ", cut.data);
    if (p->total > 0 && columns > 70)
        add_bar(&line, p, columns / 4);
    sbx_buf_addf(&line, "  %s  %s/s%s%s\033[K", done, rate, *left ? "  " : "", left);
    (void)cli_write(2, line.data, line.len);
}

void cli_progress_add(cli_progress *p, size_t bytes)
{
    int64_t now;

    p->done += (int64_t)bytes;
    if (!p->shown)
        return;
    now = sbx_now_ms();
    if (now - p->printed_ms < EACH_MS)
        return;
    p->printed_ms = now;
    p->printed = true;
    print(p, now);
}

void cli_progress_end(cli_progress *p)
{
    if (p->printed)
        (void)cli_write(2, "\r\033[K", 4);
    p->printed = false;
}
