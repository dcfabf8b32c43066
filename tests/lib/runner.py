"""Runs the tiers of tests that tests/run has prepared, and counts single tests.

Each program of tests is one process with a time limit, in a process group of its own that is
killed when the limit has passed. Three kinds are known:

- Criterion programs (tiers unit and store), whose TAP report is read. A report of a sanitizer is a
  failure of its own: Criterion does not see leaks.
- Plain programs (race, fuzz-smoke): the exit status is one test.
- Python files (arch, system), run by unittest_main.py, which reports each test as a JSON line.

A program that ends badly or reports nothing is a failure, as is a skip without a reason.

Tests wait more than they work: so AT_ONCE programs of a tier run side by side where they share
nothing, and two rows of tiers beside each other, before those that are written in Python. A system
test that cannot bear others (it measures, or changes what all share) says ALONE = True.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

REPO = pathlib.Path(__file__).resolve().parents[2]
PRESETS = {"unit": "asan", "store": "asan", "race": "tsan", "fuzz-smoke": "fuzz"}
PYTHON_FILES = {"arch": "tests/arch/*_test.py", "system": "tests/system/*_test.py"}
DEFAULT_TIMEOUT_S = 300
TAIL_LINES = 25
AT_ONCE = {"store": 2, "system": 2, "race": 2, "fuzz-smoke": 2}
ROWS = (("store",), ("unit", "race", "fuzz-smoke"))


def headline(reason):
    """The line that says most: of a Python traceback that of the exception, else the first."""
    errors = re.findall(r"^\w[\w.]*(?:Error|Exception|Exit|Timeout)\b.*", reason, re.M)
    return (errors or reason.strip().splitlines() or [""])[0]


class Report:
    """What has happened so far; prints a line per test as it comes."""

    def __init__(self, logs):
        self.logs = logs
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}
        self.failures = []
        self.skips = []
        self.lock = threading.Lock()

    def add(self, tier, name, status, reason="", log=None, seconds=None):
        with self.lock:
            self.add_locked(tier, name, status, reason, log, seconds)

    def add_locked(self, tier, name, status, reason, log, seconds):
        if status == "skipped" and not reason.strip():
            status, reason = "failed", "skipped without a reason"
        self.counts[status] += 1
        word = {"passed": "ok  ", "failed": "FAIL", "skipped": "skip"}[status]
        took = f" ({seconds:.2f} s)" if seconds is not None else ""
        why = f": {headline(reason)[:200]}" if reason and status != "passed" else ""
        print(f"{word} {tier:10} {name}{took}{why}", flush=True)
        if status == "failed":
            self.failures.append((tier, name, reason, log))
        elif status == "skipped":
            self.skips.append((tier, name, reason))

    def summary(self):
        for tier, name, reason in self.skips:
            print(f"skipped: {tier} {name}: {reason}")
        shown = set()
        for tier, name, reason, log in self.failures:
            print(f"\n---- failed: {tier} {name}")
            if reason:
                print("\n".join("  " + line for line in reason.splitlines()[-TAIL_LINES:]))
            if log and log not in shown and log.exists():
                shown.add(log)
                print(f"  the end of {log}:")
                for line in log.read_text(errors="replace").splitlines()[-TAIL_LINES:]:
                    print("  | " + line[:300])
        counts = self.counts
        if self.failures:
            print(f"\nlogs: {self.logs}")
        print(f"\n{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped",
              flush=True)
        return 1 if counts["failed"] or not counts["passed"] else 0


def run_process(command, log, timeout_s, env=None, cwd=REPO):
    """Returns (exit status or None when it took too long, seconds)."""
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output,
                                   stderr=subprocess.STDOUT, cwd=cwd, start_new_session=True,
                                   env={**os.environ, **(env or {})})
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
    return status, time.monotonic() - began


def ended(status, timeout_s):
    if status is None:
        return f"no end within {timeout_s} s"
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def side_by_side(function, items, at_once):
    """function(item) for all, at most so many at a time; yields the results as they come."""
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        for done in concurrent.futures.as_completed([pool.submit(function, i) for i in items]):
            yield done.result()


def says(text, name):
    return re.search(rf"^{name} = True$", text, re.M) is not None


class Runner:
    def __init__(self, options, repo=REPO):
        self.repo = repo
        self.scope = options.scope
        self.logs = options.logs
        self.pattern = re.compile(options.filter)
        self.report = Report(options.logs)

    def wanted(self, name):
        return bool(self.pattern.search(name))

    # ---- compiled programs --------------------------------------------------------------------

    def compiled(self, tier):
        """The programs that CTest knows under the tier's label: (name, command, time limit)."""
        folder = self.repo / "build" / PRESETS[tier]
        told = subprocess.run(["ctest", "--test-dir", str(folder), "--show-only=json-v1"],
                              capture_output=True, text=True, check=False)
        if told.returncode != 0:
            self.report.add(tier, "ctest", "failed", told.stderr or "ctest --show-only failed")
            return
        for test in json.loads(told.stdout)["tests"]:
            properties = {p["name"]: p["value"] for p in test.get("properties", [])}
            if tier not in properties.get("LABELS", []):
                continue
            if not test.get("command"):
                self.report.add(tier, test["name"], "failed", "the program has not been built")
                continue
            env = dict(v.split("=", 1) for v in properties.get("ENVIRONMENT", []))
            limit = float(properties.get("TIMEOUT", DEFAULT_TIMEOUT_S))
            yield test["name"], test["command"], limit, env, properties.get("WORKING_DIRECTORY")

    def sanitizer_env(self, name):
        reports = self.logs / f"{name}.sanitizer"
        shared = f"log_path={reports}:print_stacktrace=1"
        return reports, {
            "ASAN_OPTIONS": shared + ":detect_leaks=1:detect_stack_use_after_return=1",
            "UBSAN_OPTIONS": shared, "TSAN_OPTIONS": shared + ":halt_on_error=1"}

    def check_sanitizer(self, tier, name, reports):
        for path in sorted(reports.parent.glob(reports.name + ".*")):
            text = path.read_text(errors="replace")
            if text.strip():
                self.report.add(tier, f"{name}::sanitizer", "failed", text[:4000], path)
                return  # one leak in shared code would be reported by every test otherwise

    def criterion_selection(self, name, command):
        """The tests to run of a program, as SUITE/TEST; None for all of them."""
        if self.wanted(name):
            return None
        told = subprocess.run(command + ["--list"], capture_output=True, text=True, check=False,
                              env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
        suite, chosen = "", []
        for line in told.stdout.splitlines():
            word = re.sub(r"^[^A-Za-z_]*", "", line).split(" ")[0].rstrip(":")
            if re.match(r"^\w", line):
                suite = word
            elif word and self.wanted(f"{name}::{suite}::{word}"):
                chosen.append(f"{suite}/{word}")
        return chosen

    def run_criterion(self, tier):
        # Each test of the store has a database of its own, but the tests of a program copy one.
        jobs = ["--jobs=1"] if tier == "store" else []

        def run(program):
            name, command, limit, env, cwd = program
            chosen = self.criterion_selection(name, command)
            if chosen == []:
                return program, chosen, None
            selection = [f"--filter=@({'|'.join(chosen)})"] if chosen else []
            log, tap = self.logs / f"{tier}-{name}.log", self.logs / f"{tier}-{name}.tap"
            sanitizer = self.sanitizer_env(f"{tier}-{name}")[1]
            return program, chosen, run_process(
                command + [f"--tap={tap}", "--color=never"] + jobs + selection, log, limit,
                {**sanitizer, **env}, cwd or self.repo)[0]

        for (name, _, limit, _, _), chosen, status in side_by_side(
                run, self.compiled(tier), AT_ONCE.get(tier, 1)):
            if chosen == []:
                continue
            log, tap = self.logs / f"{tier}-{name}.log", self.logs / f"{tier}-{name}.tap"
            failed = self.read_tap(tier, name, tap, log, chosen)
            if failed is None or (status != 0 and not failed):
                self.report.add(tier, name, "failed", ended(status, limit), log)
            self.check_sanitizer(tier, name, self.sanitizer_env(f"{tier}-{name}")[0])

    def read_tap(self, tier, name, tap, log, chosen):
        """Counts the tests of a report; returns how many failed, None if it is incomplete.

        Criterion reports tests that its filter left out as skipped, and a disabled test with a
        text of its own where a reason should be."""
        text = tap.read_text(errors="replace") if tap.exists() else ""
        plan = re.search(r"^1\.\.(\d+)$", text, re.M)
        seen = failed = 0
        for match in re.finditer(r"^(not ok|ok) - (\S+)[ ]*(.*)$", text, re.M):
            seen += 1
            verdict, test, rest = match.groups()
            skip = re.match(r"# SKIP ?(?:test was skipped)?(.*)", rest)
            if chosen and test.replace("::", "/") not in chosen:
                continue
            if skip:
                self.report.add(tier, f"{name}::{test}", "skipped", skip.group(1))
            elif verdict == "ok":
                self.report.add(tier, f"{name}::{test}", "passed")
            else:
                failed += 1
                self.report.add(tier, f"{name}::{test}", "failed", rest.strip("() "), log)
        return failed if plan and seen == int(plan.group(1)) else None

    def run_plain(self, tier):
        fuzz = tier == "fuzz-smoke"

        def run(program):
            name, command, limit, env, cwd = program
            env.setdefault("SBX_FUZZ_SECONDS", "60" if self.scope == "full" else "5")
            # libFuzzer's own report is the log
            sanitizer = {} if fuzz else self.sanitizer_env(f"{tier}-{name}")[1]
            return program, run_process(command, self.logs / f"{tier}-{name}.log", limit,
                                        {**sanitizer, **env}, cwd or self.repo)

        chosen = [program for program in self.compiled(tier) if self.wanted(program[0])]
        for (name, _, limit, _, _), (status, seconds) in side_by_side(
                run, chosen, AT_ONCE[tier]):
            good = status == 0
            self.report.add(tier, name, "passed" if good else "failed",
                            "" if good else ended(status, limit),
                            self.logs / f"{tier}-{name}.log", seconds)
            self.check_sanitizer(tier, name, self.sanitizer_env(f"{tier}-{name}")[0])

    # ---- Python files -------------------------------------------------------------------------

    def run_python(self, tier):
        beside, alone = [], []
        # The longest first, so that none is left for the end: their size tells about enough.
        for path in sorted(self.repo.glob(PYTHON_FILES[tier]), key=lambda p: -p.stat().st_size):
            text = path.read_text(encoding="utf-8")
            if tier == "system" and self.scope == "quick" and not says(text, "QUICK"):
                continue
            (alone if tier != "system" or says(text, "ALONE") else beside).append(path)
        for paths, at_once in ((beside, AT_ONCE.get(tier, 1)), (alone, 1)):
            for path, limit, status in side_by_side(lambda p: self.run_python_file(tier, p), paths,
                                                    at_once):
                self.read_python_file(tier, path, limit, status)

    def run_python_file(self, tier, path):
        told = re.search(r"^TIMEOUT_S = (\d+)$", path.read_text(encoding="utf-8"), re.M)
        limit = int(told.group(1)) if told else DEFAULT_TIMEOUT_S
        command = [sys.executable, str(REPO / "tests/lib/unittest_main.py"), str(path),
                   str(self.logs / f"{tier}-{path.stem}.json"), self.pattern.pattern]
        return path, limit, run_process(command, self.logs / f"{tier}-{path.stem}.log", limit)[0]

    def read_python_file(self, tier, path, limit, status):
        log = self.logs / f"{tier}-{path.stem}.log"
        results = self.logs / f"{tier}-{path.stem}.json"
        complete, failed = False, 0
        for line in results.read_text().splitlines() if results.exists() else []:
            told = json.loads(line)
            if told["name"] is None:
                complete = True
                continue
            failed += told["status"] == "failed"
            self.report.add(tier, f"{path.stem}::{told['name']}", told["status"], told["reason"],
                            log, told["seconds"])
        if not complete or (status != 0 and not failed):
            self.report.add(tier, path.stem, "failed", ended(status, limit), log)

    def run(self, tier):
        began = time.monotonic()
        if tier in PYTHON_FILES:
            self.run_python(tier)
        elif tier in ("unit", "store"):
            self.run_criterion(tier)
        else:
            self.run_plain(tier)
        print(f"---- {tier}: {time.monotonic() - began:.0f} s", flush=True)

    def run_row(self, tiers):
        for tier in tiers:
            self.run(tier)

    def run_all(self, tiers):
        rows = [[t for t in row if t in tiers] for row in ROWS]
        if "arch" in tiers:
            self.run("arch")
        for _ in side_by_side(self.run_row, rows, len(rows)):
            pass
        if "system" in tiers:
            self.run("system")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tier", action="append", required=True)
    parser.add_argument("--scope", choices=["quick", "normal", "full"], default="normal")
    parser.add_argument("--logs", type=pathlib.Path, required=True)
    parser.add_argument("--filter", default="")
    runner = Runner(parser.parse_args())
    began = time.monotonic()
    runner.run_all(parser.parse_args().tier)
    print(f"---- {time.monotonic() - began:.0f} s")
    return runner.report.summary()


if __name__ == "__main__":
    sys.exit(main())
