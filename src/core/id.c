/* Random identifiers. Random bytes are fetched from the kernel in blocks per thread. */
#include "sbx/core/id.h"

#include "sbx/core/base.h"
#include <sys/random.h>

static unsigned char random_byte(void)
{
    static _Thread_local unsigned char block[256];
    static _Thread_local size_t left;

    if (!left) {
        /* up to 256 bytes are never interrupted nor short: getrandom(2) */
        if (getrandom(block, sizeof(block), 0) != (ssize_t)sizeof(block))
            abort();
        left = sizeof(block);
    }
    unsigned char b = block[--left];
    block[left] = 0;
    return b;
}

sbx_id sbx_id_new(void)
{
    static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    sbx_id id;

    for (int i = 0; i < SBX_ID_LEN; i++) {
        unsigned range = i == 0 ? 26 : 36;
        unsigned b;

        do
            b = random_byte();
        while (b >= 256 - 256 % range); /* no letter is likelier than another */
        id.s[i] = alphabet[b % range];
    }
    id.s[SBX_ID_LEN] = '\0';
    return id;
}

bool sbx_id_valid(const char *s)
{
    if (!s || strnlen(s, SBX_ID_LEN + 1) != SBX_ID_LEN)
        return false;
    for (; *s; s++)
        if (!((*s >= 'a' && *s <= 'z') || (*s >= '0' && *s <= '9')))
            return false;
    return true;
}
