/* Messages from any thread to one owner thread, which drains them in order.
 *
 * Threads: post() from any thread; drain() only by the owner. The wake function is called, outside
 * the lock, when the box goes from empty to not empty; it must be callable from any thread. */
#ifndef SBX_RUN_MAILBOX_H
#define SBX_RUN_MAILBOX_H

#include "sbx/core/base.h"

typedef struct sbx_mailbox sbx_mailbox;
typedef void (*sbx_msg_fn)(void *arg);

sbx_mailbox *sbx_mailbox_new(void (*wake)(void *arg), void *arg);
void sbx_mailbox_free(sbx_mailbox *m); /* runs what is left, in the calling thread */
SBX_DEFINE_CLEANUP(sbx_mailbox, sbx_mailbox_free)

/** Have the owner call fn(arg). Never fails; what is posted is bounded by what posts it. */
void sbx_mailbox_post(sbx_mailbox *m, sbx_msg_fn fn, void *arg);

/** Run all that was posted before the call. @return how many. */
size_t sbx_mailbox_drain(sbx_mailbox *m);

#endif
