"""Rates of keys and addresses, over HTTP: one worker, two workers over Redis, and without Redis."""
import math
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))
from taps import DatabaseTap  # noqa: E402
import sandboxd  # noqa: E402
from sandboxd import Client, SystemCase, all_at_once, wait_for  # noqa: E402

POLICY = re.compile(r'"(\w+)";q=(\d+);w=(\d+)')
STATE = re.compile(r'"(\w+)";r=(\d+);t=(\d+)')
MADE_UP = "sbx_abcdEFGH_" + "0123456789" * 4

class Redis:
    """A private server, which tests stop, freeze and start again."""

    def __init__(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
             "--appendonly", "no", "--dir", os.environ.get("TMPDIR", "/tmp")],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self.answers, what="redis-server")

    def answers(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as s:
                s.sendall(b"PING\r\n")
                return s.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait(10)
            self.process = None


def setUpModule():
    unittest.addModuleCleanup(sandboxd.remove_images)


class Installation(SystemCase):
    """With a server, a client without a limit and a sandbox; over Redis if `shared`."""
    shared = False

    @classmethod
    def setUpClass(cls):
        env = {}
        if cls.shared:
            cls.redis = Redis()
            cls.addClassCleanup(cls.redis.stop)
            cls.redis.start()
            env["REDIS_URL"] = cls.redis.url
        cls.service = sandboxd.Service(env=env)
        cls.addClassCleanup(cls.service.close)
        cls.server = cls.service.start()
        cls.api = Client(cls.server, cls.service.key())
        cls.box = cls.api.create()["id"]

    def limited(self, rates, *arguments, server=None):
        return Client(server or self.server,
                      self.service.key("alice", "--rates", rates, *arguments))


def told(got):
    """(class, quota, remaining, seconds) of an answer's fields."""
    policy = POLICY.fullmatch(got.headers["RateLimit-Policy"])
    state = STATE.fullmatch(got.headers["RateLimit"])
    assert policy and state and policy[1] == state[1] and policy[3] == "60", got.headers
    return policy[1], int(policy[2]), int(state[2]), int(state[3])


def counter(server, series):
    page = Client(server).get("/metrics").body.decode()
    found = re.search(rf"^{re.escape(series)} ([\d.e+]+)$", page, re.M)
    return float(found.group(1)) if found else 0


class KeyTest(Installation):
    def test_a_key_gets_its_minute_then_429_with_a_time(self):
        client = self.limited("reads=5")
        for left in (4, 3, 2, 1, 0):
            got = client.get("/sandboxes")
            self.assertEqual(got.status, 200)
            self.assertEqual(told(got)[:3], ("reads", 5, left))
        before = counter(self.api.server, 'sandboxd_rate_limited_total{class="reads"}')
        got = client.get("/sandboxes")
        self.assert_problem(got, 429, "rate_limited")
        self.assertIn(int(got.headers["Retry-After"]), range(1, 13))
        self.assertEqual(told(got), ("reads", 5, 0, int(got.headers["Retry-After"])))
        self.assertEqual(counter(self.api.server, 'sandboxd_rate_limited_total{class="reads"}'),
                         before + 1)

    def test_after_the_time_that_was_told_it_goes_on(self):
        client = self.limited("reads=60")
        while (got := client.get("/sandboxes")).status == 200:
            pass
        seconds = int(got.headers["Retry-After"])
        self.assertLessEqual(seconds, 2)
        end = time.monotonic() + seconds
        wait_for(lambda: time.monotonic() >= end, what="the time that was told")
        self.assertEqual(client.get("/sandboxes").status, 200)

    def test_classes_are_counted_apart_and_a_delete_is_no_create(self):
        client = self.limited("creates=1,exec=2,reads=50")
        made = client.create()["id"]
        self.assert_problem(client.post("/sandboxes", {"template": "box"}), 429, "rate_limited")
        self.assert_problem(client.post("/run", {"code": "1", "runtime": "python"}), 429,
                            "rate_limited")
        for _ in range(2):
            client.exec(made, ["true"])
        self.assert_problem(client.post(f"/sandboxes/{made}/exec", {"command": "true"}), 429,
                            "rate_limited")
        self.assertEqual(told(client.get(f"/sandboxes/{made}"))[0], "reads")
        got = client.delete(f"/sandboxes/{made}")
        self.assertEqual(got.status, 204)
        self.assertEqual(told(got)[0], "reads")

    def test_a_batch_and_a_group_count_as_what_they_do(self):
        client = self.limited("creates=3,exec=3")
        self.assert_problem(client.post("/sandboxes/batch", {"count": 4, "sandbox": {}}), 400,
                            "invalid_request")
        got = self.limited("creates=3").post("/sandboxes/batch",
                                        {"count": 3, "sandbox": {"template": "box"}})
        self.assertEqual(got.status, 201, got)
        self.assertEqual(told(got)[:3], ("creates", 3, 0))
        ids = [item["sandbox"]["id"] for item in got.json["items"]]
        group = client.post("/groups", {"name": "g", "sandboxes": ids}).json["id"]  # 2 left
        self.assert_problem(client.post(f"/groups/{group}/exec", {"command": "true"}), 429,
                            "rate_limited")
        other = self.limited("exec=3")
        got = other.post(f"/groups/{group}/exec", {"command": "true"})
        self.assertEqual((got.status, told(got)[:3]), (200, ("exec", 3, 0)))

    def test_streams_and_websockets_tell_and_are_refused(self):
        client = self.limited("reads=2,exec=1")
        with client.stream("GET", f"/sandboxes/{self.box}/logs") as stream:
            self.assertEqual(told(stream)[:3], ("reads", 2, 1))
        with client.websocket(f"/sandboxes/{self.box}/logs") as ws:
            self.assertEqual((ws.status, told(ws)[:3]), (101, ("reads", 2, 0)))
        with client.websocket(f"/sandboxes/{self.box}/logs") as ws:
            self.assertEqual((ws.status, told(ws)[:3]), (429, ("reads", 2, 0)))
        with client.stream("POST", f"/sandboxes/{self.box}/exec", {"command": "true"}) as stream:
            self.assertEqual(told(stream)[:3], ("exec", 1, 0))
        with client.websocket(f"/sandboxes/{self.box}/terminal") as ws:
            self.assertEqual(ws.status, 429)

    def test_a_ticket_counts_for_its_key(self):
        client = self.limited("reads=1")
        ticket = client.post("/tickets", {"path": f"/sandboxes/{self.box}"}).json["ticket"]
        got = Client(self.api.server).get(f"/sandboxes/{self.box}?ticket={ticket}")
        self.assertEqual((got.status, told(got)[:3]), (200, ("reads", 1, 0)))
        self.assert_problem(client.get(f"/sandboxes/{self.box}"), 429, "rate_limited")

    def test_what_waits_for_the_first_with_its_idempotency_key_pays_once(self):
        client = self.limited("creates=4")
        headers = {"Idempotency-Key": "once"}
        body = {"template": "box", "name": "once"}
        got = all_at_once(lambda _: client.post("/sandboxes", body, headers=headers), range(4))
        self.assertEqual([g.status for g in got], [201] * 4)
        self.assertEqual(len({g.json["id"] for g in got}), 1)
        self.assertEqual({told(g)[2] for g in got}, {0, 1, 2, 3})
        refused = client.post("/sandboxes", body, headers=headers)
        self.assert_problem(refused, 429, "rate_limited")

    def test_a_key_without_limits_is_told_nothing_and_never_refused(self):
        client = self.limited("none")
        got = [client.get("/sandboxes") for _ in range(300)]
        self.assertEqual({g.status for g in got}, {200})
        self.assertNotIn("RateLimit", got[0].headers)
        self.assertNotIn("RateLimit-Policy", got[0].headers)

    def test_the_defaults_are_those_of_the_options(self):
        client = self.limited("default")
        self.assertEqual(told(client.get("/sandboxes"))[:2], ("reads", 3000))
        self.assertEqual(told(client.post(f"/sandboxes/{self.box}/exec", {"command": "true"}))[:2],
                         ("exec", 600))
        got = client.post("/sandboxes", {"template": "box"})
        self.assertEqual(told(got)[:3], ("creates", 100, 99))

    def test_a_forbidden_request_counts_too(self):
        client = self.limited("reads=2", "--scopes", "exec:read")
        for left in (1, 0):
            got = client.get("/sandboxes")
            self.assert_problem(got, 403, "forbidden")
            self.assertEqual(told(got)[2], left)
        self.assert_problem(client.get("/sandboxes"), 429, "rate_limited")

    def test_parallel_requests_do_not_pass_the_limit_by_one(self):
        client = self.limited("reads=40")
        began = time.monotonic()
        got = all_at_once(lambda _: client.get("/sandboxes").status, range(200))
        more = math.ceil((time.monotonic() - began) * 40 / 60)
        self.assertIn(got.count(200), range(40, 40 + more + 1))
        self.assertEqual(got.count(200) + got.count(429), 200)

    def test_no_request_after_the_refusal_is_lost_or_doubled(self):
        """A bucket of many tokens, from which a worker may take more than one at a time."""
        client = self.limited("reads=900")
        got = all_at_once(lambda _: client.get("/sandboxes").status, range(900), 8)
        self.assertEqual(got.count(200), 900)

    def test_bad_rates_are_refused(self):
        for rates in ("", "fast", "reads=x", "reads=-1", "reads=1,reads=2", "reads=10000001"):
            got = sandboxd.sandboxd("key", "--user", "alice", "--rates", rates, env=self.service.env)
            self.assertEqual(got.returncode, 1, rates)
            self.assertIn("rates", got.stderr)
            self.assertEqual(got.stdout, "")


class SharedKeyTest(KeyTest):
    """The same, with buckets in Redis, and what only they can show."""
    shared = True

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.other = cls.service.start()

    def both(self, rates):
        first = self.limited(rates)
        return [first, Client(self.other, first.key)]

    def test_two_workers_share_a_limit(self):
        clients = self.both("creates=10,reads=40")
        began = time.monotonic()
        got = all_at_once(lambda i: clients[i % 2].get("/sandboxes").status, range(200))
        more = math.ceil((time.monotonic() - began) * 40 / 60)
        self.assertIn(got.count(200), range(40, 40 + more + 1))
        self.assertEqual({told(c.get("/sandboxes"))[:3] for c in clients}, {("reads", 40, 0)})

    def test_what_one_worker_fetched_and_left_is_little(self):
        """Blocks are an eighth of what is left at most, so nearly all can be used by either."""
        first, second = self.both("reads=600")
        self.assertEqual(first.get("/sandboxes").status, 200)
        began = time.monotonic()
        got = all_at_once(lambda _: second.get("/sandboxes").status, range(700), 8)
        more = math.ceil((time.monotonic() - began) * 10) + 1
        self.assertIn(got.count(200), range(600 - 10, 600 + more))

    def test_reads_do_not_cost_a_round_trip_each(self):
        client = self.limited("reads=6000")
        client.get("/sandboxes")
        before = self.evals()
        for _ in range(200):
            client.get("/sandboxes")
        self.assertLessEqual(self.evals() - before, 4)

    def test_bad_options_end_the_start(self):
        for name, value in (("SBX_RATE_READS", "-1"), ("SBX_RATE_EXEC", "10000001"),
                            ("SBX_RATE_CREATES", "x"), ("SBX_TRUSTED_PROXIES", "10.0.0.1/8"),
                            ("SBX_TRUSTED_PROXIES", "proxy")):
            got = sandboxd.sandboxd("serve", env={**self.service.env, name: value})
            self.assertEqual(got.returncode, 1, name)
            self.assertIn(value, got.stderr)

    def evals(self):
        with socket.create_connection(("127.0.0.1", self.redis.port), 5) as s:
            s.sendall(b"INFO commandstats\r\n")
            text = b""
            while b"cmdstat_ping" not in text:
                text += s.recv(65536)
        found = re.search(rb"cmdstat_eval:calls=(\d+)", text)
        return int(found.group(1)) if found else 0

    def alone(self):
        return counter(self.server, "sandboxd_rates_alone") == 1

    def test_without_redis_each_worker_counts_alone_and_refuses_nobody(self):
        client = self.limited("reads=30,creates=30")
        self.assertEqual(client.get("/sandboxes").status, 200)
        self.redis.stop()
        try:
            got = [client.get("/sandboxes").status for _ in range(25)]
            self.assertEqual(set(got), {200})
            self.assertTrue(self.alone())
            got = [client.get("/sandboxes").status for _ in range(20)]
            self.assertIn(429, got)  # it still has a limit
        finally:
            self.redis.start()
        probe = self.limited("reads=100000")
        wait_for(lambda: probe.get("/sandboxes").status == 200 and not self.alone(),
                 what="the shared buckets again")
        warned = [line for line in self.server.log() if "alone" in line["msg"]]
        self.assertTrue(warned)
        self.assertLessEqual(len(warned), 3, "not a line for each request")

    def test_a_redis_that_hangs_holds_requests_up_for_a_moment_only(self):
        client = self.limited("creates=10,exec=50,reads=50")
        client.get("/sandboxes")
        self.redis.signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            got = [client.get("/sandboxes").status for _ in range(40)]
            self.assertEqual(set(got), {200})
            self.assertLess(time.monotonic() - began, 5)
            self.assertTrue(self.alone())
        finally:
            self.redis.signal(signal.SIGCONT)
        probe = self.limited("reads=100000")
        wait_for(lambda: probe.get("/sandboxes").status == 200 and not self.alone(),
                 what="the shared buckets again")


class AddressTest(Installation):
    shared = True

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tap = DatabaseTap(cls.service.url)
        cls.addClassCleanup(cls.tap.close)
        cls.server = cls.service.start(env={
            "SBX_RATE_FAILURES": "20", "SBX_TRUSTED_PROXIES": "127.0.0.0/8",
            "DATABASE_URL": cls.tap.url})
        cls.addClassCleanup(cls.server.stop)

    def call(self, address, key=None, path="/sandboxes"):
        """As a request that a trusted proxy forwards."""
        return Client(self.server, key).get(path, headers={"X-Forwarded-For": address})

    def bar(self, address, key=MADE_UP):
        while (got := self.call(address, key)).status == 401:
            self.assertEqual(told(got)[:2], ("failures", 20))
        self.assert_problem(got, 429, "rate_limited")
        self.assertIn(int(got.headers["Retry-After"]), range(1, 4))
        return got

    def asked(self, work):
        """How often the database was asked about a key or a ticket."""
        self.tap.take()
        work()
        return len([s for s in self.tap.take() if s in ("KEY_BY_HASH", "TICKET_USE")])

    def test_bad_keys_are_refused_before_the_database_is_asked_and_good_ones_are_not(self):
        good = self.service.key()
        self.bar("192.0.2.1")
        made_up = [f"sbx_abcdEFGH_{i:040d}" for i in range(200)]
        self.assertEqual(self.asked(lambda: [self.call("192.0.2.1", k) for k in made_up]), 0)
        # Also one that this process has never seen, and one that is made only now.
        for key in (good, self.service.key()):
            for _ in range(30):
                self.assertEqual(self.call("192.0.2.1", key).status, 200)
        self.assertEqual(self.call("192.0.2.1", MADE_UP[:-1] + "x").status, 429)
        self.assertEqual(self.call("192.0.2.2").status, 401)  # another address

    def test_no_key_at_all_counts_and_public_routes_do_not(self):
        for _ in range(100):
            self.assertEqual(self.call("192.0.2.3", path="/health").status, 200)
        self.assertEqual(self.call("192.0.2.3").status, 401)
        self.bar("192.0.2.3", None)
        for path in ("/health", "/ready", "/openapi.json"):
            self.assertEqual(self.call("192.0.2.3", path=path).status, 200)

    def test_made_up_tickets_count_and_good_ones_pass(self):
        url = f"/sandboxes/{self.box}?ticket=tkt_" + "0" * 64
        while self.call("192.0.2.4", path=url).status == 401:
            pass
        self.assertEqual(self.call("192.0.2.4", path=url).status, 429)
        self.assertEqual(self.asked(lambda: self.call("192.0.2.44", path=url)), 0)
        ticket = self.api.post("/tickets", {"path": f"/sandboxes/{self.box}"}).json["ticket"]
        self.assertEqual(self.call("192.0.2.4", path=f"/sandboxes/{self.box}?ticket={ticket}").status,
                         200)

    def test_ipv6_counts_by_its_network(self):
        for i in range(40):
            self.call(f"2001:db8:1:1:{i}::1", MADE_UP)
        self.assertEqual(self.call("2001:db8:1:1:ffff::9", MADE_UP).status, 429)
        self.assertEqual(self.call("2001:db8:1:2::1", MADE_UP).status, 401)

    def test_what_a_client_puts_before_the_proxys_word_changes_nothing(self):
        self.bar("192.0.2.5")
        self.assertEqual(self.call("203.0.113.77, 192.0.2.5", MADE_UP).status, 429)
        self.assertEqual(self.call("192.0.2.5, 203.0.113.77", MADE_UP).status, 401)

    def test_without_trusted_proxies_the_header_is_not_believed(self):
        plain = self.service.start(env={"SBX_RATE_FAILURES": "20"})
        for i in range(40):
            last = Client(plain, MADE_UP).get("/sandboxes",
                                              headers={"X-Forwarded-For": f"192.0.2.{i}"})
        self.assertEqual(last.status, 429)
        self.assertEqual(Client(plain, self.service.key()).get("/sandboxes").status, 200)
        plain.stop()

    def test_failures_are_counted_in_the_metrics(self):
        series = 'sandboxd_rate_limited_total{class="failures"}'
        before = counter(self.server, series)
        self.bar("192.0.2.6")
        self.assertEqual(counter(self.server, series), before + 1)
