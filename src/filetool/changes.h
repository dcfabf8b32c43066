/* Changes that are about to be told: merged, in order, as lines of JSON. */
#ifndef FT_CHANGES_H
#define FT_CHANGES_H

#include <uthash.h>

#include "fail.h"

#define FT_MAX_CHANGES_BYTES MIB /* of paths that wait; then they are told at once */
#define FT_CHANGES_OUT_BYTES (2 * MIB)

typedef enum ft_kind { FT_CREATE, FT_WRITE, FT_REMOVE, FT_RENAME, FT_CHMOD, FT_OVERFLOW } ft_kind;

typedef struct ft_change {
    ft_kind kind;
    char *path, *to; /* to: of a rename */
} ft_change;

/* What was told of a path since something else came to stand there. */
typedef struct ft_told {
    char *path;
    unsigned kinds; /* bits */
    UT_hash_handle hh;
} ft_told;

typedef struct ft_changes {
    ft_change *list;
    size_t n, cap, bytes;
    ft_told *told;
} ft_changes;

void ft_changes_done(ft_changes *c);

/** Add a change, unless it goes without saying: the same again, or writing what was just created.
 * @param path  NULL with OVERFLOW
 * @return its number in the list; SIZE_MAX if it was merged */
size_t ft_changes_add(ft_changes *c, ft_kind kind, const char *path);

/** What was added as a REMOVE has come back under another path. */
void ft_changes_renamed(ft_changes *c, size_t number, const char *to);

/** Write all lines to standard output and forget them.
 * @param out  empty, of up to FT_CHANGES_OUT_BYTES */
int ft_changes_tell(ft_changes *c, sbx_buf *out, ft_err *err) SBX_MUST_CHECK;

#endif
