/* Files into and out of a sandbox. */
#ifndef SBX_CLI_FILES_H
#define SBX_CLI_FILES_H

#include "cli/client.h"
#include "cli/progress.h"

/* A file or folder in a sandbox. */
typedef struct cli_remote {
    char id[24];
    const char *path; /* borrowed from argv */
} cli_remote;

/** get ID:PATH */
int cli_file_out(cli *c);

/** Is `path` a folder there? @return 1, 0 (also if there is nothing), or -1: told what is wrong. */
int cli_remote_is_folder(cli *c, const cli_remote *r, const char *path);

/** The last part of a path without slashes at its end; "" if there is none. Owned by the caller. */
char *cli_base_name(const char *path);
char *cli_join_path(const char *folder, const char *name);

/* tree.c: folders with what is in them, as archives. */
int cli_tree_in(cli *c, const char *from, const cli_remote *to);
int cli_tree_out(cli *c, const cli_remote *from, const char *to);

#endif
