"""What users may use, and what it costs: limits that no race passes, and sums that no crash changes.
"""
import datetime
import time
import unittest

import sandboxd
from sandboxd import Client, SystemCase, all_at_once, wait_for

TIMEOUT_S = 600
REPLICA = "SET session_replication_role = replica; "  # the table as it is written, without metering


class TierTest(SystemCase):
    @classmethod
    def setUpClass(cls):
        cls.service = sandboxd.Service()
        cls.addClassCleanup(cls.service.close)
        cls.server = cls.service.start()
        cls.api = sandboxd.Client(cls.server, cls.service.key("ada", tier="free"))
        cls.admin = sandboxd.Client(cls.server, cls.service.key("root", "--role", "admin"))

    def test_tiers_and_prices_are_read_by_all_and_changed_by_administrators(self):
        tiers = {t.pop("name"): t for t in self.api.get("/tiers").json["items"]}
        self.assertEqual(tiers["free"], {"executions": 50, "computeSeconds": 7200,
                                         "longestRunSeconds": 2700, "concurrentSandboxes": 5})
        self.assertEqual(set(tiers["enterprise"].values()), {None})
        self.assertEqual(self.api.get("/prices").json["items"][0], {
            "size": "nano", "cpus": 0.5, "memoryMb": 256, "microsPerHour": 100000,
            "pausedMicrosPerHour": 10000})
        for path in ("/tiers/free", "/prices/nano"):
            self.assert_problem(self.api.patch(path, {}), 403, "forbidden")
        got = self.admin.patch("/tiers/premium", {"executions": None, "concurrentSandboxes": 0})
        self.assertEqual((got.status, got.json), (200, {
            "name": "premium", "executions": None, "computeSeconds": 360000,
            "longestRunSeconds": 18000, "concurrentSandboxes": 0}))
        got = self.admin.patch("/prices/xlarge", {"pausedMicrosPerHour": 5})
        self.assertEqual((got.json["microsPerHour"], got.json["pausedMicrosPerHour"]), (1600000, 5))
        self.assert_problem(self.admin.patch("/tiers/gold", {}), 404, "not_found")
        self.assert_problem(self.admin.patch("/tiers/" + 64 * "free", {}), 404, "not_found")
        self.assert_problem(self.admin.patch("/prices/huge", {}), 404, "not_found")

    def test_a_key_is_of_a_tier_that_there_is_and_changes_nobodys(self):
        with self.assertRaises(Exception):
            self.service.key("kim", tier="gold")
        with self.assertRaises(Exception):
            self.service.key("ada", tier="pro")
        self.assertEqual(self.service.psql("SELECT tier FROM users WHERE name = 'ada'"), "free")


class QuotaCase(SystemCase):
    """A service, and users whose tier has the limits that a test gives it."""

    env = {}

    @classmethod
    def setUpClass(cls):
        cls.service = sandboxd.Service(env=cls.env)
        cls.addClassCleanup(cls.service.close)
        cls.server = cls.service.start()
        cls.admin = Client(cls.server, cls.service.key("root", "--role", "admin"))
        cls.users = 0

    def tier(self, **limits):
        none = {name: None for name in ("executions", "computeSeconds", "longestRunSeconds",
                                        "concurrentSandboxes")}
        self.assertEqual(self.admin.patch("/tiers/pro", {**none, **limits}).status, 200)

    def user(self, **limits):
        """Somebody new."""
        self.tier(**limits)
        type(self).users += 1
        name = f"{type(self).__name__}{self.users}"
        api = Client(self.server, self.service.key(name, tier="pro"))
        api.user = self.service.psql(f"SELECT id FROM users WHERE name = '{name}'")
        self.addCleanup(self.forget, api)
        return api

    def forget(self, api):
        self.tier()
        for box in api.get("/sandboxes?limit=200").json["items"]:
            api.delete(f"/sandboxes/{box['id']}")

    def refused(self, got, limit, value):
        told = self.assert_problem(got, 429, "quota_exceeded")
        self.assertEqual((told["limit"], told["value"]), (limit, value), told)
        return told

    def month(self, told):
        """It begins anew with the next month, and the client is told to wait until then."""
        now = datetime.datetime.now(datetime.timezone.utc)
        first = (now.replace(day=1) + datetime.timedelta(days=32)).strftime("%Y-%m-01T00:00:00.000Z")
        self.assertEqual(told["resetAt"], first)

    def metered_ms(self, box, column="running_ms"):
        return int(self.service.psql(
            f"SELECT coalesce(sum({column}), 0) FROM usage WHERE sandbox = '{box}'"))


