/* migrate, key, doctor, version, help. */
#include "commands.h"

#include "sbx/auth/auth.h"
#include "sbx/bus/bus.h"
#include "sbx/engine/engine.h"
#include "sbx/store/store.h"
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

int command_help(void)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(64 * KIB);

    sbx_options_help(&b);
    printf("sandboxd " SBX_VERSION ": isolated Linux sandboxes on Docker Engine\n\n"
           "usage: sandboxd COMMAND [OPTIONS]\n\n"
           "  serve     run the server until SIGTERM\n"
           "  migrate   bring the database's schema up to date\n"
           "  key       make an API key, and its user if the name is new, and print the key once:\n"
           "            --user NAME [--role user|admin] [--name TEXT] [--scopes \"*\"]\n"
           "  doctor    check what the server needs, and say what to do\n"
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

int command_migrate(const sbx_options *o, sbx_err *err)
{
    SBX_CLEANUP(sbx_store_free) sbx_store *store = NULL;
    int applied = 0;

    if (sbx_store_new(o->database_url, o->database_direct_url, NULL, &store, err) ||
        sbx_store_migrate(store, &applied, err))
        return -1;
    printf("%d migration%s applied\n", applied, applied == 1 ? "" : "s");
    return 0;
}

/* --- key --- */

int key_request_read(int *argc, char **argv, key_request *ret, sbx_err *err)
{
    const struct {
        const char *flag;
        const char **to;
    } flags[] = {{"--user", &ret->user},
                 {"--role", &ret->role},
                 {"--name", &ret->name},
                 {"--scopes", &ret->scopes}};
    int kept = 2;

    *ret = (key_request){.role = "user", .name = "key", .scopes = "*"};
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

int command_key(const sbx_options *o, const key_request *k, sbx_err *err)
{
    SBX_CLEANUP(sbx_crypt_free) sbx_crypt *crypt = NULL;
    SBX_CLEANUP(sbx_store_free) sbx_store *store = NULL;
    SBX_CLEANUP(sbx_auth_free) sbx_auth *auth = NULL;
    char key[SBX_KEY_LEN + 1];

    if (sbx_crypt_open(o->secret_file, &crypt, err) ||
        sbx_store_new(o->database_url, o->database_direct_url, crypt, &store, err) ||
        sbx_store_check(store, err))
        return -1;
    auth = sbx_auth_new(store, crypt);
    if (sbx_auth_make_key(auth, k->user, k->role, k->name, k->scopes, key, NULL, err))
        return -1;
    printf("%s\n", key);
    sbx_wipe(key, sizeof(key));
    return 0;
}

/* --- doctor --- */

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

static int check_secret(const sbx_options *o, sbx_err *err)
{
    SBX_CLEANUP(sbx_crypt_free) sbx_crypt *crypt = NULL;

    return sbx_crypt_open(o->secret_file, &crypt, err);
}

static int check_store(const sbx_options *o, sbx_err *err)
{
    SBX_CLEANUP(sbx_store_free) sbx_store *store = NULL;

    if (sbx_store_new(o->database_url, o->database_direct_url, NULL, &store, err))
        return -1;
    return sbx_store_check(store, err);
}

static int check_bus(const sbx_options *o, sbx_err *err)
{
    sbx_bus *bus;

    if (!*o->redis_url)
        return 0;
    if (sbx_bus_redis_new(o->redis_url, &bus, err))
        return -1;
    int rc = bus->ops->ping(bus, err);
    bus->ops->free(bus);
    return rc;
}

static int check_engine(const sbx_options *o, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf version = SBX_BUF_INIT(KIB);
    sbx_docker_config c = {.host = o->docker_host,
                           .tls = *o->docker_tls_verify,
                           .cert_path = o->docker_cert_path,
                           .timeout_ms = 5000,
                           .pull_timeout_ms = 5000};
    sbx_engine *engine;

    if (sbx_docker_new(&c, &engine, err))
        return -1;
    int rc = engine->ops->ping(engine, &version, err);
    engine->ops->free(engine);
    return rc;
}

static int check_agent(const sbx_options *o, sbx_err *err)
{
    char *path = command_agent_path(o);
    int rc = access(path, X_OK)
                 ? sbx_fail(err, SBX_E_INVALID, "%s is not a program; build it or set --agent-path",
                            path)
                 : 0;

    free(path);
    return rc;
}

int command_doctor(const sbx_options *o, sbx_err *err)
{
    static const struct {
        const char *name;
        int (*check)(const sbx_options *o, sbx_err *err);
    } checks[] = {{"secret", check_secret},
                  {"store", check_store},
                  {"bus", check_bus},
                  {"engine", check_engine},
                  {"agent", check_agent}};
    int failed = 0;

    for (size_t i = 0; i < ARRAY_LEN(checks); i++) {
        sbx_err why;
        int rc = checks[i].check(o, &why);

        printf("%-8s %s%s\n", checks[i].name, rc ? "FAILED: " : "ok", rc ? why.msg : "");
        failed += rc != 0;
    }
    return failed
               ? sbx_fail(err, SBX_E_INVALID, "%d of %zu checks failed", failed, ARRAY_LEN(checks))
               : 0;
}
