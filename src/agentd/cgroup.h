/* What the kernel says of the sandbox as a whole, in files: of cgroup v2, or of v1. */
#ifndef SBX_AGENTD_CGROUP_H
#define SBX_AGENTD_CGROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A place of a number. */
typedef struct agent_cgroup_file {
    const char *path;
    const char *key; /* at the beginning of its line; NULL: the file is the number */
} agent_cgroup_file;

/* The same number in both versions; `path` is NULL where there is none. */
typedef struct agent_cgroup_value {
    agent_cgroup_file v2, v1;
} agent_cgroup_value;

/** Read a number. @return false if neither version has it, or it says "max". */
bool agent_cgroup_read(const agent_cgroup_value *value, uint64_t *ret);

/** Limits of the sandbox's memory in bytes. @return false if there is none, or it is unknown. */
bool agent_cgroup_memory_limit(uint64_t *ret);

/** Pick a number out of the text of a file.
 * @param key  as above. */
bool agent_cgroup_parse(const char *text, const char *key, uint64_t *ret);

/** Read a small file whole. @return false if it is not there; what is longer is cut. */
bool agent_file_read(const char *path, char *text, size_t cap);

#endif
