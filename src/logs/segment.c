/* Segments: see segment.h. Trimming only moves `head`; the memory in front of it is taken back when
 * it is more than what is used, so that a long run of small items costs no quadratic copying. */
#include "segment.h"
#include "entry.h"

void seg_done(segment *s)
{
    free(s->text);
    free(s->items);
    *s = (segment){0};
}

void seg_start(segment *s, uint64_t from)
{
    s->valid = true;
    s->from = s->upto = from;
    s->text_len = 0;
    s->head = s->count = 0;
}

static size_t used_from(const segment *s)
{
    return s->head < s->count ? s->items[s->head].off : s->text_len;
}

void seg_add(segment *s, const sbx_bus_item *item)
{
    if (item->seq <= s->upto)
        return;
    if (s->count == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 16;
        s->items = sbx_realloc(s->items, s->cap * sizeof *s->items);
    }
    if (s->text_len + item->len > s->text_cap) {
        size_t cap = s->text_cap ? s->text_cap : 1024;

        while (cap < s->text_len + item->len)
            cap *= 2;
        s->text = sbx_realloc(s->text, cap);
        s->text_cap = cap;
    }
    memcpy(s->text + s->text_len, item->data, item->len);
    s->items[s->count++] = (seg_item){.seq = item->seq,
                                      .off = s->text_len,
                                      .len = (uint32_t)item->len,
                                      .source = (uint8_t)log_item_source(item->data, item->len)};
    s->text_len += item->len;
    s->upto = item->seq;
}

static void compact(segment *s)
{
    size_t gone = used_from(s);

    memmove(s->text, s->text + gone, s->text_len - gone);
    s->text_len -= gone;
    memmove(s->items, s->items + s->head, (s->count - s->head) * sizeof *s->items);
    s->count -= s->head;
    s->head = 0;
    for (size_t i = 0; i < s->count; i++)
        s->items[i].off -= gone;
}

void seg_trim(segment *s, size_t max_bytes)
{
    while (s->head < s->count && s->text_len - used_from(s) > max_bytes)
        s->from = s->items[s->head++].seq;
    if (s->head > 0 && used_from(s) > s->text_len - used_from(s))
        compact(s);
}

const seg_item *seg_after(const segment *s, uint64_t pos)
{
    size_t lo = s->head, hi = s->count;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (s->items[mid].seq > pos)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo < s->count ? &s->items[lo] : NULL;
}
