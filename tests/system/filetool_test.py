#!/usr/bin/python3
"""sbx-files on files: every operation on single files and directories, and how each fails."""
import os
import pathlib
import socket
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from filetool_harness import BINARY, USER, Case, plain  # noqa: E402

QUICK = True


class ProgramTest(Case):
    def test_it_is_static_and_small(self):
        image = pathlib.Path(BINARY).read_bytes()
        self.assertLess(len(image), 2_500_000)
        first, size, count = (struct.unpack_from("<Q", image, 32)[0],
                              *struct.unpack_from("<HH", image, 54))
        kinds = {struct.unpack_from("<I", image, first + i * size)[0] for i in range(count)}
        self.assertIn(1, kinds)
        self.assertFalse(kinds & {2, 3}, "no PT_DYNAMIC, no PT_INTERP")

    def test_version_is_printed(self):
        self.assertRegex(self.run_tool("--version"), rb"^sbx-files \d+\.\d+\.\d+\n$")

    def test_wrong_usage_is_status_2(self):
        for args in ((), ("stat",), ("stat", "a", "b"), ("frobnicate", "x"), ("write", "a")):
            status, out, err = self.raw(*args)
            self.assertEqual((status, out), (2, b""), args)
            self.assertIn(b"usage: sbx-files", err)

    def test_arguments_are_checked(self):
        cases = [("list", ".", "0", "5"), ("list", ".", "257", "5"), ("list", ".", "1", "0"),
                 ("list", ".", "1", "x"), ("write", "a", "8", "0", "1"),
                 ("write", "a", "10000", "0", "1"), ("write", "a", "", "0", "1"),
                 ("write", "a", "-", "2", "1"), ("write", "a", "-", "0", "-1"),
                 ("remove", "a", "yes"), ("mkdir", "a", "1", "rwx"), ("stat", "")]
        for args in cases:
            with self.subTest(args):
                self.fails("invalid", *args)
        self.assertEqual(self.names(), [])


class StatTest(Case):
    def test_a_file(self):
        path = self.make("x.txt", b"hello", 0o640)
        os.utime(path, ns=(0, 1_700_000_000_123_456_789))
        got = self.entry("stat", "x.txt")
        etag = got.pop("etag")
        self.assertEqual(got, {
            "name": "x.txt", "path": str(path), "type": "file", "sizeBytes": 5, "mode": "0640",
            "owner": "nobody", "group": "nogroup", "modifiedAt": "2023-11-14T22:13:20.123Z",
            "target": None})
        self.assertRegex(etag, r"^[0-9a-f-]{1,90}$")

    def test_the_etag_changes_with_content_and_with_the_file(self):
        path = self.make("x", b"12345")
        tags = {self.entry("stat", "x")["etag"]}
        os.utime(path, ns=(0, 1))
        tags.add(self.entry("stat", "x")["etag"])
        self.make("y", b"12345")
        os.utime(self.home / "y", ns=(0, 1))
        os.rename(self.home / "y", path)
        tags.add(self.entry("stat", "x")["etag"])
        self.assertEqual(len(tags), 3)

    def test_every_type_and_links_are_not_followed(self):
        self.make("d", None)
        os.symlink("no/where", self.home / "l")
        os.mkfifo(self.home / "p")
        self.assertEqual(self.entry("stat", "d")["type"], "directory")
        self.assertEqual(self.entry("stat", "p")["type"], "other")
        self.assertEqual(self.entry("stat", "/dev/null")["type"], "other")
        link = self.entry("stat", "l")
        self.assertEqual((link["type"], link["target"]), ("symlink", "no/where"))
        self.assertNotIn("etag", link)
        self.assertEqual(self.entry("stat", "/")["name"], "/")

    def test_an_owner_without_a_name_is_a_number(self):
        self.make("x", owner=54321)
        got = self.entry("stat", "x")
        self.assertEqual((got["owner"], got["group"]), ("54321", "54321"))

    def test_times_out_of_the_form_are_cut(self):
        path = self.make("x")
        for at, text in ((-5, "1970-01-01T00:00:00.000Z"),
                         (15_000_000_000, "2445-05-01T02:40:00.000Z")):
            os.utime(path, (0, at))
            self.assertEqual(self.entry("stat", "x")["modifiedAt"], text)

    def test_paths(self):
        self.make("a/b", b"x")
        want = str(self.home / "a/b")
        for asked in ("a/b", "./a//b", f"{want}/", f"//{want}", "a/./b"):
            self.assertEqual(self.entry("stat", asked)["path"], want, asked)
        self.assertEqual(self.entry("stat", "a/../a/b")["path"], f"{self.home}/a/../a/b")

    def test_without_home_the_one_of_passwd_is_taken(self):
        line = self.fails("not_found", "stat", "sbx-no-such-file", env={})
        self.assertEqual(line["path"], "/nonexistent/sbx-no-such-file")
        self.fails("invalid", "stat", "x", env={}, user=54321)

    def test_failures_name_the_path(self):
        self.make("secret", None, 0o700, owner=0)
        self.make("f")
        self.assertEqual(self.fails("not_found", "stat", "no")["path"], f"{self.home}/no")
        self.fails("permission_denied", "stat", "secret/x")
        self.fails("not_directory", "stat", "f/x")
        os.symlink("loop", self.home / "loop")
        self.fails("invalid", "stat", "loop/x")


