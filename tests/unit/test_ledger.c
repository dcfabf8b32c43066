/* The ledger, with the test in the place of the store. */
#include "sbx/sandbox/ledger.h"
#include "sbx/store/sandboxes.h"

#include <criterion/criterion.h>

static sbx_code answer;
static size_t written, running, touched;
static void (*while_writing)(const char *id);
static sbx_sandbox_refs frozen;

void sbx_exec_record_done(sbx_exec_record *r)
{
    free(r->command);
    *r = (sbx_exec_record){0};
}

int sbx_store_exec_insert(sbx_store *s, const sbx_exec_record *r, size_t count, sbx_err *err)
{
    (void)s;
    if (answer)
        return sbx_fail(err, answer, "no");
    written += count;
    for (size_t i = 0; i < count; i++)
        running += r[i].running;
    return 0;
}

int sbx_store_sandbox_touch(sbx_store *s, const char *const *ids, size_t count,
                            sbx_sandbox_refs *ret_frozen, sbx_err *err)
{
    (void)s, (void)ret_frozen;
    if (while_writing)
        while_writing(ids[0]);
    if (answer)
        return sbx_fail(err, answer, "no");
    touched += count;
    return 0;
}

static void add(sbx_ledger *l, size_t count)
{
    while (count--) {
        sbx_exec_record r = {.command = sbx_strdup("[]")};

        sbx_ledger_record(l, &r);
        cr_assert_null(r.command);
    }
}

Test(ledger, what_the_store_cannot_take_now_is_kept)
{
    sbx_ledger *l = sbx_ledger_new(NULL);
    sbx_err err;

    add(l, 1200);
    answer = SBX_E_STORE_UNAVAILABLE;
    cr_expect_eq(sbx_ledger_flush(l, &frozen, &err), -1);
    answer = SBX_OK;
    cr_expect_eq(sbx_ledger_flush(l, &frozen, &err), 0);
    cr_expect_eq(written, 1200);
    sbx_ledger_free(l);
}

/* It was put back and tried again for ever, and no record of anybody was written any more. */
Test(ledger, what_the_store_refuses_does_not_stop_what_comes_after_it)
{
    sbx_ledger *l = sbx_ledger_new(NULL);
    sbx_err err;

    add(l, 3);
    answer = SBX_E_INTERNAL;
    cr_expect_eq(sbx_ledger_flush(l, &frozen, &err), -1);
    answer = SBX_OK;
    add(l, 2);
    cr_expect_eq(sbx_ledger_flush(l, &frozen, &err), 0);
    cr_expect_eq(written, 2);
    sbx_ledger_free(l);
}

static sbx_exec_record record_of(const char *id, bool runs)
{
    sbx_exec_record r = {.command = sbx_strdup("[]"), .running = runs};

    sbx_copy(r.id, sizeof(r.id), id);
    return r;
}

Test(ledger, a_start_is_written_only_of_what_still_runs)
{
    sbx_ledger *l = sbx_ledger_new(NULL);
    sbx_exec_record start[] = {record_of("a", true), record_of("b", true), record_of("b", true)};
    sbx_exec_record end[] = {record_of("a", false), record_of("b", false)};
    sbx_err err;

    for (size_t i = 0; i < ARRAY_LEN(start); i++)
        sbx_ledger_record_start(l, &start[i]);
    sbx_ledger_record(l, &end[0]);
    cr_expect_eq(sbx_ledger_flush(l, &frozen, &err), 0);
    cr_expect(written == 2 && running == 1, "%zu %zu", written, running);
    cr_expect_eq(sbx_ledger_flush(l, &frozen, &err), 0);
    sbx_ledger_record(l, &end[1]);
    cr_expect_eq(sbx_ledger_flush(l, &frozen, &err), 0);
    cr_expect(written == 3 && running == 1, "%zu %zu", written, running);
    sbx_ledger_free(l);
}

Test(ledger, a_sandbox_is_busy_while_a_command_runs_and_until_that_is_written)
{
    sbx_ledger *l = sbx_ledger_new(NULL);
    char **busy;
    sbx_err err;

    sbx_ledger_begin(l, "a");
    cr_expect_eq(sbx_ledger_flush(l, &frozen, &err), 0);
    cr_expect_eq(touched, 1);
    cr_expect_eq(sbx_ledger_busy(l, &busy), 1);
    cr_expect_str_eq(busy[0], "a");
    free(busy[0]);
    free(busy);
    sbx_ledger_end(l, "a");
    answer = SBX_E_STORE_UNAVAILABLE;
    cr_expect_eq(sbx_ledger_flush(l, &frozen, &err), -1);
    cr_expect_eq(sbx_ledger_busy(l, &busy), 1);
    free(busy[0]);
    free(busy);
    answer = SBX_OK;
    cr_expect_eq(sbx_ledger_flush(l, &frozen, &err), 0);
    cr_expect_eq(sbx_ledger_busy(l, &busy), 0);
    free(busy);
    sbx_ledger_free(l);
}

/* The time of its last use was neither in the table nor in the database for the length of a
 * statement, and the idle tick could pause it just then. */
static sbx_ledger *under_test;
static bool could_freeze;
static size_t busy_while_writing;

static void look_while_writing(const char *id)
{
    char **busy;

    busy_while_writing = sbx_ledger_busy(under_test, &busy);
    for (size_t i = 0; i < busy_while_writing; i++)
        free(busy[i]);
    free(busy);
    could_freeze = sbx_ledger_freeze(under_test, id);
}

Test(ledger, a_sandbox_is_busy_while_its_last_activity_is_written)
{
    sbx_err err;

    under_test = sbx_ledger_new(NULL);
    sbx_ledger_begin(under_test, "a");
    sbx_ledger_end(under_test, "a");
    while_writing = look_while_writing;
    cr_expect_eq(sbx_ledger_flush(under_test, &frozen, &err), 0);
    cr_expect_eq(busy_while_writing, 1);
    cr_expect_not(could_freeze);
    while_writing = NULL;
    cr_expect(sbx_ledger_freeze(under_test, "a"));
    sbx_ledger_free(under_test);
}

Test(ledger, use_and_freezing_exclude_each_other)
{
    sbx_ledger *l = sbx_ledger_new(NULL);
    sbx_err err;

    cr_expect(sbx_ledger_use(l, "a"));
    cr_expect_not(sbx_ledger_freeze(l, "a"), "a command runs");
    sbx_ledger_end(l, "a");
    cr_expect_not(sbx_ledger_freeze(l, "a"), "one ran a moment ago");
    cr_expect_eq(sbx_ledger_flush(l, &frozen, &err), 0);
    cr_expect(sbx_ledger_freeze(l, "a"));
    cr_expect_not(sbx_ledger_freeze(l, "a"), "somebody is at it");
    cr_expect_not(sbx_ledger_use(l, "a"));
    cr_expect_eq(sbx_ledger_flush(l, &frozen, &err), 0);
    cr_expect_not(sbx_ledger_use(l, "a"), "a flush forgets nothing");
    sbx_ledger_thaw(l, "a");
    cr_expect(sbx_ledger_use(l, "a"));
    sbx_ledger_free(l);
}
