"""Runs each rule of rules.py over the repository, and over a bad sample that it must refuse."""

import json
import pathlib
import re
import subprocess
import unittest

import rules
from rules import Tree

TOP = pathlib.Path(__file__).resolve().parents[2]
LONG_TABLE = "    1,\n" * 70
LONG_BODY = "    work();\n" * 61

METRIC = 'X("sandboxd_kept_seconds")\n'


def dashboard(expression):
    panel = {"title": "a panel", "targets": [{"expr": expression}]}
    return json.dumps({"panels": [panel]})


# For each rule: files that it must refuse, each with exactly one finding (or one together, for
# the rules that look at files side by side), and files that it must let pass.
SAMPLES = {
    rules.layers_include_downwards: (
        {"src/core/a.c": '#include "sbx/api/routes.h"\n',
         "src/bus/b.c": '#include "sbx/store/store.h"\n',
         "include/sbx/http/c.h": '#include "sbx/exec/exec.h"\n',
         "src/agentd/d.c": '#include "sbx/core/buf.h"\n',
         "src/http/e.c": '#include "../core/json.c"\n',
         "src/other/f.c": "int x;\n"},
        {"src/api/a.c": '#include "sbx/exec/exec.h"\n#include "routes.h"\n',
         "src/main.c": '#include "sbx/api/api.h"\n',
         "src/agentd/b.c": '#include "sbx/core/agent_proto.h"\n#include "spawn.h"\n'}),
    rules.libraries_stay_in_their_folder: (
        {"src/api/a.c": "#include <cjson/cJSON.h>\n",
         "src/logs/b.c": "#include <libwebsockets.h>\n",
         "src/http/c.c": "#include <curl/curl.h>\n",
         "include/sbx/store/d.h": "#include <libpq-fe.h>\n",
         "src/store/e.c": "#include <hiredis/hiredis.h>\n"},
        {"src/core/json_write.c": "#include <cjson/cJSON.h>\n",
         "src/engine/a.c": "#include <curl/curl.h>\n", "src/run/b.c": "#include <curl/curl.h>\n"}),
    rules.sql_only_in_the_store: (
        {"src/api/a.c": 'q("SELECT id, name"\n  " FROM sandboxes WHERE id = $1");\n',
         "src/reaper/b.c": 'q("DELETE FROM users");\n'},
        {"src/store/queries.c": 'q("SELECT id FROM users");\n',
         "src/api/c.c": '/* "SELECT id FROM users" */ log("select one from these");\n'}),
    rules.migrations_are_numbered: (
        {"migrations/0001_first.sql": "", "migrations/0003_third.sql": ""},
        {"migrations/0001_first.sql": "", "migrations/0002_second.sql": ""}),
    rules.dashboards_use_known_metrics: (
        {"grafana/a.json": dashboard("sandboxd_lost_total{a=\"b\"}"), "src/metrics/m.c": METRIC},
        {"grafana/b.json": dashboard("sum(rate(sandboxd_kept_seconds_bucket{a=\"b\"}[1m]))"),
         "src/metrics/m.c": METRIC}),
    rules.no_banned_functions: (
        {"src/core/a.c": "x = atoi(s);\n", "tests/unit/b.c": "sleep (1);\n",
         "src/core/c.c": 'strcpy(a, "b");\n'},
        {"src/core/d.c": 'y = sbx_atoi(s); /* atoi(s) */ log("system(x)"); o->sleep(1);\n'}),
    rules.no_line_comments: (
        {"src/core/a.c": "int x; // no\n", "tests/fuzz/b.c": 'char *u = "a"; // "b"\n'},
        {"src/core/c.c": 'char *u = "http://x"; /* see // there */\n'}),
    rules.no_promises: (
        {"src/core/a.c": "/* TO" "DO: later */\n"}, {"src/core/b.c": 'mkstemp("/tmp/aXXXXXX");\n'}),
    rules.files_are_short: (
        {"src/core/a.c": "\n" * 801}, {"src/core/b.c": "\n" * 800}),
    rules.functions_are_short: (
        {"src/core/a.c": f"int f(int a)\n{{\n{LONG_BODY}}}\n",
         "tests/unit/b.c": f"Test(x, y)\n{{\n#define A }}\n    g('{{');\n{LONG_BODY}}}\n"},
        {"src/core/c.c": f"struct s {{\n{LONG_BODY}}};\nint f(void)\n{{\n    return 1;\n}}\n",
         "src/core/d.c": f'int g(void)\n{{\n    h("}}{{");\n}}\nint t[] = {{\n{LONG_TABLE}}};\n'}),
    rules.python_functions_are_short: (
        {"tests/a.py": "def f():\n" + "    g()\n" * 61, "deploy/b": "#!/usr/bin/python3\nif\n"},
        {"tests/c.py": "def f():\n" + "    g()\n" * 60}),
    rules.files_open_with_a_purpose: (
        {"src/core/a.c": "#include <stdio.h>\n"}, {"src/core/b.c": "/* Buffers. */\n"}),
    rules.no_machine_paths: (
        {"deploy/a": "cd /wo" "rk/main\n"}, {"deploy/b": "cd build/work\n", "c.md": "/home/user/x"}),
    rules.no_registry_hosts: (
        {"k8s/a.yaml": "http://deb.debi" "an.org/debian\n"}, {"README.md": "www.example.org\n"}),
    rules.shell_scripts_parse: (
        {"deploy/a": "#!/bin/bash\nif true; then\n"}, {"deploy/b.sh": "if true; then :; fi\n"}),
    rules.shell_scripts_are_clean: (
        {"deploy/a": "#!/bin/bash\nrm -rf $1/*\n"}, {"deploy/b.sh": 'rm -rf "${1:?}"\n'}),
    rules.c_is_formatted: (
        {"src/core/a.c": "int   x ;\n"}, {"src/core/b.c": "int x;\n"}),
}


