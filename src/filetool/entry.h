/* What is told of a file, directory or link: see "An entry" in filetool.h. */
#ifndef FT_ENTRY_H
#define FT_ENTRY_H

#include <sys/stat.h>

#include "fail.h"
#include "sbx/core/json.h"

#define FT_ETAG_BYTES     96
#define FT_MAX_LINE_BYTES (MIB) /* three texts as long as they can be, of escapes alone */

/** Strong: differs whenever the content may. */
void ft_etag(const struct stat *st, char ret[FT_ETAG_BYTES]);

/** Begin the object: its closing brace and newline are for ft_entry_end(), behind more fields.
 * @param path    of any length
 * @param target  of a link, else NULL */
void ft_entry_begin(sbx_jw *w, const struct stat *st, const char *path, const char *target);
void ft_entry_etag(sbx_jw *w, const struct stat *st); /* of a regular file; else nothing */
void ft_entry_end(sbx_jw *w);

/** The target of a link beneath an open directory.
 * @param ret  FT_PATH_BYTES; NULL is answered, and nothing kept, if it cannot be read */
const char *ft_entry_target(int dirfd, const char *name, char ret[FT_PATH_BYTES]);

typedef enum ft_created { FT_NOT_TOLD, FT_REPLACED, FT_CREATED } ft_created;

/** Print the entry of `name` as a line; links are not followed. */
int ft_entry_print(int dirfd, const char *name, const char *path, ft_created created,
                   ft_err *err) SBX_MUST_CHECK;

/** Print the entry that `st` tells of; it is no link. */
int ft_entry_print_stat(const struct stat *st, const char *path, ft_created created,
                        ft_err *err) SBX_MUST_CHECK;

#endif
