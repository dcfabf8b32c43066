"""sbx, the command line: the real program against a real server, in pipes and in terminals."""
import fcntl
import json
import os
import pathlib
import pty
import re
import select
import shutil
import struct
import subprocess
import tempfile
import termios
import threading
import unittest

import parts
import sandboxd
from sandboxd import SystemCase, wait_for

SBX = sandboxd.BIN / "sbx"

service = api = folder = None


def setUpModule():
    global service, api, folder
    service, api = sandboxd.module_service()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="sbxcli-"))
    unittest.addModuleCleanup(shutil.rmtree, folder)
    (folder / "key").write_text(api.key + "\n")
    (folder / "key").chmod(0o600)


def environment(**more):
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith("SBX_") and name not in ("NO_COLOR", "TERM", "HOME")}
    return {**kept, "HOME": str(folder), "TERM": "xterm", "XDG_CONFIG_HOME": str(folder / "xdg"),
            "SBX_URL": f"http://127.0.0.1:{api.server.port}", "SBX_KEY_FILE": str(folder / "key"),
            **{name: str(value) for name, value in more.items()}}


def sbx(*words, send=None, env=None, timeout=60, cwd=None, **more):
    """Runs it to its end; output is bytes, standard input empty unless `send` says otherwise."""
    given = {"input": send} if send is not None else {"stdin": subprocess.DEVNULL}
    return subprocess.run([SBX, *map(str, words)], capture_output=True, timeout=timeout, check=False,
                          env=environment(**(env or {})), cwd=cwd, **given, **more)


class Terminal:
    """sbx in a pseudo terminal. What it shows is collected in `shown`."""

    def __init__(self, *words, env=None, cols=100, rows=30):
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.execve(SBX, [str(SBX), *map(str, words)], environment(**(env or {})))
        self.resize(cols, rows)
        self.shown, self.status = b"", None

    def resize(self, cols, rows):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def read(self, timeout=0.05):
        if select.select([self.fd], [], [], timeout)[0]:
            try:
                got = os.read(self.fd, 65536)
            except OSError:
                got = b""
            self.shown += got
            return bool(got)
        return None

    def expect(self, text, timeout=30):
        """Waits until it shows a match of the pattern, behind what was matched before."""
        found = None

        def seen():
            nonlocal found
            self.read()
            found = re.search(text, self.shown)
            return found
        try:
            wait_for(seen, timeout, f"{text!r} on the terminal", 0)
        except AssertionError:
            raise AssertionError(f"{text!r} did not come: {self.shown[-2000:]!r}") from None
        self.shown = self.shown[found.end():]
        return found

    def type(self, data):
        os.write(self.fd, data)

    def end(self, timeout=30):
        """The exit status."""
        def ended():
            self.read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            return pid
        if self.status is None:
            wait_for(ended, timeout, "its end")
            while self.read(0):
                pass
            os.close(self.fd)
        return self.status

    def raw(self):
        """Is the terminal in raw mode?"""
        return not termios.tcgetattr(self.fd)[3] & termios.ICANON


