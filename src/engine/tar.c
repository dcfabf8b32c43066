/* See tar.h. Source: POSIX.1-2017, pax, "ustar Interchange Format". */
#include "tar.h"
#include <stdio.h>

#define TAR_BLOCK 512

typedef struct tar_head {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], sum[8], type, link[100];
    char magic[6], version[2], user[32], group[32], major[8], minor[8], prefix[155], pad[12];
} tar_head;
_Static_assert(sizeof(tar_head) == TAR_BLOCK, "a header is one block");

bool docker_tar_file(sbx_buf *b, const char *name, int64_t mtime_s, const void *data, size_t len)
{
    static const char zeros[TAR_BLOCK];
    tar_head h = {.type = '0', .magic = "ustar", .version = {'0', '0'}};
    unsigned sum = 0;

    if (!name[0] || strlen(name) > sizeof(h.name) || strchr(name, '/'))
        return false;
    memcpy(h.name, name, strlen(name));
    snprintf(h.mode, sizeof(h.mode), "%07o", 0755u);
    snprintf(h.uid, sizeof(h.uid), "%07o", 0u);
    snprintf(h.gid, sizeof(h.gid), "%07o", 0u);
    snprintf(h.size, sizeof(h.size), "%011llo", (unsigned long long)len);
    snprintf(h.mtime, sizeof(h.mtime), "%011llo", (unsigned long long)mtime_s);
    memset(h.sum, ' ', sizeof(h.sum));
    for (size_t i = 0; i < sizeof(h); i++)
        sum += ((const unsigned char *)&h)[i];
    snprintf(h.sum, sizeof(h.sum), "%06o", sum & 0777777u);
    sbx_buf_add(b, &h, sizeof(h));
    sbx_buf_add(b, data, len);
    sbx_buf_add(b, zeros, (TAR_BLOCK - len % TAR_BLOCK) % TAR_BLOCK);
    return true;
}

void docker_tar_end(sbx_buf *b)
{
    static const char zeros[2 * TAR_BLOCK];

    sbx_buf_add(b, zeros, sizeof(zeros));
}
