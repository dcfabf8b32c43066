/* Users and groups of the image, without NSS.
 *
 * The files are the sandbox's own and may hold anything: they are read without following devices
 * or pipes, up to AGENT_USERS_MAX_BYTES, and lines that make no sense are skipped.
 */
#ifndef SBX_AGENTD_USERS_H
#define SBX_AGENTD_USERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#define AGENT_USERS_MAX_BYTES (1024 * 1024)
#define AGENT_MAX_GROUPS      64
#define AGENT_NAME_BYTES      64
#define AGENT_HOME_BYTES      512
#define AGENT_SPEC_BYTES      160 /* longest USER field, with its terminator */

#define AGENT_DEFAULT_USER "user"
#define AGENT_DEFAULT_HOME "/home/user"
#define AGENT_DEFAULT_ID   1000

typedef struct agent_user {
    uint32_t uid, gid;
    uint32_t groups[AGENT_MAX_GROUPS]; /* supplementary, with gid */
    size_t ngroups;
    char name[AGENT_NAME_BYTES]; /* the number if there is no name */
    char home[AGENT_HOME_BYTES]; /* "/" if unknown */
} agent_user;

/** Resolve "name", "uid", "name:group" or "uid:gid".
 *
 * A number needs no entry. Supplementary groups are those that list the name, unless the spec
 * names a group, which then is the only one.
 *
 * @param root  path put before /etc/passwd and /etc/group; "" outside tests.
 * @return 0, or -1 if there is no such user or group or the spec is malformed.
 */
int agent_user_resolve(const char *root, const char *spec, agent_user *ret);

/** The user of commands that name none: the image's unless that is root or empty, else uid 1000.
 * @param image  the image's USER, as in agent_user_resolve(). */
int agent_user_default(const char *root, const char *image, agent_user *ret);

/* Who was found last, for what, and what the two files were then. All zero: nobody. */
typedef struct agent_user_memo {
    bool known;
    char spec[AGENT_SPEC_BYTES], image[AGENT_SPEC_BYTES];
    struct stat files[2];
    agent_user user;
} agent_user_memo;

/** As agent_user_resolve() for a `spec`, or agent_user_default() where it is "", but the files are
 * read only if they have changed. @param image  as there; shorter than AGENT_SPEC_BYTES. */
int agent_user_recall(agent_user_memo *m, const char *root, const char *image, const char *spec,
                      agent_user *ret);

/** Make what the default user lacks: its entries in passwd and group, and its home. Best effort:
 * a read-only image works as well, with "/" for a home. */
void agent_user_provide(const char *root, const char *image);

#endif
