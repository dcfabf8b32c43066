/* What every file may assume: attributes, cleanup, allocation that cannot fail. */
#ifndef SBX_CORE_BASE_H
#define SBX_CORE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SBX_CLEANUP(free_fn)     __attribute__((cleanup(free_fn##_p)))
#define SBX_CLEANUP_VAL(done_fn) __attribute__((cleanup(done_fn)))
#define SBX_MUST_CHECK           __attribute__((warn_unused_result))
#define SBX_PRINTF(fmt, args)    __attribute__((format(printf, fmt, args)))

/* Defines noun_free_p() for SBX_CLEANUP(noun_free). */
#define SBX_DEFINE_CLEANUP(type, free_fn)                                                          \
    static inline void free_fn##_p(type **p)                                                       \
    {                                                                                              \
        free_fn(*p);                                                                               \
    }

/* Hands the pointer over: the variable becomes NULL and its cleanup does nothing. */
#define sbx_steal(p)                                                                               \
    ({                                                                                             \
        __typeof__(p) _stolen = (p);                                                               \
        (p) = NULL;                                                                                \
        _stolen;                                                                                   \
    })

#define ARRAY_LEN(a)                   (sizeof(a) / sizeof((a)[0]))
#define SBX_MIN(a, b)                  ((a) < (b) ? (a) : (b))
#define SBX_MAX(a, b)                  ((a) > (b) ? (a) : (b))
#define sbx_container_of(p, type, mem) ((type *)((char *)(p)-offsetof(type, mem)))

#define KIB 1024u
#define MIB (1024u * 1024u)

/** Allocation for small objects: zeroed, aborts when memory is out (records live in PostgreSQL,
 * so nothing is lost). What a client can size must have a maximum of its own first. */
void *sbx_alloc(size_t bytes);
void *sbx_realloc(void *p, size_t bytes);
char *sbx_strdup(const char *s); /* NULL gives NULL */
char *sbx_strndup(const char *s, size_t len);
char *sbx_asprintf(const char *fmt, ...) SBX_PRINTF(1, 2);

static inline void sbx_free_str(char *s)
{
    free(s);
}
SBX_DEFINE_CLEANUP(char, sbx_free_str)

static inline bool sbx_streq(const char *a, const char *b)
{
    return a && b && strcmp(a, b) == 0;
}

/** Copy a string into a fixed array; cuts what does not fit, always terminates.
 * @return false if it was cut. */
bool sbx_copy(char *out, size_t cap, const char *s);

/** Parse a decimal whole number, nothing before or behind it.
 * @return false, leaving *ret, if it is none or lies outside of min..max. */
bool sbx_parse_i64(const char *s, int64_t min, int64_t max, int64_t *ret);

/** The value of a hexadecimal digit of either case; -1 if it is none. */
int sbx_hex_digit(char c);

/** Overwrite memory that held a secret. */
void sbx_wipe(void *p, size_t len);

#endif
