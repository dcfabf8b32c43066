/* migrate, key, reseal, version, help. */
#include "commands.h"

#include "sbx/auth/auth.h"
#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include "sbx/reaper/reaper.h"
#include "sbx/store/secret.h"
#include "sbx/store/users.h"
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

int command_help(void)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(64 * KIB);

    sbx_options_help(&b);
    printf(
        "sandboxd " SBX_VERSION ": isolated Linux sandboxes on Docker Engine\n\n"
        "usage: sandboxd COMMAND [OPTIONS]\n\n"
        "  serve     run the server until SIGTERM\n"
        "  migrate   bring the database's schema up to date\n"
        "            --dry-run: only list what would be applied; exit status 3 if something is\n"
        "  key       make an API key, and its user if the name is new, and print the key once:\n"
        "            --user NAME [--role user|admin] [--tier NAME] [--name TEXT] [--scopes \"*\"]\n"
        "            [--rates none|default|creates=N,exec=N,reads=N]: requests a minute\n"
        "  reseal    after a change of the master key: write everything with the new one\n"
        "  sweep     list containers that no record knows, as after a backup was restored;\n"
        "            --confirm: remove them; exit status 3 if there are some and they stay\n"
        "  doctor    check what the server needs, and say what to do; --json for programs;\n"
        "            exit status 1 if something fails\n"
        "  version   print the version\n\n"
        "Options: a flag wins over the environment, which wins over the file.\n%s",
        b.data);
    return 0;
}

int command_version(void)
{
    printf("sandboxd " SBX_VERSION "\n");
    return 0;
}

static void print_migration(void *arg, const char *name, const char *sum, const char *state)
{
    (void)arg;
    printf("%-8s %s (checksum %.12s)\n", state, name, sum);
}

/* 3 tells a script that something is pending, which no failure does. */
static int dry_run(sbx_store *store, sbx_err *err)
{
    int pending;

    if (sbx_store_migrations(store, print_migration, NULL, &pending, err))
        return -1;
    printf("%d migration%s would be applied; nothing was changed\n", pending,
           pending == 1 ? "" : "s");
    return pending ? 3 : 0;
}

int command_migrate(const sbx_options *o, bool only_look, sbx_err *err)
{
    SBX_CLEANUP(sbx_store_free) sbx_store *store = NULL;
    int applied = 0;

    if (sbx_store_new(o->database_url, o->database_direct_url, NULL, &store, err))
        return -1;
    if (only_look)
        return dry_run(store, err);
    if (sbx_store_migrate(store, &applied, err))
        return -1;
    printf("%d migration%s applied\n", applied, applied == 1 ? "" : "s");
    return 0;
}

bool command_flag(int *argc, char **argv, const char *flag)
{
    for (int i = 2; i < *argc; i++) {
        if (strcmp(argv[i], flag) != 0)
            continue;
        memmove(argv + i, argv + i + 1, (size_t)(*argc - i) * sizeof(*argv));
        --*argc;
        return true;
    }
    return false;
}

/* --- key --- */

int key_request_read(int *argc, char **argv, key_request *ret, sbx_err *err)
{
    const struct {
        const char *flag;
        const char **to;
    } flags[] = {{"--user", &ret->user}, {"--role", &ret->role},     {"--tier", &ret->tier},
                 {"--name", &ret->name}, {"--scopes", &ret->scopes}, {"--rates", &ret->rates}};
    int kept = 2;

    *ret = (key_request){.role = "user", .name = "key", .scopes = "*", .rates = "default"};
    for (int i = 2; i < *argc; i++) {
        bool taken = false;

        for (size_t f = 0; f < ARRAY_LEN(flags) && !taken; f++) {
            if (strcmp(argv[i], flags[f].flag) != 0)
                continue;
            if (++i == *argc)
                return sbx_fail(err, SBX_E_INVALID, "option %s needs a value", flags[f].flag);
            *flags[f].to = argv[i];
            taken = true;
        }
        if (!taken)
            argv[kept++] = argv[i];
    }
    *argc = kept;
    if (!ret->user)
        return sbx_fail(err, SBX_E_INVALID, "option --user NAME is required");
    return 0;
}

int command_open_store(const sbx_options *o, sbx_crypt **ret_crypt, sbx_store **ret_store,
                       sbx_err *err)
{
    bool changed;

    if (sbx_crypt_open(o->secret_file, ret_crypt, err) ||
        (*o->secret_file_previous && sbx_crypt_accept(*ret_crypt, o->secret_file_previous, err)) ||
        sbx_store_new(o->database_url, o->database_direct_url, *ret_crypt, ret_store, err) ||
        sbx_store_check(*ret_store, err) || sbx_store_secret_check(*ret_store, &changed, err))
        return -1;
    if (changed)
        sbx_log(SBX_WARN,
                "the master key was changed; run `sandboxd reseal` when all servers use it", NULL);
    return 0;
}

