/* Open addressing, at most three quarters full.
 *
 * The hash is SipHash-2-4 (Aumasson, Bernstein: a fast short-input PRF, 2012). */
#include "seen.h"

#include <sys/random.h>

static uint64_t rotate(uint64_t v, int by)
{
    return v << by | v >> (64 - by);
}

static void rounds(uint64_t v[4], int n)
{
    for (; n > 0; n--) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = rotate(v[1], 13) ^ v[0];
        v[3] = rotate(v[3], 16) ^ v[2];
        v[0] = rotate(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = rotate(v[1], 17) ^ v[2];
        v[3] = rotate(v[3], 21) ^ v[0];
        v[2] = rotate(v[2], 32);
    }
}

uint64_t ft_siphash(const uint64_t key[2], const void *data, size_t len)
{
    uint64_t v[4] = {key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d,
                     key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573};
    const unsigned char *p = data;
    uint64_t word = 0;

    for (size_t i = 0; i <= len; i++) {
        if (i < len)
            word |= (uint64_t)p[i] << i % 8 * 8;
        if (i == len)
            word |= (uint64_t)len << 56;
        if (i % 8 == 7 || i == len) {
            v[3] ^= word;
            rounds(v, 2);
            v[0] ^= word;
            word = 0;
        }
    }
    v[2] ^= 0xff;
    rounds(v, 4);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

void ft_seen_init(ft_seen *s)
{
    *s = (ft_seen){0};
    if (getrandom(s->key, sizeof(s->key), 0) != sizeof(s->key))
        abort();
}

void ft_seen_done(ft_seen *s)
{
    free(s->slots);
    s->slots = NULL;
}

/* Where the hash is, or would be. */
static uint64_t *slot(uint64_t *slots, size_t cap, uint64_t hash)
{
    size_t i = hash & (cap - 1);

    while (slots[i] && slots[i] != hash)
        i = (i + 1) & (cap - 1);
    return &slots[i];
}

static uint64_t hash_of(const ft_seen *s, const char *name)
{
    uint64_t hash = ft_siphash(s->key, name, strlen(name));

    return hash ? hash : 1;
}

bool ft_seen_has(const ft_seen *s, const char *name)
{
    return s->slots && *slot(s->slots, s->cap, hash_of(s, name)) != 0;
}

static void grow(ft_seen *s)
{
    size_t cap = SBX_MAX(s->cap * 2, (size_t)64);
    uint64_t *slots = sbx_alloc(cap * sizeof(*slots));

    for (size_t i = 0; i < s->cap; i++)
        if (s->slots[i])
            *slot(slots, cap, s->slots[i]) = s->slots[i];
    free(s->slots);
    s->slots = slots;
    s->cap = cap;
}

void ft_seen_add(ft_seen *s, const char *name)
{
    uint64_t hash = hash_of(s, name), *at;

    if ((s->n + 1) * 4 > s->cap * 3)
        grow(s);
    at = slot(s->slots, s->cap, hash);
    if (!*at) {
        *at = hash;
        s->n++;
    }
}
