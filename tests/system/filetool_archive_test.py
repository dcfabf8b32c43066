#!/usr/bin/python3
"""sbx-files pack and unpack: whole trees there and back, and archives made to do harm."""
import gzip
import json
import io
import os
import signal
import stat
import subprocess
import sys
import tarfile
import zipfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(1, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from archives import folder, hardlink, member, overlapping, samples, symlink  # noqa: E402
from archives import tar, with_size, zipped  # noqa: E402
from filetool_harness import USER, Case, small_disk, until  # noqa: E402

MANY = ("2000000000", "10000")


class RoundTripTest(Case):
    def tree(self):
        self.make("d/sub/x", b"content", 0o751)
        self.make("d/empty", None, 0o700)
        self.make("d/ro/y", b"y", 0o444)
        self.make("d/caf\u00e9 \u4f60", os.urandom(300_000))
        self.make("d/" + "long/" * 40 + "n" * 200, b"deep")
        os.symlink("sub/x", self.home / "d/link")
        os.utime(self.home / "d/sub/x", ns=(1, 1_600_000_000_123_456_000))
        os.utime(self.home / "d/sub", ns=(1, 1_500_000_000_000_000_000))
        (self.home / "d/ro").chmod(0o555)
        for at, folders, files in os.walk(self.home):
            for name in folders + files:
                os.lchown(os.path.join(at, name), USER, USER)

    def check(self, copy):
        self.assertEqual(self.names("d"), self.names(copy))
        for name in self.names("d"):
            a, b = (os.lstat(self.home / top / name) for top in ("d", copy))
            self.assertEqual(a.st_mode, b.st_mode, name)
            self.assertEqual(int(a.st_mtime), int(b.st_mtime), name)
            if stat.S_ISREG(a.st_mode):
                self.assertEqual((self.home / "d" / name).read_bytes(),
                                 (self.home / copy / name).read_bytes())
        self.assertEqual(os.readlink(self.home / copy / "link"), "sub/x")

    def test_every_format_there_and_back(self):
        self.tree()
        for form in ("tar", "tar.gz", "zip"):
            with self.subTest(form):
                data = self.run_tool("pack", "d", form)
                got = self.entry("unpack", f"copy-{form}/new", *MANY, data=data)
                self.assertEqual((got["files"], got["directories"], got["skipped"]), (5, 43, 0))
                self.check(f"copy-{form}/new")

    def test_other_programs_read_what_is_packed(self):
        self.tree()
        with tarfile.open(fileobj=io.BytesIO(self.run_tool("pack", "d", "tar.gz"))) as archive:
            self.assertEqual(sorted(archive.getnames()), self.names("d"))
            self.assertEqual(archive.getmember("sub/x").uname, "nobody")
        with zipfile.ZipFile(io.BytesIO(self.run_tool("pack", "d", "zip"))) as archive:
            self.assertIsNone(archive.testzip())
            self.assertEqual(sorted(n.rstrip("/") for n in archive.namelist()), self.names("d"))
            self.assertEqual(archive.getinfo("sub/x").external_attr >> 16, 0o100751)

    def test_what_other_programs_pack_is_read(self):
        self.tree()
        for flags in ("c", "cz"):
            data = subprocess.run(["tar", flags, "-C", self.home / "d", "."], check=True,
                                  capture_output=True).stdout
            self.entry("unpack", f"copy-{flags}", *MANY, data=data)
            self.check(f"copy-{flags}")

    def test_tar_keeps_hard_links_attributes_and_holes(self):
        self.make("d/a", b"twin")
        os.link(self.home / "d/a", self.home / "d/b")
        os.setxattr(self.home / "d/a", "user.note", b"\0value")
        with open(self.make("d/holes"), "r+b") as file:
            file.truncate(300 << 20)
            file.seek(100 << 20)
            file.write(b"island")
        with open(self.make("d/hole"), "r+b") as file:
            file.truncate(100 << 20)
        data = self.run_tool("pack", "d", "tar")
        self.assertLess(len(data), 100_000)
        got = self.entry("unpack", "c", *MANY, data=data)
        self.assertEqual(got["bytes"], (400 << 20) + 4)
        copy = self.home / "c"
        self.assertEqual((copy / "a").stat().st_ino, (copy / "b").stat().st_ino)
        self.assertEqual(os.getxattr(copy / "a", "user.note"), b"\0value")
        self.assertEqual((copy / "holes").stat().st_size, 300 << 20)
        self.assertLess((copy / "holes").stat().st_blocks * 512, 4 << 20)
        self.assertEqual((copy / "hole").stat().st_size, 100 << 20)
        with open(copy / "holes", "rb") as file:
            file.seek(100 << 20)
            self.assertEqual(file.read(6), b"island")

    def test_names_that_are_not_utf8(self):
        self.make("d", None)
        with open(os.fsencode(self.home) + b"/d/\xff\xfe", "wb") as file:
            file.write(b"x")
        data = self.run_tool("pack", "d", "tar")
        self.entry("unpack", "c", *MANY, data=data)
        self.assertEqual(self.names("c"), self.names("d"))
        self.fails("unsupported", "pack", "d", "zip")

    def test_one_file_and_nothing(self):
        self.make("x.txt", b"hello")
        self.make("empty", None)
        for form in ("tar", "tar.gz", "zip"):
            self.entry("unpack", f"one-{form}", *MANY, data=self.run_tool("pack", "x.txt", form))
            self.assertEqual(self.names(f"one-{form}"), ["x.txt"])
            got = self.entry("unpack", f"none-{form}", *MANY,
                             data=self.run_tool("pack", "empty", form))
            self.assertEqual(got, {"files": 0, "directories": 0, "bytes": 0, "skipped": 0})

    def test_what_is_no_file(self):
        self.make("d", None)
        os.mkfifo(self.home / "d/pipe")
        data = self.run_tool("pack", "d", "tar")
        got = self.entry("unpack", "c", *MANY, data=data)
        self.assertEqual((got["skipped"], self.names("c")), (1, []))
        os.mknod(self.home / "d/device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        self.fails("unsupported", "pack", "d", "tar")
        self.fails("unsupported", "pack", "d/device", "tar")
        self.fails("not_found", "pack", "no", "tar")
        self.fails("invalid", "pack", "d", "rar")

    def test_a_file_that_may_not_be_read_ends_it(self):
        self.make("d/secret", b"x", 0o000, owner=0)
        self.fails("permission_denied", "pack", "d", "tar")

    def test_a_file_that_changes_size_keeps_the_one_of_its_head(self):
        for form in ("tar", "zip"):
            for by in (-9_000_000, 5_000_000):
                path = self.make("big", os.urandom(10_000_000))
                with self.start("pack", "big", form) as child:
                    head = child.stdout.read(5000)
                    os.truncate(path, 10_000_000 + by)
                    data = head + child.stdout.read()
                    self.assertEqual(child.stderr.read(), b"")
                self.assertEqual(child.returncode, 0)
                got = self.entry("unpack", f"{form}{by}", *MANY, data=data)
                self.assertEqual(got["bytes"], 10_000_000)

    def test_nobody_who_reads_ends_it(self):
        self.make("x", os.urandom(5_000_000))
        with self.start("pack", "x", "tar") as child:
            child.stdout.read(100)
            child.stdout.close()
            self.assertIn(b'"code":"io_error"', child.stderr.read())
        self.assertEqual(child.returncode, 1)


class HostileTest(Case):
    """Each archive is extracted beside a folder that must stay as it is."""

    def setUp(self):
        super().setUp()
        self.make("outside/keep", b"keep")
        self.before = self.names("outside")

    def tearDown(self):
        self.assertEqual(self.names("outside"), self.before)
        self.assertEqual((self.home / "outside/keep").read_bytes(), b"keep")

    def refuses(self, code, data, limits=MANY, left=()):
        line = self.fails(code, "unpack", "in", *limits, data=data)
        found = self.names("in") if (self.home / "in").exists() else []
        self.assertEqual(found, sorted(left), line)
        subprocess.run(["rm", "-rf", self.home / "in"], check=True)
        return line

    def test_names_that_lead_out(self):
        for name in ("../outside/x", "a/../../outside/x", "a/..", "..", "/tmp/x",
                     str(self.home / "outside/x"), "./../outside/x", "a/b/../../../x"):
            with self.subTest(name):
                self.refuses("invalid", tar(member(name, b"x")))
                self.refuses("invalid", zipped((name, b"x", 0o100644)))
                self.refuses("invalid", tar(member(name, kind=tarfile.DIRTYPE)))
                self.refuses("invalid", tar(symlink(name, "x")))

    def test_links_that_lead_out(self):
        for target in ("/etc/passwd", "..", "../outside", "x/../../outside", "", "x/../..",
                       "../" * 20 + "etc/passwd"):
            with self.subTest(target):
                self.refuses("invalid", tar(symlink("l", target)))
                if target:
                    self.refuses("invalid", zipped(("l", target.encode(), 0o120777)))

    def test_links_that_stay_are_made(self):
        data = tar(symlink("a/b/l", "../../x/./y"),
                   symlink("m", "a//b"))
        self.entry("unpack", "in", *MANY, data=data)
        self.assertEqual(os.readlink(self.home / "in/a/b/l"), "../../x/./y")
        self.refuses("invalid",
                     tar(symlink("a/b/l", "../../../x")),
                     left=["a", "a/b", "a/b/l", "m"])

    def test_a_file_through_a_link_of_the_archive(self):
        for target in ("d", ".", "d/e"):
            data = tar(symlink("l", target), member("l/x", b"x"))
            self.refuses("invalid", data, left=["l"])
        self.refuses("invalid", zipped(("l", b"d", 0o120777), ("l/x", b"x", 0o100644)), left=["l"])

    def test_a_link_that_was_there_is_neither_followed_nor_written_through(self):
        self.make("in", None)
        os.symlink("../outside", self.home / "in/l")
        os.symlink("../outside/keep", self.home / "in/keep")
        self.fails("invalid", "unpack", "in", *MANY, data=tar(member("l/x", b"x")))
        self.fails("not_directory", "unpack", "in", *MANY,
                   data=tar(member("l", kind=tarfile.DIRTYPE)))
        self.entry("unpack", "in", *MANY, data=tar(member("keep", b"new")))
        self.assertFalse((self.home / "in/keep").is_symlink())
        self.assertEqual((self.home / "in/keep").read_bytes(), b"new")

    def test_hard_links(self):
        for target in ("/etc/passwd", "../outside/keep", "no", ".", "d", "s"):
            with self.subTest(target):
                self.refuses("invalid", tar(
                    folder("d"),
                    symlink("s", "d"),
                    hardlink("h", target)), left=["d", "s"])
        data = tar(symlink("s", "d"), member("d/x", b"x"),
                   hardlink("h", "s/x"))
        self.refuses("invalid", data, left=["d", "d/x", "s"])

    def test_unpacking_twice_replaces_also_hard_links(self):
        data = tar(member("a", b"x"), hardlink("b", "a"),
                   folder("d"), member("d/e", b"y"))
        for _ in range(3):
            self.assertEqual(self.entry("unpack", "in", *MANY, data=data)["files"], 3)
            self.assertEqual(self.names("in"), ["a", "b", "d", "d/e"])
        self.make("in/twin")
        os.unlink(self.home / "in/b")
        os.link(self.home / "in/a", self.home / "in/b")
        self.entry("unpack", "in", *MANY,
                   data=tar(hardlink("b", "a")))
        self.assertEqual(self.names("in"), ["a", "b", "d", "d/e", "twin"])

    def test_devices_and_set_ids(self):
        for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            self.refuses("unsupported", tar(member("null", kind=kind, devmajor=1, devminor=3)))
        for mode in (0o4755, 0o2755, 0o6755):
            self.refuses("unsupported", tar(member("x", b"x", mode=mode)))
            self.refuses("unsupported", zipped(("x", b"x", 0o100000 | mode)))

    def test_a_name_twice(self):
        x = member("d/x", b"1")
        for again in (x, member("d/./x", b"2"), member("d//x", b"2"),
                      symlink("d/x", "y"),
                      member("d/x", kind=tarfile.DIRTYPE)):
            self.refuses("invalid", tar(x, again), left=["d", "d/x"])
        self.refuses("is_directory", tar(x, member("d", b"2")), left=["d", "d/x"])
        self.entry("unpack", "in", *MANY, data=tar(folder("d"), x, folder("d")))

    def test_too_many_bytes_or_entries(self):
        data = tar(*(member(f"f{i}", bytes(1000)) for i in range(10)))
        self.refuses("too_large", data, ("9999", "100"), [f"f{i}" for i in range(9)])
        self.refuses("too_large", data, ("100000", "9"), [f"f{i}" for i in range(9)])
        self.refuses("too_large", tar(member("a/" * 30 + "x")), ("1", "20"),
                     ["/".join(["a"] * n) for n in range(1, 20)])
        self.assertEqual(self.entry("unpack", "in", "10000", "10", data=data)["bytes"], 10_000)

    def test_bombs(self):
        big = bytes(100_000_000)
        self.refuses("too_large", gzip.compress(tar(member("zeros", big))))
        self.refuses("too_large", zipped(("zeros", big, 0o100644)))
        self.refuses("too_large", zipped(("zeros", big, 0o100644)), ("50000000", "10"))

    def test_a_zip_whose_entries_share_their_bytes(self):
        data = overlapping(bytes(1_000_000), 300)
        got = self.entry("unpack", "in", "100000000", "10000", data=data)
        self.assertEqual(got["bytes"], 1_000_000)

    def test_sizes_that_are_lies(self):
        honest = tar(member("x", b"12345"))
        for size in (b"77777777777\0", b"\x80" + b"\xff" * 11, b"\x80\0\0\0" + b"\x7f" * 8):
            data = with_size(honest, size)
            self.refuses("invalid" if size[1] == 0xff else "too_large", data)

    def test_cut_and_damaged(self):
        content = os.urandom(100_000)
        for data in (tar(member("x", content)), gzip.compress(tar(member("x", content))),
                     zipped(("x", content, 0o100644))):
            self.refuses("invalid", data[:len(data) // 2])
        whole = zipped(("x", content, 0o100644), method=zipfile.ZIP_STORED)
        self.refuses("invalid", whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
        self.refuses("invalid", b"")

    def test_what_is_no_archive(self):
        for data in (b"hello", os.urandom(5000), b"\x1f\x8b" + b"x" * 100,
                     gzip.compress(b"no tar at all" * 100), b"BZh91AY&SY" + b"x" * 50,
                     b"7z\xbc\xaf\x27\x1c" + b"x" * 100, b"Rar!\x1a\x07\0" + b"x" * 50):
            with self.assertRaises(Exception) as got:
                self.run_tool("unpack", "in", *MANY, data=data)
            self.assertIn(got.exception.code, ("unsupported", "invalid"), data[:10])
            self.assertEqual(self.names(), ["outside", "outside/keep"])

    def test_a_file_replaces_files_never_directories(self):
        self.make("in/f", b"old")
        self.make("in/d/e", b"old")
        self.entry("unpack", "in", *MANY, data=tar(member("f", b"new")))
        self.fails("is_directory", "unpack", "in", *MANY, data=tar(member("d", b"new")))
        self.fails("not_directory", "unpack", "in", *MANY, data=tar(member("f/x", b"new")))
        self.assertEqual((self.home / "in/f").read_bytes(), b"new")

    def test_permissions_and_space(self):
        self.make("locked", None, 0o755, owner=0)
        self.fails("permission_denied", "unpack", "locked", *MANY, data=tar(member("x", b"1")))
        self.fails("permission_denied", "unpack", "locked/d", *MANY, data=tar(member("x", b"1")))
        self.fails("not_directory", "unpack", "outside/keep", *MANY, data=tar(member("x", b"1")))
        with small_disk(self.make("disk", None)):
            big = os.urandom(2 << 20)
            for data in (tar(member("x", big)), zipped(("x", big, 0o100644))):
                self.fails("no_space", "unpack", "disk", *MANY, data=data)
                self.assertEqual(self.names("disk"), [])

    def test_modes_of_directories_come_last_and_set_ids_of_them_are_dropped(self):
        data = tar(member("d", kind=tarfile.DIRTYPE, mode=0o2555), member("d/x", b"x"),
                   member("d/e", kind=tarfile.DIRTYPE, mode=0o000, mtime=1000))
        self.entry("unpack", "in", *MANY, data=data)
        self.assertEqual(stat.S_IMODE((self.home / "in/d").stat().st_mode), 0o555)
        self.assertEqual(stat.S_IMODE((self.home / "in/d/e").stat().st_mode), 0)
        self.assertEqual((self.home / "in/d/e").stat().st_mtime, 1000)

    def test_a_signal_leaves_no_half_file(self):
        data = tar(member("a", b"x"), member("b", os.urandom(3_000_000)))
        for number in (signal.SIGTERM, signal.SIGKILL):
            with self.subTest(number), self.start("unpack", "in", *MANY) as child:
                child.stdin.write(data[:1_000_000])
                child.stdin.flush()
                until(lambda: (self.home / "in/a").exists() and self.waits_for_input(child.pid),
                      "the second file has begun")
                child.send_signal(number)
                child.wait(10)
            self.assertEqual(self.names("in"), ["a"])

    def test_memory_stays_small(self):
        self.make("d", None)
        for i in range(1000):
            self.make(f"d/{i}-" + "n" * 100, b"x" * 100)
        self.make("d/big", os.urandom(20_000_000))
        for form in ("tar", "tar.gz", "zip"):
            with self.subTest(form), open(self.place / form, "wb") as out:
                self.assertLess(self.peak(["pack", "d", form], stdout=out), 16 << 10)
            with open(self.place / form, "rb") as data:
                self.assertLess(self.peak(["unpack", f"c-{form}", *MANY], stdin=data), 16 << 10)

    def test_every_sample_does_what_is_known_of_it(self):
        for name, (code, data) in samples().items():
            with self.subTest(name):
                if code:
                    self.fails(code, "unpack", "in", *MANY, data=data)
                else:
                    self.entry("unpack", "in", *MANY, data=data)
                self.assertEqual([n for n in self.names() if ".sbx-" in n], [])
                subprocess.run(["rm", "-rf", self.home / "in"], check=True)

    def test_a_directory_that_becomes_a_link_meanwhile_leads_nowhere(self):
        """Somebody inside swaps a directory and a link to the outside, as quickly as possible."""
        self.make("in/d", None)
        os.symlink("../outside", self.home / "in/l")
        for i in range(30):
            self.make(f"src/d/f{i}", b"x" * 1000)
        self.make("outside/secret", b"SECRET")
        self.before = self.names("outside")
        data = self.run_tool("pack", "src", "tar")
        # RENAME_EXCHANGE: at any moment "d" is either a directory or the link.
        swap = ("import ctypes, sys; libc = ctypes.CDLL(None)\n"
                "while True: libc.renameat2(-100, b'd', -100, b'l', 2)")
        child = subprocess.Popen([sys.executable, "-c", swap], cwd=self.home / "in")
        try:
            seen = set()
            for _ in range(25):
                status, _, err = self.raw("unpack", "in", *MANY, data=data)
                seen.add(json.loads(err)["code"] if status else "done")
                _, out, _ = self.raw("pack", "in", "tar")
                self.assertNotIn(b"SECRET", out)
        finally:
            child.kill()
            child.wait()
        self.assertLessEqual(seen, {"done", "invalid", "not_directory", "not_found", "busy"})