int command_reseal(const sbx_options *o, sbx_err *err)
{
    SBX_CLEANUP(sbx_crypt_free) sbx_crypt *crypt = NULL;
    SBX_CLEANUP(sbx_store_free) sbx_store *store = NULL;
    sbx_reseal done;

    if (!*o->secret_file_previous)
        return sbx_fail(err, SBX_E_INVALID,
                        "give the former master key as --secret-file-previous, the present one as "
                        "--secret-file");
    if (command_open_store(o, &crypt, &store, err) || sbx_store_reseal(store, &done, err))
        return -1;
    printf("%lld values sealed anew, %lld cannot be opened by either key\n"
           "%lld API keys were not used since the change, %lld answers of repeatable requests are "
           "older than it:\nthese are lost with the former key (answers are kept for a day)\n",
           (long long)done.sealed, (long long)done.lost, (long long)done.unused,
           (long long)done.answers);
    return 0;
}

static void print_orphan(void *arg, const sbx_container_info *c)
{
    char at[SBX_TIME_TEXT];

    ++*(int *)arg;
    sbx_time_text(c->created_at_ms, at);
    printf("%s %s made %s\n", c->sandbox_id, c->state, at);
}

/* 3 as of a dry run: something is pending. */
int command_sweep(const sbx_options *o, bool confirmed, sbx_err *err)
{
    SBX_CLEANUP(sbx_crypt_free) sbx_crypt *crypt = NULL;
    SBX_CLEANUP(sbx_store_free) sbx_store *store = NULL;
    sbx_docker_config docker = {.host = o->docker_host,
                                .tls = *o->docker_tls_verify,
                                .cert_path = o->docker_cert_path,
                                .timeout_ms = o->engine_timeout_s * 1000};
    sbx_engine *engine = NULL;
    sbx_id cluster;
    int count = 0;

    if (command_open_store(o, &crypt, &store, err) || sbx_store_cluster(store, &cluster, err) ||
        sbx_docker_new(&docker, &engine, err))
        return -1;
    sbx_reaper_config c = {.store = store,
                           .engine = engine,
                           .cluster = cluster.s,
                           .orphan_grace_s = o->orphan_grace_s};
    int rc = sbx_reaper_orphans(&c, confirmed, print_orphan, &count, err);
    engine->ops->free(engine);
    if (rc)
        return -1;
    printf("%d container%s without a record%s\n", count, count == 1 ? "" : "s",
           !count      ? ""
           : confirmed ? " removed"
                       : "; --confirm removes what is listed");
    return count && !confirmed ? 3 : 0;
}

int command_key(const sbx_options *o, const key_request *k, sbx_err *err)
{
    SBX_CLEANUP(sbx_crypt_free) sbx_crypt *crypt = NULL;
    SBX_CLEANUP(sbx_store_free) sbx_store *store = NULL;
    SBX_CLEANUP(sbx_auth_free) sbx_auth *auth = NULL;
    int64_t rates[SBX_RATE_COUNT];
    char key[SBX_KEY_LEN + 1];
    sbx_id id;

    if (sbx_rates_parse(k->rates, rates, err) || command_open_store(o, &crypt, &store, err))
        return -1;
    auth = sbx_auth_new(store, crypt);
    if (sbx_auth_make_key(auth, k->user, k->role, k->tier, k->name, k->scopes, key, &id, err) ||
        sbx_store_key_rates(store, id.s, rates, err))
        return -1; /* without its rates nobody learns the key */
    printf("%s\n", key);
    sbx_wipe(key, sizeof(key));
    return 0;
}

char *command_agent_path(const sbx_options *o)
{
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (*o->agent_path || n <= 0)
        return sbx_strdup(o->agent_path);
    self[n] = '\0';
    char *slash = strrchr(self, '/');
    *slash = '\0';
    return sbx_asprintf("%s/sbx-agent", self);
}

char *command_files_path(const sbx_options *o)
{
    SBX_CLEANUP(sbx_free_str) char *agent = command_agent_path(o);
    char *slash = strrchr(agent, '/');

    if (*o->files_path)
        return sbx_strdup(o->files_path);
    return sbx_asprintf("%.*ssbx-files", slash ? (int)(slash + 1 - agent) : 0, agent);
}

sbx_guard_config command_guard(const sbx_options *o, sbx_engine *engine, const char *cluster)
{
    return (sbx_guard_config){.engine = engine,
                              .cluster = cluster,
                              .image = o->guard_image,
                              .resolvers = o->network_resolvers,
                              .allow = o->network_allow,
                              .wanted = strcmp(o->network, "open") == 0};
}
