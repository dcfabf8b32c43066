/* What a context reads: lines of its interpreter, packets of whoever connects, its arguments. */
#include "context.h"

#include <criterion/criterion.h>
#include <stddef.h>
#include <string.h>

Test(agent_context, only_whole_lines_of_the_driver_are_taken)
{
    static const struct {
        const char *line;
        bool ok, ready;
        uint32_t number;
        int status;
    } cases[] = {
        {"ready", true, true, 0, 0},
        {"done 1 0", true, false, 1, 0},
        {"done 4294967295 255", true, false, 4294967295u, 255},
        {"done 0007 003", true, false, 7, 3},
        {"", false, false, 0, 0},
        {"ready ", false, false, 0, 0},
        {"Ready", false, false, 0, 0},
        {"done", false, false, 0, 0},
        {"done ", false, false, 0, 0},
        {"done 1", false, false, 0, 0},
        {"done 1 ", false, false, 0, 0},
        {"done 1 0 ", false, false, 0, 0},
        {"done 1 256", false, false, 0, 0},
        {"done 4294967296 0", false, false, 0, 0},
        {"done 99999999999999999999999 0", false, false, 0, 0},
        {"done 1 99999999999999999999999", false, false, 0, 0},
        {"done -1 0", false, false, 0, 0},
        {"done +1 0", false, false, 0, 0},
        {"done  1 0", false, false, 0, 0},
        {"done 1 -1", false, false, 0, 0},
        {"done 1  1", false, false, 0, 0},
        {"done 0x1 0", false, false, 0, 0},
        {" done 1 0", false, false, 0, 0},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t number = 0;
        int status = 0;
        bool ready = false;

        cr_expect_eq(agent_context_line(cases[i].line, &ready, &number, &status), cases[i].ok, "%s",
                     cases[i].line);
        cr_expect_eq(ready, cases[i].ready, "%s", cases[i].line);
        cr_expect_eq(number, cases[i].number, "%s", cases[i].line);
        cr_expect_eq(status, cases[i].status, "%s", cases[i].line);
    }
}

Test(agent_context, a_packet_is_a_whole_question_or_nothing)
{
    static const struct {
        const char *name;
        uint32_t kind;
        int64_t ms;
        size_t fds;
        bool ok;
    } cases[] = {
        {"a run", AGENT_ASK_RUN, 1, AGENT_CELL_FDS, true},
        {"the longest", AGENT_ASK_RUN, AGENT_CELL_MAX_MS, AGENT_CELL_FDS, true},
        {"longer", AGENT_ASK_RUN, AGENT_CELL_MAX_MS + 1ll, AGENT_CELL_FDS, false},
        {"no end of time", AGENT_ASK_RUN, INT64_MAX, AGENT_CELL_FDS, false},
        {"no time", AGENT_ASK_RUN, 0, AGENT_CELL_FDS, false},
        {"less", AGENT_ASK_RUN, INT64_MIN, AGENT_CELL_FDS, false},
        {"too few descriptors", AGENT_ASK_RUN, 1, AGENT_CELL_FDS - 1, false},
        {"none", AGENT_ASK_RUN, 1, 0, false},
        {"a wait", AGENT_ASK_WAIT, 0, 0, true},
        {"a restart", AGENT_ASK_RESTART, -1, 0, true},
        {"no kind", 0, 1, AGENT_CELL_FDS, false},
        {"an unknown one", 4, 1, AGENT_CELL_FDS, false},
        {"another one", UINT32_MAX, 1, AGENT_CELL_FDS, false},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        agent_ask sent = {.kind = cases[i].kind, .timeout_ms = cases[i].ms}, got = {0};
        agent_heard want = cases[i].ok ? AGENT_HEARD_ASK : AGENT_HEARD_NONSENSE;

        cr_expect_eq(agent_context_packet(&sent, sizeof sent, cases[i].fds, &got), want, "%s",
                     cases[i].name);
        cr_expect_eq(got.kind, cases[i].ok ? cases[i].kind : 0, "%s", cases[i].name);
        cr_expect_eq(agent_context_packet(&sent, sizeof sent - 1, cases[i].fds, &got),
                     AGENT_HEARD_NONSENSE, "%s, cut", cases[i].name);
        cr_expect_eq(agent_context_packet(&sent, sizeof sent + 1, cases[i].fds, &got),
                     AGENT_HEARD_NONSENSE, "%s, and more", cases[i].name);
    }
}