class Follower:
    """sbx that goes on until it is stopped; its lines are collected as they come."""

    def __init__(self, *words, **env):
        self.process = subprocess.Popen([SBX, *words], env=environment(**env),
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.lines = []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip(b"\n"))

    def close(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()
        self.process.stdout.close()


class CliCase(SystemCase):
    def ok(self, *words, **more):
        got = sbx(*words, **more)
        self.assertEqual(got.returncode, 0, (words, got.stderr[-2000:]))
        return got.stdout.decode()

    def fails(self, status, words, *command, **more):
        got = sbx(*command, **more)
        self.assertEqual(got.returncode, status, (command, got))
        self.assertRegex(got.stderr.decode(), words)
        return got


class ConfigTest(CliCase):
    def setUp(self):
        (folder / "xdg/sbx").mkdir(parents=True, exist_ok=True)
        self.config = folder / "xdg/sbx/config"
        self.addCleanup(lambda: self.config.unlink(missing_ok=True))

    def write(self, text, mode=0o600):
        self.config.write_text(text)
        self.config.chmod(mode)

    def test_the_two_lines_of_deploy_up_are_enough(self):
        self.assertEqual(json.loads(self.ok("ls", "--json")), {"items": [], "nextCursor": None})

    def test_a_configuration_file_does_as_well_and_the_environment_wins(self):
        url = f"http://127.0.0.1:{api.server.port}/"
        nothing = {"SBX_URL": "", "SBX_KEY_FILE": ""}
        self.write(f"# mine\nurl = {url}\nkey = {api.key}\n")
        self.ok("ls", env=nothing)
        self.write(f"url={url}\nkeyFile={folder}/key\n", 0o644)  # no secret in it
        self.ok("ls", env=nothing)
        self.fails(125, "unauthorized|key", "ls", env={**nothing, "SBX_KEY": "wrong"})
        self.ok("ls", "--key-file", folder / "key", env={**nothing, "SBX_KEY": "wrong"})

    def test_a_file_with_a_key_that_others_can_read_is_refused(self):
        self.write(f"url=http://127.0.0.1:{api.server.port}\nkey={api.key}\n", 0o640)
        self.fails(125, "chmod 600", "ls", env={"SBX_KEY_FILE": ""})

    def test_what_is_missing_or_wrong_is_named(self):
        self.fails(125, "set SBX_URL", "ls", env={"SBX_URL": ""})
        self.fails(125, "set SBX_KEY_FILE", "ls", env={"SBX_KEY_FILE": ""})
        self.fails(125, "key file /nowhere: No such file", "ls", env={"SBX_KEY_FILE": "/nowhere"})
        self.fails(125, "not like http://host:port", "ls", env={"SBX_URL": "localhost:1"})
        self.fails(125, "is the server running, and SBX_URL right", "ls",
                   env={"SBX_URL": "http://127.0.0.1:9"})
        self.write("frob=1\n")
        self.fails(125, r"config, line 1: not url=", "ls", env={"SBX_URL": ""})

    def test_usage_is_status_2_and_names_the_nearest(self):
        self.fails(2, "did you mean --state", "ls", "--stat", "running")
        self.fails(2, "did you mean create", "creat")
        self.fails(2, "See: sbx help exec", "exec", "box")

    def test_a_key_that_is_not_known_tells_what_to_do_and_the_request_id(self):
        got = self.fails(125, "check SBX_KEY", "ls", env={"SBX_KEY_FILE": "", "SBX_KEY": "nope"})
        self.assertRegex(got.stderr.decode(), r"request id: \S{10,}")


class HelpTest(CliCase):
    def test_every_command_explains_itself_in_three_ways(self):
        names = re.findall(r"^  ([a-z]+) {2,}\S", self.ok("--help"), re.M)
        self.assertLessEqual({"create", "ls", "get", "rm", "start", "stop", "pause", "resume",
                              "restart", "exec", "logs", "shell", "cp", "put", "watch", "stats",
                              "events"}, set(names))
        manual = self.ok("man")
        for name in names:
            with self.subTest(name):
                text = self.ok("help", name)
                self.assertEqual(text, self.ok(name, "--help"))
                self.assertTrue(text.startswith(f"usage: sbx {name}"))
                self.assertIn(f".SS sbx {name}", manual)

    @unittest.skipUnless(shutil.which("groff"), "groff is not installed")
    def test_the_manual_is_roff_without_warnings(self):
        got = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z"], input=sbx("man").stdout,
                             capture_output=True, check=False)
        self.assertEqual((got.returncode, got.stderr), (0, b""))

    def complete(self, *words):
        script = (f'source <("{SBX}" completion bash); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
                  'PATH="$BIN:$PATH"; _sbx; printf "%s\\n" "${COMPREPLY[@]}"')
        got = subprocess.run(["bash", "-c", script, "-", *words], capture_output=True, text=True,
                             env=environment(BIN=sandboxd.BIN), check=False)
        self.assertEqual((got.returncode, got.stderr), (0, ""))
        return got.stdout.split()

    def test_completion_works_in_bash(self):
        self.assertEqual(self.complete("sbx", "sta"), ["start", "stats"])
        self.assertEqual(self.complete("sbx", "create", "--si"), ["--size"])
        self.assertEqual(self.complete("sbx", "ls", "--state", "run"), ["running"])
        self.assertEqual(self.complete("sbx", "--json", "ls", "-s", "pau"), ["pausing", "paused"])
        self.assertEqual(self.complete("sbx", "help", "ev"), ["events"])
        box = api.create()["id"]
        self.assertEqual(self.complete("sbx", "get", box[:4]), [box])
        self.assertEqual(self.complete("sbx", "cp", box[:4]), [box + ":"])
        api.delete(f"/sandboxes/{box}")

    @unittest.skipUnless(shutil.which("zsh"), "zsh is not installed")
    def test_completion_is_read_by_zsh(self):
        got = subprocess.run(["zsh", "-n"], input=sbx("completion", "zsh").stdout,
                             capture_output=True, check=False)
        self.assertEqual((got.returncode, got.stderr), (0, b""))


