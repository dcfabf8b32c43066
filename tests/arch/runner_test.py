"""The runner of the tests counts right, above all when something goes wrong."""

import argparse
import contextlib
import io
import json
import os
import pathlib
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import runner  # noqa: E402

TAP = """\
TAP version 13
1..4
# Criterion v2.4.1
ok - a::good  (0.00s)
not ok - a::crash unexpected signal after t.c:6
ok - a::explained  # SKIP cgroup v1 here
ok - a::off  # SKIP test was skipped
"""
GOOD_PYTHON = """\
import unittest
class T(unittest.TestCase):
    def test_good(self): pass
"""
BAD_PYTHON = """\
import unittest
class T(unittest.TestCase):
    def test_good(self): pass
    def test_bad(self): self.assertEqual(1, 2)
    def test_error(self): raise OSError("no")
    def test_skip(self): self.skipTest("no kernel for it")
    def test_silent_skip(self): self.skipTest("")
    def test_parts(self):
        for n in range(3):
            with self.subTest(n): self.assertNotEqual(n, 1)
class Broken(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise OSError("no class")
    def test_never(self): pass
"""


class RunnerTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.top = pathlib.Path(folder.name)
        (self.top / "logs").mkdir()
        for name in ("tests/system", "build/asan", "build/tsan"):
            (self.top / name).mkdir(parents=True)

    def run_tier(self, tier, scope="normal", pattern=""):
        options = argparse.Namespace(scope=scope, logs=self.top / "logs", filter=pattern)
        one = runner.Runner(options, self.top)
        self.output = io.StringIO()
        with contextlib.redirect_stdout(self.output):
            one.run(tier)
            self.status = one.report.summary()
        counts = one.report.counts
        return counts["passed"], counts["failed"], counts["skipped"]

    def python_file(self, name, text):
        (self.top / "tests/system" / name).write_text(text, encoding="utf-8")

    def programs(self, label, scripts, limit=20):
        """A ctest in PATH that knows the given shell scripts as test programs."""
        tests = []
        for name, text in scripts.items():
            path = self.top / name
            path.write_text("#!/bin/bash\n" + text, encoding="utf-8")
            path.chmod(0o755)
            tests.append({"name": name, "command": [str(path)], "properties": [
                {"name": "LABELS", "value": [label]}, {"name": "TIMEOUT", "value": limit}]})
        fake = self.top / "ctest"
        fake.write_text(f"#!/bin/sh\ncat <<'EOF'\n{json.dumps({'tests': tests})}\nEOF\n")
        fake.chmod(0o755)
        before = os.environ["PATH"]
        os.environ["PATH"] = f"{self.top}:{before}"
        self.addCleanup(os.environ.__setitem__, "PATH", before)

    def test_system_files_run_side_by_side_but_for_those_that_must_be_alone(self):
        meet = """\
import pathlib, time, unittest
class T(unittest.TestCase):
    def test_meet(self):
        here = pathlib.Path(__file__)
        here.with_suffix(".came").touch()
        until = time.monotonic() + %s
        while time.monotonic() < until and len(list(here.parent.glob("*.came"))) < 2:
            time.sleep(0.01)
        self.assertEqual(len(list(here.parent.glob("*.came"))), %s)
        time.sleep(0.1)
        for one in here.parent.glob("*.came"): one.unlink()
"""
        self.python_file("a_test.py", "ALONE = True\n" + meet % (0.1, 1))
        self.python_file("b_test.py", "ALONE = True\n" + meet % (0.1, 1))
        self.assertEqual(self.run_tier("system"), (2, 0, 0), self.output.getvalue())
        self.python_file("a_test.py", meet.replace("one.unlink()", "one.unlink(True)") % (10, 2))
        self.python_file("b_test.py", meet.replace("one.unlink()", "one.unlink(True)") % (10, 2))
        self.assertEqual(self.run_tier("system"), (2, 0, 0), self.output.getvalue())

    def test_python_results_are_counted(self):
        self.python_file("a_test.py", BAD_PYTHON)
        self.assertEqual(self.run_tier("system"), (1, 5, 1))
        self.assertEqual(self.status, 1)
        self.assertIn("skip system     a_test::T.test_skip", self.output.getvalue())
        self.assertTrue(self.output.getvalue().endswith("\n1 passed, 5 failed, 1 skipped\n"))

    def test_a_python_file_that_cannot_be_loaded_fails(self):
        self.python_file("a_test.py", "import no_such_module\n")
        self.assertEqual(self.run_tier("system"), (0, 1, 0))

    def test_a_python_file_that_dies_in_the_middle_fails(self):
        self.python_file("a_test.py", GOOD_PYTHON + "    def test_z(self):\n"
                         "        import os; os._exit(0)\n")
        self.assertEqual(self.run_tier("system"), (1, 1, 0))

    def test_a_file_that_takes_too_long_is_ended_with_its_children(self):
        self.python_file("a_test.py", "TIMEOUT_S = 1\n" + GOOD_PYTHON +
                         "    def test_z(self):\n        import subprocess\n"
                         "        subprocess.run(['sleep', '1000.125'])\n")
        self.assertEqual(self.run_tier("system"), (1, 1, 0))
        self.assertIn("no end within 1 s", self.output.getvalue())
        # killed, but the kernel may need a moment to take them away
        end = time.monotonic() + 10
        while self.sleepers() and time.monotonic() < end:
            time.sleep(0.01)
        self.assertEqual(self.sleepers(), [])

    @staticmethod
    def sleepers():
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if path.read_bytes().startswith(b"sleep\x001000.125"):
                    found.append(path)
        return found

    def test_the_quick_scope_takes_only_files_that_say_so(self):
        self.python_file("a_test.py", GOOD_PYTHON)
        self.python_file("b_test.py", "QUICK = True\n" + GOOD_PYTHON)
        self.assertEqual(self.run_tier("system", scope="quick"), (1, 0, 0))

    def test_the_filter_selects_single_tests(self):
        self.python_file("a_test.py", BAD_PYTHON)
        self.assertEqual(self.run_tier("system", pattern=r"a_test::T\.test_good"), (1, 0, 0))

    def test_nothing_run_is_a_failure(self):
        self.assertEqual(self.run_tier("system"), (0, 0, 0))
        self.assertEqual(self.status, 1)

    def test_criterion_results_are_counted(self):
        self.programs("unit", {"test_a": f"cat > ${{1#--tap=}} <<'EOF'\n{TAP}EOF\nexit 1\n"})
        self.assertEqual(self.run_tier("unit"), (1, 2, 1))

    def test_a_criterion_program_without_a_whole_report_fails(self):
        self.programs("unit", {"test_a": "kill -SEGV $$\n",
                               "test_b": "printf '1..2\\nok - a::b (0s)\\n' > ${1#--tap=}\n"})
        self.assertEqual(self.run_tier("unit"), (1, 2, 0))
        self.assertIn("killed by SIGSEGV", self.output.getvalue())

    def test_a_sanitizer_report_fails_a_program_that_ends_well(self):
        self.programs("unit", {"test_a":
                               "printf '1..1\\nok - a::b (0s)\\n' > ${1#--tap=}\n"
                               'log=${ASAN_OPTIONS#log_path=}; echo leak > "${log%%:*}.123"\n'})
        self.assertEqual(self.run_tier("unit"), (1, 1, 0))

    def test_plain_programs_are_one_test_each(self):
        self.programs("race", {"race_a": "exit 0\n", "race_b": "exit 66\n"})
        self.assertEqual(self.run_tier("race"), (1, 1, 0))

    def test_a_program_that_hangs_is_ended(self):
        self.programs("race", {"race_a": "sleep 1000.25\n"}, limit=0.5)
        self.assertEqual(self.run_tier("race"), (0, 1, 0))


if __name__ == "__main__":
    unittest.main()
