/* What the files of stats share. */
#ifndef SBX_STATS_INTERNAL_H
#define SBX_STATS_INTERNAL_H

#include "sbx/stats/stats.h"
#include <uthash.h>

/* The sample before, for the use of the processor between two, and what was alerted of. STREAM. */
typedef struct seen {
    char id[SBX_ID_LEN + 1];
    int64_t at_ms, cpu_us; /* when it was last asked for its use; -1: never */
    int64_t heard_ms;      /* when anything was last told of it */
    int64_t looked_ms;     /* when its agent was last asked for alerts; at first: when it was met */
    int64_t disk_bytes;    /* when it was last measured; -1: never */
    bool rests;            /* at that look no process of it was there */
    int told[3];           /* percent that was alerted of: memory, processes, disk */
    UT_hash_handle hh;
} seen;

typedef struct by_engine by_engine;

struct sbx_stats {
    sbx_stats_config c;
    seen *seen;           /* STREAM, as all below */
    by_engine *by_engine; /* hash by sandbox */
    sbx_timer *alerts;    /* the next look */
    int64_t measured_ms;  /* when it was last time to measure disks */
    bool measuring;       /* of disks, by a worker */
    bool closed;
};

#define MAX_SEEN        8192
#define SEEN_FOR_MS     60000 /* an older sample says nothing about now */
#define CPU_AT_LEAST_MS 20    /* between two samples, for their difference to mean something */

/* What is remembered of a sandbox; NULL if there are too many. STREAM. */
seen *stats_seen(sbx_stats *s, const char *id);

/* Percent of one core since the sample before, in thousandths; -1: there is none. STREAM. */
int64_t stats_cpu_milli(sbx_stats *s, const char *id, const sbx_usage *u);

/* Alerts of one sample, of a sandbox that this worker holds. STREAM. */
void stats_look(sbx_stats *s, const char *id, int64_t pids, const sbx_usage *u);
/* `full`: it is over its limit, and is to be stopped when that was told. */
void stats_look_disk(sbx_stats *s, const char *id, int64_t bytes, int64_t limit, bool full);
void stats_alerts_begin(sbx_stats *s);

/* Have a worker measure the disks that have to be watched, and stop what is over its limit. STREAM.
 */
void stats_measure_disks(sbx_stats *s);
void stats_stop_full(sbx_stats *s, const char *id, int64_t bytes, int64_t limit); /* WORKER */

#endif
