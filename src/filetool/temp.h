/* A new file on its way to its place: nobody sees it under the name before it is complete. */
#ifndef FT_TEMP_H
#define FT_TEMP_H

#include "fail.h"

#define FT_HIDDEN_BYTES 22 /* .sbx- and 16 digits, with the NUL */

typedef struct ft_temp {
    int dirfd;                  /* borrowed */
    int fd;                     /* for writing; -1: none */
    char name[FT_HIDDEN_BYTES]; /* "" while it has none, which is the rule */
} ft_temp;

/* A temporary file that is not there. */
#define FT_TEMP_NONE                                                                               \
    {                                                                                              \
        .dirfd = -1, .fd = -1                                                                      \
    }

/** A random name that no other process chooses. */
void ft_hidden_name(char ret[FT_HIDDEN_BYTES]);

/** Whether a name has the form of one. */
bool ft_hidden(const char *name);

/** Make an empty file, for this user alone, in the directory.
 * @param dirfd  must stay open until the file is placed or dropped
 * @param path   for messages */
int ft_temp_open(int dirfd, const char *path, ft_temp *ret, ft_err *err) SBX_MUST_CHECK;

/** The same with a hidden name at once, for who has more files on their way than descriptors. */
int ft_temp_open_named(int dirfd, const char *path, ft_temp *ret, ft_err *err) SBX_MUST_CHECK;

/** Put it into its place, instead of what is there. EXISTS if `fresh` and something is there.
 * The descriptor stays open. */
int ft_temp_place(ft_temp *t, const char *name, bool fresh, const char *path,
                  ft_err *err) SBX_MUST_CHECK;

/** Close it, and remove it if it was not placed. */
void ft_temp_drop(ft_temp *t);

/** rename(2) beneath two open directories. @param fresh  EXISTS if there is something at the new
 * name */
int ft_rename(int from_fd, const char *from, int to_fd, const char *to, bool fresh,
              const char *path, ft_err *err) SBX_MUST_CHECK;

#endif