class ReadmeTest(CliCase):
    def test_the_readme_shows_what_works(self):
        text = (sandboxd.REPO / "README.md").read_text()
        block = text.split("## The command line")[1].split("```sh\n")[1].split("```")[0]
        got = subprocess.run(["bash", "-euc", block], stdin=subprocess.DEVNULL, capture_output=True,
                             text=True, timeout=60, check=False,
                             env=environment(PATH=f"{sandboxd.BIN}:{os.environ['PATH']}"))
        self.assertEqual((got.returncode, got.stderr), (0, ""))
        lines = got.stdout.splitlines()
        self.assertRegex(lines[0], sandboxd.ID)
        self.assertEqual(lines[1:3], ["hello from user", "42"])
        self.assertIn(f"{lines[0]}  demo  running", got.stdout)
        self.assertEqual(lines[-2:], [lines[0]] * 2)


class LifecycleTest(CliCase):
    def create(self, *words):
        return self.ok("create", "-t", "box", *words).strip()

    def test_a_sandbox_is_made_shown_listed_moved_and_deleted(self):
        box = self.create("-n", "cli-life", "-s", "nano", "-e", "A=1", "-e", "HOME", "-m", "team=x",
                          "--timeout", "10m", "--idle", "5m", "--on-idle", "stop", "--pids", "50",
                          "--network", "none")
        self.assertRegex(box, sandboxd.ID)
        told = json.loads(self.ok("get", "--json", "cli-life"))
        self.assertEqual(told["id"], box)
        self.assertEqual((told["envNames"], told["metadata"]), (["A", "HOME"], {"team": "x"}))
        self.assertEqual((told["timeoutSeconds"], told["onIdle"], told["limits"]["pids"]),
                         (600, "stop", 50))
        self.assertRegex(self.ok("get", box), r"(?m)^state +running$")
        table = self.ok("ls", "-m", "team=x").splitlines()
        self.assertEqual(table[0].split(), "ID NAME STATE TEMPLATE CPUS MEMORY AGE ENDS IN REASON"
                         .split())
        self.assertRegex(table[1], rf"^{box}  cli-life  running  box +0.5  256 MB +\ds +(10|9)m  -$")
        self.assertEqual(self.ok("ls", "-q", "--name", "cli-life"), box + "\n")
        for verb, state in (("pause", "paused"), ("resume", "running"), ("stop", "stopped"),
                            ("start", "running"), ("restart", "running")):
            self.assertEqual(self.ok(verb, "cli-life"), box + "\n")
            self.assertEqual(api.state(box), state)
        self.assertEqual(self.ok("rm", "cli-life"), box + "\n")
        self.assertEqual(self.ok("ls", "-q", "-m", "team=x"), "")
        self.ok("rm", box)  # again, for a day
        self.fails(125, "no sandbox", "rm", "a" * 20)
        self.ok("rm", "-f", "a" * 20)

    def test_limits_and_the_main_process_are_passed_on(self):
        box = self.create("--cpus", "0.5", "--memory", "0.5G", "--", "sh", "-c", "echo main-ran")
        self.assertEqual(api.sandbox(box)["limits"]["memoryMb"], 512)
        wait_for(lambda: "main-ran" in self.ok("logs", box), what="the main process")
        self.ok("rm", box)

    def test_what_the_server_refuses_is_told_with_its_field(self):
        got = self.fails(125, "limits.memoryMb: must be", "create", "-t", "box", "--memory", "1M")
        self.assertRegex(got.stderr.decode(), "request id")
        self.fails(125, "template", "create", "-t", "nothing-of-that-name")
        self.fails(2, "not a size", "create", "--memory", "much")
        self.fails(2, "not a time", "create", "--timeout", "soon")
        self.fails(2, "NAME=VALUE|is not set here", "create", "-e", "NOT_SET_ANYWHERE")

    def test_a_name_must_be_known_and_unambiguous(self):
        self.fails(125, 'no sandbox with the id or name "nobody"', "get", "nobody")
        boxes = [self.create("-n", "twin") for _ in range(2)]
        got = self.fails(125, "several sandboxes", "get", "twin")
        for box in boxes:
            self.assertIn(box, got.stderr.decode())
        self.ok("rm", *boxes)

    def test_one_of_several_that_fails_does_not_keep_the_others(self):
        box = self.create()
        self.fails(125, "no sandbox", "rm", "a" * 20, box)
        self.assertEqual(api.state(box), "deleted")

    def test_a_list_of_several_pages_is_one_document(self):
        box = self.create("-n", "paged")
        service.psql("INSERT INTO sandboxes SELECT (jsonb_populate_record(s, jsonb_build_object("
                     "'id', 'z' || lpad(n::text, 19, '0'), 'state', 'stopped', 'token', '\\x' || md5(n::text)))).*"
                     f" FROM sandboxes s, generate_series(1, 450) n WHERE id = '{box}'")
        listed = json.loads(self.ok("ls", "--json", "--name", "paged"))
        self.assertEqual((len(listed["items"]), listed["nextCursor"]), (451, None))
        self.assertEqual(len(self.ok("ls", "-q", "--name", "paged").split()), 451)
        self.assertEqual(len(self.ok("ls", "-q", "--name", "paged", "--limit", "201").split()), 201)
        service.psql("DELETE FROM sandboxes WHERE id LIKE 'z0000%'")
        self.ok("rm", box)

    def test_a_create_is_repeated_by_its_key(self):
        one = self.create("--idempotency-key", "cli-key-1")
        self.assertEqual(self.create("--idempotency-key", "cli-key-1"), one)
        self.ok("rm", one)

    def test_names_that_would_steer_a_terminal_are_shown_as_escapes(self):
        box = api.create(name="n\u202ex", metadata={"k": "\x1b]0;gotcha\x07"})["id"]
        shown = self.ok("get", box) + self.ok("ls")
        self.assertNotIn("\x1b", shown)
        self.assertNotIn("\u202e", shown)
        self.assertIn("\\x1b]0;gotcha\\a", shown)
        self.assertIn("n\\u202ex", shown)
        self.ok("rm", box)


