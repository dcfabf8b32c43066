#!/usr/bin/python3
"""sbx-files where it changes something: at once or not at all, and what stands in the way."""
import os
import signal
import stat
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from filetool_harness import USER, Case, small_disk, until  # noqa: E402

QUICK = True


def mode_of(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


class WriteTest(Case):
    def test_a_new_file_and_one_in_its_place(self):
        got = self.entry("write", "x", "-", "0", "5", data=b"hello")
        self.assertEqual((got["created"], got["sizeBytes"], got["mode"]), (True, 5, "0644"))
        got = self.entry("write", "x", "-", "0", "-", data=b"again!")
        self.assertEqual((got["created"], got["sizeBytes"]), (False, 6))
        self.assertEqual((self.home / "x").read_bytes(), b"again!")
        self.assertEqual(self.names(), ["x"])

    def test_sizes_around_the_buffers(self):
        for size in (0, 1, 65535, 65536, 65537, 1 << 20, (1 << 20) + 1, 5_000_000):
            content = os.urandom(size)
            for told in (str(size), "-"):
                self.run_tool("write", "x", "-", "0", told, data=content)
                self.assertEqual((self.home / "x").read_bytes(), content)

    def test_not_more_than_the_size_is_taken_and_the_end_is_not_waited_for(self):
        with self.start("write", "x", "-", "0", "5") as child:
            child.stdin.write(b"hello")
            child.stdin.flush()
            self.assertIn(b'"created":true', child.stdout.read())
        self.assertEqual((self.home / "x").read_bytes(), b"hello")

    def test_from_what_is_no_pipe(self):
        source = self.make("source", os.urandom(700_000))
        with open(source, "rb") as file, self.start("write", "x", "-", "0", "-",
                                                    stdin=file) as child:
            child.wait(20)
        self.assertEqual((self.home / "x").read_bytes(), source.read_bytes())

    def test_the_mode_is_kept_or_set(self):
        self.make("x", b"old", 0o751)
        self.run_tool("write", "x", "-", "0", "1", data=b"1")
        self.assertEqual(mode_of(self.home / "x"), 0o751)
        self.run_tool("write", "x", "600", "0", "1", data=b"1")
        self.assertEqual(mode_of(self.home / "x"), 0o600)
        self.assertEqual(self.entry("write", "y", "1755", "0", "0")["mode"], "1755")

    def test_a_cut_upload_changes_nothing(self):
        self.make("x", b"old")
        self.fails("invalid", "write", "x", "-", "0", "10", data=b"short")
        self.fails("invalid", "write", "new/deep/y", "-", "1", "10", data=b"short")
        self.assertEqual((self.home / "x").read_bytes(), b"old")
        self.assertEqual(self.names(), ["x"])

    def test_parents(self):
        self.fails("not_found", "write", "a/b/c", "-", "0", "1", data=b"x")
        self.entry("write", "a/b/c", "-", "1", "1", data=b"x")
        self.entry("write", "a/b/d", "-", "1", "1", data=b"x")
        self.fails("not_directory", "write", "a/b/c/d", "-", "1", "1", data=b"x")
        self.assertEqual(self.names(), ["a", "a/b", "a/b/c", "a/b/d"])

    def test_what_a_file_does_not_replace(self):
        self.make("d", None)
        os.mkfifo(self.home / "p")
        self.fails("is_directory", "write", "d", "-", "0", "0")
        self.fails("unsupported", "write", "p", "-", "0", "0")
        self.fails("unsupported", "write", "/dev/null", "-", "0", "0")
        self.fails("invalid", "write", "d/", "-", "0", "0")
        self.fails("invalid", "write", "d/..", "-", "0", "0")
        self.fails("invalid", "write", "/", "-", "0", "0")

    def test_permissions(self):
        self.make("locked", None, 0o755, owner=0)
        self.make("theirs", b"keep", 0o644, owner=0)
        self.make("mine", b"keep", 0o444)
        self.fails("permission_denied", "write", "locked/x", "-", "0", "0")
        self.fails("permission_denied", "write", "locked/d/x", "-", "1", "0")
        self.fails("permission_denied", "write", "theirs", "-", "0", "0")
        self.fails("permission_denied", "write", "mine", "-", "0", "0")
        self.assertEqual((self.home / "theirs").read_bytes(), b"keep")

    def test_a_link_is_written_through_also_to_what_is_not_there_yet(self):
        self.make("d/real", b"old")
        os.symlink("d/real", self.home / "l")
        os.symlink(self.home / "d/new", self.home / "m")
        self.assertFalse(self.entry("write", "l", "-", "0", "1", data=b"1")["created"])
        self.assertTrue(self.entry("write", "m", "-", "0", "1", data=b"2")["created"])
        self.assertTrue((self.home / "l").is_symlink() and (self.home / "m").is_symlink())
        self.assertEqual((self.home / "d/real").read_bytes(), b"1")
        self.assertEqual((self.home / "d/new").read_bytes(), b"2")
        os.symlink("loop", self.home / "loop")
        self.fails("invalid", "write", "loop", "-", "0", "0")

    def test_conditions(self):
        def put(*match):
            return self.entry("write", "x", "-", "0", "1", *match, data=b"x")

        def refused(*match):
            self.fails("changed", "write", "x", "-", "0", "1", *match, data=b"x")

        refused("*")
        refused("a-b")
        tag = put("-")["etag"]
        refused("-")
        refused("a-b")
        tag = put(tag)["etag"]
        put("*")
        refused(tag)

    def test_a_change_during_the_upload_is_noticed(self):
        for match, change in (("*", os.unlink), ("-", lambda path: self.make("x", b"other"))):
            path = self.home / "x"
            if match == "*":
                self.make("x", b"old")
            with self.start("write", "x", "-", "0", "4", match) as child:
                child.stdin.write(b"ab")
                child.stdin.flush()
                until(lambda: self.waits_for_input(child.pid), "the tool waits for more")
                change(path)
                child.stdin.write(b"cd")
                child.stdin.close()
                self.assertIn(b'"code":"changed"', child.stderr.read())
            self.assertEqual(child.returncode, 1)
        self.assertEqual(path.read_bytes(), b"other")

    def test_no_space(self):
        with small_disk(self.make("disk", None)):
            self.make("disk/x", b"old")
            self.fails("no_space", "write", "disk/x", "-", "0", "-", data=bytes(3 << 20))
            self.fails("no_space", "write", "disk/a/y", "-", "1", "-", data=bytes(3 << 20))
            self.assertEqual((self.home / "disk/x").read_bytes(), b"old")
            self.assertEqual(self.names("disk"), ["x"])
            self.entry("write", "disk/x", "-", "0", "-", data=bytes(900 << 10))

    def test_a_signal_in_the_middle_changes_nothing(self):
        self.make("x", b"old")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL):
            with self.subTest(number), self.start("write", "x", "-", "0", "-") as child:
                child.stdin.write(b"half")
                child.stdin.flush()
                until(lambda: self.waits_for_input(child.pid), "the tool waits for more")
                child.send_signal(number)
                child.wait(10)
                err = child.stderr.read()
                if number != signal.SIGKILL:
                    self.assertEqual(child.returncode, 1)
                    self.assertIn(b'"code":"io_error"', err)
            self.assertEqual((self.home / "x").read_bytes(), b"old")
            self.assertEqual(self.names(), ["x"])

    def test_killed_at_any_moment_there_is_the_old_or_the_new(self):
        old, new = b"a" * 300_000, b"b" * 400_000
        self.make("x", old)
        for step in range(40):
            with self.start("write", "x", "-", "0", str(len(new))) as child:
                try:
                    child.stdin.write(new[:len(new) * step // 36])
                    child.stdin.flush()
                except BrokenPipeError:
                    pass
                if step % 2:
                    until(lambda: child.poll() is not None or self.waits_for_input(child.pid),
                          "the tool has begun")
                child.kill()
            self.assertIn((self.home / "x").read_bytes(), (old, new))
            self.assertTrue(all(n == "x" or n.startswith(".sbx-") for n in self.names()))

    def test_many_at_once_leave_one_whole_content(self):
        contents = [bytes([65 + i]) * 200_000 for i in range(8)]
        children = [self.start("write", "x", "-", "0", "200000") for _ in contents]
        for child, content in zip(children, contents):
            child.stdin.write(content)
            child.stdin.close()
        for child in children:
            child.wait(20)
            self.assertEqual(child.stderr.read(), b"")
            child.stdout.close()
            child.stderr.close()
        self.assertIn((self.home / "x").read_bytes(), contents)
        self.assertEqual(self.names(), ["x"])


class RemoveTest(Case):
    def test_files_links_and_empty_directories(self):
        self.make("x", b"123")
        self.make("d", None)
        os.symlink("d", self.home / "l")
        os.mkfifo(self.home / "p")
        self.assertEqual(self.entry("remove", "l", "0")["type"], "symlink")
        self.assertTrue((self.home / "d").is_dir())
        self.assertEqual(self.entry("remove", "x", "0")["sizeBytes"], 3)
        self.entry("remove", "d", "0")
        self.entry("remove", "p", "1")
        self.assertEqual(self.names(), [])

    def test_a_tree_only_if_asked_for_and_never_through_a_link(self):
        self.make("outside/keep")
        self.make("d/a/b/c")
        os.symlink("../outside", self.home / "d/link")
        self.fails("not_empty", "remove", "d", "0")
        self.fails("not_empty", "remove", "d/", "0")
        self.entry("remove", "d", "1")
        self.assertEqual(self.names(), ["outside", "outside/keep"])

    def test_a_tree_deeper_than_paths_and_descriptors(self):
        fd = os.open(self.make("deep", None), os.O_RDONLY)
        for _ in range(1500):
            os.mkdir("n" * 50, dir_fd=fd)
            os.chown("n" * 50, USER, USER, dir_fd=fd)
            below = os.open("n" * 50, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(fd)
        self.fails("too_large", "copy", "deep", "copy", "0")
        self.assertEqual(os.listdir(self.home), ["deep"])
        self.entry("remove", "deep", "1")
        self.assertEqual(self.names(), [])

    def test_many_files(self):
        folder = self.make("d", None)
        for i in range(5000):
            os.mknod(folder / f"f{i}")
        self.entry("remove", "d", "1")
        self.assertEqual(self.names(), [])

    def test_failures(self):
        self.make("locked/x", owner=0)
        (self.home / "locked").chmod(0o755)
        os.chown(self.home / "locked", 0, 0)
        self.fails("not_found", "remove", "no", "1")
        self.fails("permission_denied", "remove", "locked/x", "0")
        self.fails("permission_denied", "remove", "locked", "1")
        self.fails("invalid", "remove", "/", "1")
        self.fails("invalid", "remove", "..", "1")
        self.make("d/e", None)
        with small_disk(self.home / "d/e"):
            self.assertEqual(self.fails("busy", "remove", "d/e", "0")["path"], f"{self.home}/d/e")


class MkdirTest(Case):
    def test_with_and_without_parents(self):
        self.fails("not_found", "mkdir", "a/b", "0", "-")
        got = self.entry("mkdir", "a/b", "1", "-")
        self.assertEqual((got["created"], got["type"], got["mode"]), (True, "directory", "0755"))
        self.assertFalse(self.entry("mkdir", "a/b", "1", "-")["created"])
        self.fails("exists", "mkdir", "a/b", "0", "-")
        self.assertEqual(self.entry("mkdir", "a/c", "0", "700")["mode"], "0700")
        self.assertEqual(self.entry("mkdir", "a/d", "0", "1777")["mode"], "1777")

    def test_a_link_to_a_directory_is_one(self):
        self.make("d", None)
        os.symlink("d", self.home / "l")
        self.assertFalse(self.entry("mkdir", "l", "1", "-")["created"])

    def test_failures_take_back_what_was_made(self):
        self.make("f")
        self.make("locked", None, 0o755, owner=0)
        self.fails("exists", "mkdir", "f", "1", "-")
        self.fails("not_directory", "mkdir", "f/d", "1", "-")
        self.fails("permission_denied", "mkdir", "locked/d", "0", "-")
        self.fails("invalid", "mkdir", "new/" + "n" * 256, "1", "-")
        self.assertEqual(self.names(), ["f", "locked"])


class MoveAndCopyTest(Case):
    def both(self):
        return (("move", self.subTest("move")), ("copy", self.subTest("copy")))

    def test_move(self):
        self.make("d/x", b"content", 0o751)
        self.assertEqual(self.entry("move", "d", "e", "0")["path"], f"{self.home}/e")
        self.entry("move", "e/x", "y", "0")
        self.assertEqual(self.names(), ["e", "y"])

    def test_overwrite(self):
        for verb, test in self.both():
            with test:
                self.make(f"{verb}/a", b"a")
                self.make(f"{verb}/b", b"b")
                self.make(f"{verb}/d/x", None)
                self.make(f"{verb}/e", None)
                a, b, d, e = (f"{verb}/{n}" for n in "abde")
                self.fails("exists", verb, a, b, "0")
                self.fails("exists", verb, d, e, "0")
                self.fails("is_directory", verb, a, e, "1")
                self.fails("not_directory", verb, d, a, "1")
                self.fails("not_empty", verb, e, d, "1")
                self.assertEqual(self.names(verb), ["a", "b", "d", "d/x", "e"])
                self.entry(verb, a, b, "1")
                self.entry(verb, d, e, "1")
                self.assertEqual((self.home / b).read_bytes(), b"a")
                self.assertTrue((self.home / e / "x").is_dir())
                self.assertEqual((self.home / a).exists(), verb == "copy")

    def test_failures(self):
        self.make("f", b"x")
        self.make("d/e", None)
        self.make("locked", None, 0o755, owner=0)
        for verb, test in self.both():
            with test:
                self.fails("not_found", verb, "no", "x", "0")
                self.fails("not_found", verb, "f", "no/x", "0")
                self.fails("invalid", verb, "d", "d/e/x", "0")
                self.fails("invalid", verb, "d", "d/x", "1")
                self.fails("permission_denied", verb, "f", "locked/x", "1")
                self.fails("invalid", verb, "f", "..", "1")
        self.assertEqual(self.names(), ["d", "d/e", "f", "locked"])

    def test_a_copy_has_everything(self):
        self.make("d/sub/x", b"content", 0o751)
        self.make("d/ro/y", b"y", 0o444)
        (self.home / "d/ro").chmod(0o555)
        os.symlink("sub/x", self.home / "d/link")
        os.symlink("/no/where", self.home / "d/dangling")
        os.link(self.home / "d/sub/x", self.home / "d/twin")
        os.mkfifo(self.home / "d/pipe", 0o640)
        os.setxattr(self.home / "d/sub/x", "user.note", b"\0value")
        os.utime(self.home / "d/sub/x", ns=(1, 1_600_000_000_123_456_789))
        os.utime(self.home / "d/sub", ns=(1, 1_500_000_000_000_000_001))
        for name in ("d/link", "d/dangling", "d/pipe"):
            os.lchown(self.home / name, USER, USER)
        self.entry("copy", "d", "c", "0")
        self.assertEqual(self.names("d"), self.names("c"))
        copy = self.home / "c"
        self.assertEqual((copy / "sub/x").read_bytes(), b"content")
        self.assertEqual(mode_of(copy / "sub/x"), 0o751)
        self.assertEqual(mode_of(copy / "ro"), 0o555)
        self.assertEqual(mode_of(copy / "ro/y"), 0o444)
        self.assertEqual(os.readlink(copy / "link"), "sub/x")
        self.assertEqual(os.readlink(copy / "dangling"), "/no/where")
        self.assertTrue(stat.S_ISFIFO(os.lstat(copy / "pipe").st_mode))
        self.assertEqual(os.lstat(copy / "twin").st_ino, os.lstat(copy / "sub/x").st_ino)
        self.assertEqual(os.getxattr(copy / "sub/x", "user.note"), b"\0value")
        self.assertEqual(os.lstat(copy / "sub/x").st_mtime_ns, 1_600_000_000_123_456_789)
        self.assertEqual(os.lstat(copy / "sub").st_mtime_ns, 1_500_000_000_000_000_001)

    def test_a_copy_of_a_link_is_a_link(self):
        self.make("x", b"x")
        os.symlink("x", self.home / "l")
        self.assertEqual(self.entry("copy", "l", "m", "0")["target"], "x")

    def test_holes_stay_holes(self):
        path = self.make("x")
        with open(path, "r+b") as file:
            file.truncate(200 << 20)
            file.seek(100 << 20)
            file.write(b"island")
        self.entry("copy", "x", "y", "0")
        got = os.lstat(self.home / "y")
        self.assertEqual(got.st_size, 200 << 20)
        self.assertLess(got.st_blocks * 512, 4 << 20)
        with open(self.home / "y", "rb") as file:
            file.seek(100 << 20)
            self.assertEqual(file.read(6), b"island")

    def test_to_another_file_system(self):
        self.make("d/x", b"content", 0o751)
        with small_disk(self.make("disk", None)):
            self.entry("move", "d", "disk/e", "0")
            self.assertEqual(self.names(), ["disk", "disk/e", "disk/e/x"])
            self.assertEqual(mode_of(self.home / "disk/e/x"), 0o751)
            self.make("big", os.urandom(2 << 20))
            for verb, test in self.both():
                with test:
                    self.fails("no_space", verb, "big", "disk/b", "0")
                    self.assertEqual(self.names("disk"), ["e", "e/x"])
            self.assertEqual((self.home / "big").stat().st_size, 2 << 20)

    def test_a_file_that_may_not_be_read_ends_a_copy_without_a_trace(self):
        self.make("d/a/x", b"1", 0o644)
        (self.home / "d/a").chmod(0o555)
        self.make("d/b/secret", b"1", 0o000, owner=0)
        self.fails("permission_denied", "copy", "d", "c", "0")
        self.assertEqual(self.names(), ["d", "d/a", "d/a/x", "d/b", "d/b/secret"])

    def test_a_device_is_not_copied(self):
        self.fails("unsupported", "copy", "/dev/null", "x", "0")

    def test_a_signal_ends_a_copy_without_a_trace(self):
        folder = self.make("d", None)
        for i in range(3000):
            (folder / f"f{i}").write_bytes(b"x")
        with self.start("copy", "d", "c", "0") as child:
            until(lambda: len(os.listdir(self.home)) > 1, "the copy has begun")
            child.terminate()
            child.wait(20)
        names = os.listdir(self.home)
        if child.returncode == 0:
            self.assertEqual(sorted(names), ["c", "d"])
        else:
            self.assertEqual(names, ["d"])


def record(path, content=b"", mode=None):
    path = os.fsencode(path)
    return struct.pack("<IIQ", len(path), 0xffffffff if mode is None else mode,
                       len(content)) + path + content


def batch(*records):
    return struct.pack("<I", len(records)) + b"".join(records)


class BatchTest(Case):
    def test_files_old_and_new_in_directories_old_and_new(self):
        self.make("old", b"before", 0o751)
        got = self.lines("batch", data=batch(
            record("old", b"after"), record("a/b/c", b"x" * 100_000, 0o600), record("a/b/d"),
            record(self.home / "e", b"e", 0o755)))
        self.assertEqual([(e["name"], e["created"], e["mode"]) for e in got],
                         [("old", False, "0751"), ("c", True, "0600"), ("d", True, "0644"),
                          ("e", True, "0755")])
        self.assertEqual((self.home / "old").read_bytes(), b"after")
        self.assertEqual((self.home / "a/b/c").read_bytes(), b"x" * 100_000)
        self.assertEqual(self.names(), ["a", "a/b", "a/b/c", "a/b/d", "e", "old"])

    def test_all_or_nothing(self):
        self.make("old", b"before")
        self.make("d", None)
        self.make("locked", None, 0o755, owner=0)
        good = [record("old", b"after"), record("new/deep/x", b"1")]
        cases = [("is_directory", batch(*good, record("d"))),
                 ("permission_denied", batch(*good, record("locked/x"))),
                 ("not_directory", batch(*good, record("old/x"))),
                 ("invalid", batch(*good, record("x/"))),
                 ("invalid", batch(*good, record(".."))),
                 ("invalid", batch(*good, record("./new//deep/x"))),
                 ("invalid", batch(*good, record("a\0b"))),
                 ("invalid", batch(*good, record("x", mode=0o10000))),
                 ("invalid", batch(*good, record("x" * 4096))),
                 ("invalid", batch(*good, record(""))),
                 ("invalid", batch(*good)[:-1]),
                 ("invalid", struct.pack("<I", 3) + b"".join(good)),
                 ("invalid", struct.pack("<I", 0)), ("invalid", struct.pack("<I", 10_001)),
                 ("invalid", b"ab"), ("invalid", b"")]
        for code, data in cases:
            with self.subTest(data[-40:]):
                self.fails(code, "batch", data=data)
                self.assertEqual(self.names(), ["d", "locked", "old"])
                self.assertEqual((self.home / "old").read_bytes(), b"before")

    def test_no_space(self):
        with small_disk(self.make("disk", None)):
            self.fails("no_space", "batch", data=batch(
                record("disk/a", b"1"), record("disk/b/c", bytes(2 << 20))))
            self.assertEqual(self.names("disk"), [])

    def test_two_ways_to_one_file_are_one_path(self):
        self.make("x", b"before")
        os.symlink("x", self.home / "l")
        self.fails("invalid", "batch", data=batch(record("x", b"1"), record("l", b"2")))
        self.assertEqual((self.home / "x").read_bytes(), b"before")

    def test_a_signal_in_the_middle_changes_nothing(self):
        self.make("x", b"before")
        with self.start("batch") as child:
            child.stdin.write(batch(record("x", b"1"), record("a/y", b"12345"))[:-2])
            child.stdin.flush()
            until(lambda: self.waits_for_input(child.pid) and (self.home / "a").is_dir(),
                  "the second file has begun")
            child.terminate()
            self.assertIn(b'"code":"io_error"', child.stderr.read())
        self.assertEqual(self.names(), ["x"])
        self.assertEqual((self.home / "x").read_bytes(), b"before")

    def test_the_code_of_runs_that_nobody_ended_is_removed_by_a_later_run(self):
        old = time.time() - 3 * 3600
        ids = ["a" * 20, "b" * 20 + ".py", "c" * 20 + ".js", "d" * 20 + ".ts", "e" * 19 + ".py",
               "f" * 21 + ".py", "G" * 20 + ".py"]
        left = [self.make(f".run-{i}", b"1") for i in ids]
        left.append(self.make("sub/.run-" + "h" * 20 + ".py", b"1"))
        (self.home / (".run-" + "i" * 20 + ".py")).symlink_to("target")
        self.make(".run-" + "j" * 20 + ".py/x", b"1")
        self.make(".run-" + "k" * 20 + ".py", b"1")  # young: it may be about to be run
        for path in left:
            os.utime(path, (old, old))
        before = self.names()
        self.lines("batch", data=batch(record("other", b"1")))
        self.assertEqual(self.names(), sorted(before + ["other"]))
        code = ".run-" + "0" * 20 + ".py"
        self.lines("batch", data=batch(record("other", b"1"), record(code, b"2")))
        gone = {".run-" + "b" * 20 + ".py", ".run-" + "c" * 20 + ".js", ".run-" + "d" * 20 + ".ts"}
        self.assertEqual(self.names(), sorted({*before, "other", code} - gone))

    def test_a_thousand_files_take_few_calls_each(self):
        data = batch(*(record(f"d/f{i:04}", b"content %d" % i) for i in range(1000)))
        trace = self.place / "trace"
        subprocess.run(["strace", "-f", "-c", "-o", trace, self.program, "batch"], input=data,
                       env={"HOME": str(self.home)}, stdout=subprocess.DEVNULL, check=True)
        total = trace.read_text().splitlines()[-1].split()
        self.assertEqual(total[-1], "total")
        self.assertEqual(len(self.names("d")), 1000)
        self.assertLess(int(total[3]), 20_000)
