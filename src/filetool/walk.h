/* Walking a tree beneath an open directory: in no order, never through a link, with paths of any
 * length and constant memory. */
#ifndef FT_WALK_H
#define FT_WALK_H

#include <sys/stat.h>

#include "fail.h"

typedef struct ft_step {
    int dirfd;        /* the directory that holds it */
    const char *name; /* in that directory */
    const char *path; /* from the root's own path; of any length */
    const char *rel;  /* the part of it beneath the root */
    int depth;        /* 0: directly in the root */
    struct stat st;   /* of the thing itself, also if it is a link */
} ft_step;

typedef enum ft_next { FT_SKIP, FT_DESCEND, FT_FAILED = -1 } ft_next;

typedef struct ft_visitor {
    /* Called for everything. FT_DESCEND is for directories; TOO_LARGE if they lie too deep. */
    ft_next (*enter)(void *ctx, const ft_step *step, ft_err *err);
    /* Called behind the content of a directory; may be NULL. `fd` is the directory's own. */
    int (*leave)(void *ctx, const ft_step *step, int fd, ft_err *err);
    void *ctx;
} ft_visitor;

/** @param fd    the root; borrowed
 *  @param path  the root's own, for paths and messages */
int ft_walk(int fd, const char *path, const ft_visitor *visitor, ft_err *err) SBX_MUST_CHECK;

/** Whether a step is a directory of procfs or sysfs: endless, and without content to keep. */
bool ft_walk_is_kernels(const ft_step *step);

/** The same of anything that is open. */
bool ft_is_kernels(int fd);

#endif
