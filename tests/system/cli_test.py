"""sbx, the command line, against a real server: configuration, help, sandboxes, streams."""
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import unittest

import cli_harness
import parts
import sandboxd
from cli_harness import CliCase, Follower, SBX, Terminal, covers, environment, sbx
from sandboxd import wait_for

service = api = folder = None


def setUpModule():
    global service, api, folder
    service, api, folder = cli_harness.begin()


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
    @covers("help", "man", "version")
    def test_every_command_explains_itself_in_three_ways(self):
        names = re.findall(r"^  ([a-z]+) {2,}\S", self.ok("--help"), re.M)
        self.assertLessEqual({"create", "ls", "get", "rm", "start", "stop", "pause", "resume",
                              "restart", "exec", "logs", "shell", "cp", "put", "watch", "stats",
                              "events"}, set(names))
        self.assertRegex(self.ok("version"), r"^sbx \d+\.\d+\.\d+\n$")
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
    @covers("completion")
    def test_completion_is_read_by_zsh(self):
        got = subprocess.run(["zsh", "-n"], input=sbx("completion", "zsh").stdout,
                             capture_output=True, check=False)
        self.assertEqual((got.returncode, got.stderr), (0, b""))


    @unittest.skipUnless(shutil.which("zsh"), "zsh is not installed")
    def test_completion_works_in_zsh(self):
        box = api.create()["id"]
        self.addCleanup(api.delete, f"/sandboxes/{box}")
        zsh = Terminal("-f", program=shutil.which("zsh"),
                       env={"PATH": f"{sandboxd.BIN}:{os.environ['PATH']}", "PS1": "> "})
        zsh.type(b"autoload -Uz compinit && compinit -u -D && source <(sbx completion zsh); "
                 b"echo re''ady\r")
        zsh.expect(b"ready\r")
        for typed, completed in ((b"sbx resu\t", b"resume"), (b"sbx ls --state pausi\t", b"pausing"),
                                 (b"sbx get " + box[:6].encode() + b"\t", box[6:].encode())):
            zsh.type(typed)
            zsh.expect(completed)
            zsh.type(b"\x15")  # away with the line
        zsh.type(b"sbx sta\t\t")
        zsh.expect(rb"start\b.*stats\b")
        zsh.type(b"\x15exit 3\r")
        self.assertEqual(zsh.end(), 3)


class StatsTest(CliCase):
    @classmethod
    def setUpClass(cls):
        cls.box = api.create(name="cli-stats", limits={"memoryMb": 256, "pids": 30})["id"]
        cls.addClassCleanup(api.delete, f"/sandboxes/{cls.box}")

    @covers("stats")
    def test_one_sample_is_a_table_of_one_row(self):
        lines = self.ok("stats", "cli-stats").splitlines()
        self.assertEqual(len(lines), 2, lines)
        self.assertRegex(lines[0], r"^TIME +CPU % +MEMORY +PEAK +PIDS +DISK +NET IN +NET OUT +OOM +UP$")
        self.assertRegex(lines[1], r"^\d\d:\d\d:\d\d .*/ 256")

    def test_with_json_it_is_what_the_api_said(self):
        told = json.loads(self.ok("stats", "--json", self.box))
        self.assertEqual((told["sandboxId"], told["source"], told["pidsLimit"]),
                         (self.box, "agent", 30))

    def test_it_goes_on_until_interrupted_or_the_sandbox_ends(self):
        box = api.create()["id"]
        plain = Follower("stats", "-f", "--interval", "200ms", box)
        lines = Follower("stats", "-f", "--json", "--interval", "200ms", box)
        for one in (plain, lines):
            self.addCleanup(one.close)
            wait_for(lambda one=one: len(one.lines) > 3, what="samples")
        self.assertTrue(all(json.loads(line)["sandboxId"] == box for line in lines.lines))
        self.assertTrue(plain.lines[0].startswith(b"TIME"))
        lines.process.send_signal(signal.SIGINT)
        self.assertEqual(lines.process.wait(10), -signal.SIGINT)
        api.delete(f"/sandboxes/{box}")
        self.assertEqual(plain.process.wait(20), 0)

    def test_what_cannot_be_told_is_said(self):
        self.fails(2, "not a time", "stats", "--interval", "often", self.box)
        self.fails(125, "no sandbox", "stats", "a" * 20)
        box = api.create()["id"]
        api.move(box, "stop", {"graceSeconds": 0})
        self.fails(125, "stopped", "stats", box)
        api.delete(f"/sandboxes/{box}")


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

    @covers("create", "get", "ls", "rm", "pause", "resume", "stop", "start", "restart")
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

    @covers("logs")
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
        self.fails(125, 'has the id or name "nobody"', "get", "nobody")
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
                terminal = Terminal("ls", cols=cols)
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

    @covers("events")
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