class ConcurrentTest(QuotaCase):
    env = {"REDIS_URL": sandboxd.REDIS_URL}

    def flood(self, clients):
        def create(i):
            return clients[i % len(clients)].post("/sandboxes", {"template": "box"}, timeout=120)
        got = all_at_once(create, range(200), 200)
        made = [g.json["id"] for g in got if g.status == 201]
        for answer in got:
            if answer.status != 201:
                self.refused(answer, "concurrentSandboxes", 5)
        return made

    def test_200_creates_at_once_make_exactly_as_many_as_there_may_be(self):
        api = self.user(concurrentSandboxes=5)
        self.assertEqual(len(self.flood([api])), 5)
        second = self.service.start()
        other = self.user(concurrentSandboxes=5)
        made = self.flood([other, Client(second, other.key)])
        second.stop()
        self.assertEqual(len(made), 5)
        told = self.refused(other.post("/sandboxes", {"template": "box"}),
                            "concurrentSandboxes", 5)
        self.assertEqual((told["used"], told["resetAt"]), (5, None))
        self.assertEqual(other.get("/quotas").json["concurrentSandboxes"],
                         {"limit": 5, "used": 5, "reserved": 0})
        self.assertEqual(len(other.get("/sandboxes").json["items"]), 5, "a refusal leaves no record")

    def test_what_is_stopped_makes_room_and_has_to_find_it_to_start(self):
        api = self.user(concurrentSandboxes=1)
        box = api.create()["id"]
        api.move(box, "pause")
        self.refused(api.post("/sandboxes", {"template": "box"}), "concurrentSandboxes", 1)
        api.move(box, "resume")
        api.move(box, "stop")
        other = api.create()["id"]
        self.refused(api.post(f"/sandboxes/{box}/start"), "concurrentSandboxes", 1)
        self.assertEqual(api.state(box), "stopped")
        api.delete(f"/sandboxes/{other}")
        api.move(box, "start")

    def test_a_create_that_fails_or_is_cut_off_gives_back_what_it_held(self):
        api = self.user(concurrentSandboxes=1)
        got = api.post("/sandboxes", {"image": "sandboxd/none:1"}, timeout=120)
        self.assertNotEqual(got.status, 201)
        box = api.create(wait=False)["id"]
        self.server.kill()
        type(self).server = api.server = self.admin.server = self.service.start()
        wait_for(lambda: api.state(box) in ("failed", "running"), 60, "the end of the create")
        if api.state(box) == "running":
            api.delete(f"/sandboxes/{box}")
        api.create()

    def test_batches_stop_at_the_limit(self):
        api = self.user(concurrentSandboxes=2)
        got = api.post("/sandboxes/batch", {"count": 3, "sandbox": {"template": "box"}}, timeout=120)
        told = [i for i in got.json["items"] if "problem" in i]
        self.assertEqual([i["problem"]["limit"] for i in told], ["concurrentSandboxes"])

    def test_a_time_out_beyond_the_longest_run_is_refused_and_renewals_end_there(self):
        api = self.user(longestRunSeconds=100)
        for body in ({"timeoutSeconds": 101}, {}):
            self.refused(api.post("/sandboxes", {"template": "box", **body}), "longestRunSeconds",
                         100)
        box = api.create(timeoutSeconds=100)["id"]
        self.refused(api.patch(f"/sandboxes/{box}", {"timeoutSeconds": 101}), "longestRunSeconds",
                     100)
        self.service.psql(f"{REPLICA}UPDATE sandboxes SET running_since = running_since"
                          f" - interval '50 seconds' WHERE id = '{box}'")
        self.assertEqual(api.post(f"/sandboxes/{box}/keepalive").status, 200)
        left = self.service.psql("SELECT extract(epoch FROM expires_at - now())::int FROM sandboxes"
                                 f" WHERE id = '{box}'")
        self.assertLessEqual(int(left), 50)