Test(agent_context, one_byte_interrupts)
{
    agent_ask got;

    cr_expect_eq(agent_context_packet("I", 1, 0, &got), AGENT_HEARD_INTERRUPT);
    cr_expect_eq(agent_context_packet("J", 1, 0, &got), AGENT_HEARD_NONSENSE);
    cr_expect_eq(agent_context_packet("II", 2, 0, &got), AGENT_HEARD_NONSENSE);
    cr_expect_eq(agent_context_packet("", 0, 0, &got), AGENT_HEARD_NONSENSE);
}

Test(agent_context, arguments_are_read_strictly)
{
    static char id[] = "abcdefghij0123456789";
    static const struct {
        const char *args[5]; /* behind the id */
        uint32_t kind;       /* 0: refused */
        int64_t ms;
    } cases[] = {
        {{"run", "f.py", "1"}, AGENT_ASK_RUN, 1},
        {{"run", "f.py", "86400000"}, AGENT_ASK_RUN, 86400000},
        {{"wait"}, AGENT_ASK_WAIT, 0},
        {{"restart"}, AGENT_ASK_RESTART, 0},
        {{"run", "f.py", "86400001"}, 0, 0},
        {{"run", "f.py", "99999999999999999999999"}, 0, 0},
        {{"run", "f.py", "0"}, 0, 0},
        {{"run", "f.py", "-1"}, 0, 0},
        {{"run", "f.py", "+1"}, 0, 0},
        {{"run", "f.py", " 1"}, 0, 0},
        {{"run", "f.py", "1 "}, 0, 0},
        {{"run", "f.py", ""}, 0, 0},
        {{"run", "f.py"}, 0, 0},
        {{"run", "f.py", "1", "2"}, 0, 0},
        {{"wait", "1"}, 0, 0},
        {{"stop"}, 0, 0},
        {{NULL}, 0, 0},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *args[6] = {id};
        agent_cell_args got = {0};
        int count = 1;

        for (const char *const *a = cases[i].args; *a; a++)
            args[count++] = (char *)*a;
        cr_expect_eq(agent_cell_read(count, args, &got), cases[i].kind != 0, "case %zu", i);
        cr_expect_eq(got.ask.kind, cases[i].kind, "case %zu", i);
        cr_expect_eq(got.ask.timeout_ms, cases[i].ms, "case %zu", i);
        cr_expect_eq(got.id == id, cases[i].kind != 0, "case %zu", i);
    }
    cr_expect_not(agent_cell_read(0, NULL, &(agent_cell_args){0}));
}

Test(agent_context, an_address_is_made_of_ids_alone)
{
    struct sockaddr_un at;

    cr_expect_eq(agent_context_address("abcdefghij0123456789", &at),
                 offsetof(struct sockaddr_un, sun_path) + 1 + strlen("sbx-context-") + 20);
    cr_expect_eq(at.sun_path[0], 0);
    cr_expect_eq(agent_context_address("", &at), 0);
    cr_expect_eq(agent_context_address("abcdefghij012345678", &at), 0);
    cr_expect_eq(agent_context_address("abcdefghij01234567890", &at), 0);
    cr_expect_eq(agent_context_address("Abcdefghij0123456789", &at), 0);
    cr_expect_eq(agent_context_address("abcdefghij012345678/", &at), 0);
}
