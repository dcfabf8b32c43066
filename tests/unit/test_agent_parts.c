/* Small parsers of the agent: users, process states, the kernel's counters, EXEC requests. */
#include "cgroup.h"
#include "launch.h"
#include "oom.h"
#include "stats.h"
#include "tree.h"
#include "users.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[] = "/tmp/sbx-users-XXXXXX";

static void put(const char *path, const char *text)
{
    char full[256];
    FILE *f;

    (void)snprintf(full, sizeof full, "%s%s", root, path);
    f = fopen(full, "w");
    cr_assert_not_null(f);
    (void)fputs(text, f);
    fclose(f);
}

static void setup(void)
{
    char etc[256];

    cr_assert_not_null(mkdtemp(root));
    (void)snprintf(etc, sizeof etc, "%s/etc", root);
    cr_assert_eq(mkdir(etc, 0755), 0);
    put("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"
                       "# comment:x:5:5::/:\n\n"
                       "web:x:33:34::/var/www:/bin/sh\n"
                       "relative:x:40:40::home:/bin/sh\n"
                       "huge:x:99999999999:1::/:\n"
                       "negative:x:-1:1::/:\n"
                       "noid:x::1::/:\n"
                       "last:x:50:51::/last");
    put("/etc/group", "root:x:0:\nstaff:x:60:web,root\nother:x:61:webmaster\nmore:x:62:,web\n");
}

static void teardown(void)
{
    char path[300];

    (void)snprintf(path, sizeof path, "%s/etc/passwd", root);
    (void)unlink(path);
    (void)snprintf(path, sizeof path, "%s/etc/group", root);
    (void)unlink(path);
    (void)snprintf(path, sizeof path, "%s/etc", root);
    (void)rmdir(path);
    (void)rmdir(root);
}

TestSuite(agent_users, .init = setup, .fini = teardown);

