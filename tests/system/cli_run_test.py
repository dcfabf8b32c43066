"""sbx run: code in a sandbox of its own, as if it ran here."""
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import unittest

import cli_harness
from cli_harness import SBX, CliCase, covers, environment, sbx
from sandboxd import wait_for

TIMEOUT_S = 300

api = None


def setUpModule():
    global api
    api = cli_harness.begin()[1]


class RunTest(CliCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="sbxrun-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def file(self, name, content):
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def test_output_goes_where_it_belongs_and_the_status_is_the_codes(self):
        got = sbx("run", "-e", "import sys\nprint('out')\nprint('err', file=sys.stderr)\nexit(7)")
        self.assertEqual((got.returncode, got.stdout, got.stderr), (7, b"out\n", b"err\n"))

    def test_a_file_its_neighbours_environment_and_input(self):
        code = self.file("main.py", "import os, sys, helper\n"
                                    "print(helper.X, os.environ['A'], os.environ['HERE'], "
                                    "sys.stdin.read(), len(open('sub/raw', 'rb').read()))")
        got = sbx("run", code, "-f", self.file("helper.py", "X = 1"), "-f",
                  f"sub/raw={self.file('x', bytes(range(256)))}", "--env", "A=b", "--env", "HERE",
                  "-i", "-", send=b"given", env={"HERE": "there"})
        self.assertEqual((got.returncode, got.stdout, got.stderr),
                         (0, b"1 b there given 256\n", b""))

    @covers("run")
    def test_code_from_standard_input_and_by_extension(self):
        self.assertEqual(sbx("run", "-", send=b"print(6*7)").stdout, b"42\n")
        self.assertEqual(sbx("run", self.file("a.cjs", "console.log(require('os').EOL.length)"))
                         .stdout, b"1\n")
        self.assertEqual(sbx("run", "-r", "node", "-e", "console.log(2)").stdout, b"2\n")

    @covers("contexts new", "contexts ls", "contexts restart", "contexts rm")
    def test_contexts_keep_their_state_between_runs(self):
        box = api.create(template="python")["id"]
        context = sbx("contexts", "new", box, "-e", "A=b").stdout.decode().strip()
        self.assertRegex(context, r"^[a-z0-9]{20}$")
        run = ("run", "-s", box, "-c", context, "-e")
        self.assertEqual(sbx(*run, "import os; x = 6").returncode, 0)
        self.assertEqual(sbx(*run, "x * 7, os.environ['A']").stdout, b"(42, 'b')\n")
        got = sbx("contexts", "ls", box)
        self.assertRegex(got.stdout.decode(), rf"CONTEXT.*\n{context} +python +idle")
        self.assertEqual(sbx("-q", "contexts", "ls", box).stdout.decode(), context + "\n")
        self.assertEqual(sbx("contexts", "restart", box, context).returncode, 0)
        got = sbx(*run, "x")
        self.assertEqual(got.returncode, 1)
        self.assertIn(b"NameError", got.stderr)
        self.assertEqual(sbx("contexts", "rm", box, context).returncode, 0)
        self.assertEqual(sbx("contexts", "ls", box).stdout, b"")
        self.assertEqual(sbx(*run, "1").returncode, 125)
        for words, told in ((("contexts", "rm", box), b"it needs an ID and a CONTEXT"),
                            (("contexts", "rm", box, "X"), b"no id of a context"),
                            (("contexts", "mv", box), b"none of ls, new, rm, restart"),
                            (("run", "-c", context, "-e", "1"), b"needs --sandbox")):
            got = sbx(*words)
            self.assertEqual(got.returncode, 2, words)
            self.assertIn(told, got.stderr)

    def test_bytes_come_as_they_were_written(self):
        got = sbx("run", "-e", "import os\nos.write(1, bytes(range(256)) * 4000)")
        self.assertEqual((got.returncode, got.stdout), (0, bytes(range(256)) * 4000))

    def test_json_is_one_document(self):
        got = sbx("run", "--json", "-e", "print('a\\0b'); exit(4)")
        told = json.loads(got.stdout)
        self.assertEqual((got.returncode, told["stdout"], told["exitCode"]), (4, "a\0b\n", 4))

    def test_a_time_out_is_told(self):
        self.fails(137, "time was over", "run", "--timeout", "500ms", "-e",
                   "import time\ntime.sleep(60)")

    def test_in_a_sandbox(self):
        box = api.create(template="python", name="cli-run")["id"]
        self.assertEqual(sbx("run", "-s", "cli-run", "-e", "open('made', 'w')").returncode, 0)
        self.assertEqual(api.exec(box, "ls")["stdout"], "made\n")
        self.fails(2, "sandbox of its own", "run", "-s", box, "--cpus", "1", "-e", "1")
        api.delete(f"/sandboxes/{box}")

    def test_an_interrupt_ends_the_run(self):
        child = subprocess.Popen([SBX, "run", "-e", "import time\nprint('up')\ntime.sleep(600)"],
                                 env=environment(), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self.assertEqual(os.read(child.stdout.fileno(), 2), b"up")
        self.assertEqual(len(api.pages("metadata.run=python&state=running")), 1)
        child.send_signal(signal.SIGINT)
        self.assertEqual(child.wait(10), -signal.SIGINT)
        child.stdout.close()
        wait_for(lambda: not api.pages("metadata.run=python"), 20, "the sandbox's end")

    def test_output_that_nobody_reads_ends_the_run(self):
        got = subprocess.run(["sh", "-c", f"'{SBX}' run -e 'while True: print(1)' | head -n 2"],
                             env=environment(), capture_output=True, timeout=60, check=False)
        self.assertEqual(got.stdout, b"1\n1\n")
        wait_for(lambda: not api.pages("metadata.run=python"), 20, "the sandbox's end")

    def test_what_makes_no_sense_is_told(self):
        self.fails(2, "needs the code", "run")
        self.fails(2, "needs the code", "run", "x.py", "-e", "1")
        self.fails(2, "--timeout", "run", "--timeout", "soon", "-e", "1")
        self.fails(125, "no-such-file", "run", "/no-such-file.py")
        self.fails(125, "UTF-8", "run", self.file("b.py", b"\xff"))
        self.fails(125, "leads out", "run", "-f", f"../x={self.file('y', 'y')}", "-e", "1")


if __name__ == "__main__":
    unittest.main()
