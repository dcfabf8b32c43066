/* The container engine, behind a table of functions: Docker Engine over libcurl, or a fake.
 *
 * Threads: any WORKER (or a thread without role); each call leases an idle connection handle.
 * Calls block up to the job's deadline (core/thread.h) and their own time-out, whichever is
 * first, and honour the job's cancellation. A call that was cancelled or timed out may still have
 * happened: undo it by name (remove) in a job scope of its own. With TLS the process must ignore
 * SIGPIPE. Source: Docker Engine API v1.41 to v1.51. */
#ifndef SBX_ENGINE_ENGINE_H
#define SBX_ENGINE_ENGINE_H

#include "sbx/core/breaker.h"
#include "sbx/core/buf.h"
#include "sbx/core/error.h"
#include "sbx/core/json.h"
#include "sbx/core/limits.h"
#include <sys/types.h>

#define SBX_ENGINE_IMAGE_BYTES 256

typedef struct sbx_engine sbx_engine;
typedef struct sbx_engine_conn sbx_engine_conn; /* a hijacked byte stream */
typedef struct sbx_engine_pull sbx_engine_pull; /* an image on its way */

/* A volume in a container. */
typedef struct sbx_mount {
    char volume[96]; /* "": none */
    char path[64];
    bool writable;
} sbx_mount;

typedef struct sbx_container_spec {
    const char *name, *image, *hostname;
    const char *const *entrypoint; /* NULL-terminated */
    const char *const *env;        /* NULL-terminated, NAME=VALUE; or NULL */
    const sbx_pairs *labels;
    int64_t cpu_milli, memory_bytes, pids, nofile; /* swap equals memory */
    const char *network;                           /* "none", "host", or a network's name */
    const char *const *dns;                        /* addresses, NULL-terminated; or NULL */
    const char *volume;                            /* named volume, or NULL */
    const char *volume_target;                     /* where, read-only */
    const sbx_mount *mount;                        /* one more volume, or NULL */
    const char *runtime;                           /* NULL or "": the engine's default */
    int64_t disk_bytes;                            /* that it may write; 0: no limit */
    bool *ret_disk_enforced;    /* set if disk_bytes is: does the storage driver keep the limit? */
    const char *const *cap_add; /* after dropping ALL; NULL-terminated */
    /* A part of the installation, not a sandbox: the host's user ids, a read-only root, restarted
     * by the engine, and not the first victim when the host's memory is out. */
    bool helper;
} sbx_container_spec;

typedef struct sbx_container_info {
    char id[65];
    char name[128];
    char image[SBX_ENGINE_IMAGE_BYTES];
    char image_id[80];   /* not told by lists */
    char sandbox_id[24]; /* label sandboxd.id */
    char cluster[40];    /* label sandboxd.cluster */
    char state[16];      /* created running paused restarting removing exited dead */
    int exit_code;
    bool oom_killed;
    int64_t cpu_milli, memory_bytes, pids; /* limits; not told by lists; 0: none */
    int64_t created_at_ms, started_at_ms;  /* wall clock */
} sbx_container_info;

typedef struct sbx_image_info {
    char id[80];
    char *user;    /* the image's USER, "" if none; owned */
    sbx_strs env;  /* owned */
    char *workdir; /* owned */
    int64_t size_bytes;
} sbx_image_info;
void sbx_image_info_done(sbx_image_info *i);

typedef struct sbx_network_info {
    char id[65];
    char subnet[24]; /* IPv4, "172.18.0.0/16" */
} sbx_network_info;

/* How a container joins a network: what goes into `network` and `dns` of its spec. */
typedef struct sbx_network_access {
    char network[64];
    char dns[SBX_MAX_RESOLVERS][16];
    size_t dns_count;
} sbx_network_access;

typedef struct sbx_engine_event {
    const char *action; /* die, oom, destroy, ... ; borrowed during the callback */
    const char *container_id, *sandbox_id, *cluster;
    int exit_code;
    int64_t time_ns;
} sbx_engine_event;

/* A program that a volume is filled with; borrowed. */
typedef struct sbx_volume_file {
    const char *name; /* 1 to 100 bytes, without a slash */
    const void *data;
    size_t len;
} sbx_volume_file;

typedef struct sbx_volume_info {
    char name[96];
    int64_t created_ms; /* wall clock, in seconds; 0: not known */
} sbx_volume_info;

/* What the engine says of itself and its host. */
typedef struct sbx_engine_facts {
    char cgroup_version[8], cgroup_driver[32], storage_driver[32], default_runtime[64];
    char runtimes[512]; /* names, with spaces between them */
    char root[256];     /* where it keeps images and containers, on its host */
    char architecture[32];
    bool memory_limit, swap_limit, pids_limit, cpu_quota, seccomp; /* it can set these */
    int64_t cpus, memory_bytes;
} sbx_engine_facts;

