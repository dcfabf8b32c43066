"""What a sandbox uses: samples, streams, alerts."""
import time
import unittest

import sandboxd
from sandboxd import Client, SystemCase, wait_for

MIB = 1 << 20
service = client = None


def setUpModule():
    global service, client
    service = sandboxd.Service()
    unittest.addModuleCleanup(service.close)
    client = Client(service.start(), service.key())


def sample(box):
    got = client.get(f"/sandboxes/{box}/stats")
    assert got.status == 200, got
    return got.json


class SampleTest(SystemCase):
    def test_one_sample_is_true(self):
        box = client.create(limits={"cpus": 1, "memoryMb": 256, "pids": 30})["id"]
        first = sample(box)
        self.assertEqual(first["source"], "agent")
        self.assertEqual(first["memoryLimitBytes"], 256 * MIB)
        self.assertEqual((first["pidsLimit"], first["cpus"]), (30, 1))
        self.assertEqual(first["oomKills"], 0)
        self.assertIsNone(first["diskLimitBytes"])
        with client.exec_stream(box, "a=$(head -c 30000000 /dev/zero | tr '\\0' x); sleep 1 & "
                                     "timeout 1 sh -c 'while :; do :; done'; echo ${#a}; sleep 60; :") as s:
            next(e for _, e in s.events() if e["type"] == "stdout")
            busy = sample(box)
            self.assertGreater(busy["cpuTimeMs"], first["cpuTimeMs"] + 100)
            self.assertGreater(busy["memoryBytes"], first["memoryBytes"] + 25 * MIB)
            self.assertLess(busy["memoryBytes"], 256 * MIB)
            self.assertGreaterEqual(busy["pids"], 1)
            self.assertLessEqual(busy["pids"], 30)
            self.assertGreater(busy["cpuPercent"], 2)
            self.assertGreater(busy["uptimeMs"], 1000)

    def test_a_paused_sandbox_is_told_by_the_engine_and_stays_paused(self):
        box = client.create()["id"]
        self.assertEqual(client.post(f"/sandboxes/{box}/pause").status, 200)
        got = sample(box)
        self.assertEqual(got["source"], "engine")
        self.assertGreater(got["memoryBytes"], 0)
        self.assertEqual(client.state(box), "paused")

    def test_what_cannot_be_told_says_why(self):
        box = client.create()["id"]
        client.post(f"/sandboxes/{box}/stop", {"graceSeconds": 0})
        self.assert_problem(client.get(f"/sandboxes/{box}/stats"), 409, "conflict")
        client.delete(f"/sandboxes/{box}")
        self.assert_problem(client.get(f"/sandboxes/{box}/stats"), 410, "gone")
        self.assert_problem(client.get(f"/sandboxes/{'x' * 20}/stats"), 404, "not_found")
        for wrong in ("99", "60001", "x", "-1"):
            got = client.get(f"/sandboxes/{box}/stats?intervalMs={wrong}")
            self.assert_problem(got, 400, "invalid_request")

    def test_reading_is_no_use(self):
        box = client.create()["id"]
        before = client.sandbox(box)["lastActiveAt"]
        for _ in range(3):
            sample(box)
        other = client.create()
        client.exec(other["id"], "true")
        wait_for(lambda: client.sandbox(other["id"])["lastActiveAt"] > other["lastActiveAt"], 10,
                 "the next batch of what was active")
        self.assertEqual(client.sandbox(box)["lastActiveAt"], before)


class StreamTest(SystemCase):
    def test_samples_come_at_the_interval_and_end_with_the_sandbox(self):
        box = client.create()["id"]
        stream = client.stream("GET", f"/sandboxes/{box}/stats?intervalMs=200")
        self.addCleanup(stream.close)
        events = stream.events()
        came = []
        for number in range(1, 6):
            ident, told = next(events)
            self.assertEqual(int(ident), number)
            self.assertEqual(told["sandboxId"], box)
            came.append(time.monotonic())
        self.assertGreater(came[-1] - came[0], 0.7)
        client.delete(f"/sandboxes/{box}")
        rest = [told for _, told in events]
        self.assertEqual(rest[-1], {})

    def test_a_stream_goes_on_while_the_sandbox_is_paused(self):
        box = client.create()["id"]
        stream = client.stream("GET", f"/sandboxes/{box}/stats?intervalMs=100")
        self.addCleanup(stream.close)
        events = stream.events()
        self.assertEqual(next(events)[1]["source"], "agent")
        client.post(f"/sandboxes/{box}/pause")
        self.assertTrue(any(next(events)[1]["source"] == "engine" for _ in range(100)))
        client.post(f"/sandboxes/{box}/resume")
        self.assertTrue(any(next(events)[1]["source"] == "agent" for _ in range(100)))


class AlertTest(SystemCase):
    def alerts(self, box):
        page = client.get(f"/events?sandboxId={box}&type=sandbox.alert").json
        return [e["data"]["reason"]["code"] for e in page["items"]]

    def test_memory_and_processes_near_their_limits_are_told_once(self):
        box = client.create(limits={"memoryMb": 256, "pids": 20})["id"]
        with client.exec_stream(box, "a=$(head -c 98000000 /dev/zero | tr '\\0' x); "
                                     "for i in $(seq 16); do sleep 60 & done; echo up; wait") as s:
            next(e for _, e in s.events() if e["type"] == "stdout")
            wait_for(lambda: any(a.startswith("processes_") for a in self.alerts(box)), 20, "alert")
            told = self.alerts(box)
            self.assertEqual(len(told), len(set(told)))
            reason = client.get(f"/events?sandboxId={box}&type=sandbox.alert").json["items"][0]
            self.assertIn("limit", reason["data"]["reason"]["message"])
        wait_for(lambda: any("limit" in line["data"]
                             for line in client.logs(box, "?source=system")), what="a line of it")


if __name__ == "__main__":
    unittest.main()
