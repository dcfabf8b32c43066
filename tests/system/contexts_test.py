"""Contexts: interpreters that keep their state between runs of a sandbox."""
import json
import threading
import time
import unittest

import sandboxd
from run_code_test import events_of, run_stream, text
from sandboxd import Client, SystemCase, all_at_once, wait_for
import run_code_test

TIMEOUT_S = 600
DEAF = ("import time\nwhile True:\n  try:\n    time.sleep(60)\n"
        "  except BaseException:\n    pass")

service = api = None


def setUpModule():
    global service, api
    service, api = sandboxd.module_service()
    run_code_test.service, run_code_test.api = service, api


def make(box, runtime="python", client=None, status=201, headers=None, **more):
    got = (client or api).post(f"/sandboxes/{box}/contexts", {"runtime": runtime, **more},
                               headers=headers)
    if got.status != status:
        raise AssertionError(got)
    return got.json


def cell(box, context, code, runtime="python", client=None, status=200, **more):
    got = (client or api).post(f"/sandboxes/{box}/run", {
        "runtime": runtime, "code": code, "contextId": context["id"], **more})
    if got.status != status:
        raise AssertionError(f"{code!r}: {got}")
    return got.json


def contexts(box, client=None):
    got = (client or api).get(f"/sandboxes/{box}/contexts")
    if got.status != 200:
        raise AssertionError(got)
    return got.json["items"]


def path_of(box, context, more=""):
    return f"/sandboxes/{box}/contexts/{context['id']}{more}"


