/* What may be named as a package, what of an index's address is whose, what an installer's output
 * says, and what of it may be shown. */
#include "packages/packages_priv.h"

#include <criterion/criterion.h>
#include <stdio.h>

static bool valid(sbx_package_kind kind, const char *spec, bool *pinned)
{
    const char *why = NULL;
    bool ok = sbx_package_spec_valid(kind, spec, pinned, &why);

    cr_expect(ok || (why && *why), "%s has no reason", spec);
    return ok;
}

/* What is taken, and whether it names one exact version. */
static const struct name_case {
    sbx_package_kind kind;
    const char *spec;
    bool ok, pinned;
} names[] = {
    {SBX_PACKAGES_PIP, "requests", true, false},
    {SBX_PACKAGES_PIP, "requests==2.31.0", true, true},
    {SBX_PACKAGES_PIP, "Flask-SQLAlchemy", true, false},
    {SBX_PACKAGES_PIP, "zope.interface", true, false},
    {SBX_PACKAGES_PIP, "pkg>=1,<2", true, false},
    {SBX_PACKAGES_PIP, "pkg==1.*", true, false},
    {SBX_PACKAGES_PIP, "pkg==1.0,!=1.1", true, false},
    {SBX_PACKAGES_PIP, "pkg~=1.4.2", true, false},
    {SBX_PACKAGES_PIP, "uvicorn[standard]", true, false},
    {SBX_PACKAGES_PIP, "uvicorn[standard,x]==0.20", true, true},
    {SBX_PACKAGES_PIP, "pkg==1!2.0+local.1", true, true},
    {SBX_PACKAGES_PIP, "", false, false},
    {SBX_PACKAGES_PIP, "-r", false, false},
    {SBX_PACKAGES_PIP, "--index-url=http", false, false},
    {SBX_PACKAGES_PIP, "a;b", false, false},
    {SBX_PACKAGES_PIP, "a b", false, false},
    {SBX_PACKAGES_PIP, "a\n", false, false},
    {SBX_PACKAGES_PIP, "a==", false, false},
    {SBX_PACKAGES_PIP, "a=1", false, false},
    {SBX_PACKAGES_PIP, "a===1", false, false},
    {SBX_PACKAGES_PIP, "a==1,", false, false},
    {SBX_PACKAGES_PIP, "a[]", false, false},
    {SBX_PACKAGES_PIP, "a[b", false, false},
    {SBX_PACKAGES_PIP, "a[b]x", false, false},
    {SBX_PACKAGES_PIP, "a-", false, false},
    {SBX_PACKAGES_PIP, "./a", false, false},
    {SBX_PACKAGES_PIP, "/a", false, false},
    {SBX_PACKAGES_PIP, "a/b", false, false},
    {SBX_PACKAGES_PIP, "a.whl", false, false},
    {SBX_PACKAGES_PIP, "a.TAR.GZ", false, false},
    {SBX_PACKAGES_PIP, "a==1.zip", false, false},
    {SBX_PACKAGES_PIP, "a@https://x.example/a", false, false},
    {SBX_PACKAGES_PIP, "git+https://x.example/a", false, false},
    {SBX_PACKAGES_PIP, "$(id)", false, false},
    {SBX_PACKAGES_PIP, "caf\xc3\xa9", false, false},
    {SBX_PACKAGES_NPM, "lodash", true, false},
    {SBX_PACKAGES_NPM, "lodash@4.17.21", true, true},
    {SBX_PACKAGES_NPM, "lodash@4.17.21-beta.1", true, true},
    {SBX_PACKAGES_NPM, "lodash@4.17", true, false},
    {SBX_PACKAGES_NPM, "lodash@4.17.21-x || 5", true, false},
    {SBX_PACKAGES_NPM, "lodash@latest", true, false},
    {SBX_PACKAGES_NPM, "lodash@^4 || >=5 <6", true, false},
    {SBX_PACKAGES_NPM, "@types/node@^20", true, false},
    {SBX_PACKAGES_NPM, "@types/node", true, false},
    {SBX_PACKAGES_NPM, "", false, false},
    {SBX_PACKAGES_NPM, "lodash@", false, false},
    {SBX_PACKAGES_NPM, "@types", false, false},
    {SBX_PACKAGES_NPM, "@types/", false, false},
    {SBX_PACKAGES_NPM, "@/node", false, false},
    {SBX_PACKAGES_NPM, "owner/name", false, false},
    {SBX_PACKAGES_NPM, "x@npm:y@1", false, false},
    {SBX_PACKAGES_NPM, "x@file:../y", false, false},
    {SBX_PACKAGES_NPM, "x@../y", false, false},
    {SBX_PACKAGES_NPM, "x@y.tgz", false, false},
    {SBX_PACKAGES_NPM, "x.tgz", false, false},
    {SBX_PACKAGES_NPM, "--global", false, false},
    {SBX_PACKAGES_NPM, ".bin", false, false},
    {SBX_PACKAGES_NPM, "_x", false, false},
    {SBX_PACKAGES_NPM, "x@1;id", false, false},
    {SBX_PACKAGES_NPM, "x@`id`", false, false},
    {SBX_PACKAGES_NONE, "x", false, false},
};

