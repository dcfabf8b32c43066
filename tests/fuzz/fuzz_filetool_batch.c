/* Reads bytes as the input of batch; every record that comes out keeps its promises. */
#include "path.h"
#include "records.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct source {
    const uint8_t *data;
    size_t size, at, piece; /* piece: how much comes at once */
} source;

static ssize_t from_memory(void *ctx, void *data, size_t len, ft_err *err)
{
    source *s = ctx;

    (void)err;
    len = SBX_MIN(SBX_MIN(len, s->piece), s->size - s->at);
    memcpy(data, s->data + s->at, len);
    s->at += len;
    return (ssize_t)len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[FT_PATH_BYTES];
    ft_record r;
    ft_err err;
    uint32_t count = 0;

    if (size < 1)
        return 0;
    source s = {.data = data + 1, .size = size - 1, .piece = (size_t)data[0] + 1};

    if (ft_records_count(from_memory, &s, &count, &err) < 0)
        return 0;
    if (count < 1 || count > FT_MAX_RECORDS)
        abort();
    while (count-- > 0 && ft_records_next(from_memory, &s, &r, &err) == 0) {
        if (!r.path[0] || r.mode < -1 || r.mode > 07777 || r.size < 0)
            abort();
        if (ft_path_resolve(r.path, path, &err) == 0 &&
            (path[0] != '/' || strstr(path, "//") || strstr(path, "/./")))
            abort();
        s.at += SBX_MIN((size_t)r.size, s.size - s.at);
    }
    return 0;
}
