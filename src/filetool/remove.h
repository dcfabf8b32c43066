/* Taking away a file or a whole tree. */
#ifndef FT_REMOVE_H
#define FT_REMOVE_H

#include "fail.h"

/** Remove what is there, however deep; links are removed, never followed.
 * @param ours  this process made it: its directories are made writable on the way */
int ft_remove_tree(int dirfd, const char *name, bool ours, const char *path,
                   ft_err *err) SBX_MUST_CHECK;

#endif
