/* Cryptography, all by OpenSSL: keyed hashes of API keys, sealing of env values.
 *
 * One master key (SBX_SECRET_FILE) from which a key per purpose is derived with HMAC-SHA-256. */
#ifndef SBX_CORE_CRYPT_H
#define SBX_CORE_CRYPT_H

#include "sbx/core/buf.h"
#include "sbx/core/error.h"

#define SBX_HASH_BYTES 32

typedef struct sbx_crypt sbx_crypt; /* immutable after new; any thread */

/** Read a master key: 64 hex digits, in a file that others cannot read.
 * @return 0, or -1 with INVALID that says what is wrong with the file. */
int sbx_crypt_open(const char *path, sbx_crypt **ret, sbx_err *err) SBX_MUST_CHECK;
/** Read another master key, that before the present one or that after it: what was sealed under it
 * can be read, and API keys hashed under it be found. Before `c` is used by others.
 * @return as sbx_crypt_open(). */
int sbx_crypt_accept(sbx_crypt *c, const char *path, sbx_err *err) SBX_MUST_CHECK;
void sbx_crypt_free(sbx_crypt *c);
SBX_DEFINE_CLEANUP(sbx_crypt, sbx_crypt_free)

/** HMAC-SHA-256 of an API key under the derived key "api-key". */
void sbx_crypt_key_hash(const sbx_crypt *c, const char *key, size_t len,
                        unsigned char out[SBX_HASH_BYTES]);

/** The same under the accepted key. @return false: there is none. */
bool sbx_crypt_key_hash_before(const sbx_crypt *c, const char *key, size_t len,
                               unsigned char out[SBX_HASH_BYTES]);

/** By what one master key is told from another, as hexadecimal digits; it says nothing about it.
 * @param before  of the accepted key. @return false: there is none. */
bool sbx_crypt_mark(const sbx_crypt *c, bool before, char out[2 * SBX_HASH_BYTES + 1]);

/** The same of a ticket, under the derived key "ticket". */
void sbx_crypt_ticket_hash(const sbx_crypt *c, const char *ticket, size_t len,
                           unsigned char out[SBX_HASH_BYTES]);

/** The same under the accepted key. @return false: there is none. */
bool sbx_crypt_ticket_hash_before(const sbx_crypt *c, const char *ticket, size_t len,
                                  unsigned char out[SBX_HASH_BYTES]);

/** The same of data that is only to be known again. Without the master key nobody can try what it
 * may have been. */
void sbx_crypt_fingerprint(const sbx_crypt *c, const void *data, size_t len,
                           unsigned char out[SBX_HASH_BYTES]);

/** Encrypt (AES-256-GCM, random nonce, `context` authenticated): nonce | tag | ciphertext. */
int sbx_crypt_seal(const sbx_crypt *c, const char *context, const void *data, size_t len,
                   sbx_buf *out, sbx_err *err) SBX_MUST_CHECK;
int sbx_crypt_unseal(const sbx_crypt *c, const char *context, const void *data, size_t len,
                     sbx_buf *out, sbx_err *err) SBX_MUST_CHECK;

/** Does the present key open it, without the accepted one? */
bool sbx_crypt_is_present(const sbx_crypt *c, const char *context, const void *data, size_t len);

void sbx_random(void *out, size_t len); /* getrandom(2); aborts if the kernel has none */
void sbx_sha256(const void *data, size_t len, unsigned char out[SBX_HASH_BYTES]);
void sbx_hex(const void *data, size_t len, char *out);       /* 2*len+1 bytes */
int sbx_unhex(const char *hex, void *out, size_t len);       /* 0 if exactly 2*len hex digits */
bool sbx_equal_ct(const void *a, const void *b, size_t len); /* constant time */

#endif