class PythonTest(SystemCase):
    @classmethod
    def setUpClass(cls):
        cls.box = api.create(template="python")["id"]

    def setUp(self):
        self.context = make(self.box)
        self.addCleanup(lambda: api.delete(path_of(self.box, self.context)))

    def cell(self, code, **more):
        return cell(self.box, self.context, code, **more)

    def out(self, code, **more):
        got = self.cell(code, **more)
        self.assertEqual((got["exitCode"], got["stderr"], got["stateLost"]), (0, "", False), got)
        return got["stdout"]

    def test_variables_imports_and_functions_stay(self):
        self.assertEqual(self.out("import math\nx = 6\ndef f(n):\n    return n * x"), "")
        self.assertEqual(self.out("f(7) + math.floor(0.5)"), "42\n")
        self.assertEqual(self.out("class A: pass\na = A()\nprint(type(a).__module__)\n'last'"),
                         "__main__\n'last'\n")
        self.assertEqual(self.out("import pickle\ntype(pickle.loads(pickle.dumps(a))) is A"),
                         "True\n")
        self.assertEqual(self.out("None"), "")

    def test_await_at_the_top_and_one_loop_for_all(self):
        self.out("import asyncio\nq = asyncio.Queue()\nawait q.put(3)")
        self.assertEqual(self.out("await q.get()"), "3\n")

    def test_an_exception_is_a_result_and_the_context_lives_on(self):
        self.out("x = 1")
        got = self.cell("def f():\n    raise ValueError('no')\nx = 2\nf()")
        self.assertEqual((got["exitCode"], got["stdout"], got["stateLost"]), (1, "", False))
        self.assertNotIn("error", got)
        self.assertIn("raise ValueError('no')", got["stderr"])
        self.assertTrue(got["stderr"].endswith("ValueError: no\n"))
        self.assertNotIn("serve", got["stderr"])
        self.assertEqual(self.cell("x = (")["exitCode"], 1)
        self.assertEqual(self.cell("import sys\nsys.exit(7)")["exitCode"], 7)
        self.assertEqual(self.out("x"), "2\n")

    def test_input_children_and_what_they_write(self):
        self.assertEqual(self.out("import sys, os\nsys.stdin.read()", stdin="one"), "'one'\n")
        self.assertEqual(self.out("input()", stdin="two\nthree"), "'two'\n")
        got = self.cell("os.system('echo out; echo err >&2; cat')", stdin="fed")
        self.assertEqual((got["stdout"], got["stderr"]), ("out\nfed0\n", "err\n"))
        self.assertEqual(self.out("if os.fork():\n    os.wait()\n    print('parent')\n"
                                  "else:\n    print('child')"), "child\nparent\n")
        self.assertEqual(self.out("os.getpid() == os.getpid()"), "True\n")

    def test_streams_that_a_cell_broke_are_whole_in_the_next(self):
        self.cell("import sys\nsys.stdout.close()")
        self.cell("import os\nos.close(1)\nos.close(0)")
        self.cell("import io\nsys.stdout = io.StringIO()")
        self.assertEqual(self.out("print('whole')"), "whole\n")

    def test_output_streams_while_it_is_written(self):
        with run_stream("import time\nprint(1)\ntime.sleep(60)", sandbox=self.box,
                        contextId=self.context["id"], timeout=300000) as stream:
            for _, event in stream.events():
                if event["type"] == "stdout":
                    break
            self.assertEqual(event["data"][:1], "1")
        # whoever leaves has interrupted it, and the state stays
        self.assertEqual(self.out("'here'"), "'here'\n")
        events = events_of("print(2)\n1/0", sandbox=self.box, contextId=self.context["id"])
        self.assertEqual(text(events, "stdout"), b"2\n")
        self.assertIn(b"ZeroDivisionError", text(events, "stderr"))
        self.assertEqual([e["type"] for e in events][-2:], ["result", "exit"])
        self.assertEqual(events[-1]["exitCode"], 1)

    def test_much_and_binary_output(self):
        got = self.cell("print('x' * 3000000)")
        self.assertTrue(got["truncated"])
        self.assertEqual(len(got["stdout"]), 1 << 20)
        got = self.cell("import os\nos.write(1, bytes(range(256)))\nNone")
        self.assertEqual(got["encoding"], "base64")

    def test_a_time_out_interrupts_and_keeps_the_state(self):
        self.out("x = 5")
        got = self.cell("import time\nprint('begun')\ntime.sleep(60)", timeout=300)
        self.assertEqual((got["stdout"], got["error"]["code"], got["stateLost"], got["signal"]),
                         ("begun\n", "timeout", False, "INT"))
        self.assertIn("KeyboardInterrupt", got["stderr"])
        self.assertEqual(self.out("x"), "5\n")

    def test_a_time_out_that_is_not_heard_kills_and_says_that_the_state_is_lost(self):
        self.out("x = 5")
        got = self.cell(DEAF, timeout=300)
        self.assertEqual((got["error"]["code"], got["stateLost"], got["signal"]),
                         ("timeout", True, "KILL"))
        self.assertIn("state is lost", got["error"]["message"])
        self.assertIn("NameError", self.cell("x")["stderr"])
        self.assertEqual([c["state"] for c in contexts(self.box)], ["idle"])

    def test_an_interpreter_that_ends_says_that_the_state_is_lost(self):
        got = self.cell("import os\nos._exit(3)")
        self.assertEqual((got["exitCode"], got["error"]["code"], got["stateLost"]),
                         (None, "context_lost", True))
        self.assertIn("exit code 3", got["stderr"])
        got = self.cell("import ctypes\nctypes.string_at(0)")
        self.assertEqual((got["error"]["code"], got["stateLost"]), ("context_lost", True))
        self.assertEqual(self.out("1 + 1"), "2\n")

    def test_one_at_a_time_in_the_order_of_their_coming(self):
        self.out("import time\nn = 0")
        got = all_at_once(lambda _: self.cell("m = n\ntime.sleep(0.05)\nn = m + 1\nn")["stdout"],
                          range(8), 8)
        self.assertEqual(sorted(int(n) for n in got), list(range(1, 9)))

    def test_who_waits_longer_than_its_time_is_told_so(self):
        with run_stream("import time\nprint(1)\ntime.sleep(60)", sandbox=self.box,
                        contextId=self.context["id"]) as stream:
            for _, event in stream.events():
                if event["type"] == "stdout":
                    break
            self.assertEqual(contexts(self.box)[0]["state"], "busy")
            got = api.post(f"/sandboxes/{self.box}/run", {
                "runtime": "python", "code": "1", "contextId": self.context["id"],
                "timeout": 300})
            self.assert_problem(got, 409, "conflict")
            self.assertIn("busy", got.json["detail"])

    def test_restart_begins_anew_also_while_code_runs(self):
        self.out("x = 1")
        got = api.post(path_of(self.box, self.context, "/restart"), {})
        self.assertEqual((got.status, got.json["id"], got.json["runtime"]),
                         (200, self.context["id"], "python"))
        self.assertIn("NameError", self.cell("x")["stderr"])
        answers = []
        thread = threading.Thread(target=lambda: answers.append(self.cell(DEAF)))
        thread.start()
        wait_for(lambda: contexts(self.box)[0]["state"] == "busy", what="the code's start")
        self.assertEqual(api.post(path_of(self.box, self.context, "/restart"), {}).status, 200)
        thread.join()
        self.assertEqual((answers[0]["error"]["code"], answers[0]["stateLost"]),
                         ("context_lost", True))
        self.assertEqual(self.out("'again'"), "'again'\n")

    def test_delete_ends_it_with_all_that_it_started(self):
        self.out("import subprocess\np = subprocess.Popen(['sleep', '7777'], "
                 "start_new_session=True)")
        self.assertEqual(api.delete(path_of(self.box, self.context)).status, 204)
        self.assertEqual(api.exec(self.box, "pgrep -x -f 'sleep 7777'")["exitCode"], 1)
        self.assertEqual(contexts(self.box), [])
        self.assertEqual(api.delete(path_of(self.box, self.context)).status, 204)
        got = api.post(f"/sandboxes/{self.box}/run", {"runtime": "python", "code": "1",
                                                     "contextId": self.context["id"]})
        self.assert_problem(got, 404, "not_found")

    def test_files_packages_path_and_no_rests(self):
        self.assertEqual(self.out("import os, helper\nprint(helper.X, os.listdir('.'))",
                                  files={"helper.py": "X = 4"}).split()[0], "4")
        left = api.exec(self.box, "ls -a; find /tmp")["stdout"]
        self.assertNotIn(".run-", left)
        self.assertNotIn("context", left)

    def test_the_record_of_a_run_in_a_context(self):
        got = self.cell("1")
        told = run_code_test.record(self.box, got["execId"])
        self.assertEqual((told["kind"], told["runtime"], told["exitCode"], told["state"]),
                         ("run", "python", 0, "finished"))
        got = self.cell("import time; time.sleep(9)", timeout=100)
        told = wait_for(lambda: (lambda x: x if x["error"] else None)(
            api.get(f"/sandboxes/{self.box}/execs/{got['execId']}").json), what="the record")
        self.assertEqual((told["error"], told["timedOut"], told["signal"]),
                         ("timeout", True, "INT"))

    def test_the_list_and_what_it_says(self):
        other = make(self.box, cwd="/tmp", env={"A": "b"})
        self.addCleanup(lambda: api.delete(path_of(self.box, other)))
        got = cell(self.box, other, "import os\nos.environ['A'], os.getcwd()")
        self.assertEqual(got["stdout"], "('b', '/tmp')\n")
        listed = contexts(self.box)
        self.assertEqual([c["id"] for c in listed], [other["id"], self.context["id"]])
        self.assertEqual(api.get(path_of(self.box, other)).json, listed[0])
        self.assertEqual([c["cwd"] for c in listed], ["/tmp", None])
        self.assertGreater(listed[0]["lastUsedAt"], listed[0]["createdAt"])
        self.assertEqual({c["state"] for c in listed}, {"idle"})
        self.assertNotIn("b", json.dumps(listed[0]["cwd"]).replace("tmp", ""))

    def test_an_interrupt_by_signal(self):
        with run_stream("import time\nprint(1)\ntime.sleep(60)", sandbox=self.box,
                        contextId=self.context["id"]) as stream:
            events = stream.events()
            exec_id = next(events)[1]["execId"]
            self.assertEqual(next(events)[1]["data"][:1], "1")
            self.assertEqual(api.post(f"/sandboxes/{self.box}/execs/{exec_id}/signal",
                                      {"signal": "INT"}).status, 204)
            rest = [e for _, e in events]
        self.assertEqual((rest[-1]["exitCode"], rest[-1]["signal"]), (1, None))
        self.assertIn(b"KeyboardInterrupt", text(rest, "stderr"))


