/* sandboxd doctor: does this machine have what the server needs? One line for each finding: ok,
 * warn or fail, what was measured, and what to do. Every check has a time-out, so that parts which
 * are down or frozen cost seconds. Nothing is changed, but that the guard of the network is made if
 * it is not there, as the server would: only so can it be asked. */
#include "commands.h"

#include "sbx/bus/bus.h"
#include "sbx/core/clock.h"
#include "sbx/core/crypt.h"
#include "sbx/core/thread.h"
#include "sbx/engine/engine.h"
#include "sbx/guard/guard.h"
#include "sbx/sandbox/sandboxes.h"
#include "sbx/store/store.h"
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define CHECK_MS         5000
#define MIN_STORE        140000 /* PostgreSQL 14 */
#define MAX_SKEW_MS      2000
#define OTHER_STORE      4   /* connections besides those of the lanes: presence, events, migrate */
#define OTHER_FILES      512 /* descriptors besides those of clients */
#define LOW_DISK_BYTES   (INT64_C(2048) * MIB)
#define VALUE_BYTES      512
#define MAX_REPORT_BYTES MIB

typedef enum level { OK, WARN, FAIL } level;
static const char *const levels[] = {"ok", "warn", "fail"};

typedef struct doctor {
    const sbx_options *o;
    bool json;
    sbx_buf report; /* JSON: the array of findings */
    sbx_jw w;
    int counts[3];
    sbx_store *store;   /* NULL unless it answers */
    sbx_engine *engine; /* the same */
    sbx_engine_facts facts;
} doctor;

/* Report a finding. @param todo  NULL with OK. */
static void say(doctor *d, level l, const char *name, const char *todo, const char *fmt, ...)
    SBX_PRINTF(5, 6);
static void say(doctor *d, level l, const char *name, const char *todo, const char *fmt, ...)
{
    char value[VALUE_BYTES];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(value, sizeof(value), fmt, ap);
    va_end(ap);
    d->counts[l]++;
    if (d->json) {
        sbx_jw_obj(&d->w, NULL);
        sbx_jw_str(&d->w, "name", name);
        sbx_jw_str(&d->w, "status", levels[l]);
        sbx_jw_str(&d->w, "value", value);
        sbx_jw_str(&d->w, "todo", todo);
        sbx_jw_obj_end(&d->w);
        return;
    }
    printf("%-5s %-16s %s\n", levels[l], name, value);
    if (todo)
        printf("      %-16s -> %s\n", "", todo);
    fflush(stdout);
}

/* --- this process and its files --- */

static bool loopback(const char *listen)
{
    return strncmp(listen, "127.", 4) == 0 || strncmp(listen, "[::1]", 5) == 0 ||
           strncmp(listen, "localhost:", 10) == 0;
}

static void check_listen(doctor *d)
{
    const sbx_options *o = d->o;
    const char *token = *o->metrics_token ? "with a token" : "on loopback only";

    if (loopback(o->listen))
        say(d, OK, "listen", NULL, "%s: this machine only; metrics %s", o->listen, token);
    else if (!*o->metrics_token)
        say(d, WARN, "listen",
            "set --metrics-token, and put a proxy with TLS in front: keys travel as they are",
            "%s: other machines too; metrics are refused", o->listen);
    else
        say(d, WARN, "listen", "put a proxy with TLS in front: keys travel as they are",
            "%s: other machines too; metrics %s", o->listen, token);
    if (!*o->cors_origins)
        say(d, OK, "cors", NULL, "browsers on other origins are refused");
    else if (strchr(o->cors_origins, '*'))
        say(d, WARN, "cors", "name the origins in --cors-origins unless any web page may call",
            "any origin: %s", o->cors_origins);
    else
        say(d, OK, "cors", NULL, "%s", o->cors_origins);
}