class RunTest(QuotaCase):
    env = {"SBX_POOL": "python=1"}

    def test_runs_are_counted_once_and_refused_beyond_the_limit(self):
        api = self.user(executions=3)
        body = {"runtime": "python", "code": "print(1)"}
        box = api.create(template="python")["id"]
        got = all_at_once(lambda i: api.post("/run" if i % 2 else f"/sandboxes/{box}/run", body,
                                             timeout=120), range(12), 12)
        self.assertEqual([g.status for g in got].count(200), 3, got)
        for answer in got:
            if answer.status != 200:
                self.month(self.refused(answer, "executions", 3))
        wait_for(lambda: api.get("/quotas").json["executions"] ==
                 {"limit": 3, "used": 3, "reserved": 0}, 20, "the records")
        told = api.get("/usage?by=runtime").json["items"]
        self.assertEqual([(i["key"], i["executions"]) for i in told], [("python", 3)])
        self.service.psql(f"UPDATE usage_runs SET day = usage_month() - 1 WHERE owner = '{api.user}'")
        self.assertEqual(api.post("/run", body, timeout=120).status, 200)

    def test_a_refusal_takes_nothing_from_the_pool(self):
        api = self.user(executions=0, concurrentSandboxes=0)
        count = "SELECT count(*) FROM sandboxes WHERE pool IS NOT NULL AND state = 'running'"
        wait_for(lambda: self.service.psql(count) == "1", 60, "one that waits")
        waits = self.service.psql("SELECT id FROM sandboxes WHERE pool IS NOT NULL")
        for _ in range(5):
            self.refused(api.post("/sandboxes", {}), "concurrentSandboxes", 0)
            self.refused(api.post("/run", {"runtime": "python", "code": "1"}),
                         "concurrentSandboxes", 0)
        self.tier()
        self.assertEqual(api.post("/sandboxes", {}).json["id"], waits)

    def test_a_run_ends_with_its_sandbox_whose_lifetime_the_tier_limits(self):
        api = self.user(longestRunSeconds=6)
        box = api.create(template="python", timeoutSeconds=6)["id"]
        began = time.monotonic()
        got = api.post(f"/sandboxes/{box}/run", {"runtime": "python", "timeout": 600_000,
                                                 "code": "import time; time.sleep(600)"},
                       timeout=120)
        self.assertLess(time.monotonic() - began, 100)
        self.assertNotEqual(got.json.get("exitCode"), 0, got)
        wait_for(lambda: api.state(box) == "deleted", 20, "the end of the sandbox")

    def test_a_run_that_did_not_begin_is_given_back(self):
        api = self.user(executions=1)
        box = api.create()["id"]  # without an interpreter
        api.move(box, "stop")
        body = {"runtime": "python", "code": "print(1)"}
        self.assertEqual(api.post(f"/sandboxes/{box}/run", body).status, 409)
        wait_for(lambda: api.get("/quotas").json["executions"]["used"] == 0
                 and api.get("/quotas").json["executions"]["reserved"] == 0, 20, "the release")
        self.assertEqual(api.post("/run", body, timeout=120).status, 200)


