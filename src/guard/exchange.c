/* The lines to the helper and back; what comes back is bounded and strictly parsed. */
#include "exchange.h"

#include "sbx/core/clock.h"
#include "sbx/core/crypt.h"
#include "sbx/core/json.h"
#include "sbx/core/thread.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>

#define ANSWER_MS    4000
#define POLL_MS      100 /* how late a cancellation may be seen */
#define LINE_BYTES   KIB
#define MAX_WORDS    6
#define NONCE_BYTES  16
#define SET_LINE_MAX (64 * KIB)

/* --- the lines --- */

static void encode(const sbx_buf *rules, sbx_buf *base64, char hash[GUARD_HASH_BYTES])
{
    unsigned char sum[SBX_HASH_BYTES];

    sbx_base64_add(base64, rules->data, rules->len);
    sbx_sha256(base64->data, base64->len, sum);
    sbx_hex(sum, sizeof(sum), hash);
}

void guard_rules_hash(const sbx_buf *rules, char out[GUARD_HASH_BYTES])
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf base64 = SBX_BUF_INIT(SET_LINE_MAX);

    encode(rules, &base64, out);
}

/* Words are parted by single spaces. @return how many; the last takes the rest of the line. */
static size_t split(char *line, char *words[MAX_WORDS])
{
    size_t n = 0;

    while (line && n < MAX_WORDS) {
        char *space = n + 1 < MAX_WORDS ? strchr(line, ' ') : NULL;

        words[n++] = line;
        if (space)
            *space++ = '\0';
        line = space;
    }
    return n;
}

static bool is_hash(const char *s)
{
    return strcmp(s, "-") == 0 || (strlen(s) == 64 && strspn(s, "0123456789abcdef") == 64);
}

static int parse_pong(char *words[MAX_WORDS], guard_answer *ret, sbx_err *err)
{
    guard_answer a = {0};
    bool restored = strcmp(words[5], "restored") == 0;

    if (strcmp(words[2], GUARD_VERSION) != 0 || !is_hash(words[3]) ||
        (!restored && strcmp(words[5], "kept") != 0 && strcmp(words[5], "set") != 0))
        return sbx_fail(err, SBX_E_ENGINE, "the guard does not answer as it should");
    if (strcmp(words[4], "-") != 0 &&
        guard_resolvers_parse(words[4], "the engine host's resolv.conf", &a.resolvers, err))
        return -1;
    sbx_copy(a.hash, sizeof(a.hash), words[3]);
    a.restored = restored;
    *ret = a;
    return 1;
}

int guard_answer_parse(const char *line, const char *nonce, guard_answer *ret, sbx_err *err)
{
    char copy[LINE_BYTES + 1], *words[MAX_WORDS];

    sbx_copy(copy, sizeof(copy), line);
    size_t n = split(copy, words);

    if (n < 2 || strcmp(words[1], nonce) != 0)
        return 0;
    if (strcmp(words[0], "fail") == 0) {
        const char *said = line + strlen("fail ") + strlen(nonce);

        return sbx_fail(err, SBX_E_ENGINE, "the guard cannot set the firewall's rules:%.200s",
                        said);
    }
    if (n == MAX_WORDS && strcmp(words[0], "pong") == 0)
        return parse_pong(words, ret, err);
    return sbx_fail(err, SBX_E_ENGINE, "the guard does not answer as it should");
}

/* --- the exchange --- */

static int wait_for(sbx_engine_conn *c, short events, int64_t end_ms, sbx_err *err)
{
    struct pollfd p = {.fd = sbx_engine_conn_fd(c), .events = events};

    for (;;) {
        int64_t left = SBX_MIN(end_ms - sbx_now_ms(), sbx_job_left_ms(INT64_MAX));

        if (sbx_job_cancelled())
            return sbx_fail(err, SBX_E_CANCELLED, "asking the guard: cancelled");
        if (left <= 0)
            return sbx_fail(err, SBX_E_TIMEOUT, "the guard does not answer");
        int n = poll(&p, 1, (int)SBX_MIN(left, POLL_MS));

        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return sbx_fail(err, SBX_E_INTERNAL, "asking the guard: poll failed");
    }
}

static int send_all(sbx_engine_conn *c, const sbx_buf *out, int64_t end_ms, sbx_err *err)
{
    for (size_t at = 0; at < out->len;) {
        ssize_t n = sbx_engine_conn_send(c, out->data + at, out->len - at, err);

        if (n < 0 || (n == 0 && wait_for(c, POLLOUT, end_ms, err)))
            return -1;
        at += (size_t)n;
    }
    return 0;
}

/* Lines that are too long are dropped as a whole: none of ours is. */
typedef struct lines {
    char text[LINE_BYTES + 1];
    size_t len;
    bool skipping;
} lines;

/* Take bytes until one of the lines answers. As guard_answer_parse(). */
static int take(lines *l, const char *data, size_t len, const char *nonce, guard_answer *ret,
                sbx_err *err)
{
    int rc = 0;

    for (size_t i = 0; i < len && rc == 0; i++) {
        if (data[i] == '\n') {
            l->text[l->len] = '\0';
            if (!l->skipping)
                rc = guard_answer_parse(l->text, nonce, ret, err);
            l->len = 0;
            l->skipping = false;
        } else if (l->len < LINE_BYTES) {
            l->text[l->len++] = data[i] ? data[i] : '?';
        } else {
            l->skipping = true;
        }
    }
    return rc;
}

static int receive(sbx_engine_conn *c, const char *nonce, int64_t end_ms, guard_answer *ret,
                   sbx_err *err)
{
    lines l = {.len = 0};
    int rc = 0;

    while (rc == 0) {
        char data[LINE_BYTES];
        int stream = 0;
        ssize_t n = sbx_engine_conn_recv(c, &stream, data, sizeof(data), err);

        if (n < 0 || (n == 0 && wait_for(c, POLLIN, end_ms, err)))
            return -1;
        if (n > 0 && stream == 1)
            rc = take(&l, data, (size_t)n, nonce, ret, err);
    }
    return rc < 0 ? -1 : 0;
}

int guard_exchange(sbx_engine_conn *conn, const sbx_buf *rules, guard_answer *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf out = SBX_BUF_INIT(SET_LINE_MAX);
    int64_t end_ms = sbx_now_ms() + ANSWER_MS;
    char nonce[2 * NONCE_BYTES + 1];
    unsigned char random[NONCE_BYTES];

    sbx_random(random, sizeof(random));
    sbx_hex(random, sizeof(random), nonce);
    /* the line break before it ends what a server that died may have begun */
    if (rules) {
        SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf base64 = SBX_BUF_INIT(SET_LINE_MAX);
        char hash[GUARD_HASH_BYTES];

        encode(rules, &base64, hash);
        sbx_buf_addf(&out, "\nset %s %s %s\n", nonce, hash, base64.data);
        out.failed = out.failed || base64.failed;
    } else {
        sbx_buf_addf(&out, "\nping %s\n", nonce);
    }
    if (sbx_buf_failed(&out))
        return sbx_fail(err, SBX_E_INTERNAL, "the firewall's rules are too long");
    if (send_all(conn, &out, end_ms, err))
        return -1;
    return receive(conn, nonce, end_ms, ret, err);
}
