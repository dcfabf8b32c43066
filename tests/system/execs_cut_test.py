"""Commands whose container, engine or channel is lost: records that tell so, requests that go on."""
import concurrent.futures
import unittest

import parts
import sandboxd
from sandboxd import SystemCase, wait_for

service = api = None


def setUpModule():
    global service, api
    service, api = sandboxd.module_service()


def begin(client, box, command, **more):
    got = client.post(f"/sandboxes/{box}/exec", {"command": command, "background": True, **more})
    assert got.status == 202, got
    return got.json["execId"]


def command(client, box, exec_id):
    got = client.get(f"/sandboxes/{box}/execs/{exec_id}")
    assert got.status == 200, got
    return got.json


class LostTest(SystemCase):
    """The end of a command is not heard when its container dies hard."""

    def setUp(self):
        self.box = api.create()["id"]

    def die(self):
        service.engine.call("POST", f"/containers/sbx-{self.box}/kill")
        wait_for(lambda: api.state(self.box) == "failed", 10, "the failure")

    def recorded(self):
        return service.psql("SELECT count(*) FROM sandbox_executions WHERE duration_ms IS NULL"
                            f" AND sandbox = '{self.box}'")

    def assert_lost(self, exec_id):
        told = command(api, self.box, exec_id)
        self.assertEqual((told["state"], told["error"], told["exitCode"], told["signal"]),
                         ("failed", "lost", None, None))
        self.assertGreaterEqual(told["durationMs"], 0)
        self.assertIsNotNone(told["finishedAt"])
        items = api.get(f"/sandboxes/{self.box}/execs").json["items"]
        self.assertEqual([x for x in items if x["execId"] == exec_id], [told])
        got = api.get(f"/sandboxes/{self.box}/execs/{exec_id}/output")
        self.assertEqual((got.status, got.json["nextCursor"]), (200, None))
        self.assertEqual([e["type"] for e in got.json["items"]][-1], "error")
        self.assertIn("lost", got.json["items"][-1]["message"])

    def test_one_that_was_running_when_its_container_was_killed(self):
        one = begin(api, self.box, "sleep 1000")
        wait_for(lambda: self.recorded() == "1", what="the record of its start")
        self.assertEqual(command(api, self.box, one)["state"], "running")
        self.assertEqual(len(api.get(f"/sandboxes/{self.box}/execs").json["items"]), 1)
        self.die()
        self.assert_lost(one)
        self.assertEqual(self.recorded(), "0")
        api.move(self.box, "start")
        self.assert_lost(one)
        self.assert_problem(api.post(f"/sandboxes/{self.box}/execs/{one}/signal",
                                     {"signal": "TERM"}), 409, "conflict")

    def test_one_that_had_only_just_begun(self):
        one = begin(api, self.box, "sleep 1000")
        self.die()
        self.assert_lost(one)

    def test_one_that_was_ended_by_a_stop_is_not_lost(self):
        one = begin(api, self.box, "trap 'exit 5' TERM; while :; do sleep 0.1; done")
        wait_for(lambda: self.recorded() == "1", what="the record of its start")
        api.move(self.box, "stop", {"graceSeconds": 5})
        told = command(api, self.box, one)
        self.assertEqual((told["state"], told["exitCode"], told["error"]), ("finished", 5, None))

    def test_one_in_a_paused_sandbox_runs_by_its_record(self):
        one = begin(api, self.box, "sleep 1000")
        wait_for(lambda: self.recorded() == "1", what="the record of its start")
        api.move(self.box, "pause")
        told = command(api, self.box, one)
        self.assertEqual((told["state"], told["durationMs"], told["finishedAt"]),
                         ("running", None, None))

    def test_a_record_that_came_too_late_is_found_to_be_lost(self):
        one = begin(api, self.box, "sleep 1000")
        self.die()
        service.psql("UPDATE sandbox_executions SET duration_ms = NULL, error = ''"
                     f" WHERE id = '{one}'")  # as if written while the sandbox's end was
        told = command(api, self.box, one)
        self.assertEqual((told["state"], told["error"], told["finishedAt"]), ("failed", "lost", None))
        got = api.get(f"/sandboxes/{self.box}/execs/{one}/output").json
        self.assertEqual([e["type"] for e in got["items"]], ["error"])
        api.move(self.box, "start")
        self.assert_lost(one)


class CutTest(parts.BehindProxy):
    """The engine's connections are cut; the agent, and what it runs, go on."""

    def cut(self):
        self.proxy.set("reset")
        wait_for(lambda: not self.proxy.pairs, what="the cut")
        self.proxy.set("pass")

    def running(self):
        items = self.client.get(f"/sandboxes/{self.box}/execs").json["items"]
        return [x["execId"] for x in items if x["state"] == "running"]

    def test_a_request_that_waits_is_answered_with_the_whole_output(self):
        script = ("i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line$i; [ $i != 150 ] || "
                  "while [ ! -e /tmp/go ]; do sleep 0.05; done; done; echo end >&2; exit 7")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self.client.exec, self.box, script)
            wait_for(self.running, what="the command")
            self.cut()
            self.client.exec(self.box, "true")  # by another channel
            self.cut()
            self.client.exec(self.box, "touch /tmp/go")
            told = waiting.result(30)
        self.assertEqual(told["stdout"].split(), [f"line{i}" for i in range(1, 301)])
        self.assertEqual((told["stderr"], told["exitCode"], told["truncated"]), ("end\n", 7, False))

    def test_one_that_ends_while_nobody_hears_it_is_answered(self):
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self.client.exec, self.box, "echo first; sleep 1; echo second; exit 3")
            wait_for(self.running, what="the command")
            self.proxy.set("reset")
            self.assertFalse(concurrent.futures.wait([waiting], 1.5).done)
            self.proxy.set("pass")
            told = waiting.result(30)
        self.assertEqual((told["stdout"], told["exitCode"]), ("first\nsecond\n", 3))

    def test_who_follows_the_output_of_a_command_in_the_background_goes_on(self):
        script = "i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo line$i; sleep 0.005; done; exit 4"
        one = begin(self.client, self.box, script)
        seen = []
        with self.client.stream("GET", f"/sandboxes/{self.box}/execs/{one}/output") as stream:
            for number, event in stream.events():
                seen.append((int(number), event))
                if len(seen) == 20:
                    self.cut()
        text = "".join(e["data"] for _, e in seen if e["type"] == "stdout")
        self.assertEqual(text.split(), [f"line{i}" for i in range(1, 401)])
        self.assertEqual(seen[-1][1]["exitCode"], 4)

    def test_a_stream_goes_on_with_every_line_once(self):
        script = "i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo line$i; sleep 0.005; done; exit 4"
        with self.client.exec_stream(self.box, script) as stream:
            seen = []
            for number, event in stream.events():
                seen.append((int(number), event))
                if len(seen) == 20:
                    self.cut()
        text = "".join(e["data"] for _, e in seen if e["type"] == "stdout")
        self.assertEqual(text.split(), [f"line{i}" for i in range(1, 401)])
        self.assertEqual([n for n, _ in seen], list(range(1, len(seen) + 1)))
        self.assertEqual(seen[-1][1]["exitCode"], 4)


if __name__ == "__main__":
    unittest.main()
