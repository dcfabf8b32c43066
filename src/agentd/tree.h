/* Process trees, as /proc shows them.
 *
 * Descendants of a process are found by their parents' numbers alone, since not every kernel has
 * /proc/PID/task/TID/children. The root of a tree is a subreaper, so no descendant leaves it by
 * a double fork or a new session.
 *
 * Uses static memory: one tree operation at a time in a process. A number could be reused between
 * the look and the signal only if all numbers were used up in between.
 */
#ifndef SBX_AGENTD_TREE_H
#define SBX_AGENTD_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Direct children of the root that are left alone, with all below them. */
typedef struct agent_tree_except {
    const pid_t *pids;
    size_t count;
} agent_tree_except;

/** Kill all descendants of `root` (not itself).
 *
 * They are stopped, scan by scan, until two scans find none that is new, so that nothing can fork
 * away from the kill; then killed. Returns when none is left, or after `limit_ms`.
 *
 * @param except  may be NULL.
 * @param reap    called now and then, to wait for dead children.
 */
void agent_tree_kill(pid_t root, const agent_tree_except *except, int limit_ms,
                     void (*reap)(void *arg), void *arg);

/** Send `sig` to all descendants of `root` that there are now. */
void agent_tree_signal(pid_t root, int sig);

/* What all descendants of a process use. */
typedef struct agent_tree_use {
    uint64_t cpu_ms; /* with that of their children that they have reaped */
    uint64_t resident_bytes;
    uint64_t threads;
} agent_tree_use;

void agent_tree_sum(pid_t root, agent_tree_use *ret);

/** The parent of a process: 0 if it is not of this sandbox's own tree, -1 if the process is gone.
 */
pid_t agent_tree_parent(pid_t pid);

/** The parent and state in the text of /proc/PID/stat. @return whether it could be parsed. */
bool agent_tree_parse_stat(const char *text, pid_t *ret_ppid, char *ret_state);

/** What a process uses, from the same text: clock ticks, pages, threads. All 0 if it is cut. */
void agent_tree_parse_use(const char *text, uint64_t *ret_ticks, uint64_t *ret_pages,
                          uint64_t *ret_threads);

#endif
