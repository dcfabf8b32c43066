"""Runs of code: POST /run and POST /sandboxes/{id}/run."""
import base64
import json
import threading
import time
import unittest

import sandboxd
from sandboxd import Client, SystemCase, all_at_once, wait_for

TIMEOUT_S = 600

service = api = None


def setUpModule():
    global service, api
    service, api = sandboxd.module_service()


def body_of(code, runtime="python", **more):
    return {"runtime": runtime, "code": code, **more}


def run(code, runtime="python", sandbox=None, client=None, status=200, **more):
    path = f"/sandboxes/{sandbox}/run" if sandbox else "/run"
    got = (client or api).post(path, body_of(code, runtime, **more), timeout=180)
    if got.status != status:
        raise AssertionError(f"run {code[:200]!r}: {got}")
    return got.json


def run_stream(code, runtime="python", sandbox=None, client=None, **more):
    path = f"/sandboxes/{sandbox}/run" if sandbox else "/run"
    return (client or api).stream("POST", path, body_of(code, runtime, **more), timeout=120)


def events_of(code, **more):
    with run_stream(code, **more) as stream:
        if stream.status != 200:
            raise AssertionError(stream.response.read())
        return [event for _, event in stream.events()]


def text(events, kind):
    return b"".join(base64.b64decode(e["data"]) if e.get("encoding") == "base64"
                    else e["data"].encode() for e in events if e["type"] == kind)


def runs(client=None):
    """The sandboxes of runs that are there."""
    return [s for s in (client or api).every() if "run" in s["metadata"]]


def record(sandbox, exec_id, client=None):
    def look():
        got = (client or api).get(f"/sandboxes/{sandbox}/execs/{exec_id}")
        told = got.json if got.status == 200 else {}
        return told if "packages" in told or told.get("error") not in (None, "lost") else None
    return wait_for(look, what="the record of a run")


def wait_deleted(sandbox, client=None):
    wait_for(lambda: (client or api).state(sandbox) == "deleted", 20, "the sandbox's end")
    assert not service.container_exists(sandbox)


