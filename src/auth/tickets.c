/* Tickets: their form, and the leases of the streams that are connected to this process.
 *
 * A lease is freed by the renewal that follows its end, so that the ticket is good for the full
 * time after the last disconnect.
 *
 * Threads: `mu` guards the list and is never held across a statement. */
#include "sbx/auth/tickets.h"

#include "auth_priv.h"
#include "sbx/core/limits.h"
#include "sbx/store/tickets.h"
#include <pthread.h>
#include <utlist.h>

#define START     "tkt_"
#define HALF      16                              /* bytes */
#define HALF_TEXT ((sizeof START - 1) + 2 * HALF) /* up to where the second half begins */

struct sbx_ticket_lease {
    sbx_tickets *owner;
    sbx_ticket_lease *prev, *next; /* guarded by owner->mu, as all below */
    unsigned char hash[SBX_HASH_BYTES];
    bool ended;
    bool renewed; /* after its end, by the renewal that runs */
};

struct sbx_tickets {
    sbx_store *store;
    const sbx_crypt *crypt;
    pthread_mutex_t mu;
    sbx_ticket_lease *leases; /* guarded by mu */
    size_t count;             /* guarded by mu */
};

sbx_tickets *sbx_tickets_new(sbx_store *store, const sbx_crypt *crypt)
{
    sbx_tickets *t = sbx_alloc(sizeof *t);

    t->store = store;
    t->crypt = crypt;
    pthread_mutex_init(&t->mu, NULL);
    return t;
}

void sbx_tickets_free(sbx_tickets *t)
{
    sbx_ticket_lease *l, *next;

    if (!t)
        return;
    DL_FOREACH_SAFE (t->leases, l, next)
        free(l);
    pthread_mutex_destroy(&t->mu);
    free(t);
}

int sbx_tickets_issue(sbx_tickets *t, const sbx_principal *who, const char *method,
                      const char *path, char ret[SBX_TICKET_LEN + 1], int64_t *ret_expires_ms,
                      sbx_err *err)
{
    unsigned char secret[HALF], hash[SBX_HASH_BYTES];

    sbx_random(secret, sizeof secret);
    memcpy(ret, START, sizeof START);
    sbx_hex(secret, sizeof secret, ret + sizeof START - 1);
    sbx_wipe(secret, sizeof secret);
    sbx_crypt_ticket_hash(t->crypt, ret, HALF_TEXT, hash);
    sbx_hex(hash, HALF, ret + HALF_TEXT);
    sbx_crypt_ticket_hash(t->crypt, ret, SBX_TICKET_LEN, hash);
    if (sbx_store_ticket_insert(t->store, hash, who->key, method, path, who->token_ends_ms,
                                ret_expires_ms, err) == 0)
        return 0;
    sbx_wipe(ret, SBX_TICKET_LEN);
    return -1;
}

/* By what the database knows it: under the master key that it was made with.
 * @return false: it was made up. */
static bool hash_of(const sbx_crypt *c, const char *ticket, unsigned char ret[SBX_HASH_BYTES])
{
    unsigned char bytes[2 * HALF], hash[SBX_HASH_BYTES];

    if (strncmp(ticket, START, sizeof START - 1) != 0 ||
        sbx_unhex(ticket + sizeof START - 1, bytes, sizeof bytes) != 0)
        return false;
    sbx_crypt_ticket_hash(c, ticket, HALF_TEXT, hash);
    if (sbx_equal_ct(bytes + HALF, hash, HALF)) {
        sbx_crypt_ticket_hash(c, ticket, SBX_TICKET_LEN, ret);
        return true;
    }
    return sbx_crypt_ticket_hash_before(c, ticket, HALF_TEXT, hash) &&
           sbx_equal_ct(bytes + HALF, hash, HALF) &&
           sbx_crypt_ticket_hash_before(c, ticket, SBX_TICKET_LEN, ret);
}

bool sbx_tickets_genuine(const sbx_tickets *t, const char *ticket)
{
    unsigned char hash[SBX_HASH_BYTES];

    return hash_of(t->crypt, ticket, hash);
}

static int refuse(sbx_err *err)
{
    return sbx_fail(err, SBX_E_UNAUTHORIZED,
                    "the ticket is not accepted: it is unknown, expired, used, made for another "
                    "method or path, or its key was revoked; make a new one with POST /tickets");
}

static sbx_ticket_lease *lease_new(sbx_tickets *t, const unsigned char hash[SBX_HASH_BYTES])
{
    sbx_ticket_lease *l = sbx_alloc(sizeof *l);

    l->owner = t;
    memcpy(l->hash, hash, SBX_HASH_BYTES);
    pthread_mutex_lock(&t->mu);
    DL_APPEND(t->leases, l);
    t->count++;
    pthread_mutex_unlock(&t->mu);
    return l;
}

int sbx_tickets_use(sbx_tickets *t, const char *ticket, const char *method, const char *path,
                    sbx_ticket_lease **ret_lease, sbx_principal *ret, sbx_err *err)
{
    unsigned char hash[SBX_HASH_BYTES];
    sbx_key_row row = {0};
    sbx_err why = {0};

    if (!hash_of(t->crypt, ticket, hash))
        return refuse(err);
    if (sbx_store_ticket_use(t->store, hash, method, path, ret_lease != NULL, &row, &why) != 0)
        return why.code == SBX_E_NOT_FOUND ? refuse(err) : sbx_fail(err, why.code, "%s", why.msg);
    auth_principal(&row, ret);
    sbx_key_row_done(&row);
    if (ret_lease)
        *ret_lease = lease_new(t, hash);
    return 0;
}

void sbx_ticket_lease_end(sbx_ticket_lease *l)
{
    sbx_tickets *t = l->owner;

    pthread_mutex_lock(&t->mu);
    l->ended = true;
    pthread_mutex_unlock(&t->mu);
}

/* Forgets the leases that this renewal was the last of. */
static void forget_ended(sbx_tickets *t)
{
    sbx_ticket_lease *l, *next;

    pthread_mutex_lock(&t->mu);
    DL_FOREACH_SAFE (t->leases, l, next) {
        if (!l->renewed)
            continue;
        DL_DELETE(t->leases, l);
        t->count--;
        free(l);
    }
    pthread_mutex_unlock(&t->mu);
}

int sbx_tickets_renew(sbx_tickets *t, sbx_err *err)
{
    unsigned char(*hashes)[SBX_HASH_BYTES] = NULL;
    sbx_ticket_lease *l;
    size_t n = 0;

    pthread_mutex_lock(&t->mu);
    if (t->count)
        hashes = sbx_alloc(t->count * sizeof *hashes);
    DL_FOREACH (t->leases, l) {
        memcpy(hashes[n++], l->hash, SBX_HASH_BYTES);
        l->renewed = l->ended;
    }
    pthread_mutex_unlock(&t->mu);
    int rc =
        sbx_store_ticket_renew(t->store, (const unsigned char(*)[SBX_HASH_BYTES])hashes, n, err);
    free(hashes);
    if (rc == 0)
        forget_ended(t);
    return rc;
}
