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
void sbx_crypt_free(sbx_crypt *c);
SBX_DEFINE_CLEANUP(sbx_crypt, sbx_crypt_free)

/** HMAC-SHA-256 of an API key under the derived key "api-key". */
void sbx_crypt_key_hash(const sbx_crypt *c, const char *key, size_t len,
                        unsigned char out[SBX_HASH_BYTES]);

/** The same of a ticket, under the derived key "ticket". */
void sbx_crypt_ticket_hash(const sbx_crypt *c, const char *ticket, size_t len,
                           unsigned char out[SBX_HASH_BYTES]);

/** Encrypt (AES-256-GCM, random nonce, `context` authenticated): nonce | tag | ciphertext. */
int sbx_crypt_seal(const sbx_crypt *c, const char *context, const void *data, size_t len,
                   sbx_buf *out, sbx_err *err) SBX_MUST_CHECK;
int sbx_crypt_unseal(const sbx_crypt *c, const char *context, const void *data, size_t len,
                     sbx_buf *out, sbx_err *err) SBX_MUST_CHECK;

void sbx_random(void *out, size_t len); /* getrandom(2); aborts if the kernel has none */
void sbx_sha256(const void *data, size_t len, unsigned char out[SBX_HASH_BYTES]);
void sbx_hex(const void *data, size_t len, char *out);       /* 2*len+1 bytes */
int sbx_unhex(const char *hex, void *out, size_t len);       /* 0 if exactly 2*len hex digits */
bool sbx_equal_ct(const void *a, const void *b, size_t len); /* constant time */

#endif
