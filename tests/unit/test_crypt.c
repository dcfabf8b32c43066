/* Keyed hashes, sealing, and the file of the master key. */
#include "sbx/core/crypt.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define MASTER "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

static char dir[40], path[64];
static sbx_crypt *secrets;
static sbx_err err;

static void write_secret(const char *text, size_t len, mode_t mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, len), (ssize_t)len);
    cr_assert_eq(fchmod(fd, mode), 0);
    close(fd);
}

static void setup(void)
{
    sbx_copy(dir, sizeof dir, "/tmp/sbx-test-crypt-XXXXXX");
    cr_assert(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/secret", dir);
    write_secret(MASTER "\n", 65, 0600);
    cr_assert_eq(sbx_crypt_open(path, &secrets, &err), 0, "%s", err.msg);
}

static void teardown(void)
{
    sbx_crypt_free(secrets);
    unlink(path);
    rmdir(dir);
}

TestSuite(secrets, .init = setup, .fini = teardown);

Test(secrets, a_secret_file_must_be_exactly_a_key_that_others_cannot_read)
{
    static const struct {
        const char *name, *text;
        size_t len;
        mode_t mode;
        bool ok;
    } cases[] = {
        {"plain", MASTER, 64, 0600, true},
        {"read-only with newline", MASTER "\r\n", 66, 0400, true},
        {"readable by its group", MASTER, 64, 0640, true},
        {"readable by others", MASTER, 64, 0644, false},
        {"writable by its group", MASTER, 64, 0620, false},
        {"empty", "", 0, 0600, false},
        {"a digit short", MASTER, 63, 0600, false},
        {"a digit long", MASTER "0", 65, 0600, false},
        {"not hexadecimal", "g" MASTER, 64, 0600, false},
        {"two keys", MASTER "\n" MASTER, 129, 0600, false},
        {"NUL inside", MASTER "\0\n", 66, 0600, false},
        {"space before", " " MASTER, 65, 0600, false},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_crypt *c = NULL;
        int rc = (write_secret(cases[i].text, cases[i].len, cases[i].mode),
                  sbx_crypt_open(path, &c, &err));

        cr_expect_eq(rc == 0, cases[i].ok, "%s: %s", cases[i].name, err.msg);
        cr_expect_eq(c != NULL, cases[i].ok, "%s", cases[i].name);
        if (rc != 0)
            cr_expect(!strstr(err.msg, "0102030405"), "the key is in the message");
        sbx_crypt_free(c);
    }
}

Test(secrets, what_is_no_regular_file_is_refused)
{
    sbx_crypt *c = NULL;

    cr_expect_eq(sbx_crypt_open(dir, &c, &err), -1);
    cr_expect_eq(err.code, SBX_E_INVALID);
    unlink(path);
    cr_expect_eq(sbx_crypt_open(path, &c, &err), -1);
    cr_assert_eq(mkfifo(path, 0600), 0);
    cr_expect_eq(sbx_crypt_open(path, &c, &err), -1);
    cr_expect_null(c);
}

/* Known answer, by: printf api-key | openssl dgst -sha256 -mac HMAC -macopt hexkey:MASTER, then
 * the key "sbx_test" under the result. A change here would lock every user out. */
Test(secrets, the_hash_of_a_key_never_changes)
{
    unsigned char hash[SBX_HASH_BYTES];
    char hex[2 * SBX_HASH_BYTES + 1];

    sbx_crypt_key_hash(secrets, "sbx_test", 8, hash);
    sbx_hex(hash, sizeof hash, hex);
    cr_expect_str_eq(hex, "3e2d69a432a2544dbf627730b4e302340f0aa1499f62df6727774126232f3d82");
    sbx_sha256("abc", 3, hash);
    sbx_hex(hash, sizeof hash, hex);
    cr_expect_str_eq(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

Test(secrets, a_seal_opens_to_the_same_bytes_of_any_length)
{
    static unsigned char data[70000];
    static const size_t lengths[] = {0, 1, 15, 16, 17, 4096, sizeof data};

    sbx_random(data, sizeof data);
    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        sbx_buf sealed = SBX_BUF_INIT(80000), open = SBX_BUF_INIT(80000),
                again = SBX_BUF_INIT(80000);

        cr_assert_eq(sbx_crypt_seal(secrets, "ctx", data, lengths[i], &sealed, &err), 0);
        cr_assert_eq(sbx_crypt_seal(secrets, "ctx", data, lengths[i], &again, &err), 0);
        cr_expect_eq(sealed.len, lengths[i] + 28);
        cr_expect(memcmp(sealed.data, again.data, sealed.len) != 0, "the nonce repeats");
        cr_assert_eq(sbx_crypt_unseal(secrets, "ctx", sealed.data, sealed.len, &open, &err), 0,
                     "%s", err.msg);
        cr_expect_eq(open.len, lengths[i]);
        cr_expect_eq(memcmp(open.data, data, lengths[i]), 0);
        sbx_buf_done(&sealed);
        sbx_buf_done(&again);
        sbx_buf_done(&open);
    }
}

Test(secrets, a_seal_that_was_touched_does_not_open)
{
    sbx_buf sealed = SBX_BUF_INIT(KIB), open = SBX_BUF_INIT(KIB);

    cr_assert_eq(sbx_crypt_seal(secrets, "id1", "secret", 6, &sealed, &err), 0);
    for (size_t i = 0; i < sealed.len; i++) {
        sealed.data[i] ^= 0x40;
        cr_expect_eq(sbx_crypt_unseal(secrets, "id1", sealed.data, sealed.len, &open, &err), -1,
                     "byte %zu", i);
        sealed.data[i] ^= 0x40;
    }
    for (size_t len = 0; len < sealed.len; len++)
        cr_expect_eq(sbx_crypt_unseal(secrets, "id1", sealed.data, len, &open, &err), -1);
    cr_expect_eq(sbx_crypt_unseal(secrets, "id2", sealed.data, sealed.len, &open, &err), -1,
                 "another context");
    cr_expect_eq(open.len, 0u);
    cr_expect_eq(sbx_crypt_unseal(secrets, "id1", sealed.data, sealed.len, &open, &err), 0);
    sbx_buf_done(&sealed);
    sbx_buf_done(&open);
}

Test(secrets, another_master_key_opens_nothing_and_hashes_otherwise)
{
    sbx_buf sealed = SBX_BUF_INIT(KIB), open = SBX_BUF_INIT(KIB), small = SBX_BUF_INIT(8);
    unsigned char a[SBX_HASH_BYTES], b[SBX_HASH_BYTES];
    sbx_crypt *other = NULL;

    write_secret("ff" MASTER, 64, 0600);
    cr_assert_eq(sbx_crypt_open(path, &other, &err), 0);
    cr_assert_eq(sbx_crypt_seal(secrets, "c", "secret", 6, &sealed, &err), 0);
    cr_expect_eq(sbx_crypt_unseal(other, "c", sealed.data, sealed.len, &open, &err), -1);
    cr_expect_eq(err.code, SBX_E_INTERNAL);
    cr_expect_eq(sbx_crypt_seal(secrets, "c", "secret", 6, &small, &err), -1);
    cr_expect_eq(err.code, SBX_E_QUOTA);
    sbx_crypt_key_hash(secrets, "k", 1, a);
    sbx_crypt_key_hash(other, "k", 1, b);
    cr_expect(!sbx_equal_ct(a, b, sizeof a));
    sbx_crypt_free(other);
    sbx_buf_done(&sealed);
    sbx_buf_done(&open);
    sbx_buf_done(&small);
}

Test(secrets, hexadecimal_is_strict)
{
    unsigned char out[2];
    char text[5];

    cr_expect_eq(sbx_unhex("00fF", out, 2), 0);
    cr_expect(out[0] == 0 && out[1] == 255);
    cr_expect_eq(sbx_unhex("00f", out, 2), -1);
    cr_expect_eq(sbx_unhex("", out, 2), -1);
    cr_expect_eq(sbx_unhex("00fff", out, 2), -1);
    cr_expect_eq(sbx_unhex("0x11", out, 2), -1);
    sbx_hex("\x01\xab", 2, text);
    cr_expect_str_eq(text, "01ab");
}

Test(secrets, a_former_key_is_read_with_and_never_written_with)
{
    sbx_buf sealed = SBX_BUF_INIT(KIB), anew = SBX_BUF_INIT(KIB), open = SBX_BUF_INIT(KIB);
    unsigned char mine[SBX_HASH_BYTES], before[SBX_HASH_BYTES];
    char mark[65], mark_before[65], mark_old[65];
    sbx_crypt *changed;

    cr_expect(!sbx_crypt_mark(secrets, true, mark));
    cr_expect(!sbx_crypt_key_hash_before(secrets, "k", 1, before));
    cr_assert_eq(sbx_crypt_seal(secrets, "c", "secret", 6, &sealed, &err), 0);
    write_secret("ff" MASTER, 64, 0600);
    cr_assert_eq(sbx_crypt_open(path, &changed, &err), 0);
    cr_expect_eq(sbx_crypt_unseal(changed, "c", sealed.data, sealed.len, &open, &err), -1);
    cr_expect_eq(open.len, 0);
    write_secret(MASTER, 64, 0644);
    cr_expect_eq(sbx_crypt_accept(changed, path, &err), -1);
    write_secret(MASTER, 64, 0600);
    cr_assert_eq(sbx_crypt_accept(changed, path, &err), 0);

    cr_assert_eq(sbx_crypt_unseal(changed, "c", sealed.data, sealed.len, &open, &err), 0);
    cr_expect(open.len == 6 && memcmp(open.data, "secret", 6) == 0);
    cr_expect(!sbx_crypt_is_present(changed, "c", sealed.data, sealed.len));
    cr_expect_eq(sbx_crypt_unseal(changed, "d", sealed.data, sealed.len, &open, &err), -1);
    cr_assert_eq(sbx_crypt_seal(changed, "c", "secret", 6, &anew, &err), 0);
    cr_expect(sbx_crypt_is_present(changed, "c", anew.data, anew.len));
    cr_expect(!sbx_crypt_is_present(changed, "c", anew.data, 3));
    cr_expect_eq(sbx_crypt_unseal(secrets, "c", anew.data, anew.len, &open, &err), -1);

    sbx_crypt_key_hash(secrets, "k", 1, mine);
    cr_expect(sbx_crypt_key_hash_before(changed, "k", 1, before));
    cr_expect(sbx_equal_ct(mine, before, sizeof mine));
    sbx_crypt_ticket_hash(secrets, "k", 1, mine);
    cr_expect(!sbx_crypt_ticket_hash_before(secrets, "k", 1, before));
    cr_expect(sbx_crypt_ticket_hash_before(changed, "k", 1, before));
    cr_expect(sbx_equal_ct(mine, before, sizeof mine));
    sbx_crypt_fingerprint(secrets, "k", 1, before);
    cr_expect(!sbx_equal_ct(mine, before, sizeof mine), "one purpose is not another");
    cr_expect(sbx_crypt_mark(changed, false, mark));
    cr_expect(sbx_crypt_mark(changed, true, mark_before));
    cr_expect(sbx_crypt_mark(secrets, false, mark_old));
    cr_expect_str_eq(mark_before, mark_old);
    cr_expect_str_neq(mark, mark_old);
    sbx_crypt_free(changed);
    sbx_buf_done(&sealed);
    sbx_buf_done(&anew);
    sbx_buf_done(&open);
}
