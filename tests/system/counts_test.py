"""How many engine calls and SQL statements each request costs: speed that no loaded machine blurs.

Proxies between the server and its engine and database count. What the server does by itself, at
its own times (heartbeat, reaper, batches), is told apart by the statements' names.
"""

import contextlib
import os
import pathlib
import re
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))
from lab import DEFAULT_HOST, Lab, wait_for  # noqa: E402
from scale import Crowd, sleeper, viewer  # noqa: E402
from taps import DatabaseTap, EngineTap  # noqa: E402
import sandboxd  # noqa: E402
from wire import request  # noqa: E402

QUICK = True

# Not for a request: each comes once per tick or batch, however many requests there are. The
# heartbeat is not among them: its connection prepares nothing, so its text is seen.
BY_ITSELF = {"SANDBOX_REAP", "SANDBOX_OVERDUE", "SANDBOX_ADOPTABLE", "SANDBOX_ALL",
             "SANDBOX_COUNTS", "SANDBOX_PURGE", "SANDBOX_WATCHED", "RUN_ORPHANS", "EVENT_PURGE",
             "SANDBOX_TOUCH", "EXEC_INSERT", "POOL_LIST", "POOL_SLOTS", "POOL_COUNT",
             "PACKAGES_OVERDUE", "PACKAGES_EVICT", "PACKAGES_ALL",
             "KEYS_USED", "KEYS_ENDED", "AUDIT_INSERT", "AUDIT_PURGE",
             "USAGE_METER", "QUOTA_OVER", "SPENDING_ALERTS", "RUN_RELEASE", "USAGE_PURGE",
             "SANDBOX_GET"}  # the last after the engine's events about an end
# A key is looked up again after a second; see auth.c.
KEY = "KEY_BY_HASH"
# The sweep's, and the stream of events.
ENGINE_BY_ITSELF = {"GET /containers/json", "GET /events", "GET /_ping", "GET /volumes"}

CREATE_CALLS = ["GET /images/{name}/json", "POST /containers/create",
                "POST /containers/{id}/attach", "POST /containers/{id}/start"]
DELETE_CALLS = ["DELETE /containers/{id}"]


