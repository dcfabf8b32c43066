/* The options of the program, in one table: flag, environment, default, range, help.
 *
 * Precedence: flag, then environment, then the file given by --config (lines NAME=VALUE with the
 * environment's names), then the default. `sandboxd --help` prints the table. */
#ifndef SBX_CORE_OPTIONS_H
#define SBX_CORE_OPTIONS_H

#include "sbx/core/buf.h"
#include "sbx/core/error.h"

/*  field              type flag                 environment              default  min  max  secret
 * help */
#define SBX_OPTIONS(X)                                                                             \
    X(listen, STR, "listen", "SBX_LISTEN", "127.0.0.1:7070", 0, 0, 0,                              \
      "address and port to serve on")                                                              \
    X(database_url, STR, "database-url", "DATABASE_URL", "", 0, 0, 1,                              \
      "PostgreSQL, as a libpq URI or conninfo")                                                    \
    X(database_direct_url, STR, "database-direct-url", "DATABASE_DIRECT_URL", "", 0, 0, 1,         \
      "the same past PgBouncer, for session locks and migrations")                                 \
    X(redis_url, STR, "redis-url", "REDIS_URL", "", 0, 0, 1,                                       \
      "redis://[:password@]host:port[/db] or unix:///path; empty: in-process bus, one worker")     \
    X(docker_host, STR, "docker-host", "DOCKER_HOST", "unix:///var/run/docker.sock", 0, 0, 0,      \
      "Docker Engine: unix:// or tcp://")                                                          \
    X(docker_tls_verify, STR, "docker-tls-verify", "DOCKER_TLS_VERIFY", "", 0, 0, 0,               \
      "not empty: TLS with the certificates below")                                                \
    X(docker_cert_path, STR, "docker-cert-path", "DOCKER_CERT_PATH", "", 0, 0, 0,                  \
      "folder of ca.pem, cert.pem, key.pem")                                                       \
    X(secret_file, STR, "secret-file", "SBX_SECRET_FILE", "", 0, 0, 0,                             \
      "file of 64 hex digits: the master key; mode 0600")                                          \
    X(secret_file_previous, STR, "secret-file-previous", "SBX_SECRET_FILE_PREVIOUS", "", 0, 0, 0,  \
      "the former master key while it is changed: read, never written with")                       \
    X(agent_path, STR, "agent-path", "SBX_AGENT_PATH", "", 0, 0, 0,                                \
      "the sbx-agent program; empty: beside sandboxd")                                             \
    X(files_path, STR, "files-path", "SBX_FILES_PATH", "", 0, 0, 0,                                \
      "the sbx-files program; empty: beside sbx-agent")                                            \
    X(templates, STR, "templates", "SBX_TEMPLATES",                                                \
      "python=sandboxd/python:1,node=sandboxd/node:1", 0, 0, 0, "name=image pairs")                \
    X(registries, STR, "registries", "SBX_REGISTRIES", "", 0, 0, 0,                                \
      "hosts whose images users may name, joined by commas (default: of names without one); "      \
      "empty: all")                                                                                \
    X(pool, STR, "pool", "SBX_POOL", "", 0, 0, 0,                                                  \
      "started sandboxes kept for creates: TEMPLATE=MIN[:MAX][/SIZE][/NETWORK], joined by commas") \
    X(runtime, STR, "runtime", "SBX_RUNTIME", "", 0, 0, 0,                                         \
      "OCI runtime of the sandboxes; empty: the engine's default")                                 \
    X(network, STR, "network", "SBX_NETWORK", "open", 0, 0, 0,                                     \
      "network of sandboxes that do not ask: open or none")                                        \
    X(network_resolvers, STR, "network-resolvers", "SBX_NETWORK_RESOLVERS", "", 0, 0, 0,           \
      "DNS of open sandboxes, IPv4 joined by commas; empty: the engine host's")                    \
    X(network_allow, STR, "network-allow", "SBX_NETWORK_ALLOW", "", 0, 0, 0,                       \
      "private places open to them: ADDRESS[/BITS][:PORT], joined by commas")                      \
    X(guard_image, STR, "guard-image", "SBX_GUARD_IMAGE", "sandboxd/guard:1", 0, 0, 0,             \
      "image of the helper that holds the firewall's rules")                                       \
    X(pip_index_url, STR, "pip-index-url", "SBX_PIP_INDEX_URL", "", 0, 0, 1,                       \
      "index that Python packages come from; empty: pip's own")                                    \
    X(npm_registry, STR, "npm-registry", "SBX_NPM_REGISTRY", "", 0, 0, 1,                          \
      "registry that Node.js packages come from; empty: npm's own")                                \
    X(packages_ca, STR, "packages-ca", "SBX_PACKAGES_CA", "", 0, 0, 0,                             \
      "PEM file of the certificates by which these are trusted; empty: the image's")               \
    X(packages_timeout_s, INT, "packages-timeout", "SBX_PACKAGES_TIMEOUT", "300", 5, 3600, 0,      \
      "seconds for installing the packages of a run")                                              \
    X(packages_ttl_s, INT, "packages-ttl", "SBX_PACKAGES_TTL", "86400", 1, 2592000, 0,             \
      "seconds until names without an exact version are looked up anew")                           \
    X(packages_mb, INT, "packages-mb", "SBX_PACKAGES_MB", "10240", 0, 16777216, 0,                 \
      "MB of installed packages that are kept for further runs")                                   \
    X(packages_set_mb, INT, "packages-set-mb", "SBX_PACKAGES_SET_MB", "1024", 1, 1048576, 0,       \
      "MB that the packages of one run may take")                                                  \
    X(rate_creates, INT, "rate-creates", "SBX_RATE_CREATES", "100", 0, 10000000, 0,                \
      "creates and runs that a key may begin in a minute; 0: no limit")                            \
    X(rate_exec, INT, "rate-exec", "SBX_RATE_EXEC", "600", 0, 10000000, 0,                         \
      "the same for commands and other changes")                                                   \
    X(rate_reads, INT, "rate-reads", "SBX_RATE_READS", "3000", 0, 10000000, 0,                     \
      "the same for reads and deletes")                                                            \
    X(rate_failures, INT, "rate-failures", "SBX_RATE_FAILURES", "60", 0, 10000000, 0,              \
      "requests without a good key of one address in a minute; 0: no limit")                       \
    X(trusted_proxies, STR, "trusted-proxies", "SBX_TRUSTED_PROXIES", "", 0, 0, 0,                 \
      "ADDRESS[/BITS], joined by commas: whose X-Forwarded-For tells the client's address")        \
    X(oidc_issuer, STR, "oidc-issuer", "SBX_OIDC_ISSUER", "", 0, 0, 0,                             \
      "OpenID provider whose tokens are accepted beside keys: its https:// address; empty: none")  \
    X(oidc_audience, STR, "oidc-audience", "SBX_OIDC_AUDIENCE", "", 0, 0, 0,                       \
      "whom its tokens must be for (aud)")                                                         \
    X(oidc_jwks_url, STR, "oidc-jwks-url", "SBX_OIDC_JWKS_URL", "", 0, 0, 0,                       \
      "address of its keys; empty: as its discovery document says")                                \
    X(oidc_ca, STR, "oidc-ca", "SBX_OIDC_CA", "", 0, 0, 0,                                         \
      "PEM file of the certificates by which it is trusted; empty: the system's")                  \
    X(oidc_admin, STR, "oidc-admin", "SBX_OIDC_ADMIN", "", 0, 0, 0,                                \
      "CLAIM=VALUE of tokens whose users are administrators; empty: none is by its token")         \
    X(metrics_token, STR, "metrics-token", "SBX_METRICS_TOKEN", "", 0, 0, 1,                       \
      "bearer token of /metrics; empty: loopback only")                                            \
    X(audit_days, INT, "audit-days", "SBX_AUDIT_DAYS", "90", 1, 3650, 0,                           \
      "days for which the audit log is kept")                                                      \
    X(core_dumps, INT, "core-dumps", "SBX_CORE_DUMPS", "0", 0, 1, 0,                               \
      "1: debuggers may attach, and a crash may write the memory, with all secrets, to a file")    \
    X(log_level, STR, "log-level", "SBX_LOG_LEVEL", "info", 0, 0, 0, "debug, info, warn or error") \
    X(fast_workers, INT, "fast-workers", "SBX_FAST_WORKERS", "4", 1, 128, 0,                       \
      "threads for reads and for starting commands")                                               \
    X(slow_workers, INT, "slow-workers", "SBX_SLOW_WORKERS", "8", 1, 128, 0,                       \
      "threads for what the engine does: create, delete")                                          \
    X(reap_workers, INT, "reap-workers", "SBX_REAP_WORKERS", "3", 1, 32, 0,                        \
      "threads of the cleanup")                                                                    \
    X(queue, INT, "queue", "SBX_QUEUE", "1024", 16, 65536, 0,                                      \
      "waiting jobs per lane; more is answered 503")                                               \
    X(fast_wait_s, INT, "fast-wait", "SBX_FAST_WAIT", "5", 1, 3600, 0,                             \
      "seconds that a read or a command may wait for a thread; then it is answered 503")           \
    X(slow_wait_s, INT, "slow-wait", "SBX_SLOW_WAIT", "30", 1, 3600, 0,                            \
      "the same for what the engine does")                                                         \
    X(max_connections, INT, "max-connections", "SBX_MAX_CONNECTIONS", "12000", 16, 100000, 0,      \
      "client connections at once")                                                                \
    X(header_timeout_s, INT, "header-timeout", "SBX_HEADER_TIMEOUT", "10", 1, 300, 0,              \
      "seconds for a request's headers")                                                           \
    X(body_timeout_s, INT, "body-timeout", "SBX_BODY_TIMEOUT", "30", 1, 3600, 0,                   \
      "seconds for each 16 KiB of a request's body")                                               \
    X(keepalive_s, INT, "keepalive", "SBX_KEEPALIVE", "75", 1, 3600, 0,                            \
      "seconds an idle connection stays open")                                                     \
    X(cors_origins, STR, "cors-origins", "SBX_CORS_ORIGINS", "", 0, 0, 0,                          \
      "origins whose pages may call the API from a browser, separated by commas; * for any")       \
    X(drain_wait_s, INT, "drain-wait", "SBX_DRAIN_WAIT", "0", 0, 3600, 0,                          \
      "seconds after SIGTERM in which new requests are still taken, while /ready says 503")        \
    X(drain_s, INT, "drain-seconds", "SBX_DRAIN_SECONDS", "20", 0, 3600, 0,                        \
      "seconds for running requests after that")                                                   \
    X(engine_timeout_s, INT, "engine-timeout", "SBX_ENGINE_TIMEOUT", "60", 1, 3600, 0,             \
      "seconds for one engine call")                                                               \
    X(pull_timeout_s, INT, "pull-timeout", "SBX_PULL_TIMEOUT", "600", 1, 7200, 0,                  \
      "seconds for pulling an image")                                                              \
    X(pause_retry_s, INT, "pause-retry", "SBX_PAUSE_RETRY", "5", 1, 300, 0,                        \
      "seconds until a pause of an idle sandbox that failed is tried again; doubles up to 300")    \
    X(terminal_idle_s, INT, "terminal-idle", "SBX_TERMINAL_IDLE", "600", 1, 86400, 0,              \
      "seconds that a terminal stays which nobody views")                                          \
    X(files_stall_s, INT, "files-stall", "SBX_FILES_STALL", "60", 1, 3600, 0,                      \
      "seconds without progress until a request about files is given up")                          \
    X(bridge_idle_s, INT, "bridge-idle", "SBX_BRIDGE_IDLE", "60", 1, 3600, 0,                      \
      "seconds that the way to a sandbox of another worker stays open unused")                     \
    X(sweep_s, INT, "sweep-seconds", "SBX_SWEEP_SECONDS", "30", 1, 3600, 0,                        \
      "seconds between two sweeps for containers and rows without each other")                     \
    X(orphan_grace_s, INT, "orphan-grace", "SBX_ORPHAN_GRACE", "60", 1, 3600, 0,                   \
      "age in seconds from which a container without a row is removed")

typedef struct sbx_options {
#define SBX_OPT_STR                                             char *
#define SBX_OPT_INT                                             int64_t
#define X(field, type, flag, env, dflt, min, max, secret, help) SBX_OPT_##type field;
    SBX_OPTIONS(X)
#undef X
} sbx_options;

/** Read all sources. @param argv  flags only (--flag VALUE or --flag=VALUE).
 * @return 0, or -1 with INVALID that names the option, its source and its range. */
int sbx_options_load(sbx_options *o, int argc, char **argv, sbx_err *err) SBX_MUST_CHECK;
/** Once they are loaded: take the values of secret options out of the process's arguments and
 * environment, where other users and the kernel's lists see them. For main() alone. */
void sbx_options_hide(int argc, char **argv);
void sbx_options_done(sbx_options *o);
void sbx_options_help(sbx_buf *out); /* the table as text */

#endif