class TerminalTableTest(CliCase):
    def test_a_table_fits_the_terminal_and_has_colours_there_only(self):
        box = api.create(name="a-name-that-is-rather-long-for-a-table-of-this-size")["id"]
        for cols in (40, 60, 100):
            with self.subTest(cols):
                terminal = Terminal("ls", cols=cols, env={"COLUMNS": ""})
                terminal.resize(cols, 30)
                self.assertEqual(terminal.end(), 0)
                lines = terminal.shown.decode().split("\r\n")
                self.assertIn("\x1b[32mrunning\x1b[0m", terminal.shown.decode())
                plain = [re.sub(r"\x1b\[\d*m", "", line) for line in lines]
                self.assertLessEqual(max(map(len, plain)), cols, plain)
                self.assertIn(box, plain[1])
        for words, env in ((["ls"], {"NO_COLOR": "1"}), (["ls", "--no-color"], {})):
            terminal = Terminal(*words, env=env)
            self.assertEqual(terminal.end(), 0)
            self.assertNotIn(b"\x1b", terminal.shown)
        self.assertNotIn("\x1b", self.ok("ls"))
        api.delete(f"/sandboxes/{box}")


class StreamTest(CliCase):
    @classmethod
    def setUpClass(cls):
        cls.box = api.create(name="cli-streams")["id"]

    @classmethod
    def tearDownClass(cls):
        api.delete(f"/sandboxes/{cls.box}")

    def follow(self, *words, **env):
        process = Follower(*words, **env)
        self.addCleanup(process.close)
        return process

    def test_logs_are_shown_from_the_start_in_pages_by_tail_and_with_their_times(self):
        api.exec(self.box, "i=0; while [ $i -lt 450 ]; do i=$((i+1)); echo p$i; done")
        api.exec(self.box, r"printf 'nul\0and\377bytes\n'")
        got = wait_for(lambda: (lambda out: out if b"bytes" in out else None)(
            sbx("logs", self.box, "--source", "exec").stdout), what="the last line")
        lines = got.split(b"\n")
        self.assertEqual([line for line in lines if line.startswith(b"p")],
                         [b"p%d" % i for i in range(1, 451)])
        self.assertIn(b"nul\0and\xffbytes", lines)
        self.assertEqual(sbx("logs", self.box, "--tail", 1).stdout, b"nul\0and\xffbytes\n")
        timed = sbx("logs", "-t", "--tail", 2, "cli-streams").stdout
        self.assertRegex(timed, rb"^\d{4}-\d\d-\d\dT\S+Z \d+ exec p450\n")

    def test_a_log_that_is_followed_goes_on_after_a_lost_connection(self):
        proxy = parts.TcpProxy(api.server.port)
        self.addCleanup(proxy.close)
        follower = self.follow("logs", "-f", "--tail", "0", self.box,
                               SBX_URL=f"http://127.0.0.1:{proxy.port}")

        def first():  # a stream begins with what comes once it is there
            api.exec(self.box, "echo first")
            return b"first" in follower.lines
        wait_for(first, what="a line")
        for number in range(3):
            proxy.set("reset")
            api.exec(self.box, f"echo missed{number}")
            proxy.set("pass")
            wait_for(lambda: b"missed%d" % number in follower.lines, 30, "what was missed")
        wanted = [b"missed%d" % i for i in range(3)]
        self.assertEqual([line for line in follower.lines if line != b"first"], wanted)

    def test_events_are_listed_and_followed(self):
        follower = self.follow("events", "-f", "--json")
        made = []

        def more():
            made.append(self.ok("create", "-t", "box").strip())
            return follower.lines
        wait_for(more, what="an event")
        first = json.loads(follower.lines[0])
        self.assertIn(first["sandboxId"], made)
        self.ok("rm", *made)
        text = self.ok("events", "--sandbox", made[-1])
        self.assertRegex(text, rf"(?m)^\S+Z {made[-1]} sandbox.creating$")
        self.assertRegex(text, rf"(?m)^\S+Z {made[-1]} sandbox.running from creating$")
        last = self.ok("events", "--tail", 1, "--type", "sandbox.deleted", "--sandbox", made[-1])
        self.assertRegex(last, rf"^\S+Z {made[-1]} sandbox.deleted from deleting: deleted")

    def test_a_stream_that_may_not_be_read_is_told(self):
        self.fails(125, "no sandbox", "logs", "-f", "a" * 20)
        self.fails(2, "--tail x: not a whole number", "logs", "--tail", "x", self.box)


