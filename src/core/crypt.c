/* Keyed hashes and sealing, on OpenSSL's EVP interface.
 *
 * The master key never encrypts anything itself: HMAC-SHA-256(master, purpose) makes one key per
 * purpose, so that a hash tells nothing about a seal. The context of the keyed hash is prepared
 * once and duplicated per call, which spares the lookup of the algorithm on every request.
 *
 * A seal is nonce (12, random) | tag (16) | ciphertext. 96 random bits stay far below the limit of
 * AES-GCM for the number of sandboxes that one installation will ever make.
 *
 * A change of the master key leaves a second one beside it for a while: what was sealed under that
 * can be read, and API keys that were hashed under it be found. Nothing is written under it.
 *
 * Threads: an sbx_crypt is immutable; every call works on objects of its own. Failures of OpenSSL
 * that only memory can cause abort, as allocations do. */
#include "sbx/core/crypt.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define NONCE_BYTES 12
#define TAG_BYTES   16
#define KEY_HEX     64

/* What is derived from one master key. */
typedef struct key_set {
    /* Keyed for API keys, for tickets, and for what is compared; only duplicated. */
    EVP_MAC_CTX *key_mac, *ticket_mac, *print_mac;
    unsigned char seal_key[SBX_HASH_BYTES];
    unsigned char mark[SBX_HASH_BYTES];
} key_set;

struct sbx_crypt {
    EVP_MAC *mac;
    EVP_CIPHER *cipher;
    key_set now, before;
    bool has_before;
};

static void must(bool ok)
{
    if (!ok)
        abort();
}

static EVP_MAC_CTX *mac_context(EVP_MAC *mac, const unsigned char *key, size_t len)
{
    char digest[] = "SHA256";
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_end(),
    };
    EVP_MAC_CTX *ctx = EVP_MAC_CTX_new(mac);

    must(ctx && EVP_MAC_init(ctx, key, len, params) == 1);
    return ctx;
}

/* Consumes the context. */
static void mac_finish(EVP_MAC_CTX *ctx, const void *data, size_t len,
                       unsigned char out[SBX_HASH_BYTES])
{
    size_t written = 0;

    must(EVP_MAC_update(ctx, data, len) == 1);
    must(EVP_MAC_final(ctx, out, &written, SBX_HASH_BYTES) == 1 && written == SBX_HASH_BYTES);
    EVP_MAC_CTX_free(ctx);
}

/* A keyed context for one purpose. */
static EVP_MAC_CTX *purpose_context(EVP_MAC *mac, const unsigned char master[SBX_HASH_BYTES],
                                    const char *purpose)
{
    unsigned char derived[SBX_HASH_BYTES];

    mac_finish(mac_context(mac, master, SBX_HASH_BYTES), purpose, strlen(purpose), derived);
    EVP_MAC_CTX *ctx = mac_context(mac, derived, sizeof derived);
    sbx_wipe(derived, sizeof derived);
    return ctx;
}

static void derive(EVP_MAC *mac, const unsigned char master[SBX_HASH_BYTES], key_set *d)
{
    static const char env[] = "env", mark[] = "mark";

    d->key_mac = purpose_context(mac, master, "api-key");
    d->ticket_mac = purpose_context(mac, master, "ticket");
    d->print_mac = purpose_context(mac, master, "fingerprint");
    mac_finish(mac_context(mac, master, SBX_HASH_BYTES), env, sizeof env - 1, d->seal_key);
    mac_finish(mac_context(mac, master, SBX_HASH_BYTES), mark, sizeof mark - 1, d->mark);
}

static void key_set_done(key_set *d)
{
    EVP_MAC_CTX_free(d->key_mac);
    EVP_MAC_CTX_free(d->ticket_mac);
    EVP_MAC_CTX_free(d->print_mac);
    sbx_wipe(d, sizeof *d);
}

static sbx_crypt *crypt_new(const unsigned char master[SBX_HASH_BYTES])
{
    sbx_crypt *c = sbx_alloc(sizeof *c);

    c->mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    c->cipher = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    must(c->mac && c->cipher);
    derive(c->mac, master, &c->now);
    return c;
}