/* What a container uses. -1: not known. */
typedef struct sbx_usage {
    int64_t cpu_us;       /* since its start */
    int64_t memory_bytes; /* without the page cache that the kernel can drop at once */
    int64_t memory_peak_bytes, memory_limit_bytes;
    int64_t processes; /* and threads */
    int64_t oom_kills;
    int64_t disk_bytes;                         /* that it has written */
    int64_t network_rx_bytes, network_tx_bytes; /* loopback apart */
    int64_t uptime_ms;
} sbx_usage;
#define SBX_USAGE_UNKNOWN                                                                          \
    {                                                                                              \
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1                                                     \
    }

/* Codes of failures: NOT_FOUND (no such container, image), CONFLICT (name in use, not running),
 * INVALID (the engine refused the request's content), ENGINE (any other answer of the engine),
 * ENGINE_UNAVAILABLE (no connection, broken connection, 5xx while it starts), TIMEOUT, CANCELLED.
 */
typedef struct sbx_engine_ops {
    /* One line about the engine: version and API version in use. Also the health check. */
    int (*ping)(sbx_engine *e, sbx_buf *ret_version, sbx_err *err);
    int (*facts)(sbx_engine *e, sbx_engine_facts *ret, sbx_err *err);
    int (*create)(sbx_engine *e, const sbx_container_spec *spec, char ret_id[65], sbx_err *err);
    /* Attach stdin, stdout, stderr; before start nothing is missed. */
    int (*attach)(sbx_engine *e, const char *id, sbx_engine_conn **ret, sbx_err *err);
    /* Run a program in a running container as root, and attach to its stdin and output. It ends by
     * itself when the stream is closed, if it reads its stdin.
     * @param argv  NULL-terminated. */
    int (*exec_attach)(sbx_engine *e, const char *id_or_name, const char *const *argv,
                       sbx_engine_conn **ret, sbx_err *err);
    int (*start)(sbx_engine *e, const char *id, sbx_err *err);
    int (*inspect)(sbx_engine *e, const char *id_or_name, sbx_container_info *ret, sbx_err *err);
    /* All containers (running or not) with the label sandboxd.cluster=cluster and a label
     * sandboxd.id; *ret is the caller's to free (NULL if none). started_at_ms and oom_killed are
     * not told by lists. A container with over 4 MiB of labels (images bring theirs) is left out,
     * so that it cannot hide the others. */
    int (*list)(sbx_engine *e, const char *cluster, sbx_container_info **ret, size_t *ret_count,
                sbx_err *err);
    /* Force, with anonymous volumes. A container that is gone is success. */
    int (*remove)(sbx_engine *e, const char *id_or_name, sbx_err *err);
    int (*stop)(sbx_engine *e, const char *id_or_name, int grace_s, sbx_err *err);
    int (*pause)(sbx_engine *e, const char *id, sbx_err *err);
    int (*unpause)(sbx_engine *e, const char *id, sbx_err *err);
    /* Change limits; 0 keeps. Swap stays equal to memory. CONFLICT: the container uses more memory
     * than it is to have, which is looked at first, and takes time, unless it is `fresh`: of a
     * container in which nothing of a user has run. Also for a container that does not run. */
    int (*update)(sbx_engine *e, const char *id_or_name, int64_t cpu_milli, int64_t memory_bytes,
                  int64_t pids, bool fresh, sbx_err *err);
    /* What it uses, also while it is paused. Takes up to 400 ms. CONFLICT: it does not run. */
    int (*usage)(sbx_engine *e, const char *id_or_name, sbx_usage *ret, sbx_err *err);
    /* How much it has written to files outside of volumes. Takes as long as it has files. */
    int (*disk)(sbx_engine *e, const char *id_or_name, int64_t *ret_bytes, sbx_err *err);
    int (*image_inspect)(sbx_engine *e, const char *image, sbx_image_info *ret, sbx_err *err);
    /* Begin to fetch an image from its registry; see sbx_engine_pull_step(). Any thread; never
     * blocks, so the engine's version must be known: ENGINE_UNAVAILABLE until any other call has
     * succeeded. Without a tag or digest: "latest". */
    int (*pull)(sbx_engine *e, const char *image, sbx_engine_pull **ret, sbx_err *err);
    /* Make sure that a volume holds some files at its root, mode 0755; content-addressed by its
     * name, so an existing complete volume is left alone. Any engine host, no host paths. Costs
     * nothing once this process has seen the volume complete. Any number of servers may call at
     * once. Makes the local image sandboxd/seed:1 and, for a moment, a container with the label
     * sandboxd.role=seed. */
    int (*volume_ensure)(sbx_engine *e, const char *volume, const char *cluster,
                         const sbx_volume_file *files, size_t count, sbx_err *err);
    /* Forget that the volume is complete: when a start failed because a file is missing, somebody
     * removed the volume and the engine made an empty one. Ensure it again, then start again. */
    void (*volume_forget)(sbx_engine *e, const char *volume);
    /* Make an empty volume with the labels of the cluster and sandboxd.role=`role`; one of that
     * name that is there is left alone. */
    int (*volume_make)(sbx_engine *e, const char *volume, const char *cluster, const char *role,
                       sbx_err *err);
    /* NOT_FOUND: there is none. */
    int (*volume_look)(sbx_engine *e, const char *volume, sbx_err *err);
    /* One that is gone is success. CONFLICT: a container has it. */
    int (*volume_remove)(sbx_engine *e, const char *volume, sbx_err *err);
    /* Those of the cluster and role; *ret is the caller's to free (NULL if none). */
    int (*volume_list)(sbx_engine *e, const char *cluster, const char *role, sbx_volume_info **ret,
                       size_t *ret_count, sbx_err *err);
    /* Make sure that a bridge network of this name is there: on the host interface `bridge`,
     * labelled with the cluster, without IPv6 and without traffic among its containers. Any number
     * of servers may call at once. CONFLICT if one of that name is there with other settings. */
    int (*network_ensure)(sbx_engine *e, const char *name, const char *bridge, const char *cluster,
                          sbx_network_info *ret, sbx_err *err);
    /* Container events of our label, until fn returns false, `since_ns` onwards (0: now). Blocks;
     * wakes at least every second to call fn with NULL. */
    int (*events)(sbx_engine *e, const char *cluster, int64_t since_ns,
                  bool (*fn)(void *arg, const sbx_engine_event *ev), void *arg, sbx_err *err);
    void (*free)(sbx_engine *e);
} sbx_engine_ops;