class Fake(http.server.BaseHTTPRequestHandler):
    """A server that answers what it is told to: for what a real one cannot be made to do."""

    answers, seen = [], []  # (status, headers, body), the last one for good; (method, path)

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append((self.command, self.path, self.headers))
        status, headers, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.send_response(status)
        for name, value in {"Content-Length": len(body), "Connection": "close", **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_DELETE = do_PUT = do_GET

    def log_message(self, *_):
        pass


class StrangeServerTest(CliCase):
    def setUp(self):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fake)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        self.env = {"SBX_URL": f"http://127.0.0.1:{self.server.server_port}"}
        Fake.seen = []

    def answer(self, *answers):
        Fake.answers = list(answers)

    def test_what_may_be_repeated_is_when_the_server_says_when(self):
        busy, empty = (503, {"Retry-After": 0}, b"{}"), (200, {}, b'{"items":[],"nextCursor":null}')
        self.answer(busy, busy, empty)
        got = sbx("-v", "ls", "--json", env=self.env)
        self.assertEqual((got.returncode, len(Fake.seen)), (0, 3))
        self.assertEqual(got.stderr.count(b"the server says 503; again in"), 2)
        Fake.seen = []
        self.answer(busy)
        self.fails(125, "503", "rm", "a" * 20, env=self.env)
        self.assertEqual(len(Fake.seen), 4)
        Fake.seen = []
        self.fails(125, "503", "exec", "a" * 20, "true", env=self.env)
        self.assertEqual(len(Fake.seen), 1, "a command is not started again")
        Fake.seen = []
        self.answer((503, {}, b"{}"))
        self.fails(125, "503", "ls", env=self.env)
        self.assertEqual(len(Fake.seen), 1)

    def test_a_create_is_repeated_with_one_key(self):
        self.answer((503, {"Retry-After": 0}, b"{}"), (201, {}, b'{"id":"' + b"b" * 20 + b'"}'))
        self.assertEqual(self.ok("create", env=self.env), "b" * 20 + "\n")
        keys = [headers["Idempotency-Key"] for _, _, headers in Fake.seen]
        self.assertEqual(len(keys), 2)
        self.assertEqual(len(set(keys)), 1)

    def test_nonsense_is_told_as_such(self):
        for answer, words in (((200, {}, b"<html>"), "no JSON"), ((200, {}, b'{"items":'), "no JSON"),
                              ((200, {}, b"[]"), "no list"),
                              ((404, {}, b"<html>not here"), "no answer of sandboxd"),
                              ((302, {"Location": "/elsewhere"}, b""), "no answer of sandboxd")):
            with self.subTest(answer):
                Fake.seen = []
                self.answer(answer)
                self.fails(125, words, "ls", env=self.env)
                self.assertEqual(len(Fake.seen), 1, "a redirect must not get the key")

    def test_a_problem_cannot_steer_the_terminal(self):
        self.answer((409, {}, json.dumps({"detail": "no\x1b]0;x\x07", "code": "conflict",
                                          "errors": [{"field": "a\x1b[2J", "message": "b\r"}],
                                          "requestId": "r\x1b"}).encode()))
        got = self.fails(125, r"no\\x1b\]0;x\\a", "stop", "a" * 20, env=self.env)
        self.assertIn(b"a\\x1b[2J: b\\r", got.stderr)
        self.assertNotIn(b"\x1b", got.stderr)

    def test_streams_that_are_malformed_end_with_125(self):
        sse = {"Content-Type": "text/event-stream"}
        for body, words in ((b"data: {\n\n", "malformed event"),
                            (b'data: {"type":"exit"}\n\n', "did not tell the exit status"),
                            (b'data: {"type":"start","execId":"x"}\n\n'
                             b'data: {"type":"stdout","data":"?","encoding":"base64"}\n\n',
                             "no base64"),
                            (b'data: {"type":"error","code":"x","message":"it went away"}\n\n',
                             "it went away")):
            with self.subTest(body):
                self.answer((200, sse, body))
                self.fails(125, words, "exec", "a" * 20, "true", env=self.env)

    def test_a_create_whose_answer_is_lost_makes_one_sandbox(self):
        proxy = parts.TcpProxy(api.server.port)
        self.addCleanup(proxy.close)
        proxy.set("hold")
        process = subprocess.Popen([SBX, "create", "-t", "box", "-n", "once"],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   env=environment(SBX_URL=f"http://127.0.0.1:{proxy.port}"))
        wait_for(lambda: [s for s in api.pages("name=once") if s["state"] == "running"],
                 what="the sandbox")
        proxy.set("reset")
        proxy.set("pass")
        made = process.communicate(timeout=60)[0].decode().strip()
        self.assertEqual(process.returncode, 0)
        self.assertEqual([s["id"] for s in api.pages("name=once")], [made])
        self.ok("rm", "once")



if __name__ == "__main__":
    unittest.main()
