/* Inside of the Docker Engine client: what its files share. Nobody outside includes this.
 *
 * docker.c        the object, the table of operations, the version
 * docker_http.c   one call: pooled handles, time-outs, cancellation, classified errors
 * docker_pull.c   the one call that no thread waits for
 * docker_json.c   reading the engine's answers, times, cleaned text
 * docker_*.c      one file per family of operations
 * frames, head, lines, tar: parsers and writers without I/O */
#ifndef SBX_ENGINE_DOCKER_H
#define SBX_ENGINE_DOCKER_H

#include "sbx/core/breaker.h"
#include "sbx/core/limits.h"
#include "sbx/engine/engine.h"
#include <curl/curl.h>
#include <pthread.h>
#include <stdatomic.h>

#define DOCKER_API_MIN       41 /* 1.41 is Engine 20.10 */
#define DOCKER_API_MAX       51
#define DOCKER_CONNECT_MS    5000
#define DOCKER_POLL_MS       100 /* how late a cancellation may be seen */
#define DOCKER_POOL          64
#define DOCKER_VOLUMES       64         /* names of complete volumes that are remembered */
#define DOCKER_LINE_BYTES    MIB        /* one JSON value of a stream of them */
#define DOCKER_ERROR_BYTES   (64 * KIB) /* an error's body; more is cut */
#define DOCKER_HEADERS_BYTES (64 * KIB)
#define DOCKER_ENTRY_BYTES   (4 * MIB) /* one container in a list */
#define DOCKER_PATH_BYTES    4096
#define DOCKER_CPU_PERIOD_US 100000 /* NanoCpus is refused above the host's number of cores */

typedef struct docker_handle docker_handle; /* a connection with its libcurl handles */

typedef struct sbx_docker {
    sbx_engine base; /* must be first: the vtable */

    /* Immutable after new. */
    char *unix_path; /* or NULL */
    char *base_url;  /* "http://host:port" */
    char *shown;     /* the address for messages */
    bool tls;
    char *ca, *cert, *key;
    int64_t timeout_ms, pull_timeout_ms;

    sbx_breaker breaker;
    atomic_bool no_quota; /* the storage driver refused a limit of the disk */
    pthread_mutex_t mu;
    pthread_cond_t seeded;            /* with mu: a volume was finished or given up */
    docker_handle *idle[DOCKER_POOL]; /* guarded by mu; the warmest last */
    size_t idle_count;                /* guarded by mu */
    char version[64]; /* guarded by mu; the engine's own, for people; "" with api_minor 0 */
    int newest;       /* guarded by mu; the newest minor the engine speaks */
    int api_minor;    /* guarded by mu; 0: not negotiated */
    char *volumes[DOCKER_VOLUMES]; /* guarded by mu; complete ones */
    size_t volume_next;            /* guarded by mu; the slot to reuse */
    char *seeding;                 /* guarded by mu; the volume being filled by a thread */
} sbx_docker;

/* One call. Zero means: none, or the default. */
typedef struct docker_req {
    const char *method;
    const char *path; /* behind the version, with its query, escaped */
    const char *type; /* Content-Type of the body */
    const void *body;
    size_t body_len;
    size_t max_bytes;   /* of the answer; default SBX_MAX_ENGINE_JSON_BYTES */
    int64_t timeout_ms; /* default: the client's; -1: none but the job's */
    bool regardless;    /* of the job: for undoing; timeout_ms alone ends it */
    /* Once it was sent, also a job that is cancelled or out of time waits for its answer: the
     * engine makes a container also for a caller that has gone, and then behind the removal that
     * should have undone it. */
    bool finish;
    /* Take a successful answer piece by piece instead of collecting it. False gives up. */
    bool (*piece)(void *arg, const char *data, size_t len);
    /* Called at least every DOCKER_POLL_MS or so while the call runs. False gives up. */
    bool (*tick)(void *arg);
    void *arg;
    const char *header; /* name of a response header to keep */
} docker_req;

