/* Identifiers: 20 characters of [a-z0-9], the first a letter, so that they are DNS labels. */
#ifndef SBX_CORE_ID_H
#define SBX_CORE_ID_H

#include <stdbool.h>

#define SBX_ID_LEN 20
typedef struct sbx_id {
    char s[SBX_ID_LEN + 1];
} sbx_id;

sbx_id sbx_id_new(void); /* from the kernel's random source: 100 bits and more */
bool sbx_id_valid(const char *s);

#endif
