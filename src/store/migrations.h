/* The migrations, as they were in migrations/ when the program was built. */
#ifndef STORE_MIGRATIONS_H
#define STORE_MIGRATIONS_H

#include <stddef.h>

typedef struct store_migration {
    int version;      /* 1, 2, … without gaps */
    const char *name; /* "0001_base" */
    const char *text;
    size_t len;
} store_migration;

extern const store_migration store_migrations[];
extern const size_t store_migration_count;

#endif
