/* The table `idempotency_keys`. Every statement may run twice: a claim is known by the id that it
 * brought, the others change nothing the second time. */
#include "sbx/store/idempotency.h"

#include "internal.h"
#include "sbx/core/limits.h"
#include <stdio.h>

typedef struct seal_context { /* so that no sealed value opens in the place of another */
    char s[SBX_ID_LEN + 16];
} seal_context;

static seal_context context_of(const char *resource)
{
    seal_context c;

    snprintf(c.s, sizeof c.s, "answer:%s", resource);
    return c;
}

void sbx_claim_found_done(sbx_claim_found *f)
{
    free(f->location);
    if (f->answer.data)
        sbx_wipe(f->answer.data, f->answer.len);
    sbx_buf_done(&f->answer);
    memset(f, 0, sizeof *f);
}

static int read_answer(sbx_store *s, const PGresult *r, sbx_claim_found *ret, sbx_err *err)
{
    seal_context context = context_of(ret->resource);

    ret->status = (int)store_int(r, 0, 1);
    ret->location = store_str(r, 0, 2);
    sbx_buf_init(&ret->answer, SBX_MAX_RESPONSE_BYTES);
    if (sbx_crypt_unseal(s->crypt, context.s, PQgetvalue(r, 0, 3), (size_t)PQgetlength(r, 0, 3),
                         &ret->answer, err) == 0)
        return 0;
    sbx_claim_found_done(ret);
    return -1;
}

static void claim_params(store_params *p, const sbx_claim *c)
{
    store_p_str(p, c->owner);
    store_p_str(p, c->key);
}

int sbx_store_idempotency_claim(sbx_store *s, const sbx_claim *c, sbx_claim_found *ret,
                                sbx_err *err)
{
    static const struct {
        const char *word;
        sbx_claim_state state;
    } states[] = {{"claimed", SBX_CLAIM_MINE},
                  {"other", SBX_CLAIM_OTHER},
                  {"first", SBX_CLAIM_FIRST},
                  {"made", SBX_CLAIM_MADE}};
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};
    char word[16];

    claim_params(&p, c);
    store_p_bytes(&p, c->fingerprint, sizeof c->fingerprint);
    store_p_str(&p, c->worker);
    store_p_str(&p, c->resource);
    store_p_bool(&p, c->rerun);
    if (store_exec(s, Q_IDEMPOTENCY_CLAIM, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    memset(ret, 0, sizeof *ret);
    ret->state = SBX_CLAIM_WAIT;
    store_copy(r, 0, 0, word, sizeof word);
    store_copy(r, 0, 4, ret->resource, sizeof ret->resource);
    for (size_t i = 0; i < ARRAY_LEN(states); i++)
        if (sbx_streq(word, states[i].word))
            ret->state = states[i].state;
    return ret->state == SBX_CLAIM_FIRST ? read_answer(s, r, ret, err) : 0;
}

int sbx_store_idempotency_begun(sbx_store *s, const sbx_claim *c, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    claim_params(&p, c);
    store_p_str(&p, c->resource);
    if (store_exec(s, Q_IDEMPOTENCY_BEGUN, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return sbx_fail(err, SBX_E_CAPACITY,
                        "the server stood still, and another request with this Idempotency-Key "
                        "goes on; repeat it");
    return 0;
}

int sbx_store_idempotency_done(sbx_store *s, const sbx_claim *c, int status, const char *location,
                               const sbx_buf *body, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf sealed = SBX_BUF_INIT(SBX_MAX_RESPONSE_BYTES + KIB);
    seal_context context = context_of(c->resource);
    store_params p = {0};

    if (sbx_crypt_seal(s->crypt, context.s, body->data ? body->data : "", body->len, &sealed,
                       err) != 0)
        return -1;
    claim_params(&p, c);
    store_p_str(&p, c->resource);
    store_p_int(&p, status);
    store_p_str(&p, location);
    store_p_bytes(&p, sealed.data, sealed.len);
    return store_exec(s, Q_IDEMPOTENCY_DONE, &p, STORE_AGAIN, &r, err);
}

int sbx_store_idempotency_release(sbx_store *s, const sbx_claim *c, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    claim_params(&p, c);
    store_p_str(&p, c->resource);
    return store_exec(s, Q_IDEMPOTENCY_RELEASE, &p, STORE_AGAIN, &r, err);
}

int sbx_store_idempotency_leave(sbx_store *s, const sbx_claim *c, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    claim_params(&p, c);
    store_p_str(&p, c->resource);
    return store_exec(s, Q_IDEMPOTENCY_LEAVE, &p, STORE_AGAIN, &r, err);
}

int sbx_store_idempotency_purge(sbx_store *s, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    return store_exec(s, Q_IDEMPOTENCY_PURGE, &p, STORE_AGAIN, &r, err);
}
