/* The tables `events` and `event_counters`: what happened to the sandboxes of an owner.
 *
 * Every change of state writes its event in the same statement (sbx_store_sandbox_set_state()).
 * Events are numbered per owner from 1, without gaps and in the order in which they become visible:
 * whoever has read up to a number has missed none before it. Threads: WORKER. */
#ifndef SBX_STORE_EVENTS_H
#define SBX_STORE_EVENTS_H

#include "sbx/store/store.h"

typedef struct sbx_event {
    uint64_t seq;
    int64_t at_ms; /* when the change began: may be some ms out of order */
    char *type;    /* "sandbox.<state>"; owned */
    char sandbox[SBX_ID_LEN + 1];
    char *data; /* {"from","to","reason"}, one line; owned */
} sbx_event;

typedef struct sbx_event_page {
    sbx_event *items; /* oldest first */
    size_t count;
    uint64_t last; /* the highest number given out at the same moment; 0: none yet */
} sbx_event_page;
void sbx_event_page_done(sbx_event_page *p);

typedef struct sbx_event_filter {
    const char *owner;
    const char *sandbox, *type; /* NULL: any */
    uint64_t since;             /* only events above it */
    size_t limit;               /* 1 or more */
    bool newest;                /* the newest `limit` instead of the oldest */
} sbx_event_filter;

int sbx_store_event_list(sbx_store *s, const sbx_event_filter *f, sbx_event_page *ret,
                         sbx_err *err) SBX_MUST_CHECK;

/** Does the owner have, or had within the kept events, this sandbox?
 * @param ret_end  the number of its last event if it is deleted; 0 otherwise.
 * @return 0, or -1 with NOT_FOUND. */
int sbx_store_event_sandbox(sbx_store *s, const char *owner, const char *sandbox, uint64_t *ret_end,
                            sbx_err *err) SBX_MUST_CHECK;

typedef struct sbx_event_counter {
    char owner[SBX_ID_LEN + 1];
    uint64_t last;
} sbx_event_counter;

/** Fill in the highest number of each owner, 0 if it has no event. One statement. */
int sbx_store_event_counters(sbx_store *s, sbx_event_counter *c, size_t count,
                             sbx_err *err) SBX_MUST_CHECK;

/** Remove the oldest events of every owner that are older than SBX_EVENT_DAYS. An event goes only
 * if all before it are gone, so that numbers are missing at the beginning alone. */
int sbx_store_event_purge(sbx_store *s, int *ret_count, sbx_err *err) SBX_MUST_CHECK;

#endif
