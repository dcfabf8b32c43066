/* The mark of the master key in the table `meta`, and its change.
 *
 * The mark is derived from the key and says nothing about it. Without it a server with another key
 * would refuse every API key and lose every env value, one by one and late; with it, it does not
 * start. Values carry no number of their key: what the present one does not open, the former one
 * does, which the authentication of the seal decides. */
#include "sbx/store/secret.h"

#include "internal.h"
#include "sbx/core/limits.h"

#define AT_ONCE   100
#define MARK_SIZE (2 * SBX_HASH_BYTES + 1)

static int wrong_secret(sbx_err *err)
{
    return sbx_fail(err, SBX_E_INVALID,
                    "the master key (--secret-file) is not the one that this database was written "
                    "with: give that one, or, to change it, the former one as "
                    "--secret-file-previous");
}

/* The mark that the database has, and if it has none, ours from now on. */
static int read_mark(sbx_store *s, const char *mine, char ret[MARK_SIZE], sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, mine);
    if (store_exec(s, Q_SECRET_MARK, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    store_copy(r, 0, 0, ret, MARK_SIZE);
    return 0;
}

/* A database of before there were marks: what is sealed tells. @return 1: it is ours, or empty. */
static int opens_newest(sbx_store *s, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf text = SBX_BUF_INIT(MIB);
    store_params p = {0};
    char id[SBX_ID_LEN + 1];
    sbx_err ignored;

    if (store_exec(s, Q_SECRET_SAMPLE, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    if (PQntuples(r) == 0)
        return 1;
    store_copy(r, 0, 0, id, sizeof id);
    int rc = sbx_crypt_unseal(s->crypt, id, PQgetvalue(r, 0, 1), (size_t)PQgetlength(r, 0, 1),
                              &text, &ignored);
    sbx_wipe(text.data, text.len);
    return rc == 0;
}

static int change_mark(sbx_store *s, const char *from, const char *to, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, from);
    store_p_str(&p, to);
    return store_exec(s, Q_SECRET_CHANGE, &p, STORE_AGAIN, &r, err);
}

int sbx_store_secret_check(sbx_store *s, bool *ret_changed, sbx_err *err)
{
    char now[MARK_SIZE], before[MARK_SIZE], has[MARK_SIZE];
    bool has_before = sbx_crypt_mark(s->crypt, true, before);

    *ret_changed = false;
    sbx_crypt_mark(s->crypt, false, now);
    if (read_mark(s, NULL, has, err) != 0)
        return -1;
    if (!has[0]) {
        int ours = opens_newest(s, err);

        if (ours <= 0)
            return ours < 0 ? -1 : wrong_secret(err);
        if (read_mark(s, now, has, err) != 0)
            return -1;
    }
    if (strcmp(has, now) == 0)
        return 0;
    if (!has_before || strcmp(has, before) != 0)
        return wrong_secret(err);
    *ret_changed = true;
    return change_mark(s, before, now, err);
}

/* --- sealing anew --- */

/* @return whether the value opens; `text` is to be wiped. */
static bool opens(const sbx_store *s, const char *id, const PGresult *r, int row, sbx_buf *text)
{
    sbx_err ignored;

    sbx_buf_reset(text);
    return sbx_crypt_unseal(s->crypt, id, PQgetvalue(r, row, 1), (size_t)PQgetlength(r, row, 1),
                            text, &ignored) == 0;
}

static int write_anew(sbx_store *s, const char *id, const PGresult *r, int row, const sbx_buf *text,
                      sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *res = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf sealed = SBX_BUF_INIT(MIB);
    store_params p = {0};

    if (sbx_crypt_seal(s->crypt, id, text->data, text->len, &sealed, err) != 0)
        return -1;
    store_p_str(&p, id);
    store_p_bytes(&p, PQgetvalue(r, row, 1), (size_t)PQgetlength(r, row, 1));
    store_p_bytes(&p, sealed.data, sealed.len);
    return store_exec(s, Q_SECRET_RESEAL, &p, STORE_AGAIN, &res, err);
}

static int reseal_row(sbx_store *s, const char *id, const PGresult *r, int row, sbx_reseal *total,
                      sbx_err *err)
{
    sbx_buf text = SBX_BUF_INIT(MIB);
    int rc = 0;

    if (!opens(s, id, r, row, &text)) {
        total->lost++;
    } else if (!sbx_crypt_is_present(s->crypt, id, PQgetvalue(r, row, 1),
                                     (size_t)PQgetlength(r, row, 1))) {
        rc = write_anew(s, id, r, row, &text, err);
        total->sealed += rc == 0;
    }
    sbx_wipe(text.data, text.len);
    sbx_buf_done(&text);
    return rc;
}

/* One page behind `id`, which becomes its last one; "": that was all. */
static int reseal_page(sbx_store *s, char id[SBX_ID_LEN + 1], sbx_reseal *total, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_str(&p, id);
    store_p_int(&p, AT_ONCE);
    if (store_exec(s, Q_SECRET_SEALED, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    int rows = PQntuples(r);
    for (int row = 0; row < rows; row++) {
        store_copy(r, row, 0, id, SBX_ID_LEN + 1);
        if (reseal_row(s, id, r, row, total, err) != 0)
            return -1;
    }
    if (rows < AT_ONCE)
        id[0] = '\0';
    return 0;
}

int sbx_store_reseal(sbx_store *s, sbx_reseal *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    char id[SBX_ID_LEN + 1] = "";
    store_params p = {0};

    *ret = (sbx_reseal){0};
    do {
        if (reseal_page(s, id, ret, err) != 0)
            return -1;
    } while (id[0]);
    if (store_exec(s, Q_SECRET_LEFT, &p, STORE_AGAIN, &r, err) != 0)
        return -1;
    ret->unused = store_int(r, 0, 0);
    ret->answers = store_int(r, 0, 1);
    return 0;
}

int sbx_store_key_rehash(sbx_store *s, const unsigned char before[SBX_HASH_BYTES],
                         const unsigned char now[SBX_HASH_BYTES], sbx_err *err)
{
    SBX_CLEANUP_VAL(store_result_done) PGresult *r = NULL;
    store_params p = {0};

    store_p_bytes(&p, before, SBX_HASH_BYTES);
    store_p_bytes(&p, now, SBX_HASH_BYTES);
    return store_exec(s, Q_KEY_REHASH, &p, STORE_AGAIN, &r, err);
}