typedef struct docker_res {
    long status;
    bool gave_up; /* piece or tick returned false; not a failure */
    sbx_buf body; /* of a collected answer, or of an error */
    char header[1024];
} docker_res;

void docker_res_init(docker_res *r, const docker_req *q);
void docker_res_done(docker_res *r);

/** Make a call with the negotiated version. @param what  for messages: "create sandbox-x".
 * @param ret  initialised here also on failure; docker_res_done().
 * @return 0 when the engine answered 2xx or 304 (or a callback gave up); -1 classified. */
int docker_call(sbx_docker *d, const docker_req *q, const char *what, docker_res *ret,
                sbx_err *err) SBX_MUST_CHECK;
/** The same without a version. */
int docker_call_raw(sbx_docker *d, const docker_req *q, const char *what, docker_res *ret,
                    sbx_err *err) SBX_MUST_CHECK;

/* A call on a libcurl handle, for whoever drives the handle himself. `req` and `res` are borrowed
 * until it is done. */
typedef struct docker_transfer {
    const docker_req *req;
    docker_res *res;
    CURL *easy;
    struct curl_slist *headers;
    size_t header_bytes, header_name_len;
    bool too_large;
} docker_transfer;

void docker_transfer_begin(docker_transfer *t, sbx_docker *d, CURL *easy, const docker_req *q,
                           const char *url, docker_res *res);
/** What came of it. @param rc  libcurl's result. @return 0, or -1 classified. */
int docker_transfer_end(docker_transfer *t, sbx_docker *d, CURLcode rc, const char *what,
                        sbx_err *err) SBX_MUST_CHECK;
void docker_transfer_done(docker_transfer *t); /* once the handle is not driven any more */

/** May a call go out? Asks the engine itself if the breaker wants that. Before every call. */
int docker_gate(sbx_docker *d, sbx_err *err) SBX_MUST_CHECK;

/** Classify an HTTP status with the engine's body. @return -1. */
int docker_status_fail(long status, const char *body, size_t len, const char *what, sbx_err *err);

/** The minor number of the API version in use; asks the engine if nobody has yet. */
int docker_version(sbx_docker *d, bool regardless, int *ret_minor, sbx_err *err) SBX_MUST_CHECK;
/** The connection failed: another engine may answer next time. */
void docker_version_forget(sbx_docker *d);

/* --- handles (docker_http.c) --- */
int docker_handles_global(sbx_err *err);
void docker_handle_free(docker_handle *h);
/** Open a connection of its own. @param ret_fd  a plain socket, the caller's; the connection then
 * has no handle (*ret is NULL). With TLS: *ret is set and the descriptor stays its own. */
int docker_connect(sbx_docker *d, docker_handle **ret, int *ret_fd, sbx_err *err) SBX_MUST_CHECK;
/** Over TLS. @return bytes, 0 when it would block, -1 at the end or on failure. */
ssize_t docker_tls_recv(docker_handle *h, void *data, size_t cap);
ssize_t docker_tls_send(docker_handle *h, const void *data, size_t len);
/** Wait for the thread's job: up to `ms`, or until its deadline or cancellation. */
int docker_nap(int64_t ms, const char *what, sbx_err *err) SBX_MUST_CHECK;
/** Add `s` percent-encoded (RFC 3986 unreserved characters stay). */
void docker_escape(sbx_buf *b, const char *s);

/* --- answers (docker_json.c) --- */
/** Parse an answer; escaped NULs, which images may carry in their labels, become '?'. */
int docker_parse(char *text, size_t len, sbx_json **ret, sbx_err *err) SBX_MUST_CHECK;
/** RFC 3339 to milliseconds; 0 for what is not a time, or the engine's year 1. */
int64_t docker_time_ms(const char *s);
/** Copy as printable ASCII, cut to fit. */
void docker_clean(char *out, size_t cap, const char *s, size_t len);
/** obj.a.b, or NULL. */
const sbx_json *docker_get2(const sbx_json *v, const char *a, const char *b);
/** The string or "". */
const char *docker_str(const sbx_json *v);

