/* From a waiting process to a command: descriptors, user, capabilities, directory, program.
 *
 * Up to the note READY this is the agent's code with the agent's rights, and undumpable, so that
 * the command's user cannot look into it. A program that cannot be run is not a failure of the
 * request: as in a shell it is exit code 127 or 126, with a line on the command's stderr.
 */
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "descriptors.h"
#include "launch.h"
#include "notes.h"

#define OOM_SCORE         "1000"
#define CAPABILITY_V3     0x20080522u /* _LINUX_CAPABILITY_VERSION_3 */
#define SECUREBITS_NOROOT 0x03u       /* SECBIT_NOROOT, locked */
#define EXIT_NOT_FOUND    127
#define EXIT_NOT_RUNNABLE 126

typedef struct command_line {
    agent_launch_header h;
    const char *home, *cwd;
    char **argv, **env;
} command_line;

static _Noreturn void give_up(const agent_child_fds *fds, int code, int error)
{
    agent_note note = {.kind = AGENT_NOTE_FAILED, .code = code, .error = error};

    (void)!send(fds->notes, &note, sizeof note, MSG_NOSIGNAL);
    _exit(1);
}

/* The kernel should take a command before it takes the agent. Raising needs no right. */
static void raise_oom_score(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return;
    (void)!write(fd, OOM_SCORE, sizeof OOM_SCORE - 1);
    close(fd);
}

static char **pick_strings(char **at, uint32_t count)
{
    char **list = malloc(((size_t)count + 2) * sizeof *list);

    if (!list)
        return NULL;
    list[0] = NULL; /* room to put an interpreter in front */
    for (uint32_t i = 0; i < count; i++) {
        list[i + 1] = *at;
        *at += strlen(*at) + 1;
    }
    list[count + 1] = NULL;
    return list + 1;
}

static void read_launch(const agent_child_fds *fds, command_line *c)
{
    struct stat st;
    char *at;

    if (fstat(fds->launch, &st) < 0)
        give_up(fds, SBX_AF_SPAWN, errno);
    at = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fds->launch, 0);
    if (at == MAP_FAILED)
        give_up(fds, SBX_AF_SPAWN, errno);
    memcpy(&c->h, at, sizeof c->h);
    at += sizeof c->h;
    c->home = at;
    at += strlen(at) + 1;
    c->cwd = at;
    at += strlen(at) + 1;
    c->argv = pick_strings(&at, c->h.argc);
    c->env = pick_strings(&at, c->h.envc);
    if (!c->argv || !c->env)
        give_up(fds, SBX_AF_SPAWN, ENOMEM);
}

/* This process leads a session of its own, whose terminal this becomes. */
static void set_terminal(const agent_child_fds *fds, const char *name)
{
    int fd = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);

    if (fd < 0 || ioctl(fd, TIOCSCTTY, 0) < 0 || dup2(fd, 0) < 0 || dup2(fd, 1) < 0 ||
        dup2(fd, 2) < 0)
        give_up(fds, SBX_AF_SPAWN, errno);
}

static void set_descriptors(const agent_child_fds *fds, const command_line *c)
{
    int in = fds->in;

    if (!c->h.stdin_pipe) {
        int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

        if (null >= 0)
            in = null; /* without the device: the pipe, whose other end is closed */
    }
    if (dup2(in, 0) < 0 || dup2(fds->out, 1) < 0 || dup2(fds->err, 2) < 0)
        give_up(fds, SBX_AF_SPAWN, errno);
}

/* Empty sets for everybody, root as well: with no_new_privs an exec cannot bring any back. What
 * needs a capability that the container lacks is a second lock only, so failures are fine. */
static int drop_capabilities(void)
{
    struct {
        uint32_t version;
        int pid;
    } head = {.version = CAPABILITY_V3};
    struct {
        uint32_t effective, permitted, inheritable;
    } none[2] = {{0}};

    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    return (int)syscall(SYS_capset, &head, none);
}

/* The command's user may open its streams by their names: /dev/stdout, /proc/self/fd/1. */
static void give_streams(const command_line *c)
{
    for (int fd = 0; fd < 3; fd++) {
        struct stat st;

        if (fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode))
            (void)!fchown(fd, c->h.uid, c->h.gid);
    }
}