static void check_secret(doctor *d)
{
    SBX_CLEANUP(sbx_crypt_free) sbx_crypt *crypt = NULL;
    const char *path = d->o->secret_file;
    struct stat st;
    sbx_err err;

    if (!*path)
        say(d, FAIL, "secret", "openssl rand -hex 32 > FILE; chmod 600 FILE; set --secret-file",
            "no file is configured");
    else if (sbx_crypt_open(path, &crypt, &err))
        say(d, FAIL, "secret", "it must hold 64 hex digits and be readable by this user alone",
            "%s", err.msg);
    else if (stat(path, &st) == 0 && st.st_uid != geteuid() && st.st_uid != 0)
        say(d, WARN, "secret", "chown it to the server's user, or to root",
            "%s belongs to user %u, this is user %u", path, st.st_uid, geteuid());
    else
        say(d, OK, "secret", NULL, "%s, mode %04o", path, (unsigned)(st.st_mode & 07777));
}

/* The machine of a static program. @return its e_machine, or -1 with why. */
static int static_machine(const char *path, const char **ret_why)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), machine = -1;
    Elf64_Ehdr head;

    *ret_why = "cannot be read";
    if (fd < 0)
        return -1;
    *ret_why = "is no 64-bit program for Linux";
    if (pread(fd, &head, sizeof(head), 0) == sizeof(head) &&
        memcmp(head.e_ident, ELFMAG, SELFMAG) == 0 && head.e_ident[EI_CLASS] == ELFCLASS64 &&
        head.e_phentsize == sizeof(Elf64_Phdr))
        machine = head.e_machine;
    for (int i = 0; machine >= 0 && i < head.e_phnum; i++) {
        Elf64_Phdr part;
        off_t at = (off_t)(head.e_phoff + (size_t)i * sizeof(part));

        if (pread(fd, &part, sizeof(part), at) != sizeof(part))
            machine = -1;
        else if (part.p_type == PT_INTERP) {
            *ret_why = "is linked dynamically";
            machine = -1;
        }
    }
    close(fd);
    return machine;
}

/* A program that must run in any sandbox: static, and for the engine's processor. */
static void check_program(doctor *d, const char *name, const char *option, const char *path)
{
    static const struct {
        int machine;
        const char *name;
    } machines[] = {{EM_X86_64, "x86_64"}, {EM_AARCH64, "aarch64"}, {EM_RISCV, "riscv64"}};
    const char *why = NULL, *processor = "an unknown processor";
    char build[96], other[96];
    int machine = -1;

    if (access(path, X_OK))
        why = strerror(errno);
    else
        machine = static_machine(path, &why);
    for (size_t i = 0; i < ARRAY_LEN(machines); i++)
        if (machines[i].machine == machine)
            processor = machines[i].name;
    snprintf(build, sizeof(build), "build sbx-%s (it comes with sandboxd) or set %s", name, option);
    snprintf(other, sizeof(other), "set %s to an sbx-%s for the engine's processor", option, name);
    if (machine < 0)
        say(d, FAIL, name, build, "%s: %s", path, why);
    else if (d->engine && *d->facts.architecture && strcmp(d->facts.architecture, processor) != 0)
        say(d, FAIL, name, other, "%s is for %s, the engine runs on %s", path, processor,
            d->facts.architecture);
    else
        say(d, OK, name, NULL, "%s, static, for %s", path, processor);
}

static void check_programs(doctor *d)
{
    SBX_CLEANUP(sbx_free_str) char *agent = command_agent_path(d->o);
    SBX_CLEANUP(sbx_free_str) char *files = command_files_path(d->o);

    check_program(d, "agent", "--agent-path", agent);
    check_program(d, "files", "--files-path", files);
}

static void check_descriptors(doctor *d)
{
    struct rlimit limit;
    long long need = d->o->max_connections + OTHER_FILES;

    if (getrlimit(RLIMIT_NOFILE, &limit))
        return;
    if (limit.rlim_max != RLIM_INFINITY && (long long)limit.rlim_max < need)
        say(d, WARN, "descriptors",
            "raise the limit (LimitNOFILE=, ulimit -Hn) or lower "
            "--max-connections",
            "at most %llu, and %lld connections are allowed", (unsigned long long)limit.rlim_max,
            (long long)d->o->max_connections);
    else
        say(d, OK, "descriptors", NULL, "at most %llu for %lld connections",
            (unsigned long long)limit.rlim_max, (long long)d->o->max_connections);
}

/* --- the store --- */

