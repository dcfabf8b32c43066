/* A create under way; create.c and claim.c. */
#ifndef SBX_SANDBOX_CREATE_PRIV_H
#define SBX_SANDBOX_CREATE_PRIV_H

#include "sandboxes_priv.h"
#include "sbx/sandbox/pool.h"
#include <stdatomic.h>

#define CREATE_DEADLINE_S 180 /* without the wait for the image */

struct sbx_create {   /* owned by the job that runs it, or by STREAM while it waits */
    sbx_sandboxes *s; /* immutable, as the next */
    int64_t from_us;
    atomic_int refs;
    sbx_spec spec;
    sbx_sandbox_row row;
    sbx_create_waiter waiter;
    sbx_image_wait wait;
    bool waited, interrupted;
    bool claimed;     /* from a pool: it runs already */
    bool limits;      /* with other limits than it is to have */
    bool started;     /* the container and the main process; what is left is to be ready */
    sbx_err failure;  /* that is still to be written */
    sbx_err wait_err; /* how the last wait ended */
};

/* The row of a create of `spec`, as it is inserted. @param id  NULL: a new one. */
int sandbox_fill_row(sbx_sandboxes *s, const char *owner, const char *id, const sbx_spec *spec,
                     sbx_sandbox_row *r, sbx_err *err) SBX_MUST_CHECK;
/* How long a create may take. */
int sandbox_create_deadline_s(const sbx_sandboxes *s, const sbx_spec *spec);

#endif