def clang_format_version():
    told = subprocess.run(["clang-format", "--version"], capture_output=True, text=True,
                          check=True).stdout
    return int(re.search(r"version (\d+)", told).group(1))


def skip_unless_it_can_run(test, rule):
    if rule is rules.c_is_formatted and clang_format_version() != 14:
        test.skipTest("the project is formatted by clang-format 14, other versions differ")


class Repository(unittest.TestCase):
    """One test per rule, over every file that is or would be committed."""


class BadSamples(unittest.TestCase):
    """One test per rule: it refuses what it must and lets the rest pass."""

    def test_every_rule_has_samples(self):
        helpers = {"folder_of", "code_only", "literals", "line_of", "includes", "functions",
                   "python_files", "shell_files"}
        found = {name for name, thing in vars(rules).items()
                 if callable(thing) and getattr(thing, "__module__", "") == "rules"
                 and not name.startswith("_") and not isinstance(thing, type)}
        self.assertEqual(found - helpers, {rule.__name__ for rule in SAMPLES})


def add_tests(rule, bad, good):
    def on_repository(self):
        skip_unless_it_can_run(self, rule)
        findings = rule(Tree.of_repository(TOP))
        if findings:
            self.fail("\n".join(findings))

    def on_samples(self):
        skip_unless_it_can_run(self, rule)
        if rule in (rules.migrations_are_numbered, rules.dashboards_use_known_metrics):
            self.assertEqual(len(rule(Tree(bad))), 1)
        else:
            for path, text in bad.items():
                with self.subTest(path):
                    self.assertEqual(len(rule(Tree({path: text}))), 1, rule(Tree({path: text})))
        self.assertEqual(rule(Tree(good)), [])

    setattr(Repository, f"test_{rule.__name__}", on_repository)
    setattr(BadSamples, f"test_{rule.__name__}_can_fail", on_samples)


for _rule, (_bad, _good) in SAMPLES.items():
    add_tests(_rule, _bad, _good)


if __name__ == "__main__":
    unittest.main()