static void check_store(doctor *d)
{
    sbx_store_facts f;
    sbx_err err;

    if (sbx_store_new(d->o->database_url, d->o->database_direct_url, NULL, &d->store, &err)) {
        say(d, FAIL, "store", "set --database-url (DATABASE_URL)", "%s", err.msg);
        return;
    }
    if (sbx_store_facts_get(d->store, &f, &err)) {
        say(d, FAIL, "store", "start PostgreSQL, and check the address and the password", "%s",
            err.msg);
        sbx_store_free(sbx_steal(d->store));
        return;
    }
    if (f.version < MIN_STORE)
        say(d, FAIL, "store", "install PostgreSQL 14 or newer", "PostgreSQL %s", f.version_text);
    else if (f.read_only)
        say(d, FAIL, "store", "point --database-url at the primary server",
            "PostgreSQL %s takes no writes", f.version_text);
    else
        say(d, OK, "store", NULL, "PostgreSQL %s", f.version_text);
    if (f.skew_ms > MAX_SKEW_MS || f.skew_ms < -MAX_SKEW_MS)
        say(d, WARN, "store-clock", "synchronise the clocks of both machines (NTP)",
            "the database's clock differs by %lld ms", (long long)f.skew_ms);
    else
        say(d, OK, "store-clock", NULL, "differs by %lld ms", (long long)f.skew_ms);
    long long need = d->o->fast_workers + d->o->slow_workers + d->o->reap_workers + OTHER_STORE;
    long long room = f.max_connections - f.reserved_connections;

    if (room < need)
        say(d, FAIL, "store-connections", "raise max_connections or lower the numbers of workers",
            "%lld are allowed, this server needs %lld", room, need);
    else if (room - f.connections < need)
        say(d, WARN, "store-connections", "raise max_connections if all of these stay",
            "%lld are allowed, %lld used now, a server needs %lld", room, (long long)f.connections,
            need);
    else
        say(d, OK, "store-connections", NULL,
            "%lld are allowed, %lld used now, a server needs %lld", room, (long long)f.connections,
            need);
}

static void count_migration(void *arg, const char *name, const char *sum, const char *state)
{
    (void)name, (void)sum;
    if (strcmp(state, "applied") == 0)
        ++*(int *)arg;
}

static void check_migrations(doctor *d)
{
    int pending = 0, applied = 0;
    sbx_err err;

    if (!d->store)
        return;
    if (sbx_store_migrations(d->store, count_migration, &applied, &pending, &err))
        say(d, FAIL, "migrations", "run the program that belongs to this database", "%s", err.msg);
    else if (pending)
        say(d, FAIL, "migrations", "run: sandboxd migrate", "%d applied, %d pending", applied,
            pending);
    else
        say(d, OK, "migrations", NULL, "all %d are applied", applied);
}

static void check_pooler(doctor *d)
{
    SBX_CLEANUP(sbx_store_free) sbx_store *direct = NULL;
    sbx_err err;

    if (!*d->o->database_direct_url)
        say(d, OK, "pooler", NULL, "none configured (--database-direct-url is not set)");
    else if (sbx_store_new(d->o->database_direct_url, NULL, NULL, &direct, &err) ||
             sbx_store_ping(direct, &err))
        say(d, FAIL, "pooler", "--database-direct-url must reach PostgreSQL itself", "%s", err.msg);
    else
        say(d, OK, "pooler", NULL, "the direct address answers");
}

static void check_bus(doctor *d)
{
    char version[32];
    sbx_err err;

    if (!*d->o->redis_url)
        say(d, OK, "bus", NULL, "in-process: one server on this database");
    else if (sbx_bus_redis_probe(d->o->redis_url, version, &err))
        say(d, FAIL, "bus", "start Redis, or check --redis-url", "%s", err.msg);
    else
        say(d, OK, "bus", NULL, "Redis %s", version);
}

/* --- the engine --- */

static void check_socket(doctor *d)
{
    const char *path = d->o->docker_host;

    if (strncmp(path, "unix://", 7) != 0) {
        bool tls = *d->o->docker_tls_verify;

        say(d, tls ? OK : WARN, "engine-access",
            tls ? NULL : "set --docker-tls-verify: whoever reaches this port is root there", "%s%s",
            path, tls ? " with TLS" : " without TLS");
        return;
    }
    if (access(path + 7, R_OK | W_OK) == 0)
        say(d, OK, "engine-access", NULL, "%s", path);
    else if (errno == ENOENT)
        say(d, FAIL, "engine-access", "start Docker Engine, or set --docker-host", "%s: %s", path,
            strerror(errno));
    else
        say(d, FAIL, "engine-access", "add the server's user to the socket's group (docker)",
            "%s: %s", path, strerror(errno));
}

