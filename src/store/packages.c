/* The tables `package_requests` and `package_sets`. Statements may run twice: a claim is known by
 * the id that it brought, the others change nothing the second time, but for sealing, which is not
 * repeated: a set whose seal was not answered is found sealed, or overdue. */
#include "sbx/store/packages.h"

#include "internal.h"
#include "sbx/core/limits.h"

#define SEAL_TRIES 3

void sbx_package_found_done(sbx_package_found *f)
{
    free(f->installed);
    free(f->output);
    memset(f, 0, sizeof *f);
}

static sbx_code code_of(const char *wire)
{
    for (int code = SBX_OK + 1; code < SBX_E_COUNT; code++)
        if (strcmp(sbx_code_wire((sbx_code)code), wire) == 0)
            return (sbx_code)code;
    return SBX_E_PACKAGE;
}

static void read_failure(const PGresult *r, sbx_package_found *ret)
{
    char wire[64];

    store_copy(r, 0, 3, wire, sizeof wire);
    ret->failure.code = code_of(wire);
    store_copy(r, 0, 4, ret->failure.msg, sizeof ret->failure.msg);
    ret->output = store_str(r, 0, 5);
}

int sbx_store_packages_claim(sbx_store *s, const sbx_package_request *q, sbx_package_found *ret,
                             sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};
    char word[16];

    store_p_str(&p, q->owner);
    store_p_bytes(&p, q->request, sizeof q->request);
    store_p_str(&p, q->set_id);
    store_p_str(&p, q->worker);
    store_p_str(&p, q->installer);
    store_p_int(&p, q->deadline_s);
    if (store_exec(s, Q_PACKAGES_CLAIM, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    memset(ret, 0, sizeof *ret);
    store_copy(r, 0, 0, word, sizeof word);
    store_copy(r, 0, 1, ret->id, sizeof ret->id);
    ret->state = SBX_PACKAGES_WAIT;
    if (strcmp(word, "mine") == 0)
        ret->state = SBX_PACKAGES_MINE;
    else if (strcmp(word, "sealed") == 0)
        ret->state = SBX_PACKAGES_SEALED;
    else if (strcmp(word, "failed") == 0)
        ret->state = SBX_PACKAGES_FAILED;
    if (ret->state == SBX_PACKAGES_SEALED)
        ret->installed = store_str(r, 0, 2);
    if (ret->state == SBX_PACKAGES_FAILED)
        read_failure(r, ret);
    return 0;
}

int sbx_store_packages_stage(sbx_store *s, const char *id, const char *worker, const char *sandbox,
                             sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, id);
    store_p_str(&p, worker);
    store_p_str(&p, sandbox);
    if (store_exec(s, Q_PACKAGES_STAGE, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    return PQntuples(r) ? 0
                        : sbx_fail(err, SBX_E_CONFLICT,
                                   "the installation was given up: it took too long, or the server "
                                   "stood still");
}

static int seal_once(sbx_store *s, const sbx_package_seal *a, char ret_id[SBX_ID_LEN + 1],
                     sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, a->id);
    store_p_str(&p, a->worker);
    store_p_bytes(&p, a->key, sizeof a->key);
    store_p_str(&p, a->installed);
    store_p_int(&p, a->size_bytes);
    store_p_int(&p, a->ttl_s);
    if (store_exec(s, Q_PACKAGES_SEAL, &p, STORE_ONCE, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return sbx_fail(err, SBX_E_GONE,
                        "the installation was given up: it took too long, or the "
                        "server stood still");
    store_copy(r, 0, 0, ret_id, SBX_ID_LEN + 1);
    return 0;
}

/* CONFLICT: at the same moment another one with this key was sealed; it is seen the next time. */
int sbx_store_packages_seal(sbx_store *s, const sbx_package_seal *a, char ret_id[SBX_ID_LEN + 1],
                            sbx_err *err)
{
    for (int tries = 1;; tries++) {
        if (seal_once(s, a, ret_id, err) == 0)
            return 0;
        if (err->code == SBX_E_GONE)
            err->code = SBX_E_CONFLICT;
        else if (err->code == SBX_E_CONFLICT && tries < SEAL_TRIES)
            continue;
        return -1;
    }
}

int sbx_store_packages_fail(sbx_store *s, const char *id, const char *worker, const sbx_err *why,
                            const char *output, int seconds, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, id);
    store_p_str(&p, worker);
    store_p_str(&p, sbx_code_wire(why->code));
    store_p_str(&p, why->msg);
    store_p_str(&p, output);
    store_p_int(&p, seconds);
    return store_exec(s, Q_PACKAGES_FAIL, &p, STORE_AGAIN, &r, err);
}

static int of_one(sbx_store *s, store_query q, const char *id, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, id);
    return store_exec(s, q, &p, STORE_AGAIN, &r, err);
}

int sbx_store_packages_lost(sbx_store *s, const char *id, sbx_err *err)
{
    return of_one(s, Q_PACKAGES_LOST, id, err);
}

int sbx_store_packages_removed(sbx_store *s, const char *id, sbx_err *err)
{
    return of_one(s, Q_PACKAGES_REMOVED, id, err);
}

int sbx_store_packages_restore(sbx_store *s, const char *id, sbx_err *err)
{
    sbx_err got = {0};

    /* CONFLICT: another one was sealed at the same moment */
    if (of_one(s, Q_PACKAGES_RESTORE, id, &got) == 0 || got.code == SBX_E_CONFLICT)
        return 0;
    if (err)
        *err = got;
    return -1;
}

int sbx_store_packages_overdue(sbx_store *s, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    return store_exec(s, Q_PACKAGES_OVERDUE, &p, STORE_AGAIN, &r, err);
}

int sbx_store_packages_evict(sbx_store *s, int64_t max_bytes, int *ret_count, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_int(&p, max_bytes);
    store_p_int(&p, SBX_PACKAGES_USE_S);
    if (store_exec(s, Q_PACKAGES_EVICT, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    *ret_count = (int)store_int(r, 0, 0);
    return 0;
}

int sbx_store_packages_all(sbx_store *s, sbx_package_row **ret, size_t *ret_count, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    if (store_exec(s, Q_PACKAGES_ALL, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    int count = PQntuples(r);

    if (count > STORE_MAX_ROWS)
        return sbx_fail(err, SBX_E_INTERNAL, "more than %d sets of packages", STORE_MAX_ROWS);
    *ret = sbx_alloc(((size_t)count + 1) * sizeof **ret);
    *ret_count = (size_t)count;
    for (int i = 0; i < count; i++) {
        sbx_package_row *row = *ret + i;

        store_copy(r, i, 0, row->id, sizeof row->id);
        store_copy(r, i, 1, row->owner, sizeof row->owner);
        store_copy(r, i, 2, row->sandbox, sizeof row->sandbox);
        row->removing = store_int(r, i, 3);
        row->was_sealed = store_int(r, i, 4);
        row->size_bytes = store_int(r, i, 5);
    }
    return 0;
}