class ExecTest(CliCase):
    @classmethod
    def setUpClass(cls):
        cls.box = api.create(name="cli-exec")["id"]

    @classmethod
    def tearDownClass(cls):
        api.delete(f"/sandboxes/{cls.box}")

    def exec(self, *words, **more):
        return sbx("exec", *words, **more)

    def test_output_goes_where_it_belongs_and_the_status_is_the_commands(self):
        got = self.exec(self.box, "echo out; echo err >&2; exit 7")
        self.assertEqual((got.returncode, got.stdout, got.stderr), (7, b"out\n", b"err\n"))
        got = self.exec("cli-exec", "printf", "%s|", "a b", "$HOME", "-n")
        self.assertEqual((got.returncode, got.stdout), (0, b"a b|$HOME|-n|"))
        self.assertEqual(self.exec(self.box, "kill -9 $$").returncode, 137)
        self.assertEqual(self.exec(self.box, "no-such-program-here", "x").returncode, 127)

    def test_bytes_come_as_they_were_written(self):
        script = r"i=0; while [ $i -lt 256 ]; do printf \\$(printf %o $i); i=$((i+1)); done"
        self.assertEqual(self.exec(self.box, script).stdout, bytes(range(256)))
        self.assertEqual(self.exec(self.box, r"printf 'a\0b'; printf 'c\0' >&2").stdout, b"a\0b")
        got = self.exec(self.box, "head -c 20000000 /dev/zero")
        self.assertEqual((got.returncode, len(got.stdout), got.stdout.strip(b"\0")),
                         (0, 20000000, b""))

    def test_environment_directory_and_user(self):
        got = self.exec("-e", "A=x=y", "-e", "FROM_HERE", "-w", "/tmp", "-u", "root", self.box,
                        "echo $A $FROM_HERE; pwd; id -u", env={"FROM_HERE": "here"})
        self.assertEqual(got.stdout, b"x=y here\n/tmp\n0\n")
        self.fails(125, "cwd", "exec", "-w", "/nowhere", self.box, "true")

    def test_a_time_limit_kills_and_tells(self):
        got = self.fails(137, "time limit", "exec", "--timeout", "300ms", self.box, "sleep 60")
        self.assertLess(len(got.stderr), 200)
        self.fails(2, "not a time", "exec", "--timeout", "x", self.box, "true")

    def test_with_json_every_event_is_a_line(self):
        got = self.exec("--json", self.box, "echo a; exit 3")
        events = [json.loads(line) for line in got.stdout.splitlines()]
        self.assertEqual([e["type"] for e in events], ["start", "stdout", "exit"])
        self.assertEqual((got.returncode, events[-1]["exitCode"]), (3, 3))

    def test_a_sandbox_that_is_stopped_is_told(self):
        box = api.create()["id"]
        api.move(box, "stop")
        self.fails(125, "stopped", "exec", box, "true")
        api.delete(f"/sandboxes/{box}")

    def test_output_waits_for_a_slow_reader_with_a_bounded_memory(self):
        process = subprocess.Popen([SBX, "exec", self.box, "yes"], env=environment(),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.assertEqual(process.stdout.read(4), b"y\ny\n")
        sizes = []

        def steady():
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            sizes.append(int(re.search(r"VmRSS:\s+(\d+)", status).group(1)))
            return len(sizes) > 40 and sizes[-1] == sizes[-20]
        wait_for(steady, what="memory that does not grow")
        self.assertLess(sizes[-1], 40000)
        process.stdout.close()
        process.kill()
        process.wait()


if __name__ == "__main__":
    unittest.main()