class NamesTest(Case):
    NAMES = [b"new\nline", b"tab\t\"quote\"\\", b"\xff\xfe", b"caf\xc3\xa9", b"-", b"--version",
             b" ", b"n" * 255, b"\x01", "\u4f60\u597d".encode(), b"\xed\xa0\x80"]

    def test_any_name_is_written_listed_and_read(self):
        for name in self.NAMES:
            made = self.entry("write", name, "-", "0", "1", data=b"x")
            told = plain(made["name"]) if made.get("encoding") else made["name"].encode()
            self.assertEqual(told, name)
            self.assertEqual(self.run_tool("read", name, "-").splitlines()[-1], b"x")
        listed = [plain(e["name"]) if e.get("encoding") else e["name"].encode()
                  for e in self.lines("list", ".", "1", "100")[:-1]]
        self.assertEqual(listed, sorted(self.NAMES))

    def test_what_is_not_utf8_is_base64_in_all_texts(self):
        os.symlink(b"\xff", os.fsencode(self.home) + b"/l")
        got = self.entry("stat", "l")
        self.assertEqual(got["encoding"], "base64")
        self.assertEqual((plain(got["name"]), plain(got["target"])), (b"l", b"\xff"))
        line = self.fails("not_found", "stat", b"\xff\xfe")
        self.assertEqual(line["encoding"], "base64")
        self.assertEqual(plain(line["path"]), os.fsencode(self.home) + b"/\xff\xfe")

    def test_names_and_paths_that_are_too_long(self):
        self.fails("invalid", "stat", "n" * 256)
        self.fails("invalid", "write", "n" * 256, "-", "0", "0")
        self.fails("invalid", "stat", "/" + "a/" * 2048 + "b")
        line = self.fails("invalid", "stat", "x" * 4096)
        self.assertNotIn("path", line)
        long = "/".join(["d" * 200] * 18)
        self.assertEqual(self.entry("mkdir", long, "1", "-")["path"], f"{self.home}/{long}")

    def test_an_error_line_stays_short(self):
        name = "\x01" * 200
        line = self.fails("not_found", "stat", name)
        self.assertNotIn("path", line)