Test(agent_users, specs_are_resolved)
{
    static const struct {
        const char *spec;
        int ok;
        uint32_t uid, gid;
        size_t ngroups;
        const char *home;
    } cases[] = {
        {"root", 0, 0, 0, 2, "/root"},      {"web", 0, 33, 34, 3, "/var/www"},
        {"33", 0, 33, 34, 3, "/var/www"},   {"web:staff", 0, 33, 60, 1, "/var/www"},
        {"web:7", 0, 33, 7, 1, "/var/www"}, {"relative", 0, 40, 40, 1, "/"},
        {"last", 0, 50, 51, 1, "/last"},    {"777", 0, 777, 0, 1, "/"},
        {"777:778", 0, 777, 778, 1, "/"},   {"", -1, 0, 0, 0, ""},
        {"nobody", -1, 0, 0, 0, ""},        {"web:none", -1, 0, 0, 0, ""},
        {"web:", -1, 0, 0, 0, ""},          {":60", -1, 0, 0, 0, ""},
        {"huge", -1, 0, 0, 0, ""},          {"negative", -1, 0, 0, 0, ""},
        {"noid", -1, 0, 0, 0, ""},          {"4294967295", -1, 0, 0, 0, ""},
        {"# comment", -1, 0, 0, 0, ""},     {"+0", -1, 0, 0, 0, ""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        agent_user u = {0};
        int rc = agent_user_resolve(root, cases[i].spec, &u);

        cr_expect_eq(rc, cases[i].ok, "%s", cases[i].spec);
        if (rc < 0)
            continue;
        cr_expect(u.uid == cases[i].uid && u.gid == cases[i].gid, "%s", cases[i].spec);
        cr_expect_eq(u.ngroups, cases[i].ngroups, "%s", cases[i].spec);
        cr_expect_str_eq(u.home, cases[i].home, "%s", cases[i].spec);
    }
}

Test(agent_users, files_of_any_content_are_read_within_bounds)
{
    static char text[AGENT_USERS_MAX_BYTES + 5000];
    agent_user u;

    memset(text, ':', sizeof text - 1);
    put("/etc/passwd", text);
    cr_expect_eq(agent_user_resolve(root, "web", &u), -1);
    memset(text, 'a', sizeof text - 1);
    put("/etc/passwd", text);
    cr_expect_eq(agent_user_resolve(root, "web", &u), -1);
    put("/etc/passwd", "");
    cr_expect_eq(agent_user_resolve(root, "web", &u), -1);
}

/* As if it had been changed long ago; what a memo compares is beyond utimensat(). */
static void remember_as_settled(agent_user_memo *m, const char *spec)
{
    char path[256];
    agent_user u;

    cr_assert_eq(agent_user_recall(m, root, "", spec, &u), 0);
    cr_expect_not(m->known, "what was written just now may change unseen");
    m->known = true;
    m->user = u;
    (void)snprintf(m->spec, sizeof m->spec, "%s", spec);
    (void)snprintf(path, sizeof path, "%s/etc/passwd", root);
    cr_assert_eq(stat(path, &m->files[0]), 0);
    (void)snprintf(path, sizeof path, "%s/etc/group", root);
    cr_assert_eq(stat(path, &m->files[1]), 0);
}

Test(agent_users, who_was_found_is_found_again_until_a_file_changes)
{
    static agent_user_memo m;
    agent_user u;

    put("/etc/passwd", "web:x:5:5::/w:/bin/sh\ndb:x:6:6::/d:/bin/sh\n");
    put("/etc/group", "");
    remember_as_settled(&m, "web");
    m.user.uid = 77; /* the mark of what was not read again */
    cr_expect_eq(agent_user_recall(&m, root, "", "web", &u), 0);
    cr_expect_eq(u.uid, 77);
    cr_expect_eq(agent_user_recall(&m, root, "", "db", &u), 0);
    cr_expect_eq(u.uid, 6, "another user");
    remember_as_settled(&m, "web");
    put("/etc/group", "staff:x:9:web\n");
    cr_expect_eq(agent_user_recall(&m, root, "", "web", &u), 0);
    cr_expect_eq(u.ngroups, 2, "a group that was added");
    remember_as_settled(&m, "web");
    put("/etc/passwd", "web:x:8:8::/w:/bin/sh\n");
    cr_expect_eq(agent_user_recall(&m, root, "", "web", &u), 0);
    cr_expect_eq(u.uid, 8);
    put("/etc/passwd", "");
    cr_expect_eq(agent_user_recall(&m, root, "", "web", &u), -1, "who is gone is not remembered");
}

Test(agent_tree, the_state_line_is_parsed_whatever_the_name)
{
    static const struct {
        const char *text;
        bool ok;
        pid_t ppid;
        char state;
    } cases[] = {
        {"12 (sh) S 1 12 12 0", true, 1, 'S'},
        {"12 (a) Z 99) T 4194303 1 1", true, 4194303, 'T'},
        {"1 (init) R 0 1 1", true, 0, 'R'},
        {"12 (sh) S", false, 0, 0},
        {"12 (sh)", false, 0, 0},
        {"", false, 0, 0},
        {"12 (sh) S x 1", false, 0, 0},
        {"12 (sh) S -1 1", false, 0, 0},
        {"12 (sh) S 99999999999999999999 1", false, 0, 0},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pid_t ppid = -7;
        char state = 0;
        bool ok = agent_tree_parse_stat(cases[i].text, &ppid, &state);

        cr_expect_eq(ok, cases[i].ok, "%s", cases[i].text);
        if (ok)
            cr_expect(ppid == cases[i].ppid && state == cases[i].state, "%s", cases[i].text);
    }
}

Test(agent_tree, use_is_parsed_whatever_the_name)
{
    static const struct {
        const char *text;
        uint64_t ticks, pages, threads;
    } cases[] = {
        {"12 (a b) c) S 1 12 12 0 -1 4194560 5 6 7 8 100 20 3 4 20 0 9 0 77 1000 42 184 1", 127, 42,
         9},
        {"12 (sh) S 1 12 12 0 -1 4194560 5 6 7 8 1 2 3 4 20 0 1 0 77 1000 0", 10, 0, 1},
        {"12 (sh) S 1 12 12 0 -1 4194560 5 6 7 8 1", 1, 0, 0},
        {"12 (sh) S 1 12", 0, 0, 0},
        {"12 (sh", 0, 0, 0},
        {"", 0, 0, 0},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t ticks, pages, threads;

        agent_tree_parse_use(cases[i].text, &ticks, &pages, &threads);
        cr_expect(ticks == cases[i].ticks && pages == cases[i].pages && threads == cases[i].threads,
                  "case %zu: %lu %lu %lu", i, ticks, pages, threads);
    }
}

Test(agent_cgroup, numbers_are_found_in_both_formats)
{
    static const struct {
        const char *text, *key;
        bool ok;
        uint64_t value;
    } cases[] = {
        {"low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n", "oom_kill", true, 2},
        {"oom_kill_disable 1\nunder_oom 1\noom_kill 15\n", "oom_kill", true, 15},
        {"oom_kill_disable 1\nunder_oom 0\n", "oom_kill", false, 0},
        {"total_inactive_file 5\ninactive_file 77\n", "inactive_file", true, 77},
        {"inactive_file\n", "inactive_file", false, 0},
        {"inactive_file x\n", "inactive_file", false, 0},
        {"12345\n", NULL, true, 12345},
        {"9223372036854771712\n", NULL, true, 9223372036854771712u},
        {"max\n", NULL, false, 0},
        {"", NULL, false, 0},
        {"", "oom_kill", false, 0},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t value = 0;
        bool ok = agent_cgroup_parse(cases[i].text, cases[i].key, &value);

        cr_expect(ok == cases[i].ok && (!ok || value == cases[i].value), "case %zu", i);
    }
}

Test(agent_stats, traffic_is_summed_up_but_for_the_loopback)
{
    static const struct {
        const char *text;
        uint64_t received, sent;
    } cases[] = {
        {"Inter-|   Receive  |  Transmit\n face |bytes    packets|bytes\n"
         "    lo: 999 9 0 0 0 0 0 0 999 9 0 0 0 0 0 0\n"
         "  eth0: 100 2 0 0 0 0 0 0 30 4 0 0 0 0 0 0\n"
         " eth1:5 2 0 0 0 0 0 0 7 4 0 0 0 0 0 0\n",
         105, 37},
        {"eth0: 100 2 0", 100, 0},
        {"eth0:", 0, 0},
        {"eth0: x y", 0, 0},
        {"no colon\n\n\n", 0, 0},
        {"", 0, 0},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t received, sent;

        agent_stats_parse_net(cases[i].text, &received, &sent);
        cr_expect(received == cases[i].received && sent == cases[i].sent, "case %zu: %lu %lu", i,
                  received, sent);
    }
}

/* A counter in a file in the place of the kernel's. */
static void count_kills(agent_oom *o, const char *text)
{
    char name[] = "/tmp/sbx-oom-XXXXXX";

    if (o->fd < 0)
        o->fd = mkstemp(name);
    cr_assert(o->fd >= 0);
    (void)unlink(name);
    cr_assert_eq(pwrite(o->fd, text, strlen(text), 0), (ssize_t)strlen(text));
}

Test(agent_oom, a_kill_is_told_once_and_named_if_it_is_known)
{
    agent_oom o = {.fd = -1};
    char line[AGENT_OOM_LINE];

    count_kills(&o, "oom_kill 0\n");
    cr_expect_eq(agent_oom_look(&o), AGENT_OOM_LOOK_MS);
    count_kills(&o, "oom_kill 1\n");
    cr_expect_eq(agent_oom_look(&o), AGENT_OOM_AGAIN_MS, "it may still be explained");
    cr_expect(agent_oom_judge(&o, 0, true, "abcxyz", 3));
    cr_expect_eq(agent_oom_look(&o), 0);
    (void)agent_oom_tell(&o, "other", line);
    cr_expect_not_null(strstr(line, "a process of exec abc was killed; give"), "%s", line);
    cr_expect_eq(agent_oom_look(&o), AGENT_OOM_LOOK_MS);
    cr_expect_not(agent_oom_judge(&o, 1, true, "abc", 3));
    cr_expect_not(agent_oom_judge(&o, 0, false, "abc", 3), "it was explained");
    count_kills(&o, "oom_kill 4\n");
    cr_expect_eq(agent_oom_look(&o), AGENT_OOM_AGAIN_MS);
    cr_expect_eq(agent_oom_look(&o), 0);
    (void)agent_oom_tell(&o, "only", line);
    cr_expect_not_null(strstr(line, "of exec only was killed (3 in all)"), "%s", line);
    count_kills(&o, "oom_kill 5\n");
    (void)agent_oom_tell(&o, "", line);
    cr_expect_not_null(strstr(line, "; a process was killed;"), "%s", line);
    cr_expect(agent_oom_judge(&o, 4, false, "abc", 3), "nobody explained it: all are candidates");
    close(o.fd);
}

Test(agent_launch, malformed_records_end_the_channel_and_odd_ones_are_refused)
{
    unsigned char buf[256];
    size_t len = sbx_field_put(buf, sizeof buf, SBX_T_ARG, "ls", 2);
    sbx_frame f = {.payload = buf, .len = (uint32_t)len, .type = SBX_F_EXEC};
    agent_request r;
    const char *why = NULL;

    cr_expect_eq(agent_request_parse(&f, &r, &why), 1);
    f.len--;
    cr_expect_eq(agent_request_parse(&f, &r, &why), -1);
    f.len = (uint32_t)(len + sbx_field_put(buf + len, sizeof buf - len, SBX_T_FLAGS, "1234", 4));
    cr_expect_eq(agent_request_parse(&f, &r, &why), -1);
    f.len = (uint32_t)(len + sbx_field_put(buf + len, sizeof buf - len, SBX_T_ENV, "A", 1));
    cr_expect_eq(agent_request_parse(&f, &r, &why), 0);
    cr_expect_not_null(why);
    f.len = (uint32_t)(len + sbx_field_put_num(buf + len, sizeof buf - len, SBX_T_COLS, 1001));
    cr_expect_eq(agent_request_parse(&f, &r, &why), 0);
    f.len = (uint32_t)(len + sbx_field_put_num(buf + len, sizeof buf - len, SBX_T_COLS, 1000));
    cr_expect_eq(agent_request_parse(&f, &r, &why), 1);
    cr_expect(r.cols == 1000 && r.rows == 24);
    f.len = (uint32_t)(len + sbx_field_put(buf + len, sizeof buf - len, SBX_T_CPU_MS, "1", 1));
    cr_expect_eq(agent_request_parse(&f, &r, &why), -1);
    f.len = (uint32_t)(len + sbx_field_put(buf + len, sizeof buf - len, 999, "?", 1));
    cr_expect_eq(agent_request_parse(&f, &r, &why), 1);
}
