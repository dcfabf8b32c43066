/* Requests to the server: libcurl, several at once, with retries.
 *
 * A call is a request and what came back. cli_request() runs one to its end; cli_start(),
 * cli_drive() and cli_wait() are for what has to listen to other things at the same time. */
#ifndef SBX_CLI_CLIENT_H
#define SBX_CLI_CLIENT_H

#include "cli/cli.h"
#include "cli/config.h"
#include <curl/curl.h>

typedef struct cli_call {
    const char *method;
    sbx_buf path; /* with its query */
    sbx_buf body;
    const char *type;   /* of the body; NULL: there is none */
    const char *accept; /* NULL: JSON */
    sbx_buf headers;    /* more of them, a line each */
    bool repeatable;    /* may be sent again when it is not known whether it was done */
    bool impatient;     /* 60 s without a byte are a lost connection */
    bool once;          /* its caller repeats it, or nobody does */

    /* Bytes of a 2xx answer as they come, instead of `answer`.
     * @return false: the transfer is to be cut. */
    bool (*on_data)(void *arg, const char *data, size_t len);
    bool hold; /* no more of them for now; cli_go_on() undoes it */
    /* The body instead of `body`: as fread(); SIZE_MAX: failed. `send_size` -1: not known. */
    size_t (*on_send)(void *arg, char *to, size_t cap);
    bool (*on_rewind)(void *arg); /* before it is sent again; NULL: it cannot be */
    void *arg;
    int64_t send_size;

    /* What came of it, when `done`. */
    bool done;
    CURLcode result;
    long status; /* 0: no answer */
    sbx_buf answer;
    char request_id[72], etag[80];
    int retry_after_s; /* -1: not told */
    int64_t length;    /* of the answer; -1: not told */

    CURL *easy;
    struct curl_slist *sent;
    char why[CURL_ERROR_SIZE];
} cli_call;

/** @param path  printf; what comes from outside goes through cli_path_add() or cli_query(). */
void cli_call_init(cli_call *k, const char *method, const char *path, ...) SBX_PRINTF(3, 4);
void cli_call_done(cli_call *k);
/** Add ?name=value to the path; nothing for a value of NULL. */
void cli_query(cli_call *k, const char *name, const char *value);
void cli_query_int(cli_call *k, const char *name, int64_t value);
/** The writer of a JSON body. */
sbx_jw cli_body(cli_call *k);

/** Make the client that c->client is, unless there is one. @return false: told why not. */
bool cli_connect(cli *c);
void cli_client_free(cli_client *client);
const cli_config *cli_client_config(const cli_client *client);

/** Begin a call, which must stay where it is until it is done. */
void cli_start(cli *c, cli_call *k);
/** Go on with all calls as far as they can. */
void cli_drive(cli *c);
/** Wait until a call can go on, or one of `fds`, or `timeout_ms` have passed. */
void cli_wait(cli *c, struct curl_waitfd *fds, unsigned count, int timeout_ms);
/** Undo `hold`. */
void cli_go_on(cli_call *k);
/** Take a call back before it is done. */
void cli_cancel(cli *c, cli_call *k);

/** Was the call answered with 2xx? */
bool cli_ok(const cli_call *k);
/** Is it to be tried again after what came of it? `after_ms`: when at the earliest.
 * @param tries  how often it was tried. */
bool cli_worth_a_retry(const cli_call *k, int tries, int64_t *after_ms);

/** Run to the end, with retries. @return whether it was answered with 2xx; else it was told. */
bool cli_request(cli *c, cli_call *k);
/** The same without a word: the caller looks at the call. */
bool cli_try(cli *c, cli_call *k);
/** Tell what went wrong with a call. @return CLI_FAILED */
int cli_complain(const cli *c, const cli_call *k);
/** The `code` of the problem that was answered, into `out`; "" if there is none. */
void cli_problem_code(const cli_call *k, char out[64]);

/** An id, or the id of the only sandbox with that name. @return false: told why not. */
bool cli_resolve(cli *c, const char *word, char out[24]);
/** The same of a group. */
bool cli_resolve_group(cli *c, const char *word, char out[24]);
/** "ID:PATH" in two; the path is borrowed. @return false if there is no colon. */
bool cli_place(const char *word, char **ret_id, const char **ret_path);

#endif