Test(packages, names_with_versions_are_taken_and_nothing_else)
{
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        bool pinned = false;

        cr_expect_eq(valid(names[i].kind, names[i].spec, &pinned), names[i].ok, "%s",
                     names[i].spec);
        cr_expect_eq(pinned, names[i].pinned, "%s", names[i].spec);
    }
}

static int check_list(const char *runtime, char **items, size_t count, sbx_err *err)
{
    sbx_strs specs = {.items = items, .count = count};

    *err = (sbx_err){0};
    return sbx_package_specs_check(runtime, &specs, err);
}

Test(packages, a_list_is_bounded_and_its_faults_are_named_by_their_place)
{
    char *twice[] = {(char *)"A_b.c", (char *)"x", (char *)"a-B-C==1"};
    char *node[] = {(char *)"a-b", (char *)"A-b"};
    char *many[SBX_MAX_PACKAGES + 1], texts[SBX_MAX_PACKAGES + 1][8];
    char longest[SBX_MAX_PACKAGE_BYTES + 2];
    char *too_long[] = {longest};
    sbx_err err;

    cr_expect_eq(check_list("python", NULL, 0, &err), 0);
    cr_expect_eq(check_list("none", NULL, 0, &err), 0);
    cr_expect_eq(check_list("ruby", twice, 1, &err), -1);
    cr_expect_str_eq(err.field, "packages");
    cr_expect_eq(check_list("python", twice, 3, &err), -1);
    cr_expect_str_eq(err.field, "packages[2]");
    cr_expect_eq(check_list("node", node, 2, &err), 0);
    for (size_t i = 0; i <= SBX_MAX_PACKAGES; i++) {
        snprintf(texts[i], sizeof(texts[i]), "p%zu", i);
        many[i] = texts[i];
    }
    cr_expect_eq(check_list("python", many, SBX_MAX_PACKAGES, &err), 0, "%s", err.msg);
    cr_expect_eq(check_list("python", many, SBX_MAX_PACKAGES + 1, &err), -1);
    memset(longest, 'a', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    cr_expect_eq(check_list("python", too_long, 1, &err), -1);
    longest[SBX_MAX_PACKAGE_BYTES] = '\0';
    cr_expect_eq(check_list("python", too_long, 1, &err), 0, "%s", err.msg);
}

Test(packages, an_index_keeps_its_password_apart)
{
    package_index i;
    sbx_err err;

    cr_assert_eq(package_index_parse("x", "https://me:p%40ss@host.example:8443/simple", &i, &err),
                 0);
    cr_expect_str_eq(i.bare, "https://host.example:8443/simple");
    cr_expect_str_eq(i.host, "host.example:8443");
    cr_expect_str_eq(i.user, "me:p%40ss");
    cr_expect_str_eq(i.password, "p%40ss");
    cr_expect_str_eq(i.beneath, "//host.example:8443/simple/");
    cr_expect_not(i.plain);
    package_index_done(&i);
    cr_assert_eq(package_index_parse("x", "http://host/", &i, &err), 0);
    cr_expect(i.plain && !i.user);
    package_index_done(&i);
    cr_assert_eq(package_index_parse("x", "", &i, &err), 0);
    package_index_done(&i);
}

Test(packages, an_index_that_is_none_is_refused)
{
    static const char *const wrong[] = {"host",         "ftp://host/",   "https://",
                                        "https:///x",   "https://user@", "https://a b",
                                        "https://a/\n", "https://a/?q",  "file:///x"};
    package_index i;
    sbx_err err;

    for (size_t n = 0; n < ARRAY_LEN(wrong); n++) {
        cr_expect_eq(package_index_parse("npm-registry", wrong[n], &i, &err), -1, "%s", wrong[n]);
        cr_expect(strstr(err.msg, "npm-registry"));
        package_index_done(&i);
    }
}

Test(packages, passwords_and_control_characters_do_not_pass_through_output)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(4 * KIB);
    sbx_packages p = {0};
    sbx_err err;

    cr_assert_eq(package_index_parse("x", "https://me:secret@host/", &p.pip, &err), 0);
    cr_assert_eq(package_index_parse("x", "https://token@host/", &p.npm, &err), 0);
    static const char line[] = "get https://me:secret@host/ secret token \xff\x1b[1m \xc3\xa9\tx";

    installer_clean(&p, line, sizeof(line) - 1, &b);
    cr_expect_str_eq(b.data, "get https://***@host/ *** *** ??[1m \xc3\xa9\tx");
    package_index_done(&p.pip);
    package_index_done(&p.npm);
}

