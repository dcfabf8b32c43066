"""Runs the tests of one Python file: unittest_main.py FILE REPORT [RE].

Each finished test is a JSON line of REPORT: name, status (passed, failed, skipped), reason,
seconds. A last line with the name null says that the run came to its end. An error outside a test
(import, setUpClass) is a failed test of its own.
"""

import importlib.util
import json
import pathlib
import re
import signal
import sys
import time
import unittest


class Reporter(unittest.TestResult):
    def __init__(self, report):
        super().__init__()
        self.report = report
        self.began = 0.0
        self.problems = []

    def write(self, name, status, reason=""):
        row = {"name": name, "status": status, "reason": reason,
               "seconds": time.monotonic() - self.began}
        self.report.write(json.dumps(row) + "\n")
        self.report.flush()

    @staticmethod
    def name(test):
        """Class.test of a test; an error outside tests is named by what unittest says of it."""
        if isinstance(test, unittest.TestCase):
            return ".".join(test.id().split(".")[-2:])
        return str(test)

    def startTest(self, test):
        super().startTest(test)
        print(f"==== {self.name(test)}", flush=True)
        self.began = time.monotonic()
        self.problems = []
        self.skipped_because = None

    def stopTest(self, test):
        super().stopTest(test)
        if self.problems:
            self.write(self.name(test), "failed", "\n".join(self.problems))
        elif self.skipped_because is not None:
            self.write(self.name(test), "skipped", self.skipped_because)
        else:
            self.write(self.name(test), "passed")

    def problem(self, test, error):
        text = self._exc_info_to_string(error, test)
        print(text, flush=True)
        if self.testsRun and isinstance(test, unittest.TestCase):
            self.problems.append(text)
        else:
            self.began = time.monotonic()
            self.write(self.name(test), "failed", text)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.problem(test, err)

    def addError(self, test, err):
        super().addError(test, err)
        self.problem(test, err)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.problem(test, err)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        if isinstance(test, unittest.TestCase):
            self.skipped_because = reason
        else:
            self.began = time.monotonic()
            self.write(self.name(test), "skipped", reason)

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self.problems.append("succeeded, though it is marked as an expected failure")


def flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


def main():
    # Ignored by whoever started us in the background, it would be in the programs that are tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    path, pattern = pathlib.Path(sys.argv[1]), re.compile("".join(sys.argv[3:4]))
    sys.path[:0] = [str(path.parent), str(path.parents[1] / "lib")]
    with open(sys.argv[2], "w", encoding="utf-8") as report:
        result = Reporter(report)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        found = flatten(unittest.defaultTestLoader.loadTestsFromModule(module))
        suite = unittest.TestSuite(
            test for test in found
            if pattern.search(f"{path.stem}::{Reporter.name(test)}"))
        suite.run(result)
        report.write(json.dumps({"name": None}) + "\n")
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
