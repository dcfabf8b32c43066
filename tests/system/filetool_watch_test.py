#!/usr/bin/python3
"""sbx-files watch: what is told of a tree that changes."""
import json
import os
import pathlib
import selectors
import shutil
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from filetool_harness import Case, plain, small_disk  # noqa: E402


class Watch:
    """A running watch; collects what it tells."""

    def __init__(self, case, path=".", recursive="1"):
        self.case = case
        self.child = case.start("watch", path, recursive)
        case.addCleanup(self.end)
        self.seen = []
        self.rest = b""
        self.wait(lambda: {"type": "ready"} in self.seen, "it is ready")
        self.seen.clear()

    def end(self):
        """@return status and standard error"""
        self.child.stdin.close()
        err = b"" if self.child.stderr.closed else self.child.stderr.read()
        self.child.stdout.close()
        self.child.stderr.close()
        return self.child.wait(20), err

    def wait(self, condition, what, seconds=20):
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as ready:
            ready.register(self.child.stdout, selectors.EVENT_READ)
            while not condition():
                left = end - time.monotonic()
                if left <= 0 or not ready.select(left):
                    raise AssertionError(f"not told: {what}; but {self.seen[-20:]}")
                piece = os.read(self.child.stdout.fileno(), 1 << 16)
                if not piece:
                    raise AssertionError(f"ended before: {what}; told {self.seen[-20:]}")
                *lines, self.rest = (self.rest + piece).split(b"\n")
                self.seen += [json.loads(line) for line in lines]

    def brief(self):
        """What was seen, as (type, path beneath the home[, to])."""
        home = str(self.case.home)
        return [tuple([e["type"]] + [os.path.relpath(e[k], home) for k in ("path", "to")
                                     if k in e]) for e in self.seen]

    def until(self, *last):
        """Everything up to a change that is waited for."""
        self.wait(lambda: last in self.brief(), last)
        told = self.brief()
        self.seen.clear()
        return told