static void check_engine(doctor *d)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf version = SBX_BUF_INIT(KIB);
    sbx_docker_config c = {.host = d->o->docker_host,
                           .tls = *d->o->docker_tls_verify,
                           .cert_path = d->o->docker_cert_path,
                           .timeout_ms = CHECK_MS,
                           .pull_timeout_ms = CHECK_MS};
    sbx_err err;

    check_socket(d);
    if (sbx_docker_new(&c, &d->engine, &err)) {
        say(d, FAIL, "engine", "check --docker-host and the certificates", "%s", err.msg);
        return;
    }
    if (d->engine->ops->ping(d->engine, &version, &err) ||
        d->engine->ops->facts(d->engine, &d->facts, &err)) {
        say(d, FAIL, "engine", "start Docker Engine 20.10 or newer, and check its address", "%s",
            err.msg);
        sbx_engine *dead = sbx_steal(d->engine);
        dead->ops->free(dead);
        return;
    }
    say(d, OK, "engine", NULL, "%s, %s, %lld cpus, %lld MB", version.data, d->facts.architecture,
        (long long)d->facts.cpus, (long long)d->facts.memory_bytes / (long long)MIB);
}

/* Its rules are those of the running server, so the options must be the server's. */
static void check_guard(doctor *d)
{
    SBX_CLEANUP(sbx_guard_free) sbx_guard *guard = NULL;
    sbx_id cluster;
    sbx_err err;

    if (strcmp(d->o->network, "open") != 0) {
        say(d, OK, "network", NULL, "%s is the default: no firewall until somebody asks for open",
            d->o->network);
        return;
    }
    if (!d->store || !d->engine)
        return;
    if (sbx_store_cluster(d->store, &cluster, &err)) {
        say(d, WARN, "network", "migrate first", "the installation has no id yet: %s", err.msg);
        return;
    }
    sbx_guard_config c = command_guard(d->o, d->engine, cluster.s);
    if (sbx_guard_new(&c, &guard, &err) || sbx_guard_check(guard, &err))
        say(d, FAIL, "network",
            "run deploy/images/build for the image, see the network options, or set --network none",
            "sandboxes with a network cannot start: %s", err.msg);
    else
        say(d, OK, "network", NULL, "the guard has confirmed the rules of the firewall");
}

static void check_limits(doctor *d)
{
    const sbx_engine_facts *f = &d->facts;

    if (!d->engine)
        return;
    if (!f->memory_limit || !f->pids_limit || !f->cpu_quota)
        say(d, FAIL, "engine-limits", "enable the cgroup controllers memory, pids and cpu",
            "it cannot limit%s%s%s (cgroup version %s)", f->memory_limit ? "" : " memory",
            f->pids_limit ? "" : " processes", f->cpu_quota ? "" : " processors",
            f->cgroup_version);
    else if (!f->swap_limit)
        say(d, WARN, "engine-limits", "turn swap off, or boot with swapaccount=1",
            "cgroup version %s: sandboxes may use swap beyond their memory", f->cgroup_version);
    else
        say(d, OK, "engine-limits", NULL, "cgroup version %s, driver %s", f->cgroup_version,
            f->cgroup_driver);
    if (f->seccomp)
        say(d, OK, "engine-seccomp", NULL, "system calls are filtered");
    else
        say(d, WARN, "engine-seccomp", "use an engine and a kernel with seccomp",
            "system calls of sandboxes are not filtered");
}

static bool has_word(const char *words, const char *word)
{
    size_t len = strlen(word);

    for (const char *at = words; (at = strstr(at, word)); at += len)
        if ((at == words || at[-1] == ' ') && (at[len] == ' ' || at[len] == '\0'))
            return true;
    return false;
}

