/* What the files of this folder share.
 *
 * packages.c    the service: what is asked for, who waits
 * install.c     one installation, from the row to the seal
 * installers.c  pip and npm: their arguments, environment and complaints
 * tidy.c        what was left, lost or has to make room */
#ifndef SBX_PACKAGES_PRIV_H
#define SBX_PACKAGES_PRIV_H

#include "sbx/core/crypt.h"
#include "sbx/core/limits.h"
#include "sbx/packages/packages.h"
#include "sbx/sandbox/tool.h"
#include "sbx/store/packages.h"
#include "sbx/store/pools.h"
#include <pthread.h>
#include <stdatomic.h>

#define PACKAGES_ROLE    "packages"
#define PACKAGES_CA_PATH "/tmp/.sbx-packages-ca.pem"

/* An index, as the operator configured it. */
typedef struct package_index {
    char *url;      /* "" or whole, with its password; owned */
    char *bare;     /* without it; owned */
    char *user;     /* "user:password", or NULL; owned */
    char *host;     /* with its port; owned */
    char *beneath;  /* "//host:port/path/"; owned */
    bool plain;     /* http, not https */
    char *password; /* or NULL; owned */
} package_index;

typedef struct sbx_package_install install;

struct sbx_packages {
    sbx_packages_config c;
    sbx_keeper *keeper;
    package_index pip, npm;
    char *ca_text; /* or NULL */
    unsigned char config_hash[SBX_HASH_BYTES];
    atomic_bool stopped;
    atomic_size_t waits;
    install *installs;                             /* STREAM */
    sbx_package_want *asking;                      /* STREAM: those with a timer */
    pthread_mutex_t mu;                            /* never held across I/O */
    char owners[SBX_MAX_INSTALLS][SBX_ID_LEN + 1]; /* of what is being installed; guarded by mu */
};

/* What asking came to. */
typedef struct package_answer {
    sbx_package_state state;
    sbx_err err; /* with FAILED */
    char *output;
    sbx_package_set set; /* with SEALED */
    install *made;       /* with MINE */
} package_answer;

struct sbx_package_install {
    sbx_packages *p; /* immutable, as the next */
    char owner[SBX_ID_LEN + 1], set_id[SBX_ID_LEN + 1], volume[96];
    unsigned char request[SBX_HASH_BYTES];
    char *image, *image_id;
    const struct package_installer *with;
    sbx_strs specs;
    bool pinned;
    int64_t from_ms;
    struct sbx_package_install *next; /* STREAM */
    sbx_package_want *wants;          /* STREAM */
    /* STREAM, or the WORKER that has it; never both. */
    enum { STEP_TRUST, STEP_INSTALL, STEP_LOOK, STEP_SEAL } step;
    char sandbox[SBX_ID_LEN + 1]; /* that was made for this step, or "" */
    sbx_command *command;
    sbx_buf line, tail, told;
    sbx_err failure; /* code SBX_OK: none */
    char *installed;
    int64_t size_bytes;
    unsigned char key[SBX_HASH_BYTES];
    atomic_bool given_up; /* nobody waits; any thread */
};

/* --- packages.c --- */
/* Tell one who waits, and forget him. On STREAM, or within sbx_packages_want(). @param a  its
 * content is taken over. */
void packages_tell(sbx_package_want *w, package_answer *a);
void packages_set_volume(char out[96], const char *set_id);
void packages_fill_set(const sbx_package_want *w, const char *set_id, const char *installed,
                       bool hit, sbx_package_set *ret);
/* One of SBX_MAX_INSTALLS places. @return -1 with CAPACITY. */
int packages_enter(sbx_packages *p, const char *owner, sbx_err *err);
void packages_leave_place(sbx_packages *p, const char *owner);

/* --- install.c --- */
install *install_new(sbx_packages *p, const sbx_package_want *w, const char *image_id);
void install_free(install *i);
/* On STREAM: begin, with one who waits. */
void install_begin(install *i, sbx_package_want *w);
void install_join(install *i, sbx_package_want *w);
void install_leave(install *i, sbx_package_want *w);
void install_give_up(install *i);

/* --- installers.c --- */
typedef struct package_installer {
    sbx_package_kind kind;
    const char *name;       /* "pip" */
    const char *cwd;        /* where it is run then, or NULL */
    const char *made;       /* where the volume is while it is written */
    const char *path, *bin; /* where a set is mounted later, and its programs */
    const char *env;        /* variable that leads to `path`, or NULL */
    const char *const *install, *const *place, *const *look; /* arguments; before those asked for */
} package_installer;

const package_installer *installer_of(sbx_package_kind kind);
/* @param secrets  with passwords. */
void installer_env(const sbx_packages *p, const package_installer *with, bool secrets, bool place,
                   sbx_pairs *ret);
/* Take passwords out of a line, and make it UTF-8 without control characters. */
void installer_clean(const sbx_packages *p, const char *line, size_t len, sbx_buf *out);
/* Read what looking at a set has told. @param ret_lock  hash of what is there. */
int installer_read(const install *i, char **ret_installed, int64_t *ret_bytes, sbx_buf *ret_lock,
                   sbx_err *err);
int package_index_parse(const char *option, const char *url, package_index *ret, sbx_err *err);
void package_index_done(package_index *i);

/* --- tidy.c --- */
void packages_tidy(void *arg);

#endif
