/* What no request does: undoes installations that were interrupted, makes room, and brings rows and
 * volumes together. Every step may be taken by any number of workers, and again after a crash. */
#include "packages_priv.h"

#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include <stdio.h>

static void complain(const char *what, const sbx_err *err)
{
    sbx_log_err(SBX_WARN, "packages could not be tidied", err, "what", what, NULL);
}

/* A volume that a container has is kept: if it was sealed for further runs, else until the next
 * look, as its sandbox is being removed. */
static int remove_set(sbx_packages *p, const sbx_package_row *row, sbx_err *err)
{
    sbx_engine *e = p->c.engine;
    char volume[96];

    if (row->sandbox[0] && sbx_sandbox_delete(p->c.sandboxes, NULL, row->sandbox, err) &&
        err->code != SBX_E_NOT_FOUND)
        return -1;
    packages_set_volume(volume, row->id);
    if (e->ops->volume_remove(e, volume, err)) {
        if (err->code != SBX_E_CONFLICT)
            return -1;
        return row->was_sealed ? sbx_store_packages_restore(p->c.store, row->id, err) : 0;
    }
    return sbx_store_packages_removed(p->c.store, row->id, err);
}

static int by_id(const void *a, const void *b)
{
    return strcmp(((const sbx_package_row *)a)->id, ((const sbx_package_row *)b)->id);
}

/* A row is written before its volume is made, and removed behind it; so one without a row, older
 * than the grace, was left by a database that was restored. */
static void remove_strays(sbx_packages *p, sbx_package_row *rows, size_t count,
                          const sbx_volume_info *all, size_t volumes)
{
    static const char prefix[] = "sandboxd-packages-";
    sbx_engine *e = p->c.engine;

    qsort(rows, count, sizeof(*rows), by_id);
    for (size_t i = 0; i < volumes; i++) {
        sbx_package_row key = {0};
        sbx_err err;

        if (strncmp(all[i].name, prefix, sizeof(prefix) - 1) != 0)
            continue;
        sbx_copy(key.id, sizeof(key.id), all[i].name + sizeof(prefix) - 1);
        if (bsearch(&key, rows, count, sizeof(*rows), by_id) ||
            sbx_wall_ms() - all[i].created_ms <= p->c.orphan_grace_s * 1000)
            continue;
        if (e->ops->volume_remove(e, all[i].name, &err) == 0)
            sbx_log(SBX_INFO, "volume of packages without a row removed", "volume", all[i].name,
                    NULL);
        else if (err.code != SBX_E_CONFLICT)
            complain("volumes", &err);
    }
}

/* Volumes first, so that one without a row has none. */
static int compare(sbx_packages *p, sbx_err *err)
{
    sbx_volume_info *volumes = NULL;
    sbx_package_row *rows = NULL;
    size_t volume_count = 0, count = 0;
    int64_t bytes = 0;
    sbx_err got;
    int rc = p->c.engine->ops->volume_list(p->c.engine, p->c.cluster, PACKAGES_ROLE, &volumes,
                                           &volume_count, err);

    if (!rc)
        rc = sbx_store_packages_all(p->c.store, &rows, &count, err);
    for (size_t i = 0; i < count; i++) {
        bytes += rows[i].size_bytes;
        if (rows[i].removing && remove_set(p, &rows[i], &got))
            complain("sets", &got);
    }
    if (!rc) {
        sbx_metrics_set(p->c.metrics, SBX_M_PACKAGE_BYTES, NULL, (double)bytes);
        remove_strays(p, rows, count, volumes, volume_count);
    }
    free(volumes);
    free(rows);
    return rc;
}

void packages_tidy(void *arg)
{
    sbx_packages *p = arg;
    int evicted = 0;
    sbx_err err;

    if (sbx_store_packages_overdue(p->c.store, &err) ||
        sbx_store_packages_evict(p->c.store, p->c.max_mb * (int64_t)MIB, &evicted, &err))
        complain("rows", &err);
    if (evicted) {
        sbx_metrics_add(p->c.metrics, SBX_M_PACKAGES, "all,evicted", (uint64_t)evicted);
        sbx_log(SBX_INFO, "sets of packages make room", "sets", SBX_NUM(evicted), NULL);
    }
    if (compare(p, &err))
        complain("volumes", &err);
}