static void check_runtime(doctor *d)
{
    const char *wanted = d->o->runtime;

    if (!d->engine)
        return;
    if (!*wanted)
        say(d, OK, "runtime", NULL, "the engine's default, %s (has: %s)", d->facts.default_runtime,
            d->facts.runtimes);
    else if (has_word(d->facts.runtimes, wanted))
        say(d, OK, "runtime", NULL, "%s", wanted);
    else
        say(d, FAIL, "runtime", "add it to the engine's daemon.json, or change --runtime",
            "the engine has no %s, only %s", wanted, d->facts.runtimes);
}

static void check_disk(doctor *d)
{
    bool here = strncmp(d->o->docker_host, "unix://", 7) == 0;
    struct statvfs fs;

    if (!d->engine)
        return;
    if (!here || statvfs(d->facts.root, &fs)) {
        say(d, OK, "engine-disk", NULL, "%s, at %s on its host; its free space cannot be seen here",
            d->facts.storage_driver, d->facts.root);
        return;
    }
    long long left = (long long)fs.f_bavail * (long long)fs.f_frsize;

    if (left < LOW_DISK_BYTES)
        say(d, WARN, "engine-disk", "make room: images and all that sandboxes write go there",
            "%s, %lld MB free at %s", d->facts.storage_driver, left / (long long)MIB,
            d->facts.root);
    else
        say(d, OK, "engine-disk", NULL, "%s, %lld MB free at %s", d->facts.storage_driver,
            left / (long long)MIB, d->facts.root);
}

static void check_image(doctor *d, const sbx_template *t)
{
    sbx_image_info info = {0};
    sbx_err err;
    char name[80];

    snprintf(name, sizeof(name), "image %s", t->name);
    if (d->engine->ops->image_inspect(d->engine, t->image, &info, &err) == 0)
        say(d, OK, name, NULL, "%s, %lld MB", t->image,
            (long long)info.size_bytes / (long long)MIB);
    else if (err.code == SBX_E_NOT_FOUND)
        say(d, WARN, name,
            "make it with deploy/images/build, or pull it now; otherwise the first create pulls it",
            "%s is not on the engine", t->image);
    else
        say(d, FAIL, name, "see the message", "%s", err.msg);
    sbx_image_info_done(&info);
}

static void check_images(doctor *d)
{
    sbx_template templates[SBX_MAX_TEMPLATES];
    size_t count = 0;
    sbx_err err;

    if (sbx_templates_parse(d->o->templates, templates, &count, &err))
        say(d, FAIL, "images", "write name=image,name=image", "%s", err.msg);
    for (size_t i = 0; d->engine && i < count; i++)
        check_image(d, &templates[i]);
}

/* --- the whole --- */

static void finish(doctor *d)
{
    if (d->store)
        sbx_store_free(d->store);
    if (d->engine)
        d->engine->ops->free(d->engine);
    if (!d->json) {
        printf("%d ok, %d to look at, %d failed\n", d->counts[OK], d->counts[WARN],
               d->counts[FAIL]);
        return;
    }
    sbx_jw_arr_end(&d->w);
    printf("{\"status\":\"%s\",\"checks\":%s}\n",
           levels[d->counts[FAIL]   ? FAIL
                  : d->counts[WARN] ? WARN
                                    : OK],
           d->report.data);
    sbx_buf_done(&d->report);
}

int command_doctor(const sbx_options *o, bool json)
{
    /* the programs after the engine, whose processor they must fit */
    static void (*const checks[])(doctor * d) = {
        check_listen,  check_secret, check_descriptors, check_store,    check_migrations,
        check_pooler,  check_bus,    check_engine,      check_guard,    check_limits,
        check_runtime, check_disk,   check_images,      check_programs,
    };
    doctor d = {.o = o, .json = json};

    sbx_buf_init(&d.report, MAX_REPORT_BYTES);
    d.w = (sbx_jw){.out = &d.report};
    if (json)
        sbx_jw_arr(&d.w, NULL);
    for (size_t i = 0; i < ARRAY_LEN(checks); i++) {
        sbx_job_scope(sbx_now_ms() + CHECK_MS, NULL);
        checks[i](&d);
    }
    sbx_job_scope(0, NULL);
    finish(&d);
    return d.counts[FAIL] ? 1 : 0;
}