class OneShotTest(SystemCase):
    def test_the_result_and_what_stays_of_it(self):
        got = run("import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.exit(3)")
        self.assertEqual((got["stdout"], got["stderr"], got["exitCode"]), ("out\n", "err\n", 3))
        self.assertEqual((got["signal"], got["truncated"], got["packagesInstalled"]),
                         (None, False, []))
        self.assertNotIn("error", got)
        self.assertGreater(got["duration"], 0)
        wait_deleted(got["sandboxId"])
        told = record(got["sandboxId"], got["execId"])
        self.assertEqual((told["kind"], told["runtime"], told["state"], told["exitCode"],
                          told["error"]), ("run", "python", "finished", 3, None))
        self.assertEqual(told["command"], ["python3", "-u", "main.py"])
        listed = api.get(f"/sandboxes/{got['sandboxId']}/execs").json["items"]
        self.assertEqual([x["execId"] for x in listed], [got["execId"]])

    def test_a_run_that_fails_is_a_success_of_the_request(self):
        got = run("raise ValueError('no')")
        self.assertEqual(got["exitCode"], 1)
        self.assertIn('File "/home/user/main.py", line 1', got["stderr"])
        self.assertIn("ValueError: no", got["stderr"])
        self.assertNotIn("error", got)

    def test_files_env_stdin_limits(self):
        got = run("import os, sys, helper, json\n"
                  "print(helper.f(), open('data/raw.bin', 'rb').read(), os.environ['A'], "
                  "sys.stdin.read(), os.getcwd(), oct(os.stat('tool').st_mode & 0o777))\n"
                  "print(os.listdir('.'))",
                  files={"helper.py": "def f(): return 'helped'",
                         "data/raw.bin": {"content": base64.b64encode(b"\0\xff").decode(),
                                          "encoding": "base64"},
                         "tool": {"content": "x", "mode": "755"}},
                  env={"A": "b c"}, stdin="given", vcpus=0.5, memoryMb=256)
        self.assertEqual(got["exitCode"], 0, got)
        first = got["stdout"].splitlines()[0]
        self.assertEqual(first, r"helped b'\x00\xff' b c given /home/user 0o755")
        limits = api.sandbox(got["sandboxId"])["limits"]
        self.assertEqual((limits["cpus"], limits["memoryMb"]), (0.5, 256))

    def test_the_sandbox_is_listed_while_it_runs_and_goes_with_all_that_was_started(self):
        events = iter(())
        with run_stream("import os, time\n"
                        "if os.fork() == 0:\n"
                        "    os.setsid()\n"
                        "    if os.fork() == 0:\n"
                        "        os.close(1); os.close(2); time.sleep(600)\n"
                        "    os._exit(0)\n"
                        "print('started', flush=True)\ninput()",
                        stdin="") as stream:
            events = stream.events()
            start = next(events)[1]
            self.assertEqual(start["type"], "start")
            there = api.sandbox(start["sandboxId"])
            self.assertEqual(there["metadata"], {"run": "python"})
            self.assertIn(start["sandboxId"], [s["id"] for s in runs()])
            rest = [e for _, e in events]
        self.assertEqual(rest[-1]["type"], "exit")
        wait_deleted(start["sandboxId"])

    def test_code_of_10_mb_and_beyond(self):
        line = "x = 'é' # " + "#" * 89 + "\n"
        code = line * ((10 << 20) // len(line.encode()) - 1)
        got = run(code + "print('end')")
        self.assertEqual(got["stdout"], "end\n", got["stderr"][-300:])
        self.assert_problem(api.post("/run", body_of("#" * ((10 << 20) + 1))), 400,
                            "invalid_request", "code")
        self.assert_problem(api.post("/run", body_of("#" * (33 << 20))), 413, "payload_too_large")

    def test_infinite_output_is_bounded_and_the_rest_is_dropped(self):
        got = run("import sys\nwhile True: sys.stdout.write('y' * 65536)", timeout=2000)
        self.assertEqual(len(got["stdout"]), 1 << 20)
        self.assertTrue(got["truncated"])
        self.assertEqual(got["error"]["code"], "timeout")

    def test_output_that_is_no_utf8(self):
        got = run("import os\nos.write(1, b'\\xff\\x00a'); os.write(2, b'plain')")
        self.assertEqual(got["encoding"], "base64")
        self.assertEqual(base64.b64decode(got["stdout"]), b"\xff\x00a")
        self.assertEqual(base64.b64decode(got["stderr"]), b"plain")

    def test_a_time_out_kills_the_tree_and_keeps_what_was_written(self):
        got = run("import subprocess\nprint('before')\nsubprocess.run(['sleep', '100'])",
                  timeout=700)
        self.assertEqual(got["error"]["code"], "timeout")
        self.assertEqual((got["stdout"], got["exitCode"], got["signal"]), ("before\n", 137, "KILL"))
        told = record(got["sandboxId"], got["execId"])
        self.assertEqual((told["error"], told["timedOut"], told["state"]),
                         ("timeout", True, "finished"))

    def test_out_of_memory_is_told(self):
        got = run("x = bytearray(600 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1",
                  memoryMb=256)
        self.assertEqual(got["error"]["code"], "oom", got)
        self.assertEqual(got["exitCode"], 137)

    def test_a_run_can_be_deleted_while_it_runs(self):
        with run_stream("import time\nprint(1)\ntime.sleep(100)") as stream:
            events = stream.events()
            sandbox = next(events)[1]["sandboxId"]
            self.assertEqual(api.delete(f"/sandboxes/{sandbox}").status, 204)
            rest = [e for _, e in events]
        self.assertEqual([e["type"] for e in rest][-3:], ["error", "result", "exit"])
        self.assertEqual(rest[-3]["code"], "gone")
        self.assertIsNone(rest[-1]["exitCode"])


class NodeTest(SystemCase):
    @classmethod
    def setUpClass(cls):
        told = run("console.log(process.versions.node.split('.')[0])", "node")
        cls.major = int(told["stdout"])

    def needs_22(self):
        if self.major < 22:
            self.skipTest(f"the template has Node.js {self.major}: types and modules need 22")

    def ok(self, code, want, runtime="node", **more):
        got = run(code, runtime, **more)
        self.assertEqual((got["stdout"], got["exitCode"]), (want, 0), got)

    def test_common_js(self):
        self.ok("const fs = require('fs'); console.log(typeof fs.readFileSync, require('./h').x)",
                "function 7\n", files={"h.js": "module.exports.x = 7"})

    def test_es_modules_with_top_level_await(self):
        self.needs_22()
        self.ok("import {x} from './h.mjs';\nconsole.log(await Promise.resolve(x))", "8\n",
                files={"h.mjs": "export const x = 8"})
        self.ok("console.log(await Promise.resolve(5))", "5\n")
        self.assertEqual(run("import 'node:fs';", "node")["stderr"], "")

    def test_type_script(self):
        self.needs_22()
        self.ok("enum E { A = 4 }\ninterface P { x: number }\n"
                "const f = (p: P): number => p.x + E.A;\nconsole.log(f({x: 1}))", "5\n",
                runtime="typescript")
        got = run("import {g} from './h.ts';\nconsole.log(await g(2))", "typescript",
                  files={"h.ts": "export async function g(n: number): Promise<number> "
                                 "{ return n * 2 }"})
        self.assertEqual((got["stdout"], got["stderr"]), ("4\n", ""))


class StreamTest(SystemCase):
    def test_output_comes_when_it_is_written_and_in_order(self):
        with run_stream("import sys, time\n"
                        "sys.stdout.write('a\\n'); sys.stderr.write('b\\n')\n"
                        "time.sleep(1.5)\nsys.stdout.write('c\\n')") as stream:
            self.assertEqual(stream.status, 200)
            self.assertEqual(stream.headers["Content-Type"], "text/event-stream")
            got = [(time.monotonic(), e) for _, e in stream.events()]
        events = [e for _, e in got]
        self.assertEqual([e["type"] for e in events],
                         ["start", "stdout", "stderr", "stdout", "result", "exit"])
        self.assertGreater(got[3][0] - got[2][0], 1)
        self.assertEqual(text(events, "stdout"), b"a\nc\n")
        self.assertEqual((events[-2]["exitCode"], events[-1]["exitCode"]), (0, 0))
        self.assertEqual(events[-2]["sandboxId"], events[0]["sandboxId"])

    def test_streaming_by_the_body(self):
        got = api.post("/run", body_of("print('1', end='')", streaming=True))
        self.assertEqual(got.headers["Content-Type"], "text/event-stream")
        self.assertIn(b'data: {"type":"stdout","data":"1"}\n\n', got.body)

    def test_a_time_out_and_binary_output(self):
        events = events_of("import os, time\nos.write(1, b'\\xfe')\ntime.sleep(60)", timeout=800)
        self.assertEqual(text(events, "stdout"), b"\xfe")
        self.assertEqual([e["type"] for e in events][-3:], ["error", "result", "exit"])
        self.assertEqual((events[-3]["code"], events[-2]["error"]["code"]),
                         ("timeout", "timeout"))

    def test_more_output_than_fits_anywhere_waits_for_the_client(self):
        events = events_of("import sys\nfor i in range(400): sys.stdout.write('z' * 65536)")
        self.assertEqual(len(text(events, "stdout")), 400 * 65536)
        self.assertFalse(events[-2]["truncated"])

    def test_a_failure_before_the_code_is_a_plain_problem(self):
        with run_stream("1", files={"a/main": "x", "a": "y"}) as stream:
            self.assertEqual(stream.status, 400)
            self.assertEqual(json.loads(stream.response.read())["errors"][0]["field"], "files")


class BadInputTest(SystemCase):
    def refused(self, field, status=400, **body):
        self.assert_problem(api.post("/run", {"runtime": "python", "code": "1", **body}), status,
                            "invalid_request", field)

    def test_fields(self):
        self.refused("runtime", runtime="cobol")
        self.refused("language", language="typescript")
        self.refused("code", code=7)
        self.refused("timeout", timeout=0)
        self.refused("timeout", timeout=3600001)
        self.refused("vcpus", vcpus=0.1)
        self.refused("memoryMb", memoryMb=128)
        self.refused("memory", memory=128)
        self.refused("env", env={"A=B": "1"})
        self.assert_problem(api.post("/run", {"code": "1"}), 400, "invalid_request", "runtime")
        self.assert_problem(api.post("/run", {"runtime": "node"}), 400, "invalid_request", "code")

    def test_files_that_escape_or_clash(self):
        for path in ("../x", "a/../../x", "./../../etc/passwd", "", "main.py", "/etc/passwd",
                     "/proc/self/x", "a/"):
            with self.subTest(path=path):
                self.refused("files", files={path: "x"})
        self.refused("files", files={"a": {"content": "!", "encoding": "base64"}})
        self.refused("files", files={"a": {"content": "x", "mode": "9"}})
        self.assertEqual(run("print(open('b').read())", files={"a/../b": "fine"})["stdout"],
                         "fine\n")
        wait_for(lambda: not runs(), 20, "the end of all runs")

    def test_a_template_that_this_server_does_not_have(self):
        other = sandboxd.Service(templates=f"box={sandboxd.box_image()}")
        self.addCleanup(other.close)
        client = Client(other.start(), other.key())
        self.assert_problem(client.post("/run", body_of("1")), 400, "invalid_request", "runtime")

    def test_keys_need_both_scopes(self):
        for scopes in ("exec:write", "sandbox:write"):
            narrow = Client(api.server, service.key("alice", "--scopes", scopes))
            self.assert_problem(narrow.post("/run", body_of("1")), 403, "forbidden")
        both = Client(api.server, service.key("alice", "--scopes", "exec:write sandbox:write"))
        self.assertEqual(both.post("/run", body_of("print(1)")).status, 200)


class InSandboxTest(SystemCase):
    @classmethod
    def setUpClass(cls):
        cls.box = api.create(template="python")["id"]

    def test_the_file_goes_and_all_else_stays(self):
        got = run("import os\nopen('made', 'w').write('kept')\nprint(sorted(os.listdir('.')))",
                  sandbox=self.box, files={"helper.py": "x = 1"})
        self.assertEqual(got["sandboxId"], self.box)
        name = f".run-{got['execId']}.py"
        self.assertIn(name, got["stdout"])
        again = run("import os, helper\nprint(open('made').read(), helper.x, "
                    "[f for f in os.listdir('.') if 'run' in f])", sandbox=self.box)
        self.assertEqual(again["stdout"], f"kept 1 ['.run-{again['execId']}.py']\n")
        left = api.exec(self.box, "ls -a")["stdout"]
        self.assertNotIn(".run-", left)
        told = record(self.box, got["execId"])
        self.assertEqual((told["kind"], told["runtime"], told["exitCode"]), ("run", "python", 0))
        self.assertEqual(told["command"], ["python3", "-u", name])

    def test_code_that_a_crash_left_is_removed_by_a_later_run(self):
        name = f".run-{run('1', sandbox=self.box)['execId']}.py"
        api.exec(self.box, f"touch {name}; touch -d '3 hours ago' {name.replace('.py', '.ts')}")
        got = run("import os\nprint(*(f for f in os.listdir('.') if '.run-' in f))", sandbox=self.box)
        self.assertEqual(set(got["stdout"].split()), {name, f".run-{got['execId']}.py"})
        api.exec(self.box, f"rm {name}")

    def test_the_runtime_of_a_run_is_known_while_it_goes_on(self):
        for runtime, template, code in (("python", "python", "import time\ntime.sleep(600)"),
                                        ("typescript", "node", "setTimeout(() => {}, 600000)")):
            box = self.box if template == "python" else api.create(template=template)["id"]
            stream = run_stream(code, runtime, sandbox=box)
            start = next(stream.events())[1]
            told = api.get(f"/sandboxes/{box}/execs/{start['execId']}").json
            self.assertEqual((told["state"], told["runtime"]), ("running", runtime))
            stored = wait_for(lambda s=start: service.psql(
                "SELECT runtime FROM sandbox_executions WHERE duration_ms IS NULL"
                f" AND id = '{s['execId']}'"), what="the row")
            self.assertEqual(stored.strip(), runtime)
            api.delete(f"/sandboxes/{box}/execs/{start['execId']}")
            self.assertEqual(list(stream.events())[-1][1]["signal"], "KILL")

    def test_its_lines_are_in_the_log_with_source_run(self):
        got = run("print('logged')", sandbox=self.box)
        line = wait_for(lambda: next((x for x in api.logs(self.box, "?source=run&limit=200")
                                      if x["execId"] == got["execId"]), None), what="the line")
        self.assertEqual((line["data"], line["source"]), ("logged", "run"))

    def test_it_resumes_a_paused_one_and_counts_as_activity(self):
        box = api.create(template="python")["id"]
        api.move(box, "pause")
        before = api.sandbox(box)["lastActiveAt"]
        self.assertEqual(run("print(2)", sandbox=box)["stdout"], "2\n")
        self.assertEqual(api.state(box), "running")
        wait_for(lambda: api.sandbox(box)["lastActiveAt"] > before, what="activity")
        api.move(box, "stop")
        self.assert_problem(api.post(f"/sandboxes/{box}/run", body_of("1")), 409, "conflict")
        api.delete(f"/sandboxes/{box}")
        self.assert_problem(api.post(f"/sandboxes/{box}/run", body_of("1")), 410, "gone")

    def test_others_do_not_see_it(self):
        other = Client(api.server, service.key("bob"))
        self.assert_problem(other.post(f"/sandboxes/{self.box}/run", body_of("1")), 404,
                            "not_found")

    def test_limits_are_not_for_a_sandbox_that_is_there(self):
        self.assert_problem(api.post(f"/sandboxes/{self.box}/run", body_of("1", memoryMb=512)),
                            400, "invalid_request", "memoryMb")

    def test_a_client_that_leaves_ends_the_run_and_not_the_sandbox(self):
        stream = run_stream("import time\nprint('up', end='')\ntime.sleep(600)", sandbox=self.box)
        events = stream.events()
        exec_id = next(events)[1]["execId"]
        self.assertEqual(next(events)[1]["data"], "up")
        running = api.get(f"/sandboxes/{self.box}/execs/{exec_id}").json
        self.assertEqual((running["kind"], running["state"]), ("run", "running"))
        stream.close()
        told = wait_for(lambda: (lambda x: x if x["state"] != "running" else None)(
            api.get(f"/sandboxes/{self.box}/execs/{exec_id}").json), 20, "the run's end")
        self.assertEqual(told["signal"], "KILL")
        wait_for(lambda: ".run-" not in api.exec(self.box, "ls -a")["stdout"], what="no file")
        self.assertEqual(api.state(self.box), "running")

    def test_the_interpreter_is_not_there(self):
        box = api.create()["id"]
        got = run("print(1)", sandbox=box)
        self.assertEqual(got["exitCode"], 127)


class CrowdTest(SystemCase):
    def test_50_at_once_all_succeed(self):
        client = Client(api.server, service.key("crowd"))

        def one(n):
            began = time.monotonic()
            got = client.post("/run", body_of(f"print({n})"), timeout=280)
            return got, time.monotonic() - began

        got = all_at_once(one, range(50), 50)
        self.assertEqual([g.status for g, _ in got], [200] * 50)
        self.assertEqual([g.json["stdout"] for g, _ in got], [f"{n}\n" for n in range(50)])
        took = sorted(t for _, t in got)
        self.assertLess(took[-1], 10 * took[25])
        wait_for(lambda: not runs(client), 60, "the end of all runs", 0.3)


class CrashTest(SystemCase):
    """With a service of its own, as its servers are killed."""

    def setUp(self):
        self.service = sandboxd.Service()
        self.addCleanup(self.service.close)
        self.key = self.service.key()

    def client(self):
        return Client(self.service.start(), self.key)

    def gone(self, client, sandboxes):
        for sandbox in sandboxes:
            wait_for(lambda s=sandbox: client.state(s) in ("deleted", "failed"), 40,
                     "the end of the sandbox", 0.1)
            wait_for(lambda s=sandbox: not self.service.container_exists(s), 40, "no container",
                     0.1)

    def test_a_killed_server_leaves_nothing_and_the_record_says_interrupted(self):
        client = self.client()
        streams = [run_stream("import time\nprint(1)\ntime.sleep(600)", client=client)
                   for _ in range(3)]
        starts = [next(s.events())[1] for s in streams]
        self.service.servers[-1].kill()
        client = self.client()
        self.gone(client, [s["sandboxId"] for s in starts])
        for start in starts:
            told = record(start["sandboxId"], start["execId"], client)
            self.assertEqual((told["kind"], told["runtime"], told["error"], told["state"],
                              told["exitCode"]), ("run", "python", "interrupted", "failed", None))
        self.assertEqual(self.service.containers(), [])

    def test_a_server_that_is_killed_at_any_moment_leaves_nothing(self):
        client = self.client()
        for ms in (20, 150, 320, 450, 600):
            threads = [threading.Thread(target=self.try_run, args=(client,)) for _ in range(3)]
            for thread in threads:
                thread.start()
            time.sleep(ms / 1000)
            self.service.servers[-1].kill()
            for thread in threads:
                thread.join()
            client = self.client()
            self.gone(client, [s["id"] for s in runs(client)])
        wait_for(lambda: self.service.containers() == [], 40, "no container")

    @staticmethod
    def try_run(client):
        try:
            client.post("/run", body_of("print(1)"))
        except OSError:
            pass
        except sandboxd.http.client.HTTPException:
            pass

    def test_a_client_that_leaves_takes_its_sandbox_along(self):
        client = self.client()
        stream = run_stream("import time\nprint(1)\ntime.sleep(600)", client=client)
        started = next(stream.events())[1]
        stream.close()
        self.gone(client, [started["sandboxId"]])
        told = record(started["sandboxId"], started["execId"], client)
        self.assertEqual(told["signal"], "KILL")
        connection = client.connect()
        connection.request("POST", "/run", json.dumps(body_of("print(1)")).encode(),
                           client.headers({"Content-Type": "application/json"}))
        wait_for(lambda: runs(client), what="a create")
        connection.close()
        wait_for(lambda: not [s for s in runs(client) if s["state"] != "failed"], 20, "its end")
        wait_for(lambda: self.service.containers() == [], 20, "no container")

    def test_a_run_in_a_sandbox_goes_on_when_the_server_is_killed(self):
        client = self.client()
        box = client.create(template="python")["id"]
        stream = run_stream("import time\nprint(1)\ntime.sleep(1)\nopen('done', 'w')",
                            sandbox=box, client=client)
        exec_id = next(stream.events())[1]["execId"]
        self.service.servers[-1].kill()
        client = self.client()
        told = wait_for(lambda: (lambda x: x if x.get("state") == "finished" else None)(
            client.get(f"/sandboxes/{box}/execs/{exec_id}").json), 30, "its end")
        self.assertEqual((told["kind"], told["exitCode"]), ("run", 0))
        self.assertEqual(client.exec(box, "test -e done")["exitCode"], 0)

    def test_a_server_that_ends_lets_runs_end(self):
        client = self.client()
        got = []
        thread = threading.Thread(target=lambda: got.append(client.post(
            "/run", body_of("import time\ntime.sleep(2)\nprint('whole')"))))
        thread.start()
        wait_for(lambda: any(s["state"] == "running" for s in runs(client)), what="a run")
        self.assertEqual(self.service.servers[-1].stop(), 0)
        thread.join()
        self.assertEqual(got[0].json["stdout"], "whole\n")
        client = self.client()
        self.gone(client, [s["id"] for s in runs(client)])
        wait_for(lambda: self.service.containers() == [], 20, "no container")



class PoolTest(SystemCase):
    def test_a_run_takes_a_sandbox_that_waits_and_others_are_made(self):
        service_ = sandboxd.Service(env={"SBX_POOL": "python=1"})
        self.addCleanup(service_.close)
        api_ = Client(service_.start(), service_.key())
        admin = Client(api_.server, service_.key("root", "--role", "admin"))

        def waiting():
            return sum(p["ready"] for p in admin.get("/pool").json["items"])

        def empty():
            service_.psql("UPDATE pools SET min = 0, max = 0")
            wait_for(lambda: not service_.containers(), 60, "empty pools")
        self.addCleanup(empty)
        wait_for(waiting, 60, "one that waits")
        got = all_at_once(lambda n: run(f"print({n})", client=api_), range(4), 4)
        self.assertEqual([g["stdout"] for g in got], ["0\n", "1\n", "2\n", "3\n"])
        for g in got:
            wait_for(lambda g=g: api_.state(g["sandboxId"]) == "deleted", 30, "its end")
        warm = [api_.sandbox(g["sandboxId"])["warm"] for g in got]
        self.assertIn(True, warm)
        self.assertIn(False, warm)

    def test_a_sandbox_that_cannot_be_made_stays_failed_and_says_why(self):
        other = sandboxd.Service(templates="python=sbxtest-none-such:1")
        self.addCleanup(other.close)
        client = Client(other.start(), other.key())
        got = client.post("/run", body_of("1"))
        self.assertGreaterEqual(got.status, 400)
        self.assertEqual(client.state(got.json["sandboxId"]), "failed")
        told, = wait_for(lambda: client.get(
            f"/sandboxes/{got.json['sandboxId']}/execs").json["items"], what="a record")
        self.assertEqual((told["kind"], told["state"], told["exitCode"]), ("run", "failed", None))


class TwoWorkersTest(SystemCase):
    def setUp(self):
        if not sandboxd.REDIS_URL:
            raise AssertionError("SBX_TEST_REDIS_URL is not set: run tests/run")
        self.service = sandboxd.Service(env={"REDIS_URL": sandboxd.REDIS_URL})
        self.addCleanup(self.service.close)
        key = self.service.key()
        self.a = Client(self.service.start(), key)
        self.b = Client(self.service.start(), key)

    def test_code_runs_in_a_sandbox_that_another_worker_holds(self):
        box = self.a.create(template="python")["id"]
        got = run("import os\nprint(os.listdir('.'))", sandbox=box, client=self.b)
        self.assertEqual(got["stdout"], f"['.run-{got['execId']}.py']\n")
        for client in (self.a, self.b):
            told = record(box, got["execId"], client)
            self.assertEqual((told["kind"], told["runtime"], told["exitCode"]),
                             ("run", "python", 0))
        self.assertNotIn(".run-", self.a.exec(box, "ls -a")["stdout"])

    def test_the_runs_of_a_worker_that_was_killed_are_ended_by_the_other(self):
        stream = run_stream("import time\nprint(1)\ntime.sleep(600)", client=self.a)
        mine = run_stream("import time\nprint(1)\ntime.sleep(20)\nprint(2)", client=self.b)
        start, other = next(stream.events())[1], next(mine.events())[1]
        self.service.servers[0].kill()
        wait_for(lambda: self.b.state(start["sandboxId"]) == "deleted", 60, "its end", 0.2)
        self.assertEqual(record(start["sandboxId"], start["execId"], self.b)["error"],
                         "interrupted")
        self.assertEqual(self.b.state(other["sandboxId"]), "running")
        rest = [e for _, e in mine.events()]
        self.assertEqual((text(rest, "stdout")[-2:], rest[-1]["exitCode"]), (b"2\n", 0))


if __name__ == "__main__":
    unittest.main()