class NodeTest(SystemCase):
    runtime = "node"

    @classmethod
    def setUpClass(cls):
        cls.box = api.create(template="node")["id"]

    def setUp(self):
        self.context = make(self.box, self.runtime)
        self.addCleanup(lambda: api.delete(path_of(self.box, self.context)))

    def cell(self, code, **more):
        return cell(self.box, self.context, code, self.runtime, **more)

    def out(self, code, **more):
        got = self.cell(code, **more)
        self.assertEqual((got["exitCode"], got["stderr"], got["stateLost"]), (0, "", False), got)
        return got["stdout"]

    def test_names_stay_and_can_be_declared_again(self):
        self.assertEqual(self.out("const x = 6; let y = 7; class A {}; function f() "
                                  "{ return x * y }"), "")
        self.assertEqual(self.out("f()"), "42\n")
        self.assertEqual(self.out("const x = 1; class A { z = 1 }; [f(), new A().z]"),
                         "[ 7, 1 ]\n")
        self.assertEqual(self.out("const control = 1, run = 2, fs = 3, path = 4; "
                                  "control + run + fs + path"), "10\n")

    def test_imports_requires_and_await(self):
        self.assertEqual(self.out("import fs, { readFileSync as r } from 'node:fs';\n"
                                  "import * as os from 'os';\n"
                                  "[typeof fs.readFileSync, typeof r, os.EOL].join()"),
                         "'function,function,\\n'\n")
        self.assertEqual(self.out("os.EOL.length + require('path').sep.length"), "2\n")
        self.assertEqual(self.out("const v = await new Promise(r => setTimeout(r, 20, 3)); v"),
                         "3\n")
        self.assertEqual(self.out("v + (await import('./m.mjs')).default",
                                  files={"m.mjs": "export default 4"}), "7\n")

    def test_errors_and_exits(self):
        self.out("var x = 1")
        got = self.cell("x = 2; throw new Error('no')")
        self.assertEqual((got["exitCode"], got["stateLost"]), (1, False))
        self.assertIn("Error: no", got["stderr"])
        self.assertNotIn("node:", got["stderr"])
        self.assertIn("SyntaxError", self.cell("const = ;")["stderr"])
        self.assertEqual(self.cell("await Promise.reject(new Error('later'))")["exitCode"], 1)
        self.assertEqual(self.cell("process.exit(7)")["exitCode"], 7)
        self.assertEqual(self.cell("process.exitCode = 8")["exitCode"], 8)
        self.assertIn("late", self.cell("setTimeout(() => { throw new Error('late') }, 1);"
                                        "await new Promise(r => setTimeout(r, 50))")["stderr"])
        self.assertEqual(self.out("x"), "2\n")

    def test_input_and_children(self):
        self.assertEqual(self.out("require('fs').readFileSync(0, 'utf8')", stdin="one"),
                         "'one'\n")
        self.assertEqual(self.out("let s = ''; for await (const d of process.stdin) s += d; s",
                                  stdin="two"), "'two'\n")
        got = self.cell("require('child_process').execSync('echo out; echo err >&2', "
                        "{stdio: 'inherit'}); console.error(1)")
        self.assertEqual((got["stdout"], got["stderr"]), ("out\n", "err\n1\n"))

    def test_time_outs(self):
        self.out("var x = 5")
        for code in ("while (true) {}", "await new Promise(r => setTimeout(r, 60000))"):
            got = self.cell(code, timeout=300)
            self.assertEqual((got["error"]["code"], got["stateLost"]), ("timeout", False), got)
        self.assertEqual(self.out("x"), "5\n")
        got = self.cell("await 1; while (true) {}", timeout=300)
        self.assertEqual((got["error"]["code"], got["stateLost"]), ("timeout", True))
        self.assertEqual(self.out("typeof x"), "'undefined'\n")

    def test_output_streams(self):
        events = events_of("console.log(1); await new Promise(r => setTimeout(r, 50)); "
                           "console.log(2)", runtime=self.runtime, sandbox=self.box,
                           contextId=self.context["id"])
        self.assertEqual(text(events, "stdout"), b"1\n2\n")
        self.assertGreaterEqual(sum(e["type"] == "stdout" for e in events), 2)


