#!/usr/bin/python3
"""sbx-files where there is nothing but itself: an empty image, no /proc, another kernel."""
import io
import json
import os
import secrets
import shutil
import subprocess
import sys
import tarfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from filetool_harness import BINARY, USER, Case  # noqa: E402

# A line for each thing that has to work; what it prints is compared.
STEPS = r"""
cd "$HOME"
echo hello | $T write x 640 0 -
echo again | $T write x - 0 6
$T read x 0-3 | tail -n 1; echo
$T mkdir d/e 1 -
$T copy x d/y 0
$T move d/y d/e/z 0
ln -s e/z d/link
printf '\1\0\0\0\1\0\0\0\377\377\377\377\2\0\0\0\0\0\0\0bok' | $T batch
for form in tar tar.gz zip; do $T pack d $form | $T unpack u-$form 100000 100; done
$T remove d 1
echo x | $T write no/x - 0 2 || true
$T list . 9 100
"""


class PlacesTest(Case):
    def check(self, output):
        lines = output.decode().splitlines()
        told = [json.loads(line) for line in lines if line.startswith("{")]
        self.assertIn("agai", lines)
        self.assertEqual([e["created"] for e in told if "created" in e][:2], [True, False])
        self.assertEqual([e for e in told if "skipped" in e],
                         [{"files": 2, "directories": 1, "bytes": 6, "skipped": 0}] * 3)
        last = [os.path.relpath(e["path"], told[0]["path"] + "/..") for e in told[-15:-1]]
        self.assertEqual(last, ["b"] + [f"u-{f}{n}" for f in ("tar", "tar.gz", "zip")
                                        for n in ("", "/e", "/e/z", "/link")] + ["x"])
        self.assertEqual(told[-1], {"truncated": False})

    def test_without_proc(self):
        """Nor with anything else but a shell."""
        for folder in ("bin", "home"):
            (self.home / folder).mkdir()
        os.chown(self.home / "home", USER, USER)
        shutil.copy("/bin/busybox", self.home / "bin/busybox")
        shutil.copy(self.program, self.home / "bin/sbx-files")
        for name in ("sh", "ln", "tail", "printf"):
            os.symlink("busybox", self.home / "bin" / name)
        done = subprocess.run(
            [shutil.which("chroot"), f"--userspec={USER}:{USER}", self.home, "/bin/sh", "-c", STEPS],
            env={"HOME": "/home", "T": "/bin/sbx-files", "PATH": "/bin"}, capture_output=True,
            check=True)
        self.assertEqual(done.stderr.count(b"\n"), 1)
        self.assertIn(b'"code":"not_found"', done.stderr)
        self.check(done.stdout)

    @unittest.skipUnless(shutil.which("runsc"), "gVisor (runsc) is not installed here")
    def test_under_gvisor(self):
        done = subprocess.run(
            ["runsc", "--platform=ptrace", "--ignore-cgroups", "--network=none", "do", "sh", "-c",
             f"export HOME={self.home} T={self.program}; {STEPS}"],
            capture_output=True, timeout=120, check=True)
        self.check(done.stdout)

    @unittest.skipUnless(shutil.which("runsc"), "gVisor (runsc) is not installed here")
    def test_watch_under_gvisor(self):
        script = f"""export HOME={self.home}; cd $HOME; mkfifo in
            {self.program} watch . 1 < in > out & exec 3> in
            until grep -q ready out; do :; done; mkdir d; echo 1 > d/x
            until grep -q d/x out; do :; done; rm d/x
            until grep -q remove out; do :; done; exec 3>&-; wait; cat out"""
        done = subprocess.run(
            ["runsc", "--platform=ptrace", "--ignore-cgroups", "--network=none", "do", "sh", "-c",
             script], capture_output=True, timeout=120, check=True)
        told = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual(told[0], {"type": "ready"})
        self.assertIn({"type": "create", "path": f"{self.home}/d/x"}, told)
        self.assertIn({"type": "remove", "path": f"{self.home}/d/x"}, told)


class EmptyImageTest(Case):
    """An image that holds the program and nothing else."""

    def setUp(self):
        super().setUp()
        self.name = "sbx-filetool-test-" + secrets.token_hex(6)
        image = io.BytesIO()
        with tarfile.open(fileobj=image, mode="w") as archive:
            archive.add(BINARY, "sbx-files")
        subprocess.run(["docker", "import", "-", self.name], input=image.getvalue(),
                       capture_output=True, check=True)
        self.addCleanup(subprocess.run, ["docker", "rmi", "-f", self.name], capture_output=True,
                        check=True)
        self.main = subprocess.Popen(
            ["docker", "run", "--rm", "-i", "--name", self.name, "--network", "none", "--user",
             "1000:1000", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
             "--read-only", "--tmpfs", "/data:mode=777", "-e", "HOME=/data", "--memory", "32m",
             "--pids-limit", "20", self.name, "/sbx-files", "watch", "/data", "1"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(self.stop)
        self.assertEqual(self.main.stdout.readline(), b'{"type":"ready"}\n')

    def stop(self):
        self.main.stdin.close()
        self.main.stdout.read()
        self.main.stdout.close()
        self.assertEqual(self.main.wait(60), 0)

    def tool(self, *args, data=b""):
        return subprocess.run(["docker", "exec", "-i", self.name, "/sbx-files", *args],
                              input=data, capture_output=True, check=False)

    def test_operations_as_a_user_without_a_name_or_rights(self):
        made = json.loads(self.tool("write", "d/x", "-", "1", "5", data=b"hello").stdout)
        self.assertEqual((made["path"], made["owner"]), ("/data/d/x", "1000"))
        self.assertEqual(self.tool("read", "d/x", "1-3").stdout.splitlines()[-1], b"ell")
        packed = self.tool("pack", "d", "tar.gz")
        self.assertEqual(packed.returncode, 0)
        self.assertEqual(self.tool("unpack", "u", "1000", "10", data=packed.stdout).returncode, 0)
        refused = self.tool("write", "/x", "-", "0", "1", data=b"1")
        self.assertEqual(json.loads(refused.stderr)["code"], "permission_denied")
        self.assertEqual(json.loads(self.main.stdout.readline()),
                         {"type": "create", "path": "/data/d"})
        self.assertEqual(self.tool("watch", "/", "1").stdout, b'{"type":"ready"}\n')
        info = self.tool("read", "/proc/meminfo", "0-8").stdout
        self.assertEqual(info.splitlines()[-1], b"MemTotal:")