Test(packages, what_an_installer_complains_of_becomes_words_that_name_the_package)
{
    static const struct {
        const char *runtime, *output, *wanted;
        bool timed_out, oom;
    } cases[] = {
        {"python",
         "ERROR: Could not find a version that satisfies the requirement nope (from versions: "
         "none)\nERROR: No matching distribution found for nope==1\n",
         "nope==1: the package index has no such package", false, false},
        {"python", "  ERROR: Failed building wheel for broken\n", "broken: it could not be built",
         false, false},
        {"python", "WARNING: Retrying (Retry(total=1\nERROR: No matching distribution found for a",
         "one, two: the package index could not be reached", false, false},
        {"python", "whatever", "one, two: the installer failed", false, false},
        {"python", "ERROR: No matching distribution found for x", "one, two: not installed in time",
         true, false},
        {"python", "", "one, two: installing it takes more memory", false, true},
        {"node", "npm error 404  'nope@*' is not in this registry.\n",
         "nope@*: the package index has no such package", false, false},
        {"node", "npm error notarget No matching version found for lodash@99.\n",
         "lodash@99: the package index has no such version", false, false},
        {"node", "npm error path /opt/packages/node_modules/addon\nnpm error command failed\n",
         "addon: it could not be built", false, false},
        {"node", "npm error code ENOTFOUND\n", "one, two: the package index could not be reached",
         false, false},
    };
    char *items[] = {(char *)"one", (char *)"two"};
    sbx_strs specs = {.items = items, .count = 2};
    sbx_err err;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_command_exit e = {
            .exit_code = 1, .timed_out = cases[i].timed_out, .oom_killed = cases[i].oom};

        sbx_packages_explain(cases[i].runtime, &specs, &e, cases[i].output, &err);
        cr_expect_eq(err.code, SBX_E_PACKAGE);
        cr_expect(strncmp(err.msg, cases[i].wanted, strlen(cases[i].wanted)) == 0, "%s", err.msg);
    }
}

static int read_told(const char *told, int64_t max_mb, char **installed, int64_t *bytes,
                     sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf lock = SBX_BUF_INIT(MIB);
    sbx_packages p = {.c = {.max_set_mb = max_mb}};
    install i = {.p = &p};

    sbx_buf_init(&i.told, MIB);
    sbx_buf_adds(&i.told, told);
    int rc = installer_read(&i, installed, bytes, &lock, err);

    sbx_buf_done(&i.told);
    return rc;
}

Test(packages, what_was_found_in_a_set_is_read_strictly)
{
    static const char *const wrong[] = {
        "",
        "{",
        "{}",
        "{\"packages\":[],\"lock\":\"ab\",\"bytes\":1}",
        "{\"packages\":[\"a\\u0007\"],\"lock\":\"ab\",\"bytes\":1}",
        "{\"packages\":[1],\"lock\":\"ab\",\"bytes\":1}",
        "{\"packages\":[\"a==1\"],\"bytes\":1}",
        "{\"packages\":[\"a==1\"],\"lock\":\"ab\"}",
        "{\"packages\":[\"a==1\"],\"lock\":\"ab\",\"bytes\":9000000}",
    };
    char *installed = NULL;
    int64_t bytes = 0;
    sbx_err err;

    cr_assert_eq(read_told("{\"packages\":[\"a==1\",\"b==2\"],\"lock\":\"ab\",\"bytes\":4096}", 5,
                           &installed, &bytes, &err),
                 0);
    cr_expect_str_eq(installed, "[\"a==1\",\"b==2\"]");
    cr_expect_eq(bytes, 4096);
    free(installed);
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        cr_expect_eq(read_told(wrong[i], 5, &installed, &bytes, &err), -1, "%s", wrong[i]);
        cr_expect_eq(err.code, SBX_E_PACKAGE);
    }
}
