/* Names of users and groups, from the files of the image, without the C library's name services:
 * those would load libraries of the image into a static program. */
#ifndef FT_OWNERS_H
#define FT_OWNERS_H

#include "filetool.h"

#include <sys/types.h>

#define FT_OWNER_BYTES 64 /* a name, or a number, with its NUL */

/** The name of a user or group, or its number in text where no valid name is known. */
void ft_owner_user(uid_t uid, char ret[FT_OWNER_BYTES]);
void ft_owner_group(gid_t gid, char ret[FT_OWNER_BYTES]);

/** The home directory of a user. @return false if none is known, or it does not fit */
bool ft_owner_home(uid_t uid, char *ret, size_t cap);

#endif