class Counts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.taps = [EngineTap(os.environ.get("DOCKER_HOST") or DEFAULT_HOST)]

        def wrap(url):
            cls.taps.append(DatabaseTap(url))
            return cls.taps[1].url
        for tap in cls.taps:
            cls.addClassCleanup(tap.close)
        cls.lab = Lab(engine_host=cls.taps[0].url, wrap_database=wrap)
        cls.addClassCleanup(cls.lab.close)
        cls.addClassCleanup(cls.taps[1].close)
        cls.image = cls.lab.image()
        cls.wire = cls.lab.wire()
        # What only the first request of its kind does (the agent's volume) is not counted.
        cls.sandbox = cls.lab.create(cls.wire, cls.image)["id"]
        cls.lab.exec(cls.wire, cls.sandbox, ["true"])

    def counted(self, work):
        """(engine calls, statements) of a request."""
        engine, database = self.taps
        engine.take()
        database.take()
        work()
        calls = [c for c in engine.take() if c not in ENGINE_BY_ITSELF]
        statements = [s for s in database.take()
                      if s not in BY_ITSELF and "public.workers" not in s]
        return calls, statements

    def without_key(self, statements):
        self.assertLessEqual(statements.count(KEY), 1)
        return [s for s in statements if s != KEY]

    def test_a_read_is_one_statement_and_no_engine_call(self):
        def many():
            for _ in range(50):
                self.lab.call(self.wire, "GET", f"/sandboxes/{self.sandbox}")
        began = time.monotonic()
        calls, statements = self.counted(many)
        self.assertEqual((calls, len([s for s in statements if s != KEY])), ([], 50))
        self.assertEqual(set(statements) - {KEY}, {"SANDBOX_GET_OWNED"})
        self.assertLessEqual(statements.count(KEY), time.monotonic() - began + 1)

    def test_many_viewers_of_a_paused_sandbox_cost_one_engine_call_a_second(self):
        client = sandboxd.Client(self.lab, self.lab.key)
        box = self.lab.create(self.wire, self.image)["id"]
        client.move(box, "pause")
        with contextlib.ExitStack() as stack:
            viewers = [stack.enter_context(client.stream(
                "GET", f"/sandboxes/{box}/stats?intervalMs=100")) for _ in range(20)]
            for viewer_ in viewers:
                viewer_.next()
            self.taps[0].take()
            began = time.monotonic()
            for _ in range(5):
                for viewer_ in viewers:
                    self.assertEqual(viewer_.next()[1]["source"], "engine")
            calls = self.taps[0].take().count("GET /containers/{id}/stats")
            took = time.monotonic() - began
        self.assertGreaterEqual(took, 2)
        self.assertTrue(1 <= calls <= took + 1, (calls, took))
        client.delete(f"/sandboxes/{box}")

    def test_a_bad_key_asks_the_database_once_a_second_at_most(self):
        sent = request("GET", f"/sandboxes/{self.sandbox}", None,
                       {"Authorization": "Bearer sbx_" + "a" * 8 + "_" + "b" * 40})
        told, began = [], time.monotonic()
        calls, statements = self.counted(
            lambda: told.extend(self.wire.exchange(sent)[0] for _ in range(30)))
        self.assertEqual(set(told), {401})
        self.assertEqual((calls, set(statements)), ([], {KEY}))
        self.assertLessEqual(len(statements), time.monotonic() - began + 1)

    def test_an_administrator_looks_up_an_owner_once(self):
        key = self.lab.another_key("root", "--role", "admin")
        sent = request("GET", f"/sandboxes/{self.sandbox}", None, {"Authorization": f"Bearer {key}"})
        told = []
        calls, statements = self.counted(
            lambda: told.extend(self.wire.exchange(sent)[0] for _ in range(30)))
        self.assertEqual(set(told), {200})
        self.assertEqual((calls, statements.count("OWNER_OF"),
                          statements.count("SANDBOX_GET_OWNED")), ([], 1, 30))

    def test_an_exec_is_one_statement_and_no_engine_call(self):
        calls, statements = self.counted(
            lambda: self.lab.exec(self.wire, self.sandbox, ["true"]))
        self.assertEqual((calls, self.without_key(statements)), ([], ["SANDBOX_GET_OWNED"]))

    def test_code_in_a_sandbox_is_one_statement_and_no_engine_call(self):
        told = []
        sent = request("POST", f"/sandboxes/{self.sandbox}/run",
                       {"runtime": "python", "code": "print(1)"}, self.lab.auth)
        calls, statements = self.counted(lambda: told.append(self.wire.exchange(sent)))
        self.assertEqual(told[0][0], 200)
        self.assertEqual((calls, self.without_key(statements)), ([], ["SANDBOX_GET_OWNED"]))

    def test_code_in_a_sandbox_of_its_own_is_a_create_and_a_delete(self):
        told = []
        sent = request("POST", "/run", {"runtime": "python", "code": "print(1)"}, self.lab.auth)

        def whole():
            told.append(self.wire.exchange(sent))
            wait_for(lambda: self.lab.count(
                "sandboxes", "run IS NOT NULL AND state = 'deleted'") == 1, "its deletion")
        calls, statements = self.counted(whole)
        self.assertEqual(told[0][0], 200)
        self.assertEqual(calls, CREATE_CALLS + DELETE_CALLS)
        self.assertEqual(self.without_key(statements),
                         ["SANDBOX_INSERT", "SANDBOX_SET_STATE"] +
                         ["SANDBOX_GET_OWNED", "SANDBOX_SET_STATE"] * 2)

    def test_a_file_is_read_and_written_by_one_statement_and_no_engine_call(self):
        for method, route, body in (("GET", "files?path=/etc/passwd", None),
                                    ("GET", "files/stat?path=/etc/passwd", None),
                                    ("POST", "files/batch", {"files": {"/tmp/x": "1"}})):
            told = []
            sent = request(method, f"/sandboxes/{self.sandbox}/{route}", body, self.lab.auth)
            calls, statements = self.counted(lambda s=sent, t=told: t.append(self.wire.exchange(s)))
            self.assertEqual(told[0][0], 200)
            self.assertEqual((calls, self.without_key(statements)), ([], ["SANDBOX_GET_OWNED"]))

    def test_a_command_in_a_group_is_one_statement_and_one_for_each_member(self):
        boxes = [self.lab.create(self.wire, self.image)["id"] for _ in range(3)]
        for box in boxes:
            self.addCleanup(self.lab.delete, self.wire, box)
        made = self.lab.call(self.wire, "POST", "/groups", {"name": "g", "sandboxes": boxes})
        told = {}
        calls, statements = self.counted(lambda: told.update(self.lab.call(
            self.wire, "POST", f"/groups/{made['id']}/exec", {"command": ["true"]})))
        self.assertEqual([r["exitCode"] for r in told["results"]], [0] * 3)
        self.assertEqual((calls, self.without_key(statements)),
                         ([], ["GROUP_GET"] + ["SANDBOX_GET_OWNED"] * 3))

    def test_a_batch_costs_what_its_creates_cost(self):
        told = {}
        calls, statements = self.counted(lambda: told.update(self.lab.call(
            self.wire, "POST", "/sandboxes/batch",
            {"count": 3, "sandbox": {"image": self.image}})))
        for item in told["items"]:
            self.addCleanup(self.lab.delete, self.wire, item["sandbox"]["id"])
        self.assertEqual(sorted(calls), sorted(CREATE_CALLS * 3))
        self.assertEqual(sorted(self.without_key(statements)),
                         sorted(["SANDBOX_INSERT", "SANDBOX_SET_STATE"] * 3))

    def test_a_hundred_execs_are_recorded_in_batches(self):
        def many():
            for _ in range(100):
                self.lab.exec(self.wire, self.sandbox, ["true"])
            wait_for(lambda: self.lab.count("sandbox_executions") >= before + 100, "the records")
        before = self.lab.count("sandbox_executions")
        self.taps[1].take()
        began = time.monotonic()
        many()
        statements = self.taps[1].take()
        batches = (time.monotonic() - began) / 0.5 + 2  # one per half a second
        self.assertLessEqual(statements.count("EXEC_INSERT"), batches)
        self.assertLessEqual(statements.count("SANDBOX_TOUCH"), batches)
        self.assertLess(statements.count("EXEC_INSERT"), 100)

    def test_a_create_is_four_engine_calls_and_two_statements(self):
        made = {}
        calls, statements = self.counted(
            lambda: made.update(self.lab.create(self.wire, self.image)))
        self.addCleanup(self.lab.delete, self.wire, made["id"])
        self.assertEqual(calls, CREATE_CALLS)
        self.assertEqual(self.without_key(statements), ["SANDBOX_INSERT", "SANDBOX_SET_STATE"])

    def test_a_delete_is_one_engine_call_and_three_statements(self):
        made = self.lab.create(self.wire, self.image)
        calls, statements = self.counted(lambda: self.lab.delete(self.wire, made["id"]))
        self.assertEqual(calls, DELETE_CALLS)
        self.assertEqual(self.without_key(statements),
                         ["SANDBOX_GET_OWNED", "SANDBOX_SET_STATE", "SANDBOX_SET_STATE"])

    def move(self, sandbox, verb, body=None):
        calls, statements = self.counted(
            lambda: self.lab.call(self.wire, "POST", f"/sandboxes/{sandbox}/{verb}", body))
        return calls, self.without_key(statements)

    def test_a_pause_is_one_engine_call_and_three_statements_and_a_resume_as_well(self):
        box = self.lab.create(self.wire, self.image)["id"]
        self.addCleanup(self.lab.delete, self.wire, box)
        three = ["SANDBOX_GET_OWNED", "SANDBOX_SET_STATE", "SANDBOX_SET_STATE"]
        self.assertEqual(self.move(box, "pause"), (["POST /containers/{id}/pause"], three))
        self.assertEqual(self.move(box, "resume"), (["POST /containers/{id}/unpause"], three))

    def test_a_renewal_is_one_statement_and_no_engine_call(self):
        self.assertEqual(self.move(self.sandbox, "keepalive"), ([], ["SANDBOX_RENEW"]))

    def test_a_change_of_time_outs_is_two_statements_and_no_engine_call(self):
        calls, statements = self.counted(lambda: self.lab.call(
            self.wire, "PATCH", f"/sandboxes/{self.sandbox}", {"timeoutSeconds": 600}))
        self.assertEqual((calls, self.without_key(statements)),
                         ([], ["SANDBOX_GET_OWNED", "SANDBOX_PATCH"]))

    def test_hundreds_that_wait_hold_no_thread_and_ask_nothing(self):
        box = self.lab.create(self.wire, self.image, limits={"pids": 1000})["id"]
        self.addCleanup(self.lab.delete, self.wire, box)
        groups = [{"request": viewer(self.lab, box), "count": 200, "upgrade": True},
                  {"request": sleeper(self.lab, box), "count": 100, "upgrade": False}]

        def sleeping():
            told = self.lab.exec(self.wire, box, "ps | grep -c '[s]leep 60$'")
            return int(told["stdout"]) == 100

        def many():
            for _ in range(50):
                self.lab.call(self.wire, "GET", f"/sandboxes/{box}")
        threads = self.lab.threads()
        with Crowd(self.lab, groups) as crowd:
            wait_for(sleeping, "a hundred commands that wait")
            calls, statements = self.counted(many)
            self.assertEqual((calls, len([s for s in statements if s != KEY])), ([], 50))
            self.assertEqual(self.lab.threads(), threads)
        self.assertEqual(crowd.closed, 0)

    def test_a_page_of_events_is_one_statement(self):
        calls, statements = self.counted(
            lambda: self.lab.call(self.wire, "GET", "/events?limit=5"))
        self.assertEqual((calls, self.without_key(statements)), ([], ["EVENT_LIST"]))

    def test_a_hundred_viewers_of_events_share_their_reads(self):
        wires = [self.lab.wire() for _ in range(100)]
        for wire in wires:
            self.addCleanup(wire.close)
            wire.sock.sendall(request("GET", "/events", None,
                                      {**self.lab.auth, "Accept": "text/event-stream"}))
        self.assertTrue(all(wire.sock.recv(12) == b"HTTP/1.1 200" for wire in wires))
        self.taps[1].take()
        self.lab.delete(self.wire, self.lab.create(self.wire, self.image)["id"])
        for wire in wires:
            seen = b""
            while b"sandbox.deleted" not in seen:
                more = wire.sock.recv(65536)
                self.assertTrue(more, "the stream ended")
                seen += more
        reads = [s for s in self.taps[1].take() if s in ("EVENT_LIST", "EVENT_TAIL")]
        self.assertLessEqual(len(reads), 8)  # four events, and what joining asks for

    def test_an_idle_server_asks_the_database_a_few_times_a_second(self):
        began, seen = time.monotonic(), []

        def beats():  # of the heart: what happens between two, however long that is
            seen.extend(self.taps[1].take())
            return sum("INTO public.workers" in s for s in seen) >= 5
        self.taps[1].take()
        wait_for(beats, "five heartbeats", timeout=60)
        self.assertLess(len(seen) / (time.monotonic() - began), 6, seen)