class MeterTest(QuotaCase):
    def test_a_kill_of_the_server_neither_loses_time_nor_counts_it_twice(self):
        api = self.user()
        box = api.create()["id"]
        begun = self.service.psql(f"SELECT extract(epoch FROM started_at) FROM sandboxes WHERE id ="
                                  f" '{box}'")
        for _ in range(2):
            self.server.kill()
            time.sleep(1)  # what is metered: nobody looks meanwhile
            type(self).server = api.server = self.admin.server = self.service.start()
            metered = self.metered_ms(box)
            wait_for(lambda m=metered: self.metered_ms(box) > m, 30, "a sweep")
        api.move(box, "stop")
        ended = self.service.psql("SELECT extract(epoch FROM at) FROM events WHERE sandbox ="
                                  f" '{box}' AND type = 'sandbox.stopped'")
        whole = (float(ended) - float(begun)) * 1000
        self.assertAlmostEqual(self.metered_ms(box), whole, delta=2)
        self.assertEqual(self.metered_ms(box, "cost"), 200000 * self.metered_ms(box))
        api.delete(f"/sandboxes/{box}")
        self.service.psql(f"DELETE FROM sandboxes WHERE id = '{box}'")
        told = api.get("/usage?by=sandbox").json["items"]
        self.assertEqual([(i["key"], i["computeSeconds"]) for i in told], [(box, int(whole / 1000))])

    def test_what_is_used_up_stops_what_runs_and_says_so(self):
        api = self.user(computeSeconds=3600)
        box = api.create()["id"]
        self.service.psql(f"{REPLICA}UPDATE sandboxes SET metered_at = metered_at"
                          f" - interval '61 minutes' WHERE id = '{box}'")
        self.month(self.refused(api.post("/sandboxes", {"template": "box"}), "computeSeconds", 3600))
        wait_for(lambda: api.state(box) == "stopped", 60, "the stop")
        self.assertEqual(api.sandbox(box)["stateReason"]["code"], "compute_quota")
        self.refused(api.post(f"/sandboxes/{box}/start"), "computeSeconds", 3600)
        self.service.psql(f"UPDATE usage SET day = usage_month() - 1 WHERE sandbox = '{box}'")
        api.move(box, "start")

    def test_a_spending_limit_is_told_of_and_stops_if_it_is_hard(self):
        api = self.user()
        path = f"/users/{api.user}/spending-limit"
        self.assert_problem(api.call("PUT", path, {"limitMicros": None}), 403, "forbidden")
        got = self.admin.call("PUT", path, {"limitMicros": 200000, "hardStop": True})
        self.assertEqual((got.status, got.json["spendingMicros"]["limit"], got.json["hardStop"]),
                         (200, 200000, True))
        box = api.create()["id"]
        api.move(box, "pause")
        self.service.psql(f"{REPLICA}UPDATE sandboxes SET metered_at = metered_at"
                          f" - interval '11 hours' WHERE id = '{box}'")
        wait_for(lambda: api.state(box) == "stopped", 60, "the stop")
        self.assertEqual(api.sandbox(box)["stateReason"]["code"], "spending_limit")
        self.refused(api.post(f"/sandboxes/{box}/start"), "spendingMicros", 200000)
        told = [e for e in api.get("/events?limit=200").json["items"]
                if e["type"] == "spending.alert"]
        self.assertEqual([e["data"]["reason"]["code"] for e in told],
                         ["spending_80", "spending_100"])
        self.assertEqual({e["sandboxId"] for e in told}, {None})
        self.assertEqual(self.admin.call("PUT", path, {"limitMicros": None}).status, 200)
        api.move(box, "start")

    def test_usage_has_bounds_that_are_checked_and_pages(self):
        api = self.user()
        for bad in ("from=2026-1-1", "to=2026-13-01", "from=2026-02-30", "by=year", "limit=0"):
            self.assert_problem(api.get(f"/usage?{bad}"), 400, "invalid_request")
        for _ in range(3):
            api.delete(f"/sandboxes/{api.create()['id']}")
        page = api.get("/usage?by=sandbox&limit=2").json
        rest = api.get(f"/usage?by=sandbox&limit=2&cursor={page['nextCursor']}").json
        self.assertEqual((len(page["items"]), len(rest["items"]), rest["nextCursor"]), (2, 1, None))

    def test_the_cost_of_one_sandbox_is_told_also_when_it_is_deleted(self):
        api, other = self.user(), self.user()
        boxes = [api.create()["id"] for _ in range(2)]

        def cost(box, client=api):
            got = client.get(f"/usage?sandboxId={box}&by=month")
            self.assertEqual(got.status, 200, got)
            return sum(item["costMicros"] for item in got.json["items"])
        wait_for(lambda: all(cost(box) > 100 for box in boxes), 20, "a cost of each")
        for box in boxes:
            self.assertEqual(api.delete(f"/sandboxes/{box}").status, 204)
        each = {item["key"]: item["costMicros"]
                for item in api.get("/usage?by=sandbox").json["items"]}
        self.assertEqual({box: cost(box) for box in boxes}, each)
        self.assertEqual(cost(boxes[0], other), 0)
        self.assertEqual(api.get(f"/usage?sandboxId={boxes[0]}&by=runtime").json["items"], [])
        self.assert_problem(api.get("/usage?sandboxId=x"), 400, "invalid_request", "sandboxId")


if __name__ == "__main__":
    unittest.main()