class TypeScriptTest(NodeTest):
    runtime = "typescript"

    def test_types_are_dropped_and_enums_work(self):
        self.out("let n: number = 3; enum C { A, B }; interface I { a: string }")
        self.assertEqual(self.out("const i: I = { a: 'x' }; i.a + C.B + n"), "'x13'\n")


class RulesTest(SystemCase):
    def test_bad_requests(self):
        box = api.create(template="python")["id"]
        at = f"/sandboxes/{box}/contexts"
        self.assert_problem(api.post(at, {}), 400, "invalid_request", "runtime")
        self.assert_problem(api.post(at, {"runtime": "cobol"}), 400, "invalid_request", "runtime")
        self.assert_problem(api.post(at, {"runtime": "node"}), 400, "invalid_request", "runtime")
        self.assert_problem(api.post(at, {"runtime": "python", "cwd": "/nowhere"}), 400,
                            "invalid_request", "cwd")
        wait_for(lambda: contexts(box) == [], what="the end of what did not become a context")
        context = make(box)
        for body, field in (({"runtime": "node"}, "runtime"), ({"env": {"A": "b"}}, "env"),
                            ({"contextId": "x" * 21}, "contextId"),
                            ({"contextId": "X" * 20}, "contextId")):
            got = api.post(f"/sandboxes/{box}/run", {"runtime": "python", "code": "1",
                                                     "contextId": context["id"], **body})
            self.assert_problem(got, 400, "invalid_request", field)
        self.assert_problem(api.post("/run", {"runtime": "python", "code": "1",
                                              "contextId": context["id"]}), 400,
                            "invalid_request", "contextId")
        other = Client(api.server, service.key("bob"))
        self.assertEqual(other.get(at).status, 404)
        self.assertEqual(other.post(at, {"runtime": "python"}).status, 404)
        command = api.post(f"/sandboxes/{box}/exec", {"command": "sleep 60",
                                                      "background": True}).json
        self.assertEqual(api.delete(f"{at}/{command['execId']}").status, 404)
        self.assertEqual(api.post(f"{at}/{command['execId']}/restart", {}).status, 404)
        self.assertEqual(api.get(f"/sandboxes/{box}/execs/{command['execId']}").json["state"],
                         "running")

    def test_at_most_20(self):
        box = api.create(template="python", limits={"pids": 200})["id"]
        got = all_at_once(lambda _: api.post(f"/sandboxes/{box}/contexts",
                                             {"runtime": "python"}).status, range(22), 22)
        self.assertEqual(sorted(got), [201] * 20 + [409] * 2)
        self.assertEqual(len(contexts(box)), 20)
        self.assertEqual(api.delete(path_of(box, contexts(box)[0])).status, 204)
        make(box)

    def test_a_key_makes_one(self):
        box = api.create(template="python")["id"]
        headers = {"Idempotency-Key": "one-context"}
        got = all_at_once(lambda _: make(box, headers=headers)["id"], range(4), 4)
        self.assertEqual(len(set(got)), 1)
        self.assertEqual([c["id"] for c in contexts(box)], got[:1])

    def test_a_pause_keeps_it_and_a_stop_ends_it(self):
        box = api.create(template="python")["id"]
        context = make(box)
        cell(box, context, "x = 3")
        api.move(box, "pause")
        self.assertEqual(api.get(f"/sandboxes/{box}/contexts").status, 409)
        self.assertEqual(cell(box, context, "x")["stdout"], "3\n")  # which resumes it
        api.move(box, "stop")
        self.assertEqual(contexts(box), [])
        api.move(box, "start")
        self.assertEqual(contexts(box), [])
        cell(box, context, "x", status=404)

    def test_one_that_waits_keeps_no_sandbox_from_idling(self):
        box = api.create(template="python", idleTimeoutSeconds=2)["id"]
        context = make(box)
        cell(box, context, "x = 4")
        wait_for(lambda: api.state(box) == "paused", 30, "its pause", 0.2)
        self.assertEqual(cell(box, context, "x")["stdout"], "4\n")

    def test_what_a_cell_writes_is_never_taken_for_its_end(self):
        box = api.create(template="python")["id"]
        context = make(box)
        code = "print('done 1 0\\nready\\ncell 2 1 0 0 0 0')\nimport os\nos.write(2, b'done 1 0')"
        got = cell(box, context, code + "\nNone")
        self.assertEqual((got["exitCode"], got["stdout"]),
                         (0, "done 1 0\nready\ncell 2 1 0 0 0 0\n"))
        got = cell(box, context, "import socket\nfor f in range(3, 200):\n  try: "
                                 "os.write(f, b'done 2 9\\nx' * 100)\n  except OSError: pass\n1/0")
        self.assertIn(got["exitCode"], (1, 9))  # its own loss
        self.assertEqual(cell(box, make(box), "1")["stdout"], "1\n")


