/* Packages of runs: volumes with what pip or npm has installed, kept and used again.
 *
 * A set of packages is a volume of the engine that one throw-away sandbox has written and that was
 * sealed afterwards: that sandbox is gone, another one that could only read it has looked at what
 * is there, and from then on it is only ever mounted read-only. Sets belong to their owner alone.
 * Equal requests at the same time install once; requests wait without a thread. */
#ifndef SBX_PACKAGES_PACKAGES_H
#define SBX_PACKAGES_PACKAGES_H

#include "sbx/core/crypt.h"
#include "sbx/packages/specs.h"
#include "sbx/run/keeper.h"
#include "sbx/sandbox/images.h"
#include "sbx/sandbox/sandboxes.h"

typedef struct sbx_packages sbx_packages;

typedef struct sbx_packages_config {
    sbx_stream *stream;
    sbx_lanes *lanes;
    sbx_store *store;
    sbx_engine *engine;
    sbx_channels *channels;
    sbx_sandboxes *sandboxes;
    sbx_metrics *metrics;
    const sbx_crypt *crypt;                       /* borrowed */
    const char *cluster, *worker;                 /* borrowed, as the next */
    const char *pip_index_url, *npm_registry;     /* "": the installer's own; may hold a password */
    const char *ca_path;                          /* a file of certificates; "": none */
    int64_t timeout_s, ttl_s, max_mb, max_set_mb; /* as the options --packages-... */
    int64_t orphan_grace_s, tidy_s;
} sbx_packages_config;

/** Registers its tick with the keeper. INVALID if an option is not usable. */
int sbx_packages_new(const sbx_packages_config *c, sbx_keeper *keeper, sbx_packages **ret,
                     sbx_err *err) SBX_MUST_CHECK;
/** No installation begins any more, those under way are given up: done with CAPACITY. Any thread;
 * before the lanes stop. */
void sbx_packages_stop(sbx_packages *p);
void sbx_packages_free(sbx_packages *p); /* after STREAM has ended */

/* A set that is ready. It stays for at least SBX_PACKAGES_USE_S, and longer while a container has
 * it mounted. */
typedef struct sbx_package_set {
    sbx_mount mount; /* for sbx_spec */
    sbx_pairs env;   /* for the run: PATH, and PYTHONPATH; owned */
    char *installed; /* JSON array text: "name==version" (pip), "name@version" (npm); owned */
    bool hit;        /* it was there already */
} sbx_package_set;
void sbx_package_set_done(sbx_package_set *s);

/* One who waits for a set; the caller's object, borrowed until `done` was called. */
typedef struct sbx_package_want {
    const char *owner, *runtime, *image; /* borrowed; of the image that the run will have */
    const sbx_strs *specs;               /* passed sbx_package_specs_check(); borrowed */
    /* On STREAM: a line of the installer, or how far the pull of the image is, without its end;
     * UTF-8, at most 4 KiB. May be NULL. */
    void (*progress)(void *arg, const char *line, size_t len);
    /* Exactly once; on the calling WORKER within sbx_packages_want(), or on STREAM. Takes what
     * `set` holds over. With `err`: PACKAGE (the message names the package), CAPACITY, TIMEOUT,
     * CANCELLED (left), ENGINE..., and `output`, the installer's last lines, "" if it said nothing.
     */
    void (*done)(void *arg, sbx_package_set *set, const sbx_err *err, const char *output);
    void *arg;
    sbx_packages *packages; /* the rest is not the caller's */
    struct sbx_package_want *next;
    struct sbx_package_install *install; /* that it waits for, or NULL */
    sbx_timer *timer;                    /* until it asks again, or NULL */
    sbx_image_wait pull;                 /* its image is being fetched; `fetch` NULL: it is not */
    char *image_id, *image_path;
    char set_id[SBX_ID_LEN + 1];
    int64_t from_ms;
    unsigned char request[SBX_HASH_BYTES];
    bool left;
} sbx_package_want;

/** Get a set. On a WORKER. An image that the engine does not have is fetched first. */
void sbx_packages_want(sbx_packages *p, sbx_package_want *w);
/** Nobody waits for it any more: done follows with CANCELLED, or how else it ended at the same
 * moment. On STREAM, after sbx_packages_want() has returned and before `done` was called. An
 * installation that nobody waits for is given up. */
void sbx_packages_leave(sbx_package_want *w);

/* --- in a sandbox that is there --- */

/* How to install in place, as the sandbox's user and below its home. Where the operator's index
 * wants a password it is left out, since the user's processes can read what their neighbours are
 * given. */
typedef struct sbx_package_command {
    sbx_strs argv;       /* owned */
    sbx_pairs env;       /* of this command alone; owned */
    const char *ca_path; /* write ca_text there first; NULL: nothing to write */
    const char *ca_text;
    int64_t timeout_ms;
} sbx_package_command;

/** @param specs  passed sbx_package_specs_check(). */
void sbx_packages_in_place(const sbx_packages *p, const char *runtime, const sbx_strs *specs,
                           sbx_package_command *ret);
void sbx_package_command_done(sbx_package_command *c);

/** Say why an installer has failed: PACKAGE, and which package. @param output  its last lines. */
void sbx_packages_explain(const char *runtime, const sbx_strs *specs, const sbx_command_exit *e,
                          const char *output, sbx_err *err);
/** The last lines of an output, whole, at most SBX_INSTALL_OUTPUT_BYTES. Borrowed. Any thread. */
const char *sbx_package_last_lines(const sbx_buf *output);

#endif