class ListTest(Case):
    def test_each_before_what_is_beneath_it_sorted_by_bytes(self):
        for name in ("b/2", "b/1/x", "a.txt", "a/z", "B", "b.txt"):
            self.make(name)
        got = self.lines("list", ".", "9", "100")
        names = [os.path.relpath(e["path"], self.home) for e in got[:-1]]
        self.assertEqual(names, ["B", "a", "a/z", "a.txt", "b", "b/1", "b/1/x", "b/2", "b.txt"])
        self.assertEqual(got[-1], {"truncated": False})

    def test_depth(self):
        self.make("a/b/c/d")
        for depth, count in ((1, 1), (2, 2), (3, 3), (256, 4)):
            self.assertEqual(len(self.lines("list", ".", str(depth), "100")), count + 1)

    def test_the_limit_cuts_the_end_at_any_place(self):
        for name in ("a/1", "a/2", "a/b/3", "a/b/4", "c", "d/5"):
            self.make(name)
        whole = [e["path"] for e in self.lines("list", ".", "9", "100")[:-1]]
        self.assertEqual(len(whole), 9)
        for limit in range(1, 12):
            got = self.lines("list", ".", "9", str(limit))
            self.assertEqual([e["path"] for e in got[:-1]], whole[:limit])
            self.assertEqual(got[-1], {"truncated": limit < 9})

    def test_a_large_directory_is_cut_without_being_kept(self):
        folder = self.make("many", None)
        for i in range(5000):
            os.mknod(folder / f"f{i:05}")
        got = self.lines("list", "many", "1", "20")
        self.assertEqual([e["name"] for e in got[:-1]], [f"f{i:05}" for i in range(20)])
        self.assertEqual(got[-1], {"truncated": True})
        self.assertEqual(len(self.lines("list", "many", "1", "5000")), 5001)

    def test_a_directory_that_may_not_be_read_says_so_and_the_rest_is_listed(self):
        self.make("a/x")
        self.make("locked", None, 0o000, owner=0)
        self.make("z")
        got = self.lines("list", ".", "5", "100")[:-1]
        self.assertEqual([e["name"] for e in got], ["a", "x", "locked", "z"])
        self.assertEqual([e.get("error") for e in got], [None, None, "permission_denied", None])

    def test_links_are_listed_not_followed_but_the_path_itself_may_be_one(self):
        self.make("real/x")
        os.symlink("real", self.home / "link")
        self.assertEqual([e["name"] for e in self.lines("list", ".", "9", "9")[:-1]],
                         ["link", "real", "x"])
        self.assertEqual(self.lines("list", "link", "9", "9")[0]["path"], f"{self.home}/link/x")

    def test_failures(self):
        self.make("f")
        self.make("locked", None, 0o000, owner=0)
        self.fails("not_directory", "list", "f", "1", "1")
        self.fails("not_found", "list", "no", "1", "1")
        self.fails("permission_denied", "list", "locked", "1", "1")

    def test_a_tree_deeper_than_a_path_can_be(self):
        self.deep(40, "n" * 200)
        got = self.lines("list", ".", "256", "1000")
        self.assertEqual(len(got), 41)
        self.assertGreater(len(got[-2]["path"]), 8000)

    def deep(self, depth, name):
        fd = os.open(self.home, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir(name, dir_fd=fd)
            os.chown(name, USER, USER, dir_fd=fd)
            below = os.open(name, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(fd)


class ReadTest(Case):
    def read(self, *args):
        out = self.run_tool("read", *args)
        head, _, body = out.partition(b"\n")
        return head, body

    def test_ranges(self):
        self.make("x", b"0123456789")
        cases = [("-", 0, 10), ("0-", 0, 10), ("3-5", 3, 6), ("9-9", 9, 10), ("5-100", 5, 10),
                 ("-3", 7, 10), ("-100", 0, 10), ("0-9223372036854775807", 0, 10)]
        for text, first, last in cases:
            with self.subTest(text):
                head, body = self.read("x", text)
                self.assertIn(b'"range":{"from":%d,"to":%d}' % (first, last), head)
                self.assertEqual(body, b"0123456789"[first:last])

    def test_ranges_that_cannot_be_served(self):
        self.make("x", b"0123456789")
        self.make("empty")
        for text in ("10-", "10-11", "-0"):
            self.assertEqual(self.fails("range", "read", "x", text)["sizeBytes"], 10)
        for text in ("", "5-3", "a-b", "1", "1-2-3", "+1-2", " 1-2", "99999999999999999999-"):
            self.fails("invalid", "read", "x", text)
        self.fails("range", "read", "empty", "0-")
        self.assertEqual(self.read("empty", "-")[1], b"")

    def test_sizes_around_the_buffers_and_any_bytes(self):
        for size in (0, 1, 65535, 65536, 65537, 262144, 1 << 20, (1 << 20) + 1, 5_000_000):
            content = os.urandom(size)
            self.make("x", content)
            self.assertEqual(self.read("x", "-")[1], content)

    def test_to_what_is_no_pipe(self):
        content = os.urandom(700_000)
        self.make("x", content)
        with tempfile.TemporaryFile() as out:
            subprocess.run([self.program, "read", self.home / "x", "-"], stdout=out, check=True)
            out.seek(0)
            self.assertEqual(out.read().partition(b"\n")[2], content)
        ours, theirs = socket.socketpair()
        with ours, theirs, subprocess.Popen([self.program, "read", self.home / "x", "-"],
                                            stdout=theirs) as child:
            theirs.close()
            got = b""
            while piece := ours.recv(1 << 16):
                got += piece
        self.assertEqual(child.returncode, 0)
        self.assertEqual(got.partition(b"\n")[2], content)

    def test_what_is_no_file_is_refused_at_once(self):
        self.make("d", None)
        os.mkfifo(self.home / "p")
        with socket.socket(socket.AF_UNIX) as unix:
            here = os.getcwd()
            os.chdir(self.home)
            unix.bind("s")
            os.chdir(here)
            self.fails("is_directory", "read", "d", "-")
            for name in ("p", "s", "/dev/zero", "/dev/tty"):
                with self.subTest(name):
                    self.fails("unsupported", "read", name, "-")

    def test_permission(self):
        self.make("x", b"x", 0o600, owner=0)
        self.fails("permission_denied", "read", "x", "-")

    def test_a_link_is_followed(self):
        self.make("x", b"content")
        os.symlink("x", self.home / "l")
        head, body = self.read("l", "-")
        self.assertIn(b'"type":"file"', head)
        self.assertEqual(body, b"content")

    def test_a_file_that_shrinks_is_an_error(self):
        path = self.make("x", b"x" * 30_000_000)
        with self.start("read", "x", "-") as child:
            child.stdout.read(1000)
            os.truncate(path, 1000)
            rest = child.stdout.read()
            err = child.stderr.read()
        self.assertEqual(child.returncode, 1)
        self.assertIn(b'"code":"io_error"', err)
        self.assertLess(len(rest), 30_000_000)

    def test_nobody_who_reads_ends_it(self):
        self.make("x", b"x" * 10_000_000)
        with self.start("read", "x", "-") as child:
            child.stdout.read(100)
            child.stdout.close()
            err = child.stderr.read()
        self.assertEqual(child.returncode, 1)
        self.assertIn(b'"code":"io_error"', err)

    def test_holes_are_zeros(self):
        path = self.make("x")
        os.truncate(path, 3_000_000)
        self.assertEqual(self.read("x", "-")[1], bytes(3_000_000))

    def test_files_of_the_kernel_have_the_size_of_what_they_hold(self):
        head, body = self.read("/proc/self/mountinfo", "-")
        self.assertIn(b'"range":{"from":0,"to":%d}' % len(body), head)
        self.assertIn(b" / ", body)
        want = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled").read_bytes()
        self.assertEqual(self.read("/sys/kernel/mm/transparent_hugepage/enabled", "1-")[1],
                         want[1:])
        self.fails("permission_denied", "read", "/proc/kmsg", "-")

    def test_memory_stays_small_and_content_goes_past_the_program(self):
        self.make("x", os.urandom(60_000_000))
        with tempfile.TemporaryFile() as out:
            self.assertLess(self.peak(["read", "x", "-"], stdout=out), 4 << 10)
        with open(self.home / "x", "rb") as data:
            self.assertLess(self.peak(["write", "y", "-", "0", "-"], stdin=data), 4 << 10)
        trace = self.place / "trace"
        shell = f'"$0" read x - | tail -c 60000000 | strace -f -c -o {trace} "$0" write z - 0 -'
        for command in (shell, f'strace -f -c -o {trace} "$0" read x - | cat >/dev/null'):
            subprocess.run(["sh", "-c", command, self.program], env={"HOME": str(self.home)},
                           stdout=subprocess.DEVNULL, check=True)
            calls = {row.split()[-1]: int(row.split()[3])
                     for row in trace.read_text().splitlines()[2:] if row[:1] == " "}
            self.assertGreater(calls["splice"], 50)
            self.assertLess(calls.get("read", 0) + calls.get("write", 0) +
                            calls.get("pread64", 0), 20)
        self.assertEqual((self.home / "x").read_bytes(), (self.home / "z").read_bytes())