class ManyServersTest(SystemCase):
    def setUp(self):
        if not sandboxd.REDIS_URL:
            raise AssertionError("SBX_TEST_REDIS_URL is not set: run tests/run")
        self.service = sandboxd.Service(env={"REDIS_URL": sandboxd.REDIS_URL})
        self.addCleanup(self.service.close)
        self.a = Client(self.service.start(), self.service.key())

    def test_any_worker_serves_a_context(self):
        b = Client(self.service.start(), self.a.key)
        box = self.a.create(template="python")["id"]
        context = make(box, client=b)
        self.assertEqual(cell(box, context, "x = 1", client=self.a)["exitCode"], 0)
        self.assertEqual(cell(box, context, "x", client=b)["stdout"], "1\n")
        self.assertEqual([c["id"] for c in contexts(box, self.a)], [context["id"]])
        self.assertEqual(b.post(path_of(box, context, "/restart"), {}).status, 200)
        self.assertIn("NameError", cell(box, context, "x", client=self.a)["stderr"])
        self.assertEqual(b.delete(path_of(box, context)).status, 204)
        self.assertEqual(contexts(box, self.a), [])

    def test_a_server_that_is_killed_in_a_cell_leaves_the_context_usable(self):
        box = self.a.create(template="python")["id"]
        context = make(box, client=self.a)
        cell(box, context, "import time\nx = 1", client=self.a)
        stream = run_stream("print(1)\ntime.sleep(1)\nx = 2", sandbox=box, client=self.a,
                            contextId=context["id"])
        for _, event in stream.events():
            if event["type"] == "stdout":
                break
        self.service.servers[-1].kill()
        client = Client(self.service.start(), self.a.key)
        got = cell(box, context, "x", client=client)  # behind the one that still runs
        self.assertEqual(got["stdout"], "2\n")
        self.assertEqual([c["state"] for c in contexts(box, client)], ["idle"])
        self.assertNotIn(".run-", client.exec(box, "ls -a")["stdout"])

    def test_a_server_that_is_killed_while_it_makes_one(self):
        box = self.a.create(template="python")["id"]
        for ms in (5, 40, 90):
            key = {"Idempotency-Key": f"made-{ms}"}
            thread = threading.Thread(target=self.try_make, args=(box, key))
            thread.start()
            time.sleep(ms / 1000)
            self.service.servers[-1].kill()
            thread.join()
            self.a = Client(self.service.start(), self.a.key)
            context = make(box, client=self.a, headers=key)
            self.assertEqual([c["id"] for c in contexts(box, self.a)], [context["id"]])
            self.assertEqual(cell(box, context, "1", client=self.a)["stdout"], "1\n")
            self.assertEqual(self.a.delete(path_of(box, context)).status, 204)

    def try_make(self, box, key):
        try:
            make(box, client=self.a, headers=key)
        except (AssertionError, OSError, sandboxd.http.client.HTTPException):
            pass


if __name__ == "__main__":
    unittest.main()
