/* What stands where a file is to be put. */
#ifndef FT_PLACE_H
#define FT_PLACE_H

#include "entry.h"
#include "path.h"
#include "temp.h"

typedef struct ft_place {
    bool exists;
    mode_t mode; /* of what is there, else what a new file has */
    char etag[FT_ETAG_BYTES];
} ft_place;

/** Look; refuse what a file may not replace: directories, what is no regular file, and files that
 * the user may not write. */
int ft_place_look(int dirfd, const char *name, const char *path, ft_place *ret,
                  ft_err *err) SBX_MUST_CHECK;

#endif
