/* Copying a file or a tree to a name that is not there yet. */
#ifndef FT_COPY_H
#define FT_COPY_H

#include <sys/stat.h>

#include "fail.h"

/** Copy what is called `name` to `to`: modes, times, links (also hard ones within the tree), user.*
 * attributes, holes. Sockets are left out. On failure a part of the copy may be there.
 * @param path  of the source, for messages */
int ft_copy_tree(int from_fd, const char *name, int to_fd, const char *to, const char *path,
                 ft_err *err) SBX_MUST_CHECK;

#endif