static int drop_rights(const command_line *c)
{
    gid_t groups[AGENT_MAX_GROUPS];

    for (uint32_t i = 0; i < c->h.ngroups; i++)
        groups[i] = c->h.groups[i];
    (void)prctl(PR_SET_SECUREBITS, SECUREBITS_NOROOT, 0, 0, 0);
    if (setgroups(c->h.ngroups, groups) < 0 || setresgid(c->h.gid, c->h.gid, c->h.gid) < 0 ||
        setresuid(c->h.uid, c->h.uid, c->h.uid) < 0)
        return -1;
    return drop_capabilities();
}

/* As the command's user: it must be allowed to go there. A relative directory is one of home. */
static int enter_directory(const command_line *c)
{
    if (c->h.own_cwd) {
        if (c->cwd[0] != '/' && chdir(c->home) < 0)
            return -1;
        return chdir(c->cwd);
    }
    return chdir(c->home) == 0 ? 0 : chdir("/");
}

static void unblock_signals(void)
{
    sigset_t none;

    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static void run_file(const command_line *c, const char *path)
{
    (void)execve(path, c->argv, c->env);
    if (errno == ENOEXEC) {
        /* a script without a first line, as POSIX shells treat it */
        char **argv = c->argv - 1;

        argv[0] = (char *)"sh";
        argv[1] = (char *)path;
        (void)execve("/bin/sh", argv, c->env);
        errno = ENOEXEC;
    }
}

static const char *search_path(const command_line *c)
{
    for (char **e = c->env; *e; e++)
        if (strncmp(*e, "PATH=", 5) == 0)
            return *e + 5;
    return "";
}

/* A directory that may not be searched does not make a name known. */
static bool exists(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0;
}

/* @return the errno to report */
static int run_by_search(const command_line *c)
{
    const char *dir = search_path(c);
    int error = ENOENT;

    for (bool more = true; more;) {
        size_t len = strcspn(dir, ":");
        char path[4096];
        int n =
            snprintf(path, sizeof path, "%.*s/%s", len ? (int)len : 1, len ? dir : ".", c->argv[0]);

        /* looking costs a fraction of trying to run what is not there */
        if (n > 0 && (size_t)n < sizeof path && exists(path)) {
            run_file(c, path);
            if (errno != ENOENT && errno != ENOTDIR)
                error = errno;
        }
        more = dir[len] == ':';
        dir += len + 1;
    }
    return error;
}

static _Noreturn void become(const command_line *c)
{
    const char *name = c->argv[0];
    int error = ENOENT;

    if (strchr(name, '/')) {
        run_file(c, name);
        error = errno;
    } else if (name[0] != '\0') {
        error = run_by_search(c);
    }
    if (error == ENOENT && !strchr(name, '/'))
        (void)dprintf(2, "%.200s: command not found\n", name);
    else
        (void)dprintf(2, "%.200s: %s\n", name, strerror(error));
    _exit(error == ENOENT || error == ENOTDIR ? EXIT_NOT_FOUND : EXIT_NOT_RUNNABLE);
}

_Noreturn void agent_child_run(const agent_child_fds *fds, const struct rlimit *nofile)
{
    command_line c = {0};
    agent_note ready = {.kind = AGENT_NOTE_READY, .pid = getpid()};
    char byte;
    ssize_t n;

    /* What needs no description is done now, while nobody waits for it. */
    (void)setsid();
    (void)umask(022);
    raise_oom_score();
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        give_up(fds, SBX_AF_SPAWN, errno);
    for (unsigned long cap = 0; prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0; cap++)
        ;
    do
        n = read(fds->go, &byte, 1);
    while (n < 0 && errno == EINTR);
    if (n != 1)
        _exit(0);

    read_launch(fds, &c);
    if (c.h.terminal[0] != '\0')
        set_terminal(fds, c.h.terminal);
    else
        set_descriptors(fds, &c);
    give_streams(&c);
    (void)setrlimit(RLIMIT_NOFILE, nofile);
    if (drop_rights(&c) < 0)
        give_up(fds, SBX_AF_SPAWN, errno);
    if (enter_directory(&c) < 0)
        give_up(fds, SBX_AF_BAD_CWD, errno);
    unblock_signals();
    (void)!send(fds->notes, &ready, sizeof ready, MSG_NOSIGNAL);
    agent_descriptors_close_from(3);
    become(&c);
}