class WatchTest(Case):
    def mark(self, watch, name="mark"):
        """All that was told before a change that is made now."""
        self.make(name)
        told = watch.until("create", name)
        return [t for t in told if t[1:] != (name,)]

    def test_each_kind(self):
        self.make("f", b"1")
        watch = Watch(self)
        cases = [(lambda: (self.home / "new").touch(), ("create", "new")),
                 (lambda: (self.home / "f").write_bytes(b"2"), ("write", "f")),
                 (lambda: (self.home / "f").chmod(0o600), ("chmod", "f")),
                 (lambda: (self.home / "d").mkdir(), ("create", "d")),
                 (lambda: os.rename(self.home / "f", self.home / "d/g"), ("rename", "f", "d/g")),
                 (lambda: os.symlink("x", self.home / "l"), ("create", "l")),
                 (lambda: os.unlink(self.home / "d/g"), ("remove", "d/g")),
                 (lambda: (self.home / "d").rmdir(), ("remove", "d"))]
        for act, told in cases:
            act()
            self.assertEqual(watch.until(*told), [told])

    def test_what_comes_within_a_moment_is_merged(self):
        watch = Watch(self)
        os.kill(watch.child.pid, signal.SIGSTOP)
        with open(self.home / "x", "wb", buffering=0) as file:
            for _ in range(50):
                file.write(b"x")
        (self.home / "x").chmod(0o600)
        self.make("y", b"1")
        os.kill(watch.child.pid, signal.SIGCONT)
        self.assertEqual(self.mark(watch), [("create", "x"), ("create", "y")])

    def test_one_level_or_all(self):
        self.make("a/b/c", None)
        shallow, deep = Watch(self, recursive="0"), Watch(self)
        self.make("a/b/c/x")
        self.assertEqual(deep.until("create", "a/b/c/x"), [("create", "a/b/c/x")])
        self.assertEqual(self.mark(shallow), [])
        self.make("a/y")
        self.make("z", None)
        self.make("z/new")
        self.assertEqual(shallow.until("create", "z"), [("create", "z")])

    def test_new_trees_are_followed_and_nothing_is_missed_or_told_twice(self):
        watch = Watch(self)
        want = set()
        for i in range(60):
            for name in (f"d{i}", f"d{i}/e", f"d{i}/e/f"):
                (self.home / name).mkdir()
                want.add(("create", name))
            self.make(f"d{i}/e/f/x", b"content")
            want.add(("create", f"d{i}/e/f/x"))
        told = [t for t in self.mark(watch) if t[0] == "create"]
        self.assertEqual(set(told), want)
        for i in range(60):
            os.unlink(self.home / f"d{i}/e/f/x")
        self.assertEqual({t for t in self.mark(watch, "again") if t[0] == "remove"},
                         {("remove", f"d{i}/e/f/x") for i in range(60)})

    def test_directories_that_move(self):
        outside = pathlib.Path(str(self.home) + "-outside")
        outside.mkdir()
        self.addCleanup(shutil.rmtree, outside)
        self.make("a/b/x")
        watch = Watch(self)
        os.rename(self.home / "a", self.home / "c")
        self.assertEqual(watch.until("rename", "a", "c"), [("rename", "a", "c")])
        self.make("c/b/y")
        self.assertEqual(watch.until("create", "c/b/y"), [("create", "c/b/y")])
        os.rename(self.home / "c/b", outside / "b")
        self.assertEqual(watch.until("remove", "c/b"), [("remove", "c/b")])
        (outside / "b/unseen").touch()
        self.assertEqual(self.mark(watch), [])
        os.rename(outside / "b", self.home / "back")
        told = watch.until("create", "back/unseen")
        self.assertEqual(told[0], ("create", "back"))
        self.make("back/z")
        self.assertEqual(watch.until("create", "back/z"), [("create", "back/z")])

    def test_hidden_files_of_the_program_are_not_told_of(self):
        self.make("old", b"before")
        watch = Watch(self)
        self.run_tool("write", "old", "-", "0", "1", data=b"x")
        self.assertEqual(watch.until("write", "old"), [("write", "old")])
        self.make("tree/sub/x")
        self.mark(watch)
        self.run_tool("copy", "tree", "copy", "0")
        told = watch.until("create", "copy/sub/x")
        self.assertEqual([t for t in told if ".sbx-" in str(t)], [])
        self.make("copy/sub/y")
        watch.until("create", "copy/sub/y")

    def test_names_of_any_bytes(self):
        watch = Watch(self)
        with open(os.fsencode(self.home) + b"/\xff\n", "wb"):
            pass
        watch.wait(lambda: watch.seen, "the name")
        self.assertEqual(watch.seen[0]["encoding"], "base64")
        self.assertEqual(plain(watch.seen[0]["path"]), os.fsencode(self.home) + b"/\xff\n")

    def test_it_ends_with_its_input(self):
        self.assertEqual(Watch(self).end(), (0, b""))

    def test_it_ends_when_nobody_reads(self):
        watch = Watch(self)
        watch.child.stdout.close()
        self.assertEqual(watch.child.wait(20), 1)

    def test_it_ends_with_its_directory(self):
        for act in (lambda path: path.rmdir(), lambda path: path.rename(self.home / "moved")):
            path = self.make("d", None)
            watch = Watch(self, "d")
            act(path)
            self.assertEqual(watch.child.wait(20), 1)
            self.assertIn(b'"code":"not_found"', watch.child.stderr.read())

    def test_a_mount_that_goes_away_ends_it(self):
        with small_disk(self.make("disk", None)):
            watch = Watch(self, "disk")
        self.assertEqual(watch.child.wait(20), 1)

    def test_a_full_queue_is_told_and_everything_is_watched_again(self):
        self.make("d/e", None)
        watch = Watch(self)
        with open("/proc/sys/fs/inotify/max_queued_events", encoding="ascii") as limit:
            count = int(limit.read())
        os.kill(watch.child.pid, signal.SIGSTOP)
        folder = self.home / "d/e"
        for i in range(count // 2 + 10):
            (folder / f"f{i}").touch()
        self.make("d/late/x")
        os.kill(watch.child.pid, signal.SIGCONT)
        watch.wait(lambda: {"type": "overflow"} in watch.seen, "overflow", 60)
        watch.seen.clear()
        self.make("d/late/y")
        watch.until("create", "d/late/y")

    def test_too_many_directories(self):
        top = self.make("many", None)
        for i in range(91):
            for j in range(90):
                (top / f"{i}/{j}").mkdir(parents=True)
        self.fails("too_large", "watch", "many", "1")
        watch = Watch(self, "many", "0")
        self.make("many/x")
        watch.until("create", "many/x")

    def test_what_may_not_be_read_is_left_out(self):
        self.make("locked", None, 0o000, owner=0)
        self.make("half", None, 0o744, owner=0)
        self.make("half/x", owner=0)
        self.make("z", None)
        watch = Watch(self)
        self.make("z/x")
        self.assertEqual(watch.until("create", "z/x"), [("create", "z/x")])

    def test_failures(self):
        self.make("f")
        self.make("locked", None, 0o000, owner=0)
        self.fails("not_directory", "watch", "f", "1")
        self.fails("not_found", "watch", "no", "1")
        self.fails("permission_denied", "watch", "locked", "1")
        self.fails("invalid", "watch", ".", "2")
