/* Which names there were: a set that costs eight to sixteen bytes a name, whatever its length.
 *
 * It keeps hashes under a random key, so who makes the names cannot make two of them meet. */
#ifndef FT_SEEN_H
#define FT_SEEN_H

#include "filetool.h"

typedef struct ft_seen {
    uint64_t key[2];
    uint64_t *slots; /* 0: free */
    size_t cap, n;
} ft_seen;

void ft_seen_init(ft_seen *s);
void ft_seen_done(ft_seen *s);

bool ft_seen_has(const ft_seen *s, const char *name);
void ft_seen_add(ft_seen *s, const char *name);

/** SipHash-2-4. */
uint64_t ft_siphash(const uint64_t key[2], const void *data, size_t len);

#endif
