/* Putting what an archive holds beneath a directory, and nowhere else.
 *
 * Names are walked part by part and no part is ever a link, neither one of the archive nor one that
 * was there, so nothing that the archive says can lead out. What was there is replaced
 * when the new file is complete, never written to. */
#ifndef FT_EXTRACT_H
#define FT_EXTRACT_H

#include <sys/stat.h>

#include "seen.h"
#include "temp.h"

#define FT_MAX_LATER_BYTES (8 * MIB) /* names of directories that get their modes at the end */

typedef struct ft_later ft_later;

typedef struct ft_extract {
    int root;         /* borrowed */
    const char *path; /* of the root; borrowed */
    int64_t max_entries;
    mode_t umask;
    int64_t entries; /* members of the archive, and directories that they imply */
    int64_t files, directories, skipped;
    ft_seen seen;   /* names of all but directories */
    ft_later *last; /* directories that get mode and times at the end */
    size_t later_bytes;
    int dirfd;                /* of the member before, as the next is often beside it; -1: none */
    char dir[FT_PATH_BYTES];  /* its name beneath the root */
    char name[FT_PATH_BYTES]; /* of the member at hand, in normal form */
} ft_extract;

typedef struct ft_member {
    mode_t mode;
    bool has_time;
    struct timespec time;
} ft_member;

void ft_extract_init(ft_extract *x, int root, const char *path, int64_t max_entries);
void ft_extract_done(ft_extract *x);

/** The next member. Refuses names that are absolute, hold "..", or are too long; counts.
 * @return 1; 0 for the root itself, which is skipped; -1 */
int ft_extract_member(ft_extract *x, const char *name, ft_err *err) SBX_MUST_CHECK;

/** What the member is: one of these for each. */
int ft_extract_directory(ft_extract *x, const ft_member *m, ft_err *err) SBX_MUST_CHECK;
int ft_extract_symlink(ft_extract *x, const char *target, const ft_member *m,
                       ft_err *err) SBX_MUST_CHECK;
int ft_extract_hardlink(ft_extract *x, const char *target, ft_err *err) SBX_MUST_CHECK;
int ft_extract_file(ft_extract *x, ft_temp *ret, ft_err *err) SBX_MUST_CHECK;
int ft_extract_file_end(ft_extract *x, ft_temp *t, const ft_member *m, ft_err *err) SBX_MUST_CHECK;

/** Give directories their modes and times, as far as possible. Also after a failure. */
void ft_extract_finish(ft_extract *x);

/** A name in normal form: without "." and doubled slashes; "" for the root.
 * @return -1: INVALID */
int ft_extract_normal(const char *name, char ret[FT_PATH_BYTES], ft_err *err) SBX_MUST_CHECK;

/** Whether a symlink that stands `depth` directories beneath the root stays beneath it: relative,
 * and ".." only at its beginning and not more often than there are directories. */
bool ft_extract_stays(const char *target, int depth);

#endif
