"""Sandboxes under gVisor: commands, output, terminals, files, and stats told by the engine.

Limits of memory and processes are not tested here: where cgroups are of version 1 this runtime has to be
told to leave them alone (--ignore-cgroups), and then enforces neither."""
import json
import shutil
import unittest

import parts
import sandboxd
from sandboxd import Client, SystemCase, wait_for
from terminal_test import Terminal

RUNSC = shutil.which("runsc")
api = box = None


def setUpModule():
    global api, box
    if not RUNSC:
        return
    own = parts.PrivateEngine()
    own.arguments = ("--config-file", own.folder / "daemon.json")
    (own.folder / "daemon.json").write_text(json.dumps({"runtimes": {"runsc": {
        "path": RUNSC, "runtimeArgs": ["--platform=ptrace", "--ignore-cgroups", "--network=host"]}}}))
    unittest.addModuleCleanup(own.remove)
    own.start()
    service = sandboxd.Service(engine_=own.api, env={"DOCKER_HOST": own.host, "SBX_RUNTIME": "runsc"})
    unittest.addModuleCleanup(service.close)
    api = Client(service.start(), service.key())
    box = api.create()["id"]


@unittest.skipUnless(RUNSC, "gVisor (runsc) is not installed here")
class GvisorTest(SystemCase):
    def test_it_is_gvisor(self):
        self.assertIn("gVisor", api.exec(box, "dmesg")["stdout"])
        self.assertEqual(api.sandbox(box)["runtime"], "runsc")

    def test_commands_have_output_input_codes_signals_and_time_outs(self):
        got = api.exec(box, "echo out; echo err >&2; id -u; exit 3")
        self.assertEqual((got["stdout"], got["stderr"], got["exitCode"]), ("out\n1000\n", "err\n", 3))
        self.assertEqual(api.exec(box, "wc -c", stdin="x" * 100000)["stdout"].strip(), "100000")
        got = api.exec(box, "setsid sleep 1000 & sleep 1000", timeoutMs=500)
        self.assertEqual((got["timedOut"], got["signal"]), (True, "KILL"))
        wait_for(lambda: "sleep" not in api.exec(box, "ps")["stdout"], what="the end of the tree")
        text = "".join(f"line{i}\n" for i in range(20000))
        self.assertEqual(api.exec(box, "i=0; while [ $i -lt 20000 ]; do echo line$i; i=$((i+1)); done")
                         ["stdout"], text)
        with api.exec_stream(box, "echo one; sleep 0.2; echo two; exit 4") as stream:
            events = [e for _, e in stream.events()]
        self.assertEqual("".join(e.get("data", "") for e in events), "one\ntwo\n")
        self.assertEqual(events[-1]["exitCode"], 4)

    def test_a_command_in_the_background_is_followed_and_killed(self):
        one = api.post(f"/sandboxes/{box}/exec", {"command": "echo on; sleep 1000",
                                                  "background": True}).json["execId"]
        with api.stream("GET", f"/sandboxes/{box}/execs/{one}/output") as stream:
            events = stream.events()
            self.assertEqual([next(events)[1]["type"] for _ in range(2)], ["start", "stdout"])
            self.assertEqual(api.delete(f"/sandboxes/{box}/execs/{one}").status, 204)
            self.assertEqual(next(events)[1]["signal"], "KILL")

    def test_a_terminal(self):
        with Terminal("?cols=90&rows=30", box, api) as t:
            t.type(b"stty size; tty\n")
            t.until_text(rb"30 90")
            t.say(type="resize", cols=77, rows=22)
            t.type(b"stty size\n")
            t.until_text(rb"22 77")
            t.type(b"exit 5\n")
            self.assertEqual(t.until_control("exit")["exitCode"], 5)

    def test_where_its_terminals_know_no_end_of_file_one_can_leave_all_the_same(self):
        with Terminal("?command=cat", box, api) as t:
            t.type(b"typed\n")
            t.until_text(rb"typed\r\ntyped\r\n")
            t.type(b"\x04")  # gVisor of 2022 neither ends the file for ^D nor sends a signal for ^C
            self.assertEqual(api.delete(f"/sandboxes/{box}/execs/{t.id}").status, 204)
            self.assertIn(t.until_control("exit")["exitCode"], (0, 137))

    def test_files_both_ways(self):
        content = bytes(range(256)) * 20000
        path = f"/sandboxes/{box}/files?path=/tmp/x"
        self.assertEqual(api.call("PUT", path, content).status, 201)
        self.assertEqual(api.get(path).body, content)
        self.assertEqual(api.exec(box, "wc -c </tmp/x")["stdout"].strip(), str(len(content)))
        self.assertEqual(api.post(f"/sandboxes/{box}/files/batch",
                                  {"files": {"/tmp/d/a": "1", "/tmp/d/b": "2"}}).status, 200)
        names = [e["name"] for e in api.get(f"/sandboxes/{box}/files/list?path=/tmp/d").json["items"]]
        self.assertEqual(sorted(names), ["a", "b"])
        packed = api.get(f"/sandboxes/{box}/files/archive?path=/tmp/d")
        self.assertEqual(packed.status, 200)
        self.assertEqual(api.call("PUT", f"/sandboxes/{box}/files/archive?path=/tmp/e", packed.body,
                                  {"Content-Type": "application/gzip"}).status, 200)
        self.assertEqual(api.exec(box, "cat /tmp/e/*/a /tmp/e/a 2>/dev/null")["stdout"], "1")
        self.assert_problem(api.get(f"/sandboxes/{box}/files?path=/tmp/none"), 404, "not_found", "path")

    def test_stats_say_what_is_known(self):
        told = api.get(f"/sandboxes/{box}/stats")
        self.assertEqual(told.status, 200, told)
        self.assertEqual(told.json["sandboxId"], box)
        self.assertIn(told.json["source"], ("agent", "engine"))
        self.assertGreaterEqual(told.json["pids"], 0)


if __name__ == "__main__":
    unittest.main()
