"""Runs the static sbx-files as a user without rights, in a folder of its own.

The folder lies where that user can go, and holds a copy of the program, as the build may not."""

import base64
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import unittest

BINARY = os.path.join(os.environ.get("SBX_TEST_BIN", "build/release/bin"), "sbx-files")
USER = 65534


class Failed(Exception):
    """The line on standard error, as what it says."""

    def __init__(self, line):
        super().__init__(line)
        self.line = line
        self.code = line["code"]


class Case(unittest.TestCase):
    maxDiff = 4000

    @classmethod
    def setUpClass(cls):
        cls.place = pathlib.Path(tempfile.mkdtemp(prefix="sbx-filetool-", dir="/var/tmp"))
        cls.addClassCleanup(shutil.rmtree, cls.place, ignore_errors=True)
        cls.place.chmod(0o755)
        cls.program = cls.place / "sbx-files"
        shutil.copy(BINARY, cls.program)
        cls.program.chmod(0o755)

    def setUp(self):
        self.home = pathlib.Path(tempfile.mkdtemp(dir=self.place))
        os.chown(self.home, USER, USER)
        self.addCleanup(self.clear)

    def clear(self):
        """Everything goes, also what a test has made unreadable or too deep for Python."""
        subprocess.run(["chmod", "-R", "u+rwx", self.home], stderr=subprocess.DEVNULL, check=False)
        subprocess.run(["rm", "-rf", self.home], check=True)

    def start(self, *args, **more):
        """The program with its three streams as pipes, for what has to be met in the middle."""
        usual = {"user": USER, "group": USER, "extra_groups": [], "cwd": "/",
                 "env": {"HOME": str(self.home)}, "stdin": subprocess.PIPE,
                 "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([self.program, *args], **(usual | more))

    def raw(self, *args, data=b"", **more):
        """Status, output and error of a run to the end."""
        with self.start(*args, **more) as child:
            out, err = child.communicate(data, timeout=60)
        return child.returncode, out, err

    def run_tool(self, *args, data=b"", **more):
        """The output of a run that succeeds, or Failed."""
        status, out, err = self.raw(*args, data=data, **more)
        if status == 1:
            self.assertLessEqual(len(err), 1024)
            self.assertEqual(err.count(b"\n"), 1, err)
            raise Failed(json.loads(err))
        self.assertEqual((status, err), (0, b""))
        return out

    def entry(self, *args, **more):
        return json.loads(self.run_tool(*args, **more))

    def lines(self, *args, **more):
        return [json.loads(line) for line in self.run_tool(*args, **more).splitlines()]

    def fails(self, code, *args, **more):
        """@return the line, whose code is the one that is expected"""
        with self.assertRaises(Failed) as got:
            self.run_tool(*args, **more)
        self.assertEqual(got.exception.code, code, got.exception.line)
        return got.exception.line

    @staticmethod
    def waits_for_input(pid):
        """Also that it has begun: the file is there, without a name."""
        try:
            files = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            return False
        return any("(deleted)" in name or "/.sbx-" in name for name in files)

    def peak(self, args, **streams):
        """KiB of memory that a run needed at most, as last seen while it ran."""
        peak = 0
        with self.start(*args, **streams) as child:
            while child.poll() is None:
                time.sleep(0.001)
                with contextlib.suppress(OSError, StopIteration), \
                        open(f"/proc/{child.pid}/status", encoding="ascii") as status:
                    told = next(line for line in status if line.startswith("VmHWM"))
                    if os.readlink(f"/proc/{child.pid}/exe") == str(self.program):
                        peak = int(told.split()[1])
        self.assertEqual(child.returncode, 0)
        self.assertGreater(peak, 100)
        return peak

    def make(self, name, content=b"", mode=None, owner=USER):
        """A file or, if the content is None, a directory, with those above it."""
        path = self.home / name
        for above in reversed(path.relative_to(self.home).parents):
            if not (self.home / above).is_dir():
                self.make(above, None)
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content)
        os.chown(path, owner, owner)
        if mode is not None:
            path.chmod(mode)
        return path

    def names(self, folder="."):
        """All names beneath a folder, hidden ones too."""
        top = os.fsencode(self.home / folder)
        found = []
        for at, folders, files in os.walk(top):
            found += [os.fsdecode(os.path.relpath(os.path.join(at, n), top))
                      for n in folders + files]
        return sorted(found)


def plain(text):
    """A text of an entry that is base64, as bytes."""
    return base64.b64decode(text, validate=True)


def until(condition, what, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.005)


@contextlib.contextmanager
def small_disk(path, size="1m"):
    """A file system of its own at a folder that is there, which the user of the tests may write."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=777", "tmpfs", path],
                   check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)