/* Reads at most `cap` bytes. @return how many, or -1. */
static ssize_t read_whole(int fd, char *out, size_t cap)
{
    size_t len = 0;

    while (len < cap) {
        ssize_t n = read(fd, out + len, cap - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        len += (size_t)n;
    }
    return (ssize_t)len;
}

static int check_file(int fd, const char *path, sbx_err *err)
{
    struct stat st;

    if (fstat(fd, &st) != 0)
        return sbx_fail(err, SBX_E_INVALID, "secret file %s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return sbx_fail(err, SBX_E_INVALID, "secret file %s is not a regular file", path);
    /* A group may read it (a service's group), others may not, and only the owner may write. */
    if (st.st_mode & 0027)
        return sbx_fail(err, SBX_E_INVALID,
                        "secret file %s has mode %04o, others must not have access: chmod 600 it",
                        path, (unsigned)(st.st_mode & 07777));
    return 0;
}

static int read_master(int fd, const char *path, unsigned char master[SBX_HASH_BYTES], sbx_err *err)
{
    char text[KEY_HEX + 8];
    ssize_t len = read_whole(fd, text, sizeof text - 1);
    int rc = 0;

    while (len > 0 && isspace((unsigned char)text[len - 1]))
        len--;
    if (len < 0) {
        rc = sbx_fail(err, SBX_E_INVALID, "secret file %s: %s", path, strerror(errno));
    } else {
        text[len] = '\0';
        if (len != KEY_HEX || memchr(text, '\0', KEY_HEX) ||
            sbx_unhex(text, master, SBX_HASH_BYTES) != 0)
            rc = sbx_fail(err, SBX_E_INVALID,
                          "secret file %s must hold %d hexadecimal digits and nothing else "
                          "(make one: openssl rand -hex 32)",
                          path, KEY_HEX);
    }
    sbx_wipe(text, sizeof text);
    return rc;
}

static int read_file(const char *path, unsigned char master[SBX_HASH_BYTES], sbx_err *err)
{
    int rc;
    /* O_NONBLOCK: a FIFO in its place must not hang the start. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return sbx_fail(err, SBX_E_INVALID, "secret file %s: %s", path, strerror(errno));
    rc = check_file(fd, path, err);
    if (rc == 0)
        rc = read_master(fd, path, master, err);
    close(fd);
    return rc;
}

int sbx_crypt_open(const char *path, sbx_crypt **ret, sbx_err *err)
{
    unsigned char master[SBX_HASH_BYTES];
    int rc = read_file(path, master, err);

    if (rc == 0)
        *ret = crypt_new(master);
    sbx_wipe(master, sizeof master);
    return rc;
}

int sbx_crypt_accept(sbx_crypt *c, const char *path, sbx_err *err)
{
    unsigned char master[SBX_HASH_BYTES];
    int rc = read_file(path, master, err);

    if (rc == 0) {
        key_set_done(&c->before);
        derive(c->mac, master, &c->before);
        c->has_before = true;
    }
    sbx_wipe(master, sizeof master);
    return rc;
}

void sbx_crypt_free(sbx_crypt *c)
{
    if (!c)
        return;
    key_set_done(&c->now);
    key_set_done(&c->before);
    EVP_MAC_free(c->mac);
    EVP_CIPHER_free(c->cipher);
    free(c);
}

bool sbx_crypt_mark(const sbx_crypt *c, bool before, char out[2 * SBX_HASH_BYTES + 1])
{
    sbx_hex(before ? c->before.mark : c->now.mark, SBX_HASH_BYTES, out);
    return !before || c->has_before;
}

static void hash(const EVP_MAC_CTX *keyed, const char *text, size_t len,
                 unsigned char out[SBX_HASH_BYTES])
{
    EVP_MAC_CTX *ctx = EVP_MAC_CTX_dup(keyed);

    must(ctx != NULL);
    mac_finish(ctx, text, len, out);
}

void sbx_crypt_key_hash(const sbx_crypt *c, const char *key, size_t len,
                        unsigned char out[SBX_HASH_BYTES])
{
    hash(c->now.key_mac, key, len, out);
}

bool sbx_crypt_key_hash_before(const sbx_crypt *c, const char *key, size_t len,
                               unsigned char out[SBX_HASH_BYTES])
{
    if (c->has_before)
        hash(c->before.key_mac, key, len, out);
    return c->has_before;
}

void sbx_crypt_ticket_hash(const sbx_crypt *c, const char *ticket, size_t len,
                           unsigned char out[SBX_HASH_BYTES])
{
    hash(c->now.ticket_mac, ticket, len, out);
}

bool sbx_crypt_ticket_hash_before(const sbx_crypt *c, const char *ticket, size_t len,
                                  unsigned char out[SBX_HASH_BYTES])
{
    if (c->has_before)
        hash(c->before.ticket_mac, ticket, len, out);
    return c->has_before;
}

void sbx_crypt_fingerprint(const sbx_crypt *c, const void *data, size_t len,
                           unsigned char out[SBX_HASH_BYTES])
{
    hash(c->now.print_mac, data, len, out);
}

static bool seal_into(EVP_CIPHER_CTX *ctx, const sbx_crypt *c, const char *context,
                      const void *data, size_t len, unsigned char *out)
{
    unsigned char *nonce = out, *tag = out + NONCE_BYTES, *text = tag + TAG_BYTES;
    int n = 0;

    sbx_random(nonce, NONCE_BYTES);
    return EVP_EncryptInit_ex2(ctx, c->cipher, c->now.seal_key, nonce, NULL) == 1 &&
           EVP_EncryptUpdate(ctx, NULL, &n, (const unsigned char *)context, (int)strlen(context)) ==
               1 &&
           EVP_EncryptUpdate(ctx, text, &n, data, (int)len) == 1 && (size_t)n == len &&
           EVP_EncryptFinal_ex(ctx, text + n, &n) == 1 && n == 0 &&
           EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, TAG_BYTES, tag) == 1;
}

int sbx_crypt_seal(const sbx_crypt *c, const char *context, const void *data, size_t len,
                   sbx_buf *out, sbx_err *err)
{
    char *to = len < INT32_MAX ? sbx_buf_reserve(out, NONCE_BYTES + TAG_BYTES + len) : NULL;
    EVP_CIPHER_CTX *ctx;
    bool ok;

    if (!to)
        return sbx_fail(err, SBX_E_QUOTA, "what is to be encrypted is too large");
    ctx = EVP_CIPHER_CTX_new();
    must(ctx != NULL);
    ok = seal_into(ctx, c, context, data, len, (unsigned char *)to);
    EVP_CIPHER_CTX_free(ctx);
    if (!ok)
        return sbx_fail(err, SBX_E_INTERNAL, "encryption failed");
    sbx_buf_commit(out, NONCE_BYTES + TAG_BYTES + len);
    return 0;
}

static bool unseal_into(const sbx_crypt *c, const key_set *d, const char *context,
                        const unsigned char *sealed, size_t len, unsigned char *out)
{
    const unsigned char *tag = sealed + NONCE_BYTES, *text = tag + TAG_BYTES;
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int n = 0, last = 0;

    must(ctx != NULL);
    bool ok =
        EVP_DecryptInit_ex2(ctx, c->cipher, d->seal_key, sealed, NULL) == 1 &&
        EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, TAG_BYTES, (void *)(uintptr_t)tag) == 1 &&
        EVP_DecryptUpdate(ctx, NULL, &n, (const unsigned char *)context, (int)strlen(context)) ==
            1 &&
        EVP_DecryptUpdate(ctx, out, &n, text, (int)len) == 1 && (size_t)n == len &&
        EVP_DecryptFinal_ex(ctx, out + n, &last) == 1 && last == 0;
    EVP_CIPHER_CTX_free(ctx);
    if (!ok)
        sbx_wipe(out, len); /* never hand out what was not authenticated */
    return ok;
}

int sbx_crypt_unseal(const sbx_crypt *c, const char *context, const void *data, size_t len,
                     sbx_buf *out, sbx_err *err)
{
    const size_t overhead = NONCE_BYTES + TAG_BYTES;
    unsigned char *to;

    if (len < overhead || len >= INT32_MAX)
        return sbx_fail(err, SBX_E_INTERNAL, "encrypted data is damaged");
    to = (unsigned char *)sbx_buf_reserve(out, len - overhead);
    if (!to)
        return sbx_fail(err, SBX_E_QUOTA, "encrypted data is too large");
    if (!unseal_into(c, &c->now, context, data, len - overhead, to) &&
        !(c->has_before && unseal_into(c, &c->before, context, data, len - overhead, to)))
        return sbx_fail(err, SBX_E_INTERNAL,
                        "encrypted data cannot be read: it is damaged or the secret file is not "
                        "the one it was written with");
    sbx_buf_commit(out, len - overhead);
    return 0;
}

bool sbx_crypt_is_present(const sbx_crypt *c, const char *context, const void *data, size_t len)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf text = SBX_BUF_INIT(len + 1);
    const size_t overhead = NONCE_BYTES + TAG_BYTES;
    unsigned char *to;

    if (len < overhead || len >= INT32_MAX)
        return false;
    to = (unsigned char *)sbx_buf_reserve(&text, len - overhead);
    bool is = to && unseal_into(c, &c->now, context, data, len - overhead, to);
    if (to)
        sbx_wipe(to, len - overhead);
    return is;
}

void sbx_random(void *out, size_t len)
{
    unsigned char *p = out;

    while (len > 0) {
        ssize_t n = getrandom(p, len, 0);
        if (n < 0 && errno == EINTR)
            continue;
        must(n > 0);
        p += n;
        len -= (size_t)n;
    }
}

void sbx_sha256(const void *data, size_t len, unsigned char out[SBX_HASH_BYTES])
{
    must(EVP_Digest(data, len, out, NULL, EVP_sha256(), NULL) == 1);
}

void sbx_hex(const void *data, size_t len, char *out)
{
    static const char digits[] = "0123456789abcdef";
    const unsigned char *p = data;

    for (size_t i = 0; i < len; i++) {
        out[2 * i] = digits[p[i] >> 4];
        out[2 * i + 1] = digits[p[i] & 15];
    }
    out[2 * len] = '\0';
}

int sbx_unhex(const char *hex, void *out, size_t len)
{
    unsigned char *p = out;

    for (size_t i = 0; i < len; i++) {
        int high = sbx_hex_digit(hex[2 * i]);
        int low = high < 0 ? -1 : sbx_hex_digit(hex[2 * i + 1]); /* never past the end */

        if (low < 0)
            return -1;
        p[i] = (unsigned char)(high << 4 | low);
    }
    return hex[2 * len] == '\0' ? 0 : -1;
}

bool sbx_equal_ct(const void *a, const void *b, size_t len)
{
    return CRYPTO_memcmp(a, b, len) == 0;
}