class PoolCounts(unittest.TestCase):
    """A create that a pool serves."""

    @classmethod
    def setUpClass(cls):
        cls.taps = [EngineTap(os.environ.get("DOCKER_HOST") or DEFAULT_HOST)]

        def wrap(url):
            cls.taps.append(DatabaseTap(url))
            return cls.taps[1].url
        for tap in cls.taps:
            cls.addClassCleanup(tap.close)
        cls.lab = Lab(engine_host=cls.taps[0].url, wrap_database=wrap, variables={
            "SBX_TEMPLATES": f"box={sandboxd.box_image()}", "SBX_POOL": "box=2"})
        cls.addClassCleanup(cls.lab.close)
        cls.addClassCleanup(cls.taps[1].close)
        cls.wire = cls.lab.wire()

    def ready(self):
        with self.lab.wire() as wire:
            page = wire.exchange(request("GET", "/metrics"))[-1].decode()
        return re.search(r"^sandboxd_pool_ready{.*} 2$", page, re.M)

    def create(self, **spec):
        wait_for(self.ready, "two that wait", timeout=60)
        for tap in self.taps:
            tap.take()
        made = self.lab.call(self.wire, "POST", "/sandboxes", {"template": "box", **spec}, {201})
        calls = [c for c in self.taps[0].take() if c not in ENGINE_BY_ITSELF]
        statements = [s for s in self.taps[1].take() if s not in BY_ITSELF and s != KEY
                      and "public.workers" not in s]
        self.addCleanup(self.lab.delete, self.wire, made["id"])
        self.assertTrue(made["warm"])
        return calls, statements

    def test_a_warm_create_is_one_statement_and_no_engine_call(self):
        self.assertEqual(self.create(name="a", env={"A": "1"}, metadata={"b": "c"},
                                     timeoutSeconds=60, command=["true"]),
                         ([], ["SANDBOX_CLAIM"]))

    def test_other_limits_are_an_engine_call_and_a_statement_more(self):
        calls, statements = self.create(limits={"memoryMb": 300})
        self.assertEqual(calls, ["POST /containers/{id}/update"])
        self.assertEqual(statements, ["SANDBOX_CLAIM", "SANDBOX_SET_STATE"])


if __name__ == "__main__":
    unittest.main()