/** "doing name", the name printable and cut: what messages call an operation. */
void docker_what(char *out, size_t cap, const char *doing, const char *name);
/** Add /containers/{id}SUFFIX. @return -1 with INVALID if that can be no container's name. */
int docker_container_path(sbx_buf *path, const char *id, const char *suffix,
                          sbx_err *err) SBX_MUST_CHECK;
/** Add {"label":["sandboxd.cluster=X","LABEL"]} as a query's value. */
void docker_label_filters(sbx_buf *path, const char *cluster, const char *label);
/** Containers of the cluster that also have the label, "name" or "name=value". */
int docker_list_label(sbx_docker *d, const char *cluster, const char *label,
                      sbx_container_info **ret, size_t *ret_count, sbx_err *err) SBX_MUST_CHECK;

/* --- operations --- */
int docker_facts(sbx_engine *e, sbx_engine_facts *ret, sbx_err *err);
int docker_create(sbx_engine *e, const sbx_container_spec *spec, char ret_id[65], sbx_err *err);
int docker_attach(sbx_engine *e, const char *id, sbx_engine_conn **ret, sbx_err *err);
int docker_exec_attach(sbx_engine *e, const char *id, const char *const *argv,
                       sbx_engine_conn **ret, sbx_err *err);
int docker_start(sbx_engine *e, const char *id, sbx_err *err);
int docker_inspect(sbx_engine *e, const char *id, sbx_container_info *ret, sbx_err *err);
int docker_list(sbx_engine *e, const char *cluster, sbx_container_info **ret, size_t *ret_count,
                sbx_err *err);
int docker_remove(sbx_engine *e, const char *id, sbx_err *err);
int docker_stop(sbx_engine *e, const char *id, int grace_s, sbx_err *err);
int docker_freeze(sbx_engine *e, const char *id, sbx_err *err);
int docker_thaw(sbx_engine *e, const char *id, sbx_err *err);
/* Limits as the engine wants them; 0 leaves one out. */
void docker_write_limits(sbx_jw *w, int64_t cpu_milli, int64_t memory_bytes, int64_t pids);
int docker_update(sbx_engine *e, const char *id, int64_t cpu_milli, int64_t memory_bytes,
                  int64_t pids, bool fresh, sbx_err *err);
int docker_usage(sbx_engine *e, const char *id, sbx_usage *ret, sbx_err *err);
int docker_disk(sbx_engine *e, const char *id, int64_t *ret_bytes, sbx_err *err);
int docker_image_inspect(sbx_engine *e, const char *image, sbx_image_info *ret, sbx_err *err);
int docker_pull(sbx_engine *e, const char *image, sbx_engine_pull **ret, sbx_err *err);
int docker_volume_ensure(sbx_engine *e, const char *volume, const char *cluster,
                         const sbx_volume_file *files, size_t count, sbx_err *err);
void docker_volume_forget(sbx_engine *e, const char *volume);
int docker_volume_make(sbx_engine *e, const char *volume, const char *cluster, const char *role,
                       sbx_err *err);
int docker_volume_look(sbx_engine *e, const char *volume, sbx_err *err);
int docker_volume_remove(sbx_engine *e, const char *volume, sbx_err *err);
int docker_volume_list(sbx_engine *e, const char *cluster, const char *role, sbx_volume_info **ret,
                       size_t *ret_count, sbx_err *err);
int docker_network_ensure(sbx_engine *e, const char *name, const char *bridge, const char *cluster,
                          sbx_network_info *ret, sbx_err *err);
int docker_events(sbx_engine *e, const char *cluster, int64_t since_ns,
                  bool (*fn)(void *arg, const sbx_engine_event *ev), void *arg, sbx_err *err);

#endif
