"""sbx cp, put, get and watch: files in and out."""
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import cli_harness
import parts
import sandboxd
from cli_harness import SBX, CliCase, Follower, Terminal, covers, environment, sbx
from sandboxd import wait_for

api = None


def setUpModule():
    global api
    api = cli_harness.begin()[1]


class FilesTest(CliCase):
    @classmethod
    def setUpClass(cls):
        cls.box = api.create(name="cli-files")["id"]
        cls.here = pathlib.Path(tempfile.mkdtemp(prefix="sbxcli-"))
        cls.addClassCleanup(shutil.rmtree, cls.here)

    @classmethod
    def tearDownClass(cls):
        api.delete(f"/sandboxes/{cls.box}")

    def inside(self, command):
        return api.exec(self.box, command)["stdout"]

    def place(self, name):
        return f"cli-files:{name}"

    @covers("put", "get", "cp")
    def test_bytes_go_in_by_put_and_out_by_get(self):
        data = bytes(range(256)) * 3000
        self.ok("put", self.place("a/b/put.bin"), send=data)
        self.assertEqual(sbx("get", self.place("a/b/put.bin")).stdout, data)
        self.assertEqual(sbx("cp", self.place("/home/user/a/b/put.bin"), "-").stdout, data)
        self.ok("put", self.place("empty"), send=b"")
        self.assertEqual(self.ok("get", self.place("empty")), "")
        (self.here / "script").write_text("#!/bin/sh\necho ran\n")
        self.ok("put", "--mode", "755", self.place("run.sh"), self.here / "script")
        self.assertEqual(self.inside("./run.sh"), "ran\n")

    def test_cp_works_in_both_directions_into_files_and_folders(self):
        source = self.here / "one file"
        source.write_bytes(os.urandom(300000))
        source.chmod(0o751)
        self.inside("mkdir -p folder")
        for target, name in (("copy", "copy"), ("folder", "folder/one file"),
                             ("new/", "new/one file")):
            self.ok("cp", source, self.place(target))
            back = self.here / "back"
            self.ok("cp", self.place(name), back)
            self.assertEqual(back.read_bytes(), source.read_bytes())
            self.assertEqual(self.inside(f"stat -c %a '{name}'"), "751\n")
        (self.here / "into").mkdir()
        self.ok("cp", self.place("copy"), self.here / "into")
        self.assertEqual((self.here / "into/copy").read_bytes(), source.read_bytes())
        self.assertEqual([p.name for p in self.here.iterdir() if p.name.startswith(".")], [])

    def test_a_folder_goes_in_and_out_with_what_is_in_it(self):
        tree = self.here / "tree"
        (tree / "sub/deep").mkdir(parents=True)
        (tree / "sub/deep/x").write_bytes(b"x" * 100000)
        (tree / "run").write_text("#!/bin/sh\n")
        (tree / "run").chmod(0o755)
        (tree / "link").symlink_to("sub/deep/x")
        self.fails(2, "use -r", "cp", tree, self.place("t"))
        self.ok("cp", "-r", tree, self.place("t"))
        self.assertEqual(self.inside("cd t && find . | sort"),
                         ".\n./link\n./run\n./sub\n./sub/deep\n./sub/deep/x\n")
        self.assertEqual(self.inside("readlink t/link; stat -c %a t/run; wc -c < t/sub/deep/x"),
                         "sub/deep/x\n755\n100000\n")
        self.ok("cp", "-r", tree, self.place("t"))  # into what is there
        self.assertEqual(self.inside("ls t/tree"), "link\nrun\nsub\n")
        self.ok("cp", "-r", self.place("t"), self.here / "out")
        got = sorted(str(p.relative_to(self.here / "out")) for p in (self.here / "out").rglob("*"))
        self.assertEqual(got[:5], ["link", "run", "sub", "sub/deep", "sub/deep/x"])
        self.assertEqual((self.here / "out/sub/deep/x").read_bytes(), b"x" * 100000)
        self.assertTrue(os.access(self.here / "out/run", os.X_OK))
        self.assertEqual(os.readlink(self.here / "out/link"), "sub/deep/x")

    def test_what_leads_out_of_the_folder_is_not_followed_here(self):
        (self.here / "outside").mkdir()
        self.inside(f"mkdir evil; ln -s {self.here}/outside evil/door; mkfifo evil/pipe; echo x > evil/f;"
                    "chmod 4755 evil/f")
        self.fails(125, "left out", "cp", "-r", self.place("evil"), self.here / "caught")
        self.assertEqual((self.here / "caught/f").read_text(), "x\n")
        self.assertEqual((self.here / "caught/f").stat().st_mode & 0o7000, 0)
        self.assertFalse((self.here / "caught/pipe").exists())
        self.assertEqual(list((self.here / "outside").iterdir()), [])

    def test_failures_are_told_and_leave_nothing(self):
        target = self.here / "never"
        self.fails(125, "missing|no such|not exist|not_found|No such", "cp", self.place("missing"),
                   target)
        self.fails(125, "director", "get", self.place("/tmp"))
        self.assertFalse(target.exists())
        self.fails(125, "No such file", "cp", self.here / "missing", self.place("x"))
        self.fails(2, "one of FROM and TO", "cp", "a", "b")
        self.fails(2, "not ID:PATH", "put", "justaname", send=b"")
        self.fails(125, "ermission|denied", "put", self.place("/etc/no"), send=b"x")
        self.ok("put", "-u", "root", self.place("/etc/yes"), send=b"x")

    def test_a_download_that_is_cut_goes_on_where_it_was(self):
        size = 30_000_000
        self.inside(f"head -c {size} /dev/urandom > big")
        proxy = parts.TcpProxy(api.server.port)
        self.addCleanup(proxy.close)
        proxy.set("pass", 0.005)  # slow enough to be cut in the middle
        target = self.here / "big"
        process = subprocess.Popen([SBX, "-v", "cp", self.place("big"), target],
                                   env=environment(SBX_URL=f"http://127.0.0.1:{proxy.port}"),
                                   stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for part in (5_000_000, 15_000_000):
            wait_for(lambda: proxy.passed > part, what="a part of it")
            proxy.set("reset")
            proxy.set("pass", 0.005)
        told = process.communicate(timeout=60)[1]
        self.assertEqual(process.returncode, 0, told)
        self.assertEqual(told.count(b"going on"), 2)
        self.assertLess(proxy.passed, 1.2 * size)
        digest = subprocess.run(["sha256sum", target], capture_output=True, text=True, check=True)
        self.assertEqual(self.inside("sha256sum big").split()[0], digest.stdout.split()[0])

    def test_progress_is_shown_on_a_terminal_only(self):
        self.inside("head -c 200000000 /dev/zero > zeros")
        terminal = Terminal("cp", self.place("zeros"), self.here / "zeros")
        terminal.expect(rb"zeros .*%.* MB/s")
        self.assertEqual(terminal.end(), 0)
        self.assertEqual(sbx("cp", self.place("zeros"), self.here / "zeros").stderr, b"")
        (self.here / "zeros").unlink()
        self.inside("rm zeros")

    @covers("watch")
    def test_changes_are_told_as_they_happen(self):
        self.inside("mkdir -p w/sub")
        follower = Follower("watch", "-r", self.place("w"))
        self.addCleanup(follower.close)

        def seen():
            self.inside("touch w/ready")
            return follower.lines
        wait_for(seen, what="the first change")
        self.inside("echo x > w/sub/new; mv w/sub/new w/sub/old; rm w/sub/old")
        wait_for(lambda: any(line.startswith(b"remove") and b"/w/sub/old" in line
                             for line in follower.lines), what="the last change")
        text = b"\n".join(follower.lines)
        self.assertIn(b"create /home/user/w/sub/new", text)
        self.assertIn(b"rename /home/user/w/sub/new -> /home/user/w/sub/old", text)


if __name__ == "__main__":
    unittest.main()
