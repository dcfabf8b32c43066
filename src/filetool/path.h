/* Paths as they are asked for, and the directory that holds the last name of one. */
#ifndef FT_PATH_H
#define FT_PATH_H

#include "fail.h"

/** What is asked for as an absolute path: joined with the home, without "." and without doubled or
 * trailing slashes. ".." stays, as only the kernel knows where it leads. */
int ft_path_resolve(const char *arg, char ret[FT_PATH_BYTES], ft_err *err) SBX_MUST_CHECK;

/** Follow links at the end of an absolute path, in place, also to what is not there yet. */
int ft_path_follow(char path[FT_PATH_BYTES], ft_err *err) SBX_MUST_CHECK;

/** The last name of an absolute path; "/" for the top. Points into `path`. */
const char *ft_path_name(const char *path);

/** Directories that were made on the way, so that a failure can take them back. */
typedef struct ft_made {
    char **paths;
    size_t n;
} ft_made;

/** Removes them again as far as they are empty, and forgets them. */
void ft_made_undo(ft_made *made);
void ft_made_done(ft_made *made);

/** Make the directories that are missing above the last name of `path`, with mode 0777 without the
 * umask. @param made  gets those that were made, also on failure */
int ft_path_make_parents(const char *path, ft_made *made, ft_err *err) SBX_MUST_CHECK;

/** Open the directory that holds the last name.
 * @param ret_name  points into `path`
 * @return a descriptor with O_PATH, or -1; INVALID if the last name is "..", or there is none */
int ft_path_open_parent(const char *path, const char **ret_name, ft_err *err) SBX_MUST_CHECK;

/** The arguments that are not paths. */
int ft_arg_flag(const char *arg, const char *what, bool *ret, ft_err *err) SBX_MUST_CHECK;
int ft_arg_mode(const char *arg, int *ret, ft_err *err) SBX_MUST_CHECK; /* -1 for "-" */
int ft_arg_number(const char *arg, const char *what, int64_t min, int64_t max, int64_t *ret,
                  ft_err *err) SBX_MUST_CHECK;

#endif