struct sbx_engine {
    const sbx_engine_ops *ops;
    sbx_breaker *breaker; /* while it is open all operations fail with ENGINE_UNAVAILABLE */
};

typedef struct sbx_docker_config {
    const char *host; /* unix:///path or tcp://host:port */
    bool tls;
    const char *cert_path;
    int64_t timeout_ms, pull_timeout_ms;
} sbx_docker_config;

/** The Docker Engine client. Negotiates the version at the first call. */
int sbx_docker_new(const sbx_docker_config *c, sbx_engine **ret, sbx_err *err) SBX_MUST_CHECK;

/* --- pulls: one thread at a time; non-blocking --- */

/** The descriptor to watch; whenever it is readable, step. */
int sbx_engine_pull_fd(const sbx_engine_pull *p);
/** Go on. @return 0 under way, 1 the image was fetched, -1 failed: NOT_FOUND (no such image, or not
 * for us), INVALID, ENGINE (with the registry's or the engine's words), ENGINE_UNAVAILABLE, TIMEOUT
 * (the client's time for pulls). After 1 or -1 only to be closed. */
int sbx_engine_pull_step(sbx_engine_pull *p, sbx_err *err);
/* How far it is. Sizes grow while the registry tells of more layers. */
typedef struct sbx_pull_progress {
    int layers, layers_done;
    int64_t bytes, total_bytes; /* of the layers that are being transferred, or were */
} sbx_pull_progress;
void sbx_engine_pull_progress(const sbx_engine_pull *p, sbx_pull_progress *ret);
/** Close; the engine gives up what is not complete. NULL is fine. */
void sbx_engine_pull_close(sbx_engine_pull *p);
SBX_DEFINE_CLEANUP(sbx_engine_pull, sbx_engine_pull_close)

/* --- hijacked streams: one thread at a time; non-blocking --- */

/** The descriptor to watch. Receive until 0 when it is readable, and once before the first wait:
 * bytes may have come with the engine's answer, and TLS holds some back. */
int sbx_engine_conn_fd(const sbx_engine_conn *c);
/** Receive what is there of the container's output, already taken out of the engine's 8-byte
 * frames. @return bytes (1 stdout, 2 stderr in ret_stream), 0 if nothing is there now, -1 with
 * ENGINE_UNAVAILABLE at the end of the stream or a malformed frame. */
ssize_t sbx_engine_conn_recv(sbx_engine_conn *c, int *ret_stream, void *data, size_t cap,
                             sbx_err *err);
/** Send to the container's standard input.
 * @return bytes taken, possibly 0: wait for writability and offer the same bytes again; or -1 with
 *         ENGINE_UNAVAILABLE. */
ssize_t sbx_engine_conn_send(sbx_engine_conn *c, const void *data, size_t len, sbx_err *err);
/** Close; the container goes on. NULL is fine. */
void sbx_engine_conn_close(sbx_engine_conn *c);
SBX_DEFINE_CLEANUP(sbx_engine_conn, sbx_engine_conn_close)

#endif
